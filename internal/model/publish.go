package model

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// A Publish is one published port of the host, or a range of them.
type Publish struct {
	ID       uint32     // the daemon's; 0 before
	HostAddr netip.Addr // unspecified: every address of the host
	Lo, Hi   uint16     // ports of the host
	Proto    string     // tcp, udp or sctp
	Port     string     // the container's port of the switch, by name
	Target   uint16     // the container's port number, for Lo
	From     []netip.Prefix
	Spec     api.PublishAdd // what was asked for

	StandsBy bool // a sibling of Port has it: see NewPublish
}

// Len is the number of host ports.
func (p *Publish) Len() int { return int(p.Hi) - int(p.Lo) + 1 }

// HostPorts is the host's side in the form of `publish add`: [ADDR:]PORT[-END].
func (p *Publish) HostPorts() string {
	if p.HostAddr.IsUnspecified() {
		return p.ports()
	}
	return p.HostPortsOf(p.HostAddr)
}

// HostPortsOf is HostPorts at one address of the host.
func (p *Publish) HostPortsOf(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]:" + p.ports()
	}
	return a.String() + ":" + p.ports()
}

// ports is PORT[-END].
func (p *Publish) ports() string {
	s := strconv.Itoa(int(p.Lo))
	if p.Hi != p.Lo {
		s += "-" + strconv.Itoa(int(p.Hi))
	}
	return s
}

// IsNamed reports whether name is the published port's host side: [ADDR:]PORT[-END][:PORT][/PROTO], tcp by default.
func (p *Publish) IsNamed(name string) bool {
	hosts := []string{p.HostPorts()}
	if p.HostAddr.IsUnspecified() { // both forms mean every address of the host
		hosts = append(hosts, p.HostPortsOf(netip.IPv4Unspecified()), p.HostPortsOf(netip.IPv6Unspecified()))
	}
	for _, h := range hosts {
		for _, n := range []string{h, h + ":" + strconv.Itoa(int(p.Target))} {
			if name == n+"/"+p.Proto || p.Proto == "tcp" && name == n {
				return true
			}
		}
	}
	return false
}

// SameHostPorts reports whether two published ports have the same host side.
func (p *Publish) SameHostPorts(q *Publish) bool {
	sameAddr := p.HostAddr == q.HostAddr || p.HostAddr.IsUnspecified() && q.HostAddr.IsUnspecified()
	return p.Proto == q.Proto && p.Lo == q.Lo && p.Hi == q.Hi && sameAddr
}

// Overlaps reports whether two published ports share a port of the host.
func (p *Publish) Overlaps(q *Publish) bool {
	sameAddr := p.HostAddr == q.HostAddr || p.HostAddr.IsUnspecified() || q.HostAddr.IsUnspecified()
	return p.Proto == q.Proto && p.Lo <= q.Hi && q.Lo <= p.Hi && sameAddr
}

// A PublishSet has published ports by what they do, however they were written.
type PublishSet map[publishKey]bool

type publishKey struct {
	host   netip.Addr
	lo, hi uint16
	proto  string
	port   string
	target uint16
	from   string
}

func (p *Publish) key() publishKey {
	return publishKey{p.HostAddr, p.Lo, p.Hi, p.Proto, p.Port, p.Target, fmt.Sprint(p.From)}
}

// PublishSetOf returns the set of a list.
func PublishSetOf(list []Publish) PublishSet {
	s := PublishSet{}
	for i := range list {
		s[list[i].key()] = true
	}
	return s
}

// add adds what was asked for. What cannot be read is left out.
func (s PublishSet) add(list []api.PublishAdd) {
	for _, a := range list {
		if p, err := ParsePublish(a); err == nil {
			s[p.key()] = true
		}
	}
}

// Has reports whether the set has a published port that does the same.
func (s PublishSet) Has(p *Publish) bool { return s[p.key()] }

// Rename follows a change of the port's name.
func (p *Publish) Rename(port string) { p.Port, p.Spec.Port = port, port }

func (p *Publish) String() string { return fmt.Sprintf("%s to %s", p.Spec.Spec, p.Port) }

// ParsePublish reads what is asked for, without looking at anything else.
func ParsePublish(a api.PublishAdd) (p Publish, err error) {
	if p, err = parseSpec(a.Spec); err != nil {
		return p, err
	}
	p.Port, p.Spec = a.Port, a
	for _, f := range a.From {
		from, err := netip.ParsePrefix(f)
		if err != nil {
			if addr, aerr := netip.ParseAddr(f); aerr == nil && addr.Zone() == "" {
				from, err = addr.Prefix(addr.BitLen())
			}
		}
		if err != nil || from.Addr().Is4In6() {
			return p, bad("--from %q is not an address or a CIDR", f)
		}
		if !p.HostAddr.IsUnspecified() && p.HostAddr.Is4() != from.Addr().Is4() {
			return p, bad("--from %s is of the other family than the host's address %s: no client could match", f, p.HostAddr)
		}
		p.From = append(p.From, from.Masked())
	}
	return p, nil
}

// parseSpec reads [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp].
func parseSpec(spec string) (Publish, error) {
	p := Publish{Proto: "tcp", HostAddr: netip.IPv4Unspecified()}
	wrong := func(why string) (Publish, error) {
		return p, bad("%q: %s; the form is [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp], such as 8080:80, or '[2001:db8::1]:8080:80' for an IPv6 address", spec, why)
	}
	if a, _, ok := strings.Cut(strings.TrimPrefix(spec, "["), "/"); ok && strings.Contains(spec, "]:") && strings.HasPrefix(spec, "[") && !strings.Contains(a, "]") {
		return wrong("the host's address has no prefix length")
	}
	rest, proto, found := strings.Cut(spec, "/")
	if found {
		p.Proto = proto
	}
	if p.Proto != "tcp" && p.Proto != "udp" && p.Proto != "sctp" {
		return wrong("the protocol must be tcp, udp or sctp")
	}
	if in, after, ok := strings.Cut(strings.TrimPrefix(rest, "["), "]:"); ok && strings.HasPrefix(rest, "[") {
		a, err := netip.ParseAddr(in)
		switch {
		case err != nil || !a.Is6() || a.Is4In6():
			return wrong("what is in brackets is not an IPv6 address")
		case a.Zone() != "" || a.IsLinkLocalUnicast():
			return wrong("a port cannot be published on a link-local address")
		case a.IsMulticast():
			return wrong("a port cannot be published on a multicast address")
		}
		if p.HostAddr, rest = a, after; a.IsUnspecified() {
			p.HostAddr = netip.IPv4Unspecified() // every address, of both families
		}
	}
	parts := strings.Split(rest, ":")
	if len(parts) > 3 {
		return wrong("put an IPv6 address in brackets")
	}
	if len(parts) == 3 && p.HostAddr.IsUnspecified() {
		a, err := netip.ParseAddr(parts[0])
		if err != nil || !a.Is4() {
			return wrong("the host's address is not an IPv4 address, nor an IPv6 address in brackets")
		}
		p.HostAddr, parts = a, parts[1:]
	}
	if len(parts) != 2 {
		return wrong("it needs a port of the host and a port of the container")
	}
	lo, hi, isRange := strings.Cut(parts[0], "-")
	if !isRange {
		hi = lo
	}
	for _, x := range []struct {
		to   *uint16
		text string
	}{{&p.Lo, lo}, {&p.Hi, hi}, {&p.Target, parts[1]}} {
		v, err := strconv.ParseUint(x.text, 10, 16)
		if err != nil || v == 0 {
			return wrong(fmt.Sprintf("%q is not a port from 1 to 65535", x.text))
		}
		*x.to = uint16(v)
	}
	if p.Hi < p.Lo || int(p.Target)+int(p.Hi-p.Lo) > 65535 {
		return wrong("the range of ports is empty or too long")
	}
	return p, nil
}

// NewPublish validates what is asked for against the ports and the other published ports. A published port that another port of the same
// container already has stands by: it takes effect when that port goes. Container runtimes ask so for a container in several networks.
func (s *State) NewPublish(a api.PublishAdd) (Publish, error) {
	p, err := ParsePublish(a)
	if err != nil {
		return p, err
	}
	port := s.Port(a.Port)
	switch {
	case port == nil:
		return p, NoPort(a.Port)
	case !port.Addr.IsValid() && !port.Known6().IsValid() || port.IsOwn():
		if port.AsksDHCP() {
			return p, conflict("port %q has no address yet: it gets one when its station asks by DHCP; start the station's DHCP client, or add the port with --ip ADDRESS", a.Port)
		}
		return p, conflict("the switch knows no address of port %q; add the port with --ip or --ip6", a.Port)
	case p.HostAddr.Is4() && !p.HostAddr.IsUnspecified() && !port.Addr.IsValid():
		return p, conflict("port %q has no IPv4 address, and %s is one; publish it on an IPv6 address of the host, or on all addresses", a.Port, p.HostAddr)
	case s.Network(port.Network).Internal:
		return p, conflict("network %q is internal: its ports cannot be published", port.Network)
	}
	for i := range s.Publishes {
		q := &s.Publishes[i]
		if !q.Overlaps(&p) {
			continue
		}
		if holder := s.Port(q.Port); q.HostPorts() == p.HostPorts() && holder != nil && holder.IsSibling(port) {
			p.StandsBy = true
		} else {
			return p, conflict("port %s/%s of the host is already published, to port %q; remove that first: `uvswitch publish del %s/%s`", q.HostPorts(), q.Proto, q.Port, q.HostPorts(), q.Proto)
		}
	}
	return p, nil
}

// NotPublished is the error for a published port that does not exist.
func NotPublished(name string) error {
	return notFound("%s is not published; `uvswitch publish ls` lists the published ports", name)
}

// ParsePortRanges reads ranges of ports, such as "20000-29999,61000".
func ParsePortRanges(s string) ([][2]uint16, error) {
	var out [][2]uint16
	for _, part := range strings.Split(s, ",") {
		lo, hi, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 16)
		b, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil || a < 1 || b < a {
			return nil, fmt.Errorf("ports for NAT (--nat-ports, uplink.ports): %q is not a range of ports (1 to 65535), such as %s", part, DefaultNATPorts)
		}
		out = append(out, [2]uint16{uint16(a), uint16(b)})
	}
	return out, nil
}
