package capture

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/filter"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/ring"
)

const (
	ringBytes   = 4 << 20 // per capture and worker; of those with Ends a quarter
	maxCaptures = 16      // at once; a word has a bit for each
	forRoot     = 10      // of them that only root may take
)

// Options select what is captured.
type Options struct {
	Ports  []frame.PortID // none: all
	Snap   int            // bytes of each frame; 0: all
	Dir    Direction      // of frames; 0: both
	Filter filter.Filter
	Ends   bool // one record per frame, with its verdict, instead of one per port that it passes
	Drops  bool // only those whose verdict is a drop; with Ends
	Root   bool // root asks: some places are kept for it
}

// A Hub puts captures into a dataplane and takes them out.
type Hub struct {
	dp       *dataplane.Dataplane
	mu       sync.Mutex
	captures [maxCaptures]*Capture // nil where there is none
	workers  []*observer           // and the housekeeper's, the last
	idle     bool                  // nobody captures: the observers are not the workers'
}

// NewHub makes a hub for d.
func NewHub(d *dataplane.Dataplane) *Hub {
	h := &Hub{dp: d}
	for i := range d.Workers() + 1 {
		h.workers = append(h.workers, &observer{dp: d, worker: i})
	}
	return h
}

// A Capture collects records until Close.
type Capture struct {
	Lost atomic.Uint64 // records for which the ring had no room

	hub     *Hub
	options Options
	all     bool
	ports   [frame.MaxPorts]bool
	rings   []*ring.Queue // by worker; the last is the housekeeper's
	wake    chan struct{}
}

// Start begins a capture: every frame from here on is seen.
func (h *Hub) Start(o Options) (*Capture, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	free, limit := -1, maxCaptures
	if !o.Root {
		limit -= forRoot
	}
	for i := range limit {
		if h.captures[limit-1-i] == nil {
			free = limit - 1 - i
		}
	}
	if o.Root { // the places that are for nobody else first
		for i := maxCaptures - forRoot; i < maxCaptures; i++ {
			if h.captures[i] == nil {
				free = i
			}
		}
	}
	if free < 0 {
		return nil, fmt.Errorf("%d captures already run, which is the limit; end one of them first", limit)
	}
	c := &Capture{hub: h, options: o, all: len(o.Ports) == 0, wake: make(chan struct{}, 1)}
	if c.options.Snap <= 0 {
		c.options.Snap = frame.MaxFrame
	}
	for _, p := range o.Ports {
		c.ports[p] = true
	}
	size := ringBytes
	if o.Ends {
		size /= 4
	}
	for range h.dp.Workers() + 1 {
		c.rings = append(c.rings, ring.New(size))
	}
	h.captures[free] = c
	h.install()
	return c, nil
}

// Close ends the capture.
func (c *Capture) Close() {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	for i, x := range c.hub.captures {
		if x == c {
			c.hub.captures[i] = nil
		}
	}
	c.hub.install()
}

// install has the dataplane serve the present captures.
func (h *Hub) install() {
	captures := h.captures
	if captures == [maxCaptures]*Capture{} {
		h.dp.Observe(nil)
		for _, o := range h.workers { // they hold rings
			o.captures = captures
		}
		h.idle = true
		return
	}
	if h.idle { // what was sent meanwhile was not seen
		for _, o := range h.workers {
			clear(o.sent[:])
		}
		h.idle = false
	}
	h.dp.Observe(func(i int) dataplane.Observer { // on the worker: its observer is nobody else's
		h.workers[i].serve(captures)
		return h.workers[i]
	})
}

// Wait is readable when there may be records.
func (c *Capture) Wait() <-chan struct{} { return c.wake }

// Drain calls yield with the records that are there, oldest first, until yield returns false.
func (c *Capture) Drain(yield func(Record) bool) {
	for {
		var oldest *ring.Queue
		var rec []byte
		for _, r := range c.rings {
			if b := r.Peek(); b != nil && (rec == nil || stamp(b) < stamp(rec)) {
				oldest, rec = r, b
			}
		}
		if rec == nil {
			return
		}
		more := yield(decode(rec))
		oldest.Release()
		if !more {
			return
		}
	}
}

// wants tells whether a port is one of the capture's.
func (c *Capture) wants(p frame.PortID) bool {
	return c.all || int(p) < len(c.ports) && c.ports[p]
}

func (c *Capture) wantsAny(list []frame.PortID) bool {
	for _, p := range list {
		if c.wants(p) {
			return true
		}
	}
	return false
}

// notify wakes the reader; it is called once per batch.
func (c *Capture) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
