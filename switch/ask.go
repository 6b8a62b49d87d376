package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// ask looks at a frame for a group. If it asks for the MAC of an address (an ARP request, RFC 826; a neighbor solicitation, RFC 4861, 4.3) that
// belongs to the gateway or to a guarded port, only the owner gets it: the verdict is Flood, with one receiver, f.Out. All get a question for the
// sender's own address, which is an announcement, and for a port that takes no floods, or is Closed.
//
//uvswitch:hot
func (s *snapshot) ask(f *frame.Frame, n *Network) {
	owner := frame.NoPort
	switch {
	case f.Flags&(frame.HasVLAN|frame.Injected) != 0:
	case f.Flags&frame.IsARP != 0:
		if a := f.ARP(); a.Operation() == frame.ARPRequest && a.SenderAddr() != a.TargetAddr() {
			owner = n.owned.owner(a.TargetAddr())
		}
	case f.IsND() && f.Flags&frame.Fragment == 0:
		if m := f.Payload(); f.ICMP().Type() == frame.ICMPv6NeighborSolicitation && len(m) >= 24 {
			owner = n.owned6.owner(frame.LoadAddr6(m[8:]))
		}
	}
	switch owner {
	case frame.NoPort, f.In:
		return
	case frame.Gateway:
		f.PuntFor(frame.GatewayService)
		return
	}
	out := s.port(owner)
	if out == nil || out.Flags&floodFlag[f.Class] == 0 || out.Flags&Closed != 0 {
		return
	}
	if why := s.checkEgress(f, out); why != frame.None {
		f.DropFor(why)
		return
	}
	f.Out, f.ToGateway = owner, false
}
