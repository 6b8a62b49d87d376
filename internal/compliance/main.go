// Command compliance writes docs/compliance.md: tables of requirements from RFCs and from other projects' tests, each with this
// project's test. A test is a scenario file, whose header says what it is about, or a Go test, whose name and comment say it. A run of the
// tests gives the results.
//
//	go run ./internal/compliance > docs/compliance.md
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/internal/simnet"
)

// tests is the folder of the scenarios and of most tests. others have tests of protocols that need no network.
const tests = "internal/simnet"

var others = []string{"internal/dns", "internal/dnstcp", "internal/dhcp", "internal/gateway"}

// A requirement is a requirement and its test.
type requirement struct {
	section    int
	label      string // its number
	test, file string // the test's name; the scenario's file, or ""
	asks       string
	deviates   string
	never      string // why it is not applicable
	result     string
}

// sections are the tables of the page. A scenario belongs to a section by the beginning of its requirement, a Go test by the beginning
// of its name.
var sections = []struct{ requirement, name, title, about string }{
	{"RFC 4787", "RFC4787_", "RFC 4787: UDP", "Network Address Translation Behavioral Requirements for Unicast UDP."},
	{"RFC 5382", "RFC5382_", "RFC 5382: TCP", "NAT Behavioral Requirements for TCP."},
	{"RFC 5508", "RFC5508_", "RFC 5508: ICMP", "NAT Behavioral Requirements for ICMP."},
	{"RFC 7857", "RFC7857_", "RFC 7857", "Updates to NAT Behavioral Requirements."},
	{"RFC 6888", "RFC6888_", "RFC 6888", "Common Requirements for Carrier-Grade NATs: those that make sense for containers."},
	{"RFC 1812", "RFC1812_", "RFC 1812: the router", "Requirements for IP Version 4 Routers."},
	{"RFC 826", "RFC826_", "RFC 826: ARP", ""},
	{"RFC 5227", "RFC5227_", "RFC 5227: address conflicts", ""},
	{"RFC 1122", "RFC1122_", "RFC 1122", "Requirements for Internet Hosts, where they apply to the router itself."},
	{"RFC 8200", "RFC8200_", "RFC 8200: IPv6", "Internet Protocol, Version 6."},
	{"RFC 4291", "RFC4291_", "RFC 4291: IPv6 addresses", ""},
	{"RFC 4007", "RFC4007_", "RFC 4007: scopes of IPv6 addresses", ""},
	{"RFC 4443", "RFC4443_", "RFC 4443: ICMPv6", ""},
	{"RFC 8201", "RFC8201_", "RFC 8201: path MTU discovery", ""},
	{"RFC 4861", "RFC4861_", "RFC 4861: neighbor discovery", ""},
	{"RFC 9131", "RFC9131_", "RFC 9131", "Gratuitous Neighbor Discovery."},
	{"RFC 4862", "RFC4862_", "RFC 4862: address configuration", ""},
	{"RFC 5095", "RFC5095_", "RFC 5095", "Deprecation of Type 0 Routing Headers."},
	{"RFC 5722", "RFC5722_", "RFC 5722", "Handling of Overlapping IPv6 Fragments."},
	{"RFC 6946", "RFC6946_", "RFC 6946", "Processing of IPv6 \"Atomic\" Fragments."},
	{"RFC 8021", "RFC8021_", "RFC 8021", "Generation of IPv6 Atomic Fragments Considered Harmful."},
	{"RFC 6980", "RFC6980_", "RFC 6980", "Security Implications of IPv6 Fragmentation with Neighbor Discovery."},
	{"RFC 7112", "RFC7112_", "RFC 7112", "Implications of Oversized IPv6 Header Chains."},
	{"RFC 6437", "RFC6437_", "RFC 6437", "IPv6 Flow Label Specification."},
	{"RFC 6105", "RFC6105_", "RFC 6105: router advertisement guard", "With RFC 7113, which asks for the whole chain of headers."},
	{"RFC 7610", "RFC7610_", "RFC 7610: DHCPv6 shield", ""},
	{"RFC 1035", "RFC1035_", "RFC 1035: names", "Domain Names - Implementation and Specification."},
	{"RFC 2308", "RFC2308_", "RFC 2308", "Negative Caching of DNS Queries."},
	{"RFC 8020", "RFC8020_", "RFC 8020", "NXDOMAIN: There Really Is Nothing Underneath."},
	{"RFC 8482", "RFC8482_", "RFC 8482", "Providing Minimal-Sized Responses to DNS Queries That Have QTYPE=ANY."},
	{"RFC 7766", "RFC7766_", "RFC 7766: names over TCP", "DNS Transport over TCP."},
	{"RFC 2131", "RFC2131_", "RFC 2131: DHCP", "Dynamic Host Configuration Protocol."},
	{"RFC 2132", "RFC2132_", "RFC 2132", "DHCP Options."},
	{"RFC 7084", "RFC7084_", "RFC 7084", "Basic Requirements for IPv6 Customer Edge Routers."},
	{"RFC 4191", "RFC4191_", "RFC 4191", "Default Router Preferences and More-Specific Routes."},
	{"RFC 3810", "RFC3810_", "RFC 3810: multicast listeners", "Multicast Listener Discovery Version 2; MLD of version 1 (RFC 2710) likewise."},
	{"RFC 8106", "RFC8106_", "RFC 8106", "IPv6 Router Advertisement Options for DNS Configuration."},
	{"RFC 8781", "RFC8781_", "RFC 8781", "Discovering PREF64 in Router Advertisements."},
	{"RFC 6583", "RFC6583_", "RFC 6583", "Operational Neighbor Discovery Problems."},
	{"RFC 4890", "RFC4890_", "RFC 4890", "Recommendations for Filtering ICMPv6 Messages in Firewalls."},
	{"RFC 6092", "RFC6092_", "RFC 6092: what may begin outside", "Recommended Simple Security Capabilities in Customer Premises Equipment."},
	{"RFC 6296", "RFC6296_", "RFC 6296: NPTv6", "IPv6-to-IPv6 Network Prefix Translation."},
	{"Behaviour", "Behaviour_", "Known faults of other implementations", "Behaviour that no numbered requirement covers."},
	{"Linux", "Linux_", "Linux's own tests", "The topologies of tools/testing/selftests/net/netfilter and of the packetdrill scripts for conntrack, written for this project."},
	{"Open vSwitch", "OVS_", "Open vSwitch's tests", "Cases of tests/system-traffic.at about conntrack and NAT, written for this project."},
	{"VPP", "VPP_", "VPP's tests", "Cases of the nat44-ed plug-in, written for this project."},
}

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compliance:", err)
		os.Exit(1)
	}
}

func run(out *os.File) error {
	list, err := collect()
	if err != nil {
		return err
	}
	results, err := results()
	if err != nil {
		return err
	}
	failed := 0
	for i := range list {
		r := &list[i]
		r.result = results[r.test]
		if r.result != "pass" && (r.result != "skip" || r.never == "") {
			failed++
		}
	}
	var b bytes.Buffer
	write(&b, list)
	if _, err := out.Write(b.Bytes()); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d tests did not pass", failed)
	}
	return nil
}

// collect reads the headers of the scenarios and the comments of the Go tests.
func collect() (list []requirement, err error) {
	scenarios, err := filepath.Glob(filepath.Join(tests, "testdata/*/*.txt"))
	if err != nil || len(scenarios) == 0 {
		return nil, fmt.Errorf("no scenarios in %s: run this from the top of the repository (%v)", tests, err)
	}
	for _, file := range scenarios {
		r, err := ofScenario(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if r.asks != "" {
			list = append(list, r)
		}
	}
	for _, folder := range append([]string{tests}, others...) {
		files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			more, err := ofGo(file)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			list = append(list, more...)
		}
	}
	slices.SortStableFunc(list, func(a, b requirement) int {
		return cmp.Or(cmp.Compare(a.section, b.section), compareLabels(a.label, b.label), cmp.Compare(a.test, b.test))
	})
	return list, nil
}

// ofScenario is the requirement of a scenario's file. It asks nothing when the header names no requirement.
func ofScenario(file string) (r requirement, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	s, err := simnet.ParseScenario(string(text))
	if err != nil || s.Requirement == "" {
		return r, err
	}
	for i, sec := range sections {
		if label, ok := strings.CutPrefix(s.Requirement, sec.requirement); ok && (label == "" || label[0] == ' ') {
			name := strings.TrimSuffix(strings.TrimPrefix(file, tests+"/testdata/"), ".txt")
			return requirement{section: i, label: strings.TrimSpace(label), test: "TestScenarios/" + name, file: file, asks: s.Title, deviates: s.Deviates, never: s.NotApplicable}, nil
		}
	}
	return r, fmt.Errorf("requirement %q belongs to no section of the page (internal/compliance)", s.Requirement)
}

var number = regexp.MustCompile(`^(REQ)?([0-9][0-9a-z]*(?:_[0-9]+)*)_`)

// ofGo lists the requirements that the tests of a Go file answer.
func ofGo(file string) (list []requirement, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		for i, sec := range sections {
			rest, ok := strings.CutPrefix(fn.Name.Name, "Test"+sec.name)
			if !ok {
				continue
			}
			r := requirement{section: i, test: fn.Name.Name}
			if m := number.FindStringSubmatch(rest); m != nil {
				r.label = strings.ReplaceAll(m[2], "_", ".")
				if m[1] != "" {
					r.label = "REQ-" + r.label
				}
			}
			for k, p := range strings.Split(strings.TrimSpace(fn.Doc.Text()), "\n\n") {
				p = strings.Join(strings.Fields(p), " ")
				if deviates, ok := strings.CutPrefix(p, "Deviates: "); ok {
					r.deviates = deviates
				} else if k == 0 {
					r.asks = p
				}
			}
			if r.asks == "" {
				return nil, fmt.Errorf("%s has no comment", fn.Name.Name)
			}
			list = append(list, r)
		}
	}
	return list, nil
}

var digits = regexp.MustCompile(`[0-9]+`)

// compareLabels orders numbers by their value: REQ-9 before REQ-10, 5.3.8 before 5.3.13.
func compareLabels(a, b string) int {
	wide := func(s string) string {
		return digits.ReplaceAllStringFunc(s, func(n string) string { return fmt.Sprintf("%4s", n) })
	}
	return cmp.Compare(wide(a), wide(b))
}

// results runs the tests and returns pass, fail or skip by test name.
func results() (map[string]string, error) {
	args := []string{"test", "-json", "-count=1", "./" + tests}
	for _, folder := range others {
		args = append(args, "./"+folder)
	}
	c := exec.Command("go", args...)
	c.Stderr = os.Stderr
	text, err := c.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	out := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var e struct{ Action, Test string }
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			out[e.Test] = e.Action
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the tests did not run:\n%s", text)
	}
	return out, nil
}

// write writes the page.
func write(b *bytes.Buffer, list []requirement) {
	fmt.Fprint(b, `# Compliance

This page lists what RFCs and other projects require of a NAT, a router and its ARP, and the test for each requirement.
`+"`make compliance`"+` makes the page from the tests.
Each test runs in virtual time in [internal/simnet](../internal/simnet).
A test is a scenario, which reads like a conversation between hosts, or a Go test where a program is needed.
[scenarios.md](scenarios.md) describes the scenarios.
To run one test: `+"`go test ./internal/simnet -run NAME`"+`.

Each test that speaks of IPv4 is played over IPv6, too, and must have the same outcome.
The exceptions, each with its reason, are in [six_test.go](../internal/simnet/six_test.go).

Real programs and kernels check the command, too, in [internal/e2e](../internal/e2e):

- coturn's `+"`turnutils_natdiscovery`"+` reports the mapping, the filtering and the hairpinning that the configuration asks for,
  over IPv4 and IPv6 (`+"`TestNATDiscovery`"+`).
- The kernel's MASQUERADE and DNAT get the same packets as uvswitch, over IPv4 and IPv6.
  The test lists each difference with its reason (`+"`TestKernelNATAgrees`"+`).
- The kernel's NPT and proxy_ndp, ndisc6, rdisc6, radvdump, and the attacks of thc-ipv6 and SI6 judge what is there for IPv6 only
  (`+"`TestNPTAsTheKernel`, `TestNDProxy`, `TestIPv6Tools`, `TestIPv6Attacks`"+`).
- The attacks of dsniff and yersinia, and frames made by hand, judge the guard; a kernel's bridge shows that the attacks work (`+"`TestIPv4Attacks`"+`).
`)
	for i, s := range sections {
		rows := slices.DeleteFunc(slices.Clone(list), func(r requirement) bool { return r.section != i })
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", s.title)
		if s.about != "" {
			fmt.Fprintf(b, "%s\n\n", s.about)
		}
		fmt.Fprintf(b, "| | requirement | result | test |\n|---|---|---|---|\n")
		for _, r := range rows {
			result := r.result
			switch {
			case r.result == "skip" && r.never != "":
				result = "not applicable: " + r.never
			case r.result != "pass":
				result = "**" + r.result + "**"
			case r.deviates != "":
				result = "pass; deviates: " + r.deviates
			}
			test := "`" + r.test + "`"
			if r.file != "" {
				test = fmt.Sprintf("[%s](../%s)", strings.TrimPrefix(r.test, "TestScenarios/"), r.file)
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s |\n", r.label, cell(r.asks), cell(result), test)
		}
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
