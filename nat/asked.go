package nat

import (
	"encoding/binary"
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An AskedPacket is a packet that has asked the host's routing for its way (see setWay).
type AskedPacket struct {
	Inside frame.Tuple // as its sender sent it
	Sender frame.MAC
	In     frame.PortID
	Net    frame.NetID
	At     frame.Tick
	Quote  [frame.IPv4Len + 8]byte // what an ICMP error quotes: an IPv4 header without options, and 8 bytes
}

// askedPackets are the last packets that have asked. When their next hop turns out to be dead, their senders are told: the kernel tells
// nobody, since it only sees packets of the uplink's TAP.
type askedPackets struct {
	mu   sync.Mutex // Lock 79: workers do not wait for it; a packet that meets another one is not noted
	next int
	last [1024]AskedPacket
}

// note remembers a frame that has been translated; inside is its tuple from before.
func (a *askedPackets) note(f *frame.Frame, inside *frame.Tuple, now frame.Tick) {
	if len(f.Payload()) < 8 || f.FragOffset() != 0 || !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	p := &a.last[a.next%len(a.last)]
	a.next++
	p.Inside, p.Sender, p.In, p.Net, p.At = *inside, f.Src, f.In, f.Net, now
	copy(p.Quote[:], f.IPv4()[:frame.IPv4Len])
	copy(p.Quote[frame.IPv4Len:], f.Payload()[:8])
}

// AskedSince returns the packets that have asked since a time, the oldest first.
func (n *NAT) AskedSince(since frame.Tick) (packets []AskedPacket) {
	a := &n.asked
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.last {
		if p := &a.last[(a.next+i)%len(a.last)]; p.At != 0 && int32(p.At-since) >= 0 {
			packets = append(packets, p.asSent())
		}
	}
	return packets
}

// asSent is p with its quote as its sender sent it, rather than translated.
func (p AskedPacket) asSent() AskedPacket {
	ip, l4 := frame.IPv4(p.Quote[:frame.IPv4Len]), p.Quote[frame.IPv4Len:]
	ip[0] = 4<<4 | frame.IPv4Len/4
	ip.IncrementTTL()
	ip.SetAddrs(p.Inside.Src, p.Inside.Dst, 0)
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip, 0))
	switch {
	case p.Inside.Proto == frame.ICMP:
		setICMPID(l4, &p.Inside)
	case frame.HasPorts(p.Inside.Proto):
		frame.PortsHeader(l4).SetPorts(p.Inside.SrcPort, p.Inside.DstPort)
	}
	return p
}
