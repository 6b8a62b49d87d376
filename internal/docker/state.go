package docker

import (
	"fmt"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/statefile"
)

// state is what Docker told the driver and will not repeat: Docker sends neither networks nor endpoints again when it or the
// switch restarts. The whole state is written to a file after each change.
type state struct {
	Version   int                  `json:"version"`
	Networks  map[string]*network  `json:"networks"`  // by Docker's ID
	Endpoints map[string]*endpoint `json:"endpoints"` // by Docker's ID
}

// network is a Docker network and its network in the switch.
type network struct {
	Add    api.NetworkAdd `json:"add"`
	ICC    bool           `json:"icc"`              // its containers reach each other
	Tenant string         `json:"tenant,omitempty"` // of its containers
}

// endpoint is the connection of a container to a network.
type endpoint struct {
	Network string `json:"network"` // Docker's ID
	Address string `json:"address"` // CIDR

	Address6 string `json:"address6,omitempty"` // likewise; empty without IPv6

	MAC     string   `json:"mac"`
	Tenant  string   `json:"tenant,omitempty"`  // instead of the network's
	Policy  string   `json:"policy,omitempty"`  // besides the network's
	Sandbox string   `json:"sandbox,omitempty"` // path of the container's namespace; empty until Join
	Ifname  string   `json:"ifname,omitempty"`  // name of the device in the container; empty until it is known
	Gateway bool     `json:"gateway,omitempty"` // it has the container's default route
	Publish []string `json:"publish,omitempty"` // published ports, in the form of api.PublishAdd
	Name    string   `json:"name,omitempty"`    // of its port, as the driver has seen it last; empty: madeName
	Given   string   `json:"given,omitempty"`   // the name that the driver has given the port last; empty: none

	refused string    // the container's name, if the port could not get it
	since   time.Time // when the driver first looked for a name
}

const stateVersion = 1

// load reads the state from a file. A file that does not exist is an empty state.
func load(path string) (*state, error) {
	s := &state{Version: stateVersion}
	err := statefile.Load(path, s)
	if s.Networks == nil {
		s.Networks = map[string]*network{}
	}
	if s.Endpoints == nil {
		s.Endpoints = map[string]*endpoint{}
	}
	if err == nil && s.Version != stateVersion {
		err = fmt.Errorf("the file has version %d, but this uvswitch supports only version %d", s.Version, stateVersion)
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("docker: the state file %s is not usable: %w; repair it, or move it away and recreate the networks (`docker network rm`, `docker network create`)", path, err)
	}
	return s, nil
}

// check reports content that save cannot have written.
func (s *state) check() error {
	for id, n := range s.Networks {
		if n == nil || !validID(id) {
			return fmt.Errorf("network %q is not valid", id)
		}
	}
	for id, e := range s.Endpoints {
		if e == nil || !validID(id) || s.Networks[e.Network] == nil {
			return fmt.Errorf("endpoint %q is not valid, or its network is unknown", id)
		}
	}
	return nil
}

func (s *state) save(path string) error {
	if err := statefile.Save(path, s); err != nil {
		return fmt.Errorf("docker: cannot save the state file: %w", err)
	}
	return nil
}
