package router

import (
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// reset answers a TCP segment with a RST from its destination address, as a host without that connection does (RFC
// 9293, 3.10.7.1). The sender's program then learns at once that the connection is lost.
func (r *Router) reset(p PuntedFrame, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	f := p.f
	if iface == nil || f.Verdict == frame.Drop || f.Malformed != frame.None || f.Proto != frame.TCP || f.Flags&frame.HasTuple == 0 {
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
	eth := &layers.Ethernet{DstMAC: f.Src.HardwareAddr(), SrcMAC: iface.MAC.HardwareAddr(), EthernetType: layers.EthernetTypeIPv4}
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	if f.Flags&frame.IsIPv6 != 0 {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: f.IPv6().Dst().Netip().AsSlice(), DstIP: f.IPv6().Src().Netip().AsSlice()}
	} else {
		ip = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: f.Tuple.Dst.Netip().AsSlice(), DstIP: f.Tuple.Src.Netip().AsSlice()}
	}
	if t.SetNetworkLayerForChecksum(ip) != nil {
		return
	}
	buf := gopacket.NewSerializeBuffer()
	if gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, t) == nil {
		out.Send(p.Net, buf.Bytes())
	}
}
