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
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// A user is an ordinary user of the bed's host: uid 65534, without any capability, with /dev/net/tun as systems have it.
type user struct {
	*Bed
	dir    string // has the command, and the user's $XDG_RUNTIME_DIR
	env    string // added to the environment
	mounts string // commands of root that mount files of the user's machine
	setuid bool   // programs with the bit setuid have root's rights
}

func newUser(b *Bed) *user {
	Need(b.t, "setpriv", "unshare")
	u := &user{Bed: b, dir: copyForAll(b.t)}
	run := filepath.Join(u.dir, "run")
	for _, err := range []error{
		os.MkdirAll("/run/docker/plugins", 0o700), // as a Docker engine makes it: a user may not look into it
		os.Mkdir(run, 0o700), os.Chown(run, 65534, 65534),
		unix.Mknod(filepath.Join(u.dir, "tun"), unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), os.Chmod(filepath.Join(u.dir, "tun"), 0o666),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	b.socket = filepath.Join(run, "uvswitch/uvswitch.sock")
	return u
}

// command returns a shell command of the user.
func (u *user) command(line string) string {
	bounds := "--bounding-set=-all"
	if u.setuid {
		bounds = ""
	}
	return fmt.Sprintf("exec unshare -m sh -c 'mount --bind %[1]s/tun /dev/net/tun && %[3]s exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all %[4]s "+
		"env XDG_RUNTIME_DIR=%[1]s/run HOME=%[1]s/run PATH=%[1]s:$PATH %[5]s sh -c \"$1\"' - %[2]s", u.dir, quoted(line), u.mounts, bounds, u.env)
}

func (u *user) try(line string) (string, error) { return u.TrySh("host", u.command(line)) }

func (u *user) sh(line string) string {
	u.t.Helper()
	out, err := u.try(line)
	if err != nil {
		u.t.Fatalf("as a user: %s: %v\n%s", line, err, out)
	}
	return out
}

// start runs a command of the user in the background until the test ends.
func (u *user) start(line string) *exec.Cmd {
	u.t.Helper()
	c := exec.Command("sh", "-c", u.command(line))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &syncBuffer{}
	c.Stdout, c.Stderr = log, log
	c.WaitDelay = time.Second // children of what has ended may have its output still
	if err := netns.Do(u.path("host"), c.Start); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		_ = c.Process.Signal(unix.SIGTERM)
		_ = c.Wait()
		if u.t.Failed() {
			u.t.Logf("%s said:\n%s", line, log)
		}
	})
	return c
}

// run starts the user's switch.
func (u *user) run(args string) {
	u.t.Helper()
	u.start("exec uvswitch run --io " + u.pair.IO + " " + args)
	u.Eventually("the switch answers", func() bool { _, err := u.TryCLI("status"); return err == nil })
}

// port waits for a port.
func (u *user) port(name string) (p api.Port) {
	u.t.Helper()
	u.Eventually("there is a port "+name, func() bool {
		out, err := u.TryCLI("-j", "port", "show", name)
		return err == nil && strings.Contains(out, name)
	})
	u.JSON(&p, "port", "show", name)
	return p
}

// TestRootless: an ordinary user runs a switch and containers.
func TestRootless(t *testing.T) {
	b := NewHost(t)
	u := newUser(b)
	before := b.Sh("host", "ip -br link; ip -o -4 addr; ip route; sysctl -a -r 'forwarding|rp_filter' 2>/dev/null")
	u.run("")

	u.start("exec uvswitch exec --port web -- sleep 600")
	web, _, _ := strings.Cut(u.port("web").Addresses[0], "/")
	for what, line := range map[string]string{
		"root of its own namespace": "test $(id -u) = 0",
		"one device":                `test "$(ls /sys/class/net | tr "\n" " ")" = "eth0 lo "`,
		"by address":                "ping -c1 -W5 " + web,
		"by name":                   "ping -c1 -W5 web",
		"IPv6":                      "ping -6 -c1 -W5 web",
		"loopback":                  "ping -c1 -W5 127.0.0.1",
	} {
		if out, err := u.try("uvswitch exec -- sh -c '" + line + "'"); err != nil {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
	if _, err := u.try("uvswitch exec -- sh -c 'exit 7'"); err == nil || err.Error() != "exit status 7" {
		t.Errorf("a command that ends with 7: %v", err)
	}
	if out, err := u.try("uvswitch exec -- no-such-command"); err == nil || !strings.Contains(out, "no-such-command") {
		t.Errorf("a command that does not exist: %v %s", err, out)
	}
	b.Eventually("the ports of commands that have ended are gone", func() bool { return !strings.Contains(b.CLI("port", "ls"), "exec-") })

	// The command ends with uvswitch exec, however that ends.
	u.sh(`uvswitch exec --port killed -- sleep 600 & until uvswitch port show killed >/dev/null 2>&1; do sleep 0.1; done; kill -KILL $!`)
	b.Eventually("the port of a killed exec is gone", func() bool { return !strings.Contains(b.CLI("port", "ls"), "killed") })

	// A namespace that another program has made, also one whose user is not root inside.
	for name, as := range map[string]string{"plugged": "-r", "unmapped": "-c"} {
		pid := strings.TrimSpace(u.sh("unshare -Un " + as + " sleep 600 </dev/null >/dev/null 2>&1 & echo $!"))
		t.Cleanup(func() { b.Sh("host", "kill "+pid) })
		b.Eventually("the namespace is there", func() bool {
			_, err := u.try("test $(readlink /proc/" + pid + "/ns/net) != $(readlink /proc/self/ns/net)")
			return err == nil
		})
		if out, err := u.try("uvswitch port add " + name + " --netns pid:" + pid); err != nil {
			t.Errorf("a port in a namespace (unshare %s): %v: %s", as, err, out)
			continue
		}
		u.sh("uvswitch exec -- ping -c1 -W5 " + name)
	}

	// A network without a way out.
	u.start("exec uvswitch exec --internal --port inner -- sleep 600")
	u.port("inner")
	u.sh("uvswitch exec --internal -- ping -c1 -W5 inner")
	if out, err := u.try("uvswitch exec --internal -- ping -c1 -W1 " + web); err == nil {
		t.Errorf("from the internal network to another one: %s", out)
	}

	if out, err := u.try("uvswitch run"); err == nil || !strings.Contains(out, "already running") {
		t.Errorf("a second switch of this user: %v: %s", err, out)
	}
	if after := b.Sh("host", "ip -br link; ip -o -4 addr; ip route; sysctl -a -r 'forwarding|rp_filter' 2>/dev/null"); after != before {
		t.Errorf("the host has changed: was\n%s\nis\n%s", before, after)
	}
	b.Balanced()
}

// TestRootlessWayOut: what containers of an ordinary user reach, and who reaches them. No packet of the host's namespace is made by the switch.
func TestRootlessWayOut(t *testing.T) {
	Need(t, "curl", "dig", "iperf3", "socat", "traceroute")
	b := NewHost(t)
	u := newUser(b)
	b.Sh("host", "sysctl -qw net.ipv4.ping_group_range='0 2147483647'; ip addr add 2001:db8::1/64 dev eth0 nodad; ip -6 route add default via 2001:db8::2")
	b.Sh("out", "ip addr add 2001:db8::2/64 dev eth0 nodad; sysctl -qw net.ipv4.icmp_ratelimit=0") // traceroute causes many errors
	b.Web("out")
	b.Serve("out", 7000, "socat", "-T10", "UDP-LISTEN:7000,fork", "EXEC:cat")
	b.Serve("out", 7006, "socat", "-T10", "UDP6-LISTEN:7006,fork", "EXEC:cat")
	b.Iperf("out")
	u.run("--host-inbound 5201/tcp")
	if status := b.CLI("status"); !strings.Contains(status, "sockets") {
		t.Errorf("the way out:\n%s", status)
	}
	for _, x := range []struct{ line, says string }{
		{"curl -sS -m 20 http://10.1.0.2/", "10.1.0.1"}, // the host's address is the client
		{"ping -c1 -W5 10.1.0.2", "1 received"},
		{"ping -6 -c1 -W5 2001:db8::2", "1 received"},
		{"echo datagram | socat -t5 - UDP:10.1.0.2:7000", "datagram"},
		{"echo datagram6 | socat -t5 - UDP6:[2001:db8::2]:7006", "datagram6"},
		{"traceroute -n -w5 -m3 10.1.0.2", " 2  10.1.0.2"},
		{"traceroute -I -n -w5 -m3 10.1.0.2", " 2  10.1.0.2"},
		{"curl -sS -m 20 http://10.1.0.2:81/ 2>&1 || true", "onnect"},    // refused
		{"dig +tries=1 +time=10 -p 7001 @10.1.0.2 x || true", "refused"}, // port unreachable
		{"curl -sS -m 20 http://10.1.0.1:22/ 2>&1 || true", "onnect"},    // host.inbound
		{"curl -sS -m 20 http://127.0.0.1:22/ 2>&1 || true", "onnect"},   // its own loopback
		{"iperf3 -c 10.1.0.2 -t 1", "receiver"},
		{"iperf3 -R -P 4 -c 10.1.0.2 -t 1", "receiver"},
	} {
		out, err := u.try("uvswitch exec -- sh -c " + quoted(x.line))
		if err != nil || !strings.Contains(out, x.says) {
			t.Errorf("%s: %v: %s", x.line, err, out)
		}
	}
	if out := u.sh("uvswitch exec -- sh -c 'curl -sS -m 20 http://10.1.0.1:22/ || true'; uvswitch status"); !strings.Contains(out, "host_inbound") {
		t.Errorf("what the host does not let in: %s", out)
	}

	// Published: with the client's own address and port.
	u.start("exec uvswitch exec --port web --publish 8080:80 -- uvswitch lab tool httpd 80 web")
	u.start("exec uvswitch exec --port echo --publish 5353:53/udp -- socat -T10 UDP-LISTEN:53,fork EXEC:cat")
	u.port("web")
	u.port("echo")
	b.Eventually("the published port answers", func() bool {
		out, err := b.TrySh("out", "curl -sS -m 5 http://10.1.0.1:8080/")
		return err == nil && strings.Contains(out, "10.1.0.2")
	})
	for _, x := range []struct{ ns, line, says string }{
		{"out", "curl -g -sS -m 20 http://[2001:db8::1]:8080/", "2001:db8::2"},
		{"out", "echo to-it | socat -t5 - UDP:10.1.0.1:5353", "to-it"},
		{"host", "curl -sS -m 20 http://127.0.0.1:8080/", "169.254.1.2"},
		{"host", "curl -sS -m 20 http://10.1.0.1:8080/", "169.254.1.2"},
		{"host", "echo from-host | socat -t5 - UDP:127.0.0.1:5353", "from-host"},
	} {
		if out := b.Sh(x.ns, x.line); !strings.Contains(out, x.says) {
			t.Errorf("in %s: %s: %s", x.ns, x.line, out)
		}
	}
	// One port of two loopback addresses leads to two containers.
	for i, name := range []string{"one", "two"} {
		at := fmt.Sprintf("127.0.0.%d:9000:80", i+1)
		u.start("exec uvswitch exec --port " + name + " --publish " + at + " --publish " + at + "/udp -- sh -c 'socat -T10 UDP-LISTEN:80,fork SYSTEM:\"read x; echo " + name + "\" & exec uvswitch lab tool httpd 80 " + name + "'")
		b.Eventually(name+" answers", func() bool {
			out, err := b.TrySh("host", fmt.Sprintf("curl -sS -m 5 http://127.0.0.%d:9000/; echo question | socat -t5 - UDP:127.0.0.%[1]d:9000", i+1))
			return err == nil && strings.Contains(out, "this is "+name) && strings.Contains(out, "169.254.1.2\n"+name)
		})
	}
	if out := u.sh("uvswitch exec -- curl -sS -m 20 http://10.1.0.1:8080/"); !strings.Contains(out, "web") {
		t.Errorf("a published port from another container: %s", out)
	}
	if out, err := u.try("uvswitch publish add 80:80 --port web"); err == nil || !strings.Contains(out, "ip_unprivileged_port_start") {
		t.Errorf("a low port: %v: %s", err, out)
	}
	if flows := b.CLI("flow", "ls"); !strings.Contains(flows, "src=10.1.0.2") {
		t.Errorf("flows:\n%s", flows)
	}
	b.CLI("publish", "del", "8080")
	if out, err := b.TrySh("out", "curl -sS -m 5 http://10.1.0.1:8080/"); err == nil {
		t.Errorf("a port that is not published any more: %s", out)
	}

	// A sandbox, as root's switch has it.
	if out, err := u.try("uvswitch exec --policy sandbox -- curl -sS -m 20 http://10.1.0.2/"); err == nil {
		t.Errorf("a sandboxed command reached the outside: %s", out)
	}
	contains(t, b.CLI("monitor", "--last", "5", "--reason", "policy_denied"), "of policy sandbox refuses it") // although the port has gone
	b.Balanced()
}

// TestRootlessTour: an ordinary user takes the tour, and nothing of the host is touched.
func TestRootlessTour(t *testing.T) {
	Need(t, "ip")
	b := NewHost(t)
	u := newUser(b)
	before := b.Sh("host", "ip -br link; ip -o -4 addr; ip route; ls /run/netns | grep tour- || true")
	out := u.sh("uvswitch lab tour")
	contains(t, out, "You are not root", "src=203.0.113.8 dst=198.51.100.1", "connects to web in the client's name", "you are 198.51.100.2", "169.254.1.2",
		"balanced true", "packets leave by sockets", "nothing is left")
	if after := b.Sh("host", "ip -br link; ip -o -4 addr; ip route; ls /run/netns | grep tour- || true"); after != before {
		t.Errorf("the host has changed: was\n%s\nis\n%s", before, after)
	}
	if status := b.Sh("host", "ps -eo args | grep '[u]vswitch.*--subnet6 fd00:dead:beef:c0::' || true"); status != "" {
		t.Errorf("left: %s", status)
	}
}

// TestRootlessExplains: what explains knows of the host's sockets.
func TestRootlessExplains(t *testing.T) {
	Need(t, "curl", "socat", "ss")
	b := NewHost(t)
	u := newUser(b)
	b.Serve("out", 7100, "socat", "TCP-LISTEN:7100,fork,reuseaddr", "EXEC:cat")
	b.Serve("out", 7101, "socat", "-T60", "UDP-LISTEN:7101,fork", "EXEC:cat")
	b.Sh("host", "ip route add local 192.0.2.0/24 dev lo")
	u.run("--host-inbound none")
	u.start("exec uvswitch exec --port c -- sh -c '(sleep 600 | socat -t600 - TCP:10.1.0.2:7100)& (echo x; sleep 600) | socat -t600 - UDP:10.1.0.2:7101'")
	u.port("c")
	for _, proto := range []string{"tcp", "udp"} {
		var flows []api.Flow
		b.Eventually("there is a flow of "+proto, func() bool {
			b.JSON(&flows, "flow", "ls", "-p", proto, "--dst", "10.1.0.2")
			return len(flows) == 1 && flows[0].Reply.Packets > 0
		})
		own := fmt.Sprintf("%s:%d", flows[0].Reply.Dst, flows[0].Reply.Dport)
		sockets := b.Sh("host", "ss -Han --"+proto)
		if any := fmt.Sprintf("0.0.0.0:%d", flows[0].Reply.Dport); flows[0].Reply.Dst != "10.1.0.1" || !strings.Contains(sockets, own) && !strings.Contains(sockets, any) {
			t.Errorf("a flow of %s has the socket %s; ss shows\n%s", proto, own, sockets)
		}
	}
	contains(t, b.CLI("trace", "--in", "c", "tcp > 10.1.0.2:7100"), "by a socket of the switch's user; the host's routing sends it by device eth0 to 10.1.0.2, with source 10.1.0.1")
	contains(t, b.CLI("trace", "--in", "c", "tcp > 203.0.113.1:80"), "the host's routing")

	// Each refusal has a reason.
	for line, reason := range map[string]string{
		"curl -sS -m 20 http://10.1.0.2:81/":                      "connect_refused",
		"curl -sS -m 20 http://192.0.2.7/":                        "host_inbound", // of the table local
		"curl -sS -m 20 http://10.1.0.1/":                         "host_inbound",
		"ping -c1 -W1 10.1.0.2":                                   "ping_not_allowed",
		"head -c 4000 /dev/zero | socat -b 4000 - UDP:10.1.0.2:7": "needs_root", // in fragments
	} {
		_, _ = u.try("uvswitch exec -- sh -c " + quoted(line))
		b.Eventually(line+" is counted as "+reason, func() bool { return strings.Contains(b.CLI("stats"), reason) })
	}
	b.Balanced()
}

// TestRootlessBadTurns: descriptors run out, the host's address changes, the switch is killed, there is no /dev/net/tun.
func TestRootlessBadTurns(t *testing.T) {
	Need(t, "curl", "socat", "setpriv")
	b := NewHost(t)
	u := newUser(b)
	b.Web("out")
	b.Serve("out", 7100, "socat", "TCP-LISTEN:7100,fork,reuseaddr", "EXEC:cat")
	if out, err := b.TrySh("host", "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all unshare -Urn "+u.dir+"/uvswitch doctor"); err == nil || !strings.Contains(out, "/dev/net/tun") {
		t.Errorf("doctor where the user may not use /dev/net/tun: %v: %s", err, out)
	}

	// 300 files: 64 sockets for containers. One container takes what it may; another one still gets some.
	s := u.start("ulimit -n 300; exec uvswitch run --io " + u.pair.IO)
	b.Eventually("the switch answers", func() bool { _, err := u.TryCLI("status"); return err == nil })
	u.start("exec uvswitch exec --port greedy -- sh -c 'for i in $(seq 100); do (sleep 600 | socat -t600 - TCP:10.1.0.2:7100 2>/dev/null)& done; wait'")
	u.port("greedy")
	b.Eventually("sockets run out", func() bool { return strings.Contains(b.CLI("stats"), "sockets_exhausted") })
	if out, err := u.try("uvswitch exec -- curl -sS -m 20 http://10.1.0.2/"); err != nil {
		t.Errorf("another container: %v: %s", err, out)
	}

	// The host gets another address.
	b.Sh("host", "ip addr del 10.1.0.1/24 dev eth0; ip addr add 10.1.0.7/24 dev eth0; ip route replace default via 10.1.0.2")
	b.Eventually("new connections leave with the new address", func() bool {
		out, err := u.try("uvswitch exec -- curl -sS -m 5 http://10.1.0.2/")
		return err == nil && strings.Contains(out, "10.1.0.7")
	})

	// The switch is killed: its connections end, and a new switch serves at once.
	served := func() string { return b.Sh("out", "ss -Hnt state established sport = :7100") }
	if served() == "" {
		t.Fatal("no connection is there")
	}
	u.start("exec uvswitch exec --port apart -- unshare -Urn sh -c 'while sleep 0.1; do ip -br addr; done > " + u.dir + "/run/apart'")
	u.port("apart")
	b.CLI("policy", "add", "agent", "egress", "allow", "10.1.0.2", "tcp/80")
	b.CLI("policy", "attach", "agent", "--port", "apart")
	u.start("exec uvswitch exec --port reader --publish 8081:80 -- sh -c 'socat -u TCP:10.1.0.2:7100 -; exec uvswitch lab tool httpd 80 reader'")
	addr, _, _ := strings.Cut(u.port("reader").Addresses[0], "/")
	b.Eventually("the reader's connection is there", func() bool { return strings.Contains(b.CLI("flow", "ls", "--src", addr, "-p", "tcp"), "ESTABLISHED") })
	var status api.Status
	b.JSON(&status, "status")
	b.Sh("host", "ip addr add 10.1.0.1/24 dev eth0") // a reset leaves from the address of its connection
	if err := unix.Kill(status.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = s.Wait()
	b.Eventually("the peers hear of the end", func() bool { return served() == "" })
	u.run("")
	u.sh("uvswitch exec -- curl -sS -m 20 http://10.1.0.2/")

	// The command of exec has heard of it, too, although it only read; and it is plugged in again.
	b.Eventually("the reader serves", func() bool {
		out, err := b.TrySh("host", "curl -sS -m 5 http://127.0.0.1:8081/")
		return err == nil && strings.Contains(out, "this is reader")
	})
	b.Balanced()
	if p := u.port("apart"); !slices.Equal(p.Policies, []string{"agent"}) { // also what was attached by hand
		t.Errorf("after the restart, port apart has the policies %v", p.Policies)
	}
	if out := u.sh("tail -n 3 $HOME/apart"); strings.Contains(out, "eth0") { // what the command has made itself is not plugged in
		t.Errorf("namespaces of the command's own: %s", out)
	}

	// A container goes while it receives: nobody else sees what comes for it.
	b.Serve("out", 7200, "socat", "-u", "EXEC:head -c 100000000 /dev/zero", "TCP-LISTEN:7200,fork,reuseaddr")
	u.start("exec uvswitch dump -i reader 'tcp port 7200' > $HOME/flooded 2> $HOME/listens")
	b.Eventually("the capture listens", func() bool { out, _ := u.try("cat $HOME/listens"); return strings.Contains(out, "listening") })
	for range 5 {
		u.sh("uvswitch exec -- sh -c 'for i in $(seq 8); do socat -u TCP:10.1.0.2:7200 - > /dev/null 2>&1 & done; sleep 0.2'")
	}
	if out := u.sh("cat $HOME/flooded"); out != "" {
		t.Errorf("another container has got\n%.500s", out)
	}
	b.Balanced()

	// A room in a room.
	if out, err := u.try("uvswitch exec -- uvswitch exec --port inner -- cat /etc/resolv.conf"); err != nil || !strings.Contains(out, "nameserver 172.29.0.1") {
		t.Errorf("a room in a room: %v: %s", err, out)
	}
	if _, err := u.try("uvswitch exec -- no-such-command"); err == nil || !strings.Contains(err.Error(), "127") {
		t.Errorf("a command that does not exist: %v", err)
	}
}

func quoted(line string) string { return "'" + strings.ReplaceAll(line, "'", `'\''`) + "'" }

// TestRootlessPage runs the commands of docs/rootless.md as an ordinary user.
func TestRootlessPage(t *testing.T) {
	Need(t, "curl")
	b := NewHost(t)
	u := newUser(b)
	script, expect := fencesOf(t, "rootless.md", "sh user")
	out, err := u.try("bash -e -c " + quoted("trap 'kill $(jobs -p)' EXIT\n"+script))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	contains(t, out, expect...)
}

// file writes a file of the user's machine.
func (u *user) file(name, text string) {
	u.t.Helper()
	if err := os.WriteFile(filepath.Join(u.dir, name), []byte(text), 0o644); err != nil {
		u.t.Fatal(err)
	}
}

// withEngine gives the user what a container engine needs: user IDs for containers, and newuidmap. It returns the path of an image.
func (u *user) withEngine() (image string) {
	u.t.Helper()
	image = filepath.Join(u.dir, "image")
	u.local("sh", "-c", busyboxImage, image)
	u.file("subid", "nobody:200000:65536\n")
	u.setuid = true // newuidmap
	u.mounts = fmt.Sprintf("mount --bind %[1]s/subid /etc/subuid && mount --bind %[1]s/subid /etc/subgid &&", u.dir)
	return image + ".tar"
}

// TestDockerRootless tests Debian's dockerd of an ordinary user, in RootlessKit's namespaces, with that user's switch. It runs the commands of
// docs/docker.md.
func TestDockerRootless(t *testing.T) {
	Need(t, "dockerd", "docker", "rootlesskit", "runc", "busybox", "curl", "newuidmap", "slirp4netns")
	b := NewHost(t)
	u := newUser(b)
	image := u.withEngine()
	u.env = fmt.Sprintf("DOCKER_HOST=unix://%s/run/docker.sock", u.dir)
	b.Web("out")
	u.run("--docker")
	t.Cleanup(func() {
		_, _ = u.try("rootlesskit rm -rf $HOME/.local/share/docker") // files of the user IDs for containers
		unmountBelow(u.dir)
	})
	dockerd := func() *exec.Cmd {
		c := u.start("exec sh /usr/share/docker.io/contrib/dockerd-rootless.sh --storage-driver=vfs --dns 172.29.0.1")
		b.Eventually("dockerd answers", func() bool { _, err := u.try("docker version"); return err == nil })
		return c
	}
	first := dockerd()
	u.sh("docker import " + image + " busybox")

	script, expect := fencesOf(t, "docker.md", "sh user")
	contains(t, u.sh("set -e\n"+script), expect...)

	u.sh("docker network create -d uvswitch --subnet 172.30.0.0/16 net1; docker run -d --name web --restart always --network net1 -p 8080:80 busybox httpd -f -p 80 -h /www; docker run -d --name db --network net1 busybox sleep 3600")
	contains(t, u.sh("docker exec db wget -qO- http://10.1.0.2/; docker exec db wget -qO- http://web/cgi-bin/who"), "10.1.0.1", "you are 172.30.0.3")
	answers := func() bool {
		out, err := b.TrySh("out", "curl -sS -m 5 http://10.1.0.1:8080/cgi-bin/who")
		return err == nil && strings.Contains(out, "you are 10.1.0.2")
	}
	b.Eventually("the published port answers", answers)
	b.Eventually("the ports have the names of their containers", func() bool {
		ports := b.CLI("port", "ls")
		return strings.Contains(ports, "\nweb ") && strings.Contains(ports, "\ndb ")
	})
	if out, err := u.try("docker run --rm --network net1 -p 80:80 busybox true"); err == nil || !strings.Contains(out, "ip_unprivileged_port_start") {
		t.Errorf("a low port: %v: %s", err, out)
	}

	// The switch is killed, and dockerd ends: both come back to their containers.
	var status api.Status
	b.JSON(&status, "status")
	if err := unix.Kill(status.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.Eventually("the switch is gone", func() bool { _, err := u.TryCLI("status"); return err != nil })
	u.run("--docker")
	b.Eventually("the new switch serves the container", answers)
	if err := first.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	dockerd()
	b.Eventually("the next dockerd serves the container", answers)
	u.sh("docker rm -f -v web db; docker network rm net1")
	if out := b.CLI("port", "ls"); strings.Contains(out, "docker-") {
		t.Errorf("left: %s", out)
	}
	b.Balanced()
}

// TestPodmanRootless tests Debian's podman 4.3 of an ordinary user, with that user's switch. It runs the commands of docs/podman.md.
func TestPodmanRootless(t *testing.T) {
	Need(t, "podman", "runc", "busybox", "curl", "newuidmap", "slirp4netns")
	b := NewHost(t)
	u := newUser(b)
	image := u.withEngine()
	u.file("containers.conf", `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
cni_plugin_dirs = ["`+u.dir+`"]
`)
	u.env = fmt.Sprintf("CONTAINERS_CONF=%s/containers.conf STORAGE_DRIVER=vfs", u.dir)
	u.run("")
	t.Cleanup(func() {
		_, _ = u.try("podman rm -f -t 0 --all; kill $(cat $XDG_RUNTIME_DIR/libpod/tmp/pause.pid); podman unshare rm -rf $HOME/.local $HOME/.config; kill $(cat $XDG_RUNTIME_DIR/libpod/tmp/pause.pid)")
		unmountBelow(u.dir)
	})
	u.sh("podman import " + image + " busybox")

	script, expect := fencesOf(t, "podman.md", "sh user")
	contains(t, u.sh("set -e\n"+script), expect...)
	b.Eventually("the port of net2 answers", func() bool {
		out, err := b.TrySh("out", "curl -sS -m 5 http://10.1.0.1:8081/cgi-bin/who")
		return err == nil && strings.Contains(out, "you are 10.1.0.2")
	})
	contains(t, b.Sh("out", "curl -sS -m 20 http://10.1.0.1:8080/cgi-bin/who"), "you are 10.50.0.2")
	contains(t, u.sh("podman exec web sh -c 'ping -c 1 -W 5 10.50.0.1; nslookup own' || true"), "64 bytes from 10.50.0.1")
	u.sh("podman stop -t 0 web; podman start web")
	contains(t, b.CLI("port", "ls"), "10.50.0.", "10.51.0.2/24")
	u.sh("podman rm -f -t 0 --all")
	var ports []api.Port
	if b.JSON(&ports, "port", "ls"); len(ports) != 1 {
		t.Errorf("left: %+v", ports)
	}
	if out, err := b.TrySh("out", "curl -sS -m 5 http://10.1.0.1:8081/"); err == nil {
		t.Errorf("a port of a container that has gone: %s", out)
	}
	b.Balanced()
}
