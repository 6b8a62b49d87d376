package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
)

// start is the configuration that every case begins with.
func start() model.Config {
	return model.Config{
		Uplink:  model.Uplink{Device: model.UplinkAuto, Ports: model.DefaultNATPorts},
		Default: api.NetworkAdd{Name: "default", Subnet: model.DefaultSubnet},
		Networks: []api.NetworkAdd{
			{Name: "lab", Subnet: "10.9.0.0/24", Gateway: "10.9.0.1"},
		},
		Ports: []api.PortAdd{
			{Name: "web", Netns: "/run/netns/web", IP: "172.29.0.2"},
			{Name: "db", Netns: "/run/netns/db", Network: "lab", IP: "10.9.0.7"},
		},
		Publishes: []api.PublishAdd{{Spec: "8080:80", Port: "web"}, {Spec: "5432:5432", Port: "db"}},
		Routes:    []api.RouteAdd{{Dst: "192.0.2.0/24", Gateway: "10.9.0.7"}},
	}
}

// state is what a configuration comes to on a running switch.
func state(t *testing.T, c model.Config, have *model.State) *model.State {
	t.Helper()
	s, err := model.Desired(c, have)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// byHand adds to a running switch what no file names.
func byHand(t *testing.T, s *model.State) {
	t.Helper()
	p, err := s.NewPort(api.PortAdd{Name: "hand", Netns: "/run/netns/hand", Network: "lab", IP: "10.9.0.20"})
	if err != nil {
		t.Fatal(err)
	}
	s.Ports = append(s.Ports, p)
	r, err := s.NewRoute(api.RouteAdd{Dst: "198.18.0.0/15", Gateway: "10.9.0.7"})
	if err != nil {
		t.Fatal(err)
	}
	s.Routes = append(s.Routes, r)
	x, err := s.NewNeighbor(api.NeighborAdd{Dst: "10.9.0.99", Lladdr: "02:00:00:00:00:99"})
	if err != nil {
		t.Fatal(err)
	}
	s.Neighbors = append(s.Neighbors, x)
}

// texts describes steps. An added port that names its address shows the address, too.
func texts(steps []Step) (out []string) {
	for _, s := range steps {
		if a, ok := s.Do.(AddPort); ok && a.Spec.NamesAddress() && strings.HasPrefix(a.Spec.IP, "172.29.0.") && a.Spec.IP != "172.29.0.2" {
			out = append(out, s.String()+", "+a.Spec.IP)
			continue
		}
		out = append(out, s.String())
	}
	return out
}

func TestDiff(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(c *model.Config)
		hand   bool // the switch has more, added by hand
		want   []string
	}{
		"nothing":              {change: func(*model.Config) {}},
		"nothing, and by hand": {change: func(*model.Config) {}, hand: true},
		"a new network comes before its port": {
			change: func(c *model.Config) {
				c.Networks = append(c.Networks, api.NetworkAdd{Name: "b", Subnet: "10.8.0.0/24"})
				c.Ports = append(c.Ports, api.PortAdd{Name: "x", Netns: "/run/netns/x", Network: "b"})
				c.Publishes = append(c.Publishes, api.PublishAdd{Spec: "81:80", Port: "x"})
			},
			want: []string{"add network b, 10.8.0.0/24", "add port x", "publish 81:80 to x"},
		},
		"what goes, goes in the opposite order": {
			change: func(c *model.Config) {
				c.Networks, c.Ports, c.Publishes, c.Routes = nil, c.Ports[:1], c.Publishes[:1], nil
			},
			want: []string{"unpublish 5432:5432 to db", "remove route 192.0.2.0/24 via 10.9.0.7", "remove port db", "remove network lab"},
		},
		"settings change in place": {
			change: func(c *model.Config) {
				c.Networks[0].Isolated = true
				c.Ports[0].Set = api.PortSet{"isolated": "on"}
			},
			want: []string{"change network lab: isolated false to true", "change settings of port web"},
		},
		"a port in another namespace is another port, and takes its published ports along": {
			change: func(c *model.Config) { c.Ports[0].Netns = "/run/netns/other" },
			want:   []string{"unpublish 8080:80 to web", "remove port web", "add port web", "publish 8080:80 to web"},
		},
		"a network with another gateway takes along its ports, also those added by hand, its routes and its neighbors": {
			change: func(c *model.Config) { c.Networks[0].Gateway = "10.9.0.254" },
			hand:   true,
			want: []string{
				"unpublish 5432:5432 to db", "remove port hand", "remove port db", "remove network lab", "add network lab, 10.9.0.0/24", "add port hand", "add port db",
				"publish 5432:5432 to db", "add neighbor 10.9.0.99 again", "add route 198.18.0.0/15 via 10.9.0.7 again", "add route 192.0.2.0/24 via 10.9.0.7",
			},
		},
		"a published port goes to another container": {
			change: func(c *model.Config) { c.Publishes[0].Port = "db" },
			want:   []string{"unpublish 8080:80 to web", "publish 8080:80 to db"},
		},
		"a route is replaced in one step": {
			change: func(c *model.Config) { c.Routes[0] = api.RouteAdd{Dst: "192.0.2.0/24", Type: "blackhole"} },
			want:   []string{"add route blackhole 192.0.2.0/24"},
		},
		"a plugged device with an automatic address gets the one that the file leaves free": {
			change: func(c *model.Config) {
				c.Ports = append(c.Ports, api.PortAdd{Name: "a", Device: "eth9", IP: "auto"}, api.PortAdd{Name: "b", Netns: "/run/netns/b", IP: "172.29.0.3"})
			},
			want: []string{"add port a, 172.29.0.4", "add port b, 172.29.0.3"},
		},
		"ports of the host for NAT": {
			change: func(c *model.Config) { c.Uplink.Ports = "30000-30999" },
			want:   []string{"use ports 30000-30999 for NAT"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			have := state(t, start(), nil)
			if tt.hand {
				byHand(t, have)
			}
			c := start()
			tt.change(&c)
			steps, err := Diff(have, state(t, c, have))
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(steps); strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// Every step that changes something names what undoes it, except what goes with a network: the network's undo brings that back.
func TestUndo(t *testing.T) {
	have := state(t, start(), nil)
	byHand(t, have)
	c := start()
	c.Networks[0].Gateway = "10.9.0.254"
	c.Ports[0].Set = api.PortSet{"rate": "10mbit"}
	steps, err := Diff(have, state(t, c, have))
	if err != nil {
		t.Fatal(err)
	}
	undo := map[string]string{
		"unpublish 5432:5432 to db":    "[publish 5432:5432 to db]",
		"remove port db":               "[add port db]",
		"remove network lab":           "[add network lab, 10.9.0.0/24 add route 192.0.2.0/24 via 10.9.0.7 add route 198.18.0.0/15 via 10.9.0.7 add neighbor 10.9.0.99 again]",
		"add network lab, 10.9.0.0/24": "[remove network lab]",
		"change settings of port web":  "[change settings of port web]",
		"add port db":                  "[remove port db]",
		"publish 5432:5432 to db":      "[unpublish 5432:5432 to db]",
		"add neighbor 10.9.0.99 again": "[]",
	}
	for _, s := range steps {
		if want, ok := undo[s.String()]; ok && fmt.Sprint(s.Undo) != want {
			t.Errorf("%s is undone by %v, want %s", s, s.Undo, want)
		}
		if removes := strings.HasPrefix(s.String(), "unpublish") || strings.HasPrefix(s.String(), "remove port") || strings.HasPrefix(s.String(), "remove network"); s.Removes() != removes {
			t.Errorf("%s: Removes is %v", s, s.Removes())
		}
		delete(undo, s.String())
	}
	if len(undo) > 0 {
		t.Errorf("no such steps: %v", undo)
	}
	set := steps[slices.IndexFunc(steps, func(s Step) bool { return s.String() == "change settings of port web" })]
	if do, back := set.Do.(ChangePort), set.Undo[0].(ChangePort); do.Set["rate_to"] != "10mbit" || back.Set["rate_to"] != "off" {
		t.Errorf("to %v, and back to %v", do.Set, back.Set)
	}
}

func TestDiffRefuses(t *testing.T) {
	for want, change := range map[string]func(have *model.State, c *model.Config){
		"host.inbound (allow to deny); restart the switch": func(_ *model.State, c *model.Config) { c.Host.Inbound = "deny" },
		"host.cgroup ( to off); restart the switch":        func(_ *model.State, c *model.Config) { c.Host.Cgroup = model.CgroupOff },
		"uplink.device (auto to eth1); restart the switch": func(_ *model.State, c *model.Config) { c.Uplink.Device = "eth1" },
		"uplink.kind":                  func(_ *model.State, c *model.Config) { c.Uplink.Kind = "clsact" },
		"host (off to 172.29.255.254)": func(_ *model.State, c *model.Config) { c.Host.On = true },
		"nat.flows (1048576 to 1000), nat.flows6 (262144 to 250), nat.windows (liberal to strict)": func(have *model.State, c *model.Config) {
			have.FlowLimit, have.FlowLimit6 = 1048576, 262144
			c.NAT.Flows, c.NAT.Strict = 1000, true
		},
		`port "db" was passed by another program`: func(have *model.State, c *model.Config) {
			have.Port("db").ByFD = true
			c.Networks[0].Gateway = "10.9.0.254"
		},
	} {
		have, c := state(t, start(), nil), start()
		change(have, &c)
		steps, err := Diff(have, state(t, c, have))
		if err == nil || !strings.Contains(err.Error(), want) || steps != nil {
			t.Errorf("%v %v; want %q", steps, err, want)
		}
	}
	// A word for what was found out, and what was found, are the same.
	have, c := state(t, start(), nil), start()
	have.UplinkDevice, have.UplinkKind = "eth0", "tcx"
	c.Uplink.Device, c.Uplink.Kind = "eth0", "tcx"
	if steps, err := Diff(have, state(t, c, have)); err != nil || len(steps) > 0 {
		t.Errorf("%v %v", steps, err)
	}
}

// The policies of a port follow the file. What was attached by hand stays. A policy that moves from a network to its port is never missing.
func TestPortPolicies(t *testing.T) {
	with := func(ofNetwork, ofPort string) model.Config {
		c := start()
		for _, name := range []string{"p1", "p2", "hand"} {
			c.Policies = append(c.Policies, api.PolicyAdd{Name: name, Rules: []string{"egress reject any"}})
		}
		c.Networks[0].Policies, c.Ports[1].Policies = api.Words(ofNetwork), api.Words(ofPort)
		return c
	}
	for name, tt := range map[string]struct {
		before, after [2]string // of the network, of the port
		hand          bool
		want          []string
	}{
		"attached":                     {[2]string{"", ""}, [2]string{"", "p1"}, false, []string{"attach the policies p1 to port db"}},
		"another one":                  {[2]string{"", "p1"}, [2]string{"", "p2"}, false, []string{"attach the policies p2 to port db"}},
		"detached":                     {[2]string{"", "p1"}, [2]string{"", ""}, false, []string{"detach all policies from port db"}},
		"the same":                     {[2]string{"", "p1"}, [2]string{"", "p1"}, true, nil},
		"one by hand stays":            {[2]string{"", "p1"}, [2]string{"", "p2"}, true, []string{"attach the policies p2, hand to port db"}},
		"from the network to the port": {[2]string{"p1", ""}, [2]string{"", "p1"}, false, []string{"attach the policies p1 to port db", "change network lab: policies p1 to "}},
		"from the port to the network": {[2]string{"", "p1"}, [2]string{"p1", ""}, false, []string{"change network lab: policies  to p1", "detach all policies from port db"}},
	} {
		have := state(t, with(tt.before[0], tt.before[1]), nil)
		if tt.hand {
			p := have.Port("db")
			p.Policies = append(p.Policies, "hand")
		}
		steps, err := Diff(have, state(t, with(tt.after[0], tt.after[1]), have))
		if err != nil {
			t.Fatal(name, err)
		}
		if got := texts(steps); strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
			t.Errorf("%s: steps:\n%s\nwant:\n%s", name, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}
