package policy

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Numbered rule is a rule with its number, and where its peer is now.
type Numbered struct {
	Rule
	ID    uint32         // unique among all rules of a switch, not 0; it stays when rules are compiled again
	Where []netip.Prefix // of a port or a network: its addresses, none if it does not exist
}

// DNS says for which names a port may ask.
type DNS uint8

// Values of DNS. Of several policies of a port, the greater one counts.
const (
	ByRules   DNS = iota // with rules for names: the names of rules, and of ports that rules name; else any
	AnyName              // any
	NamesOnly            // the names of rules, and of ports that rules name
)

// Rules are the rules of all policies of a port, in a form to search. They do not change.
type Rules struct {
	lists  [2]*list
	named  map[uint32]*Numbered // rules for names, by ID
	exact  map[string]*node     // the same by name
	below  map[string]*node     // likewise of names that begin with "*."; the key is what follows
	limits bool                 // the port may ask for names of rules only
	log    map[uint32]bool      // Log of each rule

	deepest int // labels of the longest key of below
}

// A list has the rules of one direction, by the prefixes of their peers.
type list struct{ table bart.Table[*node] }

// A node has the rules for one prefix.
type node struct {
	parent *node // of the next shorter prefix
	groups []group
}

// A group has the rules of a node for one protocol and for peers of some classes.
type group struct {
	proto   uint8
	classes Class
	spans   []span // sorted, without overlaps: ports that no rule names are missing
}

type span struct {
	lo, hi uint16
	Verdict
}

// A Verdict is what becomes of a flow, and which rule says so.
type Verdict struct {
	Action Action
	Rule   uint32 // its ID; 0: no rule fits
}

// Compile makes rules searchable. It takes n log n.
func Compile(rules []Numbered, dns DNS) *Rules {
	c := &Rules{named: map[uint32]*Numbered{}, exact: map[string]*node{}, below: map[string]*node{}, log: map[uint32]bool{}}
	type key struct {
		prefix  netip.Prefix
		proto   uint8
		classes Class
	}
	byKey := [2]map[key][]*Numbered{}
	byName := map[string]map[uint8][]*Numbered{} // by name and protocol
	for i := range rules {
		r := &rules[i]
		c.log[r.ID] = r.Log
		if byKey[r.Direction] == nil {
			byKey[r.Direction] = map[key][]*Numbered{}
		}
		k := key{proto: r.Proto, classes: anybody}
		where := everywhere
		switch r.Peer.Kind {
		case Prefix:
			if where = []netip.Prefix{r.Peer.Prefix}; isSpecial(r.Peer.Prefix) {
				k.classes |= Special
			}
		case OfClass:
			k.classes = r.Peer.Class
		case PortPeer, NetworkPeer:
			where, k.classes = r.Where, Inside
		case NamePeer:
			c.named[r.ID] = r
			if byName[r.Peer.Name] == nil {
				byName[r.Peer.Name] = map[uint8][]*Numbered{}
			}
			byName[r.Peer.Name][r.Proto] = append(byName[r.Peer.Name][r.Proto], r)
			continue
		}
		if r.Action != Allow && k.classes&Outside != 0 {
			k.classes |= Special // only what is allowed must be named
		}
		for _, k.prefix = range where {
			byKey[r.Direction][k] = append(byKey[r.Direction][k], r)
		}
	}
	for name, protos := range byName {
		n := &node{}
		for proto, rules := range protos {
			n.groups = append(n.groups, group{proto, anybody, spansOf(rules)})
		}
		if rest, wild := cutWildcard(name); wild {
			c.below[rest] = n
			c.deepest = max(c.deepest, strings.Count(rest, ".")+1)
		} else {
			c.exact[name] = n
		}
	}
	for d, groups := range byKey {
		if groups == nil {
			continue
		}
		l := &list{}
		c.lists[d] = l
		for k, rules := range groups {
			n, ok := l.table.Get(k.prefix)
			if !ok {
				n = &node{}
				l.table.Insert(k.prefix, n)
			}
			n.groups = append(n.groups, group{k.proto, k.classes, spansOf(rules)})
		}
		for prefix, n := range l.table.All() {
			if prefix.Bits() > 0 {
				n.parent, _ = l.table.LookupPrefix(netip.PrefixFrom(prefix.Addr(), prefix.Bits()-1).Masked())
			}
		}
	}
	c.limits = dns == NamesOnly || dns == ByRules && len(c.named) > 0
	return c
}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// spansOf resolves which of several rules wins at each port.
func spansOf(rules []*Numbered) (spans []span) {
	type edge struct {
		at    int // port
		begin bool
		rule  *Numbered
	}
	var edges []edge
	for _, r := range rules {
		ports := r.Ports
		if len(ports) == 0 {
			ports = []PortRange{{0, 65535}}
		}
		for _, p := range ports {
			edges = append(edges, edge{int(p.Lo), true, r}, edge{int(p.Hi) + 1, false, r})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	active := map[*Numbered]int{} // how often a rule names the present port
	var strongest rulesHeap       // of the active rules, and of some that were
	for i := 0; i < len(edges); {
		at := edges[i].at
		for ; i < len(edges) && edges[i].at == at; i++ {
			if edges[i].begin {
				active[edges[i].rule]++
				heap.Push(&strongest, edges[i].rule)
			} else if active[edges[i].rule]--; active[edges[i].rule] == 0 {
				delete(active, edges[i].rule)
			}
		}
		if i == len(edges) {
			break
		}
		for len(strongest) > 0 && active[strongest[0]] == 0 {
			heap.Pop(&strongest)
		}
		if len(strongest) == 0 {
			continue
		}
		v := Verdict{strongest[0].Action, strongest[0].ID}
		hi := uint16(edges[i].at - 1)
		if n := len(spans); n > 0 && spans[n-1].Verdict == v && int(spans[n-1].hi)+1 == at {
			spans[n-1].hi = hi
		} else {
			spans = append(spans, span{uint16(at), hi, v})
		}
	}
	return spans
}

// rulesHeap is a heap of rules (container/heap): the one that wins is the first.
type rulesHeap []*Numbered

func (h rulesHeap) Len() int      { return len(h) }
func (h rulesHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h rulesHeap) Less(i, j int) bool {
	if h[i].Action != h[j].Action {
		return h[i].Action > h[j].Action
	}
	return h[i].ID < h[j].ID
}
func (h *rulesHeap) Push(x any) { *h = append(*h, x.(*Numbered)) }
func (h *rulesHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// stronger returns the verdict that wins; of two alike, that of the older rule.
func (v Verdict) stronger(w Verdict) Verdict {
	if w.Action > v.Action || w.Action == v.Action && w.Rule < v.Rule && w.Action != NoAction {
		return w
	}
	return v
}

// Closes reports whether nothing passes in a direction but what a rule allows.
func (c *Rules) Closes(d Direction) bool {
	return c.lists[d] != nil || d == Egress && len(c.named) > 0
}

// keeps reports whether a flow that a rule for a name has let in goes on: the name may have another address meanwhile.
func (c *Rules) keeps(rule uint32, proto uint8, port uint16) bool {
	r := c.named[rule]
	return r != nil && r.fits(proto, port)
}

// Logs reports whether a rule asks for lines in the log.
func (c *Rules) Logs(rule uint32) bool { return c.log[rule] }

// Judge returns what the rules say of a flow: peer is the address at the other end, and port the responder's port, 0 for a protocol
// without ports. NoAction with a rule of 0: no rule fits. In a direction without rules, everything is allowed.
func (c *Rules) Judge(d Direction, peer netip.Addr, class Class, proto uint8, port uint16) (v Verdict) {
	if !c.Closes(d) {
		return Verdict{Action: Allow}
	}
	l := c.lists[d]
	if l == nil {
		return v
	}
	n, _ := l.table.Lookup(peer)
	for ; n != nil; n = n.parent {
		v = v.stronger(n.judge(class, normal(proto), port))
	}
	return v
}

// normal is the protocol by which rules know a protocol: one rule is for ICMP of both families.
func normal(proto uint8) uint8 {
	if proto == frame.ICMPv6 {
		return frame.ICMP
	}
	return proto
}

// judge returns what the rules of a node say.
func (n *node) judge(class Class, proto uint8, port uint16) (v Verdict) {
	for i := range n.groups {
		if g := &n.groups[i]; g.classes&class != 0 && (g.proto == AnyProto || g.proto == proto) {
			v = v.stronger(g.at(port))
		}
	}
	return v
}

func (g *group) at(port uint16) Verdict {
	lo, hi := 0, len(g.spans)
	for lo < hi {
		if mid := (lo + hi) / 2; g.spans[mid].hi < port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(g.spans) && g.spans[lo].lo <= port {
		return g.spans[lo].Verdict
	}
	return Verdict{}
}

// fits reports whether a rule for a name is for a protocol and a port.
func (r *Numbered) fits(proto uint8, port uint16) bool {
	if r.Proto != AnyProto && r.Proto != normal(proto) {
		return false
	}
	return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.Lo <= port && port <= p.Hi })
}
