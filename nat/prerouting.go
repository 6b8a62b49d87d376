package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// PreRouting finds the flow of each frame addressed to the router, and with it the destination to route by. It
// changes no byte: PostRouting translates when the egress is known. Step 5.
//
//uvswitch:hot
func (n *NAT) PreRouting(b *frame.Batch) {
	if n.now.Load() != uint32(b.Tick) && !b.Dry {
		n.now.Store(uint32(b.Tick))
	}
	c, c6 := n.config.Load(), n.six.config.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		switch {
		case f.Verdict != frame.Local || f.Malformed != frame.None || f.Flags&frame.HasVLAN != 0: // router.Route gives the reason for the drop
		case f.Flags&frame.IsIPv4 != 0:
			n.preRoute(c, packetOf[frame.Addr](b, i), b)
		case f.Flags&frame.IsIPv6 != 0:
			n.six.preRoute(c6, packetOf[frame.Addr6](b, i), b)
		}
	}
}

//uvswitch:hot
func (n *tracker[A]) preRoute(c *config[A], f packet[A], b *frame.Batch) {
	*f.dst, *f.hop, f.RoutePort = f.tuple.Dst, zero[A](), f.tuple.DstPort
	why := n.preRouteAny(c, f, b)
	if f.Flags&frame.FromSibling != 0 && f.NAT != frame.NATEstablished && why == frame.None {
		why = frame.GuardSourceAddress
	}
	switch {
	case why == frame.None:
	case why == frame.FragmentWaits:
		f.PuntFor(why)
	case why == frame.FragmentInvalid && f.Flags&frame.IsIPv6 != 0 && f.Net != frame.NoNet:
		f.Malformed = why // the router drops it, or answers it if it is for the gateway
	case why == frame.NotForUs, why == frame.ICMPErrorUnmatched && f.Net == frame.NoNet && c.owns(f.tuple.Dst):
		n.giveBack(f, why, b.Dry)
	default:
		f.DropFor(why)
	}
}

//uvswitch:hot
func (n *tracker[A]) preRouteAny(c *config[A], f packet[A], b *frame.Batch) frame.Reason {
	outside := f.Net == frame.NoNet
	if outside && c.prefixOf(f.tuple.Src) != nil {
		return frame.MartianSource // outside, nobody but the switch has such an address
	}
	if f.Flags&frame.Fragment != 0 {
		why := n.translateFragment(f, b, false)
		if why == frame.FragmentWaits && !outside && !c.owns(f.tuple.Dst) {
			return frame.None // it may need no translation: PostRouting asks again
		}
		if why != frame.None {
			return why
		}
	}
	why := n.preRouteTuple(c, f, b, outside)
	if f.Flags&frame.Fragment != 0 && why == frame.None && (f.NAT != frame.NATNone || c.owns(f.tuple.Dst)) {
		return n.translateFragment(f, b, true) // noted at once, so that later fragments in this batch find it
	}
	return why
}

// preRouteTuple is the second half of preRouteAny, for a frame with a known tuple.
//
//uvswitch:hot
func (n *tracker[A]) preRouteTuple(c *config[A], f packet[A], b *frame.Batch, outside bool) frame.Reason {
	if f.Flags&frame.ICMPError != 0 {
		return n.preRouteError(c, f, b, outside)
	}
	e, dir, ok, why := n.follow(c, f, b)
	switch {
	case why != frame.None:
		return why
	case ok:
		f.NAT, f.Flow, f.Dir = frame.NATEstablished, e, dir
		t := n.translated(e, dir)
		*f.dst, f.RoutePort = t.Dst, t.DstPort
		if s := &n.state[e]; dir == 1 && !outside && s.beganElsewhere() && s.mapping == 0 && s.state.Load()&(overloadsPort|hairpinned) == 0 {
			f.Flags |= frame.LeavesByUplink
		}
		return frame.None
	}
	if !c.has(f.tuple.Dst) || !outside && frame.Netip(f.tuple.Dst).IsLoopback() { // the host's loopback is closed to containers
		if m := c.prefixOf(f.tuple.Dst); m != nil && (outside || m.Outside != m.Inside) { // from inside, an address that stays is not translated
			return n.preRoutePrefix(c, m, f, outside)
		}
		if outside {
			return frame.NotForUs
		}
		return frame.None
	}
	if p := c.published(f.tuple, true); p != nil {
		if !p.allows(f.tuple.Src) {
			return frame.PublishRefused
		}
		f.NAT, f.Rule, f.Hairpin = frame.NATNew, p.ID, !outside
		*f.dst, f.RoutePort = p.target(f.tuple.DstPort)
		return frame.None
	}
	ending := uint32(0)
	if b.Dry { // otherwise it has ended
		ending, _, _ = n.flows.lookup(f.tuple, f.tuple.Hash(n.flows.seed))
	}
	m, ok := n.findInbound(c, f.tuple, outside, b.Tick, ending)
	if ok {
		f.NAT, f.Mapping, f.Hairpin = frame.NATNew, m, !outside
		to := &n.maps.keys[m][0]
		*f.dst, f.RoutePort = to.Src, to.SrcPort
		return frame.None
	}
	switch {
	case outside && n.knowsOther(f):
		return frame.NotForUs // another NAT of the host may use the same port
	case m != 0, outside && n.rests(f.tuple):
		return frame.NATFiltered
	case outside:
		return frame.NotForUs
	}
	return frame.None // for the host itself
}

// giveBack passes a frame that belongs to no flow to the host's stack, if it came by the programs of the uplink: another program or
// another NAT of the host may know it. Without them the frame is dropped. Later fragments follow their first one.
//
//uvswitch:hot
func (n *tracker[A]) giveBack(f packet[A], why frame.Reason, dry bool) {
	mark, ifindex, ok := f.Way()
	if !ok || mark != frame.WayIn && mark != frame.WayInAgain {
		f.DropFor(why)
		return
	}
	if !dry {
		n.stats.givenBack.Add(1)
		if f.Flags&frame.Fragment != 0 && f.FragOffset() == 0 {
			n.noteHosts(f)
		}
	}
	f.SetMACs(f.Dst, frame.WayGivenBack(mark, ifindex))
	f.Verdict, f.Out = frame.ToPort, f.In
}

// knowsOther reports whether a packet to an outside port that admits it to no container may be the host's all the same. A SYN may not: the
// host would refuse the connection, and RFC 5382, REQ-4 asks for silence. A copy is the host's, too: the host has the packet.
func (n *tracker[A]) knowsOther(f packet[A]) bool {
	mark, _, ok := f.Way()
	syn := tcpFlags(f.Frame)&(frame.FlagSYN|frame.FlagACK) == frame.FlagSYN
	return ok && (mark == frame.WayClone || (mark == frame.WayIn || mark == frame.WayInAgain) && !syn)
}

// rests reports whether a packet is for an outside port in quarantine.
func (n *tracker[A]) rests(t *frame.TupleOf[A]) bool {
	i, a := protoIndex(t.Proto), n.addrs.find(t.Dst)
	return i >= 0 && a != nil && a.ports[i].quarantine != nil && a.ports[i].quarantine.Has(t.DstPort)
}

// find looks up a live flow. It ends a flow that has expired, or that the present rules would not create; in a dry
// batch it only ignores that flow.
//
//uvswitch:hot
func (n *tracker[A]) find(c *config[A], t *frame.TupleOf[A], b *frame.Batch) (e uint32, dir uint8, ok bool) {
	e, dir, ok = n.flows.lookup(t, t.Hash(n.flows.seed))
	if !ok {
		if b.Dry {
			return n.findPlanned(t)
		}
		return 0, 0, false
	}
	s := &n.state[e]
	if expired(s, b.Tick) || s.gen.Load() != c.gen && !n.valid(c, e) {
		if !b.Dry {
			n.endStale(e, b.Tick)
		}
		return 0, 0, false
	}
	return e, dir, true
}

// follow finds the flow that a frame goes on with. A frame that opens a connection does not go on with a flow that has ended: the old flow ends, and the
// new connection is judged like any other one (linux net/netfilter/nf_conntrack_proto_tcp.c, nf_conntrack_tcp_packet). The same holds for a
// flow of which nobody knows which end opened it, and for SCTP when the end that was called opens an association: NAT knows no end of
// associations. In TCP, the end that was called may open no connection while the flow lives.
//
//uvswitch:hot
func (n *tracker[A]) follow(c *config[A], f packet[A], b *frame.Batch) (e uint32, dir uint8, ok bool, why frame.Reason) {
	e, dir, ok = n.find(c, f.tuple, b)
	if !ok || !opens(f.Frame) {
		return e, dir, ok, frame.None
	}
	w := n.state[e].state.Load()
	s, isTCP := tcpState(w&stateMask), f.Proto == frame.TCP
	switch {
	case isTCP && (s == tcpTimeWait || s == tcpClose), dir == 1 && isTCP && w&midway != 0, dir == 1 && !isTCP && w&seenReply != 0:
		if !b.Dry {
			n.end(e, replaced)
		}
		return 0, 0, false, frame.None
	case dir == 1 && isTCP && s != tcpSynSent && s != tcpSynSent2: // in these states, it is a simultaneous open
		return 0, 0, false, frame.FlowInvalid
	}
	return e, dir, true, frame.None
}

// opens reports whether a frame asks for a new connection of TCP or SCTP.
//
//uvswitch:hot
func opens(f *frame.Frame) bool {
	switch {
	case f.Proto == frame.TCP:
		return tcpFlags(f)&(frame.FlagSYN|frame.FlagACK|frame.FlagRST) == frame.FlagSYN
	case f.Proto == frame.SCTP && f.FragOffset() == 0:
		const header, chunkINIT = 12, 1 // RFC 9260, 3.1 and 3.2
		p := f.Payload()
		return len(p) > header && p[header] == chunkINIT
	}
	return false
}

// endStale ends a flow that has expired or is no longer valid.
func (n *tracker[A]) endStale(e uint32, now frame.Tick) {
	if expired(&n.state[e], now) {
		n.end(e, timedOut)
	} else {
		n.end(e, replaced)
	}
}

// validICMPSource reports whether an ICMP error about flow e, which travels in direction dir, has a plausible source.
// From inside, only the endpoint of the flow itself or a router behind its port may send such errors; others would
// forge them. From outside, any router on the path to the remote end may.
//
//uvswitch:hot
func (n *tracker[A]) validICMPSource(f packet[A], e uint32, dir uint8, outside bool) bool {
	s := &n.state[e]
	hairpin := s.beganElsewhere() && (s.mapping != 0 || s.state.Load()&(overloadsPort|hairpinned) != 0)
	inside := uint8(0) // the direction in which the container's packets travel
	if s.beganElsewhere() {
		inside = 1
	}
	if outside {
		return dir != inside && !hairpin
	}
	return f.tuple.Src == n.flows.keys[e][dir].Src || dir == inside && !hairpin && f.In == s.port
}

// preRouteError finds the flow of the packet that an ICMP error quotes. The quoted packet has already been translated
// and sent, so the tuple of its answer is the quoted one reversed. The error travels in the direction of that answer.
//
//uvswitch:hot
func (n *tracker[A]) preRouteError(c *config[A], f packet[A], b *frame.Batch, outside bool) frame.Reason {
	if f.Flags&frame.Fragment != 0 {
		return frame.FragmentNotTranslated
	}
	icmp := f.ICMP()
	q, at, ok := frame.QuotedOf[A](icmp)
	if ok {
		var e uint32
		var dir uint8
		sent := q.Reverse()
		if e, dir, ok = n.find(c, &sent, b); ok && f.tuple.Dst == q.Src && n.validICMPSource(f, e, dir, outside) {
			if !f.HasRightICMPSum() || f.Flags&frame.IsIPv4 != 0 && frame.Sum(icmp[frame.ICMPLen:at], 0) != 0xffff {
				return frame.BadICMPChecksum // RFC 5508, REQ-3
			}
			if f.Proto == frame.ICMP && icmp.Type() == frame.ICMPRedirect {
				return frame.ICMPRedirectRefused
			}
			f.NAT, f.Flow, f.Dir = frame.NATRelated, e, dir
			*f.dst = n.flows.keys[e][1-dir].Src
			return frame.None
		}
	}
	if outside || c.owns(f.tuple.Dst) {
		return frame.ICMPErrorUnmatched
	}
	return frame.None
}
