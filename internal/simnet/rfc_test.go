package simnet

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Requirements whose tests need a program. The others are scenarios in testdata. docs/compliance.md is made from both: of a Go test it
// takes the name, the comment and the result. The comment's paragraph "Deviates: ..." becomes a cell of the page.

// bed is two containers, and two hosts outside.
const bed = `network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
host b 10.0.0.3 port 2
outside o 203.0.113.8
outside p 203.0.113.9
`

// play runs a scenario; what went over the wires is shown when it fails. It runs over IPv6 in a part of TestOverIPv6.
func play(t *testing.T, script string) *Net {
	t.Helper()
	n, err := run(script, strings.HasPrefix(t.Name(), "TestOverIPv6/"))
	if err != nil {
		t.Fatalf("%v\nall frames (-> in, <- out):\n%s\ncaptured in %s", err, strings.Join(n.trace, "\n"), save(t, n))
	}
	return n
}

// leftBy is the source port with which the last packet to host name left.
func leftBy(n *Net, name string) uint16 {
	h := n.host(name)
	var f frame.Frame
	f.Reset(h.inbox[len(h.inbox)-1], h.Port)
	frame.Parse(&f)
	return f.Tuple.SrcPort
}

// An endpoint has one outside port, whatever it speaks to.
func TestRFC4787_REQ1_EndpointIndependentMapping(t *testing.T) {
	play(t, bed+`
b:20000 > o:53 "takes a port of the pool"
o < 198.51.100.1:20000 "takes a port of the pool"
a:30000 > o:53 "one"           # a port that is not in the pool
o < 198.51.100.1:* "one"
a:20000 > o:53 "which another wants"
o < 198.51.100.1:* "which another wants"
`)
	n := play(t, bed+"a:30000 > o:53 \"x\"\na:30000 > p:99 \"y\"\n")
	if x, y := leftBy(n, "o"), leftBy(n, "p"); x != y {
		t.Errorf("to o by port %d, to p by %d", x, y)
	}
}

// No port is overloaded: an outside port is one inside endpoint's. Ports below 1024 are not given to those above.
func TestRFC4787_REQ3_NoOverloading(t *testing.T) {
	play(t, bed+`
a:20000 > o:53 "a's"
o < 198.51.100.1:20000 "a's"
b:20000 > o:53 "b's"
o < 198.51.100.1:* "b's"
o reply "for b"
b < o:53 "for b"
o:53 > 198.51.100.1:20000 "for a"
a < o:53 "for a"
b .
`)
	n := play(t, "nat pool 20000-20999\n"+bed+`a:30000 > o:53 "x" times 90`)
	seen := map[uint16]bool{}
	for _, raw := range n.host("o").inbox {
		var f frame.Frame
		f.Reset(raw, 1)
		frame.Parse(&f)
		if p := f.Tuple.SrcPort; seen[p] || p < 1024 {
			t.Fatalf("port %d was given twice, or is below 1024", p)
		}
		seen[f.Tuple.SrcPort] = true
	}
}

// A port below 1024 becomes one below 1024.
//
// Deviates: only when `--nat-ports` has such ports, which by default belong to the host's own services; else it becomes one
// of the pool.
func TestRFC4787_REQ3a_PrivilegedPorts(t *testing.T) {
	n := play(t, "nat pool 900-1100\n"+bed+"a:123 > o:123 \"ntp\"\n")
	if p := leftBy(n, "o"); p >= 1024 {
		t.Errorf("left by %d", p)
	}
	n = play(t, "nat pool 900-1100\n"+bed+"a:30000 > o:53 \"high\"\n")
	if p := leftBy(n, "o"); p < 1024 {
		t.Errorf("left by %d", p)
	}
}

// Parity is kept where it can be: even ports stay even.
func TestRFC4787_REQ4_Parity(t *testing.T) {
	n := play(t, "nat pool 20000-20999\n"+bed+`a:30000 > o:5004 "rtp" times 40`)
	for _, raw := range n.host("o").inbox {
		var f frame.Frame
		f.Reset(raw, 1)
		frame.Parse(&f)
		in, _ := n.insideOf(f.Tuple.SrcPort)
		if in%2 != f.Tuple.SrcPort%2 {
			t.Errorf("%d left by %d", in, f.Tuple.SrcPort)
		}
	}
}

// Fragments are translated, in any order, both ways; what waits is bounded in number, bytes and time.
func TestRFC4787_REQ14_Fragments(t *testing.T) {
	for _, order := range []string{"", " reversed"} {
		play(t, bed+`
a:20000 > o:53 "0123456789abcdef0123456789abcdef" fragments 8`+order+`
o < 198.51.100.1:20000 "0123456789abcdef0123456789abcdef" fragments
o:53 > 198.51.100.1:20000 "fedcba9876543210fedcba9876543210" fragments 16`+order+`
a < o:53 "fedcba9876543210fedcba9876543210" fragments
`)
	}
	n := play(t, bed)
	for range 20 {
		if err := n.more("o:53 > 198.51.100.1:20000 \"never a first one\" frag later times 50"); err != nil {
			t.Fatal(err)
		}
	}
	if held := n.DP.Conservation(); held.Received-held.Dropped-held.Consumed-held.Transmitted > 256 {
		t.Errorf("too much waits: %+v", held)
	}
	n.Advance(frame.Seconds(31))
	if c := n.DP.Conservation(); !c.Balanced || n.DP.Drops()["fragment_timeout"] != 256 || n.DP.Drops()["fragment_queue_full"] != 744 {
		t.Errorf("%+v %v", c, n.DP.Drops())
	}
}

// A TCP endpoint has one outside port, whatever it speaks to.
func TestRFC5382_REQ1_EndpointIndependentMapping(t *testing.T) {
	n := play(t, bed+"a:30000 > o:80 tcp S\na:30000 > p:81 tcp S\n")
	if x, y := leftBy(n, "o"), leftBy(n, "p"); x != y {
		t.Errorf("to o by port %d, to p by %d", x, y)
	}
}

// open is a connection that has been made.
const open = `
a:20000 > o:80 tcp S
o < 198.51.100.1:20000 tcp S
o reply tcp S.
a < o:80 tcp S.
a reply tcp .
o < 198.51.100.1:20000 tcp .
`

// No port is overloaded.
func TestRFC5382_REQ7_NoOverloading(t *testing.T) {
	n := play(t, bed+"a:20000 > o:80 tcp S\n")
	a := leftBy(n, "o")
	n = play(t, bed+"a:20000 > p:80 tcp S\nb:20000 > o:80 tcp S\n")
	if b := leftBy(n, "o"); a == b {
		t.Errorf("both left by %d", a)
	}
}

// Outside ports are unpredictable (RFC 6056) where they are not the inside ones.
func TestRFC7857_9_UnpredictablePorts(t *testing.T) {
	n := play(t, "nat pool 20000-29999\n"+bed+`a:40000 > o:53 "x" times 200`)
	sequential := 0
	last := uint16(0)
	for _, raw := range n.host("o").inbox {
		var f frame.Frame
		f.Reset(raw, 1)
		frame.Parse(&f)
		if d := int(f.Tuple.SrcPort) - int(last); d > -4 && d < 4 {
			sequential++
		}
		last = f.Tuple.SrcPort
	}
	if sequential > 5 {
		t.Errorf("%d of 200 ports followed the one before", sequential)
	}
}

// Ports, flows and memory are limited per endpoint: one container takes nothing from another.
func TestRFC6888_REQ4_LimitsPerSubscriber(t *testing.T) {
	n := play(t, "nat pool 20000-20099\n"+bed+`a:30000 > o:80 tcp S times 200`)
	if tcp, _ := n.DP.NAT.PortsOf(1); tcp > 6+25 {
		t.Errorf("one port of the switch holds %d of 100 outside ports; its share is a sixteenth, and half of what is lent", tcp)
	}
	if err := n.more("b:20050 > p:80 tcp S\np < 198.51.100.1:* tcp S"); err != nil {
		t.Error(err)
	}
}

// A port is given to nobody else for 120 s after its mapping ended; to the same container at once.
func TestRFC6888_REQ8_PortsRest(t *testing.T) {
	n := play(t, bed+`
a:20000 > o:99 "x"
o < 198.51.100.1:20000 "x"
advance 125s
flows 0
b:20000 > o:99 "not this one"
o < 198.51.100.1:* "not this one"
a:20000 > o:99 "mine again"
o < 198.51.100.1:20000 "mine again"
b:20001 > p:99 "y"
`)
	if p := leftBy(n, "p"); p == 20000 {
		t.Error("b has it")
	}
	play(t, bed+`
a:20000 > o:99 "x"
advance 245s
b:20000 > p:99 "it has rested"
p < 198.51.100.1:20000 "it has rested"
`)
}
