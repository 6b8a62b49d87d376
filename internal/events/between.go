package events

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
)

// Kinds of events.
const (
	Switch  = "switch"
	Uplink  = "uplink"
	Network = "network"
	Port    = "port"
	Publish = "publish"
	Policy  = "policy"
	Lease   = "lease"
	Name    = "name"
	Refusal = "refusal"
)

// NameDenied is the reason of refusals of names. It is no reason of a drop: the port gets an answer.
const NameDenied = "name_denied"

// What has happened.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
	Began   = "began"
	Ended   = "ended"
	Waits   = "waits"
)

// Kinds lists all kinds.
func Kinds() []string {
	return []string{Switch, Uplink, Network, Port, Publish, Policy, Lease, Name, Refusal}
}

// Between lists what one change has done: first what has gone, then what has come.
func Between(before, after *model.State) (out []api.Event) {
	say := func(kind, action, name string, e api.Event, text string) {
		e.Event, e.Action, e.Name = kind, action, name
		e.Text = strings.TrimSpace(kind + " " + name + " " + action + ": " + text)
		if text == "" {
			e.Text = kind + " " + name + " " + action
		}
		out = append(out, e)
	}
	names := renamed(before, after)
	was, is := portsOf(before, names), portsOf(after, nil)
	published, publishes := publishesOf(before, names), publishesOf(after, nil)
	for _, key := range slices.Sorted(maps.Keys(published)) {
		if _, there := publishes[key]; !there {
			say(Publish, Removed, key, api.Event{Port: published[key].Port}, "")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if is[name] == nil {
			say(Port, Removed, name, api.Event{Network: was[name].Network, Port: name}, "")
		}
	}
	for i := range before.Networks {
		if n := &before.Networks[i]; after.Network(n.Name) == nil {
			say(Network, Removed, n.Name, api.Event{Network: n.Name}, "")
		}
	}
	for i := range before.Policies {
		if p := &before.Policies[i]; after.Policy(p.Name) == nil {
			say(Policy, Removed, p.Name, api.Event{}, "")
		}
	}
	for i := range after.Policies {
		p := &after.Policies[i]
		switch old := before.Policy(p.Name); {
		case old == nil:
			say(Policy, Added, p.Name, api.Event{}, Counted(uint64(len(p.Rules)), "rule"))
		case !reflect.DeepEqual(old.Spec, p.Spec):
			say(Policy, Changed, p.Name, api.Event{}, fmt.Sprintf("%s, %d before", Counted(uint64(len(p.Rules)), "rule"), len(old.Rules)))
		}
	}
	for i := range after.Networks {
		n := &after.Networks[i]
		switch old := before.Network(n.Name); {
		case old == nil:
			say(Network, Added, n.Name, api.Event{Network: n.Name}, n.Prefix.String())
		case old.Spec != n.Spec:
			say(Network, Changed, n.Name, api.Event{Network: n.Name}, model.Difference(old.Spec, n.Spec))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		p, old := is[name], was[name]
		e := api.Event{Network: p.Network, Port: name}
		switch {
		case old == nil || old.ID != p.ID:
			e.Address = model.AddrText(p.Addr.Addr())
			say(Port, Added, name, e, strings.TrimSpace(string(p.Kind)+" "+p.Ifname+" "+model.AddrText(p.Addr.Addr())+" "+model.AddrText(p.Addr6.Addr())))
		default:
			if text := changes(old, p); text != "" {
				e.Address = model.AddrText(p.Addr.Addr())
				say(Port, Changed, name, e, text)
			}
		}
	}
	for _, w := range after.Waiting {
		known := slices.ContainsFunc(before.Waiting, func(x model.WaitingPort) bool { return x.Spec.Name == w.Spec.Name && x.Why == w.Why })
		if !known && is[w.Spec.Name] == nil {
			say(Port, Waits, w.Spec.Name, api.Event{Port: w.Spec.Name}, w.Why)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(publishes)) {
		if _, there := published[key]; !there {
			say(Publish, Added, key, api.Event{Port: publishes[key].Port}, "")
		}
	}
	return out
}

// Counted is a number of things, such as "1 rule" and "2 rules".
func Counted(n uint64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// renamed are the new names of ports, by the names that they had.
func renamed(before, after *model.State) map[string]string {
	out := map[string]string{}
	for i := range before.Ports {
		p := &before.Ports[i]
		if now := after.PortByID(p.ID); now != nil && now.SameDevice(p) && after.Port(p.Name) == nil && before.Port(now.Name) == nil {
			out[p.Name] = now.Name
		}
	}
	return out
}

// portsOf are the ports of a state, by the names that they have now.
func portsOf(s *model.State, now map[string]string) map[string]*model.Port {
	out := map[string]*model.Port{}
	for i := range s.Ports {
		p := &s.Ports[i]
		out[cmp.Or(now[p.Name], p.Name)] = p
	}
	return out
}

func publishesOf(s *model.State, now map[string]string) map[string]*model.Publish {
	out := map[string]*model.Publish{}
	for _, p := range s.Publishes {
		p.Rename(cmp.Or(now[p.Port], p.Port))
		out[p.String()] = &p
	}
	return out
}

// changes lists what differs between two states of a port, as `port set` and other commands name it.
func changes(was, is *model.Port) string {
	var out []string
	if was.Name != is.Name {
		out = append(out, "its name was "+was.Name)
	}
	if was.Addr != is.Addr {
		out = append(out, "address "+cmp.Or(model.AddrText(is.Addr.Addr()), "none"))
	}
	if was.Addr6 != is.Addr6 {
		out = append(out, "IPv6 address "+cmp.Or(model.AddrText(is.Addr6.Addr()), "none"))
	}
	before, after := was.Settings.Set(), is.Settings.Set()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			out = append(out, name+" "+string(after[name]))
		}
	}
	if !slices.Equal(was.Aliases, is.Aliases) {
		out = append(out, "aliases "+cmp.Or(strings.Join(is.Aliases, " "), "none"))
	}
	if !slices.Equal(was.Policies, is.Policies) {
		out = append(out, "policies "+cmp.Or(strings.Join(is.Policies, " "), "none"))
	}
	return strings.Join(out, ", ")
}
