package nat

import (
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Options size a NAT. Zero values take the defaults.
type Options struct {
	Flows        int          // places in the flow table; DefaultFlows
	FlowsPerPort int          // flows that one port's station may hold; DefaultFlowsPerPort
	Seed         uint64       // of hashes and of port choice; must be unpredictable in production
	ICMPIDs      *PortSet     // where ICMP identifiers in use are noted, for others to read; nil for a private one
	Timers       Timers       // RFCTimers when zero
	Strict       bool         // drop TCP segments outside of the window
	PortlessPeer PortlessPeer // told of protocols without ports; may be nil
	Alloc        Alloc        // where the tables' memory comes from; the heap when nil
}

// Pair is told, by any worker, when a first flow of a protocol without ports begins with a remote address, and when it
// has ended: who takes our packets off a shared device must know.
type PortlessPeer func(remote frame.Addr, proto uint8, on bool)

// Defaults of Options.
const (
	DefaultFlows        = 1 << 20
	DefaultFlowsPerPort = 1 << 16
)

// NAT is the connection tracker and its rules.
type NAT struct {
	flows         *tupleTable
	state         []flow      // parallel to flows' entries
	maps          *tupleTable // mappings: inside endpoint, outside endpoint; and permissions
	mappings      []endpoint  // parallel to maps' entries
	ports         [protocols]outsidePorts
	windows       *windows // of TCP connections; nil unless strict
	frags         fragments
	flowsOf       [frame.MaxPorts]atomic.Int32                 // flows per port
	portlessFlows [frame.MaxPorts]atomic.Int32                 // flows of protocols without ports, per port
	triedAt       [protocols + 1][frame.MaxPorts]atomic.Uint32 // the Tick when relieve found nothing
	quota         int32
	timers        atomic.Pointer[Timers]
	portlessPeer  PortlessPeer
	seed          uint64
	now           atomic.Uint32 // the Tick of the last batch that PreRouting or Expire saw
	draws         atomic.Uint64 // numbers the choices of ports, so that no two are alike
	cursor        atomic.Uint32 // where relieve goes on
	stats         flowStats
	watch         atomic.Pointer[func(EventKind, Flow, string)]
	config        atomic.Pointer[config]
	mu            sync.Mutex   // writers of config
	sweep         uint32       // where Expire goes on
	retiring      [2]uint64    // lists that await their grace period: flows, mappings
	listing       sync.RWMutex // read while entries are listed: they must not be used again meanwhile

	tracing sync.Mutex // held while entry 0 is a trace's
	planned bool       // entry 0 is a flow that a trace would have made
}

// flow is the state of one entry of the flow table, one cache line. Words that change after the entry is visible
// are atomic.
type flow struct {
	expires        atomic.Uint32 // a Tick
	state          atomic.Uint32 // TCP state in the low byte, status bits above
	gen            atomic.Uint32 // the config generation it was last checked under
	mapping        uint32        // entry of maps that it leaves by: a mapping, or a permission that holds one; 0 for none
	inboundMapping uint32        // the mapping that it came in by, where no rule made it; 0 for none
	rule           uint32        // id of the publish rule that made it; 0 for none
	addrs          frame.Delta   // what translating the addresses adds to a sum, original direction
	l4ports        frame.Delta   // and the ports or the ICMP identifier
	net            frame.NetID   // of port
	port           frame.PortID  // who is charged: who spoke first if he is inside, else who was spoken to
	count          [2]struct {   // by direction
		packets, bytes atomic.Uint64
	}
}

// Status bits in flow.state.
const (
	seenReply     = 1 << 8
	assured       = 1 << 9
	overloadsPort = 1 << 10 // its outside port has other users: mapping address-and-port-dependent
	opensFilter   = 1 << 11 // its mapping lets others in, for as long as it is used from inside
	reset         = 1 << 12 // a RST was seen in the original direction; one bit further, in the other
	stateMask     = 0xff
)

// New makes a NAT without rules: nothing is translated until Update.
func New(o Options) *NAT {
	if o.Flows == 0 {
		o.Flows = DefaultFlows
	}
	if o.FlowsPerPort == 0 {
		o.FlowsPerPort = DefaultFlowsPerPort
	}
	if o.Timers.Established == 0 {
		o.Timers = RFCTimers()
	}
	if o.ICMPIDs == nil {
		o.ICMPIDs = NewPortSet()
	}
	maps := min(3*65536, o.Flows) // of TCP, UDP and ICMP all ports
	n := &NAT{
		flows: newTable[frame.Tuple](o.Flows, o.Seed, o.Alloc), state: slab[flow](o.Alloc, o.Flows+1),
		maps: newTable[frame.Tuple](maps, o.Seed+1, o.Alloc), mappings: slab[endpoint](o.Alloc, maps+1),
		quota: int32(min(o.FlowsPerPort, o.Flows)), portlessPeer: o.PortlessPeer, seed: o.Seed,
	}
	for i := range n.ports {
		n.ports[i].used = NewPortSet()
		if i != icmp {
			n.ports[i].quarantine, n.ports[i].quarantined = NewPortSet(), slab[quarantineInfo](o.Alloc, 65536)
		}
	}
	n.ports[icmp].used = o.ICMPIDs
	n.frags.seen = map[fragKey]*datagram{}
	if o.Strict {
		n.windows = newWindows(o.Flows + 1)
	}
	n.config.Store(&config{})
	n.SetTimers(o.Timers)
	return n
}

// translated is the tuple that a packet travelling in direction dir of flow e leaves with.
//
//uvswitch:hot
func (n *NAT) translated(e uint32, dir uint8) frame.Tuple { return n.flows.keys[e][1-dir].Reverse() }

// end ends a flow. What it held is given back; its entry is free after a grace period.
func (n *NAT) end(e uint32, why ending) bool {
	if !n.flows.unlink(e) {
		return false
	}
	n.stats.ended[why].Add(1)
	n.emit(FlowDestroy, e, endingNames[why])
	s := &n.state[e]
	k := &n.flows.keys[e]
	n.flowsOf[s.port].Add(-1)
	if s.mapping != 0 {
		n.release(s.mapping)
	}
	if s.inboundMapping != 0 {
		n.release(s.inboundMapping)
	}
	i := protoIndex(k[1].Proto)
	if s.state.Load()&overloadsPort != 0 {
		n.endOverload(i, k[1].DstPort)
	}
	if i < 0 {
		n.portlessFlows[s.port].Add(-1)
		n.tellPortlessPeer(&k[1], false)
	}
	return true
}

// Expire removes the flows whose time is over, visiting at most budget entries; call it regularly. It returns how
// many it removed.
func (n *NAT) Expire(now frame.Tick, budget int) (removed int) {
	n.now.Store(uint32(now))
	mark := n.flows.highWater()
	for range min(budget, int(mark)) {
		if n.sweep++; n.sweep >= mark {
			n.sweep = 1
		}
		if e := n.sweep; e < mark && n.flows.isLive(e) && expired(&n.state[e], now) && n.end(e, timedOut) {
			removed++
		}
	}
	return removed
}

// Extent is how many entries a whole round of Expire visits.
func (n *NAT) Capacity() int { return int(n.flows.highWater()) }

//uvswitch:hot
func expired(s *flow, now frame.Tick) bool { return int32(now-frame.Tick(s.expires.Load())) >= 0 }

// Retire begins a grace period and tells whether there is anything to wait for. After every worker has passed a
// batch boundary, call Reclaim. Both are the housekeeper's alone.
func (n *NAT) Retire() bool {
	if n.retiring == [2]uint64{} {
		n.retiring = [2]uint64{n.flows.retire(), n.maps.retire()}
	}
	return n.retiring != [2]uint64{}
}

// Reclaim ends the grace period that Retire began: entries that were removed before it are free for new flows.
// While somebody lists flows it does nothing, and the next call does it.
func (n *NAT) Reclaim() {
	if !n.listing.TryLock() {
		return
	}
	defer n.listing.Unlock()
	n.flows.reclaim(n.retiring[0])
	n.maps.reclaim(n.retiring[1])
	n.retiring = [2]uint64{}
}
