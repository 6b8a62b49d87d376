package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A path is one way of traffic that is measured, from a client's namespace to a server's.
type path struct {
	name, client, server, address string
	streams                       int
}

// Outside is 10.1.0.2, the host 10.1.0.1, the containers 172.29.0.2 and .3; port 5201 of c1 is published.
var paths = []path{
	{"L2, 1 stream", "c1", "c2", "172.29.0.3", 1},
	{"L2, 4 streams", "c1", "c2", "172.29.0.3", 4},
	{"NAT out, 1 stream", "c1", "out", "10.1.0.2", 1},
	{"NAT out, 4 streams", "c1", "out", "10.1.0.2", 4},
	{"NAT in (published), 1 stream", "out", "c1", "10.1.0.1", 1},
}

// A result is what one path reached through one system, a figure per round.
type result struct {
	Path        string    `json:"path"`
	System      string    `json:"system"`
	Gbps        []float64 `json:"gbit_per_second"`
	Retransmits []int     `json:"retransmits"`
}

func main() {
	rounds := flag.Int("rounds", 5, "rounds; the systems take turns in each")
	seconds := flag.Int("seconds", 3, "seconds of traffic per measurement")
	quick := flag.Bool("quick", false, "3 rounds of 1 second")
	only := flag.String("only", "", "only paths whose name contains this")
	out := flag.String("json", "", "write the raw figures to this file")
	binary := flag.String("uvswitch", "bin/uvswitch", "the uvswitch to measure")
	args := flag.String("args", "", "further arguments of uvswitch run, such as \"--workers 1\"")
	flag.Parse()
	if *quick {
		*rounds, *seconds = 3, 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, *seconds, *only, *out, *binary, strings.Fields(*args)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds, seconds int, only, out, binary string, args []string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces, which needs root; try sudo")
	}
	for _, tool := range []string{"ip", "iperf3", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (`make deps`)", tool)
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	systems := []*system{{name: "kernel", up: kernelUp}, {name: "uvswitch", up: uvswitchUp(binary, args)}}
	for _, s := range systems {
		defer s.down()
		if err := s.start(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	var results []*result
	for _, p := range paths {
		if !strings.Contains(p.name, only) {
			continue
		}
		for _, s := range systems {
			results = append(results, &result{Path: p.name, System: s.name})
		}
	}
	for r := range rounds {
		for i, res := range results {
			s := systems[i%len(systems)]
			p := paths[slices.IndexFunc(paths, func(p path) bool { return p.name == res.Path })]
			gbps, retr, err := s.measure(ctx, p, seconds)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", p.name, s.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %-30s %-9s %6.2f Gbit/s, %d retransmits\n", r+1, rounds, p.name, s.name, gbps, retr)
			res.Gbps, res.Retransmits = append(res.Gbps, gbps), append(res.Retransmits, retr)
		}
	}
	table(results, rounds, seconds)
	if out == "" {
		return nil
	}
	b, err := json.MarshalIndent(map[string]any{"rounds": rounds, "seconds": seconds, "cpus": runtime.NumCPU(), "kernel": kernelVersion(), "results": results}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o644)
}

func kernelVersion() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// table prints medians, ratios and their spread as Markdown.
func table(results []*result, rounds, seconds int) {
	fmt.Printf("%d rounds of %d s, TCP by iperf3, %d CPUs, Linux %s\n\n", rounds, seconds, runtime.NumCPU(), kernelVersion())
	fmt.Println("| path | kernel, Gbit/s | uvswitch, Gbit/s | ratio of medians | ratios of the rounds | retransmits kernel / uvswitch |")
	fmt.Println("|---|---|---|---|---|---|")
	for i := 0; i+1 < len(results); i += 2 {
		k, u := results[i], results[i+1]
		lo, hi := 1e9, 0.0
		for r := range k.Gbps {
			lo, hi = min(lo, u.Gbps[r]/k.Gbps[r]), max(hi, u.Gbps[r]/k.Gbps[r])
		}
		fmt.Printf("| %s | %.2f | %.2f | **%.2f** | %.2f to %.2f | %d / %d |\n", k.Path, median(k.Gbps), median(u.Gbps),
			median(u.Gbps)/median(k.Gbps), lo, hi, sum(k.Retransmits), sum(u.Retransmits))
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

func sum(v []int) (n int) {
	for _, x := range v {
		n += x
	}
	return n
}

// measure runs one iperf3 from client to server.
func (s *system) measure(ctx context.Context, p path, seconds int) (gbps float64, retransmits int, err error) {
	limit := time.Duration(seconds+20) * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	server := s.command(ctx, p.server, "iperf3", "-s", "-1", "--forceflush")
	said, err := server.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	if err := server.Start(); err != nil {
		return 0, 0, err
	}
	defer func() { cancel(); _ = server.Wait() }() // it ends by itself after one client
	if err := awaitLine(said, "listening"); err != nil {
		return 0, 0, err
	}
	out, err := s.command(ctx, p.client, "iperf3", "-J", "-c", p.address, "-t", fmt.Sprint(seconds), "-P", fmt.Sprint(p.streams)).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("iperf3: %w: %s", err, out)
	}
	var v struct {
		End struct {
			SumSent     struct{ Retransmits int } `json:"sum_sent"`
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return 0, 0, fmt.Errorf("iperf3's answer: %w", err)
	}
	return v.End.SumReceived.BitsPerSecond / 1e9, v.End.SumSent.Retransmits, nil
}
