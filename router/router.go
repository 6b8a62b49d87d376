package router

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Interface is the router's interface in one network or, with Net NoNet, on the uplink.
type Interface struct {
	Net      frame.NetID
	Addr     frame.Addr   // the gateway's address; on the uplink the source address of packets that leave
	Prefix   netip.Prefix // the on-link prefix; on the uplink 0.0.0.0/0
	MAC      frame.MAC
	MTU      int  // longest IP packet, bytes
	Internal bool // the network has no traffic with other networks or the uplink
	Isolated bool // the network reaches the uplink but no other network
	// The following fields are for the uplink only.
	Port    frame.PortID // the port to send by
	PeerMAC frame.MAC    // the next hop; 0 where the uplink's programs find it
	Up      bool
}

// RouteKind is the type of a route, by the names of `ip route`.
type RouteKind uint8

const (
	Unicast     RouteKind = iota
	Local                 // an address of the host itself, reached by the host port
	Blackhole             // dropped without an ICMP error
	Unreachable           // ICMP 3/1
	Prohibit              // ICMP 3/13
)

var routeKinds = [...]string{"unicast", "local", "blackhole", "unreachable", "prohibit"}

func (k RouteKind) String() string { return routeKinds[k] }

// ParseRouteKind returns the kind with name s, if a user may add routes of that kind; "" is unicast.
func ParseRouteKind(s string) (RouteKind, bool) {
	if s == "" {
		return Unicast, true
	}
	i := slices.Index(routeKinds[:], s)
	return RouteKind(max(i, 0)), i >= 0 && RouteKind(i) != Local
}

// A Route says how packets to Prefix are forwarded.
type Route struct {
	Prefix  netip.Prefix
	Kind    RouteKind
	Egress  frame.NetID // NoNet: the uplink
	NextHop frame.Addr  // 0: the destination is on-link
	MTU     int         // of this route, in bytes; 0: its interface's
	Kept    bool        // follows the host: no static route
}

// snapshot is the state that the workers read. Writers replace it as a whole.
type snapshot struct {
	ifaces   [frame.MaxNets]*Interface // by network; the uplink has index NoNet
	fib      *bart.Table[*Route]
	neigh    neighTable
	pmtu     *pmtuCache            // what ICMP errors from outside have said, for MSS; shared by all snapshots
	ways     *pmtuCache            // what the host's ways out have said; likewise
	wayMTU   func(frame.Addr) int  // see SetWayMTU
	routeMTU *bart.Table[int]      // MTUs of the host's routes, in bytes; nil: no route has one
	ipsec    *bart.Table[struct{}] // destinations that packets may reach by IPsec only; nil: none
	host     frame.Addr            // address of the host port; 0 for none
	hostPort frame.PortID          // the host port
}

// Router has the routing stages and their state.
type Router struct {
	snap atomic.Pointer[snapshot]

	mu            sync.Mutex // Lock 70: protects everything below and writes of snap
	neigh         map[neighKey]*neighbor
	neighborsOf   [frame.MaxPorts]int        // entries of neigh charged to each port
	unresolvedOf  [frame.MaxPorts]int        // those without an answer
	incompleteOf  [frame.MaxPorts]int        // those of them that are looked for
	bucket        [frame.MaxPorts]bucket     // limits what each port sends to the slow path
	errors        bucket                     // limits ICMP errors, all ports together
	queuedBytes   int                        // bytes of frames queued for neighbors
	queuedBytesOf [frame.MaxPorts]int        // likewise, by ingress port
	errorsOf      [frame.MaxPorts]bucket     // limits ICMP errors by ingress port
	assemblies    map[assemblyKey]*assembly  // packets to the gateway that come in fragments
	defended      map[frame.NetID]frame.Tick // when the gateway last defended its address, by network
	rng           uint64                     // state of allowError's random numbers
}

// New returns a router without interfaces.
func New() *Router {
	r := &Router{neigh: map[neighKey]*neighbor{}, assemblies: map[assemblyKey]*assembly{}, defended: map[frame.NetID]frame.Tick{}, rng: rand.Uint64()}
	r.snap.Store(&snapshot{fib: &bart.Table[*Route]{}, pmtu: &pmtuCache{}, ways: &pmtuCache{}, wayMTU: func(frame.Addr) int { return 65535 }})
	return r
}

// update replaces the snapshot with a copy that edit has changed. The caller must hold mu.
func (r *Router) update(edit func(*snapshot)) {
	next := *r.snap.Load()
	edit(&next)
	r.snap.Store(&next)
}

// SetInterface adds or replaces an interface and its on-link route. For the uplink that is the default route.
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

// SetHost sets the address of the host and the port of the host. Isolated networks may exchange packets with the
// host.
func (r *Router) SetHost(a frame.Addr, id frame.PortID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.host, s.hostPort = a, id })
}

// SetWayMTU sets the function that returns the MTU of the host's way to an address outside, in bytes, as far as it is known.
func (r *Router) SetWayMTU(mtu func(frame.Addr) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.wayMTU = mtu })
}

// SetRouteMTUs sets the MTUs of the host's routes, in bytes, by prefix. The kernel tells only those that are locked.
func (r *Router) SetRouteMTUs(of map[netip.Prefix]int) {
	var t *bart.Table[int]
	if len(of) > 0 {
		t = &bart.Table[int]{}
		for p, mtu := range of {
			t.Insert(p, mtu)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.routeMTU = t })
}

// SetIPsec sets the destinations outside that the host's IPsec policies protect. Packets to these would leave in the clear: they are refused.
func (r *Router) SetIPsec(to []netip.Prefix) {
	var t *bart.Table[struct{}]
	if len(to) > 0 {
		t = &bart.Table[struct{}]{}
		for _, p := range to {
			t.Insert(p, struct{}{})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.ipsec = t })
}

// DeleteInterface removes an interface, its routes and its neighbors. Frames that are queued for these neighbors are
// dropped.
func (r *Router) DeleteInterface(id frame.NetID, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, n := range r.neigh {
		if k.net == id {
			r.dropQueue(n, out)
			r.removeNeighbor(k, n)
		}
	}
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

// Interface returns the interface in a network, or the uplink for NoNet.
func (r *Router) Interface(id frame.NetID) (Interface, bool) {
	if i := r.snap.Load().ifaces[id]; i != nil {
		return *i, true
	}
	return Interface{}, false
}

// AddRoute adds or replaces a route. It fails if the prefix is not IPv4, or if a unicast or local route leads to a
// network that does not exist.
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

// DeleteRoute removes the route to exactly this prefix and reports whether it existed.
func (r *Router) DeleteRoute(p netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.snap.Load().fib.Get(p.Masked())
	if ok {
		r.update(func(s *snapshot) { s.fib = s.fib.DeletePersist(p.Masked()) })
	}
	return ok
}

// Routes returns all routes, sorted by prefix.
func (r *Router) Routes() []Route {
	var out []Route
	for _, rt := range r.snap.Load().fib.AllSorted4() {
		out = append(out, *rt)
	}
	return out
}

// Lookup returns the route of a packet to address a.
func (r *Router) Lookup(a frame.Addr) (Route, bool) {
	if rt, ok := r.snap.Load().fib.Lookup(a.Netip()); ok {
		return *rt, true
	}
	return Route{}, false
}

// bucket is a token bucket: it limits what one source may ask for per second.
type bucket struct {
	tokens int32
	last   frame.Tick
}

// take spends one token and reports whether there was one. The bucket holds at most burst tokens and gains rate
// tokens per second.
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
