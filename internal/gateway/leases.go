package gateway

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
)

// leases are the addresses that stations are given: those of their ports.
type leases struct {
	mu     sync.Mutex // Lock 92
	of     map[frame.PortID]portLease
	nets   map[frame.NetID]bool // that have a port with a lease
	grants map[frame.PortID]Grant
}

// A portLease is the lease of a port.
type portLease struct {
	dhcp.Lease
	network, port string
}

// A Grant is a lease that a station has asked for, and got.
type Grant struct {
	Network, Port string
	MAC           frame.MAC
	Addr          netip.Addr
	Hostname      string // that the station says it has
	ClientID      string // in hexadecimal
	Expires       time.Time
}

// set makes the leases those of a state.
func (l *leases) set(s *model.State) {
	of, nets := map[frame.PortID]portLease{}, map[frame.NetID]bool{}
	for i := range s.Ports {
		p := &s.Ports[i]
		n := s.Network(p.Network)
		if n == nil || !p.AsksDHCP() {
			continue
		}
		x := portLease{dhcp.Lease{Addr: p.Addr, Server: n.Gateway, MTU: p.MTU}, n.Name, p.Name}
		if name := strings.ToLower(p.Name); api.IsDNSName(name) {
			x.Name = name
		}
		if !n.Internal {
			x.Router = n.Gateway
		}
		if n.Names.DNS != model.DNSOff {
			x.DNS, x.Domain = []netip.Addr{n.Gateway}, n.Names.Domain
		}
		of[p.ID], nets[n.ID] = x, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, g := range l.grants {
		if x, there := of[id]; !there || x.port != g.Port || x.Addr.Addr() != g.Addr {
			delete(l.grants, id)
		}
	}
	l.of, l.nets = of, nets
}

// serves reports whether the gateway of a network answers DHCP questions.
func (l *leases) serves(net frame.NetID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nets[net]
}

// answer answers a question. It sets d.From to where the answer goes, and d.To to where it comes from. With note, the lease is remembered.
func (l *leases) answer(d *router.Datagram, note bool) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, known := l.of[d.In]
	if to := d.To.Addr(); !known || to != x.Server && to != dhcp.Everyone {
		return nil
	}
	r, asked, refusal := dhcp.Answer(d.Payload, x.Lease)
	if note && asked.Ends() {
		delete(l.grants, d.In)
	}
	if refusal != "" {
		return nil
	}
	d.From, d.To = netip.AddrPortFrom(r.To, dhcp.ClientPort), netip.AddrPortFrom(x.Server, dhcp.ServerPort)
	if note && r.Grants(asked) {
		if l.grants == nil {
			l.grants = map[frame.PortID]Grant{}
		}
		l.grants[d.In] = Grant{x.network, x.port, d.MAC, x.Addr.Addr(), asked.Hostname, hex.EncodeToString(asked.ClientID), time.Now().Add(dhcp.Time)}
	}
	return r.Payload
}

// Grants lists the leases that hold, by network and port.
func (s *Service) Grants() (out []Grant) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for _, g := range s.leases.grants {
		if time.Now().Before(g.Expires) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b Grant) int { return strings.Compare(a.Network+"\x00"+a.Port, b.Network+"\x00"+b.Port) })
	return out
}
