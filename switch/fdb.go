package vswitch

import (
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

const (
	ways = 8 // entries per bucket: one cache line

	// Values in ages that are not ticks.
	ageStatic frame.Tick = ^frame.Tick(0)     // static: never ages, never moves
	ageSticky frame.Tick = ^frame.Tick(0) - 1 // sticky: learned or set, never ages, never moves

	// DefaultAgeing is how long a silent station stays known, in seconds (802.1D-2004, table 7-5).
	DefaultAgeing = 300
	// DefaultFDBSize is the number of stations that a network may have.
	DefaultFDBSize = 8192
)

// An FDB maps MACs to ports. It is set-associative: a bucket is one cache line of eight entries, and an entry is one
// word (MAC<<16 | port). A lookup is at most eight loads and never waits.
//
// Learning a known station on the same port writes at most its age, without a lock. All other changes (insert, move,
// remove, age) hold mu. A worker that finds mu held does not learn; the next frame of the station teaches again.
type FDB struct {
	buckets []bucket
	ages    []atomic.Uint32 // Tick of the last frame, ageStatic or ageSticky; parallel to the entries
	seed    uint64
	mask    uint64

	mu      sync.Mutex            // Lock 66
	perPort [frame.MaxPorts]int32 // entries per port; guarded by mu
	used    atomic.Int64
}

type bucket [ways]atomic.Uint64

// NewFDB returns a table for size stations; the number of buckets is rounded up to a power of two. With a secret seed
// nobody can choose MACs that hash to one bucket.
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

// Lookup returns the port of station m, or NoPort.
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

// Learned is the result of Learn.
type Learned uint8

const (
	Known   Learned = iota // known on the same port
	Added                  // a new station
	Moved                  // known on another port before
	Skipped                // not learned: the table was busy or the bucket full of static entries; the next frame teaches again
	Refused                // another port has the station by a static or sticky entry or a binding
)

// Learn records that station m sent on port p at time now. bound are the stations that are bound to a port; Learn
// looks at it only when a station is new or would move.
//
//uvswitch:hot
func (t *FDB) Learn(m frame.MAC, p frame.PortID, now frame.Tick, bound *Bindings) Learned {
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
				age.CompareAndSwap(a, uint32(now)) // a static entry that was just set must stay
			}
			return Known
		}
		break
	}
	return t.learnSlow(m, p, now, bound)
}

// WouldLearn returns what Learn would return, and changes nothing.
func (t *FDB) WouldLearn(m frame.MAC, p frame.PortID, bound *Bindings) Learned {
	was, ageless := frame.NoPort, false
	n := t.bucketOf(m)
	for i := range t.buckets[n] {
		if e := t.buckets[n][i].Load(); e>>16 == uint64(m) {
			was, ageless = frame.PortID(e), frame.Tick(t.ages[n*ways+uint64(i)].Load()) >= ageSticky
		}
	}
	switch {
	case was == p:
		return Known
	case bound.refuse(m, was, p), ageless:
		return Refused
	case was == frame.NoPort:
		return Added
	}
	return Moved
}

// learnSlow is the rare part of Learn: the station is new or has moved.
func (t *FDB) learnSlow(m frame.MAC, p frame.PortID, now frame.Tick, bound *Bindings) Learned {
	if bound.refuse(m, t.Lookup(m), p) {
		return Refused
	}
	return t.write(m, p, now, false)
}

// write inserts or moves an entry. With wait it waits for mu and may replace static and sticky entries; without, it
// returns Skipped if mu is held.
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
			return Skipped // all entries are static or sticky
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

// victim returns the entry of full bucket n to evict, or -1. It takes the oldest entry of the port that has most
// entries in the whole table. So a port that floods source MACs evicts its own entries.
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

// Set adds or replaces a static or sticky entry; neither ages or moves. It returns false if the bucket is full of
// such entries.
func (t *FDB) Set(m frame.MAC, p frame.PortID, sticky bool) bool {
	age := ageStatic
	if sticky {
		age = ageSticky
	}
	return t.write(m, p, age, true) != Skipped
}

// Delete removes station m and reports whether it existed.
func (t *FDB) Delete(m frame.MAC) bool {
	return t.remove(func(e Entry) bool { return e.MAC == m }) > 0
}

// Flush removes the entries of port p, or of all ports for NoPort, and returns how many. Static and sticky entries
// are removed only if all is true, for a port that is removed.
func (t *FDB) Flush(p frame.PortID, all bool) int {
	return t.remove(func(e Entry) bool { return (p == frame.NoPort || e.Port == p) && (all || !e.Static && !e.Sticky) })
}

// Age removes the stations that have sent nothing for ageing ticks before now, and returns how many.
func (t *FDB) Age(now, ageing frame.Tick) int {
	return t.remove(func(e Entry) bool { return !e.Static && !e.Sticky && now-e.LastSeen > ageing && now > e.LastSeen })
}

// An Entry describes one station of an FDB.
type Entry struct {
	MAC            frame.MAC
	Port           frame.PortID
	LastSeen       frame.Tick // Tick of the last frame; not valid when Static or Sticky
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

// Entries returns all entries, in the order of the table.
func (t *FDB) Entries() []Entry {
	var out []Entry
	for i := range t.ages {
		if e := t.buckets[i/ways][i%ways].Load(); e != 0 {
			out = append(out, t.entryAt(i, e))
		}
	}
	return out
}

// Used and Limit return the number of entries and the capacity.
func (t *FDB) Used() int  { return int(t.used.Load()) }
func (t *FDB) Limit() int { return len(t.ages) }
