package tap

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestNamespacePath(t *testing.T) {
	if p, err := NamespacePath(""); err != nil || p != Own {
		t.Errorf("the empty name: %q %v", p, err)
	}
	if p, err := NamespacePath("pid:self"); err != nil || p != "/proc/self/ns/net" {
		t.Errorf("pid:self: %q %v", p, err)
	}
	for _, bad := range []string{"no-such-namespace", "/dev/null", "pid:0"} {
		if p, err := NamespacePath(bad); err == nil {
			t.Errorf("%q is %q", bad, p)
		}
	}
	for _, bad := range []string{"", "a/b", "sixteen-letters-", "a b", "a%d", ".."} {
		if CheckName(bad) == nil {
			t.Errorf("%q is accepted as a device name", bad)
		}
	}
}

// What is handed over must be a TAP as Open makes them; a descriptor that is refused stays the caller's.
func TestAdopt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes TAPs")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		flags uint16
		ok    bool
	}{
		{"as it should be", unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR, true},
		{"packet information", unix.IFF_TAP | unix.IFF_VNET_HDR, false},
		{"no header", unix.IFF_TAP | unix.IFF_NO_PI, false},
		{"a TUN", unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR, false},
	} {
		fd, err := openTUN()
		if err != nil {
			t.Skip(err)
		}
		ifr, _ := unix.NewIfreq("uvsadopt%d")
		ifr.SetUint16(c.flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			t.Fatal(err)
		}
		d, err := FromFD(fd)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if d != nil {
			if name, err := d.Name(); err != nil || name != ifr.Name() {
				t.Errorf("%s is called %s: %v", ifr.Name(), name, err)
			}
			link, err := netlink.LinkByName(ifr.Name())
			if err != nil {
				t.Fatal(err)
			}
			for _, up := range []bool{false, true, false} {
				set := netlink.LinkSetDown
				if up {
					set = netlink.LinkSetUp
				}
				if err := set(link); err != nil {
					t.Fatal(err)
				}
				if got, err := d.Up(); err != nil || got != up {
					t.Errorf("up: %v, is %v: %v", up, got, err)
				}
			}
			if err := netlink.LinkDel(link); err != nil {
				t.Fatal(err)
			}
			if got, err := d.Up(); err == nil {
				t.Errorf("a device that is gone is up: %v", got)
			}
		}
		if err := unix.Close(fd); err != nil {
			t.Errorf("%s: closed by Adopt: %v", c.name, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := FromFD(int(w.Fd())); err == nil {
		t.Error("a pipe is a TAP")
	}
}

// Whatever a function does to its thread, others are in the process's own namespace.
func TestInOwnLeavesThreadsThere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces")
	}
	for range 50 {
		if err := In(Own, func() error { return unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
			t.Fatal(err)
		}
		if err := In(Own, func() error {
			if !isOwn("/proc/thread-self/ns/net") {
				t.Error("a thread is in another namespace")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
