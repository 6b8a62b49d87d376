package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// Container a may begin two things with the outside. The outside may begin one with b, which is published, and b lets in no more.
const piecemeal = `network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1 guard
host b 10.0.0.3 port 2 guard
outside o 203.0.113.8
publish 8080:80 b
publish 8081:22 b
policy a egress allow outside tcp/80
policy a egress allow outside udp/53
policy b ingress allow any tcp/80
`

// A packetKey names a packet, as the receiver puts its fragments together (RFC 791, 3.2; RFC 8200, 4.5).
type packetKey struct {
	to       string
	src, dst frame.Addr
	proto    uint8
	id       uint16
}

// An arriving is a packet of which the first fragment has arrived.
type arriving struct {
	at    frame.Tick
	ports [4]byte
	bytes int // that have arrived
	total int // once the last fragment has arrived; else 0
}

// isComplete adds a fragment. When all are there, the next packet may have the ID.
func (a *arriving) isComplete(ip frame.IPv4) bool {
	n := ip.TotalLen() - frame.IPv4Len
	if a.bytes += n; !ip.MoreFrags() {
		a.total = ip.FragOffset() + n
	}
	return a.bytes == a.total
}

// fragmentsFrom makes up to four fragments of one packet of TCP, UDP, SCTP or GRE, from some bytes of a fuzzer: in any order, with any length and offset.
func fragmentsFrom(b []byte, p frametest.Packet) (raws [][]byte) {
	p.Proto = []uint8{frame.TCP, frame.UDP, frame.SCTP, frame.GRE}[b[0]%4]
	p.IPID = 1 + uint16(b[1]%3)
	for _, x := range b[2:] {
		l4 := make([]byte, 8+8*int(x>>6))
		for i := range l4 {
			l4[i] = x
		}
		offset := uint16(x>>2) % 5
		if offset == 0 {
			l4 = append(l4, make([]byte, 24)...)
			binary.BigEndian.PutUint16(l4, 4000+uint16(x>>5)%2)
			binary.BigEndian.PutUint16(l4[2:], []uint16{80, 53, 8081, 8080}[x&3])
			l4[12], l4[13] = 0x50, []byte{frame.FlagSYN, frame.FlagRST, frame.FlagACK}[x>>4%3]
			if x>>7 == 1 { // the ports, and no more
				l4 = l4[:8]
			}
		}
		p.Payload, p.Frag = l4, offset
		if x&1 == 0 || offset == 0 {
			p.Frag |= 0x2000
		}
		raws = append(raws, rawFragment(p))
	}
	return raws
}

// rawFragment is a fragment of IPv4 whose payload is that of p.
func rawFragment(p frametest.Packet) []byte {
	proto := p.Proto
	p.Proto = 253 // for experiments: no transport header (RFC 3692)
	raw := p.Raw()
	ip := frame.IPv4(raw[frame.VnetLen+frame.EthernetLen:])
	ip[9] = proto
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip[:frame.IPv4Len], 0))
	return raw
}

// FuzzFragments: whatever fragments come, in whatever order, a policy and NAT hold for the packet that the receiver makes of them. So each first fragment
// that arrives is an allowed one, no other first fragment of that packet arrives, and a later one only if an allowed first one was sent.
func FuzzFragments(f *testing.F) {
	addRandom(f, 16, 210, 3)
	addRandom(f, 16, 211, 4)
	f.Fuzz(func(t *testing.T, script []byte, overIPv6 bool) {
		n, err := run(piecemeal, overIPv6)
		if err != nil {
			t.Fatal(err)
		}
		n.tagged = len(script)%2 == 1
		a, b, o := n.host("a"), n.host("b"), n.host("o")
		seen := map[packetKey]*arriving{}
		sent := map[string]bool{} // payloads
		begun := map[[3]byte]frame.Tick{}
		for script = script[:min(len(script), 300)]; len(script) >= 7; script = script[7:] {
			from, p := a, frametest.Packet{SrcMAC: a.MAC, DstMAC: gatewayMAC + 1<<16, Src: a.Addr, Dst: o.Addr}
			switch script[0] % 8 {
			case 0:
				n.now += frame.Seconds(uint32(script[1]) / 5)
				n.Advance(2)
				continue
			case 1, 2, 3:
				from, p = o, frametest.Packet{SrcMAC: peerMAC, DstMAC: uplinkMAC, Src: o.Addr, Dst: frametest.Addr("198.51.100.1")}
			}
			raws := fragmentsFrom(script[1:7], p)
			for _, raw := range raws {
				payload := raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len:]
				if sent[string(payload)] = true; allows(map[*Host]string{a: "o", o: "b"}[from], raw, map[*Host]uint16{a: 80, o: 8080}[from]) {
					begun[begin(raw, overIPv6)] = n.now
				}
			}
			n.Inject(from, raws...)
			for _, to := range []*Host{b, o} {
				for _, raw := range to.inbox {
					judgeFragment(t, n, to, raw, seen, sent, begun, overIPv6)
				}
				to.inbox = nil
			}
			a.inbox = nil
		}
		n.now += frame.Seconds(70)
		n.Advance(frame.Seconds(3))
		if c := n.DP.Conservation(); !c.Balanced {
			t.Fatalf("not balanced: %+v\ndrops %v", c, n.DP.Drops())
		}
	})
}

// begin is the protocol and the ID of a fragment. Over IPv6, the fragments of one packet may differ in the protocol: the first one's counts.
func begin(raw []byte, overIPv6 bool) [3]byte {
	ip := raw[frame.VnetLen+frame.EthernetLen:]
	if overIPv6 {
		return [3]byte{0, ip[4], ip[5]}
	}
	return [3]byte{ip[9], ip[4], ip[5]}
}

// allows reports whether a policy lets a first fragment pass to a host. web is the port of TCP that is allowed.
func allows(to string, raw []byte, web uint16) bool {
	ip := frame.IPv4(raw[frame.VnetLen+frame.EthernetLen:])
	port := binary.BigEndian.Uint16(ip[frame.IPv4Len+2:])
	return ip.FragOffset() == 0 && (ip.Proto() == frame.TCP && port == web || to == "o" && ip.Proto() == frame.UDP && port == 53)
}

// judgeFragment fails if a fragment must not have arrived.
func judgeFragment(t *testing.T, n *Net, to *Host, raw []byte, seen map[packetKey]*arriving, sent map[string]bool, begun map[[3]byte]frame.Tick, overIPv6 bool) {
	t.Helper()
	var f frame.Frame
	f.Reset(bytes.Clone(raw), 1)
	if frame.Parse(&f); f.Flags&frame.IsIPv4 == 0 || f.Proto == frame.ICMP {
		return
	}
	ip := f.IPv4()
	if ip.FragOffset() == 0 && !ip.MoreFrags() {
		return
	}
	payload := ip[frame.IPv4Len:ip.TotalLen()]
	k := packetKey{to.Name, ip.Src(), ip.Dst(), ip.Proto(), binary.BigEndian.Uint16(ip[4:])}
	what := fmt.Sprintf("to %s: %s > %s, protocol %d, ID %d, offset %d: %x", to.Name, k.src, k.dst, k.proto, k.id, ip.FragOffset(), payload)
	if to.Name == "o" && k.src != frametest.Addr("198.51.100.1") {
		t.Fatalf("%s: not the host's address", what)
	}
	if overIPv6 {
		k.proto = 0
	}
	first, known := seen[k]
	if known && n.now-first.at > frame.Seconds(60) {
		known = false
	}
	if ip.FragOffset() > 0 {
		if at, ok := begun[begin(raw, overIPv6)]; !known && (!ok || n.now-at > frame.Seconds(60)) {
			t.Fatalf("%s: no allowed first fragment was sent", what)
		}
		if !sent[string(payload)] {
			t.Fatalf("%s: nobody has sent it", what)
		}
		if known && first.isComplete(ip) {
			delete(seen, k)
		}
		return
	}
	port := binary.BigEndian.Uint16(payload[2:])
	allowed := allows(to.Name, raw, 80)
	if answers := to.Name == "o" && binary.BigEndian.Uint16(payload) == 8080; !allowed && !answers {
		t.Fatalf("%s: no policy allows port %d", what, port)
	}
	if ports := [4]byte(payload); known && n.now-first.at < frame.Seconds(5) && ports != first.ports {
		t.Fatalf("%s: another first fragment had the ports %x", what, first.ports)
	}
	seen[k] = &arriving{at: n.now, ports: [4]byte(payload)}
	seen[k].isComplete(ip)
}
