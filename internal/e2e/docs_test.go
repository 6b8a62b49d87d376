package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var fences = regexp.MustCompile("(?ms)^```(\\w+ \\w+)\n(.*?)^```")

// fencesOf returns the commands in the fences of a kind on a page in docs, and the lines that their output must contain: those of the fences
// "text expect" behind them.
func fencesOf(t *testing.T, page, kind string) (script string, expect []string) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, m := range fences.FindAllStringSubmatch(string(raw), -1) {
		if strings.HasPrefix(m[1], "sh ") {
			last = m[1]
		}
		switch {
		case m[1] == kind:
			script += m[2]
		case m[1] == "text expect" && last == kind:
			for line := range strings.Lines(m[2]) {
				expect = append(expect, strings.TrimRight(line, "\n"))
			}
		}
	}
	return script, expect
}

// TestDocs runs the commands of every page in docs unchanged, in order, in a temporary folder and on a machine of its own. The
// output must contain what the page shows.
func TestDocs(t *testing.T) {
	t.Parallel()
	Need(t, "curl", "ip", "ping", "tshark", "unshare")
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "../../docs/monitoring/README.md")
	bin := t.TempDir()
	if err := os.Symlink(uvswitch, filepath.Join(bin, "uvswitch")); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, page := range pages {
		name, err := filepath.Rel("../../docs", page)
		if err != nil {
			t.Fatal(err)
		}
		script, expect := fencesOf(t, name, "sh run")
		if script == "" {
			continue
		}
		ran++
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			c := ownMachine("bash", "-e")
			c.Stdin, c.Dir = strings.NewReader(script), t.TempDir()
			c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
			out, err := c.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			contains(t, string(out), expect...)
			left, _ := os.ReadDir(c.Dir)
			if len(left) > 0 {
				t.Errorf("the page leaves %v behind", left)
			}
		})
	}
	if ran < 7 {
		t.Errorf("only %d pages have commands", ran)
	}
}
