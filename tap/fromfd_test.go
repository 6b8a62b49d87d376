package tap

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FromFD accepts only TAPs with the flags that Open sets. A descriptor that it refuses stays the caller's.
func TestFromFD(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes TAPs")
	}
	runtime.LockOSThread() // never unlocked, so that the thread ends with the test
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
			t.Errorf("%s: closed by FromFD: %v", c.name, err)
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
