// Package ring is a bounded queue of byte records between exactly one producer and one consumer. With it a worker passes
// copies of frames to the slow path or to a capture, and the slow path passes frames back.
//
// A Queue never blocks and never grows: Reserve refuses a record that does not fit, and the producer counts it. A Queue
// wakes nobody; a consumer that waits must be woken by other means.
package ring

import (
	"encoding/binary"
	"sync/atomic"
)

const (
	lenBytes = 8 // bytes that hold a record's length and, at holderAt, its port; padded so that records stay aligned
	holderAt = 4
	skip     = 0xffffffff // in place of a length: the rest of the buffer is unused; continue at its start
)

// A Queue holds records in a circular buffer. head and tail only grow; their difference is the number of bytes in use.
type Queue struct {
	buf  []byte
	mask uint64
	_    [40]byte
	head atomic.Uint64 // next byte to write; set by the producer
	_    [56]byte
	tail atomic.Uint64 // next byte to read; set by the consumer
}

// space is how many bytes of the buffer a record of n bytes takes.
func space(n int) int { return lenBytes + (n+7)&^7 }

// New returns a queue of size bytes. It panics unless size is a power of two and at least 64.
func New(size int) *Queue {
	if size&(size-1) != 0 || size < 64 {
		panic("ring: size must be a power of two, 64 at least")
	}
	return &Queue{buf: make([]byte, size), mask: uint64(size - 1)}
}

// Reserve returns n bytes for a record, to be filled before Commit, or nil if they do not fit. Only the producer may call it.
//
//uvswitch:hot
func (r *Queue) Reserve(n int) []byte {
	need := uint64(space(n))
	head, tail := r.head.Load(), r.tail.Load()
	at := head & r.mask
	if rest := uint64(len(r.buf)) - at; rest < need {
		if uint64(len(r.buf))-(head-tail) < rest+need {
			return nil
		}
		binary.NativeEndian.PutUint32(r.buf[at:], skip)
		r.head.Store(head + rest)
		at = 0
	} else if uint64(len(r.buf))-(head-tail) < need {
		return nil
	}
	binary.NativeEndian.PutUint32(r.buf[at:], uint32(n))
	return r.buf[at+lenBytes : at+lenBytes+uint64(n)]
}

// Commit makes the record that was reserved last visible to the consumer. Only the producer may call it.
//
//uvswitch:hot
func (r *Queue) Commit() {
	head := r.head.Load()
	n := binary.NativeEndian.Uint32(r.buf[head&r.mask:])
	r.head.Store(head + uint64(space(int(n))))
}

// Empty reports whether the consumer has released every record. Anyone may call it.
//
//uvswitch:hot
func (r *Queue) Empty() bool { return r.tail.Load() == r.head.Load() }

// Peek returns the oldest record, or nil if there is none. The record stays valid until Release. Only the consumer may
// call Peek.
//
//uvswitch:hot
func (r *Queue) Peek() []byte {
	for {
		tail := r.tail.Load()
		if tail == r.head.Load() {
			return nil
		}
		at := tail & r.mask
		n := binary.NativeEndian.Uint32(r.buf[at:])
		if n == skip {
			r.tail.Store(tail + uint64(len(r.buf)) - at)
			continue
		}
		return r.buf[at+lenBytes : at+lenBytes+uint64(n)]
	}
}

// Release frees the space of the record that Peek returned. Only the consumer may call it.
//
//uvswitch:hot
func (r *Queue) Release() {
	tail := r.tail.Load()
	n := binary.NativeEndian.Uint32(r.buf[tail&r.mask:])
	r.tail.Store(tail + uint64(space(int(n))))
}
