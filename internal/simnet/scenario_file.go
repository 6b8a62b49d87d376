package simnet

import (
	"fmt"
	"slices"
	"strings"
)

// A Scenario is a file: a header of comments, and one script or more. A line --- ends a script; the next script starts on a new Net.
//
// The first paragraph of the header is the title. After a line with # alone come keys, each at most once; a value goes on in lines that
// begin with two further spaces.
type Scenario struct {
	Title         string
	Requirement   string   // requirement: the document and the number, as in "RFC 4787 REQ-6"; empty: the file answers no requirement
	Deviates      string   // deviates: what differs from the requirement, and why
	NotApplicable string   // not-applicable: why there is no script
	Scripts       []string // with empty lines before each, so that errors count lines from the beginning of the file
}

// ParseScenario reads a file.
func ParseScenario(text string) (Scenario, error) {
	lines := strings.Split(text, "\n")
	end := slices.IndexFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "#") })
	if end < 0 {
		end = len(lines)
	}
	s, err := parseHeader(lines[:end])
	if err != nil {
		return s, err
	}
	from, used := end, false
	for i := end; i <= len(lines); i++ {
		if i < len(lines) && strings.TrimSpace(lines[i]) != "---" {
			used = used || strings.TrimSpace(uncommented(lines[i])) != ""
			continue
		}
		if used {
			s.Scripts = append(s.Scripts, strings.Repeat("\n", from)+strings.Join(lines[from:i], "\n"))
		} else if i < len(lines) {
			return s, fmt.Errorf("line %d: there is no script before ---", i+1)
		}
		from, used = i+1, false
	}
	switch {
	case s.Title == "":
		return s, fmt.Errorf("line 1: a file begins with its title, as a comment")
	case len(s.Scripts) == 0 && s.NotApplicable == "":
		return s, fmt.Errorf("there is no script, and the header does not say not-applicable")
	case len(s.Scripts) > 0 && s.NotApplicable != "":
		return s, fmt.Errorf("the header says not-applicable, but there is a script")
	case s.Requirement == "" && (s.Deviates != "" || s.NotApplicable != ""):
		return s, fmt.Errorf("deviates and not-applicable need a requirement")
	}
	return s, nil
}

func parseHeader(lines []string) (s Scenario, err error) {
	keys := map[string]*string{"requirement": &s.Requirement, "deviates": &s.Deviates, "not-applicable": &s.NotApplicable}
	value, title := &s.Title, true
	for i, line := range lines {
		line = strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ")
		switch key, rest, isKey := strings.Cut(line, ":"); {
		case line == "":
			title = false
			continue
		case title, strings.HasPrefix(line, "  "): // more of the same value
		case !isKey || keys[key] == nil:
			return s, fmt.Errorf("line %d: %q is not a key; the keys are %s", i+1, key, alternatives(keys))
		case *keys[key] != "":
			return s, fmt.Errorf("line %d: there are two lines %s", i+1, key)
		default:
			value, line = keys[key], rest
		}
		*value = strings.TrimSpace(*value + " " + strings.TrimSpace(line))
	}
	return s, nil
}

// Play plays every script. It returns the Net of the last script that it played.
func (s *Scenario) Play() (n *Net, err error) { return s.play(false) }

// PlayOverIPv6 is Play over IPv6: see RunOverIPv6.
func (s *Scenario) PlayOverIPv6() (n *Net, err error) { return s.play(true) }

func (s *Scenario) play(overIPv6 bool) (n *Net, err error) {
	for _, script := range s.Scripts {
		if n, err = run(script, overIPv6); err != nil {
			return n, err
		}
	}
	return n, nil
}
