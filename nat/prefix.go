package nat

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// covers reports whether packets from src leave without the host's address: see Masquerade.Outside.
func (m *Masquerade) covers(src netip.Addr) bool {
	return m.Outside.IsValid() && m.Inside.Contains(src)
}

// prefixOf returns the rule that has the outside address a, or nil.
//
//uvswitch:hot
func (c *config[A]) prefixOf(a A) *Masquerade {
	for _, m := range c.prefixes {
		if m.Outside.Contains(frame.Netip(a)) {
			return m
		}
	}
	return nil
}

// preRoutePrefix is preRouteTuple for a packet to an outside address of rule m that belongs to no flow. Published ports and pings may begin
// one (RFC 4890, 4.3.1; RFC 6092, 3).
func (n *tracker[A]) preRoutePrefix(c *config[A], m *Masquerade, f packet[A], outside bool) frame.Reason {
	if p := c.published(f.tuple, false); p != nil {
		if !p.allows(f.tuple.Src) {
			return frame.PublishRefused
		}
		f.Rule = p.ID
		*f.dst, f.RoutePort = p.target(f.tuple.DstPort)
	} else {
		a, ok := c.admitted(m, f.tuple)
		if !ok {
			return frame.NATFiltered
		}
		*f.dst = a
	}
	f.NAT, f.Hairpin = frame.NATNew, !outside
	return frame.None
}

// admitted returns the inside address for a packet of tuple t, which no rule publishes; ok is false if rule m does not let it in. Unless the
// network is open, only pings to known stations are. The gateway and the host's port are no stations.
func (c *config[A]) admitted(m *Masquerade, t *frame.TupleOf[A]) (inside A, ok bool) {
	a, ok := TranslatePrefix(frame.Netip(t.Dst), m.Outside, m.Inside)
	inside = frame.Of[A](a)
	_, known := c.stations[inside]
	isPing := t.Proto == frame.ICMP || t.Proto == frame.ICMPv6
	return inside, ok && m.Protocols.allows(t.Proto) && (m.Open || isPing && known) && !slices.Contains(c.reserved, inside)
}

// beginsOutside notes that flow d begins outside, by rule m. It is charged to the station, or to the uplink if the station is not known.
func (c *config[A]) beginsOutside(d *pendingFlow[A], m *Masquerade) {
	if id, ok := c.stations[d.reply.Src]; ok {
		d.port = id
	}
	d.net = m.Net
	d.status |= servedFlow | byPrefix
}

// sourceByPrefix sets the source of flow d by rule m; the port stays the same.
func (d *pendingFlow[A]) sourceByPrefix(m *Masquerade) frame.Reason {
	a, ok := TranslatePrefix(frame.Netip(d.orig.Src), m.Inside, m.Outside)
	if !ok {
		return frame.MartianSource
	}
	d.reply.Dst = frame.Of[A](a)
	return frame.None
}

// validByPrefix is valid for a flow with byPrefix or hairpinned. A rule that publishes its port has been checked.
func (c *config[A]) validByPrefix(s *flow, k *[2]frame.TupleOf[A]) bool {
	if s.state.Load()&(servedFlow|byPrefix) == byPrefix {
		m := c.masq[s.net]
		d := pendingFlow[A]{orig: k[0]}
		if m == nil || !m.Protocols.allows(k[0].Proto) || !m.covers(frame.Netip(k[0].Src)) || d.sourceByPrefix(m) != frame.None || d.reply.Dst != k[1].Dst {
			return false
		}
		if k[0].Dst == k[1].Src {
			return true
		}
	}
	if s.rule != 0 {
		return true
	}
	m := c.prefixOf(k[0].Dst)
	if m == nil {
		return false
	}
	inside, ok := c.admitted(m, &k[0])
	return ok && inside == k[1].Src
}

// TranslatePrefix returns the address that stands for a, an address of from, under another prefix. It has the same checksum (RFC 6296, 3.1 and 3.4 to 3.6;
// net/ipv6/netfilter/ip6t_NPT.c). The prefixes have one length: /64 or shorter, if they are not the same prefix. ok is false if a cannot be
// translated.
func TranslatePrefix(a netip.Addr, from, to netip.Prefix) (out netip.Addr, ok bool) {
	if from == to {
		return a, true
	}
	x, old, is := a.As16(), from.Addr().As16(), to.Addr().As16()
	at, end := 6, 8 // bytes: up to /48 the subnet's word takes up the difference, else the first one of the interface ID that is not ffff
	if to.Bits() > 48 {
		at, end = 8, 16
	}
	for at < end && x[at] == 0xff && x[at+1] == 0xff {
		at += 2
	}
	if at == end || binary.BigEndian.Uint64(x[8:]) == 0 { // 0: all routers of a subnet (RFC 6296, 3.7)
		return a, false
	}
	for i := range x[:8] {
		host := byte(0xff >> max(0, min(8, to.Bits()-8*i)))
		x[i] = is[i]&^host | x[i]&host
	}
	word := frame.Add(binary.BigEndian.Uint16(x[at:]), frame.Add(frame.Sum(old[:], 0), ^frame.Sum(is[:], 0)))
	if word == 0xffff {
		word = 0
	}
	binary.BigEndian.PutUint16(x[at:], word)
	return netip.AddrFrom16(x), true
}
