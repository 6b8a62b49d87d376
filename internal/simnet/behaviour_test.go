package simnet

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// What others get wrong, and what a router and its ARP must do.

// A packet of a translated flow is translated or dropped, never leaked: late retransmits, segments outside of the window, a
// RST after the half-close (moby 40374, kubernetes 74839).
func TestBehaviour_NeverUntranslated(t *testing.T) {
	for _, nat := range []string{"", "nat windows strict\n"} {
		n := play(t, nat+bed+open)
		for _, line := range []string{
			"a:20000 > o:80 tcp P. seq 4000000000 ack 5", "a:20000 > o:80 tcp F. seq 1001 ack 1001", "o:80 > 198.51.100.1:20000 tcp F. seq 1001 ack 1002",
			"a:20000 > o:80 tcp . seq 1002 ack 1002", "a:20000 > o:80 tcp P. seq 1001 ack 1002 size 100", "a:20000 > o:80 tcp R seq 1002",
			"advance 245s", "a:20000 > o:80 tcp P. seq 1001 ack 1002", "a:20000 > o:80 tcp R seq 1002",
		} {
			if err := n.more(line); err != nil {
				t.Fatal(err)
			}
		}
		for _, raw := range n.host("o").inbox {
			if ip := frame.IPv4(raw[frame.VnetLen+frame.EthernetLen:]); ip.Src() != frametest.Addr("198.51.100.1") {
				t.Errorf("%sleaked: %s", nat, describe(raw))
			}
		}
	}
}

// One UDP socket that asks for A and AAAA at once, by two workers, gets one mapping, and neither question is lost
// (kubernetes 56903).
func TestBehaviour_TwoQuestionsAtOnce(t *testing.T) {
	n := play(t, bed)
	nt := n.DP.NAT
	for i := range 500 {
		var wg sync.WaitGroup
		var frames [2]*frame.Batch
		for k, dst := range []string{"203.0.113.8", "203.0.113.9"} {
			frames[k] = frametest.Batch(1, 100, frametest.Packet{Src: frametest.Addr("10.0.0.2"), Dst: frametest.Addr(dst), SrcPort: uint16(30000 + i), DstPort: 53}.Raw())
			f := &frames[k].Frames[0]
			f.Net, f.Verdict, f.RouteDst, f.RoutePort, f.Egress = 1, frame.Routed, f.Tuple.Dst, 53, frame.NoNet
			wg.Go(func() { nt.PostRouting(frames[k]) })
		}
		wg.Wait()
		x, y := &frames[0].Frames[0], &frames[1].Frames[0]
		for k, f := range []*frame.Frame{x, y} {
			if f.Verdict == frame.Punt && f.Reason == frame.FlowBusy { // as the slow path does
				f.Verdict, f.NAT = frame.Routed, frame.NATNone
				nt.PostRouting(frames[k])
			}
		}
		if x.Verdict != frame.Routed || y.Verdict != frame.Routed || x.Tuple.SrcPort != y.Tuple.SrcPort {
			t.Fatalf("%d: %v by %d, %v by %d", i, x.Reason, x.Tuple.SrcPort, y.Reason, y.Tuple.SrcPort)
		}
		nt.Expire(1<<20, 1<<20)
		nt.EndQuarantine(1 << 21)
		nt.Retire()
		nt.Reclaim()
	}
}

// Overlapping fragments end their packet (RFC 5722, by analogy); a first one too short for its ports is malformed (RFC 1858).
func TestBehaviour_OverlappingFragments(t *testing.T) {
	n := play(t, bed)
	a, gw := n.host("a"), gatewayMAC+1<<16
	p := frametest.Packet{SrcMAC: a.MAC, DstMAC: gw, Src: a.Addr, Dst: frametest.Addr("203.0.113.8"), SrcPort: 20000, DstPort: 53, Payload: make([]byte, 40), IPID: 9}
	pieces := frametest.Fragments(p.Raw(), 16)
	bad := frametest.Fragments(p.Raw(), 24)[1] // bytes 24 to 48: over the second's end
	n.lenient = true
	n.Inject(a, pieces[0], pieces[1], bad, pieces[2])
	if got := len(n.host("o").inbox); got != 2 || n.DP.Drops()["fragment_invalid"] != 2 {
		t.Errorf("%d went out, drops %v", got, n.DP.Drops())
	}
	short := frametest.Fragments(frametest.Packet{SrcMAC: a.MAC, DstMAC: gw, Src: a.Addr, Dst: p.Dst, Proto: frame.TCP, Flags: frame.FlagSYN, IPID: 10}.Raw(), 16)
	n.Inject(a, short...)
	if got := len(n.host("o").inbox); got != 2 {
		t.Errorf("a tiny first fragment went out; drops %v", n.DP.Drops())
	}
}

// SCTP is mapped by its ports; its CRC is right, and untouched where the port is kept.
func TestBehaviour_SCTP(t *testing.T) {
	n := play(t, bed)
	a, gw := n.host("a"), gatewayMAC+1<<16
	for i, port := range []uint16{20000, 40000} {
		raw := frametest.Packet{SrcMAC: a.MAC, DstMAC: gw, Src: a.Addr, Dst: frametest.Addr("203.0.113.8"), Proto: frame.SCTP, Payload: sctpPacket(port, 80)}.Raw()
		n.Inject(a, raw)
		inbox := n.host("o").inbox
		if len(inbox) != i+1 {
			t.Fatalf("nothing came out; drops %v", n.DP.Drops())
		}
		l4 := inbox[i][frame.VnetLen+frame.EthernetLen+frame.IPv4Len:]
		out := uint16(l4[0])<<8 | uint16(l4[1])
		if string(l4) != string(sctpPacket(out, 80)) || i == 0 && out != port {
			t.Errorf("from port %d: left by %d, % x", port, out, l4)
		}
	}
	// Who was called by an association does not begin another one by its ports.
	const initChunk, initAckChunk = 1, 2
	o := n.host("o")
	for i, chunk := range []byte{initAckChunk, initChunk} {
		a.inbox = nil
		n.Inject(o, frametest.Packet{SrcMAC: o.MAC, DstMAC: uplinkMAC, Src: o.Addr, Dst: frametest.Addr("198.51.100.1"), Proto: frame.SCTP, Payload: sctpChunk(80, 20000, chunk)}.Raw())
		if got := len(a.inbox); got != 1-i {
			t.Errorf("chunk %d: %d packets arrive; drops %v", chunk, got, n.DP.Drops())
		}
	}
	play(t, bed+`publish 9000:9000 b
o:4000 > 198.51.100.1:9000 sctp
b < o:4000 sctp
`)
}

// When the table is full, NAT evicts only flows that were never answered or are closing, from the port that holds most of them: a flood
// harms its own container.
func TestBehaviour_EvictionIsFair(t *testing.T) {
	n := play(t, "nat flows 1024 quota 1024 pool 20000-29999\n"+bed+`
b:20000 > o:80 tcp S
o < 198.51.100.1:20000 tcp S
o reply tcp S.
b < o:80 tcp S.
`)
	for i := range 40 {
		if err := n.more("a:" + strconv.Itoa(30000+60*i) + " > o:99 \"flood\" times 60\nadvance 1s"); err != nil {
			t.Fatal(err)
		}
		port := 21000 + i
		line := strings.ReplaceAll("b:PORT > p:53 \"mine\"\np < 198.51.100.1:* \"mine\"\np reply \"yes\"\nb:PORT < p:53 \"yes\"\n", "PORT", strconv.Itoa(port))
		if err := n.more(line); err != nil {
			t.Fatalf("round %d: %v; drops %v", i, err, n.DP.Drops())
		}
	}
	if err := n.more("o:80 > 198.51.100.1:20000 tcp P.\nb < o:80 tcp P."); err != nil {
		t.Error(err)
	}
	if _, ended := n.DP.NAT.Stats(); ended["evicted"] == 0 {
		t.Errorf("nothing was evicted: the test shows nothing; %d flows, drops %v, ended %v", n.DP.NAT.Used(), n.DP.Drops(), ended)
	}
}

// Mapping address-and-port-dependent shares outside ports: more flows than ports, each to another remote end.
func TestBehaviour_SharedPorts(t *testing.T) {
	const shared = "nat pool 20000-20003\n" + "network 1 10.0.0.1/24 mapping address-and-port-dependent\nuplink 198.51.100.1\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\noutside o 203.0.113.8\noutside p 203.0.113.9\n"
	n := play(t, shared+`
a:20000 > o:1 "x"
o < 198.51.100.1:20000 "x"
b:20000 > o:2 "y"
o < 198.51.100.1:20000 "y"
o:2 > 198.51.100.1:20000 "for b"
b:20000 < o:2 "for b"
o:1 > 198.51.100.1:20000 "for a"
a:20000 < o:1 "for a"
b:20000 > o:1 "the same remote end"
o < 198.51.100.1:* "the same remote end"
o reply "for b"
b:20000 < o:1 "for b"
a .
`)
	for port := range 100 {
		if err := n.more("a:30000 > o:" + strconv.Itoa(1000+port) + " \"x\""); err != nil {
			t.Fatal(err)
		}
	}
	if used := n.DP.NAT.Used(); used != 103 {
		t.Errorf("%d flows by 4 ports; drops %v", used, n.DP.Drops())
	}
	for range 5 {
		_ = n.more("a:30000 > p:7 \"x\" times 5")
	}
	if got := n.DP.Drops()["nat_ports_exhausted"]; got == 0 {
		t.Error("five endpoints to one remote end by four ports")
	}
	n.Advance(frame.Seconds(400))
	if u := n.DP.NAT.PortUseOf(frame.UDP); u.Used+u.Resting != 0 {
		t.Errorf("ports that did not come back: %+v", u)
	}
}

// An ICMP error is believed from the flow's own end or from outside only: a neighbour's about another's flow is dropped, in
// the same network and in an isolated one.
func TestBehaviour_ForgedErrors(t *testing.T) {
	n := play(t, `network 1 10.0.0.1/24 isolated
network 2 10.0.1.1/24 isolated
uplink 198.51.100.1
host a 10.0.0.2 port 1
host c 10.0.0.3 port 2
host b 10.0.1.2 port 3 net 2
outside o 203.0.113.8
a:20000 > o:443 tcp S
o < 198.51.100.1:20000 tcp S
o reply tcp S.
a < o:443 tcp S.
`)
	n.host("a").inbox = nil
	out := frametest.Packet{Src: frametest.Addr("198.51.100.1"), Dst: frametest.Addr("203.0.113.8"), SrcPort: 20000, DstPort: 443, Proto: frame.TCP}
	in := frametest.Packet{Src: out.Dst, Dst: frametest.Addr("10.0.0.2"), SrcPort: 443, DstPort: 20000, Proto: frame.TCP}
	for _, from := range []string{"b", "c"} {
		h := n.host(from)
		gw, _ := n.DP.Router.Interface(h.Net)
		for _, q := range []frametest.Packet{out, in} {
			for _, dst := range []frame.Addr{q.Src, frametest.Addr("8.8.8.8")} {
				n.Inject(h, frametest.Packet{SrcMAC: h.MAC, DstMAC: gw.MAC, Src: h.Addr, Dst: dst, Proto: frame.ICMP, Type: 3, Code: 4, Seq: 576, Payload: frametest.Quote(q.Raw(), 8)}.Raw())
			}
		}
	}
	if a, o := len(n.host("a").inbox), len(n.host("o").inbox); a+o > 0 {
		t.Errorf("%d and %d forged errors arrived; drops %v", a, o, n.DP.Drops())
	}
}

// A packet from a port to the very outside port that it has is dropped; nothing is spent on it.
func TestBehaviour_FlowToItself(t *testing.T) {
	n := play(t, bed+`
a:20000 > o:53 "x"
o < 198.51.100.1:20000 "x"
`)
	for range 100 {
		if err := n.more(`a:20000 > 198.51.100.1:20000 "to itself" times 1`); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.more(`drops flow_to_itself 100
b:20001 > o:53 "y"
o < 198.51.100.1:20001 "y"`); err != nil {
		t.Error(err)
	}
}

// What may go early goes, though who holds most has nothing that may.
func TestBehaviour_EaseFindsWhoMayGo(t *testing.T) {
	n := play(t, "nat flows 1024 pool 20000-29999\n"+bed)
	for i := range 200 {
		line := strings.ReplaceAll("a:PORT > o:80 tcp S\no:80 > 198.51.100.1:PORT tcp S.\na:PORT > o:80 tcp .\n", "PORT", strconv.Itoa(20000+i))
		if err := n.more(line); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		if err := n.more(fmt.Sprintf("host f%d 10.0.0.%d port %d", i, 100+i, 20+i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 120 {
		if err := n.more(fmt.Sprintf("f%d:%d > o:53 \"flood\" times 20\nadvance 1s", i%6, 21000+20*i)); err != nil {
			t.Fatal(err)
		}
	}
	if d := n.DP.Drops(); len(d) > 0 || n.DP.NAT.FlowsOf(1) != 200 {
		t.Errorf("%d flows of a, drops %v", n.DP.NAT.FlowsOf(1), d)
	}
}

// sctpPacket is an SCTP packet with its CRC32c (RFC 9260, appendix A).
func sctpPacket(src, dst uint16) []byte { return sctpChunk(src, dst, 0) }

// sctpChunk is a packet with a chunk of this type.
func sctpChunk(src, dst uint16, chunk byte) []byte {
	b := append([]byte{byte(src >> 8), byte(src), byte(dst >> 8), byte(dst), 1, 2, 3, 4, 0, 0, 0, 0, chunk, 0, 0, 20}, "content of chunk"...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// The header is checked: version, length, checksum (5.2.2).
func TestRFC1812_5_2_2_Header(t *testing.T) {
	n := play(t, bed)
	a := n.host("a")
	good := frametest.Packet{SrcMAC: a.MAC, DstMAC: gatewayMAC + 1<<16, Src: a.Addr, Dst: frametest.Addr("203.0.113.8")}
	for _, edit := range []func(ip []byte){
		func(ip []byte) { ip[0] = 0x65 }, func(ip []byte) { ip[0] = 0x44 }, func(ip []byte) { ip[2] = 0xff }, func(ip []byte) { ip[10] ^= 1 },
	} {
		raw := good.Raw()
		edit(raw[frame.VnetLen+frame.EthernetLen:])
		n.Inject(a, raw)
	}
	if d := n.DP.Drops(); len(n.host("o").inbox) != 0 || d["malformed_packet"] != 3 || d["bad_ip_checksum"] != 1 {
		t.Errorf("%d went out; %v", len(n.host("o").inbox), d)
	}
}

// Errors are limited in rate (4.3.2.8), and no two bursts alike.
func TestRFC1812_4_3_2_8_RateLimit(t *testing.T) {
	n := play(t, bed+`a > o "x" ttl 1 times 400`)
	if got := len(n.host("a").inbox); got == 0 || got > 200 {
		t.Errorf("%d errors about 400 packets at once", got)
	}
}

// The order of RFC 826: the sender is learned by whom it asks; the gateway answers for its own address only.
func TestRFC826_Order(t *testing.T) {
	play(t, bed+`
a arp 10.0.0.1
a < arp 10.0.0.1
a arp 10.0.0.9
a .
`)
	n := play(t, bed+"a arp 10.0.0.1\na < arp 10.0.0.1\n")
	if nb := n.DP.Router.Neighbors(); len(nb) != 1 || nb[0].Addr != n.host("a").Addr.Netip() {
		t.Errorf("neighbors %+v", nb)
	}
}

// A probe teaches nothing (RFC 5227, 2.1.1); a gratuitous packet changes only what is known.
func TestRFC5227_2_1_Probe(t *testing.T) {
	n := play(t, bed)
	a := n.host("a")
	n.Inject(a, frametest.ARP(frame.BroadcastMAC, a.MAC, 1, 0, n.host("b").Addr))
	n.Inject(a, frametest.ARP(frame.BroadcastMAC, a.MAC, 1, a.Addr, a.Addr))
	if nb := n.DP.Router.Neighbors(); len(nb) != 0 {
		t.Errorf("neighbors %+v", nb)
	}
	if err := n.more("a arp 10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	n.Inject(a, frametest.ARP(frame.BroadcastMAC, a.MAC+1, 1, a.Addr, a.Addr))
	if nb := n.DP.Router.Neighbors(); len(nb) != 1 || nb[0].MAC != a.MAC+1 {
		t.Errorf("after a gratuitous one: %+v", nb)
	}
}

// The gateway defends its address, once in 10 s at most.
func TestRFC5227_2_4_Defend(t *testing.T) {
	n := play(t, bed)
	a := n.host("a")
	count := func() (got int) {
		for _, raw := range n.host("b").inbox {
			var f frame.Frame
			f.Reset(raw, 2)
			frame.Parse(&f)
			if b := f.Bytes(); f.Flags&frame.IsARP != 0 && f.Src == gatewayMAC+1<<16 && frame.LoadAddr(b[f.L3+14:]) == frametest.Addr("10.0.0.1") {
				got++
			}
		}
		return got
	}
	claim := frametest.ARP(frame.BroadcastMAC, a.MAC, 1, frametest.Addr("10.0.0.1"), frametest.Addr("10.0.0.1"))
	for range 5 {
		n.Inject(a, claim)
	}
	if got := count(); got != 1 {
		t.Errorf("defended %d times at once", got)
	}
	n.Advance(frame.Seconds(11))
	n.Inject(a, claim)
	if got := count(); got != 2 {
		t.Errorf("after 11 s: %d times", got)
	}
}

// A neighbor is asked for three times; what waits for it is bounded, and its senders told when it does not answer.
func TestRFC1122_2_3_2_NeighborQueue(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\nnetwork 2 10.0.1.1/24\nhost a 10.0.0.2 port 1\nhost b 10.0.1.2 port 2 net 2\nsilent b\n")
	if err := n.more(`a > b "x" times 20`); err != nil {
		t.Fatal(err)
	}
	if got := n.DP.Drops()["neighbor_queue_full"]; got != 4 {
		t.Errorf("%d of 20 found no place", got)
	}
	n.Advance(frame.Seconds(5))
	if d := n.DP.Drops(); d["neighbor_failed"] != 16 || len(n.host("a").inbox) < 10 {
		t.Errorf("%v, %d errors", d, len(n.host("a").inbox))
	}
}

// A router behind a container's port reports about what goes through it; its address is not shown outside.
func TestBehaviour_ErrorsFromARouterInside(t *testing.T) {
	n := play(t, bed+`
route 10.9.0.0/24 via 10.0.0.2
a:20000 > o:53 "from behind a" src 10.9.0.5
o < 198.51.100.1:20000 "from behind a"
o:53 > 198.51.100.1:20000 "answer"
`)
	a := n.host("a")
	last := a.inbox[len(a.inbox)-1] // the answer, which goes on to 10.9.0.5
	n.Inject(a, frametest.Packet{SrcMAC: a.MAC, DstMAC: gatewayMAC + 1<<16, Src: a.Addr, Dst: frametest.Addr("203.0.113.8"), Proto: frame.ICMP, Type: 3, Code: 4, Seq: 1280, Payload: frametest.Quote(last, 8)}.Raw())
	inbox := n.host("o").inbox
	if len(inbox) != 1 {
		t.Fatalf("%d errors came out; drops %v", len(inbox), n.DP.Drops())
	}
	if ip := frame.IPv4(inbox[0][frame.VnetLen+frame.EthernetLen:]); ip.Src() != frametest.Addr("198.51.100.1") {
		t.Errorf("from %s", ip.Src())
	}
}
