package simnet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// TestScenarios plays every file below testdata. A scenario that fails prints its frames and leaves a pcapng.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".txt")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := ParseScenario(string(text))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if s.NotApplicable != "" {
				t.Skip("not applicable: " + s.NotApplicable)
			}
			if n, err := s.Play(); err != nil {
				t.Errorf("%s: %v\nall frames (-> in, <- out):\n%s\ncaptured in %s", file, err, strings.Join(n.trace, "\n"), save(t, n))
			}
			alsoOverIPv6(t, s.PlayOverIPv6)
		})
	}
}

func save(t *testing.T, n *Net) string {
	path := filepath.Join(os.TempDir(), strings.ReplaceAll(t.Name(), "/", "-")+".pcapng")
	f, err := os.Create(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	w, err := capture.NewWriter(f, "uvswitch wire", func(p frame.PortID) (string, string) {
		for _, h := range n.hosts {
			if h.Port == p {
				return h.Name, "host " + h.Name
			}
		}
		return "?", ""
	})
	for _, r := range n.records {
		dir := capture.In
		if r.out {
			dir = capture.Out
		}
		at := time.Unix(0, int64(r.now)*int64(time.Second)/frame.TicksPerSecond)
		if err == nil {
			err = w.Write(capture.Record{Time: at, Port: r.port, In: r.port, Dir: dir, Vnet: r.raw[:frame.VnetLen], Length: len(r.raw) - frame.VnetLen, Data: r.raw[frame.VnetLen:]}, 0)
		}
	}
	if err != nil {
		return err.Error()
	}
	return path
}

// A scenario that expects what does not happen fails: the player itself can be wrong. Its error says what is possible instead.
func TestScenarioFails(t *testing.T) {
	const head = "network 1 10.0.0.1/24\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\n"
	for script, want := range map[string]string{
		`a > b "hi"` + "\nb .":             "line 5: b .: it received",
		`a > b "hi"` + "\n" + `b < a "ho"`: "it received",
		`a < b "hi"`:                       "it received nothing",
		"drops no_route 1":                 "there were 0",
		"drops nonsense 1":                 "not a drop reason",
		"flows 1":                          "there are 0",
		"flow - 3":                         "there is none",
		`a > b "hi"` + "\n" + `b < a "hi"` + "\n" + `a > b "hi"`: "received what nobody asked for",
		"nonsense":                      "a host (a b)",
		"c > a":                         "neither a statement (advance",
		"a":                             "The verbs are . < > arp error reply",
		"a says b":                      "the verbs are",
		"a >":                           "the form is: HOST[:PORT] >",
		"a > c":                         "not a host (a b)",
		"a > b nonsense":                "the kinds are tcp",
		"a > b ttl":                     "ttl has no value",
		"a > b ping nonsense":           "the words are ttl",
		"a > b tcp S frag last":         "first, later and tiny",
		"a reply":                       "received nothing",
		"a error 3":                     "not TYPE/CODE",
		"a arp nonsense":                "not an IPv4 address",
		"a:http > b":                    "not a port",
		"host c":                        "the form is: host NAME",
		"host c 10.0.0.4 port 3 fast":   "the form is: host NAME",
		"host c 10.0.0.4 port 3 as d":   "there is no host",
		"network 2 10.0.1.1/24 speed 3": "the form is: network ID",
		"network 2 10.0.1.1/24 mtu":     "has no value",
		"uplink 198.51.100.1 speed 3":   "the form is: uplink",
		"publish 80 a":                  "the form is: publish",
		"publish 80:80 c":               "there is no host",
		"route 10.9.0.0/16 nowhere":     "the form is: route",
		"route 10.9.0.0/16 via":         "the form is: route",
		"unplug c":                      "there is no host",
		"advance":                       "the form is: advance",
		"pair 10.0.0.2 gre on":          "the last notice was",
	} {
		if _, err := Run(head + script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", script, err, want)
		}
	}
	for script, want := range map[string]string{"nat flows": "has no value", "nat speed 3": "the form is: nat"} {
		if _, err := Run("# comment\n" + script + "\n" + head); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%q: %v; want %q", script, err, want)
		}
	}
}

func TestParseScenario(t *testing.T) {
	s, err := ParseScenario("# A title\n# in two lines: so.\n#\n# requirement: RFC 1 REQ-2\n# deviates: for a\n#   reason.\nflows 0\n---\n# again\nflows 1\n")
	if err != nil || s.Title != "A title in two lines: so." || s.Requirement != "RFC 1 REQ-2" || s.Deviates != "for a reason." || len(s.Scripts) != 2 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := s.Play(); err == nil || !strings.HasPrefix(err.Error(), "line 10: flows 1") {
		t.Errorf("the line is not counted from the beginning of the file: %v", err)
	}
	for text, want := range map[string]string{
		"flows 0\n":                        "begins with its title",
		"# x\n":                            "there is no script",
		"# x\n#\n# needs: y\nflows 0\n":    "the keys are deviates not-applicable requirement",
		"# x\n#\n# deviates: y\nflows 0\n": "need a requirement",
		"# x\n#\n# requirement: a\n# requirement: b\n":             "two lines requirement",
		"# x\n#\n# requirement: a\n# not-applicable: b\nflows 0\n": "but there is a script",
		"# x\n---\nflows 0\n":                                      "no script before ---",
	} {
		if _, err := ParseScenario(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}
