package dataplane

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// parkedFragments holds fragments that arrived before the first fragment of their packet, which has the ports (frame.FragmentWaits).
// Except for n, only the slow path uses it.
type parkedFragments struct {
	n     atomic.Int32 // fragments; workers read it
	held  map[nat.FragmentKey][]parkedFragment
	bytes int
	of    [frame.MaxPorts]struct{ frames, bytes int } // by port
	keys  []nat.FragmentKey                           // a buffer
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

// add parks a copy of a record, or drops its frame. If the first fragment has come meanwhile, the frame continues.
func (w *parkedFragments) add(k *slowPath, rec []byte, now frame.Tick) {
	in := recordPort(rec)
	of := &w.of[in%frame.MaxPorts]
	p := puntedFrame(rec)
	var f frame.Frame
	f.Reset(p.Raw, in)
	frame.Parse(&f)
	f.Net = p.Net
	key := nat.FragmentKeyOf(&f)
	if k.dp.NAT.HasFirstFragment(key) {
		k.inject(hopOf(&p), recordPoint(rec), p.Raw)
		return
	}
	if w.n.Load() >= maxWaiting || w.bytes+len(rec) > maxWaitBytes || of.frames >= waitingOfPort || of.bytes+len(rec) > maxWaitBytes/8 {
		k.end(in, p.Raw, frame.FragmentQueueFull)
		return
	}
	if w.held == nil {
		w.held = map[nat.FragmentKey][]parkedFragment{}
	}
	w.held[key] = append(w.held[key], parkedFragment{slices.Clone(rec), now + waitTime})
	w.bytes += len(rec)
	of.frames++
	of.bytes += len(rec)
	w.n.Add(1)
}

// check reinjects the fragments whose first fragment has come. With due, it drops those that have waited for too long.
func (w *parkedFragments) check(k *slowPath, now frame.Tick, due bool) {
	keys, all := k.dp.NAT.TakeArrived(w.keys[:0])
	w.keys = keys
	if all || due {
		keys = slices.AppendSeq(keys[:0], maps.Keys(w.held))
	}
	for _, key := range keys {
		if len(w.held[key]) == 0 {
			continue
		}
		come := k.dp.NAT.HasFirstFragment(key)
		w.keep(key, func(x *parkedFragment) bool {
			if come {
				p := puntedFrame(x.rec)
				k.inject(hopOf(&p), recordPoint(x.rec), p.Raw)
			} else if int32(now-x.expires) >= 0 {
				k.end(recordPort(x.rec), x.rec[recordLen:], frame.FragmentTimeout)
			} else {
				return true
			}
			return false
		})
	}
}

// forget drops the fragments of a port that is removed.
func (w *parkedFragments) forget(k *slowPath, id frame.PortID) {
	for key := range w.held {
		w.keep(key, func(x *parkedFragment) bool {
			if recordPort(x.rec) != id {
				return true
			}
			k.end(id, x.rec[recordLen:], frame.FragmentWaits)
			return false
		})
	}
}

// keep removes the fragments of a packet for which stays returns false.
func (w *parkedFragments) keep(key nat.FragmentKey, stays func(*parkedFragment) bool) {
	left := slices.DeleteFunc(w.held[key], func(x parkedFragment) bool {
		if stays(&x) {
			return false
		}
		w.gone(recordPort(x.rec), len(x.rec))
		return true
	})
	if len(left) == 0 {
		delete(w.held, key)
	} else {
		w.held[key] = left
	}
}

// gone subtracts one fragment from the counts.
func (w *parkedFragments) gone(in frame.PortID, bytes int) {
	of := &w.of[in%frame.MaxPorts]
	of.frames--
	of.bytes -= bytes
	w.bytes -= bytes
	w.n.Add(-1)
}
