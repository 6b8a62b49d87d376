package capture

import (
	"testing"
	"time"
)

// Captures that take all of the time get a quarter of it; after a pause, they may take more for a moment.
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
	if want := 100_000/quarter + int(mostTime/step); looked < want-10 || looked > want+want/10+10 {
		t.Errorf("of 100,000 batches, %d are looked at, not %d", looked, want)
	}
}
