package nat

import (
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Trace calls fn, which may run dry batches through the stages. A flow that such a batch would create is planned in
// entry 0, which nothing else uses, so that a later batch of fn finds it: for example the answer to the first packet.
func (n *NAT) Trace(fn func()) {
	n.tracing.Lock()
	defer n.tracing.Unlock()
	n.planned, n.six.planned = false, false
	fn()
	n.planned, n.six.planned = false, false
}

// StateAfter returns the names of a TCP flow's state before and after segment f; both are empty for other protocols
// and for later fragments.
func (n *NAT) StateAfter(f *frame.Frame) (before, after string) {
	if f.Proto != frame.TCP || f.FragOffset() != 0 {
		return "", ""
	}
	s := &n.state
	if f.Flags&frame.IsIPv6 != 0 {
		s = &n.six.state
	}
	w := (*s)[f.Flow].state.Load()
	next := advance(w, f.Dir, f.Proto, f.TCP().Flags(), 0)
	return tcpNames[w&stateMask%uint32(tcpStates)], tcpNames[next&stateMask%uint32(tcpStates)]
}

// PortIsExample reports whether the outside port of the planned flow is only an example, because a real flow would
// get a random one.
func (n *NAT) PortIsExample() bool { return n.portIsExample() || n.six.portIsExample() }

func (n *tracker[A]) portIsExample() bool {
	k := &n.flows.keys[0]
	return n.planned && n.state[0].mapping == 0 && k[1].DstPort != k[0].SrcPort && k[1].Dst != k[0].Src
}

// Planned reports whether the trace has planned a flow in entry 0.
func (n *NAT) Planned() bool { return n.planned || n.six.planned }

// plan is the second half of create for a dry batch.
func (n *tracker[A]) plan(c *config[A], f packet[A], d *pendingFlow[A], leaves bool, b *frame.Batch) frame.Reason {
	if !n.hasGraceRoom(d, true) {
		return frame.FlowQuota
	}
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
	if resumes(f.Frame) && d.reply.DstPort != f.tuple.SrcPort {
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
	n.flows.keys[0] = [2]frame.TupleOf[A]{d.orig, d.reply}
	n.fill(0, c, d, f, b.Tick)
	n.planned, f.Flow, f.Dir = true, 0, 0
	return frame.None
}

func (n *tracker[A]) findPlanned(t *frame.TupleOf[A]) (e uint32, dir uint8, ok bool) {
	if n.planned {
		for dir := range uint8(2) {
			if n.flows.keys[0][dir] == *t {
				return 0, dir, true
			}
		}
	}
	return 0, 0, false
}

// FlowOf returns the description of the flow of a frame.
func (n *NAT) FlowOf(f *frame.Frame, now frame.Tick) Flow {
	if f.Flags&frame.IsIPv6 != 0 {
		return n.six.view(f.Flow, now)
	}
	return n.view(f.Flow, now)
}

// MappingOf returns the inside and the outside endpoint of the mapping that a frame has hit, each as the source of a tuple.
func (n *NAT) MappingOf(f *frame.Frame) (inside, outside frame.Endpoints) {
	if f.Flags&frame.IsIPv6 != 0 {
		return n.six.mappingOf(f.Mapping)
	}
	return n.mappingOf(f.Mapping)
}

func (n *tracker[A]) mappingOf(m uint32) (inside, outside frame.Endpoints) {
	return frame.EndpointsOf(n.maps.keys[m][0]), frame.EndpointsOf(n.maps.keys[m][1])
}

// Owns reports whether a is an address of the host.
func (n *NAT) Owns(a netip.Addr) bool {
	if a.Is4() {
		return n.config.Load().owns(frame.AddrFrom(a))
	}
	return n.six.config.Load().owns(frame.Addr6From(a))
}
