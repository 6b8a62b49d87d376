// Command docgen writes the documents that are generated from the code:
//
//	docgen drops            docs/drops.md, from the table of drop reasons
//	docgen openapi          docs/openapi.json, from the control API's routes
//	docgen config           docs/config.md, from the types of the configuration file and their comments
//	docgen config.schema    docs/config.schema.json, likewise
//	docgen man DIR          a man page for each command
//	docgen completion DIR   completion for bash, zsh and fish
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra/doc"

	"github.com/uvswitch/uvswitch/internal/apiserver"
	"github.com/uvswitch/uvswitch/internal/cli"
	"github.com/uvswitch/uvswitch/internal/frame"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "drops":
		return drops(out)
	case len(args) == 1 && args[0] == "config":
		return configPage(out)
	case len(args) == 1 && args[0] == "config.schema":
		return configSchema(out)
	case len(args) == 1 && args[0] == "openapi":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(apiserver.OpenAPI())
	case len(args) == 2 && args[0] == "man":
		return man(args[1])
	case len(args) == 2 && args[0] == "completion":
		return completion(args[1])
	}
	return fmt.Errorf("usage: docgen drops | openapi | config | config.schema | man DIR | completion DIR")
}

func drops(out io.Writer) error {
	var b strings.Builder
	b.WriteString("# Drop reasons\n\n`make docs` makes this page from the table in `internal/frame/reason.go`.\n\nEvery dropped frame has one of these reasons.\n" +
		"The word is the same in `uvswitch stats`, `status`, `top`, `monitor` and `trace`.\n" +
		"It is also the same in the comments of a `dump`, in the metrics, and on the live page.\nA test provokes each reason (`internal/simnet/reasons_test.go`).\n\n[find-a-drop.md](find-a-drop.md) shows how to find out why your frames are dropped.\n")
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		i := r.Info()
		if r == frame.None+1 || i.Stage != (r-1).Info().Stage {
			fmt.Fprintf(&b, "\n## %s\n\n| reason | meaning | remedy |\n|---|---|---|\n", i.Stage)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", i.Name, i.Meaning, i.Remedy)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func man(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	date := time.Unix(0, 0).UTC() // the output is the same each time
	root := cli.Root()
	root.DisableAutoGenTag = true
	return doc.GenManTree(root, &doc.GenManHeader{Title: "UVSWITCH", Section: "1", Source: "uvswitch " + cli.Version, Manual: "uvswitch", Date: &date}, dir)
}

func completion(dir string) error {
	root := cli.Root()
	for name, gen := range map[string]func(io.Writer) error{
		"uvswitch.bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) }, "_uvswitch": root.GenZshCompletion,
		"uvswitch.fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
	} {
		if err := write(filepath.Join(dir, name), gen); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, gen func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return gen(f)
}
