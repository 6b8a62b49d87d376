package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// A Flow is one entry of the table, as listed.
type Flow struct {
	Original, Reply  frame.Tuple
	State            string // TCP's, by Linux's names; empty for others
	Timeout          uint32 // seconds until it goes if it stays idle
	Assured, Replied bool
	Net              frame.NetID
	Port             frame.PortID // the inside port
	Published        bool         // made by a publish rule
	Packets, Bytes   [2]uint64    // original and reply direction
}

// Flows calls yield for each live flow, until it returns false. Flows come and go meanwhile.
func (n *NAT) Flows(now frame.Tick, yield func(Flow) bool) {
	n.listing.RLock()
	defer n.listing.RUnlock()
	for e := uint32(1); e < n.flows.mark(); e++ {
		s := &n.state[e]
		if !n.flows.isLive(e) || expired(s, now) {
			continue
		}
		k := n.flows.keys[e]
		w := s.state.Load()
		f := Flow{
			Original: k[0], Reply: k[1], Timeout: uint32(frame.Tick(s.expires.Load())-now) / frame.TicksPerSecond,
			Assured: w&assured != 0, Replied: w&seenReply != 0, Net: s.net, Port: s.port, Published: s.rule != 0,
		}
		if k[0].Proto == frame.TCP {
			f.State = tcpNames[w&stateMask%uint32(tcpStates)]
		}
		for d := range s.count {
			f.Packets[d], f.Bytes[d] = s.count[d].packets.Load(), s.count[d].bytes.Load()
		}
		if !yield(f) {
			return
		}
	}
}

// Flush ends the flows that which selects, and returns how many.
func (n *NAT) Flush(which func(Flow) bool) (removed int) {
	n.listing.RLock()
	defer n.listing.RUnlock()
	for e := uint32(1); e < n.flows.mark(); e++ {
		if !n.flows.isLive(e) {
			continue
		}
		k, s := n.flows.keys[e], &n.state[e]
		if which(Flow{Original: k[0], Reply: k[1], Net: s.net, Port: s.port, Published: s.rule != 0}) && n.remove(e) {
			removed++
		}
	}
	return removed
}

// Used and Limit are the flows there are and may be.
func (n *NAT) Used() int  { return int(n.flows.used.Load()) }
func (n *NAT) Limit() int { return n.flows.limit() }

// PortsUsed and PortsLimit are the outside ports given out and those that may be, of TCP and UDP together.
func (n *NAT) PortsUsed() int { return n.ports[0].Len() + n.ports[1].Len() }
func (n *NAT) PortsLimit() int {
	c := n.config.Load()
	if c.pool[0] == nil {
		return 0
	}
	return c.pool[0].Len() + c.pool[1].Len()
}

// InUse is the set of outside ports given out: of TCP (0), UDP (1) or ICMP (2).
func (n *NAT) InUse(proto int) *PortSet { return n.ports[proto] }
