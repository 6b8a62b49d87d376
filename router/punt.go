package router

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Punted is a copy of a frame that a worker handed to the housekeeper, with what the stages had found.
type PuntedFrame struct {
	In      frame.PortID
	Net     frame.NetID // the network of In
	Why     frame.Reason
	Egress  frame.NetID // with NeighborFailed, FragmentationNeeded and FragmentWaits
	NextHop frame.Addr  // with NeighborFailed and FragmentWaits
	NATed   bool        // addresses have been rewritten: a quote of it would mislead
	Raw     []byte      // virtio-net header and frame; the receiver's to keep
}

// Output is how the slow path acts on the dataplane. Frames handed over are complete Ethernet frames; the
// receiver of the call copies them.
type Output interface {
	// Send puts a frame made by the router into network net, or on the uplink for NoNet.
	Send(net frame.NetID, eth []byte)
	// Reroute puts a frame, with its virtio-net header, in the place of p before nat.PreRouting: a piece of p.
	Reroute(p PuntedFrame, raw []byte)
	// Release lets a held frame go on: its neighbor is known now.
	Release(p PuntedFrame)
	// Consume ends a frame that was for the router itself.
	Consume(p PuntedFrame)
	// Drop ends a frame for a reason.
	Drop(p PuntedFrame, why frame.Reason)
}

// What one port may ask of the housekeeper, and how many ICMP errors leave in all (RFC 1812, 4.3.2.8).
const (
	puntRate, puntBurst   = 2000, 4000
	errorRate, errorBurst = 100, 50
	errorRateOfPort       = 20 // so that one that provokes errors does not silence those for others
)

// Punted handles one frame: answers it, holds it, or says why not. Each call ends in exactly one Consume, Drop
// or, now or later, Release of p.
func (r *Router) HandlePunt(p PuntedFrame, now frame.Tick, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(p.In) < len(r.bucket) && !r.bucket[p.In].take(now, puntRate, puntBurst) {
		out.Drop(p, frame.PuntRateLimited)
		return
	}
	var f frame.Frame
	f.Reset(p.Raw, p.In)
	frame.Parse(&f)
	switch {
	case f.Flags&frame.IsARP != 0:
		r.arp(&f, p, now, out)
		out.Consume(p)
	case p.Why == frame.NeighborFailed:
		r.enqueue(p, now, out)
	case p.Why == frame.GatewayService:
		r.deliverLocal(&f, p, now, out)
	default:
		r.reject(p, now, out)
	}
}

// refuse sends the ICMP error that belongs to the reason, then drops.
func (r *Router) reject(p PuntedFrame, now frame.Tick, out Output) {
	mtu := 0
	if p.Why == frame.FragmentationNeeded {
		i := r.snap.Load().ifaces[p.Egress]
		if i == nil {
			out.Drop(p, frame.NoRoute)
			return
		}
		if mtu = i.MTU; r.fragment(p, mtu, out) {
			out.Consume(p)
			return
		}
	}
	if p.Why == frame.FlowNotResumed {
		r.reset(p, out)
	} else if typ, code, ok := errorFor(p.Why); ok {
		r.icmpError(p, typ, code, mtu, now, out)
	}
	out.Drop(p, p.Why)
}

// errorFor is the ICMP error that the sender of a packet refused for a reason gets; ok is false for silence.
func errorFor(why frame.Reason) (typ, code uint8, ok bool) {
	switch why {
	case frame.NoRoute, frame.UplinkDown:
		return frame.ICMPUnreachable, frame.CodeNet, true
	case frame.HostUnreachable, frame.NeighborFailed:
		return frame.ICMPUnreachable, frame.CodeHost, true
	case frame.TTLExceeded:
		return frame.ICMPTimeExceeded, 0, true
	case frame.FragmentationNeeded:
		return frame.ICMPUnreachable, frame.CodeFragNeeded, true
	case frame.NATPortsExhausted, frame.FlowTableFull, frame.ProhibitRoute:
		return frame.ICMPUnreachable, frame.CodeAdminFiltered, true
	}
	return 0, 0, false
}

// service answers what is sent to the gateway's own address: ICMP echo, and nothing else.
func (r *Router) deliverLocal(f *frame.Frame, p PuntedFrame, now frame.Tick, out Output) {
	if f.Flags&(frame.IsIPv4|frame.Fragment) != frame.IsIPv4 || f.Malformed != frame.None || f.Proto != frame.ICMP {
		if f.Proto == frame.UDP || f.Proto == frame.TCP {
			r.icmpError(p, frame.ICMPUnreachable, frame.CodePort, 0, now, out)
		}
		out.Drop(p, frame.GatewayService)
		return
	}
	icmp := f.Payload()
	if icmp[0] != frame.ICMPEcho {
		out.Drop(p, frame.GatewayService)
		return
	}
	if frame.Sum(icmp, 0) != 0xffff {
		out.Drop(p, frame.BadICMPChecksum)
		return
	}
	out.Send(p.Net, echoReply(f))
	out.Consume(p)
}

// echoReply turns an echo request round (RFC 792; RFC 1122, 3.2.2.6). Options are left out.
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
	l4 := ip[frame.IPv4Len:]
	copy(l4, icmp)
	l4[0] = frame.ICMPEchoReply
	binary.BigEndian.PutUint16(l4[2:], 0)
	binary.BigEndian.PutUint16(l4[2:], ^frame.Sum(l4, 0)) // in full: RFC 1624's form has the wrong zero for all zeros
	return b
}
