// Package gateway has what the gateways serve: the names of a switch, and addresses of its ports.
package gateway

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/dns"
	"github.com/uvswitch/uvswitch/internal/dnstcp"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/router"
)

// ResolvConf has the host's name servers.
const ResolvConf = "/etc/resolv.conf"

// dnsPort is the port on which gateways answer questions for names.
const dnsPort = 53

// A Service passes packets to the gateways to those who answer them. It implements router.Service.
type Service struct {
	server *dns.Server
	router *router.Router
	send   func(func(router.Output)) // runs a function with the slow path
	tcp    *dnstcp.Server
	leases leases
	gate   *gate
}

// NewService makes a service. send runs a function with the slow path. policies say for which names ports may ask, and now is the data plane's time.
func NewService(server *dns.Server, r *router.Router, send func(func(router.Output)), policies func() *policy.Ports, now func() frame.Tick) *Service {
	s := &Service{server: server, router: r, send: send, gate: &gate{policies: policies, now: now}}
	s.leases.known, s.leases.now, s.leases.wake = r.Station, time.Now, make(chan struct{}, 1)
	server.SetGate(s.gate)
	s.tcp = dnstcp.New(dnstcp.Options{
		Ask: func(from dnstcp.Origin, message []byte, reply func([]byte)) ([]byte, bool) {
			return server.Ask(dns.Question{Port: from.Port, Net: from.Net, Message: message, Limit: dns.MaxMessage}, reply)
		},
		Send: func(to dnstcp.Origin, packet []byte) {
			send(func(out router.Output) { r.SendTo(to.Net, to.MAC, packet, out) })
		},
	})
	return s
}

// SetState says which names and leases there are. added are names that were added by hand, by network.
func (s *Service) SetState(state *model.State, added map[string][]model.Name) {
	s.server.SetZones(zones(state, added))
	s.leases.set(state)
}

// SetTeller says whom to tell that leases begin and end. It is called before the first question.
func (s *Service) SetTeller(tell func(api.Event)) { s.leases.tell = tell }

// LeasesChanged has a value when there may be LeaseChanges.
func (s *Service) LeasesChanged() <-chan struct{} { return s.leases.wake }

// LeasesDiffer reports whether there may be LeaseChanges.
func (s *Service) LeasesDiffer() bool { return s.leases.differ() }

// LeaseChanges lists the ports that are to have another leased address.
func (s *Service) LeaseChanges() []LeaseChange { return s.leases.changes() }

// LeaseFailed says that a port cannot have the address: its lease ends.
func (s *Service) LeaseFailed(c LeaseChange, why error) { s.leases.failed(c, why) }

// Grants lists the leases that hold, by network, port and address.
func (s *Service) Grants() []Grant { return s.leases.grants() }

// RevokeLease ends the lease of an address before its time.
func (s *Service) RevokeLease(a netip.Addr) error { return s.leases.revoke(a) }

// Held lists the addresses that are leased, offered or set aside.
func (s *Service) Held() []model.HeldAddr { return s.leases.held() }

// ExpireLeases ends the leases whose time is over.
func (s *Service) ExpireLeases() { s.leases.expire() }

// SaveLeases returns the leases for the next process, and whether they have changed since the last call.
func (s *Service) SaveLeases() ([]SavedLease, bool) { return s.leases.save() }

// LeasesUnsaved says that what SaveLeases has returned could not be kept.
func (s *Service) LeasesUnsaved() { s.leases.unsaved() }

// RestoreLeases takes over the leases of the last process.
func (s *Service) RestoreLeases(saved []SavedLease) { s.leases.restore(saved) }

// Counts say what became of questions for names.
func (s *Service) Counts() *dns.Counts { return &s.server.Counts }

// NameServers lists the servers that the host asks, and those of all networks that have not answered lately. The error says why the host's servers
// of now are not known.
func (s *Service) NameServers() (host, silent []netip.AddrPort, err error) {
	host, err = s.server.HostServers()
	return host, s.server.Silent(), err
}

// Serves implements router.Service.
func (s *Service) Serves(net frame.NetID, proto uint8, port uint16) bool {
	return port == dnsPort && s.server.Serves(net) || proto == frame.UDP && port == dhcp.ServerPort && s.leases.serves(net)
}

// Quick implements router.Service.
func (s *Service) Quick(in frame.PortID, net frame.NetID, port uint16, question []byte, limit int) int {
	if port != dnsPort {
		return 0
	}
	return s.server.Quick(in, net, question, limit)
}

// Datagram implements router.Service.
func (s *Service) Datagram(d *router.Datagram) []byte {
	if d.To.Port() == dhcp.ServerPort {
		return s.leases.answer(d, func(to router.Datagram, answer []byte) {
			s.send(func(out router.Output) { s.router.Answer(to, answer, out) })
		})
	}
	to := *d
	answer, _ := s.server.Ask(question(d), func(answer []byte) {
		s.send(func(out router.Output) { s.router.Answer(to, answer, out) })
	})
	return answer
}

// Segment implements router.Service.
func (s *Service) Segment(in frame.PortID, net frame.NetID, mac frame.MAC, packet []byte) {
	s.tcp.Segment(dnstcp.Origin{Port: in, Net: net, MAC: mac}, packet)
}

// Preview implements router.Service.
func (s *Service) Preview(d *router.Datagram) []byte {
	if d.To.Port() == dhcp.ServerPort {
		return s.leases.answer(d, nil)
	}
	return s.server.Preview(question(d))
}

func question(d *router.Datagram) dns.Question {
	header := frame.IPv4Len + frame.UDPLen
	if d.To.Addr().Is6() {
		header = frame.IPv6Len + frame.UDPLen
	}
	return dns.Question{Port: d.In, Net: d.Net, Message: d.Payload, UDP: true, Limit: d.MTU - header}
}

// A Source says where a name comes from.
type Source string

// The sources of names.
const (
	FromPort    Source = "port"
	FromAlias   Source = "alias"
	FromStatic  Source = "static"
	FromGateway Source = "gateway"
	FromHost    Source = "host"
)

// A Row is a name with all of its addresses from one source.
type Row struct {
	Network *model.Network
	Name    string
	Addrs   []netip.Addr
	From    Source
	Port    string // that has it
}

// Rows lists the names of every network that answers, sorted by network and name. added are names that were added by hand, by network.
func Rows(s *model.State, added map[string][]model.Name) (rows []Row) {
	for i := range s.Networks {
		n := &s.Networks[i]
		if n.Names.DNS == model.DNSOff {
			continue
		}
		first := len(rows)
		add := func(name string, from Source, port string, addrs ...netip.Addr) {
			addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() })
			if len(addrs) > 0 {
				rows = append(rows, Row{n, name, addrs, from, port})
			}
		}
		add("gateway", FromGateway, "", n.Gateway, n.Gateway6)
		for j := range s.Ports {
			p := &s.Ports[j]
			if p.Kind == model.KindUplink || p.Network != n.Name && p.Kind != model.KindHost {
				continue
			}
			addrs := func() []netip.Addr { return []netip.Addr{p.Addr.Addr(), p.Known6().Addr()} }
			if p.Kind == model.KindHost {
				if p.Network == n.Name || !n.Internal {
					add("host", FromHost, p.Name, addrs()...)
				}
				continue
			}
			if name := strings.ToLower(p.Name); api.IsDNSName(name) {
				add(name, FromPort, p.Name, addrs()...)
			}
			for _, alias := range p.Aliases {
				if alias != "gateway" && alias != "host" { // a container may choose its aliases
					add(alias, FromAlias, p.Name, addrs()...)
				}
			}
		}
		for _, x := range slices.Concat(n.Names.Static, added[n.Name]) {
			add(x.Name, FromStatic, "", x.Addr)
		}
		slices.SortStableFunc(rows[first:], func(a, b Row) int { return cmp.Compare(a.Name, b.Name) })
	}
	return rows
}

// zones are the names as the server answers them. added are names that were added by hand, by network.
func zones(state *model.State, added map[string][]model.Name) *dns.Zones {
	networks := map[frame.NetID]*dns.Network{}
	for i := range state.Networks {
		n := &state.Networks[i]
		if n.Names.DNS == model.DNSOff {
			continue
		}
		x := &dns.Network{
			Domain: n.Names.Domain + ".", Prefixes: []netip.Prefix{n.Prefix}, Names: map[string][]netip.Addr{}, Reverse: map[netip.Addr]string{}, Gateways: []netip.Addr{n.Gateway},
			Isolated: n.Isolated || n.Internal, Local: n.Names.DNS == model.DNSLocal, Servers: n.Names.Servers,
		}
		if n.Prefix6.IsValid() {
			x.Prefixes, x.Gateways = append(x.Prefixes, n.Prefix6), append(x.Gateways, n.Gateway6)
		}
		networks[n.ID] = x
	}
	rows := Rows(state, added)
	for _, r := range rows {
		of := networks[r.Network.ID].Names
		for _, a := range r.Addrs {
			if !slices.Contains(of[r.Name], a) {
				of[r.Name] = append(of[r.Name], a)
			}
		}
	}
	for _, from := range []Source{FromPort, FromGateway, FromHost, FromAlias, FromStatic} { // whose name an address has
		for _, r := range rows {
			of := networks[r.Network.ID].Reverse
			for _, a := range r.Addrs {
				if _, named := of[a]; r.From == from && !named {
					of[a] = r.Name
				}
			}
		}
	}
	z := dns.NewZones(model.Root(state.Name)+".", cmp.Or(state.Name, "uvs")+"0", networks)
	join(z, state)
	return z
}

// join tells which ports are of one container.
func join(z *dns.Zones, state *model.State) {
	of := map[string][]*model.Port{} // by what siblings have in common
	for i := range state.Ports {
		p := &state.Ports[i]
		for _, key := range []string{"netns " + p.Netns, "container " + p.Spec.Container} {
			if !strings.HasSuffix(key, " ") {
				of[key] = append(of[key], p)
			}
		}
	}
	for _, ports := range of {
		for _, p := range ports {
			for _, q := range ports {
				if n := state.Network(q.Network); p.IsSibling(q) && p.Network != q.Network && n != nil {
					z.Join(p.ID, n.ID)
				}
			}
		}
	}
}
