package main

import (
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
	"sync"
	"time"
)

// The scale table: new connections while there are many containers, standing flows and published ports; and how long it takes to add and
// remove ports. The kernel's path has as many veth pairs on its bridge, entries of conntrack, and DNAT rules.

// A scaleRow is a quantity in a second for a number of things.
type scaleRow struct {
	*scaleTest
	number       int // of flows, rules, containers or ports
	kernel, ours series
}

// scaleContainers is how many containers each system has, and sprayers how many of them hold the standing flows.
const (
	scaleContainers = 50
	sprayers        = 8
)

// A scaleTest sets one thing up, measures, and takes it away again.
type scaleTest struct {
	what    string
	numbers []int
	measure func(ctx context.Context, o options, s *system, n int) (float64, error)
}

var scaleTests = []scaleTest{
	{"connections out, from containers at the same time", []int{1, scaleContainers}, connectFrom},
	{"connections out, beside standing flows", []int{1000, 10_000, 100_000}, besideFlows},
	{"connections in, with published ports", []int{10, 1000, 9000}, withRules},
	{"containers connected in a second", []int{100, 500}, addPorts},
	{"questions for names by dnsperf (beside dnsmasq), with names", []int{1, 1000}, askNames},
	{"docker run to a first ping, in a second", []int{10}, dockerRuns},
}

// runScale measures the table and prints it.
func runScale(ctx context.Context, o options) error {
	tests := scaleTests
	if hasDocker() {
		o.args = append(slices.Clone(o.args), "--docker="+dockerDriver())
	} else {
		fmt.Fprintln(os.Stderr, "dockerd, docker or busybox is not installed: docker run is left out")
		tests = tests[:len(tests)-1]
	}
	kernel := &system{name: "kernel", up: kernelUp, more: scaleContainers - 2}
	ours := &system{name: uvswitchName, up: uvswitchUp(o), more: scaleContainers - 2}
	for _, s := range []*system{kernel, ours} {
		fmt.Fprintln(os.Stderr, "starting", s.name)
		defer s.down()
		if err := s.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	var rows []*scaleRow
	var names []string
	for _, x := range tests {
		names = append(names, x.what)
	}
	for i := range tests {
		for _, n := range tests[i].numbers {
			if selects(o.only, tests[i].what, names) {
				rows = append(rows, &scaleRow{scaleTest: &tests[i], number: n})
			}
		}
	}
	for r := range o.rounds {
		for _, row := range rows {
			for _, x := range []struct {
				*system
				to *series
			}{{kernel, &row.kernel}, {ours, &row.ours}} {
				v, err := row.measure(ctx, o, x.system, row.number)
				if ctx.Err() != nil {
					return errors.New("interrupted; nothing was written")
				}
				if err != nil {
					return fmt.Errorf("%s, %d, %s: %w", row.what, row.number, x.name, err)
				}
				fmt.Fprintf(os.Stderr, "[round %d] %s, %d, %s: %.3g\n", r+1, row.what, row.number, x.name, v)
				x.to.Samples = append(x.to.Samples, sample{Round: r, Value: v})
			}
		}
	}
	scaleTable(os.Stdout, rows)
	if o.out == "" {
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.out, "scale.md"))
	if err != nil {
		return err
	}
	defer f.Close()
	scaleTable(f, rows)
	return f.Close()
}

func scaleTable(w io.Writer, rows []*scaleRow) {
	fmt.Fprintln(w, "| what | number | kernel | uvswitch | uvswitch to kernel |\n|---|---|---|---|---|")
	for _, r := range rows {
		mid, lo, hi := ratio(&r.ours, &r.kernel)
		fmt.Fprintf(w, "| %s | %d | %s | %s | **%.2f** (%.2f to %.2f) |\n", r.what, r.number, digits(r.kernel.median()), digits(r.ours.median()), mid, lo, hi)
	}
}

// digits writes a rate without a fraction, unless it is small.
func digits(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// connectFrom opens connections to the outside from n containers at the same time.
func connectFrom(ctx context.Context, o options, s *system, n int) (float64, error) {
	port := strconv.Itoa(freshPort()) // the kernel remembers connections for two minutes: they are to other ports
	rates, errs := make([]float64, n), make([]error, n)
	err := s.whileHelping(ctx, "out", "greet", port, func(ctx context.Context) error {
		var all sync.WaitGroup
		for i, c := range s.containers()[:n] {
			all.Go(func() { rates[i], errs[i] = s.ask(ctx, c, "connect", "10.1.0.2:"+port, strconv.Itoa(o.seconds)) })
		}
		all.Wait()
		return errors.Join(errs...)
	})
	sum := 0.0
	for _, r := range rates {
		sum += r
	}
	return sum, err
}

var lastPort = 30000

func freshPort() int {
	lastPort++
	return lastPort
}

// besideFlows opens connections from c1 while other containers have n flows.
func besideFlows(ctx context.Context, o options, s *system, n int) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	for _, c := range s.containers()[2 : 2+sprayers] {
		if out, err := s.command(ctx, c, self, helperFlag, "spray", strconv.Itoa(n/sprayers)).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
	}
	return connectFrom(ctx, o, s, 1)
}

// withRules opens connections to a port of c1 while n other ports are published.
func withRules(ctx context.Context, o options, s *system, n int) (rate float64, err error) {
	const first = 20000
	if s.name == uvswitchName {
		file := filepath.Join(s.dir, "rules.yaml")
		set := func(n int) error {
			text := "publish:\n"
			for i := range n {
				text += fmt.Sprintf("  - {host: \"%d\", to: \"c2:80\"}\n", first+i)
			}
			if n == 0 {
				text = "publish: []\n"
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				return err
			}
			out, err := exec.Command(o.binary, "--socket", s.socket(), "reload", file).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}
		if err := set(n); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, set(0)) }()
	} else {
		restore := func(verb string) error {
			var lines strings.Builder
			lines.WriteString("*nat\n")
			for i := range n {
				fmt.Fprintf(&lines, "%s -d 10.1.0.1 -p tcp --dport %d -j DNAT --to 172.29.0.3:80\n", verb, first+i)
			}
			lines.WriteString("COMMIT\n")
			c := s.command(ctx, "host", "iptables-restore", "--noflush")
			c.Stdin = strings.NewReader(lines.String())
			out, err := c.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}
		if err := restore("-I PREROUTING"); err != nil { // before that of the measured port
			return 0, err
		}
		defer func() { err = errors.Join(err, restore("-D PREROUTING")) }()
	}
	rate, err = between(ctx, s, directions[2], "greet", "connect", "10.1.0.1:5201", strconv.Itoa(o.seconds))
	return rate, err
}

// addPorts connects n new namespaces, each with an address, one after another, and returns how many in a second. It ends when the last one
// reaches the first container.
func addPorts(ctx context.Context, o options, s *system, n int) (rate float64, err error) {
	h, last := s.ns("host"), ""
	name := func(i int) string { return s.ns("p" + strconv.Itoa(i)) }
	for i := range n {
		if err := sh("ip netns add " + name(i)); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	for i := range n {
		last = fmt.Sprintf("172.29.%d.%d", 1+i/250, i%250+1)
		lines := []string{fmt.Sprintf("%s --socket %s port add p%d --ip %s --netns %s", o.binary, s.socket(), i, last, name(i))}
		if s.name != uvswitchName {
			lines = []string{
				fmt.Sprintf("ip -n %s link add p%d type veth peer name eth0 netns %s", h, i, name(i)), fmt.Sprintf("ip -n %s link set p%d up master br0", h, i),
				fmt.Sprintf("ip -n %s addr add %s/16 dev eth0", name(i), last), fmt.Sprintf("ip -n %s link set eth0 up", name(i)), fmt.Sprintf("ip -n %s route add default via 172.29.0.1", name(i)),
			}
		}
		if err := sh(lines...); err != nil {
			return 0, err
		}
	}
	if err := sh("nsenter --net=/run/netns/" + name(n-1) + " ping -c 1 -W 5 172.29.0.2"); err != nil {
		return 0, err
	}
	rate = float64(n) / time.Since(began).Seconds()
	for i := range n {
		if s.name == uvswitchName {
			err = errors.Join(err, sh(fmt.Sprintf("%s --socket %s port del p%d", o.binary, s.socket(), i)))
		}
		err = errors.Join(err, sh("ip netns del "+name(i)))
	}
	return rate, err
}
