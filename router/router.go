package router

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Interface is the router's leg in one network, or, with Net NoNet, the uplink.
type Interface struct {
	Net      frame.NetID
	Addr     frame.Addr   // the gateway's address; on the uplink the address that leaves
	Prefix   netip.Prefix // what is on-link; on the uplink 0.0.0.0/0
	MAC      frame.MAC
	MTU      int  // longest IP packet, bytes
	Internal bool // nothing leaves the network, nothing comes in
	Isolated bool // it reaches no other network, but the outside
	// The uplink's only.
	Port    frame.PortID // where to write
	PeerMAC frame.MAC    // the next hop; the kernel replaces it where tcx or clsact redirects
	Up      bool
}

// RouteKind is a route's type, by `ip route`'s names.
type RouteKind uint8

const (
	Unicast     RouteKind = iota
	Local                 // an address of the host itself, reached by the host port
	Blackhole             // dropped in silence
	Unreachable           // ICMP 3/1
	Prohibit              // ICMP 3/13
)

var routeKinds = [...]string{"unicast", "local", "blackhole", "unreachable", "prohibit"}

func (k RouteKind) String() string { return routeKinds[k] }

// ParseRouteKind reads the name of a kind that a user may add; "" is unicast.
func ParseRouteKind(s string) (RouteKind, bool) {
	if s == "" {
		return Unicast, true
	}
	i := slices.Index(routeKinds[:], s)
	return RouteKind(max(i, 0)), i >= 0 && RouteKind(i) != Local
}

// A Route says where packets to Prefix go.
type Route struct {
	Prefix  netip.Prefix
	Kind    RouteKind
	Egress  frame.NetID // NoNet: the uplink
	NextHop frame.Addr  // 0: the destination is on-link
}

// snapshot is what the workers read: replaced as a whole.
type snapshot struct {
	ifaces   [frame.MaxNets]*Interface // by network; the uplink at NoNet
	fib      *bart.Table[*Route]
	neigh    neighTable
	pmtu     *pmtuCache   // shared by all snapshots
	host     frame.Addr   // the host port's address; 0 for none
	hostPort frame.PortID // and the port
}

// Router is the routing stages and the state behind them.
type Router struct {
	snap atomic.Pointer[snapshot]

	mu            sync.Mutex // everything below, and writers of snap
	neigh         map[neighKey]*neighbor
	bucket        [frame.MaxPorts]bucket     // what each port may ask of the housekeeper
	errors        bucket                     // ICMP errors, all ports together
	queuedBytes   int                        // bytes of frames that wait for a neighbor
	queuedBytesOf [frame.MaxPorts]int        // likewise, by the port that they came from
	errorsOf      [frame.MaxPorts]bucket     // ICMP errors by port
	defended      map[frame.NetID]frame.Tick // when the gateway last defended its address
	rng           uint64                     // state of mayError's randomness
}

// New makes a router without interfaces.
func New() *Router {
	r := &Router{neigh: map[neighKey]*neighbor{}, defended: map[frame.NetID]frame.Tick{}, rng: 1}
	r.snap.Store(&snapshot{fib: &bart.Table[*Route]{}, pmtu: &pmtuCache{}})
	return r
}

// update replaces the snapshot by a copy that edit has changed; mu is held.
func (r *Router) update(edit func(*snapshot)) {
	next := *r.snap.Load()
	edit(&next)
	r.snap.Store(&next)
}

// SetInterface adds or replaces a leg and its on-link route. The uplink brings the default route.
func (r *Router) SetInterface(i Interface) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) {
		if old := s.ifaces[i.Net]; old != nil && old.Prefix != i.Prefix {
			s.fib = s.fib.DeletePersist(old.Prefix)
		}
		s.ifaces[i.Net] = &i
		s.fib = s.fib.InsertPersist(i.Prefix, &Route{Prefix: i.Prefix, Egress: i.Net})
	})
}

// SetHost says which station behind which port is the host, which isolated networks reach and are reached by.
func (r *Router) SetHost(a frame.Addr, id frame.PortID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.host, s.hostPort = a, id })
}

// DeleteInterface removes a leg, its routes and its neighbors. Frames that wait for one are dropped.
func (r *Router) DeleteInterface(id frame.NetID, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.neigh, func(k neighKey, n *neighbor) bool {
		if k.net == id {
			r.dropQueue(n, out)
		}
		return k.net == id
	})
	r.update(func(s *snapshot) {
		s.ifaces[id] = nil
		for p, rt := range r.snap.Load().fib.All() {
			if rt.Egress == id {
				s.fib = s.fib.DeletePersist(p)
			}
		}
		s.neigh = r.neighTable()
	})
}

// Interface returns the leg in a network, or the uplink for NoNet.
func (r *Router) Interface(id frame.NetID) (Interface, bool) {
	if i := r.snap.Load().ifaces[id]; i != nil {
		return *i, true
	}
	return Interface{}, false
}

// AddRoute adds or replaces a route.
func (r *Router) AddRoute(rt Route) error {
	if !rt.Prefix.Addr().Is4() {
		return fmt.Errorf("router: %s is not an IPv4 prefix", rt.Prefix)
	}
	rt.Prefix = rt.Prefix.Masked()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.snap.Load().ifaces[rt.Egress] == nil && (rt.Kind == Unicast || rt.Kind == Local) {
		return fmt.Errorf("router: the route to %s leads to a network that does not exist", rt.Prefix)
	}
	r.update(func(s *snapshot) { s.fib = s.fib.InsertPersist(rt.Prefix, &rt) })
	return nil
}

// DeleteRoute removes the route to exactly this prefix and tells whether there was one.
func (r *Router) DeleteRoute(p netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.snap.Load().fib.Get(p.Masked())
	if ok {
		r.update(func(s *snapshot) { s.fib = s.fib.DeletePersist(p.Masked()) })
	}
	return ok
}

// Routes lists the table in order of prefixes.
func (r *Router) Routes() []Route {
	var out []Route
	for _, rt := range r.snap.Load().fib.AllSorted4() {
		out = append(out, *rt)
	}
	return out
}

// Lookup returns the route that a packet to a would take.
func (r *Router) Lookup(a frame.Addr) (Route, bool) {
	if rt, ok := r.snap.Load().fib.Lookup(a.Netip()); ok {
		return *rt, true
	}
	return Route{}, false
}

// bucket is a token bucket: what one source may ask for per second.
type bucket struct {
	tokens int32
	last   frame.Tick
}

// take spends one token of at most burst, filled at rate per second.
func (b *bucket) take(now frame.Tick, rate, burst int32) bool {
	if b.last == 0 || now-b.last > 10*frame.TicksPerSecond {
		b.tokens, b.last = burst, now
	}
	if n := int32(now-b.last) * rate / frame.TicksPerSecond; n > 0 {
		b.tokens, b.last = min(b.tokens+n, burst), now
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}
