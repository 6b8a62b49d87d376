package model

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// small is a configuration with one container in each of two networks.
func small() Config {
	return Config{
		Uplink:    Uplink{Device: UplinkAuto, Ports: DefaultNATPorts},
		Default:   api.NetworkAdd{Name: "default", Subnet: DefaultSubnet},
		Networks:  []api.NetworkAdd{{Name: "lab", Subnet: "10.9.0.0/29"}},
		Ports:     []api.PortAdd{{Name: "web", Netns: "/ns/web"}, {Name: "db", Netns: "/ns/db", Network: "lab"}},
		Publishes: []api.PublishAdd{{Spec: "8080:80", Port: "web"}},
	}
}

func desired(t *testing.T, c Config, have *State) *State {
	t.Helper()
	s, err := Desired(c, have)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	s := desired(t, small(), nil)
	lab, web, db := s.Network("lab"), s.Port("web"), s.Port("db")
	if lab.Gateway.String() != "10.9.0.1" || lab.MTU != DefaultMTU || lab.MAC != MACFor(lab.Gateway) || lab.Spec.Mapping != "endpoint-independent" {
		t.Errorf("%+v", lab)
	}
	if web.Addr.String() != "172.29.0.2/16" || web.MAC != MACFor(web.Addr.Addr()) || web.Ifname != "eth0" || web.MTU != DefaultMTU || web.Network != "default" {
		t.Errorf("%+v", web)
	}
	if db.Addr.String() != "10.9.0.2/29" {
		t.Errorf("%+v", db)
	}
	if p := s.Publishes[0]; p.Port != "web" || p.Lo != 8080 {
		t.Errorf("%+v", p)
	}
}

// What a user may get wrong: each error says what is wrong, and what is possible instead.
func TestRefused(t *testing.T) {
	for want, change := range map[string]func(c *Config){
		`"x" is not an IPv4 subnet of /8 to /29, such as 172.30.0.0/16`:      func(c *Config) { c.Networks[0].Subnet = "x" },
		`did you mean 10.9.0.0/24?`:                                          func(c *Config) { c.Networks[0].Subnet = "10.9.0.7/24" },
		`cannot be routed`:                                                   func(c *Config) { c.Networks[0].Subnet = "224.0.0.0/24" },
		`overlaps 172.29.0.0/16 of network "default"; choose another subnet`: func(c *Config) { c.Networks[0].Subnet = "172.29.9.0/24" },
		`network "default" always exists`:                                    func(c *Config) { c.Networks[0].Name = "default" },
		`gateway "10.9.0.7" is not a usable address of 10.9.0.0/29`:          func(c *Config) { c.Networks[0].Gateway = "10.9.0.7" },
		`MTU 500 is out of range: 576 to 65521 bytes`:                        func(c *Config) { c.Networks[0].MTU = 500 },
		`requires filtering address-and-port-dependent`: func(c *Config) {
			c.Networks[0].Mapping, c.Networks[0].Filtering = "address-and-port-dependent", "endpoint-independent"
		},
		`not a valid name for a network`:                                 func(c *Config) { c.Networks[0].Name = "a b" },
		`not a valid name for a port`:                                    func(c *Config) { c.Ports[0].Name = "-x" },
		`no port can be called "host"`:                                   func(c *Config) { c.Ports[0].Name = "host" },
		`port "db": port "db" exists already`:                            func(c *Config) { c.Ports[0].Name = "db" },
		`say what to connect`:                                            func(c *Config) { c.Ports[0].Netns = "" },
		`use only one of netns, device, qemu_stream, qemu_dgram and vde`: func(c *Config) { c.Ports[0].Device = "eth1" },
		`address 10.9.0.1 belongs to the gateway`:                        func(c *Config) { c.Ports[1].IP = "10.9.0.1" },
		`"10.9.0.7" is not a usable address of network "lab"`:            func(c *Config) { c.Ports[1].IP = "10.9.0.7" },
		`network "lab" has prefix length 29`:                             func(c *Config) { c.Ports[1].IP = "10.9.0.3/24" },
		`address 10.9.0.2 is in use by port "db"; choose another address`: func(c *Config) {
			c.Ports = append(c.Ports, api.PortAdd{Name: "x", Netns: "/ns/x", Network: "lab", IP: "10.9.0.2"})
		},
		`offload "maybe": must be on or off`: func(c *Config) { c.Ports[0].Offload = "maybe" },
		`use an absolute path`:               func(c *Config) { c.Ports[0].Netns, c.Ports[0].VDE = "", "vde.ctl" },
		`loopback or the uplink's device`:    func(c *Config) { c.Ports[0].Netns, c.Ports[0].Device, c.Uplink.Device = "", "eth1", "eth1" },
		`route 10.9.9.0/24`:                  func(c *Config) { c.Routes = []api.RouteAdd{{Dst: "10.9.9.0/24", Gateway: "203.0.113.1"}} },
		`the destination occurs twice`: func(c *Config) {
			c.Routes = []api.RouteAdd{{Dst: "192.0.2.0/24", Gateway: "10.9.0.2"}, {Dst: "192.0.2.0/24", Type: "blackhole"}}
		},
		`publish 8080:80`: func(c *Config) { c.Publishes[0].Port = "nobody" },
	} {
		c := small()
		change(&c)
		if err := Check(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestNetworkIsFull(t *testing.T) {
	c := small()
	for _, name := range []string{"b", "c", "d", "e"} { // 10.9.0.3 to .6; .2 is db's
		c.Ports = append(c.Ports, api.PortAdd{Name: name, Netns: "/ns/" + name, Network: "lab"})
	}
	s := desired(t, c, nil)
	if got := s.Port("e").Addr.String(); got != "10.9.0.6/29" {
		t.Errorf("the last address is %s", got)
	}
	c.Ports = append(c.Ports, api.PortAdd{Name: "f", Netns: "/ns/f", Network: "lab"})
	if err := Check(c); err == nil || !strings.Contains(err.Error(), "no address of 10.9.0.0/29 is free") {
		t.Error(err)
	}
}

// A reload keeps what was added by hand, and the addresses of the ports that exist, whatever their order in the file is.
func TestReloadKeeps(t *testing.T) {
	have := desired(t, small(), nil)
	hand, err := have.NewPort(api.PortAdd{Name: "hand", Netns: "/ns/hand", Network: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	have.Ports = append(have.Ports, hand)
	pub, err := have.NewPublish(api.PublishAdd{Spec: "9090:80", Port: "hand"})
	if err != nil {
		t.Fatal(err)
	}
	have.Publishes = append(have.Publishes, pub)

	c := small()
	c.Ports = append([]api.PortAdd{{Name: "first", Netns: "/ns/first"}}, c.Ports...)
	s := desired(t, c, have)
	for name, addr := range map[string]string{"web": "172.29.0.2/16", "first": "172.29.0.3/16", "db": "10.9.0.2/29", "hand": "10.9.0.3/29"} {
		if p := s.Port(name); p == nil || p.Addr.String() != addr {
			t.Errorf("%s: %+v, want %s", name, p, addr)
		}
	}
	if len(s.Publishes) != 2 || s.Publishes[1].Port != "hand" {
		t.Errorf("%+v", s.Publishes)
	}

	for want, change := range map[string]func(c *Config){
		`port "hand", added by hand, is in network "lab", which the reload would remove; remove the port first: ` + "`uvswitch port del hand`": func(c *Config) { c.Networks, c.Ports = nil, c.Ports[:1] },
		`port "hand", added by hand, has address 10.9.0.3/29, which would no longer be usable`:                                                 func(c *Config) { c.Networks[0].Subnet, c.Ports = "10.8.0.0/24", c.Ports[:1] },
		`the subnets and gateways of network default cannot change while the switch runs`:                                                      func(c *Config) { c.Default.Subnet = "172.30.0.0/16" },
	} {
		c := small()
		change(&c)
		if _, err := Desired(c, have); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// Settings that a user changed by hand stay, until the file says otherwise.
func TestSettings(t *testing.T) {
	have := desired(t, small(), nil)
	web := have.Port("web")
	set, err := web.Change(api.PortSet{"isolated": "on", "rate": "10mbit/64kb"})
	if err != nil {
		t.Fatal(err)
	}
	if set.Rx.Bits != 10e6 || set.Tx.Bits != 10e6 || set.Rx.Burst != 64<<10 || !set.FlagMap()["isolated"] {
		t.Errorf("%+v", set)
	}
	for name, value := range map[string]api.Setting{"speed": "on", "isolated": "10mbit", "rate": "fast", "rate_from": "1bit"} {
		if _, err := web.Change(api.PortSet{name: value}); err == nil {
			t.Errorf("%s %s is accepted", name, value)
		}
	}
	if old, err := web.Change(api.PortSet{"isolated": "on", "rx_rate": "10mbit/64kb", "tx_rate": "10mbit/64kb"}); err != nil || old != set {
		t.Errorf("by the old names: %+v, %v", old, err)
	}
	if _, err := web.Change(api.PortSet{"rx_rate": "10mbit", "rate_from": "20mbit"}); err == nil || !strings.Contains(err.Error(), "old name of rate_from") {
		t.Errorf("both names of one setting: %v", err)
	}
	web.Settings = set
	if got := desired(t, small(), have).Port("web").Settings; got != set {
		t.Errorf("a reload changes %+v to %+v", set, got)
	}
	c := small()
	c.Ports[0].Set = api.PortSet{"isolated": "off"}
	if got := desired(t, c, have).Port("web").Settings; got.FlagMap()["isolated"] || got.Rx.Bits != 10e6 {
		t.Errorf("%+v", got)
	}
}

// Ports of one container are those in one namespace, or with the same --container.
func TestSiblings(t *testing.T) {
	port := func(name, netns, container string) *Port {
		return &Port{Name: name, Netns: netns, Spec: api.PortAdd{Container: container}}
	}
	for _, tt := range []struct {
		p, q *Port
		want bool
	}{
		{port("a", "x", ""), port("b", "x", ""), true},
		{port("a", "x", ""), port("b", "y", ""), false},
		{port("a", "", ""), port("b", "", ""), false},
		{port("a", "", "vm1"), port("b", "", "vm1"), true},
		{port("a", "", "vm1"), port("b", "", "vm2"), false},
		{port("a", "x", "c"), port("b", "y", "c"), true},
		{port("a", "x", "c"), port("a", "x", "c"), false},
	} {
		if got := tt.p.IsSibling(tt.q); got != tt.want {
			t.Errorf("%+v and %+v: %v", tt.p, tt.q, got)
		}
	}
}
