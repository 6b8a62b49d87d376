package frame

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
)

// GRO joins what belongs together in one batch, before it is sent: consecutive TCP segments or UDP datagrams
// of one flow become one super-frame, so that their way through the receiver's kernel is paid for once. It is GRO
// (linux net/ipv4/tcp_offload.c, udp_offload.c), by the same conditions, but waits for nothing. Nothing is copied
// either: a super-frame is a chain of frames, each with its part of the payload.
//
// Of two pure acknowledgements the older is superseded when the newer one says all that it said.
//
// Only packets without IP options and extension headers are joined, with a partial checksum (VIRTIO_NET_HDR_F_NEEDS_CSUM: nobody
// between two stacks on one host has summed anything yet) or a complete one that is right: the super-frame's is partial.
type GRO struct {
	batch uint32
	flows [coalesceSlots]openFlow
}

const coalesceSlots = 64

// groSeed keeps senders from choosing ports that share another flow's slot.
var groSeed = rand.Uint64()

// openFlow is the last frame of a flow in this batch: what a next one can be joined to.
type openFlow struct {
	batch      uint32 // of another batch: empty
	head, last *Frame
	ack        bool   // a pure acknowledgement, which nothing is joined to
	size       int    // payload bytes of each segment
	total      int    // length of the whole chain as an IP packet
	next       uint32 // TCP: the sequence number that follows
}

// GROResult tells what became of a frame.
type GROResult uint8

const (
	Alone      GROResult = iota // it stays as it is, perhaps with others to be joined to it
	Merged                      // it is part of an earlier frame's chain and must not be sent by itself
	Supersedes                  // it says all that an earlier frame, which Add returns, said
)

// Begin forgets the last batch.
//
//uvswitch:hot
func (c *GRO) Begin() {
	if c.batch++; c.batch == 0 { // it came round: what is old must not look new
		*c = GRO{batch: 1}
	}
}

// Add looks at a frame that is about to be sent alone to one port, in the order of sending. longest is how long an
// IP packet that port takes: 0 for none that was joined.
//
//uvswitch:hot
func (c *GRO) Add(f *Frame, longest int) (GROResult, *Frame) {
	if f.Flags&(HasTuple|Fragment|Cut) != HasTuple || f.Malformed != None || f.Proto != TCP && f.Proto != UDP {
		return Alone, nil
	}
	t := &f.Tuple
	addrs := uint64(t.Src)<<32 | uint64(t.Dst)
	if f.Flags&IsIPv6 != 0 {
		src, dst := f.IPv6().Src(), f.IPv6().Dst()
		addrs = Mix(src.Hi^groSeed, src.Lo^groSeed) + Mix(dst.Hi^groSeed, dst.Lo^^groSeed)
	}
	o := &c.flows[Mix(addrs^groSeed, uint64(t.Proto)<<32|uint64(t.SrcPort)<<16|uint64(t.DstPort))%coalesceSlots]
	known := o.batch == c.batch && o.head.Tuple == *t && o.head.Out == f.Out && sameAddrs6(o.head, f)
	if known && longest > 0 && o.head.Net == f.Net {
		if o.ack {
			if old := o.head; supersedes(f, old) {
				o.head = f
				return Supersedes, old
			}
		} else if o.join(f, longest) {
			return Merged, nil
		}
	}
	if known || o.batch != c.batch {
		o.batch = 0 // what comes later must not overtake f
	}
	if longest > 0 {
		o.open(f, c.batch)
	}
	return Alone, nil
}

// sameAddrs6 reports whether two frames have the same addresses of IPv6, or neither has any.
//
//uvswitch:hot
func sameAddrs6(f, g *Frame) bool {
	if (f.Flags|g.Flags)&IsIPv6 == 0 {
		return true
	}
	const at = 8
	return f.Flags&g.Flags&IsIPv6 != 0 && bytes.Equal(f.IPv6()[at:IPv6Len], g.IPv6()[at:IPv6Len])
}

// open makes f what a next frame can be joined to, if it can be.
//
//uvswitch:hot
func (o *openFlow) open(f *Frame, batch uint32) {
	n := openFlow{batch: batch, head: f, last: f, total: int(f.L3End) - int(f.L3)}
	switch payload := plainPayload(f); {
	case f.Proto == TCP && payload == 0 && isPureAck(f):
		n.ack = true
	case payload == 0 || !joins(f):
		return
	default:
		n.size = payload
		if f.Vnet().GSOType() != GSONone {
			n.size = int(f.Vnet().GSOSize())
		}
		if payload%n.size != 0 { // its last segment is short: nothing follows that
			return
		}
		if f.Proto == TCP {
			n.next = f.TCP().Seq() + uint32(payload)
		}
	}
	*o = n
}

// plainPayload is the length of what TCP or UDP carries.
//
//uvswitch:hot
func plainPayload(f *Frame) int { return len(f.Payload()) - l4HeaderLen(f) }

//uvswitch:hot
func l4HeaderLen(f *Frame) int {
	if f.Proto == UDP {
		return UDPLen
	}
	return f.TCP().HeaderLen()
}

// ipHeaderLen is the length of the IP header of a packet without options and extension headers.
//
//uvswitch:hot
func ipHeaderLen(f *Frame) int {
	if f.Flags&IsIPv6 != 0 {
		return IPv6Len
	}
	return IPv4Len
}

// joins tells whether f may be part of a chain at all: an ordinary segment or datagram, and nothing in the frame but
// the packet.
//
//uvswitch:hot
func joins(f *Frame) bool {
	h, l4 := f.Vnet(), f.Payload()
	if h.NeedsCsum() && (h.CsumStart() != f.L4 || h.CsumOffset() != ChecksumOffset(f.Proto)) || f.L3 != EthernetLen || int(f.L4) != EthernetLen+ipHeaderLen(f) || int(f.L3End) != f.Len() {
		return false
	}
	if f.Proto == UDP {
		return (h[1] == GSONone || h[1] == GSOUDPL4) && int(f.UDP().Length()) == len(l4)
	}
	return (h[1] == GSONone || h[1] == gsoTCP(f)) && f.TCP().Flags()&^FlagPSH == FlagACK
}

//uvswitch:hot
func gsoTCP(f *Frame) uint8 {
	if f.Flags&IsIPv6 != 0 {
		return GSOTCPv6
	}
	return GSOTCPv4
}

// join appends f to the chain if it continues it.
//
//uvswitch:hot
func (o *openFlow) join(f *Frame, longest int) bool {
	payload := plainPayload(f)
	if o.size == 0 || payload <= 0 || o.total+payload > longest || !joins(f) {
		return false
	}
	if f.Proto == TCP && o.size < minSegment || f.Proto == UDP && o.total+payload-ipHeaderLen(f)-UDPLen > joinedDatagrams*o.size {
		return false
	}
	head := o.head
	if gso := f.Vnet().GSOSize(); f.Vnet()[1] != GSONone && int(gso) != o.size || f.Vnet()[1] == GSONone && payload > o.size {
		return false
	}
	if !alike(head, f) || f.Flags&IsIPv4 != 0 && (head.IPv4()[6]^f.IPv4()[6])&0x40 != 0 { // don't fragment
		return false
	}
	if f.Proto == TCP && !o.follows(f) {
		return false
	}
	if !head.Vnet().NeedsCsum() && !head.Summed() || !f.Vnet().NeedsCsum() && !f.Summed() {
		return false // what is damaged stays so, for its receiver to see
	}
	o.append(f, payload)
	return true
}

// alike tells whether two frames of a flow have the same stations, type of service (and flow label) and time to live.
//
//uvswitch:hot
func alike(f, g *Frame) bool {
	if f.Dst != g.Dst || f.Src != g.Src {
		return false
	}
	if f.Flags&IsIPv6 != 0 {
		a, b := f.IPv6(), g.IPv6()
		return binary.BigEndian.Uint32(a) == binary.BigEndian.Uint32(b) && a.HopLimit() == b.HopLimit()
	}
	a, b := f.IPv4(), g.IPv4()
	return a[1] == b[1] && a.TTL() == b.TTL()
}

// Summed tells whether complete checksums are there and right: the transport's and IPv4's header's.
//
//uvswitch:hot
func (f *Frame) Summed() bool {
	l4 := f.Payload()
	if f.Proto == UDP && f.UDP().Checksum() == 0 {
		return false
	}
	if f.Flags&IsIPv6 != 0 {
		return Sum(l4, f.IPv6().PseudoSum(f.Proto, len(l4))) == 0xffff
	}
	return Sum(f.IPv4()[:f.IPv4().HeaderLen()], 0) == 0xffff && Sum(l4, PseudoSum(f.Tuple.Src, f.Tuple.Dst, f.Proto, len(l4))) == 0xffff
}

// follows tells whether the TCP segment f is the chain's next: in sequence, and alike in everything but PSH.
//
//uvswitch:hot
func (o *openFlow) follows(f *Frame) bool {
	a, b := o.head.TCP(), f.TCP()
	return b.Seq() == o.next && a.Ack() == b.Ack() && a[tcpOffset] == b[tcpOffset] && a.Window() == b.Window() &&
		bytes.Equal(a.Options(), b.Options())
}

// append makes f the chain's last, and the head's headers say so.
//
//uvswitch:hot
func (o *openFlow) append(f *Frame, payload int) {
	head := o.head
	f.payloadOff = uint16(VnetLen + int(f.L4) + l4HeaderLen(f))
	o.last.nextSegment = f
	o.last = f
	old := o.total
	o.total += payload
	l4 := head.Payload()
	e := binary.BigEndian
	was, is := uint16(old), uint16(o.total)
	pseudo := uint16(0)
	if head.Flags&IsIPv6 != 0 {
		ip := head.IPv6()
		e.PutUint16(ip[4:], is-IPv6Len)
		pseudo = ip.PseudoSum(head.Proto, len(l4))
	} else {
		ip := head.IPv4()
		e.PutUint16(ip[2:], is)
		e.PutUint16(ip[10:], Delta16(was, is).Complete(e.Uint16(ip[10:])))
		pseudo = PseudoSum(head.Tuple.Src, head.Tuple.Dst, head.Proto, len(l4))
	}
	gso, field := gsoTCP(head), l4[ChecksumOffset(head.Proto):]
	h := head.Vnet()
	if !h.NeedsCsum() {
		h.Set(h[0]|VnetNeedsCsum, GSONone, 0, 0, head.L4, ChecksumOffset(head.Proto))
		e.PutUint16(field, pseudo)
	}
	if head.Proto == UDP {
		gso = GSOUDPL4
		head.UDP().SetLength(uint16(o.total - ipHeaderLen(head)))
	} else {
		head.TCP().AddFlags(f.TCP().Flags() & FlagPSH)
		o.next += uint32(payload)
	}
	e.PutUint16(field, Delta16(was, is).Partial(e.Uint16(field))) // the pseudo-header has the length
	h.Set(h[0], gso, head.L4+uint16(l4HeaderLen(head)), uint16(o.size), h.CsumStart(), h.CsumOffset())
	if payload%o.size != 0 {
		o.size = 0 // a short segment is the last
	}
}

// isPureAck tells an acknowledgement with neither data nor anything else to say: no flag but ACK, and no option but
// a time stamp. Selective acknowledgements are left alone.
//
//uvswitch:hot
func isPureAck(f *Frame) bool {
	h := f.TCP()
	if h.Flags() != FlagACK || f.Vnet().GSOType() != GSONone {
		return false
	}
	switch options := h.Options(); len(options) {
	case 0:
		return true
	case 12: // NOP, NOP, time stamp (RFC 7323, appendix A)
		return binary.BigEndian.Uint32(options) == 0x0101080a
	}
	return false
}

// supersedes tells whether the pure acknowledgement f says all that old said: it acknowledges more, and is alike in
// all else. One that acknowledges the same counts as a duplicate (RFC 5681, 2) and is left alone.
//
//uvswitch:hot
func supersedes(f, old *Frame) bool {
	if plainPayload(f) != 0 || !isPureAck(f) || !f.Vnet().NeedsCsum() && !f.Summed() {
		return false
	}
	a, b := old.TCP(), f.TCP()
	return f.L3 == EthernetLen && old.L3 == EthernetLen && alike(old, f) &&
		a.Seq() == b.Seq() && int32(b.Ack()-a.Ack()) > 0 && a[tcpOffset] == b[tcpOffset]
}
