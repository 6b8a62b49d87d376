package nat

import "unsafe"

// An Alloc returns n bytes of zeroed memory, aligned to a cache line or more. The memory is never freed. The tables
// live in it and hold no pointers.
type Alloc func(n int) []byte

// slab returns n values of a type without pointers, in memory from alloc, or from the heap if alloc is nil.
func slab[T any](alloc Alloc, n int) []T {
	if alloc == nil {
		return make([]T, n)
	}
	var v T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(alloc(n*int(unsafe.Sizeof(v)))))), n)
}
