package simnet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

const pressedBed = `network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
host b 10.0.0.3 port 2
outside o 203.0.113.8
publish 8080:80 a
a > 10.0.0.1 ping
b > 10.0.0.1 ping
`

// forge lets 600 forged sources send a packet each to the port that a publishes, and a answer it. Frames q and r are what the two have beside
// addresses and ports. It calls between after the hundredth one.
func forge(n *Net, q, r frametest.Packet, between func()) {
	a, o, own := n.host("a"), n.host("o"), frametest.Addr("198.51.100.1")
	gateway, _ := n.DP.Router.Interface(1)
	for i := range 600 {
		from := frametest.Addr("192.0.2.0") + frame.Addr(i)
		q.SrcMAC, q.DstMAC, q.Src, q.Dst, q.SrcPort, q.DstPort = peerMAC, uplinkMAC, from, own, 5000, 8080
		r.SrcMAC, r.DstMAC, r.Src, r.Dst, r.SrcPort, r.DstPort = a.MAC, gateway.MAC, a.Addr, from, 80, 5000
		n.Inject(o, q.Raw())
		n.Inject(a, r.Raw())
		if i == 100 {
			between()
		}
	}
	a.inbox, o.inbox = nil, nil
}

// A flood of SYNs with forged sources, which the container answers, takes a published container off the net neither inwards nor outwards.
func TestForgedSYNs(t *testing.T) {
	n := play(t, "nat flows 1024 quota 256\n"+pressedBed)
	syn, answer := frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN}, frametest.Packet{Proto: frame.TCP, Flags: frame.FlagSYN | frame.FlagACK}
	forge(n, syn, answer, func() { // one that is real, and goes on
		must(t, n, "o:7000 > 198.51.100.1:8080 tcp S\na:80 > o:7000 tcp S.\no:7000 > 198.51.100.1:8080 tcp .\n")
	})
	must(t, n, `o:7001 > 198.51.100.1:8080 tcp S
a < o:7001 tcp S
a:30000 > o:443 tcp S
o < 198.51.100.1:* tcp S
o:7000 > 198.51.100.1:8080 tcp P.
a < o:7000 tcp P.
`)
}

// Questions with forged sources, each of which the container answers once, take it off the net no more than SYNs do.
func TestForgedQuestions(t *testing.T) {
	n := play(t, "nat flows 1024 quota 256\n"+pressedBed)
	forge(n, frametest.Packet{}, frametest.Packet{}, func() {})
	must(t, n, "o:7001 > 198.51.100.1:8080 \"a client\"\na < o:7001 \"a client\"\na:30000 > o:53 \"its own\"\no < 198.51.100.1:* \"its own\"\n")
}

// Flows that have just been ended leave room for those of others: the table is not full while one port only makes and loses flows.
func TestEndedFlowsLeaveRoom(t *testing.T) {
	n := play(t, "nat flows 1024 quota 64\n"+pressedBed)
	a := n.host("a")
	gateway, _ := n.DP.Router.Interface(1)
	for i := range 2000 {
		n.Inject(a, frametest.Packet{SrcMAC: a.MAC, DstMAC: gateway.MAC, Src: a.Addr, Dst: n.host("o").Addr, SrcPort: uint16(1024 + i), DstPort: 7}.Raw())
	}
	n.host("o").inbox = nil
	must(t, n, "b:5000 > o:7 \"a neighbour\"\no < 198.51.100.1:* \"a neighbour\"\n")
}

// hosts are lines of a scenario: hosts h1 to h(count), each on the port of its number.
func hosts(count int) (script string) {
	for i := 1; i <= count; i++ {
		script += fmt.Sprintf("host h%d 10.0.0.%d port %d\n", i, i+1, i)
	}
	return script
}

// Ports that provoke errors take none of those that a path MTU needs from other ports.
func TestErrorsForPathMTU(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\nuplink 198.51.100.1 mtu 1400\noutside o 203.0.113.8\n"+hosts(9))
	for s := range 10 {
		for i := 1; i <= 8; i++ {
			must(t, n, fmt.Sprintf("h%d > o \"x\" ttl 1 times 300", i))
			n.host(fmt.Sprintf("h%d", i)).inbox = nil
		}
		must(t, n, fmt.Sprintf("h9:%d > o size 1472 df\nh9 < icmp 3/4", 3000+s))
		n.Advance(frame.TicksPerSecond)
	}
}

func must(t *testing.T, n *Net, script string) {
	t.Helper()
	if err := n.more(script); err != nil {
		t.Fatal(fmt.Errorf("%w; drops %v", err, n.DP.Drops()))
	}
}

// A flow that is refused for want of a place for its answers takes nothing from its port's share.
func TestPairsFull(t *testing.T) {
	n := play(t, "nat flows 1024 quota 8\n"+pressedBed)
	n.full = true
	for range 20 {
		must(t, n, "a > o gre\no .\n")
	}
	if got := n.DP.NAT.FlowsOf(1); got != 0 || n.DP.NAT.Used() != 0 {
		t.Errorf("%d flows are charged, %d are there", got, n.DP.NAT.Used())
	}
	n.full = false
	must(t, n, "a > o gre\no < 198.51.100.1 gre\n")
}

// Ports that have all the pairs of protocols without ports that they can leave some for others.
func TestPairsAreShared(t *testing.T) {
	n := play(t, "nat flows 16384\nnetwork 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.8\n"+hosts(41))
	for h := 1; h <= 40; h++ {
		for i := range 130 {
			p := n.host(fmt.Sprintf("h%d", h))
			n.Inject(p, frametest.Packet{SrcMAC: p.MAC, DstMAC: gatewayMAC + 1<<16, Src: p.Addr, Dst: frametest.Addr("203.0.113.9") + frame.Addr(h*200+i), Proto: frame.GRE, Payload: make([]byte, 8)}.Raw())
		}
	}
	for i := range frame.Addr(40) {
		p := n.host("h41")
		n.Inject(p, frametest.Packet{SrcMAC: p.MAC, DstMAC: gatewayMAC + 1<<16, Src: p.Addr, Dst: frametest.Addr("203.0.200.9") + i, Proto: frame.GRE, Payload: make([]byte, 8)}.Raw())
	}
	total := 0
	for h := 1; h <= 40; h++ {
		total += n.DP.NAT.FlowsOf(frame.PortID(h))
	}
	if got := n.DP.NAT.FlowsOf(41); total < 2000 || got != 40 {
		t.Errorf("40 ports have %d pairs, and another one got %d of 40; drops %v", total, got, n.DP.Drops())
	}
}

// A port that looks for neighbors that are not there harms itself only: the others still find theirs.
func TestNeighborsOfOnePort(t *testing.T) {
	n := play(t, pressedBed+"network 2 10.1.0.1/16\nhost d 10.1.255.9 port 3 net 2\n")
	a := n.host("a")
	gateway, _ := n.DP.Router.Interface(1)
	for i := range 2000 {
		n.Inject(a, frametest.Packet{SrcMAC: a.MAC, DstMAC: gateway.MAC, Src: a.Addr, Dst: frametest.Addr("10.1.0.2") + frame.Addr(i), SrcPort: 1, DstPort: 7}.Raw())
	}
	if got := len(n.DP.Router.Neighbors()); got > 256+8 {
		t.Errorf("one port looks for %d neighbors at once", got)
	}
	n.host("d").inbox = nil
	must(t, n, "b:5000 > d:7 \"another port\"\nd < b:5000 \"another port\"\n")
}

// A port that may look for no further neighbor keeps none from others: not one that it asks for all the time.
func TestNeighborOfAnotherPort(t *testing.T) {
	n := play(t, pressedBed+"network 2 10.1.0.1/16\nhost d 10.1.255.9 port 3 net 2\n")
	a, d := n.host("a"), n.host("d")
	gateway, _ := n.DP.Router.Interface(1)
	ask := func(to frame.Addr) {
		n.Inject(a, frametest.Packet{SrcMAC: a.MAC, DstMAC: gateway.MAC, Src: a.Addr, Dst: to, SrcPort: 1, DstPort: 7}.Raw())
	}
	for i := range 100 {
		ask(frametest.Addr("10.1.0.2") + frame.Addr(i))
	}
	ask(d.Addr) // there is an entry now
	d.inbox = nil
	must(t, n, "b:5000 > d:7 \"another port\"\nd < b:5000 \"another port\"\n")
}

// Many ports that look for absent neighbors leave room for another one's.
func TestNeighborsOfManyPorts(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\nnetwork 2 10.1.0.1/16\n"+hosts(71)+"host d 10.1.255.9 port 90 net 2\n")
	gateway, _ := n.DP.Router.Interface(1)
	for port := range 70 {
		h := n.host(fmt.Sprintf("h%d", port+1))
		for i := range 80 {
			n.Inject(h, frametest.Packet{SrcMAC: h.MAC, DstMAC: gateway.MAC, Src: h.Addr, Dst: frametest.Addr("10.1.0.2") + frame.Addr(80*port+i), SrcPort: 1, DstPort: 7}.Raw())
		}
	}
	if got := len(n.DP.Router.Neighbors()); got < 4000 || got > 4096 {
		t.Errorf("%d neighbors; there is room for 4096, and all ports together look for more", got)
	}
	n.host("d").inbox = nil
	must(t, n, "h71:5000 > d:7 \"another port\"\nd < h71:5000 \"another port\"\n")
}

// A frame waits for a neighbor. Meanwhile its port is switched off, or removed. The switch must drop the frame.
func TestWaitingFramesOfPortThatIsOff(t *testing.T) {
	for what, end := range map[string]func(n *Net){
		"off": func(n *Net) {
			p, _ := n.DP.Switch.Port(1)
			p.Flags &^= vswitch.Forwarding
			n.DP.Switch.SetPort(p)
		},
		"removed": func(n *Net) { n.DP.RemovePort(1) },
	} {
		n := play(t, "network 1 10.0.0.1/24\nnetwork 2 10.1.0.1/24\nhost a 10.0.0.2 port 1\nhost d 10.1.0.2 port 2 net 2\nsilent d\na:5000 > d:7 \"waits\"\n")
		end(n)
		d := n.host("d")
		gateway, _ := n.DP.Router.Interface(2)
		n.Inject(d, frametest.ARP(gateway.MAC, d.MAC, frame.ARPReply, d.Addr, gateway.Addr))
		for _, raw := range d.inbox {
			if strings.Contains(string(raw), "waits") {
				t.Errorf("%s: d got %s", what, describe(raw))
			}
		}
		if c := n.DP.Conservation(); n.DP.Drops()["port_not_forwarding"] != 1 || !c.Balanced {
			t.Errorf("%s: drops %v, %+v", what, n.DP.Drops(), c)
		}
	}
}

// Ports that provoke ICMP errors leave those of another port alone.
func TestErrorsOfManyPorts(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.8\n"+hosts(9))
	for port := range 8 {
		must(t, n, fmt.Sprintf("h%d > o \"x\" ttl 1 times 400", port+1))
	}
	must(t, n, "h9 > o \"x\" ttl 1\nh9 < icmp 11/0\n")
}

// Four ports behind which very many stations answer leave room for those of another port. A port that has its part learns new stations in the place of
// those that have been silent for longest.
func TestNeighborsShare(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\nnetwork 2 10.1.0.1/16\nhost a 10.0.0.2 port 1\nhost d 10.1.255.9 port 90 net 2\n")
	gateway, _ := n.DP.Router.Interface(2)
	var hogs []*Host
	for i := range 4 {
		if err := n.more(fmt.Sprintf("host x%d 10.1.1.%d port %d net 2", i, i+1, i+2)); err != nil {
			t.Fatal(err)
		}
		hogs = append(hogs, n.host(fmt.Sprintf("x%d", i)))
	}
	claim := func(h *Host, a frame.Addr) {
		n.Inject(h, frametest.ARP(frame.BroadcastMAC, h.MAC, 1, a, gateway.Addr))
	}
	for i, h := range hogs {
		for k := range 1100 {
			if claim(h, frametest.Addr("10.1.16.0")+frame.Addr(i*2000+k)); k%100 == 0 {
				n.Advance(frame.TicksPerSecond / 4)
			}
		}
	}
	if got := len(n.DP.Router.Neighbors()); got < 2000 || got > 3500 {
		t.Errorf("four ports have %d of 4,096 neighbors", got)
	}
	for _, h := range n.hosts {
		h.inbox = nil
	}
	must(t, n, "a:5000 > d:7 \"another port\"\nd < a:5000 \"another port\"\n")
	n.Advance(40 * frame.TicksPerSecond) // they are stale now
	late := frametest.Addr("10.1.200.0")
	for k := range frame.Addr(20) {
		claim(hogs[0], late+k)
		n.Advance(1)
	}
	for k := range frame.Addr(20) {
		if n.DP.Router.Station(2, (late+k).Netip()) == 0 {
			t.Errorf("station %d of those that came late is not known", k)
		}
	}
}

// Long pings to the gateway, whose answers are as long, leave room in the queues to and from the slow path for the pings of others, whatever the
// number of ports that send them.
func TestLongPingsLeaveRoom(t *testing.T) {
	for _, hogs := range []int{5, 30} {
		n := play(t, "network 1 10.0.0.1/24\n"+hosts(hogs+1))
		n.lenient = true
		gateway, _ := n.DP.Router.Interface(1)
		victim := n.host(fmt.Sprintf("h%d", hogs+1))
		for round := range 5 {
			for i := 1; i <= hogs; i++ {
				h := n.host(fmt.Sprintf("h%d", i))
				for k := range 12 {
					n.Poller.Put(h.Port, frametest.Packet{SrcMAC: h.MAC, DstMAC: gateway.MAC, Src: h.Addr, Dst: gateway.Addr, Proto: frame.ICMP, Type: 8, ID: uint16(k), Payload: make([]byte, 60000)}.Raw())
				}
			}
			victim.inbox = nil
			for k := range 3 {
				n.Poller.Put(victim.Port, frametest.Packet{SrcMAC: victim.MAC, DstMAC: gateway.MAC, Src: victim.Addr, Dst: gateway.Addr, Proto: frame.ICMP, Type: 8, ID: uint16(k), Payload: make([]byte, 3000)}.Raw())
			}
			n.Settle()
			if len(victim.inbox) != 9 {
				t.Errorf("%d ports, round %d: %d of 9 pieces of 3 answers; drops %v", hogs, round, len(victim.inbox), n.DP.Drops())
			}
			n.Advance(frame.TicksPerSecond)
		}
		if n.DP.Drops()["punt_queue_full"]+n.DP.Drops()["inject_queue_full"] == 0 {
			t.Errorf("%d ports: nothing was refused: this test shows nothing; drops %v", hogs, n.DP.Drops())
		}
	}
}

// One frame may not be flooded if its segments are more than a port may flood at once.
func TestOneFrameIsNoStorm(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\n"+hosts(100))
	h := n.host("h1")
	send := func(gso uint16) uint64 {
		p := frametest.Packet{SrcMAC: h.MAC, DstMAC: frame.BroadcastMAC, Src: h.Addr, Dst: frametest.Addr("10.0.0.255"), SrcPort: 9, DstPort: 9, Payload: make([]byte, 50000), Proto: frame.TCP, GSO: gso}
		before := n.DP.Conservation().Replicated
		n.Inject(h, p.Raw())
		n.Advance(10 * frame.TicksPerSecond)
		return n.DP.Conservation().Replicated - before
	}
	if got := send(64); got != 0 || n.DP.Drops()["storm_limited"] != 1 {
		t.Errorf("a frame of 782 segments made %d copies; drops %v", got, n.DP.Drops())
	}
	if got := send(1400); got != 98 {
		t.Errorf("a frame of 36 segments made %d copies; drops %v", got, n.DP.Drops())
	}
}

// A port that floods is held to its limits, in frames of a class and in copies; another port's broadcasts still arrive.
func TestStorms(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\n"+hosts(40))
	flood := func(dst frame.MAC, payload, seconds int) (passed int) {
		h := n.host("h1")
		p := frametest.Packet{SrcMAC: h.MAC, DstMAC: dst, Src: h.Addr, Dst: frametest.Addr("10.0.0.255"), SrcPort: 9, DstPort: 9, Payload: make([]byte, payload)}
		if payload > 1400 {
			p.Proto, p.GSO = frame.TCP, 1400
		}
		before := n.DP.Conservation().Replicated
		for range seconds * frame.TicksPerSecond {
			for range 400 {
				n.Inject(h, p.Raw())
			}
			n.Advance(1)
		}
		return int(n.DP.Conservation().Replicated-before) / 38
	}
	for _, c := range []struct {
		name     string
		dst      frame.MAC
		payload  int
		seconds  int
		min, max int
	}{
		{"broadcast", frame.BroadcastMAC, 10, 5, 1000 * 5, 1000*5 + 300},
		{"unknown unicast", 0x020000777777, 10, 5, 1000 * 5, 1000*5 + 300},
		{"super-frames of ten", frame.BroadcastMAC, 14000, 5, 440, 500},
		{"multicast, by its copies", 0x01005e000099, 10, 5, 50000 * 5 / 39, 50000*5/39 + 400},
	} {
		n.Advance(10 * frame.TicksPerSecond)
		if got := flood(c.dst, c.payload, c.seconds); got < c.min || got > c.max {
			t.Errorf("%s: %d frames of 20000 passed in %d s, want %d to %d", c.name, got, c.seconds, c.min, c.max)
		}
		n.host("h3").inbox = nil
		h := n.host("h2")
		n.Inject(h, frametest.Packet{SrcMAC: h.MAC, DstMAC: frame.BroadcastMAC, Src: h.Addr, Dst: frametest.Addr("10.0.0.255"), SrcPort: 9, DstPort: 9}.Raw())
		if len(n.host("h3").inbox) == 0 {
			t.Errorf("%s: another port's broadcast is lost", c.name)
		}
	}
	if n.DP.Drops()["storm_limited"] == 0 {
		t.Errorf("drops %v", n.DP.Drops())
	}
}

// wait lets the later fragments of so many datagrams from a host to the outside wait, and returns the first fragments.
func wait(n *Net, h *Host, datagrams, payload int) (first [][]byte) {
	gateway, _ := n.DP.Router.Interface(h.Net)
	for id := range datagrams {
		p := frametest.Packet{SrcMAC: h.MAC, DstMAC: gateway.MAC, Src: h.Addr, Dst: frametest.Addr("203.0.113.8"), SrcPort: 9, DstPort: 9, IPID: uint16(id + 1), Payload: make([]byte, payload)}
		pieces := frametest.Fragments(p.Raw(), 8000)
		first = append(first, pieces[0])
		for _, later := range pieces[1:] {
			n.Poller.Put(h.Port, later)
			n.Settle()
		}
		n.Advance(1)
	}
	return first
}

// Ports whose waiting fragments may all go on at once need more than the queue back to the workers has. They go on one after another, and none is
// lost.
func TestFragmentsShareTheQueue(t *testing.T) {
	n := play(t, "network 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.8\n"+hosts(40))
	var first []func()
	for i := 1; i <= 7; i++ {
		h := n.host(fmt.Sprintf("h%d", i))
		for _, raw := range wait(n, h, 5, 59000) { // 1.8 MB wait in all, and the queue has 1 MiB
			first = append(first, func() { n.Poller.Put(h.Port, raw) })
		}
	}
	n.lenient = true
	for _, put := range first {
		put()
	}
	n.Settle()
	if drops := n.DP.Drops(); len(drops) != 0 {
		t.Errorf("drops %v", drops)
	}
	if c := n.DP.Conservation(); c.Waiting != 0 {
		t.Errorf("%d fragments still wait", c.Waiting)
	}
}

// A first fragment costs the same, however many fragments of others wait.
func TestWaitingFragmentsCostNothing(t *testing.T) {
	cost := func(waiting int) float64 {
		n := play(t, pressedBed)
		wait(n, n.host("a"), waiting, 59000)
		first := wait(n, n.host("b"), 1, 100)[0]
		return testing.AllocsPerRun(20, func() {
			n.Poller.Put(n.host("b").Port, first)
			if err := n.DP.Step(); err != nil {
				t.Fatal(err)
			}
			n.Poller.Out = nil
		})
	}
	if none, many := cost(0), cost(12); many > none+1 {
		t.Errorf("a step makes %.0f allocations, and %.0f while fragments of another port wait", none, many)
	}
}

// The gateway and the port with the highest number are counted apart.
func TestLastPortIsNotTheGateway(t *testing.T) {
	n := play(t, fmt.Sprintf("network 1 10.0.0.1/24\nhost z 10.0.0.9 port %d\n", frame.MaxPorts-1))
	gateway := n.DP.PortStats(frame.Gateway)
	must(t, n, "z > 10.0.0.1 ping\nz < 10.0.0.1 pong\n")
	z, now := n.DP.PortStats(frame.MaxPorts-1), n.DP.PortStats(frame.Gateway)
	if z.RxPackets == 0 || z.TxPackets == 0 || now.RxPackets-gateway.RxPackets != z.TxPackets || now.TxPackets-gateway.TxPackets != z.RxPackets {
		t.Errorf("the port: %d in, %d out; the gateway: %d and %d", z.RxPackets, z.TxPackets, now.RxPackets-gateway.RxPackets, now.TxPackets-gateway.TxPackets)
	}
}
