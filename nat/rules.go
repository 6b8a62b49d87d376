package nat

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// A PublishOf rule forwards packets for ports Lo to Hi of the host to the same number of ports of Target, from Port on.
type PublishOf[A frame.Address] struct {
	ID       uint32 // unique, not 0
	Proto    uint8
	HostAddr A // zero: every address of the host
	Lo, Hi   uint16
	Target   A
	Port     uint16 // port of Target that Lo is forwarded to
	From     []netip.Prefix
	Inside   frame.PortID // the port of Target, charged for the flows
	Net      frame.NetID
	*RuleCount
}

// Rules of both families.
type (
	Publish  = PublishOf[frame.Addr]
	Publish6 = PublishOf[frame.Addr6]
)

// RuleCount counts the first packet of each flow that a rule created, as iptables does in table nat.
type RuleCount struct{ Packets, Bytes atomic.Uint64 }

// A Masquerade rule says how packets of a network leave by the uplink: masqueraded, or if Outside is valid, with an address of that prefix.
type Masquerade struct {
	Net       frame.NetID
	Mapping   Mapping
	Filtering Filtering
	Protocols Protocols // that may leave

	// Addresses of Inside are known outside as those of Outside, each with all its ports (RFC 6296). The prefixes have one
	// length, and may be the same one. Open: anyone outside may begin a flow; else only with published ports and pings.
	Inside, Outside netip.Prefix
	Open            bool
	*RuleCount
}

// Rules are the rules that Update applies.
type Rules struct {
	Own        []frame.Addr   // the host's addresses; the first is the source of packets whose way is not known yet. None: no way out
	Local      []netip.Prefix // what else the host's kernel takes for itself: published ports are there, too
	Publish    []*Publish
	Masquerade []*Masquerade
	Stations   map[frame.Addr]frame.PortID
	Reserved   []frame.Addr
	Six        RulesOf[frame.Addr6] // the same for IPv6
	Ephemeral  [2]uint16            // the ports that the host's kernel picks for its own connections
	HostUses   []uint8              // IP protocols without ports that the host itself uses: no flow of theirs leaves
	Inbound    *Inbound             // nil: containers may use the host as they like
	Pool       [2]*PortSet          // outside ports for flows: TCP; UDP and SCTP. nil: all
}

// RulesOf are the rules that speak of the addresses of one family: see Rules.
type RulesOf[A frame.Address] struct {
	Own        []A
	Local      []netip.Prefix
	Publish    []*PublishOf[A]
	Masquerade []*Masquerade
	Stations   map[A]frame.PortID // addresses of containers: a flow that begins outside, without a published port, is charged to the port
	Reserved   []A                // addresses of networks that are no containers': the gateways' and the host port's
}

// config is the form of Rules that the workers read.
type config[A frame.Address] struct {
	source    A              // the first of own, or the zero address
	own       []netip.Prefix // the host's addresses and what else its kernel takes for itself
	hosts     []addrRange[A] // own, sorted, without overlaps
	left      []leftPrefix   // what the host had a moment ago
	gen       uint32
	publish   [protocols][]*PublishOf[A] // sorted by Lo
	reach     [protocols][]uint16        // the highest Hi of publish[i][:k+1]: a search downwards may stop there
	byTarget  [protocols]map[A][]*PublishOf[A]
	masq      [frame.MaxNets]*Masquerade
	prefixes  []*Masquerade // those with an Outside
	stations  map[A]frame.PortID
	reserved  []A
	pool      [protocols]*PortSet
	local     [protocols]*PortSet // those of pool that the host's kernel picks for itself, too
	others    [protocols]*PortSet // the rest of pool
	ephemeral [2]uint16
	inbound   *Inbound
	policies  *policy.Ports
	rulings   []atomic.Uint64 // by flow: policy.Admission; made with the first policy
	hostUses  []uint8
}

// A leftPrefix has left the host. Its flows go on when it returns before until.
type leftPrefix struct {
	netip.Prefix
	until frame.Tick
}

// graceTime is how long flows outlive the address that they leave by: a DHCP client that renews takes it away for a moment.
const graceTime = 10 * frame.TicksPerSecond

// addrRange is a range of addresses, both ends included.
type addrRange[A frame.Address] struct{ lo, hi A }

// rangesOf returns the ranges that prefixes make up, sorted.
func rangesOf[A frame.Address](prefixes []netip.Prefix) (out []addrRange[A]) {
	for _, p := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		lo, hi := frame.Of[A](p.Masked().Addr()), frame.Last[A](p)
		if n := len(out); n > 0 && frame.Compare(lo, out[n-1].hi) <= 0 {
			if frame.Compare(hi, out[n-1].hi) > 0 {
				out[n-1].hi = hi
			}
		} else {
			out = append(out, addrRange[A]{lo, hi})
		}
	}
	return out
}

// ForgetAddrs forgets addresses that have not been on the host for graceTime. The next round of Expire ends their flows. The slow path calls it.
func (n *NAT) ForgetAddrs(now frame.Tick) {
	n.forgetAddrs(now)
	n.six.forgetAddrs(now)
}

func (n *tracker[A]) forgetAddrs(now frame.Tick) {
	isOver := func(x leftPrefix) bool { return int32(now-x.until) >= 0 }
	if !slices.ContainsFunc(n.config.Load().left, isOver) {
		return
	}
	n.mu.Lock()
	c := *n.config.Load()
	c.left = slices.DeleteFunc(slices.Clone(c.left), isOver)
	c.gen++
	n.config.Store(&c)
	n.mu.Unlock()
	n.toCheck = int(n.flows.highWater())
}

// owns reports whether the host's kernel takes packets to a for itself, or took them a moment ago.
//
//uvswitch:hot
func (c *config[A]) owns(a A) bool {
	if c.has(a) {
		return true
	}
	for i := range c.left {
		if c.left[i].Contains(frame.Netip(a)) {
			return true
		}
	}
	return false
}

// has reports whether the host's kernel takes packets to a for itself.
//
//uvswitch:hot
func (c *config[A]) has(a A) bool {
	lo, hi := 0, len(c.hosts)
	for lo < hi {
		if mid := (lo + hi) / 2; frame.Compare(c.hosts[mid].hi, a) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(c.hosts) && frame.Compare(c.hosts[lo].lo, a) <= 0
}

// publishesAt reports whether a port is published at this very address.
func (c *config[A]) publishesAt(a A) bool {
	for _, rules := range c.publish {
		if slices.ContainsFunc(rules, func(p *PublishOf[A]) bool { return p.HostAddr == a }) {
			return true
		}
	}
	return false
}

// class returns the ports of the pool that are of the same kind as port.
func (c *config[A]) class(i int, port uint16) *PortSet {
	if port >= c.ephemeral[0] && port <= c.ephemeral[1] {
		return c.local[i]
	}
	return c.others[i]
}

// publishedAs returns the port of the host's address that is published for an inside endpoint; 0 if none is.
func (c *config[A]) publishedAs(i int, at A, inside *frame.TupleOf[A]) uint16 {
	for _, p := range c.byTarget[i][inside.Src] {
		if inside.SrcPort >= p.Port && inside.SrcPort-p.Port <= p.Hi-p.Lo && (p.HostAddr == zero[A]() || p.HostAddr == at) {
			return p.Lo + (inside.SrcPort - p.Port)
		}
	}
	return 0
}

// allIDs is the pool of ICMP identifiers.
var allIDs = func() *PortSet {
	s := NewPortSet()
	s.AddRange(1, 65535)
	return s
}()

// Update applies new rules. Flows made under the old rules are checked against the new ones on their next packet,
// unless only the pool has changed.
func (n *NAT) Update(r Rules) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.updateLocked(&r, RulesOf[frame.Addr]{Own: r.Own, Local: r.Local, Publish: r.Publish, Masquerade: r.Masquerade, Stations: r.Stations, Reserved: r.Reserved})
	n.six.updateLocked(&r, r.Six)
}

func (n *tracker[A]) updateLocked(all *Rules, r RulesOf[A]) {
	old := n.config.Load()
	c := &config[A]{own: slices.Clone(r.Local), gen: old.gen + 1, ephemeral: all.Ephemeral, inbound: all.Inbound, policies: old.policies, rulings: old.rulings, hostUses: all.HostUses, stations: r.Stations, reserved: slices.SortedFunc(slices.Values(r.Reserved), frame.Compare[A])}
	for _, a := range r.Own {
		p := frame.Netip(a)
		c.own = append(c.own, netip.PrefixFrom(p, p.BitLen()))
	}
	slices.SortFunc(c.own, netip.Prefix.Compare)
	c.hosts = rangesOf[A](c.own)
	if len(r.Own) > 0 {
		c.source = r.Own[0]
	}
	now := frame.Tick(n.now.Load())
	for _, x := range old.left { // until ForgetAddrs
		if !slices.Contains(c.own, x.Prefix) {
			c.left = append(c.left, x)
		}
	}
	for _, p := range old.own {
		if !slices.Contains(c.own, p) {
			c.left = append(c.left, leftPrefix{p, now + graceTime})
		}
	}
	for i, from := range [protocols]*PortSet{tcp: all.Pool[0], udp: all.Pool[1], icmp: allIDs, sctp: all.Pool[1]} {
		if from == nil {
			from = allIDs
		}
		c.pool[i] = from.clone()
	}
	for _, m := range r.Masquerade {
		if c.masq[m.Net] = m; m.Outside.IsValid() {
			c.prefixes = append(c.prefixes, m)
		}
	}
	for _, p := range r.Publish {
		i := protoIndex(p.Proto)
		c.publish[i] = append(c.publish[i], p)
		if c.prefixOf(p.HostAddr) == nil {
			c.pool[i].RemoveRange(p.Lo, p.Hi) // a published port is never used for masquerade (CVE-2021-3773)
		}
	}
	ephemeral := NewPortSet()
	ephemeral.AddRange(c.ephemeral[0], c.ephemeral[1])
	for i := range c.pool {
		c.local[i], c.others[i] = c.pool[i].split(ephemeral)
	}
	for i, rules := range c.publish {
		slices.SortFunc(rules, func(a, b *PublishOf[A]) int { return cmp.Or(cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.ID, b.ID)) })
		reach := uint16(0)
		c.byTarget[i] = map[A][]*PublishOf[A]{}
		for _, p := range rules {
			c.byTarget[i][p.Target] = append(c.byTarget[i][p.Target], p)
			reach = max(reach, p.Hi)
			c.reach[i] = append(c.reach[i], reach)
		}
	}
	if sameTranslation(old, c) {
		c.gen = old.gen
	}
	if c.source != zero[A]() {
		n.useAddrLocked(c, c.source)
	}
	n.config.Store(c)
	n.shareLocked(c)
}

// sameTranslation reports whether every flow created under a would be created the same way under b.
func sameTranslation[A frame.Address](a, b *config[A]) bool {
	if !maps.Equal(a.stations, b.stations) || !slices.Equal(a.reserved, b.reserved) || !slices.Equal(a.hostUses, b.hostUses) || !slices.Equal(a.own, b.own) || !slices.Equal(a.left, b.left) {
		return false
	}
	for i := range a.publish {
		if !slices.EqualFunc(a.publish[i], b.publish[i], func(p, q *PublishOf[A]) bool {
			return p.ID == q.ID && p.Lo == q.Lo && p.Hi == q.Hi && p.HostAddr == q.HostAddr && p.Target == q.Target &&
				p.Port == q.Port && p.Inside == q.Inside && p.Net == q.Net && slices.Equal(p.From, q.From)
		}) {
			return false
		}
	}
	for i := range a.masq {
		x, y := a.masq[i], b.masq[i]
		if (x == nil) != (y == nil) || x != nil && (x.Mapping != y.Mapping || x.Filtering != y.Filtering || x.Protocols != y.Protocols ||
			x.Inside != y.Inside || x.Outside != y.Outside || x.Open != y.Open) {
			return false
		}
	}
	return true
}

// published returns the rule for a packet of tuple t, or nil: of several, one that allows its source. Rules for every address count if the
// destination is the host's.
//
//uvswitch:hot
func (c *config[A]) published(t *frame.TupleOf[A], toHost bool) (found *PublishOf[A]) {
	i, port := protoIndex(t.Proto), t.DstPort
	if i < 0 {
		return nil
	}
	rules := c.publish[i]
	lo, hi := 0, len(rules)
	for lo < hi { // find the first rule with Lo above port
		if mid := (lo + hi) / 2; rules[mid].Lo <= port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for k := lo - 1; k >= 0 && c.reach[i][k] >= port; k-- {
		if p := rules[k]; p.Hi >= port && (p.HostAddr == t.Dst || toHost && p.HostAddr == zero[A]()) {
			if found = p; p.allows(t.Src) {
				return p
			}
		}
	}
	return found
}

// allows reports whether a client with address a may use the rule (--from).
//
//uvswitch:hot
func (p *PublishOf[A]) allows(a A) bool {
	if len(p.From) == 0 {
		return true
	}
	for i := range p.From {
		if p.From[i].Contains(frame.Netip(a)) {
			return true
		}
	}
	return false
}

// target returns where a packet to port of the host is forwarded.
//
//uvswitch:hot
func (p *PublishOf[A]) target(port uint16) (A, uint16) { return p.Target, p.Port + (port - p.Lo) }

// valid reports whether flow e would be created the same way under config c, and if so records the generation of c in
// the flow. The caller ends a flow that is not valid, so that a changed rule, address or container takes effect on
// the next packet.
func (n *tracker[A]) valid(c *config[A], e uint32) bool {
	s, k := &n.state[e], &n.flows.keys[e]
	w := s.state.Load()
	rule := c.masq[s.net]
	if !n.stillAdmitted(c, e) {
		return false
	}
	if w&untranslated != 0 {
		s.gen.Store(c.gen)
		return c.inbound != nil || n.isPoliced(c, e)
	}
	switch {
	case slices.Contains(c.hostUses, k[0].Proto) && w&byPrefix == 0,
		s.mapping != 0 && (!c.owns(n.maps.keys[s.mapping][1].Src) || rule != nil && rule.Mapping != EndpointIndependentMapping),
		s.inboundMapping != 0 && !c.owns(n.maps.keys[s.inboundMapping][1].Src),
		s.inboundMapping != 0 && s.mapping == 0 && (rule == nil || rule.Filtering == AddressAndPortDependentFiltering),
		w&overloadsPort != 0 && (!c.owns(k[1].Dst) || rule == nil || rule.Mapping == EndpointIndependentMapping && k[0].Proto != frame.TCP):
		return false
	}
	if s.rule != 0 {
		toHost := c.owns(k[0].Dst)
		p := c.published(&k[0], toHost)
		if p == nil || !toHost && c.prefixOf(k[0].Dst) == nil || !p.allows(k[0].Src) {
			return false
		}
		if a, port := p.target(k[0].DstPort); a != k[1].Src || port != k[1].SrcPort {
			return false
		}
	} else if w&byPrefix == 0 && (rule == nil || !c.owns(k[1].Dst) && s.inboundMapping == 0 || !rule.Protocols.allows(k[0].Proto) ||
		s.inboundMapping == 0 && w&hairpinned == 0 && rule.covers(frame.Netip(k[0].Src))) {
		return false
	}
	if w&(byPrefix|hairpinned) != 0 && !c.validByPrefix(s, k) {
		return false
	}
	s.gen.Store(c.gen)
	return true
}
