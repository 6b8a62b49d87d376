package nat

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/internal/share"
)

// PostRouting translates routed frames and creates a flow for a frame that begins one: masquerade for frames that
// leave by the uplink, DNAT for frames to a published port or a mapping. Step 7.
//
//uvswitch:hot
func (n *NAT) PostRouting(b *frame.Batch) {
	c, c6 := n.config.Load(), n.six.config.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		switch {
		case f.Verdict != frame.Routed || f.NAT == frame.NATDone:
		case f.Flags&frame.IsIPv4 != 0:
			n.postRoute(c, packetOf[frame.Addr](b, i), b)
		default:
			n.six.postRoute(c6, packetOf[frame.Addr6](b, i), b)
		}
	}
}

//uvswitch:hot
func (n *tracker[A]) postRoute(c *config[A], f packet[A], b *frame.Batch) {
	if f.NAT == frame.NATEstablished && f.Egress == frame.NoNet && n.state[f.Flow].state.Load()&untranslated != 0 {
		if !b.Dry {
			n.end(f.Flow, replaced) // it was between stations, and this way out would translate it
		}
		f.DropFor(frame.FlowNotFound)
		return
	}
	if f.NAT == frame.NATEstablished && f.Dir == 0 && f.Egress != frame.NoNet && !n.state[f.Flow].beganElsewhere() &&
		n.state[f.Flow].state.Load()&untranslated == 0 {
		if !b.Dry {
			n.end(f.Flow, replaced) // its destination is now inside
		}
		f.DropFor(frame.FlowNotFound) // the router routed it as part of that flow; the next packet is routed without it
		return
	}
	if f.NAT == frame.NATNone {
		if f.Egress != frame.NoNet {
			// PreRouting has noted a fragment to the host. If policies close the way to the host, Filter records it.
			if f.Flags&frame.Fragment != 0 && c.owns(f.tuple.Dst) && !c.policies.CloseToHost(f.In) {
				if why := n.recordFragment(f, b.Dry); why != frame.None {
					f.DropFor(why)
				}
			}
			return
		}
		if m := c.masq[f.Net]; m == nil || c.source == zero[A]() && !m.Outside.IsValid() {
			f.PuntFor(frame.UplinkDown)
			return
		}
	}
	switch why := n.translateRouted(c, f, b); {
	case why == frame.None:
	case why == frame.NATPortsExhausted && f.Proto == frame.TCP && !resumes(f.Frame) && n.mayBeFreeSoon(f.In, b):
		f.DropFor(why) // in silence: its sender tries again
	case why.Punt() != frame.NoPunt:
		if why.Punt() == frame.Redo && f.Flags&frame.Fragment != 0 && f.FragOffset() == 0 && !b.Dry {
			n.forgetFragment(f)
		}
		f.PuntFor(why)
	default:
		f.DropFor(why)
	}
}

//uvswitch:hot
func (n *tracker[A]) translateRouted(c *config[A], f packet[A], b *frame.Batch) frame.Reason {
	if f.Flags&frame.Fragment != 0 {
		if why := n.translateFragment(f, b, true); why != frame.None {
			return why
		}
	}
	switch f.NAT {
	case frame.NATRelated:
		if f.Egress == frame.NoNet {
			f.SetMACs(frame.WayMACs(frame.WaySend, 0, 0, 0, 0))
		}
		return n.translateError(f)
	case frame.NATEstablished:
	default:
		if why := n.create(c, f, b); why != frame.None {
			return why
		}
	}
	inside := *f.tuple
	begins := f.NAT == frame.NATNone
	why := n.translate(f, b)
	if f.Egress == frame.NoNet && why == frame.None {
		n.setWay(c, f, &inside, begins, b)
	}
	return why
}

// source is the address that the way out has said it needs, or 0.
//
//uvswitch:hot
func (f packet[A]) source(b *frame.Batch) (a A) {
	if f.Source == 0 {
		return a
	}
	switch a := any(&a).(type) {
	case *frame.Addr:
		*a = f.Source
	case *frame.Addr6:
		*a = b.To[f.Source-1].Source
	}
	return a
}

// WaysChanged says that the host's routes or addresses have changed: the next packet of each flow, but of TCP, asks for its way again.
func (n *NAT) WaysChanged() { n.ways.Add(1) }

// A pendingFlow is a flow that is being created, with the references that it has so far.
type pendingFlow[A frame.Address] struct {
	orig, reply             frame.TupleOf[A]
	mapping, inboundMapping uint32 // retained
	rule                    uint32
	port                    frame.PortID
	net                     frame.NetID
	status                  uint32
	count                   *RuleCount
	source                  A // see Frame.Source
	syn                     segmentMark
	admission               policy.Admission
	charged                 bool // the port's share counts it
}

// create makes the flow that f begins, or finds that another packet has just made it. It sets f.Flow and f.Dir. In a
// dry batch the flow is only planned, in entry 0.
func (n *tracker[A]) create(c *config[A], f packet[A], b *frame.Batch) frame.Reason {
	if e, dir, ok, why := n.follow(c, f, b); ok || why != frame.None { // made by an earlier frame of this batch, or by another worker
		f.Flow, f.Dir = e, dir
		return why
	}
	if why := begins(f.Frame); why != frame.None {
		return why
	}
	d := pendingFlow[A]{
		orig: *f.tuple, rule: f.Rule, port: f.In, net: f.Net, source: f.source(b),
		reply: frame.TupleOf[A]{Src: *f.dst, SrcPort: f.RoutePort, Dst: f.tuple.Src, DstPort: f.tuple.SrcPort, Proto: f.tuple.Proto},
	}
	if d.source != zero[A]() {
		d.status = secondTry
	}
	if f.Proto == frame.TCP {
		d.syn = markOf(f.Frame)
	}
	leaves := f.NAT == frame.NATNone || f.Hairpin // it gets an outside address as source
	toHost := f.NAT != frame.NATNone && c.owns(f.tuple.Dst)
	switch {
	case f.NAT == frame.NATNone:
		d.count = c.masq[f.Net].RuleCount
	case f.Rule != 0:
		p := c.published(f.tuple, toHost)
		if p == nil || p.ID != f.Rule {
			return frame.FlowNotFound
		}
		d.count = p.RuleCount
		if !leaves {
			d.port, d.net = p.Inside, p.Net
			d.status |= servedFlow
		}
	case f.Mapping == 0: // to an outside address of a prefix: see preRoutePrefix
		m := c.prefixOf(f.tuple.Dst)
		if m == nil {
			return frame.FlowNotFound
		}
		if inside, ok := c.admitted(m, f.tuple); !ok || inside != d.reply.Src {
			return frame.FlowNotFound
		}
		if !leaves {
			c.beginsOutside(&d, m)
		}
	default:
		d.inboundMapping = f.Mapping
		if !leaves {
			d.port, d.net = n.mappings[d.inboundMapping].owner, n.mappings[d.inboundMapping].net
			d.status |= servedFlow
		}
	}
	if c.policies != nil {
		from := f.In
		if f.Net == frame.NoNet {
			from = frame.NoPort
		}
		if why := n.admit(c, &d, from, c.policies.Stations[frame.Netip(d.reply.Src)], b); why != frame.None {
			return why
		}
	}
	rule := c.masq[d.net]
	if f.Hairpin && !toHost {
		d.status |= hairpinned
	}
	prefixed := leaves && rule != nil && rule.covers(frame.Netip(d.orig.Src)) && !(f.Hairpin && toHost)
	if prefixed {
		d.status |= byPrefix
	}
	if why := n.askForFragments(c, f, &d, leaves && !prefixed && !b.Dry); why != frame.None {
		return why
	}
	if d.port >= frame.MaxPorts {
		return frame.FlowInvalid
	}
	if leaves && !prefixed && slices.Contains(c.hostUses, f.tuple.Proto) {
		return frame.PairHostTunnel
	}
	if leaves && rule != nil && !rule.Protocols.allows(f.tuple.Proto) {
		return frame.ProtocolRefused
	}
	if protoIndex(f.tuple.Proto) < 0 && d.status&byPrefix == 0 && !n.pairShares.May(d.port) {
		return frame.FlowQuota
	}
	if b.Dry {
		return n.plan(c, f, &d, leaves, b)
	}
	if !n.charge(&d) {
		return frame.FlowQuota
	}
	why := frame.None
	if d.inboundMapping != 0 && !n.retain(d.inboundMapping) {
		d.inboundMapping, why = 0, frame.FlowNotFound
	}
	if why == frame.None && leaves {
		why = n.source(c, &d, false)
	}
	if why == frame.None && d.orig == d.reply {
		why = frame.FlowToItself
	}
	if why == frame.None && resumes(f.Frame) && d.reply.DstPort != f.tuple.SrcPort {
		why = frame.FlowNotResumed
	}
	if why == frame.None {
		why = n.confirm(c, f, &d, b)
	}
	if why != frame.None || f.NAT == frame.NATEstablished {
		n.rollback(&d)
		return why
	}
	if d.count != nil {
		d.count.Packets.Add(1)
		d.count.Bytes.Add(f.bytes())
	}
	return frame.None
}

// charge counts a flow that is about to be created, and reports whether its port may have it.
func (n *tracker[A]) charge(d *pendingFlow[A]) bool {
	if !n.hasGraceRoom(d, false) {
		return false
	}
	for range 2 {
		class, ok := n.mayCharge(d)
		if ok && n.flowShares.Take(d.port) {
			if d.charged = true; d.status&servedFlow != 0 {
				n.served[d.port].Add(1)
			}
			return true
		}
		if !n.evictFor(class, d.port, false) {
			break
		}
	}
	return false
}

// mostServed is how much of what a port may have is for flows that begin elsewhere: three quarters, so that a flood of a published port does not
// stop the container's own connections.
func mostServed(p *share.Pool, id frame.PortID) int { return max(1, p.Most(id)*3/4) }

// mayCharge reports whether a port may have one more flow; if not, flows of the class may make room.
func (n *tracker[A]) mayCharge(d *pendingFlow[A]) (class int, ok bool) {
	if d.status&servedFlow != 0 && int(n.served[d.port].Load()) >= mostServed(&n.flowShares, d.port) {
		return classServed, false
	}
	return classAny, n.flowShares.May(d.port)
}

// askForFragments asks for the source address of a flow that begins with a fragment before the fragment leaves: if its way out refused
// the address, the later fragments would have left with it.
func (n *tracker[A]) askForFragments(c *config[A], f packet[A], d *pendingFlow[A], leaves bool) frame.Reason {
	if !leaves || f.Flags&frame.Fragment == 0 || d.source != zero[A]() {
		return frame.None
	}
	if d.source = n.outside.AskSource(d.orig, f.TrafficClass()); d.source != zero[A]() && c.owns(d.source) && n.addrs.find(d.source) == nil {
		f.IncrementTTL() // it begins its way again
		*f.hop = d.source
		return frame.WayChanged
	}
	return frame.None
}

// source sets the translated source of flow d: the host's address, and a port by the kind of mapping of its network.
func (n *tracker[A]) source(c *config[A], d *pendingFlow[A], dry bool) (why frame.Reason) {
	rule, i := c.masq[d.net], protoIndex(d.orig.Proto)
	if d.status&byPrefix != 0 {
		return d.sourceByPrefix(rule)
	}
	a := n.sourceFor(c, d.reply.Src, d.source)
	if d.rule|d.inboundMapping != 0 { // it turns round, to a container: the way out does not matter
		a = n.leavesBy(c, c.source)
	}
	if rule == nil || a == nil {
		return frame.UplinkDown
	}
	d.reply.Dst = a.addr
	if i < 0 {
		return n.sourceWithoutSet(d)
	}
	if rule.Mapping == AddressAndPortDependentMapping && i != icmp {
		return n.share(c, i, d, dry)
	}
	d.mapping, d.reply.DstPort, why = n.acquire(c, a, d, i != tcp, dry)
	if why == frame.NATPortsExhausted && i == tcp && n.evictFor(i, d.port, dry) { // their ports rest, and may be used again
		if d.mapping, d.reply.DstPort, why = n.acquire(c, a, d, false, dry); dry {
			d.reply.DstPort, why = n.randomPort(c.pool[i]), frame.None // an example
		}
	}
	if (why == frame.NATPortsExhausted || why == frame.FlowQuota) && i == tcp { // ports are shared rather than refused (RFC 7857, section 3)
		return n.share(c, i, d, dry)
	}
	if why != frame.None {
		return why
	}
	if rule.Filtering != AddressAndPortDependentFiltering {
		d.status |= opensFilter
	}
	if rule.Filtering == AddressDependentFiltering && !dry {
		d.mapping, why = n.permit(d.mapping, d.reply.Src)
	}
	return why
}

// sourceWithoutSet sets the outside port of a flow of a protocol that has no set of ports. Most have no ports at all: the addresses
// identify the reply. Others keep their port, or get a random one by which the reply is nobody else's.
func (n *tracker[A]) sourceWithoutSet(d *pendingFlow[A]) frame.Reason {
	if !frame.HasPorts(d.orig.Proto) {
		return frame.None
	}
	for range overloadDraws {
		if n.flows.probe(d.reply) == inserted {
			return frame.None
		}
		d.reply.DstPort = n.randomPort(allIDs) | 1024
	}
	return frame.NATPortsExhausted
}

// share gives flow d an outside port that other flows, to other destinations, have or may get. When the owner may have no more ports, its
// flows that nobody needs make room.
func (n *tracker[A]) share(c *config[A], i int, d *pendingFlow[A], dry bool) frame.Reason {
	if !n.overloadFor(c, i, d, dry) {
		if !n.evictFor(i, d.port, dry) {
			return frame.NATPortsExhausted
		}
		if n.exhausted[d.port].forget(); !dry && !n.overloadFor(c, i, d, false) {
			return frame.NATPortsExhausted
		}
	}
	d.status |= overloadsPort
	return frame.None
}

// rollback releases what a pending flow has retained, when it did not become a flow of its own.
func (n *tracker[A]) rollback(d *pendingFlow[A]) {
	if d.charged {
		n.flowShares.Return(d.port)
		if d.status&servedFlow != 0 {
			n.served[d.port].Add(-1)
		}
	}
	if d.mapping != 0 {
		n.release(d.mapping)
	}
	if d.inboundMapping != 0 {
		n.release(d.inboundMapping)
	}
	if d.status&overloadsPort != 0 {
		n.endOverload(protoIndex(d.orig.Proto), d.reply.Dst, d.reply.DstPort)
	}
}

// confirm makes the flow visible. When another worker was first, confirm uses that worker's flow and sets f.NAT to
// NATEstablished. A flow that already has the reply tuple is ended if it may be (see resolveClash). An entry that was
// not inserted is free again only after a grace period, so confirm tries only a few times.
func (n *tracker[A]) confirm(c *config[A], f packet[A], d *pendingFlow[A], b *frame.Batch) frame.Reason {
	for range 4 {
		var first, second outcome
		for range retries {
			if first, second = n.flows.probe(d.orig), n.flows.probe(d.reply); first != busy && second != busy {
				break
			}
		}
		e, other, dir, out := uint32(0), uint32(0), uint8(0), clash
		// With another flow's second key it would be a clash, and an entry that is not inserted is lost for a grace period. The first key is
		// looked for again: another worker may just have made this very flow.
		if first != inserted || second != exists || n.flows.probe(d.orig) != inserted {
			var ok bool
			if e, ok = n.flows.alloc(d.orig, d.reply); !ok {
				return frame.FlowTableFull
			}
			n.fill(e, c, d, f, b.Tick)
			if other, dir, out = n.flows.insert(e); out != inserted {
				n.endedFlows.Charge(d.port)
			}
		}
		switch out {
		case inserted:
			f.Flow, f.Dir = e, 0
			n.stats.created.Add(1)
			n.noteLoose(e)
			if d.port == f.In && n.displaces(d.port) {
				f.Flags |= frame.Displaces
			}
			n.emit(FlowNew, e, "")
			if protoIndex(d.orig.Proto) < 0 && d.status&(untranslated|byPrefix) == 0 {
				n.pairShares.Charge(d.port)
				if !n.outside.Peer(d.reply.Dst, d.reply.Src, d.reply.Proto, true) {
					n.end(e, replaced)
					d.charged = false // end has given it back
					f.NAT = frame.NATNone
					return frame.PairsFull
				}
			}
			return frame.None
		case exists:
			f.NAT, f.Flow, f.Dir = frame.NATEstablished, other, dir
			return frame.None
		case full:
			return frame.FlowTableFull
		case clash:
			i := protoIndex(d.orig.Proto)
			switch {
			case i < 0:
				return frame.AddressPairTaken
			case d.status&overloadsPort != 0: // another worker has just taken this port for the same destination
				n.endOverload(i, d.reply.Dst, d.reply.DstPort)
				if d.status &^= overloadsPort; !n.overloadFor(c, i, d, false) {
					return frame.NATPortsExhausted
				}
				d.status |= overloadsPort
			case !n.resolveClash(c, &d.reply, b):
				return frame.FlowClash
			}
		}
	}
	return frame.FlowBusy
}

// MaxPairs is how many flows of protocols without ports there are room for: each takes an entry of a BPF map of the uplink, and answers to a flow
// without one would go to the host. Ports share them.
const MaxPairs, maxPairsOfPort = 4096, 128

// fill writes the state of entry e, which is not visible yet.
func (n *tracker[A]) fill(e uint32, c *config[A], d *pendingFlow[A], f packet[A], now frame.Tick) {
	s := &n.state[e]
	to := d.reply.Reverse()
	s.mapping, s.inboundMapping, s.rule, s.port, s.net = d.mapping, d.inboundMapping, d.rule, d.port, d.net
	s.addrs = frame.AddrDelta(d.orig.Src, to.Src).Plus(frame.AddrDelta(d.orig.Dst, to.Dst))
	s.l4ports = frame.Delta16(d.orig.SrcPort, to.SrcPort).Plus(frame.Delta16(d.orig.DstPort, to.DstPort))
	status := d.status
	if resumes(f.Frame) {
		status |= midway
	}
	s.state.Store(begin(status, f.Proto, tcpFlags(f.Frame), now) | n.ways.Load()<<waysShift)
	if c.rulings != nil {
		c.rulings[e].Store(d.admission.Word())
	}
	s.gen.Store(c.gen)
	expires := now + timeout(n.timers.Load(), &d.orig, s.state.Load())
	if d.inboundMapping != 0 && d.mapping == 0 { // traffic from outside does not refresh a mapping (RFC 4787, REQ-6)
		if m := frame.Tick(n.mappings[d.inboundMapping].expires.Load()); int32(m-expires) < 0 {
			expires = m
		}
	}
	s.expires.Store(uint32(expires))
	for i := range s.count {
		s.count[i].packets.Store(0)
		s.count[i].bytes.Store(0)
	}
	if n.windows != nil {
		n.windows.clear(e)
	}
}

// resolveClash ends the flow that has the reply tuple of a new flow, if it may, and reports whether the tuple is
// free. It may end a masqueraded flow, whose container sent first from what is a published port, and a published flow
// that is not assured yet.
func (n *tracker[A]) resolveClash(c *config[A], reply *frame.TupleOf[A], b *frame.Batch) bool {
	e, _, ok := n.find(c, reply, b)
	return !ok || n.clashResolvable(e) && n.end(e, replaced)
}

func (n *tracker[A]) clashResolvable(e uint32) bool {
	return n.state[e].rule == 0 || n.state[e].state.Load()&assured == 0
}

// begins returns the reason why f may not begin a flow, or None. A TCP segment without SYN may begin one: see
// resumes.
func begins(f *frame.Frame) frame.Reason {
	if f.Flags&frame.HasTuple == 0 || f.Flags&frame.Fragment != 0 && f.FragOffset() != 0 {
		return frame.FlowInvalid
	}
	switch f.Proto {
	case frame.TCP:
		if fl := f.TCP().Flags(); fl&(frame.FlagRST|frame.FlagFIN) != 0 || fl&(frame.FlagSYN|frame.FlagACK) == 0 ||
			fl&(frame.FlagSYN|frame.FlagACK) == frame.FlagSYN|frame.FlagACK {
			return frame.FlowInvalid
		}
	case frame.ICMP, frame.ICMPv6:
		if frame.IsICMPAnswer(f.Proto, f.ICMP().Type()) {
			return frame.FlowInvalid
		}
	}
	return frame.None
}

// resumes reports whether f belongs to a TCP connection that is older than this switch. The connection goes on if its
// source port stays the same. If not, its peer would not know it and might not answer, so the sender gets a RST at
// once.
func resumes(f *frame.Frame) bool {
	return f.Proto == frame.TCP && f.FragOffset() == 0 && f.TCP().Flags()&frame.FlagSYN == 0
}

// tcpFlags are the flags of a TCP segment; 0 of other packets, and of later fragments, which have no TCP header.
//
//uvswitch:hot
func tcpFlags(f *frame.Frame) uint8 {
	if f.Proto != frame.TCP || f.FragOffset() != 0 {
		return 0
	}
	return f.TCP().Flags()
}
