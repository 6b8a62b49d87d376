//go:build !interleave

// Package atomic is sync/atomic, for the tables that several workers change at once. With the build tag interleave, tests run threads over
// these tables in every order of their atomic operations: see Explore.
package atomic

import "sync/atomic"

type (
	Int32  = atomic.Int32
	Int64  = atomic.Int64
	Uint32 = atomic.Uint32
	Uint64 = atomic.Uint64
)

// Bools and pointers are not explored.
type Bool = atomic.Bool

type Pointer[T any] = atomic.Pointer[T]
