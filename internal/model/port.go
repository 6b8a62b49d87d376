package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A PortKind is what a port's wire is.
type PortKind string

// The kinds of ports, as `port ls` prints them.
const (
	KindTAPPort PortKind = "tap"         // a TAP with offloads
	KindPlain   PortKind = "plain"       // a TAP without offloads
	KindDevice  PortKind = "device"      // an existing device
	KindStream  PortKind = "qemu-stream" // sockets for virtual machines
	KindDgram   PortKind = "qemu-dgram"
	KindVDE     PortKind = "vde"
	KindHost    PortKind = "host"
	KindUplink  PortKind = "uplink"
)

// Names of the ports that the switch makes for itself.
const (
	HostPortName   = "host"
	UplinkPortName = "uplink"
)

// A Port is one port.
type Port struct {
	ID       frame.PortID // the daemon's; 0 before
	Name     string
	Kind     PortKind
	Network  string // empty for the uplink
	Ifname   string // the device, or the path of the socket
	Netns    string // as its user names it; empty for the switch's own
	MAC      frame.MAC
	Own      []frame.Addr   // of the host's port: all addresses of the host; nil: not known yet
	Through  []netip.Prefix // of the host's port: destinations that lie behind the host (`route add PREFIX via host`)
	Siblings []frame.Addr   // addresses of the other ports of the same container
	Own6     []frame.Addr6  // likewise of IPv6
	Addr     netip.Prefix   // invalid when not known
	Addr6    netip.Prefix   // likewise
	Made6    netip.Addr     // the IPv6 address that the station makes itself (Network.MadeBy)
	MTU      int            // longest IP packet, bytes
	Offload  bool
	Fresh    bool     // a container engine still sets routes on the device: a default route of a router advertisement would be in its way
	ByFD     bool     // a TAP that another program has made and passed by its descriptor
	Aliases  []string // other names, for DNS
	Policies []string // of the port itself: see State.PoliciesOf
	Watched  bool     // it has the policy learn for now, too
	Tracked  bool     // it has policies, its network's included
	Closed   bool     // and these let nobody in but by a rule
	DHCP     bool     // its network's: the gateway answers DHCP questions
	Leased   bool     // its station got Addr by DHCP
	Settings
	Spec api.PortAdd // what was asked for
}

// IsVM reports whether the port is a socket for a virtual machine: it has no device, and its Ifname is a path.
func (p *Port) IsVM() bool { return p.Kind == KindStream || p.Kind == KindDgram || p.Kind == KindVDE }

// IsOwn reports whether the switch made the port for itself.
func (p *Port) IsOwn() bool { return p.Kind == KindHost || p.Kind == KindUplink }

// ConfiguresItself reports whether the switch does not configure the station behind the port. It then assigns an address only on
// request.
func (p *Port) ConfiguresItself() bool {
	return p.Kind == KindDevice || p.ByFD || p.IsVM() || p.Spec.IP == api.DHCPAddress
}

// Known6 is the IPv6 address that the station has, as far as the switch knows: the port's, or else the one that the station makes itself.
func (p *Port) Known6() netip.Prefix {
	if !p.Addr6.IsValid() && p.Made6.IsValid() {
		return netip.PrefixFrom(p.Made6, 64)
	}
	return p.Addr6
}

// NeedsLease reports whether the port's station was told to ask for its address: until it has one, the guard lets it do nothing else.
func (p *Port) NeedsLease() bool { return p.Spec.IP == api.DHCPAddress && p.Kind != KindDevice }

// AsksDHCP reports whether the gateway answers the port's DHCP questions. By default, it does not on the host's devices: they may lead to a LAN
// with a server of its own.
func (p *Port) AsksDHCP() bool { return p.DHCP && p.Flags&vswitch.AsksDHCP != 0 && !p.IsOwn() }

// SwitchPort is the port as the switch knows it; net is its network's id.
func (p *Port) SwitchPort(net frame.NetID) vswitch.Port {
	s := vswitch.Port{ID: p.ID, Net: net, Flags: p.Flags, MTU: p.MTU, MAC: p.MAC, Storm: p.Storm}
	if p.Addr.IsValid() {
		s.Addr = frame.AddrFrom(p.Addr.Addr())
	}
	if !p.AsksDHCP() {
		s.Flags &^= vswitch.AsksDHCP
	}
	if p.NeedsLease() && !p.Addr.IsValid() {
		s.Flags |= vswitch.NoAddress
	}
	if p.Addr6.IsValid() {
		s.Addrs6 = []frame.Addr6{frame.Addr6From(p.Addr6.Addr())}
	}
	if p.Made6.IsValid() && p.Addr6.IsValid() && p.Made6 != p.Addr6.Addr() {
		s.Addrs6 = append(s.Addrs6, frame.Addr6From(p.Made6))
	}
	s.Own, s.Own6, s.Through, s.Siblings = p.Own, p.Own6, p.Through, p.Siblings
	if p.Tracked {
		s.Flags |= vswitch.Tracked
	}
	if p.Closed {
		s.Flags |= vswitch.Closed
	}
	if p.Kind == KindHost || p.Fresh {
		s.Flags |= vswitch.NoRouter
	}
	if p.Kind == KindDevice || p.IsVM() {
		s.Flags |= vswitch.AnyLinkLocal
	}
	if p.Kind == KindHost || p.Kind == KindDevice {
		s.Flags |= vswitch.Untagged
	}
	if p.Kind == KindHost && p.Own == nil { // it guards itself, unless the host's stack routes
		s.Flags |= vswitch.AnySource
	}
	return s
}

// HasWays reports whether the port's frames have way headers (frame.WayMACs).
func (p *Port) HasWays() bool { return p.Flags&vswitch.Ways != 0 }

// IsSibling reports whether p and q are ports of one container: with the same --container, or in one network namespace.
func (p *Port) IsSibling(q *Port) bool {
	return p.Name != q.Name && (p.Netns != "" && p.Netns == q.Netns || p.Spec.Container != "" && p.Spec.Container == q.Spec.Container)
}

// Station is the port whose station has an address; nil if there is none. A link-local address is looked for in all networks.
func (s *State) Station(a netip.Addr) *Port {
	a = a.WithZone("")
	return find(s.Ports, func(p *Port) bool {
		return p.Kind != KindUplink && (p.Addr.Addr() == a || p.Addr6.Addr() == a || p.Made6 == a || a.IsLinkLocalUnicast() && a.Is6() && p.MAC != 0 && p.MAC.LinkLocal().Netip() == a)
	})
}

// MayTalk reports whether the stations of two ports may reach each other, as far as isolation says.
func (s *State) MayTalk(p, q *Port) bool {
	if p.Network == q.Network {
		return p.Flags&q.Flags&vswitch.Isolated == 0
	}
	a, b := s.Network(p.Network), s.Network(q.Network)
	return a == nil || b == nil || !a.Isolated && !b.Isolated && !a.Internal && !b.Internal
}

// SameDevice reports whether p and now differ only in settings that can change without recreating the device.
func (p *Port) SameDevice(now *Port) bool {
	return p.Kind == now.Kind && p.Network == now.Network && p.Netns == now.Netns && p.Ifname == now.Ifname && p.Addr6 == now.Addr6 &&
		(p.Addr == now.Addr || now.Leased && !p.Addr.IsValid()) &&
		p.MAC == now.MAC && p.MTU == now.MTU && p.Spec.NoRoute == now.Spec.NoRoute && p.Spec.Container == now.Spec.Container && p.Spec.Tenant == now.Spec.Tenant
}

// CurrentSpec asks for the port as it is now, with its address and its settings.
func (p *Port) CurrentSpec() api.PortAdd {
	a := p.Spec
	a.Set = p.Settings.Set()
	if p.Addr.IsValid() && !p.Leased {
		a.IP = p.Addr.Addr().String()
	}
	if p.Addr6.IsValid() {
		a.IP6 = p.Addr6.Addr().String()
	}
	if p.Kind != KindDevice {
		a.MTU = p.MTU
	}
	return a
}

// asAssigned returns a with the address and MTU that the port already has, where a leaves the choice to the switch.
func (p *Port) asAssigned(a api.PortAdd) api.PortAdd {
	if p.Addr.IsValid() && !p.Leased && (a.IP == "" && !p.ConfiguresItself() || a.IP == api.AutoAddress) {
		a.IP = p.Addr.Addr().String()
	}
	if p.Addr6.IsValid() && (a.IP6 == "" || a.IP6 == api.AutoAddress) {
		a.IP6 = p.Addr6.Addr().String()
	}
	if a.MTU == 0 && p.Spec.MTU == 0 {
		a.MTU = p.MTU // what its network had when the port was made
	}
	if p.Kind == KindDevice {
		a.MTU = 0
	}
	return a
}

// unused returns m, or a similar MAC if another station of p's network has that.
func (s *State) unused(p *Port, m frame.MAC) frame.MAC {
	for s.Network(p.Network).MAC == m || find(s.Ports, func(q *Port) bool { return q.MAC == m && q.Network == p.Network }) != nil {
		m += 1 << 32 // the second byte counts
	}
	return m
}

// HostPort is the port of the host itself in the default network. Its address is the subnet's last, unless another is named.
func (s *State) HostPort(address string) (Port, error) {
	n := s.Network(api.DefaultNetwork)
	addr := n.Broadcast().Prev()
	if addr == n.Gateway {
		addr = addr.Prev()
	}
	if address != "" {
		var err error
		if addr, err = netip.ParseAddr(address); err != nil || !n.Usable(addr) || addr == n.Gateway {
			return Port{}, fmt.Errorf("host: %q is not a usable address of %s; use auto, off, or another address of this subnet", address, n.Prefix)
		}
	}
	flags := vswitch.DefaultFlags
	if in, err := ParseInbound(s.Config.Host.Inbound); err != nil {
		return Port{}, err
	} else if in != nil {
		flags |= vswitch.Tracked | vswitch.Closed
	}
	return Port{
		Name: HostPortName, Kind: KindHost, Network: n.Name, Ifname: s.Name + "0", MAC: MACFor(addr), Addr: netip.PrefixFrom(addr, n.Prefix.Bits()),
		Addr6: n.hostAddr6(), MTU: n.MTU, Offload: true, Settings: newSettings(flags),
	}, nil
}

// NewPort validates what is asked for, fills in the defaults, and assigns an address. A plugged device gets its MTU later.
func (s *State) NewPort(a api.PortAdd) (p Port, err error) {
	if err := s.checkPortName(a.Name); err != nil {
		return p, err
	}
	n := s.Network(a.NetworkName())
	if n == nil {
		return p, NoNetwork(a.NetworkName())
	}
	p = Port{
		Name: a.Name, Kind: KindTAPPort, Network: n.Name, Netns: a.Netns, Ifname: cmp.Or(a.Ifname, api.DefaultIfname), MTU: cmp.Or(a.MTU, n.MTU), Offload: true,
		Settings: newSettings(vswitch.DefaultFlags), Spec: a, DHCP: n.DHCP.On,
	}
	for _, check := range []func(*Port, api.PortAdd) error{checkOffload, s.checkPlace, checkDeviceName, s.checkAddress, s.checkMAC, s.checkAddress6} {
		if err := check(&p, a); err != nil {
			return p, err
		}
	}
	if p.Aliases, err = checkAliases(a.Aliases); err != nil {
		return p, err
	}
	if p.Policies, err = s.checkPolicies(a.Policies); err != nil {
		return p, err
	}
	if p.Kind != KindDevice {
		p.Flags |= vswitch.AsksDHCP
	}
	if p.Settings, err = p.Settings.with(&p, a.Set); err != nil {
		return p, err
	}
	return p, s.CheckPoliced(&p)
}

// CheckRename returns why a port may not be called name from now on, or nil.
func (s *State) CheckRename(p *Port, name string) error {
	inFile := func(name string) bool {
		return slices.ContainsFunc(s.Config.Ports, func(a api.PortAdd) bool { return a.Name == name })
	}
	switch {
	case p.IsOwn():
		return conflict("port %q is the switch's own and keeps its name", p.Name)
	case inFile(p.Name):
		return conflict("port %q is in the configuration file; change its name there, and `uvswitch reload`", p.Name)
	case inFile(name): // it may wait for its namespace
		return conflict("port %q is in the configuration file; choose another name", name)
	case p.Leased:
		return conflict("port %q has got its address by DHCP, and the lease is for this name; remove the port, and add it by its new name", p.Name)
	}
	return s.checkPortName(name)
}

// checkPortName returns why a port cannot get this name, or nil.
func (s *State) checkPortName(name string) error {
	if err := checkName("port", name); err != nil {
		return err
	}
	if reservedNames[name] {
		return conflict("no port can be called %q, which is a word of the command; choose another name", name)
	}
	if s.Port(name) != nil {
		return conflict("port %q exists already; choose another name, or `uvswitch port del %s`", name, name)
	}
	return nil
}

// reservedNames are words of the command that no port may have as its name.
var reservedNames = map[string]bool{"any": true, "gateway": true, HostPortName: true, UplinkPortName: true}

func checkOffload(p *Port, a api.PortAdd) error {
	switch a.Offload {
	case "", "on":
	case "off":
		p.Kind, p.Offload = KindPlain, false
	default:
		return bad("offload %q: must be on or off", a.Offload)
	}
	return nil
}

// vmSocket is the kind and the path of a port for a virtual machine; empty for another port.
func vmSocket(a api.PortAdd) (kind PortKind, path string) {
	switch {
	case a.QEMUStream != "":
		return KindStream, a.QEMUStream
	case a.QEMUDgram != "":
		return KindDgram, a.QEMUDgram
	case a.VDE != "":
		return KindVDE, a.VDE
	}
	return "", ""
}

// checkPlace sets what the port is and where.
func (s *State) checkPlace(p *Port, a api.PortAdd) error {
	kind, path := vmSocket(a)
	places := 0
	for _, place := range []string{a.Netns, a.Device, a.QEMUStream, a.QEMUDgram, a.VDE} {
		if place != "" {
			places++
		}
	}
	switch {
	case a.Handed:
		if a.Device != "" || kind != "" || a.Offload != "" || a.NoRoute {
			return bad("a TAP that is passed by its descriptor is configured by its maker: device, sockets, offload and no_route do not apply to it")
		}
		p.ByFD = true
	case places > 1:
		return bad("use only one of --netns, --device, --qemu-stream, --qemu-dgram and --vde")
	case places == 0:
		return bad("say what to connect: --netns NAME creates a device in a namespace, --device DEV uses an existing device; --qemu-stream, --qemu-dgram and --vde are for virtual machines")
	case kind != "":
		return s.checkSocket(p, a, kind, path)
	case a.Device != "":
		return s.checkDevice(p, a)
	}
	return nil
}

func (s *State) checkSocket(p *Port, a api.PortAdd, kind PortKind, path string) error {
	if a.Offload != "" || a.Ifname != "" || a.NoRoute {
		return bad("--offload, --ifname and --no-route apply only to devices that --netns creates")
	}
	if !filepath.IsAbs(path) {
		return bad("%q: use an absolute path: the switch runs in another folder", path)
	}
	if q := find(s.Ports, func(q *Port) bool { return q.IsVM() && q.Ifname == path }); q != nil {
		return conflict("%s is in use by port %q", path, q.Name)
	}
	p.Kind, p.Ifname, p.Offload = kind, path, false
	return nil
}

func (s *State) checkDevice(p *Port, a api.PortAdd) error {
	if a.Offload != "" || a.MTU != 0 || a.Ifname != "" || a.NoRoute {
		return bad("--offload, --mtu, --ifname and --no-route apply only to devices that --netns creates; %s keeps its own", a.Device)
	}
	if a.Device == s.Name+"0" || a.Device == s.Name+"-up" {
		return conflict("%s is the switch's own device; choose another device", a.Device)
	}
	if a.Device == "lo" || a.Device == s.UplinkDevice {
		return conflict("%s is loopback or the uplink's device: the host itself needs it; choose another device", a.Device)
	}
	if q := find(s.Ports, func(q *Port) bool { return q.Kind == KindDevice && q.Ifname == a.Device }); q != nil {
		return conflict("device %s is already plugged in, as port %q", a.Device, q.Name)
	}
	p.Kind, p.Ifname = KindDevice, a.Device
	return nil
}

func checkDeviceName(p *Port, _ api.PortAdd) error {
	if !p.IsVM() {
		if err := link.CheckName(p.Ifname); err != nil {
			return bad("%v", err)
		}
	}
	return checkMTU(p.MTU)
}

// checkAddress sets the port's address. A station that configures itself has the address that is named, or none.
func (s *State) checkAddress(p *Port, a api.PortAdd) error {
	n := s.Network(p.Network)
	var addr netip.Addr
	switch {
	case a.IP == "" && p.ConfiguresItself():
		return nil
	case a.IP == api.DHCPAddress:
		if !p.DHCP {
			return bad("--ip dhcp: the gateway of network %q answers no DHCP questions (--dhcp off)", n.Name)
		}
		if p.NeedsLease() {
			p.Flags |= vswitch.Guard
		}
		return nil
	case !a.NamesAddress():
		var ok bool
		if addr, ok = s.FreeAddr(n); !ok {
			return conflict("no address of %s is free; remove a port, or use a larger subnet", n.Prefix)
		}
	default:
		ip, bits, found := strings.Cut(a.IP, "/")
		var err error
		if addr, err = netip.ParseAddr(ip); err == nil && addr.Is6() {
			return bad("--ip %s is an IPv6 address; write --ip6 %s", a.IP, a.IP)
		}
		if err != nil || !n.Usable(addr) {
			return bad("%q is not a usable address of network %q (%s); --ip takes an address of this subnet, auto or dhcp", a.IP, n.Name, n.Prefix)
		}
		if found && bits != fmt.Sprint(n.Prefix.Bits()) {
			return bad("%s has a wrong prefix length: network %q has prefix length %d", a.IP, n.Name, n.Prefix.Bits())
		}
	}
	if err := s.checkFree(n, p, addr, "--ip"); err != nil {
		return err
	}
	p.Addr = netip.PrefixFrom(addr, n.Prefix.Bits())
	p.Flags |= vswitch.Guard
	return nil
}

// checkFree refuses an address for port p that the gateway, another port or a station has; flag is the option that has named it.
func (s *State) checkFree(n *Network, p *Port, addr netip.Addr, flag string) error {
	if addr == n.Gateway || addr == n.Gateway6 {
		return conflict("address %s belongs to the gateway; choose another address", addr)
	}
	if q := s.Holder(n, addr); q != nil {
		return conflict("address %s is in use by port %q; choose another address, or leave %s out", addr, q.Name, flag)
	}
	if h := find(s.Held, func(h *HeldAddr) bool { return h.Addr == addr && h.Port != p.Name }); h != nil && h.Waits {
		return conflict("address %s is for port %q of the configuration file, whose namespace or device is not there yet; choose another address, or leave %s out", addr, h.Port, flag)
	} else if h != nil {
		return conflict("address %s is leased or offered to station %s at port %q (see `uvswitch lease ls`); choose another address, or leave %s out", addr, h.MAC, h.Port, flag)
	}
	return nil
}

func (s *State) checkMAC(p *Port, a api.PortAdd) error {
	if a.MAC == "" {
		switch {
		case a.IP == api.DHCPAddress && p.Kind != KindDevice && !p.IsVM():
			p.MAC = s.unused(p, macForName(p.Network, p.Name))
		case p.Addr.IsValid() && (!p.ConfiguresItself() || p.ByFD):
			p.MAC = s.unused(p, MACFor(p.Addr.Addr()))
		}
		return nil
	}
	m, err := ParseStationMAC(a.MAC)
	if err != nil {
		return err
	}
	if m == s.Network(p.Network).MAC {
		return conflict("MAC %s belongs to the gateway; choose another MAC", m)
	}
	if q := find(s.Ports, func(q *Port) bool { return q.MAC == m && q.Network == p.Network }); q != nil {
		return conflict("MAC %s is in use by port %q; choose another MAC", m, q.Name)
	}
	p.MAC = m
	return nil
}

// ParseStationMAC reads the MAC of a station: not zero, not a group address.
func ParseStationMAC(text string) (frame.MAC, error) {
	m, err := frame.ParseMAC(text)
	if err != nil || m == 0 || m.IsGroup() {
		return 0, bad("%q is not a unicast MAC address, such as 02:00:00:00:00:01", text)
	}
	return m, nil
}
