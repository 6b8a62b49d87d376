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
// Only IPv4 frames are joined, with a partial checksum (VIRTIO_NET_HDR_F_NEEDS_CSUM: nobody between two stacks on one host
// has summed anything yet) or a complete one that is right: the super-frame's is partial.
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
	total      int    // IPv4 length of the whole chain
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
// IPv4 packet that port takes: 0 for none that was joined.
//
//uvswitch:hot
func (c *GRO) Add(f *Frame, longest int) (GROResult, *Frame) {
	if f.Flags&(IsIPv4|HasTuple|Fragment|Cut) != IsIPv4|HasTuple || f.Malformed != None || f.Proto != TCP && f.Proto != UDP {
		return Alone, nil
	}
	t := &f.Tuple
	o := &c.flows[Mix(uint64(t.Src)<<32|uint64(t.Dst)^groSeed, uint64(t.Proto)<<32|uint64(t.SrcPort)<<16|uint64(t.DstPort))%coalesceSlots]
	known := o.batch == c.batch && o.head.Tuple == *t && o.head.Out == f.Out
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

// joins tells whether f may be part of a chain at all: an ordinary segment or datagram, and nothing in the frame but
// the packet.
//
//uvswitch:hot
func joins(f *Frame) bool {
	h, l4 := f.Vnet(), f.Payload()
	if h.NeedsCsum() && (h.CsumStart() != f.L4 || h.CsumOffset() != ChecksumOffset(f.Proto)) || f.L3 != EthernetLen || f.L4 != EthernetLen+IPv4Len || int(f.L3End) != f.Len() {
		return false
	}
	if f.Proto == UDP {
		return (h[1] == GSONone || h[1] == GSOUDPL4) && int(f.UDP().Length()) == len(l4)
	}
	return (h[1] == GSONone || h[1] == GSOTCPv4) && f.TCP().Flags()&^FlagPSH == FlagACK
}

// join appends f to the chain if it continues it.
//
//uvswitch:hot
func (o *openFlow) join(f *Frame, longest int) bool {
	payload := plainPayload(f)
	if o.size == 0 || payload <= 0 || o.total+payload > longest || !joins(f) {
		return false
	}
	if f.Proto == TCP && o.size < minSegment || f.Proto == UDP && o.total+payload-IPv4Len-UDPLen > maxDatagrams*o.size {
		return false
	}
	head := o.head
	if gso := f.Vnet().GSOSize(); f.Vnet()[1] != GSONone && int(gso) != o.size || f.Vnet()[1] == GSONone && payload > o.size {
		return false
	}
	a, b := head.raw[VnetLen:], f.raw[VnetLen:]
	const ip = EthernetLen
	if head.Dst != f.Dst || head.Src != f.Src || a[ip+1] != b[ip+1] || a[ip+8] != b[ip+8] || (a[ip+6]^b[ip+6])&0x40 != 0 {
		return false // type of service, time to live, don't fragment
	}
	if f.Proto == TCP && !o.follows(f) {
		return false
	}
	if !head.Vnet().NeedsCsum() && !summed(head) || !f.Vnet().NeedsCsum() && !summed(f) {
		return false // what is damaged stays so, for its receiver to see
	}
	o.append(f, payload)
	return true
}

// summed tells whether complete checksums are there and right: the transport's and the IP header's.
//
//uvswitch:hot
func summed(f *Frame) bool {
	l4 := f.Payload()
	if f.Proto == UDP && f.UDP().Checksum() == 0 {
		return false
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
	ip, l4 := head.IPv4(), head.Payload()
	e := binary.BigEndian
	was, is := uint16(old), uint16(o.total)
	e.PutUint16(ip[2:], is)
	e.PutUint16(ip[10:], Delta16(was, is).Complete(e.Uint16(ip[10:])))
	gso, field := uint8(GSOTCPv4), l4[ChecksumOffset(head.Proto):]
	h := head.Vnet()
	if !h.NeedsCsum() {
		h.Set(h[0]|VnetNeedsCsum, GSONone, 0, 0, head.L4, ChecksumOffset(head.Proto))
		e.PutUint16(field, PseudoSum(head.Tuple.Src, head.Tuple.Dst, head.Proto, len(l4)))
	}
	if head.Proto == UDP {
		gso = GSOUDPL4
		head.UDP().SetLength(uint16(o.total - IPv4Len))
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
	if plainPayload(f) != 0 || !isPureAck(f) || !f.Vnet().NeedsCsum() && !summed(f) {
		return false
	}
	a, b := old.TCP(), f.TCP()
	if f.L3 != EthernetLen || old.L3 != EthernetLen || f.Dst != old.Dst || f.Src != old.Src || f.IPv4().TTL() != old.IPv4().TTL() {
		return false
	}
	return a.Seq() == b.Seq() && int32(b.Ack()-a.Ack()) > 0 && a[tcpOffset] == b[tcpOffset] &&
		old.IPv4()[1] == f.IPv4()[1]
}
