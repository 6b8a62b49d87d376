package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/uvswitch/uvswitch/bench/hostile"
)

// The hostile matrix: c1 measures new connections, requests and a stream to the outside, while other containers flood. Each row says what c1
// keeps of what it has beside polite containers, which send the same packets at hostile.PoliteRate.

const readWriteName = uvswitchName + " --io read-write"

var hostileSystems = []string{"kernel", uvswitchName, readWriteName}

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
	all, err := newHostileResults(o)
	if err != nil {
		return err
	}
	began, done := time.Now(), 0
	for range o.rounds {
		round := all.Rounds + 1
		for _, k := range keys {
			sample, err := k.measure(ctx, o)
			if ctx.Err() != nil {
				return errors.New("interrupted; " + all.saved(o.out))
			}
			done++
			total := o.rounds * len(keys)
			if err != nil { // the other cells are worth their hours
				fmt.Fprintf(os.Stderr, "[%d/%d] %s, %d flooders, %s: this round does not count: %v\n", done, total, k.Flood, k.Flooders, k.System, err)
				continue
			}
			sample.Round = round
			all.add(k, sample)
			fmt.Fprintf(os.Stderr, "[%d/%d] %-24s %2d %-24s %5.0f of %5.0f connections/s, %5.0f of %5.0f MB/s, p99 %5.1f (alone %4.1f) ms; waits for a CPU: victim %.2f, worker %.2f of %.2f (%s left)\n",
				done, total, k.Flood, k.Flooders, k.System, sample.Flooded.Connections, sample.Polite.Connections, sample.Flooded.Bulk/1e6, sample.Polite.Bulk/1e6,
				sample.Flooded.RequestP99, sample.Alone.RequestP99, sample.Flooded.Waited, sample.WorkerWaited, sample.WorkerRan+sample.WorkerWaited,
				(time.Since(began) / time.Duration(done) * time.Duration(total-done)).Round(time.Second))
		}
		all.Rounds = round
		if err := all.write(o.out); err != nil {
			return err
		}
	}
	fmt.Print(all.table())
	return nil
}

// measure starts a system, and measures c1 alone, beside polite containers, and beside ones that flood.
func (k cellKey) measure(ctx context.Context, o options) (m hostileSample, err error) {
	s := &system{name: k.System, directions: []string{"out"}, up: kernelUp, ways: 1, more: k.Flooders - 1, weight: o.weight}
	switch k.System {
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
		return m, err
	}
	self, err := os.Executable()
	if err != nil {
		return m, err
	}
	for part, addr := range map[string]string{"out": "10.1.0.2", "c2": "172.29.0.3"} {
		if err := s.daemon(part, "listening", nil, self, helperFlag, "serve", addr); err != nil {
			return m, err
		}
	}
	// The three phases together open more connections than the kernel of c1 finds free ports for quickly.
	if err := s.command(ctx, "c1", "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535").Run(); err != nil {
		return m, err
	}
	senders, err := s.senders(ctx, k)
	if err != nil {
		return m, err
	}
	for _, phase := range []struct {
		mode string
		to   *hostile.Result
	}{{"", &m.Alone}, {"polite", &m.Polite}, {"flood", &m.Flooded}} {
		fctx, stop := context.WithCancel(ctx)
		var running []func() error
		begin := func() {}
		if phase.mode != "" {
			if running, begin, err = s.startSenders(fctx, senders, self, k.Flood, phase.mode); err != nil {
				stop()
				return m, errors.Join(err, awaitKilled(running))
			}
		}
		begin()
		began, before := time.Now(), s.threads()
		out, err := s.command(ctx, "c1", self, helperFlag, "measure", "10.1.0.2", strconv.Itoa(o.seconds)).Output()
		after, took := s.threads(), time.Since(began)
		stop()
		if err == nil {
			err = json.Unmarshal(out, phase.to)
		}
		if err != nil {
			err = fmt.Errorf("the victim: %w: %s %s", err, out, stderrOf(err))
		}
		if err = errors.Join(err, awaitKilled(running)); err != nil {
			return m, err
		}
		if phase.mode == "flood" {
			var busiest hostile.Thread
			for id, t := range after {
				if t.Ran-before[id].Ran > busiest.Ran {
					busiest = hostile.Thread{Ran: t.Ran - before[id].Ran, Waited: t.Waited - before[id].Waited}
				}
			}
			m.WorkerRan, m.WorkerWaited = float64(busiest.Ran)/float64(took), float64(busiest.Waited)/float64(took)
		}
	}
	return m, nil
}

// startSenders starts senders, and returns when all are ready. They send once begin is called, until ctx is done. waits wait for those that have started.
func (s *system) startSenders(ctx context.Context, senders [][]string, self, flood, mode string) (waits []func() error, begin func(), err error) {
	var inputs []io.Closer
	var outputs []io.Reader
	for _, sender := range senders {
		p := s.command(ctx, sender[0], append([]string{self, helperFlag, "flood", flood}, append(sender[1:], mode)...)...)
		stdin, errIn := p.StdinPipe()
		stdout, errOut := p.StdoutPipe()
		if err := errors.Join(errIn, errOut); err != nil {
			return waits, nil, err
		}
		if err := p.Start(); err != nil {
			return waits, nil, err
		}
		waits, inputs, outputs = append(waits, p.Wait), append(inputs, stdin), append(outputs, stdout)
	}
	for _, stdout := range outputs {
		if err := awaitLine(stdout, hostile.Ready); err != nil {
			return waits, nil, err
		}
	}
	return waits, func() {
		for _, in := range inputs {
			in.Close()
		}
	}, nil
}

// awaitKilled waits for senders that were killed. One that ended before has an error.
func awaitKilled(waits []func() error) (err error) {
	for _, wait := range waits {
		e := wait()
		var exit *exec.ExitError
		if errors.As(e, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			continue
		}
		err = errors.Join(err, fmt.Errorf("a sender ended early: %w %s", e, stderrOf(e)))
	}
	return err
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
	f, err := hostile.Find(k.Flood)
	if err != nil {
		return nil, err
	}
	if f.FromOutside {
		mac, err := s.neighbor(ctx, "out", "10.1.0.1")
		return [][]string{{"out", "10.1.0.2", "10.1.0.1", mac}}, err
	}
	for i := range k.Flooders {
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
