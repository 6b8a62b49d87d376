package router

import (
	"encoding/binary"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// maxError6 is how long an ICMPv6 error may be, in bytes (RFC 4443, 2.4 (c)).
const maxError6 = minMTU6

// icmp6Error sends an ICMPv6 error to the sender of p. word is the MTU of a "packet too big" or the pointer of a "parameter problem". It
// sends nothing about the packets of RFC 4443, 2.4 (e): ICMPv6 errors and redirects, packets from no single node, and packets to groups
// but for "packet too big".
func (r *Router) icmp6Error(p PuntedFrame, typ, code uint8, word uint32, now frame.Tick, out Output) {
	iface, f := r.snap.Load().ifaces[p.Net], p.f
	if iface == nil || p.NATed || f.Verdict == frame.Drop || f.Flags&frame.IsIPv6 == 0 || f.Flags&frame.ICMPError != 0 || f.Malformed != frame.None && f.Malformed != frame.ExtHeaders {
		return
	}
	ip := f.IPv6()
	src, dst := ip.Src(), ip.Dst()
	tooBig := typ == frame.ICMPv6TooBig
	if src.IsZero() || src.IsGroup() || (dst.IsGroup() || f.Dst.IsGroup()) && !tooBig || f.IsND() && f.ICMP().Type() == frame.ICMPv6Redirect {
		return
	}
	if !r.allowError(p.In, tooBig, now) {
		return
	}
	from := iface.sourceFor(src)
	if p.Net == frame.NoNet || iface.owns6(dst) && !iface.isAnycast(dst) {
		from = dst // the address that was spoken to
	}
	quote := ip[:min(int(f.L3End)-int(f.L3), maxError6-frame.IPv6Len-frame.ICMPLen)]
	eth := &layers.Ethernet{DstMAC: f.Src.HardwareAddr(), SrcMAC: iface.MAC.HardwareAddr(), EthernetType: layers.EthernetTypeIPv6}
	l3 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: from.Netip().AsSlice(), DstIP: src.Netip().AsSlice()}
	l4 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	if l4.SetNetworkLayerForChecksum(l3) != nil {
		return
	}
	body := binary.BigEndian.AppendUint32(nil, word)
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if gopacket.SerializeLayers(buf, opts, eth, l3, l4, gopacket.Payload(append(body, completeQuote(f, quote)...))) == nil {
		out.Send(p.Net, buf.Bytes())
	}
}

// deliverLocal6 handles an IPv6 packet to the gateway itself: it answers echo requests, also those to all nodes (RFC 4443, 4.2).
func (r *Router) deliverLocal6(f *frame.Frame, p PuntedFrame, now frame.Tick, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	switch {
	case iface == nil || !iface.HasIPv6():
		out.Drop(p, frame.NoRoute)
		return
	case f.Malformed != frame.None || f.Flags&frame.Fragment != 0:
		out.Drop(p, frame.GatewayService)
		return
	case f.IsND():
		r.nd(f, p, now, out)
		out.Consume(p)
		return
	case f.Proto == frame.TCP || f.Proto == frame.UDP:
		r.icmp6Error(p, frame.ICMPv6Unreachable, frame.CodePort6, 0, now, out)
		out.Drop(p, frame.GatewayService)
		return
	case f.Proto != frame.ICMPv6:
		r.icmp6Error(p, frame.ICMPv6Parameter, 1, uint32(f.NextHeaderAt()), now, out) // RFC 4443, 3.4
		out.Drop(p, frame.GatewayService)
		return
	}
	icmp := f.ICMP()
	switch {
	case icmp.Type() != frame.ICMPv6Echo && f.Dst.IsGroup():
		out.Consume(p) // what others say to a group that the gateway hears
	case icmp.Type() != frame.ICMPv6Echo:
		out.Drop(p, frame.GatewayService)
	case !f.HasRightICMPSum():
		out.Drop(p, frame.BadICMPChecksum)
	default:
		out.Send(p.Net, iface.echoReply6(f))
		out.Consume(p)
	}
}

// echoReply6 returns the reply to an echo request, as an Ethernet frame.
func (i *Interface) echoReply6(f *frame.Frame) []byte {
	src, dst := f.IPv6().Src(), f.IPv6().Dst()
	from := dst
	if dst.IsGroup() || i.isAnycast(dst) {
		from = i.sourceFor(src)
	}
	eth := append(append([]byte(nil), f.Src.HardwareAddr()...), i.MAC.HardwareAddr()...)
	eth = binary.BigEndian.AppendUint16(eth, frame.TypeIPv6)
	eth = append(eth, ipv6Packet(from, src, frame.ICMPv6, 64, f.Payload())...)
	eth[frame.EthernetLen+1] = f.IPv6()[1] & 0xf0 // of the traffic class, the part that says ECN
	reply := frame.ICMPHeader(eth[frame.EthernetLen+frame.IPv6Len:])
	reply.SetType(frame.ICMPv6EchoReply)
	reply.UpdateChecksum(frame.IPv6(eth[frame.EthernetLen:]).PseudoSum(frame.ICMPv6, len(reply)))
	return eth
}
