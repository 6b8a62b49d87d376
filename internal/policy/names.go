package policy

import (
	"cmp"
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
}

// Judge is Rules.Judge, and minds rules for names, too: they allow addresses that an answer to the port has named.
func (s *Set) Judge(d Direction, peer netip.Addr, class Class, proto uint8, port uint16, now frame.Tick) Verdict {
	v := s.Rules.Judge(d, peer, class, proto, port)
	if v.Action != NoAction || d != Egress || len(s.named) == 0 {
		return v
	}
	for _, pin := range s.Addresses.of(peer, now).pins {
		if r := s.named[pin.rule]; r != nil && int32(pin.until-now) > 0 && r.fits(proto, port) {
			return Verdict{Allow, pin.rule}
		}
	}
	return v
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

// rulesFor returns the rules that allow a name, which is in lower case and without its last dot.
func (c *Rules) rulesFor(name string) (ids []uint32) {
	ids = append(ids, c.exact[name]...)
	for rest := name; ; {
		_, after, more := strings.Cut(rest, ".")
		if !more {
			return ids
		}
		ids = append(ids, c.below[after]...)
		rest = after
	}
}

// MayAsk reports whether the port may ask for a name of others, in lower case and without its last dot.
func (c *Rules) MayAsk(name string) bool { return !c.limits || len(c.rulesFor(name)) > 0 }

// LimitsNames reports whether the port may ask for some names only.
func (c *Rules) LimitsNames() bool { return c.limits }

// RuleForName returns a rule that allows flows to the addresses of a name; 0: none does.
func (c *Rules) RuleForName(name string, proto uint8, port uint16) uint32 {
	for _, id := range c.rulesFor(name) {
		if c.named[id].fits(proto, port) {
			return id
		}
	}
	return 0
}

// Reaches reports whether a rule allows anything with an address inside of the switch.
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
			if g.classes&Inside != 0 && slices.ContainsFunc(g.spans, func(s span) bool { return s.Action == Allow }) {
				return true
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
			for _, name := range x.names {
				list = append(list, Learned{name, x.addr})
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
	maxAddresses = 4096                         // of one port
	leastTime    = 30 * frame.TicksPerSecond    // for which an address is known, whatever its TTL
	mostTime     = 86400 * frame.TicksPerSecond // and at most
	tableSize    = 2 * maxAddresses
)

// Addresses are the addresses that the answers to one port have named. Reading takes no lock.
type Addresses struct {
	mu    sync.Mutex // Lock 79: writers
	table atomic.Pointer[addressTable]
}

// An addressTable is a hash table with linear probing. Entries are never removed: the table is replaced.
type addressTable struct {
	n     int // guarded by Addresses.mu
	slots [tableSize]atomic.Pointer[address]
}

// An address does not change.
type address struct {
	addr  netip.Addr
	until frame.Tick
	names []string // as asked for, the last one last
	pins  []pin
}

// A pin is a rule that allows an address, because it allows a name of the address.
type pin struct {
	rule  uint32
	until frame.Tick
}

// maxNames is how many names of an address are kept.
const maxNames = 4

func hashOf(a netip.Addr) uint32 {
	h := uint64(14695981039346656037)
	for _, b := range a.As16() {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return uint32(h ^ h>>32)
}

// find returns the slot of an address, or the free one where it belongs.
func (t *addressTable) find(a netip.Addr) *atomic.Pointer[address] {
	for i := hashOf(a); ; i++ {
		slot := &t.slots[i%tableSize]
		if x := slot.Load(); x == nil || x.addr == a {
			return slot
		}
	}
}

// of returns what is known of an address.
func (k *Addresses) of(a netip.Addr, now frame.Tick) (x address) {
	if k == nil {
		return x
	}
	t := k.table.Load()
	if t == nil {
		return x
	}
	if found := t.find(a).Load(); found != nil && int32(found.until-now) > 0 {
		return *found
	}
	return x
}

// NamesOf returns the names by which the port has learned an address, the last one last.
func (k *Addresses) NamesOf(a netip.Addr, now frame.Tick) []string { return k.of(a, now).names }

// Learn remembers that an answer to the port has named addresses for a name, which is in lower case and without its last dot. ttl is in
// seconds. With pin, rules for the name allow these addresses from now on. Call it before the answer leaves.
func (s *Set) Learn(name string, addrs []netip.Addr, ttl uint32, pinned bool, now frame.Tick) {
	k := s.Addresses
	var rules []uint32
	if pinned {
		rules = s.rulesFor(name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	until := now + min(max(frame.Tick(min(ttl, 86400))*frame.TicksPerSecond, leastTime), mostTime)
	for _, a := range addrs {
		t := k.table.Load()
		if t == nil || t.n >= maxAddresses && t.find(a).Load() == nil {
			t = t.renewed(now)
			k.table.Store(t)
		}
		x := &address{addr: a, until: until}
		for _, id := range rules {
			x.pins = append(x.pins, pin{id, until})
		}
		slot := t.find(a)
		if old := slot.Load(); old == nil {
			t.n++
		} else if int32(old.until-now) > 0 {
			x.until = max(x.until, old.until)
			for _, p := range old.pins {
				if i := slices.IndexFunc(x.pins, func(q pin) bool { return q.rule == p.rule }); i >= 0 {
					x.pins[i].until = max(x.pins[i].until, p.until)
				} else if int32(p.until-now) > 0 && s.Has(p.rule) {
					x.pins = append(x.pins, p)
				}
			}
			x.names = slices.DeleteFunc(slices.Clone(old.names), func(n string) bool { return n == name })
			x.names = x.names[max(0, len(x.names)-maxNames+1):]
		}
		x.names = append(x.names, name)
		slot.Store(x)
	}
}

// renewed returns a table without entries whose time is over, and with room: the entries that end first go, if they must.
func (t *addressTable) renewed(now frame.Tick) *addressTable {
	out := &addressTable{}
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
	for _, x := range live[:min(len(live), maxAddresses*3/4)] {
		out.find(x.addr).Store(x)
		out.n++
	}
	return out
}
