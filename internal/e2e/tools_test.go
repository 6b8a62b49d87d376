package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestContract checks that every row has each JSON key on which programs rely.
func TestContract(t *testing.T) {
	b := New(t)
	containers(b)
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.Web("out")
	b.Sh("web", "curl -s -m 5 http://10.1.0.2/")
	ping(b, "web", "172.29.0.3")
	for cmd, keys := range map[string]string{
		"port ls":    "name network kind ifname netns mac addresses mtu state offload backend rx_packets rx_bytes rx_dropped tx_packets tx_bytes tx_dropped",
		"fdb show":   "mac ifname flags state network is_local age",
		"neigh show": "dst lladdr network state",
		"route show": "dst gateway dev network type",
		"flow ls":    "protocol state timeout original reply status network port",
		"publish ls": "host_address host_port host_port_end protocol port address container_port from packets bytes",
		"nat show":   "chain target packets bytes source destination out",
		"network ls": "name subnet gateway mtu",
	} {
		var rows []map[string]any
		b.JSON(&rows, strings.Fields(cmd)...)
		if len(rows) == 0 {
			t.Errorf("%s: no rows", cmd)
		}
		for _, r := range rows {
			for _, k := range strings.Fields(keys) {
				if _, ok := r[k]; !ok {
					t.Errorf("%s: no key %s in %v", cmd, k, r)
				}
			}
		}
	}
	var flows []struct {
		Original, Reply map[string]any
	}
	b.JSON(&flows, "flow", "ls", "-p", "tcp")
	for _, side := range []map[string]any{flows[0].Original, flows[0].Reply} {
		for _, k := range []string{"src", "dst", "sport", "dport", "packets", "bytes"} {
			if _, ok := side[k]; !ok {
				t.Errorf("flow ls: no key %s in %v", k, side)
			}
		}
	}
	for cmd, keys := range map[string]string{
		"stats":  "ports drops tables conservation",
		"status": "version pid uptime uplink backend workers networks",
	} {
		var v map[string]any
		b.JSON(&v, cmd)
		for _, k := range strings.Fields(keys) {
			if _, ok := v[k]; !ok {
				t.Errorf("%s: no key %s", cmd, k)
			}
		}
	}
	// The text format for people is that of conntrack.
	line := b.CLI("flow", "ls", "-p", "tcp", "-d", "10.1.0.2", "-o", "extended")
	contains(t, line, "ipv4     2 tcp      6 ", "src=172.29.0.2 dst=10.1.0.2 sport=", "src=10.1.0.2 dst=10.1.0.1 sport=80", "[ASSURED]")
	contains(t, b.CLI("neigh", "show"), "172.29.0.2 dev default lladdr 02:75:ac:1d:00:02 PERMANENT")
	contains(t, b.CLI("route", "show"), "default dev uplink", "172.29.0.0/16 dev default", "local 10.1.0.1/32")
	contains(t, b.CLI("status"), "tcx on eth0, address 10.1.0.1, up")
}

// TestDump captures a ping before and after translation, and reads it with tshark, tcpdump and our own text output.
func TestDump(t *testing.T) {
	Need(t, "tshark", "tcpdump")
	b := New(t)
	containers(b)
	file := filepath.Join(b.dir, "out.pcapng")
	text := &syncBuffer{}
	var stops []func()
	for _, args := range [][]string{{"dump", "-i", "web,uplink", "-w", file}, {"dump", "-i", "web,uplink"}} {
		c := b.command(args...)
		said := &syncBuffer{}
		c.Stderr, c.Stdout = said, text
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		b.Eventually("dump is listening", func() bool { return strings.Contains(said.String(), "listening on web, uplink") })
		stops = append(stops, func() { _ = c.Process.Signal(unix.SIGINT); _ = c.Wait() })
	}
	ping(b, "web", "10.1.0.2")
	b.Sh("web", "ping -c 1 -s 3000 172.29.0.3") // fragments, which do not cross the uplink
	b.Eventually("text shows the ping", func() bool { return strings.Count(text.String(), "echo reply") >= 4 })
	for _, stop := range stops {
		stop()
	}
	contains(t, text.String(), "web   In  IP 172.29.0.2 > 10.1.0.2: ICMP echo request", "uplink Out IP 10.1.0.1 > 10.1.0.2: ICMP echo request",
		"uplink In  IP 10.1.0.2 > 10.1.0.1: ICMP echo reply", "web   Out IP 10.1.0.2 > 172.29.0.2: ICMP echo reply")
	fields := func(filter string) string {
		out, err := exec.Command("tshark", "-n", "-r", file, "-Y", filter, "-T", "fields", "-e", "frame.interface_name", "-e", "ip.src", "-e", "ip.dst").Output()
		if err != nil {
			t.Fatalf("tshark: %v\n%s", err, out)
		}
		return string(out)
	}
	contains(t, fields("icmp.type == 8"), "web\t172.29.0.2\t10.1.0.2", "uplink\t10.1.0.1\t10.1.0.2")
	contains(t, fields("icmp.type == 0"), "uplink\t10.1.0.2\t10.1.0.1", "web\t10.1.0.2\t172.29.0.2")
	if bad := fields("_ws.malformed"); bad != "" {
		t.Errorf("tshark finds malformed packets: %s", bad)
	}
	out, err := exec.Command("tcpdump", "-nr", file, "icmp").CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, out)
	}
	contains(t, string(out), "IP 172.29.0.2 > 10.1.0.2: ICMP echo request")

	// With a count, dump ends by itself; with -w -, it writes pcapng to standard output.
	c := b.command("dump", "-i", "web", "-c", "2", "-w", "-")
	var raw bytes.Buffer
	said := &syncBuffer{}
	c.Stdout, c.Stderr = &raw, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	b.Eventually("dump is listening", func() bool { return strings.Contains(said.String(), "listening") })
	ping(b, "web", "172.29.0.3")
	if err := c.Wait(); err != nil || !bytes.HasPrefix(raw.Bytes(), []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		t.Errorf("dump -c 2 -w -: %v, %d bytes", err, raw.Len())
	}
	if _, err := b.TryCLI("dump", "-i", "nobody"); err == nil || !strings.Contains(err.Error(), `port "nobody" does not exist`) {
		t.Errorf("a port that is not there: %v", err)
	}
}

func runTour(t *testing.T, env []string, interrupt string, args ...string) string {
	t.Helper()
	t.Parallel()
	Need(t)
	name := newID() + "tour"
	c := exec.Command(uvswitch, append([]string{"lab", "tour", "--name", name}, args...)...)
	c.Env = append(os.Environ(), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out := &syncBuffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	limit := time.After(shellTime)
	for interrupted := interrupt == ""; ; {
		select {
		case err := <-done:
			if (err != nil) != (interrupt != "") {
				t.Errorf("it ended with %v:\n%s", err, out)
			}
			if left, _ := filepath.Glob("/run/netns/" + name + "*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if left, _ := filepath.Glob("/run/uvswitch/" + name + "*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			return out.String()
		case <-limit:
			_ = c.Process.Kill()
			t.Fatalf("it does not end:\n%s", out)
		case <-time.After(20 * time.Millisecond):
			if !interrupted && strings.Contains(out.String(), interrupt) {
				interrupted = true
				_ = c.Process.Signal(unix.SIGINT)
			}
		}
	}
}

func TestTour(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{"with the system's tools": nil, "with nothing but the kernel": {"PATH=/nonexistent"}} {
		t.Run(name, func(t *testing.T) {
			out := runTour(t, env, "")
			contains(t, out, "== 14 of 14", "this is web; you are 198.51.100.2", "fd00:dead:beef:c0:0:275:ac1d:2/80", "fd00:dead:beef:c0:0:275:ac1d:3 dev eth0 lladdr 02:75:ac:1d:00:03", "this is web; you are 2001:db8:51::2", "dst=2001:db8:51::1", "dst=198.51.100.1",
				"dst=203.0.113.8", "uplink Out IP 198.51.100.1 > 203.0.113.8: ICMP echo request", "balanced true", "nothing is left")
		})
	}
}

func TestTourInterrupted(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"== 1 of", "== 6 of", "== 8 of"} {
		t.Run(at, func(t *testing.T) { contains(t, runTour(t, nil, at), "nothing is left") })
	}
}

// TestFirstLab checks that a lab leaves nothing on a machine that had no namespaces before, if others are made beside it.
func TestFirstLab(t *testing.T) {
	t.Parallel()
	Need(t, "ip", "unshare")
	script := `mount -t tmpfs none /run && $1 lab up --name $2 >/dev/null || exit 1; ip netns add $2x && ip netns del $2x; made=$?; $1 lab down --name $2 && ls /run/netns && exit $made`
	out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", uvswitch, newID()+"lab").CombinedOutput()
	if left := strings.Fields(string(out)); err != nil || len(left) > 0 && strings.Contains(left[len(left)-1], "lab-") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLab(t *testing.T) {
	t.Parallel()
	Need(t)
	name := newID() + "lab"
	lab := func(args ...string) (string, error) {
		out, err := exec.Command(uvswitch, append([]string{"lab", "--name", name}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := lab("up"); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	defer lab("down")
	if out, err := lab("up"); err == nil || !strings.Contains(out, "is already up") {
		t.Errorf("up twice: %v %s", err, out)
	}
	for _, cmd := range [][]string{
		{"exec", "web", "ping", "-c", "1", "172.29.0.3"},
		{"exec", "db", "ping", "-c", "1", "203.0.113.8"},
		{"exec", "host", "uvswitch", "port", "ls"},
		{"exec", "db", "curl", "-s", "http://172.29.0.2/"},
		{"show"},
	} {
		if out, err := lab(cmd...); err != nil {
			t.Errorf("%v: %v\n%s", cmd, err, out)
		}
	}
	if out, err := lab("exec", "web", "sh", "-c", "exit 7"); err == nil || err.(*exec.ExitError).ExitCode() != 7 {
		t.Errorf("exec passes the exit code on: %v %s", err, out)
	}
	if out, err := lab("exec", "nowhere", "true"); err == nil || !strings.Contains(out, `no namespace "nowhere"`) {
		t.Errorf("a part that is not there: %s", out)
	}
	if out, err := lab("down"); err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
	if left, _ := filepath.Glob("/run/netns/" + name + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if out, err := lab("exec", "web", "true"); err == nil || !strings.Contains(out, "is not up") {
		t.Errorf("exec after down: %s", out)
	}
}

// TestBadInput checks that errors say what happened, why, and what to do, and that failed commands leave nothing behind.
func TestBadInput(t *testing.T) {
	b := New(t)
	containers(b)
	b.AddNS("spare")
	before := b.Sh("spare", "ip -br link") + b.Sh("host", "ip -br link | sed 's/@.*//'") + b.CLI("-j", "network", "ls")
	b.Serve("host", 25000, "socat", "TCP-LISTEN:25000,fork", "SYSTEM:cat")
	b.Serve("host", 7070, "socat", "TCP-LISTEN:7070,fork", "SYSTEM:cat")
	for _, tt := range []struct {
		args string
		want string // part of the error message
		code int
	}{
		{"port add x --netns nosuch", `no such network namespace: "nosuch"`, 1},
		{"port add x", "--netns NAME creates a device in a namespace", 2},
		{"port add web --netns SPARE", `port "web" exists already`, 1},
		{"port add host --netns SPARE", `no port can be called "host"`, 1},
		{"port add a/b --netns SPARE", `"a/b" is not a valid name for a port`, 2},
		{"port add x --netns SPARE --ip 172.29.0.2", `in use by port "web"`, 1},
		{"port add x --netns SPARE --ip 172.29.0.1", "belongs to the gateway", 1},
		{"port add x --netns SPARE --ip 10.9.9.9", "is not a usable address of network", 2},
		{"port add x --netns SPARE --ip 172.29.255.255", "is not a usable address", 2},
		{"port add x --netns SPARE --mac 01:00:00:00:00:01", "is not a unicast MAC address", 2},
		{"port add x --netns SPARE --mac 02:75:ac:1d:00:02", `in use by port "web"`, 1},
		{"port add x --netns SPARE --mtu 100", "out of range", 2},
		{"port add x --netns SPARE --ifname waytoolonganame1", "is not an interface name", 2},
		{"port add x --netns SPARE --ifname lo", "the name is already in use", 1},
		{"port add x --netns SPARE --offload off --ifname lo", "the name is already in use", 1},
		{"port add x --netns SPARE --offload maybe", "must be on or off", 2},
		{"port add x --netns SPARE --network nosuch", `network "nosuch" does not exist`, 1},
		{"port add x --device nosuch", `device "nosuch" does not exist here`, 1},
		{"port add x --device uvs0", "the switch's own device", 1},
		{"port add x --netns SPARE --device eth0", "use only one of --netns", 2},
		{"port add x --device h9 --mtu 1400", "apply only to devices that --netns creates", 2},
		{"port del nosuch", `port "nosuch" does not exist`, 1},
		{"port del host", "the switch's own", 1},
		{"port set web nosuch on", `no setting "nosuch"`, 2},
		{"port set web guard maybe", "must be on or off", 2},
		{"network add n2 --subnet 172.29.128.0/24", `overlaps 172.29.0.0/16 of network "default"`, 1},
		{"network add n2 --subnet 10.1.0.0/16", "10.1.0.0/24, which is on device eth0", 1},
		{"network add n2 --subnet 172.30.0.7/24", "did you mean 172.30.0.0/24?", 2},
		{"network add n2 --subnet 172.30.0.0/31", "is not an IPv4 subnet", 2},
		{"network del default", "always exists and cannot be removed", 1},
		{"publish add 8080 --port web", "it needs a port of the host", 2},
		{"publish add 0:80 --port web", "is not a port", 2},
		{"publish add 8080:80/icmp --port web", "tcp, udp or sctp", 2},
		{"publish add 8080:80 --port nosuch", `port "nosuch" does not exist`, 1},
		{"publish add 7070:80 --port web", "in use by pid", 1},
		{"publish add 1-65535:1 --port web", "would leave no port", 1},
		{"publish add 20000-29999:20000 --port web", "in use by pid", 1},
		{"port add x --device lo", "loopback or the uplink's device", 1},
		{"port add x --device eth0", "loopback or the uplink's device", 1},
		{"port add x --netns /etc/passwd", "is not a namespace", 1},
		{"network add n2 --subnet 127.0.0.0/8", "cannot be routed", 2},
		{"publish del 99", "99 is not published", 1},
		{"fdb add nonsense dev web static", "is not a unicast MAC address", 2},
		{"fdb del 02:00:00:00:99:99", "is not in the forwarding database", 1},
		{"flow del", "select the flows", 2},
		{"flow ls -d nosuch", "is neither an address", 2},
		{"flow ls -p nosuch", "use tcp, udp, sctp", 2},
		{"port ls -o table", "use json, yaml, wide or extended", 2},
		{"port bogus", "the commands are", 2},
		{"port", "the subcommand is missing; use one of: ls", 2},
		{"nosuch", "the commands are", 2},
		{"port ls --nosuch", "unknown flag", 2},
	} {
		args := strings.Fields(strings.ReplaceAll(tt.args, "SPARE", b.NS("spare")))
		_, err := b.TryCLI(args...)
		var exit *exec.ExitError
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.args, err, tt.want)
		} else if errors.As(err, &exit) && exit.ExitCode() != tt.code {
			t.Errorf("%s: exit code %d, want %d", tt.args, exit.ExitCode(), tt.code)
		}
	}
	after := b.Sh("spare", "ip -br link") + b.Sh("host", "ip -br link | sed 's/@.*//'") + b.CLI("-j", "network", "ls")
	if before != after {
		t.Errorf("something was left:\n%s\n%s", before, after)
	}
	ping(b, "web", "172.29.0.3")

	// A second switch with the same socket fails, and so does one with the same device names.
	if out, err := b.TrySh("host", uvswitch+" --socket "+b.Socket()+" run"); err == nil || !strings.Contains(out, "a switch is already running") {
		t.Errorf("a second switch on the socket: %s", out)
	}
	if out, err := b.TrySh("host", uvswitch+" --socket "+b.Socket()+"2 run"); err == nil || !strings.Contains(out, "use another --name") {
		t.Errorf("a second switch with the same devices: %s", out)
	}
	if out, err := b.TrySh("host", "su -s /bin/sh nobody -c '"+filepath.Join(copyForAll(t), "uvswitch")+" --socket "+filepath.Join(os.TempDir(), b.id+"-nobody.sock")+" run --uplink-kind tcx'"); err == nil || !strings.Contains(out, "needs CAP_NET_ADMIN") {
		t.Errorf("without root: %s", out)
	}
	config := filepath.Join(b.dir, "bad.yaml")
	if err := os.WriteFile(config, []byte("uplink: {device: auto}\nnetwroks:\n  - {name: lab}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.TrySh("host", uvswitch+" --socket "+b.Socket()+"3 run -c "+config); err == nil || !strings.Contains(out, `did you mean "networks"?`) || !strings.Contains(out, "[2:1]") {
		t.Errorf("a wrong key: %s", out)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	nothingLeft(b)
	if _, err := b.TryCLI("status"); err == nil || !strings.Contains(err.Error(), "no switch listens on") {
		t.Errorf("without a switch: %v", err)
	}
	// Without /dev/net/tun: a mount namespace hides it.
	if out, err := b.TrySh("host", "unshare -m sh -c 'mkdir -p "+b.dir+"/dev && mount -t tmpfs none /dev/net && "+uvswitch+" --socket "+b.Socket()+" run'"); err == nil || !strings.Contains(out, "cannot use /dev/net/tun") {
		t.Errorf("without /dev/net/tun: %s", out)
	}
}

// copyForAll copies uvswitch to a folder where any user can run it, and returns the folder.
func copyForAll(t *testing.T) string {
	dir, err := os.MkdirTemp("", "uvt-bin-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	raw, err := os.ReadFile(uvswitch)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "uvswitch"), raw, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestConfigFile tests the keys of the configuration file, and another name prefix for the switch's devices.
func TestConfigFile(t *testing.T) {
	b := NewHost(t)
	b.pair.Uplink = "" // the file has it
	b.AddNS("web")
	config := filepath.Join(b.dir, "uvswitch.yaml")
	err := os.WriteFile(config, []byte(`
uplink: {device: auto, kind: tcx, ports: "20000-20999"}
networks:
  - {name: default, subnet: 172.28.0.0/16, mtu: 1400}
  - {name: lab, subnet: 10.9.0.0/24, internal: true}
host: {address: 172.28.0.200, inbound: allow}
nat: {mapping: endpoint-independent, filtering: address-and-port-dependent, timers: linux, flows: 4096, flows_per_port: 1000}
ports:
  - {name: web, netns: `+b.NS("web")+`, ip: 172.28.0.9/16}
publish:
  - {from: any, host: "8080", to: "web:80", proto: tcp}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	b.Start("-c", config, "--name", "second")
	b.Web("web")
	contains(t, b.Sh("out", "curl -s -m 5 http://10.1.0.1:8080/"), "you are 10.1.0.2")
	contains(t, b.Sh("web", "ip addr show eth0"), "172.28.0.9/16", "mtu 1400")
	contains(t, b.Sh("host", "ip -br addr"), "second0", "second-up", "172.28.0.200/16")
	contains(t, b.CLI("stats"), "of 4096")
	var nets []map[string]any
	b.JSON(&nets, "network", "ls")
	if len(nets) != 2 || nets[1]["internal"] != true {
		t.Errorf("networks: %v", nets)
	}
	ping(b, "web", "10.1.0.2")
}

// TestNamespaceDies checks that a removed namespace removes its port, and that a removed port removes its device.
func TestNamespaceDies(t *testing.T) {
	b := New(t)
	containers(b)
	b.CLI("publish", "add", "8080:80", "--port", "db")
	ping(b, "web", "172.29.0.3")
	six := addr6(b, "db")
	ping(b, "web", six)
	b.local("ip", "netns", "del", b.NS("db"))
	b.Eventually("the port is gone", func() bool { _, err := b.TryCLI("port", "show", "db"); return err != nil })
	var rules []map[string]any
	if b.JSON(&rules, "publish", "ls"); len(rules) != 0 {
		t.Errorf("its published port is left: %v", rules)
	}
	ping(b, "web", "10.1.0.2")
	b.AddNS("db2")
	b.CLI("port", "add", "db", "--netns", b.NS("db2"), "--ip", "172.29.0.3") // recreated with the same name and address
	ping(b, "web", "172.29.0.3")
	if addr6(b, "db") != six {
		t.Errorf("the IPv6 address was %s and is %s", six, addr6(b, "db"))
	}
	b.Sh("web", "ping -6 -c 1 -W 1 "+six) // the first packet reaches it
	b.CLI("port", "del", "db")
	if out := b.Sh("db2", "ip -br link"); strings.Contains(out, "eth0") {
		t.Errorf("the device is left: %s", out)
	}
	b.Balanced()
}

// TestManyDevicesDie: no port of a namespace that is removed with 200 devices stays. Now and then, the kernel does not wake the reader of such a
// device (tap.Device.Gone).
func TestManyDevicesDie(t *testing.T) {
	b := New(t)
	b.AddNS("many")
	for i := range 200 {
		a := api.PortAdd{Name: fmt.Sprintf("p%d", i), Netns: b.path("many"), Ifname: fmt.Sprintf("e%d", i), NoRoute: true}
		if err := api.NewClient(b.socket).Do(t.Context(), "POST", "/ports", a, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.local("ip", "netns", "del", b.NS("many"))
	b.Eventually("the ports are gone", func() bool {
		var list []api.Port
		b.JSON(&list, "port", "ls")
		return !slices.ContainsFunc(list, func(p api.Port) bool { return p.Name != "uplink" && p.Name != "host" })
	})
}

// TestAPI checks that the control API answers invalid requests with an error and keeps working.
func TestAPI(t *testing.T) {
	b := New(t)
	Need(t, "curl")
	curl := func(args string) string {
		return b.Sh("host", "curl -s -m 5 --unix-socket "+b.Socket()+" "+args)
	}
	for args, want := range map[string]string{
		"http://x/v1/nosuch":                      "the control API has no GET /v1/nosuch",
		"-d '{' http://x/v1/ports":                "the body of the request",
		"-d '{\"nmae\":\"x\"}' http://x/v1/ports": `unknown field \"nmae\"`,
		"-d '{}{}' http://x/v1/ports":             "more than one JSON value",
		"-X DELETE http://x/v1/ports/nosuch":      "does not exist",
		"http://x/v1/ports/host":                  `"ifname": "uvs0"`,
	} {
		contains(t, curl(args), want)
	}
	var v any
	if err := json.Unmarshal([]byte(curl("http://x/v1/status")), &v); err != nil {
		t.Error(err)
	}
}
