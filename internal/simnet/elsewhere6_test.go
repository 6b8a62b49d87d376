package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// What other projects' tests of IPv6 routers ask, restated. Their code is not used; the comment of each says what the original is about. What
// they ask of connection tracking is in testdata/linux, testdata/openvswitch and testdata/vpp, and is played over IPv6, too. The cases of "IPv6
// Ready" for routers that are not here are tested by the number of the RFC: 1.1.3 to 1.1.10 and 1.2 by RFC 8200, 4.1, 4.2 and 4.4; 1.3 by 4.5;
// 2.1 by RFC 4861, 7; 2.2.4, 2.2.5 and 2.2.10 (solicitations, advertisements and redirects of routers) by RFC 4861, 6.2 and 8.2; 4.1 by RFC 8201;
// 5.1 (errors) by RFC 4443, 2.4 and 3.

// tools/testing/selftests/net/forwarding/router.sh: packets with a source that no packet may have, and packets to their own source, are not
// forwarded.
func TestLinux_router(t *testing.T) {
	s := newSixOf(t, bed)
	for _, x := range []struct {
		what     string
		src, dst frame.Addr6
		why      frame.Reason
	}{
		{"ipv6_mc_sip", frametest.Addr6("ff0e::1"), addrOf(s.o), frame.MartianSource},
		{"ipv6_loopback_sip", frametest.Addr6("::1"), addrOf(s.o), frame.MartianSource},
		{"ipv6_sip_equal_dip", addrOf(s.a), addrOf(s.a), frame.MartianSource},
		{"ipv6_mc_dip", addrOf(s.a), frametest.Addr6("ff0e::1"), frame.MartianDestination},
		{"ipv6_loopback_dip", addrOf(s.a), frametest.Addr6("::1"), frame.MartianDestination},
	} {
		s.drops(x.what, s.send(s.a, frametest.Packet{DstMAC: s.gwMAC, Src6: x.src, Dst6: x.dst, SrcPort: 1, DstPort: 2}), x.why)
	}
	s.passes("ping", s.send(s.a, s.ping(s.a, addrOf(s.o))), s.o)
}

// tools/testing/selftests/net/ndisc_unsolicited_na_test.sh: an advertisement of a neighbor that is not known makes no entry, whatever its flags
// and options are.
func TestLinux_ndisc_unsolicited_na(t *testing.T) {
	s := newSix(t)
	for _, solicited := range []bool{false, true} {
		for _, override := range []bool{false, true} {
			for _, mac := range []frame.MAC{0, s.b.MAC} {
				p := s.advertisement(s.b, addrOf(s.b), mac, solicited, override)
				s.drops("an advertisement", s.send(s.b, p), frame.None)
				p.Dst6, p.DstMAC = frame.AllNodes, frame.AllNodes.GroupMAC()
				s.send(s.b, p)
				if n := s.neighbor(s.b); n.Addr.IsValid() {
					t.Errorf("solicited %v, override %v, MAC %s: an entry %+v", solicited, override, mac, n)
				}
			}
		}
	}
}

// tools/testing/selftests/net/pmtu.sh: what a router says of the path to one destination changes nothing for another one, nor for another
// station, is not raised by a later error, and is forgotten.
func TestLinux_pmtu(t *testing.T) {
	s := newSixOf(t, bed+"outside far 203.0.113.9\n")
	far := s.host("far")
	from := s.a
	mss := func(to *Host, port uint16) uint16 {
		f := s.passes("SYN", s.send(from, frametest.Packet{Dst6: addrOf(to), Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: port, DstPort: 80, MSS: 1460}), to)
		h := f.Payload()
		return binary.BigEndian.Uint16(h[bytes.Index(h, []byte{2, 4})+2:])
	}
	before := mss(s.o, 1000)
	told := func(mtu uint32) {
		q := s.passes("data", s.send(s.a, s.udp(addrOf(s.o), 53, string(make([]byte, 1300)))), s.o)
		e := frametest.Packet{Src6: addrOf(s.o), Dst6: q.IPv6().Src(), Proto: frame.ICMPv6, Type: frame.ICMPv6TooBig, ID: uint16(mtu >> 16), Seq: uint16(mtu), Payload: q.IPv6()[:400]}
		s.answers(fmt.Sprint("too big, ", mtu), s.send(s.o, e), s.a, frame.ICMPv6TooBig, 0)
	}
	told(1400)
	if got := mss(s.o, 1001); got != 1400-60 {
		t.Errorf("MSS %d after an MTU of 1400; before %d", got, before)
	}
	if got := mss(far, 1002); got != before {
		t.Errorf("MSS %d to another destination; want %d", got, before)
	}
	from = s.b
	if got := mss(s.o, 1005); got != before {
		t.Errorf("MSS %d of another station, which no error was sent to; want %d", got, before)
	}
	from = s.a
	told(1500)
	if got := mss(s.o, 1003); got != 1400-60 {
		t.Errorf("MSS %d after an error that would raise the MTU", got)
	}
	s.Advance(frame.Seconds(660))
	if got := mss(s.o, 1004); got != before {
		t.Errorf("MSS %d when the MTU has been forgotten; want %d", got, before)
	}
}

// VPP test_reassembly, "random order", "duplicates": fragments of many packets at once, in any order and some twice, leave with the ports of
// their packet.
func TestVPP_reassembly(t *testing.T) {
	s := newSix(t)
	rnd := rand.New(rand.NewPCG(6, 6))
	var all [][]byte
	for i := range 40 {
		p := s.udp(addrOf(s.o), uint16(5000+i), string(make([]byte, 2000)))
		p.SrcMAC, p.DstMAC, p.Src6 = s.a.MAC, s.gwMAC, addrOf(s.a)
		f := &frame.Frame{}
		f.Reset(p.Raw(), frame.NoPort)
		frame.Parse(f)
		pieces := frame.CutPieces6(f, 700, uint32(i))
		all = append(append(all, pieces...), pieces[rnd.IntN(len(pieces))])
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	left := map[uint32]int{}
	for _, f := range s.after(len(s.records), func() {
		for _, raw := range all {
			s.Poller.Put(s.a.Port, raw)
		}
		s.Settle()
	}) {
		if f.In != s.o.Port || f.IPv6().Src() != six(frametest.Addr("198.51.100.1")) {
			t.Fatalf("a fragment left as %s", describe(f.Raw()))
		}
		if f.FragOffset() == 0 && f.Tuple.DstPort != uint16(5000+f.FragID()) {
			t.Errorf("packet %d left to port %d", f.FragID(), f.Tuple.DstPort)
		}
		left[f.FragID()] += f.FragLen()
	}
	for i := range uint32(40) {
		if left[i] != frame.UDPLen+2000 {
			t.Errorf("packet %d: %d bytes of %d left", i, left[i], frame.UDPLen+2000)
		}
	}
}

// VPP test_ip6, "ns": the source of a solicitation makes no entry if it is an address of another link; a solicitation for an address that is not
// the router's is not answered.
func TestVPP_ip6_ns(t *testing.T) {
	s := newSixOf(t, bed)
	p := s.solicitation(s.a, s.gateway)
	p.Src6 = frametest.Addr6("2001:db8:77::2")
	s.send(s.a, p)
	for _, n := range s.DP.Router.Neighbors() {
		if n.Addr == p.Src6.Netip() {
			t.Errorf("an address of another link became a neighbor: %+v", n)
		}
	}
	for _, f := range s.send(s.a, s.solicitation(s.a, addrOf(s.b))) {
		if f.In == s.a.Port && f.Src == s.gwMAC {
			t.Errorf("a solicitation for another station was answered: %s", describe(f.Raw()))
		}
	}
}

// VPP's test_npt66.py: pings through the translation of prefixes, from inside and from outside, and an error about one, whose quote is
// translated, too; for prefixes of 48 and of 64 bits alike.
func TestVPP_npt66(t *testing.T) {
	s := newSix(t)
	of := s.npt(true)
	f := s.passes("a ping out", s.send(s.a, s.ping(s.a, addrOf(s.o))), s.o)
	if f.IPv6().Src() != of(s.a) || !f.HasRightICMPSum() {
		t.Errorf("the ping left as %s", describe(f.Raw()))
	}
	sent := bytes.Clone(f.IPv6()[:f.L3End-uint32(f.L3)])
	pong := s.ping(s.o, of(s.a))
	pong.Type = frame.ICMPv6EchoReply
	if f = s.passes("its answer", s.send(s.o, pong), s.a); f.IPv6().Dst() != addrOf(s.a) || !f.HasRightICMPSum() {
		t.Errorf("the answer came in as %s", describe(f.Raw()))
	}
	f = s.passes("an error about it", s.send(s.o, frametest.Packet{Dst6: of(s.a), Proto: frame.ICMPv6, Type: 1, Payload: sent}), s.a)
	if q := frame.IPv6(f.ICMP()[frame.ICMPLen:]); q.Src() != addrOf(s.a) || q.Dst() != addrOf(s.o) || !f.HasRightICMPSum() {
		t.Errorf("the error quotes %s > %s", q.Src(), q.Dst())
	}
	if f = s.passes("a ping in", s.send(s.o, s.ping(s.o, of(s.b))), s.b); f.IPv6().Dst() != addrOf(s.b) {
		t.Errorf("the ping came in as %s", describe(f.Raw()))
	}
}

// tools/testing/selftests/net/fcnal-ipv6.sh, the cases that a router has: pings to each of its addresses from the link and from another link,
// closed ports, addresses of nobody, and routes that refuse.
func TestLinux_fcnal_ipv6(t *testing.T) {
	s := newSix(t)
	s.more(secondNet)
	c := s.host("c")
	other, _ := s.DP.Router.Interface(2)
	for _, to := range []frame.Addr6{s.gateway, frame.FirstLocal, other.Addr6} {
		p := s.ping(s.a, to)
		p.DstMAC = s.gwMAC
		s.answers("a ping to "+to.String(), s.put(s.a, p.Raw()), s.a, frame.ICMPv6EchoReply, 0)
		if to.IsLinkLocal() {
			continue
		}
		s.answers("a datagram to a closed port", s.send(s.a, s.udp(to, 12345, "x")), s.a, 1, 4)
		s.answers("a connection to a closed port", s.send(s.a, frametest.Packet{Dst6: to, Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 7, DstPort: 12345}), s.a, 1, 4)
	}
	far := s.ping(s.a, other.MAC.LinkLocal())
	far.DstMAC = s.gwMAC
	if out := s.put(s.a, far.Raw()); len(out) > 0 && out[0].ICMP().Type() == frame.ICMPv6EchoReply {
		t.Errorf("a link-local address of another link answers: %s", described(out))
	}
	s.looksFor(c)
	s.send(c, s.of2(s.advertisement(c, addrOf(c), c.MAC, true, true)))
	s.passes("to another link", s.send(s.a, s.ping(s.a, addrOf(c))), c)
}
