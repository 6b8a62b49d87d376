package uplink

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A flood from outside to one port of the host would fill the TAP's queue, and what others are sent would be lost there. So the TAP has two queues.
// The program "way in" puts what a port receives into the bulk queue while the port receives many packets, and for a second more: so they keep their
// order. The switch reads the other queue first. So a flood keeps nobody's first packets waiting.
//
// Ports that receive many packets at once share the bulk queue. So, while a queue loses packets, the program "way in" drops what one port receives
// beyond an allowance for each slice of time, and fewer packets are many. The allowance is found by trial: it is halved while packets are still lost, and
// grows otherwise. Packets without a port, and later fragments, count together as one port. There is no allowance while the bulk queue has packets of
// one port alone, or of several that are published for one container.

const (
	sliceBits   = 22  // a slice is 1<<sliceBits ns: 4.2 ms
	manyPackets = 256 // more packets of a port in a slice are many: 60,000 in a second, and more than TCP streams of super-frames have
	manyLosing  = 64  // the same, while a queue loses packets
	bulkSlices  = 256 // for which a port that has received many packets keeps to the bulk queue

	queueCheck  = time.Second            // how often the queues are looked at while they lose nothing
	ownersTime  = 10 * time.Millisecond  // how often it is looked at whether a port is alone
	queueTrial  = 100 * time.Millisecond // how long an allowance is tried
	firstAllows = 108                    // packets in a slice
	leastAllows = 4
	mostAllows  = 1720           // from here on there is no limit
	unlimited   = math.MaxUint32 // not 0: the program counts ports only while there is an allowance
	aloneTimes  = 120            // for how many ownersTimes a port must have been alone
	quietTrials = 10             // without a loss and without a packet beyond the allowance, after which a port that is alone is no flood
)

// A queueLimit is what the way in reads, in a map of one entry.
type queueLimit struct {
	allows  atomic.Uint32 // packets to a port in a slice; 0: no limit
	owners  atomic.Uint32 // how often the owner of what goes to the bulk queue has changed since the last look
	dropped atomic.Uint64 // packets
	last    atomic.Uint32 // the owner that came last; a key of arrivals if there is no owner
	_       uint32
}

// arrived is a value of the map arrivals: the slice, the packets in it, the owner, and the slice until which the port keeps to the bulk queue. The owner
// is the port of the switch that the port is published for, with ownerBit; 0: not known, or several.
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

// GuardQueue keeps the TAP's queues free for everyone, until ctx is done.
func (u *Uplink) GuardQueue(ctx context.Context) {
	for lost := u.lostInQueue(0); wait(ctx, queueCheck); {
		if now := u.lostInQueue(lost); now != lost {
			lost = u.limitFlood(ctx, now)
		}
	}
}

// limitFlood limits what a port receives until the queues have lost nothing for long enough. lost is what they had lost before.
func (u *Uplink) limitFlood(ctx context.Context, lost uint64) uint64 {
	limit := u.maps.limit
	defer limit.allows.Store(0)
	allows, alone := uint32(firstAllows), aloneTimes-2 // two looks show whether others receive now
	const nobody = math.MaxUint32
	only := uint32(nobody) // the owner that is alone
	for quiet := 0; allows < mostAllows && quiet < quietTrials; {
		dropped := limit.dropped.Load()
		for range queueTrial / ownersTime {
			if alone >= aloneTimes {
				limit.allows.Store(unlimited)
			} else {
				limit.allows.Store(allows)
			}
			if !wait(ctx, ownersTime) {
				return lost
			}
			if owners, last := limit.owners.Swap(0), limit.last.Load(); owners > 0 {
				alone++
				if owners > 1 || only != nobody && last != only { // now, or since an earlier look
					alone = 0
				}
				only = last
			}
		}
		now := u.lostInQueue(lost)
		isAlone, loses := alone >= aloneTimes, now != lost
		switch {
		case isAlone:
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

// lostInQueue is how many packets the TAP's queues have lost; otherwise, if that cannot be read now.
func (u *Uplink) lostInQueue(otherwise uint64) uint64 {
	l, err := netlink.LinkByIndex(u.tapIdx)
	if err != nil || l.Attrs().Statistics == nil {
		return otherwise
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
