package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestDHCP: the gateway gives a port's station the port's address. busybox's udhcpc and ISC's dhclient ask.
func TestDHCP(t *testing.T) {
	Need(t, "busybox", "dhclient", "ip", "ping", "tcpdump")
	b := NewHost(t)
	b.Start()
	containers(b)
	b.CLI("network", "add", "lab", "--subnet", "172.30.0.0/24", "--mtu", "1400", "--domain", "lab.example")
	b.CLI("network", "add", "mute", "--subnet", "172.30.2.0/24", "--dhcp", "off")
	b.AddNS("vm", "quiet")
	b.CLI("port", "add", "vm", "--netns", b.NS("vm"), "--network", "lab", "--ip", "172.30.0.77")
	b.CLI("port", "add", "quiet", "--netns", b.NS("quiet"), "--network", "mute")

	script := filepath.Join(b.dir, "udhcpc")
	text := "#!/bin/sh\nif [ \"$1\" = bound ]; then ip addr add $ip/$mask broadcast $broadcast dev $interface; ip route add default via $router; echo got $ip/$mask router=$router dns=$dns domain=$domain mtu=$mtu host=$hostname lease=$lease server=$serverid; fi\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	out := b.Sh("vm", "ip addr flush dev eth0; ip link set eth0 up; busybox udhcpc -i eth0 -n -q -f -t 5 -T 1 -x hostname:guest -s "+script+" 2>&1")
	contains(t, out, "got 172.30.0.77/24 router=172.30.0.1 dns=172.30.0.1 domain=lab.example mtu=1400 host=vm lease=3600 server=172.30.0.1")
	ping(b, "vm", "10.1.0.2")
	b.Eventually("busybox asks again", func() bool { // renews, and asks for the wrong address
		out, _ := b.TrySh("vm", "ip addr flush dev eth0; busybox udhcpc -i eth0 -n -q -f -t 5 -T 1 -r 172.30.0.99 -s "+script+" 2>&1")
		return strings.Contains(out, "got 172.30.0.77/24")
	})

	// Another port does not hear the questions, and the answers are for one station only.
	b.Background("db", "timeout 60 tcpdump -i eth0 -n -l udp port 67 or udp port 68 >"+b.dir+"/heard 2>"+b.dir+"/ready")
	b.Eventually("tcpdump listens", func() bool {
		text, _ := os.ReadFile(b.dir + "/ready")
		return strings.Contains(string(text), "listening on")
	})
	conf := filepath.Join(b.dir, "dhclient.conf")
	if err := os.WriteFile(conf, []byte("send host-name \"web\";\nsend dhcp-client-identifier 1:2:3;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out = b.Sh("web", "ip addr flush dev eth0; ip link set eth0 up; dhclient -1 -v -sf /bin/true -cf "+conf+" -lf "+b.dir+"/leases -pf "+b.dir+"/pid eth0 2>&1; kill $(cat "+b.dir+"/pid)")
	contains(t, out, "DHCPOFFER of 172.29.0.2 from 172.29.0.1", "DHCPACK of 172.29.0.2 from 172.29.0.1", "bound to 172.29.0.2")
	leases, _ := os.ReadFile(b.dir + "/leases")
	contains(t, string(leases), "option routers 172.29.0.1", "option domain-name-servers 172.29.0.1", "option subnet-mask 255.255.0.0", `option domain-name "default.uvs.internal"`, "option dhcp-lease-time 3600")
	if heard, _ := os.ReadFile(b.dir + "/heard"); len(heard) > 0 {
		t.Errorf("another port heard: %s", heard)
	}
	var granted []api.Lease
	b.JSON(&granted, "lease", "ls")
	if len(granted) != 2 || granted[0].Address != "172.29.0.2" || granted[0].Hostname != "web" || granted[0].ClientID != "010203" || granted[1].Port != "vm" || granted[1].Network != "lab" || granted[1].Type != "static" {
		t.Errorf("lease ls: %+v", granted)
	}
	contains(t, b.CLI("lease", "ls"), "172.30.0.77", "EXPIRES")

	// Where it is off, nobody answers; the question is flooded as any broadcast.
	if out, err := b.TrySh("quiet", "busybox udhcpc -i eth0 -n -q -f -t 2 -T 1 -s "+script+" 2>&1"); err == nil {
		t.Errorf("a network without DHCP answers: %s", out)
	}
	contains(t, b.CLI("trace", "--in", "web", "udp 0.0.0.0:68 > 255.255.255.255:67"), "gateway")
	b.CLI("port", "del", "vm")
	if out := b.CLI("lease", "ls"); strings.Contains(out, "172.30.0.77") {
		t.Errorf("the lease of a port that has gone: %s", out)
	}
	b.Balanced()
}
