package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// Timers are the time-outs of idle flows, in seconds.
type Timers struct {
	UDP, UDPStream, UDPShort                        uint32 // unanswered; answered; answered, to port 53 or 123
	SynSent, SynRecv, Established                   uint32 // TCP, by state
	FinWait, CloseWait, LastAck, TimeWait, TCPReset uint32
	ICMP                                            uint32 // ICMP queries
	Generic                                         uint32 // protocols without ports
	Ports                                           []PortTimer
}

// A PortTimer is the time-out of answered flows to one destination port. It replaces Established, UDPStream or
// UDPShort.
type PortTimer struct {
	Proto   uint8
	Port    uint16
	Seconds uint32
}

// RFCTimers returns the defaults: RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2. A half-closed connection has the
// time-out of an established one, because the open direction may be idle for long.
func RFCTimers() Timers {
	return Timers{
		UDP: 120, UDPStream: 300, UDPShort: 30, SynSent: 240, SynRecv: 240, Established: 7440, FinWait: 7440, CloseWait: 7440,
		LastAck: 240, TimeWait: 240, TCPReset: 240, ICMP: 60, Generic: 600,
	}
}

// LinuxTimers returns the time-outs of Linux's conntrack.
func LinuxTimers() Timers {
	return Timers{
		UDP: 30, UDPStream: 120, UDPShort: 30, SynSent: 120, SynRecv: 60, Established: 432000, FinWait: 120, CloseWait: 60,
		LastAck: 30, TimeWait: 120, TCPReset: 10, ICMP: 30, Generic: 600,
	}
}

// SetTimers sets the time-outs. They apply to an existing flow from its next packet on.
func (n *NAT) SetTimers(t Timers) { n.timers.Store(&t) }

// timeout returns how long a flow in this state may be idle.
//
//uvswitch:hot
func timeout[A frame.Address](t *Timers, orig *frame.TupleOf[A], state uint32) frame.Tick {
	return frame.Seconds(t.seconds(orig.Proto, orig.DstPort, state))
}

//uvswitch:hot
func (t *Timers) seconds(proto uint8, port uint16, state uint32) uint32 {
	replied := state&seenReply != 0
	switch proto {
	case frame.TCP:
		switch tcpState(state & stateMask) {
		case tcpEstablished:
			if !replied {
				return t.SynSent // begun before tracking did, and not answered
			}
			return t.byPort(proto, port, t.Established)
		case tcpSynRecv:
			return t.SynRecv
		case tcpFinWait:
			return t.FinWait
		case tcpCloseWait:
			return t.CloseWait
		case tcpLastAck:
			return t.LastAck
		case tcpTimeWait:
			return t.TimeWait
		case tcpClose:
			return t.TCPReset
		}
		return t.SynSent
	case frame.SCTP:
		if replied {
			return t.byPort(proto, port, t.Established)
		}
		return t.SynSent
	case frame.UDP:
		switch {
		case !replied:
			return t.UDP
		case port == 53 || port == 123:
			return t.byPort(proto, port, t.UDPShort)
		}
		return t.byPort(proto, port, t.UDPStream)
	case frame.ICMP, frame.ICMPv6:
		return t.ICMP
	}
	return t.Generic
}

//uvswitch:hot
func (t *Timers) byPort(proto uint8, port uint16, otherwise uint32) uint32 {
	for i := range t.Ports {
		if p := &t.Ports[i]; p.Port == port && p.Proto == proto {
			return p.Seconds
		}
	}
	return otherwise
}
