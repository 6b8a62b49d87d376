package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// shellWords splits a command line as a shell does: blanks separate, quotes keep together, a comment ends it.
func shellWords(t *testing.T, line string) (list []string) {
	var word strings.Builder
	quote, in := rune(0), false
	for _, c := range line + " " {
		switch {
		case quote == 0 && (c == '\'' || c == '"'):
			quote, in = c, true
		case c == quote:
			quote = 0
		case quote == 0 && c == ' ':
			if in {
				list = append(list, word.String())
			}
			word.Reset()
			in = false
		case quote == 0 && c == '#' && !in:
			return list
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if quote != 0 {
		t.Errorf("%s: a quote is not closed", line)
	}
	return list
}

// TestExamples: the help of each command has examples, and each example is a valid call of that command or of a command below it.
func TestExamples(t *testing.T) {
	seen := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		seen[c.CommandPath()] = true
		if c.Example == "" && !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		called := false
		for line := range strings.SplitSeq(c.Example, "\n") {
			called = checkExample(t, c, line) || called
		}
		if c.Example != "" && !called {
			t.Errorf("no example of %s calls it", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(Root())
	for path := range examples() {
		if !seen[path] {
			t.Errorf("there are examples of %s, which is not a command", path)
		}
	}
}

// checkExample parses the calls of uvswitch in a line, and says whether one of them calls c or a command below c.
func checkExample(t *testing.T, c *cobra.Command, line string) (calls bool) {
	for part := range strings.SplitSeq(line, " | ") {
		list := shellWords(t, part)
		for len(list) > 0 && (list[0] == "sudo" || strings.Contains(list[0], "=")) {
			list = list[1:]
		}
		if len(list) == 0 || list[0] != "uvswitch" {
			continue
		}
		for i, w := range list {
			if w == ">" || w == "2>" || w == "<" || w == "&" {
				list = list[:i]
				break
			}
		}
		root := Root()
		cmd, args, err := root.Find(list[1:])
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil && cmd != root {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil {
			t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			continue
		}
		calls = calls || strings.HasPrefix(cmd.CommandPath()+" ", c.CommandPath()+" ")
	}
	return calls
}
