package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// Trace lets fn run dry batches through the stages. A flow that they would make is planned in entry 0, which nothing
// else uses, so that a later batch within fn finds it: the answer to the first packet, for one.
func (n *NAT) Trace(fn func()) {
	n.tracing.Lock()
	defer n.tracing.Unlock()
	n.planned = false
	fn()
	n.planned = false
}

// StateAfter names a TCP flow's state before and after segment f; both are empty for other protocols.
func (n *NAT) StateAfter(f *frame.Frame) (before, after string) {
	if f.Proto != frame.TCP || f.Flags&frame.Fragment != 0 && f.IPv4().FragOffset() != 0 {
		return "", ""
	}
	w := n.state[f.Flow].state.Load()
	next := advance(w, f.Dir, f.Proto, f.Payload()[13])
	return tcpNames[w&stateMask%uint32(tcpStates)], tcpNames[next&stateMask%uint32(tcpStates)]
}

// Drawn tells whether the outside port of the planned flow is an example: it would be drawn at random.
func (n *NAT) PortIsExample() bool {
	k := &n.flows.keys[0]
	return n.state[0].mapping == 0 && k[1].DstPort != k[0].SrcPort && k[1].Dst != k[0].Src
}

// Planned tells whether entry 0 is a flow that the trace would have made.
func (n *NAT) Planned() bool { return n.planned }

// plan is create's second half for a dry batch.
func (n *NAT) plan(c *config, f *frame.Frame, d *pendingFlow, leaves bool, b *frame.Batch) frame.Reason {
	if n.flowsOf[d.port].Load() >= n.quota && !n.evictFor(classAny, d.port, true) {
		return frame.FlowQuota
	}
	if leaves {
		if why := n.source(c, d, true); why != frame.None {
			return why
		}
	}
	if d.orig == d.reply {
		return frame.FlowToItself
	}
	if resumes(f) && d.reply.DstPort != f.Tuple.SrcPort {
		return frame.FlowNotResumed
	}
	if e, _, ok := n.find(c, &d.reply, b); ok {
		switch {
		case protoIndex(d.orig.Proto) < 0:
			return frame.AddressPairTaken
		case !n.clashResolvable(e):
			return frame.FlowClash
		}
	}
	if n.flows.used.Load() >= int64(n.flows.limit()) {
		return frame.FlowTableFull
	}
	n.flows.keys[0] = [2]frame.Tuple{d.orig, d.reply}
	n.fill(0, c, d, f, b.Tick)
	n.planned, f.Flow, f.Dir = true, 0, 0
	return frame.None
}

func (n *NAT) findPlanned(t *frame.Tuple) (e uint32, dir uint8, ok bool) {
	if n.planned {
		for dir := range uint8(2) {
			if n.flows.keys[0][dir] == *t {
				return 0, dir, true
			}
		}
	}
	return 0, 0, false
}

// Flow returns entry e, as listed.
func (n *NAT) Flow(e uint32, now frame.Tick) Flow { return n.view(e, now) }

// MappingOf returns both ends of the mapping that a frame came in by: they stand as sources.
func (n *NAT) MappingOf(m uint32) (inside, outside frame.Tuple) {
	return n.maps.keys[m][0], n.maps.keys[m][1]
}

// External is the host's address, by the rules in force.
func (n *NAT) External() frame.Addr { return n.config.Load().External }
