package cli

import (
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// propose makes one rule of flows that are alike, in the words that hold when addresses change: ports, names, host, outside.
func TestPropose(t *testing.T) {
	flow := func(src, dst, protocol string, port int) api.Flow {
		return api.Flow{Protocol: protocol, Original: api.FlowSide{Src: src}, Reply: api.FlowSide{Src: dst, Sport: port}}
	}
	l := learned{
		ports: []api.Port{
			{Name: "web", Addresses: []string{"172.29.0.2/16", "fd00::2/64"}}, {Name: "db", Addresses: []string{"172.29.0.3/16"}}, {Name: "host", Addresses: []string{"172.29.255.254/16"}},
		},
		nets:  []api.Network{{Subnet: "172.29.0.0/16", Subnet6: "fd00::/64"}},
		names: []api.LearnedName{{Name: "api.example.com", Address: "203.0.113.9"}, {Name: "printer.example.com", Address: "10.1.2.3"}},
		flows: []api.Flow{
			flow("172.29.0.2", "203.0.113.9", "tcp", 443), flow("172.29.0.2", "203.0.113.9", "tcp", 443),
			flow("172.29.0.2", "10.1.2.3", "tcp", 631), // a name opens no private address
			flow("172.29.0.2", "172.29.0.3", "tcp", 5432),
			flow("fd00::2", "2001:db8::1", "icmpv6", 7),
			flow("172.29.0.2", "172.29.255.254", "udp", 53),
			flow("198.51.100.7", "172.29.0.2", "tcp", 80),
			flow("172.29.0.3", "172.29.0.2", "udp", 9),
			flow("172.29.0.77", "172.29.0.2", "udp", 9),   // a station without a port of its own
			flow("172.29.0.3", "203.0.113.9", "tcp", 443), // of another port
		},
	}
	want := []string{
		"egress allow 10.1.2.3 tcp/631", "egress allow 2001:db8::1 icmp", "egress allow host udp/53", "egress allow name:api.example.com tcp/443", "egress allow port:db tcp/5432",
		"ingress allow 172.29.0.77 udp/9", "ingress allow outside tcp/80", "ingress allow port:db udp/9",
	}
	if got := l.propose("web"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
