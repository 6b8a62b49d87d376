package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// TestIPv6Tools asks the gateway with the tools of others: ndisc6 and rdisc6.
func TestIPv6Tools(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "ndisc6", "rdisc6", "radvdump", "tracepath", "traceroute")
	outside6(b)
	b.Start()
	containers(b)
	b.AddNS("slaac")
	b.CLI("network", "add", "slaac", "--subnet", "172.31.0.0/24", "--subnet6", "fd00:5::/64", "--ra", "slaac")
	b.CLI("port", "add", "slaac", "--netns", b.NS("slaac"), "--network", "slaac", "--mac", "02:00:00:00:00:05")
	if a := addr6(b, "slaac"); a != "fd00:5::ff:fe00:5" {
		t.Errorf("in a network with SLAAC, a port got %s", a)
	}
	contains(t, b.Sh("web", "ndisc6 -1 fe80::1 eth0"), "Target link-layer address: ")
	contains(t, b.Sh("web", "rdisc6 -1 eth0"), "Hop limit                 :           64", "Router lifetime           :         1800", "MTU                      :         1500", "Route                    : fd", "from fe80::1")
	if said := b.Sh("web", "rdisc6 -1 eth0"); strings.Contains(said, "Prefix ") {
		t.Errorf("a network without SLAAC advertises a prefix: %s", said)
	}
	contains(t, b.Sh("slaac", "rdisc6 -1 eth0"), "Prefix                   : fd00:5::/64", "On-link                 :          Yes", "Autonomous address conf.:          Yes", "Valid time              :      2592000", "Pref. time              :       604800")
	heard := filepath.Join(b.dir, "radvdump")
	b.Background("slaac", "radvdump > "+heard)
	b.Eventually("radvdump has heard an advertisement", func() bool {
		b.Sh("slaac", "rdisc6 -1 eth0")
		said, _ := os.ReadFile(heard)
		return strings.Count(string(said), "}; # End of") >= 2 && strings.Contains(string(said), "interface definition")
	})
	said, err := os.ReadFile(heard)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(said), "AdvDefaultLifetime 1800;", "AdvManagedFlag off;", "AdvOtherConfigFlag off;", "AdvLinkMTU 1500;", "prefix fd00:5::/64", "AdvAutonomous on;", "route fd")

	if said := b.Sh("web", "tracepath -6 -n "+out6); !strings.Contains(said, addrOfGateway6(b)) || !strings.Contains(said, "reached") || !strings.Contains(said, "pmtu 1500") {
		t.Errorf("tracepath: %s", said)
	}
	for _, how := range []string{"", "-I", "-T -p 80"} {
		said := b.Sh("web", "traceroute -6 -n -q 1 -w 2 "+how+" "+out6)
		if !strings.Contains(said, " 1  "+addrOfGateway6(b)+" ") || !strings.Contains(said, " 2  "+out6+" ") {
			t.Errorf("traceroute %s: %s", how, said)
		}
	}
	b.Sh("host", "ip link set eth0 mtu 1400")
	b.Eventually("tracepath finds the MTU of the uplink", func() bool { return strings.Contains(b.Sh("web", "tracepath -6 -n "+out6), "pmtu 1400") })
	b.Balanced()
}

func addrOfGateway6(b *Bed) string {
	var n api.Network
	b.JSON(&n, "network", "show", "default")
	return n.Gateway6
}

// TestIPv6Attacks: a tenant speaks for routers and neighbors, plainly and behind headers that hide what it says. Its victim's routes and
// neighbors stay as they are. On a kernel's bridge, the first attack of each kind moves the victim.
func TestIPv6Attacks(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "atk6-fake_router26", "atk6-fake_advertise6", "ra6", "na6", "rd6")
	outside6(b)
	b.Start()
	containers(b)
	web, gateway := addr6(b, "web"), "fe80::1"
	state := func(ns string) string {
		routes := b.Sh(ns, "ip -6 route show dev eth0 | sed 's/ expires.*//'") // the time that is left changes
		return routes + b.Sh(ns, fmt.Sprintf("ip -6 neigh show dev eth0 | awk '$1 == %q { print $1, $3 }'; ip -6 -o addr show dev eth0 | awk '{ print $4 }'", gateway))
	}
	const to66 = "02:66:66:66:66:66"
	attacks := []struct {
		line string
		drop string // the reason for which some of its frames are dropped; empty: they pass, and the receiver's kernel refuses them
	}{
		{"atk6-fake_advertise6 -n 2 -w 0 eth0 fe80::1 ff02::1 " + to66, "guard_source_mac"},
		{"atk6-fake_router26 -A 2001:db8:66::/64 -n 2 -i 0 eth0", "guard_router"},
		{"atk6-fake_advertise6 -H -n 2 -w 0 eth0 fe80::1 ff02::1 " + to66, "guard_source_mac"},
		{"atk6-fake_advertise6 -f -n 2 -w 0 eth0 fe80::1 ff02::1 " + to66, "guard_source_mac"},
		{"atk6-fake_advertise6 -D -n 2 -w 0 eth0 fe80::1 ff02::1 " + to66, "ext_headers"},
		{"na6 -i eth0 -s fe80::1 -d " + web + " -t fe80::1 -E " + to66 + " -o -r", "guard_source_address"},
		{"ra6 -i eth0 -s fe80::1 -d ff02::1 -t 0", "guard_source_address"}, // the gateway takes itself back
		{"rd6 -i eth0 -s fe80::1 -d " + web + " -R 1 -r " + out6 + "/128 -t fe80::66 -p UDP -x " + web, "guard_source_address"},
		{"atk6-redir6 eth0 " + web + " " + out6 + " fe80::1 fe80::66 " + to66, "gateway_mac_stolen"},
		{"atk6-kill_router6 eth0 fe80::1", "guard_source_address"},
		{"atk6-flood_router26 eth0", "guard_source_mac"},
		{"atk6-flood_advertise6 eth0", "guard_source_mac"},
		{"atk6-flood_solicitate6 eth0", "guard_source_mac"},
		{"atk6-flood_rs6 eth0", ""},
		{"atk6-flood_mld26 eth0", "guard_source_mac"},
		{"atk6-dos-new-ip6 eth0", ""},
		{"atk6-parasite6 eth0", ""},
		{"atk6-toobig6 eth0 " + web + " " + out6 + " 1280", "guard_source_address"},
		{"atk6-smurf6 eth0 " + web, "guard_source_mac"},
		{"atk6-rsmurf6 eth0 " + web, "guard_source_mac"},
		{"atk6-ndpexhaust26 -p -r eth0 2001:db8:1::/64", "guard_source_address"},
		{"atk6-fake_dhcps6 eth0 fd00:66::/64 fd00:66::53", ""},
		{"atk6-denial6 eth0 " + web + " 1", ""},
		{"atk6-denial6 eth0 " + web + " 2", ""},
		{"atk6-fragmentation6 -n 1 eth0 " + web, ""},
	}
	for _, how := range [][2]string{{"H", "guard_router"}, {"1", "guard_router"}, {"11", "guard_router"}, {"H111", "guard_router"}, {"D", "ext_headers"}, {"o", ""}, {"O", ""}} {
		a := attacks[0]
		a.line, a.drop = "atk6-fake_router26 -A 2001:db8:66::/64 -E "+how[0]+" -n 2 -i 0 eth0", how[1]
		attacks = append(attacks, a)
	}
	drops := func() map[string]uint64 {
		var s struct{ Drops map[string]uint64 }
		b.JSON(&s, "stats")
		return s.Drops
	}
	b.Eventually("the gateway has advertised itself", func() bool { return strings.Contains(b.Sh("web", "ip -6 route show"), "proto ra") })
	ping(b, "web", out6)
	before := state("web")
	for _, a := range attacks {
		had := drops()
		said, _ := b.TrySh("db", "timeout 1 "+a.line)
		ping(b, "web", out6)
		if after := state("web"); after != before {
			t.Fatalf("%s moved the victim:\n%s\nit said: %s", a.line, diff(before, after), said)
		}
		now := drops()
		if a.drop != "" && now[a.drop] == had[a.drop] {
			t.Errorf("%s: nothing was dropped for %s; it said: %s", a.line, a.drop, said)
		}
	}

	b.bridge("2001:db8:9::%d/64", "fe80::1/64", "ping -6 -c 1 -W 1 fe80::1%eth0") // the same on a bridge
	for _, a := range attacks[:2] {
		before := state("victim")
		b.Eventually(a.line+" moves the victim of a bridge", func() bool {
			_, _ = b.TrySh("attacker", "timeout 3 "+a.line)
			return state("victim") != before
		})
	}
	b.Balanced()
}

// TestNPTAsTheKernel translates addresses as ip6t_NPT does.
func TestNPTAsTheKernel(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "ip6tables", "curl")
	outside6(b)
	if said, err := b.TrySh("host", "ip6tables -t mangle -A POSTROUTING -s fd00::/64 -j SNPT --src-pfx fd00::/64 --dst-pfx 2001:db8::/64"); err != nil {
		t.Skip("this kernel has no ip6t_NPT: " + said)
	}
	b.Web("out")
	b.Sh("out", "ip -6 route add 2001:db8:70::/44 via "+host6)
	for i, x := range []struct{ from, to, host string }{
		{"fd00:1:2:3::/64", "2001:db8:71:1::/64", "::1"},
		{"fd00:1:2:3::/64", "2001:db8:71:1::/64", "::42:acff:fe1d:2"},
		{"fd00:1:2:3::/64", "2001:db8:71:1::/64", "::ffff:1:2:3"},
		{"fd00:1:2:3::/64", "2001:db8:71:1::/64", "::ffff:ffff:2:3"},
		{"fd00:1:2:3::/64", "2001:db8:71:1::/64", "::dead:beef:cafe:f00d"},
		{"fd00:1:2::/48", "2001:db8:72::/48", "0:0:0:7::1"},
		{"fd00:1:2:300::/56", "2001:db8:73:100::/56", "0:0:0:2a::77"},
	} {
		from, to, host := netip.MustParsePrefix(x.from), netip.MustParsePrefix(x.to), netip.MustParseAddr(x.host).As16()
		in := from.Addr().As16()
		for i := range in {
			in[i] |= host[i]
		}
		a := netip.AddrFrom16(in)
		b.Sh("host", fmt.Sprintf("ip6tables -t mangle -F && ip6tables -t mangle -A POSTROUTING -s %[1]s -j SNPT --src-pfx %[1]s --dst-pfx %[2]s && ip6tables -t mangle -A PREROUTING -i eth0 -d %[2]s -j DNPT --src-pfx %[2]s --dst-pfx %[1]s", x.from, x.to))
		b.Sh("host", fmt.Sprintf("ip addr add %s/128 dev lo nodad", a))
		said := b.Sh("host", fmt.Sprintf("curl -sf -m 5 --interface %s 'http://[%s]/'", a, out6))
		_, kernels, _ := strings.Cut(said, "you are ")
		ours, ok := nat.TranslatePrefix(a, from, to)
		if !ok || ours.String() != strings.TrimSpace(kernels) {
			t.Errorf("%d: %s from %s to %s: %s, and the kernel says %s", i, a, from, to, ours, kernels)
		}
	}
}
