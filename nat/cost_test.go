package nat

import (
	"runtime"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// costBed is a NAT with so many outside ports, and what a port of the switch sends through it.
func costBed(flows, ports int) (*NAT, func(in frame.PortID, p frametest.Packet) frame.Reason) {
	n := New(Options{Flows: flows, Seed: 42})
	r := Rules{Own: []frame.Addr{1}, Masquerade: []*Masquerade{{Net: 1, RuleCount: &RuleCount{}}}}
	for i := range r.Pool {
		r.Pool[i] = NewPortSet()
		r.Pool[i].AddRange(20000, uint16(20000+ports-1))
	}
	n.Update(r)
	return n, func(in frame.PortID, p frametest.Packet) frame.Reason {
		if p.Src == 0 {
			p.Src = frame.Addr(0x0a000000) + frame.Addr(in)
		}
		b := frametest.Batch(in, 10, p.Raw())
		f := &b.Frames[0]
		f.Net, f.Verdict = 1, frame.Local
		n.PreRouting(b)
		if f.Verdict == frame.Local {
			f.Verdict, f.Egress = frame.Routed, frame.NoNet
		}
		n.PostRouting(b)
		if f.Verdict == frame.Routed {
			return frame.None
		}
		return f.Reason
	}
}

// A port that has used up its outside ports searches once in a Tick, and not again for each SYN.
func TestRefusedPortSearchesOnce(t *testing.T) {
	n, send := costBed(4096, 64)
	refused := 0
	syn := func(i int) {
		if why := send(1, frametest.Packet{Dst: 7, Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: uint16(1024 + i), DstPort: 80}); why != frame.None {
			refused++
		}
		for e := range n.state { // no flow may go early
			n.state[e].state.Store(uint32(tcpEstablished) | seenReply | assured | n.state[e].state.Load()&overloadsPort)
		}
	}
	for i := range 300 {
		syn(i)
	}
	before, first := n.draws.Load(), refused
	for i := range 100 {
		syn(1000 + i)
	}
	if refused-first != 100 {
		t.Fatalf("%d of 100 were refused: this test shows nothing", refused-first)
	}
	if draws := n.draws.Load() - before; draws > 2*overloadDraws {
		t.Errorf("%d random ports were drawn for 100 SYNs", draws)
	}
}

// Two inside addresses behind one port: thousands of ports rest for the one, and the other one may have none of them. It does not look at them all for
// each packet, and finds its own when it has some.
func TestOthersRestingPortsAreNotSearched(t *testing.T) {
	for _, proto := range []uint8{frame.UDP, frame.TCP, frame.SCTP} {
		n, sendBy := costBed(1<<16, 40000)
		send := func(src frame.Addr, port int, flags uint8) frame.Reason {
			p := frametest.Packet{Src: src, Dst: 7, Proto: proto, Flags: flags, SrcPort: uint16(port), DstPort: 80}
			if proto == frame.SCTP {
				p.Payload = append([]byte{byte(port >> 8), byte(port), 0, 80}, make([]byte, 12)...)
			}
			return sendBy(1, p)
		}
		const one, other = 0x0a000005, 0x0a000006
		for i := range 20000 {
			send(one, 1024+i, frame.FlagSYN)
		}
		n.Flush(func(Flow) bool { return true })
		n.Retire()
		n.Reclaim()
		i := protoIndex(proto)
		if rests := n.resting[i][1].Load(); rests < 5000 {
			t.Fatalf("protocol %d: %d ports rest: this test shows nothing", proto, rests)
		}
		draws := n.draws.Load()
		for i := range 100 {
			send(other, 1024+i, frame.FlagSYN)
		}
		if drawn := n.draws.Load() - draws; proto != frame.TCP && drawn > 10 { // TCP shares ports, and draws for that
			t.Errorf("protocol %d: %d searches for 100 packets", proto, drawn)
		}
		if now := n.now.Load(); !n.noneRests[i][1].is(uint64(n.addrWord(other))<<32|uint64(now), now) {
			t.Errorf("protocol %d: it is not noted that none rests", proto)
		}
		if why := send(one, 61000, frame.FlagSYN); why != frame.None {
			t.Errorf("protocol %d: the address that has resting ports: %s", proto, why.Info().Name)
		}
	}
}

// In the first second of a shortage, a SYN is dropped in silence: its sender sends it again. Afterwards, the sender is told.
func TestSilenceInAShortage(t *testing.T) {
	n, _ := costBed(64, 64)
	for _, tt := range []struct {
		at     frame.Tick
		silent bool
	}{
		{1000, true}, {1000 + frame.TicksPerSecond - 1, true}, {1000 + frame.TicksPerSecond, false}, {1000 + 2*frame.TicksPerSecond, false},
		{1000 + 10*frame.TicksPerSecond, true}, // a new shortage
	} {
		b := frame.Batch{Tick: tt.at, Dry: true}
		dry := n.mayBeFreeSoon(1, &b)
		b.Dry = false
		if silent := n.mayBeFreeSoon(1, &b); silent != tt.silent || dry != silent {
			t.Errorf("at %d: %v, and a trace says %v; want %v", tt.at, silent, dry, tt.silent)
		}
	}
}

// A flow that cannot begin, since another one has its address pair, takes no entry.
func TestClashTakesNoEntry(t *testing.T) {
	n, send := costBed(64, 64)
	gre := frametest.Packet{Dst: 7, Proto: frame.GRE, Payload: make([]byte, 8)}
	if why := send(2, gre); why != frame.None {
		t.Fatal(why.Info().Name)
	}
	for range 1000 {
		if why := send(1, gre); why != frame.AddressPairTaken {
			t.Fatal(why.Info().Name)
		}
	}
	if ended := n.flows.ended.Load(); ended != 0 {
		t.Errorf("%d entries are in their grace period", ended)
	}
}

// What a port has ended takes no room from others: it counts against the port until the grace period is over.
func TestEndedEntriesLeaveRoom(t *testing.T) {
	for _, flows := range []int{1024, 1 << 14} {
		n, send := costBed(flows, 40000)
		refused := 0
		for i := range 4 * flows {
			if send(1, frametest.Packet{Dst: frame.Addr(100 + i/40000), SrcPort: uint16(1024 + i%40000), DstPort: 80}) != frame.None {
				refused++
			}
		}
		if refused == 0 || !n.ManyEnded() {
			t.Errorf("%d flows: port 1 was refused %d, reclaim soon: %v: this test shows nothing", flows, refused, n.ManyEnded())
		}
		for in := frame.PortID(2); in < 8; in++ {
			for i := range flows / 32 {
				if why := send(in, frametest.Packet{Dst: 8, SrcPort: uint16(1024 + i), DstPort: 80}); why != frame.None {
					t.Fatalf("%d flows: flow %d of port %d: %s", flows, i, in, why.Info().Name)
				}
			}
		}
		n.Retire()
		n.Reclaim()
		for i := range 10 {
			if why := send(1, frametest.Packet{Dst: 8, SrcPort: uint16(1024 + i), DstPort: 81}); why != frame.None {
				t.Fatalf("%d flows: port 1 after the grace period: %s", flows, why.Info().Name)
			}
		}
		for range 3 {
			n.Flush(func(Flow) bool { return true })
			n.Retire()
			n.Reclaim()
		}
		for in := range frame.PortID(9) {
			if a, b := n.endedFlows.Held(in), n.endedMaps.Held(in); a != 0 || b != 0 || n.flows.ended.Load() != 0 {
				t.Errorf("%d flows: port %d is charged for %d flows and %d mappings in their grace period", flows, in, a, b)
			}
		}
	}
}

// Time-outs end flows by the thousands at once. They keep no new flow from their port.
func TestTimeoutsAreNotCharged(t *testing.T) {
	n, send := costBed(1<<14, 40000)
	for i := range 2000 {
		if why := send(1, frametest.Packet{Dst: 7, SrcPort: uint16(1024 + i), DstPort: 80}); why != frame.None {
			t.Fatal(i, why.Info().Name)
		}
	}
	if ended := n.Expire(1e6, 1<<20); ended != 2000 {
		t.Fatal(ended)
	}
	if a, b := n.endedFlows.Held(1), n.endedMaps.Held(1); a+b != 0 {
		t.Errorf("port 1 is charged for %d flows and %d mappings", a, b)
	}
	n.Retire()
	n.Reclaim()
	if a, b := n.endedFlows.Held(1), n.endedMaps.Held(1); a|b != 0 {
		t.Errorf("afterwards for %d and %d", a, b)
	}
}

// A walk over the flows lets Reclaim run between two slices, and one that ends the flows of some ports stops after the last one.
func TestWalksPause(t *testing.T) {
	n, send := costBed(1<<16, 40000)
	for i := range 3 * listSlice {
		in := frame.PortID(2)
		switch i / 10 {
		case 0:
			in = 1
		case 1:
			in = 3
		}
		if why := send(in, frametest.Packet{Dst: frame.Addr(100 + i), SrcPort: 5000, DstPort: 53}); why != frame.None {
			t.Fatal(i, why.Info().Name)
		}
	}
	reclaimed := make(chan struct{})
	seen := 0
	n.Flows(10, func(Flow) bool {
		seen++
		switch seen {
		case 1:
			go func() {
				n.Retire()
				n.Reclaim()
				close(reclaimed)
			}()
			for n.listing.TryRLock() { // until Reclaim waits for the lock
				n.listing.RUnlock()
				runtime.Gosched()
			}
		case 2 * listSlice: // in a later slice than the first
			select {
			case <-reclaimed:
			case <-time.After(10 * time.Second):
				t.Error("Reclaim has waited for the whole walk")
			}
		}
		return true
	})
	visited := 0
	n.FlushPorts([]frame.PortID{1, 3, 4})
	n.walk(func(e uint32) bool { visited++; return true })
	if a, b := n.FlowsOf(1), n.FlowsOf(3); a|b != 0 || visited != 3*listSlice-20 {
		t.Errorf("ports 1 and 3 have %d and %d flows; %d are left", a, b, visited)
	}
}
