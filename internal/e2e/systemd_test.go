package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// TestSystemd starts the switch in the way of systemd: with the unit's capabilities, an inherited control socket, and a notify
// socket.
func TestSystemd(t *testing.T) {
	Need(t, "setpriv", "systemd-socket-activate", "ping")
	unit, err := os.ReadFile("../packaging/uvswitch.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(string(unit))
	if m == nil {
		t.Fatal("the unit has no CapabilityBoundingSet")
	}
	caps := "-all"
	for _, c := range strings.Fields(m[1]) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	b := NewHost(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	said := make(chan string, 1024)
	go func() { // read all the time, as systemd does
		buf := make([]byte, 256)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				return
			}
			select {
			case said <- string(buf[:n]):
			default: // nobody reads after the test has ended
			}
		}
	}()
	hears := func(want string) {
		t.Helper()
		late := time.After(patience)
		for {
			select {
			case text := <-said:
				if text == want {
					return
				}
			case <-late:
				t.Fatalf("systemd does not hear %q\n%s", want, b.log)
			}
		}
	}
	b.log = &syncBuffer{}
	c := exec.Command("setpriv", "--bounding-set", caps, "--inh-caps=-all", "--no-new-privs", "systemd-socket-activate", "-l", b.Socket(), "-E", "NOTIFY_SOCKET", "-E", "WATCHDOG_USEC",
		uvswitch, "--socket", b.Socket(), "run", "--state", b.dir)
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(b.dir, "notify"), "WATCHDOG_USEC=200000")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	c.Stderr = b.log
	if err := netns.Do(b.path("host"), c.Start); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()
	b.proc, b.exited = c, exited
	t.Cleanup(func() { b.Stop() })

	b.Eventually("the first who asks starts the switch, and is answered", func() bool { _, err := b.TryCLI("status"); return err == nil })
	hears("READY=1")
	for range 3 {
		hears("WATCHDOG=1")
	}
	containers(b)
	ping(b, "web", "172.29.0.3")
	ping(b, "web", "10.1.0.2")
	ping(b, "host", "172.29.0.2")
	b.Web("web")
	b.CLI("publish", "add", "81:80", "--port", "web") // a host port below 1024
	contains(t, b.Sh("out", "curl -sS -m 5 http://10.1.0.1:81/"), "10.1.0.2")
	_ = c.Process.Signal(unix.SIGTERM)
	hears("STOPPING=1")
	if err := b.Stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", "../packaging/uvswitch.socket").CombinedOutput(); err != nil && !strings.Contains(string(out), "/usr/bin/uvswitch is not executable") {
		t.Errorf("%v: %s", err, out)
	}
}

// A manager is a separate systemd in a bed's namespace host.
type manager struct {
	*Bed
	pid  int // of systemd, the first process
	root string
}

// boot creates namespaces and then starts systemd with the project's units; more is appended to the service unit.
func boot(t *testing.T, more string, namespaces ...string) *manager {
	Need(t, "unshare", "nsenter", "systemctl", "curl")
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Fatal(err)
	}
	m := &manager{Bed: NewHost(t)}
	m.AddNS(namespaces...)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(m.dir, "units", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"units", "bin"} {
		if err := os.Mkdir(filepath.Join(m.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"uvswitch.service", "uvswitch.socket", "uvswitch-docker.socket"} {
		text, err := os.ReadFile(filepath.Join("../packaging", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "uvswitch.service" { // differs from the package: path of the command, log files, shorter times
			text = append(text, "[Service]\nExecStart=\nExecStart=/run/bin/uvswitch run --verbose\nExecReload=\nExecReload=/run/bin/uvswitch reload\nStandardOutput=append:/run/uvswitch.log\nStandardError=append:/run/uvswitch.log\nWatchdogSec=5\nRestartSec=100ms\n"+more...)
		}
		write(name, string(text))
	}
	for _, name := range []string{"sysinit", "basic", "shutdown", "umount", "sockets", "network", "local-fs"} {
		write(name+".target", "[Unit]\nDefaultDependencies=no\n")
	}
	write("multi-user.target", "[Unit]\nDefaultDependencies=no\nWants=uvswitch.socket uvswitch-docker.socket uvswitch.service\n")
	m.local("cp", uvswitch, filepath.Join(m.dir, "bin/uvswitch"))
	group := m.NS("systemd")
	m.log = &syncBuffer{}
	c := exec.Command("unshare", "-m", "sh", "testdata/systemd.sh", m.dir, group)
	c.Stdout, c.Stderr = m.log, m.log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := netns.Do(m.path("host"), c.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && m.pid != 0 {
			said, _ := os.ReadFile(filepath.Join(m.root, "run/uvswitch.log"))
			t.Logf("the switch said:\n%s", said)
		}
		if m.pid != 0 {
			_ = unix.Kill(m.pid, unix.SIGKILL)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		for _, at := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd"} {
			m.removeGroup(filepath.Join(at, group))
		}
	})
	m.Eventually("systemd is the first process", func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.Process.Pid))
		m.pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", m.pid))
		return m.pid != 0 && string(name) == "systemd\n"
	})
	m.root = fmt.Sprintf("/proc/%d/root", m.pid)
	m.socket = filepath.Join(m.root, "run/uvswitch/uvswitch.sock")
	m.Eventually("the switch is active", func() bool { return m.property("ActiveState") == "active" })
	return m
}

// removeGroup removes a control group and its children after their processes have ended.
func (m *manager) removeGroup(path string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := range dirs {
			_ = os.Remove(dirs[len(dirs)-1-i])
		}
		if _, err := os.Stat(path); err != nil {
			return
		}
	}
	m.t.Errorf("control group %s is left", path)
}

// try runs systemctl for this systemd.
func (m *manager) try(args ...string) (string, error) {
	out, err := exec.Command("timeout", append([]string{"60", "nsenter", "-t", strconv.Itoa(m.pid), "-m", "-p", "-C", "systemctl"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *manager) systemctl(args ...string) {
	m.t.Helper()
	if out, err := m.try(args...); err != nil {
		m.t.Fatalf("systemctl %v: %v\n%s", args, err, out)
	}
}

// property returns a property of the service unit; empty while systemd does not answer.
func (m *manager) property(name string) string {
	out, err := m.try("show", "uvswitch.service", "--value", "-p", name)
	if err != nil {
		return ""
	}
	return out
}

// main returns the pid of the switch, as seen by the test.
func (m *manager) main() int {
	m.t.Helper()
	pid, err := strconv.Atoi(m.property("MainPID"))
	if err != nil || pid == 0 {
		m.t.Fatalf("MainPID: %d %v", pid, err)
	}
	list, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range list {
		text, _ := os.ReadFile(path)
		inside := regexp.MustCompile(`(?m)^NSpid:\s+(\d+)\s+(\d+)$`).FindStringSubmatch(string(text))
		if inside == nil || inside[2] != strconv.Itoa(pid) || !strings.HasPrefix(string(text), "Name:\tuvswitch") {
			continue
		}
		outer, _ := strconv.Atoi(inside[1])
		if a, b := filepath.Join(filepath.Dir(path), "ns/pid"), fmt.Sprintf("/proc/%d/ns/pid", m.pid); sameLink(a, b) {
			return outer
		}
	}
	m.t.Fatalf("the switch's process, %d in there, is not to be seen", pid)
	return 0
}

func sameLink(a, b string) bool {
	x, errx := os.Readlink(a)
	y, erry := os.Readlink(b)
	return errx == nil && erry == nil && x == y
}

// restarted waits until systemd has restarted the switch the given number of times.
func (m *manager) restarted(times string) {
	m.t.Helper()
	m.Eventually("systemd starts the switch anew", func() bool {
		return m.property("NRestarts") == times && m.property("ActiveState") == "active"
	})
}

// TestSystemdUnits runs the project's units in a real systemd. The switch must do its whole work without root and with few
// capabilities. TAPs passed as file descriptors must survive a kill, a hang and a restart, and be removed when the unit is
// stopped.
func TestSystemdUnits(t *testing.T) {
	m := boot(t, "")
	m.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
	outside6(m.Bed)
	m.Eventually("IPv6 leads out", func() bool { return strings.Contains(m.CLI("status"), "leads out") })
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.main()))
	if err != nil {
		t.Fatal(err)
	}
	const caps = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON
	contains(t, string(status), "Uid:\t64999\t64999\t64999\t64999", fmt.Sprintf("CapEff:\t%016x", caps), fmt.Sprintf("CapBnd:\t%016x", caps), "NoNewPrivs:\t1", "Seccomp:\t2")
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", "../packaging/uvswitch.service").CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	var s api.Status
	m.JSON(&s, "status")
	if s.Uplink.Kind != "tcx" && s.Uplink.Kind != "clsact" || s.Uplink.State != "up" {
		t.Errorf("%+v", s)
	}

	// The CLI creates the devices in namespaces, which the switch may not enter. systemd listens on Docker's plugin socket.
	containers(m.Bed)
	m.Web("web")
	m.CLI("port", "set", "web", "rate", "800mbit")
	m.CLI("publish", "add", "81:80", "--port", "web")
	if out, err := m.TryCLI("port", "add", "plain", "--netns", m.NS("web"), "--ifname", "eth9", "--offload", "off"); err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("%q %v", out, err)
	}
	answer, err := exec.Command("curl", "-sS", "--max-time", "5", "--unix-socket", filepath.Join(m.root, "run/docker/plugins/uvswitch.sock"), "-X", "POST", "http://d/Plugin.Activate").CombinedOutput()
	if err != nil || !strings.Contains(string(answer), "NetworkDriver") {
		t.Errorf("Docker's driver: %s %v", answer, err)
	}
	c := cniOn(t, m.Bed)
	m.AddNS("pod")
	list := c.conflist("1.0.0", subnet50)
	rt := c.runtime("pod", "pod", map[string]any{"portMappings": []map[string]any{{"hostPort": 8082, "containerPort": 82}}})
	if _, err := c.AddNetworkList(t.Context(), list, rt); err != nil {
		t.Fatal(err)
	}
	server := m.Serve("pod", 82, uvswitch, "lab", "tool", "httpd", "82", "pod")

	devices := func() string {
		return m.Sh("web", "ip -o link show eth0") + m.Sh("db", "ip -o link show eth0") + m.Sh("pod", "ip -o link show eth0; ip route")
	}
	before := devices()
	works := func() {
		t.Helper()
		ping(m.Bed, "web", "172.29.0.3")
		ping(m.Bed, "pod", "10.1.0.2")
		ping(m.Bed, "web", out6) // the unit lets the switch set what IPv6 needs
		ping(m.Bed, "host", addr6(m.Bed, "web"))
		ping(m.Bed, "web", addr6(m.Bed, "host"))
		contains(t, m.Sh("out", "curl -sS -m 5 'http://["+host6+"]:81/'"), out6)
		contains(t, m.Sh("out", "curl -sS -m 5 http://10.1.0.1:81/; curl -sS -m 5 http://10.1.0.1:8082/"), "10.1.0.2", "pod")
		var p api.Port
		m.JSON(&p, "port", "show", "web")
		if p.TxRate != 800e6 || !p.Handed || p.State != "forwarding" {
			t.Errorf("%+v", p)
		}
		if now := devices(); now != before {
			t.Errorf("devices are\n%s\nand were\n%s", now, before)
		}
		if err := c.CheckNetworkList(t.Context(), list, rt); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	works()
	_ = unix.Kill(m.main(), unix.SIGKILL)
	m.restarted("1")
	works()
	_ = unix.Kill(m.main(), unix.SIGSTOP) // it hangs: the watchdog must restart it
	m.restarted("2")
	works()
	m.systemctl("restart", "uvswitch.service")
	works()

	// A container whose namespace was removed meanwhile is not restored.
	m.systemctl("kill", "--kill-who=main", "--signal=STOP", "uvswitch.service") // systemctl fails when it meets another process that just ends
	_ = server.Process.Kill()
	_ = server.Wait()
	m.Sh("host", "ip netns del "+m.NS("pod"))
	m.systemctl("kill", "--kill-who=main", "--signal=KILL", "uvswitch.service")
	m.Eventually("the switch is there again", func() bool { _, err := m.TryCLI("status"); return err == nil && m.property("ActiveState") == "active" })
	if p := c.ports(); len(p) != 0 {
		t.Errorf("%+v", p)
	}
	ping(m.Bed, "web", "172.29.0.3")
	m.CLI("port", "del", "web")
	if links := m.Sh("web", "ip -br link"); strings.Contains(links, "eth0") {
		t.Errorf("a port that was removed left\n%s", links)
	}
	if n := m.property("NFileDescriptorStore"); n != "2" { // db's device and the stored state
		t.Errorf("systemd keeps %s descriptors", n)
	}
	m.systemctl("stop", "uvswitch.service", "uvswitch.socket", "uvswitch-docker.socket")
	m.Eventually("the last device has gone", func() bool { return !strings.Contains(m.Sh("db", "ip -br link"), "eth0") })
	if links := m.Sh("host", "ip -br link"); strings.Contains(links, "uvs") {
		t.Errorf("the host has\n%s", links)
	}
}

// TestSystemdReload checks that `systemctl reload` applies the file, and fails if the file is wrong.
func TestSystemdReload(t *testing.T) {
	m := boot(t, "ExecStartPre=+/bin/sh -c 'mkdir -p /run/conf && echo \"networks: []\" > /run/conf/uvs.yaml && chmod -R a+rX /run/conf'\nExecStart=\nExecStart=/run/bin/uvswitch run -c /run/conf/uvs.yaml\n")
	reload := func(text string) (string, error) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(m.root, "run/conf/uvs.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return m.try("reload", "uvswitch.service")
	}
	if out, err := reload("networks: [{name: lab, subnet: 10.9.0.0/24}]"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	contains(t, m.CLI("network", "ls"), "10.9.0.0/24")
	if out, err := reload("networks: [{name: lab, subnet: 10.9.0.0/33}]"); err == nil {
		t.Errorf("a wrong file: %s", out)
	}
	said, _ := os.ReadFile(filepath.Join(m.root, "run/uvswitch.log"))
	contains(t, string(said), "10.9.0.0/33")
	contains(t, m.CLI("network", "ls"), "10.9.0.0/24")
	if state := m.property("ActiveState"); state != "active" {
		t.Errorf("after a wrong file, the unit is %s", state)
	}
}

// TestDockerSystemd uses the unit as Docker's driver, without root. Containers keep their devices when the switch is killed, and
// leave nothing behind.
func TestDockerSystemd(t *testing.T) {
	m := boot(t, "")
	d := dockerOn(t, m.Bed, "/opt") // /tmp is private to the unit; here, as in /run/docker, the path exists but may not be entered
	const specs = "/etc/docker/plugins"
	if err := os.MkdirAll(specs, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(specs, d.driver+".spec") // tells dockerd the path of the socket that this systemd created in its own /run
	t.Cleanup(func() { os.Remove(spec) })
	if err := os.WriteFile(spec, []byte("unix://"+filepath.Join(m.root, "run/docker/plugins/uvswitch.sock")), 0o600); err != nil {
		t.Fatal(err)
	}
	d.startDocker()
	d.image()
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.30.0.0/16", "net1")
	d.web("web", "--network", "net1", "-p", "8080:80")
	d.idle("db", "--network", "net1")
	d.idle("gone", "--network", "net1")
	devices := func() string { return d.exec("web", "ip", "-o", "link") + d.exec("db", "ip", "-o", "link") }
	before := devices()
	works := func() {
		t.Helper()
		contains(t, d.exec("db", "ping", "-c", "1", "web"), "1 packets received")
		contains(t, d.exec("db", "ping", "-c", "1", "10.1.0.2"), "1 packets received")
		contains(t, m.Sh("out", "curl -sS -m 5 http://10.1.0.1:8080/cgi-bin/who"), "you are 10.1.0.2")
		if now := devices(); now != before {
			t.Errorf("devices are\n%s\nand were\n%s", now, before)
		}
	}
	works()
	_ = unix.Kill(m.main(), unix.SIGKILL)
	m.restarted("1")
	works()

	// Containers restart after the switch was stopped, and are used after another restart of the switch.
	m.systemctl("stop", "uvswitch.service") // systemd closes the stored descriptors: no device is left
	if links := d.exec("db", "ip", "-o", "link"); strings.Contains(links, "eth0") {
		t.Errorf("a switch that was stopped left\n%s", links)
	}
	m.systemctl("start", "uvswitch.service")
	d.docker("restart", "-t", "0", "web", "db")
	before = devices()
	works()
	m.systemctl("restart", "uvswitch.service")
	works()
	d.docker("rm", "-f", "web", "db", "gone")
	if left := d.containerPorts(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	d.docker("network", "rm", "net1")
	if links := m.Sh("host", "ip -br link"); regexp.MustCompile(`uvs[0-9a-f]{12}`).MatchString(links) {
		t.Errorf("left:\n%s", links)
	}
	if n := m.property("NFileDescriptorStore"); n != "1" { // the stored state, which is empty
		t.Errorf("systemd keeps %s descriptors", n)
	}
}

// TestSystemdEnters checks that the switch itself enters namespaces when the unit has the settings from docs/systemd.md.
func TestSystemdEnters(t *testing.T) {
	page, err := os.ReadFile("../../docs/systemd.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?s)```ini\n(.*?)```").FindStringSubmatch(string(page))
	if fence == nil {
		t.Fatal("docs/systemd.md says nothing")
	}
	m := boot(t, fence[1], "c1", "c2") // created first: unlike a real systemd, this one does not see mounts of later namespaces
	for i, ns := range []string{"c1", "c2"} {
		m.CLI("port", "add", ns, "--netns", m.NS(ns), "--offload", []string{"on", "off"}[i], "--ip", fmt.Sprintf("172.29.0.%d", 2+i))
		var p api.Port
		m.JSON(&p, "port", "show", ns)
		if p.Handed || p.Kind != []string{"tap", "plain"}[i] {
			t.Errorf("%+v", p)
		}
	}
	ping(m.Bed, "c1", "172.29.0.3")
}
