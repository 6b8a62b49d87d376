package nat

import (
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
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

// guards reports whether f is between a container and the host itself, and why no list of ports can allow f.
func (in *Inbound) guards(f *frame.Frame, src, dst netip.Addr) (guarded bool, why frame.Reason) {
	if in == nil || f.Dst.IsGroup() || f.In != in.Host && f.Out != in.Host {
		return false, frame.None
	}
	fromHost := f.In == in.Host
	own := dst
	if fromHost {
		own = src
	}
	switch {
	case f.Flags&(frame.IsIPv4|frame.IsIPv6) != 0 && f.Malformed == frame.None:
		return in.isHost(own), frame.None
	case fromHost:
		return false, frame.None
	}
	return true, frame.HostInbound
}

// Filter judges the frames between containers and the host, by Rules.Inbound, and those from and to ports with policies. Their flows are
// tracked, but not translated. Step 10.
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
		case c.inbound == nil && c.policies == nil:
		case f.Flags&frame.IsIPv6 != 0:
			why = n.six.filter(c6, packetOf[frame.Addr6](b, i), b)
		default:
			why = n.filter(c, packetOf[frame.Addr](b, i), b)
		}
		switch {
		case why == frame.None && f.Out == frame.NoPort:
			f.Verdict = frame.Flood // for a group, or to a station that is not known
		case why == frame.None:
			f.Verdict = frame.ToPort
		case why.Punt() == frame.NoPunt || why.Punt() == frame.Reject && f.FragOffset() != 0 || f.Dst.IsGroup() || f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 || f.IsND():
			f.DropFor(why)
		default:
			if f.Flags&frame.ViaRouter != 0 {
				f.SetMACs(f.Dst, frame.WayNobody) // its sender's is lost
			}
			f.PuntFor(why)
		}
	}
}

// filter returns the reason why f may not pass, or None.
func (n *tracker[A]) filter(c *config[A], f packet[A], b *frame.Batch) frame.Reason {
	if f.Flags&frame.Injected != 0 || f.NAT != frame.NATNone { // a flow that NAT knows has been judged
		return frame.None
	}
	src, dst := frame.Netip(f.tuple.Src), frame.Netip(f.tuple.Dst)
	policed, closed, why := c.policies.Guards(f.Frame, src, dst)
	if why != frame.None {
		return why
	}
	if f.Flags&frame.IsARP != 0 || f.IsND() {
		return frame.None
	}
	byHost, why := c.inbound.guards(f.Frame, src, dst)
	if why != frame.None {
		return why
	}
	toHost := byHost && f.In != c.inbound.Host // what the host begins passes
	refusal := frame.HostInbound
	if closed {
		refusal = frame.PolicyDenied
	}
	switch {
	case !policed && !byHost:
		return frame.None
	case f.Flags&frame.ICMPError != 0:
		if (closed || toHost) && !n.isRelated(c, f, b) {
			return refusal
		}
		return frame.None
	case f.Flags&frame.Fragment != 0 && closed && !f.Dst.IsGroup():
		if why := n.translateFragment(f, b, true); why != frame.None {
			return why
		}
	case f.FragOffset() != 0:
		return frame.None // a later fragment, which is of no use without its first one
	}
	if f.Flags&frame.HasTuple == 0 { // such as a node information query of ICMPv6: nothing to track
		if closed || toHost && !c.inbound.opens(f.Frame) {
			return refusal
		}
		return frame.None
	}
	return n.followOrTrack(c, f, b, toHost, policed, closed)
}

// followOrTrack lets f pass if it belongs to a flow, or if it may begin one, which then is made.
func (n *tracker[A]) followOrTrack(c *config[A], f packet[A], b *frame.Batch, toHost, policed, closed bool) frame.Reason {
	group := f.Dst.IsGroup() // nobody answers: no flow
	e, dir, ok, why := n.follow(c, f, b)
	switch {
	case why != frame.None:
		return why
	case ok && !group:
		f.Flow, f.Dir = e, dir
	default:
		if toHost && !c.inbound.opens(f.Frame) {
			return frame.HostInbound
		}
		d := pendingFlow[A]{orig: *f.tuple, reply: f.tuple.Reverse(), port: f.In, net: f.Net, status: untranslated}
		if policed {
			if why := n.admit(c, &d, f.In, f.Out, b); why != frame.None {
				return why
			}
			if resumes(f.Frame) { // who has begun it is not known: else the answers of a flow that ends would begin it again
				back := policy.Flow{From: f.Out, To: f.In, Src: frame.Netip(f.tuple.Dst), Dst: frame.Netip(f.tuple.Src), Proto: f.Proto, Port: f.Tuple.SrcPort}
				if r := c.policies.Judge(back, policy.Admission{}, b.Tick); r.Why != frame.None {
					return r.Why
				}
			}
		}
		if why := begins(f.Frame); group || b.Dry || why != frame.None {
			if why != frame.None && f.Flags&frame.Fragment != 0 && closed {
				return frame.PolicyDenied // it begins no flow, and so nobody would watch what follows
			}
			return frame.None
		}
		if why := n.track(c, f, &d, b); why != frame.None {
			return why
		}
	}
	if f.Flags&frame.Fragment != 0 && closed {
		if why := n.recordFragment(f, b.Dry); why != frame.None {
			return why
		}
	}
	if s := &n.state[f.Flow]; s.state.Load()&untranslated != 0 && !b.Dry {
		n.account(f, s, &n.flows.keys[f.Flow][0], tcpFlags(f.Frame), f.FragOffset() == 0, b.Tick)
	}
	return frame.None
}

// isRelated reports whether an ICMP error is about a packet of a flow of its sender or its receiver.
func (n *tracker[A]) isRelated(c *config[A], f packet[A], b *frame.Batch) bool {
	q, _, ok := frame.QuotedOf[A](f.ICMP())
	if !ok {
		return false
	}
	sent := q.Reverse()
	e, _, ok := n.find(c, &sent, b)
	return ok && f.tuple.Dst == q.Src && (n.state[e].port == f.In || n.state[e].port == f.Out)
}

// track makes flow d, which f begins and nothing translates. It is charged to the container's port. It sets f.Flow and f.Dir.
func (n *tracker[A]) track(c *config[A], f packet[A], d *pendingFlow[A], b *frame.Batch) frame.Reason {
	if c.isHostPort(f.In) && f.Out != frame.NoPort {
		d.port = f.Out
		d.status |= servedFlow
	}
	if d.port >= frame.MaxPorts {
		return frame.FlowInvalid
	}
	if !n.charge(d) {
		return frame.FlowQuota
	}
	why := n.confirm(c, f, d, b)
	if why != frame.None || f.NAT == frame.NATEstablished {
		n.rollback(d)
		f.NAT = frame.NATNone
	}
	return why
}

// isHostPort reports whether a port is the host's.
func (c *config[A]) isHostPort(id frame.PortID) bool {
	return c.inbound != nil && id == c.inbound.Host || c.policies != nil && id == c.policies.Host
}
