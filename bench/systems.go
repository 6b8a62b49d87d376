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
	"strings"
	"syscall"
)

// A system under test is four namespaces (host, out, c1, c2) and what joins them.
type system struct {
	name string
	up   func(*system) error
	proc *exec.Cmd
	dir  string
}

func (s *system) ns(part string) string { return fmt.Sprintf("uvb%d-%s-%s", os.Getpid(), s.name, part) }

var parts = []string{"host", "out", "c1", "c2"}

// start makes the namespaces, the way out, and the system.
func (s *system) start() error {
	var err error
	if s.dir, err = os.MkdirTemp("", "uvswitch-bench-*"); err != nil {
		return err
	}
	for _, p := range parts {
		if err := sh("ip netns add " + s.ns(p) + " && ip -n " + s.ns(p) + " link set lo up"); err != nil {
			return err
		}
	}
	h, o := s.ns("host"), s.ns("out")
	err = sh("ip -n "+h+" link add eth0 type veth peer name eth0 netns "+o,
		"ip -n "+h+" addr add 10.1.0.1/24 dev eth0", "ip -n "+o+" addr add 10.1.0.2/24 dev eth0",
		"ip -n "+h+" link set eth0 up", "ip -n "+o+" link set eth0 up", "ip -n "+h+" route add default via 10.1.0.2")
	if err != nil {
		return err
	}
	return s.up(s)
}

// down removes everything.
func (s *system) down() {
	if s.proc != nil {
		_ = s.proc.Process.Signal(syscall.SIGTERM)
		_ = s.proc.Wait()
	}
	for _, p := range parts {
		_ = exec.Command("ip", "netns", "del", s.ns(p)).Run() // what was not made cannot be removed
	}
	os.RemoveAll(s.dir)
}

// command is a program in one of the namespaces; it dies with this one.
func (s *system) command(ctx context.Context, part string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", s.ns(part)}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// kernelUp: a bridge, veth pairs, MASQUERADE and DNAT, as Docker makes them.
func kernelUp(s *system) error {
	h := s.ns("host")
	lines := []string{
		"ip -n " + h + " link add br0 type bridge", "ip -n " + h + " addr add 172.29.0.1/16 dev br0", "ip -n " + h + " link set br0 up",
		"ip netns exec " + h + " sysctl -qw net.ipv4.ip_forward=1",
		"ip netns exec " + h + " iptables -t nat -A POSTROUTING -s 172.29.0.0/16 ! -o br0 -j MASQUERADE",
		"ip netns exec " + h + " iptables -t nat -A PREROUTING -d 10.1.0.1 -p tcp --dport 5201 -j DNAT --to 172.29.0.2:5201",
	}
	for i, c := range []string{"c1", "c2"} {
		n := s.ns(c)
		lines = append(lines,
			fmt.Sprintf("ip -n %s link add v%d type veth peer name eth0 netns %s", h, i, n),
			fmt.Sprintf("ip -n %s link set v%d master br0 up", h, i),
			fmt.Sprintf("ip -n %s addr add 172.29.0.%d/16 dev eth0", n, i+2),
			fmt.Sprintf("ip -n %s link set eth0 up", n),
			fmt.Sprintf("ip -n %s route add default via 172.29.0.1", n))
	}
	return sh(lines...)
}

// uvswitchUp: the switch at path binary, run with args, with the same addresses.
func uvswitchUp(binary string, args []string) func(*system) error {
	return func(s *system) error {
		sock := filepath.Join(s.dir, "uvs.sock")
		s.proc = s.command(context.Background(), "host", append([]string{binary, "--socket", sock, "run"}, args...)...)
		said, err := s.proc.StderrPipe()
		if err != nil {
			return err
		}
		if err := s.proc.Start(); err != nil {
			return err
		}
		if err := awaitLine(said, "ready"); err != nil {
			return err
		}
		uv := binary + " --socket " + sock + " "
		return sh(uv+"port add c1 --ip 172.29.0.2 --netns "+s.ns("c1"), uv+"port add c2 --ip 172.29.0.3 --netns "+s.ns("c2"),
			uv+"publish add 5201:5201 --port c1")
	}
}

// awaitLine reads until a line contains word; the rest is read and forgotten.
func awaitLine(r io.Reader, word string) error {
	lines := bufio.NewScanner(r)
	var all []string
	for lines.Scan() {
		if all = append(all, lines.Text()); strings.Contains(lines.Text(), word) {
			go func() { _, _ = io.Copy(io.Discard, r) }()
			return nil
		}
	}
	return errors.New("it ended: " + strings.Join(all, "; "))
}

func sh(lines ...string) error {
	for _, l := range lines {
		if out, err := exec.Command("sh", "-c", l).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", l, err, out)
		}
	}
	return nil
}
