package policies

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/statefile"
)

// Saved is what a switch leaves to the next one: policies that were made by hand, and what has policies by hand.
type Saved struct {
	Policies []api.PolicyAdd `json:"policies"`
	Ports    Attached        `json:"ports"`
	Networks Attached        `json:"networks"`
}

// Attached are names of policies, by the name of what has them.
type Attached map[string][]string

// LoadSaved reads what Save has written. Without a file, it is empty.
func LoadSaved(path string) (s Saved, err error) {
	err = statefile.Load(path, &s)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) { // an earlier version has saved the list alone
		s = Saved{}
		err = statefile.Load(path, &s.Policies)
	}
	if s.Ports == nil {
		s.Ports = Attached{}
	}
	if s.Networks == nil {
		s.Networks = Attached{}
	}
	return s, err
}

// Save writes a file for the next switch.
func (s Saved) Save(path string) error { return statefile.Save(path, s) }

// With returns the policies of an object that comes, and that may have some already: with those that it had in the last switch.
func (a Attached) With(name string, has api.Words) api.Words {
	all := has.List()
	for _, p := range a[name] {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return api.Words(strings.Join(all, ","))
}

// Add notes what was attached to an object by hand, and is attached still.
func (a Attached) Add(name string, attached, has []string) {
	still := slices.DeleteFunc(slices.Clone(attached), func(p string) bool { return !slices.Contains(has, p) })
	if len(still) > 0 {
		a[name] = still
	}
}

// Forget removes a policy of an object, and reports whether it was there.
func (a Attached) Forget(name, policy string) bool {
	list := slices.DeleteFunc(slices.Clone(a[name]), func(p string) bool { return p == policy })
	if len(list) == len(a[name]) {
		return false
	}
	if a[name] = list; len(list) == 0 {
		delete(a, name)
	}
	return true
}

// Forget removes a policy that has gone.
func (s *Saved) Forget(policy string) {
	s.Policies = slices.DeleteFunc(slices.Clone(s.Policies), func(p api.PolicyAdd) bool { return p.Name == policy })
	for _, a := range []Attached{s.Ports, s.Networks} {
		for _, name := range slices.Collect(maps.Keys(a)) {
			a.Forget(name, policy)
		}
	}
}
