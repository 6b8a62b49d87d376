package nat

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Mapping says what outside port an endpoint has, by the names of RFC 4787, 4.1.
type Mapping uint8

const (
	EndpointIndependentMapping Mapping = iota // the same whatever it speaks to
	// Outside ports are shared by flows that differ in whom they speak to: there can be more flows than ports.
	AddressAndPortDependentMapping
)

// A Filtering says who outside may send to an endpoint's outside port, by the names of RFC 4787, 5.
type Filtering uint8

const (
	AddressAndPortDependentFiltering Filtering = iota // whom it has sent to
	AddressDependentFiltering                         // from any port
	EndpointIndependentFiltering                      // anybody
)

var (
	mappingNames   = [...]string{"endpoint-independent", "address-and-port-dependent"}
	filteringNames = [...]string{"address-and-port-dependent", "address-dependent", "endpoint-independent"}
)

func (m Mapping) String() string   { return mappingNames[m] }
func (f Filtering) String() string { return filteringNames[f] }

// MappingNames and FilteringNames list the names that ParseMapping and ParseFiltering read.
func MappingNames() []string   { return slices.Clone(mappingNames[:]) }
func FilteringNames() []string { return slices.Clone(filteringNames[:]) }

// ParseMapping reads a name; the empty one is the default.
func ParseMapping(s string) (Mapping, error) {
	i, err := parseName("mapping", s, mappingNames[:])
	return Mapping(i), err
}

// ParseFiltering reads a name; the empty one is the default.
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

// endpoint stands beside an entry of maps, whose keys are an inside endpoint and its outside one. A permission is an
// entry, too, by which an address-dependent filter knows to whom an endpoint has spoken; its keys name that address
// besides.
type endpoint struct {
	refs    atomic.Int32  // flows that use it, and permissions
	expires atomic.Uint32 // a Tick: how long it lets others in; kept where the filter does
	parent  uint32        // of a permission: the mapping, which it holds
	owner   frame.PortID  // who is charged
	net     frame.NetID
}

// Both keys of a mapping and of a permission for a remote address. The inside key of a mapping names the host's
// address as destination, so that it is another's when that changes.
func insideKey(c *config, t *frame.Tuple) frame.Tuple {
	return frame.Tuple{Src: t.Src, SrcPort: t.SrcPort, Dst: c.External, Proto: t.Proto}
}

func outsideKey(c *config, port uint16, proto uint8) frame.Tuple {
	return frame.Tuple{Src: c.External, SrcPort: port, Proto: proto}
}

func permissionKey(k frame.Tuple, remote frame.Addr) frame.Tuple {
	k.Dst, k.DstPort = remote, 1
	return k
}

// acquire returns the mapping of the inside endpoint that t has as its source, with one more user, making it when there is none: the same
// endpoint has the same outside port whatever it speaks to (RFC 4787, REQ-1; RFC 5382, REQ-1).
func (n *NAT) acquire(c *config, t *frame.Tuple, owner frame.PortID, net frame.NetID, dry bool) (m uint32, port uint16, why frame.Reason) {
	inside := insideKey(c, t)
	h := inside.Hash(n.maps.seed)
	i, relieved := protoIndex(t.Proto), false
	for range retries {
		if m, _, ok := n.maps.lookup(&inside, h); ok {
			if dry || n.retain(m) {
				return m, n.maps.keys[m][1].SrcPort, frame.None
			}
			continue // its last user has just left; it will be gone
		}
		if n.maps.probe(inside) != inserted {
			continue // another worker is making it
		}
		port, charged, ok := n.choose(c, i, inside, owner, dry)
		switch {
		case !ok && !relieved && n.evictFor(i, owner, dry):
			relieved = true // once: what it ended may be of no use here
			if dry {        // an example of what it would get
				return 0, n.randomPort(c.pool[i]), frame.None
			}
			continue
		case !ok:
			return 0, 0, frame.NATPortsExhausted
		case dry:
			return 0, port, frame.None
		}
		if !charged {
			n.ports[i].heldBy[owner].Add(1)
		}
		m, out := n.newMapping(inside, outsideKey(c, port, t.Proto), 0, owner, net)
		if out == inserted {
			return m, port, frame.None
		}
		n.releasePort(i, port, owner, t.Src)
		if out == full {
			return 0, 0, frame.FlowTableFull
		}
	}
	return 0, 0, frame.FlowBusy
}

// retries bounds how often an operation is tried anew that met another worker's. That one is between two atomic
// operations.
const retries = 256

// newMapping enters a mapping or a permission with one user.
func (n *NAT) newMapping(inside, outside frame.Tuple, parent uint32, owner frame.PortID, net frame.NetID) (uint32, outcome) {
	m, ok := n.maps.alloc(inside, outside)
	if !ok {
		return 0, full
	}
	s := &n.mappings[m]
	s.refs.Store(1)
	s.expires.Store(n.now.Load())
	s.parent, s.owner, s.net = parent, owner, net
	_, _, out := n.maps.insert(m)
	return m, out
}

// permit notes that mapping m's endpoint speaks to remote: the permission takes over the caller's hold on m.
func (n *NAT) permit(m uint32, remote frame.Addr) (uint32, frame.Reason) {
	k := permissionKey(n.maps.keys[m][0], remote)
	h := k.Hash(n.maps.seed)
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
		}
	}
	n.release(m)
	return 0, frame.FlowBusy
}

// hold adds a user to a mapping unless its last one has left.
func (n *NAT) retain(m uint32) bool {
	for {
		r := n.mappings[m].refs.Load()
		if r == 0 {
			return false
		}
		if n.mappings[m].refs.CompareAndSwap(r, r+1) {
			return true
		}
	}
}

// drop takes a user away; the last one ends the mapping, or the permission.
func (n *NAT) release(m uint32) {
	s := &n.mappings[m]
	if s.refs.Add(-1) != 0 {
		return
	}
	inside, outside, parent, owner := n.maps.keys[m][0], n.maps.keys[m][1], s.parent, s.owner
	if !n.maps.unlink(m) {
		return
	}
	if parent != 0 {
		n.release(parent)
		return
	}
	n.releasePort(protoIndex(outside.Proto), outside.SrcPort, owner, inside.Src)
}

// admits finds the mapping of outside port t.DstPort, through which a packet that no flow wants may go in: from outside by
// the filter of its network (RFC 4787, REQ-8), from inside always (hairpinning, REQ-9): who may not reach the other
// container is stopped by the router. m is 0 when there is none.
func (n *NAT) findInbound(c *config, t *frame.Tuple, outside bool, now frame.Tick) (m uint32, ok bool) {
	if i := protoIndex(t.Proto); i < 0 || i == icmp {
		return 0, false
	}
	k := outsideKey(c, t.DstPort, t.Proto)
	m, _, ok = n.maps.lookup(&k, k.Hash(n.maps.seed))
	if !ok || !outside {
		return m, ok
	}
	rule := c.masq[n.mappings[m].net]
	if rule == nil || rule.Filtering == AddressAndPortDependentFiltering || int32(now-frame.Tick(n.mappings[m].expires.Load())) >= 0 {
		return m, false
	}
	if rule.Filtering == AddressDependentFiltering {
		k = permissionKey(k, t.Src)
		_, _, ok = n.maps.lookup(&k, k.Hash(n.maps.seed))
	}
	return m, ok
}
