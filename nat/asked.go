package nat

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An AskedPacket is a packet with which a flow began to use a way of the host (see setWay).
type AskedPacket struct {
	Inside frame.Endpoints // as its sender sent it
	Sender frame.MAC
	In     frame.PortID
	Net    frame.NetID
	At     frame.Tick
	Quote  []byte // what an ICMP error quotes: an IP header without options, and 8 bytes
}

// Class is the packet's type of service or traffic class.
func (p *AskedPacket) Class() uint8 {
	if p.Inside.Src.Is6() {
		return frame.IPv6(p.Quote).TrafficClass()
	}
	return p.Quote[1]
}

// askedPackets are the last packets that have asked. When their next hop turns out to be dead, their senders are told: the kernel tells
// nobody, since it only sees packets of the uplink's TAP.
type askedPackets[A frame.Address] struct {
	mu   sync.Mutex // Lock 79: workers do not wait for it; a packet that meets another one is not noted
	next int
	last [1024]askedPacket[A]
}

type askedPacket[A frame.Address] struct {
	inside frame.TupleOf[A]
	sender frame.MAC
	in     frame.PortID
	net    frame.NetID
	at     frame.Tick
	quote  [frame.IPv6Len + 8]byte
}

// note remembers a frame that has been translated; inside is its tuple from before.
func (a *askedPackets[A]) note(f packet[A], inside *frame.TupleOf[A], now frame.Tick) {
	if len(f.Payload()) < 8 || f.FragOffset() != 0 || !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	p := &a.last[a.next%len(a.last)]
	a.next++
	p.inside, p.sender, p.in, p.net, p.at = *inside, f.Src, f.In, f.Net, now
	head := f.Bytes()[f.L3:][:headerLen[A]()]
	copy(p.quote[copy(p.quote[:], head):], f.Payload()[:8])
}

// AskedSince returns the packets that have asked since a time, the oldest first of each family.
func (n *NAT) AskedSince(since frame.Tick) []AskedPacket {
	return slices.Concat(n.asked.since(since), n.six.asked.since(since))
}

func (a *askedPackets[A]) since(since frame.Tick) (packets []AskedPacket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.last {
		if p := &a.last[(a.next+i)%len(a.last)]; p.at != 0 && int32(p.at-since) >= 0 {
			packets = append(packets, AskedPacket{Inside: frame.EndpointsOf(p.inside), Sender: p.sender, In: p.in, Net: p.net, At: p.at, Quote: p.asSent()})
		}
	}
	return packets
}

// asSent is the quote as the packet's sender sent it, rather than translated.
func (p *askedPacket[A]) asSent() []byte {
	head := headerLen[A]()
	b := slices.Clone(p.quote[:head+8])
	switch inside := any(&p.inside).(type) {
	case *frame.Tuple:
		ip := frame.IPv4(b)
		ip[0] = 4<<4 | frame.IPv4Len/4
		ip.IncrementTTL()
		ip.SetAddrs(inside.Src, inside.Dst, 0)
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip[:head], 0))
	case *frame.Tuple6:
		ip := frame.IPv6(b)
		ip[6], ip[7] = inside.Proto, ip[7]+1
		ip.SetAddrs(inside.Src, inside.Dst)
	}
	switch l4 := b[head:]; {
	case p.inside.Proto == frame.ICMP || p.inside.Proto == frame.ICMPv6:
		setICMPID(l4, &p.inside)
	case frame.HasPorts(p.inside.Proto):
		frame.PortsHeader(l4).SetPorts(p.inside.SrcPort, p.inside.DstPort)
	}
	return b
}

// headerLen is the length of an IP header without options, in bytes.
func headerLen[A frame.Address]() int {
	var a A
	if _, is4 := any(a).(frame.Addr); is4 {
		return frame.IPv4Len
	}
	return frame.IPv6Len
}
