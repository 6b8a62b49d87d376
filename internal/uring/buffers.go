package uring

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffers are pieces of memory of equal size that multishot reads fill. The kernel takes them in the order in which they
// were provided, one for each read. After the Completion of the read, the caller owns the buffer until it provides it again.
type Buffers struct {
	group  uint16
	stride int
	size   int
	memory []byte
	ringM  []byte
	ring   []buf
	tail   uint16
	lent   bool // memory is another group's
}

// NewBuffers registers buffer group group with n buffers, a power of two, of size bytes each. No buffer is provided yet.
func (r *Ring) NewBuffers(group uint16, n, size int) (*Buffers, error) {
	// The stride is an odd number of cache lines, so that the buffers' first lines do not compete for one set of the cache.
	b := &Buffers{group: group, size: size, stride: ((size+63)/64 | 1) * 64}
	var err error
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if b.memory, err = unix.Mmap(-1, 0, n*b.stride, prot, flags); err != nil {
		return nil, fmt.Errorf("uring: memory for %d buffers: %w", n, err)
	}
	_ = unix.Madvise(b.memory, unix.MADV_HUGEPAGE) // saves TLB entries, if the kernel has huge pages
	if err := r.registerGroup(b, n); err != nil {
		b.Free()
		return nil, err
	}
	return b, nil
}

// NewGroup registers a further group for the buffers of b: a buffer is provided to one of the groups at a time.
func (r *Ring) NewGroup(b *Buffers, group uint16) (*Buffers, error) {
	g := &Buffers{group: group, size: b.size, stride: b.stride, memory: b.memory, lent: true}
	if err := r.registerGroup(g, len(b.ring)); err != nil {
		g.Free()
		return nil, err
	}
	return g, nil
}

func (r *Ring) registerGroup(b *Buffers, n int) (err error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_POPULATE
	if b.ringM, err = unix.Mmap(-1, 0, n*int(unsafe.Sizeof(buf{})), prot, flags); err != nil {
		return fmt.Errorf("uring: memory for the buffer ring: %w", err)
	}
	b.ring = unsafe.Slice((*buf)(unsafe.Pointer(&b.ringM[0])), n)
	reg := bufReg{ringAddr: uint64(uintptr(unsafe.Pointer(&b.ringM[0]))), ringEntries: uint32(n), group: b.group}
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerPbufRing, uintptr(unsafe.Pointer(&reg)), 1, 0, 0)
	if errno != 0 {
		return fmt.Errorf("uring: registering buffers: %w", errno)
	}
	return nil
}

// Bytes returns the memory of buffer id.
//
//uvswitch:hot
func (b *Buffers) Bytes(id int) []byte {
	at := id * b.stride
	return b.memory[at : at+b.size : at+b.size]
}

// Owns reports whether p lies in one of the buffers.
//
//uvswitch:hot
func (b *Buffers) Owns(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))-uintptr(unsafe.Pointer(unsafe.SliceData(b.memory))) < uintptr(len(b.memory))
}

// Provide gives buffer id to the kernel; reads may fill it from the next Enter on, if Publish is called before.
//
//uvswitch:hot
func (b *Buffers) Provide(id int) {
	e := &b.ring[int(b.tail)&(len(b.ring)-1)]
	e.addr = uint64(uintptr(unsafe.Pointer(&b.memory[id*b.stride])))
	e.len = uint32(b.size)
	b.tail++
	if e == &b.ring[0] { // its id shares a word with the tail
		atomic.StoreUint32(&e.bidTail, uint32(id)|e.bidTail&0xffff0000)
	} else {
		e.bidTail = uint32(id)
	}
}

// Publish shows the kernel all buffers that were provided.
//
//uvswitch:hot
func (b *Buffers) Publish() {
	atomic.StoreUint32(&b.ring[0].bidTail, b.ring[0].bidTail&0xffff|uint32(b.tail)<<16)
}

// Free releases the memory. The ring must be closed before.
func (b *Buffers) Free() {
	if b.memory != nil && !b.lent {
		_ = unix.Munmap(b.memory)
	}
	if b.ringM != nil {
		_ = unix.Munmap(b.ringM)
	}
	b.memory, b.ringM = nil, nil
}
