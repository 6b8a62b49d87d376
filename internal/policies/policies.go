// Package policies turns the policies of a switch's state into what the data plane judges flows by.
package policies

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// A Compiler compiles policies, and remembers what it has compiled: a rule keeps its number, its counters and its flows while its policy and
// its text stay, and a port keeps what it has learned of names.
type Compiler struct {
	mu       sync.Mutex // Lock 32
	ids      map[ruleKey]uint32
	lastID   uint32
	counts   map[uint32]*policy.Count
	ports    map[frame.PortID]*kept
	compiled map[string]compiled // by the names of policies
	last     *policy.Ports
	state    uint64       // hash of what last was made of
	of       *model.State // that Compile was given last
}

type ruleKey struct{ policy, rule string }

// kept is what a port has learned and what has been counted of it, while it has policies.
type kept struct {
	addresses policy.Addresses
	unallowed atomic.Uint64
}

// compiled are rules with the hash of what they were made of.
type compiled struct {
	of    uint64
	rules *policy.Rules
}

// Compile returns the policies of all ports, nil if no port has any; changed says whether they are others than the last ones. local are prefixes
// that the host's kernel takes for itself.
func (c *Compiler) Compile(state *model.State, local []netip.Prefix) (to *policy.Ports, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of = state
	c.forgetLocked()
	if !slices.ContainsFunc(state.Ports, func(p model.Port) bool { return len(state.PoliciesOf(&p)) > 0 }) {
		changed = c.last != nil
		c.last, c.state, c.compiled, c.ports = nil, 0, nil, nil
		return nil, changed
	}
	hash := fnv.New64a()
	to = &policy.Ports{Counts: map[uint32]*policy.Count{}}
	host := append(slices.Clone(local), policy.Singles(state.Own)...)
	ports, used := map[frame.PortID]*kept{}, map[string]compiled{}
	for i := range state.Ports {
		p := &state.Ports[i]
		addrs := addrsOf(state, p)
		if p.Kind == model.KindHost {
			to.Host = p.ID
			host = append(host, policy.Singles(addrs)...)
			continue
		}
		for _, a := range addrs {
			to.AddStation(a, p.ID)
			fmt.Fprintln(hash, a, p.ID)
		}
		of := state.PoliciesOf(p)
		if len(of) == 0 {
			continue
		}
		key := strings.Join(of, ",")
		x, done := used[key]
		if !done {
			x = c.compileLocked(of, key, to)
			used[key] = x
		}
		if ports[p.ID] = c.ports[p.ID]; ports[p.ID] == nil {
			ports[p.ID] = &kept{}
		}
		to.Of[p.ID] = &policy.Set{Rules: x.rules, Addresses: &ports[p.ID].addresses, Unallowed: &ports[p.ID].unallowed}
		fmt.Fprintln(hash, p.ID, key, x.of)
	}
	c.compiled, c.ports = used, ports
	var inside []netip.Prefix
	for i := range state.Networks {
		n := &state.Networks[i]
		inside = append(inside, valid(n.Prefix, n.Prefix6, n.Outside6)...)
	}
	fmt.Fprintln(hash, inside, host, to.Host)
	if c.last != nil && c.state == hash.Sum64() {
		return c.last, false
	}
	to.Places = policy.NewPlaces(inside, host)
	c.last, c.state = to, hash.Sum64()
	return to, true
}

// compileLocked makes the rules of some policies searchable, unless that has been done.
func (c *Compiler) compileLocked(names []string, key string, to *policy.Ports) compiled {
	var rules []policy.Numbered
	hash := fnv.New64a()
	dns := policy.ByRules
	for _, name := range names {
		p := c.of.Policy(name)
		dns = max(dns, p.DNS)
		for i, r := range p.Rules {
			n := policy.Numbered{Rule: r, ID: c.idLocked(ruleKey{name, p.Spec.Rules[i]}), Where: WhereIs(c.of, &r)}
			to.Counts[n.ID] = c.counts[n.ID]
			rules = append(rules, n)
			fmt.Fprintln(hash, n.ID, n.Where)
		}
	}
	fmt.Fprintln(hash, dns)
	if x, ok := c.compiled[key]; ok && x.of == hash.Sum64() {
		return x
	}
	return compiled{hash.Sum64(), policy.Compile(rules, dns)}
}

// idLocked returns the number of a rule.
func (c *Compiler) idLocked(k ruleKey) uint32 {
	if c.ids == nil {
		c.ids, c.counts = map[ruleKey]uint32{}, map[uint32]*policy.Count{}
	}
	id, ok := c.ids[k]
	if !ok {
		c.lastID++
		id = c.lastID
		c.ids[k], c.counts[id] = id, &policy.Count{}
	}
	return id
}

// forgetLocked forgets rules that are gone.
func (c *Compiler) forgetLocked() {
	rules := map[ruleKey]bool{}
	for _, p := range c.of.AllPolicies() {
		for _, text := range p.Spec.Rules {
			rules[ruleKey{p.Name, text}] = true
		}
	}
	for k, id := range c.ids {
		if !rules[k] {
			delete(c.ids, k)
			delete(c.counts, id)
		}
	}
}

// Rule returns the policy that has a rule, the rule's place in it, 1 being the first, and its text.
func (c *Compiler) Rule(id uint32) (name string, number int, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ruleLocked(id)
}

// ruleLocked is Rule with mu held.
func (c *Compiler) ruleLocked(id uint32) (name string, number int, text string) {
	for k, x := range c.ids {
		if p := c.of.Policy(k.policy); x == id && p != nil {
			return k.policy, slices.Index(p.Spec.Rules, k.rule) + 1, k.rule
		}
	}
	return "", 0, ""
}

// Count returns how many flows a rule has let in, and how many packets it has refused.
func (c *Compiler) Count(name, rule string) (flows, refused uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.counts[c.ids[ruleKey{name, rule}]]; x != nil {
		return x.Flows.Load(), x.Refused.Load()
	}
	return 0, 0
}

// Unallowed returns how many packets of a port no rule has allowed, since the port has policies.
func (c *Compiler) Unallowed(id frame.PortID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.ports[id]; x != nil {
		return x.unallowed.Load()
	}
	return 0
}

// addrsOf are the addresses of the station behind a port.
func addrsOf(state *model.State, p *model.Port) (out []netip.Addr) {
	out = []netip.Addr{p.Addr.Addr(), p.Addr6.Addr(), p.Made6}
	if state.Network(p.Network) != nil && p.MAC != 0 {
		out = append(out, p.MAC.LinkLocal().Netip())
	}
	return slices.DeleteFunc(out, func(a netip.Addr) bool { return !a.IsValid() })
}

// linkLocal are the addresses that each link has.
var linkLocal = netip.MustParsePrefix("fe80::/10")

// WhereIs returns the addresses of a port or a network that a rule names; none if it does not exist. A rule that refuses a network refuses all
// link-local addresses: only stations of the port's own network have such ones for it.
func WhereIs(state *model.State, r *policy.Rule) []netip.Prefix {
	switch peer := r.Peer; peer.Kind {
	case policy.PortPeer:
		if p := state.Port(peer.Name); p != nil && !p.IsOwn() {
			return policy.Singles(addrsOf(state, p))
		}
	case policy.NetworkPeer:
		n := state.Network(peer.Name)
		if n == nil {
			return nil
		}
		out := valid(n.Prefix, n.Prefix6)
		if r.Action != policy.Allow {
			return append(out, linkLocal)
		}
		for i := range state.Ports {
			if p := &state.Ports[i]; p.Network == n.Name && p.MAC != 0 {
				a := p.MAC.LinkLocal().Netip()
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		return out
	}
	return nil
}

// valid returns those of some prefixes that are valid.
func valid(list ...netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(list, func(p netip.Prefix) bool { return !p.IsValid() })
}
