package nat

import (
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Options size a NAT. Zero values take the defaults.
type Options struct {
	Flows        int      // places in the flow table; DefaultFlows
	FlowsPerPort int      // flows that one port's station may hold; DefaultFlowsPerPort
	Seed         uint64   // of hashes and of port choice; must be unpredictable in production
	ICMPIDs      *PortSet // where ICMP identifiers in use are noted, for others to read; nil for a private one
	Timers       Timers   // RFCTimers when zero
	Alloc        Alloc    // where the tables' memory comes from; the heap when nil
}

// Defaults of Options.
const (
	DefaultFlows        = 1 << 20
	DefaultFlowsPerPort = 1 << 16
)

// NAT is the connection tracker and its rules.
type NAT struct {
	flows  *tupleTable
	state  []flow         // parallel to flows' entries
	maps   *tupleTable    // endpoint-independent mappings: inside endpoint, outside endpoint
	refs   []atomic.Int32 // parallel to maps' entries: flows that use the mapping
	ports  [protocols]*PortSet
	mapped [protocols][frame.MaxPorts]atomic.Int32 // outside ports per port
	owner  []frame.PortID                          // parallel to maps' entries: who is charged for the mapping
	cursor atomic.Uint32                           // where relieve goes on
	held   [frame.MaxPorts]atomic.Int32            // flows per port
	quota  int32
	timers Timers
	seed   uint64
	draws  atomic.Uint64 // numbers the choices of ports, so that no two are alike

	config   atomic.Pointer[config]
	mu       sync.Mutex   // writers of config
	sweep    uint32       // where Expire goes on
	retiring [2]uint64    // lists that await their grace period: flows, mappings
	listing  sync.RWMutex // read while entries are listed: they must not be used again meanwhile
}

// flow is the state of one entry of the flow table, one cache line. Words that change after the entry is visible
// are atomic.
type flow struct {
	expires atomic.Uint32 // a Tick
	state   atomic.Uint32 // TCP state in the low byte, status bits above
	gen     atomic.Uint32 // the config generation it was last checked under
	mapping uint32        // entry of maps whose outside port it uses; 0 for none
	rule    uint32        // id of the publish rule that made it; 0 for none
	addrs   frame.Delta   // what translating the addresses adds to a sum, original direction
	l4ports frame.Delta   // and the ports or the ICMP identifier
	net     frame.NetID   // of the inside port
	port    frame.PortID  // the inside port: who is charged for the flow
	count   [2]struct {   // by direction
		packets, bytes atomic.Uint64
	}
}

// Status bits in flow.state.
const (
	seenReply = 1 << 8
	assured   = 1 << 9
	stateMask = 0xff
)

// New makes a NAT without rules: nothing is translated until Update.
func New(o Options) *NAT {
	if o.Flows == 0 {
		o.Flows = DefaultFlows
	}
	if o.FlowsPerPort == 0 {
		o.FlowsPerPort = DefaultFlowsPerPort
	}
	if o.Timers == (Timers{}) {
		o.Timers = RFCTimers()
	}
	if o.ICMPIDs == nil {
		o.ICMPIDs = NewPortSet()
	}
	maps := min(protocols*65536, o.Flows)
	n := &NAT{
		flows: newTable[frame.Tuple](o.Flows, o.Seed, o.Alloc), state: slab[flow](o.Alloc, o.Flows+1),
		maps: newTable[frame.Tuple](maps, o.Seed+1, o.Alloc), refs: slab[atomic.Int32](o.Alloc, maps+1),
		owner: slab[frame.PortID](o.Alloc, maps+1),
		ports: [protocols]*PortSet{NewPortSet(), NewPortSet(), o.ICMPIDs},
		quota: int32(min(o.FlowsPerPort, o.Flows)), timers: o.Timers, seed: o.Seed,
	}
	n.config.Store(&config{})
	return n
}

// translated is the tuple that a packet travelling in direction dir of flow e leaves with.
//
//uvswitch:hot
func (n *NAT) translated(e uint32, dir uint8) frame.Tuple { return n.flows.keys[e][1-dir].Reverse() }

// remove ends a flow. What it held is given back; its entry is free after a grace period.
func (n *NAT) remove(e uint32) bool {
	s := &n.state[e]
	if !n.flows.kill(e) {
		return false
	}
	n.held[s.port].Add(-1)
	if s.mapping != 0 {
		n.release(s.mapping)
	}
	return true
}

// Expire removes the flows whose time is over, visiting at most budget entries; call it regularly. It returns how
// many it removed.
func (n *NAT) Expire(now frame.Tick, budget int) (removed int) {
	mark := n.flows.mark()
	for range min(budget, int(mark)) {
		if n.sweep++; n.sweep >= mark {
			n.sweep = 1
		}
		if e := n.sweep; e < mark && n.flows.isLive(e) && expired(&n.state[e], now) && n.remove(e) {
			removed++
		}
	}
	return removed
}

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
