package nat

import (
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// admit says whether a flow may begin, and notes in d by which rules. The reply tuple has the end that the flow really reaches.
func (n *tracker[A]) admit(c *config[A], d *pendingFlow[A], from frame.PortID, b *frame.Batch) frame.Reason {
	if c.policies == nil {
		return frame.None
	}
	src, dst := frame.Netip(d.orig.Src), frame.Netip(d.reply.Src)
	var why frame.Reason
	d.admission, why = c.policies.Judge(policy.Flow{From: from, To: c.policies.Stations[dst], Src: src, Dst: dst, Proto: d.orig.Proto, Port: d.reply.SrcPort}, policy.Admission{}, b.Tick)
	return why
}

// stillAdmitted reports whether the policies of now let flow e go on, and notes by which rules.
func (n *tracker[A]) stillAdmitted(c *config[A], e uint32) bool {
	if c.policies == nil {
		return true
	}
	k := &n.flows.keys[e]
	src, dst := frame.Netip(k[0].Src), frame.Netip(k[1].Src)
	q := policy.Flow{From: c.policies.Stations[src], To: c.policies.Stations[dst], Src: src, Dst: dst, Proto: k[0].Proto, Port: k[1].SrcPort}
	if c.policies.Set(q.From) == nil && c.policies.Set(q.To) == nil {
		return true
	}
	by, why := c.policies.Judge(q, policy.AdmissionOf(n.admitted[e].Load()), frame.Tick(n.now.Load()))
	n.admitted[e].Store(by.Word())
	return why == frame.None
}

// isPoliced reports whether an end of flow e has policies.
func (n *tracker[A]) isPoliced(c *config[A], e uint32) bool {
	k := &n.flows.keys[e]
	p := c.policies
	return p != nil && (p.Set(p.Stations[frame.Netip(k[0].Src)]) != nil || p.Set(p.Stations[frame.Netip(k[1].Src)]) != nil)
}
