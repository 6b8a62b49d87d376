package ndproxy

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// groups are the solicited-node groups that are joined on a device. The kernel bounds the memory for groups of one socket
// (net.core.optmem_max), so that there may be several sockets. Nothing is read from them.
type groups struct {
	device  int
	sockets []int
	in      map[frame.Addr6]int // the socket that has joined
}

// set joins the groups of addrs, and leaves all others.
func (g *groups) set(addrs Addrs) (errs error) {
	want := map[frame.Addr6]bool{}
	for a := range addrs {
		want[a.SolicitedNode()] = true
	}
	for group, socket := range g.in {
		if !want[group] {
			_ = unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_DROP_MEMBERSHIP, g.request(group))
			delete(g.in, group)
		}
	}
	for group := range want {
		if _, ok := g.in[group]; !ok {
			errs = errors.Join(errs, g.join(group))
		}
	}
	return errs
}

// keep joins those groups again that are not in joined.
func (g *groups) keep(joined map[frame.Addr6]bool) (errs error) {
	for group, socket := range g.in {
		if joined[group] {
			continue
		}
		_ = unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_DROP_MEMBERSHIP, g.request(group)) // the socket still has it, and the device has not
		delete(g.in, group)
		errs = errors.Join(errs, g.join(group))
	}
	return errs
}

// joinedGroups are the groups that the kernel has joined, by device.
func joinedGroups() (map[string]map[frame.Addr6]bool, error) {
	b, err := os.ReadFile("/proc/self/net/igmp6") // index, device, group, users, flags, time
	if err != nil {
		return nil, err
	}
	all := map[string]map[frame.Addr6]bool{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		raw, err := hex.DecodeString(fields[2])
		if a, ok := netip.AddrFromSlice(raw); ok && err == nil {
			if all[fields[1]] == nil {
				all[fields[1]] = map[frame.Addr6]bool{}
			}
			all[fields[1]][frame.Addr6From(a)] = true
		}
	}
	return all, nil
}

// join joins by the newest socket that has room, or else by one more.
func (g *groups) join(group frame.Addr6) error {
	for _, socket := range slices.Backward(g.sockets) {
		if unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP, g.request(group)) == nil {
			g.in[group] = socket
			return nil
		}
	}
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP, g.request(group)); err != nil {
		_ = unix.Close(socket)
		return err
	}
	g.sockets, g.in[group] = append(g.sockets, socket), socket
	return nil
}

func (g *groups) request(group frame.Addr6) *unix.IPv6Mreq {
	return &unix.IPv6Mreq{Multiaddr: group.Netip().As16(), Interface: uint32(g.device)}
}

func (g *groups) close() {
	for _, socket := range g.sockets {
		_ = unix.Close(socket)
	}
}
