package sockets

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A key names a flow as the engine sees it. Of a flow that a container has begun, in is the container's endpoint. Of one that has come to a published
// port, in is the endpoint on the host: NAT knows the container. out is the peer in both. IPv4 addresses are mapped (RFC 4291, 2.5.5.2).
type key struct {
	in, out         frame.Addr6
	inPort, outPort uint16
}

// mapped4 stands before an IPv4 address in the lower half of a mapped one.
const mapped4 = 0xffff << 32

// is4 reports whether an address is a mapped one.
//
//uvswitch:hot
func is4(a frame.Addr6) bool { return a.Hi == 0 && a.Lo>>32 == 0xffff }

// family is 0 for IPv4, and 1 for IPv6.
func family(a frame.Addr6) int {
	if is4(a) {
		return 0
	}
	return 1
}

//uvswitch:hot
func map4(a frame.Addr) frame.Addr6 { return frame.Addr6{Lo: mapped4 | uint64(a)} }

func addrOf(a netip.Addr) frame.Addr6 {
	if a = a.Unmap(); a.Is4() {
		return map4(frame.AddrFrom(a))
	}
	return frame.Addr6From(a)
}

func netipOf(a frame.Addr6) netip.Addr { return a.Netip().Unmap() }

func isGroup(a frame.Addr6) bool {
	if is4(a) {
		return uint32(a.Lo) >= 0xe0000000
	}
	return a.IsGroup()
}

// keyOf is the key of a frame that leaves. Ports are those of TCP and UDP; else they are 0.
//
//uvswitch:hot
func keyOf(f *frame.Frame) (k key) {
	if f.Flags&frame.IsIPv4 != 0 {
		h := f.IPv4()
		k.in, k.out = map4(h.Src()), map4(h.Dst())
	} else {
		h := f.IPv6()
		k.in, k.out = h.Src(), h.Dst()
	}
	if l4 := f.Payload(); len(l4) >= 4 && (f.Proto == frame.TCP || f.Proto == frame.UDP) {
		k.inPort, k.outPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	return k
}

// l4At is where the transport header of the engine's frames begins, after the virtio-net header.
//
//uvswitch:hot
func l4At(k *key) int {
	if is4(k.in) {
		return frame.VnetLen + frame.EthernetLen + frame.IPv4Len
	}
	return frame.VnetLen + frame.EthernetLen + frame.IPv6Len
}

// putHeaders writes all headers before the transport header of a packet to the inside end of k, whose transport header and payload have n bytes.
// It returns the folded sum of the pseudo-header.
//
//uvswitch:hot
func (e *Engine) putHeaders(b []byte, k *key, proto uint8, n int) (pseudo uint16) {
	clear(b[:frame.VnetLen])
	eth := b[frame.VnetLen:]
	putMAC(eth, e.o.MAC)
	putMAC(eth[6:], e.o.PeerMAC)
	ip := eth[frame.EthernetLen:]
	if !is4(k.in) {
		binary.BigEndian.PutUint16(eth[12:], frame.TypeIPv6)
		binary.BigEndian.PutUint32(ip, 6<<28)
		binary.BigEndian.PutUint16(ip[4:], uint16(n))
		ip[6], ip[7] = proto, defaultTTL
		h := frame.IPv6(ip)
		h.SetAddrs(k.out, k.in)
		return h.PseudoSum(proto, n)
	}
	binary.BigEndian.PutUint16(eth[12:], frame.TypeIPv4)
	clear(ip[:frame.IPv4Len])
	ip[0], ip[8], ip[9] = 0x45, defaultTTL, proto
	if proto == frame.TCP {
		ip[6] = 0x40 // the packet must not be cut on its way
	} else { // the router cuts a datagram that is larger than the port's MTU
		e.ident++
		binary.BigEndian.PutUint16(ip[4:], e.ident)
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(frame.IPv4Len+n))
	binary.BigEndian.PutUint32(ip[12:], uint32(k.out.Lo))
	binary.BigEndian.PutUint32(ip[16:], uint32(k.in.Lo))
	binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip[:frame.IPv4Len], 0))
	var tail [4]byte
	tail[1] = proto
	binary.BigEndian.PutUint16(tail[2:], uint16(n))
	return frame.Sum(tail[:], frame.Sum(ip[12:frame.IPv4Len], 0))
}

const defaultTTL = 64

//uvswitch:hot
func putMAC(b []byte, m frame.MAC) {
	binary.BigEndian.PutUint16(b, uint16(m>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(m))
}

// partial makes the checksum at offset of a transport header partial: the receiver's kernel completes it. size is the payload of a segment, or 0.
//
//uvswitch:hot
func partial(b []byte, at int, offset, pseudo uint16, gso uint8, header, size int) {
	binary.BigEndian.PutUint16(b[at+int(offset):], pseudo)
	start := at - frame.VnetLen
	frame.VnetHdr(b).Set(frame.VnetNeedsCsum, gso, uint16(start+header), uint16(size), uint16(start), offset)
}

// controls are frames that the engine has made: answers without data, and ICMP errors. If there is no room, a frame is lost, as on any wire. What a
// container can provoke again and again gets half of the room at most, and so do resets: the other half is for handshakes.
type controls struct {
	frames   [256]struct{ b [frame.VnetLen + 640]byte }
	sizes    [256]int
	first, n int
}

func (c *controls) isFull() bool { return c.n == len(c.frames) }

func (c *controls) isHalfFull() bool { return c.n >= len(c.frames)/2 }

// slot returns the room for another frame; nil if there is none. Its size is said by commit.
func (c *controls) slot() []byte {
	if c.isFull() {
		return nil
	}
	return c.frames[(c.first+c.n)%len(c.frames)].b[:]
}

func (c *controls) commit(size int) {
	c.sizes[(c.first+c.n)%len(c.frames)] = size
	c.n++
}

//uvswitch:hot
func (c *controls) next(b []byte) int {
	if c.n == 0 {
		return 0
	}
	size := copy(b, c.frames[c.first].b[:c.sizes[c.first]])
	c.first = (c.first + 1) % len(c.frames)
	c.n--
	return size
}

// A lastReset tells a container that its connection has ended. It waits for room in control, as a program that only reads would wait for ever
// without it.
type lastReset struct {
	key      key
	seq, ack uint32
}

// sendResets makes segments of the resets, as many as there is room for.
func (e *Engine) sendResets() {
	n := 0
	for ; n < len(e.resets) && !e.control.isHalfFull(); n++ {
		r := &e.resets[n]
		e.sendControl(&r.key, frame.FlagRST|frame.FlagACK, r.seq, r.ack, 0, nil)
	}
	e.resets = e.resets[n:]
}

// unreachable are the codes of ICMP's and of ICMPv6's unreachable for an error of connect(2) or send(2) (linux net/ipv4/icmp.c, icmp_err_convert;
// net/ipv6/icmp.c, tab_unreach); ok is false for errors that the sender is not told.
func unreachable(err error) (code uint8, ok bool) {
	switch err {
	case unix.ENETUNREACH, unix.EADDRNOTAVAIL, unix.ENETDOWN:
		return frame.CodeNet, true
	case unix.EHOSTUNREACH, unix.EHOSTDOWN:
		return frame.CodeHost, true
	case unix.EACCES, unix.EPERM:
		return frame.CodeAdminFiltered, true
	}
	return 0, false
}

// code6 is the code of ICMPv6 type 1 for a code of ICMP type 3 (RFC 7915, 4.2).
func code6(code uint8) uint8 {
	switch code {
	case frame.CodeNet:
		return 0
	case frame.CodeAdminFiltered:
		return 1
	case frame.CodePort, frame.CodeProtocol:
		return frame.CodePort6
	}
	return 3
}

// tellSender answers frame f, which cannot leave, with an ICMP error "unreachable".
func (e *Engine) tellSender(f *frame.Frame, k *key, code uint8) {
	l4 := f.Payload()
	e.sendError(k, e.ownAddr(k), unreachableType(k), codeFor(k, code), 0, f.Proto, l4[:min(len(l4), 8)], len(l4))
}

// ownAddr is the source of the engine's own errors about a flow: the host's address, as it is the host that cannot send. A host without an address has
// only the peer's.
func (e *Engine) ownAddr(k *key) frame.Addr6 {
	if own := e.host.Load().first[family(k.in)]; !own.IsZero() {
		return own
	}
	return k.out
}

func unreachableType(k *key) uint8 {
	if is4(k.in) {
		return frame.ICMPUnreachable
	}
	return 1
}

func codeFor(k *key, code uint8) uint8 {
	if is4(k.in) {
		return code
	}
	return code6(code)
}

// sendError makes an ICMP error about a packet of flow k, from the address from. quote is the beginning of the packet's transport header, and n
// the length of that header with its payload.
func (e *Engine) sendError(k *key, from frame.Addr6, typ, code uint8, mtu uint32, proto uint8, quote []byte, n int) {
	if e.control.isHalfFull() {
		return
	}
	b := e.control.slot()
	back := key{in: k.in, out: from}
	at := l4At(k)
	icmp := b[at:]
	head := frame.IPv4Len
	if !is4(k.in) {
		head = frame.IPv6Len
	}
	size := frame.ICMPLen + head + len(quote)
	clear(icmp[:size])
	icmp[0], icmp[1] = typ, code
	binary.BigEndian.PutUint32(icmp[4:], mtu)
	ip := icmp[frame.ICMPLen:]
	if is4(k.in) {
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 1, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(min(frame.IPv4Len+n, maxPacket)))
		binary.BigEndian.PutUint32(ip[12:], uint32(k.in.Lo))
		binary.BigEndian.PutUint32(ip[16:], uint32(k.out.Lo))
		binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip[:frame.IPv4Len], 0))
	} else {
		ip[0], ip[6], ip[7] = 0x60, proto, 1
		binary.BigEndian.PutUint16(ip[4:], uint16(min(n, maxPacket)))
		frame.IPv6(ip).SetAddrs(k.in, k.out)
	}
	copy(ip[head:], quote)
	e.control.commit(e.finishICMP(b, &back, size))
}

// finishICMP completes an ICMP message of n bytes, which stands in b, with its checksum and the headers before it. It returns the length of the
// frame.
func (e *Engine) finishICMP(b []byte, k *key, n int) int {
	pseudo := e.putHeaders(b, k, icmpFor(k), n)
	if is4(k.in) { // ICMP of IPv4 has no pseudo-header
		pseudo = 0
	}
	at := l4At(k)
	frame.ICMPHeader(b[at : at+n]).UpdateChecksum(pseudo)
	return at + n
}

// icmpFor is the ICMP of the family of k.
func icmpFor(k *key) uint8 {
	if is4(k.in) {
		return frame.ICMP
	}
	return frame.ICMPv6
}
