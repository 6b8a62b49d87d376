package nat

import (
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Inbound says what containers may begin with the host. The host may begin anything with them, and has the answers.
type Inbound struct {
	Host  frame.PortID   // the port of the host
	Addrs []frame.Addr   // the host's addresses; packets to others only pass through the host
	Local []netip.Prefix // what else the host's kernel takes for itself: prefixes of its table local, broadcast addresses
	Open  [2]*PortSet    // ports that containers may use: of TCP, of UDP
	Pings bool           // ICMP queries are let in
}

// isHost reports whether a packet to an address is for the host itself. Groups and broadcasts are.
func (in *Inbound) isHost(a frame.Addr) bool {
	return a >= 0xe0000000 || slices.Contains(in.Addrs, a) ||
		slices.ContainsFunc(in.Local, func(p netip.Prefix) bool { return p.Contains(a.Netip()) })
}

// opens reports whether a container may begin a flow with f.
func (in *Inbound) opens(f *frame.Frame) bool {
	switch f.Proto {
	case frame.TCP:
		return in.Open[tcp].Has(f.Tuple.DstPort)
	case frame.UDP:
		return in.Open[udp].Has(f.Tuple.DstPort)
	case frame.ICMP:
		return in.Pings
	}
	return false
}

// Filter judges the frames between containers and the host, by Rules.Inbound. Their flows are tracked, but not translated. Step 10.
//
//uvswitch:hot
func (n *NAT) Filter(b *frame.Batch) {
	c := n.config.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Policed {
			continue
		}
		why := frame.None
		if c.inbound != nil {
			why = n.filter(c, f, b)
		}
		switch {
		case why == frame.None && f.Out == frame.NoPort:
			f.Verdict = frame.Flood // the host's, to a station that is not known
		case why == frame.None:
			f.Verdict = frame.ToPort
		case why.Punt() == frame.NoPunt:
			f.DropFor(why)
		default:
			if f.Flags&frame.ViaRouter != 0 {
				f.SetMACs(f.Dst, frame.WayNobody) // its sender's is lost
			}
			f.PuntFor(why)
		}
	}
}

// filter returns the reason why f may not pass between a container and the host, or None.
func (n *NAT) filter(c *config, f *frame.Frame, b *frame.Batch) frame.Reason {
	in := c.inbound
	fromHost := f.In == in.Host
	if f.Flags&(frame.Injected|frame.IsARP) != 0 || f.NAT != frame.NATNone { // a flow that NAT knows has been judged
		return frame.None
	}
	own := f.Tuple.Dst
	if fromHost {
		own = f.Tuple.Src
	}
	switch {
	case f.Flags&frame.IsIPv4 == 0 || f.Malformed != frame.None:
		if fromHost {
			return frame.None
		}
		return frame.HostInbound
	case !in.isHost(own):
		return frame.None
	case f.Flags&frame.ICMPError != 0:
		return n.filterError(c, f, b, fromHost)
	case f.Flags&frame.HasTuple == 0:
		return frame.None // a later fragment, which is of no use without its first one
	}
	if e, dir, ok := n.find(c, &f.Tuple, b); ok {
		f.Flow, f.Dir = e, dir
	} else {
		if !fromHost && !in.opens(f) {
			return frame.HostInbound
		}
		if b.Dry || begins(f) != frame.None {
			return frame.None
		}
		if why := n.track(c, f, b); why != frame.None {
			return why
		}
	}
	if s := &n.state[f.Flow]; s.state.Load()&untranslated != 0 && !b.Dry {
		flags := uint8(0)
		if f.Proto == frame.TCP {
			flags = f.TCP().Flags()
		}
		n.account(f, s, &n.flows.keys[f.Flow][0], flags, true, b.Tick)
	}
	return frame.None
}

// filterError lets an ICMP error pass if it is about a packet of a flow.
func (n *NAT) filterError(c *config, f *frame.Frame, b *frame.Batch, fromHost bool) frame.Reason {
	if q, _, ok := frame.Quoted(f.ICMP()); ok && !fromHost {
		sent := q.Reverse()
		if e, _, ok := n.find(c, &sent, b); ok && f.Tuple.Dst == q.Src && n.state[e].port == f.In {
			return frame.None
		}
		return frame.HostInbound
	}
	return frame.None
}

// track makes the flow that f begins, which nothing translates. It is charged to the container's port. It sets f.Flow and f.Dir.
func (n *NAT) track(c *config, f *frame.Frame, b *frame.Batch) frame.Reason {
	d := pendingFlow{orig: f.Tuple, reply: f.Tuple.Reverse(), port: f.In, net: f.Net, status: untranslated}
	if f.In == c.inbound.Host && f.Out != frame.NoPort {
		d.port = f.Out
		d.status |= servedFlow
	}
	if d.port >= frame.MaxPorts {
		return frame.FlowInvalid
	}
	if !n.charge(&d) {
		return frame.FlowQuota
	}
	why := n.confirm(c, f, &d, b)
	if why != frame.None || f.NAT == frame.NATEstablished {
		n.rollback(&d)
		f.NAT = frame.NATNone
	}
	return why
}
