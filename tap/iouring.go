package tap

import (
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uring"
)

const (
	ringOps     = 1024 // operations that fit into the queue; when it is full, they are submitted before the next Poll
	ringBuffers = 256
	minBuffers  = 4  // buffers provided per Poll when frames are large
	maxBuffers  = 64 // and when they are small
	bufferSize  = messageRoom + frame.VnetLen + frame.MaxFrame

	quietBuffers = 32 // provided per Poll for the reads of quiet ports

	// While quiet ports have frames, too, the turn of a loud port is not longer than longestTurn, but has leastTurn frames. While CPU time is scarce
	// for others, it is not longer than scarceTurn, but has one frame.
	longestTurn = 100 * time.Microsecond
	leastTurn   = 8
	recently    = 16 // rounds
	scarceTurn  = 30 * time.Microsecond
)

// Groups of buffers. A read takes buffers for as long as frames are there, so a port that always has some would take all of them. A port that
// takes half of a group's buffers in one round is loud, until it takes less. Loud ports have a group of their own: in each round, one of them
// is armed, and may use all of its buffers. Quiet ports always find buffers. So does the uplink, which carries the frames of many senders: half
// of a batch is for it.
const (
	quiet = iota
	loud
	uplink
	groups
)

// Kinds of operations, in the top byte of an operation's data. Below it, from the top: the number of frames written
// (8 bits), the port (16 bits), the Slot of the first frame written (8 bits), and the bytes written (24 bits).
const (
	opRead = iota + 1 // a port's multishot read
	opPoll            // a port that is read by Conn.Read has become readable
	opWake
	opWrite
	opCancel
)

//uvswitch:hot
func opData(op uint8, id frame.PortID) uint64 { return uint64(op)<<56 | uint64(id)<<32 }

//uvswitch:hot
func writeData(t frame.TxFailure) uint64 {
	return opData(opWrite, t.Port) | uint64(t.Frames)<<48 | uint64(t.Slot)<<writeBytes | uint64(t.Bytes)
}

const writeBytes = 24 // bits for the byte count of a write; a whole batch has fewer bytes

// IOUring is the I/O backend that uses io_uring. A port whose Conn.Vnet is true is read by one multishot read; all these
// ports share the buffers. Writes to such a port are queued; the system call that waits for the next frames submits them.
// Other ports are only polled by the io_uring, and read and written by their Conn.
//
// Buffers are provided to the kernel just before that call. Their number depends on the size of recent frames, so that a
// batch stays in the cache; buffers used last are provided first. A read that finds no buffer ends. Reads that have ended
// are armed again in the order in which they ended.
type IOUring struct {
	*waker
	readers
	receivers
	ring     *uring.Ring
	buffers  [groups]*uring.Buffers // of one memory
	ports    [frame.MaxPorts]ringPort
	toArm    [groups][]frame.PortID // ports whose read or poll must be armed
	free     []uint16               // buffers; the one used last is the last
	out      [groups]int            // buffers that the kernel has
	given    [groups]int            // buffers that it had when the round began
	had      [groups]int            // frames read in that round
	round    uint32                 // counts calls of provide
	quietAt  uint32                 // the last round in which a quiet port had a frame, or the uplink's first queue beside the second one
	bulkAt   uint32                 // the last round in which the second one had a frame
	scarce   bool                   // see frame.Batch
	perFrame int                    // moving average of the time that a frame of a batch takes, in ns
	batch    int                    // frames in the batch that Poll returned last
	loaned   []uint16               // buffers of the batch that Poll returned last
	size     int                    // moving average of frame sizes, in bytes
	sentTo   frame.PortID           // where the last frame went
	pending  [ringBuffers]filled
	first    int // index of the oldest frame in pending
	n        int // frames in pending
	active   int // multishot operations in progress
	woken    bool
	idle     idle
	counts   frame.IOCounts
	enabled  bool
	closed   bool
	failed   [2][]frame.TxFailure
	reported []frame.PortID                  // Batch.Gone of the last Poll
	iov      [4 * frame.BatchSize]unix.Iovec // pieces of the queued chains
	iovs     int
}

type ringPort struct {
	conn   frame.Conn
	file   int       // as the io_uring knows it; -1: the Conn reads and writes
	packet *AFPacket // the port is a packet socket, which the io_uring reads by messages; nil: it is another
	read   bool      // this backend reads the port
	up     bool      // it is the uplink
	armed  bool      // its read or poll is in progress
	group  uint8     // of its read
	round  uint32    // in which it read a frame last
	took   int       // frames read in that round
}

// filled is a frame that was read and waits to be put into a batch.
type filled struct {
	port       frame.PortID
	buffer     uint16
	begin, end int32 // of the frame in its buffer
}

// NewIOUring returns a backend without ports. Its Poll looks for frames for the time busyPoll before it sleeps; see BusyPollAuto. An error
// says why io_uring cannot be used on this machine.
func NewIOUring(busyPoll time.Duration) (*IOUring, error) {
	r := &IOUring{readers: newReaders(), size: frame.BatchBytes}
	var err error
	if r.ring, err = uring.New(ringOps); err != nil {
		return nil, err
	}
	if r.buffers[quiet], err = r.ring.NewBuffers(quiet, ringBuffers, bufferSize); err != nil {
		r.ring.Close()
		return nil, err
	}
	for g := uint16(loud); g < groups && err == nil; g++ {
		r.buffers[g], err = r.ring.NewGroup(r.buffers[quiet], g)
	}
	if err == nil {
		r.waker, err = newWaker()
	}
	if err != nil {
		r.ring.Close()
		r.freeBuffers()
		return nil, err
	}
	r.free = make([]uint16, ringBuffers)
	for i := range r.free {
		r.free[i] = uint16(ringBuffers - 1 - i)
	}
	r.ring.UseFiles(frame.MaxPorts)
	r.idle = newIdle(busyPoll)
	r.loaned = make([]uint16, 0, frame.BatchSize)
	for g := range r.toArm {
		r.toArm[g] = make([]frame.PortID, 0, frame.MaxPorts)
	}
	return r, nil
}

func (r *IOUring) freeBuffers() {
	for _, b := range r.buffers {
		if b != nil {
			b.Free()
		}
	}
}

// Add implements dataplane.Poller.
func (r *IOUring) Add(id frame.PortID, c frame.Conn, read frame.Reading) error {
	if r.closed {
		return errClosed
	}
	p := ringPort{conn: c, file: -1, read: read != frame.NotRead, up: read == frame.ReadUplink}
	if c.Vnet() {
		var err error
		if p.file, err = r.ring.SetFile(int(id), c.FD()); err != nil {
			return err
		}
		p.packet, _ = c.(*AFPacket)
	} else if p.read {
		r.add(id, c, read)
	}
	r.ports[id] = p
	if p.read {
		r.mustArm(id, quiet)
	}
	if bulk := bulkQueue(c, read); bulk != nil {
		r.bulkOf = id
		return r.Add(frame.Bulk, bulk, read)
	}
	return nil
}

// Remove implements dataplane.Poller. When it returns, the kernel no longer uses the port's descriptor.
func (r *IOUring) Remove(id frame.PortID) {
	p := &r.ports[id]
	if p.conn == nil || r.closed {
		return
	}
	if id == r.bulkOf {
		r.Remove(frame.Bulk)
		r.bulkOf = frame.NoPort
	}
	p.read = false
	r.failed[0] = r.forget(id, r.failed[0])
	if r.enabled { // submit queued writes while the descriptor still belongs to the port
		_ = r.ring.Enter(0)
		r.reap()
	}
	r.disarm(id)
	if p.armed && r.reserve() {
		r.ring.Cancel(r.readData(id), opData(opCancel, id))
	}
	for err := error(nil); p.armed && err == nil; r.reap() {
		err = r.ring.Enter(1)
	}
	if p.file >= 0 {
		r.ring.ClearFile(int(id)) // else the device would stay
	}
	r.remove(id)
	for range r.n { // discard frames of the port that Poll has not returned yet
		f := r.pull()
		if f.port == id {
			r.free = append(r.free, f.buffer)
		} else {
			r.stash(f)
		}
	}
	*p = ringPort{}
}

// Yield implements dataplane.Poller.
func (r *IOUring) Yield(id frame.PortID) bool {
	p := &r.ports[id]
	if p.read {
		p.read = false
		r.Pause(id)
		r.remove(id)
	}
	for i := range r.n {
		if r.pending[(r.first+i)%len(r.pending)].port == id {
			return false
		}
	}
	if p.armed {
		return false
	}
	if r.enabled { // the port's frames whose writes are queued leave before those that its next reader writes
		_ = r.ring.Enter(0) // Poll reports what is wrong with the io_uring
		r.reap()
	}
	return true
}

// Take implements dataplane.Poller.
func (r *IOUring) Take(id frame.PortID, read frame.Reading) error {
	p := &r.ports[id]
	r.paused[id] = false // since Yield, or since the data plane paused a port that it was about to give away
	if p.read, p.up = true, read == frame.ReadUplink; p.file < 0 {
		r.add(id, p.conn, read)
	}
	r.mustArm(id, quiet)
	return nil
}

// Pause implements dataplane.Poller. Frames that have been read already are still returned.
func (r *IOUring) Pause(id frame.PortID) {
	r.readers.Pause(id)
	p := &r.ports[id]
	if p.armed && r.reserve() {
		r.ring.Cancel(r.readData(id), opData(opCancel, id))
	}
	r.disarm(id)
}

// Resume implements dataplane.Poller. The port begins as a loud one.
func (r *IOUring) Resume(id frame.PortID) {
	r.readers.Resume(id)
	if p := &r.ports[id]; p.read && !p.armed {
		group := uint8(loud)
		if p.file < 0 { // it is polled
			group = quiet
		}
		r.mustArm(id, group)
	}
}

// mustArm adds a port to those whose read must be armed: in this group, or in the uplink's.
//
//uvswitch:hot
func (r *IOUring) mustArm(id frame.PortID, group uint8) {
	if r.ports[id].up {
		group = uplink
	}
	r.toArm[group] = append(r.toArm[group], id)
}

// disarm takes a port from the lists of those whose read must be armed.
func (r *IOUring) disarm(id frame.PortID) {
	for g := range r.toArm {
		r.toArm[g] = slices.DeleteFunc(r.toArm[g], func(q frame.PortID) bool { return q == id })
	}
}

// readData returns the data of the operation that reads or polls a port.
//
//uvswitch:hot
func (r *IOUring) readData(id frame.PortID) uint64 {
	if r.ports[id].file < 0 {
		return opData(opPoll, id)
	}
	return opData(opRead, id)
}

//uvswitch:hot
func (r *IOUring) stash(f filled) {
	r.pending[(r.first+r.n)%len(r.pending)] = f
	r.n++
}

//uvswitch:hot
func (r *IOUring) pull() filled {
	f := r.pending[r.first]
	r.first = (r.first + 1) % len(r.pending)
	r.n--
	return f
}

// Poll implements dataplane.Poller.
//
//uvswitch:hot
func (r *IOUring) Poll(b *frame.Batch) error {
	b.N = 0
	r.iovs, r.scarce = 0, b.Scarce
	r.failed[0] = r.late(r.begin(r.failed[0]))
	if r.batch > 0 {
		r.perFrame += (int(b.Took)/r.batch - r.perFrame) / 8
	}
	r.free = append(r.free, r.loaned...) // writes from them are submitted before the kernel reads into them
	r.loaned = r.loaned[:0]
	if !r.enabled {
		if err := r.enable(); err != nil {
			return err
		}
	}
	r.wakeAnswering()
	for {
		r.provide()
		wait := 1
		if r.pressing() || r.mustRead() {
			wait = 0
		}
		if err := r.enter(wait); err != nil {
			return err
		}
		r.fill(b)
		if b.N > 0 || r.pressing() {
			break
		}
	}
	// Send and Remove may reap completions between two Polls; the next Poll reports them. So two lists are used in turn.
	b.Failed, r.failed[0], r.failed[1] = r.failed[0], r.failed[1][:0], r.failed[0]
	b.Gone, r.gone, r.reported = r.gone, r.reported[:0], r.gone
	r.woken = false
	if r.watched {
		r.failed[0] = r.hasRead(b, r.failed[0])
	}
	r.batch = b.N
	r.counts.Batch(b.N)
	return nil
}

// mustRead reports whether a read is not armed: its frames would not end a wait.
//
//uvswitch:hot
func (r *IOUring) mustRead() bool {
	return len(r.toArm[quiet])+len(r.toArm[loud])+len(r.toArm[uplink]) > 0
}

// pressing reports whether Poll has something to return and must not sleep.
//
//uvswitch:hot
func (r *IOUring) pressing() bool {
	return r.n > 0 || r.woken || len(r.ready) > 0 || len(r.failed[0]) > 0 || len(r.gone) > 0
}

// enter submits the queued operations and handles completions. If wait is not 0, it waits until there are wait of them.
//
//uvswitch:hot
func (r *IOUring) enter(wait int) error {
	r.counts.Calls++
	if wait == 0 || r.ring.Pending() {
		return r.submit(wait)
	}
	began := monotonic()
	if r.idle.look > 0 {
		if err := r.submit(0); err != nil || r.pressing() || r.mustRead() {
			return err
		}
		found := r.lookFor(began, r.idle.look)
		now := monotonic()
		r.counts.Spun += int64(now - began)
		r.idle.hasLooked(now, now-began)
		if r.counts.Calls++; found {
			return r.waited(began, r.submit(0))
		}
	}
	r.counts.Sleeps++
	if r.idle.gather > 0 {
		err := r.ring.Gather(frame.BatchSize, r.idle.gather)
		r.reap()
		return r.waited(began, err)
	}
	return r.waited(began, r.submit(wait))
}

//uvswitch:hot
func (r *IOUring) submit(wait int) error {
	err := r.ring.Enter(wait)
	r.reap()
	return err
}

// waited notes how long a wait took that has just ended.
//
//uvswitch:hot
func (r *IOUring) waited(began time.Duration, err error) error {
	now := monotonic()
	answered := r.n > 0 && r.pending[r.first].port == r.sentTo || r.n == 0 && len(r.ready) > 0 && r.ready[0] == r.sentTo
	r.idle.waited(now, now-began, r.n+len(r.ready), r.size, answered)
	return err
}

// lookFor looks for completions for a time, and reports whether there are some.
//
//uvswitch:hot
func (r *IOUring) lookFor(began, most time.Duration) bool {
	for !r.ring.Pending() {
		for n := 0; n < looks && !r.ring.Pending(); n++ {
			pause()
		}
		if monotonic()-began >= most {
			return r.ring.Pending()
		}
	}
	return true
}

// looks is how often lookFor looks before it reads the clock.
const looks = 16

// Counts implements dataplane.Poller.
func (r *IOUring) Counts() frame.IOCounts { return r.used(r.counts) }

// enable makes the calling thread the only one that may use the io_uring.
func (r *IOUring) enable() error {
	if err := r.ring.Enable(); err != nil {
		return err
	}
	r.enabled = true
	r.watchWake()
	return nil
}

func (r *IOUring) watchWake() {
	if r.reserve() {
		r.ring.PollMultishot(r.fd, opData(opWake, 0))
		r.active++
	}
}

// provide gives the kernel as many buffers for loud ports as a batch of frames of the average size needs, and a few for quiet ones. Then it
// arms reads that have ended: those of quiet ports, but no more than there are buffers, and that of one loud port.
//
//uvswitch:hot
func (r *IOUring) provide() {
	if had := r.had[uplink]; had > 0 && 2*had < r.given[uplink] {
		r.quietAt = r.round
	}
	r.round++
	most, least := min(max(frame.BatchBytes/r.size, minBuffers), maxBuffers), minBuffers
	if r.round-r.quietAt < recently { // frames of quiet ports wait behind those of the loud port
		turn, frames := longestTurn, leastTurn
		if r.scarce {
			turn, frames, least = scarceTurn, 1, 1
		}
		most = min(most, max(frames, int(turn)/max(1, r.perFrame)))
	}
	if r.n < maxBuffers { // else what is pending comes first
		r.give(quiet, quietBuffers)
		r.give(uplink, max(minBuffers, most-r.n-min(most/2, r.had[loud])))
		r.give(loud, max(least, most-r.n-min(most/2, r.had[uplink])))
		r.had = [groups]int{}
	}
	r.arm(quiet, r.out[quiet])
	if list := r.toArm[uplink]; len(list) > 1 && list[0] == frame.Bulk { // the uplink's second queue comes last
		list[0], list[1] = list[1], list[0]
	}
	r.arm(uplink, r.out[uplink])
	r.arm(loud, min(1, r.out[loud]))
}

//uvswitch:hot
func (r *IOUring) give(group uint8, want int) {
	before := r.out[group]
	for r.out[group] < want && len(r.free) > 0 {
		r.buffers[group].Provide(int(r.free[len(r.free)-1]))
		r.free = r.free[:len(r.free)-1]
		r.out[group]++
	}
	if r.out[group] != before {
		r.buffers[group].Publish()
	}
	r.given[group] = r.out[group]
}

//uvswitch:hot
func (r *IOUring) arm(group uint8, most int) {
	n := 0
	for n < most && n < len(r.toArm[group]) && r.reserve() { // reserve may append to the list
		id := r.toArm[group][n]
		p := &r.ports[id]
		if p.file < 0 {
			r.ring.PollMultishot(p.conn.FD(), r.readData(id))
		} else if p.packet != nil {
			r.ring.ReceiveMultishot(p.file, &p.packet.header, uint16(group), r.readData(id))
		} else {
			r.ring.ReadMultishot(p.file, uint16(group), r.readData(id))
		}
		p.armed, p.group = true, group
		r.active++
		n++
	}
	list := r.toArm[group]
	r.toArm[group] = list[:copy(list, list[n:])]
}

// reserve makes room for one more operation. It returns false when the io_uring no longer works.
//
//uvswitch:hot
func (r *IOUring) reserve() bool {
	for r.ring.Room() == 0 {
		if r.ring.Enter(0) != nil {
			return false
		}
		r.reap()
	}
	return true
}

// reap handles all completions.
//
//uvswitch:hot
func (r *IOUring) reap() {
	for {
		c, ok := r.ring.Next()
		if !ok {
			r.ring.Done()
			return
		}
		id := frame.PortID(c.Data >> 32)
		switch c.Data >> 56 {
		case opRead:
			r.readDone(id, &c)
		case opPoll:
			r.wakeUp(id)
			r.ended(id, &c)
		case opWake:
			r.woken = true
			r.clear()
			if !c.More {
				r.active--
				if !r.closed {
					r.watchWake()
				}
			}
		case opWrite:
			if c.Res < 0 {
				r.failed[0] = append(r.failed[0], frame.TxFailure{
					Port: id, Reason: writeReason(r.ports[id].conn, syscall.Errno(-c.Res)), Frames: uint8(c.Data >> 48),
					Slot: uint8(c.Data >> writeBytes), Bytes: uint32(c.Data) & (1<<writeBytes - 1),
				})
			}
		}
	}
}

//uvswitch:hot
func (r *IOUring) readDone(id frame.PortID, c *uring.Completion) {
	if c.Buffer >= 0 {
		p := &r.ports[id]
		r.out[p.group]--
		begin, end, ok := 0, int(c.Res), c.Res > 0
		if ok && p.packet != nil {
			begin, end, ok = unpack(r.buffers[quiet].Bytes(c.Buffer)[:end])
		}
		if ok {
			if p.round != r.round {
				p.round, p.took = r.round, 0
			}
			p.took++
			r.had[p.group]++
			if id == frame.Bulk {
				r.bulkAt = r.round
			}
			if p.group == quiet || id == r.bulkOf && r.round-r.bulkAt < recently {
				r.quietAt = r.round
			}
			r.stash(filled{id, uint16(c.Buffer), int32(begin), int32(end)})
			r.size += (end - begin - r.size) / 8
		} else {
			r.free = append(r.free, uint16(c.Buffer))
		}
	}
	r.ended(id, c)
}

// ended handles the last completion of a multishot operation. The operation will be armed again, unless the port is dead
// or is being removed.
//
//uvswitch:hot
func (r *IOUring) ended(id frame.PortID, c *uring.Completion) {
	if c.More {
		return
	}
	r.active--
	p := &r.ports[id]
	p.armed = false
	if !p.read {
		return
	}
	if errno := syscall.Errno(-c.Res); c.Res < 0 && p.packet == nil && (isDead(errno) || errno == syscall.ENXIO) {
		if p.read = false; id != frame.Bulk {
			r.gone = append(r.gone, id)
		}
		return
	}
	if r.paused[id] {
		return
	}
	r.counts.Rearms++
	group := uint8(quiet) // usually it is out of buffers, or it had an error that concerns one frame
	if p.round == r.round && 2*p.took >= r.given[p.group] {
		group = loud
	}
	r.mustArm(id, group)
}

// fill puts frames into the batch. Ports that are read by Conn.Read get at most half of it.
//
//uvswitch:hot
func (r *IOUring) fill(b *frame.Batch) {
	if len(r.ready) > 0 {
		r.read(b, frame.BatchSize/2)
	}
	bytes := 0
	for i := range b.Frames[:b.N] {
		bytes += b.Frames[i].Len()
	}
	for r.n > 0 && b.N < frame.BatchSize && bytes < frame.BatchBytes {
		f := r.pull()
		if f.port == frame.Bulk {
			f.port = r.bulkOf
			b.Bulk |= 1 << b.N
		}
		b.Frames[b.N].Reset(r.buffers[quiet].Bytes(int(f.buffer))[f.begin:f.end], f.port)
		b.N++
		r.loaned = append(r.loaned, f.buffer)
		bytes += int(f.end - f.begin)
	}
}

// Send implements dataplane.Poller. A frame outside the shared buffers is written at once: its bytes may change before a
// queued write is submitted.
//
//uvswitch:hot
func (r *IOUring) Send(id frame.PortID, f *frame.Frame) {
	r.sentTo = id
	if r.watched && id != r.answering {
		r.sendWatched(id, f)
	} else {
		r.send(id, f)
	}
}

// sendWatched passes a frame to the thread of a slow port, or measures what it costs.
func (r *IOUring) sendWatched(id frame.PortID, f *frame.Frame) {
	if s := r.slow[id]; s != nil {
		if why := s.put(f); why != frame.None {
			r.failed[0] = append(r.failed[0], frame.Refused(id, why, f))
		}
		return
	}
	if c := r.ports[id].conn; r.timed && c != nil {
		_ = r.ring.Submit() // other frames are queued: their time does not count
		before := threadTime()
		r.send(id, f)
		_ = r.ring.Submit() // the time to read what the receiver sends does not count; Poll reports what is wrong with the io_uring
		r.iovs = 0
		r.note(id, c, f, before)
		return
	}
	r.send(id, f)
}

//uvswitch:hot
func (r *IOUring) send(id frame.PortID, f *frame.Frame) {
	p := &r.ports[id]
	switch {
	case p.conn == nil:
		r.failed[0] = append(r.failed[0], frame.Refused(id, frame.PortGone, f))
	case p.file >= 0 && r.owns(f):
		if !r.reserve() {
			r.failed[0] = append(r.failed[0], frame.Refused(id, frame.TxQueueFull, f))
		} else if f.Next() == nil {
			r.ring.Write(p.file, f.Raw(), writeData(frame.Failure(id, frame.None, f)))
		} else {
			r.sendChain(id, p.file, f)
		}
	default:
		if why := p.conn.Write(f); why != frame.None {
			r.failed[0] = append(r.failed[0], frame.Refused(id, why, f))
		}
	}
}

// owns reports whether a frame and its chain lie in the shared buffers, and so stay unchanged until the next Poll returns.
//
//uvswitch:hot
func (r *IOUring) owns(f *frame.Frame) bool {
	for ; f != nil; f = f.Next() {
		if !r.buffers[quiet].Owns(f.Raw()) {
			return false
		}
	}
	return true
}

//uvswitch:hot
func (r *IOUring) sendChain(id frame.PortID, file int, f *frame.Frame) {
	if len(r.iov)-r.iovs < frame.BatchSize {
		_ = r.ring.Enter(0) // Poll reports what is wrong with the io_uring
		r.iovs = 0
	}
	iov := r.iov[r.iovs:]
	n := gather(iov, f)
	r.iovs += n
	r.ring.WriteV(file, iov[:n], writeData(frame.Failure(id, frame.None, f)))
}

// Close implements dataplane.Poller. It cancels every operation, so that none keeps a device alive.
func (r *IOUring) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	for id := range r.slow {
		r.failed[0] = r.forget(id, r.failed[0])
	}
	for i := range r.ports {
		r.ports[i].read = false
	}
	if r.enabled && r.active > 0 && r.reserve() {
		r.ring.CancelAll(opData(opCancel, 0))
	}
	for err := error(nil); r.enabled && r.active > 0 && err == nil; r.reap() {
		err = r.ring.Enter(1)
	}
	for id, p := range r.ports {
		if p.conn != nil && p.file >= 0 {
			r.ring.ClearFile(id) // the kernel ends the io_uring later: a device would stay until then
		}
	}
	r.waker.close()
	r.cpuTimes.close()
	r.idle.close()
	err := r.ring.Close()
	r.freeBuffers()
	return err
}
