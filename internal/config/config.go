// Package config reads the switch's configuration file: YAML, strictly. An unknown key or a wrong type is an error
// with its line, its column and the line itself. It applies nothing.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// File is the whole configuration file. Absent parts keep the defaults of `uvswitch run`.
type File struct {
	Uplink   Uplink    `yaml:"uplink,omitempty"`
	Networks []Network `yaml:"networks,omitempty"`
	Host     Host      `yaml:"host,omitempty"`
	NAT      NAT       `yaml:"nat,omitempty"`
	Ports    []Port    `yaml:"ports,omitempty"`
	Publish  []Publish `yaml:"publish,omitempty"`
	Routes   []Route   `yaml:"routes,omitempty"`
}

// Uplink is the way out.
type Uplink struct {
	Device string `yaml:"device,omitempty"` // auto, none, or a device
	Kind   string `yaml:"kind,omitempty"`   // tcx, clsact or tap
	Ports  string `yaml:"ports,omitempty"`  // ranges that NAT may give out
}

// Network is a broadcast domain. The one named default must be first if it is named at all.
type Network struct {
	Name      string `yaml:"name,omitempty"`
	Subnet    string `yaml:"subnet,omitempty"`
	Gateway   string `yaml:"gateway,omitempty"`
	MTU       int    `yaml:"mtu,omitempty"`
	Internal  bool   `yaml:"internal,omitempty"`
	Isolated  bool   `yaml:"isolated,omitempty"`
	Mapping   string `yaml:"mapping,omitempty"`
	Filtering string `yaml:"filtering,omitempty"`
}

// Host is the host port. `host: off` leaves it out.
type Host struct {
	Address string `yaml:"address,omitempty"` // auto (the subnet's last), off, or an address of network default
	Inbound string `yaml:"inbound,omitempty"` // allow
}

// UnmarshalYAML takes the short form, too.
func (h *Host) UnmarshalYAML(decode func(any) error) error {
	var word string
	if decode(&word) == nil {
		if word != "on" && word != "off" && word != "true" && word != "false" {
			return fmt.Errorf("host: say on, off, or {address: auto, inbound: allow}, not %q", word)
		}
		if word == "off" || word == "false" {
			h.Address = "off"
		}
		return nil
	}
	type long Host // without this method
	return decode((*long)(h))
}

// NAT is the connection tracker.
type NAT struct {
	Mapping      string `yaml:"mapping,omitempty"`   // of networks that say nothing
	Filtering    string `yaml:"filtering,omitempty"` // likewise
	Windows      string `yaml:"windows,omitempty"`   // liberal or strict
	Timers       Timers `yaml:"timers,omitempty"`
	Flows        int    `yaml:"flows,omitempty"`
	FlowsPerPort int    `yaml:"flows_per_port,omitempty"`
}

// Port is a port made at start, in a namespace or on a device.
type Port struct {
	Name    string `yaml:"name,omitempty"`
	Network string `yaml:"network,omitempty"`
	Netns   string `yaml:"netns,omitempty"`
	Ifname  string `yaml:"ifname,omitempty"`
	Device  string `yaml:"device,omitempty"`

	QEMUStream string `yaml:"qemu_stream,omitempty"` // for virtual machines: unix sockets,
	QEMUDgram  string `yaml:"qemu_dgram,omitempty"`
	VDE        string `yaml:"vde,omitempty"` // or VDE's folder

	IP      string `yaml:"ip,omitempty"`
	MAC     string `yaml:"mac,omitempty"`
	MTU     int    `yaml:"mtu,omitempty"`
	Offload string `yaml:"offload,omitempty"`
	NoRoute bool   `yaml:"no_route,omitempty"` // leave the default route inside alone

	Set map[string]Knob `yaml:"set,omitempty"` // knobs, as for port set: {isolated: true, rate: 10mbit}
}

// Knob is on, off, true, false or a rate.
type Knob string

// UnmarshalYAML takes booleans and numbers, too.
func (k *Knob) UnmarshalYAML(decode func(any) error) error {
	var v any
	if err := decode(&v); err != nil {
		return err
	}
	switch v := v.(type) {
	case bool:
		*k = map[bool]Knob{true: "on", false: "off"}[v]
	case string, uint64, int64, float64:
		*k = Knob(fmt.Sprint(v))
	default:
		return fmt.Errorf("a knob is true, false, or a rate such as 10mbit/64kb")
	}
	return nil
}

// Route is a route by hand: via a gateway, or of a type.
type Route struct {
	Dst  string `yaml:"dst,omitempty"`
	Via  string `yaml:"via,omitempty"`
	Type string `yaml:"type,omitempty"` // blackhole, unreachable or prohibit
}

// Publish is a published port: Host is [ADDR:]PORT[-END], To is NAME:PORT.
type Publish struct {
	From  string `yaml:"from,omitempty"` // any, or CIDRs with commas
	Host  string `yaml:"host,omitempty"`
	To    string `yaml:"to,omitempty"`
	Proto string `yaml:"proto,omitempty"`
}

// Load reads and checks the file at path.
func Load(path string) (*File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	f, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("config: %s: %w", path, err)
	}
	return f, nil
}

// Parse reads a configuration. The error shows where it is wrong.
func Parse(b []byte) (f *File, err error) {
	defer func() {
		if r := recover(); r != nil { // the YAML library panics on some malformed documents
			f, err = nil, fmt.Errorf("the file is not well-formed YAML (%v)", r)
		}
	}()
	f = &File{}
	dec := yaml.NewDecoder(strings.NewReader(string(b)), yaml.Strict())
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(withHint(yaml.FormatError(err, false, true)))
	}
	for _, c := range []struct {
		key, value string
		allowed    []string
	}{
		{"host.inbound", f.Host.Inbound, []string{"allow"}},
		{"nat.mapping", f.NAT.Mapping, mappings},
		{"nat.filtering", f.NAT.Filtering, filterings},
		{"nat.windows", f.NAT.Windows, []string{"liberal", "strict"}},
		{"nat.timers", f.NAT.Timers.Profile, []string{"rfc", "linux"}},
		{"uplink.kind", f.Uplink.Kind, []string{"tcx", "clsact", "tap"}},
	} {
		if c.value != "" && !slices.Contains(c.allowed, c.value) {
			return nil, fmt.Errorf("%s: %q is not supported; there is %s", c.key, c.value, strings.Join(c.allowed, ", "))
		}
	}
	if f.NAT.Flows < 0 || f.NAT.FlowsPerPort < 0 || f.NAT.Flows > maxFlows {
		return nil, fmt.Errorf("nat: flows and flows_per_port are numbers from 1, flows to %d", maxFlows)
	}
	for i, n := range f.Networks {
		if n.Mapping != "" && !slices.Contains(mappings, n.Mapping) || n.Filtering != "" && !slices.Contains(filterings, n.Filtering) {
			return nil, fmt.Errorf("networks[%d]: mapping is one of %s; filtering one of %s", i, strings.Join(mappings, ", "), strings.Join(filterings, ", "))
		}
	}
	for i, p := range f.Publish {
		if _, _, ok := strings.Cut(p.To, ":"); !ok || p.Host == "" {
			return nil, fmt.Errorf("publish[%d]: say host: \"8080\" and to: \"NAME:PORT\"", i)
		}
	}
	return f, nil
}

var (
	mappings   = []string{"endpoint-independent", "address-and-port-dependent"}
	filterings = []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}
)

// Timers are the time-outs of idle flows, in seconds: a profile, and what differs from it. `timers: linux` is the short
// form of {profile: linux}.
type Timers struct {
	Profile     string            `yaml:"profile,omitempty"` // rfc or linux
	UDP         uint32            `yaml:"udp,omitempty"`
	UDPStream   uint32            `yaml:"udp_stream,omitempty"`
	UDPShort    uint32            `yaml:"udp_short,omitempty"`
	SynSent     uint32            `yaml:"tcp_syn_sent,omitempty"`
	SynRecv     uint32            `yaml:"tcp_syn_recv,omitempty"`
	Established uint32            `yaml:"tcp_established,omitempty"`
	FinWait     uint32            `yaml:"tcp_fin_wait,omitempty"`
	CloseWait   uint32            `yaml:"tcp_close_wait,omitempty"`
	LastAck     uint32            `yaml:"tcp_last_ack,omitempty"`
	TimeWait    uint32            `yaml:"tcp_time_wait,omitempty"`
	TCPReset    uint32            `yaml:"tcp_close,omitempty"`
	ICMP        uint32            `yaml:"icmp,omitempty"`
	Generic     uint32            `yaml:"generic,omitempty"`
	Ports       map[string]uint32 `yaml:"ports,omitempty"` // by destination port, such as 5060/udp: 600
}

// UnmarshalYAML takes the short form, too.
func (t *Timers) UnmarshalYAML(decode func(any) error) error {
	if decode(&t.Profile) == nil {
		return nil
	}
	type long Timers // without this method
	return decode((*long)(t))
}

// TimersFrom are those that a running switch goes by: seconds by the keys of the file, PORT/PROTO for those by port.
func TimersFrom(m map[string]uint32) Timers {
	t := Timers{Profile: "rfc"}
	v := reflect.ValueOf(&t).Elem()
	for key, seconds := range m {
		if strings.Contains(key, "/") {
			if t.Ports == nil {
				t.Ports = map[string]uint32{}
			}
			t.Ports[key] = seconds
		}
		for i := range v.NumField() {
			if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ","); name == key && v.Field(i).CanUint() {
				v.Field(i).SetUint(uint64(seconds))
			}
		}
	}
	return t
}

const maxFlows = 1 << 24 // what the flow table's words have room for, with memory in mind

// keys are all keys of the file, for the hint.
var keys = []string{
	"uplink", "networks", "host", "nat", "ports", "publish", "device", "kind", "name", "subnet", "gateway", "mtu",
	"internal", "address", "inbound", "mapping", "filtering", "timers", "flows", "flows_per_port", "isolated", "windows", "profile", "udp", "udp_stream", "udp_short", "tcp_syn_sent", "tcp_syn_recv",
	"tcp_established", "tcp_fin_wait", "tcp_close_wait", "tcp_last_ack", "tcp_time_wait", "tcp_close", "icmp", "generic", "network", "netns", "ifname", "ip", "mac", "offload", "no_route", "qemu_stream", "qemu_dgram", "vde", "set", "routes", "dst", "via", "type", "from", "to", "proto",
}

// withHint adds which key was probably meant.
func withHint(msg string) string {
	_, rest, ok := strings.Cut(msg, `unknown field "`)
	if !ok {
		return msg
	}
	bad, _, _ := strings.Cut(rest, `"`)
	candidates := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == bad })
	if strings.Contains(msg, ":1] unknown field") { // at the left margin: a part of the file
		candidates = []string{"uplink", "networks", "host", "nat", "ports", "publish", "routes"}
	}
	best := slices.MinFunc(candidates, func(a, b string) int { return distance(bad, a) - distance(bad, b) })
	if d := distance(bad, best); d <= 1+len(bad)/3 {
		msg = strings.Replace(msg, `unknown field "`+bad+`"`, `unknown field "`+bad+`"; did you mean "`+best+`"?`, 1)
	}
	return msg
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
