package tap

import (
	"testing"
	"time"
)

// A waiting plays waits in virtual time.
type waiting struct {
	idle
	now   time.Duration
	asked int // for a spare CPU
	busy  bool
}

func newWaiting() *waiting {
	w := &waiting{}
	w.idle = idle{auto: true, spare: func() bool { w.asked++; return !w.busy }, close: func() {}}
	return w
}

// wait is a wait of d, after which there are frames of a size.
func (w *waiting) wait(d time.Duration, frames, size int) { w.end(d, frames, size, false) }

// answer is a wait of d for an answer.
func (w *waiting) answer(d time.Duration) { w.end(d, 1, 100, true) }

func (w *waiting) end(d time.Duration, frames, size int, answered bool) {
	looked := min(w.look, d)
	w.now += d
	if looked > 0 {
		w.hasLooked(w.now, looked)
	}
	w.waited(w.now, d, frames, size, answered)
}

func (w *waiting) waits(n int, d time.Duration, frames, size int) {
	for range n {
		w.wait(d, frames, size)
	}
}

func TestIdle(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	for _, x := range []struct {
		what string
		play func(w *waiting)
		want time.Duration
	}{
		{"at first", func(w *waiting) {}, 0},
		{"one answer soon", func(w *waiting) { w.wait(25*us, 1, 100) }, 10 * us},
		{"a conversation", func(w *waiting) { w.waits(1000, 25*us, 1, 100) }, 200 * us},
		{"its end", func(w *waiting) { w.waits(1000, 25*us, 1, 100); w.wait(5*ms, 1, 100) }, 0},
		{"a slower one", func(w *waiting) { w.waits(1000, 25*us, 1, 100); w.waits(2, 250*us, 1, 100) }, 50 * us},
		{"one that is too slow", func(w *waiting) { w.waits(1000, 25*us, 1, 100); w.waits(100, 300*us, 1, 100) }, 0},
		{"a quiet host", func(w *waiting) { w.waits(100, 100*ms, 1, 100) }, 0},
		{"a flood", func(w *waiting) { w.waits(1000, 10*us, 1, 100) }, 0},
		{"a fast conversation", func(w *waiting) {
			for range 1000 {
				w.answer(9 * us)
			}
		}, 200 * us},
		{"a flood after it", func(w *waiting) {
			for range 1000 {
				w.answer(9 * us)
			}
			w.waits(1000, 9*us, 1, 100)
		}, 0},
		{"batches", func(w *waiting) { w.waits(1000, 45*us, 8, 100) }, 0},
		{"a stream of long frames", func(w *waiting) { w.waits(1000, 25*us, 1, 60000) }, 0},
		{"a conversation again after that", func(w *waiting) {
			w.busy = true
			w.waits(100, 25*us, 1, 100)
			w.busy = false
			w.waits(50000, 25*us, 1, 100)
		}, 200 * us},
	} {
		w := newWaiting()
		if x.play(w); w.look != x.want {
			t.Errorf("%s: it looks for %s, want %s", x.what, w.look, x.want)
		}
	}

	w := newWaiting() // what brings no frame changes nothing
	if w.waits(100, 10*us, 0, 100); w.look != 0 {
		t.Errorf("without frames, it looks for %s", w.look)
	}

	w = newWaiting() // in a flood of short frames, it gathers some before it wakes
	if w.waits(1000, 10*us, 1, 100); w.gather != gatherTime {
		t.Errorf("in a flood, it sleeps for %s at least", w.gather)
	}
	if w.waits(1000, 10*us, 1, 60000); w.gather != 0 {
		t.Errorf("in a stream, it sleeps for %s at least", w.gather)
	}
	w.waits(1000, 10*us, 1, 100)
	if w.waits(100, 250*us, 1, 100); w.gather != 0 || w.look != 0 {
		t.Errorf("after a flood, it sleeps for %s at least, and looks for %s", w.gather, w.look)
	}

	w = newWaiting() // without a spare CPU, it looks for 50 ms, and then less and less, for 2 of 402 ms in the end
	w.busy = true
	looked := time.Duration(0)
	for w.now < time.Second {
		looked += min(w.look, 25*us)
		w.wait(25*us, 1, 100)
	}
	if looked > 65*ms || w.asked == 0 {
		t.Errorf("without a spare CPU, it looked for %s of a second, and asked %d times", looked, w.asked)
	}
	w = newWaiting()
	w.waits(40000, 25*us, 1, 100)
	if w.asked < 15 || w.asked > 25 {
		t.Errorf("in a second of looking it asked %d times for a spare CPU", w.asked)
	}

	w = newWaiting() // a fixed time does not change
	w.idle = newIdle(30 * us)
	w.waits(100, 5*ms, 64, 60000)
	if w.look != 30*us {
		t.Errorf("a fixed time became %s", w.look)
	}
}

func TestIdleTime(t *testing.T) {
	for text, want := range map[string]time.Duration{"14760.63 16772.47\n": 16772470 * time.Millisecond, "1.00 0.05\n": 50 * time.Millisecond, "": 0, "\n": 0} {
		if got := idleTime([]byte(text)); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	u := openUptime()
	defer u.close()
	if n := testing.AllocsPerRun(100, func() { u.spareCPU() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if u.idle == 0 {
		t.Error("this machine was never idle")
	}
	for _, x := range []struct {
		idled, passed time.Duration
		want          bool
	}{{10, 100, true}, {10, 110, false}, {0, 50, false}, {0, 0, false}, {200, 100, true}} {
		if got := isSpare(x.idled*time.Millisecond, x.passed*time.Millisecond); got != x.want {
			t.Errorf("idle for %d of %d ms: %v", x.idled, x.passed, got)
		}
	}
}
