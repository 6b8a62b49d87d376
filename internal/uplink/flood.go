package uplink

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The TAP has one queue. A flood from outside to one port of the host would fill it, and what others are sent would be lost there. So, while
// the queue loses packets, the program "way in" drops what one port receives beyond an allowance for each slice of time. The allowance is
// found by trial: it is halved while packets are still lost, and grows otherwise. A port that receives less loses nothing. Packets
// without a port, and later fragments, count together as one port. While one port alone receives packets, or several that are published for
// one container, there is nobody to protect, and no limit.

const (
	queueCheck  = time.Second            // how often the queue is looked at while it loses nothing,
	busyCheck   = 10 * time.Millisecond  // and while much of it waits to be read
	queueSlice  = 10 * time.Millisecond  // for which the allowance is
	queueTrial  = 100 * time.Millisecond // how long an allowance is tried
	firstAllows = 256                    // packets in a slice
	aloneAllows = 128                    // at least, when another port joins one that was alone
	leastAllows = 8
	mostAllows  = 4096           // from here on there is no limit
	unlimited   = math.MaxUint32 // not 0: the program counts ports only while there is an allowance
	aloneSlices = 120            // for how long a port must have been alone: the SYN that was lost comes again within this time
	quietTrials = 10             // without a loss, after which a port that is alone is no flood
)

// A queueLimit is what the way in reads, in a map of one entry.
type queueLimit struct {
	allows  atomic.Uint32 // packets to a port in a slice; 0: no limit
	slice   atomic.Uint32 // number of the present slice
	dropped atomic.Uint64 // packets
	owners  atomic.Uint32 // that have received something in the present slice, or more: one that comes again after another counts again
	last    atomic.Uint32 // of these: the one that came last: an owner, or a key of arrivals
}

// arrived is a value of the map arrivals: the slice, the packets in it, the owner, and 0. The owner is the port of the switch that the port is
// published for, with ownerBit; 0: not known, or several.
type arrived [4]uint32

const ownerBit = 1 << 31 // no key of arrivals has it

// A PublishedPort is a port of the host.
type PublishedPort struct {
	Proto uint8
	Port  uint16
}

// SetOwners says for which port of the switch each published port is; NoPort: for several.
func (u *Uplink) SetOwners(owners map[PublishedPort]frame.PortID) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[uint32]uint32{}
	for p, id := range owners {
		if set, ok := setOf[p.Proto]; ok && id != frame.NoPort {
			want[uint32(set)<<16|uint32(p.Port)] = ownerBit | uint32(id)
		}
	}
	for key, owner := range want {
		if s.owners[key] != owner && s.arrivals.Put(key, arrived{2: owner}) == nil {
			s.owners[key] = owner
		}
	}
	for key := range s.owners {
		if want[key] == 0 && s.arrivals.Put(key, arrived{}) == nil {
			delete(s.owners, key)
		}
	}
}

// Flooded is how many packets the way in has dropped, since a port received more than its allowance.
func (u *Uplink) Flooded() uint64 {
	if u.maps == nil || u.maps.limit == nil {
		return 0
	}
	return u.maps.limit.dropped.Load()
}

// GuardQueue keeps the TAP's queue free for everyone, until ctx is done. busy tells that much of the queue waited to be read.
func (u *Uplink) GuardQueue(ctx context.Context, busy <-chan struct{}) {
	lost := u.lostInQueue()
	tick := time.NewTicker(queueCheck)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-busy:
			wait(ctx, busyCheck)
		}
		if now := u.lostInQueue(); now != lost {
			lost = u.limitFlood(ctx, now)
		}
	}
}

// limitFlood limits what a port receives until the queue has lost nothing for long enough. lost is what the queue had lost before.
func (u *Uplink) limitFlood(ctx context.Context, lost uint64) uint64 {
	limit := u.maps.limit
	defer limit.allows.Store(0)
	allows, alone := uint32(firstAllows), aloneSlices-2 // two slices show whether others receive now
	const nobody = math.MaxUint32
	only := uint32(nobody) // the owner that is alone
	for quiet := 0; allows < mostAllows && quiet < quietTrials && ctx.Err() == nil; {
		for range queueTrial / queueSlice {
			if alone >= aloneSlices {
				limit.allows.Store(unlimited)
			} else {
				limit.allows.Store(allows)
			}
			wait(ctx, queueSlice)
			alone++
			if owners, last := limit.owners.Swap(0), limit.last.Load(); owners > 0 {
				if owners > 1 || only != nobody && last != only { // in this slice, or since an earlier one
					alone = 0
				}
				only = last
			}
			limit.slice.Add(1)
		}
		now := u.lostInQueue()
		isAlone := alone >= aloneSlices
		switch {
		case now == lost:
			allows += 1 + allows/32
		case isAlone:
			allows = max(aloneAllows, allows/2)
		default:
			allows = max(leastAllows, allows/2)
		}
		if quiet++; now != lost || !isAlone {
			quiet = 0
		}
		lost = now
	}
	return lost
}

// lostInQueue is how many packets the TAP's queue has lost.
func (u *Uplink) lostInQueue() uint64 {
	l, err := netlink.LinkByIndex(u.tapIdx)
	if err != nil || l.Attrs().Statistics == nil {
		return 0
	}
	return l.Attrs().Statistics.TxDropped
}

// wait waits, and reports whether ctx goes on.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
