package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// PreRouting finds the flow of each frame addressed to the router and with it the destination to route by: step 5.
// It changes no byte; PostRouting translates when the way out is known.
//
//uvswitch:hot
func (n *NAT) PreRouting(b *frame.Batch) {
	c := n.config.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Local {
			continue
		}
		f.RouteDst, f.RoutePort = f.Tuple.Dst, f.Tuple.DstPort
		if f.Flags&frame.IsIPv4 == 0 || f.Malformed != frame.None || f.Flags&frame.HasVLAN != 0 {
			continue // router.Route says what is wrong with it
		}
		if why := n.preRoute(c, f, b.Tick); why != frame.None {
			f.DropFor(why)
		}
	}
}

//uvswitch:hot
func (n *NAT) preRoute(c *config, f *frame.Frame, now frame.Tick) frame.Reason {
	outside := f.Net == frame.NoNet
	if f.Flags&frame.Fragment != 0 {
		if outside || f.Tuple.Dst == c.External {
			return frame.FragmentNotTranslated
		}
		return frame.None
	}
	if f.Flags&frame.ICMPError != 0 {
		return n.preRouteError(c, f, now, outside)
	}
	if e, dir, ok := n.find(c, f.Tuple, now); ok {
		f.NAT, f.Flow, f.Dir = frame.NATFlow, e, dir
		t := n.translated(e, dir)
		f.RouteDst, f.RoutePort = t.Dst, t.DstPort
		return frame.None
	}
	if f.Tuple.Dst != c.External || c.External == 0 {
		if outside {
			return frame.NotForUs
		}
		return frame.None
	}
	p := c.published(f.Tuple.Proto, f.Tuple.Dst, f.Tuple.DstPort)
	switch {
	case p == nil && outside:
		return frame.NotForUs
	case p == nil:
		return frame.None // for the host itself
	case !p.allows(f.Tuple.Src):
		return frame.PublishRefused
	}
	f.NAT, f.Rule, f.Hairpin = frame.NATNew, p.ID, !outside
	f.RouteDst, f.RoutePort = p.target(f.Tuple.DstPort)
	return frame.None
}

// find looks up a live flow. One that has expired, or that the present rules would not make, is ended.
//
//uvswitch:hot
func (n *NAT) find(c *config, t frame.Tuple, now frame.Tick) (e uint32, dir uint8, ok bool) {
	e, dir, ok = n.flows.lookup(&t, t.Hash(n.flows.seed))
	if !ok {
		return 0, 0, false
	}
	s := &n.state[e]
	if expired(s, now) || s.gen.Load() != c.gen && !n.valid(c, e) {
		n.remove(e)
		return 0, 0, false
	}
	return e, dir, true
}

// preRouteError finds the flow of the packet that an ICMP error quotes. What is quoted has been sent, so its
// answer's tuple is the quoted one turned round; the error travels as that answer would.
//
//uvswitch:hot
func (n *NAT) preRouteError(c *config, f *frame.Frame, now frame.Tick, outside bool) frame.Reason {
	icmp := f.Payload()
	q, _, ok := frame.Quoted(icmp)
	if ok {
		var e uint32
		var dir uint8
		if e, dir, ok = n.find(c, q.Reverse(), now); ok {
			if frame.Sum(icmp, 0) != 0xffff {
				return frame.BadICMPChecksum
			}
			f.NAT, f.Flow, f.Dir = frame.NATError, e, dir
			f.RouteDst = n.translated(e, dir).Dst
			return frame.None
		}
	}
	if outside || f.Tuple.Dst == c.External {
		return frame.ICMPErrorUnmatched
	}
	return frame.None
}
