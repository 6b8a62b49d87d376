package dataplane

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A port whose frames are dropped all the time does not push out the last drops of others, also those that a port refused late. The drops of a port
// that is removed stay.
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
	got := r.read(ids, func(fn func()) { fn() })
	if len(got) != 2+3*keptDrops || got[0].In != 3 || string(got[0].Head) != "quiet" || got[1].Out != 4 || got[2].Tick != 7+5000-keptDrops || got[len(got)-1].Tick != 5006 {
		t.Errorf("%d drops: %+v", len(got), got[:3])
	}
}
