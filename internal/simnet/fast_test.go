package simnet

import (
	"bytes"
	"cmp"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// The first packet of a flow makes its entries; the next ones find them. Both leave with the same bytes, out and in, whatever the packet is
// wrapped in, of both families.
func TestFastEqualsSlow(t *testing.T) {
	padding := func(raw []byte) []byte { return append(raw, make([]byte, 17)...) }
	for _, c := range []struct {
		name  string
		p     frametest.Packet
		only4 bool
		wrap  func(raw []byte) []byte // of what the container sends; both: of the answers, too
		both  bool
		cut   int // length of the first fragment's payload behind the IP header, a multiple of 8; 0: whole
	}{
		{name: "UDP", p: frametest.Packet{Payload: []byte("hello")}},
		{name: "UDP without checksum", p: frametest.Packet{Payload: []byte("hello"), NoChecksum: true}, only4: true},
		{name: "UDP, partial checksum", p: frametest.Packet{Payload: make([]byte, 99), Partial: true}},
		{name: "UDP super-frame", p: frametest.Packet{Payload: make([]byte, 9000), GSO: 1000}},
		{name: "UDP in two fragments", p: frametest.Packet{Payload: bytes.Repeat([]byte("abcdefgh"), 40)}, cut: 160},
		{name: "UDP in two fragments, padded", p: frametest.Packet{Payload: bytes.Repeat([]byte("abcdefgh"), 4)}, cut: 16, wrap: padding, both: true},
		{name: "TCP SYN", p: frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, MSS: 1460}},
		{name: "TCP SYN, partial checksum", p: frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, MSS: 9000, Partial: true}},
		{name: "UDP-Lite", p: frametest.Packet{Proto: 136, Payload: make([]byte, 20)}},
		{name: "ICMP echo", p: frametest.Packet{Proto: frame.ICMP, Type: 8, ID: 77, Payload: []byte("ping")}},
		{name: "ICMP echo in two fragments", p: frametest.Packet{Proto: frame.ICMP, Type: 8, ID: 77, Payload: make([]byte, 400)}, cut: 200},
		{name: "GRE", p: frametest.Packet{Proto: 47, Payload: make([]byte, 20)}},
		{name: "low TTL", p: frametest.Packet{TTL: 2}},
		{name: "options", p: frametest.Packet{Options: []byte{148, 4, 0, 0}}, only4: true},
		{name: "DF", p: frametest.Packet{Frag: 0x4000}, only4: true},
		{name: "padding", p: frametest.Packet{Payload: []byte("x")}, wrap: padding, both: true},
		{name: "padding behind a super-frame", p: frametest.Packet{Payload: make([]byte, 3000), GSO: 1000}, wrap: padding, both: true},
		{name: "priority tag", p: frametest.Packet{Payload: []byte("hello")}, wrap: tagZero},
		{name: "priority tag, fragments", p: frametest.Packet{Payload: make([]byte, 64)}, cut: 32, wrap: tagZero},
		{name: "priority tag, padding", p: frametest.Packet{Payload: []byte("x")}, wrap: func(raw []byte) []byte { return padding(tagZero(raw)) }},
	} {
		for _, over6 := range []bool{false, true} {
			if over6 && c.only4 {
				continue
			}
			name := c.name
			if over6 {
				name += " over IPv6"
			}
			t.Run(name, func(t *testing.T) {
				n, err := run("network 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.8\nhost a 10.0.0.2 port 1\na > 10.0.0.1 ping\n", over6)
				if err != nil {
					t.Fatal(err)
				}
				n.native, n.lenient = over6, true
				a, o := n.host("a"), n.host("o")
				id, left := uint32(0), frame.Frame{} // the first frame of the last packet
				send := func(from, to *Host, p frametest.Packet) []byte {
					id++ // another packet: its fragments are its own
					before := len(n.records)
					for _, raw := range pieces(p, c.cut, id) {
						if c.wrap != nil && (c.both || from == a) {
							raw = c.wrap(raw)
						}
						n.Inject(from, raw)
					}
					var came [][]byte
					for _, r := range n.records[before:] {
						var f frame.Frame
						f.Reset(bytes.Clone(r.raw), r.port)
						if frame.Parse(&f); r.out && r.port == to.Port && f.Flags&(frame.IsIPv4|frame.IsIPv6) != 0 && !f.IsND() {
							came = append(came, f.Raw())
							left.Reset(bytes.Clone(came[0]), to.Port)
							clearID(f.Raw())
						}
					}
					if want := min(c.cut, 1) + 1; len(came) != want {
						t.Fatalf("%d frames came of %d; drops %v", len(came), want, n.DP.Drops())
					}
					return bytes.Join(came, []byte("|"))
				}
				out := c.p
				out.SrcMAC, out.DstMAC, out.Src, out.Dst = a.MAC, gatewayMAC+1<<16, a.Addr, o.Addr
				if out.Proto != frame.ICMP {
					out.SrcPort, out.DstPort = 5000, 7
				}
				if over6 {
					out.Src6, out.Dst6 = six(out.Src), six(out.Dst)
					if out.Proto == frame.ICMP {
						out.Proto, out.Type = frame.ICMPv6, 128
					}
				}
				slow := send(a, o, out)
				frame.Parse(&left)
				source := left.Tuple
				for range 3 {
					if fast := send(a, o, out); !bytes.Equal(slow, fast) {
						t.Errorf("out: the first packet left as\n%x\nthe next one as\n%x", slow, fast)
					}
				}
				if out.Proto == frame.TCP {
					return
				}
				back := c.p
				back.SrcMAC, back.DstMAC, back.Src, back.Dst, back.SrcPort, back.DstPort = peerMAC, uplinkMAC, o.Addr, frametest.Addr("198.51.100.1"), source.DstPort, source.SrcPort
				if over6 {
					back.Src6, back.Dst6 = six(back.Src), six(back.Dst)
				}
				if back.Proto == frame.ICMP {
					back.Type, back.ID = 0, source.SrcPort
					if over6 {
						back.Proto, back.Type = frame.ICMPv6, 129
					}
				}
				first := send(o, a, back)
				for range 3 {
					if next := send(o, a, back); !bytes.Equal(first, next) {
						t.Errorf("in: the first answer came as\n%x\nthe next one as\n%x", first, next)
					}
				}
			})
		}
	}
}

// tagZero puts an 802.1Q tag with VLAN identifier 0 into a frame.
func tagZero(raw []byte) []byte {
	at := frame.VnetLen + 12
	return append(append(bytes.Clone(raw[:at]), 0x81, 0, 0x60, 0), raw[at:]...)
}

// pieces is a packet with this identification, in two fragments if cut is not 0.
func pieces(p frametest.Packet, cut int, id uint32) [][]byte {
	if p.IPID = uint16(id); cut == 0 {
		return [][]byte{p.Raw()}
	}
	raw := p.Raw()
	header := frame.VnetLen + frame.EthernetLen + frame.IPv4Len
	if p.Src6 != (frame.Addr6{}) {
		header = frame.VnetLen + frame.EthernetLen + frame.IPv6Len
	}
	l4 := raw[header:]
	p.Proto = cmp.Or(p.Proto, frame.UDP)
	first, later := p, p
	first.Payload, first.Frag = l4[:cut], 0x2000
	later.Payload, later.Frag = l4[cut:], uint16(cut/8)
	if p.Src6 == (frame.Addr6{}) {
		return [][]byte{rawFragment(first), rawFragment(later)}
	}
	var out [][]byte
	for _, q := range []frametest.Packet{first, later} {
		q.Ext, q.Next, q.Proto = fragmentHeader(p.Proto, int(q.Frag&0x1fff)*8, q.Frag&0x2000 != 0, id), fragmented, 253 // as in rawFragment
		q.Frag = 0
		out = append(out, q.Raw())
	}
	return out
}

// clearID takes what differs between two packets out of a frame: the identification, and the checksum of IPv4's header.
func clearID(raw []byte) {
	ip := raw[frame.VnetLen+frame.EthernetLen:]
	if ip[0]>>4 == 4 {
		clear(ip[4:6])
		clear(ip[10:12])
	} else if ip[6] == fragmented {
		clear(ip[44:48])
	}
}
