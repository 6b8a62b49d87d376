package e2e

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// secondNIC gives the host a device lan0, 10.20.0.1, with the machine lan, 10.20.0.2, behind it. Both lan and out have the address
// 203.0.113.9, so that an answer says which way the question took. A web server runs on each.
func secondNIC(b *Bed) {
	b.t.Helper()
	b.AddNS("lan")
	b.Sh("host", "ip link add lan0 type veth peer name eth0 netns "+b.NS("lan")+" && ip addr add 10.20.0.1/24 dev lan0 && ip link set lan0 up")
	b.Sh("lan", "ip link set lo up; ip addr add 10.20.0.2/24 dev eth0; ip link set eth0 up; ip addr add 203.0.113.9/32 dev lo")
	b.Sh("out", "ip addr add 203.0.113.9/32 dev lo")
	b.Sh("host", "ip route replace default via 10.1.0.2")
	b.Web("lan")
	b.Web("out")
}

// newWithPrograms is NewHost with an uplink that asks the host's routing.
func newWithPrograms(t *testing.T) *Bed {
	t.Helper()
	b := NewHost(t)
	if b.pair.Uplink == "tap" {
		b.pair.Uplink = "tcx"
	}
	return b
}

// ask asks the web server at addr from a namespace, and returns its answer: who it is, and whom it sees.
func ask(b *Bed, from, addr string) string {
	b.t.Helper()
	out, _ := b.TrySh(from, "curl -sS -m 5 http://"+addr+"/ 2>&1")
	return out
}

func asks(t *testing.T, b *Bed, from, addr, want string) {
	t.Helper()
	if got := ask(b, from, addr); !strings.Contains(got, want) {
		t.Errorf("%s asks %s: %q, want %q", from, addr, got, want)
	}
}

// TestWays checks that packets of containers take the way that the host's routing chooses, with the source address that it chooses, and
// that a change of the host holds for the next connection.
func TestWays(t *testing.T) {
	Need(t, "curl", "ip", "ping", "socat")
	eachPair(t, func(t *testing.T, p Pair) {
		if p.Uplink == "tap" {
			t.Skip("the host routes by itself")
		}
		b := newOn(t, p)
		secondNIC(b)
		b.Start()
		containers(b)

		// A second device, and a VPN's route that comes later.
		asks(t, b, "web", "10.20.0.2", "this is lan; you are 10.20.0.1")
		asks(t, b, "web", "203.0.113.9", "this is out; you are 10.1.0.1")
		b.Sh("host", "ip route add 128.0.0.0/1 via 10.20.0.2")
		asks(t, b, "web", "203.0.113.9", "this is lan; you are 10.20.0.1")
		b.Sh("host", "ip route del 128.0.0.0/1")
		asks(t, b, "web", "203.0.113.9", "this is out; you are 10.1.0.1")

		// A rule for one container, and a route's preferred source.
		b.Sh("host", "ip rule add from 172.29.0.3 lookup 100 && ip route add default via 10.20.0.2 table 100")
		asks(t, b, "db", "203.0.113.9", "this is lan; you are 10.20.0.1")
		asks(t, b, "web", "203.0.113.9", "this is out; you are 10.1.0.1")
		b.Sh("host", "ip rule del from 172.29.0.3 lookup 100; ip addr add 10.1.0.50/32 dev eth0; ip route add 203.0.113.0/24 via 10.1.0.2 src 10.1.0.50")
		asks(t, b, "db", "203.0.113.9", "this is out; you are 10.1.0.50")
		b.Sh("host", "ip route del 203.0.113.0/24; ip addr del 10.1.0.50/32 dev eth0")

		// Routes that refuse: the container is told.
		b.Sh("host", "ip route add unreachable 192.0.2.0/25; ip route add prohibit 192.0.2.128/25")
		told(b, "web", "ping -c 1 -W 3 192.0.2.1", "Destination Host Unreachable")
		told(b, "web", "ping -c 1 -W 3 192.0.2.200", "Packet filtered")

		// A next hop that does not answer: the container is told. The host has no such neighbor before.
		b.Sh("host", "ip route add 198.51.100.0/24 via 10.20.0.66")
		told(b, "web", "curl -sS -m 20 http://198.51.100.1/ 2>&1; ping -c 1 -W 9 10.20.0.67", "Couldn't connect to server", "Destination Host Unreachable")

		// The MTU of a route, locked or not, and its end.
		for _, lock := range []string{"", "lock "} {
			mtu := map[string]string{"": "1000", "lock ": "900"}[lock]
			b.Sh("host", "ip route replace 203.0.113.0/24 via 10.20.0.2 mtu "+lock+mtu)
			b.Eventually("the container is told the MTU of the route", func() bool { // the container itself remembers what it was told before
				out, _ := b.TrySh("web", "ip route flush cache; ping -c 1 -W 2 -M do -s 1100 203.0.113.9")
				return strings.Contains(strings.ReplaceAll(out, " ", ""), "mtu="+mtu)
			})
		}
		b.Sh("web", "ping -c 1 -W 3 -s 3000 203.0.113.9") // in fragments, with another source address than the last packets
		b.Sh("host", "ip route del 203.0.113.0/24")
		b.Eventually("the MTU of the route has ended", func() bool {
			out, _ := b.TrySh("web", "ip route flush cache; ping -c 1 -W 2 -M do -s 1100 203.0.113.9")
			return strings.Contains(out, " 1 received")
		})

		// Every address of the host leads to the host, and each published port answers on it, also when it comes later.
		b.Web("host")
		b.Web("web")
		b.CLI("publish", "add", "8080:80", "--port", "web")
		b.Sh("host", "ip addr add 10.1.0.77/24 dev eth0")
		b.Eventually("the host's new address leads to the host", func() bool { return strings.Contains(ask(b, "db", "10.1.0.77"), "this is host") })
		asks(t, b, "db", "10.20.0.1", "this is host")
		b.Sh("out", "ip route replace 10.1.0.77 dev eth0")
		asks(t, b, "out", "10.1.0.77:8080", "this is web; you are 10.1.0.2")
		asks(t, b, "lan", "10.20.0.1:8080", "this is web; you are 10.20.0.2")
		asks(t, b, "db", "10.1.0.77:8080", "this is web")

		// What belongs to no flow is the host's: a port that NAT uses, from another remote end.
		b.Sh("web", "echo question | socat -t 0.2 - UDP4:10.1.0.2:9999,sourceport=41234 || true")
		b.Sh("out", "echo stranger | socat -t 0.2 - UDP4:10.1.0.1:41235 || true")
		b.Background("host", "socat -u UDP4-RECV:41234 CREATE:"+b.dir+"/heard")
		b.Eventually("the host's own socket has its packets", func() bool {
			b.Sh("out", "echo for the host | socat -t 0.2 - UDP4:10.1.0.1:41234 || true")
			return strings.Contains(b.Sh("host", "cat "+b.dir+"/heard 2>/dev/null || true"), "for the host")
		})
		b.Balanced()
	})
}

// TestThroughHost checks an uplink of kind host: packets leave through the host's own stack with the container's address, so that its
// netfilter applies. Published ports stay the switch's.
func TestThroughHost(t *testing.T) {
	Need(t, "curl", "ip", "iptables")
	b := NewHost(t)
	b.pair.Uplink = "host"
	secondNIC(b)
	b.Start()
	containers(b)
	b.CLI("network", "add", "lab", "--subnet", "10.9.0.0/24")
	b.AddNS("c")
	b.CLI("port", "add", "c", "--netns", b.NS("c"), "--network", "lab")
	b.Web("web")
	b.Web("c")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.CLI("publish", "add", "8081:80", "--port", "c")
	asks(t, b, "out", "10.1.0.1:8080", "this is web; you are 10.1.0.2")
	asks(t, b, "lan", "10.20.0.1:8081", "this is c; you are 10.20.0.2")
	if got, _ := b.examine(); !strings.Contains(got["uplink"], "ip_forward") {
		t.Errorf("doctor does not say that the host forwards nothing: %v", got)
	}
	b.Sh("host", "sysctl -qw net.ipv4.ip_forward=1")
	b.Sh("out", "ip route add 172.29.0.0/16 via 10.1.0.1 && ip route add 10.9.0.0/24 via 10.1.0.1")
	asks(t, b, "web", "10.1.0.2", "this is out; you are 172.29.0.2")
	asks(t, b, "c", "10.1.0.2", "this is out; you are 10.9.0.2")
	asks(t, b, "out", "172.29.0.2", "this is web; you are 10.1.0.2")
	asks(t, b, "out", "10.9.0.2", "this is c; you are 10.1.0.2")
	b.Sh("host", "iptables -t nat -A POSTROUTING -s 172.29.0.0/16 ! -o uvs0 -j MASQUERADE")
	asks(t, b, "web", "10.1.0.2", "this is out; you are 10.1.0.1")
	asks(t, b, "out", "10.1.0.1:8080", "this is web; you are 10.1.0.2")
	asks(t, b, "db", "172.29.0.2", "this is web; you are 172.29.0.3")
	b.Balanced()
}

// TestRouteViaHost checks that one destination can be sent through the host's own stack, while all others are translated by the switch.
func TestRouteViaHost(t *testing.T) {
	Need(t, "curl", "ip", "iptables")
	b := newWithPrograms(t)
	secondNIC(b)
	b.Start()
	containers(b)
	b.Web("web")
	b.Sh("host", "sysctl -qw net.ipv4.ip_forward=1")
	b.Sh("lan", "ip route add 172.29.0.0/16 via 10.20.0.1")
	b.CLI("route", "add", "10.20.0.0/24", "via", "host")
	asks(t, b, "web", "10.20.0.2", "this is lan; you are 172.29.0.2")
	asks(t, b, "lan", "172.29.0.2", "this is web; you are 10.20.0.2")
	asks(t, b, "web", "10.1.0.2", "this is out; you are 10.1.0.1")
	b.Sh("host", "iptables -t nat -A POSTROUTING -s 172.29.0.0/16 -o lan0 -j MASQUERADE")
	asks(t, b, "db", "10.20.0.2", "this is lan; you are 10.20.0.1")
	if out := b.CLI("route", "show"); !strings.Contains(out, "10.20.0.0/24 via host dev host") {
		t.Errorf("route show: %s", out)
	}
	if out := b.CLI("config", "show"); !strings.Contains(out, "via: host") {
		t.Errorf("config show: %s", out)
	}
	b.CLI("route", "del", "10.20.0.0/24")
	asks(t, b, "web", "10.20.0.2", "this is lan; you are 10.20.0.1")
	if out := ask(b, "lan", "172.29.0.2"); strings.Contains(out, "this is web") {
		t.Errorf("without the route, the host still leads to containers: %s", out)
	}
	b.Balanced()
}

// kubeProxy has rules as kube-proxy makes them, for three services: 10.96.0.10:80 and 10.96.0.53:53/udp with pod web of this node behind
// them, and 10.96.0.20:80 with a pod of another node. The first two have --masquerade-all, since pods of one node answer each other directly.
var kubeProxy = map[string]string{
	"iptables": `
iptables -t nat -N KUBE-SERVICES; iptables -t nat -N KUBE-MARK-MASQ; iptables -t nat -N KUBE-POSTROUTING
iptables -t nat -N KUBE-SVC-WEB; iptables -t nat -N KUBE-SVC-DNS; iptables -t nat -N KUBE-SVC-FAR
iptables -t nat -A PREROUTING -j KUBE-SERVICES; iptables -t nat -A OUTPUT -j KUBE-SERVICES; iptables -t nat -A POSTROUTING -j KUBE-POSTROUTING
iptables -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
iptables -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
iptables -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
iptables -t nat -A KUBE-POSTROUTING -j MASQUERADE
iptables -t nat -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-SVC-WEB
iptables -t nat -A KUBE-SERVICES -d 10.96.0.53/32 -p udp --dport 53 -j KUBE-SVC-DNS
iptables -t nat -A KUBE-SERVICES -d 10.96.0.20/32 -p tcp --dport 80 -j KUBE-SVC-FAR
iptables -t nat -A KUBE-SVC-WEB -j KUBE-MARK-MASQ; iptables -t nat -A KUBE-SVC-WEB -p tcp -j DNAT --to-destination 172.29.0.2:80
iptables -t nat -A KUBE-SVC-DNS -j KUBE-MARK-MASQ; iptables -t nat -A KUBE-SVC-DNS -p udp -j DNAT --to-destination 172.29.0.2:53
iptables -t nat -A KUBE-SVC-FAR ! -s 172.29.0.0/16 -j KUBE-MARK-MASQ; iptables -t nat -A KUBE-SVC-FAR -p tcp -j DNAT --to-destination 10.244.1.5:80`,
	"nftables": `nft -f - <<'EOF'
table ip kube-proxy {
	chain mark-masq {
		meta mark set meta mark or 0x4000
	}
	chain service-web {
		jump mark-masq
		meta l4proto tcp dnat to 172.29.0.2:80
	}
	chain service-dns {
		jump mark-masq
		meta l4proto udp dnat to 172.29.0.2:53
	}
	chain service-far {
		ip saddr != 172.29.0.0/16 jump mark-masq
		meta l4proto tcp dnat to 10.244.1.5:80
	}
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . tcp . 80 : goto service-web, 10.96.0.53 . udp . 53 : goto service-dns, 10.96.0.20 . tcp . 80 : goto service-far }
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain nat-prerouting {
		type nat hook prerouting priority -100;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100;
		jump services
	}
	chain masquerading {
		meta mark set meta mark xor 0x4000
		masquerade fully-random
	}
	chain nat-postrouting {
		type nat hook postrouting priority 100;
		meta mark & 0x4000 == 0x4000 jump masquerading
	}
}
EOF`,
}

// TestServices checks what docs/kubernetes.md says of services: pods reach their addresses, DNS, and pods of another node, through kube-proxy's
// rules on the host.
func TestServices(t *testing.T) {
	Need(t, "curl", "ip", "iptables", "nft", "socat")
	for by, rules := range kubeProxy {
		t.Run(by, func(t *testing.T) {
			b := NewHost(t)
			b.pair.Uplink = "host"
			b.Start()
			containers(b)
			b.Web("web")
			b.Background("web", "socat UDP4-RECVFROM:53,fork SYSTEM:'echo the resolver'")
			b.Sh("host", "sysctl -qw net.ipv4.ip_forward=1; ip route add 10.244.1.0/24 via 10.1.0.2"+"\n"+rules)
			b.Sh("out", "ip addr add 10.244.1.5/32 dev lo; ip route add 172.29.0.0/16 via 10.1.0.1")
			b.Web("out")
			for _, from := range []string{"db", "web", "host"} {
				asks(t, b, from, "10.96.0.10", "this is web")
				asks(t, b, from, "10.96.0.20", "this is out")
				b.Eventually(from+" asks the resolver", func() bool {
					out, _ := b.TrySh(from, "echo question | socat -t 2 -T 2 - UDP4:10.96.0.53:53")
					return strings.Contains(out, "the resolver")
				})
			}
			asks(t, b, "db", "10.96.0.20", "you are 172.29.0.3") // another node sees the pod
			asks(t, b, "db", "10.244.1.5", "you are 172.29.0.3")
			asks(t, b, "out", "172.29.0.2", "this is web")
			b.Balanced()
		})
	}
}

// TestHostProtocol checks that a protocol without ports is translated, also in packets of few bytes and in errors that quote them, and that it stays
// the host's while the host itself uses it.
func TestHostProtocol(t *testing.T) {
	Need(t, "ip", "socat")
	for _, x := range []struct{ family, out, host, icmp string }{{"4", "10.1.0.2", "10.1.0.1", "1"}, {"6", "[" + out6 + "]", "[" + host6 + "]", "58"}} {
		t.Run("IPv"+x.family, func(t *testing.T) {
			b := newWithIPv6(t)
			outside6(b)
			b.Start()
			containers(b)
			listen := func(ns string) { b.Background(ns, "socat -u IP"+x.family+"-RECV:253 CREATE:"+b.dir+"/"+ns) }
			listen("out")
			listen("web")
			send := func(text, to string) string {
				return "echo " + text + " | socat -u - IP" + x.family + "-SENDTO:" + to + ":253"
			}
			sends := func(from, text, to, file string) {
				t.Helper()
				b.Eventually(from+" is heard", func() bool {
					b.Sh(from, send(text, to))
					return strings.Contains(b.Sh("host", "cat "+b.dir+"/"+file+" 2>/dev/null || true"), text)
				})
			}
			sends("web", "question", x.out, "out")
			sends("out", "answer", x.host, "web")
			b.Background("web", "socat -u IP"+x.family+"-RECV:"+x.icmp+" CREATE:"+b.dir+"/errors")
			b.Eventually("an error about a packet of few bytes is heard", func() bool {
				b.Sh("web", "echo few | socat -u - IP"+x.family+"-SENDTO:"+x.out+":254 || true") // nobody listens there
				return strings.Contains(b.Sh("host", "cat "+b.dir+"/errors 2>/dev/null || true"), "few")
			})
			listen("host")
			b.Eventually("the switch has seen the host's socket", func() bool {
				b.Sh("web", send("refused", x.out)+" || true")
				var s api.Status
				b.JSON(&s, "status")
				return s.Drops["pair_host_tunnel"] > 0
			})
			sends("out", "host", x.host, "host")
			if got := b.Sh("host", "cat "+b.dir+"/web"); strings.Contains(got, "host") {
				t.Errorf("the container has the host's packets: %q", got)
			}
			b.Balanced()
		})
	}
}

// The host's ping and a container's ping may have the same identifier: each hears its answers.
func TestHostPing(t *testing.T) {
	Need(t, "ip", "ping")
	b := newWithPrograms(t)
	b.Start()
	containers(b)
	b.Background("web", "ping -e 7777 -i 0.2 10.1.0.2")
	b.Eventually("the container's ping has its identifier outside", func() bool { return strings.Contains(b.CLI("flow", "ls", "-p", "icmp"), "id=7777") })
	b.Sh("out", "ip addr add 203.0.113.9/32 dev lo")
	contains(t, b.Sh("host", "ip route replace default via 10.1.0.2; ping -e 7777 -c 9 -i 0.2 -W 2 203.0.113.9"), // it hears a copy of the container's answers, too
		"bytes from 203.0.113.9: icmp_seq=1 ", "bytes from 203.0.113.9: icmp_seq=2 ", "bytes from 203.0.113.9: icmp_seq=3 ")
	b.Background("host", "ping -e 7777 -i 0.2 10.1.0.2")
	contains(t, b.Sh("web", "ping -e 7777 -c 5 -i 0.2 -W 2 10.1.0.2"), " 5 received")
	b.Balanced()
}

// A host that forwards is no way round NAT and the guard: neither from a container by the host port, nor from outside by a route to the network.
func TestHostThatForwards(t *testing.T) {
	Need(t, "ip", "ping")
	b := newWithIPv6(t)
	outside6(b)
	b.Sh("host", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	b.Start()
	containers(b)
	web := port(b, "web").Addresses
	dropped := func(reason string) uint64 {
		var s api.Status
		b.JSON(&s, "status")
		return s.Drops[reason]
	}
	refused := func(from, to, reason string) {
		t.Helper()
		before := dropped(reason)
		if out, err := b.TrySh(from, "ping -c 2 -i 0.2 -W 1 "+to); err == nil {
			t.Errorf("%s reaches %s by the host's forwarding: %s", from, to, out)
		}
		if dropped(reason) == before {
			t.Errorf("%s to %s: nothing was dropped for %s", from, to, reason)
		}
	}
	ping(b, "web", "10.1.0.2")
	ping(b, "web", out6)
	host := strings.Fields(b.Sh("host", "ip -o -6 addr show dev uvs0 scope global"))[3]
	b.Sh("web", "ip route add 10.1.0.2/32 via 172.29.255.254 && ip -6 route add "+out6+"/128 via "+strings.Split(host, "/")[0])
	refused("web", "10.1.0.2", "guard_destination")
	refused("web", out6, "guard_destination")

	for i, to := range web {
		address, _, _ := strings.Cut(to, "/")
		b.Sh("out", "ip route add "+address+" via "+[]string{"10.1.0.1", host6}[i])
		refused("out", address, "guard_source_address")
	}
	b.Balanced()
}

// TestOlderKernel checks the ways on a kernel whose bpf_fib_lookup neither tells the source address (before Linux 6.7) nor leaves out the
// neighbor (before 6.3).
func TestOlderKernel(t *testing.T) {
	Need(t, "curl", "ip", "ping")
	b := NewHost(t)
	b.pair.Uplink = "clsact"
	b.env = []string{"UVSWITCH_FIB_FLAGS=0"}
	b.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
	outside6(b)
	secondNIC(b)
	const lan6, far6 = "2001:db8:2::2", "2001:db8:99::9"
	b.Sh("host", "ip addr add 2001:db8:2::1/64 dev lan0 nodad")
	b.Sh("lan", "ip addr add "+lan6+"/64 dev eth0 nodad; ip addr add "+far6+"/128 dev lo nodad; ip -6 route add default via 2001:db8:2::1")
	b.Sh("out", "ip addr add "+far6+"/128 dev lo nodad")
	b.Start()
	containers(b)
	asks(t, b, "web", "["+lan6+"]", "this is lan; you are 2001:db8:2::1")
	asks(t, b, "web", "["+far6+"]", "this is out; you are "+host6)
	b.Sh("host", "ip -6 rule add from "+addr6(b, "db")+" lookup 100 && ip -6 route add default via "+lan6+" table 100")
	asks(t, b, "db", "["+far6+"]", "this is lan; you are 2001:db8:2::1")
	asks(t, b, "web", "["+far6+"]", "this is out; you are "+host6)
	b.Sh("web", "ping -6 -c 1 -W 3 -s 3000 "+far6)
	b.Sh("host", "ip addr add 2001:db8:1::9/64 dev eth0 nodad && ip addr del "+host6+"/64 dev eth0; ip -6 route replace default via "+out6)
	b.Eventually("new connections leave with the new address of IPv6", func() bool {
		said, _ := b.TrySh("web", "curl -s -m 1 'http://["+far6+"]/'")
		return strings.Contains(said, "this is out; you are 2001:db8:1::9")
	})
	b.Sh("host", "ip addr add "+host6+"/64 dev eth0 nodad && ip addr del 2001:db8:1::9/64 dev eth0; ip -6 route replace default via "+out6)
	asks(t, b, "web", "10.20.0.2", "this is lan; you are 10.20.0.1")
	asks(t, b, "web", "203.0.113.9", "this is out; you are 10.1.0.1")
	b.Sh("host", "ip route add 128.0.0.0/1 via 10.20.0.2")
	asks(t, b, "web", "203.0.113.9", "this is lan; you are 10.20.0.1")
	b.Sh("web", "ping -c 1 -W 3 -s 3000 203.0.113.9")
	// A SYN to a neighbor that the host does not know yet must not leave a wrong MTU behind: the answer's MSS is not clamped.
	b.Sh("host", "ip neigh flush dev lan0")
	b.Sh("web", "ip tcp_metrics flush; curl -sS -m 5 http://10.20.0.2/ >/dev/null & for i in 1 2 3; do curl -sS -m 5 http://10.20.0.2/ >/dev/null; done")
	var way api.Way
	if b.JSON(&way, "route", "get", "10.20.0.2"); way.MTU != 0 && way.MTU != 1500 {
		t.Errorf("the way has MTU %d", way.MTU)
	}
	b.Sh("host", "ip route del 128.0.0.0/1; ip rule add from 172.29.0.3 lookup 100 && ip route add default via 10.20.0.2 table 100")
	asks(t, b, "db", "203.0.113.9", "this is lan; you are 10.20.0.1")
	asks(t, b, "web", "203.0.113.9", "this is out; you are 10.1.0.1")
	// The host's address changes: the next hop needs another source.
	b.Sh("host", "ip addr add 10.1.0.9/24 dev eth0 && ip addr del 10.1.0.1/24 dev eth0; ip addr add 10.1.0.9/24 dev eth0; ip route replace default via 10.1.0.2")
	b.Eventually("new connections leave with the new address", func() bool { // one that begins before the switch has heard of it does not
		said, _ := b.TrySh("web", "curl -s -m 1 http://203.0.113.9/")
		return strings.Contains(said, "this is out; you are 10.1.0.9")
	})
	b.Balanced()
}

// TestKilledClsact checks that the filters of a switch that was killed leave all packets to the host, and that a new switch replaces them.
func TestKilledClsact(t *testing.T) {
	Need(t, "curl", "ip")
	b := NewHost(t)
	b.pair.Uplink = "clsact"
	b.Start()
	containers(b)
	b.Web("web")
	b.CLI("publish", "add", "80:80", "--port", "web")
	asks(t, b, "out", "10.1.0.1", "this is web; you are 10.1.0.2")
	b.Kill()
	b.Web("host")
	asks(t, b, "out", "10.1.0.1", "this is host; you are 10.1.0.2")
	b.Start()
	if out := b.Sh("host", "tc filter show dev eth0 ingress"); strings.Count(out, "uvswitch/") != 1 {
		t.Errorf("filters after the new start: %s", out)
	}
	asks(t, b, "out", "10.1.0.1", "this is host; you are 10.1.0.2")
}

// TestFence checks uplink.devices: packets leave by a listed device or not at all, whatever the routes say.
func TestFence(t *testing.T) {
	Need(t, "curl", "ip", "ping")
	b := newWithPrograms(t)
	secondNIC(b)
	b.Start("--uplink-devices", "lan0")
	containers(b)
	asks(t, b, "web", "10.20.0.2", "this is lan; you are 10.20.0.1")
	told(b, "web", "ping -c 1 -W 3 10.1.0.2", "Packet filtered") // by a device that is not listed
	var s api.Status
	if b.JSON(&s, "status"); len(s.Uplink.Allowed) != 1 || s.Drops["way_not_allowed"] == 0 {
		t.Errorf("uplink %+v, drops %v", s.Uplink, s.Drops)
	}
	b.Balanced()
}

// wayDevices are kinds of devices that a host may have in place of its NIC lan0. The scripts make way0 of host, and its other end, with
// address 10.30.0.2, in lan. A script with daemon set runs until the test ends.
var wayDevices = []struct {
	kind, host, lan string
	daemon          bool
}{
	{kind: "bridge", host: "ip addr flush dev lan0; ip link add way0 type bridge && ip link set lan0 master way0", lan: "ip addr add 10.30.0.2/24 dev eth0"},
	{kind: "macvlan", host: "ip link add link lan0 name way0 type macvlan mode bridge", lan: "ip addr add 10.30.0.2/24 dev eth0"},
	{kind: "vlan", host: "ip link add link lan0 name way0 type vlan id 5",
		lan: "ip link add link eth0 name v5 type vlan id 5 && ip addr add 10.30.0.2/24 dev v5 && ip link set v5 up"},
	{kind: "bond", host: "ip link add way0 type bond mode active-backup && ip link set lan0 down && ip link set lan0 master way0 && ip link set lan0 up",
		lan: "ip addr add 10.30.0.2/24 dev eth0"},
	{kind: "vxlan", host: "ip link add way0 type vxlan id 5 dstport 4789 dev lan0 remote 10.20.0.2",
		lan: "ip link add x5 type vxlan id 5 dstport 4789 dev eth0 remote 10.20.0.1 && ip addr add 10.30.0.2/24 dev x5 && ip link set x5 up"},
	{kind: "tun", daemon: true, host: "socat -b 2000 TUN,iff-no-pi,tun-name=way0 UDP4-DATAGRAM:10.20.0.2:5000,bind=10.20.0.1:5000",
		lan: "socat -b 2000 TUN:10.30.0.2/24,iff-no-pi,iff-up,tun-name=tun0 UDP4-DATAGRAM:10.20.0.1:5000,bind=10.20.0.2:5000"},
}

// TestWayDevices checks ways out by devices of other kinds than a NIC: connections out and in, super-frames, and fragments.
func TestWayDevices(t *testing.T) {
	Need(t, "curl", "ip", "ping", "socat")
	for _, d := range wayDevices {
		t.Run(d.kind, func(t *testing.T) {
			b := newWithPrograms(t)
			secondNIC(b)
			b.Start()
			containers(b)
			b.Web("web")
			b.CLI("publish", "add", "8080:80", "--port", "web")
			if d.daemon {
				b.Background("host", d.host)
				b.Background("lan", d.lan)
			} else {
				if out, err := b.TrySh("host", d.host+" 2>&1"); strings.Contains(out, "Unknown device type") {
					t.Skipf("this kernel has no devices of kind %s", d.kind)
				} else if err != nil {
					t.Fatal(out)
				}
				b.Sh("lan", d.lan)
			}
			b.Eventually("the host itself gets out by "+d.kind, func() bool {
				_, _ = b.TrySh("host", "ip addr add 10.30.0.1/24 dev way0; ip link set way0 mtu 1400; ip link set way0 up; ip route add 203.0.113.0/24 via 10.30.0.2 dev way0")
				return strings.Contains(ask(b, "host", "203.0.113.9"), "this is lan")
			})
			b.Eventually("the switch knows the address of the way", func() bool { return strings.Contains(b.CLI("status"), "10.30.0.1") }) // until then, a packet that needs it is lost
			b.Sh("db", "ping -c 1 -W 3 -s 4000 203.0.113.9")                                                                               // no flow has used the way, its source and its MTU
			asks(t, b, "web", "203.0.113.9", "this is lan; you are 10.30.0.1")
			asks(t, b, "lan", "10.30.0.1:8080", "this is web; you are 10.30.0.2")
			b.Serve("lan", 7000, "socat", "-u", "TCP4-LISTEN:7000,reuseaddr", "CREATE:"+b.dir+"/heard")
			b.Sh("db", "head -c 3000000 /dev/zero | socat -u - TCP4:203.0.113.9:7000")
			b.Eventually("all bytes have arrived", func() bool { return strings.HasPrefix(b.Sh("lan", "stat -c %s "+b.dir+"/heard"), "3000000") })
			b.Sh("db", "ping -c 1 -W 3 -s 4000 203.0.113.9")
			b.Sh("host", "ip link del way0")
			asks(t, b, "db", "203.0.113.9", "this is out; you are 10.1.0.1")
			b.Balanced()
		})
	}
}
