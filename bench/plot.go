package main

import (
	"image/color"
	"math"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

var blue = color.RGBA{0x2b, 0x6c, 0xb0, 0xff}

// plots draws the ratios of each direction, and the cost of a frame against the numbers of flows and ports, into dir.
func (r *report) plots(dir string) error {
	for _, d := range directions {
		var bars []bar
		for _, m := range metrics {
			for _, name := range systemNames {
				u, o := r.find(d.name, m.name, uvswitchName), r.find(d.name, m.name, name)
				if u != nil && o != nil && name != uvswitchName {
					mid, lo, hi := ratio(u, o)
					bars = append(bars, bar{m.name + ", " + name, mid, lo, hi})
				}
			}
		}
		if len(bars) > 0 {
			if err := ratioPlot("uvswitch to others, "+d.name+" (1: level; to the right: ahead)", bars, filepath.Join(dir, "ratios-"+strings.ReplaceAll(d.name, " ", "-"))); err != nil {
				return err
			}
		}
	}
	if r.Micro == nil {
		return nil
	}
	if err := costPlot("A frame's whole way in user space, translated", "flows, each frame of another", "ns", r.Micro.Flows, filepath.Join(dir, "cost-flows")); err != nil {
		return err
	}
	return costPlot("A frame's whole way in user space, switched", "ports", "ns", r.Micro.Ports, filepath.Join(dir, "cost-ports"))
}

type bar struct {
	name        string
	mid, lo, hi float64
}

// ratioPlot draws horizontal bars that start at 1, on a logarithmic scale. A line shows the spread of the rounds.
func ratioPlot(title string, bars []bar, file string) error {
	p := plot.New()
	p.Title.Text = title
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = plot.ConstantTicks(ratioTicks)
	n := len(bars)
	names := make([]string, n)
	least, most := 0.5, 2.0
	for i, b := range bars {
		y := float64(n - 1 - i)
		names[n-1-i] = b.name
		least, most = min(least, b.lo, b.mid), max(most, b.hi, b.mid)
		for _, l := range []struct {
			from, to float64
			width    vg.Length
			c        color.Color
		}{{1, b.mid, 9, blue}, {b.lo, b.hi, 1.5, color.Black}} {
			line, err := plotter.NewLine(plotter.XYs{{X: l.from, Y: y}, {X: l.to, Y: y}})
			if err != nil {
				return err
			}
			line.Width, line.Color = l.width, l.c
			p.Add(line)
		}
	}
	level, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.7}, {X: 1, Y: float64(n) - 0.3}})
	if err != nil {
		return err
	}
	p.Add(level)
	p.NominalY(names...)
	p.X.Min, p.X.Max = least/1.1, most*1.1
	return save(p, 10*vg.Inch, vg.Length(n)*0.28*vg.Inch+vg.Inch, file)
}

var ratioTicks = func() (t []plot.Tick) {
	for _, v := range []struct {
		at    float64
		label string
	}{{0.125, "1/8"}, {0.25, "1/4"}, {0.5, "1/2"}, {1, "1"}, {2, "2"}, {4, "4"}, {8, "8"}, {16, "16"}, {32, "32"}, {64, "64"}, {128, "128"}} {
		t = append(t, plot.Tick{Value: v.at, Label: v.label})
	}
	return t
}()

func costPlot(title, x, y string, points []point, file string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	var xy plotter.XYs
	most := 0.0
	for _, q := range points {
		xy = append(xy, plotter.XY{X: float64(q.N), Y: q.Ns})
		most = math.Max(most, q.Ns)
	}
	line, dots, err := plotter.NewLinePoints(xy)
	if err != nil {
		return err
	}
	line.Color, dots.Color = blue, blue
	p.Add(plotter.NewGrid(), line, dots)
	p.Y.Min, p.Y.Max = 0, most*1.2
	return save(p, 6*vg.Inch, 3.5*vg.Inch, file)
}

func save(p *plot.Plot, w, h vg.Length, file string) error {
	for _, kind := range []string{".png", ".svg"} {
		if err := p.Save(w, h, file+kind); err != nil {
			return err
		}
	}
	return nil
}
