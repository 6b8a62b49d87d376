package nat

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Mapping is the rule by which an inside endpoint gets its outside port, by the names of RFC 4787, 4.1.
type Mapping uint8

const (
	EndpointIndependentMapping Mapping = iota // the same outside port for every destination
	// Flows to different destinations may share an outside port, so there can be more flows than ports.
	AddressAndPortDependentMapping
)

// A Filtering is the rule which remote endpoints may send to an outside port, by the names of RFC 4787, 5.
type Filtering uint8

const (
	AddressAndPortDependentFiltering Filtering = iota // endpoints that the inside endpoint has sent to
	AddressDependentFiltering                         // any port of an address that it has sent to
	EndpointIndependentFiltering                      // any endpoint
)

var (
	mappingNames   = [...]string{"endpoint-independent", "address-and-port-dependent"}
	filteringNames = [...]string{"address-and-port-dependent", "address-dependent", "endpoint-independent"}
)

func (m Mapping) String() string   { return mappingNames[m] }
func (f Filtering) String() string { return filteringNames[f] }

// MappingNames and FilteringNames return the names that ParseMapping and ParseFiltering accept.
func MappingNames() []string   { return slices.Clone(mappingNames[:]) }
func FilteringNames() []string { return slices.Clone(filteringNames[:]) }

// ParseMapping returns the Mapping with name s; the empty name is the default.
func ParseMapping(s string) (Mapping, error) {
	i, err := parseName("mapping", s, mappingNames[:])
	return Mapping(i), err
}

// ParseFiltering returns the Filtering with name s; the empty name is the default.
func ParseFiltering(s string) (Filtering, error) {
	i, err := parseName("filtering", s, filteringNames[:])
	return Filtering(i), err
}

func parseName(what, s string, names []string) (int, error) {
	if i := slices.Index(names, s); i >= 0 || s == "" {
		return max(i, 0), nil
	}
	return 0, fmt.Errorf("%s %q: must be one of %s", what, s, strings.Join(names, ", "))
}

// endpoint is the state of one entry of maps. The keys of a mapping are an inside endpoint and its outside endpoint.
// A permission is also an entry of maps: it records a remote address that an endpoint has sent to, for
// address-dependent filtering. The keys of a permission contain that address, too.
type endpoint struct {
	refs    atomic.Int32  // number of flows and permissions that use it; ended: see there
	expires atomic.Uint32 // a Tick: until then other endpoints may send in; kept up only if the filtering allows that
	parent  uint32        // of a permission: the mapping that it retains; 0 for a mapping
	owner   frame.PortID  // the port charged for it
	net     frame.NetID
}

// insideKey and outsideKey are the keys of a mapping; permissionKey makes the keys of a permission from them. The
// destination of the inside key is the host's address: an inside endpoint has a mapping for each address by which it leaves.
func insideKey[A frame.Address](own A, t *frame.TupleOf[A]) frame.TupleOf[A] {
	return frame.TupleOf[A]{Src: t.Src, SrcPort: t.SrcPort, Dst: own, Proto: t.Proto}
}

func outsideKey[A frame.Address](own A, port uint16, proto uint8) frame.TupleOf[A] {
	return frame.TupleOf[A]{Src: own, SrcPort: port, Proto: proto}
}

func permissionKey[A frame.Address](k frame.TupleOf[A], remote A) frame.TupleOf[A] {
	k.Dst, k.DstPort = remote, 1
	return k
}

// acquire returns the mapping of the inside endpoint t.Src, t.SrcPort at the host's address a, with one more reference, and its outside
// port. It creates the mapping if none exists: the same endpoint has the same outside port for every destination (RFC 4787,
// REQ-1; RFC 5382, REQ-1). With evict, it makes room if there is no port. A dry call changes nothing.
func (n *tracker[A]) acquire(c *config[A], a *hostAddr[A], d *pendingFlow[A], evict, dry bool) (m uint32, port uint16, why frame.Reason) {
	t, owner, net := &d.orig, d.port, d.net
	inside := insideKey(a.addr, t)
	h := inside.Hash(n.maps.seed)
	i, madeRoom, madeMapping := protoIndex(t.Proto), !evict, false
	for range retries {
		if m, _, ok := n.maps.lookup(&inside, h); ok {
			if dry || n.retain(m) {
				return m, n.maps.keys[m][1].SrcPort, frame.None
			}
			continue // its last user has just left; the entry is about to be removed
		}
		if n.maps.probe(inside) != inserted {
			continue // another worker is inserting it
		}
		if !n.mapShares.May(owner) {
			if madeMapping || !n.evictFor(i, owner, dry) {
				return 0, 0, frame.FlowQuota
			}
			if madeMapping = true; dry { // an example
				return 0, n.randomPort(c.pool[i]), frame.None
			}
			continue
		}
		port, ok := n.choose(c, a, i, d, dry)
		switch {
		case !ok && !madeRoom && n.evictFor(i, owner, dry):
			madeRoom = true // once: the ports of the evicted flows may not fit here
			if dry {        // an example of the port that it would get
				return 0, n.randomPort(c.pool[i]), frame.None
			}
			continue
		case !ok:
			return 0, 0, frame.NATPortsExhausted
		case dry:
			return 0, port, frame.None
		}
		m, out := n.newMapping(inside, outsideKey(a.addr, port, t.Proto), 0, owner, net)
		if out == inserted {
			return m, port, frame.None
		}
		n.releasePort(a.addr, i, port, owner, t.Src)
		switch out {
		case full:
			return 0, 0, frame.FlowTableFull
		case refused:
			return 0, 0, frame.FlowQuota
		}
	}
	return 0, 0, frame.FlowBusy
}

// retries bounds how often an operation is repeated because another worker's operation on the same key is unfinished.
// The other worker is then between two atomic operations.
const retries = 256

// newMapping inserts a mapping, or with parent a permission, with one reference.
func (n *tracker[A]) newMapping(inside, outside frame.TupleOf[A], parent uint32, owner frame.PortID, net frame.NetID) (uint32, outcome) {
	if !n.mapShares.Take(owner) {
		return 0, refused
	}
	m, ok := n.maps.alloc(inside, outside)
	if !ok {
		n.mapShares.Return(owner)
		return 0, full
	}
	s := &n.mappings[m]
	s.refs.Store(1)
	s.expires.Store(n.now.Load())
	s.parent, s.owner, s.net = parent, owner, net
	_, _, out := n.maps.insert(m)
	if out != inserted {
		n.mapShares.Return(owner)
		n.endedMaps.Charge(owner)
	}
	return m, out
}

// permit returns the permission of mapping m for the address remote, with one more reference, and creates it if none
// exists. The permission takes over the caller's reference to m. On failure permit releases m.
func (n *tracker[A]) permit(m uint32, remote A) (uint32, frame.Reason) {
	k := permissionKey(n.maps.keys[m][0], remote)
	h, madeRoom := k.Hash(n.maps.seed), false
	for range retries {
		if p, _, ok := n.maps.lookup(&k, h); ok {
			if n.retain(p) {
				n.release(m)
				return p, frame.None
			}
			continue
		}
		if n.maps.probe(k) != inserted {
			continue
		}
		p, out := n.newMapping(k, permissionKey(n.maps.keys[m][1], remote), m, n.mappings[m].owner, n.mappings[m].net)
		switch out {
		case inserted:
			return p, frame.None
		case full:
			n.release(m)
			return 0, frame.FlowTableFull
		case refused:
			if owner := n.mappings[m].owner; !madeRoom && owner < frame.MaxPorts {
				madeRoom = true
				n.evictFor(protoIndex(k.Proto), owner, false)
				continue
			}
			n.release(m)
			return 0, frame.FlowQuota
		}
	}
	n.release(m)
	return 0, frame.FlowBusy
}

// retain adds a reference to a mapping or permission, unless the last one has been released.
func (n *tracker[A]) retain(m uint32) bool {
	for {
		r := n.mappings[m].refs.Load()
		if r <= 0 {
			return false
		}
		if n.mappings[m].refs.CompareAndSwap(r, r+1) {
			return true
		}
	}
}

// ended are the references of a mapping that has ended, and for whose grace period nobody is charged.
const ended = -1

// release removes a reference; releasing the last one removes the mapping or permission.
func (n *tracker[A]) release(m uint32) { n.releaseFor(m, replaced) }

func (n *tracker[A]) releaseFor(m uint32, why ending) {
	s := &n.mappings[m]
	if s.refs.Add(-1) != 0 {
		return
	}
	inside, outside, parent, owner := n.maps.keys[m][0], n.maps.keys[m][1], s.parent, s.owner
	if !n.maps.unlink(m) {
		return
	}
	if why.isCharged() { // as in end
		n.endedMaps.Charge(owner)
	} else {
		s.refs.Store(ended)
	}
	if n.mapShares.Return(owner); parent != 0 {
		n.releaseFor(parent, why)
		return
	}
	n.releasePort(outside.Src, protoIndex(outside.Proto), outside.SrcPort, owner, inside.Src)
}

// findInbound returns the mapping of outside port t.DstPort for a packet that belongs to no flow, and whether the
// packet may use it. From outside, the filtering of the mapping's network decides (RFC 4787, REQ-8). From inside, the
// packet always may (hairpinning, REQ-9); the router drops it if it may not reach the other container. m is 0 when no
// mapping exists. ending is a flow that is about to end (0: none). The answer is as if it had ended.
func (n *tracker[A]) findInbound(c *config[A], t *frame.TupleOf[A], outside bool, now frame.Tick, ending uint32) (m uint32, ok bool) {
	if i := protoIndex(t.Proto); i < 0 || i == icmp {
		return 0, false
	}
	k := outsideKey(t.Dst, t.DstPort, t.Proto)
	m, _, ok = n.maps.lookup(&k, k.Hash(n.maps.seed))
	if ok && n.endsWith(m, ending) {
		if ok = false; !outside {
			m = 0
		}
	}
	if !ok || !outside {
		return m, ok
	}
	rule := c.masq[n.mappings[m].net]
	if rule == nil || rule.Filtering == AddressAndPortDependentFiltering || int32(now-frame.Tick(n.mappings[m].expires.Load())) >= 0 {
		return m, false
	}
	if rule.Filtering == AddressDependentFiltering {
		k = permissionKey(k, t.Src)
		p, _, permitted := n.maps.lookup(&k, k.Hash(n.maps.seed))
		ok = permitted && !n.endsWith(p, ending)
	}
	return m, ok
}

// endsWith reports whether a mapping or permission ends with flow e, since nothing else uses it.
func (n *tracker[A]) endsWith(m, e uint32) bool {
	if e == 0 {
		return false
	}
	for _, x := range []uint32{n.state[e].mapping, n.state[e].inboundMapping} {
		for ; x != 0 && n.mappings[x].refs.Load() == 1; x = n.mappings[x].parent {
			if x == m {
				return true
			}
		}
	}
	return false
}
