package vswitch

import (
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

const (
	ways = 8 // entries per bucket: one cache line

	// Values of an age word that are no tick.
	ageStatic frame.Tick = ^frame.Tick(0)     // never ages, never moves
	ageSticky frame.Tick = ^frame.Tick(0) - 1 // never ages, was learned or set, never moves

	// DefaultAgeing is how long an unheard station stays known (802.1D-2004, table 7-5: 300 s).
	DefaultAgeing = 300
	// DefaultFDBSize is how many stations a network may have.
	DefaultFDBSize = 8192
)

// An FDB maps MACs to ports: set-associative, one cache line of eight entries per bucket, an entry one word
// (MAC<<16 | port). A look-up is at most eight loads and never waits.
//
// Learning a station that is already known writes at most its age, without a lock. Everything else (insert, move,
// remove, age) holds mu; a learner that finds it held leaves it, since the station's next frame teaches again.
type FDB struct {
	buckets []bucket
	ages    []atomic.Uint32 // when last heard, a Tick; parallel to the entries
	seed    uint64
	mask    uint64

	mu      sync.Mutex
	perPort [frame.MaxPorts]int32 // entries per port; under mu
	used    atomic.Int64
}

type bucket [ways]atomic.Uint64

// NewFDB makes a table for size stations, rounded up to a power of two. The seed keeps what hashes where from
// being guessed.
func NewFDB(size int, seed uint64) *FDB {
	n := 1
	for n*ways < size {
		n *= 2
	}
	return &FDB{buckets: make([]bucket, n), ages: make([]atomic.Uint32, n*ways), seed: seed, mask: uint64(n - 1)}
}

//uvswitch:hot
func entry(m frame.MAC, p frame.PortID) uint64 { return uint64(m)<<16 | uint64(p) }

//uvswitch:hot
func (t *FDB) bucketOf(m frame.MAC) uint64 {
	return frame.Mix(uint64(m)^t.seed, 0x9e3779b97f4a7c15) & t.mask
}

// Lookup returns the port behind which m was heard, or NoPort.
//
//uvswitch:hot
func (t *FDB) Lookup(m frame.MAC) frame.PortID {
	b := &t.buckets[t.bucketOf(m)]
	for i := range b {
		if e := b[i].Load(); e>>16 == uint64(m) {
			return frame.PortID(e)
		}
	}
	return frame.NoPort
}

// Learned tells what Learn found.
type Learned uint8

const (
	Known   Learned = iota // same port as before
	Added                  // a new station
	Moved                  // known, and now behind another port
	Skipped                // the table was busy; the next frame teaches again
	Refused                // the station is static, sticky or bound behind another port
)

// Learn notes that m was heard on port p at time now. bound are the stations that are held to one port: it is asked
// only when a station is new or would move.
//
//uvswitch:hot
func (t *FDB) Learn(m frame.MAC, p frame.PortID, now frame.Tick, bound Bindings) Learned {
	n := t.bucketOf(m)
	b := &t.buckets[n]
	for i := range b {
		e := b[i].Load()
		if e>>16 != uint64(m) {
			continue
		}
		age := &t.ages[n*ways+uint64(i)]
		if frame.PortID(e) == p {
			if a := age.Load(); a != uint32(now) && frame.Tick(a) < ageSticky {
				age.CompareAndSwap(a, uint32(now)) // not over a static entry that was just made
			}
			return Known
		}
		break
	}
	return t.learnSlow(m, p, now, bound)
}

// WouldLearn is Learn's answer, without its effect.
func (t *FDB) WouldLearn(m frame.MAC, p frame.PortID, bound Bindings) Learned {
	was, ageless := frame.NoPort, false
	n := t.bucketOf(m)
	for i := range t.buckets[n] {
		if e := t.buckets[n][i].Load(); e>>16 == uint64(m) {
			was, ageless = frame.PortID(e), frame.Tick(t.ages[n*ways+uint64(i)].Load()) >= ageSticky
		}
	}
	at, isBound := bound[m]
	switch {
	case was == p:
		return Known
	case isBound && at != p, ageless:
		return Refused
	case was == frame.NoPort:
		return Added
	}
	return Moved
}

// place is the rare part of Learn: a station that is new or has moved.
func (t *FDB) learnSlow(m frame.MAC, p frame.PortID, now frame.Tick, bound Bindings) Learned {
	if at, ok := bound[m]; ok && at != p {
		return Refused
	}
	return t.write(m, p, now, false)
}

// write inserts or moves, under TryLock unless it may wait.
func (t *FDB) write(m frame.MAC, p frame.PortID, age frame.Tick, wait bool) Learned {
	if wait {
		t.mu.Lock()
	} else if !t.mu.TryLock() {
		return Skipped
	}
	defer t.mu.Unlock()
	n := t.bucketOf(m)
	b := &t.buckets[n]
	free := -1
	for i := range b {
		e := b[i].Load()
		if e == 0 && free < 0 {
			free = i
		}
		if e>>16 == uint64(m) {
			was := frame.PortID(e)
			if !wait && was != p && frame.Tick(t.ages[n*ways+uint64(i)].Load()) >= ageSticky {
				return Refused
			}
			b[i].Store(entry(m, p))
			t.ages[n*ways+uint64(i)].Store(uint32(age))
			t.perPort[was]--
			t.perPort[p]++
			if was == p {
				return Known
			}
			return Moved
		}
	}
	if free < 0 {
		if free = t.victim(n); free < 0 {
			return Skipped // all static
		}
		t.perPort[frame.PortID(b[free].Load())]--
		t.used.Add(-1)
	}
	t.ages[n*ways+uint64(free)].Store(uint32(age))
	b[free].Store(entry(m, p))
	t.perPort[p]++
	t.used.Add(1)
	return Added
}

// victim chooses which of a full bucket's entries goes: one of the port that holds most in the whole table, the
// oldest of those. So a port that floods addresses pushes out its own.
func (t *FDB) victim(n uint64) int {
	best, most, oldest := -1, int32(-1), frame.Tick(0)
	for i := range t.buckets[n] {
		age := frame.Tick(t.ages[n*ways+uint64(i)].Load())
		if age >= ageSticky {
			continue
		}
		held := t.perPort[frame.PortID(t.buckets[n][i].Load())]
		if held > most || held == most && age < oldest {
			best, most, oldest = i, held, age
		}
	}
	return best
}

// Set adds or replaces an entry by hand: static or sticky, neither of which ages or moves.
func (t *FDB) Set(m frame.MAC, p frame.PortID, sticky bool) bool {
	age := ageStatic
	if sticky {
		age = ageSticky
	}
	return t.write(m, p, age, true) != Skipped
}

// Delete removes m and tells whether it was there.
func (t *FDB) Delete(m frame.MAC) bool {
	return t.remove(func(e Entry) bool { return e.MAC == m }) > 0
}

// Flush removes the entries of port p (all ports when NoPort), static ones only with the port itself (all true).
func (t *FDB) Flush(p frame.PortID, all bool) int {
	return t.remove(func(e Entry) bool { return (p == frame.NoPort || e.Port == p) && (all || !e.Static && !e.Sticky) })
}

// Age removes the stations not heard for ageing ticks before now, and returns how many.
func (t *FDB) Age(now, ageing frame.Tick) int {
	return t.remove(func(e Entry) bool { return !e.Static && !e.Sticky && now-e.LastSeen > ageing && now > e.LastSeen })
}

// Entry is one station, as listed.
type Entry struct {
	MAC            frame.MAC
	Port           frame.PortID
	LastSeen       frame.Tick // when last heard; meaningless when Static or Sticky
	Static, Sticky bool
}

func (t *FDB) remove(which func(Entry) bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for i := range t.ages {
		slot := &t.buckets[i/ways][i%ways]
		e := slot.Load()
		if e != 0 && which(t.entryAt(i, e)) {
			slot.Store(0)
			t.perPort[frame.PortID(e)]--
			t.used.Add(-1)
			n++
		}
	}
	return n
}

func (t *FDB) entryAt(i int, e uint64) Entry {
	age := frame.Tick(t.ages[i].Load())
	return Entry{MAC: frame.MAC(e >> 16), Port: frame.PortID(e), LastSeen: age, Static: age == ageStatic, Sticky: age == ageSticky}
}

// Entries lists what is known, in the table's order.
func (t *FDB) Entries() []Entry {
	var out []Entry
	for i := range t.ages {
		if e := t.buckets[i/ways][i%ways].Load(); e != 0 {
			out = append(out, t.entryAt(i, e))
		}
	}
	return out
}

// Used and Limit are the number of entries and of places.
func (t *FDB) Used() int  { return int(t.used.Load()) }
func (t *FDB) Limit() int { return len(t.ages) }
