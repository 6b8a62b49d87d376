package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A step is one step of the tour: commands, and a few sentences that explain their output.
type step struct {
	title     string
	cmds      []cmd
	seen      string
	bySockets string // instead of seen, where packets leave by sockets of the switch; empty: seen holds there, too
}

// A cmd runs in a part of the lab, or, when in is empty, in the tour's own namespace. $WEB and so on stand for the names of the
// parts' namespaces.
type cmd struct {
	in      string
	line    string
	capture bool // a capture: starts before the next command, printed at the end of the step
	may     bool // it may fail
	by      uint8
}

// Who a command is for; all, if it says nothing.
const (
	root = iota + 1
	user
)

// steps are the steps of the tour. They are those of an article about docker0, done with uvswitch.
var steps = []step{
	{"Two containers", []cmd{
		{line: "uvswitch port add web --netns $WEB"},
		{line: "uvswitch port add db --netns $DB"},
	}, "Each namespace now has a device eth0 with an address and a default route. Docker would create a veth pair for each container, and plug its host end into the bridge docker0. Here eth0 is a TAP, and its other end is the switch process.", ""},
	{"The containers reach each other", []cmd{
		{in: "web", line: "ping -c 2 172.29.0.3"},
		{in: "web", line: "ip neigh"},
	}, "web sent an ARP request for 172.29.0.3, and db itself answered: both are in one broadcast domain. With Docker, the same packets cross docker0, a bridge in the kernel.", ""},
	{"Local and remote destinations", []cmd{
		{in: "web", line: "ip route"},
		{in: "web", line: "ping -c 2 172.29.0.1"},
		{in: "web", line: "ip neigh"},
	}, "web reaches its subnet directly, and everything else through the gateway 172.29.0.1. The ARP cache of web has the MAC addresses of db and of the gateway. With Docker, docker0 is the bridge and the gateway in one. Here the gateway is a router in user space, which answers ARP and ping.", ""},
	{"The switch has learned the MAC addresses", []cmd{
		{line: "uvswitch fdb show"},
		{line: "uvswitch bridge show"},
	}, "The switch stored each MAC address with the port from which it came. An entry expires after 300 seconds without a frame. The entries of the gateway and of the host are local. For docker0, brctl showmacs and brctl showstp print the same.", ""},
	{"The host reaches the containers", []cmd{
		{in: "host", line: "ping -c 2 172.29.0.2"},
	}, "The host has its own port on the switch, with the device uvs0, and reaches the containers through it. With Docker, the host uses the address of the bridge.", ""},
	{"Plugging in a namespace by hand", []cmd{
		{in: "host", line: "ip link add veth-ns1 type veth peer name veth-host", by: root},
		{in: "host", line: "ip link set veth-ns1 netns $NS1", by: root},
		{line: "ip -n $NS1 addr add 172.29.0.100/16 dev veth-ns1", by: root},
		{line: "ip -n $NS1 link set veth-ns1 up", by: root},
		{line: "uvswitch port add ns1 --device veth-host", by: root},
		{line: "uvswitch port add ns1 --netns $NS1 --ip 172.29.0.100 --no-route", by: user},
		{in: "ns1", line: "ping -c 2 172.29.0.2"},
		{in: "host", line: "ping -c 2 172.29.0.100"},
	}, "A veth pair works like a cable: one end is in ns1, the other end is plugged into the switch. For the kernel's bridge, brctl addif docker0 veth-host does the same. Here the switch reads and writes veth-host through a packet socket.",
		"ns1 has a TAP as web and db have, but with an address of our choice, and without a default route. With root, the tour plugs in a veth pair here, as brctl addif docker0 does. That needs a BPF program, which keeps the frames of the device from the host's own stack."},
	{"From a container to the outside", []cmd{
		{in: "web", line: "ping -c 2 203.0.113.8"},
		{line: "uvswitch flow ls -d 203.0.113.8 -o extended"},
		{line: "uvswitch nat show"},
	}, "web pinged a host in the outside network, and the flow shows both directions: the answer went to 198.51.100.1, the host's address. Docker does this with an iptables MASQUERADE rule and the kernel's conntrack. Here the switch keeps the same table, and the host has no rule at all.", ""},
	{"Both sides of the translation", []cmd{
		{line: "uvswitch dump -i web,uplink -c 8", capture: true},
		{in: "web", line: "ping -c 2 203.0.113.8"},
	}, "On port web the ping comes from 172.29.0.2, on the uplink it comes from 198.51.100.1: the switch translates the request, and translates the answer back. With Docker, you would run tcpdump on docker0 and on eth0, and compare the output.",
		"On port web and on the uplink the ping comes from 172.29.0.2. Behind the uplink, the switch asks the host's kernel to send the ping by a socket, and the kernel sends it from 198.51.100.1. With root, the switch would translate it itself, and the uplink would show 198.51.100.1."},
	{"A default route for ns1", []cmd{
		{line: "ip -n $NS1 route add default via 172.29.0.1"},
		{in: "ns1", line: "ping -c 2 203.0.113.8"},
	}, "With a default route, the namespace that was plugged in by hand reaches the outside like any container. With Docker, docker0 is this router, if ip_forward is on and the FORWARD chain accepts the packets.", ""},
	{"From the outside to a container", []cmd{
		{line: "uvswitch publish add 8080:80 --port web"},
		{in: "out", line: "curl -s http://198.51.100.1:8080/"},
		{in: "db", line: "curl -s http://198.51.100.1:8080/"},
		{in: "host", line: "curl -s http://127.0.0.1:8080/"},
	}, "The outside client reached web with its own address. The container db reached web with the host's address, and the host reached web through a relay. Docker needs a DNAT rule, a hairpin rule and docker-proxy for these three cases.",
		"The outside client reached web with its own address: the port is a socket of the switch, which connects to web in the client's name. The container db reached web with the host's address. A client on the host itself is shown as 169.254.1.2. Docker without root needs a proxy, and web would see the address of the proxy."},
	{"The flows", []cmd{
		{line: "uvswitch flow ls -p tcp"},
		{line: "uvswitch publish ls"},
	}, "Each connection has two tuples: the addresses and ports of its first packet, and those of the answer. The format is that of conntrack -L, and the published ports have counters as in iptables.", ""},
	{"The same over IPv6", []cmd{
		{in: "web", line: "ip -6 addr"},
		{in: "web", line: "ping -c 2 fd00:dead:beef:c0:0:275:ac1d:3"},
		{in: "web", line: "ip -6 neigh"},
		{in: "web", line: "ping -c 2 2001:db8:113::8"},
		{in: "out", line: "curl -s http://[2001:db8:51::1]:8080/"},
		{line: "uvswitch flow ls -f ipv6"},
	}, "Each container also has an IPv6 address, whose last 48 bits are its MAC address. web found db by neighbor discovery, as it found db by ARP before. To the outside, web is 2001:db8:51::1, the host's address; and the port that was published as 8080 is open over IPv6, too. With Docker, both need an IPv6 subnet and ip6tables.", ""},
	{"A container that may reach one name only", []cmd{
		{line: "uvswitch dns add api.example.com 203.0.113.8"},
		{line: "uvswitch policy add agent egress allow name:api.example.com icmp"},
		{line: "uvswitch policy attach agent --port db"},
		{in: "db", line: "dig +short @172.29.0.1 evil.example.com"},
		{in: "db", line: "dig +short @172.29.0.1 api.example.com"},
		{in: "db", line: "ping -c 2 203.0.113.8"},
		{line: "uvswitch policy test db 172.29.0.2:80", may: true},
		{line: "uvswitch policy add agent egress allow port:web tcp/80"},
		{line: "uvswitch policy test db 172.29.0.2:80"},
		{in: "db", line: "curl -s http://172.29.0.2/"},
	}, "The gateway answered db about the one name that its policy has, and about no other, and from then on the address of the answer was open. The flow to web was refused, with the command that allows it; one rule later it passed. With Docker, this needs iptables rules by address, and names are not known there.", ""},
	{"Every frame is accounted for", []cmd{
		{line: "uvswitch stats"},
		{line: "uvswitch status"},
	}, "The frames that were received, created and copied equal the frames that were sent, dropped for a named reason, or consumed. A kernel bridge has no such balance: there, a drop is a counter without a reason, if it is counted at all.", ""},
}

// Tour runs the steps in its own lab and always removes the lab at the end. If pause is not nil, it waits for a line from pause
// (Enter) after each step. With rootless, the process is root of a user namespace only, and packets leave by sockets.
func Tour(ctx context.Context, name string, rootless bool, pause io.Reader, out io.Writer) (err error) {
	if rootless {
		if err := ownRun(); err != nil {
			return err
		}
	}
	l, err := New(name, true)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Setting up: namespaces %s and %s, and a switch.\n", strings.Join(l.names(Parts...), ", "), l.NS("ns1"))
	if l.Args = append(l.Args, "--subnet6", "fd00:dead:beef:c0::/80"); rootless {
		fmt.Fprintln(out, "You are not root, so all of it is in a user namespace of its own, and packets leave by sockets of the switch (docs/rootless.md).")
		l.Args = append(l.Args, "--uplink-kind", "sockets")
		l.rootless = true
	}
	if err := l.Up(ctx, false); err != nil {
		return err
	}
	defer func() {
		if derr := l.Down(); err == nil {
			err = derr
		}
		fmt.Fprintln(out, "\nThe lab was stopped and removed; nothing is left.")
	}()
	if err := l.AddNamespace("ns1"); err != nil {
		return err
	}
	if err := l.start("web", "lab", "tool", "httpd", "80", "web"); err != nil {
		return err
	}
	fmt.Fprint(out, l.Picture())
	var lines *bufio.Reader
	if pause != nil {
		lines = bufio.NewReader(pause)
	}
	for i, s := range steps {
		fmt.Fprintf(out, "\n== %d of %d: %s ==\n", i+1, len(steps), s.title)
		if err := l.step(ctx, s, out); err != nil {
			return fmt.Errorf("tour: step %d, %s: %w", i+1, s.title, err)
		}
		seen := s.seen
		if rootless && s.bySockets != "" {
			seen = s.bySockets
		}
		fmt.Fprintf(out, "\n%s\n", wrap(seen, 96))
		if pause != nil && i < len(steps)-1 {
			fmt.Fprint(out, "\n[Enter] ")
			if _, err := readLine(ctx, lines); err != nil {
				return err
			}
		}
	}
	return nil
}

// readLine waits for Enter or the end of ctx.
func readLine(ctx context.Context, r *bufio.Reader) (string, error) {
	type result struct {
		s   string
		err error
	}
	c := make(chan result, 1)
	go func() { s, err := r.ReadString('\n'); c <- result{s, err} }()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case got := <-c:
		return got.s, got.err
	}
}

func (l *Lab) names(parts ...string) (out []string) {
	for _, p := range parts {
		out = append(out, l.NS(p))
	}
	return out
}

// step prints and runs the commands of one step.
func (l *Lab) step(ctx context.Context, s step, out io.Writer) error {
	var capture *capturing
	for _, c := range s.cmds {
		if c.by == root && l.rootless || c.by == user && !l.rootless {
			continue
		}
		line := l.expand(c.line)
		shown := line
		if c.in != "" {
			shown = "ip netns exec " + l.NS(c.in) + " " + line
		}
		fmt.Fprintf(out, "\n# %s\n", shown)
		if c.capture {
			var err error
			if capture, err = l.capture(ctx, line); err != nil {
				return err
			}
			continue
		}
		cmd, err := l.program(ctx, line)
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := l.Run(c.in, cmd); err != nil && ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil && !c.may {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	if capture != nil {
		fmt.Fprintln(out, "\n(output of the capture)")
		return capture.show(out)
	}
	return nil
}

func (l *Lab) expand(line string) string {
	for _, p := range append([]string{"ns1"}, Parts...) {
		line = strings.ReplaceAll(line, "$"+strings.ToUpper(p), l.NS(p))
	}
	return line
}

// program is Program for a whole line; at the end of ctx the command gets SIGTERM.
func (l *Lab) program(ctx context.Context, line string) (*exec.Cmd, error) {
	f := strings.Fields(line)
	c, err := l.Program(ctx, f[0], f[1:]...)
	if err == nil {
		c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	}
	return c, err
}

// capturing is a `uvswitch dump` that runs in the background.
type capturing struct {
	cmd  *exec.Cmd
	text bytes.Buffer
}

// capture starts a dump and waits until it has begun.
func (l *Lab) capture(ctx context.Context, line string) (*capturing, error) {
	cmd, err := l.program(ctx, line)
	if err != nil {
		return nil, err
	}
	c := &capturing{cmd: cmd}
	c.cmd.Stdout = &c.text
	said, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	first, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s: %s", line, first)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	return c, nil
}

func (c *capturing) show(out io.Writer) error {
	timer := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Signal(unix.SIGTERM) }) // in case fewer packets arrive than expected
	defer timer.Stop()
	err := c.cmd.Wait()
	fmt.Fprint(out, c.text.String())
	return err
}

// Picture returns a drawing of the lab.
func (l *Lab) Picture() string {
	return fmt.Sprintf(`
      %-18s %-18s
      172.29.0.2         172.29.0.3
        | eth0             | eth0
   +----+------------------+-----------------+
   | uvswitch, in %-27s|--- uvs0 172.29.255.254, the host's own port
   | gateway 172.29.0.1                      |
   +----------------+------------------------+
                    | eth0 198.51.100.1, 2001:db8:51::1
                    | eth0 198.51.100.2, 2001:db8:51::2
      %-18s  and 203.0.113.8, 2001:db8:113::8 beyond it
`, l.NS("web"), l.NS("db"), l.NS("host"), l.NS("out"))
}

// wrap breaks text into lines of at most n characters.
func wrap(text string, n int) string {
	var b strings.Builder
	width := 0
	for _, w := range strings.Fields(text) {
		if width > 0 && width+1+len(w) > n {
			b.WriteByte('\n')
			width = 0
		} else if width > 0 {
			b.WriteByte(' ')
			width++
		}
		b.WriteString(w)
		width += len(w)
	}
	return b.String()
}
