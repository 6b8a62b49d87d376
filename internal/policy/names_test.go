package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// setOf is the policies of a port with these rules. Their IDs count from 1.
func setOf(t testing.TB, texts ...string) *Set {
	t.Helper()
	return &Set{Rules: Compile(numbered(t, texts...), ByRules), Addresses: &Addresses{}}
}

// numberedAddr is one of many addresses.
func numberedAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)})
}

const seconds = frame.TicksPerSecond

// allows returns the rule that allows a flow with TCP; 0: none does.
func (s *Set) allows(a netip.Addr, port uint16, now frame.Tick) uint32 {
	if v := s.Judge(Egress, a, Outside, frame.TCP, port, now); v.Action == Allow {
		return v.Rule
	}
	return 0
}

// A name has the rules of itself, and of each "*." in front of what follows its first parts.
func TestRulesFor(t *testing.T) {
	s := setOf(t,
		"egress allow name:example.com",             // 1
		"egress allow name:*.example.com",           // 2
		"egress allow name:*.b.example.com",         // 3
		"egress allow name:API.Example.COM.",        // 4
		"egress allow name:*.org",                   // 5
		"egress allow name:db",                      // 6
		"egress allow name:api.example.com tcp/443", // 7
		"egress allow 192.0.2.1",                    // 8
	)
	for _, tt := range []struct {
		name string
		want []uint32
	}{
		{"example.com", []uint32{1}}, // not the wildcard
		{"api.example.com", []uint32{2, 4, 7}},
		{"b.example.com", []uint32{2}},
		{"a.b.example.com", []uint32{2, 3}},
		{"x.y.a.b.example.com", []uint32{2, 3}},
		{"example.org", []uint32{5}},
		{"a.b.c.example.org", []uint32{5}},
		{"org", nil},
		{"db", []uint32{6}},
		{"x.db", nil},
		{"com", nil},
		{"badexample.com", nil},
		{"example.com.evil.net", nil},
		{"xapi.example.comx", nil},
		{"*.example.com", []uint32{2}},
		{"API.example.com", []uint32{2}}, // callers write lower case
		{"", nil},
		{".", nil},
	} {
		want := uint32(0)
		if len(tt.want) > 0 {
			want = tt.want[0]
		}
		if id := s.RuleForName(tt.name, frame.TCP, 443); id != want {
			t.Errorf("%q: rule %d, want %d", tt.name, id, want)
		}
		if s.MayAsk(tt.name) != (len(tt.want) > 0) {
			t.Errorf("MayAsk(%q) is %v", tt.name, s.MayAsk(tt.name))
		}
	}
}

// Rules limit the names that a port may ask for if they have names, or if a policy says so.
func TestMayAsk(t *testing.T) {
	for _, tt := range []struct {
		rules         []string
		dns           DNS
		named, others bool // whether it may ask for api.example.com and for others
	}{
		{nil, ByRules, true, true},
		{[]string{"egress allow any"}, ByRules, true, true},
		{[]string{"egress drop any"}, ByRules, true, true},
		{[]string{"egress allow name:api.example.com"}, ByRules, true, false},
		{[]string{"egress allow name:*.example.com", "egress allow any"}, ByRules, true, false},
		{[]string{"egress allow name:api.example.com"}, AnyName, true, true},
		{[]string{"egress allow name:api.example.com"}, NamesOnly, true, false},
		{nil, NamesOnly, false, false},
	} {
		c := Compile(numbered(t, tt.rules...), tt.dns)
		if c.MayAsk("api.example.com") != tt.named || c.MayAsk("example.net") != tt.others || c.limits == tt.others {
			t.Errorf("%q with %d: api.example.com %v, example.net %v, limits %v", tt.rules, tt.dns, c.MayAsk("api.example.com"), c.MayAsk("example.net"), c.limits)
		}
	}
}

func TestRuleForName(t *testing.T) {
	c := Compile(numbered(t, "egress allow name:*.example.com tcp/80,443", "egress allow name:a.example.com icmp", "egress allow name:b.example.com"), ByRules)
	for _, tt := range []struct {
		name  string
		proto uint8
		port  uint16
		want  uint32
	}{
		{"a.example.com", frame.TCP, 443, 1},
		{"a.example.com", frame.TCP, 81, 0},
		{"a.example.com", frame.UDP, 443, 0},
		{"a.example.com", frame.ICMP, 0, 2},
		{"a.example.com", frame.ICMPv6, 0, 2},
		{"b.example.com", frame.UDP, 9, 3},
		{"example.com", frame.TCP, 443, 0},
	} {
		if id := c.RuleForName(tt.name, tt.proto, tt.port); id != tt.want {
			t.Errorf("%s proto %d port %d: %d, want %d", tt.name, tt.proto, tt.port, id, tt.want)
		}
	}
}

// A rule for a name allows what an answer has named, for its protocol and ports, and nothing else.
func TestLearn(t *testing.T) {
	s := setOf(t, "egress allow name:api.example.com tcp/443", "egress allow name:api.example.com icmp", "egress drop 192.0.2.66", "egress reject any udp/9")
	four, six, bad := ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.66")
	s.Learn("api.example.com", []netip.Addr{four, six, bad}, 300, true, 0)
	for _, tt := range []struct {
		d     Direction
		peer  netip.Addr
		proto uint8
		port  uint16
		want  Verdict
	}{
		{Egress, four, frame.TCP, 443, Verdict{Allow, 1}},
		{Egress, six, frame.TCP, 443, Verdict{Allow, 1}},
		{Egress, four, frame.TCP, 80, Verdict{}},
		{Egress, four, frame.UDP, 443, Verdict{}},
		{Egress, four, frame.UDP, 9, Verdict{Reject, 4}},
		{Egress, four, frame.ICMP, 0, Verdict{Allow, 2}},
		{Egress, six, frame.ICMPv6, 0, Verdict{Allow, 2}},
		{Egress, ip("192.0.2.2"), frame.TCP, 443, Verdict{}},
		{Egress, bad, frame.TCP, 443, Verdict{Drop, 3}},
		{Ingress, four, frame.TCP, 443, Verdict{Action: Allow}},
	} {
		if v := s.Judge(tt.d, tt.peer, Outside, tt.proto, tt.port, 1); v != tt.want {
			t.Errorf("%v %v proto %d port %d: %v, want %v", tt.d, tt.peer, tt.proto, tt.port, v, tt.want)
		}
	}
	other := &Set{Rules: s.Rules, Addresses: &Addresses{}}
	if id := other.allows(four, 443, 1); id != 0 {
		t.Errorf("another port has learned it: rule %d", id)
	}
}

// An address is allowed for its TTL, but for 30 seconds at least and for a day at most, whatever the time is.
func TestPinTime(t *testing.T) {
	for _, start := range []frame.Tick{0, 12345, 1<<31 - 100, 1<<32 - 100} {
		for ttl, want := range map[uint32]frame.Tick{0: 30, 1: 30, 29: 30, 30: 30, 31: 31, 300: 300, 86399: 86399, 86400: 86400, 86401: 86400, 1 << 31: 86400, 1<<32 - 1: 86400} {
			s := setOf(t, "egress allow name:example.com")
			a := ip("192.0.2.1")
			s.Learn("example.com", []netip.Addr{a}, ttl, true, start)
			last := start + want*seconds - 1
			if s.allows(a, 80, start) != 1 || s.allows(a, 80, last) != 1 {
				t.Errorf("at %d, TTL %d: it ends too early", start, ttl)
			}
			if s.allows(a, 80, last+1) != 0 || s.allows(a, 80, last+100*seconds) != 0 {
				t.Errorf("at %d, TTL %d: it ends too late", start, ttl)
			}
			if names := s.Addresses.NamesOf(a, last); !slices.Equal(names, []string{"example.com"}) {
				t.Errorf("at %d, TTL %d: its names are %q", start, ttl, names)
			}
			if names, all := s.Addresses.NamesOf(a, last+1), s.Addresses.All(last+1); len(names)+len(all) > 0 {
				t.Errorf("at %d, TTL %d: %q and %v are left", start, ttl, names, all)
			}
		}
	}
}

// Without pinned, an address gets a name, but no rule allows it. It takes no rule away, either.
func TestLearnNotPinned(t *testing.T) {
	s := setOf(t, "egress allow name:*.example.com")
	a := ip("10.0.0.1")
	s.Learn("a.example.com", []netip.Addr{a}, 3600, false, 0)
	if id := s.allows(a, 80, 1); id != 0 {
		t.Errorf("rule %d allows it", id)
	}
	if names := s.Addresses.NamesOf(a, 1); !slices.Equal(names, []string{"a.example.com"}) {
		t.Errorf("names %q", names)
	}
	s.Learn("b.example.com", []netip.Addr{a}, 60, true, 10)
	s.Learn("c.example.com", []netip.Addr{a}, 3600, false, 20)
	if end := frame.Tick(10 + 60*seconds); s.allows(a, 80, end-1) != 1 || s.allows(a, 80, end) != 0 {
		t.Error("the rule does not hold for 60 seconds")
	}
	s.Learn("other.net", []netip.Addr{a}, 3600, true, 30)
	if s.allows(a, 80, 31) != 1 || s.allows(a, 80, 10+60*seconds) != 0 {
		t.Error("a name without a rule changes what another one allows")
	}
}

// The time of a rule is that of its own names.
func TestPinsOfTwoNames(t *testing.T) {
	s := setOf(t, "egress allow name:short.example.com tcp/1", "egress allow name:long.example.com tcp/2")
	a := ip("192.0.2.1")
	for _, order := range [][]string{{"short", "long"}, {"long", "short"}} {
		s.Addresses = &Addresses{}
		for _, name := range order {
			s.Learn(name+".example.com", []netip.Addr{a}, map[string]uint32{"short": 60, "long": 3600}[name], true, 0)
		}
		for _, tt := range []struct {
			at         frame.Tick
			one, other uint32
		}{{0, 1, 2}, {60*seconds - 1, 1, 2}, {60 * seconds, 0, 2}, {3600*seconds - 1, 0, 2}, {3600 * seconds, 0, 0}} {
			if one, other := s.allows(a, 1, tt.at), s.allows(a, 2, tt.at); one != tt.one || other != tt.other {
				t.Errorf("%q, at %d: %d and %d, want %d and %d", order, tt.at, one, other, tt.one, tt.other)
			}
		}
		if names := s.Addresses.NamesOf(a, 0); !slices.Equal(names, []string{order[0] + ".example.com", order[1] + ".example.com"}) {
			t.Errorf("names %q", names)
		}
	}
}

// A later answer with a shorter TTL takes nothing away, and one with a longer TTL adds.
func TestLearnAgain(t *testing.T) {
	a := ip("192.0.2.1")
	for _, ttls := range [][2]uint32{{60, 600}, {600, 60}} {
		s := setOf(t, "egress allow name:example.com")
		s.Learn("example.com", []netip.Addr{a}, ttls[0], true, 0)
		s.Learn("example.com", []netip.Addr{a}, ttls[1], true, 0)
		if s.allows(a, 80, 600*seconds-1) != 1 || s.allows(a, 80, 600*seconds) != 0 {
			t.Errorf("TTLs %v: it does not hold for 600 seconds", ttls)
		}
		s.Learn("example.com", []netip.Addr{a}, 60, true, 700*seconds)
		if s.allows(a, 80, 760*seconds-1) != 1 || s.allows(a, 80, 760*seconds) != 0 {
			t.Errorf("TTLs %v: it does not hold for 60 seconds when it is learned anew", ttls)
		}
	}
}

// NamesOf has the last four names of an address, each once; All lists all in order.
func TestNamesOf(t *testing.T) {
	s := setOf(t, "egress allow name:*.example.com")
	a, b := ip("192.0.2.1"), ip("192.0.2.0")
	for i, name := range []string{"1", "2", "3", "4", "5", "3", "6"} {
		s.Learn(name+".example.com", []netip.Addr{a}, 60, true, frame.Tick(i))
	}
	s.Learn("6.example.com", []netip.Addr{b}, 3600, true, 10)
	if names := s.Addresses.NamesOf(a, 10); !slices.Equal(names, []string{"4.example.com", "5.example.com", "3.example.com", "6.example.com"}) {
		t.Errorf("names %q", names)
	}
	if all := s.Addresses.All(10); !slices.Equal(all, []Learned{{"1.example.com", a}, {"2.example.com", a}, {"3.example.com", a}, {"4.example.com", a}, {"5.example.com", a}, {"6.example.com", b}, {"6.example.com", a}}) {
		t.Errorf("All is %v", all)
	}
	if all := s.Addresses.All(1000 * seconds); !slices.Equal(all, []Learned{{"6.example.com", b}}) {
		t.Errorf("later, All is %v", all)
	}
	var none Addresses
	if names, all := none.NamesOf(a, 0), none.All(0); len(names)+len(all) > 0 {
		t.Errorf("a port that has learned nothing knows %q and %v", names, all)
	}
	if names := (*Addresses)(nil).NamesOf(a, 0); len(names) > 0 {
		t.Errorf("nil knows %q", names)
	}
}

// A rule that is gone allows nothing, and the others keep what they have.
func TestRuleGone(t *testing.T) {
	rules := numbered(t, "egress allow name:a.example.com", "egress allow name:b.example.com tcp/2")
	s := &Set{Rules: Compile(rules, ByRules), Addresses: &Addresses{}}
	a := ip("192.0.2.1")
	s.Learn("a.example.com", []netip.Addr{a}, 3600, true, 0)
	s.Learn("b.example.com", []netip.Addr{a}, 3600, true, 0)
	without := &Set{Rules: Compile(rules[1:], ByRules), Addresses: s.Addresses}
	if without.allows(a, 1, 1) != 0 || without.allows(a, 2, 1) != 2 {
		t.Error("rule 1 is gone, and rule 2 is not")
	}
	without.Learn("b.example.com", []netip.Addr{a}, 3600, true, 2)
	none := &Set{Rules: Compile(numbered(t, "egress allow 10.0.0.0/8"), ByRules), Addresses: s.Addresses}
	if v := none.Judge(Egress, a, Outside, frame.TCP, 2, 3); v != (Verdict{}) {
		t.Errorf("without rules for names: %v", v)
	}
}

// A flow that a rule for a name has let in goes on as long as the rule is there and fits, and no other one forbids it.
func TestAgain(t *testing.T) {
	rules := numbered(t, "egress allow name:example.com tcp/443", "egress allow 10.0.0.0/8 tcp/443", "egress drop 192.0.2.66", "egress allow name:example.net")
	s := &Set{Rules: Compile(rules, ByRules), Addresses: &Addresses{}}
	a := ip("192.0.2.1")
	s.Learn("example.com", []netip.Addr{a}, 60, true, 0)
	later := frame.Tick(61 * seconds)
	for _, tt := range []struct {
		what   string
		s      *Set
		before uint32
		peer   netip.Addr
		proto  uint8
		port   uint16
		now    frame.Tick
		want   Verdict
	}{
		{"while the address is known", s, 1, a, frame.TCP, 443, 1, Verdict{Allow, 1}},
		{"a new flow while the address is known", s, 0, a, frame.TCP, 443, 1, Verdict{Allow, 1}},
		{"later", s, 1, a, frame.TCP, 443, later, Verdict{Allow, 1}},
		{"a new flow later", s, 0, a, frame.TCP, 443, later, Verdict{}},
		{"by the other name's rule", s, 4, a, frame.UDP, 53, later, Verdict{Allow, 4}},
		{"a port that the rule has not", s, 1, a, frame.TCP, 80, later, Verdict{}},
		{"a protocol that the rule has not", s, 1, a, frame.UDP, 443, later, Verdict{}},
		{"a rule for addresses, which does not fit", s, 2, a, frame.TCP, 443, later, Verdict{}},
		{"a rule that never was", s, 99, a, frame.TCP, 443, later, Verdict{}},
		{"a rule drops it now", s, 1, ip("192.0.2.66"), frame.TCP, 443, later, Verdict{Drop, 3}},
		{"a rule for addresses allows it now", s, 1, ip("10.0.0.1"), frame.TCP, 443, later, Verdict{Allow, 2}},
		{"the rule is gone", &Set{Rules: Compile(rules[1:], ByRules), Addresses: s.Addresses}, 1, a, frame.TCP, 443, 1, Verdict{}},
		{"all rules are gone", &Set{Rules: Compile(nil, ByRules), Addresses: s.Addresses}, 1, a, frame.TCP, 443, 1, Verdict{Action: Allow}},
	} {
		if v := tt.s.Again(tt.before, Egress, tt.peer, Outside, tt.proto, tt.port, tt.now); v != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, v, tt.want)
		}
	}
}

// A port that learns more addresses than there is room for keeps those that last longest.
func TestLearnManyAddresses(t *testing.T) {
	const many, kept = 20000, maxLearned * 3 / 4
	s := setOf(t, "egress allow name:example.com")
	for i := range many {
		rank := i * 7919 % many // all numbers below many, in a mixed order
		s.Learn("example.com", []netip.Addr{numberedAddr(rank)}, uint32(100+rank), true, 0)
		if s.allows(numberedAddr(rank), 80, 1) != 1 {
			t.Fatalf("address %d is not known when it has just been learned", rank)
		}
		if n := s.Addresses.table.Load().learned; n > maxLearned {
			t.Fatalf("%d addresses", n)
		}
	}
	for rank := many - kept; rank < many; rank++ {
		if s.allows(numberedAddr(rank), 80, 1) != 1 {
			t.Fatalf("address %d, which lasts for %d seconds, is forgotten", rank, 100+rank)
		}
	}
	if n, known := s.Addresses.table.Load().learned, len(s.Addresses.All(1)); n != known || known > maxLearned || known < kept {
		t.Errorf("%d addresses, of which %d are listed", n, known)
	}

	now := frame.Tick((100 + many) * seconds) // all are over
	for i := range maxLearned {
		s.Learn("example.com", []netip.Addr{numberedAddr(i)}, 30, true, now)
	}
	if known := len(s.Addresses.All(now)); known != maxLearned {
		t.Errorf("%d addresses, want %d: those whose time is over take no room", known, maxLearned)
	}
}

// One answer may have all the addresses, and a few that last longer stay.
func TestLearnManyAtOnce(t *testing.T) {
	s := setOf(t, "egress allow name:*.example.com")
	var long, short []netip.Addr
	for i := range 1000 {
		long = append(long, numberedAddr(1<<20+i))
	}
	for i := range 20000 {
		short = append(short, numberedAddr(i))
	}
	s.Learn("long.example.com", long, 3600, true, 0)
	s.Learn("short.example.com", short, 60, true, 0)
	for i, a := range long {
		if s.allows(a, 80, 1) != 1 {
			t.Fatalf("long address %d is forgotten", i)
		}
	}
	if s.allows(short[len(short)-1], 80, 1) != 1 {
		t.Error("the last address of the answer is not known")
	}
	if n := len(s.Addresses.All(1)); n > maxLearned || n < maxLearned/2 {
		t.Errorf("%d addresses", n)
	}
}

// An address that is learned again when there is no more room needs none.
func TestLearnAgainWhenFull(t *testing.T) {
	s := setOf(t, "egress allow name:example.com")
	for i := range maxLearned {
		s.Learn("example.com", []netip.Addr{numberedAddr(i)}, 60, true, 0)
	}
	full := s.Addresses.table.Load()
	for i := range maxLearned {
		s.Learn("example.com", []netip.Addr{numberedAddr(i)}, 120, true, 1)
	}
	if s.Addresses.table.Load() != full || full.learned != maxLearned {
		t.Errorf("the table is another one, or has %d addresses", full.learned)
	}
}

// Reaches says whether rules allow anything with an address inside.
func TestReaches(t *testing.T) {
	here := netip.PrefixFrom(ip("10.0.0.5"), 32)
	for _, tt := range []struct {
		rules []string
		want  bool // for 10.0.0.5
	}{
		{nil, true},
		{[]string{"ingress drop any"}, true},
		{[]string{"egress allow any"}, true},
		{[]string{"egress allow inside tcp/80"}, true},
		{[]string{"egress allow outside"}, false},
		{[]string{"egress allow host"}, false},
		{[]string{"egress allow 10.0.0.0/8 udp"}, true},
		{[]string{"egress allow 10.0.0.5 icmp"}, true},
		{[]string{"egress allow 10.0.0.6"}, false},
		{[]string{"egress allow port:here"}, true},
		{[]string{"egress allow network:here tcp/1"}, true},
		{[]string{"egress allow port:gone"}, false},
		{[]string{"egress allow name:example.com"}, false},
		{[]string{"egress drop any"}, false},
		{[]string{"egress reject inside", "egress allow 192.0.2.0/24"}, false},
		{[]string{"egress drop any tcp/80", "egress allow any tcp/80"}, false},
		{[]string{"egress drop any tcp/80", "egress allow any tcp/80-81"}, true},
		{[]string{"egress drop 10.0.0.5 tcp", "egress allow any udp"}, true},
	} {
		rules := numbered(t, tt.rules...)
		for i := range rules {
			if rules[i].Peer.Name == "here" {
				rules[i].Where = []netip.Prefix{here}
			}
		}
		if c := Compile(rules, ByRules); c.Reaches(here.Addr()) != tt.want {
			t.Errorf("%q: %v", tt.rules, !tt.want)
		}
	}
}

// Readers see what has been learned before, while a writer learns and makes room.
func TestConcurrentReaders(t *testing.T) {
	s := setOf(t, "egress allow name:stays.example.com tcp/443", "egress allow name:goes.example.com tcp/443")
	stays, never := ip("192.0.2.1"), ip("192.0.2.2")
	s.Learn("stays.example.com", []netip.Addr{stays}, 86400, true, 0)
	var done atomic.Bool
	var readers sync.WaitGroup
	errs := make(chan error, 4)
	for range cap(errs) {
		readers.Go(func() {
			for i := 0; !done.Load(); i++ {
				if v := s.Judge(Egress, stays, Outside, frame.TCP, 443, 1); v != (Verdict{Allow, 1}) {
					errs <- fmt.Errorf("the address that stays: %v", v)
					return
				}
				if v := s.Judge(Egress, never, Outside, frame.TCP, 443, 1); v.Action == Allow {
					errs <- fmt.Errorf("the address without a pin: %v", v)
					return
				}
				for _, name := range s.Addresses.NamesOf(stays, 1) {
					if name != "stays.example.com" {
						errs <- fmt.Errorf("the address that stays has the name %q", name)
						return
					}
				}
				a := numberedAddr(i % 10000)
				if v := s.Again(0, Egress, a, Outside, frame.TCP, 443, 1); v != (Verdict{}) && v != (Verdict{Allow, 2}) {
					errs <- fmt.Errorf("an address that comes and goes: %v", v)
					return
				}
				if names := s.Addresses.NamesOf(a, 1); len(names) > 0 && names[0] != "goes.example.com" {
					errs <- fmt.Errorf("names %q", names)
					return
				}
				if i%100 == 0 {
					s.Addresses.All(1)
				}
			}
		})
	}
	for i := range 10000 {
		s.Learn("goes.example.com", []netip.Addr{numberedAddr(i)}, 60, true, 0)
		if i%50 == 0 {
			s.Learn("stays.example.com", []netip.Addr{stays}, 86400, true, 0)
			s.Learn("stays.example.com", []netip.Addr{never}, 60, false, 0)
		}
	}
	done.Store(true)
	readers.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// Two answers to a port at the same time are both learned.
func TestConcurrentWriters(t *testing.T) {
	s := setOf(t, "egress allow name:*.example.com")
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 500 {
				s.Learn(strconv.Itoa(w)+".example.com", []netip.Addr{numberedAddr(i)}, 60, true, 0)
			}
		})
	}
	writers.Wait()
	for i := range 500 {
		names := slices.Sorted(slices.Values(s.Addresses.NamesOf(numberedAddr(i), 1)))
		if !slices.Equal(names, []string{"0.example.com", "1.example.com", "2.example.com", "3.example.com"}) {
			t.Fatalf("address %d: %q", i, names)
		}
	}
}

// A verdict takes no memory.
func TestJudgeAllocatesNothing(t *testing.T) {
	s := setOf(t, "egress allow 10.0.0.0/8 tcp/80,443", "egress allow name:*.example.com tcp/443", "egress drop 2001:db8::/32", "ingress allow inside")
	a := ip("192.0.2.1")
	s.Learn("a.example.com", []netip.Addr{a}, 60, true, 0)
	six := ip("2001:db8::1")
	p := &Ports{Places: NewPlaces(nil, nil)}
	p.Of[3], p.Of[4] = s, s
	for _, tt := range []struct {
		what  string
		judge func() bool
	}{
		{"a rule for addresses", func() bool {
			return s.Judge(Egress, ip10, Outside, frame.TCP, 443, 1) == Verdict{Allow, 1}
		}},
		{"a rule for a name", func() bool { return s.Judge(Egress, a, Outside, frame.TCP, 443, 1) == Verdict{Allow, 2} }},
		{"no rule", func() bool { return s.Judge(Egress, a, Outside, frame.TCP, 80, 1) == Verdict{} }},
		{"IPv6", func() bool { return s.Judge(Egress, six, Outside, frame.UDP, 53, 1) == Verdict{Drop, 3} }},
		{"a flow that goes on", func() bool {
			return s.Again(2, Egress, a, Outside, frame.TCP, 443, 9999) == Verdict{Allow, 2}
		}},
		{"both ports", func() bool {
			return p.Judge(Flow{From: 3, To: 4, Src: a, Dst: ip10, Proto: frame.TCP, Port: 80}, Admission{}, 1).Why == frame.PolicyDenied
		}},
	} {
		if !tt.judge() {
			t.Errorf("%s: the verdict is another one", tt.what)
		}
		if n := testing.AllocsPerRun(100, func() { tt.judge() }); n > 0 {
			t.Errorf("%s: %v allocations", tt.what, n)
		}
	}
}

var ip10 = ip("10.0.0.1")

func BenchmarkJudgeName(b *testing.B) {
	for _, n := range []int{1, 100, maxLearned} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := setOf(b, "egress allow 10.0.0.0/8 tcp/80", "egress allow name:*.example.com tcp/443")
			for i := range n {
				s.Learn("a.example.com", []netip.Addr{numberedAddr(i)}, 60, true, 0)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if v := s.Judge(Egress, numberedAddr(i*7919%n), Outside, frame.TCP, 443, 1); v.Rule != 2 {
					b.Fatal(v)
				}
			}
		})
	}
}

// Ticks wrap at 2^32. An answer with a longer TTL counts across the wrap, too.
func TestLearnAgainWhenTicksWrap(t *testing.T) {
	a, now := ip("192.0.2.1"), frame.Tick(1<<32-400)
	s := setOf(t, "egress allow name:example.com")
	s.Learn("example.com", []netip.Addr{a}, 30, true, now)
	s.Learn("example.com", []netip.Addr{a}, 300, true, now)
	if s.allows(a, 80, now+31*seconds) != 1 {
		t.Error("it does not hold for 300 seconds")
	}
}

// An address that some rule refuses altogether is out of reach.
func TestReachesRefused(t *testing.T) {
	for _, rules := range [][]string{{"egress reject inside", "egress allow any"}, {"egress reject 10.0.0.0/8", "egress allow any tcp"}} {
		if Compile(numbered(t, rules...), ByRules).Reaches(ip("10.0.0.5")) {
			t.Errorf("%q: it is reached", rules)
		}
	}
}

// Many rules for one name cost neither a flow nor an answer more.
func TestManyRulesForOneName(t *testing.T) {
	var rules []string
	for i := range 5000 {
		rules = append(rules, fmt.Sprintf("egress allow name:example.com tcp/%d", 1+i))
	}
	s := setOf(t, rules...)
	a := ip("192.0.2.1")
	if n := testing.AllocsPerRun(10, func() { s.Learn("example.com", []netip.Addr{a}, 60, true, 1) }); n > 10 {
		t.Errorf("Learn allocates %v times", n)
	}
	if s.allows(a, 5000, 2) != 5000 || s.allows(a, 5001, 2) != 0 {
		t.Error("not what the rules say")
	}
}

// A name of a hundred labels, and an address of many names, cost a packet no more than others: the rules are found when the answer comes.
func TestDeepNames(t *testing.T) {
	var rules []Numbered
	for i, text := range []string{"egress allow name:*.example.com tcp/443", "egress allow name:*.a.b.example.net tcp/444", "egress allow name:www.example.org tcp/445"} {
		r, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, Numbered{Rule: r, ID: uint32(i + 1)})
	}
	s := &Set{Rules: Compile(rules, ByRules), Addresses: &Addresses{}}
	a := netip.MustParseAddr("203.0.113.9")
	deep := strings.Repeat("a.", 110)
	for name, may := range map[string]bool{
		deep + "example.com": true, "example.com": false, "x.example.com": true, deep + "b.example.net": true, deep + "c.example.net": false, "a.b.example.net": false, "x.a.b.example.net": true,
		"www.example.org": true, deep + "www.example.org": false, "com": false, "": false,
	} {
		if s.MayAsk(name) != may {
			t.Errorf("%q may be asked for: %v", name, !may)
		}
	}
	for i := range namesOfOne {
		s.Learn(fmt.Sprintf("n%d.%sexample.com", i, deep), []netip.Addr{a}, 60, true, 1)
	}
	x := s.Addresses.of(a, 2)
	if m := x.matched.Load(); m == nil || m.rules != s.Rules || len(m.nodes) != 1 {
		t.Fatalf("matched: %+v", m)
	}
	if allocs := testing.AllocsPerRun(100, func() { s.Judge(Egress, a, Outside, frame.TCP, 443, 2) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	next := &Set{Rules: Compile(rules[1:], ByRules), Addresses: s.Addresses}
	if v := next.Judge(Egress, a, Outside, frame.TCP, 443, 2); v.Action == Allow || s.Judge(Egress, a, Outside, frame.TCP, 443, 2).Action != Allow {
		t.Errorf("after the rule is gone: %+v", v)
	}
	if v := s.Judge(Egress, a, Outside, frame.TCP, 443, 1+60*frame.TicksPerSecond); v.Action == Allow {
		t.Errorf("after the answer's time: %+v", v)
	}
}
