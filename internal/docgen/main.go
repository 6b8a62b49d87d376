// Command docgen writes the documents that are made from the code:
//
//	docgen drops            docs/drops.md, from the table of drop reasons
//	docgen openapi          docs/openapi.json, from the control API's routes
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
	case len(args) == 1 && args[0] == "openapi":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(apiserver.OpenAPI())
	case len(args) == 2 && args[0] == "man":
		return man(args[1])
	case len(args) == 2 && args[0] == "completion":
		return completion(args[1])
	}
	return fmt.Errorf("say drops, openapi, man DIR or completion DIR")
}

// stages say where in a frame's way a reason belongs, by the first reason of each.
var stages = []struct {
	first frame.Reason
	title string
}{
	{frame.Runt, "As it comes in"}, {frame.GatewayMACStolen, "Guard and learning"}, {frame.LinkLocalGroup, "Switching"}, {frame.NotIPv4, "Routing"},
	{frame.NATFiltered, "Translation"}, {frame.HostUnreachable, "Neighbors and the gateway"}, {frame.PortGone, "As it goes out"},
}

func drops(out io.Writer) error {
	var b strings.Builder
	b.WriteString("# Why a frame was dropped\n\nMade by `make docs` from the table in `internal/frame/reason.go`. Every drop has one of these reasons, and the word is the same in\n" +
		"`uvswitch stats`, `status`, `top`, `monitor`, `trace`, in the comment of a `dump`, in the metrics and on the live page. A test provokes\n" +
		"each of them (`internal/simnet/reasons_test.go`). [find-a-drop.md](find-a-drop.md) says how to find yours.\n")
	next := 0
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		if next < len(stages) && r == stages[next].first {
			fmt.Fprintf(&b, "\n## %s\n\n| reason | what it means | what to do |\n|---|---|---|\n", stages[next].title)
			next++
		}
		i := r.Info()
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", i.Name, i.Meaning, i.Remedy)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func man(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	date := time.Unix(0, 0).UTC() // the same bytes each time
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
