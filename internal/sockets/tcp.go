package sockets

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The host's kernel has the one real TCP connection. Between the container and the socket, only numbers are translated:
//
//   - what the container sends is acknowledged when the socket has taken it;
//   - what the peer sends stays in the socket, and is peeked at, until the container has acknowledged it.
//
// docs/translation.md has the states, and what leads from one to another.
const (
	closed     = iota
	connecting // connect(2) has begun; the container waits for its SYN-ACK
	answered   // the SYN-ACK has been sent
	opening    // the SYN of a connection from outside has been sent to the container
	up
)

// Bits of tcpFlow.bits.
const (
	isReady   = 1 << iota // in Engine.readyFlows
	owesAck               // the container waits for an acknowledgement, or for a new window
	mayRead               // the socket may have data, or its end
	sentFIN               // to the container
	madeFIN               // sentFIN, or it was when the data were sent again: the number before most is the FIN's
	ackedFIN              // by it
	gotFIN                // from the container
	shutDown              // the socket knows
	noScale               // the container does not scale windows
	hungUp                // the peer has sent its FIN, or a reset
	probing               // the window of the container is closed
	unsureBuf             // the size of the send buffer is to be asked again
	rereads               // the kernel knows no SO_PEEK_OFF for TCP (IPv4: before Linux 6.9, IPv6: before 6.12)
	orphan                // its container has gone, after its FIN: the data before the FIN are still passed on
	urgent                // the peer has sent urgent data: a read ends before them, although more data are there
	tellsRoom             // the kernel tells when the socket takes data again
	turns                 // to IPv4, if the container refuses IPv6: see turnToIPv4
)

// A tcpFlow is one connection.
type tcpFlow struct {
	key      key
	deadline int64 // ns; 0: none
	fd       int32
	piece    int32 // of Engine.pieces, -1 for none: what the socket did not take
	begin    int32 // of that data in the piece
	end      int32
	buffer   int32  // size of the send buffer
	gen      uint32 // see tag
	rcvNxt   uint32 // the container's next byte
	edge     uint32 // right edge of the window that the container knows
	una, nxt uint32 // what the container has not acknowledged begins and ends here
	most     uint32 // the highest nxt
	window   uint32 // the container's, in bytes
	bits     uint32
	timedAt  int32  // where in Engine.timed, from 1 on; 0: not there
	mss      uint16 // payload of a segment to the container
	synSize  uint16 // of the frame with the container's SYN, in bytes
	owner    frame.PortID
	scale    uint8 // of the container's windows
	state    uint8
	dups     uint8 // equal acknowledgements in a row
	tries    uint8
}

const (
	firstTime  = int64(200 * time.Millisecond) // until the first repetition; doubles each time
	longTime   = int64(10 * time.Second)
	synTime    = int64(time.Second)
	aliveTime  = int64(2 * time.Minute) // after it, a container that has ended its half is asked whether it is there still: kernels forget such a half
	mostTries  = 15
	mostSYNs   = 6
	orphanTime = int64(time.Minute)
	mostProbes = 9 // in a row that the container has answered: they have become as rare as they get
	ourScale   = 8
	leastMSS   = 88
	defaultMSS = 536 // RFC 9293, 3.7.1
)

// What the kernel tells of a socket; and what it tells besides while a connection is made, or after the socket has not taken all data.
const (
	reading = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI
	writing = unix.EPOLLOUT
)

//uvswitch:hot
func before(a, b uint32) bool { return int32(a-b) < 0 }

// writeTCP takes a segment from a container.
func (e *Engine) writeTCP(f *frame.Frame, k key) frame.Reason {
	h := f.TCP()
	if len(h) < frame.TCPLen || h.HeaderLen() < frame.TCPLen || h.HeaderLen() > len(h) {
		return frame.MalformedPacket
	}
	flags := h.Flags()
	if !f.PartialSum() && f.Next() == nil && !f.Summed() {
		return frame.MalformedPacket
	}
	i, ok := e.keys[k]
	if flags&(frame.FlagSYN|frame.FlagACK) == frame.FlagSYN {
		if flags&(frame.FlagRST|frame.FlagFIN) != 0 { // it begins nothing (linux net/ipv4/tcp_input.c, tcp_rcv_state_process)
			return frame.MalformedPacket
		}
		if ok && e.flows[i].state == connecting {
			return frame.Connecting
		}
		if ok && h.Seq()+1 == e.flows[i].rcvNxt && e.flows[i].state == answered {
			if !e.control.isHalfFull() {
				e.sendSYN(i)
			}
			return frame.None
		}
		if ok { // a late copy; or the container begins another connection with the same ports: then it answers by a reset (RFC 5961, 4.2)
			e.challenge(i)
			return frame.None
		}
		return e.connect(f, &k)
	}
	if !ok {
		if flags&frame.FlagRST == 0 {
			e.refuse(&k, h.Seq()+uint32(segmentLen(f)), h.Ack(), flags)
		}
		return frame.None
	}
	e.segment(i, f)
	return frame.None
}

// challenge asks a container whether it still has a connection, by an acknowledgement (RFC 5961, 3.2 and 4.2).
func (e *Engine) challenge(i int32) {
	if e.control.isHalfFull() {
		return
	}
	c := &e.flows[i]
	e.sendControl(&c.key, frame.FlagACK, c.nxt, c.rcvNxt, c.windowField(e.roomFor(c)), nil)
}

// segmentLen is what a segment takes of the sequence numbers.
func segmentLen(f *frame.Frame) int {
	h := f.TCP()
	n := len(f.Payload()) - h.HeaderLen()
	for g := f.Next(); g != nil; g = g.Next() {
		n += len(g.Rest())
	}
	for _, flag := range []uint8{frame.FlagSYN, frame.FlagFIN} {
		if h.Flags()&flag != 0 {
			n++
		}
	}
	return n
}

// refuse answers a segment that belongs to no connection with a reset (RFC 9293, 3.10.7.1).
func (e *Engine) refuse(k *key, seq, ack uint32, flags uint8) {
	if e.control.isHalfFull() {
		return
	}
	if flags&frame.FlagACK != 0 {
		e.sendControl(k, frame.FlagRST, ack, 0, 0, nil)
		return
	}
	e.sendControl(k, frame.FlagRST|frame.FlagACK, 0, seq, 0, nil)
}

// newFlow returns a flow for a prepared socket, which it watches for events.
func (e *Engine) newFlow(k *key, fd int32, owner frame.PortID, peeks bool, events uint32) (int32, error) {
	if len(e.free) == 0 && len(e.flows) == cap(e.flows) { // closed ones still wait in readyFlows
		return 0, unix.ENOBUFS
	}
	i := freeEntry(&e.flows, &e.free)
	gen := e.flows[i].gen + 1
	iss := e.isn(k)
	e.flows[i] = tcpFlow{key: *k, owner: owner, fd: fd, piece: -1, gen: gen, una: iss, nxt: iss, most: iss, mss: defaultMSS}
	if !peeks {
		e.flows[i].bits |= rereads
	}
	if events&writing != 0 {
		e.flows[i].bits |= tellsRoom
	}
	if err := e.sys.Watch(fd, i, tag(isFlow, gen), events); err != nil {
		e.free = append(e.free, i)
		return 0, err
	}
	e.keys[*k] = i
	return i, nil
}

// connect begins a connection for a SYN.
func (e *Engine) connect(f *frame.Frame, k *key) frame.Reason {
	h := f.TCP()
	if !e.take(f.In) {
		e.tellSender(f, k, frame.CodeAdminFiltered)
		return frame.SocketsExhausted
	}
	fd, peeks, err := e.sys.Connect(k.out, k.outPort, int(f.TrafficClass()&^3))
	var i int32
	if err == nil {
		if i, err = e.newFlow(k, fd, f.In, peeks, reading|writing); err != nil {
			e.sys.End(fd, false)
		}
	}
	if err != nil {
		e.giveBack(f.In)
		switch code, ok := unreachable(err); {
		case ok:
			e.tellSender(f, k, code)
			return frame.ConnectUnreachable
		case err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM || err == unix.ENOSPC:
			e.tellSender(f, k, frame.CodeAdminFiltered)
			return frame.SocketsExhausted
		}
		e.sendControl(k, frame.FlagRST|frame.FlagACK, 0, h.Seq()+1, 0, nil)
		return frame.ConnectRefused
	}
	c := &e.flows[i]
	c.synSize = uint16(min(f.Len(), maxPacket))
	c.state, c.rcvNxt, c.edge, c.window = connecting, h.Seq()+1, h.Seq()+1, uint32(h.Window())
	c.readOptions(h)
	return frame.None
}

// readOptions reads the options of the container's SYN.
func (c *tcpFlow) readOptions(h frame.TCPHeader) {
	c.bits |= noScale
	for list := h.Options(); len(list) > 0; {
		kind, n := frame.NextOption(list)
		if n <= 0 { // the end, or a damaged list
			break
		}
		switch {
		case kind == frame.OptMSS && n == 4:
			c.mss = max(binary.BigEndian.Uint16(list[2:]), leastMSS)
		case kind == frame.OptWScale && n == 3:
			c.scale = min(list[2], 14)
			c.bits &^= noScale
		}
		list = list[n:]
	}
}

// flowEvent is called when something has happened to a socket.
func (e *Engine) flowEvent(i int32, events uint32) {
	c := &e.flows[i]
	if c.state == connecting {
		if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
			return
		}
		if errno := e.sys.Failed(c.fd); errno != 0 {
			e.notConnected(i, errno)
			return
		}
		c.state = answered
		e.sendSYN(i)
		e.setDeadline(i, e.now+synTime)
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.bits |= mayRead
	}
	if events&unix.EPOLLPRI != 0 {
		c.bits |= mayRead | urgent
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.bits |= hungUp
	}
	if c.state == opening && events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 { // the client has gone
		e.resetBoth(i)
		return
	}
	if events&unix.EPOLLERR != 0 && c.bits&sentFIN != 0 { // nothing is read any more that would tell it
		e.resetBoth(i)
		return
	}
	if events&unix.EPOLLOUT != 0 && c.piece >= 0 {
		e.flush(i)
	}
	e.makeReady(i)
}

// notConnected tells a container why its connection was not made, as the host's kernel would.
func (e *Engine) notConnected(i int32, errno syscall.Errno) {
	c := &e.flows[i]
	k, seq := c.key, c.rcvNxt-1
	why := frame.ConnectUnreachable
	if code, ok := unreachable(errno); ok {
		var quote [8]byte
		binary.BigEndian.PutUint16(quote[:], k.inPort)
		binary.BigEndian.PutUint16(quote[2:], k.outPort)
		binary.BigEndian.PutUint32(quote[4:], seq)
		e.sendError(&k, e.ownAddr(&k), unreachableType(&k), codeFor(&k, code), 0, frame.TCP, quote[:], frame.TCPLen)
	} else if errno != unix.ETIMEDOUT { // then nobody has answered the container's SYN either
		e.sendControl(&k, frame.FlagRST|frame.FlagACK, 0, seq+1, 0, nil)
		why = frame.ConnectRefused
	}
	t := frame.TxFailure{Reason: why, Frames: 1, Slot: frame.NoSlot, Bytes: uint32(c.synSize)}
	var syn [frame.VnetLen + frame.FailureHead]byte // as it came from the container
	n := e.putSegment(syn[:], &key{in: k.out, out: k.in, inPort: k.outPort, outPort: k.inPort}, frame.FlagSYN, seq, 0, uint16(c.window), nil, 0, 0)
	t.Keep(c.owner, syn[frame.VnetLen:n])
	e.failed = append(e.failed, t)
	e.end(i)
}

// sendSYN sends the SYN-ACK of a connection from the container, or the SYN of one from outside.
func (e *Engine) sendSYN(i int32) {
	c := &e.flows[i]
	options := [8]byte{frame.OptMSS, 4, 0, 0, frame.OptNop, frame.OptWScale, 3, ourScale}
	n, flags, ack, mss := 8, uint8(frame.FlagSYN), uint32(0), mssFor(&c.key)
	if c.state != opening {
		if flags, ack, mss = frame.FlagSYN|frame.FlagACK, c.rcvNxt, c.mss; c.bits&noScale != 0 {
			n = 4
		}
	}
	binary.BigEndian.PutUint16(options[2:], mss)
	e.sendControl(&c.key, flags, c.una, ack, maxPacket, options[:n])
	c.nxt, c.most = c.una+1, c.una+1
	if c.state == answered {
		c.edge = c.rcvNxt + maxPacket
	}
}

// mssFor is what a container may send in a segment, before its own MTU is known.
func mssFor(k *key) uint16 {
	if is4(k.in) {
		return 1460
	}
	return 1440
}

// sendControl makes a segment without data.
func (e *Engine) sendControl(k *key, flags uint8, seq, ack uint32, window uint16, options []byte) {
	b := e.control.slot()
	if b == nil {
		return
	}
	e.control.commit(e.putSegment(b, k, flags, seq, ack, window, options, 0, 0))
}

// putSegment writes the headers of a segment with n bytes of data, which stand behind them. It returns the length of the whole frame.
//
//uvswitch:hot
func (e *Engine) putSegment(b []byte, k *key, flags uint8, seq, ack uint32, window uint16, options []byte, n, mss int) int {
	at, hl := l4At(k), frame.TCPLen+len(options)
	pseudo := e.putHeaders(b, k, frame.TCP, hl+n)
	t := b[at:]
	binary.BigEndian.PutUint16(t, k.outPort)
	binary.BigEndian.PutUint16(t[2:], k.inPort)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = byte(hl/4)<<4, flags
	binary.BigEndian.PutUint16(t[14:], window)
	binary.BigEndian.PutUint16(t[18:], 0)
	copy(t[frame.TCPLen:], options)
	gso, size := uint8(frame.GSONone), 0
	if n > mss {
		if gso, size = frame.GSOTCPv4, mss; !is4(k.in) {
			gso = frame.GSOTCPv6
		}
	}
	partial(b, at, frame.ChecksumOffset(frame.TCP), pseudo, gso, hl, size)
	return at + hl + n
}

// segment takes a segment of a connection that exists.
func (e *Engine) segment(i int32, f *frame.Frame) {
	c, h := &e.flows[i], f.TCP()
	flags, seq := h.Flags(), h.Seq()
	if flags&frame.FlagRST != 0 {
		if c.state == opening {
			if flags&frame.FlagACK != 0 && h.Ack() == c.nxt && !e.turnToIPv4(i) {
				e.abort(i)
			}
			return
		}
		if seq == c.rcvNxt {
			e.abort(i)
		} else if c.state != connecting && before(c.rcvNxt, seq) && before(seq, c.edge) {
			e.challenge(i)
		}
		return
	}
	if c.state == connecting {
		return // it waits for the SYN-ACK
	}
	if c.state == opening {
		if flags&frame.FlagACK != 0 && h.Ack() != c.nxt { // of an earlier connection with these ports: a reset ends it (RFC 9293, 3.10.7.3)
			e.refuse(&c.key, 0, h.Ack(), flags)
			return
		}
		if flags&(frame.FlagSYN|frame.FlagACK) != frame.FlagSYN|frame.FlagACK {
			return
		}
		c.readOptions(h)
		c.rcvNxt, c.edge = seq+1, seq+1
		c.una, c.window, c.state, c.tries = c.nxt, uint32(h.Window()), up, 0
		c.bits |= owesAck | mayRead
		e.setDeadline(i, 0)
		e.makeReady(i)
		return
	}
	if flags&frame.FlagACK == 0 || flags&frame.FlagSYN != 0 { // a SYN-ACK is no part of a connection that is up (RFC 5961, 4.2)
		return
	}
	n := segmentLen(f)
	asks := n > 0 || seq != c.rcvNxt // for an acknowledgement
	if asks {
		c.bits |= owesAck
	}
	e.acknowledged(i, h, n)
	if c.state == answered { // RFC 9293, 3.10.7.4: it acknowledges something else than the SYN-ACK
		e.refuse(&c.key, 0, h.Ack(), flags)
		return
	}
	if c.state == closed || !asks {
		return
	}
	e.makeReady(i)
	old := c.rcvNxt - seq // bytes that are here already
	if int32(old) < 0 || int(old) >= n || c.bits&gotFIN != 0 {
		return // not the next ones; the acknowledgement says which are
	}
	data := n
	if flags&frame.FlagFIN != 0 {
		data--
	}
	if taken := e.takeData(i, f, int(old), data-int(old)); flags&frame.FlagFIN != 0 && taken == data-int(old) && e.flows[i].state != closed {
		c.rcvNxt++
		c.bits |= gotFIN
		e.shutIfDone(i)
	}
}

// acknowledged does what the acknowledgement and the window of a segment say. n is what the segment takes of the sequence numbers.
func (e *Engine) acknowledged(i int32, h frame.TCPHeader, n int) {
	c, ack := &e.flows[i], h.Ack()
	if before(ack, c.una) || before(c.most, ack) {
		return
	}
	if c.state == answered {
		if ack != c.nxt {
			return
		}
		c.una, c.state, c.tries = ack, up, 0
		c.bits |= mayRead
	}
	window := uint32(h.Window()) << c.scale
	moved := ack - c.una
	switch {
	case moved > 0:
		taken := moved
		if c.bits&madeFIN != 0 && ack == c.most {
			c.bits |= ackedFIN
			taken--
		}
		if c.bits&ackedFIN != 0 { // nothing is left to send, also if the FIN was to be sent again
			c.bits |= sentFIN
		}
		if taken > 0 {
			e.sys.Discard(c.fd, taken)
		}
		if c.bits&(urgent|rereads) == urgent|rereads { // what follows urgent data can be read only now
			c.bits |= mayRead
		}
		if c.una = ack; before(c.nxt, ack) { // it had come before it was sent again
			c.nxt = ack
		}
		c.dups = 0
	case n == 0 && window == c.window && c.nxt != c.una:
		if c.dups++; c.dups == 3 {
			e.rewind(i)
		}
	}
	if c.tries = min(c.tries, mostProbes); moved > 0 || window > 0 {
		c.tries = 0
	}
	if c.window = window; window == 0 && c.nxt != c.una { // the container's kernel has no memory, and has dropped what was on its way
		e.rewind(i)
	}
	switch {
	case c.nxt != c.una:
		if moved > 0 || c.deadline == 0 {
			e.setDeadline(i, e.now+firstTime)
		}
	case c.window != 0 || c.bits&probing == 0:
		c.bits &^= probing
		e.setDeadline(i, e.aliveBy(c))
	}
	if !e.endIfDone(i) {
		e.makeReady(i)
	}
}

// aliveBy is the deadline of a flow for which nothing else is due.
func (e *Engine) aliveBy(c *tcpFlow) int64 {
	if c.bits&shutDown != 0 {
		return e.now + aliveTime
	}
	return 0
}

// rewind sends again what the container has not acknowledged (go-back-N): between the switch and the container, hardly anything is lost.
func (e *Engine) rewind(i int32) {
	c := &e.flows[i]
	c.nxt = c.una
	c.dups = 0
	c.bits = c.bits&^sentFIN | mayRead
	if c.bits&rereads == 0 {
		e.sys.Rewind(c.fd)
	}
	e.makeReady(i)
}

// takeData passes n bytes of a segment to the socket, without the first skip ones, and returns how many were taken. What the socket does not take
// is kept in a piece.
func (e *Engine) takeData(i int32, f *frame.Frame, skip, n int) (taken int) {
	c := &e.flows[i]
	if n <= 0 {
		return 0
	}
	iov := &e.iov
	parts := 0
	rest := n
	for b := f.Payload()[f.TCP().HeaderLen():]; ; b = f.Rest() {
		if skip < len(b) && rest > 0 {
			b = b[skip:]
			b = b[:min(len(b), rest)]
			iov[parts].Base = unsafe.SliceData(b)
			iov[parts].SetLen(len(b))
			parts++
			rest -= len(b)
			skip = 0
		} else {
			skip -= min(skip, len(b))
		}
		if f = f.Next(); f == nil {
			break
		}
	}
	if c.piece < 0 {
		var errno syscall.Errno
		if taken, errno = e.sys.Send(c.fd, iov[:parts]); errno != 0 {
			if taken = 0; errno != unix.EAGAIN && errno != unix.ENOBUFS && errno != unix.EINTR {
				e.resetBoth(i)
				return 0
			}
		}
		if taken < n {
			c.bits |= unsureBuf
		}
	}
	if taken < n {
		taken += e.keep(c, iov[:parts], taken, n-taken)
		if c.bits&tellsRoom == 0 && e.sys.Watch(c.fd, i, tag(isFlow, c.gen), reading|writing) == nil {
			c.bits |= tellsRoom
		}
	}
	c.rcvNxt += uint32(taken)
	return taken
}

// keep copies what the socket did not take into the flow's piece, as far as there is room.
func (e *Engine) keep(c *tcpFlow, iov []unix.Iovec, skip, n int) (kept int) {
	if c.piece < 0 {
		i, ok := e.pieces.get(c.owner)
		if !ok {
			return 0 // the container sends it again
		}
		c.piece, c.begin, c.end = i, 0, 0
	}
	to := e.pieces.of(c.piece)
	if c.begin > 0 && len(to)-int(c.end) < n {
		c.end = int32(copy(to, to[c.begin:c.end]))
		c.begin = 0
	}
	for _, v := range iov {
		b := unsafe.Slice(v.Base, v.Len)
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		m := copy(to[c.end:], b[skip:])
		skip = 0
		c.end += int32(m)
		kept += m
	}
	return kept
}

// flush passes what was kept to the socket.
func (e *Engine) flush(i int32) {
	c := &e.flows[i]
	b := e.pieces.of(c.piece)[c.begin:c.end]
	e.iov[0].Base = unsafe.SliceData(b)
	e.iov[0].SetLen(len(b))
	n, errno := e.sys.Send(c.fd, e.iov[:1])
	if errno != 0 {
		if errno != unix.EAGAIN && errno != unix.ENOBUFS && errno != unix.EINTR {
			e.resetBoth(i)
		}
		return
	}
	c.bits |= owesAck | unsureBuf
	if c.begin += int32(n); c.begin == c.end {
		e.pieces.put(c.piece, c.owner)
		c.piece = -1
		e.shutIfDone(i)
	}
}

// shutIfDone ends the socket's sending direction when the container's FIN and all data before it are here.
func (e *Engine) shutIfDone(i int32) {
	c := &e.flows[i]
	if c.bits&(gotFIN|shutDown) == gotFIN && c.piece < 0 {
		c.bits |= shutDown
		e.sys.Shutdown(c.fd)
		if c.bits&orphan != 0 {
			e.end(i)
			return
		}
		if !e.endIfDone(i) && c.deadline == 0 {
			e.setDeadline(i, e.aliveBy(c))
		}
	}
}

// endIfDone ends a flow when both sides have ended it. An acknowledgement that is due is sent first.
func (e *Engine) endIfDone(i int32) bool {
	c := &e.flows[i]
	if c.state == closed {
		return true
	}
	if c.bits&(shutDown|ackedFIN) != shutDown|ackedFIN {
		return false
	}
	if c.bits&owesAck != 0 {
		e.sendControl(&c.key, frame.FlagACK, c.nxt, c.rcvNxt, c.windowField(maxPacket), nil)
	}
	e.end(i)
	return true
}

// resetBoth ends a flow by resets, to the host's peer and to the container.
func (e *Engine) resetBoth(i int32) {
	if c := &e.flows[i]; c.bits&orphan == 0 {
		e.resets = append(e.resets, lastReset{c.key, c.nxt, c.rcvNxt})
	}
	e.close(i, true)
}

// abort ends a flow of which the container needs no word: the host's peer gets a reset.
func (e *Engine) abort(i int32) { e.close(i, true) }

// end ends a flow whose directions have ended, or that was never made.
func (e *Engine) end(i int32) { e.close(i, false) }

func (e *Engine) close(i int32, reset bool) {
	c := &e.flows[i]
	if !reset && c.bits&ackedFIN == 0 { // else what is unread would make a reset of the end, and what was sent last would be lost
		e.sys.Discard(c.fd, 1<<30)
	}
	e.sys.End(c.fd, reset)
	if e.keys[c.key] == i {
		delete(e.keys, c.key)
	}
	if c.piece >= 0 {
		e.pieces.put(c.piece, c.owner)
	}
	e.giveBack(c.owner)
	e.untime(i)
	*c = tcpFlow{gen: c.gen, bits: c.bits & isReady}
	if c.bits == 0 { // else nextSegment frees it
		e.free = append(e.free, i)
	}
}

func (e *Engine) makeReady(i int32) {
	if c := &e.flows[i]; c.bits&isReady == 0 && c.state != closed {
		c.bits |= isReady
		e.readyFlows.add(i)
	}
}

// nextSegment makes the next segment for a container, with data if there are some.
//
//uvswitch:hot
func (e *Engine) nextSegment(b []byte) int {
	for !e.readyFlows.isEmpty() {
		i := e.readyFlows.next()
		c := &e.flows[i]
		c.bits &^= isReady
		if c.state == closed {
			e.free = append(e.free, i)
			continue
		}
		n, more := e.push(i, b)
		if more {
			e.makeReady(i)
		}
		if n > 0 {
			return n
		}
		if e.control.n > 0 {
			return e.control.next(b)
		}
	}
	return 0
}

// push makes one segment of a flow: with what the socket holds and the container's window allows, or an acknowledgement that is due.
//
//uvswitch:hot
func (e *Engine) push(i int32, b []byte) (size int, more bool) {
	c := &e.flows[i]
	if c.state != up || c.bits&orphan != 0 {
		return 0, false
	}
	n, flags := 0, uint8(frame.FlagACK)
	room := int(c.window)
	if c.bits&rereads != 0 {
		room = min(room, rereadSize)
	}
	room -= int(c.nxt - c.una)
	at := l4At(&c.key) + frame.TCPLen
	if c.bits&mayRead != 0 && c.bits&sentFIN == 0 {
		switch {
		case room <= 0:
			if c.window == 0 && c.nxt == c.una && c.bits&probing == 0 {
				c.bits |= probing
				e.setDeadline(i, e.now+firstTime)
			}
		case room < int(c.mss) && c.nxt != c.una: // wait for a whole segment (RFC 9293, 3.8.6.2.1)
		default:
			most := min(room, maxPacket-(at-frame.VnetLen-frame.EthernetLen))
			got, errno := e.peek(c, b[at:at+most])
			switch {
			case errno == unix.EAGAIN:
				c.bits &^= mayRead
			case errno == unix.EINTR:
				more = true
			case errno != 0:
				e.resetBoth(i)
				return 0, false
			case got == 0:
				c.bits &^= mayRead
				c.bits |= sentFIN | madeFIN
				flags |= frame.FlagFIN
			default:
				n, more = got, true
				if flags |= frame.FlagPSH; got < most && c.bits&(hungUp|urgent) == 0 { // more data would be a new event
					c.bits &^= mayRead
					more = false
				}
			}
		}
	}
	if n == 0 && flags&frame.FlagFIN == 0 && c.bits&owesAck == 0 {
		return 0, more
	}
	c.bits &^= owesAck
	first := c.nxt == c.una
	size = e.putSegment(b, &c.key, flags, c.nxt, c.rcvNxt, c.windowField(e.roomFor(c)), nil, n, int(c.mss))
	if c.nxt += uint32(n); flags&frame.FlagFIN != 0 {
		c.nxt++
	}
	if before(c.most, c.nxt) {
		c.most = c.nxt
	}
	if c.nxt != c.una && (first && c.tries == 0 || c.deadline == 0) { // after a time-out, timeOut has set a longer deadline already
		e.setDeadline(i, e.now+firstTime)
	}
	return size, more
}

// peek reads what follows nxt. Where the kernel keeps no offset, what the container has not acknowledged is read again, and thrown away.
//
//uvswitch:hot
func (e *Engine) peek(c *tcpFlow, b []byte) (int, syscall.Errno) {
	sent := int(c.nxt - c.una)
	if c.bits&rereads == 0 {
		return e.sys.Peek(c.fd, b)
	}
	n, errno := e.sys.PeekFrom(c.fd, sent, b)
	if sent == 0 {
		return n, errno
	}
	if errno != 0 || n > sent {
		return n - sent, errno
	}
	if c.bits&(hungUp|urgent) == hungUp {
		return 0, e.sys.Failed(c.fd) // the end may be a reset
	}
	return 0, unix.EAGAIN // or urgent data follow, which cannot be read before the container has acknowledged what is before them
}

// rereadSize is how much may be on its way to a container, in bytes, where it must be read again each time.
const rereadSize = 256 << 10

// roomFor is how much more a container may send: what the socket's buffer has free, and a piece.
//
//uvswitch:hot
func (e *Engine) roomFor(c *tcpFlow) int {
	if c.bits&gotFIN != 0 { // it sends nothing more
		return 0
	}
	if c.piece >= 0 {
		return pieceSize - int(c.end-c.begin)
	}
	if c.buffer == 0 || c.bits&unsureBuf != 0 {
		c.buffer = int32(e.sys.SendBuffer(c.fd))
		c.bits &^= unsureBuf
	}
	return max(0, int(c.buffer)-int(c.buffer)/32-e.sys.Queued(c.fd)) + pieceSize // a part of the buffer is for the kernel's own headers
}

// windowField is the window for a header: the container may send room bytes from rcvNxt on. The right edge never moves back, but for the bits that
// the field has no room for (RFC 7323, 2.4): more than there is room for would be lost.
//
//uvswitch:hot
func (c *tcpFlow) windowField(room int) uint16 {
	shift := uint(ourScale)
	if c.bits&noScale != 0 {
		shift = 0
	}
	if edge := c.rcvNxt + uint32(min(room, maxPacket<<shift)); before(c.edge, edge) {
		c.edge = edge
	}
	return uint16(min((c.edge-c.rcvNxt)>>shift, maxPacket))
}

func (e *Engine) setDeadline(i int32, at int64) {
	c := &e.flows[i]
	if c.deadline = at; at != 0 && c.timedAt == 0 {
		e.timed = append(e.timed, i)
		c.timedAt = int32(len(e.timed))
		e.sys.Tick(true)
	}
}

// untime takes a flow from the list of those that have a deadline.
func (e *Engine) untime(i int32) {
	at, end := e.flows[i].timedAt, len(e.timed)-1
	if at == 0 {
		return
	}
	last := e.timed[end]
	e.timed[at-1], e.flows[last].timedAt = last, at
	e.timed = e.timed[:end]
	e.flows[i].timedAt = 0
}

// expire does what is due.
func (e *Engine) expire() {
	for n := len(e.timed) - 1; n >= 0; n-- { // backwards: a flow that is taken out is replaced by a later one
		i := e.timed[n]
		if c := &e.flows[i]; c.deadline != 0 && e.now >= c.deadline {
			e.timeOut(i)
		}
		if e.flows[i].deadline == 0 {
			e.untime(i)
		}
	}
	e.sweepPoints()
	e.waiting, e.starved = e.waiting || e.starved, false
	if len(e.timed) == 0 && len(e.pointKeys) == 0 && !e.waiting {
		e.sys.Tick(false)
	}
}

// timeOut repeats what the container has not answered.
func (e *Engine) timeOut(i int32) {
	c := &e.flows[i]
	if e.control.isFull() {
		return // the next tick is as good
	}
	if c.tries++; c.bits&orphan != 0 {
		e.abort(i)
		return
	}
	if (c.state == answered || c.state == opening) && c.tries >= mostSYNs || c.tries > mostTries {
		e.resetBoth(i)
		return
	}
	switch {
	case c.state == answered || c.state == opening:
		e.sendSYN(i)
		c.deadline = e.now + synTime<<c.tries
		return
	case c.nxt != c.una:
		e.rewind(i)
		c.deadline = e.now + min(firstTime<<min(c.tries, 10), longTime)
		return
	case c.window == 0 || c.bits&shutDown != 0: // asks for the window: an old sequence number is answered (RFC 9293, 3.8.6.1)
		e.sendControl(&c.key, frame.FlagACK, c.una-1, c.rcvNxt, c.windowField(e.roomFor(c)), nil)
	default:
		c.deadline = 0
		e.makeReady(i)
		return
	}
	c.deadline = e.now + min(firstTime<<min(c.tries, 10), longTime)
	if c.window != 0 && c.nxt == c.una {
		c.deadline = e.aliveBy(c)
	}
}

// Forget ends the sockets of a port, which has gone. What it has sent before a FIN still reaches the peer, if that takes it within orphanTime. It is
// for the worker; see Do.
func (e *Engine) Forget(owner frame.PortID) {
	for i := range e.flows {
		switch c := &e.flows[i]; {
		case c.state == closed || c.owner != owner || c.bits&orphan != 0:
		case c.bits&gotFIN == 0:
			e.abort(int32(i))
		case c.bits&shutDown != 0: // the kernel has the data
			e.end(int32(i))
		default:
			c.bits |= orphan
			delete(e.keys, c.key) // for the next container that has this address
			e.setDeadline(int32(i), e.now+orphanTime)
		}
	}
	for i := range e.points {
		if p := &e.points[i]; i > 0 && p.fd >= 0 && p.owner == owner && p.key.kind != pointPublished {
			e.endPoint(int32(i))
		}
	}
}
