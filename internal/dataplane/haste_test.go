package dataplane

import (
	"testing"
	"time"
)

// A worker that waits for a CPU much longer than it runs, beside a port that floods, hurries for a second. If it is starved again soon after that, it
// hurries for longer.
func TestHaste(t *testing.T) {
	const ms = int64(time.Millisecond)
	var h haste
	var now, ran, waited int64
	floods := false
	pass := func(windows int, runs, waits int64) (hurried int) { // ms of each window
		for range windows {
			now, ran, waited = now+hasteWindow, ran+runs*ms, waited+waits*ms
			if h.look(now, ran, waited, floods) {
				hurried++
			}
		}
		return hurried
	}
	if n := pass(100, 20, 60); n != 0 {
		t.Errorf("a worker hurried in %d windows while nobody floods", n)
	}
	floods = true
	if n := pass(100, 40, 59) + pass(100, 1, 10) + pass(100, 60, 0); n != 0 {
		t.Errorf("a worker that is not starved hurried in %d windows", n)
	}
	now += int64(time.Hour) // with nothing to do
	if n := pass(1, 2, 90); n != 0 {
		t.Error("a worker that has slept for an hour hurries")
	}
	for i, want := range []int{10, 20, 40, 80, 160, 160} {
		if n := pass(want, 20, 60); n != want || pass(1, 20, 60) != 0 {
			t.Errorf("haste %d: starved, the worker hurried in %d windows; want %d, then one without haste", i, n, want)
		}
	}
	if n := pass(1, 20, 60) + pass(159, 50, 10); n != 160 {
		t.Errorf("a worker hurried in %d windows; want 160: it sees only without haste that it need not", n)
	}
	if n := pass(400, 50, 10); n != 0 {
		t.Errorf("a worker hurried in %d windows after that", n)
	}
	if n := pass(11, 20, 60); n != 10 {
		t.Errorf("long afterwards, a starved worker hurried in %d windows; want 10", n)
	}
}
