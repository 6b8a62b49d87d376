package dataplane

import (
	"slices"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// A scarce is a Poller on a CPU that others need, too.
type scarce struct {
	script
	ns     int64 // of the CPU, and as many that the worker had to wait for it
	paused []frame.PortID
}

func (s *scarce) CPUTime() int64         { return s.ns }
func (s *scarce) CPUWait() int64         { return s.ns }
func (s *scarce) Pause(id frame.PortID)  { s.paused = append(s.paused, id) }
func (s *scarce) Resume(id frame.PortID) {}

// While CPU time is scarce, the second queue of the uplink pauses for what other ports send to each other and to the way out, and for what the first
// queue has for them. It does not pause for what its receiver sends and is sent. The first queue never pauses.
func TestBulkPauses(t *testing.T) {
	const uplink, receiver, other, another = 1, 2, 3, 4
	of := func(in, out frame.PortID, net frame.NetID) frame.Frame {
		return frame.Frame{In: in, Out: out, Net: net, Verdict: frame.ToPort}
	}
	for name, c := range map[string]struct {
		beside []frame.Frame
		pauses bool
	}{
		"nothing":                       {nil, false},
		"answers of the receiver":       {[]frame.Frame{of(receiver, uplink, 7)}, false},
		"first packets of the receiver": {[]frame.Frame{of(uplink, receiver, frame.NoNet)}, false},
		"what another port sends out":   {[]frame.Frame{of(other, uplink, 7)}, true},
		"what another port is sent":     {[]frame.Frame{of(uplink, other, frame.NoNet)}, true},
		"what others send to others":    {[]frame.Frame{of(other, another, 7)}, true},
	} {
		s, now := &scarce{}, int64(1e9)
		w := New(nat.New(nat.Options{Flows: 1024}), func() int64 { return now }, s).workers[0]
		w.uplink = uplink
		raw := make([]byte, frame.VnetLen+60)
		for range 400 {
			b := &w.batch
			b.N, b.Bulk = 0, 0
			add := func(f frame.Frame) {
				b.Frames[b.N].Reset(raw, f.In)
				b.Frames[b.N].Net, b.Frames[b.N].Out, b.Frames[b.N].Verdict = f.Net, f.Out, f.Verdict
				w.tally.received(&b.Frames[b.N])
				b.N++
			}
			for range 40 {
				b.Bulk |= 1 << b.N
				add(of(uplink, receiver, frame.NoNet))
			}
			for _, f := range c.beside {
				add(f)
			}
			w.charge(b, now)
			w.tally = tally{}
			now += int64(1e6)
			s.ns += int64(1e6) / 2
			w.settle(now)
		}
		if got := slices.Contains(s.paused, frame.Bulk); got != c.pauses || slices.Contains(s.paused, uplink) {
			t.Errorf("beside %s: paused %v", name, slices.Compact(s.paused))
		}
	}
}

// The second queue of the uplink does not tell what it drops. So it is dense if it has many frames, and loud if they are few and long.
func TestClassOfBulk(t *testing.T) {
	for name, c := range map[string]struct {
		frames, bytes int
		class         class
	}{
		"few and short": {2, 60, quiet},
		"few and long":  {2, 60000, loud},
		"many":          {loudFrames, 60, dense},
	} {
		s, now := &scarce{}, int64(1e9)
		w := New(nat.New(nat.Options{Flows: 1024}), func() int64 { return now }, s).workers[0]
		w.uplink = 1
		raw := make([]byte, frame.VnetLen+c.bytes)
		for range 2 * longLeast {
			w.batch.N, w.batch.Bulk = c.frames, 1<<c.frames-1
			for i := range c.frames {
				f := &w.batch.Frames[i]
				f.Reset(raw, w.uplink)
				f.Out = 2
				w.tally.received(f)
			}
			w.charge(&w.batch, now)
			w.tally = tally{}
			now += int64(1e6)
		}
		if got := w.turns.classOf(frame.Bulk, now, 0); got != c.class {
			t.Errorf("%s: class %d, not %d", name, got, c.class)
		}
	}
}

// A device floods if it drops as much as is read, and if what its owner sends would take much of the worker's time. What the switch chooses to read
// makes no flood of a sender.
func TestDeviceFloods(t *testing.T) {
	for name, c := range map[string]struct {
		offered, read, size uint64 // in each window
		want                bool
	}{
		"short frames":             {5000, 100, 60, true},
		"super-frames":             {500, 10, 60000, true},
		"super-frames, unread":     {500, 0, 60000, true},
		"a steady sender, unread":  {200, 0, 200, false},
		"a steady sender":          {500, 20, 200, false},
		"TCP that loses something": {3000, 2900, 1500, false},
		"all is read":              {5000, 5000, 60, false},
	} {
		var d device
		var offered, frames, bytes uint64
		next := func(o, r uint64) bool {
			offered, frames, bytes = offered+o, frames+r, bytes+r*c.size
			turns := turns{losers: []loser{{1, d.wants(offered, frames, bytes)}}}
			turns.findFloods(1e9, turnWindow)
			return turns.flooding[1] > 1e9
		}
		if next(1e6, 1000) {
			t.Errorf("%s: what was before the first window counts", name)
		}
		next(10, 10) // so that the size of its frames is known
		got := false
		for range 20 {
			got = next(c.offered, c.read)
		}
		if got != c.want {
			t.Errorf("%s: floods %v", name, got)
		}
	}
}

// Ports whose devices drop much have equal parts of half of the time, and at most a quarter. Those that want more flood.
func TestManyFlood(t *testing.T) {
	const ms = int64(time.Millisecond)
	for name, c := range map[string]struct {
		ports         int
		each, steady  int64 // ns that each port wants of 10 ms, and that one more port wants
		floods, other bool  // whether they flood
	}{
		"one port":          {1, 3 * ms, 0, true, false},
		"one modest port":   {1, 2 * ms, 0, false, false},
		"two ports":         {2, 3 * ms, ms, true, false},
		"17 ports":          {17, ms / 2, ms / 5, true, false},
		"17 modest ports":   {17, ms / 5, ms / 5, false, false},
		"a port beside 200": {200, ms / 50, ms / 10, false, false},
		"two beside 200":    {200, ms / 50, 2 * ms, false, true},
	} {
		var turns turns
		for i := range c.ports {
			turns.losers = append(turns.losers, loser{frame.PortID(1 + i), c.each})
		}
		steady := frame.PortID(1 + c.ports)
		if c.steady > 0 {
			turns.losers = append(turns.losers, loser{steady, c.steady})
		}
		turns.findFloods(1e9, turnWindow)
		if got, other := turns.flooding[1] > 1e9, turns.flooding[steady] > 1e9; got != c.floods || other != c.other {
			t.Errorf("%s: flood %v, and the other one %v", name, got, other)
		}
	}
}
