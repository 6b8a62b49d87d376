package tap

import (
	"bytes"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// cpuTimes are the CPU times of the thread that calls CPUTime and CPUWait, and its priority.
type cpuTimes struct {
	schedstat int // descriptor; 0: not opened yet, -1: cannot be read
	text      [64]byte
	nice      int    // of the thread, without haste
	hurried   uint64 // how often it has got HurryNice
}

// HurryNice is the nice value of a thread that hurries. It needs RLIMIT_NICE, or CAP_SYS_NICE.
const HurryNice = -15

// CPUTime implements dataplane.Poller.
//
//uvswitch:hot
func (*cpuTimes) CPUTime() int64 { return int64(threadTime()) }

// CPUWait implements dataplane.Poller. The kernel counts the time (Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat").
//
//uvswitch:hot
func (c *cpuTimes) CPUWait() int64 {
	if c.schedstat == 0 {
		c.open()
	}
	if c.schedstat < 0 {
		return 0
	}
	n, err := unix.Pread(c.schedstat, c.text[:], 0)
	_, rest, ok := bytes.Cut(c.text[:max(0, n)], []byte(" "))
	if err != nil || !ok {
		return 0
	}
	ns := int64(0)
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		ns = 10*ns + int64(digit-'0')
	}
	return ns
}

// Hurry implements dataplane.Poller. It counts only inside the thread's cgroup, if CPU time is divided between cgroups.
func (c *cpuTimes) Hurry(on bool) {
	if !on {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, c.nice)
		return
	}
	usual, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 less the nice value
	if c.nice = 20 - usual; err == nil && c.nice > HurryNice && unix.Setpriority(unix.PRIO_PROCESS, 0, HurryNice) == nil {
		c.hurried++
	}
}

// used adds what the calling thread has used.
func (c *cpuTimes) used(n frame.IOCounts) frame.IOCounts {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) == nil {
		n.Switches, n.Preempted = uint64(u.Nvcsw), uint64(u.Nivcsw)
	}
	n.CPU, n.Hurried = int64(threadTime()), c.hurried
	return n
}

func (c *cpuTimes) open() {
	fd, err := unix.Open("/proc/thread-self/schedstat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if c.schedstat = fd; err != nil {
		c.schedstat = -1
	}
}

func (c *cpuTimes) close() {
	if c.schedstat > 0 {
		unix.Close(c.schedstat)
	}
	c.schedstat = -1
}

// threadTime is the CPU time of the calling thread.
func threadTime() time.Duration {
	var t unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}

var start = time.Now()

// monotonic is the time since the start of the process.
func monotonic() time.Duration { return time.Since(start) }
