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
	ringBytes   = 4 << 20 // size of a ring, of which a capture has one per worker; with Ends, a quarter
	maxCaptures = 16      // captures at a time; a uint64 has a bit for each
	forRoot     = 10      // captures reserved for root
)

// Options select what is captured.
type Options struct {
	Ports  []frame.PortID // empty: all ports
	Snap   int            // bytes to keep of each frame; 0: all
	Dir    Direction      // 0: both directions
	Filter filter.Filter
	Ends   bool // one record per frame, with its verdict, instead of one per port that the frame passes
	Drops  bool // with Ends: only frames that are dropped
	Root   bool // root starts the capture and may use the captures reserved for root
}

// A Hub starts and ends captures in a dataplane.
type Hub struct {
	dp       *dataplane.Dataplane
	mu       sync.Mutex            // Lock 50
	captures [maxCaptures]*Capture // nil: free
	workers  []*observer           // one per worker; the last is the slow path's
	idle     bool                  // no capture runs: the observers are not installed
}

// NewHub returns a hub for d.
func NewHub(d *dataplane.Dataplane) *Hub {
	h := &Hub{dp: d}
	for i := range d.Workers() + 1 {
		h.workers = append(h.workers, &observer{dp: d, worker: i})
	}
	return h
}

// A Capture collects records until Close.
type Capture struct {
	Lost atomic.Uint64 // records lost because a ring was full, or captures had had their time

	hub     *Hub
	options Options
	ports   atomic.Pointer[[frame.MaxPorts]bool] // nil: all
	rings   []*ring.Queue                        // one per worker; the last is the slow path's
	wake    chan struct{}
}

// Start starts a capture: it sees every frame from now on. Start returns an error when too many captures run.
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
	if o.Root { // root takes the reserved captures first
		for i := maxCaptures - forRoot; i < maxCaptures; i++ {
			if h.captures[i] == nil {
				free = i
			}
		}
	}
	if free < 0 {
		return nil, fmt.Errorf("%d captures already run, which is the limit; end one of them first", limit)
	}
	c := &Capture{hub: h, options: o, wake: make(chan struct{}, 1)}
	if c.options.Snap <= 0 {
		c.options.Snap = frame.MaxFrame
	}
	if len(o.Ports) > 0 {
		c.Follow(o.Ports)
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

// Follow makes the capture include these ports from now on, and no others.
func (c *Capture) Follow(ports []frame.PortID) {
	set := new([frame.MaxPorts]bool)
	for _, p := range ports {
		set[p] = true
	}
	c.ports.Store(set)
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

// install makes the dataplane serve the current captures.
func (h *Hub) install() {
	captures := h.captures
	if captures == [maxCaptures]*Capture{} {
		h.dp.Observe(nil)
		for _, o := range h.workers { // drop the references to captures, which hold rings
			o.captures = captures
		}
		h.idle = true
		return
	}
	if h.idle { // forget old sends: later ones were not observed
		for _, o := range h.workers {
			clear(o.sent[:])
		}
		h.idle = false
	}
	h.dp.Observe(func(i int) dataplane.Observer { // called on the worker, which alone uses its observer
		h.workers[i].serve(captures)
		return h.workers[i]
	})
}

// Wait returns a channel that delivers a value when there may be records.
func (c *Capture) Wait() <-chan struct{} { return c.wake }

// Drain calls yield with the records that are available, oldest first, until there are none left or yield returns false.
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

// wants reports whether the capture includes port p.
func (c *Capture) wants(p frame.PortID) bool {
	set := c.ports.Load()
	return set == nil || int(p) < len(set) && set[p]
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
