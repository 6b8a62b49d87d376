package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// rootless makes the tables those of -rootless: uvswitch of an ordinary user, beside the same uvswitch of root and what else such a user has.
func rootless(o options) []*system {
	directions = []*direction{
		{name: "L2", title: "Between two containers", client: "c1", server: "c2", address: "172.29.0.3"},
		{name: "out", title: "Out", client: "c1", server: "out", address: "10.1.0.2"},
		{name: "back", title: "Back: the outside sends to a container that has connected", client: "c1", server: "out", address: "10.1.0.2", reverse: true},
		{name: "in", title: "In to a published port", client: "out", server: "c1", address: "10.1.0.1"},
	}
	metrics = []*metric{
		{name: "TCP, 1 stream", unit: "Gbit/s", format: gbit, run: tcp(1), reversible: true},
		{name: "TCP, 4 streams", unit: "Gbit/s", format: gbit, run: tcp(4), reversible: true},
		{name: "UDP, 1400 bytes", unit: "received Gbit/s", format: gbit, run: datagrams, reversible: true},
		{name: "CPU per gigabyte", unit: "s", lower: true, format: func(v float64) string { return fmt.Sprintf("%.2f s", v) }, run: cpuPerGigabyte, reversible: true},
		{name: "TCP request/response", unit: "us, median", lower: true, format: micros, run: requestResponse(0.5, 0)},
		{name: "new TCP connections", unit: "per second", format: perSecond, run: newConnections},
	}
	const asRoot, present = "uvswitch of root", "pasta, present"
	natted := []string{"out", "back", "in"}
	all := append([]string{"L2"}, natted...)
	systems := []*system{
		{name: uvswitchName, directions: all, tools: []string{"setpriv", "unshare"}, up: userUp(o), version: []string{o.binary, "version"}},
		{name: asRoot, directions: all, up: uvswitchUp(o), version: []string{o.binary, "version"}},
		{name: "pasta", directions: natted, tools: []string{"pasta"}, up: pastaUp("pasta"), version: []string{"dpkg-query", "-W", "-f", "${Version}", "passt"}},
		{name: present, directions: natted, tools: []string{presentPasta()}, up: pastaUp(presentPasta()), version: []string{presentPasta(), "--version"}},
		{name: "slirp4netns", directions: natted, tools: []string{"slirp4netns"}, up: slirpUp, version: []string{"slirp4netns", "--version"}},
		{name: "gvisor-tap-vsock", directions: natted, tools: []string{gvproxyPath()}, up: gvisorUp, version: []string{gvproxyPath(), "--version"}},
	}
	systemNames = nil
	for _, s := range systems {
		systemNames = append(systemNames, s.name)
	}
	return systems
}

// presentPasta is where `make bench-pasta` puts a pasta of today: that of a distribution may be years old.
func presentPasta() string { return filepath.Join("bin", "peers", "pasta") }

// userID is the ordinary user.
const userID = 65534

// userUp starts uvswitch and its containers as an ordinary user, and names their namespaces.
func userUp(o options) func(context.Context, *system) error {
	return func(ctx context.Context, s *system) error {
		run, tun, exe := filepath.Join(s.dir, "run"), filepath.Join(s.dir, "tun"), filepath.Join(s.dir, "uvswitch")
		if err := errors.Join(os.Chmod(s.dir, 0o711), os.Mkdir(run, 0o700), os.Chown(run, userID, userID), copyProgram(exe, o.binary),
			unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), os.Chmod(tun, 0o666)); err != nil {
			return err
		}
		as := func(args ...string) []string {
			return append([]string{"unshare", "-m", "sh", "-c", "mount --bind " + tun + ` /dev/net/tun && exec setpriv --reuid ` + strconv.Itoa(userID) + ` --regid ` + strconv.Itoa(userID) +
				` --clear-groups --inh-caps=-all --bounding-set=-all env XDG_RUNTIME_DIR=` + run + ` "$@"`, "-", exe}, args...)
		}
		if err := s.daemon("host", "ready", nil, as(append([]string{"run"}, o.args...)...)...); err != nil {
			return err
		}
		sw := api.NewClient(filepath.Join(run, "uvswitch", "uvswitch.sock"))
		for i, c := range s.containers() {
			args := []string{"exec", "--port", c, "--ip", fmt.Sprintf("172.29.0.%d", i+2)}
			if c == "c1" {
				args = append(args, "--publish", "5201:5201", "--publish", "5201:5201/udp")
			}
			if err := s.daemon("host", "", nil, as(append(args, "--", "sleep", "infinity")...)...); err != nil {
				return err
			}
			pid, err := awaitPort(ctx, sw, c)
			if err != nil {
				return err
			}
			if err := sh("ip netns del "+s.ns(c), "ip netns attach "+s.ns(c)+" "+pid); err != nil {
				return err
			}
		}
		return nil
	}
}

// awaitPort waits for a port, and returns the process whose namespace it is in.
func awaitPort(ctx context.Context, sw *api.Client, name string) (pid string, err error) {
	for {
		p, err := sw.Port(ctx, name)
		if pid, ok := strings.CutPrefix(p.Netns, "pid:"); err == nil && ok {
			return pid, nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("no port %s: %w", name, err)
		}
	}
}

func copyProgram(to, from string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o755)
}

// datagrams sends datagrams of 1400 bytes without a rate limit, and counts the bits that arrive in a second.
func datagrams(ctx context.Context, s *system, d *direction, o options) (sample, error) {
	v, err := iperf(ctx, s, d, "-u", "-b", "0", "-l", "1400", "-t", strconv.Itoa(o.seconds))
	got := v.End.SumReceived
	if err == nil && got.Bytes == 0 {
		err = errors.New("no datagram arrived")
	}
	return sample{Value: got.Bytes * 8 / max(got.Seconds, 1e-9) / 1e9}, err
}

// cpuPerGigabyte is the CPU time of the whole machine for 10^9 bytes of one stream, in seconds.
func cpuPerGigabyte(ctx context.Context, s *system, d *direction, o options) (sample, error) {
	before := busy()
	v, err := iperf(ctx, s, d, "-t", strconv.Itoa(o.seconds))
	spent, got := busy()-before, v.End.SumReceived.Bytes
	if err == nil && got == 0 {
		err = errors.New("no data arrived")
	}
	return sample{Value: spent.Seconds() / max(got/1e9, 1e-9)}, err
}

// idleUse is the memory of a user's uvswitch, in bytes, at rest and while a container has idle connections.
type idleUse struct {
	Connections int   `json:"connections"`
	AtRest      int64 `json:"at_rest"`
	With        int64 `json:"with_connections"`
}

// idle measures idleUse through another uvswitch.
func idle(ctx context.Context, o options) (*idleUse, error) {
	s := &system{name: uvswitchName + "-idle", up: userUp(o), directions: []string{"out"}, ways: o.ways}
	defer s.down()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	u := &idleUse{Connections: 500}
	pid := s.procs[0].Process.Pid // nsenter, unshare, setpriv and env have each become the next one
	if u.AtRest, err = resident(pid); err != nil {
		return nil, err
	}
	err = s.whileServing(ctx, "out", []string{self, helperFlag, "keep", ":5201"}, func(ctx context.Context) error {
		return s.whileServing(ctx, "c1", []string{self, helperFlag, "idle", "10.1.0.2:5201", strconv.Itoa(u.Connections)}, func(context.Context) (err error) {
			u.With, err = resident(pid)
			return err
		})
	})
	return u, err
}

// keep accepts connections, and keeps them.
func keep(addr string) error {
	return serveEach(addr, func(c net.Conn) { go func() { _, _ = io.Copy(io.Discard, c) }() })
}

// beIdle opens connections, and then does nothing.
func beIdle(addr, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	for range n {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
	}
	fmt.Println("listening for nothing")
	select {}
}
