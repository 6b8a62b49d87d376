package simnet

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// What waits has its place in the account: a sender of fragments without a first one, or of packets to neighbors that are not there, does not make
// it wrong.
func TestWaitingFramesAreAccounted(t *testing.T) {
	for name, p := range map[string]frametest.Packet{
		"later fragments":     {Dst: frametest.Addr("203.0.113.9"), Frag: 9, IPID: 77, Payload: make([]byte, 64)},
		"an absent neighbor":  {Dst: frametest.Addr("10.0.0.99"), SrcPort: 9, DstPort: 9},
		"another one of them": {Dst: frametest.Addr("10.0.0.98"), SrcPort: 9, DstPort: 9},
	} {
		n := play(t, "network 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.9\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\n")
		a := n.host("a")
		p.SrcMAC, p.DstMAC, p.Src = a.MAC, gatewayMAC+1<<16, a.Addr
		n.Inject(a, p.Raw(), p.Raw())
		if c := n.DP.Conservation(); !c.Balanced || c.Waiting != 2 {
			t.Errorf("%s: %+v", name, c)
		}
		n.Advance(frame.Seconds(60))
		if c := n.DP.Conservation(); !c.Balanced || c.Waiting != 0 {
			t.Errorf("%s, at the end: %+v, drops %v", name, c, n.DP.Drops())
		}
	}
}
