package uring

// The part of linux/io_uring.h that this package uses.
const (
	opWritev        = 2
	opPollAdd       = 6
	opRecvmsg       = 10
	opAsyncCancel   = 14
	opWrite         = 23
	opReadMultishot = 49 // Linux 6.7

	sqeFixedFile      = 1 << 0
	sqeBufferSelect   = 1 << 5
	sqeCQESkipSuccess = 1 << 6

	setupCQSize       = 1 << 3
	setupRDisabled    = 1 << 6
	setupTaskrunFlag  = 1 << 9
	setupSubmitAll    = 1 << 7
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13
	setupNoSQArray    = 1 << 16 // Linux 6.6

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featCQESkip    = 1 << 11
	featMinTimeout = 1 << 15 // Linux 6.12
	featNoIOWait   = 1 << 17 // Linux 6.15

	enterGetEvents      = 1 << 0
	enterExtArg         = 1 << 3
	enterRegisteredRing = 1 << 4
	enterNoIOWait       = 1 << 7
	sqTaskrun           = 1 << 2

	registerProbe       = 8
	registerEnableRings = 12
	registerFiles2      = 13
	registerFilesUpdate = 14
	registerRingFDs     = 20
	unregisterRingFDs   = 21
	registerPbufRing    = 22

	rsrcSparse = 1 << 0

	probeSupported = 1 << 0

	offSQRing = 0
	offSQEs   = 0x10000000

	pollAddMulti = 1 << 0
	recvMulti    = 1 << 1
	cancelAny    = 1 << 2
	cancelAll    = 1 << 0
	rwfNowait    = 8

	cqeFBuffer     = 1 << 0
	cqeFMore       = 1 << 1
	cqeBufferShift = 16
)

type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sqOff                                                                  sqOffsets
	cqOff                                                                  cqOffsets
}

type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

// sqe is struct io_uring_sqe: 64 bytes.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	len, opFlags  uint32
	userData      uint64
	bufGroup      uint16
	personality   uint16
	spliceFD      int32
	_             [2]uint64
}

// cqe is struct io_uring_cqe: 16 bytes.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// buf is struct io_uring_buf: 16 bytes. The last two bytes of the ring's first buf hold the ring's tail.
type buf struct {
	addr    uint64
	len     uint32
	bidTail uint32 // low 16 bits: the buffer's id; high 16 bits, in the first buf only: the tail
}

type bufReg struct {
	ringAddr    uint64
	ringEntries uint32
	group       uint16
	flags       uint16
	resv        [3]uint64
}

// getEventsArg is struct io_uring_getevents_arg.
type getEventsArg struct {
	sigmask       uint64
	sigmaskSize   uint32
	minWaitMicros uint32
	timeout       uint64 // address of a struct __kernel_timespec
}

// rsrcUpdate is struct io_uring_rsrc_update.
type rsrcUpdate struct {
	offset, resv uint32
	data         uint64
}

// rsrcRegister is struct io_uring_rsrc_register.
type rsrcRegister struct {
	entries, flags uint32
	resv           uint64
	data, tags     uint64
}

// rsrcUpdate2 is struct io_uring_rsrc_update2.
type rsrcUpdate2 struct {
	offset, resv   uint32
	data, tags     uint64
	entries, resv2 uint32
}

// recvmsgOut is struct io_uring_recvmsg_out, which stands before the message in a buffer.
type recvmsgOut struct {
	nameLen, controlLen, payloadLen, flags uint32
}

type probe struct {
	lastOp, opsLen uint8
	resv           uint16
	resv2          [3]uint32
	ops            [256]struct {
		op, resv uint8
		flags    uint16
		resv2    uint32
	}
}
