package router

import (
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// arp handles an ARP packet in the order of RFC 826: it first learns the sender, then answers a request for the
// gateway. Nothing is learned from a probe (sender 0.0.0.0, RFC 5227); a gratuitous packet only updates a neighbor
// that is already known.
func (r *Router) arp(f *frame.Frame, p PuntedFrame, now frame.Tick, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	req, ok := parseARP(f.Bytes()[f.L3:])
	if iface == nil || !ok {
		return
	}
	sender, target := frame.AddrFrom(req.SenderIP), frame.AddrFrom(req.TargetIP)
	mac := frame.MACFrom(req.SenderHardwareAddr)
	forUs := target == iface.Addr
	if sender == iface.Addr && mac != iface.MAC {
		r.defend(p.Net, iface, now, out)
		return
	}
	if sender != 0 && sender != iface.Addr && onLink(iface, sender) && !mac.IsGroup() && mac != 0 && mac != iface.MAC {
		r.learn(neighKey{p.Net, sender.Netip()}, mac, p.In, now, forUs && sender != target, out)
	}
	if forUs && req.Operation == arp.OperationRequest {
		if b := arpFrame(arp.OperationReply, iface, mac, mac, sender); b != nil {
			out.Send(p.Net, b)
		}
	}
}

// defend announces the gateway's address when another station claims it. It does so at most once in 10 s, so that two
// stations that both insist do not flood the network (RFC 5227, 2.4 (c)).
func (r *Router) defend(id frame.NetID, iface *Interface, now frame.Tick, out Output) {
	if last, ok := r.defended[id]; ok && now-last < defendInterval {
		return
	}
	r.defended[id] = now
	if b := arpFrame(arp.OperationRequest, iface, frame.BroadcastMAC, 0, iface.Addr); b != nil {
		out.Send(id, b)
	}
}

const defendInterval = 10 * frame.TicksPerSecond

// Announce sends a gratuitous ARP request to network id: address a is now at MAC m. Stations then replace an old
// entry (RFC 5227, 3). This is for a container that was recreated.
func (r *Router) Announce(id frame.NetID, a frame.Addr, m frame.MAC, out Output) {
	if b := arpFrame(arp.OperationRequest, &Interface{Addr: a, MAC: m}, frame.BroadcastMAC, 0, a); b != nil {
		out.Send(id, b)
	}
}

// parseARP returns an ARP request or reply for Ethernet and IPv4, and false for any other packet. The library does
// not check this.
func parseARP(b []byte) (*arp.Packet, bool) {
	var a arp.Packet
	if len(b) < frame.ARPLen || b[4] != 6 || b[5] != 4 || a.UnmarshalBinary(b[:frame.ARPLen]) != nil {
		return nil, false
	}
	return &a, a.HardwareType == 1 && a.ProtocolType == frame.TypeIPv4 &&
		(a.Operation == arp.OperationRequest || a.Operation == arp.OperationReply)
}

// solicit asks for a neighbor, by an ARP request or a neighbor solicitation: all stations, or mac to confirm a known neighbor.
func (r *Router) solicit(k neighKey, mac frame.MAC, out Output) {
	iface := r.snap.Load().ifaces[k.net]
	if iface == nil {
		return
	}
	if k.addr.Is6() {
		r.solicit6(k, iface, mac, out)
		return
	}
	to := mac
	if to == 0 {
		to = frame.BroadcastMAC
	}
	if b := arpFrame(arp.OperationRequest, iface, to, mac, frame.AddrFrom(k.addr)); b != nil {
		out.Send(k.net, b)
	}
}

// arpFrame returns an Ethernet frame to dst with an ARP packet from the gateway, or nil on an error.
func arpFrame(op arp.Operation, iface *Interface, dst, target frame.MAC, addr frame.Addr) []byte {
	gw := iface.MAC.HardwareAddr()
	a, err := arp.NewPacket(op, gw, iface.Addr.Netip(), target.HardwareAddr(), addr.Netip())
	if err != nil {
		return nil
	}
	payload, err := a.MarshalBinary()
	if err != nil {
		return nil
	}
	e := ethernet.Frame{Destination: dst.HardwareAddr(), Source: gw, EtherType: ethernet.EtherTypeARP, Payload: payload}
	b, err := e.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}
