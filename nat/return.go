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
		if f := &b.Frames[i]; f.Verdict == frame.CameBack {
			n.returned(n.config.Load(), f)
		}
	}
}

func (n *NAT) returned(c *config, f *frame.Frame) {
	second, source, _ := f.Way()
	code := frame.WayCode(second)
	why := returnReasons[code]
	if why == frame.None {
		why = frame.UplinkDown
	}
	if f.Flags&frame.Fragment != 0 && f.IPv4().FragOffset() != 0 && code == frame.WayTooLong && n.returnedFirsts.restore(f) {
		f.NextHop = frame.Addr(f.WayMTU())
		f.SetMACs(frame.WayNobody, frame.WayNobody)
		f.PuntFor(why)
		return
	}
	sent := f.Tuple.Reverse()
	e, dir, ok := n.flows.lookup(&sent, sent.Hash(n.flows.seed))
	if f.Flags&(frame.HasTuple|frame.ICMPError) != frame.HasTuple || f.Malformed != frame.None {
		f.DropFor(why) // an ICMP error, or a later fragment: nobody is told
		return
	}
	if !ok && code == frame.WaySource && n.replaced.restore(f) { // it left right behind the flow's first packet
		f.SetMACs(frame.WayNobody, frame.WayNobody)
		f.NextHop = frame.Addr(source)
		f.PuntFor(frame.WayChanged)
		return
	}
	if !ok {
		f.DropFor(why)
		return
	}
	s := &n.state[e]
	n.untranslate(f, e, 1-dir)
	f.In, f.Net = s.port, s.net
	if f.Flags&frame.Fragment != 0 {
		n.forgetFragment(f)
		if code == frame.WayTooLong {
			n.returnedFirsts.note(sent.Reverse(), f)
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
		if code == frame.WayPort {
			source = uint32(n.flows.keys[e][1].Dst)
		} else if source != 0 && !c.owns(frame.Addr(source)) {
			f.DropFor(frame.UplinkDown)
			return
		}
		outside := n.flows.keys[e][1]
		if code == frame.WaySource {
			n.replaced.note(sent, f.Tuple, s)
		}
		n.end(e, replaced)
		if code == frame.WayPort {
			n.leavePort(outside.Dst, protoIndex(outside.Proto), outside.DstPort)
		}
		f.NextHop = frame.Addr(source)
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

var returnReasons = [256]frame.Reason{
	frame.WayBlackhole: frame.BlackholeRoute, frame.WayUnreachable: frame.HostUnreachable, frame.WayProhibited: frame.ProhibitRoute,
	frame.WayNoRoute: frame.NoRoute, frame.WayNoForward: frame.UplinkDown, frame.WayEncap: frame.NeedsHostStack,
	frame.WayTooLong: frame.FragmentationNeeded, frame.WayNoSource: frame.UplinkDown, frame.WaySource: frame.WayChanged,
	frame.WayPort: frame.WayChanged, frame.WayFenced: frame.WayNotAllowed,
}

// untranslate makes a frame of flow e in direction dir what it was before translate.
func (n *NAT) untranslate(f *frame.Frame, e uint32, dir uint8) {
	s := &n.state[e]
	was := n.flows.keys[e][dir]
	addrs, ports := ^s.addrs, ^s.l4ports
	if dir == 1 {
		addrs, ports = s.addrs, s.l4ports
	}
	restore(f, was, addrs, ports)
}

// restore gives a frame its tuple from before translate and router.Route; addrs and ports are the deltas to it.
func restore(f *frame.Frame, was frame.Tuple, addrs, ports frame.Delta) {
	f.IPv4().SetAddrs(was.Src, was.Dst, addrs)
	rewriteTransport(f, f.Payload(), &was, addrs, ports)
	f.IPv4().IncrementTTL()
	f.Tuple = was
}

// replacedFlows remembers the last flows that were ended for want of another source address: packets that left right behind the first one
// come back, too, and must find their inside end.
type replacedFlows struct {
	mu   sync.Mutex // Lock 77
	next int
	last [64]struct {
		sent, inside   frame.Tuple // sent: as an answer would have it
		addrs, l4ports frame.Delta
		port           frame.PortID
		net            frame.NetID
	}
}

func (r *replacedFlows) note(sent, inside frame.Tuple, s *flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := &r.last[r.next%len(r.last)]
	r.next++
	x.sent, x.inside, x.addrs, x.l4ports, x.port, x.net = sent, inside, s.addrs, s.l4ports, s.port, s.net
}

// restore undoes the translation of a packet of such a flow, and reports whether it is one.
func (r *replacedFlows) restore(f *frame.Frame) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := f.Tuple.Reverse()
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
type returnedFirsts struct {
	mu   sync.Mutex // Lock 77
	next int
	last [64]struct {
		key      FragmentKey // as it came back
		src, dst frame.Addr
		port     frame.PortID
		net      frame.NetID
	}
}

// note remembers first fragment f after its translation was undone; sent is the tuple that it had outside.
func (r *returnedFirsts) note(sent frame.Tuple, f *frame.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := FragmentKey{sent.Src, sent.Dst, f.IPv4().ID(), f.Proto, frame.NoNet}
	at := r.next % len(r.last)
	for i := range r.last { // another packet with this identification, from another container
		if r.last[i].key == key {
			at = i
		}
	}
	r.next++
	x := &r.last[at]
	x.key = key
	x.src, x.dst, x.port, x.net = f.Tuple.Src, f.Tuple.Dst, f.In, f.Net
}

// restore makes a later fragment its sender's again, and reports whether its first fragment has come back.
func (r *returnedFirsts) restore(f *frame.Frame) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := FragmentKeyOf(f)
	key.net = frame.NoNet
	for i := range r.last {
		x := &r.last[i]
		if x.key != key {
			continue
		}
		f.IPv4().SetAddrs(x.src, x.dst, frame.Delta32(uint32(key.src), uint32(x.src)).Plus(frame.Delta32(uint32(key.dst), uint32(x.dst))))
		f.IPv4().IncrementTTL()
		f.Tuple.Src, f.Tuple.Dst, f.In, f.Net = x.src, x.dst, x.port, x.net
		return true
	}
	return false
}

// leavePort keeps a port that rests from the inside address that had it: a socket of the host uses it.
func (n *NAT) leavePort(own frame.Addr, i int, port uint16) {
	if a := n.addrs.find(own); a != nil && i >= 0 && a.ports[i].quarantine != nil && a.ports[i].quarantine.Has(port) {
		a.ports[i].quarantined[port].addr.Store(0)
	}
}
