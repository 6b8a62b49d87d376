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
	"github.com/uvswitch/uvswitch/internal/share"
)

// An Interface is the router's interface in one network or, with Net NoNet, on the uplink.
type Interface struct {
	Net     frame.NetID
	Addr    frame.Addr   // the gateway's address; on the uplink the source address of packets that leave
	Prefix  netip.Prefix // the on-link prefix; on the uplink 0.0.0.0/0
	Addr6   frame.Addr6  // likewise of IPv6; ::, if there is none
	Prefix6 netip.Prefix // likewise; on the uplink ::/0
	MAC     frame.MAC
	MTU     int // longest IP packet, bytes
	Advertising
	Internal bool // the network has no traffic with other networks or the uplink
	Isolated bool // the network reaches the uplink but no other network
	Keeps6   bool // IPv6 packets leave with an address of the network, and not with Addr6 of the uplink
	// The following fields are for the uplink only.
	Port    frame.PortID // the port to send by
	PeerMAC frame.MAC    // the next hop; 0 where the uplink's programs find it
	Up      bool
	Up6     bool // IPv6 leads out; packets need a source besides: see LeadsOut6
	MTU6    int  // likewise, longest IPv6 packet, bytes
}

// HasIPv6 reports whether the router speaks IPv6 there.
func (i *Interface) HasIPv6() bool { return i.Prefix6.IsValid() }

// LeadsOut6 reports whether IPv6 packets of a network leave by the uplink.
func (i *Interface) LeadsOut6(uplink *Interface) bool {
	return !i.Internal && uplink != nil && uplink.Up6 && (i.Keeps6 || !uplink.Addr6.IsZero())
}

// RouteKind is the type of a route, by the names of `ip route`.
type RouteKind uint8

const (
	Unicast     RouteKind = iota
	Local                 // an address of the host itself, reached by the host port
	Blackhole             // dropped without an ICMP error
	Unreachable           // ICMP 3/1, ICMPv6 1/3
	Prohibit              // ICMP 3/13, ICMPv6 1/1
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
	NextHop netip.Addr  // not valid: the destination is on-link
	MTU     int         // of this route, in bytes; 0: its interface's
	Kept    bool        // follows the host: no static route
}

// An entry is a route as the workers read it.
type entry struct {
	Route
	hop  frame.Addr // NextHop, of either family
	hop6 frame.Addr6
}

func entryOf(rt Route) *entry {
	return &entry{Route: rt, hop: frame.AddrFrom(rt.NextHop), hop6: frame.Addr6From(rt.NextHop)}
}

// snapshot is the state that the workers read. Writers replace it as a whole.
type snapshot struct {
	ifaces   [frame.MaxNets]*Interface // by network; the uplink has index NoNet
	fib      *bart.Table[*entry]
	neigh    *neighTable[frame.Addr]
	neigh6   *neighTable[frame.Addr6]
	pmtu     *pmtuCache            // what ICMP errors from outside have said, for MSS; shared by all snapshots
	ways     *pmtuCache            // what the host's ways out have said; likewise
	wayMTU   func(frame.Addr) int  // see SetWayMTU
	routeMTU *bart.Table[int]      // MTUs of the host's routes, in bytes; nil: no route has one
	ipsec    *bart.Table[struct{}] // destinations that packets may reach by IPsec only; nil: none
	host     frame.Addr            // address of the host port; 0 for none
	host6    frame.Addr6           // likewise
	hostPort frame.PortID          // the host port
	service  Service               // of the gateways; nil: none
}

// Router has the routing stages and their state.
type Router struct {
	snap   atomic.Pointer[snapshot]
	queued atomic.Int64 // frames that wait for a neighbor

	mu           sync.Mutex // Lock 70: protects everything below and writes of snap
	neigh        map[neighKey]*neighbor
	dry          bool // see DryRun: the workers' tables stay as they are
	evictedAt    [frame.MaxPorts]frame.Tick
	unresolvedOf [frame.MaxPorts]int       // entries of neigh without an answer that are charged to each port
	incompleteOf [frame.MaxPorts]int       // those of them that are looked for
	bucket       [frame.MaxPorts]bucket    // limits what each port sends to the slow path
	service      Service                   // nil: the gateways serve nothing
	served       [frame.MaxPorts]bucket    // limits what each port sends to the service
	errorsOf     [frame.MaxPorts]bucket    // limits ICMP errors by ingress port
	assemblies   map[assemblyKey]*assembly // packets to the gateway that come in fragments
	shares       shares
	defended     map[frame.NetID]frame.Tick  // when the gateway last defended its address, by network
	advertisers  map[frame.NetID]*advertiser // router advertisements, by network
	rng          uint64                      // state of allowError's random numbers
	fragmentID   uint32                      // of the last IPv6 packet that the gateway has cut
}

// shares say who holds how much of what the slow path keeps.
type shares struct {
	neighbors  share.Pool
	queue      share.Pool // bytes of frames queued for neighbors, by ingress port
	assemblies share.Pool
}

// Queued is how many frames wait for a neighbor.
func (r *Router) Queued() int64 { return r.queued.Load() }

// DivideAmong sets among whom these are divided.
func (r *Router) DivideAmong(a share.Among) { r.shares.divide(a) }

func (s *shares) divide(a share.Among) {
	s.queue.Divide(maxQueueBytes, a, maxQueueBytes/8)
	s.neighbors.Divide(maxNeighbors, a, maxOfPort)
	s.assemblies.Divide(maxAssemblies, a, assembliesOfPort)
}

// SettleShares counts the shares again. The slow path calls it now and then: see share.Pool.
func (r *Router) SettleShares() {
	r.shares.queue.Settle()
	r.shares.assemblies.Settle()
	r.shares.neighbors.Settle()
}

// New returns a router without interfaces.
func New() *Router {
	r := &Router{neigh: map[neighKey]*neighbor{}, assemblies: map[assemblyKey]*assembly{}, defended: map[frame.NetID]frame.Tick{}, advertisers: map[frame.NetID]*advertiser{}, rng: rand.Uint64(), fragmentID: rand.Uint32()}
	r.DivideAmong(share.Among{})
	r.snap.Store(&snapshot{fib: &bart.Table[*entry]{}, pmtu: &pmtuCache{}, ways: &pmtuCache{}, wayMTU: func(frame.Addr) int { return 65535 }})
	r.update(r.fillNeighbors)
	return r
}

// update replaces the snapshot with a copy that edit has changed. The caller must hold mu.
func (r *Router) update(edit func(*snapshot)) {
	next := *r.snap.Load()
	edit(&next)
	r.snap.Store(&next)
}

// SetInterface adds or replaces an interface and its on-link route. For the uplink that is the default route. A route that AddRoute has put in
// the place of the on-link route stays.
func (r *Router) SetInterface(i Interface) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) {
		was := Interface{}
		if old := s.ifaces[i.Net]; old != nil {
			was = *old
		}
		s.ifaces[i.Net] = &i
		for _, p := range [...][2]netip.Prefix{{was.Prefix, i.Prefix}, {was.Prefix6, i.Prefix6}} {
			if p[0] == p[1] {
				continue
			}
			if p[0].IsValid() {
				s.fib = s.fib.DeletePersist(p[0])
			}
			if p[1].IsValid() {
				s.fib = s.fib.InsertPersist(p[1], entryOf(Route{Prefix: p[1], Egress: i.Net}))
			}
		}
	})
}

// SetHost sets the addresses of the host and the port of the host. Isolated networks may exchange packets with the
// host.
func (r *Router) SetHost(a frame.Addr, a6 frame.Addr6, id frame.PortID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.host, s.host6, s.hostPort = a, a6, id })
}

// SetWayMTU sets the function that returns the MTU of the host's way to an address outside, in bytes, as far as it is known.
func (r *Router) SetWayMTU(mtu func(frame.Addr) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(func(s *snapshot) { s.wayMTU = mtu })
}

// ForgetWays forgets the MTUs of the host's ways to addresses outside: its devices or routes have changed. The first long packet of each way finds
// the MTU out again.
func (r *Router) ForgetWays() { r.snap.Load().ways.clear() }

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
			r.removeNeighbor(n)
		}
	}
	r.leave(r.snap.Load().ifaces[id], out)
	r.update(func(s *snapshot) {
		s.ifaces[id] = nil
		for p, rt := range r.snap.Load().fib.All() {
			if rt.Egress == id {
				s.fib = s.fib.DeletePersist(p)
			}
		}
	})
}

// Interface returns the interface in a network, or the uplink for NoNet.
func (r *Router) Interface(id frame.NetID) (Interface, bool) {
	if i := r.snap.Load().ifaces[id]; i != nil {
		return *i, true
	}
	return Interface{}, false
}

// AddRoute adds or replaces a route. It fails if a unicast or local route leads to a network that does not exist.
func (r *Router) AddRoute(rt Route) error {
	rt.Prefix = rt.Prefix.Masked()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.snap.Load().ifaces[rt.Egress] == nil && (rt.Kind == Unicast || rt.Kind == Local) {
		return fmt.Errorf("router: the route to %s leads to a network that does not exist", rt.Prefix)
	}
	r.update(func(s *snapshot) { s.fib = s.fib.InsertPersist(rt.Prefix, entryOf(rt)) })
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

// Routes returns all routes, IPv4's first, sorted by prefix.
func (r *Router) Routes() []Route {
	var out []Route
	for _, rt := range r.snap.Load().fib.AllSorted() {
		out = append(out, rt.Route)
	}
	return out
}

// Lookup returns the route of a packet to address a.
func (r *Router) Lookup(a netip.Addr) (Route, bool) {
	if rt, ok := r.snap.Load().fib.Lookup(a); ok {
		return rt.Route, true
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
