package simnet

import (
	"sync"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// What other projects' tests of connection tracking ask, restated. Their code is not used; the comment of each says what the
// original is about.

// tools/testing/selftests/net/netfilter/conntrack_clash.sh: datagrams of one socket that race for one entry are not lost.
func TestLinux_conntrack_clash(t *testing.T) {
	n := play(t, bed)
	for i := range 300 {
		var wg sync.WaitGroup
		var batches [4]*frame.Batch
		for k := range batches {
			batches[k] = frametest.Batch(1, 100, frametest.Packet{Src: frametest.Addr("10.0.0.2"), Dst: frametest.Addr("203.0.113.8"), SrcPort: uint16(30000 + i), DstPort: 53}.Raw())
			f := &batches[k].Frames[0]
			f.Net, f.Verdict, f.RouteDst, f.RoutePort, f.Egress = 1, frame.Routed, f.Tuple.Dst, 53, frame.NoNet
			wg.Go(func() { n.DP.NAT.PostRouting(batches[k]) })
		}
		wg.Wait()
		for k := range batches {
			f := &batches[k].Frames[0]
			if f.Verdict == frame.Punt && f.Reason == frame.FlowBusy { // as the slow path does
				f.Verdict, f.NAT = frame.Routed, frame.NATNone
				n.DP.NAT.PostRouting(batches[k])
			}
			if f.Verdict != frame.Routed || f.Tuple != batches[0].Frames[0].Tuple && batches[0].Frames[0].Verdict == frame.Routed {
				t.Fatalf("%d: %v, %s and %s", i, f.Reason, f.Tuple, batches[0].Frames[0].Tuple)
			}
		}
		n.DP.NAT.Expire(1<<20, 1<<20)
		n.DP.NAT.EndQuarantine(1 << 21)
		n.DP.NAT.Retire()
		n.DP.NAT.Reclaim()
	}
}

// Open vSwitch system-traffic, "conntrack - simple SNAT", "SNAT with port range": the source becomes the host's, the port one
// of the range.
func TestOVS_SimpleSNAT(t *testing.T) {
	n := play(t, "nat pool 34567-34568\n"+bed+"a:40000 > o:80 tcp S\n")
	if p := leftBy(n, "o"); p != 34567 && p != 34568 {
		t.Errorf("left by %d", p)
	}
}

// VPP nat44-ed, "session limit", "per-user limit", "old sessions are removed first": who holds most loses what was never
// answered.
func TestVPP_SessionLimit(t *testing.T) {
	n := play(t, "nat flows 128 quota 100 pool 20000-29999\n"+bed+`a:20000 > o:53 "x" times 90`)
	n.Advance(frame.Seconds(2))
	if err := n.more(`b:25000 > o:53 "y" times 30`); err != nil {
		t.Fatal(err)
	}
	n.Advance(frame.Seconds(2))
	if d := n.DP.Drops(); len(d) != 0 || n.DP.NAT.FlowsOf(2) != 30 {
		t.Errorf("b holds %d flows, drops %v", n.DP.NAT.FlowsOf(2), d)
	}
}
