package dataplane

import (
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A port whose frames are dropped all the time does not push out the last drops of others, also those that a port refused late. The drops of a port
// that is removed stay, as long as no newer ones of such ports push them out.
func TestRecentOfOthers(t *testing.T) {
	var r recent
	ids := []frame.PortID{2, 3, 4, 3 + 16, 3 + 64}
	for _, id := range ids {
		r.addPort(id)
	}
	r.add(5, 3, frame.NoPort, frame.NoRoute, 60, []byte("quiet"))
	r.add(6, frame.NoPort, 4, frame.TxQueueFull, 60, nil)
	for i := range 5000 {
		for _, id := range []frame.PortID{2, 3 + 16, 3 + 64} {
			r.add(frame.Tick(7+i), id, frame.NoPort, frame.GuardSourceMAC, 60, []byte("loud"))
		}
	}
	r.add(6000, 2, frame.NoPort, frame.AckSuperseded, 60, nil)
	r.removePort(3)
	r.add(6001, frame.Gateway, frame.NoPort, frame.NoRoute, 60, []byte("gateway"))
	r.addPort(5)
	for range 2 * keptDrops {
		r.add(4, 5, frame.NoPort, frame.NoRoute, 60, []byte("older"))
	}
	r.removePort(5)
	got := r.read(ids, func(fn func()) { fn() })
	got = slices.DeleteFunc(got, func(d Drop) bool { return d.In == 5 })
	if last := len(got) - 1; len(got) != 3+3*keptDrops || got[0].In != 3 || string(got[0].Head) != "quiet" || got[1].Out != 4 || got[2].Tick != 7+5000-keptDrops || got[last-1].Tick != 5006 || got[last].In != frame.Gateway {
		t.Errorf("%d drops: %+v", len(got), got[:3])
	}
}
