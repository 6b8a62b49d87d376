package apiserver

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policies"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// policies are the rows of `policy ls`.
func (v *view) policies() []api.Policy {
	out := []api.Policy{}
	for _, p := range v.AllPolicies() {
		x := api.Policy{Name: p.Name, Builtin: p.Builtin, DNS: model.DNSWord(p.DNS), Rules: []api.PolicyRule{}, Ports: []string{}, Networks: []string{}, Unallowed: map[string]uint64{}}
		for i, r := range p.Rules {
			row := api.PolicyRule{Number: i + 1, Rule: p.Spec.Rules[i]}
			row.Flows, row.Refused = v.d.PolicyCount(p.Name, row.Rule)
			row.Missing = (r.Peer.Kind == policy.PortPeer || r.Peer.Kind == policy.NetworkPeer) && len(policies.WhereIs(v.State, &r)) == 0
			x.Rules = append(x.Rules, row)
		}
		for i := range v.Ports {
			if slices.Contains(v.Ports[i].Policies, p.Name) || p.Name == model.Learn && v.Ports[i].Watched {
				x.Ports = append(x.Ports, v.Ports[i].Name)
			}
			if slices.Contains(v.PoliciesOf(&v.Ports[i]), p.Name) {
				x.Unallowed[v.Ports[i].Name] = v.d.Unallowed(v.Ports[i].ID)
			}
		}
		for i := range v.Networks {
			if slices.Contains(v.Networks[i].Policies, p.Name) {
				x.Networks = append(x.Networks, v.Networks[i].Name)
			}
		}
		out = append(out, x)
	}
	return out
}

// policyRefusals are names for which ports have asked in vain.
func (v *view) policyRefusals() []api.PolicyRefusal {
	out := []api.PolicyRefusal{}
	list, now := v.d.PolicyRefusals()
	for _, r := range list {
		age := time.Duration(now-r.Last) * time.Second / frame.TicksPerSecond
		out = append(out, api.PolicyRefusal{Port: v.PortName(r.Port), Name: r.Name, Count: r.Count, Age: age.Round(time.Second).String()})
	}
	return out
}

// learnedNames are the names for which a port with policies has asked.
func (v *view) learnedNames(r *http.Request) (any, error) {
	p := v.Port(r.PathValue("name"))
	if p == nil {
		return nil, model.NoPort(r.PathValue("name"))
	}
	out := []api.LearnedName{}
	for _, x := range v.d.LearnedNames(p.ID) {
		out = append(out, api.LearnedName{Name: x.Name, Address: x.Addr.String()})
	}
	return out, nil
}

// policyTest says whether a port may begin a flow. A name whose address the port has not learned yet is judged by the rules for names.
func policyTest(s *Server, q api.PolicyTest) (any, error) {
	v := s.view()
	p := v.Port(q.Port)
	if p == nil {
		return nil, model.NoPort(q.Port)
	}
	if _, known := frame.ProtoNumber(q.Protocol); !known {
		return nil, badRequest("protocol %q is not known; use tcp, udp, icmp or sctp", q.Protocol)
	}
	to, err := netip.ParseAddr(q.To)
	if other := v.Port(q.To); err != nil && other != nil {
		if to = other.Addr.Addr(); !to.IsValid() {
			to = other.Addr6.Addr()
		}
		if !to.IsValid() {
			return nil, badRequest("port %q has no address that the switch knows", q.To)
		}
	}
	if !to.IsValid() {
		name := strings.ToLower(strings.TrimSuffix(q.To, "."))
		if !api.IsDNSName(name) || !strings.Contains(name, ".") && len(s.namesOf(v, p, name)) == 0 {
			return nil, badRequest("%q is not an address, not the name of a port, and not a name of DNS", q.To)
		}
		return s.testName(v, p, name, q)
	}
	return s.testAddress(v, p, to, q)
}

// testAddress says whether a port may begin a flow with an address.
func (s *Server) testAddress(v *view, p *model.Port, to netip.Addr, q api.PolicyTest) (r api.PolicyTestResult, err error) {
	packet := fmt.Sprintf("%s > %s", q.Protocol, to)
	if q.Number != 0 {
		packet = fmt.Sprintf("%s > %s", q.Protocol, netip.AddrPortFrom(to, uint16(q.Number)))
	}
	t, err := trace(s, api.TraceRequest{In: p.Name, Packet: packet})
	if err != nil {
		return r, err
	}
	out := t.(api.Trace)
	refused := out.Verdict == "dropped"
	r = api.PolicyTestResult{Allowed: !refused, Why: fmt.Sprintf("%s: %s", out.Packet, out.Why), Remedy: out.Remedy}
	if refused {
		r.Why = fmt.Sprintf("%s (%s): %s", out.Packet, out.Reason, out.Why)
	} else {
		r.Why += "; " + s.admissionOf(v, p, to, q)
	}
	return r, nil
}

// admissionOf says which rules let a flow with an address begin.
func (s *Server) admissionOf(v *view, p *model.Port, to netip.Addr, q api.PolicyTest) string {
	ports := s.dp.NAT.Policies()
	if ports.Set(p.ID) == nil && (ports == nil || ports.Set(ports.Stations[to]) == nil) {
		return "port " + p.Name + " has no policy"
	}
	src := p.Addr.Addr()
	if to.Is6() {
		src = p.Known6().Addr()
	}
	proto, _ := frame.ProtoNumber(q.Protocol)
	by := ports.Judge(policy.Flow{From: p.ID, To: ports.Stations[to], Src: src, Dst: to, Proto: proto, Port: uint16(q.Number)}, policy.Admission{}, v.dp.Now()).By
	var rules []string
	for _, id := range []uint32{by.Egress, by.Ingress} {
		if id != 0 {
			of, number, text := v.d.PolicyRule(id)
			rules = append(rules, fmt.Sprintf("rule %d of policy %s allows it: %s", number, of, text))
		}
	}
	if len(rules) == 0 {
		return "no policy limits such flows"
	}
	return strings.Join(rules, "; ")
}

// namesOf returns the addresses of a name of the switch, as a port may write it: inside of its network alone, or with the zone.
func (s *Server) namesOf(v *view, p *model.Port, name string) (addrs []netip.Addr) {
	for _, n := range v.d.Names() {
		if (n.Network.Name == p.Network && n.Name == name) || n.Name+"."+n.Network.Names.Domain == name {
			addrs = append(addrs, n.Addrs...)
		}
	}
	return addrs
}

// testName says whether a port may begin a flow with a name: with one of the addresses that are known, or else by the rules for the name.
func (s *Server) testName(v *view, p *model.Port, name string, q api.PolicyTest) (r api.PolicyTestResult, err error) {
	set := s.dp.NAT.Policies().Set(p.ID)
	addrs := s.namesOf(v, p, name)
	ours := len(addrs) > 0
	proto, _ := frame.ProtoNumber(q.Protocol)
	allRefused := set != nil && ours // by rules that refuse
	for _, a := range addrs {
		allRefused = allRefused && set.Rules.Judge(policy.Egress, a, s.dp.NAT.Policies().Places.Class(a), proto, uint16(q.Number)).Action > policy.Allow
	}
	if allRefused {
		return s.testAddress(v, p, addrs[0], q)
	}
	if set != nil && !set.MayAsk(name) && !(ours && slices.ContainsFunc(addrs, set.Reaches)) {
		rule := "egress allow name:" + name + " " + q.Protocol
		if q.Number != 0 {
			rule += fmt.Sprintf("/%d", q.Number)
		}
		return api.PolicyTestResult{
			Why:    fmt.Sprintf("port %s may not ask for the name %s: no rule of its policies (%s) names it", p.Name, name, strings.Join(v.PoliciesOf(p), ", ")),
			Remedy: "to allow it: `uvswitch policy add NAME " + rule + "`",
		}, nil
	}
	known := false // the port has asked
	for _, x := range v.d.LearnedNames(p.ID) {
		if x.Name == name {
			addrs, known = append(addrs, x.Addr), true
		}
	}
	for _, a := range addrs { // one is enough
		if r, err = s.testAddress(v, p, a, q); err != nil || r.Allowed {
			return r, err
		}
	}
	if set == nil && !ours {
		return api.PolicyTestResult{Allowed: true, Why: "port " + p.Name + " has no policy"}, nil
	}
	if known || set == nil {
		return r, nil
	}
	if id := set.RuleForName(name, proto, uint16(q.Number)); id != 0 {
		of, number, text := v.d.PolicyRule(id)
		return api.PolicyTestResult{Allowed: true, Why: fmt.Sprintf("rule %d of policy %s allows the public addresses of %s, once the port has asked for the name: %s", number, of, name, text)}, nil
	}
	return api.PolicyTestResult{Why: fmt.Sprintf("no rule for the name %s allows %s, and the port knows no address of it, by which other rules would decide", name, policy.ServiceText(proto, uint16(q.Number)))}, nil
}
