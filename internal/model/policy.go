package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/policy"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A Policy is a named list of rules.
type Policy struct {
	Name    string
	DNS     policy.DNS
	Rules   []policy.Rule
	Builtin bool
	Spec    api.PolicyAdd // with every rule in its usual form
}

// maxRules is how many rules a policy may have.
const maxRules = 16384

// dnsWords are the values of PolicyAdd.DNS.
var dnsWords = []string{policy.ByRules: "rules", policy.AnyName: "any", policy.NamesOnly: "named"}

// DNSWord is a value of PolicyAdd.DNS.
func DNSWord(d policy.DNS) string { return dnsWords[d] }

// Sandbox is the policy for code that nobody trusts. By itself it lets nothing out but questions for names that other policies of the port allow;
// and whatever these allow, it keeps the port from the host, from other ports, from private addresses and from the metadata of clouds. What comes
// in are the clients of published ports, and the host.
const Sandbox = "sandbox"

// Learn is the policy of a port that is watched (`policy learn`): it allows everything, and the switch notes which names the port asks for.
const Learn = "learn"

// builtin are the policies that always exist.
var builtin = []Policy{
	mustPolicy(api.PolicyAdd{Name: Sandbox, DNS: "named", Rules: sandboxRules()}),
	mustPolicy(api.PolicyAdd{Name: Learn, DNS: "any", Rules: []string{"egress allow any", "egress allow 169.254.0.0/16", "egress allow fd00:ec2::/32", "ingress allow any"}}),
}

func sandboxRules() []string {
	rules := []string{"egress reject host", "egress reject inside"}
	for _, p := range policy.NotPublic {
		rules = append(rules, "egress reject "+p.String())
	}
	return append(rules, "ingress allow outside", "ingress allow host")
}

func mustPolicy(a api.PolicyAdd) Policy {
	p, err := NewPolicy(a)
	if err != nil {
		panic(err)
	}
	p.Builtin = true
	return p
}

// NewPolicy reads a policy.
func NewPolicy(a api.PolicyAdd) (p Policy, err error) {
	if err := checkName("policy", a.Name); err != nil {
		return p, err
	}
	p.Name = a.Name
	if a.DNS == "" {
		a.DNS = dnsWords[policy.ByRules]
	}
	dns := slices.Index(dnsWords, a.DNS)
	if dns < 0 {
		return p, bad("--dns %q is not rules (the names of rules, if there are some), any, or named (the names of rules only)", a.DNS)
	}
	p.DNS = policy.DNS(dns)
	if len(a.Rules) > maxRules {
		return p, bad("a policy has at most %d rules; use subnets, or ranges of ports", maxRules)
	}
	if len(a.Rules) == 0 && p.DNS != policy.NamesOnly {
		return p, bad("policy %q has no rules: it would restrict nothing", a.Name)
	}
	for _, text := range a.Rules {
		r, err := policy.Parse(text)
		if err != nil {
			return p, bad("%v", err)
		}
		if slices.Contains(p.Spec.Rules, r.String()) {
			continue
		}
		p.Rules, p.Spec.Rules = append(p.Rules, r), append(p.Spec.Rules, r.String())
	}
	p.Spec.Name = a.Name
	if p.DNS != policy.ByRules {
		p.Spec.DNS = a.DNS
	}
	return p, nil
}

// AllPolicies returns the builtin policies and the others.
func (s *State) AllPolicies() []Policy { return slices.Concat(builtin, s.Policies) }

// Policy returns the policy of that name, or nil.
func (s *State) Policy(name string) *Policy {
	if p := find(builtin, func(p *Policy) bool { return p.Name == name }); p != nil {
		return p
	}
	return find(s.Policies, func(p *Policy) bool { return p.Name == name })
}

// CheckPolicy reads a policy that is to be added or changed.
func CheckPolicy(a api.PolicyAdd) (Policy, error) {
	if slices.ContainsFunc(builtin, func(p Policy) bool { return p.Name == a.Name }) {
		return Policy{}, conflict("policy %q is part of the command and cannot change; make one of another name, and attach both", a.Name)
	}
	return NewPolicy(a)
}

// NoPolicy is the error for a policy that does not exist.
func NoPolicy(name string) error {
	return notFound("policy %q does not exist; `uvswitch policy ls` lists the policies", name)
}

// checkPolicies reads the names of policies.
func (s *State) checkPolicies(list api.Words) (names []string, err error) {
	for _, name := range list.List() {
		if s.Policy(name) == nil {
			return nil, NoPolicy(name)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// PoliciesOf are the names of the policies that count for a port: those of its network, and its own. The switch's own ports have none.
func (s *State) PoliciesOf(p *Port) (names []string) {
	n := s.Network(p.Network)
	if n == nil || p.IsOwn() {
		return nil
	}
	for _, name := range slices.Concat(n.Policies, p.Policies) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if p.Watched && !slices.Contains(names, Learn) {
		names = append(names, Learn)
	}
	return names
}

// CheckPoliced says why a port cannot have the policies that count for it: without the guard, its address would be no proof of who it is.
func (s *State) CheckPoliced(p *Port) error {
	if names := s.PoliciesOf(p); len(names) > 0 && p.Flags&vswitch.Guard == 0 {
		return conflict("policies (%s) need the guard on port %q, and an address that the switch knows or leases: add the port with --ip auto, --ip ADDRESS or --ip dhcp, and leave its guard on", strings.Join(names, ", "), p.Name)
	}
	return nil
}

// addPolicies makes the policies of a configuration, and keeps those that were added by hand to the running switch.
func (s *State) addPolicies(list []api.PolicyAdd, have *State) error {
	for _, a := range list {
		p, err := CheckPolicy(a)
		if err == nil && s.Policy(p.Name) != nil {
			err = conflict("the name occurs twice")
		}
		if err != nil {
			return fmt.Errorf("policy %q: %w", a.Name, api.InKeys(err))
		}
		s.Policies = append(s.Policies, p)
	}
	if have == nil {
		return nil
	}
	for _, p := range have.Policies {
		inFile := slices.ContainsFunc(have.Config.Policies, func(a api.PolicyAdd) bool { return a.Name == p.Name })
		if !inFile && s.Policy(p.Name) == nil {
			s.Policies = append(s.Policies, p)
		}
	}
	return nil
}

// checkAttached says when a policy that is attached to a port or a network is missing.
func (s *State) checkAttached() error {
	missing := func(names []string) string {
		i := slices.IndexFunc(names, func(name string) bool { return s.Policy(name) == nil })
		if i < 0 {
			return ""
		}
		return names[i]
	}
	for i := range s.Networks {
		if name := missing(s.Networks[i].Policies); name != "" {
			return conflict("network %q has the policy %s, which would go; detach it first: `uvswitch policy detach %s --network %s`", s.Networks[i].Name, name, name, s.Networks[i].Name)
		}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if name := missing(p.Policies); name != "" {
			return conflict("port %q has the policy %s, which would go; detach it first: `uvswitch policy detach %s --port %s`", p.Name, name, name, p.Name)
		}
		if err := s.CheckPoliced(p); err != nil {
			return err
		}
	}
	return nil
}
