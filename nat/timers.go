package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// Timers are the time-outs of idle flows, in seconds.
type Timers struct {
	UDP, UDPStream, UDPShort         uint32 // unreplied; replied; replied and to port 53 or 123
	SYN, Established, Closing, Reset uint32 // TCP; Closing from the first FIN on, TIME_WAIT included
	ICMP                             uint32
}

// RFCTimers are the defaults: RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2.
func RFCTimers() Timers {
	return Timers{UDP: 120, UDPStream: 300, UDPShort: 30, SYN: 240, Established: 7440, Closing: 240, Reset: 240, ICMP: 60}
}

// LinuxTimers are near those of Linux's conntrack, for who expects them; closing states share one here.
func LinuxTimers() Timers {
	return Timers{UDP: 30, UDPStream: 120, UDPShort: 30, SYN: 120, Established: 432000, Closing: 120, Reset: 10, ICMP: 30}
}

// timeout is how long a flow in this state may be idle.
//
//uvswitch:hot
func (t *Timers) timeout(orig *frame.Tuple, state uint32) frame.Tick {
	switch orig.Proto {
	case frame.TCP:
		switch tcpState(state & stateMask) {
		case tcpEstablished:
			if state&seenReply == 0 {
				return frame.Seconds(t.SYN) // picked up in the middle, and not answered
			}
			return frame.Seconds(t.Established)
		case tcpSynSent, tcpSynRecv, tcpSynSent2, tcpNone:
			return frame.Seconds(t.SYN)
		case tcpClose:
			return frame.Seconds(t.Reset)
		}
		return frame.Seconds(t.Closing)
	case frame.UDP:
		if state&seenReply == 0 {
			return frame.Seconds(t.UDP)
		}
		if orig.DstPort == 53 || orig.DstPort == 123 {
			return frame.Seconds(t.UDPShort)
		}
		return frame.Seconds(t.UDPStream)
	}
	return frame.Seconds(t.ICMP)
}
