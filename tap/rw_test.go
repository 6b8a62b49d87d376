package tap

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// wire is a Conn over one end of a datagram socket pair; the test holds the other.
type wire struct {
	file
	far  int
	dead error
	full bool
}

func newWire(t *testing.T) *wire {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &wire{file: file{fd: fds[0]}, far: fds[1]}
}

func (w *wire) Vnet() bool { return true }

func (w *wire) Read(b []byte) (int, error) {
	if w.dead != nil {
		return 0, w.dead
	}
	return w.read(b)
}

func (w *wire) Write(f *frame.Frame) frame.Reason {
	if w.full {
		return frame.TxQueueFull
	}
	return w.write(f.Raw())
}

func (w *wire) put(t *testing.T, n int) {
	t.Helper()
	raw := frametest.Packet{Src: 1, Dst: 2}.Raw()
	for range n {
		if _, err := unix.Write(w.far, raw); err != nil {
			t.Fatal(err)
		}
	}
}

func newRW(t *testing.T, wires ...*wire) *RW {
	t.Helper()
	r, err := NewRW()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	for i, w := range wires {
		if err := r.Add(frame.PortID(i+1), w, true); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// within fails when fn does not return: a Poll that waits for what has happened already.
func within(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: Poll does not return", what)
	}
}

func poll(t *testing.T, r *RW, b *frame.Batch) {
	t.Helper()
	within(t, "there is something to read", func() {
		if err := r.Poll(b); err != nil {
			t.Error(err)
		}
	})
}

func TestRWReadsEverything(t *testing.T) {
	w1, w2 := newWire(t), newWire(t)
	r := newRW(t, w1, w2)
	var b frame.Batch
	got := map[frame.PortID]int{}
	for _, n := range []int{1, 9, 10} { // a socket pair holds about ten
		w1.put(t, n)
		w2.put(t, 1)
		for want := got[1] + got[2] + n + 1; got[1]+got[2] < want; {
			poll(t, r, &b)
			for i := range b.Frames[:b.N] {
				got[b.Frames[i].In]++
				if err := frametest.Check(b.Frames[i].Raw()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if got[1] != 20 || got[2] != 3 {
		t.Errorf("read %v", got)
	}
}

// A wake-up that comes while a port is still believed ready must not be lost.
func TestRWWake(t *testing.T) {
	w := newWire(t)
	r := newRW(t, w)
	var b frame.Batch
	for since := range look + 1 {
		r.since = since
		r.makeReady(1) // as after a quota's worth of frames: believed ready, and empty
		r.Wake()
		poll(t, r, &b)
	}
}

func TestRWReportsFailuresAndDeaths(t *testing.T) {
	w, full := newWire(t), newWire(t)
	r := newRW(t, w, full)
	full.full = true
	var b frame.Batch
	w.put(t, 1)
	poll(t, r, &b)
	r.Send(2, &b.Frames[0])
	r.Send(9, &b.Frames[0])
	poll(t, r, &b) // at once, though there is nothing to read
	if len(b.Failed) != 2 || b.Failed[0].Reason != frame.TxQueueFull || b.Failed[1].Reason != frame.PortGone {
		t.Errorf("failures %+v", b.Failed)
	}
	w.dead = unix.EBADFD
	w.put(t, 1)
	poll(t, r, &b)
	if len(b.Gone) != 1 || b.Gone[0] != 1 || len(b.Failed) != 0 {
		t.Errorf("gone %v, failed %v", b.Gone, b.Failed)
	}
	r.Remove(1)
	r.Remove(1)
	full.full = false
	full.put(t, 1)
	poll(t, r, &b)
	if b.N != 1 || b.Frames[0].In != 2 {
		t.Error("the other port is not read any more")
	}
}

func TestRWAllocatesNothing(t *testing.T) {
	w := newWire(t)
	r := newRW(t, w)
	var b frame.Batch
	raw := frametest.Packet{Src: 1, Dst: 2}.Raw()
	buf := make([]byte, 2000)
	if allocs := testing.AllocsPerRun(100, func() {
		_, _ = unix.Write(w.far, raw)
		if err := r.Poll(&b); err != nil {
			t.Fatal(err)
		}
		r.Send(1, &b.Frames[0])
		_, _ = unix.Read(w.far, buf)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestNamespacePath(t *testing.T) {
	if p, err := NamespacePath(""); err != nil || p != Own {
		t.Errorf("the empty name: %q %v", p, err)
	}
	if p, err := NamespacePath("pid:self"); err != nil || p != "/proc/self/ns/net" {
		t.Errorf("pid:self: %q %v", p, err)
	}
	for _, bad := range []string{"no-such-namespace", "/dev/null", "pid:0"} {
		if p, err := NamespacePath(bad); err == nil {
			t.Errorf("%q is %q", bad, p)
		}
	}
	for _, bad := range []string{"", "a/b", "sixteen-letters-", "a b", "a%d", ".."} {
		if CheckName(bad) == nil {
			t.Errorf("%q is accepted as a device name", bad)
		}
	}
}
