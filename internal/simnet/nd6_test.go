package simnet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// Requirements of neighbor discovery, continued: what the gateway believes, and what it tells whom. See rfc6_test.go.

// secondNet is a second network with a host c, which does not answer by itself.
const secondNet = "network 2 10.0.1.1/24\nhost c 10.0.1.2 port 3 net 2\nsilent c"

// looksFor makes the gateway look for c.
func (s *sixBed) looksFor(c *Host) {
	s.t.Helper()
	s.send(s.a, s.udp(addrOf(c), 53, "who is c?"))
	if n := s.neighbor(c); n.State != router.Incomplete {
		s.t.Fatalf("c is %s", n.State)
	}
}

// of2 makes p a packet from c to the gateway of network 2.
func (s *sixBed) of2(p frametest.Packet) frametest.Packet {
	i, _ := s.DP.Router.Interface(2)
	p.DstMAC, p.Dst6 = i.MAC, i.Addr6
	return p
}

// Invalid advertisements are ignored: a hop limit below 255, a wrong code or checksum, a target that is a group, an option of length 0, one
// that is solicited and sent to a group, one in a fragment.
func TestRFC4861_7_1_2_InvalidAdvertisement(t *testing.T) {
	for what, spoil := range map[string]func(p *frametest.Packet){
		"sound":         func(*frametest.Packet) {},
		"hop limit 254": func(p *frametest.Packet) { p.TTL = 254 },
		"code 1":        func(p *frametest.Packet) { p.Code = 1 },
		"checksum":      func(p *frametest.Packet) { p.NoChecksum = true },
		"short":         func(p *frametest.Packet) { p.Payload = p.Payload[:12] },
		"target group":  func(p *frametest.Packet) { frametest.Addr6("ff02::1").Put(p.Payload) },
		"option length": func(p *frametest.Packet) { p.Payload[17] = 0 },
		"solicited, to a group": func(p *frametest.Packet) {
			p.DstMAC, p.Dst6 = frame.AllNodes.GroupMAC(), frame.AllNodes
		},
		"fragment": func(p *frametest.Packet) {
			p.Next, p.Ext = fragmented, fragmentHeader(frame.ICMPv6, 0, false, 1)
		},
	} {
		s := newSix(t)
		s.more(secondNet)
		s.lenient = true // others on the link get the message, too
		c := s.host("c")
		s.looksFor(c)
		p := s.of2(s.advertisement(c, addrOf(c), c.MAC, true, true))
		spoil(&p)
		s.put(c, p.Raw())
		if n := s.neighbor(c); (n.State == router.Reachable) != (what == "sound") {
			t.Errorf("%s: c is %s %s", what, n.State, n.MAC)
		}
	}
}

// The first answer for a neighbor that is looked for: REACHABLE if it is solicited, else STALE; without a MAC it says nothing. It says whether
// the neighbor is a router.
func TestRFC4861_7_2_5_Incomplete(t *testing.T) {
	for _, x := range []struct {
		solicited, mac, isRouter bool
		state                    router.NeighState
	}{
		{true, true, false, router.Reachable}, {false, true, false, router.Stale}, {true, false, false, router.Incomplete}, {true, true, true, router.Reachable},
	} {
		s := newSix(t)
		s.more(secondNet)
		c := s.host("c")
		s.looksFor(c)
		p := s.of2(s.advertisement(c, addrOf(c), c.MAC, x.solicited, false))
		if !x.mac {
			p.Payload = p.Payload[:16]
		}
		if x.isRouter {
			p.ID |= 0x8000
		}
		s.send(c, p)
		if n := s.neighbor(c); n.State != x.state || n.IsRouter != x.isRouter {
			t.Errorf("%+v: c is %s, router %v", x, n.State, n.IsRouter)
		}
	}
}

// A solicitation or a router solicitation with another MAC changes the entry, to STALE; one without a sender changes and makes none.
func TestRFC4861_7_2_3_NewMAC(t *testing.T) {
	const other = frame.MAC(0x020000000077)
	for what, typ := range map[string]uint8{"a solicitation": frame.ICMPv6NeighborSolicitation, "a router solicitation": frame.ICMPv6RouterSolicitation} {
		s := newSix(t)
		ask := func(mac frame.MAC) frametest.Packet {
			p := s.solicitation(s.a, s.gateway)
			if typ == frame.ICMPv6RouterSolicitation {
				p = frametest.Packet{SrcMAC: s.a.MAC, DstMAC: frame.AllRouters.GroupMAC(), Src6: addrOf(s.a), Dst6: frame.AllRouters, TTL: 255, Proto: frame.ICMPv6, Type: typ, Payload: append([]byte{1, 1}, s.a.MAC.HardwareAddr()...)}
			}
			copy(p.Payload[len(p.Payload)-6:], mac.HardwareAddr())
			return p
		}
		nobody := ask(s.a.MAC)
		nobody.Src6 = frame.Addr6{}
		s.put(s.a, nobody.Raw())
		if n := s.neighbor(s.a); n.Addr.IsValid() {
			t.Errorf("%s from :: made the entry %+v", what, n)
		}
		s.send(s.a, ask(s.a.MAC))
		s.send(s.a, s.advertisement(s.a, addrOf(s.a), s.a.MAC, true, true))
		s.send(s.a, ask(other))
		if n := s.neighbor(s.a); n.State != router.Stale || n.MAC != other {
			t.Errorf("after %s with another MAC, a is %s %s", what, n.State, n.MAC)
		}
	}
}

// A queue for a neighbor that overflows keeps the last frames; of several ports, the one with the most frames there loses its oldest.
func TestRFC4861_7_2_2_QueueKeepsTheLast(t *testing.T) {
	s := newSix(t)
	s.more(secondNet)
	c := s.host("c")
	for i := range 20 {
		s.send(s.a, s.udp(addrOf(c), uint16(100+i), "waits"))
	}
	s.send(s.b, s.udp(addrOf(c), 200, "of another"))
	out := s.send(c, s.of2(s.advertisement(c, addrOf(c), c.MAC, true, true)))
	var ports []uint16
	for _, f := range ofPort(out, c) {
		ports = append(ports, f.Tuple.DstPort)
	}
	if len(ports) != 16 || ports[0] != 105 || ports[14] != 119 || ports[15] != 200 {
		t.Errorf("c received what was for the ports %v", ports)
	}
}

// A solicitation of the gateway names its MAC, and comes once a second.
func TestRFC4861_7_2_2_Solicitations(t *testing.T) {
	s := newSix(t)
	s.more(secondNet)
	c := s.host("c")
	before := len(s.records)
	s.looksFor(c)
	s.wait(10)
	i, _ := s.DP.Router.Interface(2)
	var at []frame.Tick
	for _, r := range s.records[before:] {
		var f frame.Frame
		f.Reset(r.raw, r.port)
		if frame.Parse(&f); !r.out || r.port != c.Port || !f.IsND() {
			continue
		}
		at = append(at, r.now)
		if want := append([]byte{1, 1}, i.MAC.HardwareAddr()...); f.IPv6().Src() != i.Addr6 || !bytes.Equal(f.Payload()[24:], want) {
			t.Errorf("solicitation from %s with the options % x", f.IPv6().Src(), f.Payload()[24:])
		}
	}
	if len(at) != 3 || at[1]-at[0] < frame.TicksPerSecond || at[2]-at[1] < frame.TicksPerSecond {
		t.Errorf("solicitations at %v", at)
	}
}

// A scan of a subnet, from inside or from outside, makes few solicitations, is refused for a reason, and lets others find their neighbors.
func TestRFC6583_7_ScanIsBounded(t *testing.T) {
	for _, scanner := range []string{"a", "o"} {
		s := newSixOf(t, "network 1 10.0.0.1/24\nnetwork 2 10.0.1.1/24 routed\nuplink 198.51.100.1\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\nhost c 10.0.1.2 port 3 net 2\noutside o 203.0.113.8\n")
		c, before := s.host("c"), len(s.records)
		for i := range 200 {
			if h := s.host(scanner); h.outside {
				s.send(h, s.ping(h, six(frametest.Addr("10.0.1.10")+frame.Addr(i))))
			} else {
				s.send(h, s.udp(six(frametest.Addr("10.0.1.10")+frame.Addr(i)), 53, "scan"))
			}
		}
		solicitations := 0
		for _, r := range s.records[before:] {
			var f frame.Frame
			f.Reset(r.raw, r.port)
			if frame.Parse(&f); r.out && r.port == c.Port && f.IsND() {
				solicitations++
			}
		}
		if solicitations > 64 || scanner == "a" && s.DP.Drops()["neighbor_queue_full"] == 0 {
			t.Errorf("%s scans 200 addresses: %d solicitations, drops %v", scanner, solicitations, s.DP.Drops())
		}
		if out := ofPort(s.send(s.b, s.udp(addrOf(c), 53, "not a scan")), c); len(out) != 1 {
			t.Errorf("b reaches a neighbor beside the scan of %s: %s", scanner, described(out))
		}
	}
}

// The port of the host gets no advertisement: the host would route by the switch.
func TestRFC4861_6_2_1_NotForTheHost(t *testing.T) {
	s := newSix(t)
	p, _ := s.DP.Switch.Port(s.b.Port)
	p.Flags |= vswitch.NoRouter
	s.DP.Switch.SetPort(p)
	before := len(s.records)
	s.advertises(func(*router.Interface) {})
	s.wait(60)
	if at, _ := s.advertisements(before, s.a); len(at) == 0 {
		t.Error("a heard no advertisement")
	}
	if at, _ := s.advertisements(before, s.b); len(at) != 0 {
		t.Errorf("the port of the host got %d advertisements", len(at))
	}
}

// A network that does not advertise is silent, also when it is asked.
func TestRFC4861_6_2_2_Silent(t *testing.T) {
	s := newSix(t)
	before := len(s.records)
	s.wait(700)
	s.put(s.a, frametest.Packet{SrcMAC: s.a.MAC, DstMAC: frame.AllRouters.GroupMAC(), Dst6: frame.AllRouters, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6RouterSolicitation}.Raw())
	if at, _ := s.advertisements(before, s.a); len(at) != 0 {
		t.Errorf("%d advertisements", len(at))
	}
}

// Whatever happens to the way out, stations get at most one advertisement to all in three seconds.
func TestRFC4861_6_2_4_AtMostOneInThreeSeconds(t *testing.T) {
	s := newSix(t)
	s.advertises(func(*router.Interface) {})
	s.wait(60)
	before := len(s.records)
	for k := range 12 {
		i, _ := s.DP.Router.Interface(frame.NoNet)
		i.Up6 = k%2 == 1
		s.DP.Router.SetInterface(i)
		s.wait(1)
	}
	if at, _ := s.advertisements(before, s.a); len(at) < 2 || len(at) > 5 {
		t.Errorf("%d advertisements in 12 s", len(at))
	}
}

// The last advertisement takes back the routes, too.
func TestRFC4191_2_3_CeasingToAdvertise(t *testing.T) {
	s := newSix(t)
	s.advertises(func(i *router.Interface) { i.Behind = append(i.Behind, sixPrefix(i.Prefix)) })
	s.wait(60)
	before := len(s.records)
	i, _ := s.DP.Router.Interface(1)
	i.Advertise = false
	s.DP.Router.SetInterface(i)
	s.wait(2)
	_, bodies := s.advertisements(before, s.a)
	if len(bodies) != 1 || binary.BigEndian.Uint16(bodies[0][raLifetime:]) != 0 || !bytes.Contains(bodies[0], []byte{24, 3, 120, 0, 0, 0, 0, 0}) {
		t.Errorf("it says % x", bodies)
	}
}

// When a station comes, or its MAC changes, others hear of it, and replace what they knew.
func TestRFC4861_7_2_6_Unsolicited(t *testing.T) {
	s := newSix(t)
	s.a.silent = true
	before := len(s.records)
	out := s.after(before, func() {
		s.DP.WithSlowPath(func(out router.Output) { s.DP.Router.Announce6(1, addrOf(s.a), s.a.MAC, out) })
		s.Settle()
	})
	f := s.passes("the announcement", ofPort(out, s.b), s.b)
	if l4 := f.Payload(); f.IPv6().Dst() != frame.AllNodes || f.IPv6().HopLimit() != 255 || l4[0] != frame.ICMPv6NeighborAdvertisement || l4[4] != 0x20 || frame.LoadAddr6(l4[8:]) != addrOf(s.a) {
		t.Errorf("it is %s, % x", describe(f.Raw()), l4)
	}
}

// The gateway makes no probe of its own for its addresses: it knows all that are bound.
func TestRFC4862_5_4_NoOwnProbes(t *testing.T) {
	s := newSix(t)
	before := len(s.records)
	s.more("network 2 10.0.1.1/24\nhost c 10.0.1.2 port 3 net 2")
	s.wait(5)
	for _, r := range s.records[before:] {
		var f frame.Frame
		f.Reset(r.raw, r.port)
		if frame.Parse(&f); r.out && f.IsND() && f.IPv6().Src().IsZero() {
			t.Errorf("a probe: %s", describe(r.raw))
		}
	}
}

// An advertisement of a neighbor that the gateway does not know makes an entry: the first answer from outside then waits for nobody.
//
// Deviates: it makes none, as Linux does by default (accept_untracked_na is 0): addresses that ports have are known without it.
func TestRFC9131_6_UnknownNeighbor(t *testing.T) {
	s := newSix(t)
	s.send(s.b, s.advertisement(s.b, addrOf(s.b), s.b.MAC, false, true))
	if n := s.neighbor(s.b); n.MAC != 0 {
		t.Errorf("after an advertisement, b is %s %s", n.State, n.MAC)
	}
}

// Reports of multicast listeners (MLD) reach the stations of the network as they are, and no other network.
func TestRFC3810_5_ListenersStayOnTheLink(t *testing.T) {
	s := newSix(t)
	s.more(secondNet)
	group := frametest.Addr6("ff02::16")
	p := frametest.Packet{SrcMAC: s.a.MAC, DstMAC: group.GroupMAC(), Src6: s.a.MAC.LinkLocal(), Dst6: group, TTL: 1, Proto: frame.ICMPv6, Type: frame.ICMPv6ListenerReport2,
		Next: hopByHop, Ext: []byte{frame.ICMPv6, 0, 5, 2, 0, 0, 1, 0}, Payload: make([]byte, 20)}
	f := s.passes("a report", s.send(s.a, p), s.b)
	if f.IPv6().HopLimit() != 1 || f.IPv6()[6] != hopByHop {
		t.Errorf("it arrived as %s", describe(f.Raw()))
	}
}
