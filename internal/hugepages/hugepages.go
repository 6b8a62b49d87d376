// Package hugepages allocates memory for large tables.
package hugepages

import "golang.org/x/sys/unix"

// Alloc returns n bytes of zeros, in huge pages where the kernel gives them: a look-up among a million flows misses the cache, and should not
// miss in the page tables, too. Pages are touched, and so count, as they are used. The memory is never given back.
func Alloc(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]byte, n)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b
}
