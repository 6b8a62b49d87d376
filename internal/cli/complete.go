package cli

import (
	"context"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/nat"
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

// places completes each argument by its place. The completers from number again on come in turn for further arguments; 0: there are none.
func places(again int, list ...completer) completer {
	return func(c *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		at := len(args)
		if at >= len(list) && again > 0 {
			at = again + (at-again)%(len(list)-again)
		}
		if at >= len(list) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list[at](c, args, start)
	}
}

// settingValues completes the value of a port setting, which is the last argument.
func settingValues(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch name := args[len(args)-1]; {
	case strings.HasPrefix(name, "rate"):
		return []string{"off", "1mbit", "10mbit", "100mbit", "1gbit"}, cobra.ShellCompDirectiveNoFileComp
	case strings.HasPrefix(name, "storm_"):
		return []string{"off", "1000", "10000"}, cobra.ShellCompDirectiveNoFileComp
	default:
		return []string{string(model.SettingOf(name, true)), "off"}, cobra.ShellCompDirectiveNoFileComp
	}
}

// namespaces completes names as `ip netns` makes them; a path is completed as a file.
func namespaces(_ *cobra.Command, _ []string, start string) (out []string, _ cobra.ShellCompDirective) {
	if strings.ContainsRune(start, '/') {
		return nil, cobra.ShellCompDirectiveDefault
	}
	entries, _ := os.ReadDir("/run/netns") // completion has nowhere to show an error
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return append(out, "pid:"), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// devices completes the names of the host's devices.
func devices(*cobra.Command, []string, string) (out []string, _ cobra.ShellCompDirective) {
	list, _ := net.Interfaces() // completion has nowhere to show an error
	for _, d := range list {
		out = append(out, d.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// complete sets the completion of every command below root, by the names of its flags and by its path.
func (a *app) complete(root *cobra.Command) {
	ports := named(a, "/ports", func(p api.Port) string { return p.Name })
	networks := named(a, "/networks", func(n api.Network) string { return n.Name })
	published := named(a, "/publish", api.Publish.Host)
	policies := named(a, "/policies", func(p api.Policy) string { return p.Name })
	macs := named(a, "/fdb", func(e api.FDBEntry) string { return e.MAC })
	neighbors := named(a, "/neighbors", func(n api.Neighbor) string { return n.Dst })
	routes := named(a, "/routes", func(r api.Route) string { return r.Dst })
	leases := named(a, "/leases", func(l api.Lease) string { return l.Address })
	names := named(a, "/names", func(n api.Name) string { return n.Name })
	onOff := words("on", "off")
	var reasons []string
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		reasons = append(reasons, r.String())
	}
	flags := map[string]completer{
		"port": ports, "in": ports, "interface": ports, "network": networks, "reason": words(reasons...), "verdict": words("forwarded", "flooded", "consumed", "dropped"),
		"dir": words("in", "out", "both"), "policy": policies, "color": words("auto", "always", "never"), "output": words("json", "yaml", "wide", "extended"), "io": words("auto", "io_uring", "read-write"), "uplink-kind": words(model.UplinkKinds...),
		"netns": namespaces, "device": devices, "uplink": devices, "ra": words("on", "slaac", "off"), "dhcp": onOff, "dns": words("on", "local", "off"), "offload": onOff, "sandbox": onOff,
		"in6": words("replies", "any"), "mapping": words("endpoint-independent", "address-and-port-dependent"),
		"filtering": words("address-and-port-dependent", "address-dependent", "endpoint-independent"), "family": words("ipv4", "ipv6"),
		"proto": words("tcp", "udp", "sctp", "icmp", "icmpv6", "gre", "esp"), "state": words(nat.TCPStates()...), "busy-poll": words("auto", "off", "50us"),
		"host-inbound": words("allow", "deny"),
	}
	args := map[string]completer{
		"port show": places(0, ports), "port set": places(1, ports, words(model.SettingNames()...), settingValues), "port del": places(0, ports), "port rename": places(0, ports),
		"network show": places(0, networks), "network set": places(0, networks), "network del": places(0, networks), "bridge show": places(0, networks),
		"publish del": places(0, published), "reasons": places(0, words(reasons...)),
		"fdb del": places(0, macs), "fdb add": places(0, macs, words("dev"), ports, words("static", "sticky")),
		"neigh del": places(0, neighbors), "route del": places(0, routes), "lease del": places(0, leases), "dns del": places(0, names),
		"policy show": places(0, policies), "policy add": places(0, policies, words("egress", "ingress"), words("allow", "reject", "drop")),
		"policy del": places(0, policies), "policy attach": places(0, policies), "policy detach": places(0, policies), "policy learn": places(0, ports),
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
