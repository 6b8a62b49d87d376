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
var groups = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fe80::/10"),
}

// special are link-local addresses of IPv4 (RFC 3927), of which nearly all clouds use 169.254.169.254, and one that AWS uses with IPv6.
var special = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00:ec2::/32")}

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
