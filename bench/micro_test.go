package main

import (
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

var (
	c1       = frametest.Addr("10.0.0.2")
	c2       = frametest.Addr("10.0.0.3")
	remote   = frametest.Addr("203.0.113.8")
	external = frametest.Addr("198.51.100.1")
)

const (
	mac1    frame.MAC = 0x020000000001
	mac2    frame.MAC = 0x020000000002
	gateway frame.MAC = 0x0200000000fe
)

// memory is an in-memory port: a full batch of one frame, again and again.
type memory struct {
	raws [][]byte
	orig []byte
	in   frame.PortID
	sent int
}

func (m *memory) Poll(b *frame.Batch) error {
	b.N = len(m.raws)
	for i, raw := range m.raws {
		copy(raw[:64], m.orig) // what the last round rewrote
		b.Frames[i].Reset(raw, m.in)
	}
	return nil
}
func (m *memory) Send(frame.PortID, *frame.Frame)          { m.sent++ }
func (m *memory) Add(frame.PortID, frame.Conn, bool) error { return nil }
func (m *memory) Remove(frame.PortID)                      {}
func (m *memory) Wake()                                    {}
func (m *memory) Close() error                             { return nil }

// wireless is a port's wire that memory stands for; joined says whether frames are joined on their way to it.
type wireless struct {
	frame.Conn
	longest int
}

func (w wireless) Longest() int { return w.longest }

// plane is a dataplane with ports c1, c2, an uplink, and n-2 more ports.
func plane(b *testing.B, ports int) (*dataplane.Dataplane, *memory) {
	b.Helper()
	m := &memory{}
	n := nat.New(nat.Options{Flows: 1 << 16, Seed: 3})
	d := dataplane.New(n, func() frame.Tick { return 10 }, m)
	d.Switch.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, FDB: vswitch.NewFDB(8192, 1)})
	p := netip.MustParsePrefix("10.0.0.0/16")
	d.Router.SetInterface(router.Interface{Net: 1, Addr: frametest.Addr("10.0.0.1"), Prefix: p, MAC: gateway, MTU: 1500})
	d.Router.SetInterface(router.Interface{Addr: external, Prefix: netip.MustParsePrefix("0.0.0.0/0"), MAC: 5, PeerMAC: 6, MTU: 1500, Port: 1000, Up: true})
	rules := nat.Rules{External: external, Masquerade: []*nat.Masquerade{{Net: 1, Prefix: p, RuleCount: &nat.RuleCount{}}}}
	for i := range rules.Pool {
		rules.Pool[i] = nat.NewPortSet()
		rules.Pool[i].AddRange(20000, 29999)
	}
	n.Update(rules)
	for i := 1; i <= ports; i++ {
		if err := d.AddPort(vswitch.Port{ID: frame.PortID(i), Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500}, wireless{}); err != nil {
			b.Fatal(err)
		}
		d.Switch.FDB(1).Set(mac1+frame.MAC(i)-1, frame.PortID(i), false)
	}
	if err := d.AddPort(vswitch.Port{ID: 1000, Flags: vswitch.Forwarding | vswitch.Uplink, MTU: 65521}, wireless{}); err != nil {
		b.Fatal(err)
	}
	return d, m
}

func pipeline(b *testing.B, ports int, p frametest.Packet) {
	d, m := plane(b, ports)
	m.orig, m.in = p.Raw(), 1
	for range frame.BatchSize {
		m.raws = append(m.raws, p.Raw())
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Step(); err != nil {
			b.Fatal(err)
		}
	}
	if m.sent == 0 || len(d.Drops()) > 0 {
		b.Fatalf("%d sent, drops %v", m.sent, d.Drops())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frame.BatchSize), "ns/frame")
}

func BenchmarkPipelineL2(b *testing.B) {
	for _, ports := range []int{2, 500} {
		b.Run(map[int]string{2: "2 ports", 500: "500 ports"}[ports], func(b *testing.B) {
			pipeline(b, ports, frametest.Packet{SrcMAC: mac1, DstMAC: mac2, Src: c1, Dst: c2, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)})
		})
	}
}

func BenchmarkPipelineNAT(b *testing.B) {
	pipeline(b, 2, frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src: c1, Dst: remote, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)})
}

func BenchmarkParse(b *testing.B) {
	raw := frametest.Packet{Src: c1, Dst: c2, Payload: make([]byte, 64)}.Raw()
	var f frame.Frame
	b.ReportAllocs()
	for b.Loop() {
		f.Reset(raw, 1)
		frame.Parse(&f)
	}
}

func BenchmarkFDB(b *testing.B) {
	t := vswitch.NewFDB(8192, 1)
	for i := range 4000 {
		t.Learn(mac1+frame.MAC(i), 7, 1, nil)
	}
	known := t.Entries()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if i++; t.Lookup(known[i%len(known)].MAC) != 7 {
			b.Fatal("not found")
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	d, _ := plane(b, 2)
	raw := frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src: c1, Dst: c2, TTL: 255}.Raw()
	batch := frametest.Batch(1, 1, raw)
	b.ReportAllocs()
	for b.Loop() {
		f := &batch.Frames[0]
		f.Net, f.Verdict, f.RouteDst = 1, frame.Local, c2
		copy(raw[frame.VnetLen+frame.EthernetLen:], header)
		d.Router.Route(batch)
		if f.Verdict != frame.Routed {
			b.Fatal(f.Reason)
		}
	}
}

var header = append([]byte(nil), frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src: c1, Dst: c2, TTL: 64}.Raw()[frame.VnetLen+frame.EthernetLen:][:20]...)
