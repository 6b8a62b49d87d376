package nat

import (
	"fmt"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Audit compares what NAT has counted with what its tables have, and returns the first difference. Nothing else may use the NAT meanwhile. It is for
// tests.
func (n *NAT) Audit() error {
	if err := n.audit(); err != nil {
		return fmt.Errorf("IPv4: %w", err)
	}
	if err := n.six.audit(); err != nil {
		return fmt.Errorf("IPv6: %w", err)
	}
	return nil
}

// held says what each port of the switch holds. Audit counts it from the tables.
type held struct {
	flows, endedFlows, maps, endedMaps, served, pairs [frame.MaxPorts]int
	ports                                             [protocols][frame.MaxPorts]int
	refs                                              map[uint32]int // of mappings
	overloads                                         map[string]int // of outside ports
}

func (n *tracker[A]) audit() error {
	h := &held{refs: map[uint32]int{}, overloads: map[string]int{}}
	if err := n.flows.audit(); err != nil {
		return fmt.Errorf("flows: %w", err)
	}
	if err := n.maps.audit(); err != nil {
		return fmt.Errorf("mappings: %w", err)
	}
	for e := uint32(1); e < n.flows.highWater(); e++ {
		if n.flows.isLive(e) {
			n.auditFlow(h, e)
		}
	}
	for m := uint32(1); m < n.maps.highWater(); m++ {
		if s := &n.mappings[m]; n.maps.isLive(m) {
			h.maps[s.owner]++
			if s.parent != 0 {
				h.refs[s.parent]++
			}
		}
	}
	n.flows.eachEnded(n.retiring[0], func(e uint32) {
		if s := &n.state[e]; s.state.Load()&uncharged == 0 {
			h.endedFlows[s.port]++
		}
	})
	n.maps.eachEnded(n.retiring[1], func(m uint32) {
		if s := &n.mappings[m]; s.refs.Load() != ended {
			h.endedMaps[s.owner]++
		}
	})
	for m := uint32(1); m < n.maps.highWater(); m++ {
		if refs := int(n.mappings[m].refs.Load()); n.maps.isLive(m) && refs != h.refs[m] {
			return fmt.Errorf("mapping %d has %d references, and counts %d", m, h.refs[m], refs)
		}
	}
	if err := n.auditPorts(h); err != nil {
		return err
	}
	for id := range frame.PortID(frame.MaxPorts) {
		for _, x := range []struct {
			what          string
			have, counted int
		}{
			{"flows", h.flows[id], n.flowShares.Held(id)}, {"ended flows", h.endedFlows[id], n.endedFlows.Held(id)}, {"mappings", h.maps[id], n.mapShares.Held(id)},
			{"ended mappings", h.endedMaps[id], n.endedMaps.Held(id)}, {"served flows", h.served[id], int(n.served[id].Load())}, {"pairs", h.pairs[id], n.pairShares.Held(id)},
			{"TCP ports", h.ports[tcp][id], n.portShares[tcp].Held(id)}, {"UDP ports", h.ports[udp][id], n.portShares[udp].Held(id)},
			{"ICMP identifiers", h.ports[icmp][id], n.portShares[icmp].Held(id)}, {"SCTP ports", h.ports[sctp][id], n.portShares[sctp].Held(id)},
		} {
			if x.have != x.counted {
				return fmt.Errorf("port %d has %d %s, and is charged for %d", id, x.have, x.what, x.counted)
			}
		}
	}
	return nil
}

func (n *tracker[A]) auditFlow(h *held, e uint32) {
	s, k := &n.state[e], &n.flows.keys[e]
	w, i := s.state.Load(), protoIndex(k[1].Proto)
	h.flows[s.port]++
	if w&servedFlow != 0 {
		h.served[s.port]++
	}
	if i < 0 && w&(untranslated|byPrefix) == 0 {
		h.pairs[s.port]++
	}
	for _, m := range []uint32{s.mapping, s.inboundMapping} {
		if m != 0 {
			h.refs[m]++
		}
	}
	if w&overloadsPort != 0 {
		h.overloads[outsideName(k[1].Dst, i, k[1].DstPort)]++
	}
}

func outsideName[A frame.Address](a A, i int, p uint16) string { return fmt.Sprint(a, i, p) }

// auditPorts counts the outside ports by whom they are charged to. Each one that is in use rests, is shared by flows, or has a mapping.
func (n *tracker[A]) auditPorts(h *held) (err error) {
	for _, a := range *n.addrs.list.Load() {
		for i := range a.ports {
			o := &a.ports[i]
			o.used.each(func(p uint16) {
				k := outsideKey(a.addr, p, protoNumber[A](i))
				m, _, mapped := n.maps.lookup(&k, k.Hash(n.maps.seed))
				flows, counted := h.overloads[outsideName(a.addr, i, p)], int(o.overloaded[p].Load())
				owner := frame.PortID(o.quarantined[p].owner.Load())
				switch rests := o.quarantine != nil && o.quarantine.Has(p); {
				case flows != counted:
					err = fmt.Errorf("%d flows share the outside port %d of protocol %d, and it counts %d", flows, p, i, counted)
				case rests && (mapped || flows > 0):
					err = fmt.Errorf("the outside port %d of protocol %d rests and is used", p, i)
				case mapped:
					owner = n.mappings[m].owner
				case !rests && flows == 0:
					err = fmt.Errorf("nobody uses the outside port %d of protocol %d", p, i)
				}
				if owner != frame.NoPort {
					h.ports[i][owner]++
				}
			})
		}
	}
	return err
}

// audit checks that each entry in use, and no other one, is found by both of its keys, and that the counts are right.
func (t *table[A]) audit() error {
	words, used := 0, 0
	for i := range t.buckets {
		for j := range t.buckets[i] {
			if t.buckets[i][j].Load() != 0 {
				words++
			}
		}
	}
	for e := uint32(1); e < t.highWater(); e++ {
		if !t.isLive(e) {
			continue
		}
		used++
		for dir := range uint8(2) {
			if found, d, ok := t.lookup(&t.keys[e][dir], t.keys[e][dir].Hash(t.seed)); !ok || found != e || d != dir {
				return fmt.Errorf("entry %d is not found by its key %d", e, dir)
			}
		}
	}
	if words != 2*used || used != int(t.used.Load()) {
		return fmt.Errorf("%d entries are in use with %d words, and %d are counted", used, words, t.used.Load())
	}
	return nil
}

// eachEnded calls fn for each entry in its grace period: those of the retired list, and those of a list that Retire has taken.
func (t *table[A]) eachEnded(retiring uint64, fn func(e uint32)) {
	for _, list := range []uint64{t.retired.Load(), retiring} {
		for e := uint32(list); e != 0; e = t.link[e-1].Load() {
			fn(e - 1)
		}
	}
}
