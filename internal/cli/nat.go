package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func (a *app) natCommand() *cobra.Command {
	rules := show(a, "show", "Show the NAT rules, as `iptables -t nat -L -n -v` does, and the outside ports in use", "/nat", func(w io.Writer, rows []api.NATRule) {
		for _, chain := range []string{"PREROUTING", "POSTROUTING"} {
			fmt.Fprintf(w, "Chain %s\n", chain)
			row(w, "pkts", "bytes", "target", "prot", "in", "out", "source", "destination", "to")
			for _, r := range rows {
				if r.Chain == chain {
					row(w, r.Packets, r.Bytes, r.Target, r.Protocol, r.In, r.Out, r.Source, r.Destination, r.To)
				}
			}
			fmt.Fprintln(w)
		}
	})
	both := rules.RunE
	rules.RunE = func(c *cobra.Command, args []string) error {
		if err := both(c, args); err != nil || a.json {
			return err
		}
		return get(c.Context(), a, "/nat/ports", printPortUse)
	}
	set := &cobra.Command{Use: "set ports RANGES", Short: "Change which ports of the host NAT may give out",
		Long: "Change which ports of the host's addresses NAT may give out, such as 1024-65535 or 20000-29999,40000-49999. Flows keep the ports that\n" +
			"they have. The next reload, and the next start, use what the configuration file and the flags of run say.",
		Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
			if args[0] != "ports" {
				return usagef("usage: uvswitch nat set ports RANGES")
			}
			return a.change(c, "PATCH", "/nat", api.NATSet{Ports: args[1]})
		}}
	return group("nat", "Address translation (NAT)", rules, set,
		show(a, "settings", "Show how NAT checks TCP windows, and the timeouts in seconds", "/nat/settings", func(w io.Writer, s api.NATSettings) {
			row(w, "windows", s.Windows)
			for _, k := range byName(s.Timers) {
				row(w, "timer "+k, s.Timers[k])
			}
		}),
		show(a, "ports", "Show the outside ports (TCP and UDP ports of the host's addresses that NAT gives to flows) in use, by port of the switch", "/nat/ports", printPortUse))
}

func printPortUse(w io.Writer, rows []api.PortUse) {
	row(w, "outside ports", "used", "resting", "limit", "limit per port", "held by (used and resting)")
	for _, u := range rows {
		var held []string
		for _, name := range byName(u.Holders) {
			held = append(held, fmt.Sprintf("%s %d", name, u.Holders[name]))
		}
		for _, name := range byName(u.Tenants) {
			held = append(held, fmt.Sprintf("tenant %s %d", name, u.Tenants[name]))
		}
		row(w, u.Protocol, u.Used, u.Resting, u.Limit, u.Quota, strings.Join(held, ", "))
	}
}
