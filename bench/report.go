package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A series holds the samples of one step, one per round. A round that failed has no sample.
type series struct {
	Direction string   `json:"direction"`
	Metric    string   `json:"metric"`
	Unit      string   `json:"unit"`
	System    string   `json:"system"`
	Lower     bool     `json:"lower_is_better,omitempty"`
	Samples   []sample `json:"samples"`
	Failures  []string `json:"failures,omitempty"`
}

// A report holds all results, and the machine and programs that were measured.
type report struct {
	Rounds     int               `json:"rounds"`
	Seconds    int               `json:"seconds"`
	CPUs       int               `json:"cpus"`
	CPU        string            `json:"cpu"`
	Kernel     string            `json:"kernel"`
	Congestion string            `json:"congestion_control"`
	Arguments  []string          `json:"uvswitch_arguments,omitempty"`
	Versions   map[string]string `json:"versions"`
	Skipped    map[string]string `json:"skipped,omitempty"`
	Series     []*series         `json:"series"`
	Memory     *memoryUse        `json:"memory,omitempty"`
	Idle       *idleUse          `json:"idle,omitempty"`
	Micro      *microResult      `json:"micro,omitempty"`
}

func newReport(o options) *report {
	r := &report{
		Rounds: o.rounds, Seconds: o.seconds, CPUs: runtime.NumCPU(), CPU: cpuModel(), Kernel: readLine("/proc/sys/kernel/osrelease"),
		Congestion: o.congestion, Arguments: o.args, Versions: map[string]string{}, Skipped: map[string]string{},
	}
	if r.Congestion == "" {
		r.Congestion = readLine("/proc/sys/net/ipv4/tcp_congestion_control")
	}
	return r
}

func readLine(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func cpuModel() string {
	_, rest, _ := strings.Cut(readLine("/proc/cpuinfo"), "model name\t: ")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func (r *report) skip(system, why string) {
	fmt.Fprintf(os.Stderr, "%s is left out: %s\n", system, why)
	r.Skipped[system] = why
}

func (r *report) of(p step) *series {
	for _, s := range r.Series {
		if s.Direction == p.direction.name && s.Metric == p.metric.name && s.System == p.system.name {
			return s
		}
	}
	s := &series{Direction: p.direction.name, Metric: p.metric.name, Unit: p.metric.unit, Lower: p.metric.lower, System: p.system.name}
	r.Series = append(r.Series, s)
	return s
}

func (r *report) add(p step, v sample) {
	s := r.of(p)
	s.Samples = append(s.Samples, v)
}

func (r *report) fail(p step, err error) {
	s := r.of(p)
	s.Failures = append(s.Failures, err.Error())
}

func (r *report) find(direction, metric, system string) *series {
	for _, s := range r.Series {
		if s.Direction == direction && s.Metric == metric && s.System == system && len(s.Samples) > 0 {
			return s
		}
	}
	return nil
}

func (s *series) values() (v []float64) {
	for _, x := range s.Samples {
		v = append(v, x.Value)
	}
	return v
}

func (s *series) median() float64 { return median(s.values()) }

func (s *series) cores() float64 {
	var v []float64
	for _, x := range s.Samples {
		v = append(v, x.Cores)
	}
	return median(v)
}

func (s *series) retransmits() (n int) {
	for _, x := range s.Samples {
		n += x.Retransmits
	}
	return n
}

// ratio compares uvswitch (u) with another system, round by round. mid is the geometric mean of the rounds' ratios, and lo to hi its 95 %
// confidence interval. Above 1, uvswitch is better, for times as well.
func ratio(u, other *series) (mid, lo, hi float64) {
	var logs []float64
	for _, a := range u.Samples {
		for _, b := range other.Samples {
			switch q := math.Log(a.Value / b.Value); {
			case a.Round != b.Round || math.IsNaN(q) || math.IsInf(q, 0): // a failed measurement is 0
			case other.Lower:
				logs = append(logs, -q)
			default:
				logs = append(logs, q)
			}
		}
	}
	return interval(logs)
}

// interval returns the geometric mean of numbers that are given by their logarithms, and its 95 % confidence interval by the bootstrap (Efron
// and Tibshirani, An Introduction to the Bootstrap, 1993): the means of many samples, each of as many numbers, drawn with replacement.
func interval(logs []float64) (mid, lo, hi float64) {
	if len(logs) == 0 {
		return 0, 0, 0
	}
	mean := func(at func(i int) float64) float64 {
		sum := 0.0
		for i := range logs {
			sum += at(i)
		}
		return math.Exp(sum / float64(len(logs)))
	}
	const samples = 10000
	rnd := rand.New(rand.NewPCG(1, 1)) // the same numbers give the same interval
	means := make([]float64, samples)
	for i := range means {
		means[i] = mean(func(int) float64 { return logs[rnd.IntN(len(logs))] })
	}
	slices.Sort(means)
	return mean(func(i int) float64 { return logs[i] }), means[samples*25/1000], means[samples*975/1000]
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// table writes all results as Markdown: for each direction the ratios, then the figures themselves.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "%d rounds of %d s, %d CPUs (%s), Linux %s, congestion control %s.\n", r.Rounds, r.Seconds, r.CPUs, r.CPU, r.Kernel, r.Congestion)
	fmt.Fprintf(w, "Ratios are uvswitch to the other: the geometric mean of the rounds, with its 95 %% interval in brackets; above 1 uvswitch is ahead, for times too.\n")
	for _, d := range directions {
		if !slices.ContainsFunc(r.Series, func(s *series) bool { return s.Direction == d.name }) {
			continue
		}
		fmt.Fprintf(w, "\n### %s\n\n| against |", d.title)
		for _, m := range metrics {
			fmt.Fprintf(w, " %s |", m.name)
		}
		fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(metrics)))
		for _, name := range systemNames {
			if name != uvswitchName && slices.ContainsFunc(r.Series, func(s *series) bool { return s.Direction == d.name && s.System == name }) {
				r.ratioRow(w, d.name, name)
			}
		}
		fmt.Fprintln(w, "\n| system | measured | median | least to most | CPUs busy | per busy CPU | retransmits |\n|---|---|---|---|---|---|---|")
		for _, m := range metrics {
			for _, name := range systemNames {
				r.figureRow(w, d.name, m, name)
			}
		}
	}
	r.rest(w)
}

func (r *report) ratioRow(w io.Writer, d, name string) {
	fmt.Fprintf(w, "| %s |", name)
	for _, m := range metrics {
		u, o := r.find(d, m.name, uvswitchName), r.find(d, m.name, name)
		if u == nil || o == nil {
			fmt.Fprint(w, " - |")
			continue
		}
		mid, lo, hi := ratio(u, o)
		note := ""
		if !m.lower && mid > 0.95 && u.median()/u.cores() < 0.95*o.median()/o.cores() {
			note = ", with more CPU" // equal or better, but with less per busy CPU
		}
		fmt.Fprintf(w, " **%.2f** (%.2f to %.2f%s) |", mid, lo, hi, note)
	}
	fmt.Fprintln(w)
}

func (r *report) figureRow(w io.Writer, d string, m *metric, name string) {
	s := r.find(d, m.name, name)
	if s == nil {
		for _, f := range r.Series {
			if f.Direction == d && f.Metric == m.name && f.System == name {
				fmt.Fprintf(w, "| %s | %s | failed: %s | | | | |\n", name, m.name, f.Failures[0])
			}
		}
		return
	}
	per, retr := "", ""
	if !m.lower {
		per = m.format(s.median() / s.cores())
	}
	if strings.HasPrefix(m.name, "TCP, ") {
		retr = fmt.Sprint(s.retransmits())
	}
	v := s.values()
	failed := ""
	if len(s.Failures) > 0 {
		failed = fmt.Sprintf(" (%d failed)", len(s.Failures))
	}
	fmt.Fprintf(w, "| %s | %s | %s%s | %s to %s | %.2f | %s | %s |\n", name, m.name, m.format(s.median()), failed, m.format(slices.Min(v)), m.format(slices.Max(v)), s.cores(), per, retr)
}

func (r *report) rest(w io.Writer) {
	if m := r.Memory; m != nil {
		fmt.Fprintf(w, "\n### Memory\n\nResident without the program itself: %.1f MiB at rest, and %.1f MiB with %d flows of %d wanted.\n", mib(m.AtRest), mib(m.WithFlows), m.Flows, m.FlowsWanted)
	}
	if u := r.Idle; u != nil {
		fmt.Fprintf(w, "\n### Memory\n\nResident without the program itself: %.1f MiB at rest, and %.1f MiB with %d idle connections.\n", mib(u.AtRest), mib(u.With), u.Connections)
	}
	if m := r.Micro; m != nil {
		m.table(w)
	}
	fmt.Fprint(w, "\n### What was measured\n\n")
	for _, name := range systemNames {
		if v, ok := r.Versions[name]; ok {
			fmt.Fprintf(w, "- %s: %s\n", name, v)
		}
		if why, ok := r.Skipped[name]; ok {
			fmt.Fprintf(w, "- %s was left out: %s\n", name, why)
		}
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// write writes results.json, results.md and the plots into directory dir.
func (r *report) write(dir string) error {
	var text strings.Builder
	r.table(&text)
	if err := writeResults(dir, "results", r, text.String()); err != nil {
		return err
	}
	if err := r.plots(dir); err != nil {
		return fmt.Errorf("plots: %w", err)
	}
	fmt.Fprintln(os.Stderr, "written to", dir)
	return nil
}

// writeResults writes v into NAME.json, and a text into NAME.md, in directory dir.
func writeResults(dir, name string, v any, text string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".md"), []byte(text), 0o644)
}

func flowsUsed(stats []byte) (int, error) {
	var s struct {
		Tables struct {
			Flows struct{ Used int }
		}
	}
	err := json.Unmarshal(stats, &s)
	return s.Tables.Flows.Used, err
}
