// Command compliance writes docs/compliance.md, a table of requirements from RFCs and from other projects' tests, each with our
// test for it. It takes the names and comments from the source of the tests, and the results from a run of the tests.
//
//	go run ./internal/compliance > docs/compliance.md
package main

import (
	"bufio"
	"bytes"
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
)

// tests is the folder of the tests.
const tests = "internal/simnet"

// A requirement is a requirement and its test.
type requirement struct {
	name, file string
	asks       string
	deviates   string
	never      string // why it is not applicable
	result     string
}

// sections are the tables of the page. A test belongs to the first table whose prefix its name has.
var sections = []struct{ prefix, title, about string }{
	{"RFC4787_", "RFC 4787: UDP", "Network Address Translation Behavioral Requirements for Unicast UDP."},
	{"RFC5382_", "RFC 5382: TCP", "NAT Behavioral Requirements for TCP."},
	{"RFC5508_", "RFC 5508: ICMP", "NAT Behavioral Requirements for ICMP."},
	{"RFC7857_", "RFC 7857", "Updates to NAT Behavioral Requirements."},
	{"RFC6888_", "RFC 6888", "Common Requirements for Carrier-Grade NATs: those that make sense for containers."},
	{"RFC1812_", "RFC 1812: the router", "Requirements for IP Version 4 Routers."},
	{"RFC826_", "RFC 826: ARP", ""},
	{"RFC5227_", "RFC 5227: address conflicts", ""},
	{"RFC1122_", "RFC 1122", "Requirements for Internet Hosts, where the router is one."},
	{"Behaviour_", "What others get wrong", "Behaviour that is not in a numbered requirement."},
	{"Linux_", "Linux's own tests", "The topologies of tools/testing/selftests/net/netfilter and of the packetdrill scripts for conntrack, restated."},
	{"OVS_", "Open vSwitch's tests", "Cases of tests/system-traffic.at about conntrack and NAT, restated."},
	{"VPP_", "VPP's tests", "Cases of the nat44-ed plug-in, restated."},
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
		r.result = results["Test"+r.name]
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

// collect reads the names and comments of the tests.
func collect() (list []requirement, err error) {
	files, err := filepath.Glob(filepath.Join(tests, "*_test.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no tests in %s: run this from the top of the repository (%v)", tests, err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || section(strings.TrimPrefix(fn.Name.Name, "Test")) < 0 {
				continue
			}
			r := requirement{name: strings.TrimPrefix(fn.Name.Name, "Test"), file: file}
			for i, p := range strings.Split(strings.TrimSpace(fn.Doc.Text()), "\n\n") {
				p = strings.Join(strings.Fields(p), " ")
				deviates, isDev := strings.CutPrefix(p, "Deviates: ")
				never, isNever := strings.CutPrefix(p, "Not applicable: ")
				switch {
				case isDev:
					r.deviates = deviates
				case isNever:
					r.never = never
				case i == 0:
					r.asks = p
				}
			}
			if r.asks == "" {
				return nil, fmt.Errorf("%s: %s has no comment", file, fn.Name.Name)
			}
			list = append(list, r)
		}
	}
	return list, nil
}

func section(name string) int {
	return slices.IndexFunc(sections, func(s struct{ prefix, title, about string }) bool { return strings.HasPrefix(name, s.prefix) })
}

// results runs the tests and returns pass, fail or skip by test name.
func results() (map[string]string, error) {
	c := exec.Command("go", "test", "-json", "-count=1", "./"+tests)
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

var number = regexp.MustCompile(`^(REQ)?([0-9][0-9a-z]*(?:_[0-9]+)*)_(.*)$`)

// write writes the page.
func write(b *bytes.Buffer, list []requirement) {
	fmt.Fprint(b, "# Compliance\n\nWhat is asked of a NAT, a router and its ARP, and the test that answers. `make compliance` makes this page from the tests'\n"+
		"names, comments and results; each is a scenario in virtual time in [internal/simnet](../internal/simnet), to be run alone by\n"+
		"`go test ./internal/simnet -run NAME`.\n\nBeside these, real programs and kernels judge, in [internal/e2e](../internal/e2e): coturn's `turnutils_natdiscovery` reports\n"+
		"mapping, filtering and hairpinning as configured (`TestNATDiscovery`); the kernel's MASQUERADE and DNAT get the same packets, and each\n"+
		"difference is listed with its reason (`TestKernelNATAgrees`).\n")
	for i, s := range sections {
		var rows []requirement
		for _, r := range list {
			if section(r.name) == i {
				rows = append(rows, r)
			}
		}
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", s.title)
		if s.about != "" {
			fmt.Fprintf(b, "%s\n\n", s.about)
		}
		fmt.Fprintf(b, "| | what is asked | result | test |\n|---|---|---|---|\n")
		for _, r := range rows {
			name, label := strings.TrimPrefix(r.name, s.prefix), ""
			if m := number.FindStringSubmatch(name); m != nil {
				label = strings.ReplaceAll(m[2], "_", ".")
				if m[1] != "" {
					label = "REQ-" + label
				}
			}
			result := r.result
			switch {
			case r.result == "skip" && r.never != "":
				result = "not applicable: " + r.never
			case r.result != "pass":
				result = "**" + r.result + "**"
			case r.deviates != "":
				result = "pass; deviates: " + r.deviates
			}
			fmt.Fprintf(b, "| %s | %s | %s | `Test%s` |\n", label, cell(r.asks), cell(result), r.name)
		}
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
