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
			return a.client().Do(c.Context(), "POST", "/fdb", e, nil)
		}}
	var port string
	flush := &cobra.Command{Use: "flush", Short: "Remove all learned entries", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.client().Do(c.Context(), "DELETE", "/fdb?port="+url.QueryEscape(port), nil, nil)
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
		show(a, "show", "Show each network as `brctl showstp` shows a bridge", "/bridge", func(w io.Writer, rows []api.Bridge) {
			for _, b := range rows {
				fmt.Fprintf(w, "%s\n", b.Network)
				fmt.Fprintf(w, " bridge id\t%s\tstp\t%s\n", b.BridgeID, map[bool]string{true: "enabled", false: "disabled"}[b.STP])
				fmt.Fprintf(w, " designated root\t%s\n", b.Root)
				fmt.Fprintf(w, " root port\t0\tpath cost\t0\n")
				fmt.Fprintf(w, " ageing time\t%.2f\n\n", b.AgeingTime)
				for _, p := range b.Ports {
					fmt.Fprintf(w, "%s (%d)\n", p.Name, p.Number)
					fmt.Fprintf(w, " port id\t%s\tstate\t%s\n", p.PortID, p.State)
					fmt.Fprintf(w, " designated root\t%s\tpath cost\t%d\n", b.Root, p.Cost)
					fmt.Fprintf(w, " designated bridge\t%s\n", b.BridgeID)
					fmt.Fprintf(w, " flags\t%s\n\n", strings.Join(on(p.Flags), " "))
				}
			}
		}))
}
