package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// setWay writes what the uplink's programs must know of a translated frame that leaves: see frame.WayMACs. A flow that began outside
// leaves by the host's address that was asked. A flow asks with its first packet, and again after a change of the host's routes; until an
// answer has come, each packet does. TCP asks with its first packet only: its source address cannot change. A packet that is translated by a
// prefix, or not at all, does not ask.
//
//uvswitch:hot
func (n *tracker[A]) setWay(c *config[A], f packet[A], inside *frame.TupleOf[A], begins bool, b *frame.Batch) {
	s := &n.state[f.Flow]
	port, source, command := f.tuple.SrcPort, uint32(0), uint8(frame.WaySend)
	if f.Dir == 0 && s.rule|s.inboundMapping == 0 {
		source, port = n.outside.Inside(f.In, inside.Src), inside.SrcPort
		w, ways := s.state.Load(), n.ways.Load()
		if begins || f.Proto != frame.TCP && (w&seenReply == 0 || w>>waysShift != ways&0xff) {
			switch answer := f.tuple.Reverse(); {
			case w&byPrefix != 0:
			case c.published(&answer, true) != nil:
				command = frame.WayAskSource
			default:
				command = frame.WayAsk
			}
			if !b.Dry {
				n.asked.note(f, inside, b.Tick)
			}
			if w>>waysShift != ways&0xff && !b.Dry { // if the state has changed meanwhile, the next packet asks, too
				s.state.CompareAndSwap(w, w&(1<<waysShift-1)&^secondTry|ways<<waysShift)
			}
		}
	}
	remote := f.tuple.DstPort
	if !frame.HasPorts(f.tuple.Proto) { // the identifier of ICMP is no port: rules by port do not see it
		port, remote = 0, 0
	}
	f.SetMACs(frame.WayMACs(command, source, f.tuple.Proto, port, remote))
}
