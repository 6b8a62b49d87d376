package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
)

func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// numbered parses rules. Their IDs count from 1.
func numbered(t testing.TB, texts ...string) (rules []Numbered) {
	t.Helper()
	for i, text := range texts {
		r, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, Numbered{Rule: r, ID: uint32(i + 1)})
	}
	return rules
}

// judged is the verdict of all rules, found without any index.
func judged(rules []Numbered, d Direction, peer netip.Addr, class Class, proto uint8, port uint16) Verdict {
	var fitting []Numbered
	any := false
	for _, r := range rules {
		if r.Direction != d {
			continue
		}
		any = true
		fits := false
		switch r.Peer.Kind {
		case Everybody:
			fits = class != Special || r.Action != Allow
		case OfClass:
			fits = class == r.Peer.Class || class == Special && r.Peer.Class == Outside && r.Action != Allow
		case Prefix:
			fits = r.Peer.Prefix.Contains(peer) && (class != Special || r.Action != Allow || isSpecial(r.Peer.Prefix))
		case PortPeer, NetworkPeer:
			for _, p := range r.Where {
				fits = fits || class == Inside && p.Contains(peer)
			}
		}
		isICMP := proto == frame.ICMP || proto == frame.ICMPv6
		fits = fits && (r.Proto == AnyProto || r.Proto == proto || r.Proto == frame.ICMP && isICMP)
		if fits && len(r.Ports) > 0 {
			fits = false
			for _, p := range r.Ports {
				fits = fits || p.Lo <= port && port <= p.Hi
			}
		}
		if fits {
			fitting = append(fitting, r)
		}
	}
	if !any {
		return Verdict{Action: Allow}
	}
	for _, action := range []Action{Drop, Reject, Allow} {
		first := uint32(0)
		for _, r := range fitting {
			if r.Action == action && (first == 0 || r.ID < first) {
				first = r.ID
			}
		}
		if first > 0 {
			return Verdict{action, first}
		}
	}
	return Verdict{}
}

// The prefixes of the property test nest, and some have the same first address.
var (
	somePrefixes = []netip.Prefix{
		pfx("0.0.0.0/0"), pfx("0.0.0.0/1"), pfx("10.0.0.0/7"), pfx("10.0.0.0/8"), pfx("10.0.0.0/9"), pfx("10.0.0.0/24"), pfx("10.0.0.0/25"), pfx("10.0.0.0/32"), pfx("10.0.0.1/32"), pfx("10.0.0.128/25"), pfx("255.255.255.255/32"),
		pfx("::/0"), pfx("::/128"), pfx("2001:db8::/32"), pfx("2001:db8::/64"), pfx("2001:db8::/65"), pfx("2001:db8::/128"), pfx("2001:db8::1/128"), pfx("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
	}
	somePeers = []netip.Addr{
		ip("10.0.0.0"), ip("10.0.0.1"), ip("10.0.0.129"), ip("10.0.9.1"), ip("10.200.0.1"), ip("11.0.0.1"), ip("127.255.255.255"), ip("192.0.2.1"), ip("0.0.0.0"), ip("255.255.255.255"),
		ip("2001:db8::"), ip("2001:db8::1"), ip("2001:db8:0:0:8000::"), ip("2001:db8:1::"), ip("::"), ip("::1"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
	}
	someEdges  = []uint16{0, 1, 2, 3, 79, 80, 81, 443, 65533, 65534, 65535}
	someProtos = []uint8{frame.TCP, frame.UDP, frame.ICMP, frame.ICMPv6, frame.SCTP, frame.GRE, 0, 254}
)

var randomRule = rapid.Custom(func(t *rapid.T) (r Numbered) {
	r.Direction = rapid.SampledFrom([]Direction{Egress, Egress, Egress, Ingress}).Draw(t, "direction")
	r.Action = rapid.SampledFrom([]Action{Allow, Reject, Drop}).Draw(t, "action")
	r.Proto = rapid.SampledFrom([]uint8{AnyProto, AnyProto, frame.TCP, frame.TCP, frame.TCP, frame.UDP, frame.ICMP, frame.GRE, frame.SCTP}).Draw(t, "proto")
	switch r.Peer.Kind = rapid.SampledFrom([]PeerKind{Everybody, Prefix, Prefix, Prefix, OfClass, PortPeer, NetworkPeer, NamePeer}).Draw(t, "kind"); r.Peer.Kind {
	case Prefix:
		r.Peer.Prefix = rapid.SampledFrom(somePrefixes).Draw(t, "prefix")
	case OfClass:
		r.Peer.Class = rapid.SampledFrom([]Class{Inside, Outside, Host}).Draw(t, "class")
	case PortPeer, NetworkPeer:
		r.Peer.Name, r.Where = "x", rapid.SliceOfN(rapid.SampledFrom(somePrefixes), 0, 3).Draw(t, "where")
	case NamePeer: // Rules.Judge leaves them out
		r.Direction, r.Action, r.Peer.Name = Egress, Allow, "example.com"
	}
	if frame.HasPorts(r.Proto) {
		for range rapid.IntRange(0, 3).Draw(t, "ranges") {
			a, b := rapid.SampledFrom(someEdges).Draw(t, "port"), rapid.SampledFrom(someEdges).Draw(t, "port")
			r.Ports = append(r.Ports, PortRange{min(a, b), max(a, b)})
		}
	}
	return r
})

// Compiled rules say what a look at each rule says.
func TestJudgeAgainstAllRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 24).Draw(t, "n")
		rules := rapid.SliceOfN(randomRule, n, n).Draw(t, "rules")
		ids := rapid.Permutation([]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 1<<32 - 1}).Draw(t, "ids")
		for i := range rules {
			rules[i].ID = ids[i]
		}
		c := Compile(rules, ByRules)
		ports := append([]uint16{rapid.Uint16().Draw(t, "port")}, someEdges...)
		peers := rapid.SliceOfN(rapid.SampledFrom(somePeers), 5, 5).Draw(t, "peers")
		for _, d := range []Direction{Egress, Ingress} {
			closes := slices.ContainsFunc(rules, func(r Numbered) bool { return r.Direction == d })
			if c.Closes(d) != closes {
				t.Fatalf("Closes(%v) is %v", d, c.Closes(d))
			}
			for _, peer := range peers {
				for _, class := range []Class{Inside, Outside, Host, Special} {
					for _, proto := range someProtos {
						for _, port := range ports {
							want := judged(rules, d, peer, class, proto, port)
							if v := c.Judge(d, peer, class, proto, port); v != want {
								t.Fatalf("%v %v class %d proto %d port %d: %v, want %v", d, peer, class, proto, port, v, want)
							}
							if !frame.HasPorts(proto) {
								break
							}
						}
					}
				}
			}
		}
		for _, id := range ids {
			_, known := c.log[id]
			if has := slices.ContainsFunc(rules, func(r Numbered) bool { return r.ID == id }); known != has {
				t.Fatalf("rule %d is known: %v", id, known)
			}
		}
	})
}

// These verdicts are written by hand: they check the property test, too.
func TestJudge(t *testing.T) {
	c := Compile(numbered(t,
		"egress allow 10.0.0.0/8 tcp/80-90",      // 1
		"egress reject 10.1.0.0/16 tcp/85-65535", // 2
		"egress drop 10.1.2.3 tcp/1-80",          // 3
		"egress allow any udp/1,65535",           // 4
		"egress allow 10.0.0.0/8 tcp/80",         // 5
		"egress allow inside icmp",               // 6
		"egress drop host log",                   // 7
	), ByRules)
	for _, tt := range []struct {
		peer  string
		class Class
		proto uint8
		port  uint16
		want  Verdict
	}{
		{"10.2.0.1", Outside, frame.TCP, 79, Verdict{}},
		{"10.2.0.1", Outside, frame.TCP, 80, Verdict{Allow, 1}}, // and not 5
		{"10.2.0.1", Outside, frame.TCP, 90, Verdict{Allow, 1}},
		{"10.2.0.1", Outside, frame.TCP, 91, Verdict{}},
		{"10.1.0.1", Outside, frame.TCP, 84, Verdict{Allow, 1}},
		{"10.1.0.1", Outside, frame.TCP, 85, Verdict{Reject, 2}},
		{"10.1.0.1", Outside, frame.TCP, 65535, Verdict{Reject, 2}},
		{"10.1.2.3", Outside, frame.TCP, 0, Verdict{}},
		{"10.1.2.3", Outside, frame.TCP, 1, Verdict{Drop, 3}},
		{"10.1.2.3", Outside, frame.TCP, 80, Verdict{Drop, 3}},
		{"10.1.2.3", Outside, frame.TCP, 81, Verdict{Allow, 1}},
		{"192.0.2.1", Outside, frame.UDP, 0, Verdict{}},
		{"192.0.2.1", Outside, frame.UDP, 1, Verdict{Allow, 4}},
		{"2001:db8::1", Inside, frame.UDP, 65535, Verdict{Allow, 4}},
		{"192.0.2.1", Outside, frame.UDP, 65534, Verdict{}},
		{"192.0.2.1", Inside, frame.ICMP, 7, Verdict{Allow, 6}}, // ICMP has no port
		{"2001:db8::1", Inside, frame.ICMPv6, 0, Verdict{Allow, 6}},
		{"2001:db8::1", Outside, frame.ICMPv6, 0, Verdict{}},
		{"10.2.0.1", Host, frame.TCP, 80, Verdict{Drop, 7}},
		{"10.2.0.1", Special, frame.TCP, 80, Verdict{}}, // the rule is not for special addresses alone
		{"10.2.0.1", Special, frame.UDP, 1, Verdict{}},
	} {
		if v := c.Judge(Egress, ip(tt.peer), tt.class, tt.proto, tt.port); v != tt.want {
			t.Errorf("%s class %d proto %d port %d: %v, want %v", tt.peer, tt.class, tt.proto, tt.port, v, tt.want)
		}
	}
	if v := c.Judge(Ingress, ip("192.0.2.1"), Outside, frame.TCP, 22); v != (Verdict{Action: Allow}) {
		t.Errorf("a direction without rules: %v", v)
	}
	if !c.Logs(7) || c.Logs(1) || c.Logs(0) || c.Logs(99) {
		t.Error("Logs is for rule 7 only")
	}
	if len(c.log) != 7 {
		t.Errorf("%d rules are known, not 1 to 7", len(c.log))
	}
}

// A rule for a port that does not exist closes its direction, and fits nothing.
func TestJudgeNowhere(t *testing.T) {
	c := Compile(numbered(t, "ingress allow port:gone"), ByRules)
	if v := c.Judge(Ingress, ip("10.0.0.1"), Inside, frame.TCP, 80); v != (Verdict{}) || !c.Closes(Ingress) {
		t.Errorf("%v, closes %v", v, c.Closes(Ingress))
	}
	if v := c.Judge(Egress, ip("10.0.0.1"), Inside, frame.TCP, 80); v != (Verdict{Action: Allow}) || c.Closes(Egress) {
		t.Errorf("egress: %v, closes %v", v, c.Closes(Egress))
	}
}

// A rule for a port or a network is for addresses inside: one that is behind the uplink may have the same address.
func TestJudgeWhere(t *testing.T) {
	rules := numbered(t, "egress allow network:db tcp/5432")
	rules[0].Where = []netip.Prefix{pfx("10.3.0.0/24"), pfx("2001:db8:3::/64")}
	c := Compile(rules, ByRules)
	for _, peer := range []string{"10.3.0.9", "2001:db8:3::9"} {
		for class, want := range map[Class]Verdict{Inside: {Allow, 1}, Outside: {}, Host: {}, Special: {}} {
			if v := c.Judge(Egress, ip(peer), class, frame.TCP, 5432); v != want {
				t.Errorf("%s class %d: %v, want %v", peer, class, v, want)
			}
		}
	}
	if v := c.Judge(Egress, ip("10.3.1.9"), Inside, frame.TCP, 5432); v != (Verdict{}) {
		t.Errorf("beside the network: %v", v)
	}
}

// manyRules are the most rules that a policy has, in one of the shapes of the benchmarks.
const manyRules = 16384

// ruleOf is rule i of n in a shape, and a peer and a port to which it is.
func ruleOf(shape string, i, n int) (r Numbered, peer netip.Addr, port uint16) {
	r = Numbered{ID: uint32(i + 1), Rule: Rule{Action: Allow, Proto: frame.TCP, Peer: Peer{Kind: Prefix}}}
	peer, port = ip("10.0.0.1"), uint16(i+1)
	switch shape {
	case "prefixes":
		peer = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		r.Peer.Prefix = netip.PrefixFrom(peer, 32)
	case "ports":
		r.Peer.Prefix = pfx("10.0.0.0/8")
		r.Ports = []PortRange{{port, port}}
	case "nested":
		peer = ip("2001:db8::1")
		r.Peer.Prefix = netip.PrefixFrom(peer, i%129).Masked()
		r.Ports = []PortRange{{port, port}}
	case "ranges": // each is inside the one before
		r.Peer.Prefix = pfx("10.0.0.0/8")
		r.Ports = []PortRange{{port, 65535 - port}}
		r.ID = uint32(n - i) // so that the inner one wins
	}
	return r, peer, port
}

func rulesOf(shape string, n int) (rules []Numbered) {
	for i := range n {
		r, _, _ := ruleOf(shape, i, n)
		rules = append(rules, r)
	}
	return rules
}

// Compiled rules take as much room as the rules themselves, and each rule is found.
func TestCompileMany(t *testing.T) {
	for _, tt := range []struct {
		shape               string
		n                   int
		nodes, groups, most int // most spans of one group
	}{
		{"prefixes", manyRules, manyRules, manyRules, 1},
		{"ports", manyRules, 1, 1, manyRules},
		{"nested", manyRules, 129, 129, manyRules/129 + 1},
		{"ranges", manyRules, 1, 1, 2 * manyRules},
	} {
		t.Run(tt.shape, func(t *testing.T) {
			rules := rulesOf(tt.shape, tt.n)
			c := Compile(rules, ByRules)
			nodes, groups, spans, most := 0, 0, 0, 0
			for _, n := range c.lists[Egress].table.All() {
				nodes++
				for _, g := range n.groups {
					groups, spans, most = groups+1, spans+len(g.spans), max(most, len(g.spans))
				}
			}
			if nodes != tt.nodes || groups != tt.groups || most > tt.most || spans > 2*tt.n {
				t.Errorf("%d nodes, %d groups, %d spans, %d in one group", nodes, groups, spans, most)
			}
			for i := range tt.n {
				r, peer, port := ruleOf(tt.shape, i, tt.n)
				if v := c.Judge(Egress, peer, Outside, frame.TCP, port); v != (Verdict{Allow, r.ID}) {
					t.Fatalf("rule %d (%v): %v", r.ID, r, v)
				}
			}
		})
	}
}

// Four times as many rules take four times as many steps, of which allocations are a measure.
func TestCompileAllocations(t *testing.T) {
	for _, shape := range []string{"prefixes", "ports", "nested"} {
		of := func(n int) float64 {
			rules := rulesOf(shape, n)
			return testing.AllocsPerRun(1, func() { Compile(rules, ByRules) })
		}
		few, many := of(manyRules/4), of(manyRules)
		if many > 6*few+1000 {
			t.Errorf("%s: %.0f allocations for %d rules, %.0f for %d", shape, few, manyRules/4, many, manyRules)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	type probe struct {
		peer netip.Addr
		port uint16
	}
	for _, shape := range []string{"prefixes", "ports", "nested"} {
		for _, n := range []int{0, 100, 10000} {
			b.Run(fmt.Sprintf("%s/%d", shape, n), func(b *testing.B) {
				s := &Set{Rules: Compile(rulesOf(shape, n), ByRules), Addresses: &Addresses{}}
				var probes [1024]probe
				for i := range probes {
					_, probes[i].peer, probes[i].port = ruleOf(shape, i*7919%max(n, 1), n)
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					p := &probes[i%len(probes)]
					i++
					if v := s.Judge(Egress, p.peer, Outside, frame.TCP, p.port, 0); v.Action != Allow {
						b.Fatal(v)
					}
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, shape := range []string{"prefixes", "ports", "nested", "ranges"} {
		for _, n := range []int{manyRules / 4, manyRules} {
			rules := rulesOf(shape, n)
			b.Run(fmt.Sprintf("%s/%d", shape, n), func(b *testing.B) {
				for b.Loop() {
					Compile(rules, ByRules)
				}
			})
		}
	}
}

// A rule that drops everything wins over one that allows a wide prefix.
func TestDropAnySpecial(t *testing.T) {
	c := Compile(numbered(t, "egress allow 0.0.0.0/0", "egress drop any"), ByRules)
	if v := c.Judge(Egress, ip("169.254.169.254"), Special, frame.TCP, 80); v.Action == Allow {
		t.Errorf("the metadata of the cloud: %v", v)
	}
}
