package ndproxy

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// TestGroups joins more groups than the kernel allows one socket, and leaves all but one.
func TestGroups(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("no loopback device:", err)
	}
	if _, err := os.Stat("/proc/net/igmp6"); err != nil {
		t.Skip("the kernel has no IPv6:", err)
	}
	joined := func() int {
		b, err := os.ReadFile("/proc/net/igmp6")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "ff0200000000000000000001ffee")
	}
	addr := func(i int) frame.Addr6 { return frame.Addr6{Hi: 0x20010db8 << 32, Lo: 0xee0000 + uint64(i)} }
	many := Addrs{}
	for i := range 5000 {
		many[addr(i)] = struct{}{}
	}
	g := groups{device: lo.Index, in: map[frame.Addr6]int{}}
	defer g.close()
	if err := g.set(many); err != nil {
		t.Fatal(err)
	}
	if n := joined(); n != len(many) || len(g.sockets) < 2 {
		t.Errorf("%d groups of %d are joined, by %d sockets", n, len(many), len(g.sockets))
	}
	if err := g.set(Addrs{addr(0): {}, {Hi: 1, Lo: addr(0).Lo}: {}}); err != nil { // two addresses of one group
		t.Fatal(err)
	}
	if n := joined(); n != 1 {
		t.Errorf("%d groups are joined; want 1", n)
	}
}
