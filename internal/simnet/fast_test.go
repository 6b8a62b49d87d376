package simnet

import (
	"bytes"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// The first packet of a flow makes its entries; the next ones find them. Both leave with the same bytes, out and in, whatever the packet is
// wrapped in.
func TestFastEqualsSlow(t *testing.T) {
	own := frametest.Addr("198.51.100.1")
	for _, c := range []struct {
		name string
		p    frametest.Packet
		wrap func(raw []byte) []byte
	}{
		{name: "UDP", p: frametest.Packet{Payload: []byte("hello")}},
		{name: "UDP without checksum", p: frametest.Packet{Payload: []byte("hello"), NoChecksum: true}},
		{name: "UDP, partial checksum", p: frametest.Packet{Payload: make([]byte, 99), Partial: true}},
		{name: "UDP super-frame", p: frametest.Packet{Payload: make([]byte, 9000), GSO: 1000}},
		{name: "TCP SYN", p: frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, MSS: 1460}},
		{name: "TCP SYN, partial checksum", p: frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, MSS: 9000, Partial: true}},
		{name: "UDP-Lite", p: frametest.Packet{Proto: 136, Payload: make([]byte, 20)}},
		{name: "ICMP echo", p: frametest.Packet{Proto: frame.ICMP, Type: 8, ID: 77, Payload: []byte("ping")}},
		{name: "GRE", p: frametest.Packet{Proto: 47, Payload: make([]byte, 20)}},
		{name: "low TTL", p: frametest.Packet{TTL: 2}},
		{name: "options", p: frametest.Packet{Options: []byte{148, 4, 0, 0}}},
		{name: "DF", p: frametest.Packet{Frag: 0x4000}},
		{name: "padding", p: frametest.Packet{Payload: []byte("x")}, wrap: func(raw []byte) []byte { return append(raw, make([]byte, 17)...) }},
		{name: "priority tag", p: frametest.Packet{Payload: []byte("hello")}, wrap: func(raw []byte) []byte {
			at := frame.VnetLen + 12
			return append(append(bytes.Clone(raw[:at]), 0x81, 0, 0x60, 0), raw[at:]...)
		}},
	} {
		n := play(t, "network 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.8\nhost a 10.0.0.2 port 1\na > 10.0.0.1 ping\n")
		a, o := n.host("a"), n.host("o")
		out := c.p
		out.SrcMAC, out.DstMAC, out.Src, out.Dst = a.MAC, gatewayMAC+1<<16, a.Addr, o.Addr
		if out.Proto != frame.ICMP {
			out.SrcPort, out.DstPort = 5000, 7
		}
		send := func(from, to *Host, p frametest.Packet) []byte {
			raw := p.Raw()
			if c.wrap != nil && from == a {
				raw = c.wrap(raw)
			}
			to.inbox = nil
			n.Inject(from, raw)
			if len(to.inbox) != 1 {
				t.Fatalf("%s: %d frames came of one; drops %v", c.name, len(to.inbox), n.DP.Drops())
			}
			return to.inbox[0]
		}
		slow := send(a, o, out)
		for range 3 {
			if fast := send(a, o, out); !bytes.Equal(slow, fast) {
				t.Errorf("%s, out: the first packet left as\n%x\nthe next one as\n%x", c.name, slow, fast)
			}
		}
		if out.Proto == frame.TCP {
			continue
		}
		var f frame.Frame
		f.Reset(bytes.Clone(slow), uplinkPort)
		frame.Parse(&f)
		back := c.p
		back.SrcMAC, back.DstMAC, back.Src, back.Dst, back.SrcPort, back.DstPort = peerMAC, uplinkMAC, o.Addr, own, f.Tuple.DstPort, f.Tuple.SrcPort
		if back.Proto == frame.ICMP {
			back.Type, back.ID = 0, f.Tuple.SrcPort
		}
		first := send(o, a, back)
		for range 3 {
			if next := send(o, a, back); !bytes.Equal(first, next) {
				t.Errorf("%s, in: the first answer came as\n%x\nthe next one as\n%x", c.name, first, next)
			}
		}
	}
}
