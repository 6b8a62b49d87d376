package router

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Service answers packets to the gateway.
type Service interface {
	// Serves reports whether the gateway of a network serves a port of UDP or TCP.
	Serves(net frame.NetID, proto uint8, port uint16) bool
	// Segment takes an IP packet with a TCP segment. It must not wait. What it answers follows by Router.SendTo.
	Segment(in frame.PortID, net frame.NetID, mac frame.MAC, packet []byte)
	// Datagram takes a datagram. It must not wait. It returns the payload of the answer; or nil, and the answer may follow by Router.Answer. It may
	// set From and To to other ends: the answer goes from To to From. Or it sets Refused.
	Datagram(*Datagram) []byte
	// Quick answers a datagram in its place, on a worker. It must not wait, nor allocate. question has the room that its capacity says, and limit is
	// the length of the longest answer. Quick returns the answer's length; or 0, and Datagram will be asked.
	Quick(in frame.PortID, net frame.NetID, port uint16, question []byte, limit int) int
	// Preview is Datagram without an effect, and without an answer that follows.
	Preview(*Datagram) []byte
}

// A Datagram is a UDP datagram to the gateway.
type Datagram struct {
	In       frame.PortID
	Net      frame.NetID
	MAC      frame.MAC // of the sender
	From, To netip.AddrPort
	Payload  []byte       // the receiver may keep it
	MTU      int          // of the network, bytes
	Refused  frame.Reason // that the service has set: the datagram is dropped
}

// dhcpServer is the port to which stations without an address send broadcasts.
const dhcpServer = 67

// Packets to a service that one port may send: per second, and the burst. They do not count as other frames to the slow path do.
const serviceRate, serviceBurst = 10000, 4000

// SetService says what serves the gateways.
func (r *Router) SetService(s Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.service = s
	r.update(func(next *snapshot) { next.service = s })
}

// datagram returns the datagram that a packet to a service is; ok is false if its length or its checksum is wrong.
func (r *Router) datagram(p *PuntedFrame) (d Datagram, ok bool) {
	f := p.f
	h := f.UDP()
	n := int(h.Length())
	if !soundUDP(f, n) {
		return d, false
	}
	return Datagram{
		In: p.In, Net: p.Net, MAC: f.Src, MTU: r.snap.Load().ifaces[p.Net].MTU, Payload: h[frame.UDPLen:n],
		From: netip.AddrPortFrom(sender(f), f.Tuple.SrcPort), To: netip.AddrPortFrom(receiver(f), f.Tuple.DstPort),
	}, true
}

// soundUDP reports whether a datagram may have n bytes, and whether its checksum is right. IPv4 may have none, IPv6 may not (RFC 8200, 8.1).
func soundUDP(f *frame.Frame, n int) bool {
	h := f.UDP()
	switch {
	case n < frame.UDPLen || n > len(h):
		return false
	case f.PartialSum():
		return true
	case h.Checksum() == 0:
		return f.Flags&frame.IsIPv6 == 0
	}
	return frame.Sum(h[:n], udpPseudoSum(f, n)) == 0xffff
}

// udpPseudoSum is the sum of the pseudo-header of a datagram of n bytes.
func udpPseudoSum(f *frame.Frame, n int) uint16 {
	if f.Flags&frame.IsIPv6 != 0 {
		return f.IPv6().PseudoSum(frame.UDP, n)
	}
	return frame.PseudoSum(f.Tuple.Src, f.Tuple.Dst, frame.UDP, n)
}

// isServed reports whether p is a packet to a port that the gateway serves: a datagram, or a TCP segment.
func (r *Router) isServed(p *PuntedFrame) bool {
	f := p.f
	return r.service != nil && p.Why == frame.GatewayService && p.Net != frame.NoNet && (f.Proto == frame.UDP || f.Proto == frame.TCP) && f.Flags&frame.HasTuple != 0 &&
		f.Flags&frame.Fragment == 0 && f.Malformed == frame.None && (!f.Dst.IsGroup() || f.Tuple.DstPort == dhcpServer) && r.snap.Load().ifaces[p.Net] != nil && r.service.Serves(p.Net, f.Proto, f.Tuple.DstPort)
}

// serveLocked passes a packet to the service.
func (r *Router) serveLocked(p PuntedFrame, out Output) {
	if p.f.Proto == frame.TCP {
		r.service.Segment(p.In, p.Net, p.f.Src, p.f.Bytes()[p.f.L3:p.f.L3End])
		out.Consume(p)
		return
	}
	d, ok := r.datagram(&p)
	if !ok {
		out.Drop(p, frame.GatewayService)
		return
	}
	answer := r.service.Datagram(&d)
	if d.Refused != frame.None {
		out.Drop(p, d.Refused)
		return
	}
	if answer != nil {
		r.answerLocked(d, answer, out)
	}
	out.Consume(p)
}

// SendTo sends an IP packet of the gateway to a station of a network.
func (r *Router) SendTo(net frame.NetID, mac frame.MAC, packet []byte, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	iface := r.snap.Load().ifaces[net]
	if iface == nil || len(packet) == 0 { // it has gone meanwhile
		return
	}
	eth := append(append([]byte(nil), mac.HardwareAddr()...), iface.MAC.HardwareAddr()...)
	typ := uint16(frame.TypeIPv4)
	if packet[0]>>4 == 6 {
		typ = frame.TypeIPv6
	}
	r.sendCut(net, append(binary.BigEndian.AppendUint16(eth, typ), packet...), out)
}

// Answer sends the answer to a datagram.
func (r *Router) Answer(d Datagram, payload []byte, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answerLocked(d, payload, out)
}

func (r *Router) answerLocked(d Datagram, payload []byte, out Output) {
	iface := r.snap.Load().ifaces[d.Net]
	if iface == nil { // it has gone meanwhile
		return
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(d.To.Port()), DstPort: layers.UDPPort(d.From.Port())}
	eth, ip := headersTo(iface, d.MAC, d.To.Addr(), d.From.Addr(), layers.IPProtocolUDP)
	if udp.SetNetworkLayerForChecksum(ip) != nil {
		return
	}
	buf := gopacket.NewSerializeBuffer()
	if gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(payload)) == nil {
		r.sendCut(d.Net, buf.Bytes(), out)
	}
}
