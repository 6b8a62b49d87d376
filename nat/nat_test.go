package nat_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

var (
	inside   = frametest.Addr("10.0.0.2")
	server   = frametest.Addr("10.0.0.3")
	external = frametest.Addr("198.51.100.1")
	remote   = frametest.Addr("203.0.113.8")
)

func newNAT(o nat.Options) (*nat.NAT, nat.Rules) {
	o.Seed = 42
	if o.Flows == 0 {
		o.Flows = 4096
	}
	n := nat.New(o)
	r := nat.Rules{
		Own:        []frame.Addr{external},
		Masquerade: []*nat.Masquerade{{Net: 1, RuleCount: &nat.RuleCount{}}},
		Publish: []*nat.Publish{
			{ID: 1, Proto: frame.TCP, Lo: 8080, Hi: 8089, Target: server, Port: 80, Inside: 2, Net: 1, RuleCount: &nat.RuleCount{}},
			{ID: 2, Proto: frame.UDP, Lo: 8080, Hi: 8089, Target: server, Port: 80, Inside: 2, Net: 1, RuleCount: &nat.RuleCount{}},
		},
	}
	for i := range r.Pool {
		r.Pool[i] = nat.NewPortSet()
		r.Pool[i].AddRange(20000, 29999)
	}
	n.Update(r)
	return n, r
}

// pass runs both NAT stages, with a fake routing decision between them: packets for inside go to network 1, all
// others to the uplink.
func pass(n *nat.NAT, b *frame.Batch, net frame.NetID) {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		f.Net, f.Verdict = net, frame.Local
	}
	n.PreRouting(b)
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Local {
			continue
		}
		if f.Malformed != frame.None || f.Flags&frame.IsIPv4 == 0 {
			f.DropFor(f.Malformed)
			continue
		}
		f.Verdict, f.Egress = frame.Routed, frame.NoNet
		if f.RouteDst>>8 == inside>>8 {
			f.Egress = 1
		}
	}
	n.PostRouting(b)
}

func genPacket(t *rapid.T) frametest.Packet {
	p := frametest.Packet{
		Src: inside, Dst: remote, SrcPort: rapid.Uint16Min(1).Draw(t, "sport"), DstPort: rapid.Uint16Min(1).Draw(t, "dport"),
		Proto:   rapid.SampledFrom([]uint8{frame.TCP, frame.UDP, frame.ICMP}).Draw(t, "proto"),
		Payload: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload"),
	}
	switch p.Proto {
	case frame.TCP:
		p.Flags = frame.FlagSYN
		p.Partial = rapid.Bool().Draw(t, "partial")
		if len(p.Payload) > 48 && rapid.Bool().Draw(t, "gso") {
			p.GSO = 48
		}
	case frame.UDP:
		p.Partial = rapid.Bool().Draw(t, "partial")
		p.NoChecksum = !p.Partial && rapid.Bool().Draw(t, "no checksum")
	case frame.ICMP:
		p.Type, p.ID, p.Seq = frame.ICMPEcho, rapid.Uint16Min(1).Draw(t, "id"), 1
	}
	return p
}

// answer returns the answer of the other end to a packet that it received.
func answer(f *frame.Frame, p frametest.Packet) frametest.Packet {
	r := f.Tuple.Reverse()
	p.Src, p.Dst, p.SrcPort, p.DstPort = r.Src, r.Dst, r.SrcPort, r.DstPort
	switch p.Proto {
	case frame.TCP:
		p.Flags = frame.FlagSYN | frame.FlagACK
	case frame.ICMP:
		p.Type, p.ID = frame.ICMPEchoReply, r.DstPort
	}
	return p
}

// Every row of the checksum table, in both directions: packets leave with correct checksums, complete or partial, and
// answers arrive with the addresses and ports that the sender used.
func TestRoundTrip(t *testing.T) {
	n, _ := newNAT(nat.Options{Flows: 1 << 16})
	rapid.Check(t, func(t *rapid.T) {
		p := genPacket(t)
		raw := p.Raw()
		b := frametest.Batch(1, 10, raw)
		own := b.Frames[0].Tuple
		pass(n, b, 1)
		f := &b.Frames[0]
		if f.Verdict != frame.Routed {
			t.Fatalf("dropped: %v", f.Reason)
		}
		if err := frametest.Check(f.Raw()); err != nil {
			t.Fatalf("out: %v", err)
		}
		if f.Tuple.Src != external || f.Tuple.Dst != remote {
			t.Fatalf("left as %v", f.Tuple)
		}
		if p.NoChecksum && f.Payload()[6]|f.Payload()[7] != 0 {
			t.Fatal("UDP without a checksum got one")
		}
		var seen frame.Frame
		seen.Reset(f.Raw(), 9)
		frame.Parse(&seen)
		if seen.Tuple != f.Tuple {
			t.Fatalf("the bytes say %v, the frame %v", seen.Tuple, f.Tuple)
		}
		back := frametest.Batch(9, 11, answer(&seen, p).Raw())
		pass(n, back, frame.NoNet)
		g := &back.Frames[0]
		if g.Verdict != frame.Routed || g.Egress != 1 {
			t.Fatalf("the answer was dropped: %v", g.Reason)
		}
		if err := frametest.Check(g.Raw()); err != nil {
			t.Fatalf("back: %v", err)
		}
		if g.Tuple != own.Reverse() {
			t.Fatalf("the answer came as %v to who sent %v", g.Tuple, own)
		}
	})
}

// ICMP errors about translated packets have correct checksums, inside and outside the quote, and quote the packet as
// it was sent.
func TestErrorRoundTrip(t *testing.T) {
	n, _ := newNAT(nat.Options{Flows: 1 << 16})
	rapid.Check(t, func(t *rapid.T) {
		p := genPacket(t)
		p.GSO, p.Partial = 0, false
		b := frametest.Batch(1, 10, p.Raw())
		own := b.Frames[0].Tuple
		pass(n, b, 1)
		if b.Frames[0].Verdict != frame.Routed {
			t.Skip("no room for this one")
		}
		quote := frametest.Quote(b.Frames[0].Raw(), rapid.IntRange(8, 60).Draw(t, "quoted"))
		e := frametest.Packet{Src: frametest.Addr("192.0.2.1"), Dst: external, Proto: frame.ICMP, Type: 3, Code: 1, Payload: quote}
		back := frametest.Batch(9, 11, e.Raw())
		pass(n, back, frame.NoNet)
		g := &back.Frames[0]
		if g.Verdict != frame.Routed || g.Tuple.Dst != inside || g.Tuple.Src != e.Src {
			t.Fatalf("verdict %d, %v, %v", g.Verdict, g.Reason, g.Tuple)
		}
		if err := frametest.Check(g.Raw()); err != nil {
			t.Fatal(err)
		}
		if q, _, ok := frame.Quoted(g.Payload()); !ok || q != own {
			t.Fatalf("it quotes %v, sent was %v", q, own)
		}
	})
}

// The model is a table of mappings: the same inside endpoint always has the same outside port, and no two endpoints
// have the same one.
func TestEndpointIndependentMapping(t *testing.T) {
	n, _ := newNAT(nat.Options{})
	type endpoint struct {
		port  uint16
		proto uint8
	}
	model := map[endpoint]uint16{}
	taken := map[endpoint]bool{}
	rapid.Check(t, func(t *rapid.T) {
		p := frametest.Packet{
			Src: inside, SrcPort: uint16(rapid.IntRange(1, 40).Draw(t, "sport")), DstPort: rapid.Uint16Min(1).Draw(t, "dport"),
			Dst:   remote + frame.Addr(rapid.IntRange(0, 9).Draw(t, "remote")),
			Proto: rapid.SampledFrom([]uint8{frame.TCP, frame.UDP}).Draw(t, "proto"), Flags: frame.FlagSYN,
		}
		b := frametest.Batch(1, 10, p.Raw())
		pass(n, b, 1)
		if b.Frames[0].Verdict != frame.Routed {
			t.Skip("the flow table is full")
		}
		k, out := endpoint{p.SrcPort, p.Proto}, b.Frames[0].Tuple.SrcPort
		if want, ok := model[k]; ok && want != out {
			t.Fatalf("%v left as %d and as %d", k, want, out)
		}
		if !taken[endpoint{out, p.Proto}] {
			taken[endpoint{out, p.Proto}] = true
			model[k] = out
		} else if model[k] != out {
			t.Fatalf("outside port %d given out twice", out)
		}
	})
}

func TestPublished(t *testing.T) {
	n, rules := newNAT(nat.Options{})
	in := frametest.Packet{Src: remote, Dst: external, SrcPort: 4000, DstPort: 8083, Proto: frame.TCP, Flags: frame.FlagSYN}
	send := func() *frame.Frame {
		b := frametest.Batch(9, 10, in.Raw())
		pass(n, b, frame.NoNet)
		return &b.Frames[0]
	}
	f := send()
	if f.Tuple.Dst != server || f.Tuple.DstPort != 83 || f.Tuple.Src != remote {
		t.Fatalf("came as %v", f.Tuple)
	}
	if rules.Publish[0].Packets.Load() != 1 {
		t.Error("the rule did not count")
	}
	in.Flags = frame.FlagACK
	rules.Publish[0].Target = inside
	changed := *rules.Publish[0]
	changed.ID = 3
	rules.Publish = []*nat.Publish{&changed}
	n.Update(rules)
	if f := send(); f.Tuple.Dst != inside {
		t.Errorf("after re-publishing, an old connection's packet went to %v", f.Tuple.Dst)
	}
	rules.Publish = nil
	n.Update(rules)
	if f := send(); f.Reason != frame.NotForUs {
		t.Errorf("after taking it back: %v", f.Reason)
	}
}

func TestLimits(t *testing.T) {
	syn := func(src frame.Addr, port int) []byte {
		return frametest.Packet{Src: src, Dst: remote, SrcPort: uint16(port), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}.Raw()
	}
	count := func(n *nat.NAT, ports, from, to int) map[frame.Reason]int {
		got := map[frame.Reason]int{}
		for i := from; i < to; i++ {
			b := frametest.Batch(frame.PortID(1+i%ports), 10, syn(inside, i))
			pass(n, b, 1)
			n.Retire()
			n.Reclaim()
			got[b.Frames[0].Reason]++
		}
		return got
	}
	n, _ := newNAT(nat.Options{FlowsPerPort: 100})
	if got := count(n, 1, 1, 201); got[frame.None] != 200 {
		t.Errorf("with a quota of 100, and unanswered ones that may go: %v", got)
	}
	n, _ = newNAT(nat.Options{FlowsPerPort: 100})
	for i := range 100 {
		establish(n, inside, uint16(1000+i), 1)
	}
	if got := count(n, 1, 1, 21); got[frame.FlowQuota] != 20 {
		t.Errorf("with a quota of 100, all of them answered: %v", got)
	}
	n, _ = newNAT(nat.Options{Flows: 128})
	if got := count(n, 2, 1, 201); got[frame.None] != 200 {
		t.Errorf("with 128 places: %v", got)
	}
	n, r := newNAT(nat.Options{})
	r.Pool[0] = nat.NewPortSet()
	r.Pool[0].AddRange(20000, 20049)
	n.Update(r)
	for i := 1; i <= 12; i++ { // answered, so they cannot be evicted
		for _, port := range []frame.PortID{1, 2, 3, 4} {
			establish(n, inside+frame.Addr(port), uint16(i), port)
		}
	}
	if got := count(n, 1, 100, 120); got[frame.NATPortsExhausted] != 20 {
		t.Errorf("a port that holds its share of 50 ports: %v", got)
	}
	for i, want := range []frame.Reason{frame.None, frame.None, frame.None} {
		b := frametest.Batch(frame.PortID(7+i), 10, syn(inside+frame.Addr(100+i), 100))
		establish(n, inside+frame.Addr(100+i), 100, frame.PortID(7+i))
		if pass(n, b, 1); b.Frames[0].Reason != want {
			t.Errorf("newcomer %d beside four ports that hold what they can: %v, want %v", i, b.Frames[0].Reason, want)
		}
	}
	// Flows and ports become free again with time.
	n.Expire(1e6, 1<<20)
	if u := n.PortUseOf(frame.TCP); n.Used() != 0 || u.Used != 0 || u.Resting == 0 {
		t.Errorf("after everything expired: %d flows, ports %+v", n.Used(), u)
	}
	n.EndQuarantine(1e6 + frame.Seconds(120))
	if u := n.PortUseOf(frame.TCP); u.Resting != 0 {
		t.Errorf("after two minutes: %+v", u)
	}
	n.Retire()
	n.Reclaim()
	if got := count(n, 1, 1, 13); got[frame.None] != 12 {
		t.Errorf("ports that came back: %v", got)
	}
}

// establish creates a TCP flow whose handshake is complete.
func establish(n *nat.NAT, src frame.Addr, port uint16, in frame.PortID) {
	p := frametest.Packet{Src: src, Dst: remote, SrcPort: port, DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}
	b := frametest.Batch(in, 10, p.Raw())
	pass(n, b, 1)
	if b.Frames[0].Verdict == frame.Routed {
		pass(n, frametest.Batch(9, 10, answer(&b.Frames[0], p).Raw()), frame.NoNet)
		p.Flags = frame.FlagACK
		pass(n, frametest.Batch(in, 10, p.Raw()), 1)
	}
}

// A container that floods half-open connections takes no port from its neighbors; it reuses its own ports.
func TestPortFloodIsFair(t *testing.T) {
	n, r := newNAT(nat.Options{Flows: 1 << 16})
	r.Pool[0] = nat.NewPortSet()
	r.Pool[0].AddRange(20000, 20399)
	n.Update(r)
	for i := range 5000 {
		b := frametest.Batch(1, 10, frametest.Packet{Src: inside, Dst: remote, SrcPort: uint16(1 + i), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}.Raw())
		pass(n, b, 1)
	}
	if used := n.PortUseOf(frame.TCP).Used; used > 125 {
		t.Errorf("the flooder holds %d of 400 ports", used)
	}
	for i := range 100 {
		b := frametest.Batch(2, 10, frametest.Packet{Src: server, Dst: remote, SrcPort: uint16(1 + i), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}.Raw())
		if pass(n, b, 1); b.Frames[0].Verdict != frame.Routed {
			t.Fatalf("connection %d of the neighbour: %v", i, b.Frames[0].Reason)
		}
	}
}

// Packets of established flows cost no allocation, in either direction.
func TestNoAllocations(t *testing.T) {
	n, _ := newNAT(nat.Options{})
	out := frametest.Packet{Src: inside, Dst: remote, SrcPort: 20000, DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}.Raw()
	in := frametest.Packet{Src: remote, Dst: external, SrcPort: 80, DstPort: 20000, Proto: frame.TCP, Flags: frame.FlagACK}.Raw()
	b := &frame.Batch{Tick: 10}
	raws := [][]byte{bytes.Clone(out)}
	if allocs := testing.AllocsPerRun(100, func() {
		copy(raws[0], out)
		frametest.Fill(b, 1, raws...)
		pass(n, b, 1)
		copy(raws[0], in)
		frametest.Fill(b, 9, raws...)
		pass(n, b, frame.NoNet)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if b.Frames[0].Verdict != frame.Routed {
		t.Fatalf("the answer was dropped: %v", b.Frames[0].Reason)
	}
	port := 0
	if allocs := testing.AllocsPerRun(100, func() { // nor do new flows
		port++
		frametest.Fill(b, 1, raws...)
		b.Frames[0].Tuple.Src, b.Frames[0].Tuple.Dst = inside, remote
		b.Frames[0].Tuple.SrcPort = uint16(port)
		pass(n, b, 1)
	}); allocs != 0 {
		t.Errorf("%v allocations for a new flow", allocs)
	}
}

// FuzzNAT: no packet from either side causes a panic, and packets that pass keep correct checksums.
func FuzzNAT(f *testing.F) {
	syn := frametest.Packet{Src: inside, Dst: remote, SrcPort: 20000, DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN}
	f.Add(syn.Raw(), true)
	f.Add(frametest.Packet{Src: remote, Dst: external, SrcPort: 80, DstPort: 20000, Proto: frame.TCP, Flags: frame.FlagACK}.Raw(), false)
	f.Add(frametest.Packet{Src: remote, Dst: external, Proto: frame.ICMP, Type: 3, Payload: frametest.Quote(frametest.Packet{Src: external, Dst: remote, SrcPort: 20000, DstPort: 80, Proto: frame.TCP}.Raw(), 20)}.Raw(), false)
	f.Add(frametest.Packet{Src: inside, Dst: external, SrcPort: 9, DstPort: 8080}.Raw(), true)
	n, _ := newNAT(nat.Options{})
	b := frametest.Batch(1, 10, syn.Raw())
	pass(n, b, 1)
	f.Fuzz(func(t *testing.T, raw []byte, out bool) {
		raw = bytes.Clone(raw)
		sound := len(raw) > frame.VnetLen && frametest.Sound(raw)
		net := frame.NetID(0)
		if out {
			net = 1
		}
		b := frametest.Batch(1, 10, raw)
		if b.Frames[0].Verdict == frame.Drop {
			return
		}
		pass(n, b, net)
		if sound && b.Frames[0].Verdict == frame.Routed {
			if err := frametest.Check(raw); err != nil {
				t.Error(err)
			}
		}
	})
}
