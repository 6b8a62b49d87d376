package dataplane

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
	"github.com/uvswitch/uvswitch/nat"
)

// parkedFragments holds fragments that arrived before the first fragment of their packet, which has the ports (frame.FragmentWaits).
// Except for n, only the slow path uses it.
type parkedFragments struct {
	n      atomic.Int32 // fragments; workers read it
	held   map[nat.FragmentKey][]parkedFragment
	shares share.Pool        // of bytes: see cost
	keys   []nat.FragmentKey // a buffer
}

type parkedFragment struct {
	rec     []byte // a record
	expires frame.Tick
}

// Bounds of what is parked, in bytes, and for how long. A port may have an eighth.
const (
	waitTime     = 10 * frame.TicksPerSecond
	maxWaitBytes = 4 << 20
	minCost      = 2048
)

// cost is what a record counts for, in bytes.
func cost(rec []byte) int { return max(len(rec), minCost) }

// add parks a copy of a record, or drops its frame. If the first fragment has come meanwhile, the frame continues.
func (w *parkedFragments) add(k *slowPath, rec []byte, now frame.Tick) {
	in := recordPort(rec)
	var f frame.Frame
	f.Reset(rec[recordLen:], in)
	frame.Parse(&f)
	f.Net = recordNet(rec)
	key := nat.FragmentKeyOf(&f)
	if k.dp.NAT.HasFirstFragment(key) && k.injectRecord(rec) {
		return
	}
	if !w.shares.TakeMany(in%frame.MaxPorts, cost(rec)) {
		k.end(in, rec[recordLen:], frame.FragmentQueueFull)
		return
	}
	if w.held == nil {
		w.held = map[nat.FragmentKey][]parkedFragment{}
	}
	w.held[key] = append(w.held[key], parkedFragment{slices.Clone(rec), now + waitTime})
	w.n.Add(1)
}

// check reinjects the fragments whose first fragment has come; those for which the queue has no room wait for it. With due, it drops those that
// have waited for too long.
func (w *parkedFragments) check(k *slowPath, now frame.Tick, due bool) {
	keys, all := k.dp.NAT.TakeArrived(w.keys[:0])
	w.keys = keys
	if k.clearWanted() || all || due {
		keys = slices.AppendSeq(keys[:0], maps.Keys(w.held))
	}
	for _, key := range keys {
		if len(w.held[key]) == 0 {
			continue
		}
		come := k.dp.NAT.HasFirstFragment(key)
		w.keep(key, func(x *parkedFragment) bool {
			switch {
			case come && k.injectRecord(x.rec):
				return false
			case int32(now-x.expires) < 0:
				return true
			case come:
				k.end(recordPort(x.rec), x.rec[recordLen:], frame.InjectQueueFull)
			default:
				k.end(recordPort(x.rec), x.rec[recordLen:], frame.FragmentTimeout)
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
		w.shares.ReturnMany(recordPort(x.rec)%frame.MaxPorts, cost(x.rec))
		w.n.Add(-1)
		return true
	})
	if len(left) == 0 {
		delete(w.held, key)
	} else {
		w.held[key] = left
	}
}
