package explain

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Tcpdump describes frames as tcpdump prints them; a test compares it with tcpdump.
type Tcpdump struct {
	Verbose  bool                     // -v
	Quick    bool                     // -q
	Ether    bool                     // -e: with the Ethernet header
	Absolute bool                     // -S: absolute TCP sequence numbers
	conns    map[connection][2]uint32 // sequence and acknowledgement numbers that others are shown relative to
}

// connection is the two ends of a TCP connection, the lesser first.
type connection struct{ a, b netip.AddrPort }

// Line describes a frame of length bytes, of which data are the first.
func (p *Tcpdump) Line(data []byte, length int) (line string) {
	defer func() {
		if recover() != nil { // gopacket's decoders have panicked on hostile input
			line = fmt.Sprintf("undecodable, length %d", length)
		}
	}()
	k := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	e, ok := k.LinkLayer().(*layers.Ethernet)
	if !ok {
		return fmt.Sprintf("[|ether], length %d", length)
	}
	family, text := p.network(k, length)
	if text == "" {
		return fmt.Sprintf("%s > %s, ethertype %s, length %d", e.SrcMAC, e.DstMAC, etherName(e.EthernetType), length)
	}
	if !p.Ether {
		return family + text
	}
	if q, ok := k.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); ok {
		text = fmt.Sprintf("vlan %d, p %d, %s, %s", q.VLANIdentifier, q.Priority, p.etherType(q.Type), text)
	}
	return fmt.Sprintf("%s > %s, %s, length %d: %s", e.SrcMAC, e.DstMAC, p.etherType(e.EthernetType), length, text)
}

// etherType is how an EtherType stands in a link header.
func (p *Tcpdump) etherType(t layers.EthernetType) string {
	if p.Quick {
		name, _, _ := strings.Cut(etherName(t), " ")
		return name
	}
	return "ethertype " + etherName(t)
}

func etherName(t layers.EthernetType) string {
	name := map[layers.EthernetType]string{layers.EthernetTypeIPv4: "IPv4", layers.EthernetTypeARP: "ARP", layers.EthernetTypeIPv6: "IPv6",
		layers.EthernetTypeDot1Q: "802.1Q", layers.EthernetTypeLinkLayerDiscovery: "LLDP"}[t]
	if name == "" {
		name = "Unknown"
	}
	return fmt.Sprintf("%s (0x%04x)", name, uint16(t))
}

// network is what is above Ethernet: a word for its kind, and the rest.
func (p *Tcpdump) network(k gopacket.Packet, length int) (head, text string) {
	var family string
	if k.Layer(layers.LayerTypeDot1Q) != nil {
		length -= 4
	}
	if l, ok := k.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return "ARP, ", arpText(l, length-frame.EthernetLen)
	}
	if ip, ok := k.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
		src, _ := netip.AddrFromSlice(ip.SrcIP.To4())
		dst, _ := netip.AddrFromSlice(ip.DstIP.To4())
		n := int(ip.Length) - int(ip.IHL)*4
		if p.Verbose {
			family = fmt.Sprintf("IP (tos 0x%x, ttl %d, id %d, offset %d, flags [%s], proto %s (%d), length %d)\n    ", ip.TOS, ip.TTL, ip.Id, int(ip.FragOffset)*8,
				ipFlags(ip.Flags), protoVerbose(uint8(ip.Protocol)), ip.Protocol, ip.Length)
			defer func() { head = family }()
		}
		if ip.FragOffset > 0 {
			return "IP ", fmt.Sprintf("%s > %s: ip-proto-%d", src, dst, ip.Protocol)
		}
		if ip.Flags&layers.IPv4MoreFragments != 0 { // gopacket looks no further
			k = gopacket.NewPacket(ip.Payload, ip.Protocol.LayerType(), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		}
		return "IP ", p.transport(src, dst, uint8(ip.Protocol), k, n)
	}
	if ip, ok := k.Layer(layers.LayerTypeIPv6).(*layers.IPv6); ok {
		src, _ := netip.AddrFromSlice(ip.SrcIP)
		dst, _ := netip.AddrFromSlice(ip.DstIP)
		return "IP6 " + p.header6(ip), p.behind6(src, dst, ip)
	}
	return "", ""
}

// header6 is what tcpdump -v tells of an IPv6 header.
func (p *Tcpdump) header6(ip *layers.IPv6) string {
	if !p.Verbose {
		return ""
	}
	text := "("
	if ip.TrafficClass != 0 {
		text += fmt.Sprintf("class 0x%02x, ", ip.TrafficClass)
	}
	if ip.FlowLabel != 0 {
		text += fmt.Sprintf("flowlabel 0x%05x, ", ip.FlowLabel)
	}
	next := uint8(ip.NextHeader)
	return text + fmt.Sprintf("hlim %d, next-header %s (%d) payload length: %d) ", ip.HopLimit, protoVerbose(next), next, ip.Length)
}

// behind6 is what is behind the header of an IPv6 packet: the names of extension headers, what part of its packet a fragment is, and the rest.
func (p *Tcpdump) behind6(src, dst netip.Addr, ip *layers.IPv6) string {
	const hopByHop, routing, fragment, destination = 0, 43, 44, 60
	names := map[layers.IPProtocol]string{hopByHop: "HBH ", routing: "srcrt ", destination: "DSTOPT "}
	next, b, length, before := ip.NextHeader, ip.Payload, int(ip.Length), ""
	if ip.HopByHop != nil { // gopacket takes this one off
		next, b, before = ip.HopByHop.NextHeader, ip.HopByHop.Payload, names[hopByHop]
		length -= len(ip.HopByHop.Contents)
	}
	for len(b) >= 8 && (next == fragment || names[next] != "") {
		size := 8
		if next != fragment {
			size += 8 * int(b[1])
		}
		if size > len(b) {
			break
		}
		length -= size
		if next == fragment {
			offset := int(binary.BigEndian.Uint16(b[2:]) &^ 7)
			before += fmt.Sprintf("frag (%d|%d) ", offset, length)
			if offset > 0 {
				return fmt.Sprintf("%s > %s: %s", src, dst, strings.TrimSuffix(before, " "))
			}
		} else {
			before += names[next]
		}
		next, b = layers.IPProtocol(b[0]), b[size:]
	}
	k := gopacket.NewPacket(b, next.LayerType(), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	text := p.transport(src, dst, uint8(next), k, length)
	if before == "" {
		return text
	}
	ends, rest, _ := strings.Cut(text, ": ")
	if from, to, ok := strings.Cut(ends, " > "); ok { // behind other headers, tcpdump names the ports only
		if port := func(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }; strings.Contains(from, ".") {
			return fmt.Sprintf("%s > %s: %s%s > %s: %s", src, dst, before, port(from), port(to), rest)
		}
	}
	return fmt.Sprintf("%s > %s: %s%s", src, dst, before, rest)
}

// ipFlags and protoVerbose are as tcpdump -v has them.
func ipFlags(f layers.IPv4Flag) string {
	switch {
	case f&layers.IPv4DontFragment != 0:
		return "DF"
	case f&layers.IPv4MoreFragments != 0:
		return "+"
	}
	return "none"
}

func protoVerbose(p uint8) string {
	if name := map[uint8]string{frame.ExtHopByHop: "Options", frame.ExtRouting: "Routing", frame.ExtFragment: "Fragment", frame.ICMPv6: "ICMPv6"}[p]; name != "" {
		return name
	}
	if name := frame.ProtoName(p); !strings.HasPrefix(name, "proto-") {
		return strings.ToUpper(name)
	}
	return "unknown"
}

func arpText(l *layers.ARP, length int) string {
	if len(l.SourceProtAddress) != 4 || len(l.DstProtAddress) != 4 {
		return fmt.Sprintf("Unknown (%d), length %d", l.Operation, length)
	}
	src, dst := net.IP(l.SourceProtAddress), net.IP(l.DstProtAddress)
	switch l.Operation {
	case layers.ARPRequest:
		who := dst.String()
		if to := net.HardwareAddr(l.DstHwAddress); to.String() != "00:00:00:00:00:00" && to.String() != "ff:ff:ff:ff:ff:ff" {
			who += fmt.Sprintf(" (%s)", to)
		}
		return fmt.Sprintf("Request who-has %s tell %s, length %d", who, src, length)
	case layers.ARPReply:
		return fmt.Sprintf("Reply %s is-at %s, length %d", src, net.HardwareAddr(l.SourceHwAddress), length)
	}
	return fmt.Sprintf("Unknown (%d), length %d", l.Operation, length)
}

func protoText(p uint8) string {
	if name := frame.ProtoName(p); !strings.HasPrefix(name, "proto-") {
		return name
	}
	return fmt.Sprintf("ip-proto-%d", p)
}

func (p *Tcpdump) transport(src, dst netip.Addr, proto uint8, k gopacket.Packet, length int) string {
	switch l := k.TransportLayer().(type) {
	case *layers.TCP:
		if p.Quick {
			return fmt.Sprintf("%s.%d > %s.%d: tcp %d", src, l.SrcPort, dst, l.DstPort, length-int(l.DataOffset)*4)
		}
		return fmt.Sprintf("%s.%d > %s.%d: %s", src, l.SrcPort, dst, l.DstPort, p.tcp(netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort)), l, length))
	case *layers.UDP:
		return fmt.Sprintf("%s.%d > %s.%d: UDP, length %d", src, l.SrcPort, dst, l.DstPort, int(l.Length)-8)
	}
	if i, ok := k.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		return fmt.Sprintf("%s > %s: ICMP %s, length %d", src, dst, icmpText(i), length)
	}
	if i, ok := k.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
		return fmt.Sprintf("%s > %s: ICMP6, %s, length %d", src, dst, icmp6Text(i), length)
	}
	return fmt.Sprintf("%s > %s:  %s %d", src, dst, protoText(proto), length)
}

// tcp is a segment's line. Numbers are relative to those of the connection's first segment seen, which is shown as it is.
func (p *Tcpdump) tcp(src, dst netip.AddrPort, t *layers.TCP, length int) string {
	n := length - int(t.DataOffset)*4
	seq, ack := t.Seq, t.Ack
	if t.ACK && !p.Absolute {
		key, reversed := connection{src, dst}, src.Compare(dst) > 0
		if reversed {
			key = connection{dst, src}
		}
		first, known := p.conns[key]
		if p.conns == nil {
			p.conns = map[connection][2]uint32{}
		}
		switch {
		case !known || t.SYN:
			if len(p.conns) >= maxConns {
				clear(p.conns)
			}
			p.conns[key] = [2]uint32{seq, ack - 1}
			if reversed {
				p.conns[key] = [2]uint32{ack - 1, seq}
			}
		case reversed:
			seq, ack = seq-first[1], ack-first[0]
		default:
			seq, ack = seq-first[0], ack-first[1]
		}
	}
	s := "Flags [" + flagText(t) + "]"
	if n > 0 {
		s += fmt.Sprintf(", seq %d:%d", seq, seq+uint32(n))
	} else if t.SYN || t.FIN || t.RST {
		s += fmt.Sprintf(", seq %d", seq)
	}
	if t.ACK {
		s += fmt.Sprintf(", ack %d", ack)
	}
	s += fmt.Sprintf(", win %d", t.Window)
	if t.URG {
		s += fmt.Sprintf(", urg %d", t.Urgent)
	}
	if len(t.Options) > 0 {
		s += ", options [" + optionText(t.Options) + "]"
	}
	return s + fmt.Sprintf(", length %d", n)
}

const maxConns = 1 << 16 // connections whose numbers are remembered

// flagText is TCPFlags with tcpdump's word for none.
func flagText(t *layers.TCP) string {
	return cmp.Or(frame.TCPFlags(frame.TCPHeader(t.Contents).Flags()), "none")
}

func optionText(list []layers.TCPOption) string {
	var words []string
	for _, o := range list {
		d := o.OptionData
		e := binary.BigEndian
		switch {
		case o.OptionType == layers.TCPOptionKindNop:
			words = append(words, "nop")
		case o.OptionType == layers.TCPOptionKindEndList:
			words = append(words, "eol")
		case o.OptionType == layers.TCPOptionKindMSS && len(d) == 2:
			words = append(words, fmt.Sprintf("mss %d", e.Uint16(d)))
		case o.OptionType == layers.TCPOptionKindWindowScale && len(d) == 1:
			words = append(words, fmt.Sprintf("wscale %d", d[0]))
		case o.OptionType == layers.TCPOptionKindSACKPermitted:
			words = append(words, "sackOK")
		case o.OptionType == layers.TCPOptionKindTimestamps && len(d) == 8:
			words = append(words, fmt.Sprintf("TS val %d ecr %d", e.Uint32(d), e.Uint32(d[4:])))
		case o.OptionType == layers.TCPOptionKindSACK && len(d)%8 == 0 && len(d) > 0:
			s := fmt.Sprintf("sack %d ", len(d)/8)
			for ; len(d) > 0; d = d[8:] {
				s += fmt.Sprintf("{%d:%d}", e.Uint32(d), e.Uint32(d[4:]))
			}
			words = append(words, s)
		default:
			words = append(words, fmt.Sprintf("unknown-%d 0x%x", o.OptionType, d))
		}
	}
	return strings.Join(words, ",")
}

// icmpText is what an ICMP message says; the quoted packet names what it is about.
func icmpText(i *layers.ICMPv4) string {
	typ, code := i.TypeCode.Type(), i.TypeCode.Code()
	quoted, proto, port := "?", uint8(0), uint16(0)
	if b := i.Payload; len(b) >= frame.IPv4Len {
		quoted, proto = net.IP(b[16:20]).String(), b[9]
		if at := int(b[0]&0xf) * 4; len(b) >= at+4 {
			port = binary.BigEndian.Uint16(b[at+2:])
		}
	}
	switch typ {
	case layers.ICMPv4TypeEchoRequest:
		return fmt.Sprintf("echo request, id %d, seq %d", i.Id, i.Seq)
	case layers.ICMPv4TypeEchoReply:
		return fmt.Sprintf("echo reply, id %d, seq %d", i.Id, i.Seq)
	case layers.ICMPv4TypeTimeExceeded:
		if code == 1 {
			return "ip reassembly time exceeded"
		}
		return "time exceeded in-transit"
	case layers.ICMPv4TypeRedirect:
		return fmt.Sprintf("redirect %s to %s %s", quoted, map[uint8]string{0: "net", 1: "host"}[code], net.IPv4(byte(i.Id>>8), byte(i.Id), byte(i.Seq>>8), byte(i.Seq)))
	case layers.ICMPv4TypeDestinationUnreachable:
		switch code {
		case 0:
			return fmt.Sprintf("net %s unreachable", quoted)
		case 1:
			return fmt.Sprintf("host %s unreachable", quoted)
		case 2:
			return fmt.Sprintf("%s protocol %d unreachable", quoted, proto)
		case 3:
			if proto == frame.TCP || proto == frame.UDP {
				return fmt.Sprintf("%s %s port %d unreachable", quoted, frame.ProtoName(proto), port)
			}
			return fmt.Sprintf("%s protocol %d port %d unreachable", quoted, proto, port)
		case 4:
			return fmt.Sprintf("%s unreachable - need to frag (mtu %d)", quoted, i.Seq)
		case 9:
			return fmt.Sprintf("net %s unreachable - admin prohibited", quoted)
		case 10:
			return fmt.Sprintf("host %s unreachable - admin prohibited", quoted)
		case 13:
			return fmt.Sprintf("host %s unreachable - admin prohibited filter", quoted)
		}
	}
	return fmt.Sprintf("type-#%d", typ)
}

func icmp6Text(i *layers.ICMPv6) string {
	b := i.Payload
	target := ""
	if len(b) >= 20 {
		target = net.IP(b[4:20]).String()
	}
	switch i.TypeCode.Type() {
	case layers.ICMPv6TypeEchoRequest, layers.ICMPv6TypeEchoReply:
		word := map[bool]string{true: "request", false: "reply"}[i.TypeCode.Type() == layers.ICMPv6TypeEchoRequest]
		if len(b) >= 4 {
			return fmt.Sprintf("echo %s, id %d, seq %d", word, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
		}
	case layers.ICMPv6TypeNeighborSolicitation:
		return "neighbor solicitation, who has " + target
	case layers.ICMPv6TypeNeighborAdvertisement:
		return "neighbor advertisement, tgt is " + target
	case layers.ICMPv6TypeRouterSolicitation:
		return "router solicitation"
	case layers.ICMPv6TypeRouterAdvertisement:
		return "router advertisement"
	case 143:
		return "multicast listener report v2"
	}
	if text := icmp6ErrorText(i); text != "" {
		return text
	}
	return fmt.Sprintf("type-#%d", i.TypeCode.Type())
}

// icmp6ErrorText is the text of an ICMPv6 error, by the packet that it quotes; empty for other messages.
func icmp6ErrorText(i *layers.ICMPv6) string {
	q, _, ok := frame.QuotedOf[frame.Addr6](append(slices.Clone(i.Contents), i.Payload...))
	if !ok {
		return ""
	}
	word, code := binary.BigEndian.Uint32(i.Payload), i.TypeCode.Code()
	named := func(names ...string) string {
		if int(code) < len(names) {
			return names[code]
		}
		return fmt.Sprintf("code-#%d", code)
	}
	switch i.TypeCode.Type() {
	case layers.ICMPv6TypeDestinationUnreachable:
		text := "destination unreachable, " + named("unreachable route", " unreachable prohibited", "beyond scope", "unreachable address", "unreachable port")
		switch code {
		case 2:
			return fmt.Sprintf("%s %s, source address %s", text, q.Dst, q.Src)
		case 4:
			return fmt.Sprintf("%s, %s %s port %d", text, q.Dst, frame.ProtoName(q.Proto), q.DstPort)
		}
		return fmt.Sprintf("%s %s", text, q.Dst)
	case layers.ICMPv6TypePacketTooBig:
		return fmt.Sprintf("packet too big, mtu %d", word)
	case layers.ICMPv6TypeTimeExceeded:
		return fmt.Sprintf("time exceeded %s for %s", named("in-transit", "in-reassembly"), q.Dst)
	case layers.ICMPv6TypeParameterProblem:
		return fmt.Sprintf("parameter problem, %s - octet %d", named("erroneous", "next header", "option"), word)
	}
	return ""
}
