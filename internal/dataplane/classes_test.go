package dataplane

import "testing"

// A device floods if it drops as much as is read, and if what its owner sends would take much of the worker's time. What the switch chooses to read
// makes no flood of a sender.
func TestDeviceFloods(t *testing.T) {
	for name, c := range map[string]struct {
		offered, read, size uint64 // in each window
		want                bool
	}{
		"short frames":             {5000, 100, 60, true},
		"super-frames":             {500, 10, 60000, true},
		"super-frames, unread":     {500, 0, 60000, true},
		"a steady sender, unread":  {200, 0, 200, false},
		"a steady sender":          {500, 20, 200, false},
		"TCP that loses something": {3000, 2900, 1500, false},
		"all is read":              {5000, 5000, 60, false},
	} {
		var d device
		var offered, frames, bytes uint64
		next := func(o, r uint64) bool {
			offered, frames, bytes = offered+o, frames+r, bytes+r*c.size
			return d.floods(offered, frames, bytes, turnWindow)
		}
		if next(1e6, 1000) {
			t.Errorf("%s: what was before the first window counts", name)
		}
		next(10, 10) // so that the size of its frames is known
		got := false
		for range 20 {
			got = next(c.offered, c.read)
		}
		if got != c.want {
			t.Errorf("%s: floods %v", name, got)
		}
	}
}
