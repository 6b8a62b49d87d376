package dataplane

import (
	"slices"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// parkedFragments holds fragments that arrived before the first fragment of their packet, which has the ports (frame.FragmentWaits).
// Except for n, only the slow path uses it.
type parkedFragments struct {
	n     atomic.Int32 // len(held); workers read it
	dirty bool         // something was added since the last check
	held  []parkedFragment
	bytes int
	of    [frame.MaxPorts]struct{ frames, bytes int } // by port
}

type parkedFragment struct {
	rec     []byte // a record
	expires frame.Tick
}

// Bounds of what is parked, and for how long.
const (
	waitTime      = 10 * frame.TicksPerSecond
	maxWaiting    = 2048
	maxWaitBytes  = 4 << 20
	waitingOfPort = maxWaiting / 8 // frames of one port; a port has the same share of the bytes
)

// add parks a copy of a record, or drops its frame.
func (w *parkedFragments) add(k *slowPath, rec []byte, now frame.Tick) {
	in := recordPort(rec)
	of := &w.of[in%frame.MaxPorts]
	if len(w.held) >= maxWaiting || w.bytes+len(rec) > maxWaitBytes || of.frames >= waitingOfPort || of.bytes+len(rec) > maxWaitBytes/8 {
		k.end(in, rec[recordLen:], frame.FragmentQueueFull)
		return
	}
	w.held = append(w.held, parkedFragment{slices.Clone(rec), now + waitTime})
	w.bytes += len(rec)
	of.frames++
	of.bytes += len(rec)
	w.n.Store(int32(len(w.held)))
	w.dirty = true
}

// check reinjects the fragments whose first fragment has come, and drops those that have waited for too long.
func (w *parkedFragments) check(k *slowPath, now frame.Tick) {
	w.dirty = false
	k.dp.NAT.ResetFragmentEvent()
	w.held = slices.DeleteFunc(w.held, func(x parkedFragment) bool {
		p := puntedFrame(x.rec)
		var f frame.Frame
		f.Reset(p.Raw, p.In)
		frame.Parse(&f)
		f.Net = p.Net
		switch {
		case k.dp.NAT.HasFirstFragment(&f):
			k.inject(p.In, p.Net, p.Egress, recordPoint(x.rec), p.NextHop, p.Raw)
		case int32(now-x.expires) >= 0:
			k.end(p.In, p.Raw, frame.FragmentTimeout)
		default:
			return false
		}
		w.gone(p.In, len(x.rec))
		return true
	})
	w.n.Store(int32(len(w.held)))
}

// forget drops the fragments of a port that is removed.
func (w *parkedFragments) forget(k *slowPath, id frame.PortID) {
	w.held = slices.DeleteFunc(w.held, func(x parkedFragment) bool {
		if recordPort(x.rec) != id {
			return false
		}
		k.end(id, x.rec[recordLen:], frame.FragmentWaits)
		w.gone(id, len(x.rec))
		return true
	})
	w.n.Store(int32(len(w.held)))
}

// gone subtracts one fragment from the counts.
func (w *parkedFragments) gone(in frame.PortID, bytes int) {
	of := &w.of[in%frame.MaxPorts]
	of.frames--
	of.bytes -= bytes
	w.bytes -= bytes
}
