// Package config reads and writes the switch's configuration file: YAML, strictly. An unknown key or a wrong type is an error
// with its line, its column and the line itself. It applies nothing.
//
// config.go has the file's form, source.go turns a file into a model.Config, show.go a running switch into a file.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/nat"
)

// File is the whole configuration file. Absent parts keep the defaults of `uvswitch run`.
type File struct {
	Uplink   Uplink           `yaml:"uplink,omitempty"`   // the way between the containers and the outside
	Networks []api.NetworkAdd `yaml:"networks,omitempty"` // the networks; network default exists without being listed
	Host     Host             `yaml:"host,omitempty"`     // the host's own port, which makes the host a member of network default; off: none
	NAT      NAT              `yaml:"nat,omitempty"`      // the flow table and the translation
	Ports    []api.PortAdd    `yaml:"ports,omitempty"`    // what is plugged in
	Publish  []Publish        `yaml:"publish,omitempty"`  // ports of the host that lead to containers
	Routes   []Route          `yaml:"routes,omitempty"`   // static routes
	Policies []api.PolicyAdd  `yaml:"policies,omitempty"` // named lists of rules that say which flows may begin
}

// Choices are the words of those keys that take one of a few. Mapping and filtering have longer forms, too, in networks.
var Choices = map[string][]string{
	"nat.mapping":        nat.MappingNames(),
	"nat.filtering":      nat.FilteringNames(),
	"nat.windows":        {"liberal", "strict"},
	"nat.timers.profile": {"rfc", "linux"},
	"uplink.kind":        model.UplinkKinds,
	"routes[].type":      {"unicast", "blackhole", "unreachable", "prohibit"},
}

// Uplink is the way out.
type Uplink struct {
	Device string `yaml:"device,omitempty"` // auto (the default: the host's routing chooses), none (no way out), or the name of a device
	Kind   string `yaml:"kind,omitempty"`   // how packets leave; default: tcx with root, sockets without (choose-an-uplink.md)
	Ports  string `yaml:"ports,omitempty"`  // ranges of outside ports that NAT may give out, such as "1024-65535"

	Devices Names `yaml:"devices,omitempty,flow"` // packets may leave by these devices only; when absent: by each device that the host's routing chooses
}

// Names are a list that is not empty: an empty one would allow everything.
type Names []string

// UnmarshalYAML refuses an empty list.
func (n *Names) UnmarshalYAML(decode func(any) error) error {
	if err := decode((*[]string)(n)); err != nil {
		return err
	}
	if len(*n) == 0 {
		return errors.New("the list is empty; leave the key out, or name what is allowed")
	}
	return nil
}

// Sources are any, or CIDRs with commas.
type Sources string

// UnmarshalYAML refuses an empty text.
func (s *Sources) UnmarshalYAML(decode func(any) error) error {
	if err := decode((*string)(s)); err != nil {
		return err
	}
	if *s == "" {
		return errors.New("from is empty; write any, or CIDRs separated by commas")
	}
	return nil
}

// Host is the host port. `host: off` leaves it out.
type Host struct {
	Address string    `yaml:"address,omitempty"` // auto (the default: the subnet's last address), off, or an address of network default
	Inbound api.Words `yaml:"inbound,omitempty"` // what containers may begin with the host: allow (the default), deny, or a list, such as [22/tcp, 53/udp, icmp]
	Cgroup  string    `yaml:"cgroup,omitempty"`  // off, or a folder of cgroup2 whose processes reach published ports without the relay
}

// UnmarshalYAML takes the short form, too.
func (h *Host) UnmarshalYAML(decode func(any) error) error {
	var word string
	if decode(&word) == nil {
		if word != "on" && word != "off" && word != "true" && word != "false" {
			return fmt.Errorf("host: must be on, off, or {address: auto, inbound: allow}, not %q", word)
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
	Mapping      string `yaml:"mapping,omitempty"`        // which flows share an outside port, in networks that say nothing (RFC 4787, 4; nat.md)
	Filtering    string `yaml:"filtering,omitempty"`      // which packets from outside a mapping lets in, in networks that say nothing (RFC 4787, 5; nat.md)
	Windows      string `yaml:"windows,omitempty"`        // what becomes of TCP segments outside the window: passed (liberal, the default) or dropped (strict)
	Timers       Timers `yaml:"timers,omitempty"`         // for how many seconds an idle flow is kept; rfc (the default) and linux are profiles
	Flows        int    `yaml:"flows,omitempty"`          // room for flows of IPv4; default: 1,048,576, or 131,072 without root
	Flows6       int    `yaml:"flows6,omitempty"`         // room for flows of IPv6; default: a quarter of flows
	FlowsPerPort int    `yaml:"flows_per_port,omitempty"` // how many flows one port, or all ports of a tenant together, may have; default: its share, which depends on what others use
}

// Route is a static route: through a gateway, or of a type.
type Route struct {
	Dst  string `yaml:"dst,omitempty"`  // the destination, such as 192.0.2.0/24; every route needs it
	Via  string `yaml:"via,omitempty"`  // the gateway (or say the type): an address of a network, or host (the host's own stack)
	Type string `yaml:"type,omitempty"` // unicast (with via), or instead of via: blackhole (dropped), unreachable or prohibit (both answered with an ICMP error)
}

// Publish is a published port: Host is [ADDR:]PORT[-END], To is NAME:PORT.
type Publish struct {
	From  Sources `yaml:"from,omitempty"`  // the clients that may use it: any (the default), or prefixes separated by commas
	Host  string  `yaml:"host,omitempty"`  // the host's port: [ADDRESS:]PORT[-END], such as "8080", "198.51.100.1:8080" or "5000-5009"; every published port needs it
	To    string  `yaml:"to,omitempty"`    // the container's port: NAME:PORT, such as "web:80"; of a range, its first port; every published port needs it
	Proto string  `yaml:"proto,omitempty"` // tcp (the default), udp or sctp
}

// restricting are keys whose value restricts something: without a value, they would allow everything.
var restricting = []string{"from", "devices", "inbound", "protocols", "policies", "rules"}

// checkNulls refuses a restricting key without a value. The decoder would take it for an absent one.
func checkNulls(b []byte) error {
	doc, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil // the decoder says more
	}
	var v nullFinder
	for _, d := range doc.Docs {
		if d.Body != nil {
			ast.Walk(&v, d.Body)
		}
	}
	return v.err
}

type nullFinder struct {
	err error
	at  *token.Token
}

func (v *nullFinder) Visit(n ast.Node) ast.Visitor {
	if m, ok := n.(*ast.MappingValueNode); ok && slices.Contains(restricting, m.Key.String()) && m.Value.Type() == ast.NullType {
		v.at = m.Key.GetToken()
		v.err = fmt.Errorf("[%d:%d] %s is empty; write its value, or leave the key out", v.at.Position.Line, v.at.Position.Column, m.Key)
	}
	return v
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
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // a byte order mark
	if err := checkNesting(b); err != nil {
		return nil, err
	}
	if err := checkNulls(b); err != nil {
		return nil, err
	}
	f = &File{}
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(withHint(inWords(err)))
	}
	if err := dec.Decode(&File{}); !errors.Is(err, io.EOF) {
		return nil, errTwoDocuments
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

var errTwoDocuments = errors.New("the file has more than one YAML document; put everything into one, without lines ---")

// check checks what can be known from each part of the file alone.
func (f *File) check() error {
	for _, c := range []struct {
		key, value string
	}{
		{"nat.mapping", f.NAT.Mapping},
		{"nat.filtering", f.NAT.Filtering},
		{"nat.windows", f.NAT.Windows},
		{"nat.timers.profile", f.NAT.Timers.Profile},
		{"uplink.kind", f.Uplink.Kind},
	} {
		if c.value != "" && !slices.Contains(Choices[c.key], c.value) {
			return fmt.Errorf("%s: %q is not supported; it must be one of %s", c.key, c.value, strings.Join(Choices[c.key], ", "))
		}
	}
	if _, err := model.ParseInbound(string(f.Host.Inbound)); err != nil {
		return err
	}
	if min(f.NAT.Flows, f.NAT.Flows6, f.NAT.FlowsPerPort) < 0 || max(f.NAT.Flows, f.NAT.Flows6) > maxFlows {
		return fmt.Errorf("nat: flows, flows6 and flows_per_port are numbers from 1; the largest for flows and flows6 is %d", maxFlows)
	}
	for i, n := range f.Networks {
		if _, err := nat.ParseMapping(n.Mapping); err != nil {
			return fmt.Errorf("networks[%d]: %w", i, err)
		}
		if _, err := nat.ParseProtocols(string(n.Protocols)); err != nil {
			return fmt.Errorf("networks[%d]: %w", i, err)
		}
		if _, err := nat.ParseFiltering(n.Filtering); err != nil {
			return fmt.Errorf("networks[%d]: %w", i, err)
		}
	}
	for i, p := range f.Ports {
		if p.Handed {
			return fmt.Errorf("ports[%d]: handed is only for programs that pass a TAP with an API request; remove this key from the file", i)
		}
	}
	for i, p := range f.Publish {
		if _, _, ok := strings.Cut(p.To, ":"); !ok || p.Host == "" {
			return fmt.Errorf("publish[%d]: needs host: \"8080\" and to: \"NAME:PORT\"", i)
		}
	}
	return nil
}

// UnmarshalYAML takes the short form, too.
func (t *Timers) UnmarshalYAML(decode func(any) error) error {
	if decode(&t.Profile) == nil {
		return nil
	}
	type long Timers // without this method
	return decode((*long)(t))
}

const maxFlows = 1 << 24 // the flow table's words have room for more; memory does not

// keys are all keys of the file, and topKeys those of its parts, for the hint.
var (
	keys    = keysOf(reflect.TypeFor[File](), true)
	topKeys = keysOf(reflect.TypeFor[File](), false)
)

// keysOf collects the keys of a struct; deep: also those of the structs in it.
func keysOf(t reflect.Type, deep bool) (out []string) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(cmp.Or(f.Tag.Get("yaml"), f.Tag.Get("json")), ",") // the YAML library takes either
		if key != "" && key != "handed" {
			out = append(out, key)
		}
		if deep {
			out = append(out, keysOf(f.Type, true)...)
		}
	}
	return out
}

// ofGo is how the YAML library says that a value has the wrong type.
var ofGo = regexp.MustCompile(`cannot unmarshal .* into Go .* of type \S+`)

// inWords is what the YAML library says, without words of Go.
func inWords(err error) string {
	msg := yaml.FormatError(err, false, true)
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return strings.NewReplacer("where sequence is expected", "where a list is expected", "where mapping is expected", "where keys with values are expected").Replace(msg)
	}
	want := "a value of another kind"
	switch wrong.DstType.Kind() {
	case reflect.Bool:
		want = "true or false"
	case reflect.Int, reflect.Int64:
		want = "a whole number"
	case reflect.String:
		want = "a text"
	case reflect.Slice:
		want = "a list"
	case reflect.Struct, reflect.Map:
		want = "keys with values"
	}
	return ofGo.ReplaceAllLiteralString(msg, "this must be "+want)
}

// withHint adds which key was probably meant.
func withHint(msg string) string {
	_, rest, ok := strings.Cut(msg, `unknown field "`)
	if !ok {
		return msg
	}
	bad, _, _ := strings.Cut(rest, `"`)
	candidates := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == bad })
	if strings.Contains(msg, ":1] unknown field") { // in the first column: a part of the file
		candidates = topKeys
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

// maxNesting is how deep brackets may be nested. The YAML library needs time and memory with the square of the depth.
const maxNesting = 32

// checkNesting counts brackets, also in texts and comments, where so many are no configuration either.
func checkNesting(b []byte) error {
	depth := 0
	for _, c := range b {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(depth-1, 0)
		}
		if depth > maxNesting {
			return fmt.Errorf("brackets are nested deeper than %d", maxNesting)
		}
	}
	return nil
}
