package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestReadme runs the README's commands unchanged, and checks that the other commands that it names exist.
func TestReadme(t *testing.T) {
	t.Parallel()
	Need(t, "make", "curl", "ip", "ping", "unshare")
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh run\n(.*?)```").FindStringSubmatch(string(raw))
	if block == nil {
		t.Fatal("no block to run in README.md")
	}
	c := ownMachine("sh", "-ec", block[1])
	c.Dir = "../.."
	repoBin.Lock()
	out, err := c.CombinedOutput()
	repoBin.Unlock()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	contains(t, string(out), "this is web; you are 198.51.100.2", "balanced true", "198.51.100.1")
	for _, m := range regexp.MustCompile("(?m)(?:^|`|/)uvswitch ([a-z]+(?: (?:ls|add|del|show|up|down|exec|tour|set|flush))?)").FindAllStringSubmatch(string(raw), -1) {
		help, err := exec.Command(uvswitch, append(strings.Fields(m[1]), "--help")...).CombinedOutput()
		if err != nil || !strings.Contains(string(help), "uvswitch "+m[1]) {
			t.Errorf("README names `uvswitch %s`, and its help is: %s", m[1], help)
		}
	}
}
