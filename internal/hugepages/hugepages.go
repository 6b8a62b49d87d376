// Package hugepages has memory for large tables: a look-up among a million entries misses the cache, and should not miss in the page tables,
// too.
package hugepages

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is the memory of some tables. It begins with small pages: a table with few entries costs little memory, and its first entry does not
// wait for 2 MiB of zeros. Grow changes to huge pages what is in use. The memory is never given back.
type Memory struct {
	mu      sync.Mutex // Lock 94: parts
	parts   [][]byte
	growing sync.Mutex // Lock 93: one Grow at a time
}

// Alloc returns n bytes of zeros. Pages count as they are touched.
func (m *Memory) Alloc(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]byte, n)
	}
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // the host may give huge pages to all
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts = append(m.parts, b)
	return b
}

// Grow makes huge pages of the small ones that have been touched (MADV_COLLAPSE, Linux 6.1). A thread that touches one of them meanwhile waits
// for its copy of 2 MiB. Before Linux 6.1, Grow leaves this to the kernel, which does it some time later, and gives huge pages to what is
// touched from now on. Call Grow again when the tables have grown by some MiB.
func (m *Memory) Grow() {
	m.growing.Lock()
	defer m.growing.Unlock()
	m.mu.Lock()
	parts := m.parts
	m.mu.Unlock()
	for _, b := range parts {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
		if collapses() {
			_ = unix.Madvise(b, unix.MADV_COLLAPSE) // an error: some of the memory has never been touched, or the host has no huge page left
			_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
		}
	}
}

// collapses reports whether the kernel has MADV_COLLAPSE: it then takes it for no bytes, too.
var collapses = sync.OnceValue(func() bool {
	b, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	defer unix.Munmap(b)
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(&b[0])), 0, unix.MADV_COLLAPSE)
	return errno == 0
})
