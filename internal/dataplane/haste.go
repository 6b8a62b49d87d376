package dataplane

import "time"

// Beside many ports that flood, a worker may be starved: it waits for a CPU for more than twice as long as it runs. It then hurries: see
// Poller.Hurry. It does not hurry all the time. A worker that takes the CPU from a sender after each frame finds fewer frames each time, and streams
// are slower.
//
// Only a worker that does not hurry can see whether it is starved. So haste ends after a term, and the next term is twice as long if it ended too early.
const (
	hasteWindow   = int64(100 * time.Millisecond)
	hasteLeast    = 8 // a starved worker wants to run for one part in so many of a window,
	hasteWaits    = 2 // and waits so many times as long as it runs
	shortestHaste = int64(time.Second)
	longestHaste  = 16 * shortestHaste
)

// haste is whether a worker hurries. Times are ns of the data plane's clock.
type haste struct {
	on          bool
	began       int64 // of the window
	ran, waited int64 // CPU time of this thread, and its wait for a CPU, when the window began
	until, term int64 // of the present haste, or of the last one
}

// look begins a window, and says whether the worker hurries from now on. floods: some port floods.
func (h *haste) look(now, ran, waited int64, floods bool) bool {
	took, r, w := now-h.began, ran-h.ran, waited-h.waited
	h.began, h.ran, h.waited = now, ran, waited
	switch {
	case h.on:
		h.on = now < h.until
	case floods && w > hasteWaits*r && hasteLeast*(r+w) > took:
		if now-h.until > 2*h.term {
			h.term = shortestHaste
		} else {
			h.term = min(2*h.term, longestHaste)
		}
		h.on, h.until = true, now+h.term
	}
	return h.on
}

// hasten hurries if the worker is starved beside a flood.
//
//uvswitch:hot
func (w *worker) hasten(now int64) {
	if now-w.haste.began < hasteWindow {
		return
	}
	was := w.haste.on
	if on := w.haste.look(now, w.poller.CPUTime(), w.poller.CPUWait(), w.turns.floods); on != was {
		w.poller.Hurry(on)
	}
}
