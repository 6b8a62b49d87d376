package uring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Ring is a submission queue and a completion queue. After Enable, only the thread that called Enable may call its
// methods; before Enable, any thread may, but only one at a time.
type Ring struct {
	fd      int
	enterFD int    // the descriptor, or its number among the thread's registered rings
	memory  []byte // both queues
	sqesMem []byte

	sqHead, sqTail *uint32
	sqFlags        *uint32
	sqMask         uint32
	sqes           []sqe
	tail           uint32 // sqTail after the next Enter

	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []cqe
	head           uint32 // our copy of cqHead

	enterFlags uintptr
	quiet      bool // the last wait was interrupted and nothing had completed

	files uint8 // sqeFixedFile, if the kernel has a table of files; else 0

	gathers bool // the kernel knows Gather
	arg     getEventsArg
	timeout unix.Timespec // of Gather: without one, the kernel would return when the least time is over, with nothing
}

// A Completion is the result of an operation, or one of several results of a multishot operation.
type Completion struct {
	Data   uint64 // the data given to the operation
	Res    int32  // bytes, poll events, or a negated errno
	Buffer int    // id of the provided buffer that was filled; -1: none
	More   bool   // the multishot operation continues
}

// New returns a ring with room for entries queued operations, a power of two, and four times as many completions. The ring
// does nothing until Enable. An error says what this machine lacks.
func New(entries int) (*Ring, error) {
	p := params{
		flags:     setupCQSize | setupRDisabled | setupSubmitAll | setupSingleIssuer | setupDeferTaskrun | setupTaskrunFlag | setupNoSQArray,
		cqEntries: uint32(4 * entries),
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, setupError(errno)
	}
	r := &Ring{fd: int(fd), enterFD: int(fd), enterFlags: enterGetEvents}
	if p.features&featNoIOWait != 0 { // else the kernel counts a wait as one for a disk
		r.enterFlags |= enterNoIOWait
	}
	r.gathers, r.timeout.Sec = p.features&featMinTimeout != 0, 1
	r.arg.timeout = uint64(uintptr(unsafe.Pointer(&r.timeout)))
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

// check returns an error when the kernel lacks a feature that this package needs.
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
	size := p.cqOff.cqes + uint32(unsafe.Sizeof(cqe{}))*p.cqEntries // all else lies before them
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
	return nil
}

// Enable ties the ring to the calling thread. From then on no other thread may use the ring. The thread knows the ring by a number, which
// saves a look-up in each Enter; if that cannot be had, by its descriptor.
func (r *Ring) Enable() error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerEnableRings, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("uring: enabling: %w", errno)
	}
	own := rsrcUpdate{offset: ^uint32(0), data: uint64(r.fd)} // any number, which the kernel stores
	n, _, _ := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerRingFDs, uintptr(unsafe.Pointer(&own)), 1, 0, 0)
	if n == 1 {
		r.enterFD = int(own.offset)
		r.enterFlags |= enterRegisteredRing
	}
	return nil
}

// UseFiles makes a table for n files, so that operations need not look up and hold the file of a descriptor each time. If that cannot be had,
// operations take descriptors, as before.
func (r *Ring) UseFiles(n int) {
	all := rsrcRegister{entries: uint32(n), flags: rsrcSparse}
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerFiles2, uintptr(unsafe.Pointer(&all)), unsafe.Sizeof(all), 0, 0)
	if errno == 0 {
		r.files = sqeFixedFile
	}
}

// SetFile puts the file of a descriptor into a place of the table, and returns what Write, WriteV, ReadMultishot and ReceiveMultishot take as
// file. The table holds the file until ClearFile.
func (r *Ring) SetFile(place, fd int) (file int, err error) {
	if r.files == 0 {
		return fd, nil
	}
	if err := r.updateFile(place, fd); err != nil {
		return -1, fmt.Errorf("uring: registering a file: %w", err)
	}
	return place, nil
}

// ClearFile empties a place of the table.
func (r *Ring) ClearFile(place int) {
	if r.files != 0 {
		_ = r.updateFile(place, -1) // fails only if the place was never set
	}
}

func (r *Ring) updateFile(place, fd int) error {
	value := int32(fd)
	one := rsrcUpdate2{offset: uint32(place), data: uint64(uintptr(unsafe.Pointer(&value))), entries: 1}
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerFilesUpdate, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one), 0, 0)
	runtime.KeepAlive(&value)
	if errno != 0 {
		return errno
	}
	if n != 1 {
		return unix.EBADF
	}
	return nil
}

// Room returns how many operations can be queued before the next Enter.
//
//uvswitch:hot
func (r *Ring) Room() int { return len(r.sqes) - int(r.tail-atomic.LoadUint32(r.sqHead)) }

// next returns the next free entry of the submission queue, initialized; Room must not be 0.
//
//uvswitch:hot
func (r *Ring) next(opcode uint8, fd int, data uint64) *sqe {
	s := &r.sqes[r.tail&r.sqMask]
	*s = sqe{opcode: opcode, fd: int32(fd), userData: data}
	r.tail++
	return s
}

// Write queues a write of b to a file (see SetFile). b must be memory that Go does not move or free. The write is tried once, in the
// Enter that submits it, and has ended when that Enter returns. Only a failure has a Completion; its Res is -EAGAIN if the
// write would have had to wait.
//
//uvswitch:hot
func (r *Ring) Write(file int, b []byte, data uint64) {
	s := r.next(opWrite, file, data)
	s.flags = sqeCQESkipSuccess | r.files
	s.addr, s.len = uint64(uintptr(unsafe.Pointer(&b[0]))), uint32(len(b))
	s.opFlags = rwfNowait
}

// WriteV is Write with several pieces, written as one. iov must stay unchanged until the Enter that submits it returns.
//
//uvswitch:hot
func (r *Ring) WriteV(file int, iov []unix.Iovec, data uint64) {
	s := r.next(opWritev, file, data)
	s.flags = sqeCQESkipSuccess | r.files
	s.addr, s.len = uint64(uintptr(unsafe.Pointer(&iov[0]))), uint32(len(iov))
	s.opFlags = rwfNowait
}

// ReadMultishot queues a multishot read: whenever data arrives, it fills a buffer of the group and has a Completion. Its
// last Completion has More false; Res is then -ENOBUFS if there was no buffer left.
//
//uvswitch:hot
func (r *Ring) ReadMultishot(file int, group uint16, data uint64) {
	s := r.next(opReadMultishot, file, data)
	s.flags = sqeBufferSelect | r.files
	s.bufGroup = group
}

// ReceiveMultishot is ReadMultishot for a socket whose messages have control data. Split finds both in the buffer. h must stay unchanged and
// where it is until the operation has ended; its Controllen is the room for control data.
//
//uvswitch:hot
func (r *Ring) ReceiveMultishot(file int, h *unix.Msghdr, group uint16, data uint64) {
	s := r.next(opRecvmsg, file, data)
	s.flags, s.ioprio = sqeBufferSelect|r.files, recvMulti
	s.addr, s.len = uint64(uintptr(unsafe.Pointer(h))), 1
	s.bufGroup = group
}

// MessageHead is how many bytes of a buffer ReceiveMultishot needs before the message's control data.
const MessageHead = int(unsafe.Sizeof(recvmsgOut{}))

// Split returns the control data in b, what ReceiveMultishot has put into a buffer, and where the message begins; room is the Controllen of its
// header. ok is false if b is too short, or the message did not fit.
//
//uvswitch:hot
func Split(b []byte, room int) (control []byte, payload int, ok bool) {
	if payload = MessageHead + room; len(b) < payload {
		return nil, 0, false
	}
	out := (*recvmsgOut)(unsafe.Pointer(unsafe.SliceData(b)))
	if out.flags&unix.MSG_TRUNC != 0 {
		return nil, 0, false
	}
	return b[MessageHead:][:min(int(out.controlLen), room)], payload, true
}

// PollMultishot queues a multishot poll: it has a Completion each time the descriptor becomes readable.
func (r *Ring) PollMultishot(fd int, data uint64) {
	s := r.next(opPollAdd, fd, data)
	s.len, s.opFlags = pollAddMulti, unix.POLLIN
}

// Cancel queues the cancellation of the operation with this data. The operation completes with Res -ECANCELED; the
// cancellation itself has a Completion whose Data is own.
func (r *Ring) Cancel(data, own uint64) {
	r.next(opAsyncCancel, -1, own).addr = data
}

// CancelAll queues the cancellation of all operations. The cancellation itself has a Completion whose Data is own.
func (r *Ring) CancelAll(own uint64) {
	r.next(opAsyncCancel, -1, own).opFlags = cancelAny | cancelAll
}

// Enter submits the queued operations, in order, and then waits until there are at least wait completions. With wait 0 it
// produces only those completions that need no waiting. EINTR is not an error: there may then be fewer completions.
//
// While there is traffic, Go's scheduler is not told of the wait: it would take this thread's P away every 20 us
// (runtime/proc.go, retake). To the scheduler the goroutine then looks like one that has run for too long. After 10 ms, or
// to stop the world, the runtime sends the thread a signal, which ends the wait. If nothing has completed by then, the
// scheduler is told of the next wait. GOMAXPROCS must be large enough to leave a P for other goroutines.
//
//uvswitch:hot
func (r *Ring) Enter(wait int) error { return r.enter(wait, r.enterFlags, 0, 0) }

// Submit submits the queued operations, and does nothing else: no read that is in progress goes on meanwhile.
func (r *Ring) Submit() error { return r.enter(0, r.enterFlags&^enterGetEvents, 0, 0) }

// Gather is Enter for many completions that come soon: it waits for wait completions, or for the time least if there is one then. After that,
// it returns with the next one. After a second it returns in any case. A kernel before Linux 6.12 waits for one completion.
//
//uvswitch:hot
func (r *Ring) Gather(wait int, least time.Duration) error {
	if !r.gathers {
		return r.Enter(1)
	}
	r.arg.minWaitMicros = uint32(least / time.Microsecond)
	return r.enter(wait, r.enterFlags|enterExtArg, uintptr(unsafe.Pointer(&r.arg)), unsafe.Sizeof(r.arg))
}

//uvswitch:hot
func (r *Ring) enter(wait int, flags, arg, size uintptr) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	submit := uintptr(r.tail - atomic.LoadUint32(r.sqHead))
	var errno syscall.Errno
	if wait > 0 && r.quiet {
		_, _, errno = syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.enterFD), submit, uintptr(wait), flags, arg, size)
	} else {
		_, _, errno = syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.enterFD), submit, uintptr(wait), flags, arg, size)
	}
	if wait > 0 {
		r.quiet = errno == syscall.EINTR && r.head == atomic.LoadUint32(r.cqTail)
	}
	switch errno {
	case 0, syscall.EINTR, syscall.ETIME, syscall.EAGAIN, syscall.EBUSY: // the last two: out of memory, or completions not taken in time
		return nil
	}
	return errno
}

// Pending reports whether Enter would produce completions. It costs one load.
//
//uvswitch:hot
func (r *Ring) Pending() bool { return atomic.LoadUint32(r.sqFlags)&sqTaskrun != 0 }

// Next removes the oldest completion from the queue and returns it; ok is false when the queue is empty. The kernel may use its place after
// Done.
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
	return c, true
}

// Done gives the kernel the places of all completions that Next has returned.
//
//uvswitch:hot
func (r *Ring) Done() { atomic.StoreUint32(r.cqHead, r.head) }

// Close releases the ring. The thread that called Enable calls it, because the thread would keep the ring alive otherwise. The kernel cancels
// operations that are in progress, but some time later: a caller that needs them to have ended must cancel them first.
func (r *Ring) Close() error {
	if r.enterFlags&enterRegisteredRing != 0 {
		own := rsrcUpdate{offset: uint32(r.enterFD)}
		_, _, _ = unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), unregisterRingFDs, uintptr(unsafe.Pointer(&own)), 1, 0, 0)
	}
	for _, m := range [][]byte{r.memory, r.sqesMem} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	r.memory, r.sqesMem = nil, nil
	return unix.Close(r.fd)
}
