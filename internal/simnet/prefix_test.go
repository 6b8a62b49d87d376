package simnet

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// The example of the RFC, and the rules for its special cases.
func TestRFC6296_3_AddressMapping(t *testing.T) {
	for _, x := range []struct{ from, to, in, out string }{
		{"fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:1::1234", "2001:db8:1:d550::1234"},
		{"2001:db8:1::/48", "fd01:203:405::/48", "2001:db8:1:d550::1234", "fd01:203:405:1::1234"},
		{"fd01:203:405:1::/64", "fd01:203:405:1::/64", "fd01:203:405:1::1234", "fd01:203:405:1::1234"},       // routed: nothing changes
		{"fd01:203:405:1::/64", "2001:db8:1:1::/64", "fd01:203:405:1:ffff::1", "2001:db8:1:1:ffff:d54f:0:1"}, // 3.5: a word of ffff is passed over
		{"fd01:203:405:1::/64", "2001:db8:1:1::/64", "fd01:203:405:1:ffff:ffff:ffff:ffff", ""},               // no word is left
		{"fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:ffff::1", ""},                                 // 3.4: nor is this subnet
		{"fd01:203:405:1::/64", "2001:db8:1:1::/64", "fd01:203:405:1::", ""},                                 // 3.7: the anycast address of all routers
	} {
		got, ok := nat.TranslatePrefix(netip.MustParseAddr(x.in), netip.MustParsePrefix(x.from), netip.MustParsePrefix(x.to))
		if x.out == "" && ok || x.out != "" && got.String() != x.out {
			t.Errorf("%s from %s to %s: %s %v, want %s", x.in, x.from, x.to, got, ok, x.out)
		}
	}
}

// The checksum stays, and the way back leads to the same address (RFC 6296, 3.1 and 3.6). A word of 0 and one of ffff are one number: only
// one of them comes back.
func TestRFC6296_3_6_ChecksumNeutral(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr {
		return frame.Addr6{Hi: rng.Uint64()>>8 | 0x20<<56, Lo: rng.Uint64()}.Netip()
	}
	sum := func(a netip.Addr) uint16 { return frame.Sum(a.AsSlice(), 0) % 0xffff }
	for range 100000 {
		bits := []int{40, 48, 52, 56, 64}[rng.IntN(5)]
		from, to := netip.PrefixFrom(addr(), bits).Masked(), netip.PrefixFrom(addr(), bits).Masked()
		a := addr().As16()
		in := netip.AddrFrom16(a)
		p, b := from.Addr().As16(), in.As16()
		for i := range b {
			host := byte(0xff >> max(0, min(8, bits-8*i)))
			b[i] = p[i] | b[i]&host
		}
		in = netip.AddrFrom16(b)
		if bits <= 48 && b[6] == 0xff && b[7] == 0xff {
			continue // 3.4: such a subnet is not translated
		}
		out, ok := nat.TranslatePrefix(in, from, to)
		if !ok || !to.Contains(out) || sum(in) != sum(out) {
			t.Fatalf("%s from %s to %s: %s %v, sums %x and %x", in, from, to, out, ok, sum(in), sum(out))
		}
		if back, ok := nat.TranslatePrefix(out, to, from); !ok || back != in {
			t.Fatalf("%s became %s, and came back as %s %v", in, out, back, ok)
		}
	}
}

// npt gives network 1 another prefix outside, and returns the outside address of a host.
func (s *sixBed) npt(open bool) func(*Host) frame.Addr6 {
	inside, outside := netip.MustParsePrefix("2001:db8:6::/64"), netip.MustParsePrefix("2001:db8:7::/64")
	r := s.rules
	r.Six = s.sixRules()
	m := *r.Six.Masquerade[0]
	m.Inside, m.Outside, m.Open = inside, outside, open
	r.Six.Masquerade = []*nat.Masquerade{&m}
	s.DP.NAT.Update(r)
	return func(h *Host) frame.Addr6 {
		a, ok := nat.TranslatePrefix(addrOf(h).Netip(), inside, outside)
		if !ok {
			s.t.Fatalf("%s has no outside address", h.Name)
		}
		return frame.Addr6From(a)
	}
}

// The address of all routers of a subnet has none that stands for it: packets to it do not come in.
//
// Deviates: they are dropped in silence, without a "parameter problem" (which is a SHOULD).
func TestRFC6296_3_7_NoInterfaceID(t *testing.T) {
	s := newSix(t)
	of := s.npt(true)
	routers := of(s.a)
	routers.Lo = 0
	s.drops("to all routers", s.send(s.o, s.ping(s.o, routers)), frame.NATFiltered)
	s.passes("to a container", s.send(s.o, s.ping(s.o, of(s.a))), s.a)
}

// Containers have one address of another prefix outside, with all ports. Answers, pings and errors come in; nothing else does, unless the
// network is open.
func TestRFC6296_3_2_Translation(t *testing.T) {
	s := newSix(t)
	of := s.npt(false)
	f := s.passes("out", s.send(s.a, s.udp(addrOf(s.o), 53, "out")), s.o)
	if f.IPv6().Src() != of(s.a) || f.Tuple.SrcPort != 20050 {
		t.Fatalf("it left as %s", describe(f.Raw()))
	}
	sent := append([]byte(nil), f.IPv6()[:f.L3End-uint32(f.L3)]...)
	back := frametest.Packet{Dst6: of(s.a), SrcPort: 53, DstPort: 20050, Payload: []byte("back")}
	if f = s.passes("back", s.send(s.o, back), s.a); f.IPv6().Dst() != addrOf(s.a) {
		t.Errorf("it came in as %s", describe(f.Raw()))
	}
	f = s.passes("an error", s.send(s.o, frametest.Packet{Dst6: of(s.a), Proto: frame.ICMPv6, Type: 1, Code: 4, Payload: sent}), s.a)
	if q, _, ok := frame.QuotedOf[frame.Addr6](f.ICMP()); !ok || q.Src != addrOf(s.a) || f.IPv6().Dst() != addrOf(s.a) || !f.HasRightICMPSum() {
		t.Errorf("the error came in as %s", describe(f.Raw()))
	}
	if f = s.passes("a ping from outside", s.send(s.o, s.ping(s.o, of(s.b))), s.b); f.IPv6().Dst() != addrOf(s.b) {
		t.Errorf("the ping came in as %s", describe(f.Raw()))
	}
	begins := frametest.Packet{Dst6: of(s.b), SrcPort: 53, DstPort: 999, Payload: []byte("begins")}
	s.drops("what nobody asked for", s.send(s.o, begins), frame.NATFiltered)
	forged := s.ping(s.o, of(s.a))
	forged.Src6 = of(s.b)
	s.drops("a forged outside address", s.send(s.o, forged), frame.MartianSource)
	s.drops("a forged inside address", s.send(s.o, frametest.Packet{Src6: addrOf(s.b), Dst6: of(s.a), SrcPort: 53, DstPort: 20050}), frame.NATFiltered)

	s.npt(true)
	s.passes("in an open network", s.send(s.o, begins), s.b)
}

// A container reaches another one by its outside address, and is seen there by its own.
func TestRFC6296_4_3_Hairpinning(t *testing.T) {
	s := newSix(t)
	of := s.npt(false)
	for range 2 {
		f := s.passes("a ping", s.send(s.a, s.ping(s.a, of(s.b))), s.b)
		if f.IPv6().Src() != of(s.a) || f.IPv6().Dst() != addrOf(s.b) {
			t.Fatalf("it arrived as %s", describe(f.Raw()))
		}
		pong := s.ping(s.b, of(s.a))
		pong.Type = frame.ICMPv6EchoReply
		if f = s.passes("its answer", s.send(s.b, pong), s.a); f.IPv6().Src() != of(s.b) || f.IPv6().Dst() != addrOf(s.a) {
			t.Fatalf("the answer arrived as %s", describe(f.Raw()))
		}
	}
}

// A flow that left with the host's address ends when its network keeps its addresses from now on.
func TestPrefixEndsMasqueraded(t *testing.T) {
	s := newSix(t)
	if f := s.passes("masqueraded", s.send(s.a, s.udp(addrOf(s.o), 53, "x")), s.o); f.IPv6().Src() != six(frametest.Addr("198.51.100.1")) {
		t.Fatalf("it left as %s", describe(f.Raw()))
	}
	of := s.npt(false)
	if f := s.passes("with a prefix", s.send(s.a, s.udp(addrOf(s.o), 53, "x")), s.o); f.IPv6().Src() != of(s.a) {
		t.Errorf("it left as %s", describe(f.Raw()))
	}
}
