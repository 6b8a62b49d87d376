package nat

import (
	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// SetPolicies says which flows may begin; nil: all. It acts on the next packet of each flow.
func (n *NAT) SetPolicies(p *policy.Ports) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setPoliciesLocked(p)
	n.six.setPoliciesLocked(p)
}

func (n *tracker[A]) setPoliciesLocked(p *policy.Ports) {
	c := *n.config.Load()
	if p != nil && c.rulings == nil {
		c.rulings = slab[atomic.Uint64](n.alloc, len(n.state))
	}
	c.policies = p
	c.gen++
	n.config.Store(&c)
}

// Policies are those of SetPolicies.
func (n *NAT) Policies() *policy.Ports { return n.config.Load().policies }

// admit says whether a flow may begin between two ports, and notes in d by which rules. The reply tuple has the end that the flow really
// reaches.
func (n *tracker[A]) admit(c *config[A], d *pendingFlow[A], from, to frame.PortID, b *frame.Batch) frame.Reason {
	q := policy.Flow{From: from, To: to, Src: frame.Netip(d.orig.Src), Dst: frame.Netip(d.reply.Src), Proto: d.orig.Proto, Port: d.reply.SrcPort}
	r := c.policies.Judge(q, policy.Admission{}, b.Tick)
	if !b.Dry {
		c.policies.Count(&r)
	}
	d.admission = r.By
	return r.Why
}

// stillAdmitted reports whether the policies of now let flow e go on, and notes by which rules.
func (n *tracker[A]) stillAdmitted(c *config[A], e uint32) bool {
	if c.policies == nil {
		return true
	}
	k := &n.flows.keys[e]
	src, dst := frame.Netip(k[0].Src), frame.Netip(k[1].Src)
	q := policy.Flow{Src: src, Dst: dst, Proto: k[0].Proto, Port: k[1].SrcPort}
	q.From, q.To = n.endsOf(c, e)
	if c.policies.Set(q.From) == nil && c.policies.Set(q.To) == nil {
		return true
	}
	r := c.policies.Judge(q, policy.AdmissionOf(c.rulings[e].Load()), frame.Tick(n.now.Load()))
	c.rulings[e].Store(r.By.Word())
	return r.Why == frame.None
}

// isPoliced reports whether an end of flow e has policies.
func (n *tracker[A]) isPoliced(c *config[A], e uint32) bool {
	if c.policies == nil {
		return false
	}
	from, to := n.endsOf(c, e)
	return c.policies.Set(from) != nil || c.policies.Set(to) != nil
}

// endsOf returns the ports where flow e begins and where it ends; NoPort for what is no port's. The port that is charged is one of them, also if
// nobody knows the address.
func (n *tracker[A]) endsOf(c *config[A], e uint32) (from, to frame.PortID) {
	k, s := &n.flows.keys[e], &n.state[e]
	from, to = c.policies.Stations[frame.Netip(k[0].Src)], c.policies.Stations[frame.Netip(k[1].Src)]
	if s.state.Load()&servedFlow != 0 {
		to = s.port
	} else {
		from = s.port
	}
	return from, to
}
