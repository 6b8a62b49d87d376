package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// interruptible starts a program in a namespace. The returned function ends it with SIGINT and returns its output.
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
		_ = c.Wait() // only the output matters
		return out.String()
	}
}

// fileOf writes a configuration file with ports in the namespaces of the same names, and with the lines of more.
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

// TestReload reloads while iperf3 and a ping every millisecond run. Ports that do not change must lose no frame, and every change
// must be in force afterwards.
func TestReload(t *testing.T) {
	Need(t, "iperf3")
	b := AloneHost(t)
	b.AddNS("web", "db", "new")
	file := b.fileOf("uvs.yaml", []string{"web", "db"}, "publish:\n  - {host: \"8080\", to: \"web:80\"}\n")
	b.Start("-c", file)
	b.Iperf("db")
	b.Web("web")
	b.CLI("publish", "add", "9090:80", "--port", "web") // added by hand: a reload keeps it
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
	for i := range 6 { // to the new file by command, and back by signal
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
	if sent < 1000 || received < sent-1 { // one answer may still be missing
		t.Errorf("of %d pings %d were answered\n%s", sent, received, out)
	}
	var list []api.Port
	b.JSON(&list, "port", "ls")
	for _, p := range list {
		delete(p.Drops, "ack_superseded") // TCP acknowledgments that a later one superseded
		delete(p.Drops, "no_egress")      // IPv6 multicasts while no other container is there: the host's port takes no IPv6
		if len(p.Drops) > 0 && (p.Name == "web" || p.Name == "db") {
			t.Errorf("port %s has lost frames: %v\n%s", p.Name, p.Drops, b.CLI("monitor", "--last", "50", "--reason", "port_gone"))
		}
	}
	b.Balanced()
}

// TestReloadAllOrNothing checks that a reload with an error changes nothing, whether the error shows before or during the
// changes.
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
		{"networks:\n  - {name: default, subnet: 10.8.0.0/16}\n", "the subnets and gateways of network default cannot change"},
		{"nat: {flows: 4096}\n", "nat.flows (1048576 to 4096)"},
		{"networks:\n  - {name: lab, subnet: 10.9.0.0/24}\nroutes:\n  - {dst: 192.0.2.0/24, via: 10.77.0.1}\n", "gateway 10.77.0.1"},
		{"networks:\n  - {name: lab, subnet: 10.9.0.0/24}\npublish:\n  - {host: \"8081\", to: \"web:80\"}\nports:\n", "already defined"},
	} {
		b.fileOf("uvs.yaml", []string{"web"}, c.more)
		if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.more, err, c.want)
		}
	}
	// An existing device causes an error only when the switch tries to create it: the earlier changes are rolled back.
	path := filepath.Join(b.dir, "bad.yaml")
	text := fmt.Sprintf("networks:\n  - {name: lab, subnet: 10.9.0.0/24}\nports:\n  - {name: web, netns: %[1]s, ip: 172.29.0.2/16}\n  - {name: x, netns: %[1]s, ifname: lo, network: lab}\npublish:\n  - {host: \"8081\", to: \"web:80\"}\n", b.NS("web"))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.TryCLI("reload", path); err == nil || !strings.Contains(err.Error(), "add port x") || !strings.Contains(err.Error(), "rolled back") {
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
	// `config show` prints a valid file. With this file there is nothing to change, now or after a restart with it.
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

// TestReloadOddOrders checks unusual reloads. A recreated network keeps its routes, neighbors and published ports. A rollback
// restores ports with their settings and addresses. A conflict with what was added by hand is found before anything changes.
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

	// Rollback: the last step fails.
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + strings.Replace(rest, "{name: zeta, netns: NSWEB, ip: 172.29.0.2}", "{name: zeta, netns: NSWEB, ip: 172.29.0.22}\n  - {name: x, netns: NSWEB, ifname: lo}", 1))
	if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), "rolled back; recreated objects lost their flows") {
		t.Errorf("a device that is there: %v", err)
	}
	if after := state(); sorted(after) != sorted(before) {
		t.Errorf("taken back it is\n%s\nit was\n%s", after, before)
	}
	// A port whose namespace is not there waits. A conflict with what was added by hand, are found before anything changes.
	write(lab + strings.Replace(rest, "NSWEB,", "not-there,", 1))
	contains(t, b.CLI("config", "diff"), ": no such network namespace: \"not-there\"")
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
	// The network is recreated.
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + rest)
	contains(t, b.CLI("reload"), "remove network lab", "add network lab")
	contains(t, b.CLI("route", "show"), "192.0.2.0/24 via 10.9.0.7", "198.18.0.0/15 via 10.9.0.7")
	contains(t, b.CLI("publish", "ls"), "8080", "9090")
	contains(t, b.CLI("neigh", "show"), "10.9.0.99")
	contains(t, b.CLI("config", "show"), "gateway: 10.9.0.2")
	ping(b, "lab1", "10.9.0.2")
	// Addresses are assigned in the order of the file, not by name.
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + strings.Replace(rest, "NSWEB, ip: 172.29.0.2}", "NSWEB, ip: 172.29.0.2}\n  - {name: alpha, netns: NSDB, ifname: eth7, no_route: true}", 1))
	b.CLI("reload")
	if out := b.CLI("config", "diff"); out != "nothing to change\n" {
		t.Errorf("an address that was chosen: %q", out)
	}
	// When only a setting changes, the port stays.
	device := b.Sh("web", "ip -o link show eth0")
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + strings.Replace(rest, "NSWEB, ip: 172.29.0.2}", "NSWEB, ip: 172.29.0.2, set: {guard: false}}", 1))
	contains(t, b.CLI("reload"), "change settings of port zeta", "remove port alpha")
	if now := b.Sh("web", "ip -o link show eth0"); now != device {
		t.Errorf("the port was made anew for a knob")
	}
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.2}", 1) + rest + "nat: {flows: 1048576}\n")
	contains(t, b.CLI("reload"), "change settings of port zeta") // back to the default
	if out := b.CLI("config", "diff"); out != "nothing to change\n" {
		t.Errorf("knobs turned back: %q", out)
	}
	// A port that was added by hand to a recreated network keeps its address and its settings.
	b.CLI("port", "add", "hand2", "--netns", b.NS("db"), "--ifname", "eth8", "--no-route", "--network", "lab", "--ip", "10.9.0.1")
	b.CLI("port", "set", "hand2", "isolated", "on")
	var was, is api.Port
	b.JSON(&was, "port", "show", "hand2")
	write(lab + rest)
	if _, err := b.TryCLI("config", "diff"); err == nil || !strings.Contains(err.Error(), "would no longer be usable in network") {
		t.Errorf("an address that would be the gateway's: %v", err)
	}
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.3}", 1) + rest)
	b.CLI("reload")
	if b.JSON(&is, "port", "show", "hand2"); is.Addresses[0] != was.Addresses[0] || !is.Flags["isolated"] {
		t.Errorf("a port by hand: %+v, was %+v", is, was)
	}
	// A reload restores a route of the file that was replaced by hand, and removes it when the file no longer has it.
	b.CLI("route", "replace", "192.0.2.0/24", "via", "10.9.0.50")
	contains(t, b.CLI("reload"), "add route 192.0.2.0/24 via 10.9.0.7")
	write(strings.Replace(lab, "10.9.0.1}", "10.9.0.4}", 1) + strings.Replace(rest, "routes:\n  - {dst: 192.0.2.0/24, via: 10.9.0.7}\n", "", 1))
	b.CLI("reload")
	if out := b.CLI("route", "show"); strings.Contains(out, "192.0.2.0") || !strings.Contains(out, "198.18.0.0/15 via 10.9.0.7") {
		t.Errorf("routes: %s", out)
	}
	b.Balanced()
}

// TestReloadAddressesInTurn adds ports with automatic addresses in the file before a port that already has the first address.
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

// sorted returns a text with its lines sorted.
func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestReloadBringsBack checks that a reload recreates a port of the file whose device was removed.
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

// TestChangesDuringReload: a hundred ports are added at once while the configuration is reloaded again and again. A change waits for
// the reload before it, or is refused as busy; nothing is lost, and the plan of a reload stays true until its end.
func TestChangesDuringReload(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web", "db", "many")
	lab := "networks:\n  - {name: lab, subnet: 10.9.0.0/24}\n"
	files := []string{
		b.fileOf("a.yaml", []string{"web", "db"}, lab+"publish:\n  - {host: \"8080\", to: \"web:80\"}\n"),
		b.fileOf("b.yaml", []string{"web"}, strings.Replace(lab, "10.9", "10.8", 1)+"publish:\n  - {host: \"8080\", to: \"web:81\"}\n"),
	}
	b.Start("-c", files[0])
	const ports = 100
	var group sync.WaitGroup
	refused := make([]bool, ports)
	for i := range ports {
		group.Go(func() {
			a := api.PortAdd{Name: fmt.Sprintf("p%d", i), Netns: b.path("many"), Ifname: fmt.Sprintf("e%d", i), NoRoute: true}
			if err := api.NewClient(b.socket).Do(t.Context(), "POST", "/ports", a, nil); api.IsCode(err, api.Busy) {
				refused[i] = true
			} else if err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
		})
	}
	reloads := 0
	for i := range 10 {
		if out, err := b.TryCLI("reload", files[(i+1)%2]); err == nil {
			reloads++
		} else if !strings.Contains(err.Error(), "another change has been running") {
			t.Errorf("reload %d: %v\n%s", i, err, out)
		}
	}
	group.Wait()
	if reloads == 0 {
		t.Error("every reload was refused")
	}
	b.CLI("reload", files[0])
	if out := b.CLI("config", "diff", files[0]); !strings.Contains(out, "nothing to change") {
		t.Errorf("after the reload there is still a difference:\n%s", out)
	}
	var list []api.Port
	b.JSON(&list, "port", "ls")
	names := map[string]bool{}
	for _, p := range list {
		if names[p.Name] = true; p.State != "forwarding" && p.Name != "uplink" && p.Name != "host" {
			t.Errorf("port %s is %s", p.Name, p.State)
		}
	}
	for i := range ports {
		if name := fmt.Sprintf("p%d", i); names[name] == refused[i] {
			t.Errorf("%s: in the list: %v, refused: %v", name, names[name], refused[i])
		}
	}
	if links := strings.Count(b.Sh("many", "ip -o link show"), ": e"); links != len(list)-4 { // web, db, host, uplink
		t.Errorf("%d devices for %d ports", links, len(list)-4)
	}
	ping(b, "web", "172.29.0.3")
	b.Balanced()
}

// TestWaitingNamespace starts and reloads with a file whose namespaces are not all there. A port comes with its namespace, and what is published
// for it, also after the namespace has gone and come again. Nobody else gets its address meanwhile.
func TestWaitingNamespace(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web")
	file := b.fileOf("uvs.yaml", []string{"web", "late"}, "publish:\n  - {host: \"8080\", to: \"late:80\"}\n")
	b.Start("-c", file)
	contains(t, b.CLI("status"), "port waits", "late: no such network namespace", "ip netns add")
	contains(t, b.CLI("events", "--since", "1m", "--no-follow"), "port late waits")
	doctor, _ := b.TryCLI("doctor") // another check may fail in the namespace
	contains(t, doctor, "port late of the configuration file waits")
	contains(t, b.CLI("config", "show"), "name: late", "to: late:80")
	if out := b.CLI("reload"); !strings.Contains(out, "wait with port late") || strings.Contains(out, "add port") {
		t.Errorf("a reload with the same file: %s", out)
	}
	b.AddNS("db")
	if _, err := b.TryCLI("port", "add", "db", "--netns", b.NS("db"), "--ip", "172.29.0.3"); err == nil || !strings.Contains(err.Error(), `is for port "late"`) {
		t.Errorf("the address of the port that waits: %v", err)
	}
	b.CLI("port", "add", "db", "--netns", b.NS("db"))
	if p := port(b, "db"); p.Addresses[0] != "172.29.0.4/16" {
		t.Errorf("db has %v", p.Addresses)
	}
	here := func() bool { _, err := b.TryCLI("port", "show", "late"); return err == nil }
	for range 2 {
		b.AddNS("late")
		b.Eventually("port late comes", here)
		ping(b, "late", "172.29.0.2")
		contains(t, b.CLI("publish", "ls"), "8080", "late")
		contains(t, b.CLI("reload"), "nothing to change")
		b.local("ip", "netns", "del", b.NS("late"))
		b.Eventually("port late has gone", func() bool { return !here() })
		contains(t, b.CLI("status"), "late: its namespace has gone")
	}
	// A mistake in a port that waits is an error, as for every other one.
	b.fileOf("uvs.yaml", []string{"web", "late"}, "  - {name: x, netns: nowhere, network: nowhere}\n")
	if _, err := b.TryCLI("reload"); err == nil || !strings.Contains(err.Error(), `network "nowhere" does not exist`) {
		t.Errorf("a port that waits for an unknown network: %v", err)
	}
}
