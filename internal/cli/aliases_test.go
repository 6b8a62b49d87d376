package cli

import (
	"bytes"
	"strings"
	"testing"
)

// TestAliases checks the names of commands that other tools use, and what is said of a command that does not exist.
func TestAliases(t *testing.T) {
	for words, want := range map[string]string{
		"ports list": "uvswitch port ls", "port show": "uvswitch port show", "flow show": "uvswitch flow ls", "networks rm": "uvswitch network del",
		"policies": "uvswitch policy", "publish create": "uvswitch publish add", "fdb ls": "uvswitch fdb show", "bridge show": "uvswitch bridge show",
	} {
		c, _, err := Root().Find(strings.Fields(words))
		if err != nil || c.CommandPath() != want {
			t.Errorf("%s is %v %v, not %s", words, c.CommandPath(), err, want)
		}
	}
	for words, want := range map[string]string{
		"prot ls": "there is no command `uvswitch prot`; did you mean `uvswitch port`?", "port ad": "did you mean `uvswitch port add`?", "port x": "the commands are add, del, ls, rename, set, show",
		"port ls -o table": "use json, yaml, wide or extended",
	} {
		var said bytes.Buffer
		if code := Run(t.Context(), append([]string{"uvswitch"}, strings.Fields(words)...), nil, &said, &said); code != exitUsage || !strings.Contains(said.String(), want) {
			t.Errorf("%s: %d, %s", words, code, &said)
		}
	}
}
