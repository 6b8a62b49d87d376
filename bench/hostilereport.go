package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/uvswitch/uvswitch/bench/hostile"
)

// hostileResults are all rounds of the hostile matrix. A later run can add rounds to them (-continue): hours of a quiet machine are rare.
type hostileResults struct {
	Settings hostileSettings `json:"settings"`
	Rounds   int             `json:"rounds"` // all rounds; a cell has a sample of each round that selected it and did not fail
	Cells    []*cell         `json:"cells"`
}

// hostileSettings are those options that must be the same in all rounds.
type hostileSettings struct {
	Seconds int    `json:"seconds"`
	Nice    int    `json:"nice"`
	Weight  int    `json:"weight"`
	Args    string `json:"args"`
}

type cellKey struct {
	Flood    string `json:"flood"`
	Flooders int    `json:"flooders"`
	System   string `json:"system"`
}

// A cell is what was measured of one flood, number of flooders and system.
type cell struct {
	cellKey
	Samples []hostileSample `json:"samples"`
}

// A hostileSample is what one round measured of a cell.
type hostileSample struct {
	Round        int            `json:"round"`
	Alone        hostile.Result `json:"alone"`
	Polite       hostile.Result `json:"polite"`
	Flooded      hostile.Result `json:"flooded"`
	WorkerRan    float64        `json:"worker_ran"`    // of the busiest thread of uvswitch beside the flood: part of the time
	WorkerWaited float64        `json:"worker_waited"` // likewise, for a CPU
}

func connections(r hostile.Result) float64 { return r.Connections }
func bulk(r hostile.Result) float64        { return r.Bulk }

const hostileName = "hostile" // of the files, without what follows the dot

// newHostileResults returns results without rounds; with -continue, those of an earlier run.
func newHostileResults(o options) (*hostileResults, error) {
	settings := hostileSettings{Seconds: o.seconds, Nice: o.nice, Weight: o.weight, Args: strings.Join(o.args, " ")}
	r := &hostileResults{Settings: settings}
	if !o.goOn {
		return r, nil
	}
	if o.out == "" {
		return nil, errors.New("-continue adds rounds to those in the directory of -out; give -out, too")
	}
	file := filepath.Join(o.out, hostileName+".json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Settings != settings {
		return nil, fmt.Errorf("%s has rounds with other settings (%+v, and now %+v), which cannot be compared: use another directory for -out", file, r.Settings, settings)
	}
	return r, nil
}

func (r *hostileResults) add(k cellKey, s hostileSample) {
	c := r.cell(k)
	if c == nil {
		c = &cell{cellKey: k}
		r.Cells = append(r.Cells, c)
	}
	c.Samples = append(c.Samples, s)
}

func (r *hostileResults) cell(k cellKey) *cell {
	for _, c := range r.Cells {
		if c.cellKey == k {
			return c
		}
	}
	return nil
}

// saved says what an interrupted run leaves.
func (r *hostileResults) saved(dir string) string {
	if dir == "" || r.Rounds == 0 {
		return "nothing was written"
	}
	return fmt.Sprintf("%d whole rounds are in %s; -continue adds more", r.Rounds, dir)
}

// of returns the median of one figure.
func (c *cell) of(figure func(hostileSample) float64) float64 {
	var v []float64
	for _, s := range c.Samples {
		v = append(v, figure(s))
	}
	return median(v)
}

// kept returns the parts that the victim keeps beside a flood, of what it has beside polite containers: one for each round.
func (c *cell) kept(figure func(hostile.Result) float64) (parts []float64) {
	for _, s := range c.Samples {
		parts = append(parts, figure(s.Flooded)/figure(s.Polite))
	}
	return parts
}

// to returns what the victim has beside a flood, as a part of what it has with another system in the same round: one for each round.
func (c *cell) to(other *cell, figure func(hostile.Result) float64) (parts []float64) {
	for _, s := range c.Samples {
		for _, o := range other.Samples {
			if o.Round == s.Round {
				parts = append(parts, figure(s.Flooded)/figure(o.Flooded))
			}
		}
	}
	return parts
}

func (c *cell) failed() (n int) {
	for _, s := range c.Samples {
		n += s.Flooded.Failed
	}
	return n
}

// sorted returns the cells in the order of the floods, numbers of flooders and systems.
func (r *hostileResults) sorted() []*cell {
	place := func(c *cell) [3]int {
		flood := slices.IndexFunc(hostile.Floods, func(f hostile.Flood) bool { return f.Name == c.Flood })
		return [3]int{flood, c.Flooders, slices.Index(hostileSystems, c.System)}
	}
	return slices.SortedFunc(slices.Values(r.Cells), func(a, b *cell) int {
		pa, pb := place(a), place(b)
		return slices.Compare(pa[:], pb[:])
	})
}

// table has one line for each flood, number of flooders and system: the medians of the rounds.
func (r *hostileResults) table() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "| flood\t| ports\t| system\t| rounds\t| connections\t| to the kernel's\t| failed\t| stream\t| to the kernel's\t| p99, alone\t| p99\t| victim waits\t| worker runs\t| and waits\t|\n"+
		"|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	for _, c := range r.sorted() {
		ratio := func(figure func(hostile.Result) float64) string {
			kernel := r.cell(cellKey{c.Flood, c.Flooders, "kernel"})
			if kernel == nil || kernel == c {
				return ""
			}
			return fmt.Sprintf("%.2f", median(c.to(kernel, figure)))
		}
		ran, waits := "", ""
		if c.System != "kernel" {
			ran = fmt.Sprintf("%.2f", c.of(func(s hostileSample) float64 { return s.WorkerRan }))
			waits = fmt.Sprintf("%.2f", c.of(func(s hostileSample) float64 { return s.WorkerWaited }))
		}
		fmt.Fprintf(w, "| %s\t| %d\t| %s\t| %d\t| %.2f\t| %s\t| %d\t| %.2f\t| %s\t| %.1f ms\t| %.1f ms\t| %.2f\t| %s\t| %s\t|\n", c.Flood, c.Flooders, c.System, len(c.Samples),
			median(c.kept(connections)), ratio(connections), c.failed(), median(c.kept(bulk)), ratio(bulk),
			c.of(func(s hostileSample) float64 { return s.Alone.RequestP99 }), c.of(func(s hostileSample) float64 { return s.Flooded.RequestP99 }),
			c.of(func(s hostileSample) float64 { return s.Flooded.Waited }), ran, waits)
	}
	w.Flush()
	return out.String()
}

// plot draws which part of its connections the victim keeps.
func (r *hostileResults) plot(file string) error {
	var bars []bar
	for _, c := range r.sorted() {
		kept := c.kept(connections)
		bars = append(bars, bar{fmt.Sprintf("%s, %d, %s", c.Flood, c.Flooders, c.System), median(kept), slices.Min(kept), slices.Max(kept)})
	}
	return ratioPlot("Connections beside a flood, to those beside a polite neighbor (1: all)", bars, file)
}

// write writes all rounds, the table and the plot into a directory; if it is "", nothing.
func (r *hostileResults) write(dir string) error {
	if dir == "" {
		return nil
	}
	inCgroups := ""
	if r.Settings.Weight != 0 {
		inCgroups = fmt.Sprintf(" Each container has a cgroup; uvswitch has CPUWeight %d.", r.Settings.Weight)
	}
	head := fmt.Sprintf("# Beside floods\n\nMedians of rounds of %d s, each on a fresh system; a ratio is of one round. Nice value of uvswitch: %d.%s [README.md](../../README.md#beside-floods) explains the columns.\n\n",
		r.Settings.Seconds, r.Settings.Nice, inCgroups)
	if err := writeResults(dir, hostileName, r, head+r.table()); err != nil {
		return err
	}
	return r.plot(filepath.Join(dir, hostileName))
}
