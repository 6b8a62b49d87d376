package nat

import (
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Flow describes one entry of the flow table.
type Flow struct {
	ID               uint32 // number of the entry; another flow may have it later
	Original, Reply  frame.Endpoints
	State            string // TCP state by the name in Linux; empty for other protocols
	Timeout          uint32 // seconds until it expires if it stays idle
	Assured, Replied bool
	Net              frame.NetID
	Port             frame.PortID // the port charged for it
	Rule             uint32       // ID of the publish rule that created it; 0 for none
	Packets, Bytes   [2]uint64    // original and reply direction; bytes of IP packets
}

func (n *tracker[A]) view(e uint32, now frame.Tick) Flow {
	s, k := &n.state[e], &n.flows.keys[e]
	w := s.state.Load()
	f := Flow{
		ID: e, Original: frame.EndpointsOf(k[0]), Reply: frame.EndpointsOf(k[1]), Assured: w&assured != 0, Replied: w&seenReply != 0, Net: s.net, Port: s.port, Rule: s.rule,
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

// listSlice is after how many entries a walk releases the lock, so that Reclaim can run.
const listSlice = 4096

// walk calls do for each live entry, in slices, until do returns false. Other goroutines may create and end flows meanwhile.
func (n *tracker[A]) walk(do func(e uint32) bool) {
	for next := uint32(1); next < n.flows.highWater(); next += listSlice {
		if !n.walkSlice(next, min(next+listSlice, n.flows.highWater()), do) {
			return
		}
	}
}

func (n *tracker[A]) walkSlice(from, to uint32, do func(e uint32) bool) bool {
	n.listing.RLock()
	defer n.listing.RUnlock()
	for e := from; e < to; e++ {
		if n.flows.isLive(e) && !do(e) {
			return false
		}
	}
	return true
}

// Flows calls yield for each live flow, IPv4's first, until yield returns false. Other goroutines may create and end flows
// meanwhile.
func (n *NAT) Flows(now frame.Tick, yield func(Flow) bool) {
	more := true
	each := func(f Flow) bool {
		more = yield(f)
		return more
	}
	if n.eachFlow(now, each); more {
		n.six.eachFlow(now, each)
	}
}

// Unanswered calls yield for flows without a packet in the reply direction, of both families. It looks only at the flows
// that each port has begun or closed last: up to 64 per protocol. So it takes little time, however many flows there are.
func (n *NAT) Unanswered(now frame.Tick, yield func(Flow)) {
	n.unanswered(now, yield)
	n.six.unanswered(now, yield)
}

func (n *tracker[A]) unanswered(now frame.Tick, yield func(Flow)) {
	n.listing.RLock()
	defer n.listing.RUnlock()
	for class := range n.loose {
		for port := range n.loose[class] {
			l := &n.loose[class][port]
			if l.in.Load() == 0 {
				continue
			}
			for i := range l.entries {
				e := l.entries[i].Load()
				if e != 0 && n.flows.isLive(e) && n.state[e].port == frame.PortID(port) && n.state[e].state.Load()&(seenReply|assured) == 0 && !expired(&n.state[e], now) {
					yield(n.view(e, now))
				}
			}
		}
	}
}

func (n *tracker[A]) eachFlow(now frame.Tick, yield func(Flow) bool) {
	n.walk(func(e uint32) bool { return expired(&n.state[e], now) || yield(n.view(e, now)) })
}

// Flush ends the flows for which which returns true, and returns how many it ended.
func (n *NAT) Flush(which func(Flow) bool) (removed int) { return n.flush(which) + n.six.flush(which) }

func (n *tracker[A]) flush(which func(Flow) bool) (removed int) {
	now := frame.Tick(n.now.Load())
	n.walk(func(e uint32) bool {
		if which(n.view(e, now)) && n.end(e, flushed) {
			removed++
		}
		return true
	})
	return removed
}

// FlushPorts ends the flows that are charged to some ports, by one walk over the flow table.
func (n *NAT) FlushPorts(ids []frame.PortID) {
	n.flushPorts(ids)
	n.six.flushPorts(ids)
}

func (n *tracker[A]) flushPorts(ids []frame.PortID) {
	var of [frame.MaxPorts]bool
	left := 0 // ports with flows
	for _, id := range ids {
		if n.flowShares.Held(id) > 0 {
			of[id] = true
			left++
		}
	}
	if left == 0 {
		return
	}
	n.walk(func(e uint32) bool {
		id := n.state[e].port
		if of[id] && n.end(e, flushed) && n.flowShares.Held(id) == 0 {
			of[id] = false
			left--
		}
		return left > 0
	})
}

// EventKind is the kind of a flow event, by the names of `conntrack -E`.
type EventKind uint8

const (
	FlowNew EventKind = iota
	FlowUpdate
	FlowDestroy
)

func (k EventKind) String() string { return [...]string{"NEW", "UPDATE", "DESTROY"}[k] }

// Watch registers fn for every event; a nil fn ends this. Several goroutines may call fn at once, and fn must not
// block. why is the reason of a FlowDestroy, and empty for other events.
func (n *NAT) Watch(fn func(kind EventKind, f Flow, why string)) {
	if fn == nil {
		n.watch.Store(nil)
		return
	}
	n.watch.Store(&fn)
}

func (n *tracker[A]) emit(kind EventKind, e uint32, why string) {
	if fn := n.watch.Load(); fn != nil {
		(*fn)(kind, n.view(e, frame.Tick(n.now.Load())), why)
	}
}

// ending is the reason why a flow ended.
type ending uint8

const (
	timedOut ending = iota
	evicted         // to make room
	replaced        // another flow took its place, or the rules no longer create it
	flushed         // removed by a call of Flush
	endings
)

// isCharged reports whether the port is charged for the grace period of an entry that has ended so. A port pays for what its own packets have ended.
func (why ending) isCharged() bool { return why == evicted || why == replaced }

var endingNames = [endings]string{"timed_out", "evicted", "replaced", "flushed"}

type flowStats struct {
	created atomic.Uint64
	ended   [endings]atomic.Uint64

	givenBack atomic.Uint64
}

// Stats returns totals since the start: flows created, and flows ended by reason.
func (n *NAT) Stats() (created uint64, ended map[string]uint64) {
	ended = map[string]uint64{}
	for i := range n.stats.ended {
		ended[endingNames[i]] = n.stats.ended[i].Load()
	}
	return n.stats.created.Load(), ended
}

// Used returns the number of flows.
func (n *NAT) Used() int {
	four, six := n.UsedByFamily()
	return four + six
}

// UsedByFamily returns the number of flows of IPv4 and of IPv6.
func (n *NAT) UsedByFamily() (four, six int) {
	return int(n.flows.used.Load()), int(n.six.flows.used.Load())
}

// Limits returns the maximum number of flows of IPv4 and of IPv6.
func (n *NAT) Limits() (four, six int) { return n.flows.limit(), n.six.flows.limit() }

// FlowsOf returns the number of flows charged to a port.
func (n *NAT) FlowsOf(id frame.PortID) int { return n.flowShares.Held(id) + n.six.flowShares.Held(id) }

// PortsOf returns the number of outside TCP and UDP ports charged to a port, including those in quarantine.
func (n *NAT) PortsOf(id frame.PortID) (tcpPorts, udpPorts int) {
	return n.portShares[tcp].Held(id) + n.six.portShares[tcp].Held(id), n.portShares[udp].Held(id) + n.six.portShares[udp].Held(id)
}

// FlowsPerPort returns Options.FlowsPerPort, at most the size of the table.
func (n *NAT) FlowsPerPort() int { return n.maxFlows }

// FlowQuota returns how many flows of IPv4 one port may have while no other port has more than its part.
func (n *NAT) FlowQuota() int { return n.flowShares.Greatest() }

// PortQuota returns how many outside TCP and UDP ports of IPv4 one port may have while no other port has more than its part.
func (n *NAT) PortQuota() (tcpPorts, udpPorts int) {
	return n.portShares[tcp].Greatest(), n.portShares[udp].Greatest()
}

// PortUse counts a protocol's outside ports: in use, in quarantine (Resting), and in the pool (Limit). The pool is there once for each family
// by which flows leave.
type PortUse struct{ Used, Resting, Limit int }

// PortUseOf returns the use of the outside ports of TCP, UDP or SCTP, or of the ICMP identifiers; zero for other
// protocols. Used and Resting count both families.
func (n *NAT) PortUseOf(proto uint8) PortUse {
	four, six := n.PortUseByFamily(proto)
	limit := four.Limit
	if len(*n.addrs.list.Load()) > 0 && len(*n.six.addrs.list.Load()) > 0 {
		limit *= 2
	}
	return PortUse{Used: four.Used + six.Used, Resting: four.Resting + six.Resting, Limit: limit}
}

// PortUseByFamily is PortUseOf for IPv4 and for IPv6. Both have the same limit.
func (n *NAT) PortUseByFamily(proto uint8) (four, six PortUse) {
	i := protoIndex(proto)
	c := n.config.Load()
	if i < 0 || c.pool[i] == nil {
		return four, six
	}
	four, six = n.portUse(i), n.six.portUse(i)
	four.Limit, six.Limit = c.pool[i].Len(), c.pool[i].Len()
	return four, six
}

func (n *tracker[A]) portUse(i int) (u PortUse) {
	for _, a := range *n.addrs.list.Load() {
		u.Used += a.ports[i].used.Len()
		if r := a.ports[i].quarantine; r != nil {
			u.Resting += r.Len()
			u.Used -= r.Len()
		}
	}
	return u
}

// GivenBack returns how many packets that came by the uplink belonged to no flow and went back to the host's stack.
func (n *NAT) GivenBack() uint64 { return n.stats.givenBack.Load() }
