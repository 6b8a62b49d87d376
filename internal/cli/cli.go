// Package cli is the uvswitch command. It reads arguments, sends requests to a running switch through the control API, and prints
// tables for people or JSON for programs. Only `run` is the switch itself.
package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/cni"
	"github.com/uvswitch/uvswitch/internal/term"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// app is one run of the command.
type app struct {
	socket string
	json   bool
	output string
	colors bool
	in     io.Reader
	out    io.Writer
	err    io.Writer
}

// usageError marks an error as wrong usage: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError carries another program's exit code.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// Run runs the command with args as in os.Args, and returns the exit code.
func Run(ctx context.Context, args []string, in io.Reader, out, stderr io.Writer) int {
	if os.Getenv("CNI_COMMAND") != "" && len(args) == 1 { // called by a container runtime, as a CNI plugin
		cni.Main("uvswitch " + Version + ", a container network and its CNI plugin; see `uvswitch --help`")
		return exitOK
	}
	a := &app{in: in, out: out, err: stderr}
	root := a.root()
	root.SetArgs(args[1:])
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var exit exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage) || isCobraUsage(err):
		c, _, ferr := root.Find(args[1:])
		if ferr != nil {
			c = root
		}
		fmt.Fprintf(stderr, "uvswitch: %v\nSee `%s --help`.\n", argumentError(c, err), c.CommandPath())
		return exitUsage
	}
	var apiErr *api.Error
	fmt.Fprintf(stderr, "uvswitch: %s\n", printable(err.Error()))
	if errors.As(err, &apiErr) && apiErr.Status == 400 {
		return exitUsage
	}
	return exitFailed
}

// printable is a text of several lines without control characters: it may quote a file.
func printable(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = term.Printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// isCobraUsage reports whether err is cobra's error for wrong arguments. Cobra has no type for these errors.
func isCobraUsage(err error) bool {
	for _, p := range []string{"unknown command", "unknown flag", "unknown shorthand", "accepts ", "requires ", "flag needs", "invalid argument", "required flag"} {
		if strings.HasPrefix(err.Error(), p) {
			return true
		}
	}
	return false
}

// argumentError says cobra's errors about the number of arguments in words: with the usage, which names the arguments.
func argumentError(c *cobra.Command, err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "accepts "), strings.HasPrefix(text, "requires "):
		return fmt.Errorf("wrong number of arguments; usage: %s", strings.TrimSuffix(c.UseLine(), " [flags]"))
	case strings.HasPrefix(text, "unknown command") && !c.HasSubCommands():
		return fmt.Errorf("%s takes no arguments", c.CommandPath())
	case strings.HasPrefix(text, "unknown command"):
		word := strings.Split(text, `"`)[1]
		hint := "the commands are " + strings.Join(names(c.Commands()), ", ")
		if near := c.SuggestionsFor(word); len(near) > 0 {
			hint = fmt.Sprintf("did you mean `%s %s`?", c.CommandPath(), strings.Join(near, "` or `"+c.CommandPath()+" "))
		}
		return fmt.Errorf("there is no command `%s %s`; %s", c.CommandPath(), word, hint)
	}
	return err
}

// synonyms are the words for which other tools use the first one of each list.
var synonyms = [][]string{{"ls", "list", "show"}, {"show", "get", "ls", "list"}, {"del", "rm", "delete", "remove"}, {"add", "create", "new"}, {"set", "change"}}

// addAliases gives commands the names that they have in other tools, unless another command has this name. Groups have their plural, too.
func addAliases(parent *cobra.Command) {
	var taken []string
	for _, c := range parent.Commands() {
		taken = append(taken, c.Name())
	}
	for _, c := range parent.Commands() {
		if parent.HasParent() {
			for _, words := range synonyms {
				if c.Name() == words[0] {
					c.Aliases = append(c.Aliases, slices.DeleteFunc(slices.Clone(words[1:]), func(w string) bool { return slices.Contains(taken, w) })...)
				}
			}
		} else if plural := strings.TrimSuffix(c.Name(), "y"); c.HasSubCommands() && !strings.HasSuffix(c.Name(), "s") && c.Name() != "neigh" && c.Name() != "publish" {
			if plural != c.Name() {
				plural += "ies"
			} else {
				plural += "s"
			}
			c.Aliases = append(c.Aliases, plural)
		}
		addAliases(c)
	}
}

// Root returns the root command, for man pages and completion scripts.
func Root() *cobra.Command { return (&app{}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "uvswitch",
		Short: "A container network in one user-space process",
		Long: "uvswitch is a learning switch, a router and a NAT for containers, network namespaces and VMs, in one process.\n" +
			"It needs no kernel bridge, no netfilter rule and no global sysctl. To see it at work, run `uvswitch lab tour`.",
		SilenceUsage: true, SilenceErrors: true, Version: Version,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.socket, "socket", api.Socket(), "path of the switch's control socket (environment variable UVSWITCH_SOCKET)")
	f.BoolVarP(&a.json, "json", "j", false, "print JSON")
	f.StringVarP(&a.output, "output", "o", "", "output format: json (as -j), yaml, wide (more columns; port ls and network ls), or extended (as conntrack -o extended; flow ls and flow events)")
	color := f.String("color", "auto", "colors: auto (on a terminal, unless NO_COLOR is set), always, or never")
	root.PersistentPreRunE = func(c *cobra.Command, args []string) error {
		if err := checkEmpty(c, args); err != nil {
			return err
		}
		switch *color {
		case "auto":
			a.colors = isTerminalOut(a.out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		case "always", "never":
			a.colors = *color == "always"
		default:
			return usagef("--color %q: must be auto, always or never", *color)
		}
		switch a.output {
		case "json", "yaml":
			a.json = true
			return nil
		case "", "wide", "extended":
			return nil
		}
		return usagef("-o %q is not an output format; use json, yaml, wide or extended", a.output)
	}
	root.AddCommand(
		a.runCommand(), netnsChildCommand(), a.statusCommand(), a.statsCommand(), a.reasonsCommand(), a.networkCommand(), a.portCommand(), a.fdbCommand(),
		a.bridgeCommand(), a.neighCommand(), a.routeCommand(), a.publishCommand(), a.flowCommand(), a.natCommand(), a.dnsCommand(), a.leaseCommand(), a.policyCommand(),
		a.traceCommand(), a.dumpCommand(), a.monitorCommand(), a.eventsCommand(), a.extcapCommand(), a.labCommand(), a.execCommand(), roomChildCommand(), roomPlugCommand(), a.dockerDriverCommand(), a.configCommand(), a.topCommand(), a.doctorCommand(), a.webCommand(), a.reloadCommand(), a.versionCommand(),
	)
	root.AddCommand(a.netavarkCommands()...)
	a.complete(root)
	addExamples(root, examples())
	addAliases(root)
	return root
}

// checkEmpty refuses flags and names that are given, and empty: as a rule they stand for a variable of a script that is not set, and many
// flags restrict something.
func checkEmpty(c *cobra.Command, args []string) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		list, isList := f.Value.(pflag.SliceValue)
		if f.Value.Type() == "string" && f.Value.String() == "" || isList && len(list.GetSlice()) == 0 {
			err = usagef("--%s is empty; write a value, or leave the flag out", f.Name)
		}
	})
	if slices.Contains([]string{"add", "del", "set", "show"}, c.Name()) && slices.Contains(args, "") {
		err = usagef("an argument is empty; usage: %s", strings.TrimSuffix(c.UseLine(), " [flags]"))
	}
	return err
}

func (a *app) client() *api.Client { return api.NewClient(a.socket) }

// group returns a command that only has subcommands.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return usagef("the subcommand is missing; use one of: %s", strings.Join(names(sub), ", "))
	}}
	c.AddCommand(sub...)
	return c
}

// groupOf is group for commands of which the first one shows a list: without a subcommand, it does that.
func groupOf(use, short string, first *cobra.Command, more ...*cobra.Command) *cobra.Command {
	c := group(use, short, append([]*cobra.Command{first}, more...)...)
	c.RunE = first.RunE
	c.Flags().AddFlagSet(first.Flags())
	return c
}

func names(cmds []*cobra.Command) (out []string) {
	for _, c := range cmds {
		if !c.Hidden {
			out = append(out, c.Name())
		}
	}
	return out
}

// show returns a command that gets a list from the switch and prints it.
func show[T any](a *app, use, short, path string, table func(w io.Writer, rows T)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return get(c.Context(), a, path, table)
	}}
}

// showByFamily is show, with the flags -4 and -6.
func showByFamily[T any](a *app, use, short, path string, table func(w io.Writer, rows T)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	only4, only6 := c.Flags().BoolP("ipv4", "4", false, "show only IPv4"), c.Flags().BoolP("ipv6", "6", false, "show only IPv6")
	c.MarkFlagsMutuallyExclusive("ipv4", "ipv6")
	c.RunE = func(c *cobra.Command, _ []string) error {
		query := ""
		switch {
		case *only4:
			query = "?family=ipv4"
		case *only6:
			query = "?family=ipv6"
		}
		return get(c.Context(), a, path+query, table)
	}
	return c
}

func get[T any](ctx context.Context, a *app, path string, table func(w io.Writer, rows T)) error {
	var rows T
	if err := a.client().Do(ctx, "GET", path, nil, &rows); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(rows)
	}
	w := tabwriter.NewWriter(a.wrapped(), 0, 0, 2, ' ', 0)
	table(w, rows)
	return w.Flush()
}

// wrapped is the output; a terminal's long lines are broken between words.
func (a *app) wrapped() io.Writer {
	if f, ok := a.out.(*os.File); ok {
		if width := term.Width(f); width > 0 {
			return term.NewWrapper(f, width)
		}
	}
	return a.out
}

// change sends a request that changes the switch. With -j, it prints the answer, which is an empty object if there is nothing to tell.
func (a *app) change(c *cobra.Command, method, path string, body any) error {
	var answer json.RawMessage
	if err := a.client().Do(c.Context(), method, path, body, &answer); err != nil || !a.json {
		return err
	}
	return a.printJSON(answer)
}

// styled is a text in a style, if there are colors. In a column of a table, all cells need a style: tabwriter counts its characters.
func (a *app) styled(style term.Style, text string) string {
	if !a.colors {
		return text
	}
	return style.Of(text)
}

// noYAML refuses -o yaml for a command that prints one object after the other.
func (a *app) noYAML() error {
	if a.output == "yaml" {
		return usagef("this command prints one object in each line; use -o json (-j)")
	}
	return nil
}

// printJSON prints what -j asks for: JSON, or YAML.
func (a *app) printJSON(v any) error {
	if a.output == "yaml" {
		if raw, ok := v.(json.RawMessage); ok {
			var decoded any
			if err := json.Unmarshal(raw, &decoded); err != nil {
				return err
			}
			v = decoded
		}
		text, err := yaml.MarshalWithOptions(v, yaml.IndentSequence(true), yaml.UseJSONMarshaler())
		if err == nil {
			_, err = a.out.Write(text)
		}
		return err
	}
	e := api.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// count is a number of things: 1 port, 2 ports.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// row prints one line of a table.
func row(w io.Writer, cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = cmp.Or(term.Printable(fmt.Sprint(c)), "-")
	}
	fmt.Fprintln(w, strings.Join(text, "\t"))
}
