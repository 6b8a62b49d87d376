package hugepages

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

const size = 8 << 20

// huge returns how many kB of the mappings of b lie in huge pages, by /proc/self/smaps.
func huge(t *testing.T, b []byte) (kb int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	from := uint64(uintptr(unsafe.Pointer(&b[0])))
	in := false
	for line := range strings.Lines(string(text)) {
		var lo, hi uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &lo, &hi); n == 2 {
			in = lo < from+uint64(len(b)) && from < hi
		}
		var v int
		if n, _ := fmt.Sscanf(line, "AnonHugePages: %d", &v); in && n == 1 {
			kb += v
		}
	}
	return kb
}

// Memory begins with small pages, also on a host that gives huge pages to all; what it holds is the same when it has grown.
func TestGrow(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip(err)
	}
	var m Memory
	b := m.Alloc(size)
	had := huge(t, b) // the kernel may join other memory to the same mapping
	m.Grow()          // nothing has been touched
	for i := 0; i < size; i += 4096 {
		b[i] = byte(i >> 12)
	}
	before := bytes.Clone(b)
	if kb := huge(t, b) - had; kb > 0 {
		t.Errorf("%d kB in huge pages at the beginning", kb)
	}
	m.Grow()
	if !bytes.Equal(before, b) {
		t.Error("Grow changed what the memory holds")
	}
	if kb := huge(t, b) - had; kb < 2048 && collapses() {
		t.Errorf("%d kB in huge pages after Grow", kb)
	}
	touched := m.Alloc(size)
	had = huge(t, touched)
	touched[0] = 1
	m.Grow()
	if kb := huge(t, touched) - had; kb > 2048 {
		t.Errorf("%d kB more in huge pages, where one byte has been touched", kb)
	}
}
