package simnet

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

const fixture = `network 1 10.0.0.1/24
network 2 10.0.1.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
host b 10.0.0.3 port 2 isolated
host c 10.0.0.4 port 3 isolated
host d 10.0.1.2 port 4 net 2
outside o 203.0.113.8
publish 8080:80 b
`

func newFixture(t interface{ Fatal(...any) }) *Net {
	n, err := Run(fixture)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Whatever is sent by whomever, and whatever ports do with it: every frame is accounted for at rest.
func TestConservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newFixture(t)
		addrs := []frame.Addr{frametest.Addr("10.0.0.1"), frametest.Addr("198.51.100.1"), frametest.Addr("10.0.0.99"), frametest.Addr("10.0.0.255"), frametest.Addr("224.0.0.1")}
		macs := []frame.MAC{frame.BroadcastMAC, 0x01005e000001, 0x0180c2000000, 0x02999999999}
		for _, h := range n.hosts {
			addrs, macs = append(addrs, h.Addr), append(macs, h.MAC)
		}
		for id := range frame.NetID(3) {
			i, _ := n.DP.Router.Interface(id)
			macs = append(macs, i.MAC)
		}
		for range rapid.IntRange(1, 30).Draw(t, "frames") {
			h := rapid.SampledFrom(n.hosts).Draw(t, "from")
			p := frametest.Packet{
				SrcMAC: rapid.SampledFrom([]frame.MAC{h.MAC, h.MAC, h.MAC, macs[6]}).Draw(t, "src mac"),
				DstMAC: rapid.SampledFrom(macs).Draw(t, "dst mac"),
				Src:    rapid.SampledFrom([]frame.Addr{h.Addr, h.Addr, addrs[0]}).Draw(t, "src"),
				Dst:    rapid.SampledFrom(addrs).Draw(t, "dst"),
				Proto:  rapid.SampledFrom([]uint8{frame.TCP, frame.UDP, frame.ICMP, 47}).Draw(t, "proto"),
				Flags:  rapid.Byte().Draw(t, "flags"), Type: rapid.SampledFrom([]uint8{0, 3, 8, 11}).Draw(t, "type"),
				SrcPort: rapid.SampledFrom([]uint16{1, 80, 20000}).Draw(t, "sport"), DstPort: rapid.SampledFrom([]uint16{80, 8080, 20000}).Draw(t, "dport"),
				TTL:     rapid.SampledFrom([]uint8{1, 64}).Draw(t, "ttl"),
				Frag:    rapid.SampledFrom([]uint16{0, 0, 0, 0x2000, 0x4000, 9}).Draw(t, "frag"),
				Payload: rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "payload"),
			}
			if rapid.IntRange(0, 9).Draw(t, "arp") == 0 {
				n.Inject(h, frametest.ARP(p.DstMAC, h.MAC, 1, p.Src, p.Dst))
			} else {
				p.Partial = rapid.Bool().Draw(t, "partial")
				var burst [][]byte
				for range rapid.IntRange(1, 4).Draw(t, "times") {
					burst = append(burst, p.Raw())
				}
				n.Inject(h, burst...)
			}
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				n.Advance(frame.Seconds(5))
			case 2:
				r := dataplane.Rate{Bits: rapid.SampledFrom([]uint64{0, 200_000, 10_000_000}).Draw(t, "rate"), Burst: rapid.SampledFrom([]uint64{0, 1514, 5000}).Draw(t, "burst")}
				n.DP.SetRate(rapid.SampledFrom([]frame.PortID{1, 2, 3, 4, uplinkPort}).Draw(t, "limited"), r, r)
			case 1:
				n.Poller.Refuse[frame.PortID(rapid.IntRange(1, 4).Draw(t, "port"))] = frame.PortDown
			}
		}
		n.Advance(frame.Seconds(30)) // what is held for a neighbor comes to its end
		n.Settle()
		if n.failure != nil {
			t.Fatal(n.failure)
		}
		if c := n.DP.Conservation(); !c.Balanced {
			t.Fatalf("%+v\ndrops %v", c, n.DP.Drops())
		}
	})
}

// The same over IPv6.
func TestRoundAllocatesNothingOverIPv6(t *testing.T) {
	for _, outside := range []bool{false, true} {
		s := newSix(t)
		p := s.udp(addrOf(s.b), 53, "x")
		p.SrcMAC, p.DstMAC, p.Src6 = s.a.MAC, s.b.MAC, addrOf(s.a)
		if outside {
			p.DstMAC, p.Dst6 = s.gwMAC, addrOf(s.o)
		}
		s.put(s.b, frametest.Packet{SrcMAC: s.b.MAC, DstMAC: s.a.MAC, Src6: addrOf(s.b), Dst6: addrOf(s.a)}.Raw()) // b is known
		s.put(s.a, p.Raw())
		loop := &loopPoller{raw: p.Raw(), buf: p.Raw(), port: s.a.Port}
		s.Poller.loop = loop
		if allocs := testing.AllocsPerRun(200, func() {
			if err := s.DP.Step(); err != nil {
				t.Fatal(err)
			}
		}); allocs != 0 || loop.sent < 200 {
			t.Errorf("to the outside %v: %v allocations per frame, %d frames; drops %v", outside, allocs, loop.sent, s.DP.Drops())
		}
	}
}

// The whole way of a frame, through every stage, allocates nothing once its flow is known.
func TestRoundAllocatesNothing(t *testing.T) {
	for _, dst := range []string{"10.0.0.3", "203.0.113.8"} {
		n := newFixture(t)
		a, b := n.host("a"), n.host("b")
		p := frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: frametest.Addr(dst), SrcPort: 5, DstPort: 6, Payload: make([]byte, 100)}
		if dst != "10.0.0.3" {
			i, _ := n.DP.Router.Interface(1)
			p.DstMAC = i.MAC
		}
		n.Inject(b, frametest.Packet{SrcMAC: b.MAC, DstMAC: a.MAC, Src: b.Addr, Dst: a.Addr}.Raw()) // b is known
		raw := p.Raw()
		n.Inject(a, raw)
		loop := &loopPoller{raw: raw, buf: bytes.Clone(raw), port: a.Port}
		n.Poller.loop = loop
		if allocs := testing.AllocsPerRun(200, func() {
			if err := n.DP.Step(); err != nil {
				t.Fatal(err)
			}
		}); allocs != 0 {
			t.Errorf("to %s: %v allocations per frame", dst, allocs)
		}
		if loop.sent < 200 {
			t.Errorf("to %s: only %d frames went out; drops %v", dst, loop.sent, n.DP.Drops())
		}
	}
}

// FuzzDataplane: any bytes on any port. Nothing panics, nothing is lost without a reason.
func FuzzDataplane(f *testing.F) {
	seed := newFixture(f)
	a, b := seed.host("a"), seed.host("b")
	gw, _ := seed.DP.Router.Interface(1)
	f.Add(uint8(0), frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: b.Addr}.Raw())
	f.Add(uint8(0), frametest.Packet{SrcMAC: a.MAC, DstMAC: gw.MAC, Src: a.Addr, Dst: frametest.Addr("203.0.113.8"), Proto: frame.TCP, Flags: frame.FlagSYN, GSO: 100, Payload: make([]byte, 400)}.Raw())
	f.Add(uint8(0), frametest.Packet{SrcMAC: a.MAC, DstMAC: gw.MAC, Src: a.Addr, Dst: gw.Addr, Proto: frame.ICMP, Type: 8, Payload: make([]byte, 56)}.Raw())
	f.Add(uint8(4), frametest.Packet{SrcMAC: peerMAC, DstMAC: uplinkMAC, Src: frametest.Addr("203.0.113.8"), Dst: frametest.Addr("198.51.100.1"), DstPort: 8080}.Raw())
	f.Add(uint8(1), frametest.ARP(frame.BroadcastMAC, b.MAC, 1, b.Addr, gw.Addr))
	f.Add(uint8(1), frametest.ARP(gw.MAC, b.MAC, 2, b.Addr, gw.Addr))
	f.Fuzz(func(t *testing.T, from uint8, raw []byte) {
		if len(raw) < frame.VnetLen || len(raw) > frame.MaxFrame {
			return
		}
		n := newFixture(t)
		h := n.hosts[int(from)%len(n.hosts)]
		n.Inject(h, raw)
		n.Inject(h, raw, raw)
		n.Advance(frame.Seconds(10))
		if c := n.DP.Conservation(); !c.Balanced {
			t.Fatalf("%+v\ndrops %v", c, n.DP.Drops())
		}
	})
}
