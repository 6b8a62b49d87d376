package gateway

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// A gate asks the policies of ports which names these may ask for. It implements dns.Gate.
type gate struct {
	policies func() *policy.Ports
	now      func() frame.Tick

	mu      sync.Mutex // Lock 98
	refused map[asked]*Refusal
}

type asked struct {
	port frame.PortID
	name string
}

// A Refusal is a question for a name that the policies of a port do not allow.
type Refusal struct {
	Port  frame.PortID
	Name  string
	Count uint64
	Last  frame.Tick
}

// maxRefusals is how many refusals are remembered. Beyond that, the port with most of them loses its oldest one.
const maxRefusals = 256

// Watches implements dns.Gate.
func (g *gate) Watches(port frame.PortID) bool { return g.policies().Set(port) != nil }

// MayAsk implements dns.Gate. A name of the switch may be asked for if a rule allows something with one of its addresses.
func (g *gate) MayAsk(port frame.PortID, name string, ours bool, addrs []netip.Addr) bool {
	s := g.policies().Set(port)
	return s == nil || s.MayAsk(name) || name == "localhost" || strings.HasSuffix(name, ".localhost") || ours && slices.ContainsFunc(addrs, s.Reaches)
}

// Denied implements dns.Gate.
func (g *gate) Denied(port frame.PortID, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := asked{port, name}
	r := g.refused[k]
	if r == nil {
		if g.refused == nil {
			g.refused = map[asked]*Refusal{}
		}
		if len(g.refused) >= maxRefusals {
			g.forgetLocked()
		}
		r = &Refusal{Port: port, Name: name}
		g.refused[k] = r
	}
	r.Count++
	r.Last = g.now()
}

func (g *gate) forgetLocked() {
	counts, most := map[frame.PortID]int{}, frame.NoPort
	for k := range g.refused {
		if counts[k.port]++; counts[k.port] > counts[most] {
			most = k.port
		}
	}
	var oldest *Refusal
	for _, x := range g.refused {
		if x.Port == most && (oldest == nil || int32(x.Last-oldest.Last) < 0) {
			oldest = x
		}
	}
	delete(g.refused, asked{oldest.Port, oldest.Name})
}

// Learn implements dns.Gate. What a server elsewhere says opens no private address, and none of the host or the switch: else whoever has a
// name that a rule allows could open them (DNS rebinding).
func (g *gate) Learn(port frame.PortID, name string, ours bool, addrs []netip.Addr, ttl uint32) {
	p := g.policies()
	s := p.Set(port)
	if s == nil {
		return
	}
	for _, a := range addrs {
		s.Learn(name, []netip.Addr{a}, ttl, ours || policy.IsPublic(a) && p.Places.Class(a) == policy.Outside, g.now())
	}
}

// Refusals lists the names that policies have refused lately, the last one first.
func (s *Service) Refusals() (list []Refusal) {
	g := s.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.refused {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b Refusal) int { return cmp.Or(cmp.Compare(b.Last, a.Last), cmp.Compare(a.Name, b.Name)) })
	return list
}
