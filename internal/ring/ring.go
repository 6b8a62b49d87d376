// Package ring is a bounded queue of byte records between exactly one producer and one consumer: how a worker
// hands copies of frames to the housekeeper or to a capture, and how the housekeeper hands frames back.
//
// It never blocks and never grows: what does not fit is refused, and the producer counts it. It wakes nobody;
// whoever needs that does it beside the ring.
package ring

import (
	"encoding/binary"
	"sync/atomic"
)

const (
	lenBytes = 8          // a record's length, padded so that records stay aligned
	skip     = 0xffffffff // the rest of the buffer is unused: go on at its beginning
)

// A Ring holds records in a circular buffer. Head and tail only grow; their difference is what is in use.
type Queue struct {
	buf  []byte
	mask uint64
	_    [40]byte
	head atomic.Uint64 // next byte to write; the producer's
	_    [56]byte
	tail atomic.Uint64 // next byte to read; the consumer's
}

// New makes a ring of size bytes, which must be a power of two.
func New(size int) *Queue {
	if size&(size-1) != 0 || size < 64 {
		panic("ring: size must be a power of two, 64 at least")
	}
	return &Queue{buf: make([]byte, size), mask: uint64(size - 1)}
}

// Reserve returns n bytes to fill before Commit, or nil when they do not fit. Only the producer may call it.
//
//uvswitch:hot
func (r *Queue) Reserve(n int) []byte {
	need := uint64(lenBytes + (n+7)&^7)
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

// Commit makes the record last reserved visible. Only the producer may call it.
//
//uvswitch:hot
func (r *Queue) Commit() {
	head := r.head.Load()
	n := binary.NativeEndian.Uint32(r.buf[head&r.mask:])
	r.head.Store(head + lenBytes + (uint64(n)+7)&^7)
}

// Peek returns the oldest record, or nil when there is none. It stays valid until Release. Only the consumer may
// call it.
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

// Release gives the space of the record last peeked at back to the producer. Only the consumer may call it.
//
//uvswitch:hot
func (r *Queue) Release() {
	tail := r.tail.Load()
	n := binary.NativeEndian.Uint32(r.buf[tail&r.mask:])
	r.tail.Store(tail + lenBytes + (uint64(n)+7)&^7)
}
