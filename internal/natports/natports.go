// Package natports says which ports of the host's addresses NAT may use.
package natports

import (
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/nat"
)

// Pools returns the ports for TCP, and those for UDP and SCTP: the ranges of the configuration without ports that the host listens on, or that
// are published. A socket at an address of the switch's own networks, which inside tells, takes no port from NAT. A port that the host's kernel picks
// for a connection of its own may be a container's, too: both are known by their remote ends.
func Pools(ranges string, used []usedports.Listener, inside func(netip.Addr) bool, published []*model.Publish) (pools [2]*nat.PortSet) {
	all, _ := model.ParsePortRanges(ranges)
	for i, proto := range []string{"tcp", "udp"} {
		s := nat.NewPortSet()
		for _, r := range all {
			s.AddRange(r[0], r[1])
		}
		if ranges == model.DefaultNATPorts {
			s.AddRange(1, 1023) // only for flows that have a privileged port inside (RFC 4787, REQ-3a)
		}
		for _, l := range used {
			if l.Proto == proto && !l.Addr.IsLoopback() && !inside(l.Addr) {
				s.Release(l.Port)
			}
		}
		for _, p := range published {
			if p.Proto == proto || p.Proto == "sctp" && proto == "udp" { // they share a pool
				s.RemoveRange(p.Lo, p.Hi)
			}
		}
		pools[i] = s
	}
	return pools
}

// maxFloor is how many ports are kept free for NAT, at most.
const maxFloor = 2048

// Floor returns the ports that are kept free for NAT: half of its ports, but maxFloor at most. These are the last ones outside of the range from which
// the host's kernel picks ports for its own programs, or the last ones of all if this range has too many of them.
func Floor(ranges string, ephemeral [2]uint16) (lo, hi uint16) {
	all, _ := model.ParsePortRanges(ranges)
	total := 0
	for _, r := range all {
		total += int(r[1]) - int(r[0]) + 1
	}
	want := min(total/2, maxFloor)
	var parts [][2]int // the best first: those outside of the kernel's range, and then all
	for _, r := range slices.Backward(all) {
		parts = append(parts, [2]int{max(int(r[0]), int(ephemeral[1])+1), int(r[1])}, [2]int{int(r[0]), min(int(r[1]), int(ephemeral[0])-1)})
	}
	for _, r := range slices.Backward(all) {
		parts = append(parts, [2]int{int(r[0]), int(r[1])})
	}
	best := [2]int{0, -1}
	for _, p := range parts {
		if first := max(p[0], p[1]-want+1); p[1]-first > best[1]-best[0] {
			best = [2]int{first, p[1]}
		}
	}
	if best[1] < best[0] {
		return 0, 0
	}
	return uint16(best[0]), uint16(best[1])
}
