// Package model is a switch's configuration as plain values: networks, ports, published ports, static routes, and the settings
// of each. It fills in defaults and validates, and it needs no host: no device, no namespace, no socket is looked at.
//
// Config is what a user asks for. State is what follows from it, with every default filled in and every name resolved. The
// daemon's own state is a State, too, so that a reload compares two values (package plan).
package model

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/nat"
)

// A Config is what a switch is asked to be, by the flags of `uvswitch run` and by the configuration file.
type Config struct {
	ULA       netip.Prefix // the switch's own /48 of IPv6; invalid if the kernel has no IPv6
	Secret    Secret       // see NewSecret
	Uplink    Uplink
	Host      Host
	NAT       NAT
	Default   api.NetworkAdd   // network default
	Networks  []api.NetworkAdd // further networks
	Ports     []api.PortAdd
	Publishes []api.PublishAdd
	Routes    []api.RouteAdd
	Policies  []api.PolicyAdd
}

// A WaitingPort is a port of the configuration whose namespace or device is not there yet.
type WaitingPort struct {
	Spec api.PortAdd
	Why  string
}

// Without returns c without some ports, and without what is published for them.
func (c Config) Without(ports []WaitingPort) Config {
	waits := func(name string) bool {
		return slices.ContainsFunc(ports, func(w WaitingPort) bool { return w.Spec.Name == name })
	}
	c.Ports = slices.DeleteFunc(slices.Clone(c.Ports), func(a api.PortAdd) bool { return waits(a.Name) })
	c.Publishes = slices.DeleteFunc(slices.Clone(c.Publishes), func(a api.PublishAdd) bool { return waits(a.Port) })
	return c
}

// Uplink is the way out.
type Uplink struct {
	Device  string // UplinkAuto, UplinkNone, or a device
	Kind    string // one of UplinkKinds; empty: tcx, else clsact
	Ports   string // the ports of the host that NAT may use: ranges, as ParsePortRanges reads them
	Devices string // packets may leave by these devices only, separated by commas; empty: by all
}

// Fence returns the devices of u.Devices.
func (u *Uplink) Fence() []string {
	return strings.FieldsFunc(u.Devices, func(r rune) bool { return r == ',' || r == ' ' })
}

// Values of Uplink.Device that name no device, and the kinds of uplink.
const (
	UplinkAuto = "auto"
	UplinkNone = "none"
	KindTAP    = "tap"  // an uplink without BPF programs: the host routes
	ViaHost    = "host" // packets leave through the host's own stack, untranslated

	KindSockets = "sockets" // packets leave by sockets of the switch, which need no right
)

// UplinkKinds are the kinds of uplink that a user may ask for.
var UplinkKinds = []string{"tcx", "clsact", KindTAP, ViaHost, KindSockets}

// NeedsRoot says what of this configuration uses devices of the host, and how to do without; both are empty if nothing does.
func (c *Config) NeedsRoot() (what, instead string) {
	switch {
	case c.Uplink.Device != UplinkNone && c.Uplink.Kind != KindSockets:
		kind := cmp.Or(c.Uplink.Kind, "tcx")
		return fmt.Sprintf("an uplink of kind %s", kind), "without root, leave out `--uplink`, `--uplink-kind`, and `uplink` of the configuration file: the kind is sockets then"
	case c.Host.On:
		return "the host port", "without root, leave out `--host on`, and `host.address` of the configuration file"
	}
	return "", ""
}

// Host is the host port.
type Host struct {
	On      bool
	Address string // of network default; empty: the subnet's last
	Inbound string // what containers may begin with the host: empty or allow, deny, or what is open, such as "22/tcp,53/udp,icmp"
	Cgroup  string // folder of cgroup2 whose processes reach published ports without the relay; empty: its root
}

// ParseInbound reads Host.Inbound: nil stands for everything.
func ParseInbound(s string) (*nat.Inbound, error) {
	if s == "" || s == "allow" {
		return nil, nil
	}
	in := &nat.Inbound{Open: [2]*nat.PortSet{nat.NewPortSet(), nat.NewPortSet()}}
	if s == "deny" || s == "none" { // an empty list in the file
		return in, nil
	}
	for _, word := range strings.Split(s, ",") {
		word = strings.TrimSpace(word)
		ports, proto, _ := strings.Cut(word, "/")
		ranges, err := ParsePortRanges(ports)
		set := map[string]int{"tcp": 0, "udp": 1}
		i, known := set[proto]
		switch {
		case word == "icmp":
			in.Pings = true
		case err != nil || !known:
			return nil, bad("host.inbound: %q must be allow, deny, or ports and icmp, separated by commas, such as 22/tcp,53/udp,8000-8010/tcp,icmp", s)
		default:
			for _, r := range ranges {
				in.Open[i].AddRange(r[0], r[1])
			}
		}
	}
	return in, nil
}

// CgroupOff is the value of Host.Cgroup for a switch whose relay serves all processes of the host.
const CgroupOff = "off"

// NAT configures the connection tracker.
type NAT struct {
	Flows        int        // entries of IPv4's flow table; 0: the default
	Flows6       int        // entries of IPv6's flow table; 0: a quarter of IPv4's
	FlowsPerPort int        // flows that one port may hold; 0: the default
	Timers       nat.Timers // the RFCs' when zero
	Strict       bool       // drop TCP segments outside of the window
	Mapping      string     // of networks without one
	Filtering    string     // likewise
}

// Defaults of Config.
const (
	DefaultSubnet = "172.29.0.0/16"
	// DefaultNATPorts are all ports that are not privileged. With them, a privileged port also keeps its number.
	DefaultNATPorts = "1024-65535"
)

// AllNetworks returns the default network and the others.
func (c *Config) AllNetworks() []api.NetworkAdd {
	return append([]api.NetworkAdd{c.Default}, c.Networks...)
}

// A State is what a switch is, or is to be. Its slices are in the order in which the objects were made.
type State struct {
	Config    Config // what was asked for
	Networks  []Network
	Ports     []Port // the host port and the uplink's included
	Publishes []Publish
	Routes    []Route    // static ones
	Neighbors []Neighbor // permanent entries that no port brings
	Policies  []Policy   // but for the builtin ones
	Former    map[frame.PortID]string

	// What the switch has found on its host; zero for a State without a host.
	Name           string       // prefix of the switch's own devices
	External       netip.Addr   // the host's address that is shown; packets leave by it while their way is not known
	External6      netip.Addr   // the same for IPv6
	Own            []netip.Addr // all IPv4 addresses of the host
	Standby        []Publish    // published ports that wait for another port of their container to go
	Waiting        []WaitingPort
	Freed          []netip.Addr // addresses that removed ports had, oldest first
	Held           []HeldAddr   // by stations, through DHCP: set where addresses are assigned
	UplinkDevice   string       // the device of the uplink, or of the host's default route: it cannot be plugged
	UplinkKind     string       // how the uplink is attached
	FlowLimit      int          // what Config.NAT.Flows came to
	FlowLimit6     int          // what Config.NAT.Flows6 came to
	FlowQuotaLimit int          // what Config.NAT.FlowsPerPort came to
}

// A Neighbor is a permanent neighbor that was added by hand.
type Neighbor struct {
	Network string
	Addr    netip.Addr
	MAC     frame.MAC
}

// Spec asks for the neighbor.
func (n Neighbor) Spec() api.NeighborAdd {
	return api.NeighborAdd{Dst: n.Addr.String(), Lladdr: n.MAC.String()}
}

// Everywhere is the destination of the default route.
var Everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// Network returns the network of that name, or nil.
func (s *State) Network(name string) *Network {
	return find(s.Networks, func(n *Network) bool { return n.Name == name })
}

// AddrText returns a as text; the zero Addr is the empty text.
func AddrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// NetworkByID returns the network with that id, or nil.
func (s *State) NetworkByID(id frame.NetID) *Network {
	return find(s.Networks, func(n *Network) bool { return n.ID == id })
}

// NetworkOf returns the network whose subnet contains a, or nil.
func (s *State) NetworkOf(a netip.Addr) *Network {
	return find(s.Networks, func(n *Network) bool { return n.Prefix.Contains(a) || n.Prefix6.Contains(a) })
}

// Overlaps reports whether a network has addresses of p.
func (s *State) Overlaps(p netip.Prefix) bool {
	return slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Prefix.Overlaps(p) || n.Prefix6.Overlaps(p) })
}

// NetworkName returns the name of the network with that id; it is empty for the uplink.
func (s *State) NetworkName(id frame.NetID) string {
	if n := s.NetworkByID(id); n != nil {
		return n.Name
	}
	return ""
}

// Port returns the port of that name, or nil.
func (s *State) Port(name string) *Port {
	return find(s.Ports, func(p *Port) bool { return p.Name == name })
}

// PortByID returns the port with that id, or nil.
func (s *State) PortByID(id frame.PortID) *Port {
	return find(s.Ports, func(p *Port) bool { return p.ID == id })
}

// PortName returns the name of the port with that id, or of the port that had it last: its flows outlive it for a moment.
func (s *State) PortName(id frame.PortID) string {
	if p := s.PortByID(id); p != nil && id != frame.NoPort {
		return p.Name
	}
	return s.Former[id]
}

// PublishByID returns the published port with that id, or nil.
func (s *State) PublishByID(id uint32) *Publish {
	return find(s.Publishes, func(p *Publish) bool { return p.ID == id })
}

// Holder returns the port of network n that has address a, or nil.
func (s *State) Holder(n *Network, a netip.Addr) *Port {
	return find(s.Ports, func(p *Port) bool {
		return p.Network == n.Name && (p.Addr.IsValid() && p.Addr.Addr() == a || p.Addr6.IsValid() && p.Addr6.Addr() == a || p.Made6.IsValid() && p.Made6 == a)
	})
}

func find[T any](list []T, is func(*T) bool) *T {
	for i := range list {
		if is(&list[i]) {
			return &list[i]
		}
	}
	return nil
}

// NoNetwork is the error for a network that does not exist.
func NoNetwork(name string) error {
	return notFound("network %q does not exist; `uvswitch network ls` lists the networks", name)
}

// NoPort is the error for a port that does not exist.
func NoPort(name string) error {
	return notFound("port %q does not exist; `uvswitch port ls` lists the ports", name)
}

// HostPortTaken is the error for a port of the host that a program has.
func HostPortTaken(port int, proto, owner string) error {
	return api.Errorf(http.StatusConflict, "port %d/%s of the host is in use by %s; publish another port, or stop that program", port, proto, owner).With(api.HostPortInUse)
}

// The three kinds of errors, by HTTP status: a request that is never valid (400), a conflict with the present state (409), an object
// that does not exist (404).

func bad(format string, args ...any) error {
	return api.Errorf(http.StatusBadRequest, format, args...)
}

func conflict(format string, args ...any) error {
	return api.Errorf(http.StatusConflict, format, args...)
}

func notFound(format string, args ...any) error {
	return api.Errorf(http.StatusNotFound, format, args...)
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

func checkName(what, name string) error {
	if !validName.MatchString(name) {
		return bad("%q is not a valid name for a %s: use 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit", name, what)
	}
	return nil
}

// Check validates a configuration by itself, without a host.
func Check(c Config) error {
	_, err := Desired(c, nil)
	return err
}

// Desired merges a configuration with the objects that were added by hand to the running switch, have. An existing port whose
// device needs no change keeps its address, its MAC and its MTU. have is nil for a switch that starts.
func Desired(c Config, have *State) (*State, error) {
	if _, err := ParsePortRanges(c.Uplink.Ports); err != nil {
		return nil, err
	}
	for _, dev := range c.Uplink.Fence() {
		if err := link.CheckName(dev); err != nil {
			return nil, bad("uplink devices: %v", err)
		}
	}
	s := &State{Config: c}
	if have != nil {
		s.Name, s.External, s.External6, s.Own, s.UplinkDevice, s.UplinkKind = have.Name, have.External, have.External6, have.Own, have.UplinkDevice, have.UplinkKind
		s.Held = have.Held
	} else if c.Uplink.Device != UplinkAuto && c.Uplink.Device != UplinkNone {
		s.UplinkDevice = c.Uplink.Device
	}
	if err := s.addPolicies(c.Policies, have); err != nil {
		return nil, err
	}
	for _, a := range c.AllNetworks() {
		if have != nil && have.Network(a.Name) != nil {
			var before api.Words
			for _, x := range have.Config.AllNetworks() {
				if x.Name == a.Name {
					before = x.Policies
				}
			}
			a.Policies = api.Words(strings.Join(policiesAfterReload(have.Network(a.Name).Policies, before.List(), a.Policies.List()), ","))
		}
		n, err := s.NewNetwork(a)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", a.Name, api.InKeys(err))
		}
		if n.Name == api.DefaultNetwork && have != nil {
			if now := have.Network(n.Name); !now.SameSubnets(&n) {
				return nil, conflict("the subnets and gateways of network %s cannot change while the switch runs (%s to %s); restart the switch", n.Name, now.subnetsText(), n.subnetsText())
			}
		}
		s.Networks = append(s.Networks, n)
	}
	if c.Host.On {
		p, err := s.HostPort(c.Host.Address)
		if err != nil {
			return nil, err
		}
		s.Ports = append(s.Ports, p)
	}
	if have != nil {
		if err := s.keepByHand(have); err != nil {
			return nil, err
		}
	}
	if err := s.addPorts(c.Ports, have); err != nil {
		return nil, err
	}
	if err := s.addPublishes(c.Publishes, have); err != nil {
		return nil, err
	}
	for _, a := range c.Routes {
		r, err := s.NewRoute(a)
		if err == nil && slices.ContainsFunc(s.Routes, func(x Route) bool { return x.Prefix == r.Prefix }) {
			err = conflict("the destination occurs twice")
		}
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", a.Dst, err)
		}
		s.Routes = append(s.Routes, r)
	}
	return s, s.checkAttached()
}

// keepByHand takes over the networks and ports of have that neither its configuration nor the new one names.
func (s *State) keepByHand(have *State) error {
	for _, n := range have.Networks {
		if namesNetwork(&have.Config, n.Name) || namesNetwork(&s.Config, n.Name) {
			continue
		}
		if err := s.checkOverlap(&n); err != nil {
			return fmt.Errorf("network %q, added by hand: %w", n.Name, err)
		}
		s.Networks = append(s.Networks, n)
	}
	for _, p := range have.Ports {
		if p.IsOwn() || namesPort(&have.Config, p.Name) || namesPort(&s.Config, p.Name) {
			continue
		}
		n := s.Network(p.Network)
		if n == nil {
			return conflict("port %q, added by hand, is in network %q, which the reload would remove; remove the port first: `uvswitch port del %s`", p.Name, p.Network, p.Name)
		}
		if p.Addr6.IsValid() && (!n.usable6(p.Addr6.Addr()) || p.Addr6.Addr() == n.Gateway6) {
			return conflict("port %q, added by hand, has address %s, which would no longer be usable in network %q; remove the port first: `uvswitch port del %[1]s`", p.Name, p.Addr6, p.Network)
		}
		if p.Addr.IsValid() && (!n.Usable(p.Addr.Addr()) || p.Addr.Addr() == n.Gateway) {
			return conflict("port %q, added by hand, has address %s, which would no longer be usable in network %q; remove the port first: `uvswitch port del %[1]s`", p.Name, p.Addr, p.Network)
		}
		s.Ports = append(s.Ports, p)
	}
	return nil
}

func namesNetwork(c *Config, name string) bool {
	return slices.ContainsFunc(c.AllNetworks(), func(a api.NetworkAdd) bool { return a.Name == name })
}

func namesPort(c *Config, name string) bool {
	return slices.ContainsFunc(c.Ports, func(a api.PortAdd) bool { return a.Name == name })
}

// addPorts adds the configuration's ports. Addresses are assigned in this order: ports that exist keep theirs, then those that
// name one, then the rest. A switch that starts assigns them in the order of the file.
func (s *State) addPorts(list []api.PortAdd, have *State) error {
	class := func(a api.PortAdd) int {
		switch {
		case have.Port(a.Name) != nil:
			return 0
		case a.NamesAddress():
			return 1
		}
		return 2
	}
	order := slices.Clone(list)
	if have != nil {
		slices.SortStableFunc(order, func(a, b api.PortAdd) int { return class(a) - class(b) })
	}
	for _, a := range order {
		p, err := s.desiredPort(a, have)
		if err != nil {
			return fmt.Errorf("port %q: %w", a.Name, api.InKeys(err))
		}
		s.Ports = append(s.Ports, p)
	}
	return nil
}

// desiredPort returns the existing port, if it differs from a only in settings that can be changed live, and a new one otherwise.
func (s *State) desiredPort(a api.PortAdd, have *State) (Port, error) {
	if have == nil {
		return s.NewPort(a)
	}
	now, n := have.Port(a.Name), s.Network(a.NetworkName())
	if now == nil || n == nil || now.Network != n.Name {
		return s.NewPort(a)
	}
	if was := have.Network(n.Name); was == nil || !was.SameSubnets(n) {
		return s.NewPort(a)
	}
	if s.Port(a.Name) != nil {
		return Port{}, conflict("the name occurs twice")
	}
	p, err := s.NewPort(now.asAssigned(a))
	if err != nil {
		return Port{}, err
	}
	if p.Kind == KindDevice {
		p.MTU = now.MTU // the device's own
		if a.MAC == "" {
			p.MAC = now.MAC
		}
	}
	if !p.SameDevice(now) {
		return s.NewPort(a)
	}
	aliases, inFile := p.Aliases, p.Policies
	var before api.Words
	if i := slices.IndexFunc(have.Config.Ports, func(x api.PortAdd) bool { return x.Name == a.Name }); i >= 0 {
		before = have.Config.Ports[i].Policies
	}
	p = *now
	p.Aliases, p.Policies = aliases, policiesAfterReload(now.Policies, before.List(), inFile)
	a.Policies = api.Words(strings.Join(p.Policies, ","))
	p.Settings, err = now.Settings.with(now, now.settingsAfterReload(a.Set))
	p.Spec = a
	return p, err
}

// policiesAfterReload are the policies of a port or network that has some now: those of the new file, and those that were attached by hand. before are
// those of the old file.
func policiesAfterReload(now, before, inFile []string) []string {
	out := slices.Clone(inFile)
	for _, name := range now {
		if !slices.Contains(before, name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// addPublishes adds the configuration's published ports, and those of have that were added by hand and whose port still exists.
func (s *State) addPublishes(list []api.PublishAdd, have *State) error {
	for _, a := range list {
		p, err := s.NewPublish(a)
		if err != nil {
			return fmt.Errorf("publish %s: %w", a.Spec, err)
		}
		s.Publishes = append(s.Publishes, p)
	}
	if have == nil {
		return nil
	}
	named := PublishSet{}
	named.add(have.Config.Publishes)
	named.add(list)
	for _, p := range have.Publishes {
		if s.Port(p.Port) == nil || named.Has(&p) {
			continue
		}
		again, err := s.NewPublish(p.Spec)
		if err != nil {
			return fmt.Errorf("publish %s, added by hand: %w", p.Spec.Spec, err)
		}
		s.Publishes = append(s.Publishes, again)
	}
	return nil
}

// IsNotFound reports whether err says that an object does not exist.
func IsNotFound(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}
