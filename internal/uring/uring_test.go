package uring

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// enabled returns a ring that belongs to the test's thread.
func enabled(t *testing.T, entries int) *Ring {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(entries)
	if err != nil {
		t.Skip(err) // no io_uring here
	}
	t.Cleanup(func() { r.Close() })
	if err := r.Enable(); err != nil {
		t.Fatal(err)
	}
	return r
}

func pair(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func enter(t *testing.T, r *Ring, wait int) (all []Completion) {
	t.Helper()
	if err := r.Enter(wait); err != nil {
		t.Fatal(err)
	}
	for c, ok := r.Next(); ok; c, ok = r.Next() {
		all = append(all, c)
	}
	r.Done()
	return all
}

func TestReadMultishot(t *testing.T) {
	r := enabled(t, 8)
	bufs, err := r.NewBuffers(0, 4, 1000)
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	r.ReadMultishot(near, 0, 7)
	if all := enter(t, r, 1); len(all) != 1 || all[0].Res != -int32(unix.ENOBUFS) || all[0].More || all[0].Buffer != -1 {
		t.Fatalf("without a buffer: %+v", all)
	}
	// Buffers are filled in the order in which they were provided, several times round.
	id := 0
	for round := range 5 {
		for range 4 {
			bufs.Provide(id % 4)
			id++
		}
		bufs.Publish()
		r.ReadMultishot(near, 0, 7)
		for i := range 4 {
			if _, err := unix.Write(far, fmt.Appendf(nil, "round %d, %d", round, i)); err != nil {
				t.Fatal(err)
			}
		}
		var all []Completion
		for len(all) < 4 {
			all = append(all, enter(t, r, 1)...)
		}
		for i, c := range all[:4] {
			want := fmt.Appendf(nil, "round %d, %d", round, i)
			if c.Data != 7 || c.Buffer != i || !bytes.Equal(bufs.Bytes(c.Buffer)[:c.Res], want) || !bufs.Owns(bufs.Bytes(c.Buffer)) {
				t.Fatalf("completion %+v, want %q", c, want)
			}
		}
		if len(all) == 4 && all[3].More { // the read ends when it finds no buffer
			if _, err := unix.Write(far, []byte("one more")); err != nil {
				t.Fatal(err)
			}
			all = append(all, enter(t, r, 1)...)
			var b [100]byte
			if _, err := unix.Read(near, b[:]); err != nil {
				t.Fatal(err)
			}
		}
		if last := all[len(all)-1]; last.More {
			t.Fatalf("it goes on: %+v", all)
		}
	}
	if bufs.Owns(make([]byte, 1)) {
		t.Error("memory from elsewhere counts as a buffer")
	}
}

func TestWrite(t *testing.T) {
	r := enabled(t, 8)
	near, far := pair(t)
	b := []byte("header")
	iov := make([]unix.Iovec, 2)
	rest := []byte(" and rest")
	iov[0].Base, iov[1].Base = &b[0], &rest[0]
	iov[0].SetLen(len(b))
	iov[1].SetLen(len(rest))
	r.Write(near, b, 1)
	r.WriteV(near, iov, 2)
	if all := enter(t, r, 0); len(all) != 0 {
		t.Fatalf("writes that succeed have no completion: %+v", all)
	}
	var got [100]byte
	for _, want := range []string{"header", "header and rest"} {
		if n, err := unix.Read(far, got[:]); err != nil || string(got[:n]) != want {
			t.Errorf("%q %v", got[:n], err)
		}
	}
	// A write to a full socket fails with EAGAIN and is not tried again.
	full := 0
	for {
		if _, err := unix.Write(near, b); err != nil {
			break
		}
		full++
	}
	r.Write(near, b, 3)
	if all := enter(t, r, 1); len(all) != 1 || all[0].Data != 3 || all[0].Res != -int32(unix.EAGAIN) {
		t.Fatalf("%+v", all)
	}
	for range full {
		if _, err := unix.Read(far, got[:]); err != nil {
			t.Fatal(err)
		}
	}
	enter(t, r, 0)
	if n, err := unix.Read(far, got[:]); err != unix.EAGAIN {
		t.Errorf("a write that had failed came late: %q %v", got[:n], err)
	}
	unix.Close(far)
	r.Write(near, b, 4)
	if all := enter(t, r, 1); len(all) != 1 || all[0].Res >= 0 {
		t.Errorf("%+v", all)
	}
}

func TestRoomAndOrder(t *testing.T) {
	r := enabled(t, 8)
	near, far := pair(t)
	data := []byte("01234567")
	for i := range 8 {
		if r.Room() != 8-i {
			t.Fatalf("room for %d after %d", r.Room(), i)
		}
		r.Write(near, data[i:i+1], 1)
	}
	enter(t, r, 0)
	if r.Room() != 8 {
		t.Errorf("room for %d after Enter", r.Room())
	}
	for i := range 8 {
		var b [2]byte
		if _, err := unix.Read(far, b[:]); err != nil || b[0] != data[i] {
			t.Fatalf("%q %v, want %q", b[0], err, data[i])
		}
	}
}

func TestPollAndCancel(t *testing.T) {
	r := enabled(t, 8)
	near, far := pair(t)
	r.PollMultishot(near, 5)
	for range 3 {
		if _, err := unix.Write(far, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if all := enter(t, r, 1); len(all) != 1 || all[0].Data != 5 || all[0].Res&unix.POLLIN == 0 || !all[0].More {
			t.Fatalf("%+v", all)
		}
		var b [2]byte
		if _, err := unix.Read(near, b[:]); err != nil {
			t.Fatal(err)
		}
	}
	r.Cancel(5, 6)
	var all []Completion
	for len(all) < 2 {
		all = append(all, enter(t, r, 1)...)
	}
	for _, c := range all {
		if c.Data == 5 && (c.Res != -int32(unix.ECANCELED) || c.More) || c.Data == 6 && c.Res != 0 {
			t.Errorf("%+v", c)
		}
	}
	r.PollMultishot(near, 7)
	r.PollMultishot(far, 8)
	r.CancelAll(9)
	for all = nil; len(all) < 3; {
		all = append(all, enter(t, r, 1)...)
	}
}

// Only the thread that enabled a ring may use it; otherwise completions could appear at any time.
func TestBelongsToOneThread(t *testing.T) {
	r := enabled(t, 8)
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err <- r.Enter(0)
	}()
	if <-err == nil {
		t.Error("another thread may enter the ring")
	}
}

// A wait without an event must not keep the garbage collector from stopping the world.
func TestWaitLetsTheWorldStop(t *testing.T) {
	old := runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0)))
	defer runtime.GOMAXPROCS(old)
	ready, done := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		r, err := New(8)
		if err != nil {
			close(ready)
			done <- nil
			return
		}
		defer r.Close()
		event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err == nil {
			err = r.Enable()
		}
		r.PollMultishot(event, 1)
		ready <- event
		for err == nil {
			if err = r.Enter(1); err == nil {
				if _, ok := r.Next(); ok {
					break
				}
			}
		}
		unix.Close(event)
		done <- err
	}()
	event, ok := <-ready
	if !ok {
		<-done
		t.Skip("no io_uring here")
	}
	for range 20 {
		runtime.GC() // hangs if the wait does not end
	}
	if _, err := unix.Write(event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestGather: one completion does not end the wait before its least time, many do, and without any the wait goes on.
func TestGather(t *testing.T) {
	r := enabled(t, 8)
	if !r.gathers {
		t.Skip("this kernel has no least time to wait (Linux 6.12 has)")
	}
	bufs, err := r.NewBuffers(0, 8, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		bufs.Provide(i)
	}
	bufs.Publish()
	near, far := pair(t)
	r.ReadMultishot(near, 0, 7)
	enter(t, r, 0)
	gather := func(wait int, least time.Duration) (n int, took time.Duration) {
		began := time.Now()
		for n == 0 {
			if err := r.Gather(wait, least); err != nil {
				t.Fatal(err)
			}
			for c, ok := r.Next(); ok; c, ok = r.Next() {
				bufs.Provide(c.Buffer)
				n++
			}
			bufs.Publish()
			r.Done()
		}
		return n, time.Since(began)
	}
	write := func() {
		if _, err := unix.Write(far, []byte("x")); err != nil {
			t.Error(err)
		}
	}
	for tries := 0; ; tries++ { // a signal of the runtime may end a wait early
		write()
		if _, took := gather(8, 5*time.Millisecond); took >= 4*time.Millisecond {
			break
		} else if tries == 100 {
			t.Fatalf("one completion ended the wait after %s", took)
		}
	}
	go write()
	if n, _ := gather(8, time.Microsecond); n != 1 {
		t.Errorf("%d completions", n)
	}
}

// TestWaitIsNotForADisk: a thread that waits for a ring is not counted as one that waits for a disk, which "I/O pressure" and "wa" of top
// would show.
func TestWaitIsNotForADisk(t *testing.T) {
	r := enabled(t, 8)
	if r.enterFlags&enterNoIOWait == 0 {
		t.Skip("this kernel counts every wait of io_uring as one for a disk (Linux 6.15 does not)")
	}
	near, far := pair(t)
	tid := make(chan int)
	done := make(chan error, 1)
	go func() { // the ring's thread is this test's: so another thread looks on
		defer close(done)
		id := <-tid
		for deadline := time.Now().Add(time.Minute); ; {
			where, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/wchan", id))
			stat, err := os.ReadFile("/proc/stat")
			waits := strings.Contains(string(where), "cqring") || string(where) == "0"
			if err == nil && waits && strings.Contains(string(stat), "procs_blocked 0\n") {
				break
			}
			if time.Now().After(deadline) {
				done <- fmt.Errorf("some process always waits for a disk, and this thread is in %s", where)
				break
			}
		}
		_, _ = unix.Write(far, []byte("x"))
	}()
	bufs, err := r.NewBuffers(0, 4, 1000)
	if err != nil {
		t.Fatal(err)
	}
	bufs.Provide(0)
	bufs.Publish()
	r.ReadMultishot(near, 0, 7)
	enter(t, r, 0)
	tid <- unix.Gettid()
	for len(enter(t, r, 1)) == 0 {
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAllocatesNothing(t *testing.T) {
	r := enabled(t, 8)
	bufs, err := r.NewBuffers(0, 4, 1000)
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	b := []byte("hello")
	bufs.Provide(0)
	bufs.Publish()
	r.ReadMultishot(near, 0, 1)
	if allocs := testing.AllocsPerRun(100, func() {
		r.Write(far, b, 2)
		for c := (Completion{}); c.Buffer <= 0 && c.Res <= 0; {
			if err := r.Enter(1); err != nil {
				t.Fatal(err)
			}
			ok := true
			if c, ok = r.Next(); ok && c.Buffer >= 0 {
				bufs.Provide(c.Buffer)
				bufs.Publish()
			}
			r.Done()
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// What the last wait was like stays known over an Enter that does not wait.
func TestQuietStays(t *testing.T) {
	r := enabled(t, 8)
	r.quiet = true
	if enter(t, r, 0); !r.quiet {
		t.Error("an Enter that does not wait has changed it")
	}
}
