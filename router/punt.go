package router

import (
	"encoding/binary"
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A PuntedFrame is a copy of a frame that a worker handed to the slow path, with what the stages had found.
type PuntedFrame struct {
	In       frame.PortID
	Net      frame.NetID // the network of In
	Why      frame.Reason
	Egress   frame.NetID  // with NeighborFailed, FragmentationNeeded and FragmentWaits
	NextHop  netip.Addr   // with NeighborFailed and FragmentWaits; with WayChanged the source that the way needs
	MTU      int          // with FragmentationNeeded, bytes
	NATed    bool         // its addresses have been translated: an ICMP error must not quote it
	Raw      []byte       // virtio-net header and Ethernet frame; the receiver may keep it
	f        *frame.Frame // Raw, parsed; set by HandlePunt
	cameBack bool         // the way out has refused it; likewise
}

// An Output is how the slow path acts on the dataplane. Send and Reroute copy the frame that they get.
type Output interface {
	// Send sends an Ethernet frame of the router into network net, or to the uplink for NoNet.
	Send(net frame.NetID, eth []byte)
	// Reroute sends raw, a fragment of p with a virtio-net header, through the stages from nat.PreRouting on.
	Reroute(p PuntedFrame, raw []byte)
	// Release sends a queued frame on: its neighbor is known now.
	Release(p PuntedFrame)
	// Consume ends a frame that was for the router itself, or that fragments replace.
	Consume(p PuntedFrame)
	// Drop ends a frame with a reason.
	Drop(p PuntedFrame, why frame.Reason)
}

// Frames that one port may send to the slow path: per second, and the burst.
const puntRate, puntBurst = 2000, 4000

// HandlePunt answers a frame, queues it, or drops it. Each call ends in exactly one Consume, Drop or, now or later,
// Release of p.
func (r *Router) HandlePunt(p PuntedFrame, now frame.Tick, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.f = &frame.Frame{}
	p.f.Reset(p.Raw, p.In)
	frame.Parse(p.f)
	served := r.isServed(&p)
	if int(p.In) < len(r.bucket) && (served && !r.served[p.In].take(now, serviceRate, serviceBurst) || !served && !r.bucket[p.In].take(now, puntRate, puntBurst)) {
		out.Drop(p, frame.PuntRateLimited)
		return
	}
	if served {
		r.serveLocked(p, out)
		return
	}
	if p.f.Src == frame.WayNobody {
		p.cameBack = true
		if n := r.neigh[neighKey{p.Net, sender(p.f)}]; n != nil {
			p.f.Src = n.mac
		}
	}
	switch {
	case p.Why == frame.AddressStolen:
		if iface := r.snap.Load().ifaces[p.Net]; iface != nil {
			r.defend(p.Net, iface, now, out)
		}
		out.Drop(p, p.Why)
	case p.f.Flags&frame.IsARP != 0:
		r.arp(p.f, p, now, out)
		out.Consume(p)
	case p.Why == frame.NeighborFailed:
		r.enqueue(p, now, out)
	case p.Why == frame.GatewayService && p.f.Flags&frame.IsIPv6 != 0:
		r.deliverLocal6(p.f, p, now, out)
	case p.Why == frame.GatewayService:
		r.deliverLocal(p.f, p, now, out)
	default:
		r.reject(p, now, out)
	}
}

// reject drops p and sends the ICMP error or the TCP reset for the reason. A packet that is too long is fragmented
// instead if that is allowed.
func (r *Router) reject(p PuntedFrame, now frame.Tick, out Output) {
	if p.Why == frame.FragmentationNeeded {
		switch {
		case !p.cameBack:
		case p.f.Flags&frame.IsIPv6 != 0:
			r.snap.Load().ways.note(hint(p.f.IPv6().Dst()), p.MTU, now)
		default:
			r.snap.Load().ways.note(hint(p.f.Tuple.Dst), p.MTU, now)
		}
		if r.fragment(p, p.MTU, out) {
			out.Consume(p)
			return
		}
	}
	if p.Why == frame.FlowNotResumed || p.Why == frame.PolicyDenied && isMidConnection(p) {
		r.reset(p, out)
	} else if e := p.Why.Info().Error; e.Sent {
		r.sendErrorFor(p, e, p.MTU, now, out)
	}
	out.Drop(p, p.Why)
}

// isMidConnection reports whether p is a segment of a station's TCP connection that exists: an ICMP error would not end it (RFC 5927, 6).
func isMidConnection(p PuntedFrame) bool {
	return p.Net != frame.NoNet && p.f.Proto == frame.TCP && p.f.Flags&frame.HasTuple != 0 && p.f.Malformed == frame.None && p.f.TCP().Flags()&(frame.FlagSYN|frame.FlagACK) == frame.FlagACK
}

// sender returns the source address of an IP packet.
func sender(f *frame.Frame) netip.Addr {
	if f.Flags&frame.IsIPv6 != 0 {
		return f.IPv6().Src().Netip()
	}
	return f.Tuple.Src.Netip()
}

// receiver returns the destination address of an IP packet.
func receiver(f *frame.Frame) netip.Addr {
	if f.Flags&frame.IsIPv6 != 0 {
		return f.IPv6().Dst().Netip()
	}
	return f.Tuple.Dst.Netip()
}

// sendErrorFor tells the sender of p why it is dropped, in the words of its family; mtu is in bytes.
func (r *Router) sendErrorFor(p PuntedFrame, e frame.ICMPErrorKind, mtu int, now frame.Tick, out Output) {
	if p.f.Flags&frame.IsIPv6 != 0 {
		e = e.IPv6()
		r.icmp6Error(p, e.Type, e.Code, uint32(mtu), now, out)
	} else {
		r.icmpError(p, e.Type, e.Code, mtu, now, out)
	}
}

// deliverLocal handles a packet to the gateway's own address that no Service takes. It answers ICMP echo only; TCP and UDP get port
// unreachable.
func (r *Router) deliverLocal(f *frame.Frame, p PuntedFrame, now frame.Tick, out Output) {
	if f.Flags&frame.Fragment != 0 && f.Proto == frame.ICMP && f.Malformed == frame.None {
		whole, why := r.assemble(p, now)
		if why != frame.None {
			out.Drop(p, why)
			return
		}
		if whole == nil {
			out.Consume(p)
			return
		}
		f = whole
	}
	if f.Flags&(frame.IsIPv4|frame.Fragment) != frame.IsIPv4 || f.Malformed != frame.None || f.Proto != frame.ICMP {
		if f.Proto == frame.UDP || f.Proto == frame.TCP {
			r.icmpError(p, frame.ICMPUnreachable, frame.CodePort, 0, now, out)
		}
		out.Drop(p, frame.GatewayService)
		return
	}
	icmp := f.ICMP()
	if icmp.Type() != frame.ICMPEcho {
		out.Drop(p, frame.GatewayService)
		return
	}
	if !f.HasRightICMPSum() {
		out.Drop(p, frame.BadICMPChecksum)
		return
	}
	r.sendCut(p.Net, echoReply(f), out)
	out.Consume(p)
}

// echoReply returns the reply to an echo request, as an Ethernet frame (RFC 792; RFC 1122, 3.2.2.6). IP options are
// left out.
func echoReply(f *frame.Frame) []byte {
	icmp := f.Payload()
	b := make([]byte, frame.EthernetLen+frame.IPv4Len+len(icmp))
	copy(b, f.Bytes()[6:12])
	copy(b[6:], f.Bytes()[:6])
	binary.BigEndian.PutUint16(b[12:], frame.TypeIPv4)
	ip := frame.IPv4(b[frame.EthernetLen:])
	ip[0], ip[1], ip[8], ip[9] = 0x45, f.IPv4()[1], 64, frame.ICMP
	binary.BigEndian.PutUint16(ip[2:], uint16(frame.IPv4Len+len(icmp)))
	ip.SetAddrs(f.Tuple.Dst, f.Tuple.Src, 0)
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip[:frame.IPv4Len], 0))
	reply := frame.ICMPHeader(ip[frame.IPv4Len:])
	copy(reply, icmp)
	reply.SetType(frame.ICMPEchoReply)
	reply.UpdateChecksum(0)
	return b
}
