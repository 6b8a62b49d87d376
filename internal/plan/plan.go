// Package plan compares two states of a switch and lists the steps from one to the other. It is pure: it looks at no host and
// changes nothing. Package daemon applies the steps.
package plan

import (
	"fmt"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/nat"
)

// A Step is one action, and the actions that undo it.
type Step struct {
	Do   Action
	Undo []Action
}

func (s Step) String() string { return s.Do.String() }

// Removes reports whether the step removes an object that has flows or relayed connections: undoing it creates the object again,
// without them.
func (s Step) Removes() bool {
	switch s.Do.(type) {
	case RemoveNetwork, RemovePort, RemovePublish:
		return true
	}
	return false
}

// Takes reports whether the action only takes an object away: that the object does not exist is then no failure.
func Takes(a Action) bool {
	switch a.(type) {
	case RemoveNetwork, RemovePort, RemovePublish, RemoveRoute, RemovePolicy:
		return true
	}
	return false
}

// Publishes reports whether the action only adds or removes a published port.
func Publishes(a Action) bool {
	switch a.(type) {
	case AddPublish, RemovePublish:
		return true
	}
	return false
}

// An Action changes one thing. Its text is for people.
type Action interface{ fmt.Stringer }

// The actions.
type (
	AddNetwork    struct{ Spec api.NetworkAdd }
	ChangeNetwork struct{ From, To api.NetworkAdd }
	RemoveNetwork struct{ Name string }

	AddPort    struct{ Spec api.PortAdd }
	ChangePort struct {
		Name string
		Set  api.PortSet
	}
	SetAliases struct {
		Port    string
		Aliases []string
	}
	RemovePort struct{ Name string }

	// SetPolicy makes a policy, or changes its rules.
	SetPolicy       struct{ Policy api.PolicyAdd }
	RemovePolicy    struct{ Name string }
	SetPortPolicies struct {
		Port     string
		Policies []string
	}

	AddPublish    struct{ Publish model.Publish }
	RemovePublish struct{ Publish model.Publish }

	// AddRoute replaces an existing route to the same destination. Again: the route went away with its network, which is recreated.
	AddRoute struct {
		Route model.Route
		Again bool
	}
	RemoveRoute struct{ Route model.Route }
	AddNeighbor struct{ Neighbor model.Neighbor }

	SetNATPorts struct{ Ranges string }
	SetTimers   struct{ Timers nat.Timers }
)

func (a AddNetwork) String() string { return "add network " + a.Spec.Name + ", " + a.Spec.Subnet }
func (a ChangeNetwork) String() string {
	return "change network " + a.To.Name + ": " + model.Difference(a.From, a.To)
}
func (a RemoveNetwork) String() string { return "remove network " + a.Name }
func (a AddPort) String() string       { return "add port " + a.Spec.Name }
func (a ChangePort) String() string    { return "change settings of port " + a.Name }
func (a SetAliases) String() string {
	return "give port " + a.Port + " the aliases " + strings.Join(a.Aliases, ", ")
}
func (a SetPolicy) String() string {
	return fmt.Sprintf("set policy %s, %d rules", a.Policy.Name, len(a.Policy.Rules))
}
func (a RemovePolicy) String() string { return "remove policy " + a.Name }
func (a SetPortPolicies) String() string {
	if len(a.Policies) == 0 {
		return "detach all policies from port " + a.Port
	}
	return "attach the policies " + strings.Join(a.Policies, ", ") + " to port " + a.Port
}
func (a RemovePort) String() string    { return "remove port " + a.Name }
func (a AddPublish) String() string    { return "publish " + a.Publish.String() }
func (a RemovePublish) String() string { return "unpublish " + a.Publish.String() }
func (a AddRoute) String() string {
	if a.Again {
		return "add " + a.Route.String() + " again"
	}
	return "add " + a.Route.String()
}
func (a RemoveRoute) String() string { return "remove " + a.Route.String() }
func (a AddNeighbor) String() string { return "add neighbor " + a.Neighbor.Addr.String() + " again" }
func (a SetNATPorts) String() string { return "use ports " + a.Ranges + " for NAT" }
func (a SetTimers) String() string   { return "change timeouts" }
