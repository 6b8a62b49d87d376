package uring

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffers are equal pieces of memory that multishot reads fill. The kernel takes them in the order in which they
// were provided, one for each read; whoever has seen the Completion owns the buffer until it is provided again.
type Buffers struct {
	group  uint16
	stride int
	size   int
	memory []byte
	ringM  []byte
	ring   []buf
	tail   uint16
}

// NewBuffers registers group with room for n buffers, a power of two, of size bytes each. None is provided yet.
func (r *Ring) NewBuffers(group uint16, n, size int) (*Buffers, error) {
	// An odd number of cache lines apart, so that their beginnings do not compete for one set of the cache.
	b := &Buffers{group: group, size: size, stride: ((size+63)/64 | 1) * 64}
	var err error
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if b.memory, err = unix.Mmap(-1, 0, n*b.stride, prot, flags); err != nil {
		return nil, fmt.Errorf("uring: memory for %d buffers: %w", n, err)
	}
	_ = unix.Madvise(b.memory, unix.MADV_HUGEPAGE) // fewer page table entries, where the kernel gives them
	if b.ringM, err = unix.Mmap(-1, 0, n*int(unsafe.Sizeof(buf{})), prot, flags|unix.MAP_POPULATE); err != nil {
		b.Free()
		return nil, fmt.Errorf("uring: memory for the buffer ring: %w", err)
	}
	b.ring = unsafe.Slice((*buf)(unsafe.Pointer(&b.ringM[0])), n)
	reg := bufReg{ringAddr: uint64(uintptr(unsafe.Pointer(&b.ringM[0]))), ringEntries: uint32(n), group: group}
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerPbufRing, uintptr(unsafe.Pointer(&reg)), 1, 0, 0)
	if errno != 0 {
		b.Free()
		return nil, fmt.Errorf("uring: registering buffers: %w", errno)
	}
	return b, nil
}

// Bytes is buffer id's memory.
//
//uvswitch:hot
func (b *Buffers) Bytes(id int) []byte {
	at := id * b.stride
	return b.memory[at : at+b.size : at+b.size]
}

// Owns tells whether p lies in a buffer.
//
//uvswitch:hot
func (b *Buffers) Owns(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))-uintptr(unsafe.Pointer(unsafe.SliceData(b.memory))) < uintptr(len(b.memory))
}

// Provide gives buffer id to the reads, from the next Enter on.
//
//uvswitch:hot
func (b *Buffers) Provide(id int) {
	e := &b.ring[int(b.tail)&(len(b.ring)-1)]
	e.addr = uint64(uintptr(unsafe.Pointer(&b.memory[id*b.stride])))
	e.len = uint32(b.size)
	b.tail++
	if e != &b.ring[0] { // the first one's id shares its word with the tail
		e.bidTail = uint32(id)
		id = int(uint16(b.ring[0].bidTail))
	}
	atomic.StoreUint32(&b.ring[0].bidTail, uint32(id)|uint32(b.tail)<<16)
}

// Free gives the memory back; the ring must be closed.
func (b *Buffers) Free() {
	for _, m := range [][]byte{b.memory, b.ringM} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	b.memory, b.ringM = nil, nil
}
