package dataplane

import (
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A script is a Poller that returns what it has, a batch at a time.
type script struct {
	Poller
	in   []queuedFrame
	sent []frame.PortID
}

type queuedFrame struct {
	port frame.PortID
	raw  []byte
}

func (s *script) Add(frame.PortID, frame.Conn, frame.Reading) error { return nil }
func (s *script) Pause(frame.PortID)                                {}
func (s *script) Resume(frame.PortID)                               {}
func (s *script) CPUTime() int64                                    { return 0 }
func (s *script) CPUWait() int64                                    { return 0 }
func (s *script) Yield(frame.PortID) bool                           { return true }
func (s *script) Take(frame.PortID, frame.Reading) error            { return nil }
func (s *script) Hurry(bool)                                        {}
func (s *script) Counts() frame.IOCounts                            { return frame.IOCounts{} }
func (s *script) Wake()                                             {}
func (s *script) Send(id frame.PortID, _ *frame.Frame)              { s.sent = append(s.sent, id) }

func (s *script) Poll(b *frame.Batch) error {
	b.N = 0
	for b.N < frame.BatchSize && b.N < len(s.in) {
		b.Frames[b.N].Reset(s.in[b.N].raw, s.in[b.N].port)
		b.N++
	}
	s.in = s.in[b.N:]
	return nil
}

// Ports that flood the slow path, and fill its queue, do not keep the ARP of another port waiting: it is answered first.
func TestQuietPortsComeFirst(t *testing.T) {
	s := &script{}
	now := int64(1e9)
	d := New(nat.New(nat.Options{Flows: 1024}), func() int64 { return now }, s)
	const gateway = 0x0200000000fe
	d.Switch.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, Addr: frametest.Addr("10.0.0.1"), FDB: vswitch.NewFDB(64, 1)})
	d.Router.SetInterface(router.Interface{Net: 1, Addr: frametest.Addr("10.0.0.1"), Prefix: netip.MustParsePrefix("10.0.0.0/24"), MAC: gateway, MTU: 1500})
	const ports = 8
	for id := frame.PortID(1); id <= ports; id++ {
		if err := d.AddPort(vswitch.Port{ID: id, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500}, &wire{fd: -1}); err != nil {
			t.Fatal(err)
		}
	}
	addr := func(id frame.PortID) frame.Addr { return frametest.Addr("10.0.0.10") + frame.Addr(id) }
	mac := func(id frame.PortID) frame.MAC { return 0x020000000000 + frame.MAC(id) }
	const each = 1500
	for i := range each {
		for id := frame.PortID(1); id < ports; id++ {
			s.in = append(s.in, queuedFrame{id, frametest.Packet{
				SrcMAC: mac(id), DstMAC: gateway, Src: addr(id), Dst: frametest.Addr("10.0.0.1"), Proto: frame.ICMP, Type: frame.ICMPEcho, ID: uint16(i), Payload: make([]byte, 56),
			}.Raw()})
		}
	}
	s.in = append(s.in, queuedFrame{ports, frametest.ARP(frame.BroadcastMAC, mac(ports), 1, addr(ports), frametest.Addr("10.0.0.1"))})
	for len(s.in) > 0 { // the slow path does not run meanwhile
		if err := d.workers[0].round(); err != nil {
			t.Fatal(err)
		}
	}
	if lost := d.Drops()["punt_queue_full"]; lost == 0 {
		t.Fatalf("the queue is not full (%v): this test shows nothing", d.Drops())
	}
	s.sent = nil
	d.slow.process(d.Now())
	for range 2 * ports * quietFrames / frame.BatchSize {
		if err := d.workers[0].round(); err != nil {
			t.Fatal(err)
		}
	}
	at := -1
	for i, id := range s.sent {
		if id == ports && at < 0 {
			at = i
		}
	}
	if at < 0 || at > ports*quietFrames {
		t.Errorf("the ARP reply is frame %d of %d", at, len(s.sent))
	}
}
