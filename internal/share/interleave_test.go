//go:build interleave

package share

import (
	"fmt"
	"testing"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// Two ports take and return units while each stands near its floor. The test plays every order of the atomic operations. After each order, the number of units that can be lent must be right.
func TestInterleaveTake(t *testing.T) {
	var p Pool
	p.Divide(4*minPorts, Among{Ports: minPorts}, 0) // floors of two
	for _, id := range []frame.PortID{1, 1, 2} {
		p.Take(id)
	}
	thread := func(id frame.PortID) func() {
		return func() {
			if p.Take(id) {
				p.Return(id)
			}
			p.Take(id)
		}
	}
	check := func() error {
		held, left := [3]int{}, p.left.Load()
		for id := range held {
			held[id] = p.Held(frame.PortID(id))
		}
		if p.Settle(); p.left.Load() != left || held[0] != 0 {
			return fmt.Errorf("ports hold %v, %d are left to lend, counted %d", held, p.left.Load(), left)
		}
		return nil
	}
	for _, ids := range [][2]frame.PortID{{1, 1}, {1, 2}, {2, 2}} {
		runs, err := atomic.Explore([]func(){thread(ids[0]), thread(ids[1])}, 5, check)
		if t.Logf("ports %v: %d runs", ids, runs); err != nil {
			t.Fatal(err)
		}
	}
}
