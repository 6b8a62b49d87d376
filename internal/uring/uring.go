package uring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Ring is a submission and a completion queue. All methods are called by one thread, the one that called Enable;
// before Enable, by anybody in turn.
type Ring struct {
	fd      int
	memory  []byte // both queues
	sqesMem []byte

	sqHead, sqTail *uint32
	sqFlags        *uint32
	sqMask         uint32
	sqes           []sqe
	tail           uint32 // what sqTail will be

	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []cqe
	head           uint32 // what cqHead will be

	idle bool // the last wait was in vain
}

// A Completion is the end of an operation, or one of several results of a multishot one.
type Completion struct {
	Data   uint64 // as given to the operation
	Res    int32  // bytes, poll events, or a negated errno
	Buffer int    // the provided buffer that was filled; -1 for none
	More   bool   // the multishot operation goes on
}

// New makes a ring for entries operations queued at once, a power of two, and four times as many completions. It
// does nothing until Enable. The error says what this machine lacks.
func New(entries int) (*Ring, error) {
	p := params{
		flags:     setupCQSize | setupRDisabled | setupSubmitAll | setupSingleIssuer | setupDeferTaskrun | setupTaskrunFlag,
		cqEntries: uint32(4 * entries),
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, setupError(errno)
	}
	r := &Ring{fd: int(fd)}
	unix.CloseOnExec(r.fd)
	if err := r.check(p.features); err != nil {
		unix.Close(r.fd)
		return nil, err
	}
	if err := r.mapQueues(&p); err != nil {
		r.Close()
		return nil, fmt.Errorf("uring: mapping the queues: %w", err)
	}
	return r, nil
}

func setupError(errno unix.Errno) error {
	switch errno {
	case unix.ENOSYS:
		return errors.New("this kernel has no io_uring")
	case unix.EPERM:
		if b, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); err == nil && strings.TrimSpace(string(b)) != "0" {
			return fmt.Errorf("io_uring is switched off on this host (sysctl kernel.io_uring_disabled is %s)", strings.TrimSpace(string(b)))
		}
		return errors.New("io_uring is forbidden here, perhaps by a seccomp profile")
	case unix.EINVAL:
		return errors.New("this kernel's io_uring is too old (Linux 6.7 is needed)")
	}
	return fmt.Errorf("io_uring: %w", errno)
}

// check asks for what must be there.
func (r *Ring) check(features uint32) error {
	const want = featSingleMmap | featNoDrop | featCQESkip
	var p probe
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerProbe, uintptr(unsafe.Pointer(&p)), uintptr(len(p.ops)), 0, 0)
	if errno != 0 || features&want != want || p.ops[opReadMultishot].flags&probeSupported == 0 {
		return errors.New("this kernel's io_uring has no multishot read (Linux 6.7 is needed)")
	}
	return nil
}

func (r *Ring) mapQueues(p *params) (err error) {
	size := max(p.sqOff.array+4*p.sqEntries, p.cqOff.cqes+uint32(unsafe.Sizeof(cqe{}))*p.cqEntries)
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.memory, err = unix.Mmap(r.fd, offSQRing, int(size), prot, flags); err != nil {
		return err
	}
	if r.sqesMem, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), prot, flags); err != nil {
		return err
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.memory[off])) }
	r.sqFlags = word(p.sqOff.flags)
	r.sqHead, r.sqTail, r.sqMask = word(p.sqOff.head), word(p.sqOff.tail), *word(p.sqOff.ringMask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cqOff.head), word(p.cqOff.tail), *word(p.cqOff.ringMask)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.sqesMem[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.memory[p.cqOff.cqes])), p.cqEntries)
	array := unsafe.Slice(word(p.sqOff.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	return nil
}

// Enable makes the calling thread the ring's own. Nobody else may use it from then on.
func (r *Ring) Enable() error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerEnableRings, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("uring: enabling: %w", errno)
	}
	return nil
}

// Room is how many operations can be queued before the next Enter.
//
//uvswitch:hot
func (r *Ring) Room() int { return len(r.sqes) - int(r.tail-atomic.LoadUint32(r.sqHead)) }

// next is the next free operation, zeroed; there must be Room.
//
//uvswitch:hot
func (r *Ring) next(opcode uint8, fd int, data uint64) *sqe {
	s := &r.sqes[r.tail&r.sqMask]
	*s = sqe{opcode: opcode, fd: int32(fd), userData: data}
	r.tail++
	return s
}

// Write queues the writing of b, which is memory that Go does not move or free, to a descriptor. It is tried once,
// in the Enter that submits it, and is over when that returns; only a failure has a Completion, -EAGAIN where the
// write would have had to wait.
//
//uvswitch:hot
func (r *Ring) Write(fd int, b []byte, data uint64) {
	s := r.next(opWrite, fd, data)
	s.flags = sqeCQESkipSuccess
	s.addr, s.len = uint64(uintptr(unsafe.Pointer(&b[0]))), uint32(len(b))
	s.opFlags = rwfNowait
}

// WriteV is Write of several pieces as one. iov itself must stay until the Enter that submits it.
//
//uvswitch:hot
func (r *Ring) WriteV(fd int, iov []unix.Iovec, data uint64) {
	s := r.next(opWritev, fd, data)
	s.flags = sqeCQESkipSuccess
	s.addr, s.len = uint64(uintptr(unsafe.Pointer(&iov[0]))), uint32(len(iov))
	s.opFlags = rwfNowait
}

// ReadMultishot queues reads, one after another as data comes, each into a buffer of the group. It ends with a
// Completion without More: -ENOBUFS when there was no buffer left.
//
//uvswitch:hot
func (r *Ring) ReadMultishot(fd int, group uint16, data uint64) {
	s := r.next(opReadMultishot, fd, data)
	s.flags = sqeBufferSelect
	s.bufGroup = group
}

// PollMultishot queues a Completion each time that a descriptor becomes readable.
func (r *Ring) PollMultishot(fd int, data uint64) {
	s := r.next(opPollAdd, fd, data)
	s.len, s.opFlags = pollAddMulti, unix.POLLIN
}

// Cancel queues the cancelling of the operation with this data; it completes with -ECANCELED, the cancelling itself
// with own.
func (r *Ring) Cancel(data, own uint64) {
	r.next(opAsyncCancel, -1, own).addr = data
}

// CancelAll queues the cancelling of all operations.
func (r *Ring) CancelAll(own uint64) {
	r.next(opAsyncCancel, -1, own).opFlags = cancelAny | cancelAll
}

// Enter submits what is queued, in order, and then waits until there are at least wait completions. With 0 it
// still makes those that can be made without waiting. EINTR is no error: there may be fewer completions.
//
// While there is traffic Go's scheduler is not told of the wait: it would take this thread's P away every 20 us
// (runtime/proc.go, retake), since a goroutine that never yields counts as one that has run too long. The signal by
// which the runtime preempts such a one, after 10 ms or when it wants to stop the world, ends the wait; if nothing
// has completed by then, the next wait is one that the scheduler knows of. GOMAXPROCS must leave others a P.
//
//uvswitch:hot
func (r *Ring) Enter(wait int) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	submit := uintptr(r.tail - atomic.LoadUint32(r.sqHead))
	var errno syscall.Errno
	if wait > 0 && r.idle {
		_, _, errno = syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), submit, uintptr(wait), enterGetEvents, 0, 0)
	} else {
		_, _, errno = syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), submit, uintptr(wait), enterGetEvents, 0, 0)
	}
	r.idle = errno == syscall.EINTR && r.head == atomic.LoadUint32(r.cqTail)
	switch errno {
	case 0, syscall.EINTR, syscall.EAGAIN, syscall.EBUSY: // the last two: short of memory, or of completions taken
		return nil
	}
	return errno
}

// Pending tells whether Enter would find something to complete: what it costs is a load.
//
//uvswitch:hot
func (r *Ring) Pending() bool { return atomic.LoadUint32(r.sqFlags)&sqTaskrun != 0 }

// Next takes the oldest completion.
//
//uvswitch:hot
func (r *Ring) Next() (c Completion, ok bool) {
	if r.head == atomic.LoadUint32(r.cqTail) {
		return c, false
	}
	e := &r.cqes[r.head&r.cqMask]
	c = Completion{Data: e.userData, Res: e.res, Buffer: -1, More: e.flags&cqeFMore != 0}
	if e.flags&cqeFBuffer != 0 {
		c.Buffer = int(e.flags >> cqeBufferShift)
	}
	r.head++
	atomic.StoreUint32(r.cqHead, r.head)
	return c, true
}

// Close gives the ring back. Operations that are under way are cancelled by the kernel, some time later: whoever
// needs them over cancels them first.
func (r *Ring) Close() error {
	for _, m := range [][]byte{r.memory, r.sqesMem} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	r.memory, r.sqesMem = nil, nil
	return unix.Close(r.fd)
}
