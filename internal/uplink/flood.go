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
// without a port, and later fragments, count together as one port.
//
// While one port alone receives packets, or several that are published for one container, it gets nearly all that the switch can read. So its
// stream is as fast as without a limit, and the queue has room for the first packet of another port.

const (
	queueCheck  = time.Second            // how often the queue is looked at while it loses nothing,
	busyCheck   = 10 * time.Millisecond  // and while much of it waits to be read
	sliceBits   = 22                     // a slice, for which the allowance is, is 1<<sliceBits ns: 4.2 ms
	ownersTime  = 10 * time.Millisecond  // how often it is looked at whether a port is alone
	queueTrial  = 100 * time.Millisecond // how long an allowance is tried
	firstAllows = 108                    // packets in a slice
	aloneLeast  = 54                     // at least, for a port that is alone
	leastAllows = 4
	mostAllows  = 1720           // from here on there is no limit
	unlimited   = math.MaxUint32 // not 0: the program counts ports only while there is an allowance
	aloneTimes  = 120            // for how many ownersTimes a port must have been alone: the SYN that was lost comes again meanwhile
	alonePart   = 16             // one that is alone gets all but a part of what can be read: one in so many,
	aloneGrows  = 64             // and a part more after each trial without a loss
	quietTrials = 10             // without a loss and without a packet beyond the allowance, after which a port that is alone is no flood
)

// A queueLimit is what the way in reads, in a map of one entry.
type queueLimit struct {
	allows  atomic.Uint32 // packets to a port in a slice; 0: no limit
	owners  atomic.Uint32 // that have received something since the last look, or more: one that comes again after another counts again
	dropped atomic.Uint64 // packets
	last    atomic.Uint32 // the owner that came last; a key of arrivals if there is no owner
	_       uint32
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

// GuardQueue keeps the TAP's queue free for everyone, until ctx is done. busy tells that much of the queue waited to be read, and read how many
// packets were read from it until now.
func (u *Uplink) GuardQueue(ctx context.Context, busy <-chan struct{}, read func() uint64) {
	lost := u.lostInQueue()
	tick := time.NewTicker(queueCheck)
	defer tick.Stop()
	for ctx.Err() == nil {
		aloneAllows := uint32(unlimited)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-busy:
			aloneAllows = watchReads(ctx, busyCheck, read)
		}
		if now := u.lostInQueue(); now != lost {
			lost = u.limitFlood(ctx, now, aloneAllows, read)
		}
	}
}

// limitFlood limits what a port receives until the queue has lost nothing for long enough. lost is what the queue had lost before, and aloneAllows the
// first allowance of a port that is alone.
func (u *Uplink) limitFlood(ctx context.Context, lost uint64, aloneAllows uint32, read func() uint64) uint64 {
	limit := u.maps.limit
	defer limit.allows.Store(0)
	allows, alone := uint32(firstAllows), aloneTimes-2 // two looks show whether others receive now
	const nobody = math.MaxUint32
	only := uint32(nobody) // the owner that is alone
	for quiet := 0; allows < mostAllows && quiet < quietTrials && ctx.Err() == nil; {
		dropped, most := limit.dropped.Load(), uint32(0)
		for range queueTrial / ownersTime {
			if alone >= aloneTimes {
				limit.allows.Store(aloneAllows)
			} else {
				limit.allows.Store(allows)
			}
			most = max(most, watchReads(ctx, ownersTime, read)) // what can be read shows while much comes
			alone++
			if owners, last := limit.owners.Swap(0), limit.last.Load(); owners > 0 {
				if owners > 1 || only != nobody && last != only { // now, or since an earlier look
					alone = 0
				}
				only = last
			}
		}
		now := u.lostInQueue()
		isAlone, loses := alone >= aloneTimes, now != lost
		switch {
		case isAlone && loses:
			aloneAllows = most
		case isAlone:
			if aloneAllows < unlimited/2 {
				aloneAllows += 1 + aloneAllows/aloneGrows
			}
		case loses:
			allows = max(leastAllows, allows/2)
		default:
			allows += 1 + allows/32
		}
		if quiet++; loses || limit.dropped.Load() != dropped || !isAlone {
			quiet = 0
		}
		lost = now
	}
	return lost
}

// watchReads waits, and returns the allowance of a port that is alone, by what was read meanwhile.
func watchReads(ctx context.Context, d time.Duration, read func() uint64) uint32 {
	began, before := time.Now(), read()
	wait(ctx, d)
	return mostAlone(read()-before, time.Since(began))
}

// mostAlone is the allowance of a port that is alone, if n packets were read in a time.
func mostAlone(n uint64, d time.Duration) uint32 {
	slice := n << sliceBits / uint64(max(d, 1))
	return uint32(max(aloneLeast, min(slice*(alonePart-1)/alonePart, unlimited)))
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
