package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	f, err := Parse([]byte(`
uplink: {device: auto, kind: tcx, ports: "20000-29999,61000-65535"}
networks:
  - {name: default, subnet: 172.29.0.0/16, gateway: 172.29.0.1, mtu: 1500}
  - {name: lab, subnet: 10.9.0.0/24, internal: true}
host: {address: auto, inbound: allow}
nat: {mapping: endpoint-independent, filtering: address-and-port-dependent, timers: rfc, flows: 4096, flows_per_port: 100}
ports:
  - {name: web, netns: web, ip: 172.29.0.2/16}
publish:
  - {from: any, host: "8080", to: "web:80", proto: tcp}
`))
	if err != nil {
		t.Fatal(err)
	}
	if f.Uplink.Kind != "tcx" || len(f.Networks) != 2 || !f.Networks[1].Internal || f.Host.Address != "auto" || f.NAT.FlowsPerPort != 100 || f.NAT.Flows != 4096 ||
		f.Ports[0].IP != "172.29.0.2/16" || f.Publish[0].To != "web:80" {
		t.Errorf("%+v", f)
	}
	for text, want := range map[string]string{"host: off": "off", "host: on": "", "host: {address: off}": "off"} {
		if f, err := Parse([]byte(text)); err != nil || f.Host.Address != want {
			t.Errorf("%s: %+v %v", text, f, err)
		}
	}
	f, err = Parse([]byte("nat: {windows: strict, timers: {profile: linux, udp_stream: 600, ports: {\"5060/udp\": 3600}}}\nnetworks: [{name: a, subnet: 10.9.0.0/24, isolated: true, filtering: address-dependent}]"))
	if err != nil || f.NAT.Timers.Profile != "linux" || f.NAT.Timers.UDPStream != 600 || f.NAT.Timers.Ports["5060/udp"] != 3600 || f.NAT.Windows != "strict" ||
		!f.Networks[0].Isolated || f.Networks[0].Filtering != "address-dependent" {
		t.Errorf("%+v %v", f, err)
	}
	if f, err := Parse(nil); err != nil || f == nil {
		t.Errorf("an empty file: %v", err)
	}
}

// Errors say where, show the line, and guess what was meant.
func TestErrors(t *testing.T) {
	for text, want := range map[string][]string{
		"netwroks: []":                                         {"[1:1]", `unknown field "netwroks"; did you mean "networks"?`},
		"uplink:\n  devcie: eth0":                              {"[2:3]", `did you mean "device"?`},
		"ports:\n  - {name: a, mtu: long}":                     {"[2:", "mtu: long"},
		"networks: [{name: a, ndProxy: on}]":                   {"[1:", "must be true or false"},
		"networks: [{name: a, mtu: long}]":                     {"must be a whole number"},
		"networks: 7":                                          {"where a list is expected"},
		"uplink: true":                                         {"where keys with values are expected"},
		"uplink: [":                                            {"[1:"},
		"host: {inbuond: deny}":                                {"[1:8]", `did you mean "inbound"?`},
		"host: {inbound: [22]}":                                {"must be allow, deny, or ports and icmp"},
		"host: {inbound: \",\"}":                               {"must be allow, deny, or ports and icmp"},
		"host: {inbound: {tcp: 22}}":                           {"[1:"},
		"host: maybe":                                          {"must be on, off"},
		"nat: {mapping: symmetric}":                            {"is not supported; it must be one of endpoint-independent"},
		"nat: {timers: {profil: rfc}}":                         {`did you mean "profile"?`},
		"nat: {timers: slow}":                                  {"must be one of rfc, linux"},
		"nat: {windows: open}":                                 {"must be one of liberal, strict"},
		"networks: [{name: a, mapping: x}]":                    {"must be one of endpoint-independent"},
		"nat: {flows: -1}":                                     {"numbers from 1"},
		"networks: [{name: a, protocols: [tcp]}]":              {"tcp is always allowed"},
		"networks: [{name: a, protocols: [egp]}]":              {`"egp" is not an IP protocol`},
		"publish:\n  - {host: \"80\", to: \"a:80\", from: ''}": {"from is empty"},
		"publish:\n  - {host: \"80\", to: \"a:80\", from: }":   {"from is empty"},
		"uplink: {devices: []}":                                {"the list is empty"},
		"publish:\n  - {host: \"80\"}":                         {`to: "NAME:PORT"`},
	} {
		_, err := Parse([]byte(text))
		if err == nil {
			t.Errorf("%q is accepted", text)
			continue
		}
		if all := (Source{}).faults([]byte(text)); len(all) == 0 || all[0].Error() != err.Error() {
			t.Errorf("%q has the faults %q; want %q first", text, all, err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v; want %q", text, err, w)
			}
		}
	}
}

// TestFaults checks that all faults of a file are reported, each with its place, and nothing that is right.
func TestFaults(t *testing.T) {
	all := (Source{}).faults([]byte(`
uplink: {devcie: eth0, kind: tcx}
nat: {flows: many}
networks:
  - {name: lab, subnet: 10.9.0.0/24}
  - {name: lab, subnet: 10.8.0.0/24}
  - {name: bad, subnet: 10.9.0.0/16, mtu: long}
ports:
  - {name: a, netns: a, ip: 172.29.0.2}
  - {name: b, netns: b, ip: 172.29.0.2}
  - {name: c, netns: c, network: nowhere}
  - {name: "d e"}
  - {name: f, netns: f, network: lab, ip: 10.9.0.9}
publish:
  - {host: "80", from: }
  - {host: "81", to: "a:80"}
  - {host: "81", to: "f:80"}
  - {host: "82"}
routes: [{dst: 192.0.2.0/33}]
prots: []
`))
	for i, want := range []string{"[15:", "[2:10]", "[3:", "[7:", "[20:1]", `network "lab"`, "172.29.0.2", "nowhere", `"d e"`, "81", `publish[3]: needs host: "8080" and to`, "192.0.2.0/33"} {
		if !slices.ContainsFunc(all, func(err error) bool { return strings.Contains(err.Error(), want) }) {
			t.Errorf("fault %d, %s, is not among %d:\n%v", i, want, len(all), errors.Join(all...))
		}
	}
	if len(all) != 14 { // the network with the wrong MTU overlaps, too, and the published port without sources lacks its target
		t.Errorf("%d faults:\n%v", len(all), errors.Join(all...))
	}
	if all := (Source{}).faults([]byte("ports: [" + strings.Repeat("{name: a b}, ", 100) + "]")); len(all) != mostFaults {
		t.Errorf("%d faults", len(all))
	}
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "  - {name: p%d, netns: n}\n", i)
	}
	if all := (Source{}).faults([]byte("ports:\n" + many.String() + "routes: [{dst: x}]")); len(all) != 1 {
		t.Errorf("%d faults of 2,000 ports and a route", len(all))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("uplink: {device: auto}\nnetworks:\n  - {name: lab}\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text))
		if err == nil && c == nil {
			t.Error("neither a file nor an error")
		}
		if all := (Source{}).faults([]byte(text)); err != nil && len(all) == 0 {
			t.Errorf("no faults, but %v", err)
		}
	})
}

// What a flag of run says wins over the file; a reload says so.
func TestOverridden(t *testing.T) {
	ports, off, same := "40000-40003", false, "10.9.0.0/24"
	s := Source{Flags: Flags{NATPorts: &ports, Host: &off, Subnet: &same}}
	c, notes, err := s.Load([]byte("uplink: {ports: 40000-40103}\nhost: {address: auto}\nnetworks: [{name: default, subnet: 10.9.0.0/24}]\n"))
	want := []string{"the flag --nat-ports 40000-40003 of `uvswitch run` overrides uplink.ports of the file", "the flag --host off of `uvswitch run` overrides host.address of the file"}
	if err != nil || c.Uplink.Ports != ports || c.Host.On || !slices.Equal(notes, want) {
		t.Errorf("%v %q %+v", err, notes, c.Uplink)
	}
	if _, notes, err = (Source{}).Load([]byte("uplink: {ports: 40000-40103}\n")); err != nil || len(notes) > 0 {
		t.Errorf("without flags: %v %q", err, notes)
	}
}
