package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are the options of the command line.
type options struct {
	rounds, seconds int
	ways            int
	only, out       string
	congestion      string
	binary          string
	args            []string
	memory, micro   bool
	hostile, scale  bool
	goOn            bool
	rootless        bool
	flooders        string
	nice, weight    int
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == helperFlag { // one end of a measurement: see helper.go
		if err := helper(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench helper:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	var args string
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; the systems take turns in each")
	flag.IntVar(&o.seconds, "seconds", 2, "seconds of traffic per measurement")
	quick := flag.Bool("quick", false, "2 rounds of 1 second, under 3 minutes in all")
	flag.StringVar(&o.only, "only", "", "only what matches one of these words, separated by commas: directions (L2, out, in, IPv6), metrics, systems, floods")
	flag.StringVar(&o.out, "out", "", "write results.json, results.md and plots (PNG, SVG) into this directory")
	flag.StringVar(&o.congestion, "congestion", "", "TCP's congestion control in iperf3, such as cubic (default: the machine's)")
	flag.StringVar(&o.binary, "uvswitch", "", "the `FILE` of the uvswitch to measure (default: bin/uvswitch, which is built first, so that it is that of this tree)")
	flag.IntVar(&o.ways, "ways", 1, "ways out of the host: devices, each with an address, routes and a routing rule; the measured one is the first")
	flag.StringVar(&args, "args", "", "further arguments of uvswitch run, such as \"--io read-write\"")
	flag.BoolVar(&o.memory, "memory", true, "measure memory at rest and with a million flows")
	flag.BoolVar(&o.micro, "micro", true, "measure the cost of a frame against numbers of flows and ports")
	flag.BoolVar(&o.hostile, "hostile", false, "measure only what a container keeps beside floods of its neighbor (hostile.go)")
	flag.BoolVar(&o.scale, "scale", false, "measure only new connections beside many containers, flows and published ports, and how fast ports are added (scale.go)")
	flag.BoolVar(&o.rootless, "rootless", false, "measure only uvswitch of an ordinary user, beside pasta, slirp4netns and gvisor-tap-vsock (rootless.go)")
	flag.StringVar(&o.flooders, "flooders", "1,4,17", "with -hostile: how many containers flood at the same time")
	flag.BoolVar(&o.goOn, "continue", false, "with -hostile: add the rounds to those that are in the directory of -out")
	flag.IntVar(&o.nice, "nice", 0, "nice value of uvswitch; -5 in its systemd unit")
	flag.IntVar(&o.weight, "weight", 0, "with -hostile: CPUWeight of uvswitch, and a cgroup for each container; 300 in its systemd unit; 0: no cgroups")
	flag.Parse()
	o.args = strings.Fields(args)
	if *quick {
		o.rounds, o.seconds, o.memory = 2, 1, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces, which needs root; try sudo")
	}
	for _, tool := range []string{"ip", "iperf3", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (`make bench-deps`)", tool)
		}
	}
	if o.binary == "" {
		o.binary = "bin/uvswitch"
		if out, err := exec.Command("make", "build").CombinedOutput(); err != nil {
			return fmt.Errorf("make build: %w: %s", err, out)
		}
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("no uvswitch at %s", o.binary)
	}
	sweep()
	if o.hostile {
		return runHostile(ctx, o)
	}
	if o.scale {
		return runScale(ctx, o)
	}
	if o.rootless {
		o.memory, o.micro = false, false
	}
	report := newReport(o)
	systems, err := start(ctx, o, report)
	defer func() {
		for _, s := range systems {
			s.down()
		}
	}()
	if err != nil {
		return err
	}
	plan := plan(systems, o.only)
	began := time.Now()
	for r := range o.rounds {
		for i, p := range plan {
			sample, err := p.measure(ctx, o)
			if ctx.Err() != nil {
				return errors.New("interrupted; nothing was written")
			}
			done := r*len(plan) + i + 1
			left := time.Since(began) / time.Duration(done) * time.Duration(o.rounds*len(plan)-done)
			if err != nil {
				fmt.Fprintf(os.Stderr, "[%d/%d] %s: FAILED: %v\n", done, o.rounds*len(plan), p, err)
				report.fail(p, err)
				continue
			}
			sample.Round = r
			report.add(p, sample)
			fmt.Fprintf(os.Stderr, "[%d/%d] %-46s %10s  %.2f cores  (%s left)\n", done, o.rounds*len(plan), p, p.metric.format(sample.Value), sample.Cores, left.Round(time.Second))
		}
	}
	if o.memory {
		if report.Memory, err = memory(ctx, o); err != nil {
			return fmt.Errorf("memory: %w", err)
		}
	}
	if o.rootless {
		if report.Idle, err = idle(ctx, o); err != nil {
			return fmt.Errorf("memory with idle connections: %w", err)
		}
	}
	if o.micro {
		fmt.Fprintln(os.Stderr, "the cost of a frame against numbers of flows and ports")
		report.Micro = micro()
	}
	report.table(os.Stdout)
	if o.out == "" {
		return nil
	}
	return report.write(o.out)
}

// start starts the systems that are selected and installed. A system that does not start is left out, with a reason in the
// report; if it is uvswitch, start returns an error.
func start(ctx context.Context, o options, r *report) (up []*system, err error) {
	for _, s := range all(o) {
		s.ways = o.ways
		if !selects(o.only, s.name, systemNames) {
			continue
		}
		if why := s.missing(); why != "" {
			r.skip(s.name, why)
			continue
		}
		fmt.Fprintf(os.Stderr, "starting %s\n", s.name)
		up = append(up, s)
		err := s.start(ctx)
		if err == nil {
			r.Versions[s.name] = s.versionOf()
			continue
		}
		s.down()
		up = up[:len(up)-1]
		if s.name == uvswitchName || ctx.Err() != nil {
			return up, fmt.Errorf("%s: %w", s.name, err)
		}
		r.skip(s.name, fmt.Sprintf("it did not start: %v", err))
	}
	return up, nil
}

// selects reports whether words, separated by commas, select name from class. A word selects the members of class that it
// matches; if no word matches a member, all members are selected.
func selects(words, name string, class []string) bool {
	any := false
	for _, w := range strings.Split(words, ",") {
		w = strings.ToLower(strings.TrimSpace(w))
		for _, c := range class {
			if is := strings.ToLower(c); w != "" && (is == w || len(w) > 2 && strings.Contains(is, w)) {
				if any = true; c == name {
					return true
				}
			}
		}
	}
	return !any
}
