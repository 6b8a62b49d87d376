package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/term"
)

func (a *app) neighCommand() *cobra.Command {
	unanswered := show(a, "unanswered", "Show the addresses that stations have asked for in the last minute, and that nobody has answered for", "/neighbors/unanswered", printUnanswered)
	unanswered.Long = "Show the addresses that stations have asked for in the last minute, by ARP or neighbor discovery, and that nobody has answered for:\n" +
		"the peer is not there, or does not have the address."
	return groupOf("neigh", "The router's neighbor table: which MAC address belongs to which IP address",
		showByFamily(a, "show", "Show the neighbors, as `ip neigh` does", "/neighbors", func(w io.Writer, rows []api.Neighbor) {
			for _, n := range rows {
				mac := ""
				if n.Lladdr != "" {
					mac = " lladdr " + n.Lladdr
				}
				if n.Router {
					mac += " router"
				}
				fmt.Fprintf(w, "%s dev %s%s %s\n", n.Dst, n.Network, mac, strings.Join(n.State, ","))
			}
		}),
		&cobra.Command{Use: "add ADDR lladdr MAC", Short: "Add a permanent neighbor", RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 3 || args[1] != "lladdr" {
				return usagef("usage: uvswitch neigh add ADDR lladdr MAC")
			}
			return a.change(c, "POST", "/neighbors", api.NeighborAdd{Dst: args[0], Lladdr: args[2]})
		}},
		unanswered,
		a.remove("del ADDR", "Remove a neighbor", "/neighbors/"),
		&cobra.Command{Use: "flush", Short: "Remove all learned entries", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return a.change(c, "DELETE", "/neighbors", nil)
		}})
}

func printUnanswered(w io.Writer, rows []api.Unanswered) {
	row(w, "PORT", "ASKS FOR", "TIMES", "IN", "WHY, AND WHAT TO DO")
	for _, q := range rows {
		row(w, q.Port, q.Dst, q.Count, time.Duration(q.First)*time.Second, q.Why)
		fmt.Fprintf(w, "\t\t\t->\t%s\n", term.Printable(q.Remedy))
	}
}

func (a *app) routeCommand() *cobra.Command {
	return groupOf("route", "The router's routing table",
		showByFamily(a, "show", "Show the routes, as `ip route` does", "/routes", func(w io.Writer, rows []api.Route) {
			for _, r := range rows {
				line := r.Dst
				if r.Type != "unicast" {
					line = r.Type + " " + line
				}
				if r.Gateway != "" {
					line += " via " + r.Gateway
				}
				if r.Dev != "" {
					line += " dev " + r.Dev
				}
				fmt.Fprintln(w, line)
			}
		}),
		&cobra.Command{Use: "get ADDR [from CONTAINER_ADDR]", Short: "Show where a packet to an address goes, as `ip route get` does",
			Long: "Show where a packet from a container goes. Outside of the switch's networks, the routing of the host decides: the device, the\n" +
				"next hop, and the host's address that NAT gives the packet.",
			RunE: func(c *cobra.Command, args []string) error {
				q := ""
				switch {
				case len(args) == 3 && args[1] == "from":
					q = "?src=" + url.QueryEscape(args[2])
				case len(args) != 1:
					return usagef("usage: uvswitch route get ADDR [from CONTAINER_ADDR]")
				}
				return get(c.Context(), a, "/routes/get/"+url.PathEscape(args[0])+q, func(w io.Writer, x api.Way) { fmt.Fprintln(w, wayText(x)) })
			}},
		a.routeChange("add", "Add a route, as `ip route add` does", "POST", false),
		a.routeChange("replace", "Add a route, or replace the route to the same destination", "POST", true),
		a.routeChange("del", "Remove a route", "DELETE", false))
}

// wayText is a way as `ip route get` prints it, and who has decided it.
func wayText(x api.Way) string {
	line := x.Dst
	if x.Type != "unicast" && x.Type != "local" {
		line = x.Type + " " + line
	}
	for _, part := range [][2]string{{"via", x.Gateway}, {"dev", x.Dev}, {"src", x.Src}} {
		if part[1] != "" {
			line += " " + part[0] + " " + part[1]
		}
	}
	if x.MTU != 0 {
		line += fmt.Sprintf(" mtu %d", x.MTU)
	}
	return line + "\n  because " + x.Why
}

// routeChange returns a command whose arguments are a route in the syntax of `ip route`, which `route show` also prints.
func (a *app) routeChange(name, short, method string, replace bool) *cobra.Command {
	form := name + " DST via GATEWAY|host | " + name + " blackhole|unreachable|prohibit DST"
	if method == "DELETE" {
		form = name + " DST | " + form
	}
	return &cobra.Command{Use: form, Short: short, RunE: func(c *cobra.Command, args []string) error {
		q := api.RouteAdd{Replace: replace}
		switch {
		case len(args) >= 3 && args[1] == "via" && (len(args) == 3 || len(args) == 5 && args[3] == "dev"): // the gateway's network, as `route show` prints it
			q.Dst, q.Gateway = args[0], args[2]
		case len(args) == 2 && args[1] != "via":
			q.Type, q.Dst = args[0], args[1]
		case len(args) == 1 && method == "DELETE":
			q.Dst = args[0]
		default:
			return usagef("usage: uvswitch route %s", strings.ReplaceAll(form, " | ", ", or uvswitch route "))
		}
		if method == "DELETE" {
			return a.change(c, method, "/routes?dst="+url.QueryEscape(q.Dst), nil)
		}
		return a.change(c, method, "/routes", q)
	}}
}
