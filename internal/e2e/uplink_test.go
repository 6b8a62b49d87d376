package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/netns"
	"golang.org/x/sys/unix"
)

// hostState returns the state of the host that a switch must not change: rules, sysctls and policy routes. It leaves out the
// sysctls of the switch's own devices, which exist only while the devices do.
func hostState(b *Bed) string {
	b.t.Helper()
	Need(b.t, "nft", "iptables-save", "sysctl")
	own := regexp.MustCompile(`(?m)^net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.uvs.*\n`)
	volatile := regexp.MustCompile(`(?m)^net\.(netfilter\.nf_conntrack_count|ipv4\.tcp_fastopen_key|core\.netdev_rss_key|ipv6\.route\.flush).*\n`)
	s := b.Sh("host", "sysctl -a 2>/dev/null | grep '^net\\.' | sort")
	s = volatile.ReplaceAllString(own.ReplaceAllString(s, ""), "")
	return s + b.Sh("host", "nft list ruleset; iptables-save | grep -v '^#'; ip rule; ip -6 rule; ip link show type bridge")
}

// newOn is NewHost with a given pair.
func newOn(t *testing.T, p Pair) *Bed {
	t.Helper()
	b := NewHost(t)
	b.pair = p
	return b
}

// eachUplink runs a test of the uplink, and checks that the switch does not change the host.
func eachUplink(t *testing.T, test func(t *testing.T, b *Bed)) {
	eachPair(t, func(t *testing.T, p Pair) {
		b := newOn(t, p)
		leavesHostAlone(b, func() {
			var s api.Status
			if b.JSON(&s, "status"); s.Uplink.Kind != p.Uplink || s.Uplink.State != "up" || s.Uplink.Device != "eth0" {
				t.Fatalf("uplink %+v", s.Uplink)
			}
			test(t, b)
		})
	})
}

// leavesHostAlone runs a test with a switch and the containers web and db, and checks that the switch does not change the host: not while it
// runs, and not when it ends.
func leavesHostAlone(b *Bed, test func()) {
	b.t.Helper()
	before := hostState(b)
	b.Start()
	containers(b)
	test()
	if during := hostState(b); during != before {
		b.t.Errorf("the host was changed while the switch ran:\n%s", diff(before, during))
	}
	b.Balanced()
	if err := b.Stop(); err != nil {
		b.t.Errorf("SIGTERM: %v", err)
	}
	if after := hostState(b); after != before {
		b.t.Errorf("the host is not as it was:\n%s", diff(before, after))
	}
	nothingLeft(b)
}

func diff(a, b string) string {
	var out []string
	in := map[string]bool{}
	for _, l := range strings.Split(a, "\n") {
		in[l] = true
	}
	for _, l := range strings.Split(b, "\n") {
		if !in[l] {
			out = append(out, "+ "+l)
		}
		delete(in, l)
	}
	for l := range in {
		out = append(out, "- "+l)
	}
	return strings.Join(out, "\n")
}

// nothingLeft checks that an ended switch left no device, filter or socket behind.
func nothingLeft(b *Bed) {
	b.t.Helper()
	if out := b.Sh("host", "ip -br link"); strings.Contains(out, "uvs") {
		b.t.Errorf("devices are left:\n%s", out)
	}
	if out := b.Sh("host", "tc qdisc show dev eth0; tc filter show dev eth0 ingress 2>&1"); strings.Contains(out, "clsact") || strings.Contains(out, "uvs") {
		b.t.Errorf("filters are left:\n%s", out)
	}
	if out := b.Sh("host", "ip link show eth0"); strings.Contains(out, "tcx") {
		b.t.Errorf("tcx links are left:\n%s", out)
	}
	if _, err := os.Stat(b.Socket()); err == nil {
		b.t.Error("the socket is left")
	}
}

func TestOut(t *testing.T) {
	eachUplink(t, func(t *testing.T, b *Bed) {
		Need(t, "tcpdump", "curl")
		capture := filepath.Join(b.dir, "out.pcap")
		dump := b.Listen("out", "tcpdump", "-i", "eth0", "-U", "-w", capture)
		ping(b, "web", "10.1.0.2")
		ping(b, "host", "10.1.0.2") // the host's own traffic still works
		b.Web("out")
		contains(t, b.Sh("web", "curl -s -m 5 http://10.1.0.2/"), "this is out; you are 10.1.0.1")
		contains(t, b.Sh("host", "curl -s -m 5 http://10.1.0.2/"), "you are 10.1.0.1")
		dump()
		if out := b.Sh("out", "tcpdump -nr "+capture+" 'net 172.29.0.0/16' 2>/dev/null | wc -l"); strings.TrimSpace(out) != "0" {
			t.Errorf("outside saw %s packets with inside addresses", out)
		}
		if out := b.Sh("out", "tcpdump -nr "+capture+" 'tcp[tcpflags] & tcp-rst != 0' 2>/dev/null | wc -l"); strings.TrimSpace(out) != "0" {
			t.Errorf("%s resets", out)
		}
		b.Iperf("out")
		b.Measure("web", "-t 1 -c 10.1.0.2")
		b.Measure("web", "-t 1 -R -c 10.1.0.2")
		b.Measure("web", "-u -b 50M -t 1 -c 10.1.0.2")
		b.Measure("web", "-u -b 50M -t 1 -R -c 10.1.0.2")
		b.Measure("host", "-t 1 -c 10.1.0.2")
		p := port(b, "uplink")
		if p.RxBytes/p.RxPackets < 500 || p.TxBytes/p.TxPackets < 500 {
			t.Errorf("uplink %+v: no super-frames", p)
		}
		contains(t, b.Sh("web", "ping -c 1 -t 1 10.1.0.2 || true"), "Time to live exceeded")
	})
}

func TestPublish(t *testing.T) {
	eachUplink(t, func(t *testing.T, b *Bed) {
		Need(t, "curl", "socat")
		b.Web("web")
		b.CLI("publish", "add", "8080:80", "--port", "web")
		const url = "curl -s -m 5 http://10.1.0.1:8080/"
		contains(t, b.Sh("out", url), "this is web; you are 10.1.0.2")
		contains(t, b.Sh("db", url), "this is web")
		contains(t, b.Sh("web", url), "this is web")
		contains(t, b.Sh("host", url), "this is web")
		contains(t, b.Sh("host", "curl -s -m 5 http://127.0.0.1:8080/"), "this is web")

		b.CLI("publish", "add", "127.0.0.1:8081:80", "--port", "web")
		contains(t, b.Sh("host", "curl -s -m 5 http://127.0.0.1:8081/"), "this is web")
		if out, err := b.TrySh("out", "curl -s -m 2 http://10.1.0.1:8081/"); err == nil {
			t.Errorf("published on 127.0.0.1 and reached from outside: %s", out)
		}
		b.CLI("publish", "add", "8082:80", "--port", "web", "--from", "192.0.2.0/24")
		if out, err := b.TrySh("out", "curl -s -m 2 http://10.1.0.1:8082/"); err == nil {
			t.Errorf("--from lets a stranger in: %s", out)
		}
		if out, err := b.TrySh("db", "curl -s -m 2 http://172.29.255.254:8082/"); err == nil {
			t.Errorf("--from lets a stranger in by the host's relay: %s", out)
		}
		contains(t, b.Sh("host", "curl -s -m 5 http://127.0.0.1:8082/"), "this is web")
		// A container is not reachable by its own address from outside, even with a route to it.
		b.Sh("out", "ip route add 172.29.0.0/16 via 10.1.0.1")
		if out, err := b.TrySh("out", "curl -s -m 2 http://172.29.0.2/"); err == nil {
			t.Errorf("a container reached by its own address from outside: %s", out)
		}
		// UDP from outside, from a container and from the host.
		b.Serve("db", 99, "socat", "-T5", "UDP-LISTEN:99,fork,reuseaddr", "SYSTEM:cat")
		b.CLI("publish", "add", "9999:99/udp", "--port", "db")
		for _, from := range []string{"out", "web", "host"} {
			contains(t, b.Sh(from, "echo hello-from-"+from+" | socat -t2 - UDP:10.1.0.1:9999"), "hello-from-"+from)
		}
		// The error for a port in use names the process that uses it.
		b.Serve("host", 9090, "socat", "TCP-LISTEN:9090,fork", "SYSTEM:cat")
		_, err := b.TryCLI("publish", "add", "9090:80", "--port", "web")
		if err == nil || !strings.Contains(err.Error(), "in use by pid") || !strings.Contains(err.Error(), "socat") {
			t.Errorf("publishing a taken port: %v", err)
		}
		_, err = b.TryCLI("publish", "add", "8080:81", "--port", "db")
		if err == nil || !strings.Contains(err.Error(), `to port "web"`) {
			t.Errorf("publishing a published port: %v", err)
		}
		contains(t, b.CLI("nat", "show"), "DNAT", "10.1.0.1:8080", "172.29.0.2:80", "MASQUERADE", "172.29.0.0/16")
		b.CLI("publish", "del", "8080")
		if out, err := b.TrySh("out", "curl -s -m 2 http://10.1.0.1:8080/"); err == nil {
			t.Errorf("taken back, and still: %s", out)
		}
	})
}

// TestLocalPrefix checks that a prefix of the host's table local counts as addresses of the host: for published ports, for containers that
// reach the host, and as a source address.
func TestLocalPrefix(t *testing.T) {
	Need(t, "curl", "ip")
	eachUplink(t, func(t *testing.T, b *Bed) {
		b.Web("web")
		b.Web("host")
		b.CLI("publish", "add", "8080:80", "--port", "web")
		b.Sh("out", "ip route add 10.60.0.0/24 via 10.1.0.1")
		// A transparent proxy's table makes nothing an address of the host.
		b.Sh("host", "ip rule add fwmark 0x77 lookup 177; ip route add local 0.0.0.0/0 dev lo table 177")
		b.Sh("host", "ip route add local 10.60.0.0/24 dev lo")
		b.Eventually("status shows the prefix", func() bool { return strings.Contains(b.CLI("status"), "10.60.0.0/24") })
		if out := b.CLI("status"); strings.Contains(out, "0.0.0.0/0") {
			t.Errorf("status: %s", out)
		}
		asks(t, b, "out", "10.60.0.5:8080", "this is web; you are 10.1.0.2")
		asks(t, b, "out", "10.60.0.5", "this is host")
		for _, from := range []string{"db", "web", "host"} {
			asks(t, b, from, "10.60.0.5:8080", "this is web")
			asks(t, b, from, "10.60.0.9", "this is host")
		}
		// A static route to exactly such a prefix stays, before and after, also in a reload. One that overlaps a network counts for nothing.
		file := filepath.Join(b.dir, "routes.yml")
		if err := os.WriteFile(file, []byte("networks: [{name: default, subnet: 172.29.0.0/16}]\nports: [{name: web, netns: "+b.NS("web")+"}, {name: db, netns: "+b.NS("db")+"}]\n"+
			"publish: [{host: '8080', to: 'web:80'}]\nroutes: [{dst: 10.60.0.0/24, via: host}, {dst: 10.61.0.0/24, via: host}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.CLI("reload", file)
		contains(t, b.CLI("reload", file), "nothing to change")
		b.Sh("host", "ip route add local 10.61.0.0/24 dev lo; ip route add local 172.29.0.0/16 dev lo; ip route add local 172.16.0.0/12 dev lo")
		b.Eventually("status shows the prefixes", func() bool { return strings.Contains(b.CLI("status"), "10.61.0.0/24") })
		b.Sh("host", "ip route del local 10.61.0.0/24 dev lo; ip route del local 172.29.0.0/16 dev lo; ip route del local 172.16.0.0/12 dev lo")
		b.Eventually("the prefixes are gone", func() bool { return !strings.Contains(b.CLI("status"), "10.61.0.0/24") })
		contains(t, b.CLI("route", "show"), "172.29.0.0/16 dev default", "10.61.0.0/24 via", "10.60.0.0/24 via")
		ping(b, "web", "172.29.0.3")
		b.CLI("route", "del", "10.61.0.0/24")
		b.CLI("route", "del", "10.60.0.0/24")
		if _, err := b.TryCLI("route", "del", "10.60.0.0/24"); err == nil || !strings.Contains(err.Error(), "table local") {
			t.Errorf("the route that follows the host: %v", err)
		}
		asks(t, b, "db", "10.60.0.9", "this is host")
		contains(t, b.CLI("trace", "--in", "db", "udp 172.29.0.3:4000 > 10.60.0.9:53"), "for the host itself")
		b.CLI("publish", "add", "10.60.0.7:8443:80", "--port", "web")
		isPublishedAtOnly(t, b, "10.60.0.7:8443", "10.60.0.8:8443")
		b.Web("out")
		b.Sh("host", "ip route add 10.1.0.2 dev eth0 src 10.60.0.200")
		asks(t, b, "host", "10.1.0.2", "you are 10.60.0.200")
		b.Eventually("a container leaves by the preferred source", func() bool { return strings.Contains(ask(b, "db", "10.1.0.2"), "you are 10.60.0.200") })
		b.Sh("host", "ip route del 10.1.0.2 dev eth0 src 10.60.0.200; ip route del local 10.60.0.0/24 dev lo; ip rule del fwmark 0x77; ip route flush table 177")
		b.Eventually("the prefix is gone", func() bool { return !strings.Contains(b.CLI("status"), "10.60.0.0/24") })
		b.Eventually("the prefix counts no more", func() bool { return !strings.Contains(ask(b, "db", "10.60.0.5:8080"), "this is") })
	})
}

// isPublishedAtOnly checks that web is published at one address of a prefix, and not at another one.
func isPublishedAtOnly(t *testing.T, b *Bed, at, elsewhere string) {
	t.Helper()
	for _, from := range []string{"out", "db", "host"} {
		asks(t, b, from, at, "this is web")
		if out := ask(b, from, elsewhere); strings.Contains(out, "this is") {
			t.Errorf("%s asks an address that nothing is published at: %s", from, out)
		}
	}
}

// TestLocalPrefix6 is TestLocalPrefix over IPv6 (`ip -6 route add local`, AnyIP), with a routed network inside of such a prefix.
func TestLocalPrefix6(t *testing.T) {
	Need(t, "curl", "ip")
	b := newWithIPv6(t)
	outside6(b)
	b.Start()
	containers(b)
	b.Web("web")
	b.Web("host")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.Sh("out", "ip -6 route add 2001:db8:60::/48 via "+host6)
	b.Sh("host", "ip -6 route add local 2001:db8:60::/48 dev lo")
	b.Eventually("status shows the prefix", func() bool { return strings.Contains(b.CLI("status"), "2001:db8:60::/48") })
	asks(t, b, "out", "[2001:db8:60::5]:8080", "this is web; you are "+out6)
	asks(t, b, "out", "[2001:db8:60::5]", "this is host")
	for _, from := range []string{"db", "web", "host"} {
		asks(t, b, from, "[2001:db8:60::5]:8080", "this is web")
		asks(t, b, from, "[2001:db8:60::9]", "this is host")
	}
	contains(t, b.CLI("trace", "--in", "db", "udp ["+addr6(b, "db")+"]:4000 > [2001:db8:60::9]:53"), "for the host itself")
	b.CLI("publish", "add", "[2001:db8:60::7]:8443:80", "--port", "web")
	isPublishedAtOnly(t, b, "[2001:db8:60::7]:8443", "[2001:db8:60::8]:8443")
	// A routed network inside of the prefix is reached from outside, and the rest of the prefix stays the host's.
	b.AddNS("x")
	b.CLI("network", "add", "lab", "--subnet", "172.31.0.0/24", "--subnet6", "2001:db8:60:1::/64", "--nat6", "routed", "--in6", "any")
	b.CLI("port", "add", "c", "--network", "lab", "--netns", b.NS("x"), "--ip6", "2001:db8:60:1::2")
	b.Web("x")
	asks(t, b, "out", "[2001:db8:60:1::2]", "this is x; you are "+out6)
	b.CLI("port", "del", "c")
	b.CLI("network", "del", "lab")
	asks(t, b, "out", "[2001:db8:60::5]:8080", "this is web; you are "+out6)
	b.Sh("host", "ip -6 route del local 2001:db8:60::/48 dev lo")
	b.Eventually("the prefix is gone", func() bool { return !strings.Contains(b.CLI("status"), "2001:db8:60::/48") })
	b.Eventually("the prefix counts no more", func() bool { return !strings.Contains(ask(b, "db", "[2001:db8:60::5]:8080"), "this is") })
}

// TestTenants checks that a tenant is kept: by the command, in the file, and over a reload; and that its ports together have the part of one.
func TestTenants(t *testing.T) {
	b := New(t)
	containers(b)
	b.AddNS("red1", "red2")
	b.CLI("port", "add", "red1", "--netns", b.NS("red1"), "--tenant", "red")
	b.CLI("port", "add", "red2", "--netns", b.NS("red2"), "--tenant", "red")
	contains(t, b.CLI("port", "show", "red2"), "tenant", "red")
	file := filepath.Join(b.dir, "tenants.yml")
	if err := os.WriteFile(file, []byte(b.CLI("config", "show")), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, b.CLI("config", "show"), "tenant: red")
	contains(t, b.CLI("reload", file), "nothing to change")
	for _, from := range []string{"red1", "red2", "web"} {
		ping(b, from, "10.1.0.2")
	}
	for _, from := range []string{"red1", "red2", "web"} {
		b.Sh(from, `bash -c "echo >/dev/udp/10.1.0.2/9"`)
	}
	contains(t, b.CLI("nat", "ports"), "red1 1, red2 1, web 1, tenant red 2")
	contains(t, b.CLI("flow", "stats"), "held by tenant red")
	b.CLI("port", "del", "red1")
	ping(b, "red2", "10.1.0.2")
	if p := port(b, "web"); p.Tenant != "" {
		t.Errorf("tenant of web: %s", p.Tenant)
	}
}

// TestFlooded checks that floods from outside to two ports, which overflow the uplink's second queue, are limited to what each of the ports may
// receive, and that other ports lose nothing then.
func TestFlooded(t *testing.T) {
	Need(t, "curl", "ip")
	eachUplink(t, func(t *testing.T, b *Bed) {
		if b.pair.Uplink == "tap" {
			t.Skip("the host's stack decides")
		}
		first, second := floodOf(t, b, 9999, "db"), floodOf(t, b, 9998, "web")
		limitsFlood(t, b, func(n int) {
			first(n / 2)
			second(n / 2)
		})
	})
}

// floodOf publishes a UDP port for a container, and returns what sends packets to that port from outside.
func floodOf(t *testing.T, b *Bed, port int, container string) func(packets int) {
	t.Helper()
	b.CLI("publish", "add", fmt.Sprintf("%d:9/udp", port), "--port", container)
	var c net.Conn
	if err := netns.Do(b.path("out"), func() (err error) { c, err = net.Dial("udp4", fmt.Sprintf("10.1.0.1:%d", port)); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func(n int) {
		for range n {
			_, _ = c.Write([]byte("flood")) // refused while nobody listens there
		}
	}
}

// stopped stops the switch, and returns what lets it go on.
func stopped(b *Bed) (resume func()) {
	b.t.Helper()
	signal := func(s unix.Signal) {
		if err := unix.Kill(b.proc.Process.Pid, s); err != nil {
			b.t.Fatal(err)
		}
	}
	signal(unix.SIGSTOP)
	return func() { signal(unix.SIGCONT) }
}

// TestFirstPacketBesideFlood checks that the first packet to a published port comes through while a flood to another one fills the uplink's second
// queue.
func TestFirstPacketBesideFlood(t *testing.T) {
	Need(t, "ip")
	eachUplink(t, func(t *testing.T, b *Bed) {
		if b.pair.Uplink == "tap" {
			t.Skip("the host's stack decides")
		}
		flood := floodOf(t, b, 9999, "db")
		b.CLI("publish", "add", "8080:80/udp", "--port", "web")
		var in *net.UDPConn
		var out net.Conn
		err := netns.Do(b.path("web"), func() (err error) { in, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 80}); return err })
		if err == nil {
			err = netns.Do(b.path("out"), func() (err error) { out, err = net.Dial("udp4", "10.1.0.1:8080"); return err })
		}
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		defer out.Close()
		hears := func(text string, patience time.Duration) bool {
			_ = in.SetReadDeadline(time.Now().Add(patience))
			for got := make([]byte, 64); ; {
				if n, err := in.Read(got); err != nil {
					return false
				} else if string(got[:n]) == text {
					return true
				}
			}
		}
		b.Eventually("both ports are published", func() bool {
			flood(1)
			_, _ = out.Write([]byte("hello"))
			return hears("hello", 100*time.Millisecond) && strings.Contains(b.CLI("flow", "list"), "dport=9999")
		})
		tries := 0
		for round := range 5 {
			var sent string
			b.Eventually("the machine lets the flood be fast enough for the second queue", func() bool {
				tries++
				probe := fmt.Sprintf("probe %d", tries)
				if _, _ = out.Write([]byte(probe)); !hears(probe, time.Second) { // the first queue holds what a slow try has left there
					return false
				}
				sent = fmt.Sprintf("first packet, try %d", tries)
				defer stopped(b)() // nobody reads the queues
				begin := time.Now()
				flood(900) // in 8 ms, these are in three slices of 4.2 ms at most, so one of them has 300: more than manyPackets
				if time.Since(begin) > 8*time.Millisecond {
					return false
				}
				flood(2100)
				for range 3 { // one that is lost before the uplink makes no difference
					_, _ = out.Write([]byte(sent))
				}
				return time.Since(begin) < time.Second // the flood was in the second queue all the time
			})
			if !hears(sent, 20*time.Second) {
				t.Fatalf("round %d: the packet was lost", round)
			}
		}
	})
}

// limitsFlood checks that a flood from outside, which burst sends, is limited, and that a published port of web answers beside it.
func limitsFlood(t *testing.T, b *Bed, burst func(packets int)) {
	t.Helper()
	b.Web("web")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	asks(t, b, "out", "10.1.0.1:8080", "this is web")
	resume := stopped(b) // nobody reads the queue
	burst(3000)
	resume()
	var s api.Status
	b.Eventually("the flood is limited", func() bool {
		burst(2000)
		b.JSON(&s, "status")
		return s.Uplink.Flooded > 0
	})
	contains(t, b.CLI("status"), "flooded", "were dropped before the switch")
	for range 10 {
		burst(2000)
		asks(t, b, "out", "10.1.0.1:8080", "this is web")
	}
	b.Eventually("the account of frames is balanced", func() bool { return strings.Contains(b.CLI("stats"), "balanced true") })
}

// TestFloodedByFragments checks the same for later fragments whose first one has not come. The host gets them, too.
func TestFloodedByFragments(t *testing.T) {
	Need(t, "curl", "ip")
	eachUplink(t, func(t *testing.T, b *Bed) {
		if b.pair.Uplink == "tap" {
			t.Skip("the host's stack decides")
		}
		var fd int
		if err := netns.Do(b.path("out"), func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		another, id := floodOf(t, b, 9999, "db"), uint16(0) // a port that is alone is not limited
		burst := func(n int) {
			another(n / 2)
			for range n / 2 {
				id++
				p := frametest.Packet{Src: frametest.Addr("10.1.0.2"), Dst: frametest.Addr("10.1.0.1"), Frag: 185, ID: id, Payload: make([]byte, 64)}
				_ = unix.Sendto(fd, p.Raw()[frame.VnetLen+frame.EthernetLen:], 0, &unix.SockaddrInet4{Addr: [4]byte{10, 1, 0, 1}})
			}
		}
		limitsFlood(t, b, burst)
	})
}

// TestSharedUDPPort checks that a UDP socket of the host which comes to have a container's outside port takes nothing from the container, nor
// the container from the host: both get the packets to the port, whole and in fragments.
func TestSharedUDPPort(t *testing.T) {
	b := newWithIPv6(t)
	outside6(b)
	b.Start()
	containers(b)
	for network, to := range map[string]string{"udp4": "10.1.0.2", "udp6": out6} {
		listen := func(ns, addr string, port int) (c *net.UDPConn) {
			t.Helper()
			if err := netns.Do(b.path(ns), func() (err error) {
				c, err = net.ListenUDP(network, &net.UDPAddr{IP: net.ParseIP(addr), Port: port})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			return c
		}
		receive := func(who string, c *net.UDPConn, want []byte) netip.AddrPort {
			t.Helper()
			buf := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Fatalf("%s: no datagram of %d bytes came from %s: %v", who, len(want), to, err)
				} else if bytes.Equal(buf[:n], want) {
					return from
				}
			}
		}
		server, other, client := listen("out", to, 7000), listen("out", to, 7001), listen("web", "", 40000)
		if _, err := client.WriteToUDPAddrPort([]byte("question"), netip.AddrPortFrom(netip.MustParseAddr(to), 7000)); err != nil {
			t.Fatal(err)
		}
		outside := receive("the server", server, []byte("question"))
		host := listen("host", "", int(outside.Port()))
		for _, size := range []int{100, 4000, 30000} {
			answer, others := bytes.Repeat([]byte{'a'}, size), bytes.Repeat([]byte{'o'}, size)
			for c, data := range map[*net.UDPConn][]byte{server: answer, other: others} {
				if _, err := c.WriteToUDPAddrPort(data, outside); err != nil {
					t.Fatal(err)
				}
			}
			receive("the container", client, answer)
			receive("the host's socket", host, others)
		}
	}
	b.Balanced()
}

// TestKilled checks that the next switch removes everything that a killed switch left behind.
func TestKilled(t *testing.T) {
	eachPair(t, func(t *testing.T, p Pair) {
		b := newOn(t, p)
		b.Start()
		containers(b)
		ping(b, "web", "10.1.0.2")
		b.Kill()
		b.Start()
		b.CLI("port", "add", "web", "--netns", b.NS("web"))
		ping(b, "web", "10.1.0.2")
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
		nothingLeft(b)
	})
}

// TestUplinkFollows checks that the uplink follows changes on the host: a new address, a link that goes down and up, and a
// default route that is removed and added again.
func TestUplinkFollows(t *testing.T) {
	b := New(t)
	containers(b)
	ping(b, "web", "10.1.0.2")
	state := func() api.Uplink {
		var s api.Status
		b.JSON(&s, "status")
		return s.Uplink
	}
	b.Sh("host", "ip addr flush dev eth0 && ip addr add 10.1.0.9/24 dev eth0 && ip route add default via 10.1.0.2")
	b.Eventually("the new address is used", func() bool { return state().Address == "10.1.0.9" && state().State == "up" })
	b.Web("out")
	contains(t, b.Sh("web", "curl -s -m 5 http://10.1.0.2/"), "you are 10.1.0.9")
	b.Sh("host", "ip route del default")
	b.Eventually("without a default route it is down", func() bool { return state().State == "down" })
	for _, packet := range []string{"tcp > 192.0.2.1:80 S", "tcp > 10.1.0.2:80 S"} { // to the outside, and to the host's own subnet
		var trace api.Trace
		b.JSON(&trace, "trace", "--in", "web", packet)
		happened := "no_route"
		if _, err := b.TrySh("web", "curl -s -m 2 -o /dev/null http://"+strings.Fields(strings.ReplaceAll(packet, ":", " "))[2]+"/"); err == nil {
			happened = ""
		}
		if trace.Reason != happened {
			t.Errorf("a trace of %s says %s %s, and %q happens", packet, trace.Verdict, trace.Reason, happened)
		}
	}
	b.Sh("host", "ip route add default via 10.1.0.2")
	b.Eventually("it comes back", func() bool { return state().State == "up" })
	ping(b, "web", "10.1.0.2")
	b.Sh("host", "ip link set eth0 down")
	b.Eventually("a link that is down", func() bool { return state().State == "down" })
	b.Sh("host", "ip link set eth0 up && ip route replace default via 10.1.0.2")
	b.Eventually("it comes back", func() bool { return state().State == "up" })
	ping(b, "web", "10.1.0.2")

	// While nothing changes, the switch tells the host's other programs nothing.
	if out, _ := b.TrySh("host", "timeout 2 ip monitor link address route neigh 2>/dev/null | grep uvs-up"); out != "" {
		t.Errorf("on a quiet host, a program that watches devices hears:\n%s", out)
	}

	// A device that is made again, with its old index, while the switch does not run.
	if b.pair.Uplink != "tap" {
		index, _, _ := strings.Cut(b.Sh("host", "ip -o link show eth0 2>/dev/null"), ":")
		_ = b.proc.Process.Signal(unix.SIGSTOP)
		defer func() { _ = b.proc.Process.Signal(unix.SIGCONT) }()
		b.Sh("host", "ip link del eth0 && ip link add eth0 index "+index+" type veth peer name eth0 netns "+b.NS("out")+" && ip addr add 10.1.0.9/24 dev eth0 && ip link set eth0 up")
		b.Sh("out", "ip addr add 10.1.0.2/24 dev eth0 && ip link set eth0 up")
		b.Sh("host", "ip route replace default via 10.1.0.2")
		_ = b.proc.Process.Signal(unix.SIGCONT)
		b.Eventually("answers come by the new device", func() bool {
			out, _ := b.TrySh("web", "ping -c 1 -W 1 10.1.0.2")
			return strings.Contains(out, " 1 received")
		})
	}
}
