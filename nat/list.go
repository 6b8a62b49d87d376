package nat

import (
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Flow is one entry of the table, as listed.
type Flow struct {
	ID               uint32 // the entry's number, while the flow lives
	Original, Reply  frame.Tuple
	State            string // TCP's, by Linux's names; empty for others
	Timeout          uint32 // seconds until it goes if it stays idle
	Assured, Replied bool
	Net              frame.NetID
	Port             frame.PortID // who is charged for it
	Rule             uint32       // the publish rule that made it; 0 for none
	Packets, Bytes   [2]uint64    // original and reply direction
}

func (n *NAT) view(e uint32, now frame.Tick) Flow {
	s, k := &n.state[e], &n.flows.keys[e]
	w := s.state.Load()
	f := Flow{
		ID: e, Original: k[0], Reply: k[1], Assured: w&assured != 0, Replied: w&seenReply != 0, Net: s.net, Port: s.port, Rule: s.rule,
	}
	if left := int32(frame.Tick(s.expires.Load()) - now); left > 0 {
		f.Timeout = uint32(left) / frame.TicksPerSecond
	}
	if k[0].Proto == frame.TCP {
		f.State = tcpNames[w&stateMask%uint32(tcpStates)]
	}
	for d := range s.count {
		f.Packets[d], f.Bytes[d] = s.count[d].packets.Load(), s.count[d].bytes.Load()
	}
	return f
}

// Flows calls yield for each live flow, until it returns false. Flows come and go meanwhile.
func (n *NAT) Flows(now frame.Tick, yield func(Flow) bool) {
	n.listing.RLock()
	defer n.listing.RUnlock()
	for e := uint32(1); e < n.flows.highWater(); e++ {
		if n.flows.isLive(e) && !expired(&n.state[e], now) && !yield(n.view(e, now)) {
			return
		}
	}
}

// Flush ends the flows that which selects, and returns how many.
func (n *NAT) Flush(which func(Flow) bool) (removed int) {
	n.listing.RLock()
	defer n.listing.RUnlock()
	now := frame.Tick(n.now.Load())
	for e := uint32(1); e < n.flows.highWater(); e++ {
		if n.flows.isLive(e) && which(n.view(e, now)) && n.end(e, flushed) {
			removed++
		}
	}
	return removed
}

// EventKind is what happened to a flow, by the names of `conntrack -E`.
type EventKind uint8

const (
	FlowNew EventKind = iota
	FlowUpdate
	FlowDestroy
)

func (k EventKind) String() string { return [...]string{"NEW", "UPDATE", "DESTROY"}[k] }

// Watch has fn called for every event, by any worker; it must not wait. why is how a flow ended. nil ends it.
func (n *NAT) Watch(fn func(kind EventKind, f Flow, why string)) {
	if fn == nil {
		n.watch.Store(nil)
		return
	}
	n.watch.Store(&fn)
}

func (n *NAT) emit(kind EventKind, e uint32, why string) {
	if fn := n.watch.Load(); fn != nil {
		(*fn)(kind, n.view(e, frame.Tick(n.now.Load())), why)
	}
}

// ending is why a flow ended.
type ending uint8

const (
	timedOut ending = iota
	evicted         // to make room
	replaced        // by another, or the rules that made it are no more
	flushed         // by command
	endings
)

var endingNames = [endings]string{"timed_out", "evicted", "replaced", "flushed"}

type flowStats struct {
	created atomic.Uint64
	ended   [endings]atomic.Uint64
}

// Stats are totals since the start: flows created, and flows ended by why.
func (n *NAT) Stats() (created uint64, ended map[string]uint64) {
	ended = map[string]uint64{}
	for i := range n.stats.ended {
		ended[endingNames[i]] = n.stats.ended[i].Load()
	}
	return n.stats.created.Load(), ended
}

// Used is how many flows there are.
func (n *NAT) Used() int { return int(n.flows.used.Load()) }

// Limit is how many there may be.
func (n *NAT) Limit() int { return n.flows.limit() }

// FlowsOf is how many flows are charged to a port.
func (n *NAT) FlowsOf(id frame.PortID) int { return int(n.flowsOf[id].Load()) }

// PortsOf is how many outside ports of TCP and UDP are charged to a port, resting ones included.
func (n *NAT) PortsOf(id frame.PortID) (tcpPorts, udpPorts int) {
	return int(n.ports[tcp].heldBy[id].Load()), int(n.ports[udp].heldBy[id].Load())
}

// FlowQuota is how many flows one port may hold.
func (n *NAT) FlowQuota() int { return int(n.quota) }

// PortQuota is how many outside ports of TCP and UDP one port may hold.
func (n *NAT) PortQuota() (tcpPorts, udpPorts int) {
	c := n.config.Load()
	return int(c.quota[tcp]), int(c.quota[udp])
}

// PortUse is how far the outside ports of a protocol are used.
type PortUse struct{ Used, Resting, Limit int }

// PortUseOf counts the outside ports of TCP, UDP or SCTP, or ICMP's identifiers.
func (n *NAT) PortUseOf(proto uint8) PortUse {
	i := protoIndex(proto)
	c := n.config.Load()
	if i < 0 || c.pool[i] == nil {
		return PortUse{}
	}
	u := PortUse{Used: n.ports[i].used.Len(), Limit: c.pool[i].Len()}
	if r := n.ports[i].quarantine; r != nil {
		u.Resting = r.Len()
		u.Used -= u.Resting
	}
	return u
}

// InUse is the set of outside ports given out, resting ones included: of TCP, UDP, SCTP, or ICMP's identifiers; others have
// none, and panic.
func (n *NAT) InUse(proto uint8) *PortSet { return n.ports[protoIndex(proto)].used }
