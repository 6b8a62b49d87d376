// Package api defines the control API: the JSON bodies of /v1, and a client. Programs rely on the JSON keys: new keys may be
// added, existing keys never change.
package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Default values of PortAdd.
const (
	DefaultNetwork = "default" // the network that `run` creates
	DefaultIfname  = "eth0"
	AutoAddress    = "auto" // the switch chooses
	DHCPAddress    = "dhcp" // the station asks the gateway
)

// NetworkName returns the name of the port's network, DefaultNetwork if none is set.
func (a *PortAdd) NetworkName() string {
	if a.Network == "" {
		return DefaultNetwork
	}
	return a.Network
}

// Values of Port.DHCP.
const (
	DHCPLeased  = "leased"
	DHCPWaiting = "waiting"
)

// NamesAddress reports whether IP is a particular address, rather than empty, AutoAddress or DHCPAddress.
func (a *PortAdd) NamesAddress() bool {
	return a.IP != "" && a.IP != AutoAddress && a.IP != DHCPAddress
}

// Values of FDBAdd.State.
const (
	FDBStatic = "static"
	FDBSticky = "sticky"
)

// A Port is a row of `port ls`.
type Port struct {
	Name      string   `json:"name"`
	ID        int      `json:"id"`
	Network   string   `json:"network"`
	Kind      string   `json:"kind"` // tap, plain, device, qemu-stream, qemu-dgram, vde, host, uplink
	Ifname    string   `json:"ifname"`
	Netns     string   `json:"netns"`
	Container string   `json:"container,omitempty"`
	Tenant    string   `json:"tenant,omitempty"`
	Aliases   []string `json:"aliases,omitempty"`  // other names, for DNS
	Policies  []string `json:"policies,omitempty"` // of the port itself
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
	// DHCP says how the port gets its IPv4 address: leased (its station has got it from the gateway), waiting (its station may ask); empty: it has one
	// of its own, or none.
	DHCP      string            `json:"dhcp,omitempty"`
	Outside6  string            `json:"outside6,omitempty"` // the IPv6 address by which the outside knows the port, if the network has another prefix there (--nat6 npt)
	MTU       int               `json:"mtu"`
	State     string            `json:"state"` // forwarding, disabled, down, gone
	Offload   bool              `json:"offload"`
	Backend   string            `json:"backend"`
	Flags     map[string]bool   `json:"flags"`
	RxRate    uint64            `json:"rx_rate"`  // limit for frames from the port, in bits per second; 0: no limit
	RxBurst   uint64            `json:"rx_burst"` // in bytes
	TxRate    uint64            `json:"tx_rate"`  // limit for frames to the port, in bits per second; 0: no limit
	TxBurst   uint64            `json:"tx_burst"`
	Storm     map[string]uint32 `json:"storm"`     // limits of floods from the port (storm_bcast, storm_mcast, storm_ucast), in frames per second; 0: no limit
	NoRoute   bool              `json:"no_route"`  // created without a default route in the namespace
	Handed    bool              `json:"handed"`    // its TAP was passed as a file descriptor (Docker, a CNI plugin)
	Segmented uint64            `json:"segmented"` // frames segmented or checksummed in software, on ports without offloads
	PortStats
}

// AddrPort writes an address and a port as ADDR:PORT, or as [ADDR]:PORT for IPv6. If the port is 0, it writes the address alone.
func AddrPort(addr string, port int) string {
	if port == 0 {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(port))
}

// HasAddress reports whether a port has an address, without the length of its prefix.
func (p *Port) HasAddress(addr string) bool {
	return slices.ContainsFunc(p.Addresses, func(a string) bool { return strings.HasPrefix(a, addr+"/") })
}

// Inside returns the command line that runs a command in the namespace of the port's device. DEV in the command stands for the device's name.
// What is not a plain word stays out of the command line: a container chooses the name of its device.
func (p *Port) Inside(command string) string {
	command = strings.ReplaceAll(command, "DEV", plainWord(p.Ifname, "DEV"))
	pid, isPID := strings.CutPrefix(p.Netns, "pid:")
	switch {
	case p.Netns == "":
		return command
	case isPID:
		return "nsenter -t " + plainWord(pid, "PID") + " -n " + command
	case strings.Contains(p.Netns, "/"):
		return "nsenter --net=" + plainWord(p.Netns, "PATH") + " " + command
	}
	return "ip netns exec " + plainWord(p.Netns, "NAME") + " " + command
}

// plainWord is a word of a shell's command line that needs no quotes, or else a word that stands for it.
func plainWord(s, instead string) string {
	isPlain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:", r)
	}
	if s == "" || s[0] == '-' || strings.ContainsFunc(s, func(r rune) bool { return !isPlain(r) }) {
		return instead
	}
	return s
}

// PortStats are the counters of a port since it was added. Rx counts frames from the port, Tx frames to the port. Drops has the
// dropped frames by reason.
type PortStats struct {
	RxPackets uint64            `json:"rx_packets"`
	RxBytes   uint64            `json:"rx_bytes"`
	RxDropped uint64            `json:"rx_dropped"`
	TxPackets uint64            `json:"tx_packets"`
	TxBytes   uint64            `json:"tx_bytes"`
	TxDropped uint64            `json:"tx_dropped"`
	Pauses    uint64            `json:"pauses"` // times that the port was not read for a while, because it flooded
	Unread    uint64            `json:"unread"` // frames that wait in the port's device, or that the device has dropped since nobody read it; 0 if it does not count
	Drops     map[string]uint64 `json:"drops"`
}

// Conservation is the balance of all frames. While no frame is in transit, Received + Originated + Replicated =
// Transmitted + Dropped + Consumed + Waiting.
type Conservation struct {
	Received    uint64 `json:"received"`    // read from ports
	Originated  uint64 `json:"originated"`  // created by the gateway
	Replicated  uint64 `json:"replicated"`  // additional copies of flooded frames
	Transmitted uint64 `json:"transmitted"` // accepted by ports
	Dropped     uint64 `json:"dropped"`     // dropped for one of the reasons
	Consumed    uint64 `json:"consumed"`    // processed by the gateway itself
	Waiting     uint64 `json:"waiting"`     // in a queue: for a neighbor's MAC, for their first fragment, or for the rate of a port
	Balanced    bool   `json:"balanced"`
}

// A PortAdd is the body of POST /v1/ports.
type PortAdd struct {
	Name    string `json:"name"`              // of the port
	Network string `json:"network,omitempty"` // "default" when empty
	Netns   string `json:"netns,omitempty"`   // the namespace to plug in: a name, a path, or pid:N; every port needs this, device, or one of the keys for virtual machines
	Ifname  string `json:"ifname,omitempty"`  // "eth0" when empty
	// Ports with the same text here, or in the same namespace, belong to one container. It may answer by one of its ports what came in by another one.
	Container string `json:"container,omitempty"`
	// Ports of one tenant count as one port where ports share flows, mappings and outside ports; empty: the port is a tenant of its own.
	Tenant string `json:"tenant,omitempty"`
	Device string `json:"device,omitempty"` // use this existing device instead of a new TAP
	// For a virtual machine, one of these instead:
	QEMUStream string `json:"qemu_stream,omitempty"` // the path of a unix socket that the switch makes, for QEMU's -netdev stream
	QEMUDgram  string `json:"qemu_dgram,omitempty"`  // the path of a unix socket that the switch makes, for QEMU's -netdev dgram
	VDE        string `json:"vde,omitempty"`         // the path of the folder of a VDE switch that the switch makes
	// Or a TAP that is passed as a file descriptor with the request, see Client.HandPort. Netns and Ifname then only describe the
	// TAP's place.
	Handed   bool   `json:"handed,omitempty"`
	IP       string `json:"ip,omitempty"`       // "auto", "dhcp" (the station asks the gateway), an address, or an address with a prefix length
	IP6      string `json:"ip6,omitempty"`      // likewise of IPv6
	MAC      string `json:"mac,omitempty"`      // when empty: made of the switch and the address
	MTU      int    `json:"mtu,omitempty"`      // in bytes; 0: that of the network
	Offload  string `json:"offload,omitempty"`  // super-frames and partial checksums: on (when empty) or off
	NoRoute  bool   `json:"no_route,omitempty"` // no default route inside
	Aliases  Words  `json:"aliases,omitempty"`  // other names of the port in its network, for DNS
	Policies Words  `json:"policies,omitempty"` // which flows may begin: names of policies, besides those of the network

	Set PortSet `json:"set,omitempty"` // settings, as for `port set`
}

// A PortRename is the body of POST /v1/ports/{name}/rename.
type PortRename struct {
	Name string `json:"name"` // the new one
}

// A PortSet is the body of PATCH /v1/ports/{name}: values of port settings by name. The settings of `bridge link` are on or off.
// rate_from (for frames from the port), rate_to (for frames to the port) and rate (for both) are off or a rate. storm_bcast, storm_mcast and
// storm_ucast are off or a number of frames per second.
type PortSet map[string]Setting

// A Setting is the value of a port setting: "on", "off", or a rate in the units of tc, optionally with a burst: "10mbit",
// "10mbit/64kb". In JSON, true and false are accepted for "on" and "off".
type Setting string

// Values of settings that are on or off.
const (
	On  Setting = "on"
	Off Setting = "off"
	Any Setting = "any" // of vlan and servers, in place of on
)

// The bounds of rates, in bits per second, and of bursts, in bytes. The smallest burst is one full frame.
const (
	MinRate  = 1_000
	MaxRate  = 1_000_000_000_000
	MinBurst = 1_514
	MaxBurst = 1 << 30
)

// Switch returns On or Off.
func Switch(on bool) Setting {
	if on {
		return On
	}
	return Off
}

// StormSetting is the setting for a limit of floods in frames per second; 0: no limit.
func StormSetting(limit uint32) Setting {
	if limit == 0 {
		return Off
	}
	return Setting(strconv.FormatUint(uint64(limit), 10))
}

// RateSetting returns the value for a rate in bits per second and a burst in bytes. With burst 0 the switch chooses the burst; with
// bits 0 there is no limit.
func RateSetting(bits, burst uint64) Setting {
	switch {
	case bits == 0:
		return Off
	case burst != 0:
		return RateSetting(bits, 0) + Setting(fmt.Sprintf("/%db", burst))
	}
	units := [...]string{"", "k", "m", "g", "t"}
	unit := 0
	for ; unit < len(units)-1 && bits%1000 == 0; unit++ {
		bits /= 1000
	}
	return Setting(fmt.Sprintf("%d%sbit", bits, units[unit]))
}

// UnmarshalJSON implements json.Unmarshaler. It accepts a string or a boolean.
func (k *Setting) UnmarshalJSON(b []byte) error {
	var on bool
	if json.Unmarshal(b, &on) == nil {
		*k = Switch(on)
		return nil
	}
	var word string
	if err := json.Unmarshal(b, &word); err != nil {
		return fmt.Errorf("a setting is true, false, \"on\", \"off\", or a rate such as \"10mbit/64kb\"")
	}
	*k = Setting(word)
	return nil
}

// UnmarshalYAML accepts a string, a boolean or a number, as in the configuration file.
func (k *Setting) UnmarshalYAML(decode func(any) error) error {
	var v any
	if err := decode(&v); err != nil {
		return err
	}
	switch v := v.(type) {
	case bool:
		*k = Switch(v)
	case string, uint64, int64, float64:
		*k = Setting(fmt.Sprint(v))
	default:
		return fmt.Errorf("a setting is true, false, or a rate such as 10mbit/64kb")
	}
	return nil
}

// A Network is a row of `network ls`.
type Network struct {
	Name     string `json:"name"`
	Subnet   string `json:"subnet"`
	Gateway  string `json:"gateway"`
	Subnet6  string `json:"subnet6,omitempty"` // IPv6; empty: the network has none
	Gateway6 string `json:"gateway6,omitempty"`
	NAT6     string `json:"nat6,omitempty"` // see NetworkAdd
	In6      string `json:"in6,omitempty"`
	RA       string `json:"ra,omitempty"`
	NDProxy  bool   `json:"ndProxy,omitempty"`
	// ProxiedOn are the devices of the host on which the switch answers neighbor solicitations for the network's containers now.
	ProxiedOn []string `json:"proxiedOn,omitempty"`
	// Routes6 are the IPv6 destinations that a station reaches through the gateway now: ::/0 among them while IPv6 leads out.
	Routes6   []string `json:"routes6,omitempty"`
	MAC       string   `json:"mac"`
	MTU       int      `json:"mtu"`
	Internal  bool     `json:"internal"`
	Isolated  bool     `json:"isolated"`
	Mapping   string   `json:"mapping"`
	Filtering string   `json:"filtering"`
	Protocols string   `json:"protocols"`
	Ports     int      `json:"ports"`

	DNS        string   `json:"dns"` // see NetworkAdd
	DNSServers []string `json:"dnsServers,omitempty"`
	Policies   []string `json:"policies,omitempty"` // that count for all ports
	DHCP       string   `json:"dhcp"`
	DHCPRange  string   `json:"dhcpRange,omitempty"`
	DHCPLease  string   `json:"dhcpLease,omitempty"`
	DHCPRoutes []string `json:"dhcpRoutes,omitempty"`
	Domain     string   `json:"domain"`
	Names      []string `json:"names,omitempty"` // NAME=ADDRESS, those added by hand included
}

// A Lease is a row of `lease ls`.
type Lease struct {
	Network  string `json:"network"`
	Port     string `json:"port"`
	Hwaddr   string `json:"hwaddr"` // of the station that asked
	Address  string `json:"address"`
	Hostname string `json:"hostname,omitempty"`  // that the station says it has
	ClientID string `json:"client_id,omitempty"` // option 61, in hexadecimal
	Type     string `json:"type"`                // static: the port has this address; dynamic: the station got it from the network's range
	Expires  string `json:"expires"`             // RFC 3339
}

// An Event is a line of `uvswitch events`: something that has happened to the switch.
type Event struct {
	Time    string `json:"time"`   // RFC 3339
	Event   string `json:"event"`  // what it is about: switch, uplink, network, port, publish, policy, lease, name or refusal
	Action  string `json:"action"` // added, removed, changed, began or ended
	Network string `json:"network,omitempty"`
	Port    string `json:"port,omitempty"`
	Name    string `json:"name,omitempty"` // of the object
	Address string `json:"address,omitempty"`
	Hwaddr  string `json:"hwaddr,omitempty"` // of the station
	Reason  string `json:"reason,omitempty"` // of a refusal: the drop reason
	Count   uint64 `json:"count,omitempty"`  // of a refusal: frames, since the last event of this kind
	Text    string `json:"text"`             // all of it, in words
	Lost    uint64 `json:"lost,omitempty"`   // events before this one that are forgotten
}

// A Name is a row of `dns ls`.
type Name struct {
	Network   string   `json:"network"`
	Name      string   `json:"name"` // inside the network's zone
	FQDN      string   `json:"fqdn"` // with the zone
	Addresses []string `json:"addresses"`
	Source    string   `json:"source"` // port, alias, static, gateway, host
	Port      string   `json:"port,omitempty"`
}

// A NameAdd is the body of POST /v1/names.
type NameAdd struct {
	Network string `json:"network,omitempty"` // "default" when empty
	Name    string `json:"name"`
	Address string `json:"address"`
}

// A NetworkAdd is the body of POST /v1/networks.
type NetworkAdd struct {
	Name      string `json:"name"`                // of the network
	Subnet    string `json:"subnet"`              // of IPv4, such as 10.9.0.0/24; network default has 172.29.0.0/16 by itself
	Gateway   string `json:"gateway,omitempty"`   // when empty: the first address of the subnet
	Subnet6   string `json:"subnet6,omitempty"`   // IPv6: a subnet, auto (a /64 of the switch's own), or off (when empty)
	Gateway6  string `json:"gateway6,omitempty"`  // when empty: the first address of subnet6
	NAT6      string `json:"nat6,omitempty"`      // with which source IPv6 leaves: masquerade (when empty, for unique local addresses), routed (else), npt=PREFIX
	In6       string `json:"in6,omitempty"`       // what may begin outside, with routed or npt: replies (when empty: published ports and pings only), any
	RA        string `json:"ra,omitempty"`        // router advertisements: on (when empty), slaac, off
	NDProxy   bool   `json:"ndProxy,omitempty"`   // with routed or npt: answer neighbor solicitations on the host's devices (RFC 4861, 7.2.8)
	MTU       int    `json:"mtu,omitempty"`       // in bytes; 0: 1500
	Internal  bool   `json:"internal,omitempty"`  // it has no way out
	Isolated  bool   `json:"isolated,omitempty"`  // it cannot reach other networks
	Mapping   string `json:"mapping,omitempty"`   // when empty: endpoint-independent
	Filtering string `json:"filtering,omitempty"` // when empty: address-and-port-dependent
	Protocols Words  `json:"protocols,omitempty"` // IP protocols without ports that may leave: all (when empty), none, or a list such as gre,esp

	DNS        string `json:"dns,omitempty"`        // which questions for names the gateway answers: all (on, or when empty), those for names of the switch (local), or none (off)
	DNSServers Words  `json:"dnsServers,omitempty"` // servers for other names; when empty: those of the host (/etc/resolv.conf)
	Domain     string `json:"domain,omitempty"`     // the network's zone; when empty: NETWORK.SWITCH.internal
	Names      Words  `json:"names,omitempty"`      // names besides those of ports: NAME=ADDRESS
	Policies   Words  `json:"policies,omitempty"`   // which flows of all ports may begin: names of policies
	DHCP       string `json:"dhcp,omitempty"`       // whether the gateway answers DHCP questions: on (when empty), off
	DHCPRange  string `json:"dhcpRange,omitempty"`  // FIRST-LAST: the addresses for stations whose port has none; when empty: the upper half of the subnet
	DHCPLease  string `json:"dhcpLease,omitempty"`  // for how long a station has an address: 2m to 720h; when empty: 1h
	DHCPRoutes Words  `json:"dhcpRoutes,omitempty"` // routes besides the default route: PREFIX=GATEWAY
}

// Words are one text. In YAML they may be a list, too: [22/tcp, icmp] is "22/tcp,icmp", and an empty list is "none".
type Words string

// List splits the text: commas and blanks separate, and "none" is an empty list.
func (w Words) List() []string {
	if w == "none" {
		return nil
	}
	return strings.FieldsFunc(string(w), func(r rune) bool { return r == ',' || r == ' ' })
}

// UnmarshalJSON takes a text and a list.
func (w *Words) UnmarshalJSON(text []byte) error {
	return w.UnmarshalYAML(func(to any) error { return json.Unmarshal(text, to) })
}

// UnmarshalYAML takes a text and a list.
func (w *Words) UnmarshalYAML(decode func(any) error) error {
	var list []string
	if decode(&list) != nil {
		return decode((*string)(w))
	}
	*w = Words(cmp.Or(strings.Join(list, ","), "none"))
	return nil
}

// An FDBEntry is a row of `fdb show`. The keys are those of `bridge -j fdb show`.
type FDBEntry struct {
	MAC     string   `json:"mac"`
	Ifname  string   `json:"ifname"` // the port's name
	Flags   []string `json:"flags"`
	State   string   `json:"state"` // permanent, static, sticky, or empty for learned
	Network string   `json:"network"`
	IsLocal bool     `json:"is_local"`
	Age     float64  `json:"age"` // seconds since the last frame from this address
}

// An FDBAdd is the body of POST /v1/fdb.
type FDBAdd struct {
	MAC   string `json:"mac"`
	Port  string `json:"port"`
	State string `json:"state"` // static or sticky
}

// A Bridge is the output of `bridge show` for one network. It follows brctl showstp.
type Bridge struct {
	Network    string       `json:"network"`
	BridgeID   string       `json:"bridge_id"`
	Root       string       `json:"designated_root"`
	STP        bool         `json:"stp"`
	AgeingTime float64      `json:"ageing_time"` // seconds
	Ports      []BridgePort `json:"ports"`
}

// A BridgePort is one port of a Bridge.
type BridgePort struct {
	Name   string          `json:"name"`
	Number int             `json:"number"`
	PortID string          `json:"port_id"`
	State  string          `json:"state"`
	Cost   int             `json:"path_cost"`
	Flags  map[string]bool `json:"flags"`
}

// A Neighbor is a row of `neigh show`.
type Neighbor struct {
	Dst     string   `json:"dst"`
	Lladdr  string   `json:"lladdr"`
	Network string   `json:"network"`
	State   []string `json:"state"`
	Router  bool     `json:"router,omitempty"` // it says that it is a router (IPv6)
}

// An Unanswered is a row of `neigh unanswered`: an address for which the station behind a port asks by ARP or neighbor discovery. Nobody has
// answered.
type Unanswered struct {
	Port    string `json:"port"`
	Network string `json:"network"`
	Dst     string `json:"dst"`
	Count   int    `json:"count"`           // questions
	First   int    `json:"first_ago"`       // seconds since the first one
	Last    int    `json:"last_ago"`        // seconds since the last one
	Owner   string `json:"owner,omitempty"` // name of the port that has the address
	Why     string `json:"why"`
	Remedy  string `json:"remedy"`
}

// A Problem is something that does not work now, as far as the switch can see it.
type Problem struct {
	Key    string `json:"key"`              // the same for the same problem in each answer
	Kind   string `json:"kind"`             // uplink, ports, names, tables, mtu, neighbors, shares, answers, drops
	Port   string `json:"port,omitempty"`   // which it is about
	Reason string `json:"reason,omitempty"` // of drops
	Count  int    `json:"count,omitempty"`  // of the drops of the last minute, as far as they are remembered
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// A Route is a row of `route show`.
type Route struct {
	Dst     string `json:"dst"`
	Gateway string `json:"gateway"`
	Dev     string `json:"dev"`
	Network string `json:"network"`
	Type    string `json:"type"`
	Family  string `json:"family"`  // ipv4 or ipv6
	ByHand  bool   `json:"by_hand"` // added with `route add` or by the configuration file
}

// FamilyOf names the address family of an address: ipv4 or ipv6.
func FamilyOf(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// A Way is the output of `route get`: where a packet from a container goes.
type Way struct {
	Dst     string `json:"dst"`
	Type    string `json:"type"` // unicast, local, blackhole, unreachable or prohibit
	Gateway string `json:"gateway,omitempty"`
	Dev     string `json:"dev,omitempty"` // a network of the switch, or a device of the host
	Src     string `json:"src,omitempty"` // the host's address that NAT gives the packet
	MTU     int    `json:"mtu,omitempty"`
	Why     string `json:"why"` // who has decided this
}

// A Publish is a row of `publish ls`.
type Publish struct {
	ID            int      `json:"id"`
	HostAddress   string   `json:"host_address"`
	HostPort      int      `json:"host_port"`
	HostPortEnd   int      `json:"host_port_end"`
	Protocol      string   `json:"protocol"`
	Port          string   `json:"port"`
	Address       string   `json:"address"`
	Address6      string   `json:"address6,omitempty"` // the container's, too, if HostAddress means all addresses of both families
	ContainerPort int      `json:"container_port"`
	From          []string `json:"from"`
	Packets       uint64   `json:"packets"`
	Bytes         uint64   `json:"bytes"`
	HostClients   uint64   `json:"host_clients"`    // connections and UDP clients of the host itself
	Waits         bool     `json:"waits,omitempty"` // until the other port of the container that has these host ports is removed
}

// Host returns the host side in the form that Client.Unpublish takes: [ADDR:]PORT[-END]/PROTO.
func (p Publish) Host() string { return p.HostPorts() + "/" + p.Protocol }

// HostPorts returns the host side without the protocol: [ADDR:]PORT[-END].
func (p Publish) HostPorts() string {
	if p.HostAddress == "0.0.0.0" {
		return p.PortRange()
	}
	return p.Literal(p.HostAddress) + ":" + p.PortRange()
}

// Literal returns an address as it stands before a port: an IPv6 address is in brackets.
func (p Publish) Literal(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

// PortRange returns the host ports: PORT or PORT-END.
func (p Publish) PortRange() string {
	if p.HostPort == p.HostPortEnd {
		return fmt.Sprint(p.HostPort)
	}
	return fmt.Sprintf("%d-%d", p.HostPort, p.HostPortEnd)
}

// A PublishAdd is the body of POST /v1/publish. Spec is [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp].
type PublishAdd struct {
	Spec string   `json:"spec"`
	Port string   `json:"port"`
	From []string `json:"from,omitempty"`
}

// A FlowSide is one direction of a Flow. For ICMP, Type, Code and ID are set instead of the ports.
type FlowSide struct {
	Src     string `json:"src"`
	Dst     string `json:"dst"`
	Sport   int    `json:"sport"`
	Dport   int    `json:"dport"`
	Type    *int   `json:"type,omitempty"`
	Code    *int   `json:"code,omitempty"`
	ID      *int   `json:"id,omitempty"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// A Flow is a row of `flow ls`.
type Flow struct {
	ID       uint32   `json:"id"`     // as in dumps and `monitor`; reused after the flow has ended
	Family   string   `json:"family"` // ipv4 or ipv6
	Protocol string   `json:"protocol"`
	Number   int      `json:"number"` // number of the IP protocol
	State    string   `json:"state"`
	Timeout  int      `json:"timeout"` // seconds until the flow expires if it stays idle
	Original FlowSide `json:"original"`
	Reply    FlowSide `json:"reply"`
	Status   []string `json:"status"`
	Network  string   `json:"network"`
	Port     string   `json:"port"`
}

// A NATRule is a row of `nat show`.
type NATRule struct {
	Chain       string `json:"chain"`  // PREROUTING or POSTROUTING
	Target      string `json:"target"` // DNAT; MASQUERADE, ROUTED or NPT
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	Protocol    string `json:"protocol"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	In          string `json:"in"`
	Out         string `json:"out"`
	To          string `json:"to"`
}

// A NATSet is the body of PATCH /v1/nat.
type NATSet struct {
	Ports string `json:"ports"` // ranges of outside ports that NAT may give out, such as "1024-65535"
}

// A PortUse counts the used outside ports of one protocol. Holders has the count by port of the switch, Tenants by tenant: the ports of a tenant
// together have the limit of one port.
type PortUse struct {
	Protocol string         `json:"protocol"`
	Used     int            `json:"used"`
	Resting  int            `json:"resting"` // in quarantine: released less than two minutes ago
	Limit    int            `json:"limit"`
	Quota    int            `json:"quota"` // limit for one port of the switch
	Holders  map[string]int `json:"holders"`
	Tenants  map[string]int `json:"tenants,omitempty"`
}

// FlowStats are totals since the start, as in `conntrack -S`, and the current flows by state and by port of the switch.
type FlowStats struct {
	Used    int               `json:"used"` // flows of IPv4
	Limit   int               `json:"limit"`
	Used6   int               `json:"used6"` // flows of IPv6
	Limit6  int               `json:"limit6"`
	Quota   int               `json:"quota"` // limit of IPv4 for one port of the switch
	Created uint64            `json:"created"`
	Ended   map[string]uint64 `json:"ended"`  // by cause: timed_out, evicted, replaced, flushed
	States  map[string]int    `json:"states"` // by protocol and state
	Holders map[string]int    `json:"holders"`
	Tenants map[string]int    `json:"tenants,omitempty"` // the ports of a tenant together have the limit of one port
	Missed  uint64            `json:"events_missed"`
}

// Deleted is the number of flows that were removed.
type Deleted struct {
	Deleted int `json:"deleted"`
}

// A TraceRequest is the body of POST /v1/trace: a port, and a packet as text or as bytes.
type TraceRequest struct {
	In      string `json:"in"`
	Packet  string `json:"packet,omitempty"`  // such as "tcp 172.29.0.2:4000 > 1.1.1.1:443 S"
	Hex     string `json:"hex,omitempty"`     // an Ethernet frame, from the destination MAC address on
	Reverse bool   `json:"reverse,omitempty"` // also trace the answer
}

// A Trace says what would happen to a packet.
type Trace struct {
	Packet  string      `json:"packet"`
	In      string      `json:"in"`
	Length  int         `json:"length"` // length of the frame in bytes
	Steps   []TraceStep `json:"steps"`
	Verdict string      `json:"verdict"` // transmitted, answered, consumed, held, dropped, or passed (to the host)
	Reason  string      `json:"reason,omitempty"`
	Why     string      `json:"why"`
	Remedy  string      `json:"remedy,omitempty"`
	Ports   []string    `json:"ports"`         // ports that would receive the packet
	Out     string      `json:"out,omitempty"` // the packet as it would leave
	Reverse *Trace      `json:"reverse,omitempty"`
}

// A TraceStep is the result of one stage.
type TraceStep struct {
	Stage  string `json:"stage"`
	Result string `json:"result"`
	Text   string `json:"text"`
}

// NATSettings are the settings of NAT in force.
type NATSettings struct {
	Windows      string            `json:"windows"`        // liberal or strict
	FlowsPerPort int               `json:"flows_per_port"` // limit for one port of the switch
	Timers       map[string]uint32 `json:"timers"`         // seconds, by the keys of the configuration file; timers of single ports by PORT/PROTO
}

// A FlowEvent is a line of `flow events`.
type FlowEvent struct {
	Event  string `json:"event"`            // NEW, UPDATE or DESTROY
	Reason string `json:"reason,omitempty"` // for DESTROY: timed_out, evicted, replaced or flushed
	Time   string `json:"time"`             // RFC 3339, with nanoseconds
	Flow
}

// A RouteAdd is the body of POST /v1/routes.
type RouteAdd struct {
	Dst     string `json:"dst"`
	Type    string `json:"type,omitempty"`    // unicast (when empty), blackhole, unreachable or prohibit
	Gateway string `json:"gateway,omitempty"` // the next hop, an address of a network; or host: through the host's own stack
	Replace bool   `json:"replace,omitempty"` // replace an existing route
}

// A NeighborAdd is the body of POST /v1/neighbors.
type NeighborAdd struct {
	Dst    string `json:"dst"`
	Lladdr string `json:"lladdr"`
}

// A Reason is a drop reason, with its meaning and remedy.
type Reason struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
	Remedy  string `json:"remedy"`
}

// A Table is the fill level of a table.
type Table struct {
	Used  int `json:"used"`
	Limit int `json:"limit"`
}

// NearlyFull reports whether more than nine tenths of a table are in use.
func (t Table) NearlyFull() bool { return t.Limit > 0 && t.Used*10 > t.Limit*9 }

// TableNames are the names of all tables, in the order in which they are shown.
var TableNames = []string{"fdb", "flows", "flows6", "nat_ports", "sockets"}

// Stats is the output of `stats`.
type Stats struct {
	Ports        map[string]PortStats `json:"ports"`
	Drops        map[string]uint64    `json:"drops"`
	Tables       map[string]Table     `json:"tables"` // fdb, flows, flows6, nat_ports; sockets, if packets leave by sockets
	Conservation Conservation         `json:"conservation"`
	IO           []WorkerIO           `json:"io"` // by worker
}

// A History has the rates of the last ten minutes, each per second of an interval. The oldest one is the first.
type History struct {
	Interval float64              `json:"interval"`        // seconds
	Until    string               `json:"until,omitempty"` // the end of the last interval (RFC 3339)
	Total    Rates                `json:"total"`           // of all ports together
	Ports    map[string]Rates     `json:"ports"`           // of those that were asked for
	Drops    map[string][]float32 `json:"drops"`           // frames, by reason; only reasons of this time
}

// Rates are those of a port. rx is what the switch receives from it.
type Rates struct {
	RxBytes   []float32 `json:"rx_bytes"`
	TxBytes   []float32 `json:"tx_bytes"`
	RxPackets []float32 `json:"rx_packets"`
	TxPackets []float32 `json:"tx_packets"`
	Dropped   []float32 `json:"dropped"`
}

// A WorkerIO is what a worker has done since the switch began.
type WorkerIO struct {
	CPUSeconds  float64           `json:"cpu_seconds"`
	SpinSeconds float64           `json:"spin_seconds"` // in which it looked for frames instead of sleeping
	Calls       uint64            `json:"calls"`        // system calls that read, or wait for frames
	Sleeps      uint64            `json:"sleeps"`       // of these, waits with nothing to read
	Rearms      uint64            `json:"rearms"`       // reads of io_uring that had no buffer left, and were begun again
	Switches    uint64            `json:"switches"`     // times that the worker's thread gave up its CPU
	Preempted   uint64            `json:"preempted"`    // times that it lost its CPU
	Hurried     uint64            `json:"hurried"`      // times that it waited for a CPU for more than twice as long as it ran, and got a higher priority for a while
	Diverted    uint64            `json:"diverted"`     // times that a port whose frames take very long to deliver got a thread of its own, until it recovered
	Batches     map[string]uint64 `json:"batches"`      // by the number of frames: 1, 2-3, 4-7, 8-15, 16-31, 32+
}

// BatchNames are the keys of WorkerIO.Batches, in order.
var BatchNames = [...]string{"1", "2-3", "4-7", "8-15", "16-31", "32+"}

// A WebPage is the output of `web url`.
type WebPage struct {
	URL string `json:"url"` // with the token; unix:PATH for a unix socket; empty: no page is served
}

// An Uplink is the uplink in `status`.
type Uplink struct {
	Kind    string `json:"kind"`
	Device  string `json:"device"`
	Address string `json:"address"`
	State   string `json:"state"`
	Why     string `json:"why,omitempty"`
	MTU     int    `json:"mtu"`
	Ports   string `json:"ports"`   // ports of the host that NAT uses
	Promise string `json:"promise"` // what this kind of uplink means for the host

	Address6 string `json:"address6,omitempty"` // the host's IPv6 address by which containers leave as a rule
	State6   string `json:"state6"`             // up: IPv6 leads out; down; or off: the switch has no IPv6
	Why6     string `json:"why6,omitempty"`     // when down

	Addresses []string `json:"addresses"`       // of the host, of both families; containers leave by these, and reach the host by each
	Local     []string `json:"local,omitempty"` // prefixes that the host's kernel takes for itself besides its addresses (`ip route add local`)
	Devices   []string `json:"devices"`         // devices of the host that the switch receives packets from
	Allowed   []string `json:"allowed"`         // devices that packets may leave by; empty: all
	GivenBack uint64   `json:"given_back"`      // packets that belonged to no flow and went back to the host's stack
	Flooded   uint64   `json:"flooded"`         // packets that were dropped before the switch: the uplink's queue was full, and their port received more than others
}

// Status is the output of `status`.
type Status struct {
	Version     string  `json:"version"`
	PID         int     `json:"pid"`
	Uptime      float64 `json:"uptime"` // seconds
	Uplink      Uplink  `json:"uplink"`
	Backend     string  `json:"backend"`
	BackendWhy  string  `json:"backend_why,omitempty"` // why io_uring is not used, if it was tried
	Workers     int     `json:"workers"`
	Host        string  `json:"host"`                   // the host port's address, or empty
	HostInbound string  `json:"host_inbound,omitempty"` // what containers may begin with the host: "allow", "deny", or ports
	HostCgroup  string  `json:"host_cgroup,omitempty"`  // as --cgroup gives it
	// HostClients says how the host's own clients reach published ports: "programs" (at connect(2)), or "relay: " and why
	HostClients string            `json:"host_clients,omitempty"`
	NameServers []string          `json:"name_servers,omitempty"`        // that the host asks for names; networks may have their own
	SilentNames []string          `json:"silent_name_servers,omitempty"` // those of all networks that have not answered lately
	NamesWhy    string            `json:"name_servers_why,omitempty"`    // why the host's are not known: the switch asks those of before
	Sandbox     string            `json:"sandbox"`                       // what the process has given up, and what the kernel lacks for that; or "off"
	Networks    []Network         `json:"networks"`
	Ports       int               `json:"ports"`
	Waiting     []WaitingPort     `json:"waiting,omitempty"` // ports of the configuration file whose namespace or device is not there yet
	Tables      map[string]Table  `json:"tables"`
	Drops       map[string]uint64 `json:"drops"`
	Balanced    bool              `json:"balanced"`
}

// A WaitingPort is a port of the configuration file that is made once its namespace or device is there.
type WaitingPort struct {
	Port    string       `json:"port"`
	Why     string       `json:"why"`
	Add     PortAdd      `json:"add"`
	Publish []PublishAdd `json:"publish,omitempty"`
}

// A ReloadRequest is the body of POST /v1/reload: the text of a configuration file, or nothing for the switch's own file.
type ReloadRequest struct {
	File string `json:"file,omitempty"`
	Dry  bool   `json:"dry,omitempty"` // dry run: only return the changes
}

// A Reload lists the changes of a reload, or of a dry run.
type Reload struct {
	Changes []string `json:"changes"`
	Notes   []string `json:"notes,omitempty"` // what of the file does not count
}

// An Error is the body of every answer whose status is not 2xx.
type Error struct {
	Status  int    `json:"status"`
	Message string `json:"error"`
	Code    Code   `json:"code,omitempty"`
}

// A Code distinguishes errors with the same status, for programs. Most errors have no code.
type Code string

// The error codes.
const (
	NamespaceNotFound     Code = "namespace_not_found"     // 404: the switch does not see the namespace; the caller may see it
	NamespaceNotPermitted Code = "namespace_not_permitted" // 501: the switch may not enter namespaces; the caller may be allowed to
	Busy                  Code = "busy"                    // 503: another change, or other costly calls, are running; try again
	HostPortInUse         Code = "host_port_in_use"        // 409: a program of the host has the port; the caller may see which
)

func (e *Error) Error() string { return e.Message }

// Errorf returns an Error with a status of HTTP and a formatted message.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// With sets the code of e and returns e.
func (e *Error) With(c Code) *Error {
	e.Code = c
	return e
}
