package nat

import "unsafe"

// Alloc gives n bytes of zeroed memory, aligned to a cache line at least, that is never given back. The tables live in
// it; they hold no pointers.
type Alloc func(n int) []byte

// slab is n values of a type without pointers. Without alloc they come from the heap.
func slab[T any](alloc Alloc, n int) []T {
	if alloc == nil {
		return make([]T, n)
	}
	var v T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(alloc(n*int(unsafe.Sizeof(v)))))), n)
}
