package sockets

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A door is a socket that listens on a published port.
type door struct {
	fd         int // -1: none
	owner      frame.PortID
	atLoopback bool // it listens at a loopback address only
	everywhere bool // at all addresses, of both families
	peeks      bool // what Prepare has said
}

// ErrLowPort is returned when the host's settings do not let this user listen on a port.
var ErrLowPort = errors.New("the port needs root, by net.ipv4.ip_unprivileged_port_start")

// ErrNotOwn is returned when the host does not have the address.
var ErrNotOwn = errors.New("the host does not have the address")

// A Listening is the sockets of a published port, on one or both families.
type Listening struct {
	engine *Engine
	udp    bool
	addr   frame.Addr6
	port   uint16
	owner  frame.PortID
	peeks  []bool // for each of TCP in fds: what Kernel.Prepare has said
	fds    []int  // Close closes those of doors, and endPoint those of points
}

// Listen opens a port of the host for a port of the switch, the owner: at one address, or at all if addr is unspecified. It may be called by any
// goroutine.
func (e *Engine) Listen(proto uint8, addr netip.Addr, port uint16, owner frame.PortID) (*Listening, error) {
	l := &Listening{engine: e, udp: proto == frame.UDP, addr: addrOf(addr), port: port, owner: owner}
	list := []netip.Addr{addr}
	if addr.IsUnspecified() {
		list = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range list {
		fd, err := l.open(a)
		if errors.Is(err, unix.EAFNOSUPPORT) && len(list) > 1 {
			continue
		}
		if err != nil {
			l.closeAll()
			return nil, err
		}
		l.fds = append(l.fds, fd)
	}
	e.Do(l.serve)
	return l, nil
}

func (l *Listening) open(a netip.Addr) (int, error) {
	typ, at := unix.SOCK_STREAM, addrOf(a)
	if l.udp {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(familyOf(at), typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("sockets: %w", err)
	}
	if !is4(at) {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	switch {
	case err != nil:
	case !l.udp:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		l.peeks = append(l.peeks, l.engine.sys.Prepare(int32(fd))) // connections inherit the options (linux net/core/sock.c, sk_clone_lock)
	case is4(at):
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	default:
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(at, l.port))
	}
	if err == nil && !l.udp {
		err = unix.Listen(fd, 1024)
	}
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.EACCES) {
		return -1, ErrLowPort
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return -1, ErrNotOwn
	}
	return -1, fmt.Errorf("cannot listen on port %d of %s: %w", l.port, a, err)
}

// serve adds the sockets to the engine.
func (l *Listening) serve() {
	e := l.engine
	for n, fd := range l.fds {
		if l.udp {
			sa, err := unix.Getsockname(fd)
			if err != nil {
				continue
			}
			a, _ := endpoint(sa)
			_, _ = e.addPoint(fd, pointKey{a, l.port, pointPublished}, l.owner) // an error: no memory in the kernel; nothing is received
			continue
		}
		i := int32(slices.IndexFunc(e.doors, func(d door) bool { return d.fd < 0 }))
		if i < 0 {
			e.doors = append(e.doors, door{})
			i = int32(len(e.doors) - 1)
		}
		e.doors[i] = door{fd, l.owner, isLoopback(l.addr), l.addr == anyOf(l.addr), l.peeks[n]}
		if err := e.sys.Watch(int32(fd), i, tag(isDoor, 0), unix.EPOLLIN); err == nil {
			e.accept(i)
		}
	}
}

// Close ends the listening. Connections that were accepted stay.
func (l *Listening) Close() {
	done := make(chan struct{})
	l.engine.Do(func() {
		defer close(done)
		e := l.engine
		for _, fd := range l.fds {
			for i := range e.doors {
				if e.doors[i].fd == fd {
					e.doors[i].fd = -1
				}
			}
			for i := range e.points {
				if p := &e.points[i]; i > 0 && int(p.fd) == fd {
					e.endPoint(int32(i)) // closes fd
					fd = -1
					break // ended points have this number, too
				}
			}
			if fd >= 0 {
				unix.Close(fd)
			}
		}
		l.fds = nil
	})
	<-done
}

func (l *Listening) closeAll() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}

// accept takes the connections that wait at a door, and sends a SYN for each into the switch. NAT translates it as one that came from a wire.
func (e *Engine) accept(i int32) {
	d := &e.doors[i]
	for n := 0; d.fd >= 0; n++ {
		if n == mostAccepts || e.control.isFull() {
			e.waiting = true
			return
		}
		fd, own, peer, err := e.sys.Accept(d.fd)
		if err == unix.EINTR || err == unix.ECONNABORTED || err == unix.ENOTCONN {
			continue
		}
		if err != nil {
			if err != unix.EAGAIN { // no memory, or no descriptor
				e.starved = true
				e.sys.Tick(true)
			}
			return
		}
		if !e.admit(fd, own, peer, d) {
			e.sys.End(fd, true)
		}
	}
}

// mostAccepts is how many connections are accepted at a door before other doors and sockets have their turn.
const mostAccepts = 64

// acceptWaiting goes on where accept has stopped.
func (e *Engine) acceptWaiting() {
	e.waiting = false
	for i := range e.doors {
		e.accept(int32(i))
	}
}

// admit begins the inside half of an accepted connection.
func (e *Engine) admit(fd int32, own, peer End, d *door) bool {
	k := key{own.Addr, peer.Addr, own.Port, peer.Port}
	isLocal := e.hideLocal(&k, d.atLoopback)
	if isLocal {
		if k.in == anyOf(k.in) { // the host has no IPv6 address
			k, _ = e.byIPv4(k)
		}
		if !e.showLocal(&k) {
			return false
		}
	} else if old, taken := e.keys[k]; taken { // the kernel has accepted the client again: the connection before has ended
		c := &e.flows[old]
		e.sendControl(&k, frame.FlagRST|frame.FlagACK, c.nxt, c.rcvNxt, 0, nil)
		e.abort(old)
	}
	if k.in == anyOf(k.in) || !e.take(d.owner) { // a host without an address has none that could stand for its loopback
		return false
	}
	i, err := e.newFlow(&k, fd, d.owner, d.peeks, reading)
	if err != nil {
		e.giveBack(d.owner)
		return false
	}
	e.flows[i].state = opening
	if isLocal && d.everywhere && !is4(k.in) {
		e.flows[i].bits |= turns
	}
	e.sendSYN(i)
	e.setDeadline(i, e.now+synTime)
	return true
}

// showLocal changes the port of a client on the host to one that no other client is shown with: two clients may have the same port, at two addresses.
func (e *Engine) showLocal(k *key) bool {
	_, taken := e.keys[*k]
	for n := 0; taken && n < mostShown; n++ {
		k.outPort = portAfter(k.outPort)
		_, taken = e.keys[*k]
	}
	return !taken
}

// byIPv4 is a key of IPv6 for a client on the host, with the addresses of IPv4 instead. It is false if the host has none.
func (e *Engine) byIPv4(k key) (key, bool) {
	in, out := e.host.Load().first[0], addrOf(e.o.LocalClient[0])
	if in == anyOf(in) || !e.o.LocalClient[0].IsValid() {
		return k, false
	}
	k.in, k.out = in, out
	return k, true
}

// turnToIPv4 tries a connection again over IPv4 whose SYN the container has refused over IPv6. A client on the host may have connected to ::1, since
// "localhost" is that, too; many servers serve IPv4 only. The kernel has accepted the client already, so it does not try the other address by itself.
func (e *Engine) turnToIPv4(i int32) bool {
	c := &e.flows[i]
	k, ok := e.byIPv4(c.key)
	if c.bits&turns == 0 || !ok || !e.showLocal(&k) {
		return false
	}
	delete(e.keys, c.key)
	iss := e.isn(&k)
	c.key, c.una, c.nxt, c.most, c.tries, c.bits = k, iss, iss, iss, 0, c.bits&^turns
	e.keys[k] = i
	e.sendSYN(i)
	e.setDeadline(i, e.now+synTime)
	return true
}

// hideLocal gives a client on the host itself an address that may be on a wire: of loopback addresses, none may (RFC 1122, 3.2.1.3), and an answer
// to the host's own address would not come back to the socket. It reports whether the client is on the host. NAT knows a port that is published at a
// loopback address only, atLoopback, by that address, and any other one by the host's own.
func (e *Engine) hideLocal(k *key, atLoopback bool) bool {
	if !isLoopback(k.out) && !e.isHost(k.out) {
		return false
	}
	if isLoopback(k.in) && !atLoopback {
		k.in = e.host.Load().first[family(k.in)]
	}
	k.out = e.localClient(k.out)
	return true
}

func isLoopback(a frame.Addr6) bool { return is4(a) && a.Lo>>24&0xff == 127 || a == frame.Addr6{Lo: 1} }

// localClient is what containers see of a client on the host itself, of the family of a.
func (e *Engine) localClient(a frame.Addr6) frame.Addr6 { return addrOf(e.o.LocalClient[family(a)]) }

// A host is what the kernel of the host takes for itself.
type host struct {
	own   map[frame.Addr6]bool
	nets  []netip.Prefix // besides
	first [2]frame.Addr6 // one address of IPv4, one of IPv6
}

// isHost reports whether the host's kernel takes an address for its own. As a source of a frame, such an address answers a client of a published
// port.
func (e *Engine) isHost(a frame.Addr6) bool {
	h := e.host.Load()
	return h.own[a] || len(h.nets) > 0 && slices.ContainsFunc(h.nets, func(p netip.Prefix) bool { return p.Contains(netipOf(a)) })
}

// SetHost says which addresses the host has, and which prefixes its kernel takes for its own besides. The first address of each family is that for
// clients at loopback addresses. It may be called by any goroutine.
func (e *Engine) SetHost(addrs []netip.Addr, prefixes []netip.Prefix) {
	h := &host{own: map[frame.Addr6]bool{}, nets: prefixes}
	for _, a := range addrs {
		x := addrOf(a)
		h.own[x] = true
		if i := family(x); h.first[i].IsZero() {
			h.first[i] = x
		}
	}
	e.host.Store(h)
}
