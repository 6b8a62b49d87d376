package simnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// policies are the rules of hosts' ports.
type policies struct {
	rules  map[frame.PortID][]policy.Numbered
	known  map[frame.PortID]*policy.Addresses
	lastID uint32
}

// policy gives the port of a host a rule, or takes all of its rules away.
func (s *scenario) policy(f []string) error {
	h, err := s.hostOf(f[0])
	if err != nil {
		return err
	}
	p := &s.net.policies
	if p.rules == nil {
		p.rules, p.known = map[frame.PortID][]policy.Numbered{}, map[frame.PortID]*policy.Addresses{}
	}
	if f[1] == "none" {
		delete(p.rules, h.Port)
	} else {
		r, err := policy.Parse(strings.Join(f[1:], " "))
		if err != nil {
			return err
		}
		p.lastID++
		p.rules[h.Port] = append(p.rules[h.Port], policy.Numbered{Rule: r, ID: p.lastID})
		if p.known[h.Port] == nil {
			p.known[h.Port] = &policy.Addresses{}
		}
	}
	s.net.update()
	return nil
}

// answer is what a name server has answered to a host: its port learns an address of a name.
func (s *scenario) answer(f []string) error {
	h, err := s.hostOf(f[0])
	if err != nil {
		return err
	}
	a, err := address(f[2])
	if err != nil {
		return err
	}
	ttl, err := count(f[3])
	if set := s.net.DP.NAT.Policies().Of[h.Port]; err == nil {
		set.Learn(f[1], both(a), uint32(ttl), true, s.net.now)
	}
	return err
}

// both is an address in both families.
func both(a frame.Addr) []netip.Addr { return []netip.Addr{a.Netip(), six(a).Netip()} }

// bothPrefixes is a prefix in both families.
func bothPrefixes(p netip.Prefix) []netip.Prefix { return []netip.Prefix{p, sixPrefix(p)} }

// compilePolicies makes what NAT and the switch know of policies.
func (n *Net) compilePolicies() {
	if n.policies.rules == nil {
		return
	}
	out := &policy.Ports{}
	var inside, host []netip.Prefix
	for id := frame.NetID(1); id < frame.MaxNets; id++ {
		if i, ok := n.DP.Router.Interface(id); ok {
			inside = append(inside, bothPrefixes(netip.PrefixFrom(i.Addr.Netip(), i.Prefix.Bits()).Masked())...)
		}
	}
	for _, a := range n.rules.Own {
		host = append(host, policy.Singles(both(a))...)
	}
	if in := n.rules.Inbound; in != nil {
		host, out.Host = append(host, policy.Singles(in.Addrs)...), in.Host
	}
	for _, h := range n.hosts {
		if h.Port != uplinkPort && h.Port != out.Host {
			for _, a := range both(h.Addr) {
				out.AddStation(a, h.Port)
			}
		}
	}
	out.Places = policy.NewPlaces(inside, host)
	for _, h := range n.hosts {
		if h.Port == uplinkPort {
			continue
		}
		rules := n.policies.rules[h.Port]
		p, _ := n.DP.Switch.Port(h.Port)
		p.Flags &^= vswitch.Tracked | vswitch.Closed
		if rules != nil {
			set := &policy.Set{Rules: policy.Compile(n.resolved(rules), policy.ByRules), Addresses: n.policies.known[h.Port]}
			out.Of[h.Port] = set
			if p.Flags |= vswitch.Tracked; set.Closes(policy.Ingress) {
				p.Flags |= vswitch.Closed
			}
		}
		if h.Port == out.Host {
			p.Flags |= vswitch.Tracked | vswitch.Closed
		}
		n.DP.Switch.SetPort(p)
	}
	n.DP.NAT.SetPolicies(out)
}

// resolved says where the peers of rules are, in both families. A network's name is its number.
func (n *Net) resolved(rules []policy.Numbered) (out []policy.Numbered) {
	for _, r := range rules {
		switch r.Peer.Kind {
		case policy.PortPeer:
			if h := n.host(r.Peer.Name); h != nil {
				r.Where = policy.Singles(both(h.Addr))
			}
		case policy.NetworkPeer:
			for id := frame.NetID(1); id < frame.MaxNets; id++ {
				if i, ok := n.DP.Router.Interface(id); ok && fmt.Sprint(id) == r.Peer.Name {
					r.Where = bothPrefixes(netip.PrefixFrom(i.Addr.Netip(), i.Prefix.Bits()).Masked())
				}
			}
		case policy.Prefix:
			if r.Peer.Prefix.Addr().Is4() {
				v6 := r
				v6.Peer.Prefix = sixPrefix(r.Peer.Prefix)
				out = append(out, v6)
			}
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}
