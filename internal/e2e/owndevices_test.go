package e2e

import (
	"strings"
	"testing"
)

// TestOwnDevices: somebody takes a device of the switch down, or IPv6 off it, and gives it back. Meanwhile programs hear at once that nothing
// is there, and the switch says why. Afterwards all is as before: the kernel has dropped addresses and routes, and the switch restores them.
func TestOwnDevices(t *testing.T) {
	for _, kind := range []string{"tcx", "host", "tap"} {
		t.Run(kind, func(t *testing.T) {
			b := NewHost(t)
			Need(t, "ip6tables")
			outside6(b)
			b.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
			b.Sh("host", "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1 && ip6tables -t nat -A POSTROUTING -o eth0 -j MASQUERADE && iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE")
			b.Start("--uplink-kind", kind)
			b.CLI("network", "add", "other", "--subnet", "172.31.0.0/24", "--subnet6", "fd00:99::/64")
			b.AddNS("a", "other")
			b.CLI("port", "add", "a", "--netns", b.NS("a"))
			b.CLI("port", "add", "other", "--netns", b.NS("other"), "--network", "other")
			at4, _, _ := strings.Cut(port(b, "other").Addresses[0], "/")
			ways := []struct{ from, to, by string }{
				{"a", "10.1.0.2", "uvs-up"}, {"a", out6, "uvs-up"}, {"a", "10.1.0.1", "uvs0"}, {"a", host6, "uvs0"},
				{"host", at4, "uvs0"}, {"host", addr6(b, "other"), "uvs0"}, {"host", addr6(b, "a"), "uvs0"},
			}
			switch kind {
			case "host":
				ways[0].by, ways[1].by = "uvs0", "uvs0"
			case "tap": // the host's addresses are outside, too
				ways[2].by, ways[3].by = "uvs-up", "uvs-up"
			}
			passes := func(from, to string) bool {
				_, err := b.TrySh(from, "ping -c 1 -W 1 "+to)
				return err == nil
			}
			all := func(when string) {
				t.Helper()
				for _, w := range ways {
					b.Eventually(w.from+" reaches "+w.to+" "+when, func() bool { return passes(w.from, w.to) })
				}
			}
			all("at the beginning")
			for _, device := range []string{"uvs0", "uvs-up"} {
				b.Sh("host", "ip link set "+device+" down")
				for _, w := range ways {
					if w.by != device || w.from != "a" {
						continue
					}
					b.Eventually(w.to+" is not reached by a device that is down", func() bool { return !passes(w.from, w.to) })
				}
				if leaves := ways[0].by == device; leaves {
					b.Eventually("the switch says why", func() bool { return strings.Contains(b.CLI("status"), device+" is down") })
					for _, to := range []string{"10.1.0.2", out6} {
						if said, err := b.TrySh("a", "ping -c 1 -W 5 "+to); err == nil || !strings.Contains(said, "nreachable") {
							t.Errorf("%s is down; ping %s: %s", device, to, said)
						}
					}
				}
				b.Sh("host", "ip link set "+device+" up")
				all("after " + device + " was down")

				b.Sh("host", "sysctl -qw net.ipv6.conf."+device+".disable_ipv6=1")
				for _, w := range ways[1:4:4] {
					needs := w.by == device && (device == "uvs0" || kind == "tap") && strings.Contains(w.to, ":")
					if !needs {
						continue
					}
					b.Eventually("programs hear that there is no IPv6 by "+device+" to "+w.to, func() bool {
						said, err := b.TrySh("a", "ping -c 1 -W 5 "+w.to)
						return err != nil && strings.Contains(said, "nreachable")
					})
				}
				if ways[1].by == device && kind != "tcx" {
					contains(t, b.CLI("status"), "IPv6 is switched off on "+device)
				}
				b.Sh("host", "sysctl -qw net.ipv6.conf."+device+".disable_ipv6=0")
				all("after " + device + " was without IPv6")

				mtu := strings.TrimSpace(b.Sh("host", "ip -o link show "+device+" | sed 's/.*mtu \\([0-9]*\\).*/\\1/'"))
				b.Sh("host", "ip link set "+device+" mtu 1200")
				if ways[1].by == device {
					b.Eventually("the switch names the MTU", func() bool { return strings.Contains(b.CLI("status"), "the MTU of "+device+" is 1200") })
				}
				b.CLI("network", "add", "meanwhile", "--subnet", "172.31.7.0/24", "--subnet6", "fd00:77::/64")
				b.CLI("network", "del", "meanwhile")
				b.Sh("host", "ip link set "+device+" mtu "+mtu)
				all("after " + device + " had an MTU that IPv6 does not allow")
			}
			if kind == "host" { // packets never leave around the host's firewall
				b.Sh("host", "ip link del uvs0")
				b.Eventually("the switch says that its device is gone", func() bool { return strings.Contains(b.CLI("status"), "uvs0 has been removed") })
				b.Sh("host", "sysctl -qw net.ipv6.conf.all.forwarding=0 && sysctl -qw net.ipv6.conf.all.forwarding=1")
				for _, to := range []string{"10.1.0.2", out6} {
					if passes("a", to) {
						t.Errorf("%s is reached without the host's port", to)
					}
				}
			}
			b.Balanced()
		})
	}
}
