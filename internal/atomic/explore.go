//go:build interleave

package atomic

import (
	"fmt"
	"hash/maphash"
	"iter"
	"strings"
	"sync/atomic"
	"unsafe"
)

// longestSpin is how many operations a thread may run while others wait. A thread that waits for another one would else run for ever.
const longestSpin = 80

var exploring atomic.Pointer[explorer]

// Explore runs the threads once for every order of their atomic operations, one operation at a time, and check after each run. It returns the
// number of runs, and the first error of check with the order that led to it. Before the next run, every word is what it was before the
// first one. Memory that is not atomic must follow from the words, and from what the threads have seen of them.
//
// Orders that lead to the same state are run once. The state is the words, and what each thread has seen so far (stateful model checking, as
// in Godefroid, Model Checking for Programming Languages using VeriSoft, 1997). Operations on a word that no other thread writes, or that no
// other thread uses, have no order. If preemptions is not 0, it limits how often a run leaves a thread that could go on.
func Explore(threads []func(), preemptions int, check func() error) (runs int, err error) {
	e := &explorer{preemptions: preemptions, visited: map[uint64]int{}, first: map[unsafe.Pointer]func(){}, uses: map[unsafe.Pointer]*use{}}
	defer exploring.Store(nil)
	for {
		complete := e.run(threads)
		if runs++; complete {
			if err := check(); err != nil {
				return runs, fmt.Errorf("%w\nafter operations of threads %s", err, e.order())
			}
		}
		for _, restore := range e.first {
			restore()
		}
		clear(e.first)
		if e.learned { // operations that had no order have one
			e.learned, e.path = false, nil
			clear(e.visited)
			continue
		}
		for len(e.path) > 0 && e.path[len(e.path)-1].next == len(e.path[len(e.path)-1].threads) {
			e.path = e.path[:len(e.path)-1]
		}
		if len(e.path) == 0 {
			return runs, nil
		}
	}
}

// An explorer goes through the orders, depth first.
type explorer struct {
	preemptions int
	visited     map[uint64]int // by state: preemptions that were left, +1
	path        []choice       // taken in this run and, up to where it is repeated, in the last one
	taken       []int          // threads that ran, in order
	first       map[unsafe.Pointer]func()
	memory      uint64 // hash of all words that have changed in this run
	uses        map[unsafe.Pointer]*use
	learned     bool // uses has grown
	threads     []*thread
	running     *thread
}

// A choice is a state in which one of several threads may run. The one before next is running.
type choice struct {
	threads []int
	next    int
}

// A use is which threads have used a word, and which ones have written it, in any run: a bit for each.
type use struct{ used, written uint }

type thread struct {
	bit    uint
	resume func() (struct{}, bool)
	yield  func(struct{}) bool
	seen   uint64 // hash of what it has seen
	ended  bool
}

// run runs the threads once, along the path and further. It reports whether it got to a state that is new, and so to an end that is.
func (e *explorer) run(threads []func()) (complete bool) {
	e.memory, e.threads, e.taken = 0, nil, e.taken[:0]
	for i, fn := range threads {
		t := &thread{bit: 1 << i}
		t.resume, _ = iter.Pull(func(yield func(struct{}) bool) {
			t.yield = yield
			fn()
		})
		e.threads = append(e.threads, t)
	}
	exploring.Store(e)
	defer exploring.Store(nil)
	for _, t := range e.threads { // to before its first operation
		e.step(t)
	}
	pruned, left := false, e.preemptions
	for depth, spin, last := 0, 0, -1; ; depth++ {
		goesOn := last >= 0 && !e.threads[last].ended
		can := make([]int, 0, len(threads))
		if goesOn && spin < longestSpin {
			can = append(can, last)
		}
		for i, t := range e.threads {
			if !t.ended && i != last && (e.preemptions == 0 || left > 0 || !goesOn || spin >= longestSpin) {
				can = append(can, i)
			}
		}
		if len(can) == 0 && !goesOn {
			return !pruned
		}
		if len(can) == 0 {
			can = append(can, last)
		}
		next := can[depth%len(can)] // of a run that is only brought to its end
		if !pruned && depth == len(e.path) {
			state := e.state()
			if e.preemptions > 0 { // then it matters who runs: to go on is no preemption
				state = mix(state, uint64(last+1))
			}
			if pruned = e.visited[state] > left; !pruned {
				e.visited[state] = left + 1
				e.path = append(e.path, choice{threads: can})
			}
		}
		if !pruned {
			c := &e.path[depth]
			if depth == len(e.path)-1 {
				c.next++
			}
			next = c.threads[c.next-1]
			e.taken = append(e.taken, next)
		}
		if next == last {
			spin++
		} else {
			if goesOn && e.preemptions > 0 && spin < longestSpin {
				left--
			}
			spin, last = 0, next
		}
		e.step(e.threads[next])
	}
}

// step lets a thread run its next operation, and what follows up to the one after it.
func (e *explorer) step(t *thread) {
	e.running = t
	_, more := t.resume()
	t.ended = !more
}

// pause is called by the running thread before an operation. It returns when it is the operation's turn.
func (e *explorer) pause(at unsafe.Pointer, writes bool) {
	t, u := e.running, e.uses[at]
	if u == nil {
		u = &use{}
		e.uses[at] = u
	}
	if u.used&t.bit == 0 || writes && u.written&t.bit == 0 {
		e.learned = e.learned || u.used&^t.bit != 0 && (writes || u.written != 0)
		if u.used |= t.bit; writes {
			u.written |= t.bit
		}
	}
	if u.written&^t.bit != 0 || writes && u.used&^t.bit != 0 {
		t.yield(struct{}{})
	}
}

// done is called by the running thread after an operation.
func (e *explorer) done(at unsafe.Pointer, old, now, seen uint64, restore func()) {
	if e.first[at] == nil {
		e.first[at] = restore
	}
	e.memory ^= mix(uint64(uintptr(at)), old) ^ mix(uint64(uintptr(at)), now)
	e.running.seen = mix(e.running.seen, seen)
}

func (e *explorer) state() uint64 {
	h := e.memory
	for _, t := range e.threads {
		h = mix(h, t.seen)
		if t.ended {
			h++
		}
	}
	return h
}

// order is the threads of the last run, with the number of operations that each ran in turn.
func (e *explorer) order() string {
	var b strings.Builder
	for i := 0; i < len(e.taken); {
		n := 1
		for i+n < len(e.taken) && e.taken[i+n] == e.taken[i] {
			n++
		}
		fmt.Fprintf(&b, " %d×%d", e.taken[i], n)
		i += n
	}
	return b.String()
}

func mix(a, b uint64) uint64 { return maphash.Comparable(seed, [2]uint64{a, b}) }

var seed = maphash.MakeSeed()
