package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// endDaemon is a command that ends a daemon, whose number stands in a file. The daemon writes it after its parent has ended.
func endDaemon(pidfile string) string {
	return fmt.Sprintf("for i in $(seq 200); do [ -s %[1]s ] && break; sleep 0.05; done; kill $(cat %[1]s)", pidfile)
}

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
	out = b.Sh("web", "ip addr flush dev eth0; ip link set eth0 up; dhclient -1 -v -sf /bin/true -cf "+conf+" -lf "+b.dir+"/leases -pf "+b.dir+"/pid eth0 2>&1; "+endDaemon(b.dir+"/pid"))
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
	contains(t, b.CLI("trace", "--in", "web", "dhcp"), "a DHCP question", "dhcp offer 172.29.0.2")
	b.CLI("port", "del", "vm")
	if out := b.CLI("lease", "ls"); strings.Contains(out, "172.30.0.77") {
		t.Errorf("the lease of a port that has gone: %s", out)
	}
	b.Balanced()
}

// TestLeases: stations of ports without an address get one of the network's range, which binds the port, and keep it over a restart of the switch.
// The clients are those of ISC, dhcpcd and busybox.
func TestLeases(t *testing.T) {
	Need(t, "busybox", "dhclient", "dhcpcd", "ip", "ping")
	b := NewHost(t)
	b.Start()
	b.AddNS("guest", "second")
	b.CLI("network", "add", "lab", "--subnet", "172.30.0.0/24", "--dhcp-range", "172.30.0.100-172.30.0.120", "--dhcp-lease", "10m", "--dhcp-routes", "10.8.0.0/16=172.30.0.9")
	b.CLI("policy", "add", "kept", "egress", "allow", "any")
	add := func() {
		b.CLI("port", "add", "guest", "--netns", b.NS("guest"), "--network", "lab", "--ip", "dhcp", "--policy", "kept")
	}
	add()
	script := filepath.Join(b.dir, "script")
	text := "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add $ip/$mask dev $interface && ip route add default via $router; echo $1 $ip routes=$staticroutes search=$search lease=$lease; true\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	asks := func(ns, dev string) string {
		return b.Sh(ns, "ip link set "+dev+" up; ip addr flush dev "+dev+"; busybox udhcpc -i "+dev+" -n -q -f -t 5 -T 1 -O search -O staticroutes -s "+script+" 2>&1")
	}
	if out := b.Sh("guest", "ip -4 addr show dev eth0"); strings.Contains(out, "inet") {
		t.Errorf("before its lease: %s", out)
	}
	// Until then the station may do nothing but ask: an address that it takes by itself is of no use.
	if out, err := b.TrySh("guest", "ip addr add 172.30.0.66/24 dev eth0; ip link set eth0 up; ping -c 1 -W 1 172.30.0.1"); err == nil {
		t.Errorf("a station without a lease is answered: %s", out)
	}
	contains(t, asks("guest", "eth0"), "bound 172.30.0.100", "10.8.0.0/16 172.30.0.9", "0.0.0.0/0 172.30.0.1", "lease=600")
	ping(b, "guest", "10.1.0.2")
	// The lease binds: the address is the port's, as one that --ip names.
	contains(t, b.CLI("port", "ls"), "172.30.0.100/24")
	contains(t, b.CLI("lease", "ls"), "172.30.0.100", "dynamic")
	b.CLI("publish", "add", "8080:80", "--port", "guest")
	b.CLI("publish", "del", "8080")
	b.Sh("guest", "ip addr add 172.30.0.66/24 dev eth0")
	if out, err := b.TrySh("guest", "ping -c 1 -W 1 -I 172.30.0.66 172.30.0.1"); err == nil {
		t.Errorf("another address than the leased one is answered: %s", out)
	}
	var s api.Status
	if b.JSON(&s, "status"); s.Drops["guard_source_address"]+s.Drops["guard_arp_sender"] == 0 {
		t.Errorf("the guard does not know the leased address: %v", s.Drops)
	}
	b.AddNS("static")
	if _, err := b.TryCLI("port", "add", "static", "--netns", b.NS("static"), "--network", "lab", "--ip", "172.30.0.100"); err == nil || !strings.Contains(err.Error(), "172.30.0.100") {
		t.Errorf("a leased address was assigned: %v", err)
	}
	b.Balanced()

	// After a restart the port is bound again before its station asks. A new station gets another address.
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.Start()
	b.CLI("network", "add", "lab", "--subnet", "172.30.0.0/24", "--dhcp-range", "172.30.0.100-172.30.0.120")
	b.CLI("network", "set", "lab", "--dhcp-lease", "30m", "--isolated")
	var lab api.Network
	if b.JSON(&lab, "network", "show", "lab"); lab.DHCPRange != "172.30.0.100-172.30.0.120" || lab.DHCPLease != "30m" || !lab.Isolated || lab.DNS != "on" {
		t.Errorf("after network set: %+v", lab)
	}
	b.CLI("network", "set", "lab", "--isolated=false", "--dhcp-lease", "default")
	if _, err := b.TryCLI("network", "set", "lab", "--dhcp-range", "172.31.0.1-172.31.0.9"); err == nil || !strings.Contains(err.Error(), "stations of 172.30.0.0/24 may have") {
		t.Errorf("a range of another subnet: %v", err)
	}
	if out := b.CLI("policy", "ls"); !strings.Contains(out, "kept") {
		t.Errorf("a policy of the last process is not there: %s", out)
	}
	b.CLI("port", "add", "second", "--netns", b.NS("second"), "--network", "lab", "--ip", "dhcp")
	contains(t, asks("second", "eth0"), "bound 172.30.0.101")
	add()
	contains(t, b.CLI("policy", "show", "kept"), "egress allow any")
	b.Eventually("the lease of the last process binds", func() bool { return strings.Contains(b.CLI("port", "ls"), "172.30.0.100/24") })

	// dhclient gives its lease back: the port has no address then, and the guard knows none.
	conf := filepath.Join(b.dir, "dhclient.conf")
	if err := os.WriteFile(conf, []byte("send host-name \"guest\";\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	client := "dhclient -v -sf /bin/true -cf " + conf + " -lf " + b.dir + "/leases -pf " + b.dir + "/pid "
	contains(t, b.Sh("guest", "ip addr flush dev eth0; "+client+"-1 eth0 2>&1; "+endDaemon(b.dir+"/pid")), "bound to 172.30.0.100")
	contains(t, b.CLI("lease", "ls"), "guest")
	b.Sh("guest", "ip addr add 172.30.0.100/24 dev eth0; "+client+"-r eth0 2>&1")
	b.Eventually("the lease has ended", func() bool {
		return !strings.Contains(b.CLI("lease", "ls"), "172.30.0.100") && !strings.Contains(b.CLI("port", "ls"), "172.30.0.100/24")
	})

	// A lease ends by hand: the station of port second keeps its address until it asks, but the port has it no more.
	if out := b.CLI("lease", "ls", "--port", "guest"); strings.Contains(out, "second") {
		t.Errorf("leases of port guest: %s", out)
	}
	contains(t, b.CLI("lease", "ls", "--network", "lab"), "172.30.0.101", "59m")
	b.CLI("lease", "del", "172.30.0.101")
	b.Eventually("the lease has been ended", func() bool { return !strings.Contains(b.CLI("port", "ls"), "172.30.0.101/24") })
	contains(t, b.CLI("events", "--since", "1h", "--no-follow", "--filter", "event=lease"), "somebody has ended it by hand")

	// systemd-networkd. Without a writable /sys it does not wait for udev.
	b.AddNS("networkd")
	b.CLI("port", "add", "networkd", "--netns", b.NS("networkd"), "--network", "lab", "--ip", "dhcp")
	b.Background("networkd", `exec unshare -m sh -c 'mount -t tmpfs none /run; mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif; mount -o remount,ro,bind /sys
printf "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n" >/run/systemd/network/10.network; exec /lib/systemd/systemd-networkd' >`+b.dir+`/networkd 2>&1`)
	b.Eventually("systemd-networkd has an address and a way out", func() bool {
		_, err := b.TrySh("networkd", "ip route | grep -q 'default via 172.30.0.1' && ping -c 1 -W 1 10.1.0.2")
		return err == nil
	})

	// A plugged device is asked for nothing until it is told. Then each station behind it has a lease, and none of them binds the port.
	b.AddNS("lan")
	b.Sh("host", "ip link add lan0 type veth peer name eth0 netns "+b.NS("lan")+" && ip link set lan0 up")
	b.Sh("lan", "ip link set eth0 up; ip link add mac1 link eth0 type macvlan mode bridge; ip link set mac1 up")
	b.CLI("port", "add", "lan", "--device", "lan0", "--network", "lab")
	if out, err := b.TrySh("lan", "busybox udhcpc -i eth0 -n -q -f -t 2 -T 1 -s "+script+" 2>&1"); err == nil {
		t.Errorf("a plugged device got a lease unasked: %s", out)
	}
	b.CLI("port", "set", "lan", "dhcp", "on")
	contains(t, asks("lan", "eth0"), "bound 172.30.0.1")
	contains(t, b.Sh("lan", "unshare -m sh -c 'mount -t tmpfs none /run; mount -t tmpfs none /var/lib; dhcpcd --noconfigure --oneshot --noipv4ll --ipv4only --noarp --timeout 5 mac1' 2>&1; true"), "leased 172.30.0.1")
	var leases []api.Lease
	b.JSON(&leases, "lease", "ls")
	behind := 0
	for _, l := range leases {
		if l.Port == "lan" && l.Type == "dynamic" {
			behind++
		}
	}
	if behind != 2 {
		t.Errorf("leases behind the device: %+v", leases)
	}
	b.Balanced()
}
