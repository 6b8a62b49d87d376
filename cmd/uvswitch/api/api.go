// Package api is the control API's contract: the JSON bodies of /v1 and a client for them. The keys are what
// scripts build on; they may be added to and never changed.
package api

import (
	"encoding/json"
	"fmt"
)

// Defaults of PortAdd.
const (
	DefaultNetwork = "default" // the network that `run` creates
	DefaultIfname  = "eth0"
	AutoAddress    = "auto" // the switch chooses
)

// NetworkName returns the network that the port is to be in.
func (a *PortAdd) NetworkName() string {
	if a.Network == "" {
		return DefaultNetwork
	}
	return a.Network
}

// NamesAddress reports whether an address is asked for, rather than left to the switch.
func (a *PortAdd) NamesAddress() bool { return a.IP != "" && a.IP != AutoAddress }

// States of FDBAdd.
const (
	FDBStatic = "static"
	FDBSticky = "sticky"
)

// A Port is a row of `port ls`.
type Port struct {
	Name      string          `json:"name"`
	ID        int             `json:"id"`
	Network   string          `json:"network"`
	Kind      string          `json:"kind"` // tap, plain, device, qemu-stream, qemu-dgram, vde, host, uplink
	Ifname    string          `json:"ifname"`
	Netns     string          `json:"netns"`
	MAC       string          `json:"mac"`
	Addresses []string        `json:"addresses"`
	MTU       int             `json:"mtu"`
	State     string          `json:"state"` // forwarding, disabled, down, gone
	Offload   bool            `json:"offload"`
	Backend   string          `json:"backend"`
	Flags     map[string]bool `json:"flags"`
	RxRate    uint64          `json:"rx_rate"`  // what it may send, bits per second; 0: no limit
	RxBurst   uint64          `json:"rx_burst"` // bytes
	TxRate    uint64          `json:"tx_rate"`  // what it gets
	TxBurst   uint64          `json:"tx_burst"`
	NoRoute   bool            `json:"no_route"`  // made without a default route inside
	Handed    bool            `json:"handed"`    // a TAP that another program has made and keeps (Docker, a CNI plugin)
	Segmented uint64          `json:"segmented"` // frames segmented or summed in software, ports without offloads
	PortStats
}

// PortStats are a port's counts since it was added. Drops are named by reason.
type PortStats struct {
	RxPackets uint64            `json:"rx_packets"`
	RxBytes   uint64            `json:"rx_bytes"`
	RxDropped uint64            `json:"rx_dropped"`
	TxPackets uint64            `json:"tx_packets"`
	TxBytes   uint64            `json:"tx_bytes"`
	TxDropped uint64            `json:"tx_dropped"`
	Drops     map[string]uint64 `json:"drops"`
}

// Conservation is the account of every frame: at rest, Received + Originated + Replicated = Transmitted +
// Dropped + Consumed.
type Conservation struct {
	Received    uint64 `json:"received"`    // read from ports
	Originated  uint64 `json:"originated"`  // made by the gateway
	Replicated  uint64 `json:"replicated"`  // further copies of flooded frames
	Transmitted uint64 `json:"transmitted"` // taken by ports
	Dropped     uint64 `json:"dropped"`     // for a reason
	Consumed    uint64 `json:"consumed"`    // for the gateway itself
	Balanced    bool   `json:"balanced"`
}

// PortAdd is what POST /v1/ports takes.
type PortAdd struct {
	Name    string `json:"name"`
	Network string `json:"network,omitempty"` // "default" when empty
	Netns   string `json:"netns,omitempty"`   // a name, a path, or pid:N
	Ifname  string `json:"ifname,omitempty"`  // "eth0" when empty
	Device  string `json:"device,omitempty"`  // plug this existing device instead
	// For virtual machines, instead: the path of a unix socket to make, or of VDE's folder.
	QEMUStream string `json:"qemu_stream,omitempty"`
	QEMUDgram  string `json:"qemu_dgram,omitempty"`
	VDE        string `json:"vde,omitempty"`
	// Or a TAP whose descriptor comes with the request, see Client.HandPort; Netns and Ifname are then what to call its place.
	Handed  bool   `json:"handed,omitempty"`
	IP      string `json:"ip,omitempty"` // "auto", a CIDR, or an address
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
	Offload string `json:"offload,omitempty"` // on or off
	NoRoute bool   `json:"no_route,omitempty"`

	Set PortSet `json:"set,omitempty"` // knobs
}

// PortSet is what PATCH /v1/ports/{name} takes: knobs by name. Those of `bridge link` are on or off; rx_rate (what the port may
// send), tx_rate (what it gets) and rate (both) are off or a rate.
type PortSet map[string]Knob

// A Knob is "on", "off", or a rate in the units of tc, with its burst: "10mbit", "10mbit/64kb". JSON's true and false are
// taken for the first two.
type Knob string

// Knobs that are switches.
const (
	On  Knob = "on"
	Off Knob = "off"
)

// The bounds of rates in bits per second, and of bursts in bytes: a frame at least.
const (
	MinRate  = 1_000
	MaxRate  = 1_000_000_000_000
	MinBurst = 1_514
	MaxBurst = 1 << 30
)

// Switch is On or Off.
func Switch(on bool) Knob {
	if on {
		return On
	}
	return Off
}

// RateKnob is a rate in bits per second and a burst in bytes; with 0 the switch chooses the burst. 0 bits are no limit.
func RateKnob(bits, burst uint64) Knob {
	switch {
	case bits == 0:
		return Off
	case burst != 0:
		return RateKnob(bits, 0) + Knob(fmt.Sprintf("/%db", burst))
	}
	units := [...]string{"", "k", "m", "g", "t"}
	unit := 0
	for ; unit < len(units)-1 && bits%1000 == 0; unit++ {
		bits /= 1000
	}
	return Knob(fmt.Sprintf("%d%sbit", bits, units[unit]))
}

// UnmarshalJSON takes a word or a boolean.
func (k *Knob) UnmarshalJSON(b []byte) error {
	var on bool
	if json.Unmarshal(b, &on) == nil {
		*k = Switch(on)
		return nil
	}
	var word string
	if err := json.Unmarshal(b, &word); err != nil {
		return fmt.Errorf("a setting is true, false, \"on\", \"off\", or a rate such as \"10mbit/64kb\"")
	}
	*k = Knob(word)
	return nil
}

// UnmarshalYAML takes a word, a boolean or a number. The configuration file has settings in this form, too.
func (k *Knob) UnmarshalYAML(decode func(any) error) error {
	var v any
	if err := decode(&v); err != nil {
		return err
	}
	switch v := v.(type) {
	case bool:
		*k = Switch(v)
	case string, uint64, int64, float64:
		*k = Knob(fmt.Sprint(v))
	default:
		return fmt.Errorf("a setting is true, false, or a rate such as 10mbit/64kb")
	}
	return nil
}

// A Network is a row of `network ls`.
type Network struct {
	Name      string `json:"name"`
	Subnet    string `json:"subnet"`
	Gateway   string `json:"gateway"`
	MAC       string `json:"mac"`
	MTU       int    `json:"mtu"`
	Internal  bool   `json:"internal"`
	Isolated  bool   `json:"isolated"`
	Mapping   string `json:"mapping"`
	Filtering string `json:"filtering"`
	Ports     int    `json:"ports"`
}

// NetworkAdd is what POST /v1/networks takes.
type NetworkAdd struct {
	Name      string `json:"name"`
	Subnet    string `json:"subnet"`
	Gateway   string `json:"gateway,omitempty"` // the first address when empty
	MTU       int    `json:"mtu,omitempty"`
	Internal  bool   `json:"internal,omitempty"`
	Isolated  bool   `json:"isolated,omitempty"`  // it reaches no other network
	Mapping   string `json:"mapping,omitempty"`   // endpoint-independent when empty
	Filtering string `json:"filtering,omitempty"` // address-and-port-dependent when empty
}

// An FDBEntry is a row of `fdb show`, keys as `bridge -j fdb show`.
type FDBEntry struct {
	MAC     string   `json:"mac"`
	Ifname  string   `json:"ifname"` // the port's name
	Flags   []string `json:"flags"`
	State   string   `json:"state"` // permanent, static, sticky, or empty for learned
	Network string   `json:"network"`
	IsLocal bool     `json:"is_local"`
	Age     float64  `json:"age"` // seconds since last heard
}

// FDBAdd is what POST /v1/fdb takes.
type FDBAdd struct {
	MAC   string `json:"mac"`
	Port  string `json:"port"`
	State string `json:"state"` // static or sticky
}

// A Bridge is what `bridge show` prints of one network, after brctl showstp.
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
}

// A Route is a row of `route show`.
type Route struct {
	Dst     string `json:"dst"`
	Gateway string `json:"gateway"`
	Dev     string `json:"dev"`
	Network string `json:"network"`
	Type    string `json:"type"`
	ByHand  bool   `json:"by_hand"` // added by route add or the configuration file
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
	ContainerPort int      `json:"container_port"`
	From          []string `json:"from"`
	Packets       uint64   `json:"packets"`
	Bytes         uint64   `json:"bytes"`
}

// Host is its host side, as Client.Unpublish takes it: [ADDR:]PORT[-END]/PROTO.
func (p Publish) Host() string { return p.HostPorts() + "/" + p.Protocol }

// HostPorts is that without the protocol.
func (p Publish) HostPorts() string {
	if p.HostAddress == "0.0.0.0" {
		return p.PortRange()
	}
	return p.HostAddress + ":" + p.PortRange()
}

// PortRange is PORT, or PORT-END.
func (p Publish) PortRange() string {
	if p.HostPort == p.HostPortEnd {
		return fmt.Sprint(p.HostPort)
	}
	return fmt.Sprintf("%d-%d", p.HostPort, p.HostPortEnd)
}

// PublishAdd is what POST /v1/publish takes: Spec is [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp].
type PublishAdd struct {
	Spec string   `json:"spec"`
	Port string   `json:"port"`
	From []string `json:"from,omitempty"`
}

// A FlowSide is one direction of a Flow. Type, Code and ID stand for the ports of ICMP.
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
	ID       uint32   `json:"id"` // as in dumps and `monitor`; used again when the flow is gone
	Protocol string   `json:"protocol"`
	Number   int      `json:"number"` // the IP protocol's
	State    string   `json:"state"`
	Timeout  int      `json:"timeout"` // seconds until it goes if it stays idle
	Original FlowSide `json:"original"`
	Reply    FlowSide `json:"reply"`
	Status   []string `json:"status"`
	Network  string   `json:"network"`
	Port     string   `json:"port"`
}

// A NATRule is a row of `nat show`.
type NATRule struct {
	Chain       string `json:"chain"`  // PREROUTING or POSTROUTING
	Target      string `json:"target"` // DNAT or MASQUERADE
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	Protocol    string `json:"protocol"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	In          string `json:"in"`
	Out         string `json:"out"`
	To          string `json:"to"`
}

// A PortUse is how far the outside ports of one protocol are used, and by which ports of the switch.
type PortUse struct {
	Protocol string         `json:"protocol"`
	Used     int            `json:"used"`
	Resting  int            `json:"resting"` // given back less than two minutes ago
	Limit    int            `json:"limit"`
	Quota    int            `json:"quota"` // what one port may hold
	Holders  map[string]int `json:"holders"`
}

// FlowStats are totals since the start, after `conntrack -S`, and the flows there are by state.
type FlowStats struct {
	Used    int               `json:"used"`
	Limit   int               `json:"limit"`
	Quota   int               `json:"quota"` // what one port may hold
	Created uint64            `json:"created"`
	Ended   map[string]uint64 `json:"ended"`  // by why: timed_out, evicted, replaced, flushed
	States  map[string]int    `json:"states"` // by protocol and state
	Holders map[string]int    `json:"holders"`
	Missed  uint64            `json:"events_missed"`
}

// Deleted is how many flows were ended.
type Deleted struct {
	Deleted int `json:"deleted"`
}

// A TraceRequest is what POST /v1/trace takes: a port, and a packet in words or as bytes.
type TraceRequest struct {
	In      string `json:"in"`
	Packet  string `json:"packet,omitempty"`  // such as "tcp 172.29.0.2:4000 > 1.1.1.1:443 S"
	Hex     string `json:"hex,omitempty"`     // a frame from the destination MAC on
	Reverse bool   `json:"reverse,omitempty"` // the answer too
}

// A Trace is what would happen to a packet.
type Trace struct {
	Packet  string      `json:"packet"`
	In      string      `json:"in"`
	Length  int         `json:"length"` // bytes of the frame
	Steps   []TraceStep `json:"steps"`
	Verdict string      `json:"verdict"` // transmitted, answered, consumed, held, dropped, or passed (to the host)
	Reason  string      `json:"reason,omitempty"`
	Why     string      `json:"why"`
	Remedy  string      `json:"remedy,omitempty"`
	Ports   []string    `json:"ports"`         // that get it
	Out     string      `json:"out,omitempty"` // the packet as it leaves
	Reverse *Trace      `json:"reverse,omitempty"`
}

// A TraceStep is what one stage found and decided.
type TraceStep struct {
	Stage  string `json:"stage"`
	Result string `json:"result"`
	Text   string `json:"text"`
}

// NATSettings are what was configured, or is the default.
type NATSettings struct {
	Windows      string            `json:"windows"`        // liberal or strict
	FlowsPerPort int               `json:"flows_per_port"` // what one port may hold
	Timers       map[string]uint32 `json:"timers"`         // seconds, by the keys of the configuration file; PORT/PROTO for those by port
}

// A FlowEvent is a line of `flow events`.
type FlowEvent struct {
	Event  string `json:"event"`            // NEW, UPDATE or DESTROY
	Reason string `json:"reason,omitempty"` // of DESTROY: timed_out, evicted, replaced or flushed
	Time   string `json:"time"`             // RFC 3339, with nanoseconds
	Flow
}

// A RouteAdd is what POST /v1/routes takes.
type RouteAdd struct {
	Dst     string `json:"dst"`
	Type    string `json:"type,omitempty"`    // unicast (when empty), blackhole, unreachable or prohibit
	Gateway string `json:"gateway,omitempty"` // the next hop, an address of a network
	Replace bool   `json:"replace,omitempty"` // one that is there
}

// A NeighborAdd is what POST /v1/neighbors takes.
type NeighborAdd struct {
	Dst    string `json:"dst"`
	Lladdr string `json:"lladdr"`
}

// A Reason is why a frame may be dropped.
type Reason struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
	Remedy  string `json:"remedy"`
}

// A Table is how full one table is.
type Table struct {
	Used  int `json:"used"`
	Limit int `json:"limit"`
}

// Stats is what `stats` prints.
type Stats struct {
	Ports        map[string]PortStats `json:"ports"`
	Drops        map[string]uint64    `json:"drops"`
	Tables       map[string]Table     `json:"tables"` // fdb, flows, nat_ports
	Conservation Conservation         `json:"conservation"`
}

// Uplink is the way out, in `status`.
type Uplink struct {
	Kind    string `json:"kind"`
	Device  string `json:"device"`
	Address string `json:"address"`
	State   string `json:"state"`
	Why     string `json:"why,omitempty"`
	MTU     int    `json:"mtu"`
	Ports   string `json:"ports"`   // the ports NAT gives out
	Promise string `json:"promise"` // what this kind means for the host
}

// Status is what `status` prints.
type Status struct {
	Version    string            `json:"version"`
	PID        int               `json:"pid"`
	Uptime     float64           `json:"uptime"` // seconds
	Uplink     Uplink            `json:"uplink"`
	Backend    string            `json:"backend"`
	BackendWhy string            `json:"backend_why,omitempty"` // why not io_uring, where that was tried
	Workers    int               `json:"workers"`
	Host       string            `json:"host"` // the host port's address, or empty
	Networks   []Network         `json:"networks"`
	Ports      int               `json:"ports"`
	Tables     map[string]Table  `json:"tables"`
	Drops      map[string]uint64 `json:"drops"`
	Balanced   bool              `json:"balanced"`
}

// A ReloadRequest is what POST /v1/reload takes: a configuration file's text, or nothing for the switch's own file.
type ReloadRequest struct {
	File string `json:"file,omitempty"`
	Dry  bool   `json:"dry,omitempty"` // only say what would change
}

// A Reload is what has changed, or would.
type Reload struct {
	Changes []string `json:"changes"`
}

// Error is the body of every answer that is not 2xx.
type Error struct {
	Status  int    `json:"status"`
	Message string `json:"error"`
	Code    Code   `json:"code,omitempty"`
}

// A Code tells programs which of several errors with one status it is. Most errors have none.
type Code string

// The codes.
const (
	NamespaceNotFound     Code = "namespace_not_found"     // 404: the switch sees no such namespace; the caller may
	NamespaceNotPermitted Code = "namespace_not_permitted" // 501: the switch may not enter namespaces; the caller may
	Busy                  Code = "busy"                    // 503: another change is running; try again
)

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// With returns e with a code.
func (e *Error) With(c Code) *Error {
	e.Code = c
	return e
}
