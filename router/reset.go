package router

import (
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// reset answers a TCP segment with a RST from its destination address, as a host without that connection does (RFC
// 9293, 3.10.7.1). The sender's program then learns at once that the connection is lost.
func (r *Router) reset(p PuntedFrame, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	f := p.f
	if iface == nil || f.Verdict == frame.Drop || f.Malformed != frame.None || f.Proto != frame.TCP || f.Flags&frame.HasTuple == 0 || f.FragOffset() != 0 {
		return
	}
	h := f.TCP()
	if h.Flags()&frame.FlagRST != 0 {
		return
	}
	t := &layers.TCP{SrcPort: layers.TCPPort(f.Tuple.DstPort), DstPort: layers.TCPPort(f.Tuple.SrcPort), RST: true}
	if h.Flags()&frame.FlagACK != 0 {
		t.Seq = h.Ack()
	} else {
		t.ACK, t.Ack = true, h.Seq()+uint32(len(h)-h.HeaderLen())
	}
	eth, ip := headersTo(iface, f.Src, receiver(f), sender(f), layers.IPProtocolTCP)
	if t.SetNetworkLayerForChecksum(ip) != nil {
		return
	}
	buf := gopacket.NewSerializeBuffer()
	if gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, t) == nil {
		out.Send(p.Net, buf.Bytes())
	}
}

// An ipHeader is one of gopacket's of either family.
type ipHeader interface {
	gopacket.NetworkLayer
	gopacket.SerializableLayer
}

// headersTo returns the headers of a packet to a station with a MAC and the address dst.
func headersTo(iface *Interface, mac frame.MAC, src, dst netip.Addr, proto layers.IPProtocol) (*layers.Ethernet, ipHeader) {
	eth := &layers.Ethernet{DstMAC: mac.HardwareAddr(), SrcMAC: iface.MAC.HardwareAddr(), EthernetType: layers.EthernetTypeIPv4}
	if src.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		return eth, &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	return eth, &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}
