package natports

import (
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/usedports"
)

// A port that a program of the host uses is left out, unless no packet from outside can reach it.
func TestPools(t *testing.T) {
	network := netip.MustParsePrefix("172.29.0.0/16")
	for addr, left := range map[string]int{"0.0.0.0": 9, "192.0.2.1": 9, "::": 9, "127.0.0.1": 10, "172.29.255.254": 10} {
		used := []usedports.Listener{{Proto: "udp", Addr: netip.MustParseAddr(addr), Port: 1030}}
		if n := Pools("1024-1033", used, network.Contains, nil)[1].Len(); n != left {
			t.Errorf("beside a socket of %s, NAT has %d ports of 10, want %d", addr, n, left)
		}
	}
}
