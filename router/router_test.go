package router_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
)

const (
	gwMAC  frame.MAC = 0x0200000000fe
	hostAM frame.MAC = 0x020000000001
)

var (
	gw    = frametest.Addr("10.0.0.1")
	hostA = frametest.Addr("10.0.0.2")
	hostB = frametest.Addr("10.0.0.3")
)

func newRouter() *router.Router {
	r := router.New()
	r.SetInterface(router.Interface{Net: 1, Addr: gw, Prefix: netip.MustParsePrefix("10.0.0.0/24"), MAC: gwMAC, MTU: 1500})
	r.SetInterface(router.Interface{Net: 2, Addr: frametest.Addr("10.0.1.1"), Prefix: netip.MustParsePrefix("10.0.1.0/24"), MAC: gwMAC + 1, MTU: 900})
	return r
}

// output records what the slow path does.
type output struct {
	sent, rerouted              [][]byte
	released, consumed, dropped int
	why                         frame.Reason
}

func (o *output) Send(_ frame.NetID, eth []byte) {
	o.sent = append(o.sent, append([]byte(nil), eth...))
}
func (o *output) Reroute(_ router.PuntedFrame, raw []byte)    { o.rerouted = append(o.rerouted, raw) }
func (o *output) Release(router.PuntedFrame)                  { o.released++ }
func (o *output) Consume(router.PuntedFrame)                  { o.consumed++ }
func (o *output) Drop(_ router.PuntedFrame, why frame.Reason) { o.dropped++; o.why = why }
func punted(raw []byte, why frame.Reason) router.PuntedFrame {
	return router.PuntedFrame{In: 1, Net: 1, Why: why, Raw: raw}
}

// The FIB gives the same routes as a linear scan for the longest prefix.
func TestFIBAgainstScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRouter()
		var model []router.Route
		for range rapid.IntRange(1, 30).Draw(t, "routes") {
			a := frame.Addr(rapid.Uint32().Draw(t, "addr"))
			p := netip.PrefixFrom(a.Netip(), rapid.IntRange(1, 32).Draw(t, "bits")).Masked()
			rt := router.Route{Prefix: p, Kind: router.RouteKind(rapid.IntRange(0, 4).Draw(t, "kind")), Egress: frame.NetID(rapid.IntRange(1, 2).Draw(t, "net")), NextHop: a.Netip()}
			if err := r.AddRoute(rt); err != nil {
				t.Fatal(err)
			}
			model = append(model, rt)
		}
		model = append([]router.Route{
			{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Egress: 1}, {Prefix: netip.MustParsePrefix("10.0.1.0/24"), Egress: 2},
		}, model...)
		for range 50 {
			a := frame.Addr(rapid.Uint32().Draw(t, "dst"))
			best, found := router.Route{}, false
			for _, rt := range model { // a later route replaces one to the same prefix
				if rt.Prefix.Contains(a.Netip()) && (!found || rt.Prefix.Bits() >= best.Prefix.Bits()) {
					best, found = rt, true
				}
			}
			if got, ok := r.Lookup(a.Netip()); ok != found || got != best {
				t.Fatalf("%v: %+v %v, the scan says %+v %v", a, got, ok, best, found)
			}
		}
	})
}

func TestRouteVerdicts(t *testing.T) {
	r := newRouter()
	ip := func(p frametest.Packet) []byte {
		p.SrcMAC, p.DstMAC = hostAM, gwMAC
		if p.Src == 0 {
			p.Src = hostA
		}
		return p.Raw()
	}
	other := frametest.Addr("10.0.1.9")
	bad := ip(frametest.Packet{Dst: other})
	bad[frame.VnetLen+frame.EthernetLen+10] ^= 0xff
	for _, tt := range []struct {
		name    string
		raw     []byte
		verdict frame.Verdict
		why     frame.Reason
	}{
		{"another network", ip(frametest.Packet{Dst: other}), frame.Routed, frame.None},
		{"the gateway", ip(frametest.Packet{Dst: gw}), frame.Punt, frame.GatewayService},
		{"another network's gateway", ip(frametest.Packet{Dst: frametest.Addr("10.0.1.1")}), frame.Punt, frame.GatewayService},
		{"nowhere", ip(frametest.Packet{Dst: frametest.Addr("8.8.8.8")}), frame.Punt, frame.NoRoute},
		{"bad checksum", bad, frame.Drop, frame.BadIPChecksum},
		{"ttl 1", ip(frametest.Packet{Dst: other, TTL: 1}), frame.Punt, frame.TTLExceeded},
		{"a source from elsewhere", ip(frametest.Packet{Src: frametest.Addr("9.9.9.9"), Dst: other}), frame.Drop, frame.MartianSource},
		{"land", ip(frametest.Packet{Src: other, Dst: other}), frame.Drop, frame.MartianSource},
		{"loopback", ip(frametest.Packet{Dst: frametest.Addr("127.0.0.1")}), frame.Drop, frame.MartianDestination},
		{"multicast", ip(frametest.Packet{Dst: frametest.Addr("224.0.0.1")}), frame.Drop, frame.MartianDestination},
		{"directed broadcast", ip(frametest.Packet{Dst: frametest.Addr("10.0.1.255")}), frame.Drop, frame.MartianDestination},
		{"loose source route", ip(frametest.Packet{Dst: other, Options: []byte{131, 7, 4, 1, 2, 3, 4, 0}}), frame.Drop, frame.SourceRoute},
		{"record route", ip(frametest.Packet{Dst: other, Options: []byte{7, 7, 4, 0, 0, 0, 0, 0}}), frame.Routed, frame.None},
		{"too long", ip(frametest.Packet{Dst: other, Payload: make([]byte, 1000), Frag: 0x4000}), frame.Punt, frame.FragmentationNeeded},
		{"segments too long", ip(frametest.Packet{Dst: other, Proto: frame.TCP, GSO: 1448, Payload: make([]byte, 5000)}), frame.Punt, frame.FragmentationNeeded},
		{"segments that fit", ip(frametest.Packet{Dst: other, Proto: frame.TCP, GSO: 800, Payload: make([]byte, 5000)}), frame.Routed, frame.None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := frametest.Batch(1, 1, tt.raw)
			f := &b.Frames[0]
			f.Net, f.Verdict, f.RouteDst = 1, frame.Local, f.Tuple.Dst
			if r.Route(b); f.Verdict != tt.verdict || f.Reason != tt.why {
				t.Errorf("verdict %d, %v; want %d, %v", f.Verdict, f.Reason, tt.verdict, tt.why)
			}
			if f.Verdict == frame.Routed {
				if err := frametest.Check(tt.raw); err != nil {
					t.Errorf("after the TTL was lowered: %v", err)
				}
			}
		})
	}
}

func TestResolveAndNeighbors(t *testing.T) {
	r := newRouter()
	o := &output{}
	route := func() *frame.Frame {
		b := frametest.Batch(1, 1, frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: frametest.Addr("10.0.1.5"), Dst: hostB}.Raw())
		f := &b.Frames[0]
		f.Verdict, f.Egress, f.NextHop = frame.Routed, 1, hostB
		r.Resolve(b)
		return f
	}
	f := route()
	if f.Verdict != frame.Punt || f.Reason != frame.NeighborFailed {
		t.Fatalf("unknown neighbor: verdict %d", f.Verdict)
	}
	p := router.PuntedFrame{In: 1, Net: 2, Why: frame.NeighborFailed, Egress: 1, NextHop: hostB.Netip(), Raw: f.Raw()}
	for range 20 {
		r.HandlePunt(p, 10, o)
	}
	if len(o.sent) != 1 || o.dropped != 4 || o.why != frame.NeighborQueueFull {
		t.Fatalf("%d requests, %d dropped for %v; want one request, and 16 of 20 held", len(o.sent), o.dropped, o.why)
	}
	a, ok := gopacket.NewPacket(o.sent[0], layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok || a.Operation != layers.ARPRequest || frame.LoadAddr(a.DstProtAddress) != hostB || frame.LoadAddr(a.SourceProtAddress) != gw {
		t.Fatalf("the request is %+v", a)
	}
	const macB frame.MAC = 0x020000000003
	r.HandlePunt(router.PuntedFrame{In: 2, Net: 1, Why: frame.GatewayService, Raw: frametest.ARP(gwMAC, macB, 2, hostB, gw)}, 11, o)
	if o.released != 16 {
		t.Errorf("%d of 16 went on", o.released)
	}
	if f := route(); f.Verdict != frame.Resolved || f.Dst != macB || f.Src != gwMAC {
		t.Errorf("resolved: verdict %d, %v > %v", f.Verdict, f.Src, f.Dst)
	}
	state := func() router.NeighState { return r.Neighbors()[0].State }
	if state() != router.Reachable {
		t.Errorf("state %v", state())
	}
	now := frame.Tick(12 + 31*frame.TicksPerSecond)
	if r.Tick(now, o); state() != router.Stale {
		t.Errorf("after 31 s: %v", state())
	}
	route() // used while stale: it is solicited and does not answer
	if r.Tick(now+frame.TicksPerSecond, o); state() != router.Delay {
		t.Errorf("after it was used: %v", state())
	}
	for i := range frame.Tick(11) {
		r.Tick(now+(i+2)*frame.TicksPerSecond, o)
	}
	if state() != router.Failed {
		t.Errorf("after it was asked: %v", state())
	}
	if f := route(); f.Verdict != frame.Punt {
		t.Error("a failed neighbor is still used")
	}
}

// The router learns no neighbor from a gratuitous packet or a probe (RFC 5227; the first rule protects from
// spoofing).
func TestARPTeachesOnlyWhoAsks(t *testing.T) {
	r, o := newRouter(), &output{}
	send := func(raw []byte) { r.HandlePunt(punted(raw, frame.GatewayService), 1, o) }
	send(frametest.ARP(frame.BroadcastMAC, hostAM, 1, hostA, hostA)) // gratuitous
	send(frametest.ARP(frame.BroadcastMAC, hostAM, 1, 0, gw))        // probe
	send(frametest.ARP(frame.BroadcastMAC, hostAM, 1, frametest.Addr("9.9.9.9"), gw))
	send(frametest.ARP(frame.BroadcastMAC, hostAM, 1, hostA, hostB))
	if n := r.Neighbors(); len(n) != 0 {
		t.Errorf("learned %+v", n)
	}
	sent := len(o.sent)
	send(frametest.ARP(frame.BroadcastMAC, hostAM, 1, hostA, gw))
	if n := r.Neighbors(); len(n) != 1 || n[0].MAC != hostAM {
		t.Errorf("who asks for the gateway is learned: %+v", n)
	}
	if len(o.sent) != sent+1 {
		t.Error("the gateway did not answer")
	}
	if o.consumed != 5 || o.dropped != 0 {
		t.Errorf("%d consumed, %d dropped", o.consumed, o.dropped)
	}
}

func TestICMPErrors(t *testing.T) {
	r, o := newRouter(), &output{}
	p := frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: hostA, Dst: frametest.Addr("8.8.8.8"), TTL: 1, Payload: make([]byte, 900), Partial: true}
	r.HandlePunt(punted(p.Raw(), frame.TTLExceeded), 1, o)
	if len(o.sent) != 1 || o.dropped != 1 {
		t.Fatalf("%d sent, %d dropped", len(o.sent), o.dropped)
	}
	raw := append(make([]byte, frame.VnetLen), o.sent[0]...)
	if err := frametest.Check(raw); err != nil {
		t.Error(err)
	}
	if len(o.sent[0])-frame.EthernetLen > 576 {
		t.Errorf("%d bytes; RFC 1812 says 576 at most", len(o.sent[0])-frame.EthernetLen)
	}
	never := []frametest.Packet{
		{Proto: frame.ICMP, Type: 3, Payload: frametest.Quote(p.Raw(), 8)},
		{Frag: 9}, {Src: frametest.Addr("127.0.0.1")}, {DstMAC: frame.BroadcastMAC}, {Dst: frametest.Addr("224.0.0.1")},
	}
	for _, q := range never {
		if q.Src == 0 {
			q.Src = hostA
		}
		if q.Dst == 0 {
			q.Dst = hostB
		}
		o.sent = nil
		if r.HandlePunt(punted(q.Raw(), frame.TTLExceeded), 1, o); len(o.sent) != 0 {
			t.Errorf("an error was sent about %+v", q)
		}
	}
	o.sent = nil
	for range 1000 {
		r.HandlePunt(punted(p.Raw(), frame.TTLExceeded), 1, o)
	}
	if len(o.sent) > 200 {
		t.Errorf("%d errors at once: not limited", len(o.sent))
	}
}

// A route in the place of an interface's own route stays while the interface changes: packets of an uplink of kind host must not take another way.
func TestRouteStaysWhileInterfaceChanges(t *testing.T) {
	r := router.New()
	up := router.Interface{Net: frame.NoNet, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Prefix6: netip.MustParsePrefix("::/0"), Up: true, Up6: true, MTU: 1500, MTU6: 1500}
	r.SetInterface(router.Interface{Net: 1, Addr: gw, Prefix: netip.MustParsePrefix("10.0.0.0/24")})
	r.SetInterface(up)
	for _, p := range []netip.Prefix{up.Prefix, up.Prefix6} {
		if err := r.AddRoute(router.Route{Prefix: p, Kind: router.Unreachable}); err != nil {
			t.Fatal(err)
		}
	}
	up.MTU, up.MTU6 = 1400, 1400
	r.SetInterface(up)
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		if rt, ok := r.Lookup(netip.MustParseAddr(to)); !ok || rt.Kind != router.Unreachable {
			t.Errorf("%s: %v", to, rt)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	r := newRouter()
	r.SetNeighbor(2, netip.MustParseAddr("10.0.1.9"), 7, &output{})
	raw := frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: hostA, Dst: frametest.Addr("10.0.1.9"), TTL: 255}.Raw()
	b := frametest.Batch(1, 1, raw)
	if allocs := testing.AllocsPerRun(100, func() {
		f := &b.Frames[0]
		f.Net, f.Verdict, f.RouteDst = 1, frame.Local, f.Tuple.Dst
		r.Route(b)
		r.Resolve(b)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// FuzzPunted: every frame that is punted ends in exactly one way, and nothing panics.
func FuzzPunted(f *testing.F) {
	f.Add(frametest.ARP(frame.BroadcastMAC, hostAM, 1, hostA, gw), uint8(frame.GatewayService))
	f.Add(frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: hostA, Dst: gw, Proto: frame.ICMP, Type: 8, Payload: make([]byte, 56)}.Raw(), uint8(frame.GatewayService))
	f.Add(frametest.Packet{SrcMAC: hostAM, Src: hostA, Dst: hostB}.Raw(), uint8(frame.TTLExceeded))
	f.Fuzz(func(t *testing.T, raw []byte, why uint8) {
		if len(raw) < frame.VnetLen {
			return
		}
		r, o := newRouter(), &output{}
		p := punted(raw, frame.Reason(why)%frame.NumReasons)
		p.Egress, p.NextHop = 1, hostB.Netip()
		r.HandlePunt(p, 1, o)
		for i := range frame.Tick(10) {
			r.Tick(1+i*frame.TicksPerSecond, o)
		}
		if n := o.released + o.consumed + o.dropped; n != 1 {
			t.Errorf("it ended %d times", n)
		}
		for _, eth := range o.sent {
			if !frametest.Sound(raw) {
				break // the error would quote a malformed packet
			}
			if err := frametest.Check(append(make([]byte, frame.VnetLen), eth...)); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzRoute: a packet that is routed goes where a linear scan for the longest prefix says, from a source whose route leads back to its own network.
// Its TTL is lower by one, its checksums hold, and all else is as before, but for the MSS of a SYN.
func FuzzRoute(f *testing.F) {
	routes := []router.Route{
		{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Egress: 1}, {Prefix: netip.MustParsePrefix("10.0.1.0/24"), Egress: 2},
		{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Egress: 2, NextHop: netip.MustParseAddr("10.0.1.9")},
		{Prefix: netip.MustParsePrefix("10.2.3.0/24"), Kind: router.Blackhole}, {Prefix: netip.MustParsePrefix("10.2.3.128/25"), Egress: 1, NextHop: netip.MustParseAddr("10.0.0.9")},
	}
	scan := func(to frame.Addr) router.Route {
		best := router.Route{Kind: router.Blackhole}
		for _, rt := range routes {
			if rt.Prefix.Contains(to.Netip()) && rt.Prefix.Bits() >= best.Prefix.Bits() {
				best = rt
			}
		}
		return best
	}
	r := newRouter()
	for _, rt := range routes[2:] {
		if err := r.AddRoute(rt); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: frametest.Addr("10.2.3.200"), Dst: hostB}.Raw()[frame.VnetLen:], uint32(frametest.Addr("10.2.4.0")))
	for _, dst := range []string{"10.0.1.9", "10.2.1.1", "10.2.3.1", "10.2.3.200", "10.0.1.255", "224.0.0.1", "127.0.0.1", "8.8.8.8"} {
		f.Add(frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: hostA, Dst: frametest.Addr(dst)}.Raw()[frame.VnetLen:], uint32(frametest.Addr(dst)))
		f.Add(frametest.Packet{SrcMAC: hostAM, DstMAC: gwMAC, Src: hostA, Dst: frametest.Addr(dst), Proto: frame.TCP, Flags: frame.FlagSYN, MSS: 1460}.Raw()[frame.VnetLen:], uint32(frametest.Addr(dst)))
	}
	f.Fuzz(func(t *testing.T, eth []byte, to uint32) {
		if len(eth) > frame.MaxFrame {
			return
		}
		raw := append(make([]byte, frame.VnetLen), eth...)
		if !frametest.Sound(raw) {
			return
		}
		dst := frame.Addr(to)
		ip := raw[frame.VnetLen+frame.EthernetLen:]
		binary.BigEndian.PutUint32(ip[16:], to)
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip[:4*int(ip[0]&15)], 0))
		b := frametest.Batch(1, 1, raw)
		fr := &b.Frames[0]
		if fr.Verdict == frame.Drop || fr.Malformed != frame.None {
			return
		}
		before := bytes.Clone(raw)
		fr.Net, fr.Verdict, fr.RouteDst = 1, frame.Local, fr.Tuple.Dst
		if r.Route(b); fr.Verdict != frame.Routed {
			if fr.Verdict != frame.Drop && fr.Verdict != frame.Punt || !bytes.Equal(raw, before) {
				t.Errorf("verdict %d; changed: %v", fr.Verdict, !bytes.Equal(raw, before))
			}
			return
		}
		best, hop := scan(dst), dst
		if best.NextHop.IsValid() {
			hop = frame.AddrFrom(best.NextHop)
		}
		if best.Kind == router.Blackhole || fr.Egress != best.Egress || fr.NextHop != hop {
			t.Errorf("to %s: by network %d and %s, the scan says %+v", dst, fr.Egress, fr.NextHop, best)
		}
		if back := scan(fr.Tuple.Src); back.Kind == router.Blackhole || back.Egress != 1 {
			t.Errorf("from %s, whose route is %+v", fr.Tuple.Src, back)
		}
		was, now := before[frame.VnetLen+frame.EthernetLen:], raw[frame.VnetLen+frame.EthernetLen:]
		if now[8] != was[8]-1 || now[8] == 0 || frame.Sum(now[:4*int(now[0]&15)], 0) != 0xffff {
			t.Errorf("TTL %d, was %d; header sum %#x", now[8], was[8], frame.Sum(now[:4*int(now[0]&15)], 0))
		}
		copy(now[8:], was[8:9])
		copy(now[10:], was[10:12])
		if !bytes.Equal(raw, before) && fr.Proto != frame.TCP {
			t.Errorf("more was changed:\n%x\n%x", before, raw)
		}
	})
}
