package policy

import (
	"bytes"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// ARP and neighbor discovery pass closed ports, or nobody would find anybody. They are held to what the protocols need, so that they carry no data.

// arpStart is Ethernet, IPv4, and their lengths (RFC 826).
var arpStart = []byte{0, 1, 8, 0, 6, 4}

// longestARP is the payload of the shortest Ethernet frame: senders pad ARP to it.
const longestARP = 46

// isPlainARP reports whether f is an ARP request or answer with nothing else in it: no tag, and nothing but zeros behind it. The guard has
// checked the sender.
func (p *Ports) isPlainARP(f *frame.Frame) bool {
	b, a := f.Bytes()[frame.EthernetLen:], f.ARP()
	if f.Flags&(frame.HasVLAN|frame.HasPriority) != 0 || len(b) > longestARP || !bytes.HasPrefix(b, arpStart) {
		return false
	}
	if op := a.Operation(); op != frame.ARPRequest && op != frame.ARPReply || slices.ContainsFunc(b[frame.ARPLen:], func(c byte) bool { return c != 0 }) {
		return false
	}
	switch frame.LoadMAC(b[18:]) { // of the target
	case 0, frame.BroadcastMAC, f.Dst, f.Src:
	default:
		return false
	}
	owner, known := p.Stations[a.TargetAddr().Netip()]
	return f.Dst.IsGroup() || a.TargetAddr() == a.SenderAddr() || known && owner == f.Out || !known && !p.Known[f.Out]
}

// Options of neighbor discovery (RFC 4861, 4.6; RFC 7527, 4.2).
const (
	sourceLinkLayer = 1
	targetLinkLayer = 2
	nonce           = 14
)

// isPlainND reports whether f is a solicitation or an advertisement of a neighbor, or a solicitation of routers, with no other options than
// those that stations need.
func isPlainND(f *frame.Frame) bool {
	m := f.Payload()
	if f.Flags&(frame.HasVLAN|frame.HasPriority|frame.Fragment) != 0 || len(m) < 8 || m[1] != 0 || f.IPv6().HopLimit() != 255 || f.IPv6().NextHeader() != frame.ICMPv6 {
		return false
	}
	head := 24 // type, code, checksum, four more bytes, and the target
	switch m[0] {
	case frame.ICMPv6RouterSolicitation:
		if head = 8; !f.Dst.IsGroup() {
			return false
		}
	case frame.ICMPv6NeighborSolicitation:
	case frame.ICMPv6NeighborAdvertisement:
		if m[4]&0x1f != 0 {
			return false
		}
	default:
		return false
	}
	if len(m) < head || len(m) > head+16 || m[5]|m[6]|m[7] != 0 || m[0] != frame.ICMPv6NeighborAdvertisement && m[4] != 0 {
		return false
	}
	for o := m[head:]; len(o) > 0; o = o[8:] {
		switch {
		case len(o) < 8 || o[1] != 1:
			return false
		case o[0] == nonce:
		case o[0] != sourceLinkLayer && o[0] != targetLinkLayer || frame.LoadMAC(o[2:]) != f.Src:
			return false
		}
	}
	return true
}
