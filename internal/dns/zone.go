package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Network is what its stations are answered.
type Network struct {
	Domain   string                  // its zone, such as default.uvs.internal.
	Prefixes []netip.Prefix          // whose reverse zones are ours
	Names    map[string][]netip.Addr // by name inside the zone, in lower case, such as web
	Reverse  map[netip.Addr]string   // the name that an address has, inside the zone
	Gateways []netip.Addr            // that answer these questions: they are never asked themselves
	Isolated bool                    // other networks cannot be reached from here, and this one not from there
	Local    bool                    // names of others are unknown
	Servers  []netip.AddrPort        // for names of others; nil: those of the host
	parents  map[string]bool         // parts of names behind a dot, such as b of a.b
	short    map[string]*records     // by names without the zone, as messages have them
}

// Zones are all names of a switch.
type Zones struct {
	root     string // of the switch: every network's zone lies in it, unless it has a domain of its own
	device   string // of the host in the switch's networks
	networks map[frame.NetID]*Network
	byDomain map[string]*Network
	gateways map[netip.Addr]bool
	joined   map[frame.PortID][]*Network // other networks in which the container of a port is
	full     map[string]*records         // by whole names, as messages have them
}

// NewZones makes the zones of a switch whose domain is root, such as uvs.internal. Networks that are not there have no names, and get no answers.
// device is the host's device in the networks of the switch.
func NewZones(root, device string, networks map[frame.NetID]*Network) *Zones {
	z := &Zones{root: root, device: device, networks: networks, byDomain: map[string]*Network{}, gateways: map[netip.Addr]bool{}}
	for _, n := range networks {
		z.byDomain[n.Domain] = n
		n.parents = map[string]bool{}
		for name := range n.Names {
			for _, rest, more := strings.Cut(name, "."); more; _, rest, more = strings.Cut(rest, ".") {
				n.parents[rest] = true
			}
		}
		for _, a := range n.Gateways {
			z.gateways[a] = true
		}
	}
	z.fillQuick()
	return z
}

// isGateway reports whether a server is a gateway of ours: the question would come back.
func (z *Zones) isGateway(a netip.Addr) bool {
	a = a.Unmap()
	return z.gateways[a.WithZone("")] || a.Zone() != "" && a.Zone() == z.device
}

// reaches reports whether stations of n reach those of o.
func (n *Network) reaches(o *Network) bool { return n == o || !n.Isolated && !o.Isolated }

// Join says that the container of a port has a port in another network, too: it may ask for the names of both by either port. Join is called
// before the zones are used.
func (z *Zones) Join(port frame.PortID, other frame.NetID) {
	if n := z.networks[other]; n != nil {
		if z.joined == nil {
			z.joined = map[frame.PortID][]*Network{}
		}
		z.joined[port] = append(z.joined[port], n)
	}
}

// An asker is who asks: a station of a network, which may be in others, too.
type asker struct {
	*Network
	others []*Network
}

func (z *Zones) asker(port frame.PortID, net frame.NetID) asker {
	return asker{z.networks[net], z.joined[port]}
}

// reaches reports whether the asker reaches the stations of o.
func (a *asker) reaches(o *Network) bool { return a.Network.reaches(o) || slices.Contains(a.others, o) }

// A finding is what the zones say about a name.
type finding struct {
	ours  bool // else others are asked
	known bool // the name is there, if not of each type
	zone  string
	apex  bool         // the name is that of the zone
	addrs []netip.Addr // for A and AAAA
	ptr   string       // for PTR
}

// find looks a name up. The name is in lower case, and ends with a dot.
func (z *Zones) find(n asker, name string) finding {
	if name == "localhost." || strings.HasSuffix(name, ".localhost.") {
		return finding{ours: true, known: true, zone: name, addrs: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}}
	}
	if label, rest, _ := strings.Cut(name, "."); rest == "" && label != "" { // single labels are never asked for elsewhere
		for _, o := range n.others {
			if n.Names[label] == nil && o.Names[label] != nil {
				return o.find(label, o.Domain)
			}
		}
		return n.Network.find(label, n.Domain)
	}
	for _, o := range append([]*Network{n.Network}, n.others...) {
		if addrs, known := o.Names[strings.TrimSuffix(name, ".")]; known { // a name with dots, without its zone
			return finding{ours: true, known: true, zone: o.Domain, addrs: addrs}
		}
	}
	if o := z.zoneOf(name); o != nil && !n.reaches(o) {
		return finding{ours: true, zone: o.Domain}
	} else if o != nil {
		return o.find(strings.TrimSuffix(strings.TrimSuffix(name, o.Domain), "."), o.Domain)
	}
	if strings.HasSuffix(name, ".arpa.") {
		return z.findReverse(n, name)
	}
	if name == z.root || strings.HasSuffix(name, "."+z.root) {
		return finding{ours: true, known: z.isAbove(n, name), zone: z.root, apex: name == z.root}
	}
	return finding{}
}

// zoneOf is the network with the longest zone that a name is in; nil if it is in none.
func (z *Zones) zoneOf(name string) *Network {
	for domain := name; domain != ""; _, domain, _ = strings.Cut(domain, ".") {
		if n := z.byDomain[domain]; n != nil {
			return n
		}
	}
	return nil
}

// isAbove reports whether the zone of a network that the asker reaches lies below a name.
func (z *Zones) isAbove(n asker, name string) bool {
	for domain, o := range z.byDomain {
		if n.reaches(o) && strings.HasSuffix(domain, "."+name) {
			return true
		}
	}
	return name == z.root
}

// find looks a name inside of the zone up; empty is the zone's own.
func (n *Network) find(name, zone string) finding {
	addrs, named := n.Names[name]
	apex := name == ""
	return finding{ours: true, known: named || apex || n.parents[name], zone: zone, apex: apex, addrs: addrs} // a parent has no addresses (RFC 8020)
}

// findReverse looks a name in in-addr.arpa or ip6.arpa up.
func (z *Zones) findReverse(n asker, name string) finding {
	p, ok := parseReverse(name)
	if !ok {
		return finding{}
	}
	for _, o := range z.networks {
		for _, own := range o.Prefixes {
			if p.Bits() < own.Bits() || !own.Contains(p.Addr()) {
				continue
			}
			f := finding{ours: true, zone: reverseZone(own), known: n.reaches(o)} // a part of a prefix
			f.apex = name == f.zone
			if p.IsSingleIP() {
				label, named := o.Reverse[p.Addr()]
				if f.known = named && n.reaches(o); f.known {
					f.ptr = label + "." + o.Domain
				}
			}
			return f
		}
	}
	return finding{}
}

// parseReverse reads the address, or the prefix, that a name of a reverse zone stands for.
func parseReverse(name string) (p netip.Prefix, ok bool) {
	if digits, is4 := strings.CutSuffix(name, ".in-addr.arpa."); is4 {
		var b [4]byte
		labels := strings.Split(digits, ".")
		if len(labels) > len(b) {
			return p, false
		}
		for i, l := range labels {
			v, err := strconv.ParseUint(l, 10, 8)
			if err != nil || len(l) > 1 && l[0] == '0' {
				return p, false
			}
			b[len(labels)-1-i] = byte(v)
		}
		return netip.PrefixFrom(netip.AddrFrom4(b), 8*len(labels)), true
	}
	if digits, is6 := strings.CutSuffix(name, ".ip6.arpa."); is6 {
		var b [16]byte
		labels := strings.Split(digits, ".")
		if len(labels) > 2*len(b) {
			return p, false
		}
		for i, l := range labels {
			v, err := strconv.ParseUint(l, 16, 4)
			if err != nil || len(l) != 1 {
				return p, false
			}
			at := len(labels) - 1 - i
			b[at/2] |= byte(v) << (4 - 4*(at%2))
		}
		return netip.PrefixFrom(netip.AddrFrom16(b), 4*len(labels)), true
	}
	return p, false
}

// reverseZone is the reverse zone of a prefix; of one that does not end with a label, it is the zone above.
func reverseZone(p netip.Prefix) string {
	name, _, _ := strings.Cut(reverseName(p.Addr()), "arpa.")
	labels, per := strings.Split(strings.TrimSuffix(name, "."), "."), 8
	kind := labels[len(labels)-1]
	if p.Addr().Is6() {
		per = 4
	}
	n := p.Bits() / per
	all := len(labels) - 1
	return strings.Join(append(labels[all-n:all:all], kind, "arpa."), ".")
}

// reverseName is the name of an address in its reverse zone (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(a netip.Addr) string {
	var b strings.Builder
	bytes := a.AsSlice()
	for i := len(bytes) - 1; i >= 0; i-- {
		if a.Is4() {
			b.WriteString(strconv.Itoa(int(bytes[i])) + ".")
			continue
		}
		b.WriteString(strconv.FormatUint(uint64(bytes[i]&15), 16) + "." + strconv.FormatUint(uint64(bytes[i]>>4), 16) + ".")
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa."
	}
	return b.String() + "ip6.arpa."
}
