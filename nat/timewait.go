package nat

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// An end of a TCP connection that has closed first remembers it for a while (TIME_WAIT). It takes a SYN from the same port for a new
// connection only if the SYN is newer than the last segment of the old one: by its time stamp, or without one by its sequence number
// (RFC 6191, section 2; linux net/ipv4/tcp_minisocks.c, tcp_timewait_state_process). So an outside port is better taken again when that is
// the case. Else the SYN is answered for the old connection, and its sender loses a second.

// timeWait is how long the other end remembers a connection. Linux takes a minute.
const timeWait = 60 * frame.TicksPerSecond

// A segmentMark says how new a segment of a connection is.
type segmentMark struct {
	seq   uint32 // the number after its last byte
	stamp uint32 // its time stamp; 0: none
}

// markOf reads the mark of a TCP segment.
func markOf(f *frame.Frame) (m segmentMark) {
	h := f.TCP()
	m.seq = h.Seq() + uint32(len(h)-h.HeaderLen())
	if h.Flags()&(frame.FlagSYN|frame.FlagFIN) != 0 {
		m.seq++
	}
	for list := h.Options(); ; {
		kind, n := frame.NextOption(list)
		if n <= 0 {
			return m
		}
		if kind == frame.OptTimestamp && n == 10 {
			m.stamp = binary.BigEndian.Uint32(list[2:])
		}
		list = list[n:]
	}
}

// A lastFIN is the mark of the last FIN that left by an outside port, and when. Its words may be of two FINs for a moment: it is a hint.
type lastFIN struct{ seq, stamp, at atomic.Uint32 }

// noteFIN remembers a FIN from inside, a frame of flow f.Flow.
func (n *tracker[A]) noteFIN(f packet[A], now frame.Tick) {
	k := &n.flows.keys[f.Flow][1]
	if a := n.addrs.find(k.Dst); a != nil {
		m, x := markOf(f.Frame), &a.fins[k.DstPort]
		x.seq.Store(m.seq)
		x.stamp.Store(m.stamp)
		x.at.Store(uint32(now))
	}
}

// letsGo reports whether the other end of the last connection from port p would take a SYN for a new one.
func (a *hostAddr[A]) letsGo(i int, p uint16, syn segmentMark, now frame.Tick) bool {
	if i != tcp {
		return true
	}
	x := &a.fins[p]
	at := x.at.Load()
	switch stamp := x.stamp.Load(); {
	case at == 0 || now-frame.Tick(at) >= timeWait:
		return true
	case stamp != 0 && syn.stamp != 0:
		return int32(syn.stamp-stamp) > 0
	}
	return int32(syn.seq-x.seq.Load()) > 0
}

// A chooser chooses among ports: the first ones that the other end may not let go are passed over.
type chooser[A frame.Address] struct {
	a     *hostAddr[A]
	i     int
	syn   segmentMark
	now   frame.Tick
	looks int
}

// choosing begins a choice among the ports of address a for flow d.
func (n *tracker[A]) choosing(a *hostAddr[A], i int, d *pendingFlow[A]) *chooser[A] {
	return &chooser[A]{a: a, i: i, syn: d.syn, now: frame.Tick(n.now.Load())}
}

// maxLooks is how many ports are passed over, or tried at random.
const maxLooks = 8

func (p *chooser[A]) takes(port uint16) bool {
	if p.looks >= maxLooks || p.a.letsGo(p.i, port, p.syn, p.now) {
		return true
	}
	p.looks++
	return false
}
