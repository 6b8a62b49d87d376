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
func (t *Timers) timeout(orig *frame.Tuple, state uint32) frame.Tick {
	return frame.Seconds(t.seconds(orig, state))
}

//uvswitch:hot
func (t *Timers) seconds(orig *frame.Tuple, state uint32) uint32 {
	replied := state&seenReply != 0
	switch orig.Proto {
	case frame.TCP:
		switch tcpState(state & stateMask) {
		case tcpEstablished:
			if !replied {
				return t.SynSent // begun before tracking did, and not answered
			}
			return t.byPort(orig, t.Established)
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
			return t.byPort(orig, t.Established)
		}
		return t.SynSent
	case frame.UDP:
		switch {
		case !replied:
			return t.UDP
		case orig.DstPort == 53 || orig.DstPort == 123:
			return t.byPort(orig, t.UDPShort)
		}
		return t.byPort(orig, t.UDPStream)
	case frame.ICMP:
		return t.ICMP
	}
	return t.Generic
}

//uvswitch:hot
func (t *Timers) byPort(orig *frame.Tuple, otherwise uint32) uint32 {
	for i := range t.Ports {
		if p := &t.Ports[i]; p.Port == orig.DstPort && p.Proto == orig.Proto {
			return p.Seconds
		}
	}
	return otherwise
}
