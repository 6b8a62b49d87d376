// Package history remembers what the counters did in the last ten minutes, for the graphs of the live page.
package history

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

const (
	// Interval is the time between two samples.
	Interval = 5 * time.Second
	// Length is how many samples are remembered.
	Length = 120
)

// A History has rates: for each port, for all ports together, and for each drop reason.
type History struct {
	mu    sync.Mutex // Lock 99
	until time.Time  // of the last sample; zero: there is none
	last  api.Stats
	next  int // where the next rates stand in a series
	n     int // how many there are
	ports map[string]*port
	all   port
	drops map[string]*series
}

type series [Length]float32 // in a second

// A port has about 2.4 KB.
type port struct{ rxBytes, txBytes, rxPackets, txPackets, dropped series }

// New returns a History without samples.
func New() *History { return &History{ports: map[string]*port{}, drops: map[string]*series{}} }

// Run takes a sample at each Interval until ctx is done.
func (h *History) Run(ctx context.Context, stats func() api.Stats) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	h.Add(time.Now(), stats())
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.Add(now, stats())
		}
	}
}

// Add takes the counters of a moment. Ports that have gone since the last one are forgotten.
func (h *History) Add(now time.Time, s api.Stats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, seconds := h.last, now.Sub(h.until).Seconds()
	first := h.until.IsZero()
	h.last, h.until = s, now
	if first || seconds <= 0 {
		return
	}
	rate := func(now, before uint64) float32 {
		if now < before { // the port was removed, and one of the same name was added
			before = 0
		}
		return float32(float64(now-before) / seconds)
	}
	maps.DeleteFunc(h.ports, func(name string, _ *port) bool { _, ok := s.Ports[name]; return !ok })
	i := h.next
	h.all.set(i, api.PortStats{}, api.PortStats{}, rate)
	for name, c := range s.Ports {
		p := h.ports[name]
		if p == nil {
			p = &port{}
			h.ports[name] = p
		}
		p.set(i, c, last.Ports[name], rate)
		h.all.add(i, p)
	}
	for reason, n := range s.Drops {
		d := h.drops[reason]
		if d == nil {
			d = &series{}
			h.drops[reason] = d
		}
		d[i] = rate(n, last.Drops[reason])
	}
	h.next, h.n = (i+1)%Length, min(h.n+1, Length)
}

func (p *port) set(i int, now, before api.PortStats, rate func(now, before uint64) float32) {
	p.rxBytes[i], p.txBytes[i] = rate(now.RxBytes, before.RxBytes), rate(now.TxBytes, before.TxBytes)
	p.rxPackets[i], p.txPackets[i] = rate(now.RxPackets, before.RxPackets), rate(now.TxPackets, before.TxPackets)
	p.dropped[i] = rate(now.RxDropped+now.TxDropped, before.RxDropped+before.TxDropped)
}

func (p *port) add(i int, q *port) {
	p.rxBytes[i] += q.rxBytes[i]
	p.txBytes[i] += q.txBytes[i]
	p.rxPackets[i] += q.rxPackets[i]
	p.txPackets[i] += q.txPackets[i]
	p.dropped[i] += q.dropped[i]
}

// View returns what is remembered: of all ports together, of these ports, and of each reason by which a frame was dropped lately. The oldest rate is
// the first one. A port that is not known has no entry.
func (h *History) View(names []string) api.History {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := api.History{Interval: Interval.Seconds(), Ports: map[string]api.Rates{}, Drops: map[string][]float32{}, Total: h.rates(&h.all)}
	if !h.until.IsZero() {
		v.Until = h.until.Format(time.RFC3339)
	}
	for _, name := range names {
		if p := h.ports[name]; p != nil {
			v.Ports[name] = h.rates(p)
		}
	}
	for reason, d := range h.drops {
		for _, n := range d {
			if n > 0 {
				v.Drops[reason] = h.ordered(d)
				break
			}
		}
	}
	return v
}

func (h *History) rates(p *port) api.Rates {
	return api.Rates{RxBytes: h.ordered(&p.rxBytes), TxBytes: h.ordered(&p.txBytes), RxPackets: h.ordered(&p.rxPackets), TxPackets: h.ordered(&p.txPackets),
		Dropped: h.ordered(&p.dropped)}
}

// ordered returns a series with the oldest rate first.
func (h *History) ordered(s *series) []float32 {
	list := make([]float32, 0, h.n)
	for i := range h.n {
		list = append(list, s[(h.next-h.n+i+Length)%Length])
	}
	return list
}
