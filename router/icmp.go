package router

import (
	"encoding/binary"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// icmpError sends an ICMP error to the sender of p. Its source is the address of the interface that p came in by; it
// quotes the IP packet up to a total of 576 bytes (RFC 1812, 4.3.2.3). It sends nothing about the packets of RFC
// 1812, 4.3.2.7 (ICMP errors, later fragments, broadcasts, multicasts) and about packets that were translated. mtu is
// for "fragmentation needed", in bytes.
func (r *Router) icmpError(p PuntedFrame, typ, code uint8, mtu int, now frame.Tick, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	f := p.f
	if iface == nil || p.NATed || f.Verdict == frame.Drop || f.Malformed != frame.None || f.Flags&frame.IsIPv4 == 0 ||
		f.Flags&frame.ICMPError != 0 || f.Dst.IsGroup() || f.IPv4().FragOffset() != 0 || isMartian(f.Tuple.Src) ||
		f.Tuple.Dst >= 0xe0000000 {
		return
	}
	if !r.allowError(p.In, code == frame.CodeFragNeeded && typ == frame.ICMPUnreachable, now) {
		return
	}
	quote := f.IPv4()[:int(f.L3End)-int(f.L3)]
	if len(quote) > 548 {
		quote = quote[:548]
	}
	from := iface.Addr
	if p.Net == frame.NoNet {
		from = f.Tuple.Dst // the host's address that was asked
	}
	sendError(p.Net, iface, f.Src, from, f.Tuple.Src, layers.CreateICMPv4TypeCode(typ, code), mtu, completeQuote(f, quote), out)
}

// TellUnreachable tells the sender of a packet that left some seconds ago that its next hop does not answer. quote is the beginning of
// the packet as it was sent, from its IP header on; mac is its sender's.
func (r *Router) TellUnreachable(in frame.PortID, net frame.NetID, mac frame.MAC, quote []byte, now frame.Tick, out Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	is6 := quote[0]>>4 == 6
	sender := frame.IPv4(quote).Src().Netip()
	if is6 {
		sender = frame.IPv6(quote).Src().Netip()
	}
	if n := r.neigh[neighKey{net, sender}]; n != nil {
		mac = n.mac
	}
	iface, e := r.snap.Load().ifaces[net], frame.NeighborFailed.Info().Error
	if iface == nil || !r.allowError(in, false, now) {
		return
	}
	if is6 {
		to, e := frame.Addr6From(sender), e.IPv6()
		sendError6(net, iface, mac, iface.sourceFor(to), to, e.Type, e.Code, 0, quote, out)
		return
	}
	sendError(net, iface, mac, iface.Addr, frame.AddrFrom(sender), layers.CreateICMPv4TypeCode(e.Type, e.Code), 0, quote, out)
}

// sendError sends an ICMP error into network net.
func sendError(net frame.NetID, iface *Interface, mac frame.MAC, from, to frame.Addr, what layers.ICMPv4TypeCode, mtu int, quote []byte, out Output) {
	src, dst := from.Netip().As4(), to.Netip().As4()
	eth := &layers.Ethernet{DstMAC: mac.HardwareAddr(), SrcMAC: iface.MAC.HardwareAddr(), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, TOS: 0xc0, SrcIP: src[:], DstIP: dst[:]}
	icmp := &layers.ICMPv4{TypeCode: what, Seq: uint16(mtu)}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, icmp, gopacket.Payload(quote)); err != nil {
		return
	}
	out.Send(net, buf.Bytes())
}

// Tokens of a port for ICMP errors (RFC 1812, 4.3.2.8), per second and in a burst.
const errorRate, errorBurst = 400, 200

// allowError limits the rate of the ICMP errors about what a port sends, and reports whether one may be sent. Ports share no limit: nobody
// can take the errors of others. An error spends one to three tokens, at random: the uplink is one port for everyone outside, and nobody there can count
// the errors that others got (the port scan of "DNS Cache Poisoning Attack Reloaded", 2020). An error that a path MTU needs spends one.
func (r *Router) allowError(in frame.PortID, tooLong bool, now frame.Tick) bool {
	b := &r.errorsOf[in%frame.MaxPorts]
	if !b.take(now, errorRate, errorBurst) {
		return false
	}
	if !tooLong {
		r.rng = frame.Mix(r.rng^uint64(now), 0x9e3779b97f4a7c15)
		b.tokens = max(0, b.tokens-int32(r.rng%3))
	}
	return true
}

// completeQuote returns a copy of the quote. It zeroes a partial checksum inside the quote, because the bytes that it
// would cover are not there. The sender's kernel looks only at the ports.
func completeQuote(f *frame.Frame, quote []byte) []byte {
	q := append([]byte(nil), quote...)
	h := f.Vnet()
	if at := int(h.CsumStart()) + int(h.CsumOffset()) - int(f.L3); h.NeedsCsum() && at >= 0 && at+2 <= len(q) {
		binary.BigEndian.PutUint16(q[at:], 0)
	}
	return q
}
