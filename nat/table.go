package nat

import (
	"math/bits"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A table maps pairs of keys, which are tuples of one address family, to small numbers, its entries. An entry is found by either of its keys, one for each
// direction; a lookup returns the entry and the direction. The table has a fixed size and holds no pointer. It has more entries than its limit
// says: those that have ended are in the grace period, and take no room from new ones.
//
// A key can be in two buckets of sixteen words. A lookup therefore reads two cache lines at most and, as a rule,
// compares one entry. A word is
//
//	tag (what is left of 32 bits) | entry (as many bits as there are entries) | pending (1) | direction (1)
//
// and 0 when empty. Lookups skip pending words, so whoever finds an entry by its first key finds it by the second one, too, until the entry
// ends. The keys of an entry are
// written before its words. They change only after every worker has passed a batch boundary since the words were
// removed (see reclaim), so reading them needs no atomics.
//
// All operations are lock-free.
type table[A frame.Address] struct {
	buckets    []tableBucket
	keys       [][2]frame.TupleOf[A]
	link       []atomic.Uint32 // live, or the next entry of the free or retired list, +1
	free       atomic.Uint64   // head of the free list: ABA tag<<32 | entry+1
	retired    atomic.Uint64   // head of the retired list, likewise
	nextUnused atomic.Uint32   // entries from this one on were never used
	used       atomic.Int64
	ended      atomic.Int64 // entries in their grace period: neither used nor free
	most       int          // entries in use
	seed       uint64
	shift      uint // of the tag in a word
}

// tableBucket is a bucket: one cache line.
type tableBucket [16]atomic.Uint32

const (
	live    = 1 << 31 // value of link for an entry in use
	pending = 1 << 1  // this word is not visible to lookups yet

	// maxEntries leaves five bits for the tag: a lookup then compares half an entry more on average.
	maxEntries = 1<<25 - 2
)

// graceRoom is how many entries of a table with this limit may be in their grace period.
func graceRoom(limit int) int { return max(limit/32, 256) }

// newTable returns a table for the given number of entries in use, and grace more, at most maxEntries, in memory from alloc.
func newTable[A frame.Address](most, grace int, seed uint64, alloc Alloc) *table[A] {
	entries := min(most+grace, maxEntries)
	t := &table[A]{
		buckets: slab[tableBucket](alloc, (3*entries+len(tableBucket{})-1)/len(tableBucket{})), // two words an entry, two thirds full
		keys:    slab[[2]frame.TupleOf[A]](alloc, entries+1),
		link:    slab[atomic.Uint32](alloc, entries+1),
		most:    min(most, maxEntries),
		seed:    seed, shift: uint(bits.Len(uint(entries))) + 2,
	}
	t.nextUnused.Store(1) // entry 0 is not used: its word could be 0
	return t
}

// bucketsOf returns the two buckets of hash h. The low half of h selects the first by multiplication (Lemire, Fast
// Random Integer Generation in an Interval, 2019); the high half is the tag.
//
//uvswitch:hot
func (t *table[A]) bucketsOf(h uint64) (a, b *tableBucket) {
	n := uint64(len(t.buckets))
	i := h & 0xffffffff * n >> 32
	j := h * 0x9e3779b97f4a7c15 >> 32 * n >> 32
	return &t.buckets[i], &t.buckets[j]
}

//uvswitch:hot
func (t *table[A]) word(h uint64, e uint32, dir uint8) uint32 {
	return uint32(h>>32)>>t.shift<<t.shift | e<<2 | uint32(dir)
}

//uvswitch:hot
func (t *table[A]) unword(w uint32) (e uint32, dir uint8) {
	return w & (1<<t.shift - 1) >> 2, uint8(w & 1)
}

// lookup finds k, whose hash is h.
//
//uvswitch:hot
func (t *table[A]) lookup(k *frame.TupleOf[A], h uint64) (e uint32, dir uint8, ok bool) {
	a, b := t.bucketsOf(h)
	if e, dir, ok = t.lookIn(a, k, uint32(h>>32)); ok {
		return e, dir, true
	}
	return t.lookIn(b, k, uint32(h>>32))
}

//uvswitch:hot
func (t *table[A]) lookIn(b *tableBucket, k *frame.TupleOf[A], tag uint32) (e uint32, dir uint8, ok bool) {
	for i := range b {
		if w := b[i].Load(); (w^tag)>>t.shift == 0 && w != 0 && w&pending == 0 {
			if e, dir = t.unword(w); t.keys[e][dir] == *k {
				return e, dir, true
			}
		}
	}
	return 0, 0, false
}

// outcome is the result of an insertion or a probe.
type outcome uint8

const (
	inserted outcome = iota
	exists           // another entry, which is returned, has the first key
	clash            // another entry has the second key
	busy             // another worker is inserting the same key
	full             // no free entry, or no empty word in the buckets
	refused          // the owner has its share of the table
)

// probe returns whether k is in the table (exists), is being inserted (busy), or neither (inserted). Callers probe
// before they spend an entry on k.
func (t *table[A]) probe(k frame.TupleOf[A]) outcome {
	_, _, _, out := t.scan(&k, k.Hash(t.seed), 0)
	return out
}

// alloc takes a free entry and sets its keys.
func (t *table[A]) alloc(k0, k1 frame.TupleOf[A]) (uint32, bool) {
	if t.used.Load() >= int64(t.most) {
		return 0, false
	}
	e, ok := t.pop(&t.free)
	if !ok {
		if t.nextUnused.Load() >= uint32(len(t.keys)) {
			return 0, false
		}
		if e = t.nextUnused.Add(1) - 1; e >= uint32(len(t.keys)) {
			t.nextUnused.Store(uint32(len(t.keys)))
			return 0, false
		}
	}
	t.keys[e] = [2]frame.TupleOf[A]{k0, k1}
	return e, true
}

// insert makes entry e, from alloc, visible under its second key and then under its first one, or under neither. When another entry has the
// first key, insert returns that entry. An entry that was not inserted goes to the retired list, because other
// workers may have seen its pending words.
func (t *table[A]) insert(e uint32) (uint32, uint8, outcome) {
	h0, h1 := t.keys[e][0].Hash(t.seed), t.keys[e][1].Hash(t.seed)
	p0, other, dir, out := t.place(e, 0, h0)
	if out != inserted {
		t.bury(e)
		return other, dir, out
	}
	p1, _, _, out := t.place(e, 1, h1)
	if out != inserted {
		p0.Store(0)
		t.bury(e)
		if out == exists {
			out = clash
		}
		return 0, 0, out
	}
	t.used.Add(1)
	p1.Store(t.word(h1, e, 1))
	p0.Store(t.word(h0, e, 0))
	t.link[e].Store(live) // last: unlink finds both words or leaves the entry alone
	return e, 0, inserted
}

// place claims an empty word for one key and marks it pending. Then it looks for the key again: when two workers
// claim words for the same key at the same time, at least one sees the word of the other and withdraws its own.
func (t *table[A]) place(e uint32, dir uint8, h uint64) (at *atomic.Uint32, other uint32, odir uint8, out outcome) {
	w := t.word(h, e, dir) | pending
	for range 4 {
		empty, o, d, state := t.scan(&t.keys[e][dir], h, w)
		if state != inserted {
			return nil, o, d, state
		}
		if empty == nil {
			return nil, 0, 0, full
		}
		if !empty.CompareAndSwap(0, w) {
			continue
		}
		_, o, d, state = t.scan(&t.keys[e][dir], h, w)
		if state == inserted {
			return empty, 0, 0, inserted
		}
		empty.Store(0)
		if state == exists {
			return nil, o, d, exists
		}
	}
	return nil, 0, 0, busy
}

// scan looks for a word of key k other than self, including pending words, and for an empty word. It takes the empty
// word from the emptier bucket, so that no bucket overflows before the entries are used up.
func (t *table[A]) scan(k *frame.TupleOf[A], h uint64, self uint32) (empty *atomic.Uint32, e uint32, dir uint8, out outcome) {
	a, b := t.bucketsOf(h)
	out = inserted
	most := 0
	for _, bucket := range [2]*tableBucket{a, b} {
		var first *atomic.Uint32
		free := 0
		for i := range bucket {
			p := &bucket[i]
			w := p.Load()
			if w == 0 {
				if free++; first == nil {
					first = p
				}
				continue
			}
			if (w^uint32(h>>32))>>t.shift != 0 || w == self {
				continue
			}
			if oe, od := t.unword(w); t.keys[oe][od] == *k {
				if w&pending == 0 {
					return nil, oe, od, exists
				}
				out = busy
			}
		}
		if free > most {
			empty, most = first, free
		}
	}
	return empty, 0, 0, out
}

// unlink removes entry e from the table and puts it on the retired list. It returns false when another caller has
// removed it.
func (t *table[A]) unlink(e uint32) bool {
	if !t.link[e].CompareAndSwap(live, 0) {
		return false
	}
	for dir := range uint8(2) {
		h := t.keys[e][dir].Hash(t.seed)
		w := t.word(h, e, dir)
		a, b := t.bucketsOf(h)
		for i := range a {
			if a[i].Load() == w { // a write would take the cache line from others
				a[i].CompareAndSwap(w, 0)
			}
			if b[i].Load() == w {
				b[i].CompareAndSwap(w, 0)
			}
		}
	}
	t.used.Add(-1)
	t.bury(e)
	return true
}

// bury puts an entry on the retired list.
func (t *table[A]) bury(e uint32) {
	t.ended.Add(1)
	t.push(&t.retired, e)
}

// isLive reports whether e is in use.
//
//uvswitch:hot
func (t *table[A]) isLive(e uint32) bool { return t.link[e].Load() == live }

// retire takes the whole retired list. Pass it to reclaim after a grace period: when every worker has passed a batch
// boundary.
func (t *table[A]) retire() uint64 { return t.retired.Swap(0) }

// reclaim moves the entries of a retired list to the free list, after a call of freed for each.
func (t *table[A]) reclaim(list uint64, freed func(e uint32)) {
	n := int64(0)
	for e := uint32(list); e != 0; n++ {
		next := t.link[e-1].Load()
		freed(e - 1)
		t.push(&t.free, e-1)
		e = next
	}
	t.ended.Add(-n)
}

// manyEnded reports whether so many entries are in their grace period that it should end soon.
//
//uvswitch:hot
func (t *table[A]) manyEnded() bool { return t.ended.Load() > int64(graceRoom(t.most)/8) }

func (t *table[A]) push(head *atomic.Uint64, e uint32) {
	for {
		old := head.Load()
		t.link[e].Store(uint32(old))
		if head.CompareAndSwap(old, (old>>32+1)<<32|uint64(e+1)) {
			return
		}
	}
}

func (t *table[A]) pop(head *atomic.Uint64) (uint32, bool) {
	for {
		old := head.Load()
		if uint32(old) == 0 {
			return 0, false
		}
		e := uint32(old) - 1
		next := t.link[e].Load()
		if head.CompareAndSwap(old, (old>>32+1)<<32|uint64(next&^live)) {
			return e, true
		}
	}
}

// highWater is one above the highest entry ever used: a walk visits 1 to highWater()-1.
func (t *table[A]) highWater() uint32 { return min(t.nextUnused.Load(), uint32(len(t.keys))) }

// limit returns the maximum number of entries in use.
func (t *table[A]) limit() int { return t.most }
