package router

import (
	"encoding/binary"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// maxError6 is how long an ICMPv6 error may be, in bytes (RFC 4443, 2.4 (c)).
const maxError6 = frame.MinMTU6

// Codes of a "parameter problem" (RFC 4443, 3.4).
const (
	codeField      = 0 // an erroneous field of a header
	codeNextHeader = 1
	codeOption     = 2
)

// icmp6Error sends an ICMPv6 error to the sender of p. word is the MTU of a "packet too big" or the pointer of a "parameter problem". It
// sends nothing about the packets of RFC 4443, 2.4 (e): ICMPv6 errors and redirects, packets from no single node, and packets to groups
// but for "packet too big" and an unknown option that asks for an answer.
func (r *Router) icmp6Error(p PuntedFrame, typ, code uint8, word uint32, now frame.Tick, out Output) {
	iface, f := r.snap.Load().ifaces[p.Net], p.f
	if iface == nil || p.NATed || f.Verdict == frame.Drop || f.Flags&frame.IsIPv6 == 0 || f.Flags&frame.ICMPError != 0 || f.Malformed != frame.None && f.Malformed != frame.ExtHeaders {
		return
	}
	ip := f.IPv6()
	src, dst := ip.Src(), ip.Dst()
	tooBig, option := typ == frame.ICMPv6TooBig, typ == frame.ICMPv6Parameter && code == codeOption
	if src.IsZero() || src.IsGroup() || (dst.IsGroup() || f.Dst.IsGroup()) && !tooBig && !option || f.IsND() && f.ICMP().Type() == frame.ICMPv6Redirect {
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
	sendError6(p.Net, iface, f.Src, from, src, typ, code, word, completeQuote(f, quote), out)
}

// sendError6 sends an ICMPv6 error into network net, or outside.
func sendError6(net frame.NetID, iface *Interface, mac frame.MAC, from, to frame.Addr6, typ, code uint8, word uint32, quote []byte, out Output) {
	eth := &layers.Ethernet{DstMAC: mac.HardwareAddr(), SrcMAC: iface.MAC.HardwareAddr(), EthernetType: layers.EthernetTypeIPv6}
	l3 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: from.Netip().AsSlice(), DstIP: to.Netip().AsSlice()}
	l4 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	if l4.SetNetworkLayerForChecksum(l3) != nil {
		return
	}
	body := binary.BigEndian.AppendUint32(nil, word)
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if gopacket.SerializeLayers(buf, opts, eth, l3, l4, gopacket.Payload(append(body, quote...))) == nil {
		out.Send(net, buf.Bytes())
	}
}
