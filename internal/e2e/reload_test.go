package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// interruptible runs a program in a namespace; the function ends it by SIGINT and returns what it said.
func (b *Bed) interruptible(ns string, args ...string) func() string {
	b.t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &syncBuffer{}
	c.Stdout, c.Stderr = out, out
	if err := netns.Do(b.path(ns), c.Start); err != nil {
		b.t.Fatal(err)
	}
	return func() string {
		_ = c.Process.Signal(unix.SIGINT)
		_ = c.Wait() // what it said matters
		return out.String()
	}
}

// fileOf writes a configuration whose ports are web and db in this bed's namespaces, with more lines.
func (b *Bed) fileOf(name string, ports []string, more string) string {
	b.t.Helper()
	var s strings.Builder
	s.WriteString("ports:\n")
	for i, p := range ports {
		fmt.Fprintf(&s, "  - {name: %s, netns: %s, ip: 172.29.0.%d/16}\n", p, b.NS(p), 2+i)
	}
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(s.String()+more), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// A reload while iperf3 and a ping every millisecond run: what does not change loses nothing, and every change is in force
// afterwards.
func TestReload(t *testing.T) {
	Need(t, "iperf3")
	b := NewHost(t)
	b.AddNS("web", "db", "new")
	file := b.fileOf("uvs.yaml", []string{"web", "db"}, "publish:\n  - {host: \"8080\", to: \"web:80\"}\n")
	b.Start("-c", file)
	b.Iperf("db")
	b.Web("web")
	b.CLI("publish", "add", "9090:80", "--port", "web") // by hand
	var devices []string
	for _, ns := range []string{"web", "db"} {
		devices = append(devices, b.Sh(ns, "ip -o link show eth0"))
	}
	b.Background("web", "iperf3 -c 172.29.0.3 -t 300 -P 2 -b 300M")
	pings := b.interruptible("web", "ping", "-q", "-i", "0.001", "172.29.0.3")
	flowing := func() bool {
		var s struct{ Conservation struct{ Received uint64 } }
		b.JSON(&s, "stats")
		return s.Conservation.Received > 20000
	}
	b.Eventually("traffic flows", flowing)
	more := "networks:\n  - {name: lab, subnet: 10.9.0.0/24, internal: true}\npublish:\n  - {host: \"8081\", to: \"web:80\"}\n" +
		"nat: {timers: {udp: 77}}\nroutes:\n  - {dst: 192.0.2.0/24, type: blackhole}\nuplink: {ports: \"21000-22999\"}\n"
	b.fileOf("uvs.yaml", []string{"web", "db", "new"}, more)
	contains(t, b.CLI("config", "diff"), "unpublish 8080:80/tcp to web", "publish 8081:80/tcp to web", "add network lab, 10.9.0.0/24", "add port new", "change timeouts",
		"add route blackhole 192.0.2.0/24", "use ports 21000-22999 for NAT")
	if out := b.CLI("publish", "ls"); !strings.Contains(out, "8080") {
		t.Errorf("diff has changed something: %s", out)
	}
	for i := range 6 { // there and back, by command and by signal
		if i%2 == 0 {
			b.fileOf("uvs.yaml", []string{"web", "db", "new"}, more)
			b.CLI("reload")
			contains(t, b.CLI("publish", "ls"), "8081", "9090")
			contains(t, b.CLI("route", "show"), "blackhole 192.0.2.0/24")
			contains(t, b.CLI("nat", "settings"), "timer udp              77")
			ping(b, "new", "172.29.0.2")
			continue
		}
		b.fileOf("uvs.yaml", []string{"web", "db"}, "publish:\n  - {host: \"8080\", to: \"web:80\"}\n")
		_ = b.proc.Process.Signal(unix.SIGHUP)
		b.Eventually("the signal has been heard", func() bool {
			out := b.CLI("port", "ls") + b.CLI("publish", "ls") + b.CLI("network", "ls") + b.CLI("route", "show")
			return strings.Contains(out, "8080") && !strings.Contains(out, "8081") && !strings.Contains(out, "new") && !strings.Contains(out, "lab") && !strings.Contains(out, "192.0.2.0")
		})
	}
	for i, ns := range []string{"web", "db"} {
		if now := b.Sh(ns, "ip -o link show eth0"); now != devices[i] {
			t.Errorf("the device of %s is another: %s, was %s", ns, now, devices[i])
		}
	}
	var sent, received int
	out := pings()
	for line := range strings.Lines(out) {
		if _, err := fmt.Sscanf(line, "%d packets transmitted, %d received", &sent, &received); err == nil {
			break
		}
	}
	if sent < 1000 || received < sent-1 { // one may have been on its way
		t.Errorf("of %d pings %d were answered\n%s", sent, received, out)
	}
	var list []api.Port
	b.JSON(&list, "port", "ls")
	for _, p := range list { // but for acknowledgements that a later one has made superfluous
		if delete(p.Drops, "ack_superseded"); len(p.Drops) > 0 && (p.Name == "web" || p.Name == "db") {
			t.Errorf("port %s has lost frames: %v", p.Name, p.Drops)
		}
	}
	b.Balanced()
}

// What is wrong is refused whole, before or while it is applied.
func TestReloadAllOrNothing(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web", "db")
	file := b.fileOf("uvs.yaml", []string{"web"}, "publish:\n  - {host: \"8080\", to: \"web:80\"}\n")
	b.Start("-c", file)
	b.CLI("port", "add", "db", "--netns", b.NS("db"))
	state := func() string { return b.CLI("config", "show") }
	before := state()
	for _, c := range []struct{ more, want string }{
		{"publsh: []\n", `did you mean "publish"?`},
		{"publish:\n  - {host: \"8080\", to: \"nobody:80\"}\n", `port "nobody" does not exist`},
		{"networks:\n  - {name: lab, subnet: 172.29.5.0/24}\n", "overlaps"},
		{"networks:\n  - {name: default, subnet: 10.8.0.0/16}\n", "the subnet and gateway of network default cannot change"},
		{"nat: {flows: 4096}\n", "nat.flows (1048576 to 4096)"},
		{"networks:\n  - {name: lab, subnet: 10.9.0.0/24}\nroutes:\n  - {dst: 192.0.2.0/24, via: 10.77.0.1}\n", "gateway 10.77.0.1"},
		{"networks:\n  - {name: lab, subnet: 10.9.0.0/24}\npublish:\n  - {host: \"8081\", to: \"web:80\"}\nports:\n", "already defined"},
	} {
		b.fileOf("uvs.yaml", []string{"web"}, c.more)
		if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.more, err, c.want)
		}
	}
	// A device that is there already shows only when it is made again: what was done before it is taken back.
	path := filepath.Join(b.dir, "bad.yaml")
	text := fmt.Sprintf("networks:\n  - {name: lab, subnet: 10.9.0.0/24}\nports:\n  - {name: web, netns: %[1]s, ip: 172.29.0.2/16}\n  - {name: x, netns: %[1]s, ifname: lo, network: lab}\npublish:\n  - {host: \"8081\", to: \"web:80\"}\n", b.NS("web"))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.TryCLI("reload", path); err == nil || !strings.Contains(err.Error(), "add port x") || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("a device that is there: %v", err)
	}
	if after := state(); after != before {
		t.Errorf("something has changed:\n%s\nit was\n%s", after, before)
	}
	if _, err := b.TryCLI("config", "check", path); err != nil {
		t.Errorf("check is about the file, not the host: %v", err)
	}
	b.fileOf("uvs.yaml", []string{"web"}, "publish:\n  - {host: \"8080\", to: \"web:80\"}\n")
	if out := b.CLI("reload"); out != "nothing to change\n" {
		t.Errorf("the file as it was: %q", out)
	}
	if out := b.CLI("port", "ls"); !strings.Contains(out, "db") {
		t.Errorf("what was added by hand is gone: %s", out)
	}
	// What runs can be written down, checked, and is no change: neither now nor after a restart with it.
	b.CLI("publish", "add", "9090:80", "--port", "db", "--from", "192.0.2.0/24")
	b.CLI("port", "set", "db", "isolated", "on")
	shown := filepath.Join(b.dir, "shown.yaml")
	if err := os.WriteFile(shown, []byte(b.CLI("config", "show")), 0o644); err != nil {
		t.Fatal(err)
	}
	b.CLI("config", "check", shown)
	if out := b.CLI("reload", shown); out != "nothing to change\n" {
		t.Errorf("what runs: %q", out)
	}
	b.Stop()
	b.Start("-c", shown)
	contains(t, b.CLI("port", "ls"), "web", "db", "172.29.0.2")
	contains(t, b.CLI("publish", "ls"), "8080", "9090")
	if out := b.CLI("config", "diff"); out != "nothing to change\n" {
		t.Errorf("after a restart: %q", out)
	}
	if again := b.CLI("config", "show"); again != string(read(t, shown)) {
		t.Errorf("shown again it is\n%s", again)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Odd orders: a network made anew keeps routes, neighbors and what is published in it; what is taken back is as it was, with its
// knobs and its address; what was added by hand is in the way before anything is touched.
func TestReloadOddOrders(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web", "db", "lab1")
	file := filepath.Join(b.dir, "uvs.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.NewReplacer("NSWEB", b.NS("web"), "NSDB", b.NS("db"), "NSLAB", b.NS("lab1")).Replace(text)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const lab = "networks:\n  - {name: lab, subnet: 10.9.0.0/24, gateway: 10.9.0.1}\n"
	const rest = "ports:\n  - {name: zeta, netns: NSWEB, ip: 172.29.0.2}\n  - {name: lab1, netns: NSLAB, network: lab, ip: 10.9.0.7}\n" +
		"publish:\n  - {host: \"8080\", to: \"lab1:80\"}\nroutes:\n  - {dst: 192.0.2.0/24, via: 10.9.0.7}\n"
	write(lab + rest)
	b.Start("-c", file)
	b.CLI("route", "add", "198.18.0.0/15", "via", "10.9.0.7")
	b.CLI("neigh", "add", "10.9.0.99", "lladdr", "02:00:00:00:00:99")
	b.CLI("publish", "add", "9090:80", "--port", "lab1")
	b.CLI("port", "add", "hand", "--netns", b.NS("db"), "--ip", "172.29.0.3")
	b.CLI("port", "set", "zeta", "isolated", "on")
	state := func() string { return b.CLI("config", "show") + b.CLI("neigh", "show") }
	before := state()

	// Taken back: the last step fails.
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + strings.Replace(rest, "{name: zeta, netns: NSWEB, ip: 172.29.0.2}", "{name: zeta, netns: NSWEB, ip: 172.29.0.22}\n  - {name: x, netns: NSWEB, ifname: lo}", 1))
	if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), "rolled back; recreated objects lost their flows") {
		t.Errorf("a device that is there: %v", err)
	}
	if after := state(); sorted(after) != sorted(before) {
		t.Errorf("taken back it is\n%s\nit was\n%s", after, before)
	}
	// What is not there is seen before anything is touched, and so is what is by hand.
	write(lab + strings.Replace(rest, "NSWEB,", "not-there,", 1))
	if _, err := b.TryCLI("config", "diff"); err == nil || !strings.Contains(err.Error(), "no such network namespace") {
		t.Errorf("a namespace that is not there: %v", err)
	}
	write(" ")
	if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty file: %v", err)
	}
	write(lab + rest + "  - {dst: 192.0.2.0/24, type: blackhole}\n")
	if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("two routes to one destination: %v", err)
	}
	write(lab + strings.Replace(rest, "ip: 172.29.0.2}", "ip: 172.29.0.3}", 1))
	for _, cmd := range [][]string{{"config", "diff"}, {"reload"}} {
		if _, err := b.TryCLI(cmd...); err == nil || !strings.Contains(err.Error(), `172.29.0.3 is in use by port "hand"`) {
			t.Errorf("%v: an address by hand: %v", cmd, err)
		}
	}
	// The network anew.
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + rest)
	contains(t, b.CLI("reload"), "remove network lab", "add network lab")
	contains(t, b.CLI("route", "show"), "192.0.2.0/24 via 10.9.0.7", "198.18.0.0/15 via 10.9.0.7")
	contains(t, b.CLI("publish", "ls"), "8080", "9090")
	contains(t, b.CLI("neigh", "show"), "10.9.0.99")
	contains(t, b.CLI("config", "show"), "gateway: 10.9.0.2")
	ping(b, "lab1", "10.9.0.2")
	// Addresses are chosen in the file's order, whatever the names.
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + strings.Replace(rest, "NSWEB, ip: 172.29.0.2}", "NSWEB, ip: 172.29.0.2}\n  - {name: alpha, netns: NSDB, ifname: eth7, no_route: true}", 1))
	b.CLI("reload")
	if out := b.CLI("config", "diff"); out != "nothing to change\n" {
		t.Errorf("an address that was chosen: %q", out)
	}
	// A knob alone is turned; the port stays.
	device := b.Sh("web", "ip -o link show eth0")
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + strings.Replace(rest, "NSWEB, ip: 172.29.0.2}", "NSWEB, ip: 172.29.0.2, set: {guard: false}}", 1))
	contains(t, b.CLI("reload"), "change settings of port zeta", "remove port alpha")
	if now := b.Sh("web", "ip -o link show eth0"); now != device {
		t.Errorf("the port was made anew for a knob")
	}
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + rest + "nat: {flows: 1048576}\n")
	contains(t, b.CLI("reload"), "change settings of port zeta") // back to what it is by itself
	if out := b.CLI("config", "diff"); out != "nothing to change\n" {
		t.Errorf("knobs turned back: %q", out)
	}
	// A port by hand in a network that is made anew keeps its address and its knobs.
	b.CLI("port", "add", "hand2", "--netns", b.NS("db"), "--ifname", "eth8", "--no-route", "--network", "lab", "--ip", "10.9.0.1")
	b.CLI("port", "set", "hand2", "isolated", "on")
	var was, is api.Port
	b.JSON(&was, "port", "show", "hand2")
	write(lab + rest)
	if _, err := b.TryCLI("config", "diff"); err == nil || !strings.Contains(err.Error(), "would no longer be a station's") {
		t.Errorf("an address that would be the gateway's: %v", err)
	}
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.3}", 1) + rest)
	b.CLI("reload")
	if b.JSON(&is, "port", "show", "hand2"); is.Addresses[0] != was.Addresses[0] || !is.Flags["isolated"] {
		t.Errorf("a port by hand: %+v, was %+v", is, was)
	}
	// The file's route again, after somebody has replaced it; and gone for good when the file no longer says it.
	b.CLI("route", "replace", "192.0.2.0/24", "via", "10.9.0.50")
	contains(t, b.CLI("reload"), "add route 192.0.2.0/24 via 10.9.0.7")
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.4}", 1) + strings.Replace(rest, "routes:\n  - {dst: 192.0.2.0/24, via: 10.9.0.7}\n", "", 1))
	b.CLI("reload")
	if out := b.CLI("route", "show"); strings.Contains(out, "192.0.2.0") || !strings.Contains(out, "198.18.0.0/15 via 10.9.0.7") {
		t.Errorf("routes: %s", out)
	}
	b.Balanced()
}

// A port whose address is chosen may stand before one that has been given the first.
func TestReloadAddressesInTurn(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web", "db", "new")
	file := filepath.Join(b.dir, "uvs.yaml")
	write := func(ports ...string) {
		text := "ports:\n"
		for _, p := range ports {
			text += fmt.Sprintf("  - {name: %s, netns: %s}\n", p, b.NS(p))
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("web")
	b.Start("-c", file)
	write("new", "db", "web")
	if out := b.CLI("reload"); out != "add port new\nadd port db\n" && out != "add port db\nadd port new\n" {
		t.Errorf("reload: %q", out)
	}
	contains(t, b.CLI("port", "ls"), "172.29.0.2", "172.29.0.3", "172.29.0.4")
}

// sorted is the lines of a text in order.
func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A port that died with its namespace comes back with a reload, when the namespace is there again.
func TestReloadBringsBack(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web")
	file := b.fileOf("uvs.yaml", []string{"web"}, "publish:\n  - {host: \"8080\", to: \"web:80\"}\n")
	b.Start("-c", file)
	b.Sh("web", "ip link del eth0")
	b.Eventually("the port is gone", func() bool { return !strings.Contains(b.CLI("port", "ls"), "web") })
	contains(t, b.CLI("reload"), "add port web", "publish 8080:80/tcp to web")
	ping(b, "web", "172.29.0.1")
}
