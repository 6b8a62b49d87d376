package vswitch

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// PortFlags are the port settings of `bridge link set`, by the same names.
type PortFlags uint32

const (
	Forwarding   PortFlags = 1 << iota // state forwarding; if unset, the port is disabled
	Learning                           // learn source MACs
	FloodUcast                         // gets floods of unknown unicast
	FloodMcast                         // gets floods of multicast
	FloodBcast                         // gets broadcasts
	HairpinMode                        // may send a frame back to the port it came from
	Isolated                           // exchanges frames only with ports that are not isolated
	Locked                             // only stations with an FDB entry on this port may send
	Guard                              // source MAC, source address and ARP sender must belong to the port
	Uplink                             // not switched: every frame goes to the router
	AnyVLAN                            // the guard lets frames with a VLAN tag pass
	Untagged                           // gets no frame with a VLAN tag from a guarded port
	AnySource                          // routes: what has left by it may come back by it with the same source: the host's port, when the host's stack routes
	Tracked                            // frames from and to it are judged by nat.Filter
	Closed                             // it gets no flood but ARP and neighbor discovery
	Ways                               // of an uplink: its frames have way headers (frame.WayMACs)
	AnyLinkLocal                       // may have a link-local IPv6 address that is made from no MAC (RFC 7217): a guest or a device of the host's is behind the port
	NoRouter                           // gets no router advertisement: the port of the host, which would route by the gateway
	AsksDHCP                           // its DHCP questions go to the gateway, and are not flooded
	Joining                            // gets nothing yet: not every worker can write to it
	NoAddress                          // its station has no address yet: the guard lets it ask for one only
	AnyServer                          // its station may send router advertisements, redirects, and what DHCP servers send
)

// DefaultFlags are the flags of a new port.
const DefaultFlags = Forwarding | Learning | FloodUcast | FloodMcast | FloodBcast

// A Port is the configuration of one port. It does not change once it is in a snapshot.
type Port struct {
	ID    frame.PortID
	Net   frame.NetID // NoNet for the uplink
	Flags PortFlags
	MTU   int        // longest IP packet, bytes
	MAC   frame.MAC  // the station's MAC, 0 if not known; the guard allows no other source MAC
	Addr  frame.Addr // the station's address, 0 if not known; for the guard
	// Addrs6 are the station's IPv6 addresses, but for link-local ones; none if not known.
	Addrs6 []frame.Addr6

	Storm StormLimits

	// Own is for the port of the host: all addresses of the host, sorted. If it is not nil, a packet that comes in must have one of them,
	// or Addr, as its source, and one that goes out as its destination. The host then forwards nothing past the router and NAT.
	Own  []frame.Addr
	Own6 []frame.Addr6

	// Through, likewise for the port of the host, are destinations that lie behind the host: packets from and to these pass it.
	Through []netip.Prefix

	// Siblings are the addresses of the other ports of the same container. A packet with one of them as its source may go to the router,
	// as part of a flow that exists: the container answers by one port what came in by another.
	Siblings []frame.Addr
}

// owns reports whether a is an address of the host behind port p.
//
//uvswitch:hot
func (p *Port) owns(a frame.Addr) bool {
	if a == p.Addr || a == 0 {
		return true
	}
	for _, x := range p.Own {
		if x == a {
			return true
		}
	}
	for i := range p.Through {
		if p.Through[i].Contains(a.Netip()) {
			return true
		}
	}
	return false
}

// A Network is one broadcast domain.
type Network struct {
	ID      frame.NetID
	Gateway frame.MAC     // the router's MAC in this network: never learned, never flooded
	Addr    frame.Addr    // the gateway's; 0 for none
	Addrs6  []frame.Addr6 // the gateway's of IPv6, link-local ones included; none without IPv6
	Groups  []frame.MAC   // groups that the gateway hears
	FDB     *FDB
	ports   []*Port
	bound   Bindings
	owned   ownedAddrs[frame.Addr]
	owned6  ownedAddrs[frame.Addr6]
}

// Bindings are the stations that the guard binds to a port.
type Bindings struct {
	macs  map[frame.MAC]frame.PortID // no other port may use such a MAC, even while its station is silent
	keeps [frame.MaxPorts]bool       // these ports have an address and no known MAC; a station moves from one of them to another one of them only
}

// refuse reports whether station m, which is known at port was (NoPort: at none), may not be at port p.
func (b *Bindings) refuse(m frame.MAC, was, p frame.PortID) bool {
	if b == nil {
		return false
	}
	if at, ok := b.macs[m]; ok {
		return at != p
	}
	return was < frame.MaxPorts && b.keeps[was] && !b.keeps[p]
}

// snapshot is the whole configuration. Writers replace it as a whole; workers load it once per stage and batch.
type snapshot struct {
	ports [frame.MaxPorts]*Port
	nets  [frame.MaxNets]*Network

	tracked bool // there is a port with flag Tracked
}

//uvswitch:hot
func (s *snapshot) port(id frame.PortID) *Port {
	if int(id) >= len(s.ports) {
		return nil
	}
	return s.ports[id]
}

// A Switch has the ports and networks and runs the switching stages on batches.
type Switch struct {
	snap atomic.Pointer[snapshot]
	mu   sync.Mutex // Lock 65: writers of snap

	questions questions
	left      leftByHost
}

// New returns a switch without ports or networks.
func New() *Switch {
	s := &Switch{}
	s.snap.Store(&snapshot{})
	return s
}

// update replaces the snapshot with a copy that edit has changed, and rebuilds the list of ports of each network.
func (s *Switch) update(edit func(*snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.snap.Load()
	edit(&next)
	next.tracked = slices.ContainsFunc(next.ports[:], func(p *Port) bool { return p != nil && p.Flags&Tracked != 0 })
	for i, n := range next.nets {
		if n == nil {
			continue
		}
		c := *n
		c.ports, c.bound = nil, Bindings{macs: map[frame.MAC]frame.PortID{}}
		owned, owned6 := map[frame.Addr]frame.PortID{}, map[frame.Addr6]frame.PortID{}
		for _, p := range next.ports {
			if p != nil && p.Net == n.ID && p.Flags&Uplink == 0 {
				c.ports = append(c.ports, p)
				if p.Flags&Guard != 0 && p.MAC != 0 {
					c.bound.macs[p.MAC] = p.ID
				} else if p.Flags&Guard != 0 && p.Addr != 0 {
					c.bound.keeps[p.ID] = true
				}
				if p.Flags&(Guard|AnySource) != 0 || p.Own != nil {
					if p.Addr != 0 {
						owned[p.Addr] = p.ID
					}
					for _, a := range p.Addrs6 {
						owned6[a] = p.ID
					}
				}
				if p.MAC != 0 && (p.Flags&(Guard|AnySource) != 0 || p.Own != nil) {
					owned6[p.MAC.LinkLocal()] = p.ID
				}
			}
		}
		if n.Addr != 0 {
			owned[n.Addr] = frame.Gateway
		}
		for _, a := range n.Addrs6 {
			owned6[a] = frame.Gateway
		}
		c.owned, c.owned6 = newOwned(owned), newOwned(owned6)
		next.nets[i] = &c
	}
	s.snap.Store(&next)
}

// SetNetwork adds or replaces a network.
func (s *Switch) SetNetwork(n Network) {
	s.update(func(next *snapshot) { next.nets[n.ID] = &n })
}

// DeleteNetwork removes a network. Its ports must be removed before.
func (s *Switch) DeleteNetwork(id frame.NetID) {
	s.update(func(next *snapshot) { next.nets[id] = nil })
}

// SetPort adds or replaces a port.
func (s *Switch) SetPort(p Port) {
	s.update(func(next *snapshot) { next.ports[p.ID] = &p })
}

// DeletePort removes a port and the FDB entries of the stations behind it. The port must not send any more. The entries go first: a
// frame to such a station is then flooded, and not charged to its sender.
func (s *Switch) DeletePort(id frame.PortID) {
	snap := s.snap.Load()
	if p := snap.port(id); p != nil && snap.nets[p.Net] != nil {
		snap.nets[p.Net].FDB.Flush(id, true)
	}
	s.update(func(next *snapshot) { next.ports[id] = nil })
	s.questions.forget(id)
}

// Port returns the configuration of a port, and false if the port does not exist.
func (s *Switch) Port(id frame.PortID) (Port, bool) {
	if p := s.snap.Load().port(id); p != nil {
		return *p, true
	}
	return Port{}, false
}

// IsOff reports whether a port of a station forwards nothing, or has been removed.
//
//uvswitch:hot
func (s *Switch) IsOff(id frame.PortID) bool {
	if id == frame.NoPort || id == frame.Gateway {
		return false
	}
	p := s.snap.Load().port(id)
	return p == nil || p.Flags&Forwarding == 0
}

// FDB returns the forwarding database of a network, or nil if the network does not exist.
func (s *Switch) FDB(id frame.NetID) *FDB {
	if n := s.snap.Load().nets[id]; n != nil {
		return n.FDB
	}
	return nil
}

// Age removes the stations of every network that have sent nothing for ageing ticks before now.
func (s *Switch) Age(now, ageing frame.Tick) {
	for _, n := range s.snap.Load().nets {
		if n != nil {
			n.FDB.Age(now, ageing)
		}
	}
}
