package dataplane

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A port whose frames are dropped all the time does not push out the last drops of others, also those that a port refused late.
func TestRecentOfOthers(t *testing.T) {
	var r recent
	r.add(5, 3, frame.NoPort, frame.NoRoute, 60, []byte("quiet"))
	r.add(6, frame.NoPort, 4, frame.TxQueueFull, 60, nil)
	for i := range 5000 {
		r.add(frame.Tick(7+i), 2, frame.NoPort, frame.GuardSourceMAC, 60, []byte("loud"))
	}
	r.add(6000, 2, frame.NoPort, frame.AckSuperseded, 60, nil)
	got := r.last(nil)
	if len(got) != 2+keptDrops || got[0].In != 3 || string(got[0].Head) != "quiet" || got[1].Out != 4 || got[2].Tick != 7+5000-keptDrops || got[len(got)-1].Tick != 5006 {
		t.Errorf("%d drops: %+v", len(got), got[:3])
	}
}
