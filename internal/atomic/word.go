//go:build interleave

package atomic

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

type (
	Int32  = word[int32]
	Int64  = word[int64]
	Uint32 = word[uint32]
	Uint64 = word[uint64]
)

// Bools and pointers are not explored.
type Bool = atomic.Bool

type Pointer[T any] = atomic.Pointer[T]

type number interface {
	~int32 | ~int64 | ~uint32 | ~uint64
}

// A word is an atomic word whose operations Explore can order. Its layout is that of the number.
type word[T number] struct{ v T }

var operations sync.Mutex // one operation at a time

// do runs one operation, which may write. op returns the new value, and what the thread learns.
func do[T number](w *word[T], writes bool, op func(old T) (now T, seen uint64)) {
	e := exploring.Load()
	if e != nil {
		e.pause(unsafe.Pointer(w), writes)
	}
	operations.Lock()
	old := w.v
	now, seen := op(old)
	w.v = now
	operations.Unlock()
	if e != nil {
		e.done(unsafe.Pointer(w), uint64(old), uint64(now), seen, func() { w.v = old })
	}
}

func (w *word[T]) Load() (v T) {
	do(w, false, func(old T) (T, uint64) { v = old; return old, uint64(old) })
	return v
}

func (w *word[T]) Store(v T) { do(w, true, func(T) (T, uint64) { return v, 0 }) }

func (w *word[T]) Swap(v T) (was T) {
	do(w, true, func(old T) (T, uint64) { was = old; return v, uint64(old) })
	return was
}

func (w *word[T]) Add(d T) (v T) {
	do(w, true, func(old T) (T, uint64) { v = old + d; return v, uint64(v) })
	return v
}

func (w *word[T]) Or(mask T) (was T) {
	do(w, true, func(old T) (T, uint64) { was = old; return old | mask, uint64(old) })
	return was
}

func (w *word[T]) And(mask T) (was T) {
	do(w, true, func(old T) (T, uint64) { was = old; return old & mask, uint64(old) })
	return was
}

func (w *word[T]) CompareAndSwap(from, to T) (ok bool) {
	do(w, true, func(old T) (T, uint64) {
		if ok = old == from; ok {
			return to, 1
		}
		return old, 0
	})
	return ok
}
