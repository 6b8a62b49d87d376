package main

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/filter"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/switch"
)

func pipeline(b *testing.B, ports int, p frametest.Packet) {
	d, m := plane(ports, 1<<16)
	steps(b, d, m, p)
}

// steps measures batches of copies of a packet of port 1.
func steps(b *testing.B, d *dataplane.Dataplane, m *inMemory, p frametest.Packet) {
	m.orig, m.in = p.Raw(), 1
	m.fill()
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
	b.Run("IPv6", func(b *testing.B) {
		pipeline(b, 2, frametest.Packet{SrcMAC: mac1, DstMAC: mac2, Src6: container6, Dst6: frametest.Addr6("fd00::3"), SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)})
	})
}

func BenchmarkPipelineNAT(b *testing.B) {
	b.Run("IPv4", func(b *testing.B) {
		pipeline(b, 2, frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src: c1, Dst: remote, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)})
	})
	b.Run("IPv6", func(b *testing.B) {
		pipeline(b, 2, frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src6: container6, Dst6: frametest.Addr6("2001:db8::8"), SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)})
	})
}

// BenchmarkPolicies measures what a policy with a number of rules costs packets of flows that exist: translated ones, and those of a neighbor.
func BenchmarkPolicies(b *testing.B) {
	for _, way := range []string{"translated", "switched"} {
		for _, n := range []int{0, 1, 10000} {
			b.Run(fmt.Sprintf("%s/%d rules", way, n), func(b *testing.B) {
				d, m := plane(2, 1<<16)
				p := frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src: c1, Dst: remote, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)}
				if way == "switched" {
					p.DstMAC, p.Dst = mac2, c2
				}
				if n > 0 {
					attach(b, d, n)
				}
				steps(b, d, m, p)
			})
		}
	}
}

// attach gives port 1 a policy with n rules, of which the last one allows everything.
func attach(b *testing.B, d *dataplane.Dataplane, n int) {
	var rules []policy.Numbered
	for i := range n {
		text := fmt.Sprintf("egress allow 198.18.%d.%d tcp/%d", i>>8&255, i&255, 1+i%1000)
		if i == n-1 {
			text = "egress allow any"
		}
		r, err := policy.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		rules = append(rules, policy.Numbered{Rule: r, ID: uint32(i + 1)})
	}
	to := &policy.Ports{Places: policy.NewPlaces([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, nil)}
	to.Of[1] = &policy.Set{Rules: policy.Compile(rules, policy.ByRules), Addresses: &policy.Addresses{}}
	to.AddStation(c1.Netip(), 1)
	to.AddStation(c2.Netip(), 2)
	d.NAT.SetPolicies(to)
	p, _ := d.Switch.Port(1)
	p.Flags |= vswitch.Tracked
	d.Switch.SetPort(p)
}

// BenchmarkCapture measures the cost of a capture to a worker: no capture, one whose filter selects nothing, one of drops
// only, and one that copies every frame (when its ring is full, it only counts).
func BenchmarkCapture(b *testing.B) {
	for _, c := range []struct {
		name, filter string
		captures     int
		ends         bool
	}{{"off", "", 0, false}, {"filter selects none", "tcp port 443 and host 192.0.2.1", 1, false}, {"drops only", "", 1, true}, {"every frame", "", 1, false}} {
		b.Run(c.name, func(b *testing.B) {
			d, m := plane(2, 1<<16)
			p := frametest.Packet{SrcMAC: mac1, DstMAC: mac2, Src: c1, Dst: c2, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)}
			m.orig, m.in = p.Raw(), 1
			m.fill()
			for range c.captures {
				f, err := filter.Compile(c.filter)
				if err != nil {
					b.Fatal(err)
				}
				x, err := capture.NewHub(d).Start(capture.Options{Filter: f, Snap: 256, Ends: c.ends, Drops: c.ends})
				if err != nil {
					b.Fatal(err)
				}
				defer x.Close()
				go func() { // a reader that reads as fast as it can
					for range x.Wait() {
						x.Drain(func(capture.Record) bool { return true })
					}
				}()
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Step(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frame.BatchSize), "ns/frame")
		})
	}
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
	d, _ := plane(2, 1<<16)
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

// BenchmarkPipelineFlows translates frames of many flows, each of another flow than the frame before.
func BenchmarkPipelineFlows(b *testing.B) {
	for _, family := range []string{"IPv4", "IPv6"} {
		p, edit := packetsOf(family)
		for _, flows := range []int{64, 1000, 100000, 250000, 1000000} {
			b.Run(fmt.Sprint(family, "/", flows), func(b *testing.B) {
				d, m := translating(p, flows, edit)
				before, _ := d.NAT.Stats()
				for b.Loop() {
					if err := d.Step(); err != nil {
						b.Fatal(err)
					}
				}
				if after, _ := d.NAT.Stats(); after != before || m.sent == 0 || len(d.Drops()) > 0 {
					b.Fatalf("%d flows made, %d frames sent, drops %v", after-before, m.sent, d.Drops())
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frame.BatchSize), "ns/frame")
			})
		}
	}
}
