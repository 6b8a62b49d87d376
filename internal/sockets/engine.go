// Package sockets is the way out of a switch without root: what containers send leaves by sockets of this process.
//
//	container ── frames ── switch, router, NAT ── Write ──► Engine ── connect, send ──► the host's kernel ──► outside
//	container ◄─ frames ── switch, router, NAT ◄── Read ── Engine ◄── recv, accept ───┘
//
// To the data plane, an Engine is the device of the port uplink. tcp.go translates TCP: the host's kernel has the one real connection, and the
// engine translates sequence numbers between it and the container. datagram.go has UDP and pings, publish.go what begins outside.
//
// The worker that reads the uplink calls Write, Read and the other methods of a frame.Conn, but Close, and runs what Do gets. Any goroutine may call
// the rest.
package sockets

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// Options of an Engine.
type Options struct {
	MAC, PeerMAC frame.MAC    // destination and source of the engine's frames
	Clock        func() int64 // ns since any moment
	Sockets      int          // how many descriptors it may have at most
	JoinsUDP     bool         // containers take several datagrams in one super-frame
	Ephemeral    [2]uint16    // the ports that the host's kernel picks from: a UDP socket gets its container's own port only if it lies here
	// MayHost says what containers may begin with the host's own addresses; its loopback is closed in any case. port is 0 of pings.
	MayHost func(proto uint8, port uint16) bool

	Kernel Kernel // nil: of this host
	Seed   uint64 // of sequence numbers; 0: one that nobody can guess
	// LocalClient is the source that containers see of a client on the host itself, of IPv4 and of IPv6.
	LocalClient [2]netip.Addr
}

// An Engine has the sockets by which containers reach the outside.
type Engine struct {
	o      Options
	sys    Kernel
	seed   uint64
	secret uint64 // see isn
	now    int64  // ns, of this round
	calls  calls

	keys  map[key]int32 // flows of TCP
	flows []tcpFlow     // the first is not used; in slab
	slab  []byte
	free  []int32
	timed []int32 // flows that have a deadline, or had one since the last tick

	points    []point // datagram sockets
	pointKeys map[pointKey]int32
	freePoint []int32

	doors       []door       // listening sockets of TCP
	shares      share.Pool   // of the sockets, by port
	sockets     atomic.Int32 // in use
	control     controls
	resets      []lastReset
	failed      []frame.TxFailure
	ident       uint16 // of the last packet that may be cut
	reads       uint8  // since the last look at the sockets
	looked      bool   // in this round of Reads, and that look has told all that had happened
	waiting     bool   // accept has stopped early: look accepts again
	starved     bool   // accept had no descriptor or no memory: the next tick sets waiting
	readyFlows  queue  // that may have something to send to their container
	readyPoints queue
	pieces      pieces
	events      [64]unix.EpollEvent
	iov         [frame.BatchSize + 1]unix.Iovec
	swept       int64 // ns: when idle points were looked for
	cursor      int   // see reuse

	locals locals
	host   atomic.Pointer[host]
}

// New returns an engine without sockets.
func New(o Options) (*Engine, error) {
	e := &Engine{o: o, sys: o.Kernel, seed: o.Seed, keys: map[key]int32{}, points: make([]point, 1), pointKeys: map[pointKey]int32{}, locals: newLocals()}
	e.Share(share.Among{})
	e.host.Store(&host{})
	if e.seed == 0 {
		var seed [8]byte
		_, _ = rand.Read(seed[:]) // it never fails
		e.seed = binary.NativeEndian.Uint64(seed[:])
	}
	if e.sys == nil {
		linux, err := NewLinux()
		if err != nil {
			return nil, fmt.Errorf("sockets: %w", err)
		}
		e.sys = linux
	}
	var err error
	entries := 1 + o.Sockets + o.Sockets/8 // closed ones wait in readyFlows
	if e.slab, err = reserve(entries * int(unsafe.Sizeof(tcpFlow{}))); err != nil {
		return nil, fmt.Errorf("sockets: %w", errors.Join(err, e.sys.Close()))
	}
	e.flows = unsafe.Slice((*tcpFlow)(unsafe.Pointer(&e.slab[0])), entries)[:1]
	e.now = o.Clock()
	e.secret = e.random()
	return e, nil
}

// FD implements frame.Conn.
func (e *Engine) FD() int { return e.sys.FD() }

// Vnet implements frame.Conn. It is false: frames do not pass a descriptor.
func (e *Engine) Vnet() bool { return false }

// GSOMaxSize implements frame.Conn.
func (e *Engine) GSOMaxSize(proto uint8) int {
	if proto == frame.TCP || proto == frame.UDP {
		return maxPacket
	}
	return 0
}

const maxPacket = 65535

// HasFrames reports whether Read has frames after Writes, without a look at the sockets.
//
//uvswitch:hot
func (e *Engine) HasFrames() bool {
	return e.control.n > 0 || !e.readyFlows.isEmpty() || len(e.resets) > 0
}

// Failures implements frame.Answerer: the SYNs of connections that were refused, or that no way leads to.
//
//uvswitch:hot
func (e *Engine) Failures(to []frame.TxFailure) []frame.TxFailure {
	e.looked = false // a round of Reads begins
	to = append(to, e.failed...)
	e.failed = e.failed[:0]
	return to
}

// Write implements frame.Conn: it takes a frame that leaves by the uplink.
func (e *Engine) Write(f *frame.Frame) frame.Reason {
	e.now = e.o.Clock()
	k, why := e.keyFor(f)
	switch {
	case why == frame.HostInbound:
		e.tellSender(f, &k, frame.CodeAdminFiltered)
	case why == frame.NeedsRoot && k != key{} && !isGroup(k.out) && f.Proto != frame.ICMP && f.Proto != frame.ICMPv6:
		e.tellSender(f, &k, frame.CodeProtocol)
	case why != frame.None:
	case f.Proto == frame.TCP:
		return e.writeTCP(f, k)
	case f.Proto == frame.UDP:
		return e.writeUDP(f, k)
	default:
		return e.writePing(f, k)
	}
	return why
}

// keyFor returns the key of a frame that leaves, or why no socket can send it. The key of a frame that has none is empty.
//
//uvswitch:hot
func (e *Engine) keyFor(f *frame.Frame) (k key, why frame.Reason) {
	switch {
	case f.Malformed != frame.None:
		return k, f.Malformed
	case f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 || f.Flags&frame.Fragment != 0:
		return k, frame.NeedsRoot
	}
	k = keyOf(f)
	switch {
	case isGroup(k.out):
		return k, frame.NeedsRoot
	case isLoopback(k.out) || k.out == anyOf(k.out) || e.isHost(k.out) && !e.isHost(k.in) && !e.o.MayHost(f.Proto, k.outPort):
		return k, frame.HostInbound
	}
	switch f.Proto {
	case frame.TCP, frame.UDP:
		return k, frame.None
	case frame.ICMP, frame.ICMPv6:
		return k, whyNoPing(f)
	}
	return k, frame.NeedsRoot
}

// Refusal is why the engine would not send a frame; None if only a try can tell. It may be called by any goroutine.
func (e *Engine) Refusal(f *frame.Frame) frame.Reason {
	k, why := e.keyFor(f)
	if why == frame.None && f.Proto != frame.TCP && f.Proto != frame.UDP {
		return mayPing(&k)
	}
	return why
}

// Read implements frame.Conn: it makes the next frame for a container.
func (e *Engine) Read(b []byte) (int, error) {
	e.now = e.o.Clock()
	if e.reads++; e.reads >= mostReads { // what always has something to send does not keep the others waiting
		if _, err := e.look(); err != nil {
			return 0, err
		}
	}
	for {
		e.sendResets()
		if e.reads%2 == 0 { // what provokes answers without end does not keep the data of others waiting
			if n := e.control.next(b); n > 0 {
				return n, nil
			}
		}
		if e.reads%4 == 1 {
			if n := e.nextDatagram(b); n > 0 {
				return n, nil
			}
		}
		if n := e.nextSegment(b); n > 0 {
			return n, nil
		}
		if n := e.nextDatagram(b); n > 0 {
			return n, nil
		}
		if n := e.control.next(b); n > 0 {
			return n, nil
		}
		if e.HasFrames() || !e.readyPoints.isEmpty() {
			continue
		}
		if e.looked { // what has happened since then makes FD readable
			e.looked = false
			return 0, nil
		}
		if n, err := e.look(); n == 0 {
			e.looked = false
			return 0, err
		}
	}
}

// mostReads is how many frames are read without a look at the sockets.
const mostReads = 64

// look does what the kernel tells of the sockets, and returns how much it was. Then it accepts connections that wait.
func (e *Engine) look() (int, error) {
	e.reads = 0
	n, err := e.sys.Wait(e.events[:])
	if err != nil {
		return 0, err
	}
	for i := range e.events[:n] {
		e.happened(&e.events[i])
	}
	e.looked = n < len(e.events)
	if e.waiting {
		e.acceptWaiting()
		e.looked = e.looked && !e.waiting
		n++
	}
	return n, nil
}

// What a descriptor in the epoll is: the upper byte of an event's Pad. The rest is the generation of a flow or a point, so that an event about a
// former socket is ignored.
const (
	isEvent = iota
	isTimer
	isFlow
	isPoint
	isDoor
)

const generations = 1<<24 - 1

func tag(kind int, gen uint32) int32 { return int32(uint32(kind)<<24 | gen&generations) }

// TimerEvent is the event of kind isTimer, for a Kernel in virtual time.
func TimerEvent() unix.EpollEvent { return unix.EpollEvent{Events: unix.EPOLLIN, Pad: tag(isTimer, 0)} }

func kindOf(ev *unix.EpollEvent) int { return int(uint32(ev.Pad) >> 24) }

func (e *Engine) happened(ev *unix.EpollEvent) {
	gen := uint32(ev.Pad) & generations
	switch kindOf(ev) {
	case isEvent:
		e.calls.run()
	case isTimer:
		e.expire()
	case isFlow:
		if f := &e.flows[ev.Fd]; f.gen&generations == gen && f.state != closed {
			e.flowEvent(ev.Fd, ev.Events)
		}
	case isPoint:
		if p := &e.points[ev.Fd]; p.gen&generations == gen && p.fd >= 0 {
			e.pointEvent(ev.Fd, ev.Events)
		}
	case isDoor:
		e.accept(ev.Fd)
	}
}

// Do runs fn on the worker, before its next Read.
func (e *Engine) Do(fn func()) {
	e.calls.add(fn, e.sys.Wake)
}

// Stop says that the worker has ended: whoever calls Do runs the function then.
func (e *Engine) Stop() { e.calls.stop() }

// Close implements frame.Conn, after Stop. It resets the connections, but those in which the container's FIN and all before it have left.
func (e *Engine) Close() error {
	e.calls.mu.Lock() // readers may call still
	defer e.calls.mu.Unlock()
	for i := range e.flows {
		if c := &e.flows[i]; c.state != closed {
			e.close(int32(i), c.bits&shutDown == 0)
		}
	}
	for i := range e.points {
		if i > 0 && e.points[i].fd >= 0 {
			e.endPoint(int32(i))
		}
	}
	for _, d := range e.doors {
		if d.fd >= 0 {
			unix.Close(d.fd)
		}
	}
	e.doors = nil
	e.pieces.close()
	e.flows = nil
	return errors.Join(unix.Munmap(e.slab), e.sys.Close())
}

// InUse is how many sockets there are, and how many there may be. It may be called by any goroutine.
func (e *Engine) InUse() (n, most int) { return int(e.sockets.Load()), e.o.Sockets }

// Connected reports that the wire has another end.
func (e *Engine) Connected() bool { return true }

// Share says among whom sockets, and room for data, are divided. It may be called by any goroutine.
func (e *Engine) Share(a share.Among) {
	e.shares.Divide(e.o.Sockets, a, 0)
	e.pieces.shares.Divide(maxPieces, a, 0)
}

// take counts a socket for a port.
func (e *Engine) take(owner frame.PortID) bool {
	if !e.shares.Take(owner) {
		return false
	}
	e.sockets.Add(1)
	return true
}

func (e *Engine) giveBack(owner frame.PortID) {
	e.sockets.Add(-1)
	e.shares.Return(owner)
}

// random is a number that nobody outside can guess.
func (e *Engine) random() uint64 {
	e.seed = frame.Mix(e.seed^uint64(e.now), 0x9e3779b97f4a7c15) + 0x632be59bd9b4e019
	return frame.Mix(e.seed, 0xd6e8feb86659fd93)
}

// isn is the first sequence number of a connection (RFC 6528, 3). It grows with time, so that a container takes it for a new one although the same ports
// were in use a moment ago (RFC 9293, 3.10.7.4, TIME-WAIT).
func (e *Engine) isn(k *key) uint32 {
	const odd = 0x9e3779b97f4a7c15 // addresses that are in use make no factor 0
	h := frame.Mix(k.in.Hi^e.secret, k.in.Lo^odd)
	h = frame.Mix(k.out.Hi^h, k.out.Lo^odd)
	h = frame.Mix(uint64(k.inPort)<<16^uint64(k.outPort)^odd, h^e.secret)
	return uint32(e.now/4000) + uint32(h) // one each 4 us
}

// freeEntry returns the number of an entry that is free, or of a new one.
func freeEntry[T any](all *[]T, free *[]int32) int32 {
	if n := len(*free); n > 0 {
		i := (*free)[n-1]
		*free = (*free)[:n-1]
		return i
	}
	var zero T
	*all = append(*all, zero)
	return int32(len(*all) - 1)
}

// A queue has numbers of entries, in the order in which they were added.
type queue struct {
	list  []int32
	first int
}

func (q *queue) add(i int32) {
	if q.first > len(q.list)/2 {
		q.list = q.list[:copy(q.list, q.list[q.first:])]
		q.first = 0
	}
	q.list = append(q.list, i)
}

//uvswitch:hot
func (q *queue) isEmpty() bool { return q.first == len(q.list) }

// next takes the first number of a queue that is not empty.
//
//uvswitch:hot
func (q *queue) next() int32 {
	q.first++
	return q.list[q.first-1]
}
