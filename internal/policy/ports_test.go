package policy

import (
	"net/netip"
	"testing"
	"testing/quick"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An admission is one word, and the word is the admission.
func TestAdmission(t *testing.T) {
	for _, a := range []Admission{{}, {1, 0}, {0, 1}, {1, 2}, {1<<32 - 1, 0}, {0, 1<<32 - 1}, {1<<32 - 1, 1<<32 - 1}} {
		if b := AdmissionOf(a.Word()); b != a {
			t.Errorf("%v is read as %v", a, b)
		}
	}
	if w := (Admission{}).Word(); w != 0 {
		t.Errorf("no admission is %d", w)
	}
	if err := quick.Check(func(w uint64) bool { return AdmissionOf(w).Word() == w }, nil); err != nil {
		t.Error(err)
	}
}

// portsOf is a switch: port 1 is free, 2 to 5 have policies, and 9 is the host's.
func portsOf(t testing.TB) *Ports {
	rules := numbered(t,
		"egress allow 10.0.0.0/24 tcp/80",       // 1: of port 2
		"egress drop 10.0.0.66",                 // 2: of port 2
		"egress allow name:example.com tcp/443", // 3: of port 2
		"ingress allow port:two tcp/80",         // 4: of port 3
		"ingress reject 10.0.0.1",               // 5: of port 3
		"ingress allow host",                    // 6: of port 3
		"ingress drop any",                      // 7: of port 4
		"egress allow inside",                   // 8: of port 5
		"ingress allow inside",                  // 9: of port 5
	)
	rules[3].Where = []netip.Prefix{pfx("10.0.0.2/32")}
	set := func(from, to int) *Set {
		return &Set{Rules: Compile(rules[from-1:to], ByRules), Addresses: &Addresses{}}
	}
	p := &Ports{Host: 9, Counts: map[uint32]*Count{}, Places: NewPlaces([]netip.Prefix{pfx("10.0.0.0/24")}, []netip.Prefix{pfx("10.0.0.254/32")})}
	p.Of[2], p.Of[3], p.Of[4], p.Of[5] = set(1, 3), set(4, 6), set(7, 7), set(8, 9)
	for i := 1; i <= 5; i++ {
		p.AddStation(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), frame.PortID(i))
	}
	for _, r := range rules {
		p.Counts[r.ID] = &Count{}
	}
	return p
}

// A flow needs the port where it begins and the port where it ends.
func TestPortsJudge(t *testing.T) {
	p := portsOf(t)
	server := ip("192.0.2.1")
	p.Of[2].Learn("example.com", []netip.Addr{server}, 60, true, 0)
	for _, tt := range []struct {
		what     string
		from, to frame.PortID
		src, dst string
		port     uint16
		before   Admission
		now      frame.Tick
		want     Ruling
	}{
		{what: "ports without policies", from: 1, src: "10.0.0.1", dst: "192.0.2.1", port: 22},
		{what: "neither end is a container", src: "192.0.2.9", dst: "192.0.2.1", port: 22},
		{what: "both sides allow", from: 2, to: 3, src: "10.0.0.2", dst: "10.0.0.3", port: 80, want: Ruling{By: Admission{1, 4}}},
		{what: "egress allows, and the other port has no policy", from: 2, to: 1, src: "10.0.0.2", dst: "10.0.0.1", port: 80, want: Ruling{By: Admission{1, 0}}},
		{what: "no rule for egress fits", from: 2, to: 3, src: "10.0.0.2", dst: "10.0.0.3", port: 81, want: Ruling{Why: frame.PolicyDenied, Side: Egress, Port: 2}},
		{what: "a rule for egress drops", from: 2, to: 3, src: "10.0.0.2", dst: "10.0.0.66", port: 80, want: Ruling{Why: frame.PolicyDropped, Side: Egress, Port: 2, Rule: 2}},
		{what: "ingress is judged although egress is free", from: 1, to: 3, src: "10.0.0.1", dst: "10.0.0.3", port: 80, want: Ruling{Why: frame.PolicyDenied, Side: Ingress, Port: 3, Rule: 5}},
		{what: "no rule for ingress fits", from: 5, to: 3, src: "10.0.0.5", dst: "10.0.0.3", port: 80, want: Ruling{Why: frame.PolicyDenied, Side: Ingress, Port: 3}},
		{what: "egress allows, ingress drops", from: 2, to: 4, src: "10.0.0.2", dst: "10.0.0.4", port: 80, want: Ruling{Why: frame.PolicyDropped, Side: Ingress, Port: 4, Rule: 7}},
		{what: "egress is judged first", from: 2, to: 4, src: "10.0.0.2", dst: "10.0.0.4", port: 81, want: Ruling{Why: frame.PolicyDenied, Side: Egress, Port: 2}},
		{what: "egress of a port with rules for ingress only", from: 4, src: "10.0.0.4", dst: "192.0.2.1", port: 22},
		{what: "ingress of a port with rules for egress only", from: 1, to: 2, src: "10.0.0.1", dst: "10.0.0.2", port: 22},
		{what: "the host begins", from: 9, to: 3, src: "10.0.0.254", dst: "10.0.0.3", port: 22, want: Ruling{By: Admission{0, 6}}},
		{what: "somebody outside begins", to: 5, src: "192.0.2.9", dst: "10.0.0.5", port: 80, want: Ruling{Why: frame.PolicyDenied, Side: Ingress, Port: 5}},
		{what: "a port with itself", from: 5, to: 5, src: "10.0.0.5", dst: "10.0.0.5", port: 80, want: Ruling{By: Admission{8, 9}}},
		{what: "a name", from: 2, src: "10.0.0.2", dst: "192.0.2.1", port: 443, want: Ruling{By: Admission{3, 0}}},
		{what: "a name, later", from: 2, src: "10.0.0.2", dst: "192.0.2.1", port: 443, now: 60 * seconds, want: Ruling{Why: frame.PolicyDenied, Side: Egress, Port: 2}},
		{what: "a flow by name goes on", from: 2, src: "10.0.0.2", dst: "192.0.2.1", port: 443, before: Admission{3, 0}, now: 60 * seconds, want: Ruling{By: Admission{3, 0}}},
		{what: "a rule of the other side is none of this one", from: 2, src: "10.0.0.2", dst: "192.0.2.1", port: 443, before: Admission{0, 3}, now: 60 * seconds, want: Ruling{Why: frame.PolicyDenied, Side: Egress, Port: 2}},
		{what: "a name and ingress", from: 2, to: 3, src: "10.0.0.2", dst: "192.0.2.1", port: 443, want: Ruling{Why: frame.PolicyDenied, Side: Ingress, Port: 3}},
		{what: "ports beyond the last one", from: frame.MaxPorts, to: 1<<16 - 1, src: "10.0.0.1", dst: "10.0.0.2", port: 80},
	} {
		q := Flow{From: tt.from, To: tt.to, Src: ip(tt.src), Dst: ip(tt.dst), Proto: frame.TCP, Port: tt.port}
		if r := p.Judge(q, tt.before, tt.now); r != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.what, r, tt.want)
		}
	}
}

// Set knows no port of a switch without policies.
func TestPortsSet(t *testing.T) {
	if s := (*Ports)(nil).Set(2); s != nil {
		t.Error("nil has a set")
	}
	p := portsOf(t)
	for id, want := range map[frame.PortID]*Set{0: nil, 1: nil, 2: p.Of[2], frame.MaxPorts - 1: nil, frame.MaxPorts: nil, 1<<16 - 1: nil} {
		if s := p.Set(id); s != want {
			t.Errorf("port %d: %p, want %p", id, s, want)
		}
	}
}

// A rule counts the flows that it lets in, and what it refuses.
func TestCount(t *testing.T) {
	p := portsOf(t)
	for _, r := range []Ruling{
		{By: Admission{1, 4}}, {By: Admission{1, 0}}, {},
		{Why: frame.PolicyDropped, Rule: 7}, {Why: frame.PolicyDenied, Rule: 0}, {Why: frame.PolicyDenied, Rule: 99}, {By: Admission{1, 0}, Why: frame.PolicyDropped, Rule: 7},
	} {
		p.Count(&r)
	}
	for id, c := range p.Counts {
		flows, refused := map[uint32]uint64{1: 2, 4: 1}[id], map[uint32]uint64{7: 2}[id]
		if c.Flows.Load() != flows || c.Refused.Load() != refused {
			t.Errorf("rule %d: %d flows and %d refused, want %d and %d", id, c.Flows.Load(), c.Refused.Load(), flows, refused)
		}
	}
}

// The most specific place of an address counts.
func TestPlaces(t *testing.T) {
	p := NewPlaces([]netip.Prefix{pfx("10.0.0.7/16"), pfx("2001:db8:1::/64"), pfx("169.254.7.0/24")}, []netip.Prefix{pfx("10.0.0.254/32"), pfx("192.0.2.7/24"), pfx("2001:db8:1::fe/128")})
	for _, tt := range []struct {
		addr string
		want Class
	}{
		{"10.0.0.0", Inside}, {"10.0.0.1", Inside}, {"10.0.255.255", Inside}, {"10.1.0.0", Outside}, {"9.255.255.255", Outside},
		{"10.0.0.254", Host}, {"192.0.2.0", Host}, {"192.0.2.255", Host}, {"192.0.3.0", Outside},
		{"2001:db8:1::1", Inside}, {"2001:db8:1::fe", Host}, {"2001:db8:2::", Outside},
		{"224.0.0.1", Inside}, {"239.255.255.255", Inside}, {"255.255.255.255", Inside}, {"255.255.255.254", Outside}, {"ff02::1", Inside}, {"fe80::1", Inside}, {"fec0::1", Outside},
		{"169.254.169.254", Special}, {"169.254.0.0", Special}, {"169.254.255.255", Special}, {"169.253.255.255", Outside}, {"169.255.0.0", Outside},
		{"fd00:ec2::254", Special}, {"fd00:ec2:ffff::", Special}, {"fd00:ec3::", Outside},
		{"169.254.7.1", Inside}, // the user has made it a network
		{"0.0.0.0", Outside}, {"::", Outside}, {"::1", Outside},
	} {
		if c := p.Class(ip(tt.addr)); c != tt.want {
			t.Errorf("%s is %d (%v), want %d (%v)", tt.addr, c, c, tt.want, tt.want)
		}
	}
	if c := NewPlaces(nil, nil).Class(ip("10.0.0.1")); c != Outside {
		t.Errorf("without networks: %v", c)
	}
}

// Only a rule for the very addresses speaks of the metadata of clouds.
func TestSpecial(t *testing.T) {
	places := NewPlaces([]netip.Prefix{pfx("10.0.0.0/16")}, []netip.Prefix{pfx("192.0.2.1/32")})
	for _, tt := range []struct {
		rules []string
		want  [2]Verdict // of 169.254.169.254 and fd00:ec2::254
	}{
		{nil, [2]Verdict{{Action: Allow}, {Action: Allow}}},
		{[]string{"egress allow any"}, [2]Verdict{}},
		{[]string{"egress allow outside", "egress allow inside", "egress allow host"}, [2]Verdict{}},
		{[]string{"egress allow any", "egress allow 169.254.169.254 tcp/80"}, [2]Verdict{{Allow, 2}, {}}},
		{[]string{"egress allow 169.254.0.0/16", "egress allow fd00:ec2::254"}, [2]Verdict{{Allow, 1}, {Allow, 2}}},
		{[]string{"egress allow 169.254.169.253", "egress allow fd00:ec2::/64 udp"}, [2]Verdict{}},
		{[]string{"egress allow any", "egress drop 169.254.0.0/16", "egress reject fd00:ec2::254"}, [2]Verdict{{Drop, 2}, {Reject, 3}}},
	} {
		c := Compile(numbered(t, tt.rules...), ByRules)
		for i, a := range []netip.Addr{ip("169.254.169.254"), ip("fd00:ec2::254")} {
			if v := c.Judge(Egress, a, places.Class(a), frame.TCP, 80); v != tt.want[i] {
				t.Errorf("%q: %v: %v, want %v", tt.rules, a, v, tt.want[i])
			}
		}
	}
}

// Guards says which frames the policies have to see, and which ones nothing can allow.
func TestGuards(t *testing.T) {
	const group, station = frame.MAC(0x01005e000001), frame.MAC(0x020000000003)
	p := portsOf(t)
	p.Of[6] = &Set{Rules: Compile(nil, ByRules), Addresses: &Addresses{}} // it has policies, which have no rules
	for _, tt := range []struct {
		what            string
		f               frame.Frame
		dst             string
		policed, closed bool
		why             frame.Reason
		src             string // without: the port's own
	}{
		{"ports without policies", frame.Frame{In: 1, Out: 9, Dst: station, Flags: frame.IsIPv4}, "10.0.0.3", false, false, frame.None, ""},
		{"to the station that the packet names", frame.Frame{In: 2, Out: 3, Dst: station, Flags: frame.IsIPv4}, "10.0.0.3", true, true, frame.None, ""},
		{"to another station", frame.Frame{In: 2, Out: 1, Dst: station, Flags: frame.IsIPv4}, "10.0.0.3", true, true, frame.PolicyDenied, ""},
		{"to a station under an address outside", frame.Frame{In: 2, Out: 1, Dst: station, Flags: frame.IsIPv4}, "192.0.2.1", true, true, frame.PolicyDenied, ""},
		{"by the router, to an address outside", frame.Frame{In: 2, Dst: station, Flags: frame.IsIPv4 | frame.ViaRouter}, "192.0.2.1", true, true, frame.None, ""},
		{"only the receiver has policies", frame.Frame{In: 1, Out: 4, Dst: station, Flags: frame.IsIPv4}, "10.0.0.4", true, true, frame.None, ""},
		{"the receiver closes egress only", frame.Frame{In: 1, Out: 2, Dst: station, Flags: frame.IsIPv4}, "10.0.0.2", true, false, frame.None, ""},
		{"policies without rules", frame.Frame{In: 6, Out: 1, Dst: station, Flags: frame.IsIPv6}, "10.0.0.1", true, false, frame.None, ""},
		{"policies without rules, no IP", frame.Frame{In: 6, Out: 1, Dst: station}, "192.0.2.1", false, false, frame.None, ""},
		{"no IP", frame.Frame{In: 2, Out: 3, Dst: station}, "10.0.0.3", true, true, frame.PolicyDenied, ""},
		{"malformed", frame.Frame{In: 2, Out: 3, Dst: station, Flags: frame.IsIPv4, Malformed: frame.NoEgress}, "10.0.0.3", true, true, frame.PolicyDenied, ""},
		{"a group", frame.Frame{In: 2, Dst: group, Flags: frame.IsIPv4 | frame.HasTuple, Proto: frame.UDP}, "224.0.0.251", true, true, frame.None, ""},
		{"a group's MAC with an address that is none", frame.Frame{In: 2, Dst: group, Flags: frame.IsIPv4 | frame.HasTuple, Proto: frame.UDP}, "10.0.0.3", true, true, frame.PolicyDenied, ""},
		{"from an address outside", frame.Frame{In: 1, Out: 4, Dst: station, Flags: frame.IsIPv4}, "10.0.0.4", true, true, frame.PolicyDenied, "192.0.2.1"},
		{"from the host's address", frame.Frame{In: 1, Out: 4, Dst: station, Flags: frame.IsIPv4}, "10.0.0.4", true, true, frame.PolicyDenied, "10.0.0.254"},
		{"from an address outside, to a port that only closes egress", frame.Frame{In: 1, Out: 2, Dst: station, Flags: frame.IsIPv4}, "10.0.0.2", false, false, frame.None, "192.0.2.1"},
		{"a group without a tuple", frame.Frame{In: 2, Dst: group, Flags: frame.IsIPv4, Proto: frame.UDP}, "224.0.0.251", true, true, frame.PolicyDenied, ""},
		{"a group, of a port without rules", frame.Frame{In: 6, Dst: group, Flags: frame.IsIPv4 | frame.HasTuple, Proto: frame.UDP}, "224.0.0.251", false, false, frame.None, ""},
		{"a report of IGMP", frame.Frame{In: 2, Dst: group, Flags: frame.IsIPv4, Proto: igmp}, "224.0.0.22", true, true, frame.NoEgress, ""},
	} {
		src := netip.AddrFrom4([4]byte{10, 0, 0, byte(tt.f.In)})
		if tt.src != "" {
			src = ip(tt.src)
		}
		policed, closed, why := p.Guards(&tt.f, src, ip(tt.dst))
		if policed != tt.policed || closed != tt.closed || why != tt.why {
			t.Errorf("%s: policed %v, closed %v, %v, want %v, %v, %v", tt.what, policed, closed, why, tt.policed, tt.closed, tt.why)
		}
	}
}

// What a rule for a name has let out does not let it in at the other end, which has the same policies.
func TestAgainIsOfOneSide(t *testing.T) {
	s := setOf(t, "egress allow name:example.com", "ingress allow outside")
	p := &Ports{Places: NewPlaces([]netip.Prefix{pfx("10.0.0.0/24")}, nil)}
	p.Of[2], p.Of[3] = s, s
	q := Flow{From: 2, To: 3, Src: ip("10.0.0.2"), Dst: ip("10.0.0.3"), Proto: frame.TCP, Port: 80}
	if r, want := p.Judge(q, Admission{1, 0}, 0), (Ruling{Why: frame.PolicyDenied, Side: Ingress, Port: 3}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}

// A container passes no data to another one under an address that a rule allows.
func TestGuardsOtherAddress(t *testing.T) {
	p := portsOf(t)
	for _, dst := range []string{"169.254.169.254", "10.0.0.254", "10.0.0.99", "224.0.0.1"} {
		f := frame.Frame{In: 2, Out: 1, Dst: 0x020000000001, Flags: frame.IsIPv4}
		if _, _, why := p.Guards(&f, ip("10.0.0.2"), ip(dst)); why != frame.PolicyDenied {
			t.Errorf("a frame to container 1 with address %s: %v", dst, why)
		}
	}
}
