package router

import (
	"encoding/binary"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// reset answers a TCP segment as a host without that connection does (RFC 9293, 3.10.7.1): as the destination, so
// that the sender's program learns at once that its connection is lost.
func (r *Router) reset(p PuntedFrame, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	var f frame.Frame
	f.Reset(p.Raw, p.In)
	frame.Parse(&f)
	if iface == nil || f.Verdict == frame.Drop || f.Malformed != frame.None || f.Proto != frame.TCP || f.Flags&frame.HasTuple == 0 {
		return
	}
	l4 := f.Payload()
	if l4[13]&frame.FlagRST != 0 {
		return
	}
	src, dst := f.Tuple.Dst.Netip().As4(), f.Tuple.Src.Netip().As4()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src[:], DstIP: dst[:]}
	t := &layers.TCP{SrcPort: layers.TCPPort(f.Tuple.DstPort), DstPort: layers.TCPPort(f.Tuple.SrcPort), RST: true}
	if l4[13]&frame.FlagACK != 0 {
		t.Seq = binary.BigEndian.Uint32(l4[8:])
	} else {
		t.ACK, t.Ack = true, binary.BigEndian.Uint32(l4[4:])+uint32(len(l4)-int(l4[12]>>4)*4)
	}
	if t.SetNetworkLayerForChecksum(ip) != nil {
		return
	}
	eth := &layers.Ethernet{DstMAC: f.Src.HardwareAddr(), SrcMAC: iface.MAC.HardwareAddr(), EthernetType: layers.EthernetTypeIPv4}
	buf := gopacket.NewSerializeBuffer()
	if gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, t) == nil {
		out.Send(p.Net, buf.Bytes())
	}
}
