package tap

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// A slowWire is a Conn whose writes take CPU time, as a TAP's do when its receiver has very many packet sockets.
type slowWire struct {
	*wire
	dear  atomic.Bool
	takes time.Duration // while it is dear
	every int           // only one in so many frames is

	mu      sync.Mutex
	numbers []uint32 // of the frames that were written
	threads map[int]int
}

func (w *slowWire) Vnet() bool { return false }

func (w *slowWire) Write(f *frame.Frame) frame.Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dear.Load() && len(w.numbers)%w.every == 0 {
		for began := threadTime(); threadTime()-began < w.takes; {
		}
	}
	w.threads[unix.Gettid()]++
	w.numbers = append(w.numbers, binary.BigEndian.Uint32(f.Raw()[len(f.Raw())-4:]))
	return frame.None
}

func newSlowWire(t *testing.T) *slowWire {
	return &slowWire{wire: newWire(t, false), takes: 2 * dearFrame, every: 1, threads: map[int]int{}}
}

// addSlow adds port 1, which frames come from, and port 2, which may be slow.
func addSlow(t *testing.T, p poller, read frame.Reading) (source *wire, to *slowWire) {
	t.Helper()
	source, to = newWireOf(t, unix.SOCK_SEQPACKET, false), newSlowWire(t)
	add(t, p, 1, source)
	if err := p.Add(2, to, read); err != nil {
		t.Fatal(err)
	}
	return source, to
}

// TestSlowReceiver checks that the frames of a slow receiver are written by another thread, in order; that each of them is written or fails,
// also when the port is removed; and that the backend writes again when the receiver is fast.
func TestSlowReceiver(t *testing.T) {
	backends(t, func(t *testing.T, p poller, _ bool) {
		source, slow := addSlow(t, p, frame.NotRead)
		slow.dear.Store(true)
		var b frame.Batch
		sent, failed := uint32(0), map[frame.Reason]int{}
		round := func(frames int) {
			source.put(t, 1)
			poll(t, p, &b)
			for _, f := range b.Failed {
				failed[f.Reason] += int(f.Frames)
			}
			for range frames {
				raw := frametest.Packet{Src: 1, Dst: 2, Payload: binary.BigEndian.AppendUint32(nil, sent)}.Raw()
				sent++
				var f frame.Frame
				f.Reset(raw, 1)
				frame.Parse(&f)
				p.Send(2, &f)
			}
		}
		own := unix.Gettid()
		others := func() (n int) {
			slow.mu.Lock()
			defer slow.mu.Unlock()
			for thread, frames := range slow.threads {
				if thread != own {
					n += frames
				}
			}
			return n
		}
		for began := time.Now(); others() == 0; round(1) {
			if time.Since(began) > time.Minute {
				t.Fatal("no other thread writes to the slow port")
			}
		}
		slow.mu.Lock()
		before := slow.threads[own]
		slow.mu.Unlock()
		for range 2 * slowRing / 8000 {
			round(100) // 8,000 bytes of the ring
		}
		if failed[frame.SlowReceiver] == 0 {
			t.Error("nothing fails for slow_receiver")
		}
		// It recovers, and is slow again.
		slow.dear.Store(false)
		for began := time.Now(); ; round(1) {
			slow.mu.Lock()
			back := slow.threads[own] > before
			slow.mu.Unlock()
			if back {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatal("the backend does not write to the port again")
			}
		}
		slow.dear.Store(true)
		for began, n := time.Now(), others(); others() == n; round(1) {
			if time.Since(began) > time.Minute {
				t.Fatal("no other thread writes to the port that is slow again")
			}
		}
		round(50)
		p.Remove(2) // what waits fails
		round(0)
		round(0)
		if n := p.Counts().Diverted; n != 2 {
			t.Errorf("the port got a thread of its own %d times", n)
		}
		slow.mu.Lock()
		defer slow.mu.Unlock()
		written := len(slow.numbers)
		for i := 1; i < written; i++ {
			if slow.numbers[i] <= slow.numbers[i-1] {
				t.Fatalf("frame %d after %d", slow.numbers[i], slow.numbers[i-1])
			}
		}
		total := written
		for why, n := range failed {
			total += n
			if why != frame.SlowReceiver && why != frame.PortGone {
				t.Errorf("%d frames failed for %s", n, why)
			}
		}
		if total != int(sent) || failed[frame.PortGone] == 0 {
			t.Errorf("%d frames were sent, %d written, %v failed", sent, written, failed)
		}
	})
}

// TestFastReceiverStays checks that a receiver of many cheap frames stays with the backend, if a dear frame is rare, and if one of ten is dear: as
// it is while the kernel carries the packets of a flood in the same time.
func TestFastReceiverStays(t *testing.T) {
	for name, every := range map[string]int{
		"a dear frame is rare": (5*sampleEvery + 1) * 20, // in batches that are timed
		"one of ten is dear":   10,
	} {
		t.Run(name, func(t *testing.T) {
			backends(t, func(t *testing.T, p poller, _ bool) {
				source, to := addSlow(t, p, frame.NotRead)
				to.every = every
				to.dear.Store(true)
				var b frame.Batch
				var f frame.Frame
				f.Reset(frametest.Packet{Src: 1, Dst: 2, Payload: make([]byte, 4)}.Raw(), 1)
				frame.Parse(&f)
				for range 20 * sampleEvery {
					source.put(t, 1)
					poll(t, p, &b)
					for range 20 {
						p.Send(2, &f)
					}
				}
				to.mu.Lock()
				defer to.mu.Unlock()
				if len(to.threads) != 1 {
					t.Errorf("frames were written by %d threads", len(to.threads))
				}
			})
		})
	}
}

// TestSlowInDisguise checks that the frames of a slow receiver are written by another thread if it also sends all the time, if only one of three
// frames is dear, and if each frame alone is so dear that no further batch needs timing.
func TestSlowInDisguise(t *testing.T) {
	for name, disguise := range map[string]struct {
		every, frames, sends int
		takes                time.Duration
	}{
		"sends":         {1, 1, 8, 20 * dearFrame},
		"one of three":  {3, 4, 0, 20 * dearFrame},
		"one of thirty": {30, 20, 0, 20 * dearFrame},
		"very slow":     {1, 1, 0, 2 * surelyDear},
	} {
		t.Run(name, func(t *testing.T) {
			backends(t, func(t *testing.T, p poller, _ bool) {
				source, to := addSlow(t, p, frame.ReadPort)
				data := frametest.Packet{Src: 2, Dst: 1, Payload: make([]byte, 60000)}.Raw()
				to.takes, to.every = disguise.takes, disguise.every
				to.dear.Store(true)
				var b frame.Batch
				var f frame.Frame
				f.Reset(frametest.Packet{Src: 1, Dst: 2, Payload: make([]byte, 4)}.Raw(), 1)
				frame.Parse(&f)
				threads := func() int {
					to.mu.Lock()
					defer to.mu.Unlock()
					return len(to.threads)
				}
				for began := time.Now(); threads() < 2; {
					if time.Since(began) > time.Minute {
						t.Fatal("no other thread writes to the slow port")
					}
					source.put(t, 1)
					poll(t, p, &b)
					for range disguise.frames {
						p.Send(2, &f)
					}
					for range disguise.sends {
						if _, err := unix.Write(to.far, data); err != nil && err != unix.EAGAIN {
							t.Fatal(err)
						}
					}
				}
			})
		})
	}
}

// TestSlowAgain checks that a port that is slow again and again recovers later each time.
func TestSlowAgain(t *testing.T) {
	r := &receivers{}
	for want := slowTerm; want < 2*longestTerm; want *= 2 {
		r.divert(1, newSlowWire(t))
		s := r.slow[1]
		if s.term != min(want, longestTerm) {
			t.Fatalf("a slow port recovers after %v, not %v", s.term, min(want, longestTerm))
		}
		s.looked = time.Now().Add(-s.term)
		if r.hasRead(&frame.Batch{}, nil); len(r.slow) != 0 {
			t.Fatalf("it has not recovered after %v", s.term)
		}
	}
	if r.forget(1, nil); len(r.past) != 0 {
		t.Errorf("left of a removed port: %v", r.past)
	}
}

// TestSenderIsNotSlow checks that a port stays with the backend if its frames are dear because each has it send: as an acknowledgement has the
// sender of a stream.
func TestSenderIsNotSlow(t *testing.T) {
	backends(t, func(t *testing.T, p poller, _ bool) {
		source, to := addSlow(t, p, frame.ReadPort)
		data := frametest.Packet{Src: 2, Dst: 1, Payload: make([]byte, 60000)}.Raw()
		to.takes = dearFrame * 5 / 4
		to.dear.Store(true)
		var b frame.Batch
		var f frame.Frame
		f.Reset(frametest.Packet{Src: 1, Dst: 2, Payload: make([]byte, 4)}.Raw(), 1)
		frame.Parse(&f)
		read := 0
		for range 10 * sampleEvery {
			source.put(t, 1)
			poll(t, p, &b)
			for i := range b.Frames[:b.N] {
				if b.Frames[i].In == 2 {
					read++
				}
			}
			p.Send(2, &f)
			for range 2 {
				if _, err := unix.Write(to.far, data); err != nil {
					t.Fatal(err)
				}
			}
		}
		to.mu.Lock()
		defer to.mu.Unlock()
		if len(to.threads) != 1 {
			t.Errorf("frames were written by %d threads", len(to.threads))
		}
		if read < sampleEvery {
			t.Errorf("%d frames of the sender were read", read)
		}
	})
}

// TestSlowPortIsReplaced checks that a port gets its frames if a slow one had its number before, whenever that one was removed.
func TestSlowPortIsReplaced(t *testing.T) {
	backends(t, func(t *testing.T, p poller, _ bool) {
		source, slow := addSlow(t, p, frame.NotRead)
		slow.dear.Store(true)
		var b frame.Batch
		var f frame.Frame
		f.Reset(frametest.Packet{Src: 1, Dst: 2, Payload: make([]byte, 4)}.Raw(), 1)
		frame.Parse(&f)
		round := func(frames int) {
			source.put(t, 1)
			poll(t, p, &b)
			for range frames {
				p.Send(2, &f)
			}
		}
		for rounds := range 2 * timedRow {
			for range rounds {
				round(1)
			}
			p.Remove(2)
			slow.mu.Lock()
			before := len(slow.numbers)
			slow.mu.Unlock()
			next := newSlowWire(t)
			if err := p.Add(2, next, frame.NotRead); err != nil {
				t.Fatal(err)
			}
			for range 2 * timedRow {
				round(0)
			}
			round(1)
			next.mu.Lock()
			got := len(next.numbers)
			next.mu.Unlock()
			slow.mu.Lock()
			after := len(slow.numbers)
			slow.mu.Unlock()
			if got != 1 || after != before {
				t.Fatalf("after %d rounds, the new port got %d frames, and the removed one %d", rounds, got, after-before)
			}
			p.Remove(2)
			if err := p.Add(2, slow, frame.NotRead); err != nil {
				t.Fatal(err)
			}
		}
	})
}
