package tap

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// Tests that every I/O backend must pass, over socket pairs.

type poller interface {
	Add(frame.PortID, frame.Conn, frame.Reading) error
	Remove(frame.PortID)
	Poll(*frame.Batch) error
	Send(frame.PortID, *frame.Frame)
	Pause(frame.PortID)
	Resume(frame.PortID)
	Yield(frame.PortID) bool
	Wake()
	Close() error
	Counts() frame.IOCounts
}

// backends runs a test on each backend. vnet is what Conn.Vnet of the ports returns: whether an io_uring reads them itself.
func backends(t *testing.T, test func(t *testing.T, p poller, vnet bool)) {
	for _, b := range []struct {
		name string
		open func() (poller, error)
		vnet bool
	}{
		{"read-write", func() (poller, error) { return NewRW() }, true},
		{"ring", func() (poller, error) { return NewIOUring(0) }, true},
		{"ring, busy polling", func() (poller, error) { return NewIOUring(20 * time.Microsecond) }, true},
		{"ring, ports read by Conn", func() (poller, error) { return NewIOUring(0) }, false},
	} {
		t.Run(b.name, func(t *testing.T) {
			runtime.LockOSThread() // an io_uring belongs to one thread
			defer runtime.UnlockOSThread()
			p, err := b.open()
			if err != nil {
				t.Skip(err) // no io_uring here
			}
			defer within(t, "Close", func() { _ = p.Close() })
			test(t, p, b.vnet)
		})
	}
}

// wire is a Conn over one end of a datagram socket pair; the test uses the other end.
type wire struct {
	file
	far  int
	vnet bool
	dead error
	full bool
}

func newWire(t *testing.T, vnet bool) *wire { return newWireOf(t, unix.SOCK_DGRAM, vnet) }

// newWireOf makes a wire of a kind of socket: one of kind SOCK_SEQPACKET holds thousands of frames.
func newWireOf(t *testing.T, kind int, vnet bool) *wire {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20); err != nil {
			t.Log(err) // without root a socket pair holds less; no test needs more
		}
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &wire{file: file{fd: fds[0]}, far: fds[1], vnet: vnet}
}

func (w *wire) Vnet() bool           { return w.vnet }
func (w *wire) GSOMaxSize(uint8) int { return maxPacket }

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
	return w.writeChain(f)
}

var sample = frametest.Packet{Src: 1, Dst: 2}.Raw()

func (w *wire) put(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := unix.Write(w.far, sample); err != nil {
			t.Fatal(err)
		}
	}
}

// fill puts frames until there is no room for more.
func (w *wire) fill() {
	for n := 0; n < 200; n++ {
		if _, err := unix.Write(w.far, sample); err != nil {
			return
		}
	}
}

// got returns the frames that the far end can read now.
func (w *wire) got(t *testing.T) (frames [][]byte) {
	t.Helper()
	for {
		b := make([]byte, 1<<17)
		n, err := unix.Read(w.far, b)
		if err == unix.EAGAIN {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, b[:n])
	}
}

func add(t *testing.T, p poller, id frame.PortID, w *wire) {
	t.Helper()
	if err := p.Add(id, w, frame.ReadPort); err != nil {
		t.Fatal(err)
	}
}

// within panics when fn does not return within 10 s, such as a Poll that misses an event.
func within(t *testing.T, what string, fn func()) {
	t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { panic(t.Name() + ": " + what + " does not return") })
	defer timer.Stop()
	fn() // on this goroutine, because its thread owns the io_uring
}

func poll(t *testing.T, p poller, b *frame.Batch) {
	t.Helper()
	within(t, "Poll", func() {
		if err := p.Poll(b); err != nil {
			t.Fatal(err)
		}
	})
}

// flush polls once, so that queued frames are sent; a wake-up ends the Poll.
func flush(t *testing.T, p poller, b *frame.Batch) {
	t.Helper()
	p.Wake()
	poll(t, p, b)
}

func TestReadsEverything(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w1, w2 := newWire(t, vnet), newWire(t, vnet)
		w1.put(t, 3) // before it is added
		add(t, p, 1, w1)
		add(t, p, 2, w2)
		var b frame.Batch
		got := map[frame.PortID]int{}
		read := func(want int) {
			for got[1]+got[2] < want {
				poll(t, p, &b)
				for i := range b.Frames[:b.N] {
					got[b.Frames[i].In]++
					if err := frametest.Check(b.Frames[i].Raw()); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		read(3)
		for _, n := range []int{1, 9, 10} { // a socket pair holds about ten
			w1.put(t, n)
			w2.put(t, 1)
			read(got[1] + got[2] + n + 1)
		}
		if got[1] != 23 || got[2] != 3 {
			t.Errorf("read %v", got)
		}
	})
}

// More rounds than buffers, so that each buffer is used again, with large and small frames in turn.
func TestBuffersComeRound(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w := newWire(t, vnet)
		add(t, p, 1, w)
		var b frame.Batch
		for round := range 2000 {
			size := frame.VnetLen + 60
			if round%5 == 0 {
				size = 60000
			}
			raw := make([]byte, size)
			raw[frame.VnetLen], raw[size-1] = byte(round), byte(round)
			if _, err := unix.Write(w.far, raw); err != nil {
				t.Fatal(err)
			}
			poll(t, p, &b)
			if f := b.Frames[0].Raw(); b.N != 1 || len(f) != size || f[frame.VnetLen] != byte(round) || f[size-1] != byte(round) {
				t.Fatalf("round %d: %d frames", round, b.N)
			}
			p.Send(1, &b.Frames[0])
			flush(t, p, &b)
			if got := w.got(t); len(got) != 1 || len(got[0]) != size || got[0][size-1] != byte(round) {
				t.Fatalf("round %d: %d frames came back", round, len(got))
			}
		}
	})
}

// A port with more to read than fits a batch must not keep others waiting for long.
func TestTakesTurns(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		loud, quiet := newWire(t, vnet), newWire(t, vnet)
		add(t, p, 1, loud)
		add(t, p, 2, quiet)
		var b frame.Batch
		loud.put(t, 8)
		poll(t, p, &b)
		for range 50 {
			loud.put(t, 8)
			quiet.put(t, 1)
			heard := false
			for range 4 {
				p.Wake()
				poll(t, p, &b)
				for i := range b.Frames[:b.N] {
					heard = heard || b.Frames[i].In == 2
				}
			}
			if !heard {
				t.Fatal("four batches without a frame of the quiet port")
			}
		}
	})
}

// A wake-up that comes while a port is still queued as ready must not be lost.
// Ports that always have frames get equal parts, and a port that has one now and then waits for a few batches at most.
func TestIsFair(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		const (
			floods = 3
			polite = floods + 1
		)
		var wires [polite + 1]*wire
		for id := 1; id <= polite; id++ {
			wires[id] = newWireOf(t, unix.SOCK_SEQPACKET, vnet)
			add(t, p, frame.PortID(id), wires[id])
		}
		var b frame.Batch
		var got [polite + 1]int
		wires[polite].put(t, 1)
		waited := 0
		for range 400 {
			for id := 1; id <= floods; id++ {
				wires[id].fill()
			}
			poll(t, p, &b)
			before := got[polite]
			for i := range b.Frames[:b.N] {
				got[b.Frames[i].In]++
			}
			if waited++; got[polite] > before {
				waited = 0
				wires[polite].put(t, 1)
			}
			if waited > look+1 {
				t.Fatalf("a single frame waits for more than %d batches beside floods: %v", waited, got)
			}
		}
		for id := 2; id <= floods; id++ {
			if got[id]*10 < got[1]*9 || got[id]*9 > got[1]*10 {
				t.Errorf("three floods got %v frames", got[1:floods+1])
			}
		}
	})
}

// Beside floods, half of the frames are the uplink's.
func TestUplinkHasHalf(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		const floods = 5 // the first one is the uplink
		var wires [floods]*wire
		for i := range wires {
			wires[i] = newWireOf(t, unix.SOCK_SEQPACKET, vnet)
			read := frame.ReadPort
			if i == 0 {
				read = frame.ReadUplink
			}
			if err := p.Add(frame.PortID(i+1), wires[i], read); err != nil {
				t.Fatal(err)
			}
		}
		var b frame.Batch
		uplinks, all := 0, 0
		for range 300 {
			for _, w := range wires {
				w.fill()
			}
			poll(t, p, &b)
			for i := range b.Frames[:b.N] {
				if all++; b.Frames[i].In == 1 {
					uplinks++
				}
			}
		}
		if uplinks < all*2/5 || uplinks > all*3/5 {
			t.Errorf("%d of %d frames are the uplink's", uplinks, all)
		}
	})
}

// Frames of the uplink's second queue are marked in Batch.Bulk. They keep none of the first queue waiting, and can be paused alone.
func TestTwoQueues(t *testing.T) {
	backends(t, func(t *testing.T, p poller, _ bool) {
		first, bulk := newWireOf(t, unix.SOCK_SEQPACKET, true), newWireOf(t, unix.SOCK_SEQPACKET, true)
		const up = 7
		d := &Device{file: first.file, bulk: &Device{file: bulk.file}}
		if err := p.Add(up, d, frame.ReadUplink); err != nil {
			t.Fatal(err)
		}
		var b frame.Batch
		const another = 1
		read := func() (firsts, bulks int) {
			b.Bulk = 0
			poll(t, p, &b)
			for i := range b.Frames[:b.N] {
				switch in := b.Frames[i].In; {
				case in == another && b.Bulk>>i&1 == 0:
				case in != up:
					t.Fatalf("a frame of port %d, second queue %v", in, b.Bulk>>i&1 != 0)
				case b.Bulk>>i&1 != 0:
					bulks++
				default:
					firsts++
				}
			}
			return firsts, bulks
		}
		for range 2 { // frames that both queues had at the same time all come, and then the worker sleeps
			first.put(t, 60)
			bulk.put(t, 60)
			for firsts, bulks := 0, 0; firsts < 60 || bulks < 60; {
				f, b := read()
				firsts, bulks = firsts+f, bulks+b
			}
			before := p.Counts().Calls
			time.AfterFunc(20*time.Millisecond, p.Wake)
			poll(t, p, &b)
			if calls := p.Counts().Calls - before; calls > 100 {
				t.Fatalf("%d system calls of a worker that has nothing to read", calls)
			}
		}

		for round := range 100 { // a full second queue makes no frame of the first one wait for long
			bulk.fill()
			first.put(t, 1+round%3)
			n := 0
			for batches := 0; n < 1+round%3; batches++ {
				if batches > look+1 {
					t.Fatalf("round %d: a frame of the first queue waits", round)
				}
				firsts, _ := read()
				n += firsts
			}
		}

		port := newWireOf(t, unix.SOCK_SEQPACKET, true)
		add(t, p, another, port)
		var firsts, bulks, ports int
		for range 200 { // all are full: each gets a part
			first.fill()
			bulk.fill()
			port.fill()
			f, s := read()
			firsts, bulks, ports = firsts+f, bulks+s, ports+b.N-f-s
		}
		if all := firsts + bulks + ports; ports < all/3 || firsts < all/8 || bulks < 150 {
			t.Errorf("%d frames of the first queue, %d of the second one, %d of another port", firsts, bulks, ports)
		}
		within(t, "Remove", func() { p.Remove(another) })

		p.Pause(frame.Bulk)
		first.put(t, 1)
		for firsts := 0; firsts == 0; { // what had been read already
			firsts, _ = read()
		}
		bulk.fill()
		for range 3 {
			first.put(t, 1)
			for firsts := 0; firsts == 0; {
				var bulks int
				if firsts, bulks = read(); bulks > 0 {
					t.Fatalf("%d frames of a paused queue", bulks)
				}
			}
		}
		p.Resume(frame.Bulk)
		for bulks := 0; bulks == 0; {
			_, bulks = read()
		}

		within(t, "Remove", func() { p.Remove(up) })
		again := newWire(t, true)
		if err := p.Add(up, again, frame.ReadUplink); err != nil { // with one queue
			t.Fatal(err)
		}
		again.put(t, 1)
		for firsts := 0; firsts == 0; {
			var bulks int
			if firsts, bulks = read(); bulks > 0 {
				t.Fatal("frames of a queue that is gone")
			}
		}
	})
}

// While CPU time is scarce for others, a port that floods has a few frames in each batch, however long they take.
func TestShortTurns(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		loud, quiet := newWireOf(t, unix.SOCK_SEQPACKET, vnet), newWireOf(t, unix.SOCK_SEQPACKET, vnet)
		add(t, p, 1, loud)
		add(t, p, 2, quiet)
		var b frame.Batch
		most := map[bool]int{}
		for round := range 200 {
			loud.fill()
			quiet.put(t, 1)
			b.Scarce = round >= 100
			poll(t, p, &b)
			n := 0
			for i := range b.Frames[:b.N] {
				if b.Frames[i].In == 1 {
					n++
				}
			}
			if round%100 >= 50 { // the backend knows by then how long a frame takes
				most[b.Scarce] = max(most[b.Scarce], n)
			}
			b.Took = int64(b.N) * 20_000
		}
		if most[true] > 4 || most[true] == 0 || most[false] <= most[true] {
			t.Errorf("with CPU time, a batch has up to %d frames of a loud port; without, up to %d", most[false], most[true])
		}
	})
}

// A paused port is not read, whatever its read was doing; others are. After Resume, all of its frames come.
func TestPause(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		paused, other := newWireOf(t, unix.SOCK_SEQPACKET, vnet), newWireOf(t, unix.SOCK_SEQPACKET, vnet)
		add(t, p, 1, paused)
		add(t, p, 2, other)
		var b frame.Batch
		var got [3]int
		read := func() {
			poll(t, p, &b)
			for i := range b.Frames[:b.N] {
				got[b.Frames[i].In]++
			}
		}
		for round := range 50 {
			got = [3]int{}
			for n := range round % 3 { // its read waits for frames, or has ended, or has read some
				paused.put(t, 1+40*n)
				read()
			}
			p.Pause(1)
			other.put(t, 1)
			for got[2] == 0 { // what had been read already
				read()
			}
			before := got[1]
			paused.put(t, 3)
			for range 3 {
				other.put(t, 1)
				for want := got[2] + 1; got[2] < want; {
					read()
				}
			}
			if got[1] != before {
				t.Fatalf("round %d: %d frames of a paused port", round, got[1]-before)
			}
			p.Resume(1)
			for want := 3 + []int{0, 1, 42}[round%3]; got[1] < want; {
				read()
			}
		}
		p.Pause(1)
		within(t, "Remove", func() { p.Remove(1) })
		again := newWire(t, vnet)
		add(t, p, 1, again)
		again.put(t, 1)
		for got[1] = 0; got[1] == 0; {
			read()
		}
	})
}

func TestWake(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w := newWire(t, vnet)
		add(t, p, 1, w)
		var b frame.Batch
		for i := range 3 * look {
			if i%2 == 0 {
				w.put(t, quota/8)
				poll(t, p, &b)
			}
			flush(t, p, &b)
		}
	})
}

func TestReportsFailuresAndDeaths(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w, full := newWire(t, vnet), newWire(t, false)
		add(t, p, 1, w)
		add(t, p, 2, full)
		full.full = true
		var b frame.Batch
		w.put(t, 1)
		for b.N == 0 {
			poll(t, p, &b)
		}
		p.Send(2, &b.Frames[0])
		p.Send(9, &b.Frames[0])
		poll(t, p, &b) // returns at once, though there is no frame to read
		if len(b.Failed) != 2 || b.Failed[0].Reason != frame.TxQueueFull || b.Failed[1].Reason != frame.PortGone || b.Failed[1].Frames != 1 {
			t.Errorf("failures %+v", b.Failed)
		}
		full.dead = unix.EBADFD
		full.put(t, 1)
		poll(t, p, &b)
		if len(b.Gone) != 1 || b.Gone[0] != 2 || len(b.Failed) != 0 {
			t.Errorf("gone %v, failed %v", b.Gone, b.Failed)
		}
		p.Remove(2)
		p.Remove(2)
		w.put(t, 1)
		poll(t, p, &b)
		if b.N != 1 || b.Frames[0].In != 1 {
			t.Error("the other port is not read any more")
		}
		unix.Close(w.far) // writes fail, as to a device whose namespace is gone
		p.Send(1, &b.Frames[0])
		p.Wake()
		for poll(t, p, &b); len(b.Failed) == 0; poll(t, p, &b) {
		}
		if len(b.Failed) != 1 || b.Failed[0].Port != 1 || b.Failed[0].Frames != 1 || int(b.Failed[0].Bytes) != len(sample)-frame.VnetLen {
			t.Errorf("failed %+v", b.Failed)
		}
		w.far, _ = unix.Eventfd(0, unix.EFD_CLOEXEC) // so that the clean-up has a descriptor to close
	})
}

// After Remove, the port's number and descriptor can be reused at once.
func TestPortsComeAndGo(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		var b frame.Batch
		stays := newWire(t, vnet)
		add(t, p, 7, stays)
		for range 300 {
			w := newWire(t, vnet)
			add(t, p, 1, w)
			w.put(t, 2)
			for n := 0; n < 2; {
				poll(t, p, &b)
				n += b.N
			}
			w.put(t, 1) // nobody reads this one
			within(t, "Remove", func() { p.Remove(1) })
			stays.put(t, 1)
			poll(t, p, &b)
			for i := range b.Frames[:b.N] {
				if b.Frames[i].In != 7 {
					t.Fatal("a frame of a port that was removed")
				}
			}
		}
	})
}

// A flood sends one frame to more ports than the queue has room for.
func TestFloodToMany(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		in := newWire(t, vnet)
		add(t, p, 1, in)
		var outs []*wire
		for id := range frame.PortID(40) {
			w := newWire(t, vnet)
			outs = append(outs, w)
			if err := p.Add(id+2, w, frame.NotRead); err != nil {
				t.Fatal(err)
			}
		}
		var b frame.Batch
		sent := 0
		for range 8 {
			in.put(t, 8)
			for n := 0; n < 8; n += b.N {
				poll(t, p, &b)
				for i := range b.Frames[:b.N] {
					sent++
					for id := range frame.PortID(len(outs)) {
						p.Send(id+2, &b.Frames[i])
					}
				}
			}
			flush(t, p, &b)
			for _, w := range outs {
				if got := w.got(t); len(got) != 8 {
					t.Fatalf("%d of 8 frames arrived", len(got))
				}
			}
		}
	})
}

// A frame whose bytes are not in the backend's own buffers is sent, too.
func TestSendsForeignBytes(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w := newWire(t, vnet)
		add(t, p, 1, w)
		var b frame.Batch
		flush(t, p, &b)
		var f frame.Frame
		raw := append([]byte(nil), sample...)
		f.Reset(raw, 2)
		p.Send(1, &f)
		flush(t, p, &b)
		if got := w.got(t); len(got) != 1 || string(got[0]) != string(sample) {
			t.Errorf("%d frames", len(got))
		}
	})
}

func TestAllocatesNothing(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w := newWire(t, vnet)
		add(t, p, 1, w)
		var b frame.Batch
		buf := make([]byte, 2000)
		if allocs := testing.AllocsPerRun(100, func() {
			_, _ = unix.Write(w.far, sample)
			if err := p.Poll(&b); err != nil {
				t.Fatal(err)
			}
			p.Send(1, &b.Frames[0])
			_, _ = unix.Read(w.far, buf)
		}); allocs != 0 {
			t.Errorf("%v allocations", allocs)
		}
	})
}

func TestClosed(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		w := newWire(t, vnet)
		add(t, p, 1, w)
		var b frame.Batch
		flush(t, p, &b)
		within(t, "Close", func() { _ = p.Close() })
		p.Wake()
		p.Remove(1)
		if p.Add(2, w, frame.ReadPort) == nil {
			t.Error("a port was added to a closed backend")
		}
		p.Close()
	})
}

// A port is read as soon as it is added, even when there are many.
func TestManyPorts(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		var b frame.Batch
		for id := range frame.PortID(40) {
			w := newWire(t, vnet)
			add(t, p, id+1, w)
			w.put(t, 1)
			for b.N = 0; b.N == 0; {
				poll(t, p, &b) // only the frame ends the Poll
			}
			if b.Frames[0].In != id+1 {
				t.Fatalf("a frame of port %d, not of %d", b.Frames[0].In, id+1)
			}
		}
	})
	backends(t, func(t *testing.T, p poller, vnet bool) {
		var ws []*wire
		for id := range frame.PortID(40) {
			ws = append(ws, newWire(t, vnet))
			add(t, p, id+1, ws[id])
		}
		var b frame.Batch
		for n := len(ws) - 1; n >= 0; n-- {
			ws[n].put(t, 1)
			for b.N = 0; b.N == 0; {
				poll(t, p, &b)
			}
		}
	})
}

// Events that are noticed between two Polls, while a port is removed or the queue is full, are reported by the next Poll.
func TestNothingIsLostBetweenPolls(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		a, dead := newWire(t, vnet), newWire(t, false)
		add(t, p, 1, a)
		add(t, p, 2, dead)
		var b frame.Batch
		flush(t, p, &b)
		p.Wake()
		within(t, "Remove", func() { p.Remove(1) })
		poll(t, p, &b) // the Wake above ends the Poll
		add(t, p, 1, a)
		flush(t, p, &b)
		dead.dead = unix.EBADFD
		dead.put(t, 1)
		within(t, "Remove", func() { p.Remove(1) })
		poll(t, p, &b)
		if len(b.Gone) != 1 || b.Gone[0] != 2 {
			t.Errorf("gone %v", b.Gone)
		}
	})
}

// Frames sent to a port go out before its descriptor can be reused.
func TestRemoveFlushes(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		in, out := newWire(t, vnet), newWire(t, vnet)
		add(t, p, 1, in)
		if err := p.Add(2, out, frame.NotRead); err != nil {
			t.Fatal(err)
		}
		in.put(t, 1)
		var b frame.Batch
		for b.N == 0 {
			poll(t, p, &b)
		}
		p.Send(2, &b.Frames[0])
		p.Remove(2)
		if got := out.got(t); len(got) != 1 {
			t.Errorf("%d frames had gone out when the port was removed", len(got))
		}
	})
}

// What a worker sent has left when another one reads the port: else that one's frames would overtake it.
func TestYieldFlushes(t *testing.T) {
	backends(t, func(t *testing.T, p poller, vnet bool) {
		in, out := newWireOf(t, unix.SOCK_SEQPACKET, vnet), newWireOf(t, unix.SOCK_SEQPACKET, vnet)
		add(t, p, 1, in)
		if err := p.Add(2, out, frame.NotRead); err != nil {
			t.Fatal(err)
		}
		in.put(t, 200) // more than a read's buffers, so that the read ends with the batch
		var b frame.Batch
		sent := 0
		forward := func() {
			for i := range b.Frames[:b.N] {
				p.Send(2, &b.Frames[i])
			}
			sent += b.N
		}
		for b.N == 0 {
			poll(t, p, &b)
		}
		for forward(); !p.Yield(1); forward() {
			flush(t, p, &b)
		}
		if got := out.got(t); len(got) != sent {
			t.Errorf("%d of %d frames had gone out when the port was given away", len(got), sent)
		}
	})
}

// A read that ends with an error while the worker looks for frames is armed again before the worker sleeps: else its frames would not wake it.
func TestLookArmsReads(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := NewIOUring(50 * time.Microsecond)
	if err != nil {
		t.Skip(err)
	}
	defer r.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	nobody, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := nobody.LocalAddr().(*net.UDPAddr).Port
	nobody.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil { // on loopback, the refusal is there when Write returns
		t.Fatal(err)
	}
	add(t, r, 1, &wire{file: file{fd: fd}, far: -1, vnet: true})
	if err := r.enable(); err != nil {
		t.Fatal(err)
	}
	r.provide()
	if err := r.enter(1); err != nil {
		t.Fatal(err)
	}
	if !r.mustRead() || r.counts.Sleeps != 0 {
		t.Errorf("the read has to be armed: %v; the worker slept %d times", r.mustRead(), r.counts.Sleeps)
	}
}

// BenchmarkQuietPorts reads one frame of each of many ports, again and again. Most of the time is the writing of the frames.
func BenchmarkQuietPorts(b *testing.B) {
	for _, ports := range []int{4, 50, 200} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			p, err := NewIOUring(0)
			if err != nil {
				b.Skip(err)
			}
			defer p.Close()
			var far []int
			for i := range ports {
				fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer unix.Close(fds[0])
				defer unix.Close(fds[1])
				far = append(far, fds[1])
				if err := p.Add(frame.PortID(i+1), &wire{file: file{fd: fds[0]}, far: fds[1], vnet: true}, frame.ReadPort); err != nil {
					b.Fatal(err)
				}
			}
			var batch frame.Batch
			for b.Loop() {
				for _, fd := range far {
					if _, err := unix.Write(fd, sample); err != nil {
						b.Fatal(err)
					}
				}
				for got := 0; got < ports; got += batch.N {
					if err := p.Poll(&batch); err != nil {
						b.Fatal(err)
					}
				}
			}
			c := p.Counts()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*ports), "ns/frame")
			b.ReportMetric(float64(c.Calls)/float64(b.N), "calls/round")
			b.ReportMetric(float64(c.Rearms)/float64(b.N), "rearms/round")
		})
	}
}
