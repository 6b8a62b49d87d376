package nat

import (
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Return takes frames that the uplink's programs could not send. It undoes the translation, so that they are their sender's again, and
// decides: NAT translates them again, the sender is told, or they are dropped.
//
//uvswitch:hot
func (n *NAT) Return(b *frame.Batch) {
	for i := range b.Frames[:b.N] {
		switch f := &b.Frames[i]; {
		case f.Verdict != frame.CameBack:
		case frame.WayCode(f.Src>>32) == frame.WayUnknown:
			f.ResendWay()
			if f.Flags&frame.IsIPv6 != 0 {
				n.six.unknownWay(packetOf[frame.Addr6](b, i))
			} else {
				f.DropFor(frame.UplinkDown)
			}
		case f.Flags&frame.IsIPv4 != 0:
			n.returned(n.config.Load(), packetOf[frame.Addr](b, i))
		case f.Flags&frame.IsIPv6 != 0:
			n.six.returned(n.six.config.Load(), packetOf[frame.Addr6](b, i))
		default:
			f.DropFor(frame.UplinkDown)
		}
	}
}

// unknownWay lets the slow path ask for the way of a frame. It stays translated, and is charged to the port of its flow. ICMP errors and later
// fragments have no flow of their own, and are charged to the uplink.
func (n *tracker[A]) unknownWay(f packet[A]) {
	if hasFlow(f) {
		if e, _, ok := n.flowOfSent(f); ok {
			f.In = n.state[e].port
		} else if n.config.Load().owns(f.tuple.Src) { // it has ended meanwhile
			f.DropFor(frame.FlowNotFound)
			return
		}
	}
	f.PuntFor(frame.WayAsked)
}

// hasFlow reports whether a frame that has left belongs to a flow by its own tuple, if it was translated.
func hasFlow[A frame.Address](f packet[A]) bool {
	return f.Flags&(frame.HasTuple|frame.ICMPError) == frame.HasTuple && f.Malformed == frame.None
}

// flowOfSent finds the flow of a frame that has left, by the tuple that it left with. dir is the direction of its answers.
func (n *tracker[A]) flowOfSent(f packet[A]) (e uint32, dir uint8, ok bool) {
	answer := f.tuple.Reverse()
	return n.flows.lookup(&answer, answer.Hash(n.flows.seed))
}

func (n *tracker[A]) returned(c *config[A], f packet[A]) {
	*f.hop = zero[A]()
	second, low, _ := f.Way()
	var source A // that the way needs
	if a, ok := any(&source).(*frame.Addr); ok {
		*a = frame.Addr(low)
	}
	code := frame.WayCode(second)
	why := code.Reason()
	if why == frame.None {
		why = frame.UplinkDown
	}
	if f.Flags&frame.Fragment != 0 && f.FragOffset() != 0 && code == frame.WayTooLong {
		if first, ok := n.returnedFirsts.restore(f); ok {
			n.recallFragment(f, &first)
			f.NextHop = frame.Addr(f.WayMTU())
			f.SetMACs(frame.WayNobody, frame.WayNobody)
			f.PuntFor(why)
			return
		}
	}
	e, dir, ok := n.flowOfSent(f)
	if !hasFlow(f) {
		f.DropFor(why) // an ICMP error, or a later fragment: nobody is told
		return
	}
	if !ok && code == frame.WaySource && n.replaced.restore(f) { // it left right behind the flow's first packet
		f.SetMACs(frame.WayNobody, frame.WayNobody)
		*f.hop = source
		f.PuntFor(frame.WayChanged)
		return
	}
	if !ok {
		f.DropFor(why)
		return
	}
	s := &n.state[e]
	outside := FragmentKey{}
	if f.Flags&frame.Fragment != 0 {
		outside = FragmentKeyOf(f.Frame)
		outside.net = frame.NoNet
	}
	n.untranslate(f, e, 1-dir)
	f.In, f.Net = s.port, s.net
	if f.Flags&frame.Fragment != 0 {
		n.forgetFragment(f)
		if code == frame.WayTooLong {
			n.returnedFirsts.note(outside, f)
		}
	}
	mtu := f.WayMTU()
	f.SetMACs(frame.WayNobody, frame.WayNobody)
	switch code {
	case frame.WaySource, frame.WayPort:
		if dir != 1 || s.rule|s.inboundMapping != 0 {
			f.DropFor(frame.FlowNotFound)
			return
		}
		end := n.flows.keys[e][1]
		again := s.state.Load()&(secondTry|seenReply) == secondTry
		if code == frame.WaySource {
			n.replaced.note(end, *f.tuple, s)
		}
		n.end(e, replaced)
		switch {
		case code == frame.WayPort:
			if source = end.Dst; !n.leavePort(end.Dst, protoIndex(end.Proto), end.DstPort) && again { // an older flow of the container keeps the port
				f.DropFor(frame.FlowClash)
				return
			}
		case again || source != zero[A]() && !c.owns(source): // the second source is wrong, too, or not known here yet: the sender's next try asks again
			f.DropFor(frame.UplinkDown)
			return
		}
		*f.hop = source
	case frame.WayTooLong:
		f.NextHop = frame.Addr(mtu)
	default:
		if s.state.Load()&seenReply == 0 {
			n.end(e, replaced) // a flow that never left
		}
	}
	if why.Punt() != frame.NoPunt {
		f.PuntFor(why)
	} else {
		f.DropFor(why)
	}
}

// untranslate makes a frame of flow e in direction dir what it was before translate.
func (n *tracker[A]) untranslate(f packet[A], e uint32, dir uint8) {
	s := &n.state[e]
	was := n.flows.keys[e][dir]
	addrs, ports := ^s.addrs, ^s.l4ports
	if dir == 1 {
		addrs, ports = s.addrs, s.l4ports
	}
	restore(f, was, addrs, ports)
}

// restore gives a frame its tuple from before translate and router.Route; addrs and ports are the deltas to it.
func restore[A frame.Address](f packet[A], was frame.TupleOf[A], addrs, ports frame.Delta) {
	f.setAddrs(was.Src, was.Dst, addrs)
	rewriteTransport(f, f.Payload(), &was, addrs, ports)
	f.IncrementTTL()
	f.setTuple(was)
}

// replacedFlows remembers the last flows that were ended for want of another source address: packets that left right behind the first one
// come back, too, and must find their inside end.
type replacedFlows[A frame.Address] struct {
	mu   sync.Mutex // Lock 77
	next int
	last [64]struct {
		sent, inside   frame.TupleOf[A] // sent: as an answer would have it
		addrs, l4ports frame.Delta
		port           frame.PortID
		net            frame.NetID
	}
}

func (r *replacedFlows[A]) note(sent, inside frame.TupleOf[A], s *flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := &r.last[r.next%len(r.last)]
	r.next++
	x.sent, x.inside, x.addrs, x.l4ports, x.port, x.net = sent, inside, s.addrs, s.l4ports, s.port, s.net
}

// restore undoes the translation of a packet of such a flow, and reports whether it is one.
func (r *replacedFlows[A]) restore(f packet[A]) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := f.tuple.Reverse()
	for i := range r.last {
		x := &r.last[i]
		if x.sent != sent {
			continue
		}
		restore(f, x.inside, ^x.addrs, ^x.l4ports)
		f.In, f.Net = x.port, x.net
		return true
	}
	return false
}

// returnedFirsts remembers the last first fragments that were too long for their way: the later fragments come back, too, and have no
// ports by which their flow could be found.
type returnedFirsts[A frame.Address] struct {
	mu   sync.Mutex // Lock 77
	next int
	last [64]struct {
		key   FragmentKey // as it came back
		first frame.TupleOf[A]
		port  frame.PortID
		net   frame.NetID
	}
}

// note remembers first fragment f, whose translation was undone; key is the one that it had outside.
func (r *returnedFirsts[A]) note(key FragmentKey, f packet[A]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.next % len(r.last)
	for i := range r.last { // another packet with this identification, from another container
		if r.last[i].key == key {
			at = i
		}
	}
	r.next++
	x := &r.last[at]
	x.key = key
	x.first, x.port, x.net = *f.tuple, f.In, f.Net
}

// restore makes a later fragment its sender's again, and returns the tuple of its first fragment, if that one has come back.
func (r *returnedFirsts[A]) restore(f packet[A]) (first frame.TupleOf[A], ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := FragmentKeyOf(f.Frame)
	key.net = frame.NoNet
	for i := range r.last {
		x := &r.last[i]
		if x.key != key {
			continue
		}
		f.setAddrs(x.first.Src, x.first.Dst, frame.AddrDelta(f.tuple.Src, x.first.Src).Plus(frame.AddrDelta(f.tuple.Dst, x.first.Dst)))
		f.IncrementTTL()
		f.tuple.Src, f.tuple.Dst, f.In, f.Net = x.first.Src, x.first.Dst, x.port, x.net
		return x.first, true
	}
	return first, false
}

// hostTime is for how long a port is left to a socket of the host that turned out to use it. The host's sockets are read more often than that.
const hostTime = 10 * frame.TicksPerSecond

// leavePort leaves a port that rests to the host, one of whose sockets uses it. Nothing has left by the port: it is charged to nobody, and it
// rests for hostTime only. It reports whether the port rested.
func (n *tracker[A]) leavePort(own A, i int, port uint16) bool {
	a := n.addrs.find(own)
	if a == nil || i < 0 {
		return false
	}
	o := &a.ports[i]
	if o.quarantine == nil || !o.quarantine.Release(port) {
		return false
	}
	n.uncharge(o, i, port)
	r := &o.quarantined[port]
	r.addr.Store(0)
	r.owner.Store(uint32(frame.NoPort))
	r.since.Store(n.now.Load() - uint32(quarantineTime-hostTime))
	o.quarantine.Claim(port)
	return true
}
