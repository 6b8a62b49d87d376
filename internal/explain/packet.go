package explain

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
)

// packetForm is the form of a packet in words.
const packetForm = "tcp|udp|sctp|icmp|gre|esp|arp|nd [SRC[:PORT]] > DST[:PORT] [FLAGS: S S. . P. F. R] [seq N] [ack N] [win N] [ttl N] [len N] [mss N] [id N] [df], or dhcp, or dns|dns6 NAME; such as 'tcp 172.29.0.2:4000 > 1.1.1.1:443 S', 'icmp > 8.8.8.8', 'tcp > [2001:db8::1]:443' or 'arp > 172.29.0.1'"

// Words describes a dropped packet in packetForm; empty if its kind has no such form.
func Words(v *api.Verdict) string {
	if v.Src == "" || v.Dst == "" || !slices.Contains([]string{"tcp", "udp", "sctp", "icmp", "icmpv6"}, v.Protocol) {
		return ""
	}
	words := fmt.Sprintf("%s %s > %s", strings.TrimSuffix(v.Protocol, "v6"), api.AddrPort(v.Src, v.Sport), api.AddrPort(v.Dst, v.Dport))
	if v.Reason == frame.FragmentationNeeded.String() || v.Reason == frame.ExceedsMTU.String() { // a short one would pass
		ip, transport := frame.IPv4Len, frame.UDPLen // as long as an echo's
		if strings.Contains(v.Src, ":") {
			ip = frame.IPv6Len
		}
		switch v.Protocol {
		case "tcp":
			transport = frame.TCPLen
		case "sctp":
			transport = 12 // RFC 9260, 3
		}
		words += fmt.Sprintf(" len %d df", max(0, v.Length-frame.EthernetLen-ip-transport))
	}
	return words
}

// spec is a packet in words.
type spec struct {
	proto        string
	src, dst     netip.AddrPort // an invalid source: the port's own
	flags        string
	ttl, len, id int
	mss, win     int
	seq, ack     int
	df           bool
	name         string // that a question asks for
}

// parseSpec reads packetForm.
func parseSpec(s string) (spec, error) {
	f := strings.Fields(s)
	bad := func(format string, args ...any) (spec, error) {
		return spec{}, fmt.Errorf("%q: %s; the form is %s", s, fmt.Sprintf(format, args...), packetForm)
	}
	p := spec{ttl: 64, id: 1, win: 64240}
	switch {
	case len(f) == 1 && f[0] == "dhcp":
		p.proto, p.src, p.dst = "udp", netip.AddrPortFrom(netip.IPv4Unspecified(), dhcp.ClientPort), netip.AddrPortFrom(dhcp.Everyone, dhcp.ServerPort)
		return p, nil
	case len(f) == 2 && (f[0] == "dns" || f[0] == "dns6"):
		p.proto, p.name = f[0], f[1]
		return p, nil
	case len(f) < 3:
		return bad("the packet is incomplete")
	}
	p.proto = f[0]
	if _, known := frame.ProtoNumber(p.proto); !known && !p.asks() {
		return bad("%q is not a protocol", p.proto)
	}
	at := slices.Index(f, ">")
	if at != 1 && at != 2 || at+1 >= len(f) {
		return bad("a > must stand between the source, which may be left out, and the destination")
	}
	var err error
	if at == 2 {
		if p.src, err = parseEnd(f[1]); err != nil {
			return bad("%v", err)
		}
	}
	if p.dst, err = parseEnd(f[at+1]); err != nil {
		return bad("%v", err)
	}
	for rest := f[at+2:]; len(rest) > 0; rest = rest[1:] {
		n := map[string]*int{"ttl": &p.ttl, "len": &p.len, "mss": &p.mss, "id": &p.id, "seq": &p.seq, "ack": &p.ack, "win": &p.win}[rest[0]]
		switch {
		case n != nil:
			if len(rest) < 2 {
				return bad("%s needs a number", rest[0])
			}
			if *n, err = strconv.Atoi(rest[1]); err != nil || *n < 0 || *n > limitOf(rest[0]) {
				return bad("%s %q is not a number up to %d", rest[0], rest[1], limitOf(rest[0]))
			}
			rest = rest[1:]
		case rest[0] == "df":
			p.df = true
		case p.proto == "tcp" && strings.Trim(rest[0], "SFRP.") == "":
			p.flags = rest[0]
		default:
			return bad("the word %q is unknown", rest[0])
		}
	}
	six := p.dst.Addr().Is6()
	if (p.proto == "icmp" || p.proto == "icmp6") && six {
		p.proto = "icmpv6"
	}
	number, _ := frame.ProtoNumber(p.proto)
	switch hasPorts := frame.HasPorts(number); {
	case p.src.IsValid() && p.src.Addr().Is6() != six:
		return bad("the source and the destination are of different families")
	case p.proto == "nd" && !six, p.proto == "arp" && six:
		return bad("arp asks for IPv4 addresses, nd for IPv6 addresses")
	case !p.asks() && hasPorts && p.dst.Port() == 0:
		return bad("the destination needs a port")
	case !hasPorts && (p.dst.Port() != 0 || p.src.Port() != 0):
		return bad("%s has no ports", p.proto)
	case p.proto != "tcp" && p.mss+p.seq+p.ack > 0:
		return bad("mss, seq and ack apply to TCP only")
	}
	return p, nil
}

// asks reports whether the packet looks for a neighbor.
func (s *spec) asks() bool { return s.proto == "arp" || s.proto == "nd" }

// limitOf is the largest value of a number in words.
func limitOf(name string) int {
	switch name {
	case "ttl":
		return 255
	case "seq", "ack":
		return 1<<32 - 1
	case "len":
		return 65000
	}
	return 65535
}

// parseEnd reads ADDR or ADDR:PORT. An IPv6 address with a port is in brackets.
func parseEnd(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && !a.Is4In6() {
		return netip.AddrPortFrom(a.WithZone(""), 0), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Addr().Is4In6() {
		return ap, fmt.Errorf("%q is not an IP address, with or without a port", s)
	}
	return ap, nil
}

// buildPacket makes the frame that port p would send for a packet in words, with a virtio-net header.
func (s *Switch) buildPacket(p *model.Port, text string) ([]byte, error) {
	x, err := parseSpec(text)
	if err != nil {
		return nil, err
	}
	var payload []byte
	if x.name != "" {
		if payload, err = question(x.name, x.proto == "dns6"); err != nil {
			return nil, err
		}
		n := s.Network(p.Network)
		if n == nil {
			return nil, fmt.Errorf("port %s has no gateway that answers questions for names", p.Name)
		}
		if !p.Addr.IsValid() && p.AsksDHCP() {
			return nil, fmt.Errorf("port %s has no address yet, and so asks for no names: it gets one when its station asks by DHCP", p.Name)
		}
		x.proto, x.dst = "udp", netip.AddrPortFrom(n.Gateway, dnsPort)
	}
	if !x.src.IsValid() {
		own := p.Addr
		if x.dst.Addr().Is6() {
			own = p.Addr6
		}
		if !own.IsValid() {
			return nil, fmt.Errorf("the switch knows no address of port %s in the destination's family; name the packet's source", p.Name)
		}
		x.src = netip.AddrPortFrom(own.Addr(), 0)
	}
	if x.src.Port() == 0 {
		x.src = netip.AddrPortFrom(x.src.Addr(), 40000)
	}
	src, dst, err := s.macsFor(p, x)
	if err != nil {
		return nil, err
	}
	eth := &layers.Ethernet{SrcMAC: src.HardwareAddr(), DstMAC: dst.HardwareAddr(), EthernetType: layers.EthernetTypeIPv4}
	var parts []gopacket.SerializableLayer
	if x.proto == "arp" {
		eth.EthernetType, eth.DstMAC = layers.EthernetTypeARP, frame.BroadcastMAC.HardwareAddr()
		parts = []gopacket.SerializableLayer{eth, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: src.HardwareAddr(), SourceProtAddress: x.src.Addr().AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: x.dst.Addr().AsSlice(),
		}}
	} else {
		if x.dst.Addr().Is6() {
			eth.EthernetType = layers.EthernetTypeIPv6
		}
		parts = append([]gopacket.SerializableLayer{eth}, x.layers(src, payload)...)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		return nil, err
	}
	return append(make([]byte, frame.VnetLen), buf.Bytes()...), nil
}

// A networkLayer is an IPv4 or an IPv6 header.
type networkLayer interface {
	gopacket.NetworkLayer
	gopacket.SerializableLayer
}

// ip is the IP header.
func (s *spec) ip(number uint8) networkLayer {
	src, dst := net.IP(s.src.Addr().AsSlice()), net.IP(s.dst.Addr().AsSlice())
	if s.dst.Addr().Is6() {
		return &layers.IPv6{Version: 6, HopLimit: uint8(s.ttl), NextHeader: layers.IPProtocol(number), SrcIP: src, DstIP: dst}
	}
	ip := &layers.IPv4{Version: 4, TTL: uint8(s.ttl), Protocol: layers.IPProtocol(number), SrcIP: src, DstIP: dst}
	if s.df {
		ip.Flags = layers.IPv4DontFragment
	}
	return ip
}

// solicitation is a question for a neighbor from a station with a MAC (RFC 4861, 4.3).
func (s *spec) solicitation(mac frame.MAC) []gopacket.SerializableLayer {
	target := s.dst.Addr().AsSlice()
	q := *s
	q.ttl, q.dst = 255, netip.AddrPortFrom(frame.Addr6From(s.dst.Addr()).SolicitedNode().Netip(), 0)
	ip := q.ip(frame.ICMPv6)
	head := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	_ = head.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{ip, head, &layers.ICMPv6NeighborSolicitation{
		TargetAddress: target, Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: mac.HardwareAddr()}},
	}}
}

// layers are the IP packet of a station with a MAC. Without a payload, there are as many zeros as the words say.
func (s *spec) layers(mac frame.MAC, data []byte) []gopacket.SerializableLayer {
	if s.proto == "nd" {
		return s.solicitation(mac)
	}
	number, _ := frame.ProtoNumber(s.proto)
	ip := s.ip(number)
	payload := gopacket.Payload(append(data, make([]byte, s.len)...))
	switch number {
	case frame.TCP:
		if s.flags == "" {
			s.flags = "S"
		}
		has := func(c string) bool { return strings.Contains(s.flags, c) }
		t := &layers.TCP{
			SrcPort: layers.TCPPort(s.src.Port()), DstPort: layers.TCPPort(s.dst.Port()),
			Seq: uint32(s.seq), Ack: uint32(s.ack), Window: uint16(s.win),
			SYN: has("S"), FIN: has("F"), RST: has("R"), PSH: has("P"), ACK: has("."),
		}
		if s.mss > 0 {
			t.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, uint16(s.mss))}}
		}
		_ = t.SetNetworkLayerForChecksum(ip) // an IP layer is one
		return []gopacket.SerializableLayer{ip, t, payload}
	case frame.UDP:
		u := &layers.UDP{SrcPort: layers.UDPPort(s.src.Port()), DstPort: layers.UDPPort(s.dst.Port())}
		_ = u.SetNetworkLayerForChecksum(ip)
		if u.SrcPort == dhcp.ClientPort && u.DstPort == dhcp.ServerPort && len(payload) == 0 {
			return []gopacket.SerializableLayer{ip, u, discover(mac)}
		}
		return []gopacket.SerializableLayer{ip, u, payload}
	case frame.SCTP:
		return []gopacket.SerializableLayer{ip, &layers.SCTP{SrcPort: layers.SCTPPort(s.src.Port()), DstPort: layers.SCTPPort(s.dst.Port())}, payload}
	case frame.UDPLite, frame.DCCP:
		number, _ := frame.ProtoNumber(s.proto)
		head := make(gopacket.Payload, frame.TransportLen(number))
		frame.PortsHeader(head).SetPorts(s.src.Port(), s.dst.Port())
		return []gopacket.SerializableLayer{ip, head, payload}
	case frame.ICMP:
		return []gopacket.SerializableLayer{ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(frame.ICMPEcho, 0), Id: uint16(s.id), Seq: 1}, payload}
	}
	if number == frame.ICMPv6 {
		head := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(frame.ICMPv6Echo, 0)}
		_ = head.SetNetworkLayerForChecksum(ip)
		return []gopacket.SerializableLayer{ip, head, &layers.ICMPv6Echo{Identifier: uint16(s.id), SeqNumber: 1}, payload}
	}
	return []gopacket.SerializableLayer{ip, payload}
}

// outsideMACs are the MACs of a packet that comes in by the uplink: with programs, a way header.
func (s *Switch) outsideMACs() (src, dst frame.MAC, err error) {
	if up := s.Port(model.UplinkPortName); !up.HasWays() {
		return up.MAC, s.UplinkMAC, nil
	}
	return frame.WayArrived, s.UplinkMAC, nil
}

// macsFor returns the MACs of a packet from port p: its station's, and the gateway's or a neighbor's.
func (s *Switch) macsFor(p *model.Port, x spec) (src, dst frame.MAC, err error) {
	if p.Kind == model.KindUplink {
		return s.outsideMACs()
	}
	n, to := s.Network(p.Network), x.dst.Addr()
	if src = p.MAC; src == 0 {
		for _, e := range s.Dataplane.Switch.FDB(n.ID).Entries() {
			if e.Port == p.ID {
				src = e.MAC
			}
		}
	}
	if src == 0 {
		src = model.MACFor(x.src.Addr())
	}
	switch {
	case x.proto == "nd":
		return src, frame.Addr6From(to).SolicitedNode().GroupMAC(), nil
	case to.Is6() && to.IsMulticast():
		return src, frame.Addr6From(to).GroupMAC(), nil
	case to == frame.FirstLocal.Netip() || to == n.MAC.LinkLocal().Netip():
		return src, n.MAC, nil
	case to.Is6() && !to.IsLinkLocalUnicast() && (!n.Prefix6.Contains(to) || to == n.Gateway6):
		return src, n.MAC, nil
	case to.IsMulticast(): // RFC 1112, 6.4
		return src, 0x01005e000000 | frame.MAC(frame.AddrFrom(to)&0x7fffff), nil
	case to == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return src, frame.BroadcastMAC, nil
	case to.Is4() && (!n.Prefix.Contains(to) || to == n.Gateway):
		return src, n.MAC, nil
	}
	if q := s.Holder(n, to); q != nil && q.MAC != 0 {
		return src, q.MAC, nil
	}
	for _, x := range s.Dataplane.Router.Neighbors() {
		if x.Net == n.ID && x.Addr == to && x.MAC != 0 {
			return src, x.MAC, nil
		}
	}
	if x.proto == "arp" || to == n.Broadcast() {
		return src, frame.BroadcastMAC, nil
	}
	ask := "arp"
	if to.Is6() {
		ask = "nd"
	}
	if s.Holder(n, to) == nil {
		return 0, 0, fmt.Errorf("no port of network %s has the address %s, so a container that asks for it gets no answer (exception: the address is behind a port whose address is not known); trace the question: '%s > %[2]s'", n.Name, to, ask)
	}
	return 0, 0, fmt.Errorf("the switch does not know the MAC of %s, which is in the port's own subnet: the container would ask for it first; trace '%s > %s', or give the whole frame with --hex", to, ask, to)
}

// reverseFrame returns the usual answer to f, with both ends swapped; nil where there is none.
func reverseFrame(f *frame.Frame) []byte {
	raw := append([]byte(nil), f.Raw()...)
	copy(raw[frame.VnetLen:], f.Bytes()[6:12])
	copy(raw[frame.VnetLen+6:], f.Bytes()[:6])
	if f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 || f.Malformed != frame.None || f.Flags&(frame.Fragment|frame.ICMPError) != 0 || f.IsND() {
		return nil
	}
	if f.Flags&frame.IsIPv6 != 0 {
		ip := frame.IPv6(raw[frame.VnetLen+int(f.L3):])
		ip.SetAddrs(ip.Dst(), ip.Src()) // sums do not depend on the order
		ip[7] = 64
		return reverseTransport(raw, f, raw[frame.VnetLen+int(f.L4):], ip.PseudoSum(frame.ICMPv6, int(f.L3End)-int(f.L4)))
	}
	ip := frame.IPv4(raw[frame.VnetLen+int(f.L3):])
	src, dst := ip.Src(), ip.Dst()
	binary.BigEndian.PutUint32(ip[12:], uint32(dst)) // sums do not depend on the order
	binary.BigEndian.PutUint32(ip[16:], uint32(src))
	old := binary.BigEndian.Uint16(ip[8:])
	ip[8] = 64
	binary.BigEndian.PutUint16(ip[10:], frame.Delta16(old, binary.BigEndian.Uint16(ip[8:])).Complete(ip.Checksum()))
	return reverseTransport(raw, f, ip[ip.HeaderLen():], 0)
}

// reverseTransport is reverseFrame for the transport header in l4; pseudo is the sum of ICMPv6's pseudo-header.
func reverseTransport(raw []byte, f *frame.Frame, l4 []byte, pseudo uint16) []byte {
	switch {
	case f.Proto == frame.ICMPv6:
		h := frame.ICMPHeader(l4)
		if h.Type() != frame.ICMPv6Echo {
			return nil
		}
		h.SetType(frame.ICMPv6EchoReply)
		h.UpdateChecksum(pseudo)
	case f.Proto == frame.ICMP:
		h := frame.ICMPHeader(l4)
		if h.Type() != frame.ICMPEcho {
			return nil
		}
		h.SetType(frame.ICMPEchoReply)
		h.UpdateChecksum(0)
	case frame.HasPorts(f.Proto):
		p := frame.PortsHeader(l4)
		p.SetPorts(p.DstPort(), p.SrcPort()) // a sum does not depend on the order
		if h := frame.TCPHeader(l4); f.Proto == frame.TCP && h.Flags()&frame.FlagSYN != 0 {
			old := binary.BigEndian.Uint16(h[12:])
			h.AddFlags(frame.FlagACK)
			h.SetChecksum(frame.Delta16(old, binary.BigEndian.Uint16(h[12:])).Complete(h.Checksum()))
		}
	}
	return raw
}
