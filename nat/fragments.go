package nat

import (
	"sync"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// fragments stores the ports of fragmented packets, which only the first fragment has, so that later fragments can be
// translated. Packets are not reassembled (virtual reassembly). Fragments that arrive before the first one wait in
// the slow path.
//
// Fragments are rare, and only fragments take the lock.
type fragments struct {
	mu      sync.Mutex // Lock 75
	seen    map[FragmentKey]*datagram
	shares  share.Pool    // of datagrams from ports, but for the uplink
	outside int           // number of datagrams from the uplink
	pending atomic.Bool   // arrived is not empty
	arrived []FragmentKey // packets whose first fragment has come since TakeArrived; at most maxArrived, and then some are missing
}

// A FragmentKey says which fragments are of one packet (RFC 791, 3.2; RFC 8200, 4.5).
type FragmentKey struct {
	src, dst frame.Addr6 // of IPv4 with Hi 0
	id       uint32
	proto    uint8 // of IPv6 0: the fragments of one packet may differ in it
	net      frame.NetID
}

// datagram is one fragmented packet.
type datagram struct {
	srcPort, dstPort uint16
	proto            uint8
	hosts            bool // it was given back to the host
	bad              bool // two fragments overlapped: drop the rest (RFC 5722, section 4, by analogy)
	in               frame.PortID
	outside          bool
	expires          frame.Tick
	total            int      // payload length in bytes, once the last fragment has come; else 0
	spans            [32]span // a datagram of 64 KiB in packets of 1280 bytes has 53 fragments: any order of them fits
	n                int      // number of spans in use
}

// span is a range of payload bytes, lo to hi-1, that has passed.
type span struct{ lo, hi int32 }

// Bounds of virtual reassembly.
const (
	fragmentTime     = 30 * frame.TicksPerSecond // as linux net.ipv4.ipfrag_time
	fragmentTime6    = 60 * frame.TicksPerSecond // RFC 8200, 4.5
	maxDatagrams     = 4096                      // from the uplink, and likewise from all other ports together: see share.Pool
	datagramsPerPort = 512
	maxArrived       = 256
)

// FragmentKeyOf returns the key of a parsed fragment, with Net set.
func FragmentKeyOf(f *frame.Frame) FragmentKey {
	if f.Flags&frame.IsIPv6 != 0 {
		return FragmentKey{src: f.IPv6().Src(), dst: f.IPv6().Dst(), id: f.FragID(), net: f.Net}
	}
	return FragmentKey{frame.Addr6{Lo: uint64(f.Tuple.Src)}, frame.Addr6{Lo: uint64(f.Tuple.Dst)}, f.FragID(), f.Proto, f.Net}
}

// translateFragment adds the ports to the tuple of a fragment, or returns the reason why it may not pass.
// FragmentWaits: the first fragment has not come. With note, translateFragment stores the ports of a first fragment.
func (n *tracker[A]) translateFragment(f packet[A], b *frame.Batch, note bool) frame.Reason {
	r := n.frags
	lo := f.FragOffset()
	hi := lo + f.FragLen()
	if lo == 8 && f.Proto == frame.TCP || hi > 65535 || lo == hi || f.MoreFrags() && hi%8 != 0 {
		return frame.FragmentInvalid // RFC 1858, section 4; or longer than a packet can be
	}
	if lo == 0 && (!note || b.Dry) {
		return frame.None
	}
	key := FragmentKeyOf(f.Frame)
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.seen[key]
	if d != nil && int32(b.Tick-d.expires) >= 0 {
		if !b.Dry {
			r.forget(key, d)
		}
		d = nil
	}
	switch {
	case d == nil && lo != 0:
		return frame.FragmentWaits
	case d != nil && lo == 0:
		if d.hosts || d.srcPort == f.tuple.SrcPort && d.dstPort == f.tuple.DstPort && d.proto == f.Proto {
			return frame.None
		}
		d.bad = d.bad || !b.Dry // two first fragments: nobody knows which one its receiver takes
		return frame.FragmentInvalid
	case d == nil:
		d = &datagram{srcPort: f.tuple.SrcPort, dstPort: f.tuple.DstPort, proto: f.Proto, in: f.In % frame.MaxPorts, outside: f.Net == frame.NoNet, expires: b.Tick + waits(f.Frame)}
		added, displaced := r.add(key, d)
		if !added {
			return frame.FragmentQueueFull
		}
		if displaced && !d.outside { // another one of this port had to go
			f.Flags |= frame.Displaces
		}
		return frame.None
	}
	if d.hosts {
		return frame.NotForUs
	}
	f.Proto = d.proto
	f.Tuple.SrcPort, f.Tuple.DstPort, f.Tuple.Proto = d.srcPort, d.dstPort, d.proto
	f.tuple.SrcPort, f.tuple.DstPort, f.tuple.Proto = d.srcPort, d.dstPort, d.proto
	f.Flags |= frame.HasTuple
	return frame.None
}

// waits is how long later fragments of f's packet may come after it.
//
//uvswitch:hot
func waits(f *frame.Frame) frame.Tick {
	if f.Flags&frame.IsIPv6 != 0 {
		return fragmentTime6
	}
	return fragmentTime
}

// noteHosts records that the first fragment of a packet is given back to the host: its later fragments follow.
func (n *tracker[A]) noteHosts(f packet[A]) {
	r := n.frags
	r.mu.Lock()
	defer r.mu.Unlock()
	if key := FragmentKeyOf(f.Frame); r.seen[key] == nil {
		d := &datagram{in: f.In % frame.MaxPorts, outside: true, hosts: true, expires: frame.Tick(n.now.Load()) + waits(f.Frame)}
		r.add(key, d) // without room, its later fragments time out
	}
}

// add adds datagram d if there is room, or if another one can go for it (displaced).
func (r *fragments) add(key FragmentKey, d *datagram) (added, displaced bool) {
	if !r.take(d) {
		if displaced = r.evict(d) && r.take(d); !displaced {
			return false, false
		}
	}
	r.seen[key] = d
	if len(r.arrived) < maxArrived {
		r.arrived = append(r.arrived, key)
	}
	r.pending.Store(true)
	return true, displaced
}

// forgetFragment forgets the packet of a first fragment that will be translated again. Meanwhile its later fragments wait.
func (n *tracker[A]) forgetFragment(f packet[A]) {
	r := n.frags
	r.mu.Lock()
	defer r.mu.Unlock()
	if key := FragmentKeyOf(f.Frame); r.seen[key] != nil {
		r.forget(key, r.seen[key])
	}
}

// recallFragment un-records a later fragment that came back: it leaves again, in pieces. first is the tuple of its first fragment, for a packet
// that was complete and is not known any more.
func (n *tracker[A]) recallFragment(f packet[A], first *frame.TupleOf[A]) {
	r := n.frags
	key := FragmentKeyOf(f.Frame)
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.seen[key]; d != nil {
		d.remove(f.FragOffset(), f.FragOffset()+f.FragLen())
		return
	}
	r.add(key, &datagram{srcPort: first.SrcPort, dstPort: first.DstPort, proto: first.Proto, in: f.In % frame.MaxPorts, expires: frame.Tick(n.now.Load()) + waits(f.Frame)})
}

// take charges d to the uplink or to its port, and reports whether there is room.
func (r *fragments) take(d *datagram) bool {
	if !d.outside {
		return r.shares.Take(d.in)
	}
	if r.outside >= maxDatagrams {
		return false
	}
	r.outside++
	return true
}

// evict forgets another datagram of the uplink, or of the same port, chosen at random. So a flood of first fragments harms its own side only,
// and there mostly packets whose fragments arrive far apart.
func (r *fragments) evict(d *datagram) bool {
	if !d.outside && r.shares.Held(d.in) == 0 {
		return false
	}
	for k, old := range r.seen { // in random order
		if old.outside == d.outside && (d.outside || old.in == d.in) {
			r.forget(k, old)
			return true
		}
	}
	return false
}

// recordFragment records that a fragment is about to leave, or returns the reason why it may not.
func (n *tracker[A]) recordFragment(f packet[A], dry bool) frame.Reason {
	r := n.frags
	key, lo := FragmentKeyOf(f.Frame), f.FragOffset()
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.seen[key]
	switch {
	case d == nil:
		return frame.None // the packet has just become complete, so this fragment repeats a part of it
	case d.bad:
		return frame.FragmentInvalid
	case dry:
		copied := *d
		return copied.add(lo, lo+f.FragLen(), !f.MoreFrags())
	}
	if why := d.add(lo, lo+f.FragLen(), !f.MoreFrags()); why != frame.None {
		return why
	}
	if d.n == 1 && d.spans[0] == (span{0, int32(d.total)}) {
		r.forget(key, d) // complete: its ID may be used again
	}
	return frame.None
}

// add records that the bytes begin to end-1 have passed; last says that the packet ends at end.
func (d *datagram) add(begin, end int, last bool) frame.Reason {
	if last && d.total == 0 {
		d.total = end
	}
	if d.total != 0 && end > d.total || last && end != d.total {
		d.bad = true
		return frame.FragmentInvalid
	}
	lo, hi, at := int32(begin), int32(end), 0
	for at < d.n && d.spans[at].hi < lo {
		at++
	}
	if at < d.n && d.spans[at].lo <= lo && hi <= d.spans[at].hi {
		return frame.FragmentInvalid // only the duplicate is dropped, not its packet
	}
	for _, s := range d.spans[:d.n] {
		if lo < s.hi && s.lo < hi {
			d.bad = true
			return frame.FragmentInvalid
		}
	}
	switch { // the new span touches the one before, the one after, both, or none
	case at < d.n && d.spans[at].hi == lo:
		d.spans[at].hi = hi
		if at+1 < d.n && d.spans[at+1].lo == hi {
			d.spans[at].hi = d.spans[at+1].hi
			copy(d.spans[at+1:], d.spans[at+2:d.n])
			d.n--
		}
	case at < d.n && d.spans[at].lo == hi:
		d.spans[at].lo = lo
	case d.n == len(d.spans):
		d.bad = true
		return frame.FragmentInvalid
	default:
		copy(d.spans[at+1:d.n+1], d.spans[at:d.n])
		d.spans[at] = span{lo, hi}
		d.n++
	}
	return frame.None
}

// remove takes back that the bytes begin to end-1 have passed.
func (d *datagram) remove(begin, end int) {
	lo, hi := int32(begin), int32(end)
	var kept [2 * len(d.spans)]span
	n := 0
	for _, s := range d.spans[:d.n] {
		for _, part := range [2]span{{s.lo, min(s.hi, lo)}, {max(s.lo, hi), s.hi}} {
			if part.lo < part.hi {
				kept[n] = part
				n++
			}
		}
	}
	if n > len(d.spans) {
		d.bad = true
		return
	}
	d.n = copy(d.spans[:], kept[:n])
}

func (r *fragments) forget(key FragmentKey, d *datagram) {
	delete(r.seen, key)
	if d.outside {
		r.outside--
	} else {
		r.shares.Return(d.in)
	}
}

// FragmentsArrived reports whether a first fragment has come since TakeArrived.
//
//uvswitch:hot
func (n *NAT) FragmentsArrived() bool { return n.frags.pending.Load() }

// TakeArrived returns the packets whose first fragment has come since the last call, appended to buf. all says that there were more: each
// packet whose fragments wait may be one.
func (n *NAT) TakeArrived(buf []FragmentKey) (keys []FragmentKey, all bool) {
	r := n.frags
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending.Store(false)
	keys, all = append(buf, r.arrived...), len(r.arrived) == maxArrived
	r.arrived = r.arrived[:0]
	return keys, all
}

// HasFirstFragment reports whether the first fragment of a packet has come.
func (n *NAT) HasFirstFragment(key FragmentKey) bool {
	n.frags.mu.Lock()
	defer n.frags.mu.Unlock()
	return n.frags.seen[key] != nil
}

// AgeFragments removes packets whose remaining fragments have not come in time. The slow path calls it.
func (n *NAT) AgeFragments(now frame.Tick) {
	r := n.frags
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, d := range r.seen {
		if int32(now-d.expires) >= 0 {
			r.forget(key, d)
		}
	}
}
