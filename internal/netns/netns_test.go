package netns

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPath(t *testing.T) {
	if p, err := Path(""); err != nil || p != Original {
		t.Errorf("the empty name: %q %v", p, err)
	}
	if p, err := Path("pid:self"); err != nil || p != "/proc/self/ns/net" {
		t.Errorf("pid:self: %q %v", p, err)
	}
	for _, bad := range []string{"no-such-namespace", "/dev/null", "pid:0"} {
		if p, err := Path(bad); err == nil {
			t.Errorf("%q is %q", bad, p)
		}
	}
}

// Whatever a function does to its thread, others are in the process's own namespace.
func TestDoReturnsThreads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces")
	}
	for range 50 {
		if err := Do(Original, func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
			t.Fatal(err)
		}
		if err := Do(Original, func() error {
			if !isHome() {
				t.Error("a thread is in another namespace")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
