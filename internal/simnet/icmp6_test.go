package simnet

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
)

// Requirements of ICMPv6 and of fragments, continued. See rfc6_test.go.

// Messages of ICMPv6 whose checksum is wrong are not answered.
func TestRFC4443_2_3_Checksum(t *testing.T) {
	s := newSix(t)
	p := s.ping(s.a, s.gateway)
	p.NoChecksum, s.lenient = true, true
	if out := s.send(s.a, p); len(out) > 0 {
		t.Errorf("answered with %s", described(out))
	}
}

// An error of an unknown type passes to its receiver (a), as other errors do; an unknown informational message to the gateway is dropped (b).
func TestRFC4443_2_4_UnknownTypes(t *testing.T) {
	s := newSix(t)
	s.drops("type 200 to the gateway", s.send(s.a, frametest.Packet{Dst6: s.gateway, Proto: frame.ICMPv6, Type: 200, Payload: make([]byte, 8)}), frame.GatewayService)
	s.more("network 2 10.0.1.1/24\nhost c 10.0.1.2 port 3 net 2")
	c := s.host("c")
	s.passes("type 100 to a host", ofPort(s.send(s.a, frametest.Packet{Dst6: addrOf(c), Proto: frame.ICMPv6, Type: 100, Payload: make([]byte, 48)}), c), c)
}

// An error is never about the unspecified address, and never from an anycast one. One about a group is told only if the packet is too long
// (e.3), or has an option that says so (e.4).
func TestRFC4443_2_4_NoErrorTo(t *testing.T) {
	s := newSix(t)
	nobody := s.udp(s.gateway, 53, "x")
	nobody.SrcMAC, nobody.DstMAC = s.a.MAC, s.gwMAC
	if out := s.put(s.a, nobody.Raw()); len(out) > 0 {
		t.Errorf("a packet from :: is answered with %s", described(out))
	}
	i, _ := s.DP.Router.Interface(1)
	f := s.answers("a closed port of the anycast address", s.send(s.a, s.udp(frame.Addr6From(i.Prefix6.Addr()), 53, "x")), s.a, 1, 4)
	if f.IPv6().Src() != s.gateway {
		t.Errorf("the error comes from %s", f.IPv6().Src())
	}
}

// The reasons of an unreachable destination: no route (0), prohibited (1), another scope (2), no neighbor (3), a closed port of the gateway (4).
// Never for congestion: a frame that waits too long is dropped in silence.
func TestRFC4443_3_1_Codes(t *testing.T) {
	s := newSix(t)
	s.more(secondNet)
	for kind, code := range map[router.RouteKind]uint8{router.Prohibit: 1, router.Unreachable: 3} {
		to := netip.PrefixFrom(frame.Addr6{Hi: 0x20010db8_00ba0000 | uint64(kind), Lo: 1}.Netip(), 128)
		if err := s.DP.Router.AddRoute(router.Route{Prefix: to, Kind: kind}); err != nil {
			t.Fatal(err)
		}
		s.answers(kind.String(), s.send(s.a, s.udp(frame.Addr6From(to.Addr()), 53, "x")), s.a, 1, code)
	}
	s.answers("a closed port", s.send(s.a, s.udp(s.gateway, 53, "x")), s.a, 1, 4)
	local := s.udp(addrOf(s.o), 53, "x")
	local.Src6 = s.a.MAC.LinkLocal()
	s.answers("a link-local source to outside", s.send(s.a, local), s.a, 1, 2)
	before := len(s.records)
	s.send(s.a, s.udp(addrOf(s.host("c")), 53, "x"))
	s.answers("no neighbor", ofPort(s.after(before, func() { s.Advance(frame.Seconds(5)) }), s.a), s.a, 1, 3)
	up, _ := s.DP.Router.Interface(frame.NoNet)
	up.Up6 = false
	s.DP.Router.SetInterface(up)
	s.answers("no way out", s.send(s.a, s.udp(addrOf(s.o), 54, "x")), s.a, 1, 0)
}

// A host without IPv4 sends its errors to the outside, too: a packet to a closed way is answered.
func TestRFC4443_3_2_TooBigToOutside(t *testing.T) {
	s := newSixOf(t, "network 1 10.0.0.1/24 routed\nuplink 198.51.100.1\nhost a 10.0.0.2 port 1\noutside o 203.0.113.8\npublish 8080:80 a\n")
	up, _ := s.DP.Router.Interface(frame.NoNet)
	up.Up = false // it has no IPv4
	s.DP.Router.SetInterface(up)
	i, _ := s.DP.Router.Interface(1)
	i.MTU = 1280
	s.DP.Router.SetInterface(i)
	p := frametest.Packet{Dst6: addrOf(s.a), Proto: frame.ICMPv6, Type: frame.ICMPv6Echo, ID: 7, Payload: make([]byte, 1400)}
	s.answers("a packet that is too long", s.send(s.o, p), s.o, 2, 0)
}

// The answer to an echo request has its data and its traffic class.
func TestRFC4443_4_2_EchoReply(t *testing.T) {
	s := newSix(t)
	p := s.ping(s.a, s.gateway)
	p.DstMAC = s.gwMAC
	raw := p.Raw()
	ip := raw[frame.VnetLen+frame.EthernetLen:]
	ip[0], ip[1] = 0x6b, 0x90 // class b9: EF, ECT(1)
	f := s.answers("a ping", s.put(s.a, raw), s.a, frame.ICMPv6EchoReply, 0)
	if class := f.IPv6()[0]<<4 | f.IPv6()[1]>>4; class != 0xb9 || string(f.Payload()[8:]) != "ping" {
		t.Errorf("class %#x, data %q", class, f.Payload()[8:])
	}
}

// Later fragments may come for 60 seconds after the first one (RFC 8200, 4.5); over IPv4 for 30, as Linux does it.
func TestRFC8200_4_5_Time(t *testing.T) {
	for after, passes := range map[uint32]bool{55: true, 65: false} {
		s := newSix(t)
		p := s.udp(addrOf(s.o), 53, string(make([]byte, 64-frame.UDPLen)))
		p.Next, p.Ext = fragmented, fragmentHeader(frame.UDP, 0, true, 1)
		s.passes("the first fragment", s.send(s.a, p), s.o)
		s.after(len(s.records), func() { s.Advance(frame.Seconds(after)) })
		p.Ext, p.NoChecksum = fragmentHeader(frame.UDP, 64, false, 1), true
		if out := ofPort(s.send(s.a, p), s.o); (len(out) == 1) != passes {
			t.Errorf("after %d s: %s", after, described(out))
		}
	}
}

// Fragments may come in any order: those of a datagram of 64 KiB, every second one first.
func TestRFC8200_4_5_AnyOrder(t *testing.T) {
	s := newSix(t)
	const size, n = 1232, 53
	arrived := 0
	for _, odd := range []int{0, 1} {
		for i := odd; i < n; i += 2 {
			p := s.udp(addrOf(s.o), 53, string(make([]byte, size-frame.UDPLen)))
			p.Next, p.Ext, p.NoChecksum = fragmented, fragmentHeader(frame.UDP, i*size, i < n-1, 1), i > 0
			arrived += len(ofPort(s.send(s.a, p), s.o))
		}
	}
	if arrived != n {
		t.Errorf("%d fragments of %d arrived; drops %v", arrived, n, s.DP.Drops())
	}
}

// What host.inbound closes is closed for each type of ICMPv6, not for pings only. Neighbor discovery is open.
func TestInboundOfICMPv6(t *testing.T) {
	s := newSixOf(t, "network 1 10.0.0.1/24\nhost a 10.0.0.2 port 1 guard\nhost h 10.0.0.254 port 2\ninbound h 22/tcp\n")
	h := s.host("h")
	s.put(h, frametest.Packet{SrcMAC: h.MAC, DstMAC: s.a.MAC, Src6: addrOf(h), Dst6: addrOf(s.a)}.Raw()) // its MAC is known
	for _, typ := range []uint8{frame.ICMPv6Echo, 139, 144, 146, 200} {
		p := frametest.Packet{DstMAC: h.MAC, Dst6: addrOf(h), Proto: frame.ICMPv6, Type: typ, ID: 7, Payload: make([]byte, 8)}
		if out := ofPort(s.send(s.a, p), h); len(out) > 0 || s.DP.Drops()["host_inbound"] == s.dropped["host_inbound"] {
			t.Errorf("type %d: %s, drops %v", typ, described(out), s.DP.Drops())
		}
	}
	before := len(s.records)
	p := s.solicitation(s.a, addrOf(h))
	s.put(s.a, p.Raw())
	if len(s.records) == before+1 {
		t.Error("a solicitation did not reach the host")
	}
}

// A packet whose hop limit ends here is answered, with as much of it as fits.
func TestRFC4443_3_3_TimeExceeded(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "gone")
	p.TTL = 1
	f := s.answers("hop limit 1", s.send(s.a, p), s.a, 3, 0)
	if q, _, ok := frame.QuotedOf[frame.Addr6](f.ICMP()); !ok || q.Dst != addrOf(s.o) || q.DstPort != 53 {
		t.Errorf("it quotes %v", q)
	}
}

// The gateway answers echo requests at each of its addresses, and to the group of all nodes.
func TestRFC4443_4_1_EchoRequest(t *testing.T) {
	s := newSix(t)
	i, _ := s.DP.Router.Interface(1)
	for _, to := range append(i.Addrs6(), frame.AllNodes) {
		p := s.ping(s.a, to)
		if p.DstMAC = s.gwMAC; to.IsGroup() {
			p.DstMAC = to.GroupMAC()
		}
		s.answers("a ping to "+to.String(), ofPort(s.put(s.a, p.Raw()), s.a), s.a, frame.ICMPv6EchoReply, 0)
	}
}

// An error that says an MTU below 1280 makes no packet carry a Fragment header.
func TestRFC8021_3_NoAtomicFragments(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "question")
	f := s.passes("a packet", s.send(s.a, p), s.o)
	quote := slices.Clone(f.IPv6()[:f.L3End-uint32(f.L3)])
	s.send(s.o, frametest.Packet{Dst6: f.IPv6().Src(), Proto: frame.ICMPv6, Type: frame.ICMPv6TooBig, Seq: 600, Payload: quote})
	f = s.passes("the next packet", s.send(s.a, p), s.o)
	if f.Flags&frame.Fragment != 0 || f.FragAt != 0 || f.IPv6()[6] != frame.UDP {
		t.Errorf("it left as %s", describe(f.Raw()))
	}
}

// What has a link-local source or destination does not leave its network.
func TestRFC4007_9_ZonesAreNotLeft(t *testing.T) {
	s := newSix(t)
	s.more(secondNet)
	from := s.udp(addrOf(s.host("c")), 53, "x")
	from.Src6 = s.a.MAC.LinkLocal()
	s.answers("a link-local source", s.send(s.a, from), s.a, 1, 2)
	to := s.udp(frametest.Addr6("fe80::99"), 53, "x")
	if out := ofPort(s.send(s.a, to), s.host("c")); len(out) > 0 {
		t.Errorf("a link-local destination left its network: %s", described(out))
	}
}

// An unanswered UDP flow lives for two minutes, an answered one for five.
func TestRFC6092_3_2_Timers(t *testing.T) {
	for _, x := range []struct {
		answered bool
		lives    uint32
	}{{false, 120}, {true, 300}} {
		for _, late := range []bool{false, true} {
			s := newSix(t)
			f := s.passes("a question", s.send(s.a, s.udp(addrOf(s.o), 5300, "question")), s.o)
			answer := frametest.Packet{Dst6: f.IPv6().Src(), SrcPort: 5300, DstPort: f.Tuple.SrcPort, Payload: []byte("answer")}
			if x.answered {
				s.passes("its answer", s.send(s.o, answer), s.a)
				s.after(len(s.records), func() { s.Advance(frame.Seconds(3)) }) // a question with one answer is short
				s.passes("another question", s.send(s.a, s.udp(addrOf(s.o), 5300, "question")), s.o)
				s.passes("its answer", s.send(s.o, answer), s.a)
			}
			wait := x.lives - 5
			if late {
				wait = x.lives + 5
			}
			s.after(len(s.records), func() { s.Advance(frame.Seconds(wait)) })
			if out := ofPort(s.send(s.o, answer), s.a); (len(out) == 1) == late {
				t.Errorf("answered %v, after %d s: %s", x.answered, wait, described(out))
			}
		}
	}
}
