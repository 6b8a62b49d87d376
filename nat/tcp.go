package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// tcpState is the state of a TCP connection, by the names of Linux (net/netfilter/nf_conntrack_proto_tcp.c).
type tcpState uint8

const (
	tcpNone tcpState = iota
	tcpSynSent
	tcpSynRecv
	tcpEstablished
	tcpFinWait
	tcpCloseWait
	tcpLastAck
	tcpTimeWait
	tcpClose
	tcpSynSent2 // simultaneous open: both sides have sent a SYN
	tcpStates
)

var tcpNames = [tcpStates]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

// TCPStates returns the names of the states.
func TCPStates() []string { return tcpNames[:] }

// Kinds of segments, for the state machine.
const (
	segSYN = iota
	segSYNACK
	segFIN
	segACK
	segRST
	segOther // no flag that changes the state
	segments
)

//uvswitch:hot
func segment(flags uint8) int {
	switch {
	case flags&frame.FlagRST != 0:
		return segRST
	case flags&frame.FlagSYN != 0 && flags&frame.FlagACK != 0:
		return segSYNACK
	case flags&frame.FlagSYN != 0:
		return segSYN
	case flags&frame.FlagFIN != 0:
		return segFIN
	case flags&frame.FlagACK != 0:
		return segACK
	}
	return segOther
}

// tcpNext[direction][segment][state] is the state after the segment. A segment that makes no sense in a state does
// not change it. It is translated all the same: the endpoints decide, since they know the windows.
var tcpNext = func() (t [2][segments][tcpStates]tcpState) {
	const (
		no = tcpNone
		ss = tcpSynSent
		sr = tcpSynRecv
		es = tcpEstablished
		fw = tcpFinWait
		cw = tcpCloseWait
		la = tcpLastAck
		tw = tcpTimeWait
		cl = tcpClose
		s2 = tcpSynSent2
	)
	//                                 no  ss  sr  es  fw  cw  la  tw  cl  s2
	t[0] = [segments][tcpStates]tcpState{
		segSYN:    {ss, ss, sr, es, fw, cw, la, tw, cl, s2}, // on a closed flow, it begins another one: see prerouting.go, follow
		segSYNACK: {no, ss, sr, es, fw, cw, la, tw, cl, sr}, // answer to a simultaneous open
		segFIN:    {no, ss, fw, fw, la, la, la, tw, cl, s2},
		segACK:    {es, ss, es, es, cw, cw, tw, tw, cl, s2}, // on NONE: the connection began before tracking did
		segRST:    {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
		segOther:  {no, ss, sr, es, fw, cw, la, tw, cl, s2},
	}
	t[1] = [segments][tcpStates]tcpState{
		segSYN:    {no, s2, sr, es, fw, cw, la, tw, cl, s2},
		segSYNACK: {no, sr, sr, es, fw, cw, la, tw, cl, sr},
		segFIN:    {no, ss, fw, fw, la, la, la, tw, cl, s2},
		segACK:    {no, ss, sr, es, cw, cw, tw, tw, cl, s2},
		segRST:    {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
		segOther:  {no, ss, sr, es, fw, cw, la, tw, cl, s2},
	}
	return t
}()

// streamAge is how old a UDP flow is that is more than a question and its answers (linux net/netfilter/nf_conntrack_proto_udp.c).
const streamAge = 2 * frame.TicksPerSecond

// begin returns the state word of a flow after its first packet, with these TCP flags; state has its status bits.
func begin(state uint32, proto uint8, flags uint8, now frame.Tick) uint32 {
	if proto == frame.UDP {
		return state | uint32(now)&stateMask
	}
	return advance(state, 0, proto, flags, now)
}

// advance returns the state word of a flow after one packet with these TCP flags in direction dir; state is the word
// before it.
//
//uvswitch:hot
func advance(state uint32, dir uint8, proto uint8, flags uint8, now frame.Tick) uint32 {
	if dir == 1 {
		state |= seenReply
	}
	switch {
	case proto == frame.UDP:
		if state&seenReply != 0 && uint8(now)-uint8(state&stateMask) >= streamAge {
			state |= assured
		}
		return state
	case proto != frame.TCP:
		if state&seenReply != 0 && dir == 0 {
			state |= assured // another packet after an answer: both ends take part
		}
		return state
	}
	old, seg := tcpState(state&stateMask)%tcpStates, segment(flags)
	next := tcpNext[dir][seg][old]
	switch {
	case seg == segRST:
		state |= reset << dir
	case old == tcpClose && seg == segACK && state&(reset<<dir) != 0:
		next = tcpEstablished // the end that seemed to reset it goes on: the RST was forged (RFC 7857, section 2.2)
	}
	if next != tcpClose {
		state &^= reset | reset<<1
	}
	if next == tcpEstablished && state&seenReply != 0 {
		state |= assured
	}
	return state&^stateMask | uint32(next)
}
