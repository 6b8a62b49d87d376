package cli

import (
	_ "embed"
	"strings"

	"github.com/spf13/cobra"
)

// examplesText has a paragraph for each command: its path and a colon, then lines for its help. A test checks that every command has an
// example, and that each example is a valid command line.
//
//go:embed examples.txt
var examplesText string

// examples are the examples by the command's path.
func examples() map[string]string {
	out := map[string]string{}
	for paragraph := range strings.SplitSeq(strings.TrimSpace(examplesText), "\n\n") {
		path, lines, _ := strings.Cut(paragraph, ":\n")
		out[path] = lines
	}
	return out
}

// addExamples adds its examples to each command.
func addExamples(c *cobra.Command, examples map[string]string) {
	c.Example = examples[c.CommandPath()]
	for _, sub := range c.Commands() {
		addExamples(sub, examples)
	}
}
