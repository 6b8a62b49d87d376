package control

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// shadow is a daemon without a dataplane that has what o says, and those networks, ports and published ports of d that were
// added by hand. What the file says of a port that is there and may stay is that port.
func shadow(o Options, d *Daemon) (*Daemon, error) {
	if _, err := ParseRanges(o.NATPorts); err != nil {
		return nil, err
	}
	s := &Daemon{opts: o, networks: map[string]*network{}, ports: map[string]*port{}}
	if d != nil {
		s.up, s.external = d.up, d.external
	}
	for i, a := range append([]api.NetworkAdd{o.Default}, o.Networks...) {
		n, err := s.settle(a)
		if err == nil {
			err = s.fits(n)
		}
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", a.Name, err)
		}
		n.id = frame.NetID(i + 1)
		s.networks[n.name] = n
	}
	if o.Host {
		n := s.networks[DefaultNetwork]
		addr, err := hostAddr(n, o.HostAddr)
		if err != nil {
			return nil, err
		}
		s.ports[hostPort] = &port{name: hostPort, kind: kindHost, net: n, mac: macFor(addr), addr: netip.PrefixFrom(addr, n.prefix.Bits())}
	}
	if d != nil {
		if err := s.keepByHand(d); err != nil {
			return nil, err
		}
	}
	for _, a := range s.inTurn(o.Ports, d) {
		p, err := s.shadowPort(a, d)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", a.Name, err)
		}
		s.ports[p.name] = p
	}
	for _, a := range o.Publish {
		if err := s.shadowPublish(a); err != nil {
			return nil, fmt.Errorf("publish %s: %w", a.Spec, err)
		}
	}
	if d != nil {
		for _, r := range d.rules {
			if _, there := s.ports[r.asked.Port]; !there || ruleIn(d.opts.Publish, r) || ruleIn(o.Publish, r) {
				continue
			}
			if err := s.shadowPublish(r.asked); err != nil {
				return nil, fmt.Errorf("publish %s, added by hand: %w", r.asked.Spec, err)
			}
		}
	}
	seen := map[netip.Prefix]bool{}
	for _, a := range o.Routes {
		rt, err := s.checkRoute(a)
		if err == nil && seen[rt.Prefix] {
			err = api.Errorf(http.StatusConflict, "it is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", a.Dst, err)
		}
		seen[rt.Prefix] = true
	}
	return s, nil
}

// inTurn is the order in which the file's ports get their addresses: those that are there keep theirs, then those that are said, then
// the rest. Without d it is the file's, which is how `run` does it.
func (s *Daemon) inTurn(list []api.PortAdd, d *Daemon) []api.PortAdd {
	if d == nil {
		return list
	}
	class := func(a api.PortAdd) int {
		switch {
		case d.ports[a.Name] != nil:
			return 0
		case a.IP != "" && a.IP != "auto":
			return 1
		}
		return 2
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b api.PortAdd) int { return class(a) - class(b) })
	return list
}

// keepByHand takes over d's networks and ports that no file has said.
func (s *Daemon) keepByHand(d *Daemon) error {
	said := namesOf(append(slices.Clone(d.opts.Networks), s.opts.Networks...), func(a api.NetworkAdd) string { return a.Name })
	for _, n := range d.networkList() {
		if n.name == DefaultNetwork || slices.Contains(said, n.name) {
			continue
		}
		c := *n
		if err := s.fits(&c); err != nil {
			return fmt.Errorf("network %q, added by hand: %w", n.name, err)
		}
		c.id = frame.NetID(len(s.networks) + 1)
		s.networks[n.name] = &c
	}
	said = namesOf(append(slices.Clone(d.opts.Ports), s.opts.Ports...), func(a api.PortAdd) string { return a.Name })
	for _, p := range d.portList() {
		if p.kind == kindUplink || p.kind == kindHost || slices.Contains(said, p.name) {
			continue
		}
		c := *p
		if c.net = s.networks[p.net.name]; c.net == nil {
			return fmt.Errorf("port %q, added by hand, is in network %q, which would be gone; `uvswitch port del %s` first", p.name, p.net.name, p.name)
		}
		if p.addr.IsValid() && (!usable(c.net.prefix, p.addr.Addr()) || p.addr.Addr() == c.net.gateway) {
			return fmt.Errorf("port %q, added by hand, has address %s, which would no longer be a station's of network %q", p.name, p.addr, p.net.name)
		}
		s.ports[p.name] = &c
	}
	return nil
}

// shadowPort is the port that a asks for: the one that d has, if that is such a one, but for its knobs.
func (s *Daemon) shadowPort(a api.PortAdd, d *Daemon) (*port, error) {
	var have *port
	if d != nil {
		have = d.ports[a.Name]
	}
	if n := s.networks[cmp.Or(a.Network, DefaultNetwork)]; have != nil && n != nil && have.net != nil && have.net.name == n.name && have.net.prefix == n.prefix && have.net.gateway == n.gateway {
		if _, taken := s.ports[a.Name]; taken {
			return nil, api.Errorf(http.StatusConflict, "it is there twice")
		}
		asked := a
		if have.addr.IsValid() && (a.IP == "" && !have.bringsItsOwn() || a.IP == "auto") {
			asked.IP = have.addr.Addr().String() // the one it has been given is as good
		}
		if a.MTU == 0 && have.asked.MTU == 0 {
			asked.MTU = have.mtu // what its network had when it was made
		}
		if have.kind == kindDevice {
			asked.MTU = 0
		}
		p, err := s.checkPort(asked)
		if err != nil {
			return nil, err
		}
		if p.kind == kindDevice {
			p.mtu = have.mtu // the device's own
			if a.MAC == "" {
				p.mac = have.mac
			}
		}
		c := *have
		c.net, c.asked = n, a
		if p.kind == have.kind && p.netns == have.netns && p.ifname == have.ifname && p.addr == have.addr && p.mac == have.mac && p.mtu == have.mtu && a.NoRoute == have.asked.NoRoute {
			c.knobs, err = withKnobs(have, afterReload(have, a.Set))
			return &c, err
		}
	}
	return s.checkPort(a)
}

func (s *Daemon) shadowPublish(a api.PublishAdd) error {
	r, err := ruleOf(a)
	if err != nil {
		return err
	}
	if r.port = s.ports[a.Port]; r.port == nil {
		return noPort(a.Port)
	}
	if err := s.checkPublish(r); err != nil {
		return err
	}
	s.rules = append(s.rules, r)
	return nil
}

// sameRule tells whether two published ports are the same, however they were written.
func sameRule(a, b *rule) bool {
	return a.hostAddr == b.hostAddr && a.lo == b.lo && a.hi == b.hi && a.proto == b.proto && a.target == b.target && a.asked.Port == b.asked.Port && slices.Equal(a.from, b.from)
}

// ruleIn tells whether r is among what a file says.
func ruleIn(list []api.PublishAdd, r *rule) bool {
	return slices.ContainsFunc(list, func(a api.PublishAdd) bool {
		x, err := ruleOf(a)
		return err == nil && sameRule(x, r)
	})
}

// inOrder lists the ports of a shadow: those by hand, then the file's as it has them, since addresses are chosen in turn.
func (s *Daemon) inOrder() (out []*port) {
	said := namesOf(s.opts.Ports, func(a api.PortAdd) string { return a.Name })
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		if !slices.Contains(said, name) {
			out = append(out, s.ports[name])
		}
	}
	for _, name := range said {
		out = append(out, s.ports[name])
	}
	return out
}

func namesOf[T any](list []T, name func(T) string) (out []string) {
	for _, x := range list {
		out = append(out, name(x))
	}
	return out
}
