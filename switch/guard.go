package vswitch

import (
	"encoding/binary"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Guard sets the network of each frame and drops frames that their port may not send. Frames of the uplink go to the
// router at once. Step 2.
//
//uvswitch:hot
func (s *Switch) Guard(b *frame.Batch) {
	snap := s.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Switch || f.Flags&frame.Injected != 0 {
			continue
		}
		p := snap.port(f.In)
		switch {
		case p == nil:
			f.DropFor(frame.PortGone)
		case p.Flags&Forwarding == 0:
			f.DropFor(frame.PortNotForwarding)
		case p.Flags&Uplink != 0:
			f.Net = frame.NoNet
			fromOutside(f, p)
			b.Locals++
		case snap.nets[p.Net] == nil:
			f.DropFor(frame.PortGone)
		default:
			f.Net = p.Net
			switch why := checkIngress(p, f, snap.nets[p.Net]); {
			case why == frame.None:
			case why == frame.AddressStolen && p.Flags&AnySource != 0 && f.Flags&(frame.IsIPv4|frame.IsIPv6) != 0 && s.left.has(f, b.Tick):
			case why == frame.AddressStolen && f.Flags&frame.IsARP != 0 && f.ARP().SenderAddr() == snap.nets[p.Net].Addr:
				f.PuntFor(why) // the gateway defends its address
			default:
				f.DropFor(why)
			}
		}
	}
}

// checkIngress returns the reason why port p may not send frame f into its network, or None.
//
//uvswitch:hot
func checkIngress(p *Port, f *frame.Frame, n *Network) frame.Reason {
	if f.Src == n.Gateway {
		return frame.GatewayMACStolen
	}
	if f.Flags&(frame.HasPriority|frame.HasVLAN) == frame.HasPriority|frame.HasVLAN {
		return frame.GuardVLAN // receivers take off any number of tags with VLAN identifier 0: what is inside would be untagged there
	}
	if f.Malformed == frame.ExtHeaders && p.Flags&AnySource == 0 {
		return frame.ExtHeaders // nobody has seen what is behind the headers
	}
	if p.Flags&Guard != 0 {
		if why := guard(p, f, n.Gateway); why != frame.None || p.Addr != 0 && f.Flags&(frame.IsIPv6|frame.IsARP) == 0 {
			return why
		}
	} else if p.Own != nil {
		if !p.mayComeFromHost(f) {
			return frame.GuardSourceAddress
		}
	} else if why := p.serves(f); why != frame.None {
		return why
	}
	if n.steals(f) {
		return frame.AddressStolen
	}
	return frame.None
}

// mayComeFromHost reports whether the source of a frame from the port of the host is an address of the host.
//
//uvswitch:hot
func (p *Port) mayComeFromHost(f *frame.Frame) bool {
	switch {
	case f.Flags&frame.IsIPv4 != 0:
		return p.owns(f.Tuple.Src)
	case f.Flags&frame.IsIPv6 != 0:
		return len(p.Addrs6) > 0 && p.owns6(f.IPv6().Src())
	}
	return true
}

// fromOutside says what a frame from the uplink is: a packet from outside, one of ours that the programs could not send, or one that
// the host's own stack has sent.
//
//uvswitch:hot
func fromOutside(f *frame.Frame, p *Port) {
	f.Verdict = frame.Local
	if p.Flags&Ways == 0 {
		return
	}
	if mark, _, ok := f.Way(); !ok {
		f.DropFor(frame.NotForUs)
	} else if mark < frame.WayInAgain {
		f.Verdict = frame.CameBack
	}
}

// quotesOther reports whether an ICMP error is about a packet that was not sent to the port's station. The receiver believes an error without
// regard to who sends it (RFC 1191, 3; RFC 5927).
func (p *Port) quotesOther(icmp []byte) bool {
	if len(icmp) == 0 || !frame.IsICMPErrorType(icmp[0]) {
		return false
	}
	if len(icmp) < frame.ICMPLen+frame.IPv4Len {
		return true
	}
	to := frame.IPv4(icmp[frame.ICMPLen:]).Dst() // a station quotes all of a packet that is too short for a transport header
	return to != p.Addr && !slices.Contains(p.Siblings, to)
}

const dhcpServer, dhcpClient = 67, 68 // RFC 2131, 4.1

// serves returns the reason why the station may not send a frame as a router or as a DHCP server does, or None.
//
//uvswitch:hot
func (p *Port) serves(f *frame.Frame) frame.Reason {
	if p.Flags&(AnyServer|AnySource) != 0 || f.Flags&frame.HasVLAN != 0 {
		return frame.None
	}
	switch {
	case f.Malformed != frame.None && f.EtherType == frame.TypeIPv4:
		if looksLikeDHCP(f.Bytes()[f.L3:]) {
			return frame.GuardDHCP
		}
	case f.Proto == frame.UDP && f.Flags&frame.HasTuple != 0:
		if f.Tuple.DstPort == dhcpClient && f.Flags&frame.IsIPv4 != 0 || f.Tuple.DstPort == dhcpClient6 && f.Flags&frame.IsIPv6 != 0 {
			return frame.GuardDHCP
		}
	case f.IsND():
		if t := f.ICMP().Type(); t == frame.ICMPv6RouterAdvertisement || t == frame.ICMPv6Redirect {
			return frame.GuardRouter
		}
	}
	return frame.None
}

// looksLikeDHCP reports whether a DHCP client may take a malformed packet of IPv4 for an answer. Clients have filters of their own for packets that
// their kernel drops. These look at the protocol and at the port behind the header, and not at lengths.
func looksLikeDHCP(ip []byte) bool {
	if len(ip) < frame.IPv4Len || frame.IPv4(ip).Proto() != frame.UDP {
		return false
	}
	at := int(ip[0]&15) * 4
	return len(ip) >= at+4 && binary.BigEndian.Uint16(ip[at+2:]) == dhcpClient
}

// steals reports whether a frame says that its sender has an address of the gateway or of another port. A question whether anybody has an address
// of another port (an ARP probe, RFC 5227, 2.1.1) counts, too: its owner may be asking the same, and would give the address up.
//
//uvswitch:hot
func (n *Network) steals(f *frame.Frame) bool {
	switch {
	case f.Flags&frame.HasVLAN != 0:
		return false
	case f.Flags&frame.IsIPv4 != 0:
		return n.owned.otherThan(f.Tuple.Src, f.In)
	case f.Flags&frame.IsIPv6 != 0:
		return n.steals6(f)
	case f.Flags&frame.IsARP != 0:
		a := f.ARP()
		if a.SenderAddr() == 0 {
			return n.owned.isOfPort(a.TargetAddr(), f.In)
		}
		return n.owned.otherThan(a.SenderAddr(), f.In)
	}
	return false
}

// guard checks a frame against the port's binding and returns the reason for a drop. It allows sender address 0, for
// hosts that have no address yet: DHCP (RFC 2131, 4.1) and ARP probes (RFC 5227, 2.1.1).
//
//uvswitch:hot
func guard(p *Port, f *frame.Frame, gateway frame.MAC) frame.Reason {
	if p.MAC != 0 && f.Src != p.MAC {
		return frame.GuardSourceMAC
	}
	if f.Proto == frame.UDP || f.Malformed != frame.None { // guardIPv6 has the rest
		if why := p.serves(f); why != frame.None {
			return why
		}
	}
	switch {
	case f.Flags&frame.HasVLAN != 0: // of what is inside, only the source MAC is looked at
		if p.Flags&AnyVLAN == 0 {
			return frame.GuardVLAN
		}
	case f.Malformed != frame.None && f.Flags&(frame.IsIPv4|frame.IsIPv6|frame.IsARP) == 0: // nobody knows whose address it has
		return f.Malformed
	case f.Flags&frame.IsIPv6 != 0:
		return guardIPv6(p, f)
	case p.Addr == 0 && p.Flags&NoAddress == 0:
	case f.Flags&frame.IsIPv4 != 0:
		if f.Tuple.Src != p.Addr && f.Tuple.Src != 0 {
			if !slices.Contains(p.Siblings, f.Tuple.Src) || f.Dst != gateway {
				return frame.GuardSourceAddress
			}
			f.Flags |= frame.FromSibling
		}
		if f.Proto == frame.ICMP && f.FragOffset() == 0 && p.quotesOther(f.Payload()) {
			return frame.GuardICMPError
		}
	case f.Flags&frame.IsARP != 0:
		mac, addr := f.ARP().SenderMAC(), f.ARP().SenderAddr()
		if p.MAC != 0 && mac != p.MAC || addr != p.Addr && addr != 0 {
			return frame.GuardARPSender
		}
	}
	return frame.None
}
