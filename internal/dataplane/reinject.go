package dataplane

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

// Some frames leave the way and take it up again later. They wait as records: in the queues between a worker and the slow path, or in
// the shaper's queues. Once they may continue, the worker puts them into a batch of their own (reinject), and the step resume sets
// where each of them continues.
//
//	                  rate of the ingress port exceeded ──► shaper ──────────────► atStart
//	made by the router (ARP, ICMP) ──► slow path ────────────────────────────────► atOriginated
//	fragment before its first one, flow being created ──► slow path, parked ─────► atPreRouting, atPostRouting or, if it is switched, atStart
//	piece of a packet that was cut ──► slow path ────────────────────────────────► atPreRouting
//	neighbor unknown ──► slow path, router's queue ──────────────────────────────► atResolve or atResolveTranslated
//	another source address needed by the way out ──► slow path ──────────────────► atNewSource
//	a way that the programs must be told ──► slow path ──────────────────────────► atUplink
//	                  rate of the egress port exceeded ──► shaper ───────────────► atTransmit
type resumePoint uint8

const (
	atOriginated        resumePoint = iota // a frame of the router's own: switched, or out by the uplink
	atStart                                // like a frame that has just arrived
	atPreRouting                           // at nat.PreRouting
	atPostRouting                          // at nat.PostRouting, on its way out
	atResolve                              // at router.Resolve
	atResolveTranslated                    // likewise; nat.PostRouting has rewritten it
	atTransmit                             // at its end: it is not coalesced
	atNewSource                            // at nat.PreRouting; the way out needs the source address in next hop
	atUplink                               // at its end: it leaves by the uplink once more
)

// A record is a frame in a queue: a header of recordLen bytes in the host's byte order, which has what earlier steps found, then the
// virtio-net header and the frame.
//
//	0 in (2) | 2 net (2) | 4 egress (2) | 6 reason (1) | 7 resume point (1) | 8 word (4) | 12 out (2) | 14 cut (1) | 15 unused (1) | 16 next hop of IPv6 (16)
//
// The word is the next hop of IPv4. For fragmentation_needed it is the MTU, for way_changed the source address that the way needs. In the
// shaper's records only in, resume point, out and cut count; cut is 1 if the packet leaves in fragments, and the word is then where it goes.
const recordLen = 32

// putRecord writes the record of a punted frame.
//
//uvswitch:hot
func putRecord(rec []byte, f *frame.Frame, to *frame.Way6) {
	hop6 := frame.Addr6{}
	if f.Flags&frame.IsIPv6 != 0 {
		hop6 = to.Hop
	}
	parked := (f.NextHop != 0 || !hop6.IsZero()) && f.Reason != frame.WayChanged && f.Reason != frame.WayAsked && (f.Reason.Punt() == frame.Park || f.Reason.Punt() == frame.Redo) // router.Route has seen it
	at := atPreRouting
	switch {
	case f.Reason == frame.WayChanged:
		at = atNewSource
	case f.Reason == frame.WayAsked:
		at = atUplink
	case f.Reason == frame.NeighborFailed && f.NAT != frame.NATNone:
		at = atResolveTranslated
	case f.Reason == frame.NeighborFailed:
		at = atResolve
	case parked && f.NAT == frame.NATNone:
		at = atPostRouting
	case f.Reason == frame.FragmentWaits && f.Egress != frame.NoNet: // nat.Filter waits: the frame is switched
		at = atStart
	}
	putHeader(rec, hop{f.In, f.Net, f.Egress, uint32(f.NextHop), hop6}, f.Reason, at)
	copy(rec[recordLen:], f.Raw())
	if parked && at == atPreRouting { // router.Route will see it once more
		g := *f
		g.Reset(rec[recordLen:recordLen+len(f.Raw())], f.In)
		g.Flags, g.L3 = f.Flags, f.L3
		g.IncrementTTL()
	}
}

// A hop is what the header of a record says of a frame's way.
type hop struct {
	in          frame.PortID
	net, egress frame.NetID
	word        uint32
	hop6        frame.Addr6
}

func hopOf(p *router.PuntedFrame) hop {
	h := hop{in: p.In, net: p.Net, egress: p.Egress}
	if p.NextHop.Is6() {
		h.hop6 = frame.Addr6From(p.NextHop)
	} else {
		h.word = uint32(frame.AddrFrom(p.NextHop))
	}
	return h
}

//uvswitch:hot
func putHeader(rec []byte, h hop, why frame.Reason, at resumePoint) {
	e := binary.NativeEndian
	e.PutUint16(rec, uint16(h.in))
	e.PutUint16(rec[2:], uint16(h.net))
	e.PutUint16(rec[4:], uint16(h.egress))
	rec[6], rec[7] = uint8(why), uint8(at)
	e.PutUint32(rec[8:], h.word)
	h.hop6.Put(rec[16:])
}

// putQueued writes the header of a frame that waits for its port's rate.
//
//uvswitch:hot
func putQueued(rec []byte, f *frame.Frame, at resumePoint) {
	putHeader(rec, hop{in: f.In, word: uint32(f.RouteDst)}, frame.None, at)
	binary.NativeEndian.PutUint16(rec[12:], uint16(f.Out))
	rec[14] = 0
	if f.Flags&frame.Cut != 0 {
		rec[14] = 1
	}
}

//uvswitch:hot
func recordPort(rec []byte) frame.PortID { return frame.PortID(binary.NativeEndian.Uint16(rec)) }

func recordNet(rec []byte) frame.NetID { return frame.NetID(binary.NativeEndian.Uint16(rec[2:])) }

func recordWhy(rec []byte) frame.Reason { return frame.Reason(rec[6]) }

func recordPoint(rec []byte) resumePoint { return resumePoint(rec[7]) }

// puntedFrame decodes a record for the router. Its bytes are copied, since the router may keep them.
func puntedFrame(rec []byte) router.PuntedFrame {
	e := binary.NativeEndian
	p := router.PuntedFrame{
		In: recordPort(rec), Net: frame.NetID(e.Uint16(rec[2:])), Egress: frame.NetID(e.Uint16(rec[4:])),
		Why: recordWhy(rec), NATed: recordPoint(rec) == atResolveTranslated, Raw: append([]byte(nil), rec[recordLen:]...),
	}
	word, hop6 := e.Uint32(rec[8:]), frame.LoadAddr6(rec[16:])
	switch {
	case p.Why == frame.FragmentationNeeded:
		p.MTU = int(word)
	case !hop6.IsZero():
		p.NextHop = hop6.Netip()
	case word != 0:
		p.NextHop = frame.Addr(word).Netip()
	}
	return p
}

// reinject replaces the batch by frames that may continue, if there are any: those of the slow path, and those whose port's rate
// allows them now.
//
//uvswitch:hot
func (w *worker) reinject(b *frame.Batch) bool {
	b.N, b.Locals = 0, 0
	room := w.buf
	more := false
	for rec := w.injected.Peek(); rec != nil; rec = w.injected.Peek() {
		if room, more = addRecord(b, room, rec); more {
			break
		}
		w.injected.Release()
	}
	for q := w.shaper.next(); q != nil && !more; q = w.shaper.next() {
		if room, more = addRecord(b, room, q.ring.Peek()); !more {
			q.release(w.shaper.now)
		}
	}
	if more {
		w.poller.Wake() // the rest comes next time
	}
	return b.N > 0
}

// addRecord copies a record into buf and its frame into the batch, and returns the rest of buf. full: there was no room.
//
//uvswitch:hot
func addRecord(b *frame.Batch, buf, rec []byte) (rest []byte, full bool) {
	if b.N == len(b.Frames) || len(rec) > len(buf) {
		return buf, true
	}
	n := copy(buf, rec)
	b.Frames[b.N].Reset(buf[recordLen:n:n], recordPort(rec))
	b.N++
	return buf[n:], false
}

// resume sets where each frame of a reinjected batch continues. In w.buf, the header of its record precedes each frame.
//
//uvswitch:hot
func (w *worker) resume(b *frame.Batch) {
	at := 0
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		rec := w.buf[at:]
		at += recordLen + len(f.Raw())
		switch {
		case f.Verdict == frame.Drop:
		case w.dp.Switch.IsOff(f.In):
			f.DropFor(frame.PortNotForwarding)
		default:
			w.dp.resumeFrame(rec, b, i)
			if f.Verdict != frame.Switch && f.Verdict != frame.ToPort {
				b.Locals++
			}
		}
	}
}

// resumeFrame sets the verdict of frame i of a batch, which continues, and what earlier steps had found.
//
//uvswitch:hot
func (d *Dataplane) resumeFrame(rec []byte, b *frame.Batch, i int) {
	e, f, to := binary.NativeEndian, &b.Frames[i], &b.To[i]
	f.Net, f.Egress = frame.NetID(e.Uint16(rec[2:])), frame.NetID(e.Uint16(rec[4:]))
	hop := frame.Addr(e.Uint32(rec[8:]))
	if to.Hop = frame.LoadAddr6(rec[16:]); f.Flags&frame.IsIPv6 != 0 {
		to.Dst = f.IPv6().Dst()
	}
	switch resumePoint(rec[7]) {
	case atStart:
	case atPreRouting:
		f.Verdict = frame.Local
	case atNewSource:
		f.Verdict, f.Source = frame.Local, hop
		if f.Flags&frame.IsIPv6 != 0 {
			f.Source, to.Source = frame.Addr(i+1), to.Hop
		}
	case atPostRouting:
		f.Verdict, f.NextHop = frame.Routed, hop
		f.RouteDst, f.RoutePort = f.Tuple.Dst, f.Tuple.DstPort
	case atResolve:
		f.Verdict, f.NextHop = frame.Routed, hop
	case atResolveTranslated:
		f.Verdict, f.NextHop, f.NAT = frame.Routed, hop, frame.NATDone
	case atUplink:
		if up, ok := d.Router.Interface(frame.NoNet); ok {
			f.Verdict, f.Out = frame.ToPort, up.Port
		} else {
			f.DropFor(frame.UplinkDown)
		}
	case atTransmit:
		f.Verdict, f.Out = frame.ToPort, frame.PortID(e.Uint16(rec[12:]))
		if f.Flags |= frame.Waited; rec[14] != 0 {
			f.Flags |= frame.Cut
			f.RouteDst = hop
		}
	default:
		d.resumeOriginated(f)
	}
}

// resumeOriginated switches a frame of the router's own into its network, or sends it out by the uplink.
//
//uvswitch:hot
func (d *Dataplane) resumeOriginated(f *frame.Frame) {
	if f.Net != frame.NoNet {
		f.Flags |= frame.Injected
		return
	}
	up, ok := d.Router.Interface(frame.NoNet)
	leads := up.Up
	if f.Flags&frame.IsIPv6 != 0 {
		leads = up.Up6
	}
	if !ok || !leads {
		f.DropFor(frame.UplinkDown)
		return
	}
	if up.PeerMAC == 0 {
		f.SetMACs(frame.WayMACs(frame.WaySend, 0, 0, 0, 0))
	}
	f.Verdict, f.Out = frame.ToPort, up.Port
}
