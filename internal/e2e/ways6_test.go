package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestWays6 is TestWays over IPv6.
func TestWays6(t *testing.T) {
	Need(t, "curl", "ip", "ping", "socat")
	const lan, far = "2001:db8:2::2", "2001:db8:99::9"
	eachPair(t, func(t *testing.T, p Pair) {
		if p.Uplink == "tap" {
			t.Skip("the host routes by itself")
		}
		b := newOn(t, p)
		b.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
		outside6(b)
		secondNIC(b)
		b.Sh("host", "ip addr add 2001:db8:2::1/64 dev lan0 nodad")
		b.Sh("lan", "ip addr add "+lan+"/64 dev eth0 nodad; ip addr add "+far+"/128 dev lo nodad; ip -6 route add default via 2001:db8:2::1")
		b.Sh("out", "ip addr add "+far+"/128 dev lo nodad; ip -6 route add default via "+host6)
		b.Start()
		b.Eventually("the switch knows that IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out") })
		containers(b)
		db := addr6(b, "db")

		// A second device, and a VPN's route that comes later.
		asks(t, b, "web", "["+lan+"]", "this is lan; you are 2001:db8:2::1")
		asks(t, b, "web", "["+far+"]", "this is out; you are "+host6)
		b.Sh("host", "ip -6 route add 2001:db8:99::/48 via "+lan)
		asks(t, b, "web", "["+far+"]", "this is lan; you are 2001:db8:2::1")
		b.Sh("host", "ip -6 route del 2001:db8:99::/48")
		asks(t, b, "web", "["+far+"]", "this is out; you are "+host6)

		// A rule for one container: by another device, and then nowhere. A route's preferred source.
		b.Sh("host", "ip -6 rule add from "+db+" lookup 100 && ip -6 route add default via "+lan+" table 100")
		asks(t, b, "db", "["+far+"]", "this is lan; you are 2001:db8:2::1")
		asks(t, b, "web", "["+far+"]", "this is out; you are "+host6)
		b.Sh("host", "ip -6 route replace prohibit default table 100 metric 1")
		told(b, "db", "ping -6 -c 1 -W 3 "+far, "Administratively prohibited")
		contains(t, b.CLI("trace", "--in", "db", fmt.Sprintf("tcp [%s]:5555 > [%s]:80 S", db, far)), "prohibit")
		b.Sh("web", "ping -6 -c 1 -W 3 "+far)
		b.Sh("host", "ip -6 rule del from "+db+" lookup 100; ip addr add 2001:db8:1::50/128 dev eth0 nodad; ip -6 route add 2001:db8:99::/48 via "+out6+" src 2001:db8:1::50")
		for range 2 { // the second time, the switch remembers
			b.Eventually("the route's preferred source is taken", func() bool { return strings.Contains(ask(b, "db", "["+far+"]"), "this is out; you are 2001:db8:1::50") })
		}
		contains(t, b.CLI("route", "get", far), "2001:db8:1::50")
		b.Sh("db", "ping -6 -c 1 -W 3 -s 3000 "+far) // in fragments, with another source address than the last packets
		b.Sh("host", "ip -6 route del 2001:db8:99::/48; ip addr del 2001:db8:1::50/128 dev eth0")

		b.Background("lan", "socat UDP6-LISTEN:9998,bind=["+far+"],fork EXEC:cat")
		b.Eventually("lan's echo server is there", func() bool { return strings.Contains(b.Sh("lan", "ss -Hlun 'sport = :9998'"), "9998") })
		rulesByPacket6(t, b, lan, far, "2001:db8:2::1")

		// A default route that no rule asks for leads nobody out; one that a rule asks for does.
		b.Sh("host", "ip -6 route del default; ip -6 route add default via "+lan+" table 120")
		b.Eventually("IPv6 does not lead out", func() bool { return strings.Contains(b.CLI("status"), "does not lead out") })
		b.Sh("host", "ip -6 rule add lookup 120 priority 40000")
		b.Eventually("IPv6 leads out by the rule's table", func() bool { return strings.Contains(b.CLI("status"), "leads out, as 2001:db8:2::1") })
		b.Sh("host", "ip -6 rule del lookup 120 priority 40000; ip -6 route flush table 120; ip -6 route add default via "+out6)
		b.Eventually("IPv6 leads out as before", func() bool { return strings.Contains(b.CLI("status"), "leads out, as "+host6) })

		// A VPN for all traffic, by the rules that wg-quick makes: nothing leaves beside it, but what the main table has a route for.
		b.Sh("host", "ip -6 route add default via "+lan+" table 51820 && ip -6 rule add not fwmark 0xca6c table 51820 && ip -6 rule add table main suppress_prefixlength 0")
		b.Eventually("the VPN's route is taken", func() bool {
			return strings.Contains(ask(b, "web", "["+far+"]"), "this is lan; you are 2001:db8:2::1")
		})
		asks(t, b, "db", "["+far+"]", "this is lan; you are 2001:db8:2::1")
		asks(t, b, "web", "["+out6+"]", "this is out; you are "+host6)
		b.Eventually("the switch has read the new rules", func() bool { return strings.Contains(b.CLI("status"), "leads out, as 2001:db8:2::1") })
		b.Eventually("a long packet finds the new way", func() bool { _, err := b.TrySh("web", "ping -6 -c 1 -W 3 -s 3000 "+far); return err == nil })
		b.Sh("web", "ping -6 -c 3 -i 0.2 -W 3 -s 3000 "+far) // from then on, none is lost
		contains(t, b.CLI("route", "get", far), "dev lan0", "2001:db8:2::1")

		// With the VPN, rules by what the packet has hold, too: here, they lead beside the VPN.
		b.Background("out", "socat UDP6-LISTEN:9998,bind=["+far+"],fork EXEC:cat")
		b.Eventually("out's echo server is there", func() bool { return strings.Contains(b.Sh("out", "ss -Hlun 'sport = :9998'"), "9998") })
		rulesByPacket6(t, b, out6, far, host6)
		// So does the source that a route names, and the IPv6 MTU of a device, which a router advertisement may make smaller.
		b.Sh("host", "ip addr add 2001:db8:2::77/128 dev lan0 nodad; ip -6 route replace default via "+lan+" src 2001:db8:2::77 table 51820")
		b.Eventually("the route's source is taken", func() bool {
			return strings.Contains(ask(b, "web", "["+far+"]"), "this is lan; you are 2001:db8:2::77")
		})
		b.Sh("host", "ip -6 route replace default via "+lan+" table 51820; ip addr del 2001:db8:2::77/128 dev lan0; sysctl -qw net.ipv6.conf.lan0.mtu=1300")
		b.Eventually("the container is told the IPv6 MTU of the device", func() bool {
			out, _ := b.TrySh("web", "ip -6 route flush cache; ping -6 -c 1 -W 2 -M do -s 1400 "+far)
			return strings.Contains(strings.ReplaceAll(out, " ", ""), "mtu=1300")
		})
		b.Sh("host", "sysctl -qw net.ipv6.conf.lan0.mtu=1500")
		asks(t, b, "web", "["+far+"]", "this is lan; you are 2001:db8:2::1")
		b.Sh("host", "ip -6 route add prohibit 2001:db8:d::/48 table main")
		told(b, "web", "ping -6 -c 1 -W 3 2001:db8:d::1", "Administratively prohibited")
		b.Web("web")
		b.CLI("publish", "add", "8080:80", "--port", "web")
		asks(t, b, "out", "["+host6+"]:8080", "this is web; you are "+out6)
		b.CLI("publish", "del", "8080")
		b.Sh("host", "ip -6 rule del table main suppress_prefixlength 0; ip -6 rule del not fwmark 0xca6c table 51820; ip -6 route flush table 51820; ip -6 route del prohibit 2001:db8:d::/48")
		b.Eventually("without the VPN, the default route is taken", func() bool {
			return strings.Contains(ask(b, "web", "["+far+"]"), "this is out; you are "+host6)
		})

		// Routes that refuse: the container is told.
		b.Sh("host", "ip -6 route add unreachable 2001:db8:a::/48; ip -6 route add prohibit 2001:db8:b::/48")
		told(b, "web", "ping -6 -c 1 -W 3 2001:db8:a::1", "unreachable")
		told(b, "web", "ping -6 -c 1 -W 3 2001:db8:b::1", "Administratively prohibited")

		// A next hop that does not answer: the container is told.
		b.Sh("host", "ip -6 route add 2001:db8:c::/48 via 2001:db8:2::66")
		told(b, "web", "curl -sS -m 20 'http://[2001:db8:c::1]/' 2>&1; ping -6 -c 1 -W 9 2001:db8:2::67", "Couldn't connect to server", "Address unreachable")

		// The MTU of a route, which the kernel honors when it forwards only if it is locked (net/ipv6/route.c, ip6_mtu_from_fib6).
		b.Sh("host", "ip -6 route replace 2001:db8:99::/48 via "+lan+" mtu lock 1300")
		b.Eventually("the container is told the MTU of the route", func() bool {
			out, _ := b.TrySh("web", "ip -6 route flush cache; ping -6 -c 1 -W 2 -M do -s 1400 "+far)
			return strings.Contains(strings.ReplaceAll(out, " ", ""), "mtu=1300")
		})
		b.Sh("host", "ip -6 route del 2001:db8:99::/48")

		// A socket of the host has the port already: the container's flow takes another one, and both have their answers.
		b.Background("host", "socat -u UDP6-RECV:41236 CREATE:"+b.dir+"/heard")
		b.Eventually("the host's socket is there", func() bool { return strings.Contains(b.Sh("host", "ss -Hlun 'sport = :41236'"), "41236") })
		b.Background("out", "socat UDP6-LISTEN:9999,fork EXEC:cat")
		b.Eventually("the echo server is there", func() bool { return strings.Contains(b.Sh("out", "ss -Hlun 'sport = :9999'"), "9999") })
		if got := b.Sh("web", "echo question | socat -t 2 - UDP6:["+out6+"]:9999,sourceport=41236"); strings.TrimSpace(got) != "question" {
			t.Errorf("the answer went to the host's socket: %q", got)
		}
		b.Balanced()
	})
}

// rulesByPacket6 adds rules by traffic class, protocol and port, and sees packets of web take their route: via a next hop, by the host's address own.
// There, an echo server has port 9998 of far.
func rulesByPacket6(t *testing.T, b *Bed, via, far, own string) {
	t.Helper()
	const table = "110"
	b.Sh("host", "ip -6 route add default via "+via+" table "+table)
	takes := func(send string) bool {
		b.CLI("flow", "flush")
		_, _ = b.TrySh("web", send)
		return strings.Contains(b.CLI("flow", "ls", "-f", "ipv6"), "dst="+own)
	}
	ping, ask := "ping -6 -c 1 -W 1 "+far, "echo question | socat -t 1 - UDP6:["+far+"]:"
	for _, rule := range []struct{ rule, matches, other string }{
		{"tos 0x10", ping + " -Q 0x10", ping},
		{"ipproto ipv6-icmp", ping, ask + "9998"},
		{"dport 9998", ask + "9998", ask + "9997"},
		{"dport 1-65534", ask + "9998", ping}, // the identifier of a ping is no port
		{"ipproto udp sport 7777", ask + "9998,sourceport=7777", ask + "9998,sourceport=7778"},
	} {
		b.Sh("host", "ip -6 rule add "+rule.rule+" lookup "+table+" priority 100")
		b.Eventually("packets take the route of the rule "+rule.rule+", and others do not", func() bool {
			return !takes(rule.other) && takes(rule.matches) && !takes(rule.other)
		})
		b.Sh("host", "ip -6 rule del "+rule.rule+" lookup "+table+" priority 100")
	}

	// Fragments, too, whose first header does not name the protocol.
	b.Sh("host", "ip -6 rule add ipproto udp dport 9998 lookup "+table+" priority 100")
	b.Eventually("a datagram in fragments comes back", func() bool {
		got, _ := b.TrySh("web", "head -c 3000 /dev/zero | socat -t 2 -b 4000 - UDP6:["+far+"]:9998 | wc -c")
		return strings.TrimSpace(got) == "3000"
	})
	b.Sh("host", "ip -6 rule del ipproto udp dport 9998 lookup "+table+" priority 100; ip -6 route flush table "+table)
}
