package simnet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// A tenant with very many ports fills its share of what the switch keeps for a while. A container of somebody else goes on.
func TestTenantOfManyPorts(t *testing.T) {
	const ports, first = 200, 10
	pieces := func(p frametest.Packet, id uint32) [][]byte {
		f := &frame.Frame{}
		f.Reset(p.Raw(), frame.NoPort)
		frame.Parse(f)
		return frame.CutPieces6(f, 1280, id)
	}
	for _, x := range []struct {
		what  string
		fill  func(s *sixBed, h *Host, i uint32) [][]byte // what a port of the tenant sends
		works func(s *sixBed) bool
	}{
		{"packets to the gateway in fragments", func(s *sixBed, h *Host, i uint32) [][]byte {
			p := s.ping(h, s.gateway)
			p.DstMAC, p.Payload = s.gwMAC, pattern(3000)
			return pieces(p, i)[:1]
		}, func(s *sixBed) bool {
			n := 0
			for _, raw := range s.pingInPieces(3000, 1200, 1<<20) {
				n += len(s.put(s.a, raw))
			}
			return n > 0
		}},
		{"first fragments to outside", func(s *sixBed, h *Host, i uint32) [][]byte {
			p := s.udp(addrOf(s.o), 53, strings.Repeat("x", 2000))
			p.SrcMAC, p.DstMAC, p.Src6 = h.MAC, s.gwMAC, addrOf(h)
			return pieces(p, i)[:1]
		}, func(s *sixBed) bool { return s.fragmented(pieces, 0, 1) == 2 }},
		{"fragments before their first", func(s *sixBed, h *Host, i uint32) [][]byte {
			p := s.udp(addrOf(s.o), 53, strings.Repeat("x", 2000))
			p.SrcMAC, p.DstMAC, p.Src6 = h.MAC, s.gwMAC, addrOf(h)
			return pieces(p, i)[1:]
		}, func(s *sixBed) bool { return s.fragmented(pieces, 1, 0) == 2 }},
		{"long packets to neighbors that are not there", func(s *sixBed, h *Host, i uint32) [][]byte {
			p := s.udp(six(frame.Addr(10<<24|2<<16|uint32(h.Port)<<6|i%40)), 53, strings.Repeat("x", 1400))
			p.SrcMAC, p.DstMAC, p.Src6 = h.MAC, s.gwMAC, addrOf(h)
			return [][]byte{p.Raw()}
		}, func(s *sixBed) bool { return len(s.send(s.a, s.udp(addrOf(s.host("far")), 53, "x"))) == 1 }},
	} {
		t.Run(x.what, func(t *testing.T) {
			script := "network 1 10.0.0.1/16\nnetwork 2 10.2.0.1/16\nuplink 198.51.100.1\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\nhost far 10.2.255.2 port 3 net 2\noutside o 203.0.113.8\n"
			tenants := map[frame.PortID]frame.PortID{}
			for i := range ports {
				script += fmt.Sprintf("host evil%d 10.0.1.%d port %d\n", i, i+2, first+i)
				tenants[frame.PortID(first+i)] = first
			}
			s := newSixOf(t, script)
			s.DP.SetTenants(tenants)
			if !x.works(s) {
				t.Fatal("it does not work beside a quiet tenant")
			}
			s.Advance(frame.Seconds(70))
			for i := range uint32(40 * ports) {
				h := s.host(fmt.Sprintf("evil%d", i%ports))
				for _, raw := range x.fill(s, h, i) {
					s.log(h.Port, false, raw)
					s.Poller.Put(h.Port, raw)
				}
				if i%64 == 63 {
					s.Settle()
				}
			}
			s.Settle()
			if s.failure != nil {
				t.Fatal(s.failure)
			}
			if !x.works(s) {
				t.Errorf("it does not work beside the tenant: %v", s.DP.Drops())
			}
		})
	}
}

// fragmented sends two fragments of a packet from a to outside in an order, and counts what comes out.
func (s *sixBed) fragmented(pieces func(frametest.Packet, uint32) [][]byte, order ...int) (n int) {
	p := s.udp(addrOf(s.o), 53, strings.Repeat("y", 2000))
	p.SrcMAC, p.DstMAC, p.Src6 = s.a.MAC, s.gwMAC, addrOf(s.a)
	all := pieces(p, 1<<20)
	for _, i := range order {
		n += len(s.put(s.a, all[i]))
	}
	return n
}
