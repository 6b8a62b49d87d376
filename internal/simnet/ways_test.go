package simnet

import (
	"bytes"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
)

const waysBed = `network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
outside o 203.0.113.8
publish 8080:80 a
`

// waysNet is a network whose uplink has programs.
func waysNet(t *testing.T) *Net {
	t.Helper()
	n, err := Run(waysBed)
	if err != nil {
		t.Fatal(err)
	}
	n.UseWays()
	n.lenient = true // a frame that comes back is one of the switch's own
	return n
}

// out lets a send a packet to o, and returns the frame that leaves by the uplink, parsed.
func (n *Net) out(t *testing.T, p frametest.Packet) *frame.Frame {
	t.Helper()
	h := n.host("a")
	i, _ := n.DP.Router.Interface(h.Net)
	p.SrcMAC, p.DstMAC, p.Src, p.Dst = h.MAC, i.MAC, h.Addr, n.host("o").Addr
	n.Inject(h, p.Raw())
	return n.lastOut(t)
}

func (n *Net) lastOut(t *testing.T) *frame.Frame {
	t.Helper()
	raw := n.LastOut()
	if raw == nil {
		t.Fatal("nothing left by the uplink")
	}
	f := &frame.Frame{}
	f.Reset(bytes.Clone(raw), uplinkPort)
	frame.Parse(f)
	return f
}

func wantWay(t *testing.T, f *frame.Frame, command uint8, inside string, insidePort, remotePort uint16) {
	t.Helper()
	a := frame.Addr(0)
	if inside != "" {
		a = frametest.Addr(inside)
	}
	if dst, src := frame.WayMACs(command, uint32(a), f.Proto, insidePort, remotePort); f.Dst != dst || f.Src != src {
		t.Errorf("way header %v %v, want %v %v", f.Dst, f.Src, dst, src)
	}
}

// The first packet of a flow asks for its way, and each one until an answer has come. Later ones do so once after the routes have changed.
// TCP asks with its SYN only: its source stays.
func TestWhoAsks(t *testing.T) {
	n := waysNet(t)
	udp := frametest.Packet{SrcPort: 20000, DstPort: 53, Payload: []byte("question")}
	syn := frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 20001, DstPort: 80}
	segment := syn
	segment.Flags = frame.FlagACK
	wantWay(t, n.out(t, udp), frame.WayAsk, "10.0.0.2", 20000, 53)
	wantWay(t, n.out(t, udp), frame.WayAsk, "10.0.0.2", 20000, 53)
	n.Inject(n.host("o"), frametest.Packet{SrcMAC: frame.WayArrived, DstMAC: uplinkMAC, Src: n.host("o").Addr, Dst: frametest.Addr("198.51.100.1"), SrcPort: 53, DstPort: 20000}.Raw())
	wantWay(t, n.out(t, udp), frame.WaySend, "10.0.0.2", 20000, 53)
	wantWay(t, n.out(t, syn), frame.WayAsk, "10.0.0.2", 20001, 80)
	wantWay(t, n.out(t, segment), frame.WaySend, "10.0.0.2", 20001, 80)
	n.DP.NAT.WaysChanged()
	wantWay(t, n.out(t, udp), frame.WayAsk, "10.0.0.2", 20000, 53)
	wantWay(t, n.out(t, udp), frame.WaySend, "10.0.0.2", 20000, 53)
	wantWay(t, n.out(t, segment), frame.WaySend, "10.0.0.2", 20001, 80)
	// From what is a published port, only the source is in question.
	if f := n.out(t, frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 80, DstPort: 7}); f.Tuple.SrcPort != 8080 {
		t.Errorf("the published socket speaks from port %d", f.Tuple.SrcPort)
	} else {
		wantWay(t, f, frame.WayAskSource, "10.0.0.2", 80, 7)
	}
}

// If a packet needs another source address, NAT translates the packet again with this address. The packet asks once more, since a
// socket of the host may have its port there; if the source is wrong again, the packet is dropped. The next packets of the flow also leave with this address.
func TestAnotherSource(t *testing.T) {
	n := waysNet(t)
	second := frametest.Addr("192.0.2.1")
	n.Own(frametest.Addr("198.51.100.1"), second)
	p := frametest.Packet{SrcPort: 20000, DstPort: 53, TTL: 9, Payload: []byte("question")}
	n.out(t, p)
	n.ComeBack(frame.WaySource, second, 0)
	f := n.lastOut(t)
	if f.Tuple.Src != second || f.Tuple.SrcPort != 20000 || f.IPv4().TTL() != 8 || frame.Sum(f.IPv4()[:20], 0) != 0xffff {
		t.Errorf("translated anew: %v, TTL %d", f.Tuple, f.IPv4().TTL())
	}
	wantWay(t, f, frame.WayAsk, "10.0.0.2", 20000, 53)
	n.out(t, frametest.Packet{SrcPort: 20008, DstPort: 53})
	n.ComeBack(frame.WaySource, second, 0)
	left := len(n.records)
	n.ComeBack(frame.WaySource, frametest.Addr("198.51.100.1"), 0)
	if drops := n.DP.Drops()["uplink_down"]; drops != 1 || len(n.records) > left+1 {
		t.Errorf("a packet that came back for its source twice: %d drops, %d frames", drops, len(n.records)-left)
	}
	// A packet that left right behind the first one comes back as well, and follows it.
	behind := frametest.Packet{SrcPort: 20009, DstPort: 53, Payload: []byte("first")}
	n.out(t, behind)
	first := n.LastOut()
	behind.Payload = []byte("second")
	n.out(t, behind)
	later := n.LastOut()
	for _, raw := range [][]byte{first, later} {
		n.comeBack(raw, frame.WaySource, second, 0)
		if f := n.lastOut(t); f.Tuple.Src != second || f.Tuple.SrcPort != 20009 || !bytes.Equal(f.Payload()[frame.UDPLen:], raw[len(raw)-len(f.Payload())+frame.UDPLen:]) {
			t.Errorf("a packet right behind the first one: %v", f.Tuple)
		}
	}
	if f := n.out(t, p); f.Tuple.Src != second {
		t.Errorf("the next packet leaves from %v", f.Tuple.Src)
	}
	// The answer comes to the second address.
	answer := frametest.Packet{SrcMAC: frame.WayArrived, DstMAC: uplinkMAC, Src: n.host("o").Addr, Dst: second, SrcPort: 53, DstPort: 20000, Payload: []byte("answer")}
	n.Inject(n.host("o"), answer.Raw())
	if got := n.host("a").inbox; len(got) == 0 || !bytes.Contains(got[len(got)-1], []byte("answer")) {
		t.Error("the answer to the second address did not arrive")
	}
	// An address that is not the host's cannot be used.
	n.out(t, frametest.Packet{SrcPort: 20002, DstPort: 53})
	n.ComeBack(frame.WaySource, frametest.Addr("192.0.2.77"), 0)
	if n.DP.Drops()["uplink_down"] != 2 {
		t.Errorf("drops: %v", n.DP.Drops())
	}
}

// A port that a socket of the host uses is left, for this container too.
func TestPortOfTheHost(t *testing.T) {
	n := waysNet(t)
	p := frametest.Packet{SrcPort: 20000, DstPort: 53}
	n.out(t, p)
	n.ComeBack(frame.WayPort, 0, 0)
	if f := n.lastOut(t); f.Tuple.SrcPort == 20000 {
		t.Error("the port of the host's socket is used again")
	}
	n.Advance(frame.Seconds(400))
	if f := n.out(t, p); f.Tuple.SrcPort != 20000 {
		t.Errorf("minutes later, the port is %d", f.Tuple.SrcPort)
	}
	// A port that another flow of the container keeps cannot be left: the packet comes back twice at most.
	n.out(t, frametest.Packet{SrcPort: 20050, DstPort: 53})
	n.out(t, frametest.Packet{SrcPort: 20050, DstPort: 54})
	n.ComeBack(frame.WayPort, 0, 0)
	left := len(n.records)
	n.ComeBack(frame.WayPort, 0, 0)
	if n.DP.Drops()["flow_clash"] != 1 || len(n.records) > left+1 {
		t.Errorf("a port that cannot be left: %v, %d frames", n.DP.Drops(), len(n.records)-left)
	}
}

// A user of the host who has many ports does not take the share of a container whose packets find that out: such a port is charged to nobody, and
// is tried again soon.
func TestPortsOfTheHostAreNobodys(t *testing.T) {
	n := waysNet(t)
	n.out(t, frametest.Packet{SrcPort: 20000, DstPort: 53})
	tried := map[uint16]bool{}
	for range 80 { // of a pool of 100 ports
		tried[n.lastOut(t).Tuple.SrcPort] = true
		n.ComeBack(frame.WayPort, 0, 0)
	}
	if len(tried) != 80 {
		t.Errorf("%d ports were tried, not 80", len(tried))
	}
	if _, held := n.DP.NAT.PortsOf(n.host("a").Port); held != 1 {
		t.Errorf("%d ports are charged to the container, which has one flow", held)
	}
	n.Advance(frame.Seconds(11))
	for i := range 50 {
		n.out(t, frametest.Packet{SrcPort: uint16(20001 + i), DstPort: 53})
	}
	if drops := n.DP.Drops(); drops["nat_ports_exhausted"] != 0 {
		t.Errorf("drops: %v", drops)
	}
}

// What the host's routing refuses is refused: the sender is told at once, by the error that the kernel would send.
func TestNoWay(t *testing.T) {
	for code, want := range map[frame.WayCode][2]byte{
		frame.WayUnreachable: {3, 1}, frame.WayProhibited: {3, 13}, frame.WayNoRoute: {3, 0}, frame.WayEncap: {3, 13}, frame.WayFenced: {3, 13},
	} {
		n := waysNet(t)
		n.out(t, frametest.Packet{SrcPort: 20000, DstPort: 53})
		n.ComeBack(code, 0, 0)
		in := n.host("a").inbox
		var f frame.Frame
		if len(in) > 0 {
			f.Reset(in[len(in)-1], 1)
			frame.Parse(&f)
		}
		if f.Flags&frame.ICMPError == 0 || [2]byte{f.ICMP().Type(), f.ICMP().Code()} != want {
			t.Errorf("%d: the sender got %s", code, n.trace)
			continue
		}
		if q, _, ok := frame.Quoted(f.ICMP()); !ok || q.Src != n.host("a").Addr || q.SrcPort != 20000 {
			t.Errorf("%d: the error quotes %v", code, q)
		}
		if n.DP.NAT.Used() != 0 {
			t.Errorf("%d: a flow that never left is kept", code)
		}
	}
	n := waysNet(t)
	n.out(t, frametest.Packet{SrcPort: 20000, DstPort: 53})
	if n.ComeBack(frame.WayBlackhole, 0, 0); len(n.host("a").inbox) != 0 || n.DP.Drops()["blackhole_route"] != 1 {
		t.Error("a blackhole answers")
	}
}

// What comes back because the programs do not know its way waits in the share of the port that sent it, and leaves again.
func TestUnknownWayIsCharged(t *testing.T) {
	n, err := RunOverIPv6(waysBed + "host b 10.0.0.3 port 2\n")
	if err != nil {
		t.Fatal(err)
	}
	n.UseWays()
	asked := map[frame.PortID]int{}
	n.DP.SetLearnWay(func(in frame.PortID, _ []byte) bool { asked[in]++; return true })
	send := func(name string, to uint16) (out []byte) {
		h := n.host(name)
		i, _ := n.DP.Router.Interface(h.Net)
		n.Inject(h, frametest.Packet{SrcMAC: h.MAC, DstMAC: i.MAC, Src: h.Addr, Dst: n.host("o").Addr, SrcPort: 9, DstPort: to}.Raw())
		return n.LastOut()
	}
	const flood = 4000
	var back [][]byte
	for i := range flood {
		back = append(back, send("a", uint16(1000+i%200)))
	}
	back = append(back, send("b", 53))
	before := len(n.records)
	for _, raw := range back {
		eth := bytes.Clone(raw)[frame.VnetLen:]
		eth[0], eth[6], eth[7] = eth[7], 2, byte(frame.WayUnknown)
		n.Poller.Put(uplinkPort, append(make([]byte, frame.VnetLen), eth...))
	}
	n.Settle()
	again := 0
	for _, r := range n.records[before:] {
		if r.out && r.port == uplinkPort {
			again++
		}
	}
	a, b, lost := asked[n.host("a").Port], asked[n.host("b").Port], n.DP.Drops()["punt_rate_limited"]
	if len(asked) != 2 || b != 1 || lost == 0 || a+b != again || a+int(lost) != flood {
		t.Errorf("asked for %v; %d frames left again; drops: %v", asked, again, n.DP.Drops())
	}
}

// A packet that is too long for its way is cut, or its sender is told; the next ones are cut without a question.
func TestTooLong(t *testing.T) {
	n := waysNet(t)
	long := frametest.Packet{SrcPort: 20000, DstPort: 53, Payload: make([]byte, 1400)}
	n.out(t, long)
	before := len(n.records)
	n.ComeBack(frame.WayTooLong, 0, 1000)
	pieces := func() (count int) {
		for _, r := range n.records[before:] {
			if r.out && r.port == uplinkPort {
				if len(r.raw) > frame.VnetLen+frame.EthernetLen+1000 {
					t.Errorf("a piece of %d bytes", len(r.raw))
				}
				count++
			}
		}
		return count
	}
	if got := pieces(); got != 2 {
		t.Errorf("cut into %d pieces", got)
	}
	before = len(n.records)
	if n.out(t, long); pieces() != 2 {
		t.Error("the next one was not cut")
	}
	long.Frag = 0x4000 // DF
	n.out(t, long)
	in := n.host("a").inbox
	var f frame.Frame
	f.Reset(in[len(in)-1], 1)
	if frame.Parse(&f); f.Flags&frame.ICMPError == 0 || f.ICMP().NextMTU() != 1000 {
		t.Errorf("with DF, the sender got %s", n.trace[len(n.trace)-1])
	}
}

// A later fragment that is too long for its way has no ports, and is cut all the same, once its first fragment has come back.
func TestLaterFragmentTooLong(t *testing.T) {
	n := waysNet(t)
	const more = 0x2000
	first := frametest.Packet{SrcPort: 20000, DstPort: 53, IPID: 7, Frag: more, Payload: make([]byte, 1400)}
	n.out(t, first)
	firstOut := n.LastOut()
	later := frametest.Packet{IPID: 7, Frag: more | (frame.UDPLen+1400)/8, Payload: make([]byte, 1400)}
	n.out(t, later)
	laterOut := n.LastOut()
	before := len(n.records)
	n.comeBack(firstOut, frame.WayTooLong, 0, 1000)
	n.comeBack(laterOut, frame.WayTooLong, 0, 1000)
	n.wantPieces(t, before, 2*(1400+frame.UDPLen), true)
}

// wantPieces checks that the first bytes of a packet's payload have left since a record, in frames that the way takes; more says that its end has not.
func (n *Net) wantPieces(t *testing.T, before, want int, more bool) {
	t.Helper()
	covered := map[int]int{}
	for _, r := range n.records[before:] {
		if !r.out || r.port != uplinkPort {
			continue
		}
		var f frame.Frame
		f.Reset(bytes.Clone(r.raw), 1)
		if frame.Parse(&f); f.Len() > frame.EthernetLen+1000 {
			continue // it comes back
		}
		at, payload := f.FragOffset(), f.IPv4().TotalLen()-f.IPv4().HeaderLen()
		if covered[at] != 0 || f.Tuple.Src != frametest.Addr("198.51.100.1") || f.IPv4().ID() != 7 || f.MoreFrags() != (more || at+payload < want) {
			t.Errorf("the piece at %d", at)
		}
		covered[at] = payload
	}
	at := 0
	for covered[at] > 0 {
		at += covered[at]
	}
	if at != want {
		t.Errorf("%d bytes left, want %d: %v; drops: %v", at, want, covered, n.DP.Drops())
	}
}

// Later fragments that arrive while their first fragment is on its way back wait for it. They leave whole, come back, and leave in pieces, too:
// also if the packet was complete with them.
func TestLaterFragmentsWhileFirstComesBack(t *testing.T) {
	for _, end := range []int{0, 100, 1400} {
		n := waysNet(t)
		const more = 0x2000
		n.out(t, frametest.Packet{SrcPort: 20000, DstPort: 53, IPID: 7, Frag: more, Payload: make([]byte, 1400)})
		before := len(n.records)
		n.putBack(n.LastOut(), frame.WayTooLong, 0, 1000)
		a, o := n.host("a"), n.host("o")
		i, _ := n.DP.Router.Interface(a.Net)
		want := 1400 + frame.UDPLen
		for k, size := range []int{1400, end} {
			p := frametest.Packet{SrcMAC: a.MAC, DstMAC: i.MAC, Src: a.Addr, Dst: o.Addr, IPID: 7, Frag: uint16(want / 8), Payload: make([]byte, size)}
			if k == 0 && end > 0 {
				p.Frag |= more
			}
			if size > 0 {
				n.put(a.Port, p.Raw())
				want += size + frame.UDPLen
			}
		}
		n.Settle()
		whole := 0
		for _, r := range n.records[before:] {
			if r.out && r.port == uplinkPort && len(r.raw) > 1100 {
				n.comeBack(r.raw, frame.WayTooLong, 0, 1000)
				whole++
			}
		}
		if whole == 0 {
			t.Error("no fragment left whole: this is another case")
		}
		n.wantPieces(t, before, want, false)
	}
}

// A first fragment whose flow needs another source address takes its way once more. Its later fragments of the same batch wait for it.
func TestFragmentsOfAnotherSource(t *testing.T) {
	n := waysNet(t)
	second := frametest.Addr("192.0.2.1")
	n.Own(frametest.Addr("198.51.100.1"), second)
	n.source = second
	a, o := n.host("a"), n.host("o")
	i, _ := n.DP.Router.Interface(a.Net)
	var raws [][]byte
	for k := range 3 {
		p := frametest.Packet{SrcMAC: a.MAC, DstMAC: i.MAC, Src: a.Addr, Dst: o.Addr, SrcPort: 20000, DstPort: 53, IPID: 7, Frag: uint16(k * 101), Payload: make([]byte, 800)}
		if k < 2 {
			p.Frag |= 0x2000
		}
		raws = append(raws, p.Raw())
	}
	before := len(n.records)
	n.Inject(a, raws...)
	left := 0
	for _, r := range n.records[before:] {
		var f frame.Frame
		f.Reset(bytes.Clone(r.raw), 1)
		if frame.Parse(&f); r.out && r.port == uplinkPort && f.Tuple.Src == second {
			left++
		}
	}
	if left != 3 {
		t.Errorf("%d of 3 fragments left with the other address; drops: %v", left, n.DP.Drops())
	}
}

// A packet from outside that belongs to no flow goes back to the host's stack, unchanged but for its source MAC.
func TestGiveBack(t *testing.T) {
	n := waysNet(t)
	n.out(t, frametest.Packet{SrcPort: 20000, DstPort: 53})
	n.out(t, frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 20001, DstPort: 80})
	hosts := frametest.Packet{Src: frametest.Addr("198.51.100.1"), Dst: frametest.Addr("192.0.2.4"), SrcPort: 20000, DstPort: 53, Payload: []byte("the host's")}
	for name, tt := range map[string]struct {
		p    frametest.Packet
		back bool
	}{
		"to a port of nobody":                           {frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 5, DstPort: 22}, true},
		"a reply to the host's ping":                    {frametest.Packet{Proto: frame.ICMP, Type: frame.ICMPEchoReply, ID: 7}, true},
		"TCP, not SYN, to a port that a container uses": {frametest.Packet{Proto: frame.TCP, Flags: frame.FlagACK, SrcPort: 5, DstPort: 20001}, true},
		"UDP to a port that a container uses":           {frametest.Packet{SrcPort: 5, DstPort: 20000}, true},
		"SYN to a port that a container uses":           {frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 5, DstPort: 20001}, false},
		"an error about the host's connection":          {frametest.Packet{Proto: frame.ICMP, Type: 3, Code: 4, Payload: frametest.Quote(hosts.Raw(), 8)}, true},
		"a published port":                              {frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 5, DstPort: 8080}, false},
	} {
		before := n.DP.NAT.GivenBack()
		p := tt.p
		p.SrcMAC, p.DstMAC, p.Src, p.Dst = frame.WayArrived|77, uplinkMAC, n.host("o").Addr, frametest.Addr("198.51.100.1")
		n.Inject(n.host("o"), p.Raw())
		if back := n.DP.NAT.GivenBack() > before; back != tt.back {
			t.Errorf("%s: given back: %v", name, back)
		}
		if !tt.back {
			continue
		}
		f := n.lastOut(t)
		if f.Src != frame.WayGivenBack(frame.WayIn, 77) || f.Dst != uplinkMAC || !bytes.Equal(f.Bytes()[12:], p.Raw()[frame.VnetLen+12:]) {
			t.Errorf("%s: it came back as %v %v", name, f.Dst, f.Src)
		}
	}
	// A copy is never given back: the host has the original.
	for _, port := range []uint16{22, 20000} {
		p := frametest.Packet{SrcMAC: frame.WayArrived&^(1<<32) | 77, DstMAC: uplinkMAC, Src: n.host("o").Addr, Dst: frametest.Addr("198.51.100.1"), SrcPort: 5, DstPort: port}
		before, drops := n.DP.NAT.GivenBack(), n.DP.Drops()["not_for_us"]
		if n.Inject(n.host("o"), p.Raw()); n.DP.NAT.GivenBack() != before || n.DP.Drops()["not_for_us"] != drops+1 {
			t.Errorf("a copy to port %d was given back, or dropped for another reason: %v", port, n.DP.Drops())
		}
	}
}

// An address that is away for a moment ends no flow; after ten seconds it does.
func TestAddressAway(t *testing.T) {
	n := waysNet(t)
	p := frametest.Packet{SrcPort: 20000, DstPort: 53}
	n.out(t, p)
	n.Own()
	n.Own(frametest.Addr("192.0.2.1"))
	if f := n.out(t, p); f.Tuple.Src != frametest.Addr("198.51.100.1") {
		t.Errorf("a moment later it leaves from %v", f.Tuple.Src)
	}
	n.Advance(frame.Seconds(11))
	n.Own(frametest.Addr("192.0.2.1"))
	if f := n.out(t, p); f.Tuple.Src != frametest.Addr("192.0.2.1") {
		t.Errorf("after 11 s it leaves from %v", f.Tuple.Src)
	}
}

// A sender whose next hop is dead is told later: the error quotes the packet as its sender sent it.
func TestDeadNextHop(t *testing.T) {
	n := waysNet(t)
	since := n.DP.Now()
	for _, p := range []frametest.Packet{
		{SrcPort: 20000, DstPort: 53, TTL: 9, Payload: []byte("question")},
		{Proto: frame.TCP, Flags: frame.FlagSYN, SrcPort: 20001, DstPort: 80, Seq: 77},
		{Proto: frame.ICMP, Type: frame.ICMPEcho, ID: 5, Seq: 1},
		{SrcPort: 80, DstPort: 53}, // leaves from 8080
	} {
		n.out(t, p)
	}
	asked := n.DP.NAT.AskedSince(since)
	if len(asked) != 4 {
		t.Fatalf("%d packets have asked", len(asked))
	}
	sent := 0
	for _, r := range n.records {
		if r.port != 1 || r.out {
			continue
		}
		if p := asked[sent]; !bytes.Equal(p.Quote[:10], r.raw[frame.VnetLen+frame.EthernetLen:][:10]) || frame.Sum(p.Quote[:20], 0) != 0xffff ||
			!bytes.Equal(p.Quote[12:26], r.raw[frame.VnetLen+frame.EthernetLen+12:][:14]) {
			t.Errorf("sent %x, quoted %x", r.raw[frame.VnetLen+frame.EthernetLen:], p.Quote)
		}
		sent++
	}
	p := asked[1]
	n.DP.WithSlowPath(func(out router.Output) {
		n.DP.Router.TellUnreachable(p.In, p.Net, p.Sender, p.Quote, n.DP.Now(), out)
	})
	n.Settle()
	in := n.host("a").inbox
	var f frame.Frame
	f.Reset(in[len(in)-1], 1)
	frame.Parse(&f)
	if q, _, ok := frame.Quoted(f.ICMP()); !ok || f.ICMP().Code() != frame.CodeHost || frame.EndpointsOf(q) != p.Inside || f.Tuple.Dst != n.host("a").Addr {
		t.Errorf("the sender got %s", n.trace[len(n.trace)-1])
	}
	if n.Advance(frame.Seconds(5)); len(n.DP.NAT.AskedSince(n.DP.Now()-frame.Seconds(4))) != 0 {
		t.Error("old packets are kept for ever")
	}
}

// A flow that begins with a fragment asks before the fragment leaves.
func TestFragmentAsksFirst(t *testing.T) {
	n := waysNet(t)
	second := frametest.Addr("192.0.2.1")
	n.Own(frametest.Addr("198.51.100.1"), second)
	n.source = second
	p := frametest.Packet{SrcPort: 20000, DstPort: 53, TTL: 9, Frag: 0x2000, Payload: make([]byte, 16)}
	if f := n.out(t, p); f.Tuple.Src != second || f.IPv4().TTL() != 8 {
		t.Errorf("the first fragment leaves as %v, TTL %d", f.Tuple, f.IPv4().TTL())
	}
	p.Frag = 3
	if f := n.out(t, p); f.Tuple.Src != second || f.IPv4().TTL() != 8 {
		t.Errorf("the later fragment leaves as %v", f.Tuple)
	}
}
