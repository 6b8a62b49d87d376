package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// TestNDProxy: containers have a part of the subnet that the host shares with its neighbors. The neighbors find the containers, and nothing
// else of that part; a kernel with proxy_ndp gives the same answers.
func TestNDProxy(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "curl", "ndisc6", "ns6", "tcpdump", "tshark")
	outside6(b)
	b.Web("out")
	leavesHostAlone(b, func() {
		b.AddNS("part", "far")
		if said, err := b.TryCLI("network", "add", "part", "--subnet", "172.31.0.0/24", "--subnet6", "2001:db8:1:0:c0::/80"); err == nil || !strings.Contains(err.Error(), "--nd-proxy") {
			t.Errorf("a part of the host's subnet without a proxy: %s %v", said, err)
		}
		b.CLI("network", "add", "part", "--subnet", "172.31.0.0/24", "--subnet6", "2001:db8:1:0:c0::/80", "--nd-proxy")
		b.CLI("port", "add", "part", "--netns", b.NS("part"), "--network", "part")
		b.Eventually("the host's link-local address is there", func() bool { return strings.Contains(b.CLI("network", "show", "part"), "on eth0") })
		at := addr6(b, "part")
		if seen := outer(b, "part"); seen != at {
			t.Errorf("%s is seen as %s", at, seen)
		}
		ping(b, "out", at)
		ping(b, "host", at)
		b.Sh("out", "ip -6 neigh change "+at+" dev eth0 nud probe") // by solicitations to the address itself
		b.Eventually("a solicitation to the address itself is answered", func() bool { return strings.Contains(b.Sh("out", "ip -6 neigh show "+at), "REACHABLE") })
		b.unanswered("2001:db8:1:0:c0::99", at)
		b.Sh("out", "ip addr add "+at+"/128 dev eth0")
		b.Eventually("another station's address is seen as a duplicate", func() bool { return strings.Contains(b.Sh("out", "ip addr show dev eth0"), "dadfailed") })
		b.Sh("out", "ip addr del "+at+"/128 dev eth0")

		// A prefix of which the host has no address is looked for by the router of the default route.
		b.Sh("out", "ip -6 route add 2001:db8:71::/64 dev eth0")
		b.CLI("network", "add", "far", "--subnet", "172.31.1.0/24", "--subnet6", "fd00:71::/64", "--nat6", "npt=2001:db8:71::/64", "--nd-proxy")
		b.CLI("port", "add", "far", "--netns", b.NS("far"), "--network", "far")
		ping(b, "out", outer(b, "far"))

		ours := b.advertised("host", "eth0", at)
		b.AddNS("kernel")
		b.Sh("out", "ip link add eth9 type veth peer name eth0 netns "+b.NS("kernel")+" && ip link set eth9 up && ip addr add 2001:db8:9::2/64 dev eth9 nodad")
		b.Sh("kernel", "ip link set eth0 up && ip addr add 2001:db8:9::1/64 dev eth0 nodad && sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.proxy_ndp=1 net.ipv6.conf.eth0.proxy_ndp=1 net.ipv6.neigh.eth0.proxy_delay=0 && ip -6 neigh add proxy 2001:db8:9::99 dev eth0")
		if kernels := b.advertised("kernel", "eth9", "2001:db8:9::99"); ours != kernels {
			t.Errorf("the proxy says %q, and a kernel says %q", ours, kernels)
		}

		b.CLI("port", "del", "part")
		b.unanswered(at, outer(b, "far"))
		if groups := b.Sh("host", "ip -6 maddr show dev eth0"); strings.Count(groups, "ff02::1:ff") != 3 { // of two addresses of the host, and of the port far
			t.Errorf("groups of a removed port are still joined: %s", groups)
		}
	})
}

// advertised is what a namespace behind a device of out says of an address: to a solicitation by multicast, by unicast, and
// to a DAD probe. Each answer is the
// destination, the hop limit, and the flags R, S and O.
func (b *Bed) advertised(ns, device, addr string) string {
	b.t.Helper()
	advertisements, stop := b.advertisements(device)
	group := frame.Addr6From(netip.MustParseAddr(addr)).SolicitedNode().Netip()
	own, _, _ := strings.Cut(strings.Fields(b.Sh("out", "ip -6 -o addr show dev "+device+" scope global"))[3], "/")
	_, mac, _ := strings.Cut(b.Sh(ns, "ip -o link show eth0"), "link/ether ")
	mac = strings.Fields(mac)[0]
	heard := func() []string {
		text := advertisements("-T fields -e ipv6.dst -e ipv6.hlim -e icmpv6.nd.na.flag.r -e icmpv6.nd.na.flag.s -e icmpv6.nd.na.flag.o -Y 'icmpv6.nd.na.target_address == " + addr + "'")
		return strings.Split(strings.TrimSpace(text), "\n")
	}
	for _, x := range []struct{ ask, to string }{ // to: the beginning of the answer's destination
		{"ndisc6 -1 -r 1 " + addr + " " + device, ""},
		{"ns6 -i " + device + " -t " + addr + " -s " + own + " -E 02:00:00:00:00:99 -D " + mac + " -d " + addr, own},
		{"ns6 -i " + device + " -t " + addr + " -s :: -d " + group.String(), "ff02::1"},
	} {
		b.Eventually("an answer to "+x.ask, func() bool {
			_, _ = b.TrySh("out", x.ask)
			return slices.ContainsFunc(heard(), func(l string) bool { return l != "" && strings.HasPrefix(l, x.to) })
		})
	}
	stop()
	said := heard()
	for i, l := range said { // the asker's kernel may ask by itself, too, from any of its addresses
		if to, rest, _ := strings.Cut(l, "\t"); to != "ff02::1" {
			said[i] = "the asker\t" + rest
		}
	}
	slices.Sort(said)
	return strings.Join(slices.Compact(said), "\n")
}

// advertisements begins to hear the neighbor advertisements on a device of out. read returns what tshark says of them, with its arguments.
func (b *Bed) advertisements(device string) (read func(args string) string, stop func()) {
	b.t.Helper()
	file := filepath.Join(b.dir, device+".pcap")
	stop = b.Listen("out", "tcpdump", "-i", device, "-U", "-w", file, "icmp6 and ip6[40] == 136")
	return func(args string) string { return b.Sh("out", "tshark -r "+file+" "+args+" 2>/dev/null") }, stop
}

// unanswered checks that nobody answers out for an address. Another address, which is asked for later, is answered for.
func (b *Bed) unanswered(addr, other string) {
	b.t.Helper()
	advertisements, stop := b.advertisements("eth0")
	defer stop()
	heard := func(addr string) bool { return advertisements("-Y 'icmpv6.nd.na.target_address == "+addr+"'") != "" }
	b.Eventually("an answer for "+other, func() bool {
		for _, a := range []string{addr, other} {
			_, _ = b.TrySh("out", "ndisc6 -1 -r 1 -w 100 "+a+" eth0") // it fails also when it is answered with R=0
		}
		return heard(other)
	})
	if heard(addr) {
		b.t.Errorf("somebody answers for %s", addr)
	}
}

// TestNDProxyStays: a kernel that takes IPv6 off the device for a moment, thousands of solicitations for addresses of nobody, a VLAN that the
// host is not in, and a second switch that wants a part of the prefix change nothing.
func TestNDProxyStays(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "ndisc6", "ns6", "tcpdump", "tshark")
	outside6(b)
	b.Start()
	b.AddNS("part")
	b.CLI("network", "add", "part", "--subnet", "172.31.0.0/24", "--subnet6", "2001:db8:1:0:c0::/80", "--nat6", "routed", "--nd-proxy")
	b.CLI("port", "add", "part", "--netns", b.NS("part"), "--network", "part")
	b.Eventually("the host's link-local address is there", func() bool { return strings.Contains(b.CLI("network", "show", "part"), "on eth0") })
	at := addr6(b, "part")
	ping(b, "out", at)

	group := frame.Addr6From(netip.MustParseAddr(at)).SolicitedNode().String()
	local := strings.Fields(b.Sh("host", "ip -6 -o addr show dev eth0 scope link"))[3]
	lines := []string{"link set dev eth0 mtu 1200", "link set dev eth0 mtu 1500", "addr replace " + local + " dev eth0 nodad", "addr replace " + host6 + "/64 dev eth0 nodad", "route replace default via " + out6 + " dev eth0"}
	b.Sh("host", "sysctl -qw net.ipv6.conf.default.accept_dad=0 && printf '"+strings.Join(lines, "\\n")+"\\n' | ip -6 -batch -") // faster than the switch looks
	b.Eventually("the group is joined again", func() bool { return strings.Contains(b.Sh("host", "ip -6 maddr show dev eth0"), group) })
	ping(b, "out", at)

	two := filepath.Join(b.dir, "two.sock")
	b.Background("host", uvswitch+" --socket "+two+" run --name two --subnet 172.26.0.0/16 --cgroup off --nat-ports 40000-50000 --state "+filepath.Join(b.dir, "two"))
	b.Eventually("a second switch runs", func() bool { _, err := b.TrySh("host", uvswitch+" --socket "+two+" status"); return err == nil })
	if said, err := b.TrySh("host", uvswitch+" --socket "+two+" network add bad --subnet 172.27.0.0/24 --subnet6 2001:db8:1:0:c0:275::/96 --nat6 routed --nd-proxy"); err == nil || !strings.Contains(said, "a network of another switch") {
		t.Errorf("a part of the first switch's prefix: %s %v", said, err)
	}

	advertisements, stop := b.advertisements("eth0")
	defer stop()
	answers := func(asker string) int { return strings.Count(advertisements("-Y 'ipv6.dst == "+asker+"'"), "\n") }
	var nobody []string
	for i := range 4000 {
		nobody = append(nobody, fmt.Sprintf("2001:db8:1::%x", i+16))
	}
	const asker, tagged, last = "2001:db8:1::7:1", "2001:db8:1::7:2", "2001:db8:1::7:3"
	const times = 5
	b.solicit(tagged, 7, at)
	for range times {
		b.solicit(asker, 0, append(nobody, at)...)
	}
	b.solicit(last, 0, at)
	b.Eventually("the last solicitation is answered", func() bool { return answers(last) == 1 })
	if n, wrong := answers(asker), answers(tagged); n != times || wrong != 0 {
		t.Errorf("%d solicitations of %d were answered between those for nobody, and %d in a VLAN", n, times, wrong)
	}
	b.Balanced()
}

// solicit sends a neighbor solicitation from out for each target, in a VLAN unless that is 0.
func (b *Bed) solicit(from string, vlan uint16, targets ...string) {
	b.t.Helper()
	err := netns.Do(b.path("out"), func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err := packet.Listen(eth0, packet.Raw, unix.ETH_P_ARP, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		for _, t := range targets {
			target := frame.Addr6From(netip.MustParseAddr(t))
			p := frametest.Packet{
				SrcMAC: 0x020000000077, DstMAC: target.SolicitedNode().GroupMAC(), Src6: frametest.Addr6(from), Dst6: target.SolicitedNode(), TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6NeighborSolicitation,
				Payload: target.Netip().AsSlice(),
			}
			eth := p.Raw()[frame.VnetLen:]
			if vlan != 0 {
				eth = slices.Insert(eth, 12, 0x81, 0, byte(vlan>>8), byte(vlan))
			}
			if _, err := c.WriteTo(eth, &packet.Addr{HardwareAddr: p.DstMAC.HardwareAddr()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestNDProxyReload: a file says whether the neighbors are answered. A network that keeps its addresses needs no address of the host.
func TestNDProxyReload(t *testing.T) {
	b := newWithIPv6(t)
	Need(t, "ndisc6", "tcpdump", "tshark")
	outside6(b)
	b.Sh("out", "ip -6 route add 2001:db8:71::/64 dev eth0")
	b.Start()
	file := func(proxied bool) string {
		name := filepath.Join(b.dir, fmt.Sprint(proxied, ".yaml"))
		text := fmt.Sprintf("networks:\n  - {name: far, subnet: 172.31.0.0/24, subnet6: \"2001:db8:71::/64\", nat6: routed, ndProxy: %v}\n", proxied)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	b.CLI("reload", file(true))
	b.AddNS("far")
	b.CLI("port", "add", "far", "--netns", b.NS("far"), "--network", "far")
	at := addr6(b, "far")
	ping(b, "out", at)
	contains(t, b.CLI("reload", file(false)), "ndProxy true to false")
	b.unanswered(at, host6)
	b.CLI("reload", file(true))
	ping(b, "out", at)

	router := strings.Fields(b.Sh("out", "ip -6 -o addr show dev eth0 scope link"))[3]
	router, _, _ = strings.Cut(router, "/")
	b.Sh("host", "ip -6 route replace default via "+router+" dev eth0 && ip addr del "+host6+"/64 dev eth0")
	b.Eventually("the switch says that the host has no address", func() bool { return strings.Contains(b.CLI("status"), "no IPv6 address of global scope") })
	ping(b, "far", out6)
	ping(b, "out", at)
	b.AddNS("masqueraded")
	b.CLI("port", "add", "masqueraded", "--netns", b.NS("masqueraded"))
	if said, err := b.TrySh("masqueraded", "ping -c 1 -W 5 "+out6); err == nil || !strings.Contains(said, "nreachable") {
		t.Errorf("a container that needs an address of the host: %s", said)
	}
	b.Balanced()
}
