package uplink

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func cidr(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

// A default route counts only in a table that packets of containers may come to.
func TestDefaultTables(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	rule := func(table int, change func(*netlink.Rule)) netlink.Rule {
		r := *netlink.NewRule()
		r.Table = table
		if change != nil {
			change(&r)
		}
		return r
	}
	rules := []netlink.Rule{
		rule(unix.RT_TABLE_LOCAL, nil),
		rule(100, func(r *netlink.Rule) { r.Src = cidr("2001:db8::1/128") }), // of the host's own packets
		rule(101, func(r *netlink.Rule) { r.Src = cidr("fd00:1::/64") }),     // perhaps of a network's
		rule(102, func(r *netlink.Rule) { r.IifName = "uvs-up" }),
		rule(103, func(r *netlink.Rule) { r.IifName = "uvs0" }),
		rule(104, func(r *netlink.Rule) { r.Mark = 1 }),
		rule(105, func(r *netlink.Rule) { r.SuppressPrefixlen = 0 }),
		rule(unix.RT_TABLE_MAIN, nil),
	}
	for from, want := range map[string][]int{"uvs-up": {101, 102, unix.RT_TABLE_MAIN}, "uvs0": {101, 103, unix.RT_TABLE_MAIN}} {
		if got := defaultTables(rules, from, own); !slices.Equal(got, want) {
			t.Errorf("from %s: %v, want %v", from, got, want)
		}
	}
	if got := defaultTables(nil, "uvs-up", own); !slices.Equal(got, []int{unix.RT_TABLE_MAIN}) {
		t.Errorf("without rules: %v", got)
	}
}

// The kernel's anycast addresses of a host that forwards are no more specific routes in a prefix that the host takes for itself.
func TestLocalPrefixes(t *testing.T) {
	local := func(to string, kind int) netlink.Route {
		return netlink.Route{Dst: cidr(to), Table: unix.RT_TABLE_LOCAL, Type: kind}
	}
	routes := []netlink.Route{local("2001:db8:1::/48", unix.RTN_LOCAL), local("2001:db8:1:5::/128", unix.RTN_ANYCAST), local("2001:db8:1:5::1/128", unix.RTN_LOCAL)}
	addrs := []netlink.Addr{{IPNet: cidr("2001:db8:1:5::1/128")}}
	want := []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}
	if got := localPrefixes(routes, addrs); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := localPrefixes(append(routes, local("2001:db8:1:6::/64", unix.RTN_UNICAST)), addrs); len(got) != 0 {
		t.Errorf("with a more specific route: %v", got)
	}
}
