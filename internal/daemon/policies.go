package daemon

import (
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/gateway"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policies"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/internal/relay"
)

// SetPolicy makes a policy, or changes all of its rules.
func (d *Daemon) SetPolicy(a api.PolicyAdd) error {
	return d.change("setting policy "+a.Name, func() error { return d.setPolicyLocked(a) })
}

// AddPolicyRule adds a rule to a policy, which is made if it does not exist.
func (d *Daemon) AddPolicyRule(name, rule string) error {
	return d.change("adding a rule to policy "+name, func() error {
		a := api.PolicyAdd{Name: name}
		if p := d.State().Policy(name); p != nil {
			a = p.Spec
		}
		one, err := model.CheckPolicy(api.PolicyAdd{Name: name, Rules: []string{rule}})
		if err == nil && slices.Contains(a.Rules, one.Spec.Rules[0]) {
			err = api.Errorf(http.StatusConflict, "policy %q has the rule %q already", name, one.Spec.Rules[0])
		}
		if err != nil {
			return err
		}
		a.Rules = append(slices.Clone(a.Rules), rule)
		return d.setPolicyLocked(a)
	})
}

// DeletePolicyRule removes a rule from a policy; 1 is the first.
func (d *Daemon) DeletePolicyRule(name string, number int) error {
	return d.change("removing a rule from policy "+name, func() error {
		p := d.State().Policy(name)
		if p == nil {
			return model.NoPolicy(name)
		}
		if number < 1 || number > len(p.Spec.Rules) {
			return api.Errorf(http.StatusNotFound, "policy %q has no rule %d; `uvswitch policy show %s` numbers its rules", name, number, name)
		}
		r := p.Rules[number-1]
		last := !slices.ContainsFunc(p.Rules, func(x policy.Rule) bool { return x.Direction == r.Direction && x.String() != r.String() })
		if _, _, attached := d.attachedToLocked(name); last && attached {
			return api.Errorf(http.StatusConflict, "this is the last %s rule of policy %q, and without one everything would pass; add another rule first, or detach the policy", r.Direction, name)
		}
		if len(p.Rules) == 1 && p.DNS != policy.NamesOnly {
			return d.deletePolicyLocked(name)
		}
		a := p.Spec
		a.Rules = slices.Delete(slices.Clone(a.Rules), number-1, number)
		return d.setPolicyLocked(a)
	})
}

// DeletePolicy removes a policy that is attached to nothing.
func (d *Daemon) DeletePolicy(name string) error {
	return d.change("removing policy "+name, func() error { return d.deletePolicyLocked(name) })
}

// AttachPolicy attaches a policy to a port or to a network, or detaches it.
func (d *Daemon) AttachPolicy(name string, a api.PolicyAttach, attach bool) error {
	what := "detaching policy "
	if attach {
		what = "attaching policy "
	}
	return d.change(what+name, func() error {
		if (a.Port == "") == (a.Network == "") {
			return api.Errorf(http.StatusBadRequest, "say to what the policy is attached: one port (--port), or all ports of a network (--network)")
		}
		if !attach && d.waits() && (d.formerly.Ports.Forget(a.Port, name) || d.formerly.Networks.Forget(a.Network, name)) { // what is not here yet
			d.savePoliciesLocked()
			return nil
		}
		if d.State().Policy(name) == nil {
			return model.NoPolicy(name)
		}
		if a.Port != "" {
			p := d.ports[a.Port]
			if p == nil {
				return model.NoPort(a.Port)
			}
			if a.Seconds != 0 {
				return d.watchLocked(p, name, a.Seconds)
			}
			names, err := edited(p.Policies, name, "port "+a.Port, attach)
			if err != nil {
				return err
			}
			if err := d.setPortPoliciesLocked(a.Port, names); err != nil {
				return err
			}
			p.attached = changed(p.attached, name, attach)
			d.savePoliciesLocked()
			return nil
		}
		n := d.networks[a.Network]
		if n == nil {
			return model.NoNetwork(a.Network)
		}
		names, err := edited(n.Policies, name, "network "+a.Network, attach)
		if err != nil {
			return err
		}
		spec := n.Spec
		spec.Policies = api.Words(strings.Join(names, ","))
		if err := d.changeNetworkLocked(spec); err != nil {
			return err
		}
		n.attached = changed(n.attached, name, attach)
		d.savePoliciesLocked()
		return nil
	})
}

// changed is a list with a name at its end, or without it.
func changed(names []string, name string, attach bool) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
	if attach {
		names = append(names, name)
	}
	return names
}

// watchLocked gives a port the policy learn for some seconds from now on, besides those that are attached to it. Who watches asks again and again:
// when nobody does any more, also because it has died, the policy goes.
func (d *Daemon) watchLocked(p *port, name string, seconds int) error {
	if name != model.Learn || seconds < 0 || seconds > 60 {
		return api.Errorf(http.StatusBadRequest, "seconds, 1 to 60, are for policy %s only, while a port is watched; to attach policy %s, leave them out", model.Learn, name)
	}
	watched := p.Port
	watched.Watched = true
	if err := d.State().CheckPoliced(&watched); err != nil {
		return err
	}
	var end *time.Timer
	what := "ending to watch port " + p.Name
	end = time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		d.follow(what, func() {
			if p.watch == end { // nobody has asked again
				d.setWatchedLocked(p, false)
			}
		})
	})
	p.watch = end
	d.setWatchedLocked(p, true)
	return nil
}

func (d *Daemon) setWatchedLocked(p *port, watched bool) {
	if p.Watched == watched || d.ports[p.Name] != p {
		return
	}
	d.mu.Lock()
	p.Watched = watched
	d.mu.Unlock()
	d.updatePoliciesLocked(nil)
}

// edited is a list of policies with one more or one less; of is what has the list.
func edited(names []string, name, of string, attach bool) ([]string, error) {
	has := slices.Contains(names, name)
	switch {
	case attach && has:
		return nil, api.Errorf(http.StatusConflict, "%s has the policy %s already", of, name)
	case !attach && !has:
		return nil, api.Errorf(http.StatusNotFound, "%s has no policy %s of its own; `uvswitch policy show %s` says to what the policy is attached", of, name, name)
	}
	return changed(names, name, attach), nil
}

func (d *Daemon) setPolicyLocked(a api.PolicyAdd) error {
	p, err := model.CheckPolicy(a)
	if err != nil {
		return err
	}
	list := slices.Clone(d.policies)
	if i := slices.IndexFunc(list, func(x model.Policy) bool { return x.Name == p.Name }); i >= 0 {
		list[i] = p
	} else {
		list = append(list, p)
	}
	d.replacePoliciesLocked(list)
	return nil
}

func (d *Daemon) deletePolicyLocked(name string) error {
	if p := d.State().Policy(name); p == nil {
		return model.NoPolicy(name)
	} else if p.Builtin {
		return api.Errorf(http.StatusConflict, "policy %q is part of the command and cannot be removed", name)
	}
	if kind, to, attached := d.attachedToLocked(name); attached {
		return api.Errorf(http.StatusConflict, "policy %q is attached to %s %q; detach it first: `uvswitch policy detach %s --%s %s`", name, kind, to, name, kind, to)
	}
	d.formerly.Forget(name)
	d.replacePoliciesLocked(slices.DeleteFunc(slices.Clone(d.policies), func(x model.Policy) bool { return x.Name == name }))
	return nil
}

// attachedToLocked returns a network or a port, by its kind and its name, that has a policy.
func (d *Daemon) attachedToLocked(policy string) (kind, name string, attached bool) {
	for _, n := range d.networks {
		if slices.Contains(n.Policies, policy) {
			return "network", n.Name, true
		}
	}
	for _, p := range d.ports {
		if slices.Contains(p.Policies, policy) {
			return "port", p.Name, true
		}
	}
	if d.waits() {
		for kind, by := range map[string]policies.Attached{"network": d.formerly.Networks, "port": d.formerly.Ports} {
			for name, list := range by { // not here yet
				if slices.Contains(list, policy) {
					return kind, name, true
				}
			}
		}
	}
	return "", "", false
}

func (d *Daemon) replacePoliciesLocked(list []model.Policy) {
	d.mu.Lock()
	d.policies = list
	d.mu.Unlock()
	d.updatePoliciesLocked(nil)
	d.savePoliciesLocked()
}

// loadPolicies reads what the last process has left.
func (d *Daemon) loadPolicies() {
	if d.opts.PolicyFile == "" {
		return
	}
	var err error
	if d.formerly, err = policies.LoadSaved(d.opts.PolicyFile); err != nil {
		kept := d.opts.PolicyFile + ".bad"
		_ = os.Rename(d.opts.PolicyFile, kept)
		d.log.Error("the saved policies cannot be read; ports and networks that had one by hand, and networks of Docker, may be without", "file", kept, "error", err)
	}
}

// savePoliciesLocked keeps for the next process the policies, and what has one by hand, if that has changed. What the last process has left stays until
// it is named again.
func (d *Daemon) savePoliciesLocked() {
	if d.opts.PolicyFile == "" || !d.built {
		return
	}
	s := policies.Saved{Policies: []api.PolicyAdd{}, Ports: policies.Attached{}, Networks: policies.Attached{}}
	for _, p := range d.policies {
		if !slices.ContainsFunc(d.config.Policies, func(a api.PolicyAdd) bool { return a.Name == p.Name }) { // the file has those
			s.Policies = append(s.Policies, p.Spec)
		}
	}
	state := d.State()
	for _, a := range d.formerly.Policies {
		if state.Policy(a.Name) == nil {
			s.Policies = append(s.Policies, a)
		}
	}
	if d.waits() {
		maps.Copy(s.Ports, d.formerly.Ports)
		maps.Copy(s.Networks, d.formerly.Networks)
	}
	for name, p := range d.ports {
		s.Ports.Add(name, p.attached, p.Policies)
	}
	for name, n := range d.networks {
		s.Networks.Add(name, n.attached, n.Policies)
	}
	if reflect.DeepEqual(s, d.saved) {
		return
	}
	if err := s.Save(d.opts.PolicyFile); err != nil {
		d.log.Error("policies cannot be saved: after a restart, those made or attached by hand are missing; give --state a folder that the switch may write", "error", err)
		return
	}
	d.saved = s
}

// reattachTime is for how long after its start a switch attaches policies again to ports and networks that come. Those that were there before come at once.
const reattachTime = 10 * time.Minute

func (d *Daemon) waits() bool { return time.Since(d.Started()) < reattachTime }

// reattachLocked makes a port or network that comes, with the policies that its request has, and those that were attached to it by hand in the last process.
// At the start, what does not fit the configuration any more is left out.
func reattachLocked[T any](d *Daemon, by policies.Attached, kind, name string, names *api.Words, build func() (T, error)) (T, error) {
	asked := *names
	if d.waits() && len(by[name]) > 0 {
		*names = by.With(name, asked)
		d.log.Warn("the policies are attached again that were attached by hand before the switch ended", kind, name, "policies", *names)
	}
	d.recallPoliciesLocked(*names)
	made, err := build()
	if err != nil && *names != asked && !d.built {
		d.log.Error("policies that were attached by hand do not fit the configuration any more, and are left out", kind, name, "error", err)
		*names = asked
		return build()
	}
	return made, err
}

// attachAgainLocked gives a port that has got another name the policies that were attached by hand to a port of that name in the last process.
func (d *Daemon) attachAgainLocked(p *port) {
	again := d.formerly.Ports[p.Name]
	if !d.waits() || len(again) == 0 {
		return
	}
	names := d.formerly.Ports.With(p.Name, api.Words(strings.Join(p.Policies, ",")))
	d.recallPoliciesLocked(names)
	if err := d.setPortPoliciesLocked(p.Name, names.List()); err != nil {
		d.log.Error("policies that were attached by hand before the switch ended cannot be attached again", "port", p.Name, "policies", again, "error", err)
		return
	}
	for _, policy := range again {
		p.attached = changed(p.attached, policy, true)
	}
	delete(d.formerly.Ports, p.Name)
	d.log.Warn("the policies are attached again that were attached by hand before the switch ended", "port", p.Name, "policies", again)
}

// recallPoliciesLocked makes the policies again that a new network or port names, and that the last process had: Docker restores its networks with
// the names of their policies only.
func (d *Daemon) recallPoliciesLocked(names api.Words) {
	for _, name := range names.List() {
		if d.State().Policy(name) != nil {
			continue
		}
		for _, a := range d.formerly.Policies {
			if a.Name == name {
				if err := d.setPolicyLocked(a); err != nil {
					d.log.Error("a policy of the last process cannot be made again", "policy", name, "error", err)
				}
			}
		}
	}
}

// recallAllPoliciesLocked makes the policies of the last process again, as far as what they name is there.
func (d *Daemon) recallAllPoliciesLocked() {
	for _, a := range slices.Clone(d.formerly.Policies) {
		if d.State().Policy(a.Name) == nil {
			if err := d.setPolicyLocked(a); err != nil {
				d.log.Info("a policy of the last process waits for what it names", "policy", a.Name, "error", err)
			}
		}
	}
}

// setPortPoliciesLocked sets the policies of a port itself.
func (d *Daemon) setPortPoliciesLocked(name string, names []string) error {
	p := d.ports[name]
	switch {
	case p == nil:
		return model.NoPort(name)
	case p.IsOwn():
		return api.Errorf(http.StatusConflict, "port %q is the switch's own and takes no policy; what containers may begin with the host: --host-inbound of `uvswitch run`", name)
	}
	changed := p.Port
	changed.Policies = names
	if err := d.State().CheckPoliced(&changed); err != nil {
		return err
	}
	d.mu.Lock()
	p.Policies, p.Spec.Policies = names, api.Words(strings.Join(names, ","))
	d.mu.Unlock()
	d.updatePoliciesLocked(nil)
	return nil
}

// updatePoliciesLocked tells the data plane which flows may begin, when that has changed. coming is a port that is about to be connected, or nil.
func (d *Daemon) updatePoliciesLocked(coming *port) {
	state := d.State()
	if coming != nil {
		state.Ports = append(state.Ports, coming.Port)
	}
	to, changed := d.policing.Compile(state, d.local)
	if changed {
		d.dp.NAT.SetPolicies(to)
		for _, p := range d.publishes {
			if s, ok := p.relays.(*relay.Set); ok {
				s.Recheck()
			}
		}
	}
	for i := range state.Ports { // NAT can judge its frames now
		p := d.ports[state.Ports[i].Name]
		if coming != nil && state.Ports[i].Name == coming.Name {
			p = coming
		}
		set := to.Set(p.ID)
		tracked, closed := set != nil, set != nil && set.Closes(policy.Ingress)
		if tracked == p.Tracked && closed == p.Closed {
			continue
		}
		d.mu.Lock()
		p.Tracked, p.Closed = tracked, closed
		d.mu.Unlock()
		if p != coming {
			d.dp.Switch.SetPort(p.SwitchPort(p.netID()))
		}
	}
}

// PolicyRefusals lists the names for which ports have asked in vain, the last one first, and the time now.
func (d *Daemon) PolicyRefusals() ([]gateway.Refusal, frame.Tick) {
	return d.gateways.Refusals(), d.dp.Now()
}

// PolicyRule returns the policy that has a rule, the rule's place in it, 1 being the first, and its text.
func (d *Daemon) PolicyRule(id uint32) (name string, number int, text string) {
	return d.policing.Rule(id)
}

// ExplainRefusal says which policy and rule refuse a parsed frame, by the rules of now; or have refused it, at a port that has been removed.
func (d *Daemon) ExplainRefusal(f *frame.Frame) (policies.Refusal, bool) {
	if r, ok := d.policing.Explain(f, d.dp.Now()); ok {
		return r, true
	}
	return d.pastRefusal(f)
}

// LearnedNames lists the names that the answers to a port have named, with their addresses.
func (d *Daemon) LearnedNames(id frame.PortID) []policy.Learned {
	if s := d.dp.NAT.Policies().Set(id); s != nil {
		return s.Addresses.All(d.dp.Now())
	}
	return nil
}

// Unallowed returns how many packets of a port no rule of its policies has allowed.
func (d *Daemon) Unallowed(id frame.PortID) uint64 { return d.policing.Unallowed(id) }

// PolicyCount returns what a rule of a policy has done.
func (d *Daemon) PolicyCount(name, rule string) (flows, refused uint64) {
	return d.policing.Count(name, rule)
}
