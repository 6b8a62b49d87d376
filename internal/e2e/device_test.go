package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// plugVeth creates a veth pair between the namespaces ns1 and host, as a user does by hand.
func plugVeth(b *Bed) {
	b.t.Helper()
	b.Sh("host", "ip link add veth-ns1 type veth peer name veth-host && ip link set veth-ns1 netns "+b.NS("ns1"))
	b.Sh("ns1", "ip addr add 172.29.0.100/16 dev veth-ns1 && ip link set veth-ns1 up && ip route replace default via 172.29.0.1")
}

// TestDeviceComesAndGoes checks that a port is down while its device does not exist. A new device with the same name takes over
// the port, with its flows, published ports and counters.
func TestDeviceComesAndGoes(t *testing.T) {
	b := New(t)
	containers(b)
	b.AddNS("ns1")
	plugVeth(b)
	b.CLI("port", "add", "ns1", "--device", "veth-host", "--ip", "172.29.0.100")
	b.CLI("publish", "add", "8080:80", "--port", "ns1")
	b.Web("ns1")
	reached := func() bool {
		out, err := b.TrySh("out", "curl -sS -m 1 http://10.1.0.1:8080/")
		return err == nil && strings.Contains(out, "10.1.0.2")
	}
	b.Eventually("the published port answers", reached)
	state := func(want string) {
		t.Helper()
		b.Eventually("the port is "+want, func() bool { return port(b, "ns1").State == want })
	}
	before := port(b, "ns1")

	b.Sh("host", "ip link set veth-host down")
	state("down")
	b.Sh("host", "ip link set veth-host up")
	state("forwarding")
	b.Eventually("it is reached again", reached)

	for range 3 {
		b.Sh("host", "ip link del veth-host")
		state("down")
		if out, err := b.TrySh("web", "ping -c 1 -W 1 172.29.0.100"); err == nil {
			t.Errorf("it has gone, and: %s", out)
		}
		plugVeth(b)
		state("forwarding")
		b.Eventually("it is reached again", reached)
		ping(b, "ns1", "172.29.0.2")
	}
	if after := port(b, "ns1"); after.ID != before.ID || after.RxPackets < before.RxPackets {
		t.Errorf("before: %+v\nafter: %+v", before, after)
	}
	if out, err := b.TrySh("host", "ping -c 1 -W 1 172.29.0.100"); err != nil { // the host's stack does not receive the device's frames
		t.Errorf("%v: %s", err, out)
	}

	// The device moves to another namespace, where the switch must not use it, and back. Its index stays the same.
	b.AddNS("ns2")
	b.Sh("host", "ip link set veth-host netns "+b.NS("ns2"))
	state("down")
	b.Sh("ns2", "ip addr add 172.29.0.1/16 dev veth-host && ip link set veth-host up")
	ping(b, "ns2", "172.29.0.100")
	b.Sh("ns2", "ip link set veth-host netns "+b.NS("host"))
	state("forwarding")
	b.Eventually("it is reached again", reached)
	b.Sh("ns1", "ip route replace default via 172.29.0.1")

	b.Sh("host", "ip link set veth-host mtu 1400")
	b.Eventually("the MTU is taken over", func() bool { return port(b, "ns1").MTU == 1400 })
	b.Sh("host", "ip link set veth-host down && ip link set veth-host name veth-new && ip link set veth-new up")
	b.Eventually("the name is taken over", func() bool { p := port(b, "ns1"); return p.Ifname == "veth-new" && p.State == "forwarding" })
	b.Eventually("it is reached again", reached)
	// A port follows the rename of its device, so a new device with the old name is not its device. Nor is another port's device
	// that is renamed to the name of a missing device.
	b.Sh("host", "ip link add veth-host type veth peer name x1 && ip link set veth-host up")
	b.Eventually("it is reached", reached)
	if p := port(b, "ns1"); p.Ifname != "veth-new" {
		t.Errorf("the port is on %s", p.Ifname)
	}
	b.CLI("port", "add", "two", "--device", "veth-host")
	b.Sh("host", "ip link del veth-new && ip link set veth-host down && ip link set veth-host name veth-new && ip link set veth-new up")
	b.Eventually("the name is taken over", func() bool {
		p := port(b, "two")
		return p.Ifname == "veth-new" && p.State == "forwarding"
	})
	state("down")
	if out, err := b.TrySh("out", "curl -sS -m 1 http://10.1.0.1:8080/"); err == nil {
		t.Errorf("a port without a device answers: %s", out)
	}
	b.CLI("port", "del", "two")
	b.CLI("port", "del", "ns1")
	b.Sh("host", "ip link del veth-new")
	b.Balanced()
}

// TestOffloads checks all combinations of checksum and segmentation offload on both sides: what a device leaves to do must be
// done exactly once.
func TestOffloads(t *testing.T) {
	Need(t, "ethtool", "iperf3")
	b := New(t)
	b.AddNS("db", "ns1", "tap1", "plain1")
	b.CLI("port", "add", "db", "--netns", b.NS("db"), "--ip", "172.29.0.3")
	b.CLI("port", "add", "tap1", "--netns", b.NS("tap1"))
	b.CLI("port", "add", "plain1", "--netns", b.NS("plain1"), "--offload", "off")
	plugVeth(b)
	b.CLI("port", "add", "ns1", "--device", "veth-host")
	b.Iperf("db")
	b.Iperf("out")
	for _, kind := range []struct{ ns, dev string }{{"tap1", "eth0"}, {"plain1", "eth0"}, {"ns1", "veth-ns1"}} {
		for _, o := range [][2]string{{"on", "on"}, {"on", "off"}, {"off", "on"}, {"off", "off"}} {
			set := func(ns, dev string) { // a TAP without offloads has none to turn on
				_, _ = b.TrySh(ns, fmt.Sprintf("ethtool -K %s tx %s; ethtool -K %[1]s tso %s gso %[3]s gro %[3]s", dev, o[0], o[1]))
			}
			set(kind.ns, kind.dev)
			if kind.ns == "ns1" {
				set("host", "veth-host")
			}
			name := fmt.Sprintf("%s checksum %s segmentation %s", kind.ns, o[0], o[1])
			for _, peer := range []string{"172.29.0.3", "10.1.0.2"} {
				if out, err := b.TrySh(kind.ns, "ping -c 1 -s 1400 -W 2 "+peer); err != nil {
					t.Errorf("%s: ping %s: %v\n%s", name, peer, err, out)
				}
				for _, options := range []string{"-n 3M -c " + peer, "-R -n 3M -c " + peer, "-u -b 200M -n 500K -c " + peer, "-R -u -b 200M -n 500K -c " + peer} {
					out, err := b.TryMeasure(kind.ns, options)
					if err != nil || strings.Contains(out, "(100%)") {
						t.Errorf("%s: iperf3 %s: %v\n%s", name, options, err, out)
					}
				}
			}
		}
	}
	b.Balanced()
	var s struct{ Drops map[string]uint64 }
	b.JSON(&s, "stats")
	for _, reason := range []string{"bad_checksum", "bad_vnet_header", "tx_refused"} {
		if s.Drops[reason] > 0 {
			t.Errorf("%d frames dropped for %s", s.Drops[reason], reason)
		}
	}
}
