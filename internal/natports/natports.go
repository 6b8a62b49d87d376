// Package natports says which ports of the host's addresses NAT may use.
package natports

import (
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/nat"
)

// Pools returns the ports for TCP, and those for UDP and SCTP: the ranges of the configuration without ports that the host listens on, or that
// are published. A port that the host's kernel picks for a connection of its own may be a container's, too: both are known by their remote ends.
func Pools(ranges string, used []usedports.Listener, published []*model.Publish) (pools [2]*nat.PortSet) {
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
			if l.Proto == proto && !l.Addr.IsLoopback() {
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
