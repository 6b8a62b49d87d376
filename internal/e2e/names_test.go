package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestNames: gateways answer questions for names. dig, glibc and busybox ask; dnsmasq plays the host's server.
func TestNames(t *testing.T) {
	Need(t, "busybox", "dig", "dnsmasq", "getent", "ip", "musl-gcc", "ping", "socat")
	b := NewHost(t)
	b.Start()
	b.AddNS("alone", "far", "quiet")
	containers(b)
	b.CLI("network", "add", "lab", "--subnet", "172.30.0.0/24", "--subnet6", "fd00:1::/64", "--domain", "lab.example", "--names", "printer=172.30.0.99", "--dns-servers", "10.1.0.2:5353")
	b.CLI("network", "add", "cell", "--subnet", "172.30.1.0/24", "--isolated", "--dns", "local")
	b.CLI("network", "add", "mute", "--subnet", "172.30.2.0/24", "--dns", "off")
	b.CLI("port", "add", "far", "--netns", b.NS("far"), "--network", "lab", "--aliases", "www,static.www")
	b.CLI("port", "add", "alone", "--netns", b.NS("alone"), "--network", "cell")
	b.CLI("port", "add", "quiet", "--netns", b.NS("quiet"), "--network", "mute")
	dig := func(ns, at string, args ...string) string {
		t.Helper()
		out, err := b.TrySh(ns, "dig +time=3 +tries=2 +short @"+at+" "+strings.Join(args, " "))
		if err != nil {
			t.Errorf("in %s: dig @%s %v: %v: %s", ns, at, args, err, out)
		}
		return strings.Join(strings.Fields(out), " ")
	}
	status := func(ns, at, name string) string {
		t.Helper()
		out, _ := b.TrySh(ns, "dig +time=3 +tries=2 @"+at+" "+name)
		_, after, _ := strings.Cut(out, "status: ")
		word, _, _ := strings.Cut(after, ",")
		return word
	}
	for _, tt := range []struct{ ns, at, ask, want string }{
		{"web", "172.29.0.1", "db", "172.29.0.3"},
		{"web", "172.29.0.1", "DB.default.uvs.internal", "172.29.0.3"},
		{"web", "172.29.0.1", "gateway", "172.29.0.1"},
		{"web", "172.29.0.1", "host", "172.29.255.254"},
		{"web", "172.29.0.1", "web AAAA", addr6(b, "web")},
		{"web", "172.29.0.1", "-x 172.29.0.3", "db.default.uvs.internal."},
		{"web", "172.29.0.1", "-x " + addr6(b, "db"), "db.default.uvs.internal."},
		{"web", "172.29.0.1", "www.lab.example", "172.30.0.2"},
		{"web", "172.29.0.1", "alone.cell.uvs.internal", ""},
		{"far", "172.30.0.1", "static.www", "172.30.0.2"},
		{"far", "fd00:1::1", "printer", "172.30.0.99"},
		{"far", "fe80::1%eth0", "printer", "172.30.0.99"},
		{"alone", "172.30.1.1", "alone", "172.30.1.2"},
		{"web", "172.29.0.1", "db +tcp", "172.29.0.3"},
		{"far", "fd00:1::1", "printer +tcp", "172.30.0.99"},
		{"far", "fe80::1%eth0", "printer +tcp", "172.30.0.99"},
	} {
		if got := dig(tt.ns, tt.at, tt.ask); got != tt.want {
			t.Errorf("in %s: dig @%s %s: %q, want %q", tt.ns, tt.at, tt.ask, got, tt.want)
		}
	}
	for _, tt := range []struct{ ns, at, name, want string }{
		{"web", "172.29.0.1", "nobody", "NXDOMAIN"},
		{"web", "172.29.0.1", "db MX", "NOERROR"},
		{"alone", "172.30.1.1", "www.example.com", "NXDOMAIN"},
		{"alone", "172.30.1.1", "db.default.uvs.internal", "NXDOMAIN"},
	} {
		if got := status(tt.ns, tt.at, tt.name); got != tt.want {
			t.Errorf("in %s: dig @%s %s: %s, want %s", tt.ns, tt.at, tt.name, got, tt.want)
		}
	}
	if out, err := b.TrySh("quiet", "dig +time=1 +tries=1 @172.30.2.1 quiet"); err == nil {
		t.Errorf("the gateway of a network without names answers: %s", out)
	}

	// Names of others, over UDP and, where the answer does not fit, over TCP to the server.
	zone := filepath.Join(b.dir, "hosts")
	lines := "192.0.2.80 www.example.com\n"
	for i := range 120 {
		lines += fmt.Sprintf("192.0.2.%d crowd.example.com\n", 100+i)
	}
	if err := os.WriteFile(zone, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Background("out", "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --port 5353 --listen-address=10.1.0.2 --bind-interfaces --pid-file= --user=root --addn-hosts="+zone)
	b.Eventually("the server outside answers", func() bool { return dig("far", "172.30.0.1", "www.example.com") == "192.0.2.80" })
	if got := status("far", "172.30.0.1", "nobody.example.com"); got != "REFUSED" && got != "NXDOMAIN" {
		t.Errorf("a name that the server does not know: %s", got)
	}
	if out := b.Sh("far", "dig +time=3 +tries=2 +ignore +bufsize=512 @172.30.0.1 crowd.example.com"); !strings.Contains(out, "flags: qr tc") {
		t.Errorf("an answer that does not fit: %s", out)
	}

	if got := len(strings.Fields(dig("far", "172.30.0.1", "+bufsize=512", "crowd.example.com"))); got != 120 {
		t.Errorf("over TCP: %d addresses of 120", got)
	}
	if out, err := b.TrySh("far", "echo nonsense that is no question | timeout 5 socat -t 3 - TCP:172.30.0.1:53"); err != nil || out != "" {
		t.Errorf("nonsense over TCP: %q, %v", out, err)
	}
	for _, port := range []string{"54", "67"} {
		if out, err := b.TrySh("far", "timeout 3 socat - TCP:172.30.0.1:"+port+" </dev/null"); err == nil || !strings.Contains(out, "refused") {
			t.Errorf("TCP port %s of the gateway: %q, %v", port, out, err)
		}
	}
	if out := b.Sh("far", "for i in $(seq 50); do dig +tcp +tries=1 +time=2 +short @172.30.0.1 printer; done"); strings.Count(out, "172.30.0.99") != 50 {
		t.Errorf("50 questions over TCP, one after another: %s", out)
	}

	// Programs ask by their own ways.
	for _, ns := range []string{"web", "far"} {
		gateway := map[string]string{"web": "172.29.0.1", "far": "172.30.0.1"}[ns]
		conf := filepath.Join(b.dir, ns+".conf")
		if err := os.WriteFile(conf, []byte("nameserver "+gateway+"\nsearch lab.example\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in := func(ns, command string) string {
		return b.Sh(ns, "unshare -m sh -ec 'mount --bind "+filepath.Join(b.dir, ns+".conf")+" /etc/resolv.conf; "+command+"'")
	}
	contains(t, in("web", "getent ahostsv4 db"), "172.29.0.3")
	contains(t, in("web", "ping -4 -c 1 -W 3 db"), "172.29.0.3")
	contains(t, in("far", "getent ahostsv4 printer"), "172.30.0.99")
	contains(t, in("far", "busybox nslookup www.lab.example"), "172.30.0.2")
	program, binary := filepath.Join(b.dir, "resolve.c"), filepath.Join(b.dir, "resolve")
	if err := os.WriteFile(program, []byte(resolveC), 0o644); err != nil {
		t.Fatal(err)
	}
	b.local("musl-gcc", "-static", "-o", binary, program)
	contains(t, in("web", binary+" db"), "172.29.0.3", addr6(b, "db"))
	contains(t, in("far", binary+" printer"), "172.30.0.99") // it has no IPv6 address: that must not hide the other one
	contains(t, in("far", binary+" static.www"), "172.30.0.2")
	contains(t, in("far", binary+" nobody || true"), "does not resolve")

	// Names that are added, and those of ports that go.
	b.CLI("dns", "add", "db2", "10.9.0.5")
	b.CLI("dns", "add", "db2", "fd00::5")
	if got := dig("web", "172.29.0.1", "db2") + " " + dig("web", "172.29.0.1", "db2", "AAAA"); got != "10.9.0.5 fd00::5" {
		t.Errorf("a name that was added: %q", got)
	}
	var names []api.Name
	b.JSON(&names, "dns", "ls")
	if len(names) < 10 {
		t.Errorf("dns ls: %+v", names)
	}
	contains(t, b.CLI("dns", "ls"), "www.lab.example", "alias", "db2.default.uvs.internal", "static")
	contains(t, b.CLI("config", "show"), "db2=10.9.0.5", "printer=172.30.0.99", "www,static.www")
	b.CLI("dns", "del", "db2", "10.9.0.5")
	if got := dig("web", "172.29.0.1", "db2"); got != "" {
		t.Errorf("after dns del: %s", got)
	}
	b.CLI("dns", "del", "db2")

	// `config diff` finds no difference in what `config show` prints. A port whose aliases change keeps its device.
	file := filepath.Join(b.dir, "running.yaml")
	shown := b.CLI("config", "show")
	reload := func(text string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return b.CLI("config", "diff", file)
	}
	if out := reload(shown); strings.Contains(out, "network") || strings.Contains(out, "port ") {
		t.Errorf("config diff with what config show shows: %s", out)
	}
	before := b.Sh("far", "cat /sys/class/net/eth0/ifindex")
	contains(t, reload(strings.Replace(shown, "www,static.www", "www2", 1)), "give port far the aliases www2")
	b.CLI("reload", file)
	if after := b.Sh("far", "cat /sys/class/net/eth0/ifindex"); after != before || dig("far", "172.30.0.1", "www2") != "172.30.0.2" || dig("far", "172.30.0.1", "static.www") != "" {
		t.Errorf("after a reload with another alias: device %s, before %s; www2 is %q", after, before, dig("far", "172.30.0.1", "www2"))
	}
	for args, want := range map[string]string{
		"dns del db2 1.2.3.4": "no name", "dns del printer --network lab": "configuration file", "dns add x- 10.0.0.1": "no name of DNS", "dns add x 300.1.1.1": "is not an address",
		"dns add x 10.0.0.1 --network mute": "dns: off", "dns add x 10.0.0.1 --network nowhere": "does not exist",
	} {
		if out, err := b.TryCLI(strings.Fields(args)...); err == nil || !strings.Contains(out+err.Error(), want) {
			t.Errorf("%s: %s %v, want %q", args, out, err, want)
		}
	}
	b.CLI("port", "del", "db")
	if got := status("web", "172.29.0.1", "db"); got != "NXDOMAIN" {
		t.Errorf("the name of a port that has gone: %s", got)
	}
	b.Balanced()
}

// resolveC prints the addresses of a name as musl's getaddrinfo finds them: of both families at once, and with one answer that says that there is no
// such name for all.
const resolveC = `#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all;
	char text[100];
	int failed = getaddrinfo(argv[1], "80", &hints, &all);
	if (failed) {
		printf("%s does not resolve: %s\n", argv[1], gai_strerror(failed));
		return 1;
	}
	for (; all; all = all->ai_next)
		if (!getnameinfo(all->ai_addr, all->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST))
			printf("%s\n", text);
	return 0;
}
`

// TestNamesAsAardvark: what aardvark-dns promises to podman's containers, in its own test cases: own names and those of others, in any case; aliases;
// names without an answer; containers in two and three networks; reverse look-ups; internal networks.
func TestNamesAsAardvark(t *testing.T) {
	Need(t, "dig", "getent", "ip")
	b := NewHost(t)
	b.Start()
	b.AddNS("one", "two", "both")
	for i, net := range []string{"net1", "net2", "inner"} {
		args := []string{"network", "add", net, "--subnet", fmt.Sprintf("10.8%d.0.0/24", i), "--isolated"}
		if net == "inner" {
			args = append(args, "--internal")
		}
		b.CLI(args...)
	}
	port := func(name, ns, net, aliases, dev string) {
		args := []string{"port", "add", name, "--netns", b.NS(ns), "--network", net, "--ifname", dev}
		if aliases != "" {
			args = append(args, "--aliases", aliases)
		}
		if dev != "eth0" {
			args = append(args, "--no-route")
		}
		b.CLI(args...)
	}
	port("aone", "one", "net1", "a1,shared", "eth0")
	port("atwo", "two", "net2", "a2,shared", "eth0")
	port("both1", "both", "net1", "b1", "eth0")
	port("both2", "both", "net2", "b2", "eth1")
	port("both3", "both", "inner", "b3", "eth2")
	for _, tt := range []struct{ ns, at, ask, want string }{
		{"one", "10.80.0.1", "aone", "10.80.0.2"},
		{"one", "10.80.0.1", "AONE", "10.80.0.2"},
		{"one", "10.80.0.1", "a1", "10.80.0.2"},
		{"one", "10.80.0.1", "both1", "10.80.0.3"},
		{"one", "10.80.0.1", "b1.net1.uvs.internal", "10.80.0.3"},
		{"one", "10.80.0.1", "aone MX", ""},
		{"one", "10.80.0.1", "atwo", ""},
		{"one", "10.80.0.1", "a2.net2.uvs.internal", ""},
		{"both", "10.80.0.1", "atwo", "10.81.0.2"},
		{"both", "10.80.0.1", "a2.net2.uvs.internal", "10.81.0.2"},
		{"both", "10.81.0.1", "aone", "10.80.0.2"},
		{"both", "10.81.0.1", "shared", "10.81.0.2"},
		{"both", "10.82.0.1", "atwo", "10.81.0.2"},
		{"both", "10.80.0.1", "b3", "10.82.0.2"},
		{"both", "10.80.0.1", "-x 10.81.0.2", "atwo.net2.uvs.internal."},
		{"one", "10.80.0.1", "-x 10.80.0.3", "both1.net1.uvs.internal."},
		{"one", "10.80.0.1", "-x 10.81.0.2", ""},
	} {
		out, err := b.TrySh(tt.ns, "dig +time=3 +tries=2 +short @"+tt.at+" "+tt.ask)
		if got := strings.Join(strings.Fields(out), " "); err != nil || got != tt.want {
			t.Errorf("in %s: dig @%s %s: %q, %v; want %q", tt.ns, tt.at, tt.ask, got, err, tt.want)
		}
	}
	// As podman writes it for a container in both networks; glibc asks the first server, by each search domain.
	text := "nameserver 10.80.0.1\nnameserver 10.81.0.1\nsearch net1.uvs.internal net2.uvs.internal\n"
	conf := filepath.Join(b.dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"atwo": "10.81.0.2", "aone": "10.80.0.2"} {
		contains(t, b.Sh("both", "unshare -m sh -c 'mount --bind "+conf+" /etc/resolv.conf && getent ahostsv4 "+name+"'"), want)
	}
	for _, name := range []string{"nobody", "nobody.net1.uvs.internal"} {
		if out := b.Sh("one", "dig +time=3 +tries=2 @10.80.0.1 "+name); !strings.Contains(out, "status: NXDOMAIN") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// TestReplacedResolvConf: the switch asks the servers of a file that takes the place of /etc/resolv.conf, which its sandbox would not let it read.
func TestReplacedResolvConf(t *testing.T) {
	Need(t, "ip", "unshare")
	b := NewHost(t)
	said := func(server string) string {
		return "n=0; until " + b.exe + " --socket " + b.Socket() + " status 2>&1 | grep -q \"^name servers *" + server + "$\"; do n=$((n+1)); test $n -lt 300; sleep 0.1; done"
	}
	out, err := b.TrySh("host", "unshare -m sh -ec '"+strings.Join([]string{
		"mount -t tmpfs none /etc", "echo nameserver 192.0.2.1 > /etc/resolv.conf",
		b.exe + " run --uplink none --host off --name uvsrc --socket " + b.Socket() + " --state " + b.dir + " & p=$!", "trap \"kill $p; wait $p\" EXIT",
		said("192.0.2.1"), "echo nameserver 192.0.2.2 > /etc/new", "mv /etc/new /etc/resolv.conf", said("192.0.2.2"),
	}, "\n")+"' 2>&1")
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
