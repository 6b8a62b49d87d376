package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	nsname "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/netns"
)

// urlOfPage is the environment variable by which TestWebPage tells its second process what to open.
const urlOfPage = "UVSWITCH_TEST_URL"

const nsPrefix = "uvt" // followed by the pid of the test process that owns the namespace

// patience is the time limit of every wait for something that should happen quickly. It is long, because the tests run side by
// side on few CPUs.
const patience = time.Minute

// shellTime is the time limit of a shell command.
const shellTime = 3 * time.Minute

// A Bed is a test bed: the namespaces host and out, connected by a veth pair, and a switch in host.
type Bed struct {
	t      *testing.T
	pair   Pair
	exe    string   // the command that runs as the switch
	env    []string // added to its environment
	dir    string
	id     string
	socket string // control socket of the switch
	proc   *exec.Cmd
	log    *syncBuffer
	exited chan error
	iperfs []*syncBuffer // what the servers of iperf3 say; nil while a client runs in the background
}

var (
	uvswitch string // the command under test
	counter  atomic.Int32
)

// Main builds the command, removes what killed runs left behind, and runs the tests.
func Main(m *testing.M) int {
	if os.Getenv(urlOfPage) != "" { // TestWebPage runs itself, and this process only browses
		return m.Run()
	}
	prepare()
	dir, err := os.MkdirTemp("", "uvswitch-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	uvswitch = filepath.Join(dir, "uvswitch")
	args := []string{"build", "-o", uvswitch}
	if os.Getenv("UVSWITCH_RACE") != "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "github.com/uvswitch/uvswitch/cmd/uvswitch")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building uvswitch: %v\n%s", err, out)
		return 1
	}
	sweep()
	defer sweepOwn()
	return m.Run()
}

// sweep removes what test processes that have ended left behind: labs, namespaces, and sockets of Docker's drivers.
func sweep() {
	for _, pattern := range []string{"/run/uvswitch/*.json", "/run/netns/*", "/run/docker/plugins/*.sock"} {
		list, _ := filepath.Glob(pattern)
		for _, path := range list {
			name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
			own, ok := strings.CutPrefix(name, nsPrefix)
			pid, _, _ := strings.Cut(own, "-")
			if n, err := strconv.Atoi(pid); !ok || err != nil || unix.Kill(n, 0) == nil {
				continue
			}
			switch filepath.Ext(path) {
			case ".json":
				_ = exec.Command(uvswitch, "lab", "down", "--name", name).Run()
			case ".sock":
				_ = os.Remove(path)
			default:
				_ = nsname.DeleteNamed(name)
			}
		}
	}
}

func sweepOwn() {
	list, _ := filepath.Glob(fmt.Sprintf("/run/netns/%s%d-*", nsPrefix, os.Getpid()))
	for _, path := range list {
		_ = nsname.DeleteNamed(filepath.Base(path))
	}
}

// repoBin is locked while a test builds in the repository's folder bin.
var repoBin sync.Mutex

// prepare makes changes of the machine that the first tests would otherwise make while others run. A module of the kernel brings
// new sysctls to all namespaces, and the first `ip netns add` mounts /run/netns. Without root, Need skips the tests.
func prepare() {
	_ = exec.Command("modprobe", "-qa", "br_netfilter", "nf_conntrack", "nf_tables").Run()
	name := newID()
	_ = exec.Command("ip", "netns", "add", name).Run()
	_ = exec.Command("ip", "netns", "del", name).Run()
}

// newID returns a name that no other test uses, for namespaces and other global objects.
func newID() string { return fmt.Sprintf("%s%d-%d", nsPrefix, os.Getpid(), counter.Add(1)) }

// Need skips the test when root, /dev/net/tun or one of the tools is missing. In CI the test fails instead.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	stop := t.Skipf
	if os.Getenv("CI") != "" {
		stop = t.Fatalf
	}
	if os.Geteuid() != 0 {
		stop("needs root: it makes network namespaces and TAP devices")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		stop("needs /dev/net/tun: %v", err)
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			stop("needs %s (`make deps` installs it)", tool)
		}
	}
}

// New creates the namespaces host (10.1.0.1) and out (10.1.0.2, the host's default gateway) and starts `uvswitch run` with args
// in host. From here on the test runs side by side with other tests.
func New(t *testing.T, args ...string) *Bed {
	t.Helper()
	b := NewHost(t)
	b.Start(args...)
	return b
}

// NewHost is New without a switch. It calls t.Parallel, so call it first: what a test does before does not run in parallel.
func NewHost(t *testing.T) *Bed {
	t.Helper()
	t.Parallel()
	return AloneHost(t)
}

// Alone is New for a test that runs alone, because it measures a rate or counts on free CPUs.
func Alone(t *testing.T, args ...string) *Bed {
	t.Helper()
	b := AloneHost(t)
	b.Start(args...)
	return b
}

// AloneHost is NewHost for a test that runs alone.
func AloneHost(t *testing.T) *Bed {
	t.Helper()
	Need(t, "ip", "ping")
	b := &Bed{t: t, pair: pair(t), exe: uvswitch, dir: t.TempDir(), id: newID()}
	b.socket = filepath.Join(b.dir, "uvs.sock")
	t.Cleanup(func() {
		if b.log != nil && strings.Contains(b.log.String(), "a fault in the switch") {
			t.Error("the switch has survived a panic")
		}
		if t.Failed() && b.log != nil {
			t.Logf("the switch said:\n%s", b.log)
		}
	})
	b.AddNS("host", "out")
	b.Sh("host", "ip link add eth0 type veth peer name eth0 netns "+b.NS("out"))
	b.Sh("host", "ip addr add 10.1.0.1/24 dev eth0 && ip link set eth0 up")
	b.Sh("out", "ip addr add 10.1.0.2/24 dev eth0 && ip link set eth0 up")
	b.Sh("host", "ip route replace default via 10.1.0.2")
	return b
}

// NS returns the full name of a namespace of this bed.
func (b *Bed) NS(name string) string { return b.id + "-" + name }

// AddNS creates namespaces, with loopback up. They are removed at the end of the test.
func (b *Bed) AddNS(names ...string) {
	b.t.Helper()
	for _, n := range names {
		b.local("ip", "netns", "add", b.NS(n))
		b.t.Cleanup(func() { _ = nsname.DeleteNamed(b.NS(n)) })
		b.Sh(n, "ip link set lo up")
	}
}

// Start starts the switch in host, on the bed's pair, and waits until it is ready.
func (b *Bed) Start(args ...string) {
	b.t.Helper()
	if err := b.TryStart(args...); err != nil {
		b.t.Fatalf("uvswitch run: %v", err)
	}
}

// TryStart is Start for a switch that may fail to start; the error has its messages.
func (b *Bed) TryStart(args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	run := []string{"run", "--ready-fd", "3", "--io", b.pair.IO, "--state", b.dir}
	if b.pair.Uplink != "" { // else the test's configuration file says it
		run = append(run, "--uplink-kind", b.pair.Uplink)
	}
	c := b.command(append(run, args...)...)
	c.Env = append(os.Environ(), b.env...)
	b.log = &syncBuffer{}
	c.Stderr, c.ExtraFiles = b.log, []*os.File{w}
	err = netns.Do(b.path("host"), c.Start)
	w.Close()
	if err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()
	_ = r.SetReadDeadline(time.Now().Add(patience))
	if said, _ := io.ReadAll(r); !strings.HasPrefix(string(said), "READY=1") {
		_ = c.Process.Kill()
		<-exited
		return fmt.Errorf("%s", strings.TrimSpace(b.log.String()))
	}
	b.proc, b.exited = c, exited
	b.t.Cleanup(func() {
		if b.t.Failed() && b.proc != nil {
			status, _ := b.TryCLI("status")
			b.t.Logf("the switch's status:\n%s", status)
		}
		b.Stop()
	})
	return nil
}

// Stop ends the switch with SIGTERM and returns the error of its exit, if any.
func (b *Bed) Stop() error { return b.end(unix.SIGTERM) }

// Kill ends the switch with SIGKILL.
func (b *Bed) Kill() { _ = b.end(unix.SIGKILL) }

func (b *Bed) end(sig syscall.Signal) error {
	if b.proc == nil {
		return nil
	}
	_ = b.proc.Process.Signal(sig)
	b.proc = nil
	select {
	case err := <-b.exited:
		return err
	case <-time.After(patience):
		b.t.Error("the switch does not end")
		return nil
	}
}

func (b *Bed) path(ns string) string { return filepath.Join("/run/netns", b.NS(ns)) }

// Socket returns the path of the switch's control socket.
func (b *Bed) Socket() string { return b.socket }

// command returns uvswitch with args. The process ends with the test process.
func (b *Bed) command(args ...string) *exec.Cmd {
	c := exec.Command(b.exe, append([]string{"--socket", b.Socket()}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return c
}

// TryCLI runs uvswitch with args against this bed's switch.
func (b *Bed) TryCLI(args ...string) (string, error) {
	var out, stderr bytes.Buffer
	c := b.command(args...)
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

// CLI is TryCLI for a command that must succeed.
func (b *Bed) CLI(args ...string) string {
	b.t.Helper()
	out, err := b.TryCLI(args...)
	if err != nil {
		b.t.Fatalf("uvswitch %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// JSON runs a command with -j and decodes what it prints.
func (b *Bed) JSON(v any, args ...string) {
	b.t.Helper()
	out := b.CLI(append([]string{"-j"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		b.t.Fatalf("uvswitch -j %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TrySh runs a shell command in a namespace, for at most shellTime.
func (b *Bed) TrySh(ns, line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), shellTime)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // with what it has started
	var out syncBuffer
	c.Stdout, c.Stderr = &out, &out
	c.WaitDelay = time.Second
	if err := netns.Do(b.path(ns), c.Start); err != nil {
		return "", err
	}
	err := c.Wait()
	return out.String(), err
}

// Sh is TrySh for a command that must succeed.
func (b *Bed) Sh(ns, line string) string {
	b.t.Helper()
	out, err := b.TrySh(ns, line)
	if err != nil {
		b.t.Fatalf("in %s: %s: %v\n%s", ns, line, err, out)
	}
	return out
}

func (b *Bed) local(name string, args ...string) {
	b.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// Serve starts a server in a namespace and waits until it listens on its port. The server ends with the test.
func (b *Bed) Serve(ns string, port int, args ...string) *exec.Cmd {
	b.t.Helper()
	return b.serve(ns, port, nil, args...)
}

// serve is Serve with a writer for what the server says.
func (b *Bed) serve(ns string, port int, says io.Writer, args ...string) *exec.Cmd {
	b.t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.Stdout = says
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := netns.Do(b.path(ns), c.Start); err != nil {
		b.t.Fatalf("%v: %v", args, err)
	}
	b.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	b.Eventually(fmt.Sprintf("%v listens on %d", args, port), func() bool {
		out, _ := b.TrySh(ns, fmt.Sprintf("ss -Hltun 'sport = :%d'", port))
		return strings.TrimSpace(out) != ""
	})
	return c
}

// Web starts a web server on port 80 of a namespace. It serves a sentence that names the server and the client.
func (b *Bed) Web(ns string) { b.Serve(ns, 80, uvswitch, "lab", "tool", "httpd", "80", ns) }

// Iperf starts an iperf3 server in a namespace.
func (b *Bed) Iperf(ns string) {
	Need(b.t, "iperf3")
	says := &syncBuffer{}
	b.serve(ns, 5201, says, "iperf3", "-s", "--forceflush")
	b.iperfs = append(b.iperfs, says)
}

// TryMeasure runs an iperf3 client in a namespace. After each client, a server is busy for a moment, and then closes and opens its port, which
// resets a client that comes too early: so the client waits until all servers listen. A server that is busy for another reason is asked again.
// With -J, iperf3 says what is wrong in its output and ends with 0.
func (b *Bed) TryMeasure(ns, options string) (out string, err error) {
	b.t.Helper()
	b.Eventually("the servers of iperf3 listen", func() bool {
		return !slices.ContainsFunc(b.iperfs, func(says *syncBuffer) bool {
			s := says.String()
			return strings.LastIndex(s, "Accepted connection") > strings.LastIndex(s, "Server listening")
		})
	})
	b.Eventually("the server of iperf3 "+options+" is free", func() bool {
		out, err = b.TrySh(ns, "timeout 60 iperf3 "+options)
		return !strings.Contains(out, "the server is busy") && !strings.Contains(out, "unable to connect to server")
	})
	if err == nil && strings.Contains(out, `"error":`) {
		err = errors.New("iperf3 reports an error")
	}
	return out, err
}

// Measure is TryMeasure for a client that must not fail.
func (b *Bed) Measure(ns, options string) string {
	b.t.Helper()
	out, err := b.TryMeasure(ns, options)
	if err != nil {
		b.t.Fatalf("iperf3 %s: %v\n%s", options, err, out)
	}
	return out
}

// Background runs a shell command in a namespace until the test ends.
func (b *Bed) Background(ns, line string) {
	b.t.Helper()
	if strings.Contains(line, "iperf3 -c") {
		b.iperfs = nil
	}
	c := exec.Command("sh", "-c", line)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := netns.Do(b.path(ns), c.Start); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL); _ = c.Wait() })
}

// Eventually waits until a condition is true, and fails the test when it stays false.
func (b *Bed) Eventually(what string, ok func() bool) {
	b.t.Helper()
	pause := 20 * time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pause) {
		if ok() {
			return
		}
		pause = min(pause*5/4, 200*time.Millisecond) // a condition may start processes: leave the CPUs to the other tests
	}
	b.t.Fatalf("not within %v: %s", patience, what)
}

// Balanced waits until the balance of frames is even. The kernels send frames of their own, so this may take a moment.
func (b *Bed) Balanced() {
	b.t.Helper()
	b.Eventually("stats says balanced", func() bool {
		var s struct{ Conservation struct{ Balanced bool } }
		b.JSON(&s, "stats")
		return s.Conservation.Balanced
	})
}

// syncBuffer is a buffer that a process writes and a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// ownMachine returns a command that runs a program with its own network, processes, mounts and /run, for at most shellTime. So
// programs with fixed names run side by side, and nothing that a program leaves behind outlives it.
func ownMachine(args ...string) *exec.Cmd {
	const script = `mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && exec "$@"`
	c := exec.Command("timeout", append([]string{fmt.Sprint(shellTime.Seconds()), "unshare", "--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-ec", script, "sh"}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return c
}

// Listen starts a program in a namespace and waits until it prints "listening on" on stderr, as tcpdump does. The returned
// function ends the program and waits for its exit.
func (b *Bed) Listen(ns string, args ...string) (stop func()) {
	b.t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := &syncBuffer{}
	c.Stderr = said
	if err := netns.Do(b.path(ns), c.Start); err != nil {
		b.t.Fatalf("%v: %v", args, err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = c.Process.Signal(unix.SIGINT)
			_ = c.Wait()
		})
	}
	b.t.Cleanup(stop)
	b.Eventually(fmt.Sprintf("%v is listening", args), func() bool { return strings.Contains(said.String(), "listening on") })
	return stop
}
