package router

import (
	"encoding/binary"
	"slices"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// nd handles a message of neighbor discovery (RFC 4861) to the gateway, or to a group that the gateway hears. It first learns the sender,
// then answers. Messages that RFC 4861 calls invalid (6.1.1, 7.1.1, 7.1.2) are ignored.
func (r *Router) nd(f *frame.Frame, p PuntedFrame, now frame.Tick, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	if iface == nil || !iface.HasIPv6() || !validND(f) {
		return
	}
	m, err := ndp.ParseMessage(f.Payload())
	if err != nil {
		return
	}
	src := f.IPv6().Src()
	switch m := m.(type) {
	case *ndp.NeighborSolicitation:
		r.neighborSolicitation(f, p, iface, src, m, now, out)
	case *ndp.NeighborAdvertisement:
		r.neighborAdvertisement(f, p, iface, m, now, out)
	case *ndp.RouterSolicitation:
		r.routerSolicitation(f, p, iface, src, m, now, out)
	}
}

// validND makes the checks that all messages have in common: hop limit 255, so that no router has forwarded the message; code 0; a right
// checksum; no fragment (RFC 6980, 5).
func validND(f *frame.Frame) bool {
	l4 := f.ICMP()
	return f.IPv6().HopLimit() == 255 && l4.Code() == 0 && f.Flags&frame.Fragment == 0 && f.FragAt == 0 && f.HasRightICMPSum()
}

// linkLayer returns the MAC in an option, and 0 if there is none.
func linkLayer(options []ndp.Option, dir ndp.Direction) frame.MAC {
	for _, o := range options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == dir {
			return frame.MACFrom(l.Addr)
		}
	}
	return 0
}

func (r *Router) neighborSolicitation(f *frame.Frame, p PuntedFrame, iface *Interface, src frame.Addr6, m *ndp.NeighborSolicitation, now frame.Tick, out Output) {
	if !validSolicitation(f, m) {
		return
	}
	if mac := linkLayer(m.Options, ndp.Source); mac != 0 {
		r.heardOf(p, iface, src, mac, now, out)
	}
	if target := frame.Addr6From(m.TargetAddress); iface.owns6(target) {
		sendFrame(p.Net, advertisementFor(f, m, iface.MAC, target, true, !iface.isAnycast(target)), out)
	}
}

// validSolicitation makes the checks of RFC 4861, 7.1.1 that validND has not made.
func validSolicitation(f *frame.Frame, m *ndp.NeighborSolicitation) bool {
	target, ip := frame.Addr6From(m.TargetAddress), f.IPv6()
	return !target.IsGroup() && (!ip.Src().IsZero() || linkLayer(m.Options, ndp.Source) == 0 && ip.Dst() == target.SolicitedNode())
}

// advertisementFor returns the advertisement, as a frame, that says that a solicitation's target is at mac. Source is an address of mac's interface.
func advertisementFor(f *frame.Frame, m *ndp.NeighborSolicitation, mac frame.MAC, source frame.Addr6, isRouter, override bool) []byte {
	to, back := f.IPv6().Src(), linkLayer(m.Options, ndp.Source)
	if back == 0 {
		back = f.Src
	}
	probe := to.IsZero()
	if probe {
		to, back = frame.AllNodes, frame.AllNodes.GroupMAC() // RFC 4861, 7.2.4
	}
	return ndFrame(mac, back, source, to, &ndp.NeighborAdvertisement{
		Router: isRouter, Solicited: !probe, Override: override, TargetAddress: m.TargetAddress, Options: macOption(mac, ndp.Target),
	})
}

// ProxyAnswer answers a neighbor solicitation in place of a station that is behind mac (RFC 4861, 7.2.8), at once: no other proxy answers for
// the station. It answers what the station itself would hear, and answer. Source is an address of mac's interface. The result is a frame; nil if f is not a valid solicitation for an address that
// isProxied reports to be such a station's.
func ProxyAnswer(f *frame.Frame, mac frame.MAC, source frame.Addr6, isProxied func(frame.Addr6) bool) []byte {
	if !f.IsND() || !validND(f) {
		return nil
	}
	m, err := ndp.ParseMessage(f.Payload())
	if err != nil {
		return nil
	}
	ns, ok := m.(*ndp.NeighborSolicitation)
	if !ok || !validSolicitation(f, ns) {
		return nil
	}
	src, dst, target := f.IPv6().Src(), f.IPv6().Dst(), frame.Addr6From(ns.TargetAddress)
	possible := src.IsZero() || !neverRouted(src) && !src.IsGroup()
	if !possible || dst != target && dst != target.SolicitedNode() && dst != frame.AllNodes || !isProxied(target) {
		return nil
	}
	return advertisementFor(f, ns, mac, source, false, false)
}

// heardOf notes the MAC that the sender of a solicitation has told: that is no proof that the neighbor is reachable (RFC 4861, 7.2.3).
func (r *Router) heardOf(p PuntedFrame, iface *Interface, a frame.Addr6, mac frame.MAC, now frame.Tick, out Output) {
	if mac.IsGroup() || mac == iface.MAC || !a.IsLinkLocal() && !iface.Prefix6.Contains(a.Netip()) || iface.owns6(a) {
		return
	}
	k := neighKey{p.Net, a.Netip()}
	n := r.neigh[k]
	switch {
	case n == nil && !r.hasRoom(p.In, Stale, now, out):
		return
	case n == nil:
		n = r.addNeighbor(k, Incomplete, p.In)
	case n.state == Permanent, n.mac == mac && !n.state.unresolved():
		return
	}
	r.charge(n, p.In)
	r.confirm(n, mac, Stale, now, out)
}

// neighborAdvertisement follows the table of RFC 4861, 7.2.5 and appendix C.
func (r *Router) neighborAdvertisement(f *frame.Frame, p PuntedFrame, iface *Interface, m *ndp.NeighborAdvertisement, now frame.Tick, out Output) {
	n := r.neigh[neighKey{p.Net, m.TargetAddress}]
	if n == nil || n.state == Permanent || m.TargetAddress.IsMulticast() || m.Solicited && f.IPv6().Dst().IsGroup() {
		return
	}
	mac := linkLayer(m.Options, ndp.Target)
	if mac.IsGroup() || mac == iface.MAC {
		return
	}
	if n.state.unresolved() {
		if mac == 0 || n.state == Failed {
			return
		}
		n.isRouter = m.Router
		r.charge(n, p.In)
		r.confirm(n, mac, stateAfter(m.Solicited), now, out)
		return
	}
	if mac == 0 {
		mac = n.mac
	}
	if !m.Override && mac != n.mac {
		if n.state == Reachable {
			r.confirm(n, n.mac, Stale, now, out)
		}
		return
	}
	n.isRouter = m.Router
	if m.Solicited || mac != n.mac {
		r.charge(n, p.In)
	}
	switch {
	case m.Solicited:
		r.confirm(n, mac, Reachable, now, out)
	case mac != n.mac:
		r.confirm(n, mac, Stale, now, out)
	}
}

func stateAfter(solicited bool) NeighState {
	if solicited {
		return Reachable
	}
	return Stale
}

// solicit6 sends a neighbor solicitation: to the solicited-node group, or to mac to confirm a known neighbor (RFC 4861, 7.2.2, 7.3.3).
func (r *Router) solicit6(k neighKey, iface *Interface, mac frame.MAC, out Output) {
	target := frame.Addr6From(k.addr)
	to := target
	if mac == 0 {
		to = target.SolicitedNode()
		mac = to.GroupMAC()
	}
	r.sendND(k.net, iface, mac, iface.sourceFor(target), to, &ndp.NeighborSolicitation{TargetAddress: k.addr, Options: macOption(iface.MAC, ndp.Source)}, out)
}

// sourceFor is the gateway's address of the scope of another one.
func (i *Interface) sourceFor(a frame.Addr6) frame.Addr6 {
	if a.IsLinkLocal() {
		return frame.FirstLocal
	}
	return i.Addr6
}

// Announce6 tells network id that address a is at MAC m: stations then replace an old entry (RFC 4861, 7.2.6).
func (r *Router) Announce6(id frame.NetID, a frame.Addr6, m frame.MAC, out Output) {
	iface := &Interface{MAC: m}
	r.sendND(id, iface, frame.AllNodes.GroupMAC(), a, frame.AllNodes, &ndp.NeighborAdvertisement{
		Override: true, TargetAddress: a.Netip(), Options: macOption(iface.MAC, ndp.Target),
	}, out)
}

func macOption(m frame.MAC, dir ndp.Direction) []ndp.Option {
	return []ndp.Option{&ndp.LinkLayerAddress{Direction: dir, Addr: m.HardwareAddr()}}
}

// sendND sends a message of neighbor discovery into a network.
func (r *Router) sendND(id frame.NetID, iface *Interface, mac frame.MAC, src, dst frame.Addr6, m ndp.Message, out Output) {
	sendFrame(id, ndFrame(iface.MAC, mac, src, dst, m), out)
}

func sendFrame(id frame.NetID, b []byte, out Output) {
	if b != nil {
		out.Send(id, b)
	}
}

// ndFrame is a message of neighbor discovery as a frame; nil if the message cannot be encoded.
func ndFrame(from, to frame.MAC, src, dst frame.Addr6, m ndp.Message) []byte {
	b, err := ndp.MarshalMessageChecksum(m, src.Netip(), dst.Netip())
	if err != nil {
		return nil
	}
	e := ethernet.Frame{Destination: to.HardwareAddr(), Source: from.HardwareAddr(), EtherType: ethernet.EtherTypeIPv6, Payload: ipv6Packet(src, dst, frame.ICMPv6, 255, b)}
	eth, err := e.MarshalBinary()
	if err != nil {
		return nil
	}
	return eth[:frame.EthernetLen+len(e.Payload)] // without ethernet's padding
}

// ipv6Packet puts an IPv6 header before an upper-layer packet.
func ipv6Packet(src, dst frame.Addr6, proto, hopLimit uint8, payload []byte) []byte {
	b := make([]byte, frame.IPv6Len, frame.IPv6Len+len(payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = proto, hopLimit
	frame.IPv6(b).SetAddrs(src, dst)
	return append(b, payload...)
}

// Addrs6 returns the gateway's IPv6 addresses, link-local ones included; none without IPv6.
func (i *Interface) Addrs6() []frame.Addr6 {
	if !i.HasIPv6() {
		return nil
	}
	return []frame.Addr6{i.Addr6, frame.FirstLocal, i.MAC.LinkLocal(), frame.Addr6From(i.Prefix6.Addr())}
}

// Groups returns the MACs of the groups that the gateway hears: all nodes, all routers, and the solicited-node groups of its addresses.
func (i *Interface) Groups() (macs []frame.MAC) {
	if !i.HasIPv6() {
		return nil
	}
	macs = []frame.MAC{frame.AllNodes.GroupMAC(), frame.AllRouters.GroupMAC()}
	for _, a := range i.Addrs6() {
		if m := a.SolicitedNode().GroupMAC(); !slices.Contains(macs, m) {
			macs = append(macs, m)
		}
	}
	return macs
}
