package policy

import (
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// Ports say which flows may begin at ports, and with them. They are for both families, and do not change once they are read.
type Ports struct {
	Of       [frame.MaxPorts]*Set        // nil: everything
	Stations map[netip.Addr]frame.PortID // addresses of ports, link-local ones too; not those of the host
	Known    map[frame.PortID]bool       // the ports of Stations
	Places   *Places
	Host     frame.PortID      // the port of the host
	Counts   map[uint32]*Count // by rule
}

// AddStation notes an address of a port.
func (p *Ports) AddStation(a netip.Addr, id frame.PortID) {
	if p.Stations == nil {
		p.Stations, p.Known = map[netip.Addr]frame.PortID{}, map[frame.PortID]bool{}
	}
	p.Stations[a], p.Known[id] = id, true
}

// Set returns the policies of a port, or nil.
func (p *Ports) Set(id frame.PortID) *Set {
	if p == nil || id >= frame.MaxPorts {
		return nil
	}
	return p.Of[id]
}

// An Admission is the rules that have let a flow in: of the port where it begins, and of the port where it ends. 0: there was none to ask.
type Admission struct{ Egress, Ingress uint32 }

// Word is the admission as one word.
func (a Admission) Word() uint64 { return uint64(a.Egress)<<32 | uint64(a.Ingress) }

// AdmissionOf reverses Word.
func AdmissionOf(w uint64) Admission { return Admission{uint32(w >> 32), uint32(w)} }

// A Flow is a flow that may begin.
type Flow struct {
	From, To frame.PortID // NoPort: no container
	Src, Dst netip.Addr   // as the containers see them
	Proto    uint8
	Port     uint16 // of the destination
}

// A Ruling is what becomes of a flow, and why.
type Ruling struct {
	By   Admission
	Why  frame.Reason // why it may not begin; None: it may
	Side Direction    // of the rules that refuse it
	Port frame.PortID // whose rules they are
	Rule uint32       // the one that refuses it; 0: none allows it
}

// Judge says whether a flow may begin, or go on that other rules have admitted before.
func (p *Ports) Judge(q Flow, before Admission, now frame.Tick) (r Ruling) {
	if s := p.Set(q.From); s != nil {
		v := s.Again(before.Egress, Egress, q.Dst, p.Places.Class(q.Dst), q.Proto, q.Port, now)
		if v.Action != Allow {
			return Ruling{Why: refusalOf(v), Side: Egress, Port: q.From, Rule: v.Rule}
		}
		r.By.Egress = v.Rule
	}
	if s := p.Set(q.To); s != nil {
		v := s.Again(before.Ingress, Ingress, q.Src, p.Places.Class(q.Src), q.Proto, q.Port, now)
		if v.Action != Allow {
			return Ruling{Why: refusalOf(v), Side: Ingress, Port: q.To, Rule: v.Rule}
		}
		r.By.Ingress = v.Rule
	}
	return r
}

// A Count counts the flows that a rule has let in, and the packets that it has refused.
type Count struct{ Flows, Refused atomic.Uint64 }

// Count counts a ruling.
func (p *Ports) Count(r *Ruling) {
	if r.Why != frame.None {
		if c := p.Counts[r.Rule]; c != nil {
			c.Refused.Add(1)
		} else if s := p.Set(r.Port); s != nil && s.Unallowed != nil {
			s.Unallowed.Add(1)
		}
		return
	}
	for _, id := range [...]uint32{r.By.Egress, r.By.Ingress} {
		if c := p.Counts[id]; c != nil {
			c.Flows.Add(1)
		}
	}
}

func refusalOf(v Verdict) frame.Reason {
	if v.Action == Drop {
		return frame.PolicyDropped
	}
	return frame.PolicyDenied
}

// Guards says what policies do with f. policed: an end of f has some, and its flow must be known, so that the answers pass. closed: it passes only
// if they allow it. why is the reason why nothing can allow it. src and dst are its addresses, if it is an IP packet.
func (p *Ports) Guards(f *frame.Frame, src, dst netip.Addr) (policed, closed bool, why frame.Reason) {
	egress, ingress := p.Set(f.In), p.Set(f.Out)
	if egress == nil && ingress == nil {
		return false, false, frame.None
	}
	closed = closes(egress, ingress)
	isIP := f.Flags&(frame.IsIPv4|frame.IsIPv6) != 0 && f.Malformed == frame.None
	group := f.Dst.IsGroup()
	switch {
	case f.Flags&frame.IsARP != 0:
		if closed && !p.isPlainARP(f) {
			return true, true, frame.PolicyDenied
		}
		return false, false, frame.None
	case isIP && f.IsND():
		if closed && !isPlainND(f) {
			return true, true, frame.PolicyDenied
		}
		return false, false, frame.None
	case closed && group && isMembership(f): // each kernel reports its groups, and no port has a use for it
		return true, true, frame.NoEgress
	}
	// Nobody may pass data to another station under addresses that a rule allows.
	honest := isIP
	switch {
	case !isIP || f.Flags&frame.ViaRouter != 0:
	case group:
		honest = f.Flags&frame.HasTuple != 0 && f.FragOffset() == 0 && (dst.IsMulticast() || dst == everyone) && p.isOnLink(src, f.In)
	default:
		honest = p.isOnLink(src, f.In) && p.isOnLink(dst, f.Out)
	}
	switch {
	case closed && !honest:
		return true, true, frame.PolicyDenied
	case !closed && (!honest || group): // it passes, and there are no answers to it
		return false, false, frame.None
	}
	return true, closed, frame.None
}

// CloseToHost reports whether what a port sends to the host passes only if policies allow it.
func (p *Ports) CloseToHost(in frame.PortID) bool {
	return p != nil && closes(p.Set(in), p.Set(p.Host))
}

// closes reports whether what one end sends to another one passes only if their policies allow it.
func closes(sender, receiver *Set) bool {
	return sender != nil && sender.Closes(Egress) || receiver != nil && receiver.Closes(Ingress)
}

// everyone is the broadcast address of IPv4.
var everyone = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// isMembership reports whether a frame is a message of IGMP or MLD.
func isMembership(f *frame.Frame) bool {
	switch {
	case f.Malformed != frame.None:
		return false
	case f.Flags&frame.IsIPv4 != 0:
		return f.Proto == igmp
	}
	if f.Flags&frame.IsIPv6 == 0 || f.Proto != frame.ICMPv6 || f.FragOffset() != 0 {
		return false
	}
	t := f.ICMP().Type()
	return t >= 130 && t <= 132 || t == 143 // RFC 2710, 3; RFC 3810, 5.2
}

const igmp = 2

// isOnLink reports whether an address is that of the station behind a port.
func (p *Ports) isOnLink(a netip.Addr, id frame.PortID) bool {
	if owner, known := p.Stations[a]; known {
		return owner == id
	}
	switch p.Places.Class(a) {
	case Host:
		return id == p.Host && id != frame.NoPort
	case Inside: // of a station whose address nobody has told
		return id != frame.NoPort && !p.Known[id]
	}
	return false
}
