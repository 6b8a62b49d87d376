package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
)

// Requirements of IPv6 whose packets have no counterpart in IPv4. Those that have one are tested by the scenarios and the tests in rfc_test.go,
// which are all played over IPv6, too.

// A sixBed is a bed over IPv6, whose packets are sent and received as they are.
type sixBed struct {
	t *testing.T
	*Net
	a, b, o *Host
	gateway frame.Addr6
	gwMAC   frame.MAC
	dropped map[string]uint64 // before the last frame
}

// guardedBed is bed with guards.
const guardedBed = "network 1 10.0.0.1/24\nuplink 198.51.100.1\nhost a 10.0.0.2 port 1 guard\nhost b 10.0.0.3 port 2 guard\noutside o 203.0.113.8\n"

func newSix(t *testing.T) *sixBed { return newSixOf(t, bed) }

func newSixOf(t *testing.T, script string) *sixBed {
	t.Helper()
	n, err := RunOverIPv6(script)
	if err != nil {
		t.Fatal(err)
	}
	n.native = true
	i, _ := n.DP.Router.Interface(1)
	return &sixBed{t: t, Net: n, a: n.host("a"), b: n.host("b"), o: n.host("o"), gateway: i.Addr6, gwMAC: i.MAC}
}

func addrOf(h *Host) frame.Addr6 { return six(h.Addr) }

// send sends a packet of h, and returns what the switch sends then, but for its own solicitations. Without addresses, the packet goes from h to
// the gateway's MAC.
func (s *sixBed) send(h *Host, p frametest.Packet) []*frame.Frame {
	s.t.Helper()
	if p.SrcMAC == 0 {
		p.SrcMAC = h.MAC
	}
	if p.DstMAC == 0 {
		if p.DstMAC = s.gwMAC; h.outside {
			p.DstMAC = uplinkMAC
		}
	}
	if p.Src6.IsZero() {
		p.Src6 = addrOf(h)
	}
	return s.put(h, p.Raw())
}

func (s *sixBed) put(h *Host, raw []byte) []*frame.Frame {
	s.t.Helper()
	before := len(s.records)
	s.dropped = s.DP.Drops()
	s.log(h.Port, false, raw)
	s.Poller.Put(h.Port, raw)
	return s.after(before, s.Settle)
}

// after returns what the switch has sent since record number before, once do is done.
func (s *sixBed) after(before int, do func()) (out []*frame.Frame) {
	s.t.Helper()
	do()
	if s.failure != nil {
		s.t.Fatal(s.failure)
	}
	for _, r := range s.records[before:] {
		f := &frame.Frame{}
		f.Reset(r.raw, r.port)
		frame.Parse(f)
		if r.out && !(f.IsND() && f.ICMP().Type() == frame.ICMPv6NeighborSolicitation) {
			out = append(out, f)
		}
	}
	return out
}

// passes checks that exactly one frame came out, by h's port, and returns it.
func (s *sixBed) passes(what string, out []*frame.Frame, h *Host) *frame.Frame {
	s.t.Helper()
	if len(out) != 1 || out[0].In != h.Port {
		s.t.Fatalf("%s: it did not reach %s, or not alone: %s", what, h.Name, described(out))
	}
	return out[0]
}

// answers checks that the only frame that came out is an ICMPv6 error to h, and returns it.
func (s *sixBed) answers(what string, out []*frame.Frame, h *Host, typ, code uint8) *frame.Frame {
	s.t.Helper()
	f := s.passes(what, out, h)
	if f.Proto != frame.ICMPv6 || f.ICMP().Type() != typ || f.ICMP().Code() != code {
		s.t.Fatalf("%s: %s, and not type %d code %d", what, described(out), typ, code)
	}
	return f
}

// drops checks that nothing came out of the last frame, and why.
func (s *sixBed) drops(what string, out []*frame.Frame, why frame.Reason) {
	s.t.Helper()
	name := why.Info().Name
	if len(out) > 0 || why != frame.None && s.DP.Drops()[name] == s.dropped[name] {
		s.t.Errorf("%s: came out: %s; want a drop for %s, have %v after %v", what, described(out), name, s.DP.Drops(), s.dropped)
	}
}

func described(out []*frame.Frame) (list []string) {
	for _, f := range out {
		list = append(list, fmt.Sprintf("port %d: %s", f.In, describe(f.Raw())))
	}
	return list
}

// optionsHeader makes an extension header of options, such as hop-by-hop.
func optionsHeader(next uint8, options ...byte) []byte {
	b := append([]byte{next, 0}, options...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b)/8 - 1)
	return b
}

func fragmentHeader(next uint8, offset int, more bool, id uint32) []byte {
	b := []byte{next, 0, byte(offset >> 8), byte(offset), 0, 0, 0, 0}
	if more {
		b[3] |= 1
	}
	binary.BigEndian.PutUint32(b[4:], id)
	return b
}

const (
	hopByHop, routing, fragmented, noNext, destOptions = 0, 43, 44, 59, 60
)

// solicitation is a neighbor solicitation from h.
func (s *sixBed) solicitation(h *Host, target frame.Addr6) frametest.Packet {
	body := make([]byte, 16, 24)
	target.Put(body)
	to := target.SolicitedNode()
	return frametest.Packet{SrcMAC: h.MAC, DstMAC: to.GroupMAC(), Src6: addrOf(h), Dst6: to, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6NeighborSolicitation, Payload: append(append(body, 1, 1), h.MAC.HardwareAddr()...)}
}

func (s *sixBed) advertisement(h *Host, target frame.Addr6, mac frame.MAC, solicited, override bool) frametest.Packet {
	body := make([]byte, 16, 24)
	target.Put(body)
	if mac != 0 {
		body = append(append(body, 2, 1), mac.HardwareAddr()...)
	}
	p := frametest.Packet{SrcMAC: h.MAC, DstMAC: s.gwMAC, Src6: addrOf(h), Dst6: s.gateway, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6NeighborAdvertisement, Payload: body}
	if solicited {
		p.ID |= 0x4000
	}
	if override {
		p.ID |= 0x2000
	}
	return p
}

func (s *sixBed) ping(h *Host, to frame.Addr6) frametest.Packet {
	return frametest.Packet{SrcMAC: h.MAC, Src6: addrOf(h), Dst6: to, Proto: frame.ICMPv6, Type: frame.ICMPv6Echo, ID: 7, Payload: []byte("ping")}
}

func (s *sixBed) udp(to frame.Addr6, port uint16, payload string) frametest.Packet {
	return frametest.Packet{Dst6: to, SrcPort: 20050, DstPort: port, Payload: []byte(payload)}
}

func (s *sixBed) neighbor(h *Host) (found router.Neighbor) {
	for _, n := range s.DP.Router.Neighbors() {
		if n.Addr == addrOf(h).Netip() {
			found = n
		}
	}
	return found
}

// A packet is dropped when its hop limit becomes 0, and answered (RFC 4443, 3.3). The gateway itself takes a packet with any hop limit.
func TestRFC8200_3_HopLimit(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "x")
	p.TTL = 1
	s.answers("hop limit 1", s.send(s.a, p), s.a, 3, 0)
	q := s.ping(s.a, s.gateway)
	q.TTL = 1
	s.answers("a ping to the gateway", s.send(s.a, q), s.a, frame.ICMPv6EchoReply, 0)
	raw := frametest.Packet{SrcMAC: s.a.MAC, DstMAC: s.gwMAC, Src6: addrOf(s.a), Dst6: addrOf(s.o), SrcPort: 1, DstPort: 2}.Raw()
	raw[frame.VnetLen+frame.EthernetLen+7] = 0
	s.answers("hop limit 0", s.put(s.a, raw), s.a, 3, 0)
	p.TTL = 2
	if f := s.passes("hop limit 2", s.send(s.a, p), s.o); f.IPv6().HopLimit() != 1 {
		t.Errorf("it left with hop limit %d", f.IPv6().HopLimit())
	}
}

// What follows the payload length is no part of the packet. A packet that is shorter than its payload length is dropped.
func TestRFC8200_3_PayloadLength(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "x")
	p.SrcMAC, p.DstMAC, p.Src6 = s.a.MAC, s.gwMAC, addrOf(s.a)
	raw := append(p.Raw(), "padding"...)
	f := s.passes("padding", s.put(s.a, raw), s.o)
	if got := f.Payload()[frame.UDPLen:]; string(got) != "x" {
		t.Errorf("it carries %q", got)
	}
	raw = p.Raw()
	binary.BigEndian.PutUint16(raw[frame.VnetLen+frame.EthernetLen+4:], 200)
	s.drops("too long a payload length", s.put(s.a, raw), frame.MalformedPacket)
}

// No next header: the packet passes as what it is, and what follows is not read.
func TestRFC8200_4_7_NoNextHeader(t *testing.T) {
	s := newSix(t)
	p := frametest.Packet{DstMAC: s.b.MAC, Dst6: addrOf(s.b), Proto: noNext, Payload: []byte("ignored")}
	s.passes("across the switch", s.send(s.a, p), s.b)
	p.DstMAC, p.Dst6 = 0, addrOf(s.o)
	s.passes("out", s.send(s.a, p), s.o)
	p.Dst6 = s.gateway
	s.drops("to the gateway", s.send(s.a, p), frame.GatewayService)
}

// Extension headers stand in any order, but hop-by-hop options, which stand first. The transport header behind them is translated.
func TestRFC8200_4_1_AnyOrder(t *testing.T) {
	s := newSix(t)
	for i, x := range []struct {
		next uint8
		ext  []byte
	}{
		{destOptions, optionsHeader(frame.UDP, 1, 4, 0, 0, 0, 0)},
		{hopByHop, optionsHeader(frame.UDP, 1, 4, 0, 0, 0, 0)},
		{hopByHop, slices.Concat(optionsHeader(destOptions, 1, 4, 0, 0, 0, 0), optionsHeader(frame.UDP, 1, 4, 0, 0, 0, 0))},
		{destOptions, slices.Concat(optionsHeader(routing, 1, 4, 0, 0, 0, 0), []byte{destOptions, 0, 4, 0, 0, 0, 0, 0}, optionsHeader(frame.UDP, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))},
	} {
		p := s.udp(addrOf(s.o), uint16(100+i), "behind headers")
		p.Next, p.Ext = x.next, x.ext
		f := s.passes(fmt.Sprint("chain ", i), s.send(s.a, p), s.o)
		if f.Proto != frame.UDP || f.Tuple.SrcPort != 20050 || f.IPv6().Src() != six(frametest.Addr("198.51.100.1")) {
			t.Errorf("chain %d left as %s", i, describe(f.Raw()))
		}
		if want := x.ext; !bytes.Equal(f.IPv6()[frame.IPv6Len:frame.IPv6Len+len(want)], want) {
			t.Errorf("chain %d left with other headers", i)
		}
	}
	p := s.udp(addrOf(s.o), 53, "x")
	p.Next, p.Ext = destOptions, slices.Concat(optionsHeader(hopByHop, 1, 4, 0, 0, 0, 0), optionsHeader(frame.UDP, 1, 4, 0, 0, 0, 0))
	s.drops("hop-by-hop options that are not first", s.send(s.a, p), frame.ExtHeaders)
}

// Hop-by-hop options in transit are carried and not read, whatever they ask for (and RFC 9673).
func TestRFC8200_4_3_HopByHopIsCarried(t *testing.T) {
	s := newSix(t)
	for _, option := range []byte{0x1e, 0x5e, 0x9e, 0xde} {
		p := s.udp(addrOf(s.o), 53, "x")
		p.Next, p.Ext = hopByHop, optionsHeader(frame.UDP, option, 4, 0, 0, 0, 0)
		s.passes(fmt.Sprintf("option %x", option), s.send(s.a, p), s.o)
	}
}

// Fragments whose length is not a multiple of 8, or that end beyond 65,535 bytes, are dropped; so is a fragment that overlaps. The rest of a
// packet is sent only with its first fragment's translation.
func TestRFC8200_4_5_Fragments(t *testing.T) {
	s := newSix(t)
	first := func(id uint32, n int) frametest.Packet {
		p := s.udp(addrOf(s.o), 53, string(make([]byte, n-frame.UDPLen)))
		p.Next, p.Ext = fragmented, fragmentHeader(frame.UDP, 0, true, id)
		return p
	}
	later := func(id uint32, offset, n int, more bool) frametest.Packet {
		return frametest.Packet{Dst6: addrOf(s.o), Proto: frame.UDP, Next: fragmented, Ext: fragmentHeader(frame.UDP, offset, more, id), NoChecksum: true, SrcPort: 1, DstPort: 2, Payload: make([]byte, n-frame.UDPLen)}
	}
	f := s.passes("a first fragment", s.send(s.a, first(1, 64)), s.o)
	if f.IPv6().Src() != six(frametest.Addr("198.51.100.1")) {
		t.Errorf("the first fragment left as %s", describe(f.Raw()))
	}
	f = s.passes("a later fragment", s.send(s.a, later(1, 64, 64, false)), s.o)
	if f.IPv6().Src() != six(frametest.Addr("198.51.100.1")) || f.FragOffset() != 64 {
		t.Errorf("the later fragment left as %s", describe(f.Raw()))
	}
	s.passes("another first fragment", s.send(s.a, first(2, 64)), s.o)
	s.drops("a length that is no multiple of 8", s.send(s.a, later(2, 64, 61, true)), frame.FragmentInvalid)
	s.passes("a third first fragment", s.send(s.a, first(3, 64)), s.o)
	s.drops("an end beyond 65535", s.send(s.a, later(3, 65528, 64, false)), frame.FragmentInvalid)
}

// Two first fragments of one packet, of different protocols or ports: the second one is dropped, and is not read as one of the first one's kind.
func TestTwoFirstFragments(t *testing.T) {
	s := newSix(t)
	first := func(proto uint8, id uint32) frametest.Packet {
		p := s.udp(addrOf(s.o), 53, "")
		p.Proto, p.Next, p.Ext = proto, fragmented, fragmentHeader(proto, 0, true, id)
		if proto == frame.TCP {
			p.Flags, p.Payload = frame.FlagRST, make([]byte, 4)
		}
		return p
	}
	s.send(s.a, first(frame.TCP, 1))
	s.drops("UDP after TCP", s.send(s.a, first(frame.UDP, 1)), frame.FragmentInvalid)
	s.send(s.a, first(frame.UDP, 2))
	s.drops("TCP after UDP", s.send(s.a, first(frame.TCP, 2)), frame.FragmentInvalid)
}

// Fragments that overlap are dropped, with all that follows of their packet; one that comes twice is dropped alone.
func TestRFC5722_4_Overlap(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, string(make([]byte, 64-frame.UDPLen)))
	p.Next, p.Ext = fragmented, fragmentHeader(frame.UDP, 0, true, 9)
	s.passes("the first fragment", s.send(s.a, p), s.o)
	q := frametest.Packet{Dst6: addrOf(s.o), Proto: frame.UDP, Next: fragmented, Ext: fragmentHeader(frame.UDP, 32, true, 9), NoChecksum: true, Payload: make([]byte, 56)}
	s.drops("an overlap", s.send(s.a, q), frame.FragmentInvalid)
	q.Ext = fragmentHeader(frame.UDP, 96, false, 9)
	s.drops("what follows", s.send(s.a, q), frame.FragmentInvalid)

	p.Ext = fragmentHeader(frame.UDP, 0, true, 10)
	s.passes("the first fragment of another packet", s.send(s.a, p), s.o)
	s.drops("the same again", s.send(s.a, p), frame.FragmentInvalid)
	q.Ext = fragmentHeader(frame.UDP, 64, false, 10)
	s.passes("what follows a repetition", s.send(s.a, q), s.o)
}

// No way is too narrow for 1,280 bytes: such packets pass, and no error names less. Where a device carries less, IPv6 does not lead out.
func TestRFC8200_5_LeastMTU(t *testing.T) {
	s := newSix(t)
	uplink := func(mtu int) { // of IPv4, which is 20 bytes less
		t.Helper()
		if err := s.SetUplink(frametest.Addr("198.51.100.1"), mtu-20); err != nil {
			t.Fatal(err)
		}
	}
	of := func(bytes int) frametest.Packet {
		return s.udp(addrOf(s.o), 53, string(make([]byte, bytes-frame.IPv6Len-frame.UDPLen)))
	}
	uplink(frame.MinMTU6)
	s.passes("1,280 bytes", s.send(s.a, of(frame.MinMTU6)), s.o)
	if f := s.answers("1,281 bytes", s.send(s.a, of(frame.MinMTU6+1)), s.a, 2, 0); f.ICMP().MTU6() != frame.MinMTU6 {
		t.Errorf("the error names %d", f.ICMP().MTU6())
	}
}

// Packets to a group of scope 0, or of a scope that is larger than a link, are not routed, and nothing comes from a group.
func TestRFC4291_2_7_Groups(t *testing.T) {
	s := newSix(t)
	for _, group := range []string{"ff00::1", "ff01::1", "ff02::1234", "ff05::1", "ff0e::1", "ff0f::1"} {
		p := s.udp(frametest.Addr6(group), 53, "x")
		p.DstMAC = s.gwMAC
		s.drops("to "+group, s.send(s.a, p), frame.MartianDestination)
		p = s.udp(addrOf(s.o), 53, "x")
		p.Src6 = frametest.Addr6(group)
		s.drops("from "+group, s.send(s.a, p), frame.MartianSource)
	}
}

// Super-frames of TCP and UDP whose segments are too long for the other network are answered with its MTU; shorter ones pass.
func TestRFC8201_5_SuperFrames(t *testing.T) {
	s := newSix(t)
	s.more("network 2 10.0.1.1/24 mtu 1260\nhost c 10.0.1.2 port 3 net 2") // of IPv6, 1280
	c := s.host("c")
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		super := frametest.Packet{Dst6: addrOf(c), Proto: proto, SrcPort: 1, DstPort: 2, Flags: frame.FlagACK, GSO: 1400, Payload: make([]byte, 14000)}
		f := s.answers("segments of 1,400 bytes", ofPort(s.send(s.a, super), s.a), s.a, 2, 0)
		if f.ICMP().MTU6() != 1280 {
			t.Errorf("the error names %d", f.ICMP().MTU6())
		}
		super.GSO = 1200
		s.passes("segments of 1,200 bytes", ofPort(s.send(s.a, super), c), c)
	}
}

// An atomic fragment is a whole packet, whatever else has its identification.
func TestRFC6946_4_AtomicFragments(t *testing.T) {
	s := newSix(t)
	for range 2 {
		p := s.udp(addrOf(s.o), 53, "whole")
		p.Next, p.Ext = fragmented, fragmentHeader(frame.UDP, 0, false, 5)
		f := s.passes("an atomic fragment", s.send(s.a, p), s.o)
		if f.IPv6()[6] != fragmented || string(f.Payload()[frame.UDPLen:]) != "whole" {
			t.Errorf("it left as %s", describe(f.Raw()))
		}
	}
}

// A first fragment has the whole chain of headers.
//
// Deviates: it does not pass the guard of any port, so that the gateway does not answer it with a "parameter problem", code 3.
func TestRFC7112_5_FirstFragment(t *testing.T) {
	s := newSix(t)
	p := frametest.Packet{Dst6: addrOf(s.o), Proto: 255, Next: fragmented, Ext: append(fragmentHeader(destOptions, 0, true, 6), frame.UDP, 3, 1, 4, 0, 0, 0, 0)}
	s.drops("without its transport header", s.send(s.a, p), frame.ExtHeaders)
	for _, transport := range []uint8{frame.TCP, frame.UDP, frame.SCTP, frame.ICMPv6} {
		s := newSixOf(t, guardedBed)
		p := frametest.Packet{Dst6: addrOf(s.b), DstMAC: s.b.MAC, Proto: 255, Next: fragmented, Ext: append(fragmentHeader(destOptions, 0, true, 6), transport, 0, 1, 4, 0, 0, 0, 0)}
		why := frame.MalformedPacket
		if transport == frame.ICMPv6 {
			why = frame.GuardNeighbor
		}
		s.drops("to another container, with the end of its headers", s.send(s.a, p), why)
	}
}

// A routing header of type 0 is not obeyed.
func TestRFC5095_3_RoutingHeader0(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "x")
	p.Next, p.Ext = routing, slices.Concat([]byte{frame.UDP, 2, 0, 1, 0, 0, 0, 0}, addrOf(s.b).Netip().AsSlice())
	s.drops("type 0", s.send(s.a, p), frame.SourceRoute)
}

// UDP without a checksum, as tunnels send it (RFC 6935), is translated, and has none afterwards either.
func TestRFC8200_8_1_UDPChecksum(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "x")
	p.NoChecksum, s.lenient = true, true // the judge of frames asks for a checksum
	if f := s.passes("checksum 0", s.send(s.a, p), s.o); f.UDP().Checksum() != 0 {
		t.Errorf("the checksum is %#x", f.UDP().Checksum())
	}
}

// The flow label and the traffic class stay as they are (RFC 6437, 2; RFC 3168, 5).
func TestRFC6437_2_FlowLabel(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "x")
	p.SrcMAC, p.DstMAC, p.Src6 = s.a.MAC, s.gwMAC, addrOf(s.a)
	raw := p.Raw()
	copy(raw[frame.VnetLen+frame.EthernetLen:], []byte{0x6a, 0xb1, 0x23, 0x45})
	f := s.passes("with a label", s.put(s.a, raw), s.o)
	if got := f.IPv6()[:4]; !bytes.Equal(got, []byte{0x6a, 0xb1, 0x23, 0x45}) {
		t.Errorf("it left with % x", got)
	}
}

// Unspecified, loopback, IPv4-mapped and IPv4-compatible addresses, and groups, are never routed, as source or as destination.
func TestRFC4291_2_5_NeverRouted(t *testing.T) {
	for _, a := range []frame.Addr6{{Lo: 1}, {Lo: 0xffff_0102_0304}, {Lo: 0x0102_0304}, frametest.Addr6("ff0e::1"), frametest.Addr6("ff02::77")} {
		s := newSix(t)
		p := s.udp(addrOf(s.o), 53, "x")
		p.Src6 = a
		s.drops("from "+a.String(), s.send(s.a, p), frame.None)
		s.drops("to "+a.String(), s.send(s.a, s.udp(a, 53, "x")), frame.None)
	}
	s := newSix(t)
	raw := frametest.Packet{SrcMAC: s.a.MAC, DstMAC: s.gwMAC, Dst6: addrOf(s.o), SrcPort: 1, DstPort: 2}.Raw()
	s.drops("from ::", s.put(s.a, raw), frame.None)
}

// A packet with a link-local source does not leave its link; its sender hears of it (RFC 4443, 3.1, code 2).
func TestRFC4291_2_5_6_LinkLocal(t *testing.T) {
	s := newSix(t)
	p := s.udp(addrOf(s.o), 53, "x")
	p.Src6 = s.a.MAC.LinkLocal()
	s.answers("a link-local source", s.send(s.a, p), s.a, 1, 2)
	s.drops("a link-local destination", s.send(s.a, s.udp(frametest.Addr6("fe80::77"), 53, "x")), frame.MartianDestination)
}

// The anycast address of a subnet's routers is answered, with the gateway's own address.
func TestRFC4291_2_6_1_Anycast(t *testing.T) {
	s := newSix(t)
	i, _ := s.DP.Router.Interface(1)
	f := s.answers("a ping", s.send(s.a, s.ping(s.a, frame.Addr6From(i.Prefix6.Addr()))), s.a, frame.ICMPv6EchoReply, 0)
	if f.IPv6().Src() != s.gateway {
		t.Errorf("answered from %s", f.IPv6().Src())
	}
}

// The router hears all nodes, all routers, and the solicited-node groups of its addresses.
func TestRFC4291_2_8_RoutersGroups(t *testing.T) {
	s := newSix(t)
	for _, g := range []frame.Addr6{frame.AllNodes, frame.AllRouters, s.gateway.SolicitedNode(), frame.FirstLocal.SolicitedNode()} {
		p := s.ping(s.a, g)
		p.DstMAC = g.GroupMAC()
		answered := slices.ContainsFunc(s.send(s.a, p), func(f *frame.Frame) bool {
			return f.In == s.a.Port && f.Proto == frame.ICMPv6 && f.ICMP().Type() == frame.ICMPv6EchoReply && f.IPv6().Src() == s.gateway
		})
		if !answered {
			t.Errorf("a ping to %s has no answer", g)
		}
	}
}

// An error comes from the address that was spoken to, if it is the gateway's, and else from the gateway's address in the network.
func TestRFC4443_2_2_Source(t *testing.T) {
	s := newSix(t)
	for to, from := range map[frame.Addr6]frame.Addr6{s.gateway: s.gateway, frame.FirstLocal: frame.FirstLocal} {
		if f := s.answers("a closed port", s.send(s.a, s.udp(to, 53, "x")), s.a, 1, 4); f.IPv6().Src() != from {
			t.Errorf("the error about a packet to %s comes from %s", to, f.IPv6().Src())
		}
	}
	p := s.udp(addrOf(s.o), 53, "x")
	p.TTL = 1
	if f := s.answers("hop limit 1", s.send(s.a, p), s.a, 3, 0); f.IPv6().Src() != s.gateway {
		t.Errorf("the error comes from %s", f.IPv6().Src())
	}
}

// An error quotes as much as fits in 1,280 bytes.
func TestRFC4443_2_4_QuoteLength(t *testing.T) {
	s := newSix(t)
	p := s.udp(s.gateway, 53, string(make([]byte, 1400)))
	f := s.answers("a long packet", s.send(s.a, p), s.a, 1, 4)
	if n := int(f.L3End) - int(f.L3); n != 1280 {
		t.Errorf("the error has %d bytes", n)
	}
	if f = s.answers("a short packet", s.send(s.a, s.udp(s.gateway, 53, "x")), s.a, 1, 4); int(f.L3End)-int(f.L3) != 40+8+40+8+1 {
		t.Errorf("the error has %d bytes", int(f.L3End)-int(f.L3))
	}
}

// There is no error about an error, a redirect, a packet to a group or a multicast MAC, or a source that is no single node.
func TestRFC4443_2_4_NoErrorAbout(t *testing.T) {
	s := newSix(t)
	errorToO := frametest.Packet{Dst6: addrOf(s.o), Proto: frame.ICMPv6, Type: 1, TTL: 1, Payload: make([]byte, 48)}
	group := s.udp(s.gateway, 53, "x")
	group.DstMAC = frame.AllNodes.GroupMAC()
	toGroup := s.udp(frame.AllRouters, 53, "x")
	toGroup.DstMAC = frame.AllRouters.GroupMAC()
	fromGroup := s.udp(s.gateway, 53, "x")
	fromGroup.Src6 = frametest.Addr6("ff02::1")
	redirect := frametest.Packet{Dst6: addrOf(s.o), Proto: frame.ICMPv6, Type: frame.ICMPv6Redirect, TTL: 1, Payload: make([]byte, 32)}
	for what, p := range map[string]frametest.Packet{"an error": errorToO, "a multicast MAC": group, "a group": toGroup, "from a group": fromGroup, "a redirect": redirect} {
		for _, f := range s.send(s.a, p) {
			if f.In == s.a.Port && f.Flags&frame.ICMPError != 0 {
				t.Errorf("%s is answered with %s", what, describe(f.Raw()))
			}
		}
	}
}

// Errors are limited for each port.
func TestRFC4443_2_4_RateLimit(t *testing.T) {
	s := newSix(t)
	errors := 0
	for range 600 {
		errors += len(s.send(s.a, s.udp(s.gateway, 53, "x")))
	}
	if errors < 50 || errors > 200 { // the burst has a random part
		t.Errorf("600 packets, and %d errors", errors)
	}
}

// A packet that is too long is answered with the MTU, never less than 1,280 bytes, and not cut. An error with a smaller MTU is dropped and
// changes nothing, not the MSS either (RFC 8201, 4).
func TestRFC8201_4_PathMTU(t *testing.T) {
	s := newSix(t)
	if err := s.SetUplink(frametest.Addr("198.51.100.1"), 1380); err != nil { // 1400 bytes of IPv6
		t.Fatal(err)
	}
	f := s.answers("1448 bytes", s.send(s.a, s.udp(addrOf(s.o), 53, string(make([]byte, 1400)))), s.a, 2, 0)
	if mtu := f.ICMP().MTU6(); mtu != 1400 {
		t.Errorf("the MTU is said to be %d", mtu)
	}
	f = s.passes("1300 bytes", s.send(s.a, s.udp(addrOf(s.o), 53, string(make([]byte, 1252)))), s.o)
	tooBig := frametest.Packet{Dst6: f.IPv6().Src(), Proto: frame.ICMPv6, Type: 2, Seq: 600, Payload: f.IPv6()[:1000]}
	syn := func(port uint16) []byte {
		return s.passes("SYN", s.send(s.a, frametest.Packet{Dst6: addrOf(s.o), Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: port, DstPort: 80, MSS: 1460}), s.o).Payload()[20:24]
	}
	before := syn(1000)
	s.drops("an error with MTU 600", s.send(s.o, tooBig), frame.MalformedPacket)
	if after := syn(1001); !bytes.Equal(before, after) {
		t.Errorf("the option MSS was % x, and is % x", before, after)
	}
	s.passes("1300 bytes, after an error with MTU 600", s.send(s.a, s.udp(addrOf(s.o), 53, string(make([]byte, 1252)))), s.o)
}

// An unknown next header, for the gateway, is answered with a pointer to where the packet names it.
func TestRFC4443_3_4_UnknownNextHeader(t *testing.T) {
	s := newSix(t)
	p := frametest.Packet{Dst6: s.gateway, Proto: 253, Payload: make([]byte, 8)}
	if f := s.answers("protocol 253", s.send(s.a, p), s.a, 4, 1); binary.BigEndian.Uint32(f.Payload()[4:]) != 6 {
		t.Errorf("the pointer is % x", f.Payload()[4:8])
	}
	p.Next, p.Ext = destOptions, optionsHeader(253, 1, 4, 0, 0, 0, 0)
	if f := s.answers("protocol 253 behind options", s.send(s.a, p), s.a, 4, 1); binary.BigEndian.Uint32(f.Payload()[4:]) != 40 {
		t.Errorf("the pointer is % x", f.Payload()[4:8])
	}
}

// The gateway answers a solicitation for each of its addresses as a router, with its MAC, and says that the answer overrides; for the anycast
// address it does not say so (7.2.7).
func TestRFC4861_7_2_4_SolicitedAdvertisement(t *testing.T) {
	s := newSix(t)
	i, _ := s.DP.Router.Interface(1)
	anycast := frame.Addr6From(i.Prefix6.Addr())
	for _, target := range []frame.Addr6{s.gateway, frame.FirstLocal, i.MAC.LinkLocal(), anycast} {
		f := s.passes("NS for "+target.String(), ofPort(s.send(s.a, s.solicitation(s.a, target)), s.a), s.a)
		l4 := f.Payload()
		flags := byte(0xe0)
		if target == anycast {
			flags = 0xc0
		}
		if l4[0] != frame.ICMPv6NeighborAdvertisement || l4[4] != flags || frame.LoadAddr6(l4[8:]) != target || !bytes.Equal(l4[24:], append([]byte{2, 1}, s.gwMAC.HardwareAddr()...)) ||
			f.IPv6().HopLimit() != 255 || f.IPv6().Dst() != addrOf(s.a) {
			t.Errorf("%s is answered with % x", target, l4)
		}
	}
	if out := ofPort(s.send(s.a, s.solicitation(s.a, frametest.Addr6("fe80::77"))), s.a); len(out) > 0 {
		t.Errorf("an address of nobody is answered: %s", described(out))
	}
}

func ofPort(out []*frame.Frame, h *Host) (own []*frame.Frame) {
	for _, f := range out {
		if f.In == h.Port {
			own = append(own, f)
		}
	}
	return own
}

// Invalid solicitations are ignored: a hop limit below 255, a wrong code or checksum, a target that is a group, an option of length 0, a
// fragment (RFC 6980, 5), a probe with a MAC.
func TestRFC4861_7_1_1_InvalidSolicitation(t *testing.T) {
	for what, spoil := range map[string]func(p *frametest.Packet){
		"hop limit 254": func(p *frametest.Packet) { p.TTL = 254 },
		"code 1":        func(p *frametest.Packet) { p.Code = 1 },
		"target group":  func(p *frametest.Packet) { frametest.Addr6("ff02::1").Put(p.Payload) },
		"option length": func(p *frametest.Packet) { p.Payload[17] = 0 },
		"checksum":      func(p *frametest.Packet) { p.NoChecksum = true },
		"fragment": func(p *frametest.Packet) {
			p.Next, p.Ext = fragmented, fragmentHeader(frame.ICMPv6, 0, false, 1)
		},
		"probe with a MAC": func(p *frametest.Packet) { p.Src6 = frame.Addr6{} },
	} {
		s := newSix(t)
		s.lenient = true // others on the link get the message, too
		p := s.solicitation(s.a, s.gateway)
		spoil(&p)
		if out := ofPort(s.put(s.a, p.Raw()), s.a); len(out) > 0 {
			t.Errorf("%s: answered with %s", what, described(out))
		}
	}
}

// A probe for a duplicate of the gateway's address is answered to all nodes, unsolicited (and RFC 4861, 7.2.4).
func TestRFC4862_5_4_3_ProbeIsAnswered(t *testing.T) {
	s := newSix(t)
	p := s.solicitation(s.a, s.gateway)
	p.Src6, p.Payload = frame.Addr6{}, p.Payload[:16]
	out := ofPort(s.put(s.a, p.Raw()), s.a)
	f := s.passes("a probe", out, s.a)
	if f.IPv6().Dst() != frame.AllNodes || f.Payload()[4] != 0xa0 {
		t.Errorf("answered with %s, flags %x", describe(f.Raw()), f.Payload()[4])
	}
}

// What a solicitation says of its sender is noted as STALE; a packet of the neighbor is sent there. An advertisement that nobody asked for
// makes no entry (7.2.5).
func TestRFC4861_7_2_3_SolicitationsAreHeard(t *testing.T) {
	s := newSix(t)
	s.send(s.a, s.solicitation(s.a, s.gateway))
	if n := s.neighbor(s.a); n.State != router.Stale || n.MAC != s.a.MAC {
		t.Errorf("after a solicitation, a is %s %s", n.State, n.MAC)
	}
	s.send(s.b, s.advertisement(s.b, addrOf(s.b), s.b.MAC, false, true))
	if n := s.neighbor(s.b); n.MAC != 0 {
		t.Errorf("after an advertisement, b is %s %s", n.State, n.MAC)
	}
}

// The table of 7.2.5 for an advertisement about a known neighbor, by its flags Solicited and Override and its MAC.
func TestRFC4861_7_2_5_Advertisements(t *testing.T) {
	const other = frame.MAC(0x020000000077)
	for _, x := range []struct {
		was                 router.NeighState
		solicited, override bool
		mac                 frame.MAC // 0: no option
		state               router.NeighState
		changes             bool
	}{
		{router.Stale, true, false, 0, router.Reachable, false},
		{router.Stale, false, false, 0, router.Stale, false},
		{router.Stale, true, true, other, router.Reachable, true},
		{router.Stale, false, true, other, router.Stale, true},
		{router.Stale, true, false, other, router.Stale, false},
		{router.Reachable, true, false, other, router.Stale, false},
		{router.Reachable, false, false, other, router.Stale, false},
		{router.Reachable, false, true, other, router.Stale, true},
		{router.Reachable, true, true, other, router.Reachable, true},
		{router.Reachable, false, true, 0, router.Reachable, false},
	} {
		s := newSix(t)
		mac := s.a.MAC
		s.send(s.a, s.solicitation(s.a, s.gateway))
		if x.was == router.Reachable {
			s.send(s.a, s.advertisement(s.a, addrOf(s.a), mac, true, true))
		}
		if n := s.neighbor(s.a); n.State != x.was {
			t.Fatalf("%+v: a is %s before", x, n.State)
		}
		p := s.advertisement(s.a, addrOf(s.a), 0, x.solicited, x.override)
		if x.mac == 0 {
			p.Payload = p.Payload[:16]
		} else {
			p = s.advertisement(s.a, addrOf(s.a), x.mac, x.solicited, x.override)
		}
		s.send(s.a, p)
		if n := s.neighbor(s.a); n.State != x.state || (n.MAC == other) != x.changes {
			t.Errorf("%+v: a is %s %s then", x, n.State, n.MAC)
		}
	}
}

// Packets for a neighbor that is looked for wait, the last ones; when it does not answer three solicitations, their senders hear of it.
func TestRFC4861_7_2_2_AddressResolution(t *testing.T) {
	s := newSix(t)
	s.more("network 2 10.0.1.1/24")
	absent := six(frametest.Addr("10.0.1.9"))
	before := len(s.records)
	for i := range 3 {
		s.send(s.a, s.udp(absent, uint16(100+i), "waits"))
	}
	out := s.after(before, func() { s.Advance(frame.Seconds(5)) })
	unreachable := 0
	for _, f := range ofPort(out, s.a) {
		if f.Flags&frame.ICMPError != 0 && f.ICMP().Type() == 1 && f.ICMP().Code() == 3 {
			unreachable++
		}
	}
	if unreachable != 3 {
		t.Errorf("%d senders of 3 heard that the neighbor does not answer: %s", unreachable, described(out))
	}
}

// The gateway neither obeys redirects nor sends any.
func TestRFC4861_8_2_Redirects(t *testing.T) {
	s := newSix(t)
	s.send(s.a, s.solicitation(s.a, s.gateway))
	p := frametest.Packet{Dst6: s.gateway, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6Redirect, Payload: slices.Concat(addrOf(s.b).Netip().AsSlice(), addrOf(s.o).Netip().AsSlice())}
	if out := ofPort(s.send(s.a, p), s.a); len(out) > 0 {
		t.Errorf("a redirect is answered: %s", described(out))
	}
	s.passes("a packet to the outside", s.send(s.a, s.udp(addrOf(s.o), 53, "x")), s.o)
}

// Neighbor discovery, and what listeners say of groups, does not leave its link (and RFC 2710, 3; RFC 3810, 5).
func TestRFC4890_4_3_3_StaysOnTheLink(t *testing.T) {
	for typ := uint8(frame.ICMPv6ListenerQuery); typ <= frame.ICMPv6Redirect; typ++ {
		s := newSix(t)
		p := frametest.Packet{Dst6: addrOf(s.o), TTL: 255, Proto: frame.ICMPv6, Type: typ, Payload: make([]byte, 40)}
		for _, f := range s.send(s.a, p) {
			if f.In == uplinkPort {
				t.Errorf("type %d left as %s", typ, describe(f.Raw()))
			}
		}
	}
	s := newSix(t)
	report := frametest.Packet{DstMAC: frametest.Addr6("ff02::16").GroupMAC(), Src6: s.a.MAC.LinkLocal(), Dst6: frametest.Addr6("ff02::16"), TTL: 1, Proto: frame.ICMPv6, Type: frame.ICMPv6ListenerReport2, Next: hopByHop,
		Ext: optionsHeader(frame.ICMPv6, 5, 2, 0, 0, 1, 0), Payload: make([]byte, 20)}
	s.passes("a listener's report on its link", s.send(s.a, report), s.b)
}

// advertises makes the gateway of network 1 send router advertisements.
func (s *sixBed) advertises(edit func(*router.Interface)) {
	i, _ := s.DP.Router.Interface(1)
	i.Advertise = true
	edit(&i)
	s.DP.Router.SetInterface(i)
}

// advertisements are the router advertisements that h has had since record number before: when, and what they say after the ICMPv6 header.
func (s *sixBed) advertisements(before int, h *Host) (at []frame.Tick, bodies [][]byte) {
	for _, r := range s.records[before:] {
		var f frame.Frame
		f.Reset(r.raw, r.port)
		frame.Parse(&f)
		if r.out && r.port == h.Port && f.IsND() && f.ICMP().Type() == frame.ICMPv6RouterAdvertisement {
			at, bodies = append(at, r.now), append(bodies, f.Payload()[4:])
			if f.IPv6().Src() != frame.FirstLocal || f.IPv6().HopLimit() != 255 {
				s.t.Errorf("an advertisement from %s with hop limit %d", f.IPv6().Src(), f.IPv6().HopLimit())
			}
		}
	}
	return at, bodies
}

func (s *sixBed) wait(seconds int) {
	s.t.Helper()
	s.after(len(s.records), func() { s.Advance(frame.Seconds(uint32(seconds))) })
}

const raLifetime = 2 // byte of a router advertisement's body

// The first three advertisements are 16 seconds apart, the others 200 to 600 seconds; they come from fe80::1.
func TestRFC4861_6_2_4_Advertisements(t *testing.T) {
	s := newSix(t)
	before := len(s.records)
	s.advertises(func(*router.Interface) {})
	s.wait(4000)
	at, bodies := s.advertisements(before, s.a)
	if len(at) < 9 || len(at) > 23 {
		t.Fatalf("%d advertisements in 4000 s", len(at))
	}
	for i := 1; i < len(at); i++ {
		apart := (at[i] - at[i-1]) / frame.TicksPerSecond
		if i < 3 && (apart < 15 || apart > 17) || i >= 3 && (apart < 200 || apart > 601) {
			t.Errorf("advertisement %d is %d s after the one before", i, apart)
		}
	}
	b := bodies[0]
	if b[0] != 64 || b[1] != 0 || binary.BigEndian.Uint16(b[raLifetime:]) != 1800 {
		t.Errorf("it says % x", b)
	}
	if !bytes.Contains(b[12:], append([]byte{1, 1}, s.gwMAC.HardwareAddr()...)) || !bytes.Contains(b[12:], []byte{5, 1, 0, 0, 0, 0, 5, 240}) { // 1500 and 20
		t.Errorf("it has the options % x", b[12:])
	}
}

// A station that asks is answered: directly if it has an address, else all are, at most every three seconds.
//
// Deviates: the answer comes at once, and not after up to half a second: the gateway is the only router of its network.
func TestRFC4861_6_2_6_Solicitations(t *testing.T) {
	s := newSix(t)
	s.advertises(func(*router.Interface) {})
	s.wait(60)
	ask := frametest.Packet{DstMAC: frame.AllRouters.GroupMAC(), Dst6: frame.AllRouters, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6RouterSolicitation, Payload: append([]byte{1, 1}, s.a.MAC.HardwareAddr()...)}
	before := len(s.records)
	s.send(s.a, ask)
	if at, _ := s.advertisements(before, s.a); len(at) != 1 {
		t.Errorf("%d answers", len(at))
	}
	if at, _ := s.advertisements(before, s.b); len(at) != 0 {
		t.Error("another station got the answer, too")
	}
	before = len(s.records)
	for range 5 {
		s.put(s.a, frametest.Packet{SrcMAC: s.a.MAC, DstMAC: frame.AllRouters.GroupMAC(), Dst6: frame.AllRouters, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6RouterSolicitation}.Raw())
	}
	if at, _ := s.advertisements(before, s.b); len(at) != 1 {
		t.Errorf("5 stations without an address ask, and all get %d answers", len(at))
	}
	before = len(s.records)
	ask.TTL, s.lenient = 254, true // others on the link get the message, too
	s.send(s.a, ask)
	if at, _ := s.advertisements(before, s.a); len(at) != 0 {
		t.Error("a solicitation that a router has forwarded is answered (6.1.1)")
	}
}

// A gateway that goes says so.
func TestRFC4861_6_2_5_CeasingToAdvertise(t *testing.T) {
	s := newSix(t)
	s.advertises(func(*router.Interface) {})
	s.wait(60)
	before := len(s.records)
	s.after(before, func() {
		s.DP.WithSlowPath(func(out router.Output) { s.DP.Router.DeleteInterface(1, out) })
		s.Settle()
	})
	if _, bodies := s.advertisements(before, s.a); len(bodies) != 1 || binary.BigEndian.Uint16(bodies[0][raLifetime:]) != 0 {
		t.Errorf("it says % x", bodies)
	}
}

// Stations make addresses of the subnet's prefix where the network says so, and only there.
func TestRFC4861_6_2_3_Prefix(t *testing.T) {
	for _, slaac := range []bool{false, true} {
		s := newSix(t)
		before := len(s.records)
		s.advertises(func(i *router.Interface) { i.Slaac = slaac })
		s.wait(1)
		_, bodies := s.advertisements(before, s.a)
		has := len(bodies) > 0 && bytes.Contains(bodies[0], []byte{3, 4, 120, 0xc0, 0, 0x27, 0x8d, 0, 0, 9, 0x3a, 0x80}) // on link, autonomous, 2592000 and 604800 s
		if len(bodies) == 0 || has != slaac {
			t.Errorf("slaac %v: % x", slaac, bodies)
		}
	}
}

// What is behind the gateway besides the default route is told, while the default route is not there, too.
func TestRFC4191_2_3_RouteInformation(t *testing.T) {
	s := newSix(t)
	before := len(s.records)
	s.advertises(func(i *router.Interface) { i.Behind = append(i.Behind, sixPrefix(i.Prefix)) })
	s.wait(1)
	if _, bodies := s.advertisements(before, s.a); len(bodies) == 0 || !bytes.Contains(bodies[0], []byte{24, 3, 120, 0, 0, 0, 7, 8}) {
		t.Errorf("it says % x", bodies)
	}
}

// While nothing leads out, the gateway is no default router; a change is told at once, and twice more.
func TestRFC7084_4_1_NoWayOut(t *testing.T) {
	s := newSix(t)
	s.advertises(func(*router.Interface) {})
	s.wait(60)
	for _, up := range []bool{false, true} {
		before := len(s.records)
		s.after(before, func() {
			i, _ := s.DP.Router.Interface(frame.NoNet)
			i.Up6 = up
			s.DP.Router.SetInterface(i)
			s.Advance(frame.Seconds(50))
		})
		at, bodies := s.advertisements(before, s.a)
		if len(at) != 3 {
			t.Fatalf("up %v: %d advertisements", up, len(at))
		}
		for i, b := range bodies {
			if lifetime := binary.BigEndian.Uint16(b[raLifetime:]); (lifetime != 0) != up {
				t.Errorf("up %v: advertisement %d has the lifetime %d", up, i, lifetime)
			}
		}
	}
}

// The router uses a neighbor that is STALE. After five seconds it solicits the neighbor directly, three times. If no answer comes, the router
// forgets the MAC.
func TestRFC4861_7_3_3_UnreachabilityDetection(t *testing.T) {
	s := newSix(t)
	s.more("network 2 10.0.1.1/24\nhost c 10.0.1.2 port 3 net 2")
	c := s.host("c")
	s.send(c, func() frametest.Packet {
		i, _ := s.DP.Router.Interface(2)
		p := s.solicitation(c, i.Addr6)
		return p
	}())
	c.silent = true
	s.send(s.a, s.udp(addrOf(c), 53, "to a neighbor that is STALE"))
	s.wait(1)
	if n := s.neighbor(c); n.State != router.Delay {
		t.Fatalf("after a packet, it is %s", n.State)
	}
	before := len(s.records)
	s.wait(10)
	asked := 0
	for _, r := range s.records[before:] {
		var f frame.Frame
		f.Reset(r.raw, r.port)
		frame.Parse(&f)
		if r.out && f.IsND() && f.ICMP().Type() == frame.ICMPv6NeighborSolicitation && f.Dst == c.MAC {
			asked++
		}
	}
	if asked != 3 {
		t.Errorf("it was asked %d times", asked)
	}
	if n := s.neighbor(c); n.MAC != 0 && n.State != router.Failed {
		t.Errorf("then it is %s", n.State)
	}
}

// A station's router advertisement or redirect reaches nobody: plainly, behind headers, or in a fragment (RFC 7113, 3; RFC 6980, 5).
func TestRFC6105_3_RouterAdvertisementGuard(t *testing.T) {
	options := optionsHeader(frame.ICMPv6, 1, 4, 0, 0, 0, 0)
	chains := map[string]struct {
		next uint8
		ext  []byte
	}{
		"plain":           {},
		"hop-by-hop":      {hopByHop, options},
		"eight headers":   {destOptions, slices.Concat(bytes.Repeat(optionsHeader(destOptions, 1, 4, 0, 0, 0, 0), 7), options)},
		"nine headers":    {destOptions, slices.Concat(bytes.Repeat(optionsHeader(destOptions, 1, 4, 0, 0, 0, 0), 8), options)},
		"atomic fragment": {fragmented, fragmentHeader(frame.ICMPv6, 0, false, 1)},
		"first fragment":  {fragmented, fragmentHeader(frame.ICMPv6, 0, true, 1)},
	}
	for name, c := range chains {
		for _, typ := range []uint8{frame.ICMPv6RouterAdvertisement, frame.ICMPv6Redirect} {
			s := newSixOf(t, guardedBed)
			p := frametest.Packet{DstMAC: frame.AllNodes.GroupMAC(), Src6: s.a.MAC.LinkLocal(), Dst6: frame.AllNodes, TTL: 255, Proto: frame.ICMPv6, Type: typ, Next: c.next, Ext: c.ext, Payload: make([]byte, 32)}
			s.drops(fmt.Sprintf("type %d, %s", typ, name), s.send(s.a, p), frame.None)
		}
	}
}

// A station is no DHCPv6 server.
func TestRFC7610_4_DHCPv6Shield(t *testing.T) {
	s := newSixOf(t, guardedBed)
	p := frametest.Packet{DstMAC: s.b.MAC, Dst6: addrOf(s.b), SrcPort: 547, DstPort: 546, Payload: []byte("reply")}
	s.drops("a server's message", s.send(s.a, p), frame.GuardDHCP)
	p.Next, p.Ext = destOptions, optionsHeader(frame.UDP, 1, 4, 0, 0, 0, 0)
	s.drops("behind a header", s.send(s.a, p), frame.GuardDHCP)
}

// A gateway that no longer advertises says so, and one that no longer gives addresses says that they are deprecated.
func TestRFC4861_6_2_4_ChangedSettings(t *testing.T) {
	s := newSix(t)
	s.advertises(func(i *router.Interface) { i.Slaac = true })
	s.wait(60)
	before := len(s.records)
	s.advertises(func(i *router.Interface) { i.Slaac = false })
	s.wait(2)
	if _, bodies := s.advertisements(before, s.a); len(bodies) != 1 || !bytes.Contains(bodies[0], []byte{3, 4, 120, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("after slaac it says % x", bodies)
	}
	s.wait(60)
	s.advertises(func(i *router.Interface) { i.Slaac = true })
	s.wait(60)
	before = len(s.records)
	s.advertises(func(i *router.Interface) { i.Advertise = false })
	s.wait(2)
	if _, bodies := s.advertisements(before, s.a); len(bodies) != 1 || !bytes.Contains(bodies[0], []byte{3, 4, 120, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0}) || binary.BigEndian.Uint16(bodies[0][raLifetime:]) != 0 {
		t.Errorf("when it ends, it says % x", bodies)
	}
}

// A proxy answers for stations that it knows, without the Override flag, so that a station that answers for itself wins.
func TestRFC4861_7_2_8_ProxyAdvertisements(t *testing.T) {
	const mac, asker = frame.MAC(0x0200_0000_00aa), frame.MAC(0x0200_0000_00bb)
	target, from, source := frametest.Addr6("2001:db8::c"), frametest.Addr6("2001:db8::2"), frametest.Addr6("fe80::aa")
	ns := func(target frame.Addr6) []byte { return target.Netip().AsSlice() }
	withMAC := append(ns(target), 1, 1, 2, 0, 0, 0, 0, 0xbb)
	for _, x := range []struct {
		what     string
		p        frametest.Packet
		to       frame.Addr6 // of the answer; zero: none
		toMAC    frame.MAC
		solicits bool
	}{
		{"by multicast", frametest.Packet{Src6: from, Dst6: target.SolicitedNode(), Payload: withMAC}, from, asker, true},
		{"by unicast, without an option", frametest.Packet{Src6: from, Dst6: target, Payload: ns(target)}, from, asker, true},
		{"a probe for duplicates", frametest.Packet{Dst6: target.SolicitedNode(), Payload: ns(target)}, frame.AllNodes, frame.AllNodes.GroupMAC(), false},
		{"a probe with an option", frametest.Packet{Dst6: target.SolicitedNode(), Payload: withMAC}, frame.Addr6{}, 0, false},
		{"a probe to one address", frametest.Packet{Dst6: target, Payload: ns(target)}, frame.Addr6{}, 0, false},
		{"of an unknown station", frametest.Packet{Src6: from, Dst6: from.SolicitedNode(), Payload: ns(from)}, frame.Addr6{}, 0, false},
		{"from another link", frametest.Packet{Src6: from, Dst6: target, Payload: ns(target), TTL: 254}, frame.Addr6{}, 0, false},
		{"with a wrong checksum", frametest.Packet{Src6: from, Dst6: target, Payload: ns(target), NoChecksum: true}, frame.Addr6{}, 0, false},
		{"from loopback", frametest.Packet{Src6: frametest.Addr6("::1"), Dst6: target.SolicitedNode(), Payload: withMAC}, frame.Addr6{}, 0, false},
		{"from a group", frametest.Packet{Src6: frame.AllNodes, Dst6: target.SolicitedNode(), Payload: withMAC}, frame.Addr6{}, 0, false},
		{"to another station", frametest.Packet{Src6: from, Dst6: source, Payload: withMAC}, frame.Addr6{}, 0, false},
		{"to the group of another station", frametest.Packet{Src6: from, Dst6: source.SolicitedNode(), Payload: withMAC}, frame.Addr6{}, 0, false},
		{"to all nodes", frametest.Packet{Src6: from, Dst6: frame.AllNodes, Payload: withMAC}, from, asker, true},
		{"too short", frametest.Packet{Src6: from, Dst6: target, Payload: ns(target)[:12]}, frame.Addr6{}, 0, false},
	} {
		x.p.SrcMAC, x.p.DstMAC, x.p.Proto, x.p.Type = asker, mac, frame.ICMPv6, frame.ICMPv6NeighborSolicitation
		if x.p.TTL == 0 {
			x.p.TTL = 255
		}
		f := &frame.Frame{}
		f.Reset(x.p.Raw(), frame.NoPort)
		frame.Parse(f)
		b := router.ProxyAnswer(f, mac, source, func(a frame.Addr6) bool { return a == target })
		if (b == nil) != x.to.IsZero() {
			t.Errorf("%s: answered: %v", x.what, b != nil)
		}
		if b == nil {
			continue
		}
		raw := append(make([]byte, frame.VnetLen), b...)
		if err := frametest.Check(raw); err != nil {
			t.Errorf("%s: %v", x.what, err)
		}
		f.Reset(raw, frame.NoPort)
		frame.Parse(f)
		na, want := f.Payload(), byte(0)
		if x.solicits {
			want = 0x40
		}
		if f.Dst != x.toMAC || f.Src != mac || f.IPv6().Src() != source || f.IPv6().Dst() != x.to || na[0] != frame.ICMPv6NeighborAdvertisement || na[4] != want {
			t.Errorf("%s: answer % x", x.what, b)
		}
	}
}

// An unknown option of a packet to the gateway is skipped, or the packet is dropped, or its sender hears of it with a pointer: as the two
// highest bits of the option's type say. One type answers packets to groups, too.
func TestRFC8200_4_2_Options(t *testing.T) {
	for _, x := range []struct {
		option             byte
		toGateway, toGroup uint8 // type of the answer; 0: none
	}{
		{0x1e, frame.ICMPv6EchoReply, frame.ICMPv6EchoReply}, {0x5e, 0, 0}, {0x9e, frame.ICMPv6Parameter, frame.ICMPv6Parameter}, {0xde, frame.ICMPv6Parameter, 0},
		{1, frame.ICMPv6EchoReply, frame.ICMPv6EchoReply},
	} {
		for _, next := range []uint8{hopByHop, destOptions} {
			for _, group := range []bool{false, true} {
				s := newSix(t)
				p, want := s.ping(s.a, s.gateway), x.toGateway
				if group {
					p.Dst6, p.DstMAC, want = frame.AllNodes, frame.AllNodes.GroupMAC(), x.toGroup
				}
				p.Next, p.Ext = next, optionsHeader(frame.ICMPv6, 0, x.option, 3, 0, 0, 0)
				out := slices.DeleteFunc(s.send(s.a, p), func(f *frame.Frame) bool { return f.In != s.a.Port }) // a group hears it, too
				what := fmt.Sprintf("option %x in header %d, group %v", x.option, next, group)
				if want == 0 {
					s.drops(what, out, frame.GatewayService)
					continue
				}
				f := s.passes(what, out, s.a)
				if f.ICMP().Type() != want {
					t.Errorf("%s: %s", what, described(out))
				}
				if want == frame.ICMPv6Parameter && (f.ICMP().Code() != 2 || binary.BigEndian.Uint32(f.Payload()[4:]) != frame.IPv6Len+3) {
					t.Errorf("%s: code %d, pointer %d", what, f.ICMP().Code(), binary.BigEndian.Uint32(f.Payload()[4:]))
				}
			}
		}
	}
	s := newSix(t)
	p := s.ping(s.a, s.gateway)
	p.Next, p.Ext = destOptions, optionsHeader(frame.ICMPv6, 0x1e, 60)
	s.drops("an option that leaves its header", s.send(s.a, p), frame.MalformedPacket)
}

// A routing header with segments left, in a packet to the gateway, is answered with a pointer to its type; one without is skipped (and RFC
// 5095, 3).
func TestRFC8200_4_4_RoutingHeader(t *testing.T) {
	s := newSix(t)
	for _, x := range []struct{ kind, left byte }{{0, 1}, {4, 1}, {77, 2}, {0, 0}, {77, 0}} {
		p := s.ping(s.a, s.gateway)
		p.Next, p.Ext = routing, slices.Concat([]byte{frame.ICMPv6, 2, x.kind, x.left, 0, 0, 0, 0}, addrOf(s.b).Netip().AsSlice())
		what, out := fmt.Sprintf("type %d with %d segments left", x.kind, x.left), s.send(s.a, p)
		if x.left == 0 {
			s.answers(what, out, s.a, frame.ICMPv6EchoReply, 0)
			continue
		}
		if f := s.answers(what, out, s.a, frame.ICMPv6Parameter, 0); binary.BigEndian.Uint32(f.Payload()[4:]) != frame.IPv6Len+2 {
			t.Errorf("%s: pointer %d", what, binary.BigEndian.Uint32(f.Payload()[4:]))
		}
	}
}

// pattern is n bytes, of which no two parts are alike.
func pattern(n int) (b []byte) {
	for i := range n {
		b = append(b, byte(i*i/251))
	}
	return b
}

// pingInPieces is a ping of n bytes to the gateway, in fragments of size bytes.
func (s *sixBed) pingInPieces(n, size int, id uint32) (pieces [][]byte) {
	p := s.ping(s.a, s.gateway)
	p.DstMAC, p.Payload = s.gwMAC, pattern(n)
	f := &frame.Frame{}
	f.Reset(p.Raw(), frame.NoPort)
	frame.Parse(f)
	return frame.CutPieces6(f, size+frame.IPv6Len+8, id)
}

// A packet to the gateway in fragments is put together, in any order, also when a fragment comes twice; the reply is cut.
func TestRFC8200_4_5_Reassembly(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 1, 2}, {0, 0, 2, 1}} {
		s := newSix(t)
		pieces := s.pingInPieces(3000, 1200, 9)
		var out []*frame.Frame
		for _, i := range order {
			if len(out) > 0 {
				t.Fatalf("%v: answered before the last fragment", order)
			}
			out = s.put(s.a, pieces[i])
		}
		at := 0
		for _, f := range out {
			if f.In != s.a.Port || f.FragOffset() != at || int(f.L3End)-int(f.L3) > 1520 {
				t.Errorf("%v: %s", order, described(out))
			}
			at += f.FragLen()
		}
		if at != frame.ICMPLen+3000 || out[len(out)-1].MoreFrags() {
			t.Errorf("%v: the reply has %d bytes: %s", order, at, described(out))
		}
		var reply []byte
		for _, f := range out {
			_, data := f.SplitFragment()
			reply = append(reply, data...)
		}
		if sum := frame.Sum(reply, out[0].IPv6().PseudoSum(frame.ICMPv6, len(reply))); sum != 0xffff || reply[0] != frame.ICMPv6EchoReply || !bytes.Equal(reply[frame.ICMPLen:], pattern(3000)) {
			t.Errorf("%v: sum %x, type %d, or the reply says something else than the request", order, sum, reply[0])
		}
	}
	s := newSix(t)
	overlap := s.pingInPieces(3000, 1200, 9)
	s.put(s.a, overlap[0])
	other := s.pingInPieces(3000, 1000, 9)
	s.drops("an overlap", s.put(s.a, other[1]), frame.FragmentInvalid)
	s.drops("what follows", s.put(s.a, overlap[1]), frame.FragmentInvalid)
	s.drops("what follows", s.put(s.a, overlap[0]), frame.FragmentInvalid)
	s.drops("no error after 60 seconds", s.after(len(s.records), func() { s.Advance(frame.Seconds(70)) }), frame.None)
}

// The sender of a fragment that cannot be right, to the gateway, hears so with a pointer. When fragments are missing for 60 seconds, the
// sender hears so if the first one has come.
func TestRFC8200_4_5_FragmentErrors(t *testing.T) {
	s := newSix(t)
	for _, x := range []struct {
		what      string
		offset, n int
		more      bool
		pointer   uint32
	}{{"a length that is no multiple of 8", 0, 61, true, 4}, {"an end beyond 65535", 65528, 64, false, frame.IPv6Len + 2}} {
		p := frametest.Packet{DstMAC: s.gwMAC, Dst6: s.gateway, Proto: frame.UDP, Next: fragmented, Ext: fragmentHeader(frame.UDP, x.offset, x.more, 1), NoChecksum: true, Payload: make([]byte, x.n-frame.UDPLen)}
		f := s.answers(x.what, s.send(s.a, p), s.a, frame.ICMPv6Parameter, 0)
		if got := binary.BigEndian.Uint32(f.Payload()[4:]); got != x.pointer {
			t.Errorf("%s: pointer %d", x.what, got)
		}
	}
	for i, first := range []bool{true, false} {
		s := newSix(t)
		pieces := s.pingInPieces(3000, 1200, uint32(20+i))
		send := pieces[1]
		if first {
			send = pieces[0]
		}
		s.drops("a fragment", s.put(s.a, send), frame.None)
		out := s.after(len(s.records), func() { s.Advance(frame.Seconds(58)) })
		s.drops("within 60 seconds", out, frame.None)
		if out = s.after(len(s.records), func() { s.Advance(frame.Seconds(3)) }); first {
			s.answers("after 60 seconds", out, s.a, frame.ICMPv6TimeExceeded, 1)
		} else {
			s.drops("without the first fragment", out, frame.None)
		}
	}
}

// Neighbor discovery in fragments is ignored, put together or not.
func TestRFC6980_5_Fragments(t *testing.T) {
	s := newSix(t)
	p := s.solicitation(s.a, s.gateway)
	p.DstMAC, p.Dst6 = s.gwMAC, s.gateway
	f := &frame.Frame{}
	f.Reset(p.Raw(), frame.NoPort)
	frame.Parse(f)
	for _, raw := range frame.CutPieces6(f, frame.IPv6Len+8+24, 5) {
		s.drops("a solicitation in fragments", s.put(s.a, raw), frame.None)
	}
	if n := s.neighbor(s.a); n.Addr.IsValid() {
		t.Errorf("its sender became a neighbor: %+v", n)
	}
}
