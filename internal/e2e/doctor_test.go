package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/doctor"
)

// examine runs doctor in the host's namespace. It returns the findings by check, and whether doctor exited with 0.
func (b *Bed) examine() (found map[string]string, ok bool) {
	b.t.Helper()
	out, err := b.TrySh("host", uvswitch+" --socket "+b.Socket()+" -j doctor")
	var list []doctor.Finding
	if jerr := json.Unmarshal([]byte(out), &list); jerr != nil {
		b.t.Fatalf("doctor: %v: %s", jerr, out)
	}
	found = map[string]string{}
	for _, f := range list {
		found[f.Check] += string(f.Level) + ": " + f.Text + " -> " + f.Remedy + "\n"
		if f.Level == doctor.Fail && err == nil {
			b.t.Errorf("%+v, and exit status 0", f)
		}
	}
	return found, err == nil
}

func TestDoctor(t *testing.T) {
	Need(t, "nft", "ip", "tc")
	b := NewHost(t)
	found, ok := b.examine()
	contains(t, found["switch"], "note: no switch runs")
	contains(t, found["tun"]+found["capabilities"]+found["uplink"]+found["ports"]+found["firewall"], "ok: /dev/net/tun", "ok: all required", "ok: eth0, MTU 1500", "ok: NAT has 64512 ports", "ok: no chain")
	contains(t, found["bpf"]+found["io_uring"], "ok: ")
	contains(t, found["ipv6"], "note: the host has no IPv6 default route")
	b.Sh("host", "ip addr add fd00:9::1/64 dev eth0 nodad && ip -6 route add default via fe80::9 dev eth0")
	if found, _ = b.examine(); !strings.Contains(found["ipv6"], "note: eth0 has unique local addresses only") {
		t.Errorf("with a unique local address: %s", found["ipv6"])
	}
	b.Sh("host", "ip -6 route del default && ip -6 route add default via fe80::9 dev eth0 proto ra && sysctl -qw net.ipv6.conf.eth0.forwarding=1")
	if found, _ = b.examine(); !strings.Contains(found["ipv6"], "warn: the IPv6 default route came by a router advertisement") {
		t.Errorf("with a route that will go: %s", found["ipv6"])
	}
	b.Sh("host", "sysctl -qw net.ipv6.conf.eth0.forwarding=0 && ip addr add 2001:db8::1/64 dev eth0 nodad")
	if found, _ = b.examine(); !strings.Contains(found["ipv6"], "ok: IPv6 leads out by eth0") {
		t.Errorf("with IPv6: %s", found["ipv6"])
	}
	b.Sh("host", "ip -6 route del default && ip -6 addr flush dev eth0 scope global")
	if !ok {
		t.Errorf("a host in order: %v", found)
	}

	// doctor finds problems and says how to fix them.
	b.Sh("host", "nft add table inet other && nft add chain inet other in '{ type filter hook input priority 0; policy drop; }'")
	b.Sh("host", "tc qdisc add dev eth0 clsact && tc filter add dev eth0 ingress pref 5 u32 match u32 0 0 classid 1:1")
	b.Sh("host", "ip route add 172.29.4.0/24 dev lo")
	b.Serve("host", 61111, "socat", "TCP-LISTEN:61111,fork", "EXEC:true")
	found, ok = b.examine()
	contains(t, found["firewall"], "warn: chain inet other in drops by default -> if the host must reach containers, accept device uvs0")
	contains(t, found["programs"], "warn: a filter of type u32 is attached to the ingress of eth0")
	contains(t, found["subnets"], "warn: 172.29.0.0/16 of network default: the host does not reach a part of it, because it has a route to 172.29.4.0/24 through device lo")
	contains(t, found["ports"], "port 61111/tcp is in the range for NAT, but is in use by pid ")
	if !ok {
		t.Errorf("warnings are no failure: %v", found)
	}
	b.Sh("host", "nft delete table inet other && tc qdisc del dev eth0 clsact && ip route del 172.29.4.0/24 dev lo")

	// A running switch whose devices were changed.
	b.AddNS("web", "db")
	b.Start()
	b.CLI("port", "add", "web", "--netns", b.NS("web"))
	b.CLI("port", "add", "db", "--netns", b.NS("db"), "--offload", "off")
	b.Sh("web", "ip link set eth0 mtu 1300 txqueuelen 50")
	b.Sh("db", "ip link set eth0 down")
	b.Sh("host", "ip link set eth0 mtu 1400")
	found, _ = b.examine()
	contains(t, found["mtu"], "warn: port web was created with MTU 1500, but its device now has MTU 1300", "note: network default has MTU 1500, but eth0 has MTU 1400")
	contains(t, found["devices"], "note: port web: the device queue of 50 frames", "warn: port db: device eth0 is down")
	if strings.Contains(found["programs"], "uvs") {
		t.Errorf("its own programs: %s", found["programs"])
	}
	// The commands that doctor prints give a device back what it has lost while it was down.
	for range 2 {
		for _, part := range strings.Split(found["devices"], "\n") {
			if words := strings.Split(part, "`"); len(words) > 2 && strings.Contains(part, "port db: ") && !strings.Contains(part, "txqueuelen") {
				b.Sh("host", words[1])
			}
		}
		found, _ = b.examine()
	}
	if strings.Contains(found["devices"], "port db: ") || !strings.Contains(b.Sh("db", "ip route; ip -6 addr show dev eth0"), addr6(b, "db")) {
		t.Errorf("after its commands, doctor says: %s", found["devices"])
	}
	ping(b, "db", "10.1.0.2")
	b.Sh("db", "ip link set eth0 down")
	b.CLI("network", "set", "default", "--mtu", "1400")
	if found, _ = b.examine(); strings.Contains(found["mtu"], "port host") || !strings.Contains(b.Sh("host", "ip link show uvs0"), "mtu 1400") {
		t.Errorf("the host's port follows its network: %s", found["mtu"])
	}
	b.Sh("host", "ip addr del 10.1.0.1/24 dev eth0")
	b.Eventually("the switch has noticed", func() bool {
		found, ok = b.examine()
		return !ok && strings.Contains(found["uplink"], "fail: ") && strings.Contains(found["switch"], "the uplink is down")
	})
	b.Sh("host", "ip addr add 10.1.0.1/24 dev eth0")
	contains(t, b.CLI("trace", "--in", "web", "icmp > 172.29.0.3"), "dropped (port_down)")
	if out, err := b.TryCLI("doctor"); !strings.Contains(out, "another network namespace") || strings.Contains(out, "uvs0: Link not found") {
		t.Errorf("from another namespace: %v\n%s", err, out)
	}

	// What a killed switch leaves behind.
	b.Kill()
	found, _ = b.examine()
	contains(t, found["leftovers"], "was left behind by a switch that ended without removing it")
}
