package uplink

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// inMemory is an uplink on plain memory, without BPF maps: it has one address, with index 1, and the port sets are empty.
func inMemory(addr string) *Uplink {
	a := frametest.Addr(addr)
	return &Uplink{maps: &shared{
		bpfMaps: &bpfMaps{portsMem: make([]byte, 2*sixBase*setsOfAddr*nat.PortSetBytes)},
		four:    addrSets[frame.Addr]{index: map[frame.Addr]int{a: 1}, owned: map[frame.Addr]uint32{a: 1, a + 8: 0}},
		six:     addrSets[frame.Addr6]{base: sixBase},
	}}
}

func ports(list ...uint16) *nat.PortSet {
	s := nat.NewPortSet()
	for _, p := range list {
		s.Claim(p)
	}
	return s
}

// Each address, and each protocol, has its own sets of ports, and replacing a set removes the ports that are not in the new set.
func TestSetPublished(t *testing.T) {
	u := inMemory("198.51.100.1")
	a := frametest.Addr("198.51.100.1")
	u.PortSet(1, frame.ICMP).Claim(7)
	u.SetPublished(Published[frame.Addr]{0: {frame.TCP: ports(80, 90), frame.UDP: ports(53)}, a: {frame.SCTP: ports(65535)}}, nil)
	check := func(addr int, set setIndex, want ...uint16) {
		for _, p := range []uint16{7, 53, 79, 80, 90, 91, 65535} {
			if has, should := u.maps.portSet(addr, set).Has(p), slices.Contains(want, p); has != should {
				t.Errorf("set %d of address %d has port %d: %v", set, addr, p, has)
			}
		}
	}
	check(0, setPublished+setTCP, 80, 90)
	check(0, setPublished+setUDP, 53)
	check(0, setPublished+setSCTP)
	check(1, setPublished+setSCTP, 65535)
	check(1, setICMPID, 7)
	u.SetPublished(Published[frame.Addr]{0: {frame.UDP: ports(53)}}, nil)
	check(0, setPublished+setTCP)
	check(0, setPublished+setUDP, 53)
	check(1, setPublished+setSCTP)
	check(1, setICMPID, 7)
	u.PortSet(1, frame.ICMP)
	check(1, setICMPID) // for another address, which takes the index
}

// Claims agrees with the way in about what belongs to the switch (see bpf_in.go): packets to an address of the host whose port,
// identifier or quoted packet is in a set.
func TestClaims(t *testing.T) {
	u := inMemory("198.51.100.1")
	u.SetPublished(Published[frame.Addr]{0: {frame.TCP: ports(8080)}}, nil)
	u.PortSet(1, frame.UDP).AddRange(20000, 20010)
	u.PortSet(1, frame.ICMP).Claim(9)
	us, peer := frametest.Addr("198.51.100.1"), frametest.Addr("203.0.113.8")
	out := frametest.Packet{Src: us, Dst: peer, Proto: frame.UDP, SrcPort: 20005, DstPort: 53, Payload: []byte("question")}
	host := out
	host.SrcPort = 40000
	for name, tt := range map[string]struct {
		p    frametest.Packet
		want bool
	}{
		"a published port":           {frametest.Packet{Src: peer, Dst: us, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, true},
		"the port of a mapping":      {frametest.Packet{Src: peer, Dst: us, Proto: frame.UDP, SrcPort: 53, DstPort: 20005}, true},
		"a port of the host":         {frametest.Packet{Src: peer, Dst: us, Proto: frame.TCP, SrcPort: 5, DstPort: 22}, false},
		"that port of UDP":           {frametest.Packet{Src: peer, Dst: us, Proto: frame.UDP, SrcPort: 5, DstPort: 8080}, false},
		"a second address":           {frametest.Packet{Src: peer, Dst: us + 8, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, true},
		"its ports":                  {frametest.Packet{Src: peer, Dst: us + 8, Proto: frame.UDP, SrcPort: 5, DstPort: 20005}, false},
		"another address":            {frametest.Packet{Src: peer, Dst: us + 1, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, false},
		"the answer to our ping":     {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: frame.ICMPEchoReply, ID: 9}, true},
		"the answer to another ping": {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: frame.ICMPEchoReply, ID: 8}, false},
		"a ping to the host":         {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: frame.ICMPEcho, ID: 9}, false},
		"an error about our packet":  {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: 3, Code: 3, Payload: frametest.Quote(out.Raw(), 8)}, true},
		"an error about the host's":  {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: 3, Code: 3, Payload: frametest.Quote(host.Raw(), 8)}, false},
		"a later fragment":           {frametest.Packet{Src: peer, Dst: us, Proto: frame.UDP, Frag: 9, Payload: []byte("more of it")}, true},
	} {
		var f frame.Frame
		f.Reset(tt.p.Raw(), 1)
		frame.Parse(&f)
		if got := u.Claims(&f); got != tt.want {
			t.Errorf("%s: claimed: %v", name, got)
		}
	}
}

// Each inside address has a place of its own, as long as a group of places is not full.
func TestInside(t *testing.T) {
	u := inMemory("198.51.100.1")
	u.maps.insideMem = make([]byte, 16*insideWays*insideGroups*frame.MaxPorts)
	six, seen := Uplink6{u}, map[uint32]frame.Addr6{}
	for id := range frame.PortID(5) {
		for k := range uint64(20) {
			a := frame.Addr6{Hi: 0xfd00_0000_0000_0000, Lo: k + 1}
			place := six.Inside(id+1, a)
			if was, taken := seen[place]; taken || place == 0 {
				t.Errorf("%s of port %d has place %d, as %s", a, id+1, place, was)
			}
			seen[place] = a
			if again := six.Inside(id+1, a); again != place || u.InsideAt(place) != a {
				t.Errorf("%s: place %d, then %d with %s", a, place, again, u.InsideAt(place))
			}
		}
	}
}

// The same of IPv6; and what is sent to a prefix of containers that keep their addresses outside, but neighbor discovery.
func TestClaims6(t *testing.T) {
	u := inMemory("198.51.100.1")
	us, other, peer, routed := frametest.Addr6("2001:db8:1::1"), frametest.Addr6("2001:db8:1::9"), frametest.Addr6("2001:db8:2::8"), frametest.Addr6("2001:db8:60::5")
	u.maps.six.index, u.maps.six.owned = map[frame.Addr6]int{us: 1}, map[frame.Addr6]uint32{us: 1, other: 0}
	u.maps.routes = map[netip.Prefix]uint32{netip.MustParsePrefix("2001:db8:60::/64"): 0}
	u.SetPublished(nil, Published[frame.Addr6]{frame.Addr6{}: {frame.TCP: ports(8080)}})
	six := Uplink6{u}
	six.PortSet(1, frame.UDP).AddRange(20000, 20010)
	six.PortSet(1, frame.ICMPv6).Claim(9)
	out := frametest.Packet{Src6: us, Dst6: peer, Proto: frame.UDP, SrcPort: 20005, DstPort: 53, Payload: []byte("question")}
	quote := func(p frametest.Packet) []byte { return p.Raw()[frame.VnetLen+frame.EthernetLen:] }
	host := out
	host.SrcPort = 40000
	fragment := func(offset byte) frametest.Packet {
		return frametest.Packet{Src6: peer, Dst6: us, Proto: frame.UDP, SrcPort: 53, DstPort: 20005, Next: 44, Ext: []byte{17, 0, 0, offset, 0, 0, 0, 1}, NoChecksum: true, Payload: make([]byte, 16)}
	}
	for name, tt := range map[string]struct {
		p    frametest.Packet
		want bool
	}{
		"a published port":           {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, true},
		"behind a header":            {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.TCP, SrcPort: 5, DstPort: 8080, Next: 60, Ext: []byte{6, 0, 1, 4, 0, 0, 0, 0}}, true},
		"the port of a mapping":      {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.UDP, SrcPort: 53, DstPort: 20005}, true},
		"a port of the host":         {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.TCP, SrcPort: 5, DstPort: 22}, false},
		"a second address":           {frametest.Packet{Src6: peer, Dst6: other, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, true},
		"its ports":                  {frametest.Packet{Src6: peer, Dst6: other, Proto: frame.UDP, SrcPort: 5, DstPort: 20005}, false},
		"another address":            {frametest.Packet{Src6: peer, Dst6: frametest.Addr6("2001:db8:1::77"), Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, false},
		"from a link-local address":  {frametest.Packet{Src6: frametest.Addr6("fe80::8"), Dst6: us, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, false},
		"the answer to our ping":     {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.ICMPv6, Type: frame.ICMPv6EchoReply, ID: 9}, true},
		"the answer to another ping": {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.ICMPv6, Type: frame.ICMPv6EchoReply, ID: 8}, false},
		"a ping to the host":         {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.ICMPv6, Type: frame.ICMPv6Echo, ID: 9}, false},
		"neighbor discovery":         {frametest.Packet{Src6: peer, Dst6: us, TTL: 255, Proto: frame.ICMPv6, Type: 135, Payload: make([]byte, 16)}, false},
		"an error about our packet":  {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.ICMPv6, Type: 1, Code: 4, Payload: quote(out)}, true},
		"an error about the host's":  {frametest.Packet{Src6: peer, Dst6: us, Proto: frame.ICMPv6, Type: 1, Code: 4, Payload: quote(host)}, false},
		"a later fragment":           {fragment(64), true},
		"a routed address":           {frametest.Packet{Src6: peer, Dst6: routed, Proto: frame.TCP, SrcPort: 5, DstPort: 9}, true},
		"a ping to it":               {frametest.Packet{Src6: peer, Dst6: routed, Proto: frame.ICMPv6, Type: frame.ICMPv6Echo, ID: 3}, true},
		"its neighbor discovery":     {frametest.Packet{Src6: peer, Dst6: routed, TTL: 255, Proto: frame.ICMPv6, Type: 135, Payload: make([]byte, 16)}, false},
	} {
		var f frame.Frame
		f.Reset(tt.p.Raw(), 1)
		frame.Parse(&f)
		if got := u.Claims(&f); got != tt.want {
			t.Errorf("%s: claimed: %v", name, got)
		}
	}
}

// While the host has a tunnel of a protocol, no container uses this protocol.
func TestTunnels(t *testing.T) {
	up := netlink.LinkAttrs{Flags: net.FlagUp}
	got := tunnels([]netlink.Link{&netlink.Gretun{LinkAttrs: up, Local: net.IPv4zero}, &netlink.Iptun{LinkAttrs: up}, &netlink.Sittun{LinkAttrs: up}, &netlink.Vti{}, &netlink.Dummy{LinkAttrs: up}})
	for _, p := range []uint8{47, 4, 41} {
		if !slices.Contains(got, p) {
			t.Errorf("protocol %d is missing: %v", p, got)
		}
	}
	if slices.Contains(got, unix.IPPROTO_ESP) { // it is down
		t.Errorf("%v", got)
	}
}
