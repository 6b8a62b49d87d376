package router

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// clampMSS lowers the maximum segment size that a SYN offers to what fits mtu, and what is known of the path: then
// no segment is too long, even where "fragmentation needed" is lost. Other options are kept as they are.
//
//uvswitch:hot
func (s *snapshot) clampMSS(f *frame.Frame, mtu int) {
	if f.Flags&frame.HasTuple == 0 || f.IPv4().FragOffset() != 0 {
		return
	}
	l4 := f.Payload()
	if l4[13]&frame.FlagSYN == 0 {
		return
	}
	far := f.RouteDst
	if f.Net == frame.NoNet {
		far = f.Tuple.Src
	}
	limit := uint16(min(mtu, s.pmtu.mtu(far)) - frame.IPv4Len - frame.TCPLen)
	at, end := frame.TCPLen, int(l4[12]>>4)*4
	for at < end && l4[at] != frame.OptEnd {
		if l4[at] == frame.OptNop {
			at++
			continue
		}
		if at+1 >= end || l4[at+1] < 2 || at+int(l4[at+1]) > end {
			return
		}
		if l4[at] == frame.OptMSS && l4[at+1] == 4 {
			setMSS(f, l4, at+2, limit)
			return
		}
		at += int(l4[at+1])
	}
}

//uvswitch:hot
func setMSS(f *frame.Frame, l4 []byte, at int, limit uint16) {
	old := binary.BigEndian.Uint16(l4[at:])
	if old <= limit {
		return
	}
	binary.BigEndian.PutUint16(l4[at:], limit)
	if f.Vnet().NeedsCsum() {
		return // the sum is made later, over what stands there then
	}
	d := frame.Delta16(old, limit)
	if at&1 != 0 { // the words of the sum lie across: each half counts in the other place
		d = d<<8 | d>>8
	}
	binary.BigEndian.PutUint16(l4[16:], d.Complete(binary.BigEndian.Uint16(l4[16:])))
}

// pathMTUs remember what "fragmentation needed" has said of remote addresses, for ten minutes (RFC 1191, 6.3). An address
// has one place, and a newer one takes it: it is a hint.
type pmtuCache [1024]struct {
	addr  atomic.Uint32
	value atomic.Uint32 // MTU<<16 | the minute when it was learned
}

const pathMTUMinutes = 10

//uvswitch:hot
func (p *pmtuCache) slot(a frame.Addr) int { return int(uint32(a) * 0x9e3779b1 >> 22) }

// mtu is what is known of the path to a, or 65535.
//
//uvswitch:hot
func (p *pmtuCache) mtu(a frame.Addr) int {
	s := &p[p.slot(a)]
	v := s.value.Load()
	if s.addr.Load() != uint32(a) || v == 0 {
		return 65535
	}
	return int(v >> 16)
}

// note learns from an ICMP error about a packet of a flow of ours; nat.PreRouting has checked that it is one.
//
//uvswitch:hot
func (p *pmtuCache) update(f *frame.Frame, now frame.Tick) {
	icmp := f.Payload()
	if f.Net != frame.NoNet || icmp[0] != frame.ICMPUnreachable || icmp[1] != frame.CodeFragNeeded {
		return
	}
	q, _, ok := frame.Quoted(icmp)
	if !ok {
		return
	}
	s := &p[p.slot(q.Dst)]
	s.value.Store(0)
	s.addr.Store(uint32(q.Dst))
	s.value.Store(uint32(max(binary.BigEndian.Uint16(icmp[6:]), frame.MinPathMTU))<<16 | minute(now))
}

//uvswitch:hot
func minute(now frame.Tick) uint32 { return uint32(now/(60*frame.TicksPerSecond)) & 0xffff }

// age forgets what is older than ten minutes.
func (p *pmtuCache) age(now frame.Tick) {
	for i := range p {
		if v := p[i].value.Load(); v != 0 && (minute(now)-v)&0xffff >= pathMTUMinutes {
			p[i].value.CompareAndSwap(v, 0)
		}
	}
}
