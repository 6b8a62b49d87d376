package nat_test

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/share"
	"github.com/uvswitch/uvswitch/nat"
)

// begin passes the first packet of a flow from port in.
func begin(n *nat.NAT, in frame.PortID, tick frame.Tick, p frametest.Packet) frame.Reason {
	b := frametest.Batch(in, tick, p.Raw())
	pass(n, b, 1)
	if b.Frames[0].Verdict == frame.Routed {
		return frame.None
	}
	return b.Frames[0].Reason
}

// smallPool leaves NAT count outside ports of each protocol.
func smallPool(n *nat.NAT, r *nat.Rules, count int) {
	for i := range r.Pool {
		r.Pool[i] = nat.NewPortSet()
		r.Pool[i].AddRange(20000, uint16(20000+count-1))
	}
	n.Update(*r)
}

// Four ports that flood, and hold all that they can get, leave a fifth one its floor and a part of what is lent.
func TestFourPortsLeaveRoom(t *testing.T) {
	n, r := newNAT(nat.Options{Flows: 1 << 16})
	smallPool(n, &r, 400)
	for in := frame.PortID(1); in <= 4; in++ {
		for i := range 5000 {
			begin(n, in, 10, frametest.Packet{Src: inside + frame.Addr(in), Dst: remote, SrcPort: uint16(1 + i), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN})
		}
	}
	got := 0
	for i := range 60 {
		if begin(n, 5, 10, frametest.Packet{Src: inside + 9, Dst: remote, SrcPort: uint16(1 + i), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}) == frame.None {
			got++
		}
	}
	if want := 400/16 + 200/6; got < want {
		t.Errorf("beside four floods a fifth port opened %d connections of 60; its floor is 25 of 400 ports", got)
	}
}

// With more ports on the switch, the floors are smaller, and each port still has its own.
func TestFloorsFollowThePorts(t *testing.T) {
	n, r := newNAT(nat.Options{})
	smallPool(n, &r, 400)
	n.DivideAmong(share.Among{Ports: 50})
	for in := frame.PortID(1); in <= 50; in++ {
		for i := range 4 {
			p := frametest.Packet{Src: inside + frame.Addr(in), Dst: remote, SrcPort: uint16(1 + i), DstPort: 53}
			if why := begin(n, in, 10, p); why != frame.None {
				t.Fatalf("port %d, flow %d: %v", in, i, why)
			}
			for range 3 { // the first port is greedy
				p.SrcPort += 1000
				begin(n, 1, 10, p)
			}
		}
	}
}

// A port whose outside ports are all of closed connections takes them again, however many flows its neighbors have.
func TestClosedFlowsOfOwnMakeRoom(t *testing.T) {
	n, r := newNAT(nat.Options{Flows: 1 << 18})
	smallPool(n, &r, 1000)
	tick := frame.Tick(10)
	connect := func(port int) frame.Reason {
		p := frametest.Packet{Src: inside, Dst: remote, SrcPort: uint16(port), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}
		b := frametest.Batch(1, tick, p.Raw())
		if pass(n, b, 1); b.Frames[0].Verdict != frame.Routed {
			return b.Frames[0].Reason
		}
		a := answer(&b.Frames[0], p)
		for _, step := range []struct {
			p     frametest.Packet
			in    frame.PortID
			net   frame.NetID
			flags uint8
		}{{a, 9, frame.NoNet, frame.FlagSYN | frame.FlagACK}, {p, 1, 1, frame.FlagACK}, {a, 9, frame.NoNet, frame.FlagFIN | frame.FlagACK},
			{p, 1, 1, frame.FlagFIN | frame.FlagACK}, {a, 9, frame.NoNet, frame.FlagACK}} {
			step.p.Flags = step.flags
			pass(n, frametest.Batch(step.in, tick, step.p.Raw()), step.net)
		}
		return frame.None
	}
	for port := range 400 {
		connect(10000 + port)
	}
	for i := range 60000 { // a neighbor's socket that speaks to many: one mapping, many flows
		begin(n, 2, tick, frametest.Packet{Src: server, Dst: remote + frame.Addr(i), SrcPort: 5000, DstPort: 53})
	}
	for i := range 400 {
		if tick += 5; i%20 == 0 {
			n.Retire()
			n.Reclaim()
		}
		if why := connect(11000 + i); why != frame.None {
			t.Fatalf("connection %d: %v", i, why)
		}
	}
}

// Permissions count like mappings: ports that speak to very many destinations leave the next one room.
func TestPermissionsAreShared(t *testing.T) {
	n, r := newNAT(nat.Options{Flows: 1 << 14})
	r.Masquerade[0].Filtering = nat.AddressDependentFiltering
	n.Update(r)
	for in := frame.PortID(1); in <= 4; in++ {
		for i := range 1 << 14 {
			begin(n, in, 10, frametest.Packet{Src: inside + frame.Addr(in), Dst: frametest.Addr("8.0.0.0") + frame.Addr(i), SrcPort: 5000, DstPort: 53})
		}
	}
	n.Retire()
	n.Reclaim()
	for i := range 500 {
		if why := begin(n, 7, 11, frametest.Packet{Src: inside + 7, Dst: remote + frame.Addr(i), SrcPort: 5000, DstPort: 53}); why != frame.None {
			t.Fatalf("destination %d of another port: %v", i, why)
		}
	}
}

// A UDP flow is assured once both ends have sent and it is two seconds old, as Linux has it: questions and answers do not fill a share for good.
func TestAssuredUDP(t *testing.T) {
	n, _ := newNAT(nat.Options{})
	p := frametest.Packet{Src: inside, Dst: remote, SrcPort: 9, DstPort: 53}
	var back frametest.Packet
	for _, step := range []struct {
		tick     frame.Tick
		outwards bool
		assured  bool
	}{{250, true, false}, {251, true, false}, {260, false, false}, {261, true, false}, {269, false, false}, {270, false, true}, {271, true, true}} {
		if step.outwards {
			b := frametest.Batch(1, step.tick, p.Raw())
			pass(n, b, 1)
			back = answer(&b.Frames[0], p)
		} else {
			pass(n, frametest.Batch(9, step.tick, back.Raw()), frame.NoNet)
		}
		n.Flows(step.tick, func(f nat.Flow) bool {
			if f.Assured != step.assured {
				t.Errorf("at tick %d, assured is %v", step.tick, f.Assured)
			}
			return true
		})
	}
}

// Clients of a published port, with real connections, leave the container flows of its own.
func TestClientsLeaveTheContainerItsWayOut(t *testing.T) {
	n, r := newNAT(nat.Options{Flows: 1024})
	r.Publish = []*nat.Publish{{ID: 1, Proto: frame.TCP, Lo: 8080, Hi: 8080, Target: server, Port: 80, Inside: 2, Net: 1, RuleCount: &nat.RuleCount{}}}
	n.Update(r)
	refused := 0
	for i := range 1000 {
		p := frametest.Packet{Src: remote + frame.Addr(i), Dst: external, SrcPort: 9, DstPort: 8080, Proto: frame.TCP, Flags: frame.FlagSYN}
		b := frametest.Batch(9, 10, p.Raw())
		if pass(n, b, frame.NoNet); b.Frames[0].Verdict != frame.Routed {
			refused++
			continue
		}
		a := answer(&b.Frames[0], p)
		a.Flags = frame.FlagSYN | frame.FlagACK
		pass(n, frametest.Batch(2, 10, a.Raw()), 1)
		p.Flags = frame.FlagACK
		pass(n, frametest.Batch(9, 10, p.Raw()), frame.NoNet)
	}
	held := n.FlowsOf(2)
	if refused == 0 || held == 0 {
		t.Fatalf("%d clients refused, %d flows held: the published port was not flooded", refused, held)
	}
	for i := range held / 4 {
		if why := begin(n, 2, 10, frametest.Packet{Src: server, Dst: remote, SrcPort: uint16(30000 + i), DstPort: 443, Proto: frame.TCP, Flags: frame.FlagSYN}); why != frame.None {
			t.Fatalf("connection %d out of the container: %v", i, why)
		}
	}
}
