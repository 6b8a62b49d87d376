package nat

import (
	"cmp"
	"sync"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// Options configure a NAT. Zero values take the defaults.
type Options struct {
	Flows        int      // capacity of IPv4's flow table; DefaultFlows
	Flows6       int      // of IPv6's; a quarter of Flows
	FlowsPerPort int      // flows charged to one port at most, of each family, whatever is free; 0: see package share
	Seed         uint64   // seeds hashing and port choice; must be unpredictable in production
	Outside      Outside  // the uplink; nil for none, or for one that shares no address with the host
	Outside6     Outside6 // the same for IPv6
	Timers       Timers   // RFCTimers when zero
	Strict       bool     // drop TCP segments outside the window
	Alloc        Alloc    // allocates the tables' memory; nil for the heap
	Grow         func()   // if not nil: called by Expire when the tables use some MiB more of that memory
}

// DefaultFlows is the default capacity of IPv4's flow table.
const DefaultFlows = 1 << 20

// DefaultFlows6 is the default capacity of IPv6's flow table, beside one of IPv4 for that many flows.
func DefaultFlows6(flows int) int { return flows / 4 }

// NAT is the connection tracker and its rules, for both families. What it has of its own is IPv4's part.
type NAT struct {
	*tracker[frame.Addr]
	six *tracker[frame.Addr6]
}

// shared is what the trackers of both families have in common.
type shared struct {
	timers  atomic.Pointer[Timers]
	alloc   Alloc
	grow    func()
	growAt  int // the number of entries of both families at which grow is called next
	seed    uint64
	now     atomic.Uint32 // the Tick of the last batch that PreRouting or Expire saw
	draws   atomic.Uint64 // counts port choices, so that no two use the same random number
	ways    atomic.Uint32 // counts changes of the ways out: see WaysChanged
	frags   *fragments
	stats   flowStats
	watch   atomic.Pointer[func(EventKind, Flow, string)]
	mu      sync.Mutex // Lock 72: writers of the configurations
	tracing sync.Mutex // Lock 68: held while a trace uses entry 0
}

// A tracker is the connection tracker of one family.
type tracker[A frame.Address] struct {
	*shared
	flows          *table[A]
	state          []flow       // parallel to flows' entries
	maps           *table[A]    // mappings (inside endpoint, outside endpoint) and permissions
	mappings       []endpoint   // parallel to maps' entries
	addrs          hostAddrs[A] // with the outside ports
	asked          askedPackets[A]
	flowShares     share.Pool                                          // of the flow table
	mapShares      share.Pool                                          // of maps
	endedFlows     share.Pool                                          // of the flow table's grace room
	endedMaps      share.Pool                                          // likewise of maps'
	reclaimSoon    atomic.Uint32                                       // 1: a port got no flow, because its part of the grace room is used
	portShares     [protocols]share.Pool                               // of the outside ports, summed over addresses: in use or in quarantine
	resting        [protocols][frame.MaxPorts]atomic.Int32             // by port charged: outside ports in quarantine
	restedLast     [protocols][frame.MaxPorts]atomic.Uint32            // likewise: the outside port that came there last
	noneRests      [protocols][frame.MaxPorts]exhaustedFor             // likewise: see chooseResting
	served         [frame.MaxPorts]atomic.Int32                        // by port charged: flows that began elsewhere
	loose          [protocols + 1][frame.MaxPorts]looseFlows           // by protocol + 1, and port charged
	among          share.Among                                         // who shares these; guarded by mu
	maxFlows       int                                                 // Options.FlowsPerPort
	windows        *windows                                            // windows of TCP connections; nil unless Options.Strict
	pairShares     share.Pool                                          // of MaxPairs: flows of protocols without ports
	triedAt        [protocols + 2][frame.MaxPorts]atomic.Uint32        // by class - classServed and port: when a walk of evictFor found nothing
	evictedAt      [frame.MaxPorts]atomic.Uint32                       // by port charged: the Tick in which evict ended a flow last
	exhausted      [frame.MaxPorts]exhaustedFor                        // by port charged
	refused        [frame.MaxPorts]struct{ first, last atomic.Uint32 } // Ticks: since when SYNs of a port are refused for want of an outside port
	outside        OutsideOf[A]
	replaced       replacedFlows[A]
	returnedFirsts returnedFirsts[A]
	cursor         atomic.Uint32 // entry where evictFor continues
	config         atomic.Pointer[config[A]]
	sweep          uint32       // entry where Expire continues
	toCheck        int          // entries from there on whose address may have left the host: see ForgetAddrs
	retiring       [2]uint64    // retired lists in their grace period: flows, mappings
	listing        sync.RWMutex // Lock 73: read-locked while entries are listed, so that Reclaim does not free them meanwhile
	planned        bool         // entry 0 is the flow that the traced packet would create
}

// flow is the state of one entry of the flow table. It fills one cache line. Words that change after the entry is
// visible are atomic.
type flow struct {
	expires        atomic.Uint32 // a Tick
	state          atomic.Uint32 // in the low byte the TCP state, or the Tick when a UDP flow began; status bits above it
	gen            atomic.Uint32 // the config generation that it was last checked against
	mapping        uint32        // entry of maps with its outside source: a mapping, or a permission that retains one; 0 for none
	inboundMapping uint32        // the mapping through which its first packet came in, if no publish rule applied; 0 for none
	rule           uint32        // ID of the publish rule that created it; 0 for none
	addrs          frame.Delta   // checksum change from translating the addresses, original direction
	l4ports        frame.Delta   // likewise from the ports or the ICMP identifier
	net            frame.NetID   // the network of port
	port           frame.PortID  // the port charged: the initiator's if the initiator is inside, else the responder's
	count          [2]struct {   // by direction
		packets, bytes atomic.Uint64
	}
}

// Status bits in flow.state.
const (
	seenReply     = 1 << 8
	assured       = 1 << 9
	overloadsPort = 1 << 10 // its outside port may have other flows, to other destinations
	opensFilter   = 1 << 11 // its mapping admits packets from other endpoints while traffic from inside refreshes it
	reset         = 1 << 12 // RST seen in the original direction; reset<<1: in the reply direction
	untranslated  = 1 << 14 // between a container and the host: see Filter
	servedFlow    = 1 << 15 // its initiator is not the port charged: from outside, or from the host, to a container
	byPrefix      = 1 << 16 // an address is translated by a rule with a prefix, or stays: see Masquerade.Outside
	hairpinned    = 1 << 17 // from inside to an outside address of such a rule: both ends are inside
	secondTry     = 1 << 18 // its way out has refused the source address or the port of the flow before it
	uncharged     = 1 << 19 // it has ended, and nobody is charged for its grace period
	midway        = 1 << 20 // it began with a segment in the middle of a TCP connection: who opened that is not known
	stateMask     = 0xff

	waysShift = 24 // the top byte: the value of NAT.ways for which the way out has been asked
)

// New returns a NAT without rules: it translates nothing until Update.
func New(o Options) *NAT {
	o.Flows = cmp.Or(o.Flows, DefaultFlows)
	o.Flows6 = cmp.Or(o.Flows6, DefaultFlows6(o.Flows))
	if o.Timers.Established == 0 {
		o.Timers = RFCTimers()
	}
	if o.Outside == nil {
		o.Outside = privately[frame.Addr]{}
	}
	if o.Outside6 == nil {
		o.Outside6 = privately[frame.Addr6]{}
	}
	s := &shared{alloc: o.Alloc, grow: o.Grow, growAt: firstGrowth, seed: o.Seed, frags: &fragments{seen: map[FragmentKey]*datagram{}}}
	n := &NAT{tracker: newTracker(s, &o, o.Flows, o.Outside), six: newTracker(s, &o, o.Flows6, o.Outside6)}
	n.DivideAmong(share.Among{})
	n.SetTimers(o.Timers)
	return n
}

func newTracker[A frame.Address](s *shared, o *Options, flows int, outside OutsideOf[A]) *tracker[A] {
	maps := min(3*65536, flows) // enough for all ports of TCP, UDP and ICMP
	n := &tracker[A]{
		shared: s, flows: newTable[A](flows, graceRoom(flows), o.Seed, o.Alloc), maps: newTable[A](maps, graceRoom(maps), o.Seed+1, o.Alloc),
		maxFlows: min(o.FlowsPerPort, flows), outside: outside,
	}
	n.state, n.mappings = slab[flow](o.Alloc, len(n.flows.keys)), slab[endpoint](o.Alloc, len(n.maps.keys))
	n.addrs.list.Store(&[]*hostAddr[A]{})
	if o.Strict {
		n.windows = newWindows(len(n.state))
	}
	n.config.Store(&config[A]{})
	return n
}

// DivideAmong sets among whom the flows, the mappings, the outside ports and the room for fragments are divided.
func (n *NAT) DivideAmong(a share.Among) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.divideAmongLocked(a)
	n.six.divideAmongLocked(a)
	n.frags.shares.Divide(maxDatagrams, a, datagramsPerPort)
}

func (n *tracker[A]) divideAmongLocked(a share.Among) {
	n.among = a
	n.shareLocked(n.config.Load())
}

// SettleShares counts the shares again. The slow path calls it now and then: see share.Pool.
func (n *NAT) SettleShares() {
	n.settleShares()
	n.six.settleShares()
	n.frags.shares.Settle()
}

func (n *tracker[A]) settleShares() {
	n.flowShares.Settle()
	n.mapShares.Settle()
	n.pairShares.Settle()
	n.endedFlows.Settle()
	n.endedMaps.Settle()
	for i := range n.portShares {
		n.portShares[i].Settle()
	}
}

func (n *tracker[A]) shareLocked(c *config[A]) {
	n.flowShares.Divide(n.flows.limit(), n.among, n.maxFlows)
	n.mapShares.Divide(n.maps.limit(), n.among, 0)
	n.pairShares.Divide(MaxPairs, n.among, maxPairsOfPort)
	n.endedFlows.Divide(graceRoom(n.flows.limit()), n.among, 0)
	n.endedMaps.Divide(graceRoom(n.maps.limit()), n.among, 0)
	for i := range n.portShares {
		if c.pool[i] != nil {
			n.portShares[i].Divide(c.pool[i].Len(), n.among, 0)
		}
	}
}

// translated returns the tuple that a packet of flow e in direction dir has after translation.
//
//uvswitch:hot
func (n *tracker[A]) translated(e uint32, dir uint8) frame.TupleOf[A] {
	return n.flows.keys[e][1-dir].Reverse()
}

// end removes flow e and releases the mappings and ports that it used. It reports false when another caller has
// removed the flow. The entry is free after a grace period.
func (n *tracker[A]) end(e uint32, why ending) bool {
	if !n.flows.unlink(e) {
		return false
	}
	n.stats.ended[why].Add(1)
	n.emit(FlowDestroy, e, endingNames[why])
	s := &n.state[e]
	k := &n.flows.keys[e]
	n.flowShares.Return(s.port)
	// Until the charge, the entry is not free: a worker's batch is not over, the slow path reclaims later, and others hold listing.
	if why.isCharged() {
		n.endedFlows.Charge(s.port)
	} else {
		s.state.Or(uncharged)
	}
	if s.state.Load()&servedFlow != 0 {
		n.served[s.port].Add(-1)
	}
	if s.mapping != 0 {
		n.releaseFor(s.mapping, why)
	}
	if s.inboundMapping != 0 {
		n.releaseFor(s.inboundMapping, why)
	}
	i := protoIndex(k[1].Proto)
	if s.state.Load()&overloadsPort != 0 {
		n.endOverload(i, k[1].Dst, k[1].DstPort)
	}
	if i < 0 && s.state.Load()&(untranslated|byPrefix) == 0 {
		n.pairShares.Return(s.port)
		n.outside.Peer(k[1].Dst, k[1].Src, k[1].Proto, false)
	}
	return true
}

// Expire removes flows whose time-out has passed and returns how many it removed. One call visits at most budget
// entries of each family; call it regularly.
func (n *NAT) Expire(now frame.Tick, budget int) (removed int) {
	n.now.Store(uint32(now))
	if used := int(n.flows.highWater() + n.six.flows.highWater()); n.grow != nil && used >= n.growAt {
		n.growAt = used + growthStep
		n.grow()
	}
	return n.expire(now, budget) + n.six.expire(now, budget)
}

// The numbers of flows at which Options.Grow is called. growthStep flows have 2 MiB of state.
const firstGrowth, growthStep = 8 << 10, 32 << 10

func (n *tracker[A]) expire(now frame.Tick, budget int) (removed int) {
	mark, c := n.flows.highWater(), n.config.Load()
	for range min(budget, int(mark)) {
		if n.sweep++; n.sweep >= mark {
			n.sweep = 1
		}
		e := n.sweep
		if n.toCheck > 0 {
			n.toCheck--
			if e < mark && n.flows.isLive(e) && n.state[e].gen.Load() != c.gen && !n.valid(c, e) && n.end(e, replaced) {
				removed++
				continue
			}
		}
		if e < mark && n.flows.isLive(e) && expired(&n.state[e], now) && n.end(e, timedOut) {
			removed++
		}
	}
	return removed
}

// Capacity returns the number of entries that a whole round of Expire visits.
func (n *NAT) Capacity() int { return int(max(n.flows.highWater(), n.six.flows.highWater())) }

// beganElsewhere reports whether the flow began at a published port, a mapping, or an address outside of a prefix.
//
//uvswitch:hot
func (s *flow) beganElsewhere() bool {
	w := s.state.Load()
	return s.rule|s.inboundMapping != 0 || w&hairpinned != 0 || w&(byPrefix|servedFlow) == byPrefix|servedFlow
}

//uvswitch:hot
func expired(s *flow, now frame.Tick) bool { return int32(now-frame.Tick(s.expires.Load())) >= 0 }

// Retire begins a grace period, unless one is running, and reports whether there are entries to reclaim. Call Reclaim
// after every worker has passed a batch boundary. Only the slow path may call Retire and Reclaim.
func (n *NAT) Retire() bool {
	four, six := n.retire(), n.six.retire()
	return four || six
}

func (n *tracker[A]) retire() bool {
	n.reclaimSoon.Store(0)
	if n.retiring == [2]uint64{} {
		n.retiring = [2]uint64{n.flows.retire(), n.maps.retire()}
	}
	return n.retiring != [2]uint64{}
}

// Reclaim ends the grace period that Retire began: entries removed before Retire become free for new flows. It waits for one slice of each
// walk that runs (see walk).
func (n *NAT) Reclaim() {
	n.reclaim()
	n.six.reclaim()
}

func (n *tracker[A]) reclaim() {
	n.listing.Lock()
	defer n.listing.Unlock()
	n.flows.reclaim(n.retiring[0], func(e uint32) {
		if s := &n.state[e]; s.state.Load()&uncharged == 0 {
			n.endedFlows.Return(s.port)
		}
	})
	n.maps.reclaim(n.retiring[1], func(m uint32) {
		if s := &n.mappings[m]; s.refs.Load() != ended {
			n.endedMaps.Return(s.owner)
		}
	})
	n.retiring = [2]uint64{}
}

// zero is no address.
//
//uvswitch:hot
func zero[A frame.Address]() (a A) { return a }

// A packet is a frame with an IP packet of one family, and what Frame has no room for. With a fifth field, the compiler would keep it in memory
// rather than in registers, and each translated frame would take half as long again.
type packet[A frame.Address] struct {
	*frame.Frame
	tuple    *frame.TupleOf[A] // as it stands in the packet
	dst, hop *A                // see frame.Frame.RouteDst and NextHop
}

// packetOf returns frame i of a batch as a packet of family A.
//
//uvswitch:hot
func packetOf[A frame.Address](b *frame.Batch, i int) packet[A] {
	p := packet[A]{Frame: &b.Frames[i]}
	switch p := any(&p).(type) {
	case *packet[frame.Addr]:
		p.tuple, p.dst, p.hop = &p.Tuple, &p.RouteDst, &p.NextHop
	case *packet[frame.Addr6]:
		w := &b.To[i]
		ip, t := p.IPv6(), &w.Tuple // field by field: the processor stalls when it reads at once what it has just written in parts
		t.Src, t.Dst = ip.Src(), ip.Dst()
		t.SrcPort, t.DstPort, t.Proto = p.Tuple.SrcPort, p.Tuple.DstPort, p.Tuple.Proto
		p.tuple, p.dst, p.hop = &w.Tuple, &w.Dst, &w.Hop
	}
	return p
}

// setAddrs rewrites both addresses of a packet; d is the delta of both together.
//
//uvswitch:hot
func (f packet[A]) setAddrs(src, dst A, d frame.Delta) { setAddrs(f.Bytes()[f.L3:], src, dst, d) }

// setTuple notes the tuple that the packet has now.
//
//uvswitch:hot
func (f packet[A]) setTuple(t frame.TupleOf[A]) {
	*f.tuple = t
	f.Tuple.SrcPort, f.Tuple.DstPort = t.SrcPort, t.DstPort
}

// bytes is the length of the IP packet.
func (f packet[A]) bytes() uint64 { return uint64(f.L3End - uint32(f.L3)) }
