package simnet

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

const guarded = `network 1 10.0.0.1/24
network 2 10.0.1.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1 guard
host b 10.0.0.3 port 2 isolated guard
host c 10.0.0.4 port 3 isolated guard
host d 10.0.1.2 port 4 net 2 guard
outside o 203.0.113.8
publish 8080:80 b
`

// A history is a string of events, read from the bytes of a fuzzer.
type history struct {
	net   *Net
	bytes []byte
	hosts []*Host
	gone  map[frame.PortID]vswitch.Port // ports that were removed

	events int
}

// next is the next byte, modulo n; 0 at the end.
func (h *history) next(n int) int {
	if len(h.bytes) == 0 {
		return 0
	}
	b := h.bytes[0]
	h.bytes = h.bytes[1:]
	return int(b) % n
}

// packet is one of any host, to any address and MAC, with ports and flags that occur often enough to meet again.
func (h *history) packet(from *Host) frametest.Packet {
	addrs := []frame.Addr{frametest.Addr("198.51.100.1"), frametest.Addr("10.0.0.1"), frametest.Addr("10.0.1.1"), frametest.Addr("203.0.113.8"), frametest.Addr("203.0.113.9"), frametest.Addr("10.0.0.255"), frametest.Addr("224.0.0.1")}
	gw, _ := h.net.DP.Router.Interface(from.Net)
	macs := []frame.MAC{gw.MAC, gw.MAC, frame.BroadcastMAC, 0x01005e000001}
	for _, x := range h.hosts {
		addrs, macs = append(addrs, x.Addr), append(macs, x.MAC)
	}
	p := frametest.Packet{
		SrcMAC: from.MAC, DstMAC: macs[h.next(len(macs))], Src: from.Addr, Dst: addrs[h.next(len(addrs))],
		Proto: []uint8{frame.TCP, frame.UDP, frame.ICMP, frame.SCTP, 47, 33, 136}[h.next(7)], SrcPort: []uint16{7, 5000, 20001, 8080}[h.next(4)], DstPort: []uint16{80, 8080, 9090, 20001, 5000}[h.next(5)],
		Flags: uint8(h.next(64)), Type: []uint8{8, 0, 3, 11, 13, 5}[h.next(6)], TTL: []uint8{64, 1, 2}[h.next(3)], Frag: []uint16{0, 0, 0, 0x2000, 0x4000, 1, 0x2001, 4, 8}[h.next(9)],
		IPID: uint16(h.next(3)), Seq: uint16(h.next(4)), Payload: make([]byte, h.next(4)*40),
	}
	if p.Frag&0x2000 != 0 && p.Proto == frame.TCP { // a fragment that others follow has a multiple of 8 bytes
		p.Payload = append(p.Payload, 0, 0, 0, 0)
	}
	if h.next(8) == 1 { // a lie
		p.Src = addrs[h.next(len(addrs))]
	}
	if h.next(8) == 1 {
		p.SrcMAC = macs[h.next(len(macs))]
	}
	if h.net.overIPv6 {
		h.asIPv6(&p)
	}
	return p
}

// asIPv6 makes a packet one of IPv6, with extension headers now and then.
func (h *history) asIPv6(p *frametest.Packet) {
	p.Src6, p.Dst6 = six(p.Src), six(p.Dst)
	if p.Proto == frame.ICMP {
		p.Proto, p.Type = frame.ICMPv6, []uint8{128, 129, 1, 3, 2, 4, 135, 136, 134}[h.next(9)]
	}
	next := p.Proto
	if p.Frag&^0x4000 != 0 {
		p.Ext, next = fragmentHeader(next, int(p.Frag&0x1fff)*8, p.Frag&0x2000 != 0, uint32(p.IPID)), fragmented
		p.NoChecksum = p.Frag&0x1fff != 0
	}
	for range h.next(6) / 4 * h.next(10) {
		p.Ext, next = append(optionsHeader(next, 1, 4, 0, 0, 0, 0), p.Ext...), destOptions
	}
	p.Next = next
}

func nameOf(x *Host) string {
	if x == nil {
		return "nobody"
	}
	return x.Name
}

func (h *history) isGone(x *Host) bool {
	_, ok := h.gone[x.Port]
	return ok
}

// step lets one event happen, and returns the host that has sent something, or nil.
func (h *history) step(t *testing.T) *Host {
	n, from := h.net, h.hosts[h.next(len(h.hosts))]
	switch h.next(16) {
	default:
		if h.isGone(from) {
			return nil
		}
		for range 1 + h.next(3) {
			raw := h.packet(from).Raw()
			n.lenient = n.lenient || !n.overIPv6 && !frametest.Sound(raw) || n.overIPv6 && frametest.Check(raw) != nil
			n.log(from.Port, false, raw)
			n.Poller.Put(from.Port, n.tag(from.Port, raw))
		}
		n.Settle()
		return from
	case 0:
		if h.isGone(from) {
			return nil
		}
		other := h.hosts[h.next(len(h.hosts))]
		n.Inject(from, frametest.ARP(frame.BroadcastMAC, from.MAC, uint16(1+h.next(2)), other.Addr, h.hosts[h.next(len(h.hosts))].Addr))
		return from
	case 1:
		n.Advance([]frame.Tick{1, 10, 30, 200}[h.next(4)])
	case 2:
		n.now += frame.Seconds([]uint32{130, 300, 8000}[h.next(3)])
		n.Settle()
	case 3:
		port := []uint16{8080, 9090, 20001}[h.next(3)]
		n.Unpublish(port)
		if !from.outside && h.next(3) > 0 {
			n.Publish([]uint8{frame.TCP, frame.UDP}[h.next(2)], port, from, 80)
		}
	case 4:
		if from.outside {
			return nil
		}
		if p, ok := h.gone[from.Port]; ok {
			delete(h.gone, from.Port)
			if err := n.DP.AddPort(p, conn{}); err != nil {
				t.Fatal(err)
			}
			return nil
		}
		h.gone[from.Port], _ = n.DP.Switch.Port(from.Port)
		n.DP.RemovePort(from.Port)
		n.DP.NAT.FlushPorts([]frame.PortID{from.Port})
	case 5:
		if err := n.SetUplink([]frame.Addr{frametest.Addr("198.51.100.1"), frametest.Addr("198.51.100.2"), 0}[h.next(3)], 1500); err != nil {
			t.Fatal(err)
		}
	case 6:
		n.Poller.Refuse = map[frame.PortID]frame.Reason{}
		if h.next(2) == 1 {
			n.Poller.Refuse[from.Port] = frame.PortDown
		}
	case 7:
		tenants := map[frame.PortID]frame.PortID{}
		if h.next(2) == 1 {
			tenants = map[frame.PortID]frame.PortID{1: 1, 2: 1, 3: 1}
		}
		n.DP.SetTenants(tenants)
	case 9: // what a reload does
		for _, m := range n.rules.Masquerade {
			m.Mapping, m.Filtering = nat.Mapping(h.next(2)), nat.Filtering(h.next(3))
			m.Inside, m.Outside = netip.Prefix{}, netip.Prefix{}
			if h.next(3) == 1 { // it keeps its addresses
				i, _ := n.DP.Router.Interface(m.Net)
				m.Inside, m.Outside, m.Open = i.Prefix, i.Prefix, h.next(2) == 1
			}
		}
		if p, ok := n.DP.Switch.Port(from.Port); ok && !from.outside {
			n.DP.Switch.SetPort(p)
		}
		n.update()
	case 10:
		rules := []string{"none", "ingress allow any tcp/80", "egress allow inside", "egress reject any udp", "egress allow outside tcp/8080", "ingress drop 10.0.0.2"}
		line := "policy " + from.Name + " " + rules[h.next(len(rules))]
		if from.outside || h.isGone(from) {
			return nil
		}
		if err := n.more(line); err != nil {
			t.Fatal(line, err)
		}
	case 8:
		n.DP.NAT.Reclaim()
		n.DP.NAT.SettleShares()
	}
	return nil
}

// sourceOf is the source of a packet, and for IPv6 the address that it stands for.
func sourceOf(f *frame.Frame) frame.Addr {
	if f.Flags&frame.IsIPv6 != 0 {
		return four(f.IPv6().Src())
	}
	return f.Tuple.Src
}

// mayLeave reports whether packets may leave with a source: it is the host's, or of a network that has kept its addresses a moment ago.
func (n *Net) mayLeave(a frame.Addr) bool {
	return n.DP.NAT.Owns(a.Netip()) || slices.ContainsFunc(n.rules.Masquerade, func(m *nat.Masquerade) bool { return m.Outside.IsValid() && m.Outside.Contains(a.Netip()) })
}

// check fails unless what came out since the last step may have come out.
func (h *history) check(t *testing.T, from *Host, before int) {
	t.Helper()
	n := h.net
	if n.failure != nil {
		t.Fatal(n.failure)
	}
	if c := n.DP.Conservation(); c.Transmitted+c.Dropped+c.Consumed > c.Received+c.Originated+c.Replicated { // some may wait
		t.Fatalf("more than there was: %+v\ndrops %v", c, n.DP.Drops())
	}
	if h.events++; h.events%8 == 0 { // it takes as long as many events
		if err := n.DP.NAT.Audit(); err != nil {
			t.Fatal(err)
		}
	}
	isolated := map[frame.PortID]bool{2: true, 3: true}
	for _, r := range n.records[before:] {
		if !r.out {
			continue
		}
		var f frame.Frame
		f.Reset(r.raw, r.port)
		frame.Parse(&f)
		for _, x := range h.hosts {
			switch {
			case x.outside || f.Src != x.MAC || f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 || f.IsND():
			case from != x:
				t.Fatalf("port %d was sent a packet with the MAC of %s, but %s has sent something", r.port, x.Name, nameOf(from))
			case isolated[x.Port] && isolated[r.port]:
				t.Fatalf("isolated port %d was sent a frame of isolated port %d", r.port, x.Port)
			case sourceOf(&f) != x.Addr && sourceOf(&f) != 0:
				t.Fatalf("port %d was sent a packet from %s with the address %s", r.port, x.Name, sourceOf(&f))
			}
		}
		if r.port == uplinkPort && f.Flags&(frame.IsIPv4|frame.IsIPv6) != 0 && f.Malformed == frame.None && !n.mayLeave(sourceOf(&f)) {
			t.Fatalf("outside saw the address %s", sourceOf(&f))
		}
	}
}

// addRandom adds scripts of size random bytes to a fuzzer's corpus, for the second value false and true in turn.
func addRandom(f *testing.F, scripts uint64, size int, stream uint64) {
	for seed := range scripts {
		script, r := make([]byte, size), rand.New(rand.NewPCG(seed, stream))
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		f.Add(script, seed%2 == 1)
	}
}

// FuzzHistory lets a long string of events happen: packets, lies, time, published ports, ports and addresses that come and go, tenants,
// and reloads.
// After each event no frame has become two, no guarded port has sent as another one, isolated ports have not heard of each other,
// and outside saw addresses of the host only. Every eighth time, what NAT has counted is compared with its tables. At the end the
// account of frames is balanced, and nobody holds anything.
func FuzzHistory(f *testing.F) {
	f.Add([]byte("\x01\x0f\x02\x00\x03\x01\x01\x01\x02\x00\x00\x00\x00\x00\x01\x05\x05"), false)
	f.Add([]byte{0, 9, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 4, 9, 0, 0, 0, 0, 1, 1, 16, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 4, 0, 7, 1}, false)
	addRandom(f, 12, 600, 1)
	f.Fuzz(func(t *testing.T, bytes []byte, overIPv6 bool) {
		n, err := run(guarded, overIPv6)
		if err != nil {
			t.Fatal(err)
		}
		n.native, n.tagged = overIPv6, len(bytes)%3 == 1
		h := &history{net: n, bytes: bytes[:min(len(bytes), 600)], hosts: n.hosts, gone: map[frame.PortID]vswitch.Port{}}
		for len(h.bytes) > 0 {
			before := len(n.records)
			from := h.step(t)
			h.check(t, from, before)
		}
		n.Poller.Refuse = map[frame.PortID]frame.Reason{}
		n.nothingIsHeld(t)
	})
}

// nothingIsHeld lets all flows expire, and fails unless the account of frames is balanced, what NAT has counted is what its tables have, and nobody
// holds anything.
func (n *Net) nothingIsHeld(t *testing.T) {
	t.Helper()
	for range 3 {
		n.now += frame.Seconds(20000)
		n.Advance(frame.Seconds(3))
	}
	if c := n.DP.Conservation(); !c.Balanced {
		t.Fatalf("not balanced: %+v\ndrops %v", c, n.DP.Drops())
	}
	if err := n.DP.NAT.Audit(); err != nil {
		t.Fatal(err)
	}
	if used := n.DP.NAT.Used(); used != 0 {
		t.Fatalf("%d flows are left", used)
	}
	for _, proto := range []uint8{frame.TCP, frame.UDP, frame.ICMP, frame.SCTP} {
		if u := n.DP.NAT.PortUseOf(proto); u.Used != 0 {
			t.Errorf("%s: %+v", frame.ProtoName(proto), u)
		}
	}
	for id := range frame.PortID(10) {
		tcp, udp := n.DP.NAT.PortsOf(id)
		if n.DP.NAT.FlowsOf(id) != 0 || tcp != 0 || udp != 0 {
			t.Errorf("port %d still holds %d flows, %d and %d outside ports", id, n.DP.NAT.FlowsOf(id), tcp, udp)
		}
	}
}
