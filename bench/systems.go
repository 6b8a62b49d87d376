package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/bench/hostile"
)

// A system is a system under test: namespaces (host, out, and the containers c1, c2 and so on) and the programs that connect them.
type system struct {
	name       string
	directions []string
	tools      []string // programs that must be installed
	up         func(context.Context, *system) error
	version    []string // the command that prints the version

	ways   int // out of its host
	more   int // containers after c1 and c2
	weight int // of the host's cgroup: see cgroups.go; 0: no cgroups
	cpu    cpuController
	number int // part of the names of its namespaces
	dir    string
	procs  []*exec.Cmd
	held   []io.Closer // to be closed by down
}

const (
	uvswitchName = "uvswitch"
	busyName     = "uvswitch --busy-poll 50us"
)

var systemNames = []string{"kernel", uvswitchName, busyName, "limit", "ovs-internal", "ovs-veth", "vde", "pasta", "slirp4netns", "gvisor-tap-vsock"}

// all returns all systems, in the order of the tables.
func all(o options) []*system {
	if o.rootless {
		return rootless(o)
	}
	natted, both := []string{"out", "in"}, []string{"L2", "out", "in", "L2 IPv6", "out IPv6", "in IPv6"}
	busy := o
	busy.args = append(slices.Clone(o.args), "--busy-poll", "50us")
	return []*system{
		{name: "kernel", directions: both, up: kernelUp, version: []string{"uname", "-r"}},
		{name: uvswitchName, directions: both, up: uvswitchUp(o), version: []string{o.binary, "version"}},
		{name: busyName, directions: both, up: uvswitchUp(busy), version: []string{o.binary, "version"}},
		{name: "limit", directions: []string{"L2"}, tools: []string{"cc"}, up: limitUp, version: []string{"cc", "--version"}},
		{name: "ovs-internal", directions: []string{"L2"}, tools: []string{"ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"}, up: ovsUp(true), version: []string{"ovs-vswitchd", "--version"}},
		{name: "ovs-veth", directions: []string{"L2"}, tools: []string{"ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"}, up: ovsUp(false), version: []string{"ovs-vswitchd", "--version"}},
		{name: "vde", directions: []string{"L2"}, tools: []string{"vde_switch", "vde_plug2tap"}, up: vdeUp, version: []string{"dpkg-query", "-W", "-f", "${Version}", "vde2"}},
		{name: "pasta", directions: natted, tools: []string{"pasta"}, up: pastaUp("pasta"), version: []string{"dpkg-query", "-W", "-f", "${Version}", "passt"}},
		{name: "slirp4netns", directions: natted, tools: []string{"slirp4netns"}, up: slirpUp, version: []string{"slirp4netns", "--version"}},
		{name: "gvisor-tap-vsock", directions: natted, tools: []string{gvproxyPath()}, up: gvisorUp, version: []string{gvproxyPath(), "--version"}},
	}
}

// missing returns which program that the system needs is not installed; "" if none is missing.
func (s *system) missing() string {
	for _, t := range s.tools {
		if _, err := exec.LookPath(t); err != nil {
			return t + " is not installed (`make bench-deps`)"
		}
	}
	return ""
}

func (s *system) versionOf() string {
	out, _ := exec.Command(s.version[0], s.version[1:]...).CombinedOutput() // some print it and fail
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

const nsPrefix = "uvb" // of namespace names; the process ID of their bench follows

func (s *system) ns(part string) string {
	return fmt.Sprintf("%s%d-%d-%s", nsPrefix, os.Getpid(), s.number, part)
}

func (s *system) path(part string) string { return "/run/netns/" + s.ns(part) }

var started int // systems started so far

// containers returns the names of the containers: c1, which has the address 172.29.0.2, c2 with the next address, and so on.
func (s *system) containers() (names []string) {
	for n := range 2 + s.more {
		names = append(names, fmt.Sprintf("c%d", n+1))
	}
	return names
}

// parts returns the names of all namespaces.
func (s *system) parts() []string { return append([]string{"host", "out"}, s.containers()...) }

// sweep removes namespaces that killed runs have left.
func sweep() {
	list, _ := filepath.Glob("/run/netns/" + nsPrefix + "*")
	for _, path := range list {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, nsPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && unix.Kill(n, 0) != nil {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

// start creates the namespaces, the link to the outside, and the system. It waits until traffic passes in every direction of
// the system.
func (s *system) start(ctx context.Context) error {
	var err error
	s.number = started
	started++
	if s.dir, err = os.MkdirTemp("", "uvswitch-bench-*"); err != nil {
		return err
	}
	for _, p := range s.parts() {
		if err := sh("ip netns add "+s.ns(p), "ip -n "+s.ns(p)+" link set lo up"); err != nil {
			return err
		}
	}
	if s.weight != 0 {
		if err := s.makeCgroups(); err != nil {
			return err
		}
	}
	h, o := s.ns("host"), s.ns("out")
	err = sh("ip -n "+h+" link add eth0 type veth peer name eth0 netns "+o,
		"ip -n "+h+" addr add 10.1.0.1/24 dev eth0", "ip -n "+o+" addr add 10.1.0.2/24 dev eth0",
		"ip -n "+h+" addr add 2001:db8:1::1/64 dev eth0 nodad", "ip -n "+o+" addr add 2001:db8:1::2/64 dev eth0 nodad",
		"ip -n "+h+" link set eth0 up", "ip -n "+o+" link set eth0 up", "ip -n "+h+" route add default via 10.1.0.2", "ip -n "+h+" -6 route add default via 2001:db8:1::2")
	for k := 1; k < s.ways && err == nil; k++ { // not measured: more routes and rules that each packet's look-up goes through
		err = sh(fmt.Sprintf("ip -n %s link add way%d type veth peer name way%d netns %s", h, k, k, o),
			fmt.Sprintf("ip -n %s addr add 10.2.%d.1/24 dev way%d", h, k, k), fmt.Sprintf("ip -n %s link set way%d up", h, k),
			fmt.Sprintf("ip -n %s addr add 10.2.%d.2/24 dev way%d", o, k, k), fmt.Sprintf("ip -n %s link set way%d up", o, k),
			fmt.Sprintf("ip -n %s route add 198.18.%d.0/24 via 10.2.%d.2", h, k, k),
			fmt.Sprintf("ip -n %s route add default via 10.2.%d.2 table %d", h, k, 100+k), fmt.Sprintf("ip -n %s rule add from 192.0.2.%d lookup %d", h, k, 100+k))
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.up(ctx, s); err != nil {
		return err
	}
	for _, d := range directions {
		if slices.Contains(s.directions, d.name) {
			if err := s.awaitAnswer(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitAnswer repeats a small transfer until it succeeds.
func (s *system) awaitAnswer(ctx context.Context, d *direction) error {
	for {
		_, err := iperf(ctx, s, d, "-n", "1000", "--connect-timeout", "1000")
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not reach %s: %w", d.client, d.address, err)
		}
	}
}

// down ends the programs of the system and removes its namespaces and files.
func (s *system) down() {
	for i := len(s.procs) - 1; i >= 0; i-- {
		p := s.procs[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		killer := time.AfterFunc(5*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait()
		killer.Stop()
	}
	for _, h := range s.held {
		h.Close()
	}
	s.procs, s.held = nil, nil
	for _, p := range s.parts() {
		_ = exec.Command("ip", "netns", "del", s.ns(p)).Run() // fails if it was not created
	}
	if s.weight != 0 {
		s.removeCgroups()
	}
	os.RemoveAll(s.dir)
}

// command returns a program to run in one of the namespaces; it is killed when this program ends. nsenter, unlike
// `ip netns exec`, does not remount /sys.
func (s *system) command(ctx context.Context, part string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.path(part), "--"}, s.inCgroup(part, args)...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// daemon starts a program of the system, which runs until down. If word is not empty, daemon waits until the program has
// printed a line that contains word.
func (s *system) daemon(part, word string, env []string, args ...string) error {
	c := s.command(context.Background(), part, args...)
	c.Env = append(os.Environ(), env...)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c.Stdout, c.Stderr = w, w
	err = c.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	s.procs = append(s.procs, c)
	if word == "" {
		go func() { _, _ = io.Copy(io.Discard, r); r.Close() }()
		return nil
	}
	late := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer late.Stop()
	return awaitLine(r, word)
}

// patience is the longest wait for something that should happen at once.
const patience = 30 * time.Second

// kernelUp creates a bridge, veth pairs, and MASQUERADE and DNAT rules, as Docker does.
func kernelUp(_ context.Context, s *system) error {
	h := s.ns("host")
	in := "ip netns exec " + h + " "
	lines := []string{
		"ip -n " + h + " link add br0 type bridge", "ip -n " + h + " addr add 172.29.0.1/16 dev br0", "ip -n " + h + " link set br0 up",
		in + "sysctl -qw net.ipv4.ip_forward=1",
		in + "iptables -t nat -A POSTROUTING -s 172.29.0.0/16 ! -o br0 -j MASQUERADE",
		"ip -n " + h + " addr add fd00:bb::1/64 dev br0 nodad", in + "sysctl -qw net.ipv6.conf.all.forwarding=1",
		in + "ip6tables -t nat -A POSTROUTING -s fd00:bb::/64 ! -o br0 -j MASQUERADE",
	}
	for _, proto := range []string{"tcp", "udp"} {
		lines = append(lines, in+"iptables -t nat -A PREROUTING -d 10.1.0.1 -p "+proto+" --dport 5201 -j DNAT --to 172.29.0.2:5201",
			in+"ip6tables -t nat -A PREROUTING -d 2001:db8:1::1 -p "+proto+" --dport 5201 -j DNAT --to [fd00:bb::2]:5201")
	}
	lines = append(lines, fmt.Sprintf("%siptables -t nat -A PREROUTING -d 10.1.0.1 -p tcp --dport %d -j DNAT --to 172.29.0.3:5201", in, hostile.PublishedPort))
	return sh(append(lines, s.veths("master br0")...)...)
}

// veths returns the commands that connect the containers to the host by veth pairs. how is added to `ip link set` of the host's
// ends, v0, v1 and so on.
func (s *system) veths(how string) (lines []string) {
	h := s.ns("host")
	for i, c := range s.containers() {
		n := s.ns(c)
		lines = append(lines,
			fmt.Sprintf("ip -n %s link add v%d type veth peer name eth0 netns %s", h, i, n),
			fmt.Sprintf("ip -n %s link set v%d %s up", h, i, how),
			fmt.Sprintf("ip -n %s addr add 172.29.0.%d/16 dev eth0", n, i+2),
			fmt.Sprintf("ip -n %s link set eth0 up", n),
			fmt.Sprintf("ip -n %s route add default via 172.29.0.1", n),
			fmt.Sprintf("ip -n %s addr add fd00:bb::%d/64 dev eth0 nodad", n, i+2), fmt.Sprintf("ip -n %s -6 route add default via fd00:bb::1", n))
	}
	return lines
}

func (s *system) socket() string { return filepath.Join(s.dir, "uvs.sock") }

// uvswitchUp starts uvswitch with its defaults and o.args, and with the addresses that the other systems have.
func uvswitchUp(o options) func(context.Context, *system) error {
	return func(_ context.Context, s *system) error {
		run := append([]string{"nice", "-n", strconv.Itoa(o.nice), o.binary, "--socket", s.socket(), "run", "--state", s.dir, "--subnet6", "fd00:bb::/64"}, o.args...)
		if err := s.daemon("host", "ready", nil, run...); err != nil {
			return err
		}
		uv := o.binary + " --socket " + s.socket() + " "
		var lines []string
		for i, c := range s.containers() {
			lines = append(lines, fmt.Sprintf("%sport add %s --ip 172.29.0.%d --ip6 fd00:bb::%d --netns %s", uv, c, i+2, i+2, s.ns(c)))
		}
		return sh(append(lines, uv+"publish add 5201:5201 --port c1", uv+"publish add 5201:5201/udp --port c1",
			fmt.Sprintf("%spublish add %d:5201 --port c2", uv, hostile.PublishedPort))...)
	}
}

// limitUp connects two TAPs by bench/limit, which does not inspect frames.
func limitUp(_ context.Context, s *system) error {
	bin := filepath.Join(s.dir, "limit")
	if err := sh("cc -O2 -pthread -o " + bin + " bench/limit/limit.c"); err != nil {
		return fmt.Errorf("%w (run it from the repository's root)", err)
	}
	if err := s.daemon("host", "ready", nil, bin, "t0", "t1"); err != nil {
		return err
	}
	return sh(append(s.adopt("t0", "c1", 2), s.adopt("t1", "c2", 3)...)...)
}

// adopt returns the commands that move a device of the host into a container as eth0, with address 172.29.0.last.
func (s *system) adopt(dev, c string, last int) []string {
	n := s.ns(c)
	return []string{
		fmt.Sprintf("ip -n %s link set %s netns %s name eth0", s.ns("host"), dev, n),
		fmt.Sprintf("ip -n %s addr add 172.29.0.%d/16 dev eth0", n, last),
		fmt.Sprintf("ip -n %s link set eth0 up", n),
	}
}

// memoryUse is the resident memory of uvswitch in bytes, at rest and with Flows flows.
type memoryUse struct {
	AtRest      int64 `json:"at_rest"`
	Flows       int   `json:"flows"`
	WithFlows   int64 `json:"with_flows"`
	FlowsWanted int   `json:"flows_wanted"`
}

// memory starts another uvswitch and reads its resident set, before and after containers send to a million addresses together: one alone may
// not have so many flows.
func memory(ctx context.Context, o options) (*memoryUse, error) {
	const million = 1 << 20
	s := &system{name: uvswitchName + "-memory", more: sprayers - 2}
	config := filepath.Join(os.TempDir(), fmt.Sprintf("uvswitch-bench-%d.yaml", os.Getpid()))
	if err := os.WriteFile(config, fmt.Appendf(nil, "nat: {flows: %d, flows_per_port: %d}\n", million, million), 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(config)
	o.args = []string{"-c", config}
	s.up = uvswitchUp(o)
	defer s.down()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	m := &memoryUse{FlowsWanted: million}
	var err error
	if m.AtRest, err = resident(s.procs[0].Process.Pid); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "memory: a million flows")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, c := range s.containers() {
		if out, err := s.command(ctx, c, self, helperFlag, "spray", strconv.Itoa(million/sprayers)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	out, err := exec.Command(o.binary, "--socket", s.socket(), "-j", "stats").Output()
	if err != nil {
		return nil, err
	}
	if m.Flows, err = flowsUsed(out); err != nil {
		return nil, err
	}
	m.WithFlows, err = resident(s.procs[0].Process.Pid)
	return m, err
}

// resident returns the memory of a process in bytes, without the pages of its program.
func resident(pid int) (bytes int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, kind := range []string{"RssAnon:", "RssShmem:"} {
		_, rest, ok := strings.Cut(string(b), kind)
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			return 0, errors.New("/proc has no " + kind)
		}
		kb, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			return 0, err
		}
		bytes += kb << 10
	}
	return bytes, nil
}

// awaitLine reads until a line contains word. It discards all later output.
func awaitLine(r io.Reader, word string) error {
	lines := bufio.NewScanner(r)
	var all []string
	for lines.Scan() {
		if all = append(all, lines.Text()); strings.Contains(lines.Text(), word) {
			go func() { _, _ = io.Copy(io.Discard, r) }()
			return nil
		}
	}
	return errors.New("it ended, saying: " + strings.Join(all, "\n"))
}

func sh(lines ...string) error {
	for _, l := range lines {
		f := strings.Fields(l)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		out, err := exec.CommandContext(ctx, f[0], f[1:]...).CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", l, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func stderrOf(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return strings.TrimSpace(string(e.Stderr))
	}
	return ""
}
