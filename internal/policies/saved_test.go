package policies

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestSaved checks that a file has everything again, that the list of an earlier version is read, and what Forget leaves.
func TestSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.json")
	if s, err := LoadSaved(path); err != nil || s.Ports == nil || s.Networks == nil {
		t.Errorf("without a file: %+v %v", s, err)
	}
	s := Saved{Policies: []api.PolicyAdd{{Name: "a"}, {Name: "b"}}, Ports: Attached{}, Networks: Attached{}}
	s.Ports.Add("web", []string{"a", "b", "e"}, []string{"c", "b", "a"})
	s.Ports.Add("db", nil, []string{"c"})
	s.Networks.Add("lab", []string{"b"}, []string{"b"})
	if want := (Attached{"web": {"a", "b"}}); !reflect.DeepEqual(s.Ports, want) {
		t.Errorf("%v", s.Ports)
	}
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	if again, err := LoadSaved(path); err != nil || !reflect.DeepEqual(s, again) {
		t.Errorf("%+v %v", again, err)
	}
	if has := s.Ports.With("web", "c,b"); has != "c,b,a" {
		t.Errorf("%v", has)
	}
	if has := s.Ports.With("new", "c"); has != "c" {
		t.Errorf("%v", has)
	}
	s.Forget("b")
	if want := (Saved{Policies: []api.PolicyAdd{{Name: "a"}}, Ports: Attached{"web": {"a"}}, Networks: Attached{}}); !reflect.DeepEqual(s, want) {
		t.Errorf("%+v", s)
	}
	if err := os.WriteFile(path, []byte(`[{"name":"old","rules":["egress allow any"]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := LoadSaved(path); err != nil || len(s.Policies) != 1 || s.Policies[0].Name != "old" {
		t.Errorf("of an earlier version: %+v %v", s, err)
	}
}
