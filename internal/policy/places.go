package policy

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Places say of which class an address is. The most specific prefix counts; what none has is outside. They do not change once they are read.
type Places struct{ table bart.Table[Class] }

// NewPlaces returns the places of a switch whose networks have these prefixes, on a host with these addresses and prefixes.
func NewPlaces(inside, host []netip.Prefix) *Places {
	p := &Places{}
	for _, x := range groups {
		p.table.Insert(x, Inside)
	}
	for _, x := range inside {
		p.table.Insert(x.Masked(), Inside)
	}
	for _, x := range host {
		if x.IsSingleIP() || !isSpecial(x) { // a whole prefix of the host's does not hide the metadata
			p.table.Insert(x.Masked(), Host)
		}
	}
	for _, x := range special {
		p.table.Insert(x, Special)
	}
	return p
}

// groups are addresses that no packet leaves to by the uplink.
var groups = prefixes("224.0.0.0/4", "255.255.255.255/32", "ff00::/8", "fe80::/10")

// special are link-local addresses of IPv4 (RFC 3927), of which nearly all clouds use 169.254.169.254, and one that AWS uses with IPv6.
var special = prefixes("169.254.0.0/16", "fd00:ec2::/32")

// NotPublic are the prefixes of addresses that no server in the Internet has (RFC 6890), those of IPv4 in IPv6 among them.
var NotPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
	"::/8", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fc00::/7", "fe80::/9", "ff00::/8",
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// IsPublic reports whether an address can be that of a server in the Internet.
func IsPublic(a netip.Addr) bool {
	return !slices.ContainsFunc(NotPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Singles are prefixes of one address each.
func Singles(addrs []netip.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// isSpecial reports whether all addresses of a prefix are special.
func isSpecial(p netip.Prefix) bool {
	return slices.ContainsFunc(special, func(s netip.Prefix) bool { return s.Bits() <= p.Bits() && s.Contains(p.Addr()) })
}

// Class returns the class of an address.
func (p *Places) Class(a netip.Addr) Class {
	if c, ok := p.table.Lookup(a); ok {
		return c
	}
	return Outside
}
