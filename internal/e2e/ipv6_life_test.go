package e2e

import (
	"strings"
	"testing"
)

// TestIPv6HostByRA: a host that has its address and its default route from a router's advertisements keeps both, while the switch runs and
// after it, and its containers leave by them.
func TestIPv6HostByRA(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "atk6-fake_router26")
	b.Sh("host", "sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.autoconf=1")
	b.Sh("out", "ip addr add 2001:db8:7::1/64 dev eth0 nodad")
	b.Background("out", "while :; do atk6-fake_router26 -A 2001:db8:7::/64 -n 1 -i 0 eth0 > /dev/null 2>&1; sleep 0.3; done") // it ends while its address is tentative
	own := func() string {
		return b.Sh("host", "ip -6 -o addr show dev eth0 scope global dynamic | awk '{ print $4 }'; ip -6 route show default | sed 's/ expires [^ ]*//; s/ hoplimit.*//'")
	}
	b.Eventually("the host has an address and a route", func() bool { s := own(); return strings.Contains(s, "2001:db8:7:") && strings.Contains(s, "proto ra") })
	before := own()
	b.Start()
	containers(b)
	b.Eventually("IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out, as 2001:db8:7:") })
	b.Eventually("web reaches the outside", func() bool { _, err := b.TrySh("web", "ping -6 -c 1 -W 5 2001:db8:7::1"); return err == nil })
	if now := own(); now != before {
		t.Errorf("while the switch runs: %s", diff(before, now))
	}
	b.Balanced()
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	if now := own(); now != before {
		t.Errorf("after it: %s", diff(before, now))
	}
}

// TestIPv6Temporary uses a host with temporary addresses (RFC 8981): new connections leave with the newest, and old ones go on with theirs while
// the host has it.
func TestIPv6Temporary(t *testing.T) {
	Need(t, "curl", "socat")
	b := newWithIPv6(t)
	b.Sh("host", "sysctl -qw net.ipv6.conf.eth0.use_tempaddr=2 && ip addr add "+host6+"/64 dev eth0 nodad mngtmpaddr && ip -6 route add default via "+out6)
	temporary := func() string { // the one that is preferred
		for line := range strings.Lines(b.Sh("host", "ip -6 -o addr show dev eth0 temporary")) {
			if f := strings.Fields(line); len(f) > 3 && !strings.Contains(line, "deprecated") && !strings.Contains(line, "tentative") {
				return strings.TrimSuffix(f[3], "/64")
			}
		}
		return ""
	}
	b.Eventually("the host has a temporary address", func() bool { return temporary() != "" })
	first := temporary()
	b.Start()
	containers(b)
	b.Web("out")
	asks(t, b, "web", "["+out6+"]", "you are "+first)
	lines := talks(b)

	b.Sh("host", "ip addr change "+first+"/64 dev eth0 preferred_lft 0 valid_lft 600; ip addr add 2001:db8:1::77/64 dev eth0 nodad")
	b.Eventually("new connections leave with another address", func() bool {
		said := ask(b, "web", "["+out6+"]")
		return strings.Contains(said, "you are") && !strings.Contains(said, first)
	})
	before := lines()
	b.Eventually("the connection goes on with the old address", func() bool { return lines() > before+5 })
	b.Sh("web", "touch "+b.dir+"/stop")
	b.Balanced()
}

// TestIPv6Slaac: a machine that configures itself gets a default route from the gateway in every network, and an address in a network with
// SLAAC. It reaches the outside, with its MAC known to the switch or not. One whose MAC is known is reached at a published port.
func TestIPv6Slaac(t *testing.T) {
	b := newWithIPv6(t)
	outside6(b)
	b.Start()
	b.Eventually("IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out") })
	b.CLI("network", "add", "sl", "--subnet", "10.77.0.0/24", "--subnet6", "fd00:77::/64", "--ra", "slaac")
	for _, vm := range []struct{ name, network, mac, prefix string }{
		{"vm1", "sl", "02:00:00:00:77:01", "fd00:77::ff:fe00:7701"}, {"vm2", "sl", "", "fd00:77:"}, {"vm3", "default", "", ""},
	} {
		b.AddNS(vm.name)
		b.Sh("host", "ip link add p-"+vm.name+" type veth peer name eth0 netns "+b.NS(vm.name)+" && ip link set p-"+vm.name+" up")
		line := "sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.autoconf=1 net.ipv6.conf.eth0.accept_dad=0; "
		if vm.mac != "" {
			line += "ip link set eth0 address " + vm.mac + "; "
		}
		args := []string{"port", "add", vm.name, "--network", vm.network, "--device", "p-" + vm.name}
		if vm.mac != "" {
			args = append(args, "--mac", vm.mac)
		}
		b.CLI(args...)
		b.Sh(vm.name, line+"ip link set eth0 up")
		b.Eventually(vm.name+" has a default route", func() bool { return strings.Contains(b.Sh(vm.name, "ip -6 route show default"), "via fe80::1") })
		has := b.Sh(vm.name, "ip -6 -o addr show dev eth0 scope global | awk '{ print $4 }'")
		if vm.prefix == "" {
			if has != "" {
				t.Errorf("%s has %s in a network without SLAAC", vm.name, has)
			}
			continue
		}
		b.Eventually(vm.name+" has an address", func() bool {
			has = b.Sh(vm.name, "ip -6 -o addr show dev eth0 scope global | awk '{ print $4 }'")
			return strings.Contains(has, vm.prefix)
		})
		b.Sh(vm.name, "ping -6 -c 1 -W 5 "+out6)
	}
	b.Web("vm1")
	b.CLI("publish", "add", "8080:80", "--port", "vm1")
	asks(t, b, "out", "["+host6+"]:8080", "this is vm1; you are "+out6)
	asks(t, b, "out", "10.1.0.1:8080", "this is vm1") // by the relay: the machine has no IPv4 that the switch knows
	b.CLI("publish", "del", "[::]:8080")
	b.Balanced()
}

// TestIPv6HostsOwn: the host's own packets leave as they did before the switch came, also if the host has no preferred address on the device that
// they leave by. Its packets to containers have the address of the host port.
func TestIPv6HostsOwn(t *testing.T) {
	b := newWithIPv6(t)
	outside6(b)
	b.Sh("host", "ip addr add 2001:db8:60::1/128 dev lo")
	gets := func() string {
		return b.Sh("host", "for to in "+out6+" 2001:db8:99::9 fd99::8 fd20::8; do ip -6 route get $to | sed 's/.* src \\([^ ]*\\).*/\\1/'; done")
	}
	states := []string{":", "ip -6 addr change " + host6 + "/64 dev eth0 preferred_lft 0", "ip -6 addr del " + host6 + "/64 dev eth0; ip -6 route replace default via fe80::2 dev eth0"}
	var before []string
	for _, change := range states {
		b.Sh("host", change)
		before = append(before, gets())
	}
	b.Sh("host", "ip addr add "+host6+"/64 dev eth0 nodad; ip -6 route replace default via "+out6)
	b.Start()
	containers(b)
	b.Web("web")
	for i, change := range states {
		b.Sh("host", change)
		if now := gets(); now != before[i] {
			t.Errorf("after %q, the host's packets leave as\n%s, and without the switch as\n%s", change, now, before[i])
		}
		contains(t, b.Sh("host", "curl -sS -m 5 'http://["+addr6(b, "web")+"]/'"), "you are "+addr6(b, "host"))
	}
	b.Balanced()
}

// talks keeps a TCP connection from web to the outside busy until the file stop is there, and counts the lines that have come back.
func talks(b *Bed) (lines func() int) {
	b.t.Helper()
	b.Background("out", "socat TCP6-LISTEN:7777,fork EXEC:cat")
	b.Eventually("the echo server is there", func() bool { return strings.Contains(b.Sh("out", "ss -Hltn 'sport = :7777'"), "7777") })
	b.Sh("web", "mkfifo "+b.dir+"/in")
	b.Background("web", "socat - TCP6:["+out6+"]:7777 < "+b.dir+"/in > "+b.dir+"/said")
	b.Background("web", "exec 3> "+b.dir+"/in; while ! [ -e "+b.dir+"/stop ]; do echo hello >&3; sleep 0.1; done")
	lines = func() int { return strings.Count(b.Sh("web", "cat "+b.dir+"/said 2> /dev/null || true"), "hello") }
	b.Eventually("the connection talks", func() bool { return lines() > 0 })
	return lines
}

// TestIPv6Renumbering: new flows take the new address when the host's old one is deprecated; a connection goes on while the host has its
// address; when the address goes, so do its flows.
func TestIPv6Renumbering(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "socat", "curl")
	outside6(b)
	b.Start()
	containers(b)
	b.Eventually("IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out") })
	b.Web("out")
	asks(t, b, "web", "["+out6+"]", "you are "+host6)
	lines := talks(b)

	b.Sh("host", "ip addr add 2001:db8:1::77/64 dev eth0 nodad && ip addr change "+host6+"/64 dev eth0 preferred_lft 0 nodad")
	b.Eventually("new flows take the new address", func() bool { return strings.Contains(ask(b, "web", "["+out6+"]"), "you are 2001:db8:1::77") })
	had := lines()
	b.Eventually("the old connection goes on", func() bool { return lines() > had+3 })
	contains(t, b.CLI("flow", "ls", "-f", "ipv6", "--dport", "7777"), "dst="+host6)

	b.Sh("host", "ip addr del "+host6+"/64 dev eth0")
	b.Eventually("the flows of the address have gone", func() bool { return !strings.Contains(b.CLI("flow", "ls", "-f", "ipv6"), "dst="+host6) })
	asks(t, b, "web", "["+out6+"]", "you are 2001:db8:1::77")
	b.Balanced()
}
