package tap

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"
)

// idle decides how long a worker looks for frames before it sleeps. A thread that sleeps must be woken, which takes longer than a frame's
// whole way. A thread that looks takes a CPU from others.
//
// The worker looks only while it is part of a conversation: each frame is soon followed by the next one, and one of two things holds. There are few
// frames. Or each frame comes from the port that the last one went to: it is the answer. The time doubles when a frame came soon, and halves when none came: as Linux does for a CPU of a virtual machine (halt_poll_ns in
// virt/kvm/kvm_main.c). The worker does not look while all CPUs are busy all the time.
//
// In a flood of short frames, the worker is fast enough to be asleep again before the next frame comes. Each frame would then cost a sleep and
// a wake-up. So the worker sleeps for a least time, and finds several frames.
type idle struct {
	auto  bool
	look  time.Duration // for how long to look before the next sleep
	spare func() bool   // a CPU is spare
	close func()

	looked time.Duration // since the last question for a spare CPU
	asked  time.Duration // when that was
	never  time.Duration // until this time the worker does not look
	rest   time.Duration // how long that was: it doubles while no CPU is spare

	began  time.Duration // of the current period
	frames int           // in it
	many   bool          // the last period had too many
	gather time.Duration // for how long to sleep at least; 0: until there is a frame
}

const (
	lookLeast = 10 * time.Microsecond
	lookMost  = 200 * time.Microsecond // a wait that is longer is not worth it
	late      = time.Millisecond       // the conversation is over

	askAfter  = 2 * time.Millisecond // of looking
	askEvery  = 50 * time.Millisecond
	leastRest = 50 * time.Millisecond
	mostRest  = 400 * time.Millisecond

	period     = 2 * time.Millisecond
	talkFrames = 100  // in a period: more is a flood, in which the next frame is there before the worker could sleep
	talkBatch  = 4    // frames
	talkSize   = 8192 // bytes, on average: longer frames are a stream's

	gatherTime = 20 * time.Microsecond
	gatherSize = 2048 // bytes, on average: longer frames soon fill a receiver's window
)

// newIdle returns the policy for --busy-poll: a fixed time, or one by what happens.
func newIdle(busyPoll time.Duration) idle {
	if busyPoll == BusyPollAuto {
		u := openUptime()
		return idle{auto: true, spare: u.spareCPU, close: u.close}
	}
	return idle{look: busyPoll, close: func() {}}
}

// BusyPollAuto stands for a time that depends on what happens.
const BusyPollAuto time.Duration = -1

// waited notes how a wait ended: it took d, now is the time, and frames of the average size, in bytes, are there. answered: the first one comes
// from where the last frame went to. Times are since any moment.
//
//uvswitch:hot
func (p *idle) waited(now, d time.Duration, frames, size int, answered bool) {
	if !p.auto {
		return
	}
	if !answered || frames > talkBatch {
		p.frames += frames
	}
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
	case d <= lookMost:
		p.look = min(max(2*p.look, lookLeast), lookMost)
	default:
		p.look /= 2
	}
}

// hasLooked notes for how long the worker has looked, successfully or not.
//
//uvswitch:hot
func (p *idle) hasLooked(now, d time.Duration) {
	if p.looked += d; !p.auto || p.looked < askAfter || now-p.asked < askEvery {
		return
	}
	if p.looked, p.asked = 0, now; p.spare() {
		p.rest = 0
		return
	}
	p.rest = min(max(2*p.rest, leastRest), mostRest)
	p.look, p.never = 0, now+p.rest
}

// SpareCPU returns a function that reports whether a CPU of this machine has had time to spare since the last call. It may be called by one
// goroutine at a time.
func SpareCPU() func() bool { return openUptime().spareCPU }

// uptime tells how long the CPUs of this machine have been idle. How many threads are ready to run at a moment (/proc/loadavg) tells less: those
// that wake each other are many for a moment, although a CPU is idle most of the time.
type uptime struct {
	fd   int           // -1: it cannot be read
	at   time.Duration // of the last call
	idle time.Duration // of all CPUs together, then
	text [64]byte
}

// spareCPU reports whether a CPU has had time to spare since the last call. The kernel tells idle time in units of 10 ms: there should be some of
// them between two calls.
func (u *uptime) spareCPU() bool {
	n, err := unix.Pread(u.fd, u.text[:], 0)
	if err != nil {
		return false
	}
	now, idle := monotonic(), idleTime(u.text[:n])
	passed, idled := now-u.at, idle-u.idle
	u.at, u.idle = now, idle
	return isSpare(idled, passed)
}

// isSpare reports whether the CPUs were idle for a tenth of one CPU's time, or more.
func isSpare(idled, passed time.Duration) bool { return idled > 0 && idled*10 >= passed }

func openUptime() *uptime {
	fd, err := unix.Open("/proc/uptime", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	return &uptime{fd: fd}
}

func (u *uptime) close() {
	if u.fd >= 0 {
		unix.Close(u.fd)
	}
	u.fd = -1
}

// idleTime reads the second number of a text such as "14760.63 16772.47": seconds. It is 0 if there is none.
func idleTime(text []byte) time.Duration {
	var hundredths time.Duration
	for _, c := range text[bytes.IndexByte(text, ' ')+1:] {
		if c >= '0' && c <= '9' {
			hundredths = 10*hundredths + time.Duration(c-'0')
		}
	}
	return hundredths * 10 * time.Millisecond
}
