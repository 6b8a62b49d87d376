package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func (a *app) fdbCommand() *cobra.Command {
	e := api.FDBAdd{}
	add := &cobra.Command{Use: "add MAC dev PORT static|sticky", Short: "Add a static or sticky entry, which never expires and never moves to another port", Args: cobra.ExactArgs(4),
		RunE: func(c *cobra.Command, args []string) error {
			if args[1] != "dev" {
				return usagef("usage: uvswitch fdb add MAC dev PORT static|sticky")
			}
			e = api.FDBAdd{MAC: args[0], Port: args[2], State: args[3]}
			return a.change(c, "POST", "/fdb", e)
		}}
	var port string
	flush := &cobra.Command{Use: "flush", Short: "Remove all learned entries", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.change(c, "DELETE", "/fdb?port="+url.QueryEscape(port), nil)
	}}
	flush.Flags().StringVar(&port, "port", "", "only the entries of this port")
	return group("fdb", "The forwarding database: which MAC address is behind which port",
		show(a, "show", "Show the forwarding database", "/fdb", func(w io.Writer, rows []api.FDBEntry) {
			row(w, "NETWORK", "MAC", "PORT", "LOCAL", "STATE", "AGE")
			for _, e := range rows {
				local, age := "no", fmt.Sprintf("%.1f", e.Age)
				if e.IsLocal {
					local = "yes"
				}
				if e.State != "" {
					age = ""
				}
				row(w, e.Network, e.MAC, e.Ifname, local, e.State, age)
			}
		}), add, a.remove("del MAC", "Remove an entry", "/fdb/"), flush)
}

func (a *app) bridgeCommand() *cobra.Command {
	return group("bridge", "The networks, shown as bridges",
		&cobra.Command{Use: "show [NETWORK]", Short: "Show networks as `brctl showstp` shows a bridge", Args: cobra.MaximumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
			path := "/bridge"
			if len(args) > 0 {
				path += "?network=" + url.QueryEscape(args[0])
			}
			return get(c.Context(), a, path, showSTP)
		}},
		show(a, "ls", "List the networks as `brctl show` lists bridges", "/bridge", func(w io.Writer, rows []api.Bridge) {
			row(w, "bridge name", "bridge id", "STP enabled", "interfaces")
			for _, b := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t", b.Network, b.BridgeID, map[bool]string{true: "yes", false: "no"}[b.STP])
				for i, p := range b.Ports {
					if i > 0 {
						fmt.Fprint(w, "\n\t\t\t")
					}
					fmt.Fprint(w, p.Name)
				}
				fmt.Fprintln(w)
			}
		}))
}

// showSTP prints networks as brctl does (bridge-utils, brctl_disp.c). Each is the root of its own tree, and no port ever waits to forward. The
// times are those that IEEE 802.1D recommends; nothing uses them.
func showSTP(w io.Writer, rows []api.Bridge) {
	pair := func(name string, value any, name2 string, value2 any) {
		fmt.Fprintf(w, " %-22s%18v    %-22s%14v\n", name, value, name2, value2)
	}
	for _, b := range rows {
		fmt.Fprintf(w, "%s\n %-22s%18s\n %-22s%18s\n", b.Network, "bridge id", b.BridgeID, "designated root", b.Root)
		pair("root port", 0, "path cost", 0)
		pair("max age", "20.00", "bridge max age", "20.00")
		pair("hello time", "2.00", "bridge hello time", "2.00")
		pair("forward delay", "0.00", "bridge forward delay", "0.00")
		fmt.Fprintf(w, " %-22s%18.2f\n", "ageing time", b.AgeingTime)
		pair("hello timer", "0.00", "tcn timer", "0.00")
		pair("topology change timer", "0.00", "gc timer", "0.00")
		fmt.Fprintf(w, " flags\n\n\n")
		for _, p := range b.Ports {
			fmt.Fprintf(w, "%s (%d)\n", p.Name, p.Number)
			pair("port id", p.PortID, "state", p.State)
			pair("designated root", b.Root, "path cost", p.Cost)
			pair("designated bridge", b.BridgeID, "message age timer", "0.00")
			pair("designated port", p.PortID, "forward delay timer", "0.00")
			pair("designated cost", 0, "hold timer", "0.00")
			fmt.Fprintf(w, " %-22s%s\n\n", "flags", strings.Join(on(p.Flags), " "))
		}
	}
}
