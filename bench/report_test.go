package main

import (
	"math"
	"testing"
)

// The interval contains the mean, is narrow for numbers that are alike, and wide for few that are not.
func TestInterval(t *testing.T) {
	logs := func(v ...float64) (out []float64) {
		for _, x := range v {
			out = append(out, math.Log(x))
		}
		return out
	}
	for _, x := range []struct {
		logs        []float64
		mid, lo, hi float64
	}{
		{logs(1.2, 1.2, 1.2), 1.2, 1.2, 1.2},
		{logs(0.5, 2), 1, 0.5, 2},
		{logs(0.9, 1, 1, 1, 1, 1, 1, 1, 1/0.9), 1, 0.97, 1.03},
		{nil, 0, 0, 0},
	} {
		mid, lo, hi := interval(x.logs)
		if math.Abs(mid-x.mid) > 1e-9 || math.Abs(lo-x.lo) > 0.02 || math.Abs(hi-x.hi) > 0.02 {
			t.Errorf("%v: %.3f (%.3f to %.3f), want %v (%v to %v)", x.logs, mid, lo, hi, x.mid, x.lo, x.hi)
		}
	}
	u := &series{Samples: []sample{{Round: 1, Value: 40}, {Round: 2, Value: 80}}}
	o := &series{Lower: true, Samples: []sample{{Round: 2, Value: 100}, {Round: 1, Value: 50}, {Round: 3, Value: 1}}}
	if mid, lo, hi := ratio(u, o); math.Abs(mid-1.25) > 1e-9 || lo != hi {
		t.Errorf("times that are 0.8 of the other's: %v (%v to %v)", mid, lo, hi)
	}
}
