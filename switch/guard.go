package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// Guard notes each frame's network and refuses what its port may not send: step 2 of a frame's life. Frames of
// the uplink are the router's at once.
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
			f.Verdict = frame.Local
			b.Locals++
		case snap.nets[p.Net] == nil:
			f.DropFor(frame.PortGone)
		default:
			f.Net = p.Net
			if f.Src == snap.nets[p.Net].Gateway {
				f.DropFor(frame.GatewayMACStolen)
			} else if p.Flags&Guard != 0 {
				if why := guard(p, f); why != frame.None {
					f.DropFor(why)
				}
			}
		}
	}
}

const (
	icmpv6              = 58
	routerAdvertisement = 134
	redirect            = 137
)

// guard holds a frame to the port's binding. A zero sender is a host without an address yet: DHCP (RFC 2131,
// 4.1) and ARP probes (RFC 5227, 2.1.1).
//
//uvswitch:hot
func guard(p *Port, f *frame.Frame) frame.Reason {
	if p.MAC != 0 && f.Src != p.MAC {
		return frame.GuardSourceMAC
	}
	if p.Addr == 0 {
		return frame.None
	}
	switch {
	case f.Flags&frame.IsIPv4 != 0:
		if f.Tuple.Src != p.Addr && f.Tuple.Src != 0 {
			return frame.GuardSourceAddress
		}
	case f.Flags&frame.IsIPv6 != 0:
		// Only a router may say that it is one: advertisements and redirects (RFC 4861, 4.2 and 4.5).
		b := f.Bytes()[f.L3:]
		if len(b) > frame.IPv6Len && b[6] == icmpv6 && (b[frame.IPv6Len] == routerAdvertisement || b[frame.IPv6Len] == redirect) {
			return frame.GuardRouter
		}
	case f.Flags&frame.IsARP != 0:
		a := f.Bytes()[f.L3:]
		mac, addr := frame.LoadMAC(a[8:]), frame.LoadAddr(a[14:])
		if p.MAC != 0 && mac != p.MAC || addr != p.Addr && addr != 0 {
			return frame.GuardARPSender
		}
	}
	return frame.None
}
