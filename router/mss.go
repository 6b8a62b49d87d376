package router

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// clampMSS lowers the MSS option of a SYN to what fits mtu and the known path MTU. Then no segment is too long, even
// where "fragmentation needed" is lost. Other options are not changed.
//
//uvswitch:hot
func (s *snapshot) clampMSS(f *frame.Frame, mtu int, byUplink bool) {
	h, ok := syn(f)
	if !ok {
		return
	}
	near, far := f.Tuple.Src, f.RouteDst
	if f.Net == frame.NoNet {
		near, far = far, near
	}
	mtu = min(mtu, s.pmtu.mtu(hintFor(hint(near), hint(far))))
	if byUplink {
		mtu = min(mtu, s.wayMTU(far), s.ways.mtu(hint(far)), s.hostRouteMTU(far))
	}
	limitMSS(f, h, uint16(max(mtu, minWayMTU)-frame.IPv4Len-frame.TCPLen))
}

// syn returns the header of a TCP segment, and whether it is a SYN: only these have an MSS option.
//
//uvswitch:hot
func syn(f *frame.Frame) (h frame.TCPHeader, ok bool) {
	if f.Flags&frame.HasTuple == 0 || f.FragOffset() != 0 {
		return nil, false
	}
	h = f.TCP()
	return h, h.Flags()&frame.FlagSYN != 0
}

// limitMSS lowers the MSS option of a SYN to limit.
//
//uvswitch:hot
func limitMSS(f *frame.Frame, h frame.TCPHeader, limit uint16) {
	for at, end := frame.TCPLen, h.HeaderLen(); ; {
		kind, n := frame.NextOption(h[at:end])
		if n <= 0 {
			return
		}
		if kind == frame.OptMSS && n == 4 {
			setMSS(f, h, at+2, limit)
			return
		}
		at += n
	}
}

//uvswitch:hot
func setMSS(f *frame.Frame, h frame.TCPHeader, at int, limit uint16) {
	old := binary.BigEndian.Uint16(h[at:])
	if old <= limit {
		return
	}
	binary.BigEndian.PutUint16(h[at:], limit)
	if f.PartialSum() {
		return // the checksum is computed later, over the new value
	}
	d := frame.Delta16(old, limit)
	if at&1 != 0 { // the value is not 16-bit aligned: its bytes count in swapped places
		d = d<<8 | d>>8
	}
	h.SetChecksum(d.Complete(h.Checksum()))
}

// pmtuCache stores what "fragmentation needed" and "packet too big" have said about remote addresses, for ten minutes (RFC 1191, 6.3). A
// key has only one slot, and a newer key overwrites it: the cache is a hint.
type pmtuCache [1024]struct {
	addr  atomic.Uint32
	value atomic.Uint32 // MTU in bytes <<16 | the minute when it was learned; 0 for none
}

const pathMTUMinutes = 10

//uvswitch:hot
func (p *pmtuCache) slot(a uint32) int { return int(a * 0x9e3779b1 >> 22) }

// hint is the key of an address in a pmtuCache: IPv4's address, or a hash of IPv6's.
//
//uvswitch:hot
func hint[A frame.Address](a A) uint32 {
	switch a := any(a).(type) {
	case frame.Addr:
		return uint32(a)
	case frame.Addr6:
		return uint32(frame.Mix(a.Hi^hintSeed, a.Lo^hintSeed)) | 1
	}
	return 0
}

// hintFor is the key of what a station knows of a remote address, by the hints of both: errors about its packets change nothing for other stations.
//
//uvswitch:hot
func hintFor(station, remote uint32) uint32 {
	return uint32(frame.Mix(uint64(remote)^hintSeed, uint64(station)^hintSeed>>7)) | 1
}

var hintSeed = rand.Uint64()

// mtu returns the known path MTU to address a in bytes, or 65535.
//
//uvswitch:hot
func (p *pmtuCache) mtu(a uint32) int {
	s := &p[p.slot(a)]
	v := s.value.Load()
	if s.addr.Load() != a || v == 0 {
		return 65535
	}
	return int(v >> 16)
}

// update stores the MTU of an ICMP error from outside to a station, by the hint of the station's address. nat.PreRouting has checked that the error is
// about a flow of the station.
//
//uvswitch:hot
func (p *pmtuCache) update(f *frame.Frame, station uint32, now frame.Tick) {
	icmp := f.ICMP()
	if f.Net != frame.NoNet {
		return
	}
	if f.Proto == frame.ICMPv6 {
		if q, _, ok := frame.Quoted6(icmp); ok && icmp.Type() == frame.ICMPv6TooBig {
			p.noteIfLower(hintFor(station, hint(q.Dst)), int(icmp.MTU6()), now)
		}
		return
	}
	if icmp.Type() != frame.ICMPUnreachable || icmp.Code() != frame.CodeFragNeeded {
		return
	}
	q, _, ok := frame.Quoted(icmp)
	if !ok {
		return
	}
	p.noteIfLower(hintFor(station, hint(q.Dst)), int(max(icmp.NextMTU(), frame.MinPathMTU)), now)
}

// noteIfLower is note for what an error says: no error raises a path's MTU (RFC 1191, 3; RFC 8201, 4).
//
//uvswitch:hot
func (p *pmtuCache) noteIfLower(a uint32, mtu int, now frame.Tick) {
	if mtu <= p.mtu(a) {
		p.note(a, mtu, now)
	}
}

// note stores the MTU of the way to an address, in bytes.
//
//uvswitch:hot
func (p *pmtuCache) note(a uint32, mtu int, now frame.Tick) {
	s := &p[p.slot(a)]
	s.value.Store(0)
	s.addr.Store(a)
	s.value.Store(uint32(mtu)<<16 | minute(now))
}

//uvswitch:hot
func minute(now frame.Tick) uint32 { return uint32(now/(60*frame.TicksPerSecond)) & 0xffff }

// clear forgets all addresses.
func (p *pmtuCache) clear() {
	for i := range p {
		p[i].value.Store(0)
	}
}

// age removes entries that are ten minutes old.
func (p *pmtuCache) age(now frame.Tick) {
	for i := range p {
		if v := p[i].value.Load(); v != 0 && (minute(now)-v)&0xffff >= pathMTUMinutes {
			p[i].value.CompareAndSwap(v, 0)
		}
	}
}
