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

// TestScenarios plays every file in testdata. A failing one prints its traces and leaves a pcapng.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n, err := Run(string(script))
			if err != nil {
				t.Errorf("%s: %v\nall frames (-> in, <- out):\n%s\ncaptured in %s", file, err, strings.Join(n.trace, "\n"), save(t, n))
			}
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

// A scenario that expects what does not happen must fail: the player itself can be wrong.
func TestScenarioFails(t *testing.T) {
	const head = "network 1 10.0.0.1/24\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\n"
	for _, script := range []string{
		`a > b "hi"` + "\nb .",
		`a > b "hi"` + "\n" + `b < a "ho"`,
		`a < b "hi"`,
		"drops no_route 1",
		"flows 1",
		`a > b "hi"` + "\n" + `b < a "hi"` + "\n" + `a > b "hi"`,
		"nonsense",
	} {
		if _, err := Run(head + script); err == nil {
			t.Errorf("passed: %s", script)
		}
	}
}
