package model

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Values of NetworkAdd.DNS: what the gateway answers.
const (
	DNSOn    = "on"
	DNSLocal = "local"
	DNSOff   = "off"
)

// A Name is a name of a network with an address.
type Name struct {
	Name string // inside the network's zone, in lower case
	Addr netip.Addr
}

// Names are the settings of a network for its names.
type Names struct {
	DNS     string           // DNSOn, DNSLocal or DNSOff
	Domain  string           // the network's zone, without the last dot
	Servers []netip.AddrPort // for names of others; nil: those of the host
	Static  []Name
}

// Root is the domain of a switch: the zones of its networks lie in it.
func Root(switchName string) string { return strings.ToLower(cmp.Or(switchName, "uvs")) + ".internal" }

// checkNames reads the settings of a network for its names, and fills in the defaults.
func (s *State) checkNames(a *api.NetworkAdd) (n Names, err error) {
	switch a.DNS {
	case "":
		a.DNS = DNSOn
	case DNSOn, DNSLocal, DNSOff:
	default:
		return n, bad("--dns %q is not on, local (no names but those of the switch) or off", a.DNS)
	}
	if n.DNS = a.DNS; a.Internal && n.DNS == DNSOn {
		n.DNS = DNSLocal // nothing leaves an internal network, names neither
	}
	usual := strings.ToLower(a.Name) + "." + Root(s.Name)
	n.Domain = cmp.Or(strings.TrimSuffix(strings.ToLower(a.Domain), "."), usual)
	if n.Domain != usual {
		if err := checkDNSName("--domain", n.Domain); err != nil {
			return n, err
		}
	}
	for _, special := range []string{"localhost", "in-addr.arpa", "ip6.arpa"} {
		if n.Domain == special || strings.HasSuffix(n.Domain, "."+special) || strings.HasSuffix(special, "."+n.Domain) {
			return n, bad("--domain %q has another meaning (RFC 6761); choose another one, such as lan, home.arpa or lab.example", n.Domain)
		}
	}
	for _, o := range s.Networks {
		if o.Name != a.Name && o.Names.Domain == n.Domain {
			return n, conflict("network %q has the domain %s; choose another one (--domain)", o.Name, n.Domain)
		}
	}
	for _, word := range a.DNSServers.List() {
		server, err := netip.ParseAddrPort(word)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(word); err == nil {
				server = netip.AddrPortFrom(addr, 53)
			}
		}
		if err != nil || server.Port() == 0 {
			return n, bad("--dns-servers: %q is not an address, such as 192.0.2.53, or [2001:db8::53]:5353 with a port", word)
		}
		n.Servers = append(n.Servers, server)
	}
	for _, word := range a.Names.List() {
		name, addr, _ := strings.Cut(word, "=")
		x, err := ParseName(name, addr)
		if err != nil {
			return n, err
		}
		n.Static = append(n.Static, x)
	}
	if a.Domain = n.Domain; a.Domain == usual {
		a.Domain = ""
	}
	var servers, names []string // in one form: specifications are compared
	for _, x := range n.Servers {
		servers = append(servers, x.String())
	}
	for _, x := range n.Static {
		names = append(names, x.Name+"="+x.Addr.String())
	}
	slices.Sort(names)
	a.DNSServers, a.Names = api.Words(strings.Join(servers, ",")), api.Words(strings.Join(names, ","))
	return n, nil
}

// ParseName reads a name inside of a network's zone and an address.
func ParseName(name, addr string) (n Name, err error) {
	n.Name = strings.ToLower(strings.TrimSuffix(name, "."))
	if err := checkDNSName("name", n.Name); err != nil {
		return n, err
	}
	n.Addr, err = netip.ParseAddr(addr)
	if err != nil || n.Addr.Zone() != "" || n.Addr.IsUnspecified() || n.Addr.IsMulticast() || n.Addr.Is4In6() {
		return n, bad("%q is not an address for the name %s, such as 192.0.2.10", addr, n.Name)
	}
	return n, nil
}

// checkDNSName says why a name cannot be one of DNS.
func checkDNSName(what, name string) error {
	if !api.IsDNSName(name) {
		return bad("%s %q is no name of DNS: it has at most 200 characters, and each part between two dots has 1 to 63 letters, digits, - or _, and no - at its ends", what, name)
	}
	return nil
}

// checkAliases reads the other names of a port.
func checkAliases(list api.Words) (names []string, err error) {
	for _, word := range list.List() {
		word = strings.ToLower(word)
		if err := checkDNSName("--aliases", word); err != nil {
			return nil, err
		}
		names = append(names, word)
	}
	return names, nil
}
