package frame_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

var (
	alice = frametest.Addr("10.0.0.2")
	bob   = frametest.Addr("10.0.0.3")
)

func with(raw []byte, at int, b ...byte) []byte {
	raw = bytes.Clone(raw)
	copy(raw[frame.VnetLen+at:], b)
	return raw
}

func parsed(raw []byte) *frame.Frame {
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	return &f
}

func TestParse(t *testing.T) {
	udp := frametest.Packet{Src: alice, Dst: bob, SrcPort: 1000, DstPort: 53, Payload: []byte("hi")}.Raw()
	tcp := frametest.Packet{Proto: frame.TCP, Src: alice, Dst: bob, SrcPort: 1000, DstPort: 80, Payload: []byte("hi")}.Raw()
	super := frametest.Packet{Proto: frame.TCP, Src: alice, Dst: bob, GSO: 1448, Payload: make([]byte, 20000)}.Raw()
	vlan := append(bytes.Clone(udp[:frame.VnetLen+12]), append([]byte{0x81, 0, 0, 7}, udp[frame.VnetLen+12:]...)...)
	ip := frame.EthernetLen
	l4 := ip + frame.IPv4Len
	tests := []struct {
		name  string
		raw   []byte
		why   frame.Reason // a drop
		bad   frame.Reason // malformed for the router
		flags frame.Flags
	}{
		{name: "udp", raw: udp, flags: frame.IsIPv4 | frame.HasTuple},
		{name: "tcp super-frame", raw: super, flags: frame.IsIPv4 | frame.HasTuple},
		{name: "vlan", raw: vlan, flags: frame.IsIPv4 | frame.HasTuple | frame.HasVLAN},
		{name: "arp", raw: frametest.ARP(frame.BroadcastMAC, 0x020000000001, 1, alice, bob), flags: frame.IsARP},
		{name: "empty", raw: make([]byte, frame.VnetLen), why: frame.Runt},
		{name: "runt", raw: udp[:frame.VnetLen+13], why: frame.Runt},
		{name: "no header at all", raw: udp[:3], why: frame.Runt},
		{name: "group source", raw: with(udp, 6, 1), why: frame.BadSourceMAC},
		{name: "zero source", raw: with(udp, 6, 0, 0, 0, 0, 0, 0), why: frame.BadSourceMAC},
		{name: "ip version", raw: with(udp, ip, 0x55), bad: frame.MalformedPacket},
		{name: "ihl too small", raw: with(udp, ip, 0x44), bad: frame.MalformedPacket},
		{name: "ihl beyond the packet", raw: with(udp, ip, 0x4f), bad: frame.MalformedPacket},
		{name: "total length beyond the frame", raw: with(udp, ip+2, 0xff), bad: frame.MalformedPacket},
		{name: "cut in the ip header", raw: udp[:frame.VnetLen+ip+19], bad: frame.MalformedPacket},
		{name: "udp length beyond the packet", raw: with(udp, l4+4, 0xff), bad: frame.MalformedPacket, flags: frame.IsIPv4},
		{name: "tcp data offset too small", raw: with(tcp, l4+12, 0x40), bad: frame.MalformedPacket, flags: frame.IsIPv4},
		{name: "tcp data offset beyond", raw: with(tcp, l4+12, 0xf0), bad: frame.MalformedPacket, flags: frame.IsIPv4},
		{name: "cut arp", raw: frametest.ARP(frame.BroadcastMAC, 0x020000000001, 1, alice, bob)[:40], bad: frame.MalformedPacket},
		{name: "first fragment", raw: with(udp, ip+6, 0x20), flags: frame.IsIPv4 | frame.HasTuple | frame.Fragment},
		{name: "later fragment", raw: with(udp, ip+6, 0, 9), flags: frame.IsIPv4 | frame.Fragment},
		{name: "csum beyond the frame", raw: vnet(udp, frame.VnetNeedsCsum, 0, 0, 40, 100), why: frame.BadVnetHeader},
		{name: "csum in the MACs", raw: vnet(udp, frame.VnetNeedsCsum, 0, 0, 4, 2), why: frame.BadVnetHeader},
		{name: "gso without size", raw: vnet(tcp, frame.VnetNeedsCsum, frame.GSOTCPv4, 0, 34, 16), why: frame.BadVnetHeader},
		{name: "gso of 1 byte", raw: vnet(tcp, frame.VnetNeedsCsum, frame.GSOTCPv4, 1, 34, 16), why: frame.BadVnetHeader},
		{name: "gso of 47 bytes", raw: vnet(tcp, frame.VnetNeedsCsum, frame.GSOTCPv4, 47, 34, 16), why: frame.BadVnetHeader},
		{name: "gso of 48 bytes", raw: vnet(tcp, frame.VnetNeedsCsum, frame.GSOTCPv4, 48, 34, 16), flags: frame.IsIPv4 | frame.HasTuple},
		{name: "1025 segments", raw: tso(1025), why: frame.BadVnetHeader},
		{name: "1024 segments", raw: tso(1024), flags: frame.IsIPv4 | frame.HasTuple},
		{name: "129 datagrams", raw: uso(129), why: frame.BadVnetHeader},
		{name: "128 datagrams", raw: uso(128), flags: frame.IsIPv4 | frame.HasTuple},
		{name: "gso without csum", raw: vnet(tcp, 0, frame.GSOTCPv4, 100, 34, 16), why: frame.BadVnetHeader},
		{name: "gso csum elsewhere", raw: vnet(tcp, frame.VnetNeedsCsum, frame.GSOTCPv4, 100, 34, 6), why: frame.BadVnetHeader},
		{name: "unknown gso", raw: vnet(tcp, frame.VnetNeedsCsum, 9, 100, 34, 16), why: frame.BadVnetHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f frame.Frame
			allocs := testing.AllocsPerRun(10, func() {
				f.Reset(tt.raw, 1)
				frame.Parse(&f)
			})
			if allocs != 0 {
				t.Errorf("%v allocations", allocs)
			}
			if f.Reason != tt.why || f.Malformed != tt.bad {
				t.Errorf("dropped for %v, malformed %v; want %v, %v", f.Reason, f.Malformed, tt.why, tt.bad)
			}
			if tt.why == frame.None && f.Flags != tt.flags {
				t.Errorf("flags %b, want %b", f.Flags, tt.flags)
			}
		})
	}
}

func vnet(raw []byte, flags, gso uint8, size, start, off uint16) []byte {
	raw = bytes.Clone(raw)
	frame.VnetHdr(raw).Set(flags, gso, 0, size, start, off)
	return raw
}

// tso is a super-frame of so many TCP segments of 50 bytes.
func tso(segments int) []byte {
	return frametest.Packet{Proto: frame.TCP, Src: alice, Dst: bob, SrcPort: 1000, DstPort: 80, GSO: 50, Payload: make([]byte, 50*segments)}.Raw()
}

// uso is a super-frame of so many UDP datagrams of 100 bytes.
func uso(datagrams int) []byte {
	return frametest.Packet{Src: alice, Dst: bob, SrcPort: 1000, DstPort: 53, GSO: 100, Payload: make([]byte, 100*datagrams)}.Raw()
}

// A frame without its priority tag is as if it had come without one.
func TestDropPriorityTag(t *testing.T) {
	six := frametest.Packet{Src6: frametest.Addr6("fd00::1"), Dst6: frametest.Addr6("fd00::2"), SrcPort: 1, DstPort: 2, Payload: make([]byte, 40)}
	with := func(p frametest.Packet, next uint8, ext ...byte) frametest.Packet {
		p.Next, p.Ext = next, ext
		return p
	}
	four := frametest.Packet{Src: alice, Dst: bob, SrcPort: 1, DstPort: 2, Payload: make([]byte, 40)}
	later, partial := four, four
	later.Frag, partial.Partial = 5, true
	for i, p := range []frametest.Packet{
		four, later, partial, {Src: alice, Dst: bob, GSO: 1400, Proto: frame.TCP, Payload: make([]byte, 9000)}, six, with(six, 60, 17, 0, 1, 4, 0, 0, 0, 0),
		with(six, 44, 17, 0, 0, 1, 0, 0, 0, 9), with(six, 44, 17, 0, 0, 8, 0, 0, 0, 9), with(six, 44, 17, 0, 0, 0, 0, 0, 0, 9), with(six, 60, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 9, 0, 0, 0, 9),
	} {
		plain := p.Raw()
		tagged := append(bytes.Clone(plain[:frame.VnetLen+12]), append([]byte{0x81, 0, 0, 0}, plain[frame.VnetLen+12:]...)...)
		if h := frame.VnetHdr(tagged); h.NeedsCsum() {
			h.Set(h[0], h[1], h.HdrLen()+frame.VLANLen, h.GSOSize(), h.CsumStart()+frame.VLANLen, h.CsumOffset())
		}
		var got, want frame.Frame
		got.Reset(tagged, 1)
		want.Reset(plain, 1)
		frame.Parse(&got)
		frame.Parse(&want)
		if got.Flags&frame.HasPriority == 0 {
			t.Fatalf("packet %d has no tag", i)
		}
		got.DropPriorityTag()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("packet %d: %+v, want %+v", i, got, want)
		}
	}
}

// A partial checksum is written to where the transport header has it, or into what a tunnel carries. Elsewhere it would change what was looked at.
func TestPartialChecksumElsewhere(t *testing.T) {
	a, b := frametest.Addr6("fe80::1"), frametest.Addr6("fe80::2")
	v4, v6 := uint16(frame.EthernetLen+frame.IPv4Len), uint16(frame.EthernetLen+frame.IPv6Len)
	payload := make([]byte, 60)
	four := func(proto uint8) frametest.Packet {
		return frametest.Packet{Src: alice, Dst: bob, Proto: proto, SrcPort: 1000, DstPort: 53, Payload: payload}
	}
	six := frametest.Packet{Src6: a, Dst6: b, Proto: frame.ICMPv6, Type: 136, Payload: payload}
	fragment := four(frame.UDP)
	fragment.Frag = 0x2000
	for name, tt := range map[string]struct {
		p             frametest.Packet
		gso           uint8
		start, offset uint16
		ok            bool
	}{
		"UDP":                        {four(frame.UDP), 0, v4, 6, true},
		"UDP, over its port":         {four(frame.UDP), 0, v4, 2, false},
		"UDP, header in the way":     {four(frame.UDP), 0, v4 + 2, 4, false},
		"TCP":                        {four(frame.TCP), 0, v4, 16, true},
		"TCP, over its flags":        {four(frame.TCP), 0, v4, 12, false},
		"ICMPv6":                     {six, 0, v6, 2, true},
		"ICMPv6, over its type":      {six, 0, v6, 0, false},
		"ICMPv6, over its target":    {six, 0, v6 + 22, 0, false},
		"ICMP":                       {four(frame.ICMP), 0, v4, 2, false},
		"ICMP, over what it quotes":  {four(frame.ICMP), 0, v4 + 28, 0, false},
		"a fragment":                 {fragment, 0, v4, 6, false},
		"inside VXLAN":               {four(frame.UDP), 0, v4 + 8 + 8 + 14 + 20, 6, true},
		"inside GRE":                 {four(frame.GRE), 0, v4 + 4 + 20, 6, true},
		"GRE itself":                 {four(frame.GRE), 0, v4, 2, false},
		"super-frame in a tunnel":    {four(frame.UDP), frame.GSOTCPv4, v4 + 8 + 8 + 14 + 0, 16, false},
		"segments of another family": {four(frame.TCP), frame.GSOTCPv6, v4, 16, false},
		"segments of another header": {four(frame.UDP), frame.GSOTCPv4, v4, 16, false},
	} {
		raw := tt.p.Raw()
		size := uint16(0)
		if tt.gso != 0 {
			size = 1000
		}
		frame.VnetHdr(raw).Set(frame.VnetNeedsCsum, tt.gso, 0, size, tt.start, tt.offset)
		var f frame.Frame
		f.Reset(raw, 1)
		if frame.Parse(&f); (f.Reason == frame.None) != tt.ok || !tt.ok && f.Reason != frame.BadVnetHeader {
			t.Errorf("%s: %s", name, f.Reason.Info().Name)
		}
	}
}

// A tuple and its reverse belong together, for ICMP too: what the answer carries is the question turned round.
func TestICMPTuple(t *testing.T) {
	for _, types := range [][2]uint8{{8, 0}, {13, 14}, {17, 18}} {
		q := parsed(frametest.Packet{Proto: frame.ICMP, Type: types[0], ID: 77, Src: alice, Dst: bob}.Raw())
		a := parsed(frametest.Packet{Proto: frame.ICMP, Type: types[1], ID: 77, Src: bob, Dst: alice}.Raw())
		if q.Tuple.Reverse() != a.Tuple {
			t.Errorf("type %d: %v and %v do not belong together", types[0], q.Tuple, a.Tuple)
		}
	}
}

func TestDeltaEqualsFullSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 20, 64).Draw(t, "bytes")
		if len(b)%2 == 1 {
			b = b[1:]
		}
		at := rapid.IntRange(0, (len(b)-4)/2).Draw(t, "at") * 2
		to := rapid.Uint32().Draw(t, "to")
		before := frame.Sum(b, 0)
		d := frame.Delta32(binary.BigEndian.Uint32(b[at:]), to)
		binary.BigEndian.PutUint32(b[at:], to)
		after := frame.Sum(b, 0)
		if got := ^d.Complete(^before); got%0xffff != after%0xffff {
			t.Fatalf("complete: %#x, want %#x", got, after)
		}
		if got := d.Partial(before); got%0xffff != after%0xffff {
			t.Fatalf("partial: %#x, want %#x", got, after)
		}
		if back := (^d).Partial(after); back%0xffff != before%0xffff {
			t.Fatalf("back: %#x, want %#x", back, before)
		}
	})
}

func TestSumAgainstWords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes")
		sum := uint32(0)
		for i, v := range b {
			sum += uint32(v) << (8 * (1 - i%2))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		if got := frame.Sum(b, 0); got != uint16(sum) {
			t.Fatalf("%#x, want %#x", got, sum)
		}
	})
}

// Segmentation is judged by gopacket and by the stream: the segments' payloads, put together, are the super-frame's.
func TestSegments(t *testing.T) {
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		for _, size := range []int{1, 1448, 1449, 4000, 40000} {
			payload := make([]byte, size)
			for i := range payload {
				payload[i] = byte(i * 7)
			}
			f := parsed(frametest.Packet{Proto: proto, Src: alice, Dst: bob, SrcPort: 5, DstPort: 6, GSO: 1448, Flags: frame.FlagACK | frame.FlagPSH, Payload: payload}.Raw())
			before := bytes.Clone(f.Raw())
			var got []byte
			buf := make([]byte, frame.MaxFrame)
			n := 0
			for s := frame.NewSegments(f); s.Next(buf); n++ {
				raw := append(make([]byte, frame.VnetLen), s.Bytes()...)
				if err := frametest.Check(raw); err != nil {
					t.Fatalf("proto %d size %d segment %d: %v", proto, size, n, err)
				}
				p := gopacket.NewPacket(s.Bytes(), layers.LayerTypeEthernet, gopacket.Default)
				if p.ErrorLayer() != nil {
					t.Fatal(p.ErrorLayer().Error())
				}
				if l, ok := p.TransportLayer().(*layers.TCP); ok && l.Seq != 1000+uint32(len(got)) {
					t.Fatalf("sequence %d after %d bytes", l.Seq, len(got))
				}
				got = append(got, p.TransportLayer().LayerPayload()...)
			}
			if want := (size + 1447) / 1448; n != want {
				t.Errorf("proto %d, %d bytes: %d segments, want %d", proto, size, n, want)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("proto %d, %d bytes: the payload is not what was sent", proto, size)
			}
			if !bytes.Equal(before, f.Raw()) {
				t.Error("the super-frame itself was changed")
			}
		}
	}
}

// A super-frame that a NIC has joined (LRO) has a checksum that was checked, and that is not its own. It becomes a usual super-frame.
func TestSuperFrameOfLRO(t *testing.T) {
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		p := frametest.Packet{Proto: proto, Src: alice, Dst: bob, SrcPort: 5, DstPort: 6, GSO: 1448, Flags: frame.FlagACK, Payload: make([]byte, 9000)}
		want := p.Raw()
		h := frame.VnetHdr(want)
		lro := bytes.Clone(want)
		frame.VnetHdr(lro).Set(frame.VnetDataValid, h[1], 0, h.GSOSize(), 0, 0)
		binary.BigEndian.PutUint16(lro[frame.VnetLen+h.CsumStart()+h.CsumOffset():], 0xbeef)
		for _, tag := range [][]byte{nil, {0x81, 0, 0, 0}} {
			raw, whole := slices.Insert(bytes.Clone(lro), frame.VnetLen+12, tag...), slices.Insert(bytes.Clone(want), frame.VnetLen+12, tag...)
			if f := parsed(raw); f.Verdict == frame.Drop || f.Malformed != frame.None || !bytes.Equal(raw[frame.VnetLen:], whole[frame.VnetLen:]) {
				t.Errorf("protocol %d: %v %v\n%x\n%x", proto, f.Reason, f.Malformed, raw[:80], whole[:80])
			}
			got := frame.VnetHdr(raw)
			if !got.NeedsCsum() || got.GSOType() != h.GSOType() || got.GSOSize() != 1448 || int(got.CsumStart()) != int(h.CsumStart())+len(tag) || got.CsumOffset() != h.CsumOffset() {
				t.Errorf("protocol %d: virtio-net header %x, want %x", proto, raw[:10], want[:10])
			}
		}
		for n := frame.EthernetLen; n < 80; n++ { // cut off anywhere, under tags or not
			short := append(bytes.Clone(lro[:frame.VnetLen+12]), 0x81, 0, 0, 0, 0x81, 0, 0, 0)
			parsed(append(short, lro[frame.VnetLen+12:]...)[:frame.VnetLen+n])
			parsed(bytes.Clone(lro[:frame.VnetLen+n]))
		}
		frame.VnetHdr(lro).Set(0, h[1], 0, h.GSOSize(), 0, 0)
		if f := parsed(lro); f.Reason != frame.BadVnetHeader {
			t.Errorf("without a checksum that was checked: %v", f.Reason)
		}
	}
}

func TestSegmentsCompletePartialChecksum(t *testing.T) {
	f := parsed(frametest.Packet{Src: alice, Dst: bob, SrcPort: 5, DstPort: 6, Partial: true, Payload: []byte("x")}.Raw())
	buf := make([]byte, frame.MaxFrame)
	s := frame.NewSegments(f)
	if !s.Next(buf) {
		t.Fatal("no frame")
	}
	if err := frametest.Check(append(make([]byte, frame.VnetLen), s.Bytes()...)); err != nil {
		t.Error(err)
	}
	if s.Next(buf) {
		t.Error("more than one frame")
	}
}

// FuzzParse: no panic, no change but the checksum of a super-frame of LRO, no offset outside the frame, and where gopacket reads a
// tuple it is the same.
func FuzzParse(f *testing.F) {
	f.Add(frametest.Packet{Src: alice, Dst: bob, SrcPort: 1, DstPort: 2}.Raw())
	f.Add(frametest.Packet{Proto: frame.TCP, Src: alice, Dst: bob, GSO: 100, Payload: make([]byte, 300)}.Raw())
	f.Add(frametest.Packet{Proto: frame.ICMP, Type: 3, Src: alice, Dst: bob, Payload: frametest.Quote(frametest.Packet{Src: bob, Dst: alice}.Raw(), 8)}.Raw())
	f.Add(frametest.ARP(frame.BroadcastMAC, 1, 1, alice, bob))
	lro := frametest.Packet{Proto: frame.TCP, Src: alice, Dst: bob, GSO: 100, Payload: make([]byte, 300)}.Raw()
	lro[0] = frame.VnetDataValid
	f.Add(lro)
	f.Fuzz(func(t *testing.T, input []byte) {
		raw := bytes.Clone(input) // a fuzz target may not change its input
		fr := parsed(raw)
		if !bytes.Equal(input, raw) {
			changedForLRO(t, input, raw)
		}
		if fr.Verdict == frame.Drop {
			return
		}
		if fr.Flags&frame.IsIPv4 != 0 && (int(fr.L3End) > fr.Len() || uint32(fr.L4) > fr.L3End || fr.L4 < fr.L3+frame.IPv4Len) {
			t.Fatalf("offsets %d %d %d in a frame of %d", fr.L3, fr.L4, fr.L3End, fr.Len())
		}
		buf := make([]byte, frame.MaxFrame)
		if fr.Len() <= frame.MaxFrame {
			for s, n := frame.NewSegments(fr), 0; s.Next(buf) && n < 100; n++ {
				_ = s.Bytes()
			}
		}
		if fr.Flags&frame.ICMPError != 0 {
			q, at, ok := frame.Quoted(fr.Payload())
			q6, at6, ok6 := frame.Quoted6(fr.Payload())
			for _, x := range []struct {
				ok    bool
				proto uint8
				at    int
			}{{ok, q.Proto, at}, {ok6, q6.Proto, at6}} {
				if left := len(fr.Payload()) - x.at; x.ok && (left < 0 || left < 8 && (x.proto == frame.TCP || x.proto == frame.UDP || x.proto == frame.ICMP)) {
					t.Fatalf("quote of protocol %d at %d of %d", x.proto, x.at, len(fr.Payload()))
				}
			}
		}
		compareWithGopacket(t, fr)
	})
}

// changedForLRO fails unless Parse changed what a super-frame of LRO lacks: its virtio-net header, and its transport checksum.
func changedForLRO(t *testing.T, before, after []byte) {
	t.Helper()
	h := frame.VnetHdr(after)
	if before[0]&(frame.VnetNeedsCsum|frame.VnetDataValid) != frame.VnetDataValid || before[1] == frame.GSONone || !h.NeedsCsum() {
		t.Fatal("Parse changed a frame that is not of LRO")
	}
	before, sum := bytes.Clone(before), frame.VnetLen+int(h.CsumStart())+int(h.CsumOffset())
	copy(before, after[:frame.VnetLen])
	copy(before[sum:], after[sum:sum+2])
	if !bytes.Equal(before, after) {
		t.Fatal("Parse changed more than the header and the checksum")
	}
}

func compareWithGopacket(t *testing.T, fr *frame.Frame) {
	if fr.Flags&(frame.HasTuple|frame.IsIPv4|frame.HasVLAN|frame.Fragment) != frame.HasTuple|frame.IsIPv4 || fr.Malformed != frame.None {
		return
	}
	defer func() { _ = recover() }() // gopacket's decoders panic on some input
	p := gopacket.NewPacket(fr.Bytes(), layers.LayerTypeEthernet, gopacket.NoCopy)
	ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !ok {
		return
	}
	if frame.AddrFrom(addr(ip.SrcIP)) != fr.Tuple.Src || frame.AddrFrom(addr(ip.DstIP)) != fr.Tuple.Dst || uint8(ip.Protocol) != fr.Proto {
		t.Errorf("gopacket reads %s > %s %v, Parse %v", ip.SrcIP, ip.DstIP, ip.Protocol, fr.Tuple)
	}
	if fr.Proto != frame.UDP { // gopacket finds UDP behind a hop-by-hop header of IPv6 in IPv4, too
		return
	}
	if u, ok := p.TransportLayer().(*layers.UDP); ok && (uint16(u.SrcPort) != fr.Tuple.SrcPort || uint16(u.DstPort) != fr.Tuple.DstPort) {
		t.Errorf("gopacket reads ports %d > %d, Parse %v", u.SrcPort, u.DstPort, fr.Tuple)
	}
}

func TestReasonsHaveWords(t *testing.T) {
	seen := map[string]bool{}
	for r := frame.Reason(1); r < frame.NumReasons; r++ {
		i := r.Info()
		if i.Name == "" || i.Meaning == "" || i.Remedy == "" || seen[i.Name] {
			t.Errorf("reason %d: %+v is not complete or not unique", r, i)
		}
		seen[i.Name] = true
	}
}

func BenchmarkParse(b *testing.B) {
	raw := frametest.Packet{Proto: frame.TCP, Src: alice, Dst: bob, GSO: 1448, Payload: make([]byte, 20000)}.Raw()
	var f frame.Frame
	b.ReportAllocs()
	for b.Loop() {
		f.Reset(raw, 1)
		frame.Parse(&f)
	}
}

// TestQuotedShort checks how much of a packet an ICMP error must quote: eight bytes of a header with ports, and none of other protocols (RFC 792).
func TestQuotedShort(t *testing.T) {
	const unknown = 254
	for _, x := range []struct {
		proto uint8
		bytes int
		want  bool
	}{{unknown, 0, true}, {unknown, 3, true}, {frame.UDP, 7, false}, {frame.UDP, 8, true}, {frame.TCP, 7, false}, {frame.TCP, 8, true}} {
		four := make([]byte, frame.ICMPLen+frame.IPv4Len+x.bytes)
		four[0] = frame.ICMPUnreachable
		four[frame.ICMPLen], four[frame.ICMPLen+9] = 0x45, x.proto
		if q, at, ok := frame.Quoted(four); ok != x.want || ok && (at != len(four)-x.bytes || q.Proto != x.proto) {
			t.Errorf("IPv4, %d bytes of protocol %d: %v, %v at %d", x.bytes, x.proto, ok, q, at)
		}
		six := make([]byte, frame.ICMPLen+frame.IPv6Len+x.bytes)
		six[0] = 1 // unreachable
		six[frame.ICMPLen], six[frame.ICMPLen+6] = 0x60, x.proto
		if q, at, ok := frame.Quoted6(six); ok != x.want || ok && (at != len(six)-x.bytes || q.Proto != x.proto) {
			t.Errorf("IPv6, %d bytes of protocol %d: %v, %v at %d", x.bytes, x.proto, ok, q, at)
		}
	}
}
