package e2e

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Addresses of the bed's host and of the outside.
const host6, out6 = "2001:db8:1::1", "2001:db8:1::2"

// outside6 gives the host IPv6, by its device to the outside.
func outside6(b *Bed) {
	b.t.Helper()
	b.Sh("host", "ip addr add "+host6+"/64 dev eth0 nodad && ip -6 route add default via "+out6)
}

// newWithIPv6 is NewHost with an uplink that carries IPv6, and an outside that speaks it.
func newWithIPv6(t *testing.T) *Bed {
	t.Helper()
	b := newWithPrograms(t)
	b.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
	return b
}

// addr6 is the IPv6 address of a port.
func addr6(b *Bed, name string) string {
	b.t.Helper()
	for _, a := range port(b, name).Addresses {
		if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is6() {
			return p.Addr().String()
		}
	}
	b.t.Fatalf("port %s has no IPv6 address", name)
	return ""
}

// TestIPv6 walks through a switch with IPv6: every kind of destination, a published port, and what the commands show of it.
func TestIPv6(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "curl", "socat")
	outside6(b)
	b.Sh("host", "ip link add eth1 type veth peer name eth1 netns "+b.NS("out")+" && ip addr add 2001:db8:2::1/64 dev eth1 nodad && ip link set eth1 up")
	b.Sh("out", "ip addr add 2001:db8:2::2/64 dev eth1 nodad && ip link set eth1 up")
	leavesHostAlone(b, func() { walkIPv6(t, b) })
}

func walkIPv6(t *testing.T, b *Bed) {
	b.AddNS("far")
	b.CLI("network", "add", "two", "--subnet", "172.31.0.0/24", "--subnet6", "auto")
	b.CLI("port", "add", "far", "--netns", b.NS("far"), "--network", "two")
	monitor, stopMonitor := b.follow("monitor", "host", out6)
	var n api.Network
	b.JSON(&n, "network", "show", "default")
	for _, to := range []string{n.Gateway6, addr6(b, "db"), addr6(b, "far"), addr6(b, "host"), host6, out6} {
		ping(b, "web", to)
	}
	ping(b, "host", addr6(b, "web"))
	ping(b, "host", addr6(b, "far"))
	b.Sh("web", "ping -6 -c 1 -W 2 -s 5000 "+n.Gateway6) // in fragments, both ways

	for _, ns := range []string{"web", "out"} {
		b.Web(ns)
	}
	contains(t, b.Sh("web", "curl -sf -m 5 'http://["+out6+"]/'"), "you are "+host6)
	contains(t, b.Sh("web", "curl -sf -m 5 'http://[2001:db8:2::2]/'"), "you are 2001:db8:2::1")
	b.Sh("web", "ping -6 -c 2 -i 0.2 -W 2 -s 3000 2001:db8:2::2") // in fragments, by another device than that of the default route
	contains(t, b.CLI("route", "get", "2001:db8:2::2"), "dev eth1 src 2001:db8:2::1")
	contains(t, b.Sh("host", "cat /proc/sys/net/ipv6/conf/uvs0/accept_ra"), "0")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.CLI("publish", "add", "["+host6+"]:8081:80", "--port", "web", "--from", out6+"/128")
	for _, at := range []string{"8080", "8081"} {
		contains(t, b.Sh("out", "curl -sf -m 5 'http://["+host6+"]:"+at+"/'"), "this is web; you are "+out6)
	}
	contains(t, b.Sh("db", "curl -sf -m 5 'http://["+host6+"]:8080/'"), "this is web")
	contains(t, b.Sh("host", "curl -sf -m 5 'http://[::1]:8080/'; curl -sf -m 5 'http://["+host6+"]:8081/'"), "this is web")
	if said, err := b.TrySh("db", "curl -sf -m 2 'http://["+host6+"]:8081/'"); err == nil {
		t.Errorf("a client that --from does not allow got %s", said)
	}
	// A neighbor with a link-local address that the host has on another device is not the host.
	b.CLI("publish", "add", "8099:80", "--port", "web", "--from", "192.0.2.0/24", "--from", "2001:db8:99::/64")
	hostPort := strings.TrimSpace(b.Sh("host", "ip -6 -o addr show dev uvs0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'"))
	b.Sh("out", "ip addr add "+hostPort+"/64 dev eth0 nodad")
	ofHost := strings.TrimSpace(b.Sh("host", "ip -6 -o addr show dev eth0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'"))
	if said, _ := b.TrySh("out", `printf 'GET / HTTP/1.0\r\n\r\n' | socat -T 2 - 'TCP6:[`+ofHost+`%eth0]:8099,bind=[`+hostPort+`%eth0]'`); strings.Contains(said, "this is web") {
		t.Errorf("a neighbor with an address of the host's port passes --from: %s", said)
	}
	contains(t, b.Sh("host", "curl -sf -m 5 'http://[::1]:8099/'"), "this is web")
	contains(t, b.Sh("host", "curl -sf -m 5 'http://["+host6+"]:8099/'"), "this is web")
	b.Sh("out", "ip addr del "+hostPort+"/64 dev eth0")
	contains(t, b.Sh("out", "curl -sf -m 5 http://10.1.0.1:8080/"), "this is web; you are 10.1.0.2")

	// A container without IPv6 is reached over IPv6 all the same, and clients with link-local addresses reach every container: by the relay.
	b.AddNS("four")
	b.CLI("network", "add", "four", "--subnet", "172.31.9.0/24")
	b.CLI("port", "add", "four", "--netns", b.NS("four"), "--network", "four")
	b.Web("four")
	b.Serve("four", 53, "socat", "UDP4-RECVFROM:53,fork", "SYSTEM:echo four answers")
	b.CLI("publish", "add", "8090:80", "--port", "four")
	b.CLI("publish", "add", "5390:53/udp", "--port", "four")
	b.CLI("publish", "add", "20000-21999:80", "--port", "four") // one web server answers, at the first port
	b.CLI("publish", "add", "20000-21999:53/udp", "--port", "four")
	local := strings.TrimSpace(b.Sh("host", "ip -6 -o addr show dev eth0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'"))
	for _, at := range []string{host6, local + "%25eth0"} {
		contains(t, b.Sh("out", "curl -sf -m 5 'http://["+at+"]:8090/'"), "this is four")
		contains(t, b.Sh("out", "curl -sf -m 5 'http://["+at+"]:20000/'"), "this is four")
		contains(t, b.Sh("out", "curl -sf -m 5 'http://["+at+"]:8080/'"), "this is web")
		b.Eventually("a UDP client of "+at+" has its answer", func() bool { // UDP may lose a datagram
			said, _ := b.TrySh("out", "echo x | socat -t 2 - 'UDP6:["+strings.Replace(at, "%25", "%", 1)+"]:5390'")
			return strings.Contains(said, "four answers")
		})
		b.Eventually("a UDP client of a range at "+at+" has its answer", func() bool {
			said, _ := b.TrySh("out", "echo x | socat -t 2 - 'UDP6:["+strings.Replace(at, "%25", "%", 1)+"]:20000'")
			return strings.Contains(said, "four answers")
		})
	}

	b.Eventually("monitor shows what a packet becomes", func() bool { return strings.Contains(monitor.String(), "translated to tcp ["+host6+"]:") })
	stopMonitor()
	contains(t, b.CLI("flow", "ls", "-f", "ipv6", "-o", "extended"), "ipv6     10 tcp", "src="+out6+" dst="+host6)
	contains(t, b.CLI("nat", "show"), "["+host6+"]:8081", "["+addr6(b, "web")+"]:80", n.Subnet6)
	contains(t, b.CLI("neigh", "show", "-6"), addr6(b, "web")+" dev default lladdr")
	if said := b.CLI("neigh", "show", "-4") + b.CLI("route", "show", "-4"); strings.Contains(said, n.Subnet6) || strings.Contains(said, addr6(b, "web")) {
		t.Errorf("-4 shows IPv6: %s", said)
	}
	contains(t, b.CLI("route", "get", "2001:db8:99::1"), "via "+out6+" dev eth0 src "+host6)
	contains(t, b.CLI("trace", "--in", "web", "tcp > ["+out6+"]:443 S"), "hop limit 64 becomes 63", "becomes ["+host6+"]:40000", "transmitted: to port uplink")
	contains(t, b.CLI("status"), "leads out, as "+host6)

	// A packet that is longer than the path's MTU is answered, and TCP goes on with shorter ones.
	b.Sh("host", "ip link set eth0 mtu 1400")
	b.Eventually("the container learns the MTU", func() bool {
		said, _ := b.TrySh("web", "ping -6 -c 1 -W 1 -M do -s 1380 "+out6)
		return strings.Contains(said, "mtu=1400") || strings.Contains(said, "mtu: 1400")
	})
	b.Sh("web", "curl -sf -m 5 'http://["+out6+"]/'")
	b.Sh("host", "ip link set eth0 mtu 1500")

	// A router outside says that fragments are too long: its error quotes an extension header.
	b.AddNS("beyond")
	b.Sh("out", "ip link add lan mtu 1300 type veth peer name eth0 netns "+b.NS("beyond")+" && ip addr add 2001:db8:3::1/64 dev lan nodad && ip link set lan up && sysctl -qw net.ipv6.conf.all.forwarding=1")
	b.Sh("beyond", "ip link set eth0 mtu 1300 up && ip addr add 2001:db8:3::2/64 dev eth0 nodad && ip -6 route add default via 2001:db8:3::1")
	b.Eventually("fragments of the path's length leave", func() bool {
		_, err := b.TrySh("web", "ping -6 -c 1 -W 1 -s 3000 2001:db8:3::2")
		return err == nil
	})
}

// TestIPv6ComesAndGoes: while the host has no IPv6, a container hears so at once, and uses IPv4. When the host gets IPv6, router
// advertisements tell the containers.
func TestIPv6ComesAndGoes(t *testing.T) {
	b := newWithIPv6(t)
	b.Start()
	containers(b)
	leads := func() bool { return strings.Contains(b.Sh("web", "ip -6 route show default"), "default via fe80::1") }
	none := func(when string) {
		t.Helper()
		took, _ := b.TrySh("web", "curl -s -m 5 -o /dev/null -w '%{time_total}' 'http://["+out6+"]/'")
		if seconds, err := strconv.ParseFloat(strings.TrimSpace(took), 64); err != nil || seconds > 0.5 { // long before the first retransmission
			t.Errorf("%s: a program waits for %s s", when, took)
		}
		if said, err := b.TrySh("web", "ping -6 -c 1 -W 5 "+out6); err == nil || !strings.Contains(strings.ToLower(said), "unreachable") {
			t.Errorf("%s: %s %v", when, said, err)
		}
		took, err := b.TrySh("web", "curl -s -m 5 -o /dev/null -w '%{time_total}' --resolve 'both:80:["+out6+"],10.1.0.2' http://both/")
		if seconds, perr := strconv.ParseFloat(strings.TrimSpace(took), 64); err != nil || perr != nil || seconds > 0.5 {
			t.Errorf("%s: a name with addresses of both families takes %s s: %v", when, took, err)
		}
	}
	b.Web("out")
	none("without IPv6")
	ping(b, "web", addr6(b, "db"))
	ping(b, "web", "10.1.0.2")
	contains(t, b.CLI("status"), "does not lead out")
	outside6(b)
	began := time.Now()
	b.Eventually("the containers have a default route", leads)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the default route came after %v", took)
	}
	ping(b, "web", out6)
	b.Sh("host", "ip -6 route del default")
	b.Eventually("the containers have no default route", func() bool { return b.Sh("web", "ip -6 route show default") == "" })
	none("after IPv6")
	b.Sh("host", "ip -6 route add default via "+out6)
	b.Eventually("the containers have a default route again", leads)
	ping(b, "web", out6)
	b.Balanced()
}

// TestIPv6Off starts a switch on a host where IPv6 is switched off, and connects a container where it is.
func TestIPv6Off(t *testing.T) {
	b := newWithIPv6(t)
	b.Sh("host", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	b.Start()
	b.AddNS("off")
	b.Sh("off", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	containers(b)
	b.CLI("port", "add", "off", "--netns", b.NS("off"))
	ping(b, "off", "10.1.0.2")
	ping(b, "web", addr6(b, "db"))
	if has := b.Sh("host", "ip -6 addr show dev uvs0"); has != "" {
		t.Errorf("the host's administrator has switched IPv6 off, and the host's port has\n%s", has)
	}
	ping(b, "host", strings.Split(port(b, "off").Addresses[0], "/")[0])
	b.Balanced()
	if err := b.Stop(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	nothingLeft(b)
}

// TestIPv6Prefixes: containers of a routed network keep their addresses outside, and those of a network with npt have addresses of another
// prefix there. Both are reached by pings and at published ports only, unless the network is open.
func TestIPv6Prefixes(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "curl")
	outside6(b)
	leavesHostAlone(b, func() {
		b.Sh("out", "ip -6 route add 2001:db8:70::/47 via "+host6)
		b.Web("out")
		for _, x := range []struct{ name, subnet, subnet6, nat6, in6, prefix string }{
			{"routed", "172.31.0.0/24", "2001:db8:70::/64", "routed", "replies", "2001:db8:70:0:"},
			{"npt", "172.31.1.0/24", "fd00:71::/64", "npt=2001:db8:71::/64", "replies", "2001:db8:71:0:"},
			{"open", "172.31.2.0/24", "2001:db8:71:1::/64", "routed", "any", "2001:db8:71:1:"},
		} {
			b.AddNS(x.name)
			b.CLI("network", "add", x.name, "--subnet", x.subnet, "--subnet6", x.subnet6, "--nat6", x.nat6, "--in6", x.in6)
			b.CLI("port", "add", x.name, "--netns", b.NS(x.name), "--network", x.name)
			b.Web(x.name)
			at := outer(b, x.name)
			if !strings.HasPrefix(at, x.prefix) {
				t.Fatalf("%s is seen as %s outside; want %s…", x.name, at, x.prefix)
			}
			if x.name != "npt" && at != addr6(b, x.name) {
				t.Errorf("%s is seen as %s outside; its address is %s", x.name, at, addr6(b, x.name))
			}
			ping(b, "out", at)
			ping(b, "host", addr6(b, x.name))
			b.Sh(x.name, "ping -6 -c 2 -i 0.2 -W 2 -s 3000 "+out6)
			b.Sh("out", "ping -6 -c 2 -i 0.2 -W 2 -s 3000 "+at)
			b.Sh(x.name, "curl -sf -m 5 'http://["+out6+"]/'")
			said, err := b.TrySh("out", "curl -sf -m 1 'http://["+at+"]/'")
			if open := err == nil; open != (x.in6 == "any") {
				t.Errorf("%s, %s: from outside, port 80 that nobody published: %s %v", x.name, x.in6, said, err)
			}
			b.CLI("publish", "add", "8080:80", "--port", x.name)
			for _, url := range []string{"http://[" + at + "]/", "http://[" + host6 + "]:8080/", "http://10.1.0.1:8080/"} {
				contains(t, b.Sh("out", "curl -sf -m 5 '"+url+"'"), "this is "+x.name+"; you are ", map[bool]string{true: out6, false: "10.1.0.2"}[strings.Contains(url, "[")])
			}
			contains(t, b.CLI("nat", "show"), "["+at+"]:80", map[string]string{"npt": "NPT", "routed": "ROUTED", "open": "ROUTED"}[x.name])
			contains(t, b.CLI("trace", "--in", x.name, "tcp > ["+out6+"]:443 S"), "transmitted: to port uplink")
			contains(t, b.CLI("trace", "--in", "uplink", "tcp ["+out6+"]:4000 > ["+at+"]:80 S"), "transmitted: to port "+x.name)
			b.CLI("publish", "del", "8080")
		}
		b.AddNS("near")
		b.CLI("port", "add", "near", "--netns", b.NS("near"), "--network", "npt")
		ping(b, "near", outer(b, "npt")) // hairpin
		b.Sh("host", "ip link set eth0 mtu 1400")
		b.Eventually("the container learns the MTU", func() bool {
			said, _ := b.TrySh("routed", "ping -6 -c 1 -W 1 -M do -s 1380 "+out6)
			return strings.Contains(said, "mtu=1400") || strings.Contains(said, "mtu: 1400")
		})
		b.Sh("host", "ip link set eth0 mtu 1500")
	})
}

// outer is the address by which the outside sees a namespace.
func outer(b *Bed, ns string) string {
	_, at, _ := strings.Cut(b.Sh(ns, "curl -sf -m 5 'http://["+out6+"]/'"), "you are ")
	return strings.TrimSpace(at)
}

// TestIPv6ThroughTheHost: with uplinks of the kinds host and tap, the host's stack forwards and masquerades. While it does not forward IPv6,
// programs hear so at once.
func TestIPv6ThroughTheHost(t *testing.T) {
	for _, kind := range []string{"host", "tap"} {
		t.Run(kind, func(t *testing.T) {
			b := NewHost(t)
			Need(t, "curl", "ip6tables", "ndisc6")
			outside6(b)
			b.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
			b.Start("--uplink-kind", kind)
			containers(b)
			b.Web("web")
			b.Web("out")
			if said, err := b.TrySh("web", "curl -sS -m 5 'http://["+out6+"]/'"); err == nil || strings.Contains(said+err.Error(), "timed out") {
				t.Errorf("the host does not forward: %s %v", said, err)
			}
			contains(t, b.CLI("status"), "the host does not forward IPv6")
			b.Sh("host", "sysctl -qw net.ipv6.conf.all.forwarding=1")
			from := addr6(b, "web")
			if kind == "tap" {
				var s api.Status
				b.JSON(&s, "status")
				from = s.Uplink.Address6
			}
			b.Sh("host", "ip6tables -t nat -A POSTROUTING -s "+from+" -o eth0 -j MASQUERADE")
			b.Eventually("packets leave", func() bool {
				said, _ := b.TrySh("web", "curl -s -m 1 'http://["+out6+"]/'")
				return strings.Contains(said, "you are "+host6)
			})
			b.Sh("web", "ping -6 -c 2 -i 0.2 -W 2 -s 3000 "+out6)
			ping(b, "web", host6)
			ping(b, "host", addr6(b, "web"))
			b.CLI("publish", "add", "8080:80", "--port", "web")
			client := map[string]string{"host": out6, "tap": addr6(b, "host")}[kind]
			contains(t, b.Sh("out", "curl -sf -m 5 'http://["+host6+"]:8080/'"), "this is web; you are "+client)
			contains(t, b.CLI("status"), "leads out")
			b.AddNS("routed")
			add := []string{"network", "add", "routed", "--subnet", "172.31.0.0/24", "--subnet6", "2001:db8:1:0:c0::/80", "--nat6", "routed", "--nd-proxy"}
			if kind == "host" { // containers with addresses of the host's subnet, through the host's stack
				b.CLI(add...)
				b.CLI("port", "add", "routed", "--netns", b.NS("routed"), "--network", "routed")
				b.Eventually("a container with an address of the host's subnet is answered", func() bool {
					said, _ := b.TrySh("routed", "curl -s -m 1 'http://["+out6+"]/'")
					return strings.Contains(said, "you are "+addr6(b, "routed"))
				})
				ping(b, "out", addr6(b, "routed"))
			} else if _, err := b.TryCLI(add...); err == nil || !strings.Contains(err.Error(), "the host masquerades") {
				t.Errorf("a network that keeps its addresses, with kind tap: %v", err)
			}
			b.Sh("host", "sysctl -qw net.ipv6.conf.all.forwarding=0")
			b.Eventually("the switch sees that the host does not forward", func() bool {
				said, err := b.TrySh("web", "ping -6 -c 1 -W 1 "+out6)
				return err != nil && strings.Contains(said, "nreachable")
			})
			contains(t, b.Sh("out", "curl -sf -m 5 'http://["+host6+"]:8080/'"), "this is web") // by the relay
			b.Balanced()
		})
	}
}

// TestPublishedWithoutWayOut: a host has IPv6 on its link and no way out. A published port serves its neighbors: by the relay, since the
// container has no route for its answers. With a way out, the container sees the client.
func TestPublishedWithoutWayOut(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "curl")
	b.Sh("host", "ip addr add "+host6+"/64 dev eth0 nodad")
	b.Start()
	containers(b)
	b.Web("web")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	get := "curl -sf -m 5 'http://[" + host6 + "]:8080/'"
	contains(t, b.Sh("out", get), "this is web; you are "+addr6(b, "host"))
	b.Sh("host", "ip -6 route add default via "+out6)
	b.Eventually("the container sees the client", func() bool {
		said, _ := b.TrySh("out", get)
		return strings.Contains(said, "you are "+out6)
	})
	b.Balanced()
}
