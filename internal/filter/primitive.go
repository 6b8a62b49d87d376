package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// EtherTypes, and numbers of IPv6.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIPv6 = 0x86dd
	etherQ    = 0x8100
	etherAD   = 0x88a8
	etherQinQ = 0x9100

	ipv6Len      = 40
	ipv6Fragment = 44
)

// link returns the offset of the network header in bytes.
func (c *compiler) link() int { return 14 + 4*c.vlans }

func (c *compiler) etherType(want uint32) node {
	at := c.link() - 2
	return test(func(p *Packet) bool { return p.u16(at) == want })
}

// vlan matches a VLAN tag. The rest of the expression then looks behind the tag.
func (c *compiler) vlan() (node, error) {
	at := c.link() - 2
	n := node(test(func(p *Packet) bool {
		t := p.u16(at)
		return t == etherQ || t == etherAD || t == etherQinQ
	}))
	if v, err := strconv.ParseUint(c.peek(), 0, 12); err == nil {
		c.next()
		n = and{n, test(func(p *Packet) bool { return p.u16(at+2)&0xfff == uint32(v) })}
	}
	c.vlans++
	return n, nil
}

// ipProtos maps protocol names to their numbers in IPv4 and, as next header, in IPv6; -1: none.
var ipProtos = map[string]struct{ v4, v6 int }{
	"tcp": {6, 6}, "udp": {17, 17}, "sctp": {132, 132}, "icmp": {1, -1}, "icmp6": {-1, 58}, "igmp": {2, -1}, "ah": {51, 51},
	"esp": {50, 50}, "pim": {103, 103}, "vrrp": {112, -1},
}

func (c *compiler) protocol(name string) (node, error) {
	switch name {
	case "ip":
		return c.etherType(etherIPv4), nil
	case "ip6":
		return c.etherType(etherIPv6), nil
	case "arp":
		return c.etherType(etherARP), nil
	case "rarp":
		return c.etherType(etherRARP), nil
	case "ether":
		return nil, fmt.Errorf("a word is missing after ether: host, src, dst, proto, broadcast or multicast")
	}
	n := ipProtos[name]
	return either(n.v4 >= 0, c.ipv4Proto(uint32(n.v4)), n.v6 >= 0, c.ipv6Next(uint32(n.v6))), nil
}

// either returns the node `a or b`, or only the one of them that is wanted.
func either(wantA bool, a node, wantB bool, b node) node {
	switch {
	case wantA && wantB:
		return or{a, b}
	case wantA:
		return a
	}
	return b
}

func (c *compiler) ipv4Proto(proto uint32) node {
	at := c.link() + 9
	return and{c.etherType(etherIPv4), test(func(p *Packet) bool { return p.u8(at) == proto })}
}

// ipv6Next matches IPv6's next header. It also looks behind a fragment header, as libpcap does.
func (c *compiler) ipv6Next(proto uint32) node {
	at := c.link()
	return and{c.etherType(etherIPv6), test(func(p *Packet) bool {
		next := p.u8(at + 6)
		return next == proto || next == ipv6Fragment && p.u8(at+ipv6Len) == proto
	})}
}

func (c *compiler) protoNumber(q qualifiers, v string) (node, error) {
	n, err := strconv.ParseUint(v, 0, 16)
	if err != nil {
		types := map[string]uint64{"ip": etherIPv4, "ip6": etherIPv6, "arp": etherARP, "rarp": etherRARP}
		t, isType := types[v]
		p, isProto := ipProtos[v]
		switch {
		case q.proto == "ether" && isType:
			n = t
		case q.proto != "ether" && isProto:
			n = uint64(max(p.v4, p.v6))
		default:
			return nil, fmt.Errorf("%q is not a known protocol; use its number", v)
		}
	}
	switch q.proto {
	case "ether":
		return c.etherType(uint32(n)), nil
	case "ip":
		return c.ipv4Proto(uint32(n)), nil
	case "ip6":
		return c.ipv6Next(uint32(n)), nil
	case "":
		return or{c.ipv4Proto(uint32(n)), c.ipv6Next(uint32(n))}, nil
	}
	return nil, fmt.Errorf("proto cannot be combined with %s; use ether proto, ip proto or ip6 proto", q.proto)
}

func (c *compiler) group(proto, what string) (node, error) {
	at := c.link()
	switch {
	case proto == "ether" && what == "broadcast":
		return test(func(p *Packet) bool { return p.u32(0) == 0xffffffff && p.u16(4) == 0xffff }), nil
	case proto == "ether":
		return test(func(p *Packet) bool { return p.u8(0)&1 != 0 }), nil
	case proto == "ip" && what == "multicast":
		return and{c.etherType(etherIPv4), test(func(p *Packet) bool { return p.u8(at+16) >= 224 })}, nil
	case proto == "ip6" && what == "multicast":
		return and{c.etherType(etherIPv6), test(func(p *Packet) bool { return p.u8(at+24) == 255 })}, nil
	}
	return nil, fmt.Errorf("%s %s does not exist; use ether broadcast, ether multicast, ip multicast or ip6 multicast", proto, what)
}

// station matches a MAC address: the source, the destination, or as dir says.
func station(dir string, mac [6]byte) node {
	high := uint32(mac[0])<<24 | uint32(mac[1])<<16 | uint32(mac[2])<<8 | uint32(mac[3])
	low := uint32(mac[4])<<8 | uint32(mac[5])
	at := func(off int) node {
		return test(func(p *Packet) bool { return p.u32(off) == high && p.u16(off+4) == low })
	}
	return directed(dir, at(6), at(0))
}

func directed(dir string, src, dst node) node {
	switch dir {
	case "src":
		return src
	case "dst":
		return dst
	case "both":
		return and{src, dst}
	}
	return or{src, dst}
}

// address matches a prefix: in IPv4, ARP and RARP, or in IPv6.
func (c *compiler) address(q qualifiers, pre netip.Prefix) (node, error) {
	at := c.link()
	is4 := pre.Addr().Is4()
	switch q.proto {
	case "", "ip", "arp", "rarp", "ip6":
	default:
		return nil, fmt.Errorf("%s has no addresses; use ip, arp or ip6", q.proto)
	}
	if is4 == (q.proto == "ip6") && q.proto != "" {
		return nil, fmt.Errorf("%s and %s cannot be combined", q.proto, pre)
	}
	if !is4 {
		b, bits := pre.Addr().As16(), pre.Bits()
		return and{c.etherType(etherIPv6), directed(q.dir, inPrefix6(at+8, b, bits), inPrefix6(at+24, b, bits))}, nil
	}
	b := pre.Addr().As4()
	want := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	mask := ^uint32(0) << (32 - pre.Bits())
	in := func(off int) node {
		return test(func(p *Packet) bool { return mask == 0 || p.u32(off)&mask == want })
	}
	ip := and{c.etherType(etherIPv4), directed(q.dir, in(at+12), in(at+16))}
	arp := and{c.etherType(etherARP), directed(q.dir, in(at+14), in(at+24))}
	rarp := and{c.etherType(etherRARP), directed(q.dir, in(at+14), in(at+24))}
	switch q.proto {
	case "ip":
		return ip, nil
	case "arp":
		return arp, nil
	case "rarp":
		return rarp, nil
	}
	return or{or{ip, arp}, rarp}, nil
}

func inPrefix6(at int, want [16]byte, bits int) node {
	return test(func(p *Packet) bool {
		for i := 0; i < bits; i += 8 {
			mask := uint32(0xff)
			if bits-i < 8 {
				mask = 0xff << (8 - (bits - i)) & 0xff
			}
			if p.u8(at+i/8)&mask != uint32(want[i/8])&mask || p.beyond {
				return false
			}
		}
		return true
	})
}

// port matches ports lo to hi of TCP, UDP and SCTP, in IPv4 packets except later fragments, and directly behind IPv6's header.
func (c *compiler) port(q qualifiers, lo, hi uint32) (node, error) {
	protos := []uint32{6, 17, 132}
	want4, want6 := true, true
	switch q.proto {
	case "":
	case "ip":
		want6 = false
	case "ip6":
		want4 = false
	case "tcp", "udp", "sctp":
		protos = []uint32{uint32(ipProtos[q.proto].v4)}
	default:
		return nil, fmt.Errorf("%s has no ports", q.proto)
	}
	at := c.link()
	in := func(off func(*Packet) int, plus int) node {
		return test(func(p *Packet) bool {
			v := p.u16(off(p) + plus)
			return lo <= v && v <= hi && !p.beyond
		})
	}
	l4 := func(p *Packet) int { return c.transport(p, at) }
	v4 := and{and{c.etherType(etherIPv4), test(func(p *Packet) bool { return slices.Contains(protos, p.u8(at+9)) && p.u16(at+6)&0x1fff == 0 })}, directed(q.dir, in(l4, 0), in(l4, 2))}
	l46 := func(*Packet) int { return at + ipv6Len }
	v6 := and{and{c.etherType(etherIPv6), test(func(p *Packet) bool { return slices.Contains(protos, p.u8(at+6)) })}, directed(q.dir, in(l46, 0), in(l46, 2))}
	return either(want4, v4, want6, v6), nil
}

// transport returns the offset of the header behind the IPv4 header at offset at.
func (*compiler) transport(p *Packet, at int) int { return at + int(p.u8(at)&0xf)*4 }

// header returns the header that proto[...] reads, without offset and size; false if there is none.
func (c *compiler) header(proto string) (access, bool) {
	at := c.link()
	fixed := func(off int) func(*Packet) int { return func(*Packet) int { return off } }
	switch proto {
	case "ether":
		return access{guard: test(func(*Packet) bool { return true }), base: fixed(0)}, true
	case "ip", "ip6", "arp", "rarp":
		n, _ := c.protocol(proto)
		return access{guard: n, base: fixed(at)}, true
	case "tcp", "udp", "sctp", "icmp", "igmp":
		first := test(func(p *Packet) bool { return p.u16(at+6)&0x1fff == 0 })
		return access{guard: and{c.ipv4Proto(uint32(ipProtos[proto].v4)), first}, base: func(p *Packet) int { return c.transport(p, at) }}, true
	case "icmp6":
		return access{guard: and{c.etherType(etherIPv6), test(func(p *Packet) bool { return p.u8(at+6) == 58 })}, base: fixed(at + ipv6Len)}, true
	}
	return access{}, false
}
