package tap

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread that hurries has HurryNice, and its own nice value afterwards.
func TestHurry(t *testing.T) {
	if n, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_NICE, 0, 0, 0); os.Geteuid() != 0 || err != nil || n != 1 {
		t.Skip("needs root, with CAP_SYS_NICE")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // it ends with its goroutine
		var c cpuTimes
		c.Hurry(true)
		nice := func() int {
			n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
			if err != nil {
				t.Error(err)
			}
			return 20 - n
		}
		if n := nice(); n != HurryNice || c.hurried != 1 {
			t.Errorf("a thread that hurries has nice value %d; it has hurried %d times", n, c.hurried)
		}
		if c.Hurry(false); nice() != c.nice {
			t.Errorf("afterwards, it has nice value %d; before, it was %d", nice(), c.nice)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, HurryNice-1); err != nil {
			t.Error(err)
		}
		if c.Hurry(true); nice() != HurryNice-1 || c.hurried != 1 {
			t.Errorf("a thread that has more already has nice value %d", nice())
		}
	}()
	<-done
}
