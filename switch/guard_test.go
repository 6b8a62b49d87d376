package vswitch_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// packet6 is an IPv6 frame of station 1 to all nodes, from a link-local address whose interface identifier is given.
func packet6(identifier uint64, next byte, rest ...byte) []byte {
	raw := make([]byte, frame.VnetLen+frame.EthernetLen+frame.IPv6Len)
	eth := raw[frame.VnetLen:]
	frametest.PutMACs(eth, 0x333300000001, mac(1))
	binary.BigEndian.PutUint16(eth[12:], frame.TypeIPv6)
	ip := eth[frame.EthernetLen:]
	ip[0], ip[6], ip[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(ip[4:], uint16(len(rest)))
	ip[8], ip[9] = 0xfe, 0x80
	binary.BigEndian.PutUint64(ip[16:], identifier)
	ip[24], ip[25], ip[39] = 0xff, 2, 1
	return append(raw, rest...)
}

// nd is a message of neighbor discovery with a link-local target and one option with a MAC.
func nd(typ byte, target uint64, option byte, m frame.MAC) []byte {
	b := make([]byte, 24)
	b[0], b[8], b[9] = typ, 0xfe, 0x80
	binary.BigEndian.PutUint64(b[16:], target)
	o := []byte{option, 1, 0, 0, 0, 0, 0, 0}
	for i := range 6 {
		o[2+i] = byte(m >> (40 - 8*i))
	}
	return append(b, o...)
}

const (
	own6    = 0x0000_00ff_fe00_0001 // EUI-64 of mac(1)
	others6 = 0x0000_00ff_fe00_0002
)

// tagged puts n tags with VLAN identifier 0 before the EtherType.
func tagged(raw []byte, n int) []byte {
	tags := bytes.Repeat([]byte{0x81, 0, 0, 0}, n)
	return append(append(bytes.Clone(raw[:frame.VnetLen+12]), tags...), raw[frame.VnetLen+12:]...)
}

// What a guarded port may say, and what it may not, however it is wrapped.
func TestGuardAgainstWrappings(t *testing.T) {
	ra, headers := make([]byte, 16), func(n int, last byte, l4 ...byte) []byte {
		var b []byte
		for range n - 1 {
			b = append(b, 60, 0, 1, 4, 0, 0, 0, 0)
		}
		return append(append(b, last, 0, 1, 4, 0, 0, 0, 0), l4...)
	}
	ra[0] = 134
	hidden := func(offset uint16, more bool, next byte, l4 ...byte) []byte { // in a fragment
		f := offset << 3
		if more {
			f |= 1
		}
		return append([]byte{next, 0, byte(f >> 8), byte(f), 0, 0, 0, 7}, l4...)
	}
	udp := func(from, to uint16) []byte {
		return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to), 0, 8, 0, 0)
	}
	a2, a3 := frametest.Addr("10.0.0.2"), frametest.Addr("10.0.0.3")
	quote := func(from, to frame.Addr) []byte { return frametest.Packet{Src: from, Dst: to}.Raw()[frame.VnetLen+14:] }
	quote6 := func(from, to uint64) []byte { // link-local addresses
		return frametest.Packet{Src6: frame.Addr6{Hi: 0xfe80 << 48, Lo: from}, Dst6: frame.Addr6{Hi: 0xfe80 << 48, Lo: to}}.Raw()[frame.VnetLen+14:]
	}
	icmp4 := func(typ, code uint8, about []byte) []byte {
		return frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: a2, Dst: a3, Proto: frame.ICMP, Type: typ, Code: code, Payload: about}.Raw()
	}
	fragment := func(raw []byte) []byte { // the first one
		p := frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: a2, Dst: a3, Proto: frame.ICMP, Type: 3, Code: 4, Frag: 0x2000}
		p.Payload = raw[frame.VnetLen+14+20+8:]
		return p.Raw()
	}
	forgedARP := frametest.ARP(mac(2), mac(1), 2, frametest.Addr("10.0.0.1"), a3)
	forgedIP := frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: a3, Dst: 1}.Raw()
	offer := frametest.Packet{SrcMAC: mac(1), DstMAC: frame.BroadcastMAC, Src: a2, Dst: 0xffffffff, SrcPort: 67, DstPort: 68, Payload: make([]byte, 300)}.Raw()
	withTotal := func(raw []byte, total uint16) []byte { // another total length
		raw = bytes.Clone(raw)
		binary.BigEndian.PutUint16(raw[frame.VnetLen+14+2:], total)
		return raw
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want frame.Reason
	}{
		"own IPv4":            {frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: a2, Dst: a3}.Raw(), frame.None},
		"forged IPv4":         {forgedIP, frame.GuardSourceAddress},
		"forged IPv4, 1 tag":  {tagged(forgedIP, 1), frame.GuardSourceAddress},
		"forged IPv4, 2 tags": {tagged(forgedIP, 2), frame.GuardVLAN},
		"forged IPv4, 4 tags": {tagged(forgedIP, 4), frame.GuardVLAN},
		"forged ARP":          {forgedARP, frame.GuardARPSender},
		"forged ARP, 1 tag":   {tagged(forgedARP, 1), frame.GuardARPSender},
		"forged ARP, 3 tags":  {tagged(forgedARP, 3), frame.GuardVLAN},
		"DHCP offer":          {offer, frame.GuardDHCP},
		"DHCP offer, cut off": {withTotal(offer, 28), frame.GuardDHCP}, // a client's own filter takes it
		"DHCP offer, longer":  {withTotal(offer, 9000), frame.GuardDHCP},
		"forged IPv4, longer": {withTotal(forgedIP, 9000), frame.MalformedPacket},
		"own IPv4, longer":    {withTotal(frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: a2, Dst: a3}.Raw(), 9000), frame.MalformedPacket},
		"forged ARP, cut off": {forgedARP[:frame.VnetLen+14+24], frame.MalformedPacket},
		"DHCP discover":       {frametest.Packet{SrcMAC: mac(1), DstMAC: frame.BroadcastMAC, Src: 0, Dst: 0xffffffff, SrcPort: 68, DstPort: 67}.Raw(), frame.None},

		"echo request":               {packet6(own6, 58, 128, 0, 0, 0, 0, 1, 0, 1), frame.None},
		"another's source":           {packet6(others6, 58, 128, 0, 0, 0, 0, 1, 0, 1), frame.GuardSourceAddress},
		"RA":                         {packet6(own6, 58, ra...), frame.GuardRouter},
		"RA behind hop-by-hop":       {packet6(own6, 0, headers(1, 58, ra...)...), frame.GuardRouter},
		"RA behind 8 headers":        {packet6(own6, 60, headers(8, 58, ra...)...), frame.GuardRouter},
		"RA behind 9 headers":        {packet6(own6, 60, headers(9, 58, ra...)...), frame.ExtHeaders},
		"RA in a fragment":           {packet6(own6, 44, hidden(0, true, 58, ra...)...), frame.GuardRouter},
		"RA in an atomic fragment":   {packet6(own6, 44, hidden(0, false, 58, ra...)...), frame.GuardRouter},
		"first fragment, cut off":    {packet6(own6, 44, hidden(0, true, 58, 134)...), frame.GuardNeighbor},
		"fragment, header cut off":   {packet6(own6, 44, hidden(0, true, 60, 58, 9, 0, 0)...), frame.ExtHeaders},
		"later fragment":             {packet6(own6, 44, hidden(8, false, 58, ra...)...), frame.None},
		"redirect":                   {packet6(own6, 58, nd(137, own6, 2, mac(1))...), frame.GuardRouter},
		"NS":                         {packet6(own6, 58, nd(135, others6, 1, mac(1))...), frame.None},
		"NS with another's MAC":      {packet6(own6, 58, nd(135, others6, 1, mac(2))...), frame.GuardNeighbor},
		"NS in a fragment":           {packet6(own6, 44, hidden(0, true, 58, nd(135, others6, 1, mac(1))...)...), frame.GuardNeighbor},
		"NS with an empty option":    {packet6(own6, 58, append(nd(135, others6, 1, mac(1)), make([]byte, 8)...)...), frame.GuardNeighbor},
		"NA":                         {packet6(own6, 58, nd(136, own6, 2, mac(1))...), frame.None},
		"NA for another":             {packet6(own6, 58, nd(136, others6, 2, mac(1))...), frame.GuardNeighbor},
		"NA with another's MAC":      {packet6(own6, 58, nd(136, own6, 2, mac(2))...), frame.GuardNeighbor},
		"DHCPv6 advertise":           {packet6(own6, 17, udp(547, 546)...), frame.GuardDHCP},
		"DHCPv6 solicit":             {packet6(own6, 17, udp(546, 547)...), frame.None},
		"TCP behind authentication":  {packet6(own6, 51, append([]byte{6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 20)...)...), frame.None},
		"echo request, IPv4":         {icmp4(8, 0, nil), frame.None},
		"an error about its packet":  {icmp4(3, 4, quote(a3, a2)), frame.None},
		"an error about another's":   {icmp4(3, 4, quote(a3, 1)), frame.GuardICMPError},
		"time exceeded, another's":   {icmp4(11, 0, quote(a3, 1)), frame.GuardICMPError},
		"a redirect":                 {icmp4(5, 1, quote(a3, 1)), frame.GuardICMPError},
		"an error in a fragment":     {fragment(icmp4(3, 4, quote(a3, 1))), frame.GuardICMPError},
		"an error about a header":    {icmp4(3, 2, quote(a3, a2)[:20]), frame.None},
		"likewise, another's":        {icmp4(3, 2, quote(a3, 1)[:20]), frame.GuardICMPError},
		"an error about nothing":     {icmp4(3, 4, quote(a3, a2)[:19]), frame.GuardICMPError},
		"too big":                    {packet6(own6, 58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, quote6(others6, own6)...)...), frame.None},
		"too big, another's":         {packet6(own6, 58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, quote6(others6, others6)...)...), frame.GuardICMPError},
		"unreachable, another's":     {packet6(own6, 58, append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, quote6(others6, others6)...)...), frame.GuardICMPError},
		"too big, in a fragment":     {packet6(own6, 44, hidden(0, true, 58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, quote6(others6, others6)...)...)...), frame.GuardICMPError},
		"no next header":             {packet6(own6, 59), frame.None},
		"nothing where one is named": {packet6(own6, 0), frame.ExtHeaders},
	} {
		s := newSwitch(2, 0)
		s.SetPort(vswitch.Port{ID: 1, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(1), Addr: a2})
		b := frametest.Batch(1, 1, tt.raw)
		run(s, b)
		if got := b.Frames[0].Reason; got != tt.want {
			t.Errorf("%s: %s, want %s", name, got.Info().Name, tt.want.Info().Name)
		}
	}
}

// A port without a guard may not speak for the link-local address of another port, nor hide what it says behind too many headers.
func TestAddressStolen6(t *testing.T) {
	s := newSwitch(3, 0)
	s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(2)})
	na := func(target frame.Addr6) []byte {
		p := frametest.Packet{SrcMAC: mac(1), DstMAC: frame.AllNodes.GroupMAC(), Src6: mac(1).LinkLocal(), Dst6: frame.AllNodes, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6NeighborAdvertisement}
		p.Payload = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, target.Hi), target.Lo)
		return p.Raw()
	}
	chain := frametest.Packet{SrcMAC: mac(1), DstMAC: frame.AllNodes.GroupMAC(), Src6: mac(1).LinkLocal(), Dst6: frame.AllNodes, Ext: []byte{17, 9}}.Raw()
	for name, tt := range map[string]struct {
		raw  []byte
		want frame.Reason
	}{
		"its own":         {na(mac(1).LinkLocal()), frame.None},
		"another's":       {na(mac(2).LinkLocal()), frame.AddressStolen},
		"hidden from all": {chain, frame.ExtHeaders},
	} {
		b := frametest.Batch(1, 1, tt.raw)
		run(s, b)
		if got := b.Frames[0].Reason; got != tt.want {
			t.Errorf("%s: %s, want %s", name, got.Info().Name, tt.want.Info().Name)
		}
	}
}

// An address of the gateway or of a guarded port is its own, whoever claims it: also ports without a guard.
func TestAddressStolen(t *testing.T) {
	s := newSwitch(3, 0)
	gateway4, bound := frametest.Addr("10.0.0.1"), frametest.Addr("10.0.0.3")
	s.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, Addr: gateway4, FDB: vswitch.NewFDB(1024, 3)})
	s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(2), Addr: bound})
	s.SetPort(vswitch.Port{ID: 3, Net: 1, Flags: vswitch.DefaultFlags | vswitch.AnySource, MTU: 1500})
	ip := func(m int, src frame.Addr) []byte {
		return frametest.Packet{SrcMAC: mac(m), DstMAC: frame.BroadcastMAC, Src: src, Dst: 1}.Raw()
	}
	for name, tt := range map[string]struct {
		in      frame.PortID
		raw     []byte
		verdict frame.Verdict
	}{
		"ARP for the gateway":    {1, frametest.ARP(frame.BroadcastMAC, mac(1), 2, gateway4, gateway4), frame.Punt},
		"ARP for a bound one":    {1, frametest.ARP(frame.BroadcastMAC, mac(1), 2, bound, frametest.Addr("10.0.0.4")), frame.Drop},
		"an ARP probe":           {1, frametest.ARP(frame.BroadcastMAC, mac(1), 1, 0, bound), frame.Drop},
		"a probe, 1 tag":         {1, tagged(frametest.ARP(frame.BroadcastMAC, mac(1), 1, 0, bound), 1), frame.Drop},
		"a probe by its owner":   {2, frametest.ARP(frame.BroadcastMAC, mac(2), 1, 0, bound), frame.Flood},
		"a probe for nobody":     {1, frametest.ARP(frame.BroadcastMAC, mac(1), 1, 0, bound+9), frame.Flood},
		"bad UDP of a bound one": {1, badUDP(ip(1, bound)), frame.Drop},
		"IPv4 from the gateway":  {1, ip(1, gateway4), frame.Drop},
		"IPv4 from a bound one":  {1, ip(1, bound), frame.Drop},
		"IPv4, 1 tag":            {1, tagged(ip(1, bound), 1), frame.Drop},
		"ARP, 1 tag":             {1, tagged(frametest.ARP(frame.BroadcastMAC, mac(1), 2, bound, gateway4), 1), frame.Drop},
		"IPv4 from nobody's":     {1, ip(1, bound+9), frame.Flood},
		"the bound one itself":   {2, ip(2, bound), frame.Flood},
		"the host, which routes": {3, ip(3, bound), frame.Drop},
		"ARP of the host":        {3, frametest.ARP(frame.BroadcastMAC, mac(3), 2, bound, gateway4), frame.Drop},
	} {
		b := frametest.Batch(tt.in, 1, tt.raw)
		run(s, b)
		if f := &b.Frames[0]; f.Verdict != tt.verdict || tt.verdict != frame.Flood && f.Reason != frame.AddressStolen {
			t.Errorf("%s: verdict %d, %s", name, f.Verdict, f.Reason.Info().Name)
		}
	}
}

// What a container sends by the port of a host that routes may come back by it with the same source. Nothing else comes from there with that source.
func TestAddressComesBackFromTheHost(t *testing.T) {
	four, six := frametest.Addr("10.0.0.3"), frametest.Addr6("fd00::3")
	for _, v6 := range []bool{false, true} {
		s := newSwitch(3, 0)
		s.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, Addr: frametest.Addr("10.0.0.1"), FDB: vswitch.NewFDB(1024, 3)})
		s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(2), Addr: four, Addrs6: []frame.Addr6{six}})
		s.SetPort(vswitch.Port{ID: 3, Net: 1, Flags: vswitch.DefaultFlags | vswitch.AnySource, MTU: 1500, MAC: mac(3)})
		s.FDB(1).Set(mac(3), 3, false)
		from := func(m int, dst frame.MAC, proto uint8, port uint16) []byte {
			p := frametest.Packet{SrcMAC: mac(m), DstMAC: dst, Src: four, Dst: frametest.Addr("198.51.100.1"), Proto: proto, SrcPort: port, DstPort: 80}
			if v6 {
				p.Src6, p.Dst6 = six, frametest.Addr6("2001:db8::1")
			}
			return p.Raw()
		}
		tick := frame.Tick(1000)
		send := func(in frame.PortID, raw []byte) frame.Reason {
			b := frametest.Batch(in, 1, raw)
			b.Tick = tick
			run(s, b)
			return b.Frames[0].Reason
		}
		for _, x := range []struct {
			what  string
			in    frame.PortID
			raw   []byte
			after frame.Tick
			want  frame.Reason
		}{
			{"before", 3, from(3, mac(2), frame.TCP, 5000), 0, frame.AddressStolen},
			{"the container's own", 2, from(2, mac(3), frame.TCP, 5000), 0, frame.None},
			{"the same again", 3, from(3, mac(2), frame.TCP, 5000), frame.TicksPerSecond, frame.None},
			{"another port", 3, from(3, mac(2), frame.TCP, 5001), 0, frame.None},
			{"another protocol", 3, from(3, mac(2), frame.UDP, 5000), 0, frame.AddressStolen},
			{"by a port that is not the host's", 1, from(1, mac(2), frame.TCP, 5000), 0, frame.AddressStolen},
			{"much later", 3, from(3, mac(2), frame.TCP, 5000), 100 * frame.TicksPerSecond, frame.AddressStolen},
		} {
			tick += x.after
			if got := send(x.in, x.raw); got != x.want {
				t.Errorf("IPv6 %v, %s: %s", v6, x.what, got.Info().Name)
			}
		}
	}
}

// badUDP makes the length in a UDP header too long.
func badUDP(raw []byte) []byte {
	raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len+4] = 0xff
	return raw
}

// Whether somebody has an address, a station may not ask of an address of another port: the owner may be asking the same. Nor is a router or a
// DHCP server behind a port, guarded or not, unless the port's setting says so. Nobody has an address of the host.
func TestWhatEveryPortMayNot(t *testing.T) {
	host4, host6 := frametest.Addr("10.0.0.9"), frametest.Addr6("fd00::9")
	icmp := func(typ uint8, src, target frame.Addr6) []byte {
		p := frametest.Packet{SrcMAC: mac(1), DstMAC: frame.AllNodes.GroupMAC(), Src6: src, Dst6: frame.AllNodes, TTL: 255, Proto: frame.ICMPv6, Type: typ, Payload: make([]byte, 16)}
		target.Put(p.Payload)
		return p.Raw()
	}
	me, zero, bound6 := mac(1).LinkLocal(), frame.Addr6{}, mac(2).LinkLocal()
	dhcp := frametest.Packet{SrcMAC: mac(1), DstMAC: frame.BroadcastMAC, Src: frametest.Addr("10.0.0.2"), Dst: 0xffffffff, SrcPort: 67, DstPort: 68}.Raw()
	cut := bytes.Clone(dhcp)
	binary.BigEndian.PutUint16(cut[frame.VnetLen+14+2:], 24)
	for name, tt := range map[string]struct {
		raw           []byte
		want, allowed frame.Reason // allowed: with setting servers
	}{
		"DAD for a bound one":  {icmp(135, zero, bound6), frame.AddressStolen, frame.AddressStolen},
		"DAD for nobody":       {icmp(135, zero, me), frame.None, frame.None},
		"NS for a bound one":   {icmp(135, me, bound6), frame.None, frame.None},
		"RA":                   {icmp(134, me, zero), frame.GuardRouter, frame.None},
		"redirect":             {icmp(137, me, me), frame.GuardRouter, frame.None},
		"DHCP offer":           {dhcp, frame.GuardDHCP, frame.None},
		"DHCP offer, cut off":  {cut, frame.GuardDHCP, frame.None},
		"DHCPv6 advertise":     {frametest.Packet{SrcMAC: mac(1), DstMAC: frame.AllNodes.GroupMAC(), Src6: me, Dst6: frame.AllNodes, SrcPort: 547, DstPort: 546}.Raw(), frame.GuardDHCP, frame.None},
		"ARP as the host":      {frametest.ARP(frame.BroadcastMAC, mac(1), 2, host4, host4), frame.AddressStolen, frame.AddressStolen},
		"IPv4 as the host":     {frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: host4, Dst: 1}.Raw(), frame.AddressStolen, frame.AddressStolen},
		"NA for the host":      {icmp(136, me, host6), frame.AddressStolen, frame.AddressStolen},
		"NA for itself":        {icmp(136, me, me), frame.None, frame.None},
		"a question for a MAC": {frametest.ARP(frame.BroadcastMAC, mac(1), 1, frametest.Addr("10.0.0.2"), frametest.Addr("10.0.0.3")), frame.None, frame.None},
	} {
		for _, own := range [][]frame.Addr{{}, nil} { // nil: the host's stack routes
			for _, flags := range []vswitch.PortFlags{0, vswitch.Guard} {
				for allowed, want := range map[vswitch.PortFlags]frame.Reason{0: tt.want, vswitch.AnyServer: tt.allowed} {
					s := newSwitch(3, 0)
					s.SetPort(vswitch.Port{ID: 1, Net: 1, Flags: vswitch.DefaultFlags | flags | allowed, MTU: 1500})
					s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(2), Addr: frametest.Addr("10.0.0.3")})
					h := vswitch.Port{ID: 3, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500, MAC: mac(3), Addr: host4, Addrs6: []frame.Addr6{host6}, Own: own}
					if own == nil {
						h.Flags |= vswitch.AnySource
					}
					s.SetPort(h)
					b := frametest.Batch(1, 1, bytes.Clone(tt.raw))
					if run(s, b); b.Frames[0].Reason != want {
						t.Errorf("%s, flags %b: %s, want %s", name, flags|allowed, b.Frames[0].Reason.Info().Name, want.Info().Name)
					}
				}
			}
		}
	}
}

// A guarded station does not send from an IPv6 address that no station has, and not from the link-local address of another MAC.
func TestSourcesOfNobody(t *testing.T) {
	s := newSwitch(2, 0)
	s.SetPort(vswitch.Port{ID: 1, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, Addr: frametest.Addr("10.0.0.2")}) // its MAC is not known
	for src, want := range map[string]frame.Reason{
		"::ffff:10.0.0.1": frame.GuardSourceAddress, "::1": frame.GuardSourceAddress, "::10.0.0.1": frame.GuardSourceAddress, "ff02::1": frame.GuardSourceAddress,
		"fe80::ff:fe00:7": frame.GuardSourceAddress, "fe80::ff:fe00:1": frame.None, "fe80::1234": frame.None, "2001:db8::1": frame.None,
	} {
		b := frametest.Batch(1, 1, frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src6: frametest.Addr6(src), Dst6: mac(2).LinkLocal()}.Raw())
		if run(s, b); b.Frames[0].Reason != want {
			t.Errorf("from %s: %s, want %s", src, b.Frames[0].Reason.Info().Name, want.Info().Name)
		}
	}
}

// The station of a port whose address is known, and whose MAC is not, stays at such a port: another one does not take its frames away.
func TestLearnedStationStays(t *testing.T) {
	s := newSwitch(3, 0)
	known := vswitch.Port{Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500}
	send := func(id frame.PortID, src frame.Addr) frame.Reason {
		b := frametest.Batch(id, 1, frametest.Packet{SrcMAC: mac(7), DstMAC: mac(9), Src: src, Dst: 1}.Raw())
		run(s, b)
		return b.Frames[0].Reason
	}
	for id, addr := range map[frame.PortID]string{1: "10.0.0.2", 2: "10.0.0.3"} {
		known.ID, known.Addr = id, frametest.Addr(addr)
		s.SetPort(known)
	}
	for _, step := range []struct {
		from frame.PortID
		addr string
		want frame.Reason
		at   frame.PortID
	}{{3, "10.0.0.8", frame.None, 3}, {1, "10.0.0.2", frame.None, 1}, {3, "10.0.0.8", frame.StationBound, 1}, {2, "10.0.0.3", frame.None, 2}} {
		if why, at := send(step.from, frametest.Addr(step.addr)), s.FDB(1).Lookup(mac(7)); why != step.want || at != step.at {
			t.Errorf("from port %d: %s, the station is at port %d; want %s, %d", step.from, why.Info().Name, at, step.want.Info().Name, step.at)
		}
	}
}

// Frames to a bound station that has been silent go to its port; super-frames whose segments are too long for a port do not.
func TestBoundAndLong(t *testing.T) {
	s := newSwitch(3, 0)
	s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(2), Addr: frametest.Addr("10.0.0.3")})
	b := frametest.Batch(1, 1, from(mac(1), mac(2)))
	if run(s, b); b.Frames[0].Verdict != frame.ToPort || b.Frames[0].Out != 2 {
		t.Errorf("to a bound station: verdict %d, port %d", b.Frames[0].Verdict, b.Frames[0].Out)
	}
	for size, want := range map[uint16]frame.Verdict{1448: frame.ToPort, 9000: frame.Drop} {
		for _, proto := range []uint8{frame.TCP, frame.UDP} {
			b := frametest.Batch(1, 1, frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Proto: proto, GSO: size, Payload: make([]byte, 30000)}.Raw())
			if run(s, b); b.Frames[0].Verdict != want {
				t.Errorf("segments of %d bytes, protocol %d: verdict %d, %v", size, proto, b.Frames[0].Verdict, b.Frames[0].Reason)
			}
		}
	}
}

// Receivers take off any number of tags with VLAN identifier 0. So no port may send more than one, and none of another VLAN behind one.
func TestTagsBehindPriority(t *testing.T) {
	forged := frametest.ARP(frame.BroadcastMAC, mac(1), 2, frametest.Addr("10.0.0.1"), frametest.Addr("10.0.0.1"))
	inside := tagged(forged, 2)
	inside[frame.VnetLen+19] = 5 // the second identifier
	outside := tagged(forged, 2)
	outside[frame.VnetLen+15] = 5 // the first one
	for name, tt := range map[string]struct {
		raw  []byte
		want frame.Reason
	}{
		"0":          {tagged(forged, 1), frame.AddressStolen},
		"0, 0":       {tagged(forged, 2), frame.GuardVLAN},
		"0, 0, 0":    {tagged(forged, 3), frame.GuardVLAN},
		"0, 0, 0, 0": {tagged(forged, 4), frame.GuardVLAN},
		"0, 5":       {inside, frame.GuardVLAN},
		"5, 0":       {outside, frame.None}, // it is in VLAN 5, which has no gateway
	} {
		s := newSwitch(3, 0)
		s.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, Addr: frametest.Addr("10.0.0.1"), FDB: vswitch.NewFDB(1024, 3)})
		b := frametest.Batch(1, 1, tt.raw)
		if run(s, b); b.Frames[0].Reason != tt.want || b.Frames[0].ToGateway {
			t.Errorf("VLANs %s, no guard: %s, to the gateway: %v", name, b.Frames[0].Reason.Info().Name, b.Frames[0].ToGateway)
		}
	}
}

// The port of the host takes and gives what is of the host, or behind it, and no IPv6: else the host would be a router past NAT.
func TestHostPort(t *testing.T) {
	s := newSwitch(3, 0)
	own, behind := frametest.Addr("10.1.0.1"), frametest.Addr("10.20.0.2")
	s.SetPort(vswitch.Port{
		ID: 3, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500, Own: []frame.Addr{own}, Through: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24")},
	})
	s.FDB(1).Learn(mac(3), 3, 1, nil)
	ip := func(from, to int, src, dst frame.Addr) []byte {
		return frametest.Packet{SrcMAC: mac(from), DstMAC: mac(to), Src: src, Dst: dst}.Raw()
	}
	container, stranger := frametest.Addr("172.29.0.2"), frametest.Addr("10.9.9.9")
	ra := packet6(own6, 58, 134, 0, 0, 0, 0, 0, 0, 0)
	for name, tt := range map[string]struct {
		in   frame.PortID
		raw  []byte
		want frame.Reason
	}{
		"in, the host's":         {3, ip(3, 1, own, container), frame.None},
		"in, behind it":          {3, ip(3, 1, behind, container), frame.None},
		"in, a stranger's":       {3, ip(3, 1, stranger, container), frame.GuardSourceAddress},
		"in, a container's":      {3, ip(3, 1, container, container+1), frame.GuardSourceAddress},
		"out, the host's":        {1, ip(1, 3, container, own), frame.None},
		"out, behind it":         {1, ip(1, 3, container, behind), frame.None},
		"out, a stranger's":      {1, ip(1, 3, container, stranger), frame.GuardDestination},
		"out, another network's": {1, ip(1, 3, container, frametest.Addr("172.30.0.2")), frame.GuardDestination},
		"in, IPv6":               {3, packet6(own6, 58, 128, 0, 0, 0, 0, 1, 0, 1), frame.GuardSourceAddress},
	} {
		b := frametest.Batch(tt.in, 1, tt.raw)
		if run(s, b); b.Frames[0].Reason != tt.want {
			t.Errorf("%s: %s, want %s", name, b.Frames[0].Reason.Info().Name, tt.want.Info().Name)
		}
	}
	for name, raw := range map[string][]byte{
		"unknown unicast to a stranger": ip(1, 9, container, stranger),
		"router advertisement":          ra,
		"broadcast under three tags":    tagged(frametest.Packet{SrcMAC: mac(1), DstMAC: frame.BroadcastMAC, Src: container, Dst: own}.Raw(), 3),
	} {
		b := frametest.Batch(1, 1, raw)
		run(s, b)
		var out [frame.MaxPorts]frame.PortID
		if f := &b.Frames[0]; f.Verdict == frame.Flood && slices.Contains(out[:s.FloodSet(f, out[:])], 3) {
			t.Errorf("the host gets a %s", name)
		}
	}
}
