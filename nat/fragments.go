package nat

import (
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// fragments remember the ports of packets that come in fragments, by their first one, so that the others can be
// translated: virtual reassembly. Nothing is put together. Those that come before the first wait with the housekeeper.
//
// Fragments are rare, and only they take the lock.
type fragments struct {
	mu      sync.Mutex
	seen    map[fragKey]*datagram
	perPort [frame.MaxPorts]uint16 // datagrams by port
	outside int                    // datagrams from the uplink
	pending atomic.Bool            // a first fragment has come, or so: who waits should ask again
}

type fragKey struct {
	src, dst frame.Addr
	id       uint16
	proto    uint8
	net      frame.NetID
}

// datagram is one packet in fragments.
type datagram struct {
	srcPort, dstPort uint16
	bad              bool // two fragments overlapped: the rest goes no further (RFC 5722, section 4, by analogy)
	in               frame.PortID
	outside          bool
	expires          frame.Tick
	total            int // its length without the header, when the last fragment has come; else 0
	spans            [8]span
	n                int // of spans
}

// span is a run of bytes that has passed.
type span struct{ lo, hi int }

// Bounds of virtual reassembly.
const (
	fragmentTime     = 30 * frame.TicksPerSecond // as linux net.ipv4.ipfrag_time
	maxDatagrams     = 4096                      // from the uplink, and from all other ports together
	datagramsPerPort = 512
)

func fragKeyOf(f *frame.Frame) fragKey {
	return fragKey{f.Tuple.Src, f.Tuple.Dst, f.IPv4().ID(), f.Proto, f.Net}
}

// joinFragment completes the tuple of a fragment, or says why it may not go on. FragmentWaits: its first one has not
// come. With note, a first one is noted.
func (n *NAT) translateFragment(f *frame.Frame, b *frame.Batch, note bool) frame.Reason {
	r := &n.frags
	ip := f.IPv4()
	lo := ip.FragOffset()
	hi := lo + len(f.Payload())
	if lo == 8 && f.Proto == frame.TCP || hi > 65535 || lo == hi || ip.MoreFrags() && hi%8 != 0 {
		return frame.FragmentInvalid // RFC 1858, section 4; more than a packet can be
	}
	if lo == 0 && (!note || b.Dry) {
		return frame.None
	}
	key := fragKeyOf(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.seen[key]
	if d != nil && int32(b.Tick-d.expires) >= 0 {
		if !b.Dry {
			r.forget(key, d)
		}
		d = nil
	}
	if d == nil && lo != 0 {
		return frame.FragmentWaits
	}
	if d == nil {
		d = &datagram{srcPort: f.Tuple.SrcPort, dstPort: f.Tuple.DstPort, in: f.In % frame.MaxPorts, outside: f.Net == frame.NoNet, expires: b.Tick + fragmentTime}
		if !r.makeRoom(d) {
			return frame.FragmentQueueFull
		}
		r.seen[key] = d
		r.perPort[d.in]++
		r.pending.Store(true)
	}
	f.Tuple.SrcPort, f.Tuple.DstPort = d.srcPort, d.dstPort
	f.Flags |= frame.HasTuple
	return frame.None
}

// room makes room for one more. Where the uplink, or a port, has as many as it may, one of its own at random goes; where
// all ports together have, one of a port that has many. So a flood of first fragments harms its own side, and there only
// most of those whose fragments are far apart.
func (r *fragments) makeRoom(d *datagram) bool {
	inside := len(r.seen) - r.outside
	full := r.outside >= maxDatagrams
	if !d.outside {
		full = inside >= maxDatagrams || r.perPort[d.in] >= datagramsPerPort
	}
	if full && !r.evict(d) {
		return false
	}
	if d.outside {
		r.outside++
	}
	return true
}

func (r *fragments) evict(d *datagram) bool {
	many := uint16(datagramsPerPort / 2)
	for k, old := range r.seen { // in no order
		if old.outside == d.outside && (d.outside || old.in == d.in && r.perPort[d.in] >= datagramsPerPort || r.perPort[old.in] >= many) {
			r.forget(k, old)
			return true
		}
	}
	return false
}

// passFragment notes that a fragment is about to leave, or says why it may not.
func (n *NAT) recordFragment(f *frame.Frame, dry bool) frame.Reason {
	r := &n.frags
	ip, key := f.IPv4(), fragKeyOf(f)
	lo := ip.FragOffset()
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.seen[key]
	switch {
	case d == nil:
		return frame.None // complete just now, and this one repeats a part of it
	case d.bad:
		return frame.FragmentInvalid
	case dry:
		copied := *d
		return copied.add(lo, lo+len(f.Payload()), !ip.MoreFrags())
	}
	if why := d.add(lo, lo+len(f.Payload()), !ip.MoreFrags()); why != frame.None {
		return why
	}
	if d.n == 1 && d.spans[0] == (span{0, d.total}) {
		r.forget(key, d) // complete: its id may come again
	}
	return frame.None
}

// add notes that the bytes lo to hi have passed.
func (d *datagram) add(lo, hi int, last bool) frame.Reason {
	if last && d.total == 0 {
		d.total = hi
	}
	if d.total != 0 && hi > d.total || last && hi != d.total {
		d.bad = true
		return frame.FragmentInvalid
	}
	at := 0
	for at < d.n && d.spans[at].hi < lo {
		at++
	}
	if at < d.n && d.spans[at].lo <= lo && hi <= d.spans[at].hi {
		return frame.FragmentInvalid // a duplicate is dropped, and its packet goes on
	}
	for _, s := range d.spans[:d.n] {
		if lo < s.hi && s.lo < hi {
			d.bad = true
			return frame.FragmentInvalid
		}
	}
	switch { // it touches the one before, the one after, both, or none
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

func (r *fragments) forget(key fragKey, d *datagram) {
	delete(r.seen, key)
	r.perPort[d.in]--
	if d.outside {
		r.outside--
	}
}

// FragmentsArrived tells whether a first fragment has come since AskFragments; FragmentKnown says it of one packet.
//
//uvswitch:hot
func (n *NAT) FragmentsArrived() bool { return n.frags.pending.Load() }

// AskFragments begins a round of FragmentKnown.
func (n *NAT) ResetFragmentEvent() { n.frags.pending.Store(false) }

// FragmentKnown tells whether the first fragment of f's packet has been seen. f is parsed, and its Net is set.
func (n *NAT) HasFirstFragment(f *frame.Frame) bool {
	n.frags.mu.Lock()
	defer n.frags.mu.Unlock()
	return n.frags.seen[fragKeyOf(f)] != nil
}

// AgeFragments forgets packets whose fragments do not come. It is the housekeeper's.
func (n *NAT) AgeFragments(now frame.Tick) {
	r := &n.frags
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, d := range r.seen {
		if int32(now-d.expires) >= 0 {
			r.forget(key, d)
		}
	}
}
