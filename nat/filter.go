package nat

import (
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Inbound says what containers may begin with the host. The host may begin anything with them, and has the answers.
type Inbound struct {
	Host  frame.PortID   // the port of the host
	Addrs []netip.Addr   // the host's addresses; packets to others only pass through the host
	Local []netip.Prefix // what else the host's kernel takes for itself: prefixes of its table local, broadcast addresses
	Open  [2]*PortSet    // ports that containers may use: of TCP, of UDP
	Pings bool           // ICMP queries are let in
}

// isHost reports whether a packet to an address is for the host itself. Groups and broadcasts are.
func (in *Inbound) isHost(a netip.Addr) bool {
	return a.IsMulticast() || a.Is4() && a.As4()[0] >= 240 || a.IsLinkLocalUnicast() || slices.Contains(in.Addrs, a) ||
		slices.ContainsFunc(in.Local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// opens reports whether a container may begin a flow with f.
func (in *Inbound) opens(f *frame.Frame) bool {
	switch f.Proto {
	case frame.TCP:
		return in.Open[tcp].Has(f.Tuple.DstPort)
	case frame.UDP:
		return in.Open[udp].Has(f.Tuple.DstPort)
	case frame.ICMP, frame.ICMPv6:
		return in.Pings
	}
	return false
}

// Filter judges the frames between containers and the host, by Rules.Inbound. Their flows are tracked, but not translated. Step 10.
//
//uvswitch:hot
func (n *NAT) Filter(b *frame.Batch) {
	c, c6 := n.config.Load(), n.six.config.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Policed {
			continue
		}
		why := frame.None
		switch {
		case c.inbound == nil:
		case f.Flags&frame.IsIPv6 != 0:
			why = n.six.filter(c6, packetOf[frame.Addr6](b, i), b)
		default:
			why = n.filter(c, packetOf[frame.Addr](b, i), b)
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
func (n *tracker[A]) filter(c *config[A], f packet[A], b *frame.Batch) frame.Reason {
	in := c.inbound
	fromHost := f.In == in.Host
	if f.Flags&(frame.Injected|frame.IsARP) != 0 || f.NAT != frame.NATNone || f.IsND() { // a flow that NAT knows has been judged
		return frame.None
	}
	own := f.tuple.Dst
	if fromHost {
		own = f.tuple.Src
	}
	switch {
	case f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 || f.Malformed != frame.None:
		if fromHost {
			return frame.None
		}
		return frame.HostInbound
	case !in.isHost(frame.Netip(own)):
		return frame.None
	case f.Flags&frame.ICMPError != 0:
		return n.filterError(c, f, b, fromHost)
	case f.FragOffset() != 0:
		return frame.None // a later fragment, which is of no use without its first one
	case f.Flags&frame.HasTuple == 0: // such as a node information query of ICMPv6: nothing to track
		if fromHost || in.opens(f.Frame) {
			return frame.None
		}
		return frame.HostInbound
	}
	if e, dir, ok := n.find(c, f.tuple, b); ok {
		f.Flow, f.Dir = e, dir
	} else {
		if !fromHost && !in.opens(f.Frame) {
			return frame.HostInbound
		}
		if b.Dry || begins(f.Frame) != frame.None {
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
func (n *tracker[A]) filterError(c *config[A], f packet[A], b *frame.Batch, fromHost bool) frame.Reason {
	if q, _, ok := frame.QuotedOf[A](f.ICMP()); ok && !fromHost {
		sent := q.Reverse()
		if e, _, ok := n.find(c, &sent, b); ok && f.tuple.Dst == q.Src && n.state[e].port == f.In {
			return frame.None
		}
		return frame.HostInbound
	}
	return frame.None
}

// track makes the flow that f begins, which nothing translates. It is charged to the container's port. It sets f.Flow and f.Dir.
func (n *tracker[A]) track(c *config[A], f packet[A], b *frame.Batch) frame.Reason {
	d := pendingFlow[A]{orig: *f.tuple, reply: f.tuple.Reverse(), port: f.In, net: f.Net, status: untranslated}
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
