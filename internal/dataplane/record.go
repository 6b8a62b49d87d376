package dataplane

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

// A record is how a frame stands in a ring between a worker and the housekeeper: recordLen bytes of what was
// found out, in the host's byte order, then the virtio-net header and the frame.
//
//	0 in (2) | 2 net (2) | 4 egress (2) | 6 reason (1) | 7 flags (1) | 8 next hop (4) | 12 out (2) | 14 unused (2)
//
// In the shaper's rings stand records, too, of which in, flags and out count.
const (
	recordLen = 16

	recNATed   = 1 // addresses have been rewritten
	recResolve = 2 // goes on at router.Resolve: was held for a neighbor
	recPost    = 4 // at nat.PostRouting: a fragment that waited for its first one, on its way out, or what was tried too early
	recPre     = 8 // at nat.PreRouting: likewise, on its way in; a piece of a packet; and what does not come back

	recRx = 16 // at the beginning: waited for the rate of the port it came by
	recTx = 32 // at the end: waited for that of the port it goes to
)

//uvswitch:hot
func putRecord(rec []byte, f *frame.Frame) {
	flags, again := uint8(0), f.NextHop != 0 && (f.Reason == frame.FragmentWaits || f.Reason == frame.FlowBusy) // router.Route has been
	switch {
	case f.Reason == frame.NeighborFailed:
		flags = recResolve
		if f.NAT != frame.NATNone {
			flags |= recNATed // punted by router.Resolve, after nat.PostRouting
		}
	case again && f.NAT == frame.NATNone:
		flags = recPost
	default:
		flags = recPre
	}
	putHeader(rec, f.In, f.Net, f.Egress, f.Reason, flags, f.NextHop)
	copy(rec[recordLen:], f.Raw())
	if again && flags == recPre { // it will be there once more
		frame.IPv4(rec[recordLen+frame.VnetLen+int(f.L3):]).IncrementTTL()
	}
}

//uvswitch:hot
func putHeader(rec []byte, in frame.PortID, net, egress frame.NetID, why frame.Reason, flags uint8, hop frame.Addr) {
	e := binary.NativeEndian
	e.PutUint16(rec, uint16(in))
	e.PutUint16(rec[2:], uint16(net))
	e.PutUint16(rec[4:], uint16(egress))
	rec[6], rec[7] = uint8(why), flags
	e.PutUint32(rec[8:], uint32(hop))
}

// putHeld is the header of a frame that waits for its port's rate.
//
//uvswitch:hot
func putHeld(rec []byte, f *frame.Frame, flag uint8) {
	putHeader(rec, f.In, frame.NoNet, frame.NoNet, frame.None, flag, 0)
	binary.NativeEndian.PutUint16(rec[12:], uint16(f.Out))
}

//uvswitch:hot
func recordPort(rec []byte) frame.PortID { return frame.PortID(binary.NativeEndian.Uint16(rec)) }

func recordWhy(rec []byte) frame.Reason { return frame.Reason(rec[6]) }

// punted decodes a record for the router; its bytes are copied, since the router may hold them.
func punted(rec []byte) router.PuntedFrame {
	e := binary.NativeEndian
	return router.PuntedFrame{
		In: recordPort(rec), Net: frame.NetID(e.Uint16(rec[2:])), Egress: frame.NetID(e.Uint16(rec[4:])),
		Why: frame.Reason(rec[6]), NATed: rec[7]&recNATed != 0, NextHop: frame.Addr(e.Uint32(rec[8:])),
		Raw: append([]byte(nil), rec[recordLen:]...),
	}
}

// restore sets the verdict and place of an injected frame from its record.
//
//uvswitch:hot
func (d *Dataplane) restore(rec []byte, f *frame.Frame) {
	e := binary.NativeEndian
	f.Net, f.Egress = frame.NetID(e.Uint16(rec[2:])), frame.NetID(e.Uint16(rec[4:]))
	switch {
	case rec[7]&recRx != 0:
	case rec[7]&recTx != 0:
		f.Verdict, f.Out = frame.ToPort, frame.PortID(e.Uint16(rec[12:]))
		f.Flags |= frame.Waited
	case rec[7]&recResolve != 0:
		f.Verdict, f.NextHop = frame.Routed, frame.Addr(e.Uint32(rec[8:]))
		if rec[7]&recNATed != 0 {
			f.NAT = frame.NATDone
		}
	case rec[7]&recPost != 0:
		f.Verdict, f.NextHop = frame.Routed, frame.Addr(e.Uint32(rec[8:]))
		f.RouteDst, f.RoutePort = f.Tuple.Dst, f.Tuple.DstPort
	case rec[7]&recPre != 0:
		f.Verdict = frame.Local
	case f.Net != frame.NoNet:
		f.Flags |= frame.Injected
	default:
		up, ok := d.Router.Interface(frame.NoNet)
		if !ok || !up.Up {
			f.DropFor(frame.UplinkDown)
			return
		}
		f.Verdict, f.Out = frame.ToPort, up.Port
	}
}
