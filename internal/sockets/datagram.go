package sockets

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A point is a datagram socket. One of UDP stands for one inside endpoint, whatever it talks to: so its outside endpoint is the same for all (RFC
// 4787, REQ-1). One of ICMP stands for one inside address and identifier. A published one stands for a port of the host.
type point struct {
	key   pointKey
	last  int64 // ns: when it was used
	fd    int32 // -1: none
	gen   uint32
	owner frame.PortID
	bits  uint8
}

// Bits of point.bits.
const (
	isQueued  = 1 << iota // in Engine.readyPoints
	hasAnswer             // something has come back
	isStream              // something was sent after that
	isOther               // something was sent that is no question for a name
)

type pointKey struct {
	inside frame.Addr6 // of a published one: the host's address that it is bound to, or the unspecified one
	port   uint16      // or the identifier
	kind   uint8
}

const (
	pointUDP = iota
	pointPing
	pointPublished
)

// After these times without a datagram a socket is closed. Each is a little longer than such a flow stays in the flow table (nat.Timers).
const (
	questionTime = int64(35 * time.Second)
	singleTime   = int64(125 * time.Second)
	streamTime   = int64(6 * time.Minute)
)

func (p *point) idleTime() int64 {
	switch {
	case p.bits&isStream != 0:
		return streamTime
	case p.bits&isOther != 0:
		return singleTime
	}
	return questionTime
}

const sweepTime = int64(10 * time.Second)

// writeUDP takes a datagram, or several in a super-frame, from a container.
func (e *Engine) writeUDP(f *frame.Frame, k key) frame.Reason {
	if len(f.Payload()) < frame.UDPLen || !f.PartialSum() && f.UDP().Checksum() != 0 && !f.Summed() {
		return frame.MalformedPacket
	}
	i, ok := e.pointKeys[pointKey{k.in, k.inPort, pointUDP}]
	if !ok {
		i, ok = e.published(&k)
	}
	if !ok {
		var why frame.Reason
		if i, why = e.newPoint(f, &k, pointKey{k.in, k.inPort, pointUDP}); why != frame.None {
			return why
		}
	}
	size, payload := 0, f.Payload()
	if f.Vnet().GSOType() == frame.GSOUDPL4 {
		size = int(f.Vnet().GSOSize())
	} else if n := int(f.UDP().Length()); n >= frame.UDPLen && n < len(payload) {
		payload = payload[:n]
	}
	return e.send(i, f, &k, payload[frame.UDPLen:], size)
}

// published is the socket of a published port that an answer belongs to.
func (e *Engine) published(k *key) (int32, bool) {
	at := k.in
	if !isLoopback(at) && !e.isHost(at) {
		return 0, false
	}
	if k.out == e.localClient(k.out) {
		real, _ := e.locals.real(k, e.now)
		at = real.in
	}
	i, ok := e.pointKeys[pointKey{at, k.inPort, pointPublished}]
	if !ok {
		i, ok = e.pointKeys[pointKey{anyOf(k.in), k.inPort, pointPublished}]
	}
	return i, ok
}

// whyNoPing is why an ICMP message cannot leave: questions leave by ping sockets; nothing else can.
//
//uvswitch:hot
func whyNoPing(f *frame.Frame) frame.Reason {
	m, question := f.Payload(), uint8(frame.ICMPEcho)
	if len(m) < frame.ICMPLen || !f.PartialSum() && !f.HasRightICMPSum() {
		return frame.MalformedPacket
	}
	if f.Proto == frame.ICMPv6 {
		question = 128
	}
	if m[0] != question {
		return frame.NeedsRoot
	}
	return frame.None
}

// mayPing says whether the host lets this user ping.
func mayPing(k *key) frame.Reason {
	fd, err := openPing(k)
	if err != nil {
		return reasonOf(err)
	}
	unix.Close(fd)
	return frame.None
}

func openPing(k *key) (fd int, err error) {
	proto := unix.IPPROTO_ICMP
	if !is4(k.in) {
		proto = unix.IPPROTO_ICMPV6
	}
	return unix.Socket(familyOf(k.in), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
}

// reasonOf is the reason for an error of opening a ping socket.
func reasonOf(err error) frame.Reason {
	if err == unix.EACCES || err == unix.EPERM {
		return frame.PingNotAllowed
	}
	return frame.SocketsExhausted
}

// writePing takes an ICMP question from a container.
func (e *Engine) writePing(f *frame.Frame, k key) frame.Reason {
	m := f.Payload()
	pk := pointKey{k.in, frame.ICMPHeader(m).ID(), pointPing}
	i, ok := e.pointKeys[pk]
	if !ok {
		var why frame.Reason
		if i, why = e.newPoint(f, &k, pk); why != frame.None {
			return why
		}
	}
	return e.send(i, f, &k, m, 0)
}

// newPoint makes a socket for an inside endpoint.
func (e *Engine) newPoint(f *frame.Frame, k *key, pk pointKey) (int32, frame.Reason) {
	if !e.take(f.In) && !(e.reuse(f.In) && e.take(f.In)) {
		e.tellSender(f, k, frame.CodeAdminFiltered)
		return 0, frame.SocketsExhausted
	}
	var fd int
	var err error
	if pk.kind == pointPing {
		fd, err = openPing(k)
	} else {
		fd, err = openUDP(k)
	}
	if err == nil {
		tellErrors(fd, k.in)
		if e.o.JoinsUDP && pk.kind == pointUDP {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		}
		if pk.kind == pointUDP && pk.port >= e.o.Ephemeral[0] && pk.port <= e.o.Ephemeral[1] { // the same port, if it is free: as NAT does
			_ = unix.Bind(fd, sockaddr(anyOf(k.in), pk.port))
		}
		var i int32
		if i, err = e.addPoint(fd, pk, f.In); err == nil {
			return i, frame.None
		}
		unix.Close(fd)
	}
	e.giveBack(f.In)
	e.tellSender(f, k, frame.CodeAdminFiltered)
	if pk.kind == pointPing {
		return 0, reasonOf(err)
	}
	return 0, frame.SocketsExhausted
}

func openUDP(k *key) (fd int, err error) {
	fd, err = unix.Socket(familyOf(k.in), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err == nil && !is4(k.in) { // else it takes the port of IPv4, too
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	return fd, err
}

// reuse closes a socket of a port that has none left: one that was used for a single exchange, and not for reuseTime. It looks at some sockets
// only, and goes on there next time.
func (e *Engine) reuse(owner frame.PortID) bool {
	for range min(64, len(e.points)) {
		e.cursor = (e.cursor + 1) % len(e.points)
		if p := &e.points[e.cursor]; e.cursor > 0 && p.fd >= 0 && p.owner == owner && p.key.kind != pointPublished && p.bits&isStream == 0 && e.now-p.last > reuseTime {
			e.endPoint(int32(e.cursor))
			return true
		}
	}
	return false
}

const reuseTime = int64(10 * time.Second)

// tellErrors makes ICMP errors readable, with the address of who has sent them (ip(7), IP_RECVERR).
func tellErrors(fd int, family frame.Addr6) {
	if is4(family) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
}

// anyOf is the unspecified address of the family of a.
func anyOf(a frame.Addr6) frame.Addr6 {
	if is4(a) {
		return map4(0)
	}
	return frame.Addr6{}
}

func (e *Engine) addPoint(fd int, pk pointKey, owner frame.PortID) (int32, error) {
	i := freeEntry(&e.points, &e.freePoint)
	gen := e.points[i].gen + 1
	e.points[i] = point{key: pk, fd: int32(fd), gen: gen, owner: owner, last: e.now, bits: e.points[i].bits & isQueued}
	if err := e.sys.Watch(int32(fd), i, tag(isPoint, gen), unix.EPOLLIN); err != nil {
		e.points[i].fd = -1
		e.freePoint = append(e.freePoint, i)
		return 0, err
	}
	e.pointKeys[pk] = i
	e.sys.Tick(true)
	return i, nil
}

func (e *Engine) endPoint(i int32) {
	p := &e.points[i]
	unix.Close(int(p.fd))
	p.fd = -1
	if e.pointKeys[p.key] == i {
		delete(e.pointKeys, p.key)
	}
	if p.key.kind != pointPublished {
		e.giveBack(p.owner)
	}
	if p.bits&isQueued == 0 {
		e.freePoint = append(e.freePoint, i)
	}
}

// sweepPoints closes sockets that have been idle.
func (e *Engine) sweepPoints() {
	if e.now-e.swept < sweepTime {
		return
	}
	e.swept = e.now
	e.locals.sweep(e.now)
	for i := range e.points {
		if p := &e.points[i]; i > 0 && p.fd >= 0 && p.key.kind != pointPublished && e.now-p.last > p.idleTime() {
			e.endPoint(int32(i))
		}
	}
}

// A rawAddr is an address of either family, as the kernel reads and writes it.
type rawAddr struct {
	raw unix.RawSockaddrAny
	n   uint32
}

func (r *rawAddr) set(a frame.Addr6, port uint16) {
	if is4(a) {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.raw))
		sa.Family = unix.AF_INET
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], port)
		binary.BigEndian.PutUint32(sa.Addr[:], uint32(a.Lo))
		r.n = unix.SizeofSockaddrInet4
		return
	}
	sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.raw))
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], port)
	a.Put(sa.Addr[:])
	r.n = unix.SizeofSockaddrInet6
}

func (r *rawAddr) get() (a frame.Addr6, port uint16) {
	if r.raw.Addr.Family == unix.AF_INET {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.raw))
		return map4(frame.LoadAddr(sa.Addr[:])), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	}
	sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.raw))
	return frame.LoadAddr6(sa.Addr[:]), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
}

// A control is ancillary data, for sendmsg(2) and recvmsg(2).
type control struct {
	b [128]byte
	n int
}

// room adds a message and returns the place of its data.
func (c *control) room(level, typ, size int) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.b[c.n]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(size))
	data := c.b[c.n+unix.CmsgLen(0):][:size]
	clear(data)
	c.n += unix.CmsgSpace(size)
	return data
}

// lowTTL: a packet that has fewer hops left than this looks for the routers on its way. All others leave with the host's TTL.
const lowTTL = 32

// send sends a payload to the outside end of k. size is that of the datagrams in it, or 0 if it is one.
func (e *Engine) send(i int32, f *frame.Frame, k *key, payload []byte, size int) frame.Reason {
	p := &e.points[i]
	if p.last = e.now; p.bits&hasAnswer != 0 {
		p.bits |= isStream
	}
	if k.outPort != portDNS {
		p.bits |= isOther
	}
	var to rawAddr
	var c control
	out, port := k.out, k.outPort
	if p.key.kind == pointPublished {
		from := k.in
		if out == e.localClient(out) { // a client on the host itself: see hideLocal
			real, ok := e.locals.real(k, e.now)
			if !ok {
				return frame.TxRefused
			}
			from, out, port = real.in, real.out, real.outPort
		}
		setSource(&c, from)
	}
	to.set(out, port)
	if ttl := f.TTL(); ttl < lowTTL {
		level, typ := unix.IPPROTO_IP, unix.IP_TTL
		if !is4(k.in) {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
		}
		binary.NativeEndian.PutUint32(c.room(level, typ, 4), uint32(ttl))
	}
	e.iov[0].Base = unsafe.SliceData(payload)
	e.iov[0].SetLen(len(payload))
	parts := 1
	for g := f.Next(); g != nil; g = g.Next() {
		rest := g.Rest()
		e.iov[parts].Base = unsafe.SliceData(rest)
		e.iov[parts].SetLen(len(rest))
		parts++
	}
	m := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&to.raw)), Namelen: to.n}
	single := c.n
	if size > 0 && (parts > 1 || size < len(payload)) {
		binary.NativeEndian.PutUint16(c.room(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2), uint16(size))
	}
	errno := sendTo(p.fd, &m, e.iov[:parts], &c, c.n)
	if c.n > single && (errno == unix.EINVAL || errno == unix.EMSGSIZE || errno == unix.EIO) { // larger than the MTU of the way, or a device that cannot sum
		errno = sendEach(p.fd, &m, e.iov[:parts], size, &c, single)
	}
	switch errno {
	case 0:
		return frame.None
	case unix.EAGAIN, unix.ENOBUFS:
		return frame.TxQueueFull
	case unix.EMSGSIZE:
		return frame.ExceedsMTU
	}
	if code, ok := unreachable(errno); ok {
		e.tellSender(f, k, code)
		return frame.ConnectUnreachable
	}
	return frame.TxRefused
}

// sendTo sends what is in data, with n bytes of ancillary data. The error of an earlier datagram is told first, and once: it tries again.
//
//uvswitch:hot
func sendTo(fd int32, m *unix.Msghdr, data []unix.Iovec, c *control, n int) (errno syscall.Errno) {
	m.Iov = &data[0]
	m.SetIovlen(len(data))
	if m.Control = nil; n > 0 {
		m.Control = &c.b[0]
	}
	m.SetControllen(n)
	for range 3 {
		_, _, errno = syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno == 0 || !isICMP(errno) {
			return errno
		}
	}
	return errno
}

// sendEach sends datagrams of size bytes one by one, and returns the last error. So a super-frame counts as dropped if one datagram of it was.
func sendEach(fd int32, m *unix.Msghdr, data []unix.Iovec, size int, c *control, n int) (errno syscall.Errno) {
	for _, part := range data {
		for b := unsafe.Slice(part.Base, part.Len); len(b) > 0; b = b[min(size, len(b)):] {
			one := [1]unix.Iovec{{Base: &b[0]}}
			one[0].SetLen(min(size, len(b)))
			if failed := sendTo(fd, m, one[:], c, n); failed != 0 {
				errno = failed
			}
		}
	}
	return errno
}

// isICMP reports whether an errno tells of an ICMP error, which a socket does once (linux net/ipv4/icmp.c, icmp_err_convert).
func isICMP(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENOPROTOOPT, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.EHOSTDOWN, unix.ENONET, unix.EACCES, unix.EPROTO:
		return true
	}
	return false
}

const portDNS = 53

func setSource(c *control, a frame.Addr6) {
	if is4(a) {
		binary.BigEndian.PutUint32(c.room(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)[4:], uint32(a.Lo))
	} else {
		a.Put(c.room(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo))
	}
}

func (e *Engine) pointEvent(i int32, events uint32) {
	if events&unix.EPOLLERR != 0 {
		e.readErrors(i)
	}
	if p := &e.points[i]; p.fd >= 0 && p.bits&isQueued == 0 {
		p.bits |= isQueued
		e.readyPoints.add(i)
	}
}

// nextDatagram makes the next frame from a datagram socket.
func (e *Engine) nextDatagram(b []byte) int {
	for !e.readyPoints.isEmpty() {
		i := e.readyPoints.next()
		p := &e.points[i]
		p.bits &^= isQueued
		if p.fd < 0 {
			e.freePoint = append(e.freePoint, i)
			continue
		}
		n, more := e.receive(p, b)
		if more {
			p.bits |= isQueued
			e.readyPoints.add(i)
		}
		if n > 0 {
			return n
		}
	}
	return 0
}

// receive reads one datagram, or several that belong together, into b. more is false when the socket has no other.
func (e *Engine) receive(p *point, b []byte) (size int, more bool) {
	k := key{in: p.key.inside, inPort: p.key.port}
	at := l4At(&k)
	data := at
	if p.key.kind != pointPing {
		data += frame.UDPLen
	}
	var from rawAddr
	var c control
	v := unix.Iovec{Base: &b[data]}
	v.SetLen(min(len(b)-data, maxPacket-(data-frame.VnetLen-frame.EthernetLen)))
	m := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&from.raw)), Namelen: unix.SizeofSockaddrAny, Iov: &v, Control: &c.b[0]}
	m.SetIovlen(1)
	m.SetControllen(len(c.b))
	n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&m)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, isICMP(errno)
	}
	if m.Flags&unix.MSG_TRUNC != 0 { // larger than a packet that the engine makes: a part of it would be another datagram
		return 0, true
	}
	p.last = e.now
	p.bits |= hasAnswer
	k.out, k.outPort = from.get()
	segment := e.readControl(c.b[:m.Controllen], &k)
	if p.key.kind == pointPing {
		return e.putPing(b, &k, at, int(n)), true
	}
	if real := k; p.key.kind == pointPublished && e.hideLocal(&k, isLoopback(p.key.inside)) {
		if k.in == anyOf(k.in) || !e.locals.show(&k, &real, e.now) { // the host has no address that could stand for its loopback, or too many clients
			return 0, true
		}
	}
	pseudo := e.putHeaders(b, &k, frame.UDP, frame.UDPLen+int(n))
	u := b[at:]
	binary.BigEndian.PutUint16(u, k.outPort)
	binary.BigEndian.PutUint16(u[2:], k.inPort)
	binary.BigEndian.PutUint16(u[4:], uint16(frame.UDPLen+int(n)))
	gso := uint8(frame.GSONone)
	if segment > 0 && segment < int(n) {
		gso = frame.GSOUDPL4
	} else {
		segment = 0
	}
	partial(b, at, frame.ChecksumOffset(frame.UDP), pseudo, gso, frame.UDPLen, segment)
	return data + int(n), true
}

// readControl reads the size of joined datagrams, and the address that a datagram came to.
func (e *Engine) readControl(b []byte, k *key) (segment int) {
	for len(b) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		if int(h.Len) < unix.CmsgLen(0) || int(h.Len) > len(b) {
			break
		}
		data := b[unix.CmsgLen(0):h.Len]
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 2:
			segment = int(binary.NativeEndian.Uint16(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			k.in = map4(frame.LoadAddr(data[8:]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			k.in = frame.LoadAddr6(data)
		}
		b = b[min(len(b), unix.CmsgSpace(int(h.Len)-unix.CmsgLen(0))):]
	}
	return segment
}

// putPing makes a frame of an answer to a ping, whose message of n bytes stands in b already: with the container's identifier.
func (e *Engine) putPing(b []byte, k *key, at, n int) int {
	if n < frame.ICMPLen {
		return 0
	}
	frame.ICMPHeader(b[at:]).SetID(k.inPort)
	return e.finishICMP(b, k, n)
}

// readErrors passes ICMP errors about what a socket has sent to its container, from those who have sent them.
func (e *Engine) readErrors(i int32) {
	p := &e.points[i]
	var b [512]byte
	var oob [512]byte
	for range 16 {
		n, oobn, _, to, err := unix.Recvmsg(int(p.fd), b[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || p.key.kind == pointPublished {
			continue
		}
		k := key{in: p.key.inside, inPort: p.key.port}
		k.out, k.outPort = endpoint(to)
		for _, m := range messages {
			e.passError(p, &k, m.Data, b[:n])
		}
	}
}

// passError reads struct sock_extended_err and the address behind it (linux include/uapi/linux/errqueue.h).
func (e *Engine) passError(p *point, k *key, x, sent []byte) {
	const fromICMP, fromICMPv6, head = 2, 3, 16
	if len(x) < head+unix.SizeofSockaddrInet4 || x[4] != fromICMP && x[4] != fromICMPv6 {
		return
	}
	var from frame.Addr6
	switch family := binary.NativeEndian.Uint16(x[head:]); {
	case family == unix.AF_INET:
		from = map4(frame.LoadAddr(x[head+4:]))
	case family == unix.AF_INET6 && len(x) >= head+unix.SizeofSockaddrInet6:
		from = frame.LoadAddr6(x[head+8:])
	default:
		return
	}
	mtu := binary.NativeEndian.Uint32(x[8:])
	var quote [8]byte
	proto, n := uint8(frame.UDP), frame.UDPLen+len(sent)
	if p.key.kind == pointPing {
		n, proto = len(sent), icmpFor(k)
		copy(quote[:], sent)
		frame.ICMPHeader(quote[:]).SetID(p.key.port)
	} else {
		binary.BigEndian.PutUint16(quote[:], k.inPort)
		binary.BigEndian.PutUint16(quote[2:], k.outPort)
		binary.BigEndian.PutUint16(quote[4:], uint16(n))
	}
	e.sendError(k, from, x[5], x[6], mtu, proto, quote[:], n)
}
