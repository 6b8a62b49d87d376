package policy

import (
	"cmp"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Set is what one port may do: the rules of its policies, and the addresses of names for which it has asked. Workers read it without a lock.
type Set struct {
	*Rules
	Addresses *Addresses
	Unallowed *atomic.Uint64 // packets that no rule allows; nil: nobody counts them
}

// Judge is Rules.Judge, and minds rules for names, too: they allow addresses that an answer to the port has named.
func (s *Set) Judge(d Direction, peer netip.Addr, class Class, proto uint8, port uint16, now frame.Tick) Verdict {
	v := s.Rules.Judge(d, peer, class, proto, port)
	if v.Action != NoAction || d != Egress || len(s.named) == 0 {
		return v
	}
	x := s.Addresses.of(peer, now)
	if x == nil {
		return v
	}
	m := x.matched.Load()
	if m == nil || m.rules != s.Rules { // the rules have changed since the answer
		m = s.match(x)
	}
	for _, n := range m.nodes {
		if int32(n.until-now) > 0 {
			v = v.stronger(n.judge(anybody, normal(proto), port))
		}
	}
	return v
}

// matched are the rules that allow something with an address, because of its names. A packet does not look for them: an address may have many names.
type matched struct {
	rules *Rules
	nodes []pinnedNode
}

type pinnedNode struct {
	*node
	until frame.Tick
}

// match finds the rules for the names of an address, and notes them.
func (s *Set) match(x *address) *matched {
	m := &matched{rules: s.Rules}
	for i := range x.names {
		if !x.names[i].pinned {
			continue
		}
		for n := range s.nodesFor(x.names[i].name) {
			until := x.names[i].until
			if at := slices.IndexFunc(m.nodes, func(p pinnedNode) bool { return p.node == n }); at >= 0 {
				m.nodes[at].until = later(m.nodes[at].until, until)
			} else {
				m.nodes = append(m.nodes, pinnedNode{n, until})
			}
		}
	}
	x.matched.Store(m)
	return m
}

// Again is Judge for a flow that a rule has let in before: what a rule for a name has let in goes on, also when the name has other addresses by
// now.
func (s *Set) Again(before uint32, d Direction, peer netip.Addr, class Class, proto uint8, port uint16, now frame.Tick) Verdict {
	v := s.Judge(d, peer, class, proto, port, now)
	if v.Action == NoAction && s.keeps(before, proto, port) {
		return Verdict{Allow, before}
	}
	return v
}

// cutWildcard returns what follows "*." in the name of a rule.
func cutWildcard(name string) (rest string, wild bool) { return strings.CutPrefix(name, "*.") }

// nodesFor yields the rules for a name, which is in lower case and without its last dot: those for the very name, and for each "*." above it.
func (c *Rules) nodesFor(name string) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		if n := c.exact[name]; n != nil && !yield(n) {
			return
		}
		for _, above, more := strings.Cut(c.end(name), "."); more; _, above, more = strings.Cut(above, ".") {
			if n := c.below[above]; n != nil && !yield(n) {
				return
			}
		}
	}
}

// end returns the last labels of a name, one more than the deepest rule has: a name may have a hundred.
func (c *Rules) end(name string) string {
	labels := 0
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			if labels++; labels > c.deepest {
				return name[i+1:]
			}
		}
	}
	return name
}

// forName returns what the rules for a name say of a protocol and a port.
func (c *Rules) forName(name string, proto uint8, port uint16) (v Verdict) {
	for n := range c.nodesFor(name) {
		v = v.stronger(n.judge(anybody, proto, port))
	}
	return v
}

// MayAsk reports whether the port may ask for a name of others, in lower case and without its last dot.
func (c *Rules) MayAsk(name string) bool {
	for range c.nodesFor(name) {
		return true
	}
	return !c.limits
}

// RuleForName returns a rule that allows flows to the addresses of a name; 0: none does.
func (c *Rules) RuleForName(name string, proto uint8, port uint16) uint32 {
	return c.forName(name, normal(proto), port).Rule
}

// Reaches reports whether a rule allows something with an address inside of the switch. Of a rule for several ports, the first and the last
// are looked at.
func (c *Rules) Reaches(a netip.Addr) bool {
	if !c.Closes(Egress) {
		return true
	}
	if c.lists[Egress] == nil {
		return false
	}
	n, _ := c.lists[Egress].table.Lookup(a)
	for ; n != nil; n = n.parent {
		for i := range n.groups {
			g := &n.groups[i]
			if g.classes&Inside == 0 {
				continue
			}
			protos := []uint8{g.proto}
			if g.proto == AnyProto {
				protos = []uint8{frame.TCP, frame.UDP, frame.ICMP, AnyProto - 1}
			}
			for _, s := range g.spans {
				if s.Action == Allow && slices.ContainsFunc(protos, func(p uint8) bool {
					return c.Judge(Egress, a, Inside, p, s.lo).Action == Allow || c.Judge(Egress, a, Inside, p, s.hi).Action == Allow
				}) {
					return true
				}
			}
		}
	}
	return false
}

// All returns what the port has learned, sorted by name and address.
func (k *Addresses) All(now frame.Tick) (list []Learned) {
	t := k.table.Load()
	if t == nil {
		return nil
	}
	for i := range t.slots {
		if x := t.slots[i].Load(); x != nil && int32(x.until-now) > 0 {
			for _, n := range x.names {
				if int32(n.until-now) > 0 {
					list = append(list, Learned{n.name, x.addr})
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b Learned) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr)) })
	return list
}

// Learned is a name with an address.
type Learned struct {
	Name string
	Addr netip.Addr
}

// Bounds of Addresses.
const (
	maxLearned   = 4096                      // names of addresses, of one port
	namesOfOne   = 64                        // of one address; those that end first go
	namesShown   = 4                         // by NamesOf
	leastTime    = 30 * frame.TicksPerSecond // for which an address is known, whatever its TTL
	mostSeconds  = 86400                     // and at most
	addressSlots = 2 * maxLearned
)

// Addresses are the addresses that the answers to one port have named. Reading takes no lock.
type Addresses struct {
	mu    sync.Mutex // Lock 79: writers
	table atomic.Pointer[addressTable]
}

// An addressTable is a hash table with linear probing. Entries are never removed: the table is replaced.
type addressTable struct {
	seed    maphash.Seed
	learned int // names of all addresses; guarded by Addresses.mu
	slots   [addressSlots]atomic.Pointer[address]
}

// An address does not change, but for what is noted about it.
type address struct {
	addr    netip.Addr
	until   frame.Tick // the latest of its names
	names   []learned  // the last one last
	matched atomic.Pointer[matched]
}

// learned is a name of an address. pinned: what rules allow for the name, they allow for the address.
type learned struct {
	name   string
	until  frame.Tick
	pinned bool
}

// later returns the later one of two ticks.
func later(a, b frame.Tick) frame.Tick {
	if int32(a-b) > 0 {
		return a
	}
	return b
}

// find returns the slot of an address, or the free one where it belongs.
func (t *addressTable) find(a netip.Addr) *atomic.Pointer[address] {
	for i := maphash.Comparable(t.seed, a); ; i++ {
		slot := &t.slots[i%addressSlots]
		if x := slot.Load(); x == nil || x.addr == a {
			return slot
		}
	}
}

// knows reports whether the table has an address with a name.
func (t *addressTable) knows(a netip.Addr, name string) bool {
	x := t.find(a).Load()
	return x != nil && slices.ContainsFunc(x.names, func(n learned) bool { return n.name == name })
}

// of returns what is known of an address; nil: nothing.
func (k *Addresses) of(a netip.Addr, now frame.Tick) *address {
	if k == nil {
		return nil
	}
	t := k.table.Load()
	if t == nil {
		return nil
	}
	if found := t.find(a).Load(); found != nil && int32(found.until-now) > 0 {
		return found
	}
	return nil
}

// NamesOf returns the last names by which the port has learned an address, the last one last.
func (k *Addresses) NamesOf(a netip.Addr, now frame.Tick) (names []string) {
	x := k.of(a, now)
	if x == nil {
		return nil
	}
	for _, n := range x.names {
		if int32(n.until-now) > 0 {
			names = append(names, n.name)
		}
	}
	return names[max(0, len(names)-namesShown):]
}

// EndedNamesOf returns the names by which the port has learned an address in answers that hold no more, as far as they are remembered.
func (k *Addresses) EndedNamesOf(a netip.Addr, now frame.Tick) (names []string) {
	if t := k.table.Load(); t != nil {
		if x := t.find(a).Load(); x != nil {
			for _, n := range x.names {
				if int32(n.until-now) <= 0 {
					names = append(names, n.name)
				}
			}
		}
	}
	return names[max(0, len(names)-namesShown):]
}

// Learn remembers that an answer to the port has named addresses for a name, which is in lower case and without its last dot. ttl is in
// seconds. With pinned, rules for the name allow these addresses from now on. Call it before the answer leaves.
func (s *Set) Learn(name string, addrs []netip.Addr, ttl uint32, pinned bool, now frame.Tick) {
	k := s.Addresses
	k.mu.Lock()
	defer k.mu.Unlock()
	until := now + max(frame.Tick(min(ttl, mostSeconds))*frame.TicksPerSecond, leastTime)
	for _, a := range addrs {
		t := k.table.Load()
		if t == nil || t.learned >= maxLearned && !t.knows(a, name) {
			t = t.renewed(now)
			k.table.Store(t)
		}
		slot := t.find(a)
		x := &address{addr: a, until: until}
		n := learned{name, until, pinned}
		if old := slot.Load(); old != nil {
			t.learned -= len(old.names)
			for _, o := range old.names {
				switch {
				case int32(o.until-now) <= 0:
				case o.name != name:
					x.names = append(x.names, o)
					x.until = later(x.until, o.until)
				case o.pinned || !pinned: // a pin holds as long as the answer that has made it said
					n.until, n.pinned = later(until, o.until), o.pinned
					if o.pinned && !pinned {
						n.until = o.until
					}
				}
			}
			x.until = later(x.until, n.until)
			if len(x.names) == namesOfOne {
				first := slices.IndexFunc(x.names, func(o learned) bool {
					return !slices.ContainsFunc(x.names, func(p learned) bool { return int32(p.until-o.until) < 0 })
				})
				x.names = slices.Delete(x.names, first, first+1)
			}
		}
		x.names = append(x.names, n)
		s.match(x)
		t.learned += len(x.names)
		slot.Store(x)
	}
}

// renewed returns a table without addresses whose time is over, and with room: those that end first go, if they must.
func (t *addressTable) renewed(now frame.Tick) *addressTable {
	out := &addressTable{seed: maphash.MakeSeed()}
	if t == nil {
		return out
	}
	var live []*address
	for i := range t.slots {
		if x := t.slots[i].Load(); x != nil && int32(x.until-now) > 0 {
			live = append(live, x)
		}
	}
	slices.SortFunc(live, func(a, b *address) int { return cmp.Compare(int32(b.until-now), int32(a.until-now)) })
	for _, x := range live {
		if out.learned+len(x.names) > maxLearned*3/4 {
			break
		}
		out.find(x.addr).Store(x)
		out.learned += len(x.names)
	}
	return out
}
