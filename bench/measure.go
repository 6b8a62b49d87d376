package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A direction is the path of traffic from a client's namespace to a server's. The outside has address 10.1.0.2, the host
// 10.1.0.1, the containers 172.29.0.2 (c1) and 172.29.0.3 (c2). Port 5201 of c1 is published. With IPv6, these are 2001:db8:1::2,
// 2001:db8:1::1, fd00:bb::2 and fd00:bb::3.
type direction struct {
	name, title, client, server, address string
	reverse                              bool // the server sends
}

var directions = []*direction{
	{"L2", "Between two containers", "c1", "c2", "172.29.0.3", false},
	{"out", "Out through NAT", "c1", "out", "10.1.0.2", false},
	{"in", "In to a published port", "out", "c1", "10.1.0.1", false},
	{"L2 IPv6", "Between two containers, IPv6", "c1", "c2", "fd00:bb::3", false},
	{"out IPv6", "Out through NAT, IPv6", "c1", "out", "2001:db8:1::2", false},
	{"in IPv6", "In to a published port, IPv6", "out", "c1", "2001:db8:1::1", false},
}

// A metric is a quantity that is measured in a direction.
type metric struct {
	name   string
	unit   string
	lower  bool // lower values are better
	format func(float64) string
	run    func(ctx context.Context, s *system, d *direction, o options) (sample, error)

	reversible bool // it can be measured in a direction whose server sends
}

var metrics = []*metric{
	{name: "TCP, 1 stream", unit: "Gbit/s", format: gbit, run: tcp(1)},
	{name: "TCP, 4 streams", unit: "Gbit/s", format: gbit, run: tcp(4)},
	{name: "UDP, 64 bytes", unit: "received/s", format: func(v float64) string { return fmt.Sprintf("%.0f k/s", v/1e3) }, run: udp},
	{name: "TCP request/response", unit: "us, median", lower: true, format: micros, run: requestResponse(0.5, 0)},
	{name: "request/response, p99", unit: "us", lower: true, format: micros, run: requestResponse(0.99, 0)},
	{name: "request/response, p99.9", unit: "us", lower: true, format: micros, run: requestResponse(0.999, 0)},
	{name: "request/response, p99, loaded", unit: "us", lower: true, format: micros, run: requestResponse(0.99, loadRate)},
	{name: "request/response, p99.9, loaded", unit: "us", lower: true, format: micros, run: requestResponse(0.999, loadRate)},
	{name: "TCP, 1 stream, one CPU for all", unit: "Gbit/s", format: gbit, run: onOneCPU(tcp(1))},
	{name: "CPU at a fixed rate", unit: "us per datagram", lower: true, format: micros, run: fixedRate},
	{name: "new TCP connections", unit: "per second", format: perSecond, run: newConnections},
}

const loadRate = 20000 // datagrams of 64 bytes in a second, beside requests

func micros(v float64) string    { return fmt.Sprintf("%.1f us", v) }
func perSecond(v float64) string { return fmt.Sprintf("%.0f /s", v) }

func gbit(v float64) string { return fmt.Sprintf("%.2f Gbit/s", v) }

// A sample is one measurement.
type sample struct {
	Round       int     `json:"round"`
	Value       float64 `json:"value"`
	Cores       float64 `json:"cores"` // busy CPUs of the whole machine, on average; both ends are included
	Retransmits int     `json:"retransmits,omitempty"`
}

// A step measures one metric in one direction through one system.
type step struct {
	system    *system
	direction *direction
	metric    *metric
}

func (p step) String() string {
	return p.direction.name + ", " + p.metric.name + ", " + p.system.name
}

// plan returns the steps of one round. For each direction and metric, the systems follow one another.
func plan(systems []*system, only string) (steps []step) {
	var ds, ms []string
	for _, d := range directions {
		ds = append(ds, d.name)
	}
	for _, m := range metrics {
		ms = append(ms, m.name)
	}
	for _, d := range directions {
		for _, m := range metrics {
			for _, s := range systems {
				if slices.Contains(s.directions, d.name) && (m.reversible || !d.reverse) && selects(only, d.name, ds) && selects(only, m.name, ms) {
					steps = append(steps, step{s, d, m})
				}
			}
		}
	}
	return steps
}

func (p step) measure(ctx context.Context, o options) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.seconds+20)*time.Second)
	defer cancel()
	before := busy()
	began := time.Now()
	v, err := p.metric.run(ctx, p.system, p.direction, o)
	v.Cores = (busy() - before).Seconds() / time.Since(began).Seconds()
	return v, err
}

// busy returns the CPU time that the whole machine has spent on work, counted from any moment: all time but the idle. The kernel measures idle
// time. Of the rest, it only looks at each tick who runs: work that timers begin is then often over.
func busy() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for i, f := range strings.Fields(line)[1:] {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && (i == 3 || i == 4 || i == 7) { // idle, iowait, steal
			ticks += n
		}
	}
	return time.Since(origin)*time.Duration(runtime.NumCPU()) - time.Duration(ticks)*(time.Second/100) // USER_HZ
}

var origin = time.Now()

// iperf runs one iperf3 client against a server that serves this client only.
func iperf(ctx context.Context, s *system, d *direction, args ...string) (v iperfResult, err error) {
	err = s.whileServing(ctx, d.server, []string{"iperf3", "-s", "-1", "--forceflush"}, func(ctx context.Context) error {
		v, err = iperfClient(ctx, s, d, args)
		return err
	})
	return v, err
}

// whileServing runs do while a server runs in a namespace and listens.
func (s *system) whileServing(ctx context.Context, part string, server []string, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := s.command(ctx, part, server...)
	said, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return err
	}
	defer func() { cancel(); _ = c.Wait() }()
	if err := awaitLine(said, "listening"); err != nil {
		return err
	}
	return do(ctx)
}

func iperfClient(ctx context.Context, s *system, d *direction, args []string) (v iperfResult, err error) {
	if d.reverse {
		args = append(args, "-R")
	}
	out, err := s.command(ctx, d.client, append([]string{"iperf3", "-J", "-c", d.address}, args...)...).Output()
	if e := json.Unmarshal(out, &v); e != nil && err == nil {
		err = fmt.Errorf("its answer: %w", e)
	}
	if err == nil && v.Error != "" { // with -J, iperf3 may end with 0 although it failed
		err = errors.New("it failed")
	}
	if err != nil {
		return v, fmt.Errorf("iperf3: %w: %s", err, v.Error)
	}
	return v, nil
}

// iperfResult is the part of iperf3's JSON output that is used.
type iperfResult struct {
	Error string
	End   struct {
		SumSent     struct{ Retransmits int } `json:"sum_sent"`
		SumReceived struct {
			BitsPerSecond  float64 `json:"bits_per_second"`
			Bytes, Seconds float64
		} `json:"sum_received"`
	}
}

func tcp(streams int) func(context.Context, *system, *direction, options) (sample, error) {
	return func(ctx context.Context, s *system, d *direction, o options) (sample, error) {
		args := []string{"-t", strconv.Itoa(o.seconds), "-P", strconv.Itoa(streams)}
		if o.congestion != "" {
			args = append(args, "-C", o.congestion)
		}
		v, err := iperf(ctx, s, d, args...)
		return sample{Value: v.End.SumReceived.BitsPerSecond / 1e9, Retransmits: v.End.SumSent.Retransmits}, err
	}
}

// onOneCPU measures while everything has one CPU: both ends, and the processes of the system.
func onOneCPU(run func(context.Context, *system, *direction, options) (sample, error)) func(context.Context, *system, *direction, options) (sample, error) {
	return func(ctx context.Context, s *system, d *direction, o options) (sample, error) {
		runtime.LockOSThread() // what this thread starts has its CPUs
		defer runtime.UnlockOSThread()
		var all, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			return sample{}, fmt.Errorf("reading which CPUs there are: %w", err)
		}
		for cpu := range 1024 {
			if all.IsSet(cpu) {
				one.Set(cpu)
				break
			}
		}
		pin := func(set *unix.CPUSet) error {
			for _, p := range s.procs {
				for _, thread := range threadsOf(p.Process.Pid) {
					_ = unix.SchedSetaffinity(thread, set) // it may just have ended
				}
			}
			return unix.SchedSetaffinity(0, set)
		}
		defer func() { _ = pin(&all) }()
		if err := pin(&one); err != nil {
			return sample{}, fmt.Errorf("using one CPU only: %w", err)
		}
		return run(ctx, s, d, o)
	}
}

// threadsOf are the threads of a process and of its children.
func threadsOf(pid int) (all []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		if thread, err := strconv.Atoi(t.Name()); err == nil {
			all = append(all, thread)
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, c := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(c); err == nil {
				all = append(all, threadsOf(child)...)
			}
		}
	}
	return all
}

// udp sends datagrams of 64 bytes without a rate limit and counts those that arrive.
func udp(ctx context.Context, s *system, d *direction, o options) (sample, error) {
	const size = 64
	v, err := iperf(ctx, s, d, "-u", "-b", "0", "-l", strconv.Itoa(size), "-t", strconv.Itoa(o.seconds))
	got := v.End.SumReceived // the server's count of bytes: its count of lost datagrams leaves out the last ones
	if err == nil && got.Bytes == 0 {
		err = fmt.Errorf("no datagram arrived")
	}
	return sample{Value: got.Bytes / size / max(got.Seconds, 1e-9)}, err
}

// fixedRate measures the CPU time of the whole machine for each datagram of 64 bytes that arrives, in microseconds, at a rate that every
// system can carry: 50,000 in a second.
func fixedRate(ctx context.Context, s *system, d *direction, o options) (sample, error) {
	const size, rate = 64, 50000
	before := busy()
	v, err := iperf(ctx, s, d, "-u", "-b", strconv.Itoa(8*size*rate), "-l", strconv.Itoa(size), "-t", strconv.Itoa(o.seconds))
	spent, got := busy()-before, v.End.SumReceived.Bytes/size
	if err == nil && got == 0 {
		err = fmt.Errorf("no datagram arrived")
	}
	return sample{Value: float64(spent.Microseconds()) / max(got, 1)}, err
}

// requestResponse measures the time from a request of 64 bytes to its answer, over one connection, in microseconds: the quantile of all
// times. Besides, load datagrams go the same way in a second.
func requestResponse(quantile float64, load int) func(context.Context, *system, *direction, options) (sample, error) {
	return func(ctx context.Context, s *system, d *direction, o options) (sample, error) {
		us, err := between(ctx, s, d, "answer", "ask", net.JoinHostPort(d.address, "5201"), strconv.Itoa(o.seconds), fmt.Sprint(quantile), strconv.Itoa(load))
		return sample{Value: us}, err
	}
}

// newConnections measures how many TCP connections one client opens in a second, one after another. On each, the server says one byte.
func newConnections(ctx context.Context, s *system, d *direction, o options) (sample, error) {
	rate, err := between(ctx, s, d, "greet", "connect", net.JoinHostPort(d.address, "5201"), strconv.Itoa(o.seconds))
	return sample{Value: rate}, err
}

// between runs the two ends of a measurement, and returns the number that the client prints.
func between(ctx context.Context, s *system, d *direction, server string, client ...string) (v float64, err error) {
	err = s.whileHelping(ctx, d.server, server, "5201", func(ctx context.Context) error {
		v, err = s.ask(ctx, d.client, client...)
		return err
	})
	return v, err
}

// whileHelping is whileServing with a helper as the server, on a port.
func (s *system) whileHelping(ctx context.Context, part, what, port string, do func(context.Context) error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return s.whileServing(ctx, part, []string{self, helperFlag, what, ":" + port}, do)
}

// ask runs a helper in a namespace, and returns the number that it prints.
func (s *system) ask(ctx context.Context, part string, args ...string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := s.command(ctx, part, append([]string{self, helperFlag}, args...)...).Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", args[0], err, stderrOf(err))
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}
