package uplink

import (
	"testing"
	"time"
)

func TestWaysAskedInASecondAreBounded(t *testing.T) {
	var c askCount
	now := time.Unix(1000, 0)
	for i := range asksInSecond {
		if !c.mayAsk(now) {
			t.Fatalf("way %d of the second was refused", i+1)
		}
	}
	if c.mayAsk(now.Add(999 * time.Millisecond)) {
		t.Errorf("more than %d ways were asked for in a second", asksInSecond)
	}
	if !c.mayAsk(now.Add(time.Second)) {
		t.Error("the next second refuses ways too")
	}
}
