package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// containers adds the containers web and db, which most tests use.
func containers(b *Bed) {
	b.t.Helper()
	b.AddNS("web", "db")
	b.CLI("port", "add", "web", "--netns", b.NS("web"))
	b.CLI("port", "add", "db", "--netns", b.NS("db"))
}

func ping(b *Bed, from, to string) {
	b.t.Helper()
	b.Sh(from, "ping -c 2 -i 0.2 -W 2 "+to)
}

func port(b *Bed, name string) (p api.Port) {
	b.t.Helper()
	b.JSON(&p, "port", "show", name)
	return p
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// told checks that a command in a namespace, which may fail, prints each of some texts.
func told(b *Bed, ns, line string, want ...string) {
	b.t.Helper()
	said, _ := b.TrySh(ns, line)
	contains(b.t, said, want...)
}

func TestContainersReachEachOther(t *testing.T) {
	b := New(t)
	containers(b)
	ping(b, "web", "172.29.0.3")
	ping(b, "web", "172.29.0.1")
	neigh := b.Sh("web", "ip neigh")
	contains(t, neigh, "172.29.0.3 dev eth0 lladdr "+port(b, "db").MAC, "172.29.0.1 dev eth0 lladdr 02:75:ac:1d:00:01")
	contains(t, b.Sh("web", "ip route"), "default via 172.29.0.1 dev eth0", "172.29.0.0/16 dev eth0")
	contains(t, b.Sh("web", "ethtool -k eth0"), "tcp-segmentation-offload: on", "tx-checksumming: on")

	b.Iperf("db")
	contains(t, b.Measure("web", "-c 172.29.0.3 -t 1 -J"), `"bits_per_second"`)
	b.Measure("web", "-c 172.29.0.3 -t 1 -R")
	b.Measure("web", "-u -b 50M -c 172.29.0.3 -t 1")
	var p api.Port
	b.Eventually("super-frames pass unsegmented", func() bool {
		p = port(b, "web")
		return p.RxPackets > 0 && p.RxBytes/p.RxPackets > 5000
	})
	b.Balanced()
}

// TestGatewayAndHost checks that the gateway answers ARP and ping, and that the host and the containers reach each other through
// uvs0.
func TestGatewayAndHost(t *testing.T) {
	b := New(t)
	containers(b)
	Need(t, "arping")
	contains(t, b.Sh("web", "arping -c 2 -i eth0 172.29.0.1 || arping -c 2 -I eth0 172.29.0.1"), "02:75:ac:1d:00:01")
	ping(b, "host", "172.29.0.2")
	ping(b, "web", "172.29.255.254")
	ping(b, "web", "10.1.0.1") // the host's outside address
	contains(t, b.Sh("host", "ip addr show uvs0"), "172.29.255.254/16")
	b.Web("host")
	contains(t, b.Sh("web", "curl -s -m 5 http://10.1.0.1/"), "you are 172.29.0.2")
	b.Balanced()
}

// TestPluggedDevice adds a port for a veth device that was created by hand, as `brctl addif` does.
func TestPluggedDevice(t *testing.T) {
	b := New(t)
	containers(b)
	b.AddNS("ns1")
	b.Sh("host", "ip link add veth-ns1 type veth peer name veth-host && ip link set veth-ns1 netns "+b.NS("ns1"))
	b.Sh("ns1", "ip addr add 172.29.0.100/16 dev veth-ns1 && ip link set veth-ns1 up")
	b.CLI("port", "add", "ns1", "--device", "veth-host")
	ping(b, "ns1", "172.29.0.2")
	ping(b, "host", "172.29.0.100")
	b.Sh("ns1", "ip route add default via 172.29.0.1")
	ping(b, "ns1", "10.1.0.2")
	b.Iperf("db")
	b.Measure("ns1", "-c 172.29.0.3 -t 1")
	b.Measure("ns1", "-c 172.29.0.3 -t 1 -R")
	b.Measure("ns1", "-u -b 20M -c 172.29.0.3 -t 1")

	b.CLI("port", "del", "ns1")
	if out, err := b.TrySh("ns1", "ping -c 1 -W 1 172.29.0.2"); err == nil {
		t.Errorf("unplugged, and still: %s", out)
	}
	b.Sh("host", "ip link show veth-host") // the device still exists
	b.Balanced()
}

func TestFDB(t *testing.T) {
	b := New(t)
	containers(b)
	ping(b, "web", "172.29.0.3")
	find := func(mac string) (e api.FDBEntry) {
		var all []api.FDBEntry
		b.JSON(&all, "fdb", "show")
		for _, e := range all {
			if e.MAC == mac {
				return e
			}
		}
		return e
	}
	if e := find(port(b, "web").MAC); e.Ifname != "web" || e.IsLocal || e.Age > 60 || e.State != "" {
		t.Errorf("web: %+v", e)
	}
	if e := find("02:75:ac:1d:00:01"); !e.IsLocal || e.Ifname != "gateway" {
		t.Errorf("the gateway: %+v", e)
	}
	if e := find(port(b, "host").MAC); !e.IsLocal || e.Ifname != "host" {
		t.Errorf("the host: %+v", e)
	}
	contains(t, b.CLI("bridge", "show"), "ageing time", "300.00", "forwarding", "8000.0275ac1d0001")

	// A station moves: the same MAC address appears on another port.
	const mac = "02:00:00:00:77:01"
	for _, ns := range []string{"m1", "m2"} {
		b.AddNS(ns)
		b.Sh("host", fmt.Sprintf("ip link add e-%s type veth peer name h-%s && ip link set e-%s netns %s", ns, ns, ns, b.NS(ns)))
		b.Sh(ns, fmt.Sprintf("ip link set e-%s address %s && ip addr add 172.29.0.70/16 dev e-%s && ip link set e-%s up", ns, mac, ns, ns))
		b.CLI("port", "add", ns, "--device", "h-"+ns)
		ping(b, ns, "172.29.0.2")
		if e := find(mac); e.Ifname != ns {
			t.Errorf("after it spoke from %s it is at %s", ns, e.Ifname)
		}
		b.Sh(ns, "ip link set e-"+ns+" down") // so that its kernel sends no more frames from this port
	}
	b.CLI("fdb", "add", "02:00:00:00:77:02", "dev", "web", "static")
	if e := find("02:00:00:00:77:02"); e.State != "static" || e.Ifname != "web" {
		t.Errorf("added by hand: %+v", e)
	}
	b.CLI("fdb", "del", "02:00:00:00:77:02")
	b.Eventually("a flush forgets", func() bool {
		b.CLI("fdb", "flush")
		return find(mac).MAC == ""
	})
	b.CLI("port", "set", "web", "isolated", "on")
	b.CLI("port", "set", "db", "isolated", "on")
	if out, err := b.TrySh("web", "ping -c 1 -W 1 172.29.0.3"); err == nil {
		t.Errorf("both isolated, and still: %s", out)
	}
	ping(b, "web", "172.29.0.1")
}

// TestNetworks checks that networks reach each other through their gateways unless one is internal, and that the host reaches the
// networks that are not internal.
func TestNetworks(t *testing.T) {
	b := New(t)
	containers(b)
	b.CLI("network", "add", "blue", "--subnet", "10.50.0.0/24")
	b.CLI("network", "add", "shut", "--subnet", "10.60.0.0/24", "--internal")
	b.AddNS("b1", "s1", "s2")
	b.CLI("port", "add", "b1", "--netns", b.NS("b1"), "--network", "blue")
	b.CLI("port", "add", "s1", "--netns", b.NS("s1"), "--network", "shut")
	b.CLI("port", "add", "s2", "--netns", b.NS("s2"), "--network", "shut")
	ping(b, "web", "10.50.0.2")
	ping(b, "b1", "10.1.0.2")
	ping(b, "host", "10.50.0.2")
	ping(b, "s1", "10.60.0.3")
	for _, from := range []string{"web", "host"} {
		if out, err := b.TrySh(from, "ping -c 1 -W 1 10.60.0.2"); err == nil {
			t.Errorf("%s reaches an internal network: %s", from, out)
		}
	}
	if out, err := b.TrySh("s1", "ping -c 1 -W 1 10.1.0.2"); err == nil {
		t.Errorf("an internal network gets out: %s", out)
	}
	Need(t, "curl")
	b.Web("b1")
	b.CLI("publish", "add", "8080:80", "--port", "b1")
	contains(t, b.Sh("out", "curl -s -m 5 http://10.1.0.1:8080/"), "you are 10.1.0.2")
	contains(t, b.Sh("host", "curl -s -m 5 http://127.0.0.1:8080/"), "this is b1")
	contains(t, b.Sh("web", "curl -s -m 5 http://10.1.0.1:8080/"), "this is b1")
	b.CLI("port", "del", "b1")
	b.CLI("network", "del", "blue")
	if out := b.Sh("host", "ip route"); strings.Contains(out, "10.50.0.0") {
		t.Errorf("the host's route is left:\n%s", out)
	}
	b.Balanced()
}

// TestPlainPorts tests ports without offloads, and together with ports with offloads, in both directions.
func TestPlainPorts(t *testing.T) {
	b := New(t)
	b.AddNS("p1", "p2", "fast")
	b.CLI("port", "add", "p1", "--netns", b.NS("p1"), "--offload", "off")
	b.CLI("port", "add", "p2", "--netns", b.NS("p2"), "--offload", "off")
	b.CLI("port", "add", "fast", "--netns", b.NS("fast"))
	addr := func(name string) string { return strings.TrimSuffix(port(b, name).Addresses[0], "/16") }
	b.Iperf("p1")
	for _, from := range []string{"p2", "fast"} {
		ping(b, from, addr("p1"))
		b.Measure(from, "-t 1 -c "+addr("p1"))
		b.Measure(from, "-t 1 -R -c "+addr("p1"))
		b.Measure(from, "-u -b 20M -t 1 -c "+addr("p1"))
		b.Measure(from, "-u -b 20M -t 1 -R -c "+addr("p1"))
	}
	p := port(b, "p1")
	if p.Segmented == 0 || p.Offload || p.Kind != "plain" {
		t.Errorf("%+v: nothing was segmented in software", p)
	}
	// To the outside through the uplink, and back.
	b.Iperf("out")
	b.Measure("p1", "-t 1 -c 10.1.0.2")
	b.Measure("p1", "-t 1 -R -c 10.1.0.2")
	if n := b.Sh("p1", "cat /proc/net/snmp | awk '/^Tcp:/ {print $14+$16}' | tail -1"); strings.TrimSpace(n) != "0" {
		t.Errorf("TCP received segments with errors: %s", n)
	}
	b.Balanced()
}
