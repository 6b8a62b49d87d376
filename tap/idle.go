package tap

import (
	"bytes"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// idle decides how long a worker looks for frames before it sleeps. A thread that sleeps must be woken, which takes longer than a frame's
// whole way. A thread that looks takes a CPU from others.
//
// The worker looks only while it is part of a conversation: every frame is soon followed by the next one, which answers it, and there are few
// of them. The time doubles when a frame came soon, and halves when none came: as Linux does for a CPU of a virtual machine (halt_poll_ns in
// virt/kvm/kvm_main.c). The worker does not look while more threads are ready to run than there are CPUs.
//
// In a flood of short frames, the worker is fast enough to be asleep again before the next frame comes. Each frame would then cost a sleep and
// a wake-up. So the worker sleeps for a least time, and finds several frames.
type idle struct {
	auto  bool
	look  time.Duration // for how long to look before the next sleep
	spare func() bool   // a CPU is spare
	close func()

	looked time.Duration // since the last question for a spare CPU
	never  time.Duration // until this time the worker does not look
	rest   time.Duration // how long that was: it doubles while no CPU is spare

	began  time.Duration // of the current period
	frames int           // in it
	many   bool          // the last period had too many
	gather time.Duration // for how long to sleep at least; 0: until there is a frame
}

const (
	lookLeast = 10 * time.Microsecond
	lookMost  = 50 * time.Microsecond
	soon      = 50 * time.Microsecond // a wait that is worth looking
	late      = time.Millisecond      // the conversation is over

	askAfter  = 2 * time.Millisecond // of looking
	leastRest = 5 * time.Millisecond
	mostRest  = 80 * time.Millisecond

	period     = 2 * time.Millisecond
	talkFrames = 100  // in a period: more is a flood, in which the next frame is there before the worker could sleep
	talkBatch  = 2    // frames
	talkSize   = 8192 // bytes, on average: longer frames are a stream's

	gatherTime = 20 * time.Microsecond
	gatherSize = 2048 // bytes, on average: longer frames soon fill a receiver's window
)

// newIdle returns the policy for --busy-poll: a fixed time, or one by what happens.
func newIdle(busyPoll time.Duration) idle {
	if busyPoll == BusyPollAuto {
		l := openLoadavg()
		return idle{auto: true, spare: l.spareCPU, close: l.close}
	}
	return idle{look: busyPoll, close: func() {}}
}

// BusyPollAuto stands for a time that depends on what happens.
const BusyPollAuto time.Duration = -1

// waited notes how a wait ended: it took d, now is the time, and frames of the average size, in bytes, are there. Times are since any moment.
//
//uvswitch:hot
func (p *idle) waited(now, d time.Duration, frames, size int) {
	if !p.auto {
		return
	}
	p.frames += frames
	if now-p.began >= period {
		p.many = p.frames > int(talkFrames*(now-p.began)/period)
		p.began, p.frames = now, 0
	}
	if p.gather = 0; p.many && size < gatherSize {
		p.gather = gatherTime
	}
	switch {
	case p.many || frames > talkBatch || size > talkSize || d > late || now < p.never:
		p.look = 0
	case frames == 0: // a wake-up, or a write that failed, says nothing of the next frame
	case d <= soon:
		p.look = min(max(2*p.look, lookLeast), lookMost)
	default:
		p.look /= 2
	}
}

// hasLooked notes for how long the worker has looked, successfully or not.
//
//uvswitch:hot
func (p *idle) hasLooked(now, d time.Duration) {
	if p.looked += d; !p.auto || p.looked < askAfter {
		return
	}
	if p.looked = 0; p.spare() {
		p.rest = 0
		return
	}
	p.rest = min(max(2*p.rest, leastRest), mostRest)
	p.look, p.never = 0, now+p.rest
}

// SpareCPU returns a function that reports whether a CPU of this machine has nothing to do: no thread waits for one. It may be called by one
// goroutine at a time.
func SpareCPU() func() bool { return openLoadavg().spareCPU }

// loadavg tells how many threads are ready to run on this machine.
type loadavg struct {
	fd   int // -1: it cannot be read
	text [64]byte
}

// spareCPU reports whether no thread waits for a CPU: the fourth field of /proc/loadavg begins with the number of threads that run or could
// run.
func (l *loadavg) spareCPU() bool {
	n, err := unix.Pread(l.fd, l.text[:], 0)
	if err != nil {
		return false
	}
	return running(l.text[:n]) <= runtime.NumCPU()
}

func openLoadavg() *loadavg {
	fd, err := unix.Open("/proc/loadavg", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	return &loadavg{fd: fd}
}

func (l *loadavg) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
	l.fd = -1
}

// running reads the number of threads in a text such as "0.20 0.18 0.12 1/80 11206"; very many if there is none.
func running(text []byte) (n int) {
	slash := bytes.IndexByte(text, '/')
	for i := bytes.LastIndexByte(text[:max(slash, 0)], ' ') + 1; i < slash; i++ {
		n = 10*n + int(text[i]-'0')
	}
	if n == 0 {
		return 1 << 30
	}
	return n
}
