package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// Trace calls fn, which may run dry batches through the stages. A flow that such a batch would create is planned in
// entry 0, which nothing else uses, so that a later batch of fn finds it: for example the answer to the first packet.
func (n *NAT) Trace(fn func()) {
	n.tracing.Lock()
	defer n.tracing.Unlock()
	n.planned = false
	fn()
	n.planned = false
}

// StateAfter returns the names of a TCP flow's state before and after segment f; both are empty for other protocols
// and for later fragments.
func (n *NAT) StateAfter(f *frame.Frame) (before, after string) {
	if f.Proto != frame.TCP || f.Flags&frame.Fragment != 0 && f.IPv4().FragOffset() != 0 {
		return "", ""
	}
	w := n.state[f.Flow].state.Load()
	next := advance(w, f.Dir, f.Proto, f.TCP().Flags())
	return tcpNames[w&stateMask%uint32(tcpStates)], tcpNames[next&stateMask%uint32(tcpStates)]
}

// PortIsExample reports whether the outside port of the planned flow is only an example, because a real flow would
// get a random one.
func (n *NAT) PortIsExample() bool {
	k := &n.flows.keys[0]
	return n.state[0].mapping == 0 && k[1].DstPort != k[0].SrcPort && k[1].Dst != k[0].Src
}

// Planned reports whether the trace has planned a flow in entry 0.
func (n *NAT) Planned() bool { return n.planned }

// plan is the second half of create for a dry batch.
func (n *NAT) plan(c *config, f *frame.Frame, d *pendingFlow, leaves bool, b *frame.Batch) frame.Reason {
	if class, ok := n.mayCharge(d); !ok && !n.evictFor(class, d.port, true) {
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

// Flow returns the description of entry e.
func (n *NAT) Flow(e uint32, now frame.Tick) Flow { return n.view(e, now) }

// MappingOf returns the inside and the outside endpoint of mapping m, each as the source of a tuple.
func (n *NAT) MappingOf(m uint32) (inside, outside frame.Tuple) {
	return n.maps.keys[m][0], n.maps.keys[m][1]
}

// Owns reports whether a is an address of the host.
func (n *NAT) Owns(a frame.Addr) bool { return n.config.Load().owns(a) }
