package dataplane

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

func TestBalancer(t *testing.T) {
	of := func(percent int, costs ...uint64) (l load) {
		l.percent = percent
		for i, c := range costs {
			l.ports = append(l.ports, portLoad{id: frame.PortID(10*percent + i), cost: c})
		}
		return l
	}
	staying := func(l load, i int) load {
		l.ports[i].stays = true
		return l
	}
	for _, x := range []struct {
		name  string
		loads []load
		spare bool
		want  string
	}{
		{"one port alone cannot be shared", []load{of(99, 100), of(0)}, true, ""},
		{"two of three equal ports stay", []load{of(99, 50, 50, 50), of(0)}, true, "[990] 0 1"},
		{"the loud port stays, the others go one after another", []load{of(90, 60, 30, 10), of(0)}, true, "[900] 0 1"},
		{"to the worker with most time", []load{of(90, 30, 30), of(50, 9), of(20, 1)}, true, "[900] 0 2"},
		{"the best port cannot move", []load{staying(of(99, 50, 30, 20), 0), of(0)}, true, "[991] 0 1"},
		{"no port can move", []load{staying(of(99, 50), 0), of(0)}, true, ""},
		{"no CPU is spare", []load{of(99, 50, 50), of(0)}, false, ""},
		{"time is left", []load{of(80, 50, 50), of(0)}, true, ""},
		{"no better than before", []load{of(99, 100, 1), of(80, 90)}, true, ""},
		{"nothing is known", []load{of(99, 0, 0), of(0)}, true, ""},
	} {
		var b balancer
		m, ok := b.decide(x.loads, x.spare, balanceEvery)
		got := ""
		if ok {
			got = fmt.Sprint(m.ports, m.from, m.to)
		}
		if got != x.want {
			t.Errorf("%s: %q, want %q", x.name, got, x.want)
		}
	}

	var b balancer
	light := []load{of(10, 1), of(10, 1, 1), of(5, 1)}
	for at := time.Duration(0); at < lightFor-balanceEvery; at += balanceEvery {
		if m, ok := b.decide(light, true, balanceEvery); ok {
			t.Fatalf("after %v with little to do: %+v", at, m)
		}
	}
	if m, ok := b.decide(light, true, balanceEvery); !ok || !slices.Equal(m.ports, []frame.PortID{100, 101}) || m.from != 1 || m.to != 0 {
		t.Errorf("after %v: %+v %v", lightFor, m, ok)
	}
	light[1] = staying(staying(light[1], 0), 1)
	if m, ok := b.decide(light, true, balanceEvery); !ok || m.from != 2 || m.to != 0 {
		t.Errorf("then: %+v %v", m, ok)
	}
	b.decide([]load{of(50, 1), of(10, 1)}, true, balanceEvery)
	if b.light != 0 {
		t.Error("there is much to do, and it does not begin anew")
	}
}

// wire is a frame.Conn over one end of a socket pair; the test has the other end.
type wire struct{ fd, far int }

func newWire(t *testing.T) *wire {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &wire{fds[0], fds[1]}
}

func (w *wire) FD() int              { return w.fd }
func (w *wire) Vnet() bool           { return true }
func (w *wire) GSOMaxSize(uint8) int { return 0 }
func (w *wire) Close() error         { return nil }
func (w *wire) Read(b []byte) (int, error) {
	n, err := unix.Read(w.fd, b)
	if err != nil {
		return 0, nil
	}
	return n, nil
}

func (w *wire) Write(f *frame.Frame) frame.Reason {
	if _, err := unix.Write(w.fd, f.Raw()); err != nil {
		return frame.TxQueueFull
	}
	return frame.None
}

// TestMovesLoseNothing moves ports between 1 to 8 workers while frames come in: all of them arrive, in order, by both backends.
func TestMovesLoseNothing(t *testing.T) {
	for _, kind := range []string{"io_uring", "read-write"} {
		for _, workers := range []int{2, 3, 8} {
			t.Run(fmt.Sprint(kind, " ", workers), func(t *testing.T) {
				before := runtime.GOMAXPROCS(workers + 4) // a worker that waits keeps its P
				defer runtime.GOMAXPROCS(before)
				newPollers := func() (pollers []Poller) {
					for range workers {
						var p Poller
						var err error
						if p, err = tap.NewRW(); kind == "io_uring" {
							p, err = tap.NewIOUring(0)
						}
						if err != nil {
							t.Skip(err)
						}
						pollers = append(pollers, p)
					}
					return pollers
				}
				const tries = 5
				for range tries {
					if testMoves(t, newPollers()) {
						return
					}
				}
				t.Errorf("in each of %d tries, this machine was so busy that some receiver was taken for a slow one", tries)
			})
		}
	}
}

// testMoves returns false if a receiver was taken for a slow one, by interrupts of a busy machine: its frames need not keep their order.
func testMoves(t *testing.T, pollers []Poller) bool {
	const senders, moves = 3, 99
	began := time.Now()
	d := New(nat.New(nat.Options{Flows: 1024}), func() int64 { return int64(time.Since(began)) + 1e9 }, pollers...)
	d.Balance(func() bool { return false }) // the test moves the ports
	d.Switch.SetNetwork(vswitch.Network{ID: 1, Gateway: 0x0200000000fe, FDB: vswitch.NewFDB(64, 1)})
	d.Router.SetInterface(router.Interface{Net: 1, Addr: frametest.Addr("10.0.0.1"), Prefix: netip.MustParsePrefix("10.0.0.0/24"), MAC: 0x0200000000fe, MTU: 1500})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, func(id frame.PortID) { t.Errorf("port %d is gone", id) }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	wires := map[frame.PortID]*wire{}
	mac := func(id frame.PortID) frame.MAC { return 0x020000000000 + frame.MAC(id) }
	for id := frame.PortID(1); id <= 2*senders; id++ {
		wires[id] = newWire(t)
		if err := d.AddPort(vswitch.Port{ID: id, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500}, wires[id]); err != nil {
			t.Fatal(err)
		}
		d.Switch.FDB(1).Set(mac(id), id, true)
	}

	m := meter{cpu: make([]int64, len(pollers)), cost: map[frame.PortID]uint64{}}
	d.measure(&m)
	done := make(chan string, senders)
	var enough atomic.Bool
	for i := range senders {
		from, to := frame.PortID(i+1), frame.PortID(i+1+senders)
		go func() { done <- talk(wires[from], wires[to], mac(from), mac(to), &enough) }()
	}
	for i := range moves {
		id := frame.PortID(1 + i%senders)
		d.mu.Lock()
		from := d.readers[id]
		d.mu.Unlock()
		d.move(move{[]frame.PortID{id}, from, (from + 1 + i%max(1, len(pollers)-1)) % len(pollers)})
		for d.Conservation().Received < uint64(10*(i+1)) && len(done) == 0 {
			runtime.Gosched()
		}
	}
	enough.Store(true)
	var wrong []string
	for range senders {
		if why := <-done; why != "" {
			wrong = append(wrong, why)
		}
	}
	if slices.ContainsFunc(d.IO(), func(c frame.IOCounts) bool { return c.Diverted > 0 }) {
		return false
	}
	if len(wrong) > 0 {
		t.Error(wrong)
	}
	loads, _ := d.measure(&m)
	cost := map[frame.PortID]uint64{}
	for at, w := range loads {
		for _, p := range w.ports {
			if cost[p.id] = p.cost; d.readers[p.id] != at {
				t.Errorf("port %d is measured with worker %d, and read by %d", p.id, at, d.readers[p.id])
			}
		}
	}
	if len(cost) != 2*senders || cost[1] < frameCost || cost[1+senders] != 0 {
		t.Errorf("measured by port: %v", cost)
	}
	if c := d.Conservation(); !c.Balanced || c.Dropped != 0 {
		t.Errorf("%+v", c)
	}
	return true
}

// talk sends numbered frames from one wire to another, a few at a time, until there are enough, and says what is wrong with what arrives.
func talk(from, to *wire, src, dst frame.MAC, enough *atomic.Bool) string {
	const window = 8
	raw := frametest.Packet{SrcMAC: src, DstMAC: dst, Src: 1, Dst: 2, Payload: make([]byte, 64)}.Raw()
	b := make([]byte, 4096)
	sent := 0
	for got := 0; got < sent || !enough.Load(); got++ {
		for ; sent-got < window && !enough.Load(); sent++ {
			binary.BigEndian.PutUint32(raw[len(raw)-4:], uint32(sent))
			if _, err := unix.Write(from.far, raw); err != nil {
				return fmt.Sprint("sending: ", err)
			}
		}
		if got == sent {
			break
		}
		fd := []unix.PollFd{{Fd: int32(to.far), Events: unix.POLLIN}}
		if n, err := unix.Poll(fd, 10000); n != 1 && err != unix.EINTR {
			return fmt.Sprintf("frame %d did not arrive: %v", got, err)
		}
		n, err := unix.Read(to.far, b)
		if err == unix.EAGAIN {
			got--
			continue
		}
		if err != nil || n != len(raw) || binary.BigEndian.Uint32(b[n-4:]) != uint32(got) {
			return fmt.Sprintf("frame %d: %d bytes, %v, number %d", got, n, err, binary.BigEndian.Uint32(b[max(0, n-4):]))
		}
	}
	return ""
}
