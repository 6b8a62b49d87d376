package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/uvswitch/uvswitch/bench/hostile"
)

// The hostile matrix: c1 measures new connections, requests and a stream to the outside, while other containers flood. Each row says what c1
// keeps of what it has beside polite containers, which send the same packets at hostile.PoliteRate.

const readWriteName = uvswitchName + " --io read-write"

var hostileSystems = []string{"kernel", uvswitchName, readWriteName}

// A cell is what was measured of one flood, number of flooders and system, one sample per round.
type cell struct {
	alone, polite, flooded []hostile.Result
	ran, waited            []float64 // of the busiest thread of uvswitch beside the flood: parts of the time
}

// of returns the median of one figure.
func of(results []hostile.Result, figure func(hostile.Result) float64) float64 {
	var v []float64
	for _, r := range results {
		v = append(v, figure(r))
	}
	return median(v)
}

func connections(r hostile.Result) float64 { return r.Connections }
func bulk(r hostile.Result) float64        { return r.Bulk }
func requestP99(r hostile.Result) float64  { return r.RequestP99 }
func waited(r hostile.Result) float64      { return r.Waited }

func (c *cell) kept(figure func(hostile.Result) float64) float64 {
	return of(c.flooded, figure) / of(c.polite, figure)
}

func (c *cell) failed() (n int) {
	for _, r := range c.flooded {
		n += r.Failed
	}
	return n
}

type cellKey struct {
	flood    string
	flooders int
	system   string
}

// runHostile runs the matrix and prints its table.
func runHostile(ctx context.Context, o options) error {
	var flooders []int
	for _, f := range strings.Split(o.flooders, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 || n > 200 {
			return fmt.Errorf("-flooders %s: not a list of numbers from 1 to 200", o.flooders)
		}
		flooders = append(flooders, n)
	}
	var names []string
	for _, f := range hostile.Floods {
		names = append(names, f.Name)
	}
	var keys []cellKey
	for _, f := range hostile.Floods {
		for _, n := range flooders {
			for _, sys := range hostileSystems {
				if selects(o.only, f.Name, names) && selects(o.only, sys, hostileSystems) && (n == flooders[0] || !f.FromOutside) {
					keys = append(keys, cellKey{f.Name, n, sys})
				}
			}
		}
	}
	cells := map[cellKey]*cell{}
	began, done := time.Now(), 0
	for range o.rounds {
		for _, k := range keys {
			if cells[k] == nil {
				cells[k] = &cell{}
			}
			err := cells[k].measure(ctx, k, o)
			if ctx.Err() != nil {
				return errors.New("interrupted; nothing was written")
			}
			done++
			c, total := cells[k], o.rounds*len(keys)
			if err != nil { // the other cells are worth their hours
				fmt.Fprintf(os.Stderr, "[%d/%d] %s, %d flooders, %s: this round does not count: %v\n", done, total, k.flood, k.flooders, k.system, err)
				continue
			}
			last := len(c.flooded) - 1
			fmt.Fprintf(os.Stderr, "[%d/%d] %-24s %2d %-24s %5.0f of %5.0f connections/s, %5.0f of %5.0f MB/s, p99 %5.1f (alone %4.1f) ms; waits for a CPU: victim %.2f, worker %.2f of %.2f (%s left)\n",
				done, total, k.flood, k.flooders, k.system, c.flooded[last].Connections, c.polite[last].Connections, c.flooded[last].Bulk/1e6, c.polite[last].Bulk/1e6,
				c.flooded[last].RequestP99, c.alone[last].RequestP99, c.flooded[last].Waited, c.waited[last], c.ran[last]+c.waited[last],
				(time.Since(began) / time.Duration(done) * time.Duration(total-done)).Round(time.Second))
		}
	}
	table := hostileTable(keys, cells)
	fmt.Print(table)
	if o.out == "" {
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	inCgroups := ""
	if o.weight != 0 {
		inCgroups = fmt.Sprintf(" Each container has a cgroup; uvswitch has CPUWeight %d.", o.weight)
	}
	head := fmt.Sprintf("# Beside floods\n\nMedians of %d rounds of %d s, each on a fresh system. Nice value of uvswitch: %d.%s [README.md](../../README.md#beside-floods) explains the columns.\n\n", o.rounds, o.seconds, o.nice, inCgroups)
	if err := os.WriteFile(filepath.Join(o.out, "hostile.md"), []byte(head+table), 0o644); err != nil {
		return err
	}
	return hostilePlot(keys, cells, filepath.Join(o.out, "hostile"))
}

// hostileTable has one line for each flood and number of flooders.
func hostileTable(keys []cellKey, cells map[cellKey]*cell) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "| flood\t| ports\t| system\t| connections\t| to the kernel's\t| failed\t| stream\t| to the kernel's\t| p99, alone\t| p99\t| victim waits\t| worker runs\t| and waits\t|\n"+
		"|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	for _, k := range keys {
		c := cells[k]
		ratio := func(figure func(hostile.Result) float64) string {
			kernel := cells[cellKey{k.flood, k.flooders, "kernel"}]
			if kernel == nil || kernel == c {
				return ""
			}
			return fmt.Sprintf("%.2f", of(c.flooded, figure)/of(kernel.flooded, figure))
		}
		ran, waits := "", ""
		if k.system != "kernel" {
			ran, waits = fmt.Sprintf("%.2f", median(c.ran)), fmt.Sprintf("%.2f", median(c.waited))
		}
		fmt.Fprintf(w, "| %s\t| %d\t| %s\t| %.2f\t| %s\t| %d\t| %.2f\t| %s\t| %.1f ms\t| %.1f ms\t| %.2f\t| %s\t| %s\t|\n", k.flood, k.flooders, k.system,
			c.kept(connections), ratio(connections), c.failed(), c.kept(bulk), ratio(bulk), of(c.alone, requestP99), of(c.flooded, requestP99), of(c.flooded, waited), ran, waits)
	}
	w.Flush()
	return out.String()
}

// hostilePlot draws which part of its connections the victim keeps.
func hostilePlot(keys []cellKey, cells map[cellKey]*cell, file string) error {
	var bars []bar
	for _, k := range keys {
		var lo, hi float64
		for i, r := range cells[k].flooded {
			v := r.Connections / cells[k].polite[i].Connections
			if lo, hi = min(lo, v), max(hi, v); i == 0 {
				lo = v
			}
		}
		bars = append(bars, bar{fmt.Sprintf("%s, %d, %s", k.flood, k.flooders, k.system), cells[k].kept(connections), lo, hi})
	}
	return ratioPlot("Connections beside a flood, to those beside a polite neighbor (1: all)", bars, file)
}

// measure starts a system, and measures c1 alone, beside polite containers, and beside ones that flood.
func (c *cell) measure(ctx context.Context, k cellKey, o options) error {
	s := &system{name: k.system, directions: []string{"out"}, up: kernelUp, ways: 1, more: k.flooders - 1, weight: o.weight}
	switch k.system {
	case uvswitchName:
		s.up = uvswitchUp(o)
	case readWriteName:
		o.args = append(slices.Clone(o.args), "--io", "read-write")
		s.up = uvswitchUp(o)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(6*o.seconds)*time.Second+3*patience)
	defer cancel()
	defer s.down()
	if err := s.start(ctx); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for part, addr := range map[string]string{"out": "10.1.0.2", "c2": "172.29.0.3"} {
		if err := s.daemon(part, "listening", nil, self, helperFlag, "serve", addr); err != nil {
			return err
		}
	}
	// The three phases together open more connections than the kernel of c1 finds free ports for quickly.
	if err := s.command(ctx, "c1", "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535").Run(); err != nil {
		return err
	}
	senders, err := s.senders(ctx, k)
	if err != nil {
		return err
	}
	for _, phase := range []struct {
		mode string
		to   *[]hostile.Result
	}{{"", &c.alone}, {"polite", &c.polite}, {"flood", &c.flooded}} {
		fctx, stop := context.WithCancel(ctx)
		var running []func() error
		for _, sender := range senders {
			if phase.mode == "" {
				break
			}
			p := s.command(fctx, sender[0], append([]string{self, helperFlag, "flood", k.flood}, append(sender[1:], phase.mode)...)...)
			stdout, err := p.StdoutPipe()
			if err == nil {
				err = p.Start()
			}
			if err == nil {
				running = append(running, p.Wait)
				err = awaitLine(stdout, hostile.Ready)
			}
			if err != nil {
				stop()
				return err
			}
		}
		began, before := time.Now(), s.threads()
		out, err := s.command(ctx, "c1", self, helperFlag, "measure", "10.1.0.2", strconv.Itoa(o.seconds)).Output()
		after, took := s.threads(), time.Since(began)
		stop()
		for _, wait := range running {
			if e := wait(); e != nil && fctx.Err() == nil {
				err = errors.Join(err, e)
			}
		}
		var r hostile.Result
		if err == nil {
			err = json.Unmarshal(out, &r)
		}
		if err != nil {
			return fmt.Errorf("the victim: %w: %s %s", err, out, stderrOf(err))
		}
		if *phase.to = append(*phase.to, r); phase.mode == "flood" {
			var busiest hostile.Thread
			for id, t := range after {
				if t.Ran-before[id].Ran > busiest.Ran {
					busiest = hostile.Thread{Ran: t.Ran - before[id].Ran, Waited: t.Waited - before[id].Waited}
				}
			}
			c.ran, c.waited = append(c.ran, float64(busiest.Ran)/float64(took)), append(c.waited, float64(busiest.Waited)/float64(took))
		}
	}
	return nil
}

// threads returns the threads of the system's first program, if it has one.
func (s *system) threads() map[string]hostile.Thread {
	if s.name == "kernel" {
		return nil
	}
	return hostile.Threads(strconv.Itoa(s.procs[0].Process.Pid))
}

// senders returns the namespace of each sender, and its arguments: from, to, and the MAC of the next hop.
func (s *system) senders(ctx context.Context, k cellKey) (senders [][]string, err error) {
	f, err := hostile.Find(k.flood)
	if err != nil {
		return nil, err
	}
	if f.FromOutside {
		mac, err := s.neighbor(ctx, "out", "10.1.0.1")
		return [][]string{{"out", "10.1.0.2", "10.1.0.1", mac}}, err
	}
	for i := range k.flooders {
		c := s.containers()[i+1]
		mac, err := s.neighbor(ctx, c, "172.29.0.1")
		if err != nil {
			return nil, err
		}
		senders = append(senders, []string{c, fmt.Sprintf("172.29.0.%d", i+3), "10.1.0.2", mac})
	}
	return senders, nil
}

// neighbor returns the MAC of a neighbor.
func (s *system) neighbor(ctx context.Context, part, addr string) (string, error) {
	_ = s.command(ctx, part, "ping", "-c", "1", "-W", "1", addr).Run()
	neigh, err := s.command(ctx, part, "ip", "neigh", "show", addr).Output()
	_, rest, ok := strings.Cut(string(neigh), "lladdr ")
	if err != nil || !ok {
		return "", fmt.Errorf("%s does not know the MAC of %s: %w: %s", part, addr, err, neigh)
	}
	mac, _, _ := strings.Cut(rest, " ")
	return mac, nil
}
