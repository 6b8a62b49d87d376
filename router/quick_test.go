package router_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
)

// An oracle answers each question to port 53 with its text and more, as far as there is room.
type oracle struct {
	router.Service
	more string
}

func (o oracle) Quick(_ frame.PortID, _ frame.NetID, port uint16, question []byte, limit int) int {
	n := len(question) + len(o.more)
	if port != 53 || n > limit || n > cap(question) {
		return 0
	}
	copy(question[len(question):n], o.more)
	return n
}

// A question that the service answers at once goes back as its answer, sound in every header. All others are left to the slow path.
func TestServe(t *testing.T) {
	gw6, host6 := frametest.Addr6("fd00::1"), frametest.Addr6("fd00::2")
	question := frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: hostA, Dst: gw, SrcPort: 4000, DstPort: 53, TTL: 3, Payload: []byte("who?")}
	question6 := question
	question6.Src, question6.Dst, question6.Src6, question6.Dst6 = 0, 0, host6, gw6
	edit := func(p frametest.Packet, f func(*frametest.Packet)) []byte { f(&p); return p.Raw() }
	for name, tt := range map[string]struct {
		raw    []byte
		room   int
		more   string
		answer bool
	}{
		"IPv4":                     {question.Raw(), 100, " me", true},
		"IPv6":                     {question6.Raw(), 100, " me", true},
		"an odd length":            {question.Raw(), 100, " it's", true},
		"with padding":             {append(question.Raw(), make([]byte, 14)...), 0, " a long answer", true},
		"without a checksum":       {edit(question, func(p *frametest.Packet) { p.NoChecksum = true }), 100, " me", true},
		"IPv6 without a checksum":  {edit(question6, func(p *frametest.Packet) { p.NoChecksum = true }), 100, " me", false},
		"a class":                  {class(question.Raw()), 100, " me", true},
		"a checksum left to us":    {edit(question6, func(p *frametest.Packet) { p.Partial = true }), 100, " me", true},
		"a shorter answer":         {question.Raw(), 0, "", true},
		"no room":                  {question.Raw(), 2, " me", false},
		"longer than the MTU":      {question.Raw(), 2000, string(make([]byte, 1500)), false},
		"another port":             {edit(question, func(p *frametest.Packet) { p.DstPort = 54 }), 100, " me", false},
		"a wrong checksum":         {flip(question.Raw(), -1), 100, " me", false},
		"a fragment":               {edit(question, func(p *frametest.Packet) { p.Frag = 0x2000 }), 100, " me", false},
		"IP options":               {edit(question, func(p *frametest.Packet) { p.Options = []byte{1, 1, 1, 0} }), 100, " me", false},
		"another protocol":         {edit(question, func(p *frametest.Packet) { p.Proto, p.Flags = frame.TCP, frame.FlagSYN }), 100, " me", false},
		"behind extension headers": {edit(question6, func(p *frametest.Packet) { p.Next, p.Ext = 60, []byte{17, 0, 1, 4, 0, 0, 0, 0} }), 100, " me", false},
	} {
		r := newRouter()
		r.SetInterface(router.Interface{Net: 1, Addr: gw, Prefix: netip.MustParsePrefix("10.0.0.0/24"), Addr6: gw6, Prefix6: netip.MustParsePrefix("fd00::/64"), MAC: gwMAC, MTU: 1500})
		r.SetService(oracle{more: tt.more})
		b := frametest.Batch(3, 1, append(make([]byte, 0, len(tt.raw)+tt.room), tt.raw...))
		f := &b.Frames[0]
		f.Net, f.Verdict = 1, frame.Local
		f.RouteDst = f.Tuple.Dst
		r.Route(b)
		if f.Verdict != frame.Punt || f.Reason != frame.GatewayService {
			t.Fatalf("%s: not for the gateway: %v %v", name, f.Verdict, f.Reason)
		}
		before := bytes.Clone(f.Raw())
		r.Serve(b)
		if !tt.answer {
			if f.Verdict != frame.Punt || !bytes.Equal(before, f.Raw()) {
				t.Errorf("%s: answered: %v %x", name, f.Verdict, f.Raw())
			}
			continue
		}
		if f.Verdict != frame.ToPort || f.Out != 3 {
			t.Errorf("%s: %v to port %d", name, f.Verdict, f.Out)
			continue
		}
		if err := frametest.Check(f.Raw()); err != nil {
			t.Errorf("%s: %v: %x", name, err, f.Raw())
		}
		var g frame.Frame
		g.Reset(f.Raw(), 1)
		frame.Parse(&g)
		want := "who?" + tt.more
		if g.Tuple.SrcPort != 53 || g.Tuple.DstPort != 4000 || g.Src != gwMAC || g.Dst != hostAM || string(g.UDP()[frame.UDPLen:]) != want || int(g.L3End) != g.Len() {
			t.Errorf("%s: %v from %v to %v: %q", name, g.Tuple, g.Src, g.Dst, g.Payload())
		}
		if g.Flags&frame.IsIPv6 != 0 && (g.IPv6().Src() != gw6 || g.IPv6().Dst() != host6 || g.IPv6().HopLimit() != 64) || g.Flags&frame.IsIPv4 != 0 && (g.Tuple.Src != gw || g.Tuple.Dst != hostA || g.IPv4().TTL() != 64) {
			t.Errorf("%s: from %v to %v", name, g.Tuple.Src, g.Tuple.Dst)
		}
		if g.TrafficClass() != 0 {
			t.Errorf("%s: traffic class %d", name, g.TrafficClass())
		}
	}
}

// class is an IPv4 frame with a type of service.
func class(raw []byte) []byte {
	ip := frame.IPv4(raw[frame.VnetLen+frame.EthernetLen:])
	ip[1] = 0xff
	ip.SetWhole(ip.TotalLen())
	return raw
}

// flip is raw with a byte changed, counted from its end.
func flip(raw []byte, at int) []byte {
	raw[len(raw)+at] ^= 0x55
	return raw
}
