package model

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// withIPv6 is small, on a host with IPv6.
func withIPv6() Config {
	c := small()
	c.ULA = ULA("a machine", "uvs")
	c.Default.Subnet6 = SubnetAuto
	return c
}

func TestIPv6Addresses(t *testing.T) {
	s := desired(t, withIPv6(), nil)
	n, web := s.Network("default"), s.Port("web")
	if !n.Prefix6.IsValid() || n.Prefix6.Bits() != 64 || !s.Config.ULA.Contains(n.Prefix6.Addr()) || n.Gateway6 != n.Prefix6.Addr().Next() {
		t.Errorf("network %s, gateway %s", n.Prefix6, n.Gateway6)
	}
	if !n.Prefix6.Contains(web.Addr6.Addr()) || web.Addr6.Bits() != 64 {
		t.Errorf("port %s", web.Addr6)
	}
	if db := s.Port("db"); db.Addr6.IsValid() {
		t.Errorf("a network without IPv6 gives %s", db.Addr6)
	}
	again := desired(t, withIPv6(), nil)
	if again.Network("default").Prefix6 != n.Prefix6 || again.Port("web").Addr6 != web.Addr6 {
		t.Error("other addresses after another start")
	}
	if ULA("a machine", "uvs") == ULA("another", "uvs") || ULA("a machine", "uvs") == ULA("a machine", "two") {
		t.Error("two switches have one prefix")
	}

	// A prefix that leaves 48 bits for the station.
	c := withIPv6()
	c.Default.Subnet6 = "fd00:dead:beef:c0::/80"
	s = desired(t, c, nil)
	if got := s.Port("web").Addr6.String(); got != "fd00:dead:beef:c0:0:275:ac1d:2/80" {
		t.Errorf("%s of a /80", got)
	}
}

// What the outside sees of a station tells nothing of its IPv4 address, and stays the same.
func TestAddressesOutside(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for _, secret := range []string{"a machine", "another"} {
		for _, subnet := range []string{"2001:db8:1::/64", "2001:db8:2::/48", "2001:db8:3::/116"} {
			c := withIPv6()
			c.Secret = NewSecret(secret, "uvs")
			c.Default.Subnet6 = subnet // routed: its prefix is no unique local one
			a := desired(t, c, nil).Port("web").Addr6
			if again := desired(t, c, nil).Port("web").Addr6; again != a {
				t.Errorf("%s, after another start %s", a, again)
			}
			p := netip.MustParsePrefix(subnet)
			if !p.Contains(a.Addr()) || seen[a.Addr()] || strings.Contains(a.String(), "275") || a.Addr().As16()[15] < 3 && a.Addr().As16()[14] == 0 {
				t.Errorf("%s gives %s", subnet, a)
			}
			seen[a.Addr()] = true
		}
	}
}

// An address that a station makes itself is its own only if nobody has it: not another port, not the gateway, not the host.
func TestMadeAddresses(t *testing.T) {
	c := withIPv6()
	c.Default.Subnet6 = "fd00:1::/64"
	made := netip.MustParseAddr("fd00:1::75:acff:fe1d:2")
	s := desired(t, c, nil)
	n, web := *s.Network("default"), s.Port("web")
	n.Spec.RA = RASlaac
	if got := s.MadeBy(&n, web); got != made {
		t.Errorf("web makes %s", got)
	}
	host := *web
	if host.Kind = KindHost; s.MadeBy(&n, &host).IsValid() {
		t.Error("the host's port makes an address")
	}
	short := *web
	if short.MTU = 1000; s.MadeBy(&n, &short).IsValid() {
		t.Error("a port with an MTU of 1000 makes an address")
	}
	other := n
	if other.Gateway6 = made; s.MadeBy(&other, web).IsValid() {
		t.Error("a port makes the gateway's address")
	}
	taken := *web
	taken.Name, taken.Addr6 = "taken", netip.PrefixFrom(made, 64)
	s.Ports = append(s.Ports, taken)
	if s.MadeBy(&n, s.Port("web")).IsValid() {
		t.Error("a port makes an address that another one has")
	}
}

// IPv6 needs an MTU of 1280 bytes. With a shorter MTU, "auto" gives no IPv6, and a subnet or an address that is named is refused.
func TestIPv6ShortMTU(t *testing.T) {
	c := withIPv6()
	c.Default.MTU = 1000
	if s := desired(t, c, nil); s.Network("default").Prefix6.IsValid() || s.Port("web").Addr6.IsValid() {
		t.Error("a network with MTU 1000 has IPv6")
	}
	c.Default.Subnet6 = "fd00:1::/64"
	if _, err := Desired(c, nil); err == nil || !strings.Contains(err.Error(), "MTU 1000 is too small") {
		t.Errorf("%v", err)
	}
	c = withIPv6()
	c.Ports[0].MTU = 1000
	if s := desired(t, c, nil); s.Port("web").Addr6.IsValid() {
		t.Error("a port with MTU 1000 has an IPv6 address")
	}
	c.Ports[0].IP6 = inDefault6(t, c)
	if _, err := Desired(c, nil); err == nil || !strings.Contains(err.Error(), "MTU 1000 is too small") {
		t.Errorf("%v", err)
	}
}

// inDefault6 is an address of the default network.
func inDefault6(t *testing.T, c Config) string {
	t.Helper()
	x := desired(t, c, nil).Network("default").Prefix6.Addr().As16()
	x[15] = 9
	return netip.AddrFrom16(x).String()
}

// When another network has the whole prefix of the switch, "auto" is refused.
func TestIPv6NoSubnetIsLeft(t *testing.T) {
	c := withIPv6()
	c.Default.Subnet6 = SubnetOff
	c.Networks = append(c.Networks, api.NetworkAdd{Name: "all", Subnet: "10.10.0.0/24", Subnet6: c.ULA.String()}, api.NetworkAdd{Name: "more", Subnet: "10.11.0.0/24", Subnet6: SubnetAuto})
	if _, err := Desired(c, nil); err == nil || !strings.Contains(err.Error(), "is free") {
		t.Errorf("%v", err)
	}
}
