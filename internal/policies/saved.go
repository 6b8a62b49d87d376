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

// Add notes the policies of an object that the configuration file does not give it.
func (a Attached) Add(name string, has []string, byFile api.Words) {
	byHand := slices.DeleteFunc(slices.Clone(has), func(p string) bool { return slices.Contains(byFile.List(), p) })
	if len(byHand) > 0 {
		a[name] = byHand
	}
}

// Forget removes a policy that has gone.
func (s *Saved) Forget(policy string) {
	s.Policies = slices.DeleteFunc(slices.Clone(s.Policies), func(p api.PolicyAdd) bool { return p.Name == policy })
	for _, a := range []Attached{s.Ports, s.Networks} {
		for name, list := range maps.Clone(a) {
			if a[name] = slices.DeleteFunc(slices.Clone(list), func(p string) bool { return p == policy }); len(a[name]) == 0 {
				delete(a, name)
			}
		}
	}
}
