// Package config reads the switch's configuration file: YAML, strictly. An unknown key or a wrong type is an error
// with its line, its column and the line itself. It applies nothing.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// File is the whole configuration file. Absent parts keep the defaults of `uvswitch run`.
type File struct {
	Uplink   Uplink    `yaml:"uplink"`
	Networks []Network `yaml:"networks"`
	Host     Host      `yaml:"host"`
	NAT      NAT       `yaml:"nat"`
	Ports    []Port    `yaml:"ports"`
	Publish  []Publish `yaml:"publish"`
}

// Uplink is the way out.
type Uplink struct {
	Device string `yaml:"device"` // auto, none, or a device
	Kind   string `yaml:"kind"`   // tcx, clsact or tap
	Ports  string `yaml:"ports"`  // ranges that NAT may give out
}

// Network is a broadcast domain. The one named default must be first if it is named at all.
type Network struct {
	Name      string `yaml:"name"`
	Subnet    string `yaml:"subnet"`
	Gateway   string `yaml:"gateway"`
	MTU       int    `yaml:"mtu"`
	Internal  bool   `yaml:"internal"`
	Isolated  bool   `yaml:"isolated"`
	Mapping   string `yaml:"mapping"`
	Filtering string `yaml:"filtering"`
}

// Host is the host port. `host: off` leaves it out.
type Host struct {
	Address string `yaml:"address"` // auto (the subnet's last), off, or an address of network default
	Inbound string `yaml:"inbound"` // allow
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
	Mapping      string `yaml:"mapping"`   // of networks that say nothing
	Filtering    string `yaml:"filtering"` // likewise
	Windows      string `yaml:"windows"`   // liberal or strict
	Timers       Timers `yaml:"timers"`
	Flows        int    `yaml:"flows"`
	FlowsPerPort int    `yaml:"flows_per_port"`
}

// Port is a port made at start, in a namespace or on a device.
type Port struct {
	Name    string `yaml:"name"`
	Network string `yaml:"network"`
	Netns   string `yaml:"netns"`
	Ifname  string `yaml:"ifname"`
	Device  string `yaml:"device"`
	IP      string `yaml:"ip"`
	MAC     string `yaml:"mac"`
	MTU     int    `yaml:"mtu"`
	Offload string `yaml:"offload"`
}

// Publish is a published port: Host is [ADDR:]PORT[-END], To is NAME:PORT.
type Publish struct {
	From  string `yaml:"from"` // any, or CIDRs with commas
	Host  string `yaml:"host"`
	To    string `yaml:"to"`
	Proto string `yaml:"proto"`
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
	Profile     string            `yaml:"profile"` // rfc or linux
	UDP         uint32            `yaml:"udp"`
	UDPStream   uint32            `yaml:"udp_stream"`
	UDPShort    uint32            `yaml:"udp_short"`
	SynSent     uint32            `yaml:"tcp_syn_sent"`
	SynRecv     uint32            `yaml:"tcp_syn_recv"`
	Established uint32            `yaml:"tcp_established"`
	FinWait     uint32            `yaml:"tcp_fin_wait"`
	CloseWait   uint32            `yaml:"tcp_close_wait"`
	LastAck     uint32            `yaml:"tcp_last_ack"`
	TimeWait    uint32            `yaml:"tcp_time_wait"`
	TCPReset    uint32            `yaml:"tcp_close"`
	ICMP        uint32            `yaml:"icmp"`
	Generic     uint32            `yaml:"generic"`
	Ports       map[string]uint32 `yaml:"ports"` // by destination port, such as 5060/udp: 600
}

// UnmarshalYAML takes the short form, too.
func (t *Timers) UnmarshalYAML(decode func(any) error) error {
	if decode(&t.Profile) == nil {
		return nil
	}
	type long Timers // without this method
	return decode((*long)(t))
}

const maxFlows = 1 << 24 // what the flow table's words have room for, with memory in mind

// keys are all keys of the file, for the hint.
var keys = []string{
	"uplink", "networks", "host", "nat", "ports", "publish", "device", "kind", "name", "subnet", "gateway", "mtu",
	"internal", "address", "inbound", "mapping", "filtering", "timers", "flows", "flows_per_port", "isolated", "windows", "profile", "udp", "udp_stream", "udp_short", "tcp_syn_sent", "tcp_syn_recv",
	"tcp_established", "tcp_fin_wait", "tcp_close_wait", "tcp_last_ack", "tcp_time_wait", "tcp_close", "icmp", "generic", "network", "netns", "ifname", "ip", "mac", "offload", "from", "to", "proto",
}

// withHint adds which key was probably meant.
func withHint(msg string) string {
	_, rest, ok := strings.Cut(msg, `unknown field "`)
	if !ok {
		return msg
	}
	bad, _, _ := strings.Cut(rest, `"`)
	best := slices.MinFunc(keys, func(a, b string) int { return distance(bad, a) - distance(bad, b) })
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
