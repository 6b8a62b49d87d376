package capture

import (
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Captures that take all of the time get a quarter of it; after a pause, they may take more for a moment. What they do not look at is lost for
// those that wanted it.
func TestBudget(t *testing.T) {
	now := time.Unix(1000, 0)
	var b budget
	if b.isSpent(now) || b.left != mostTime {
		t.Fatalf("at first, captures have %v", b.left)
	}
	const step = 100 * time.Microsecond
	looked := 0
	for range 100_000 { // ten seconds
		if now = now.Add(step); !b.isSpent(now) {
			b.left -= step
			looked++
		}
	}
	if want := 100_000/oneIn + int(mostTime/step); looked < want-10 || looked > want+want/10+10 {
		t.Errorf("of 100,000 batches, %d are looked at, not %d", looked, want)
	}
	o := observer{skips: true}
	c, other := &Capture{}, &Capture{}
	c.Follow([]frame.PortID{1})
	other.Follow([]frame.PortID{2})
	o.captures[0], o.captures[1] = c, other
	batch := frame.Batch{N: 3}
	for i := range batch.Frames[:batch.N] {
		batch.Frames[i].In = 1
	}
	o.skip(&batch)
	if o.Decided(&batch); c.Lost.Load() != 3 || other.Lost.Load() != 0 || batch.Frames[0].Slot != frame.NoSlot {
		t.Errorf("lost %d and %d", c.Lost.Load(), other.Lost.Load())
	}
}
