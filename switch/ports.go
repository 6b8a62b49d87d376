package vswitch

import (
	"sync"
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// PortFlags are the knobs of `bridge link set`, by the same names.
type PortFlags uint16

const (
	Forwarding  PortFlags = 1 << iota // state forwarding; without it the port is disabled
	Learning                          // learn source MACs
	FloodUcast                        // takes unknown unicast
	FloodMcast                        // takes multicast
	FloodBcast                        // takes broadcast
	HairpinMode                       // may send a frame back where it came from
	Isolated                          // speaks only with ports that are not isolated
	Locked                            // only stations with an entry on it may send
	Guard                             // source MAC, source address and ARP sender must be the port's own
	Uplink                            // not switched: every frame goes to the router
)

// DefaultFlags are a new port's.
const DefaultFlags = Forwarding | Learning | FloodUcast | FloodMcast | FloodBcast

// A Port is what the switch knows of one port. It is never changed once it stands in a Snapshot.
type Port struct {
	ID    frame.PortID
	Net   frame.NetID // NoNet for the uplink
	Flags PortFlags
	MTU   int        // longest IP packet, bytes
	MAC   frame.MAC  // the station's, when known; the guard holds it to that
	Addr  frame.Addr // its address, when known; for the guard
}

// A Network is one broadcast domain.
type Network struct {
	ID      frame.NetID
	Gateway frame.MAC // the router's MAC here: never learned, never flooded
	FDB     *FDB
	ports   []*Port
	bound   Bindings
}

// Bindings are the stations that the guard holds to a port: nobody else may claim their MAC, spoken or silent.
type Bindings map[frame.MAC]frame.PortID

// A Snapshot is the whole configuration, replaced as a whole: workers load it once per stage and batch.
type snapshot struct {
	ports [frame.MaxPorts]*Port
	nets  [frame.MaxNets]*Network
}

//uvswitch:hot
func (s *snapshot) port(id frame.PortID) *Port {
	if int(id) >= len(s.ports) {
		return nil
	}
	return s.ports[id]
}

// A Switch holds the ports and networks and runs the switching stages over batches.
type Switch struct {
	snap atomic.Pointer[snapshot]
	mu   sync.Mutex // writers of snap
}

// New makes a switch without ports or networks.
func New() *Switch {
	s := &Switch{}
	s.snap.Store(&snapshot{})
	return s
}

// update replaces the snapshot by a copy that edit has changed, and sorts the ports into their networks.
func (s *Switch) update(edit func(*snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.snap.Load()
	edit(&next)
	for i, n := range next.nets {
		if n == nil {
			continue
		}
		c := *n
		c.ports, c.bound = nil, Bindings{}
		for _, p := range next.ports {
			if p != nil && p.Net == n.ID && p.Flags&Uplink == 0 {
				c.ports = append(c.ports, p)
				if p.Flags&Guard != 0 && p.MAC != 0 {
					c.bound[p.MAC] = p.ID
				}
			}
		}
		next.nets[i] = &c
	}
	s.snap.Store(&next)
}

// SetNetwork adds or replaces a network.
func (s *Switch) SetNetwork(n Network) {
	s.update(func(next *snapshot) { next.nets[n.ID] = &n })
}

// DeleteNetwork forgets a network; its ports must be gone.
func (s *Switch) DeleteNetwork(id frame.NetID) {
	s.update(func(next *snapshot) { next.nets[id] = nil })
}

// SetPort adds or replaces a port.
func (s *Switch) SetPort(p Port) {
	s.update(func(next *snapshot) { next.ports[p.ID] = &p })
}

// DeletePort forgets a port and the stations behind it.
func (s *Switch) DeletePort(id frame.PortID) {
	var fdb *FDB
	s.update(func(next *snapshot) {
		if p := next.ports[id]; p != nil && next.nets[p.Net] != nil {
			fdb = next.nets[p.Net].FDB
		}
		next.ports[id] = nil
	})
	if fdb != nil {
		fdb.Flush(id, true)
	}
}

// Port returns a port as configured.
func (s *Switch) Port(id frame.PortID) (Port, bool) {
	if p := s.snap.Load().port(id); p != nil {
		return *p, true
	}
	return Port{}, false
}

// FDB returns a network's table, or nil.
func (s *Switch) FDB(id frame.NetID) *FDB {
	if n := s.snap.Load().nets[id]; n != nil {
		return n.FDB
	}
	return nil
}

// Age forgets the stations of every network that were not heard for ageing ticks.
func (s *Switch) Age(now, ageing frame.Tick) {
	for _, n := range s.snap.Load().nets {
		if n != nil {
			n.FDB.Age(now, ageing)
		}
	}
}
