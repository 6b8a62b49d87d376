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
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
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
	date := time.Now()
	if s, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil { // the Makefile's: the date of the commit
		date = time.Unix(s, 0)
	}
	date = date.UTC()
	root := cli.Root()
	root.DisableAutoGenTag = true
	return manOf(root, doc.GenManHeader{Section: "1", Source: "uvswitch " + cli.Version, Manual: "uvswitch", Date: &date}, dir)
}

// manOf writes the page of a command, and those of its subcommands.
func manOf(c *cobra.Command, h doc.GenManHeader, dir string) error {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			if err := manOf(sub, h, dir); err != nil {
				return err
			}
		}
	}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	h.Title = strings.ToUpper(name)
	var page bytes.Buffer
	if err := doc.GenMan(c, &h, &page); err != nil {
		return err
	}
	text := strings.Replace(page.String(), ".SH EXAMPLE\n", ".SH EXAMPLES\n", 1)
	if c.HasAvailableSubCommands() {
		text = strings.Replace(text, `\fB`+c.CommandPath()+` [flags]\fP`, `\fB`+c.CommandPath()+` [flags] COMMAND\fP`, 1)
		text = strings.Replace(text, ".SH OPTIONS\n", ".SH COMMANDS\n"+subcommands(c)+"\n.SH OPTIONS\n", 1)
	}
	sections := ".SH EXIT STATUS\n" + exitStatus(c)
	if c == c.Root() {
		sections += manFiles
	}
	before, after, _ := strings.Cut(text, ".SH SEE ALSO\n")
	return os.WriteFile(filepath.Join(dir, name+".1"), []byte(before+sections+".SH SEE ALSO\n"+after), 0o644)
}

// subcommands is the text about the commands of a command.
func subcommands(c *cobra.Command) string {
	var b strings.Builder
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fP\n%s\n", strings.ReplaceAll(sub.Name(), "-", `\-`), sub.Short)
		}
	}
	return b.String()
}

// exitStatus is the text of a command's exit status. A command that carries another meaning says so in its description.
func exitStatus(c *cobra.Command) string {
	if strings.Contains(c.Long, "exit status") || strings.Contains(c.Long, "exits ") {
		return "See DESCRIPTION. 2: the command line is wrong.\n"
	}
	return ".TP\n0\nThe command has done what it was asked for.\n.TP\n1\nIt has failed. The message says why, and what to do.\n.TP\n2\nThe command line is wrong.\n"
}

const manFiles = `.SH ENVIRONMENT
.TP
UVSWITCH_SOCKET
The control socket, in place of --socket.
.TP
NO_COLOR
If it is not empty, nothing is colored: see --color.
.TP
XDG_RUNTIME_DIR
The folder in which a switch without root has its socket and its state, in uvswitch/.
.SH FILES
.TP
/run/uvswitch/uvswitch.sock
The control socket. Root may use all of it. Members of its group may look.
.TP
/etc/uvswitch.yaml
The configuration file, if the options of the systemd unit name it. uvswitch run -c FILE reads another one.
.TP
/var/lib/uvswitch
What survives a restart: leases of addresses, policies, Docker's networks.
.TP
/etc/default/uvswitch
Options of the systemd unit: UVSWITCH_OPTIONS=...
`

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
