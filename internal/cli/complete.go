package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// Completion asks the running switch for names; when no switch runs, it offers none.

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// named completes the names of the objects at path in the control API.
func named[T any](a *app, path string, name func(T) string) completer {
	return func(_ *cobra.Command, _ []string, start string) (out []string, _ cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var list []T
		_ = a.client().Do(ctx, "GET", path, nil, &list) // completion has nowhere to show an error
		for _, x := range list {
			if n := name(x); strings.HasPrefix(n, start) {
				out = append(out, n)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func words(list ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// complete sets the completion of every command below root, by the names of its flags and by its path.
func (a *app) complete(root *cobra.Command) {
	ports := named(a, "/ports", func(p api.Port) string { return p.Name })
	networks := named(a, "/networks", func(n api.Network) string { return n.Name })
	published := named(a, "/publish", api.Publish.Host)
	policies := named(a, "/policies", func(p api.Policy) string { return p.Name })
	var reasons []string
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		reasons = append(reasons, r.String())
	}
	flags := map[string]completer{
		"port": ports, "in": ports, "interface": ports, "network": networks, "reason": words(reasons...), "verdict": words("forwarded", "flooded", "consumed", "dropped"),
		"dir": words("in", "out", "both"), "policy": policies, "color": words("auto", "always", "never"), "output": words("json", "yaml", "wide", "extended"), "io": words("auto", "io_uring", "read-write"), "uplink-kind": words("tcx", "clsact", "tap"),
	}
	args := map[string]completer{
		"port show": ports, "port set": ports, "port del": ports, "network show": networks, "network del": networks, "bridge show": networks, "publish del": published,
		"policy show": policies, "policy add": policies, "policy del": policies, "policy attach": policies, "policy detach": policies, "policy learn": ports,
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for name, f := range flags {
			if c.Flags().Lookup(name) != nil {
				_ = c.RegisterFlagCompletionFunc(name, f) // the flag exists
			}
		}
		if f, ok := args[strings.TrimPrefix(c.CommandPath(), root.Name()+" ")]; ok {
			c.ValidArgsFunction = f
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk(root)
}
