package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
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

func (a *app) neighCommand() *cobra.Command {
	return group("neigh", "The router's neighbor table: which MAC address belongs to which IP address",
		show(a, "show", "Show the neighbors, as `ip neigh` does", "/neighbors", func(w io.Writer, rows []api.Neighbor) {
			for _, n := range rows {
				mac := ""
				if n.Lladdr != "" {
					mac = " lladdr " + n.Lladdr
				}
				fmt.Fprintf(w, "%s dev %s%s %s\n", n.Dst, n.Network, mac, strings.Join(n.State, ","))
			}
		}),
		&cobra.Command{Use: "add ADDR lladdr MAC", Short: "Add a permanent neighbor", RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 3 || args[1] != "lladdr" {
				return usagef("usage: uvswitch neigh add ADDR lladdr MAC")
			}
			return a.client().Do(c.Context(), "POST", "/neighbors", api.NeighborAdd{Dst: args[0], Lladdr: args[2]}, nil)
		}},
		a.remove("del ADDR", "Remove a neighbor", "/neighbors/"),
		&cobra.Command{Use: "flush", Short: "Remove all learned entries", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return a.client().Do(c.Context(), "DELETE", "/neighbors", nil, nil)
		}})
}

func (a *app) routeCommand() *cobra.Command {
	return group("route", "The router's routing table",
		show(a, "show", "Show the routes, as `ip route` does", "/routes", func(w io.Writer, rows []api.Route) {
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
		a.routeChange("add", "Add a route, as `ip route add` does", "POST", false),
		a.routeChange("replace", "Add a route, or replace the route to the same destination", "POST", true),
		a.routeChange("del", "Remove a route", "DELETE", false))
}

// routeChange returns a command whose arguments are a route in the syntax of `ip route`, which `route show` also prints.
func (a *app) routeChange(name, short, method string, replace bool) *cobra.Command {
	form := name + " DST via GATEWAY | " + name + " blackhole|unreachable|prohibit DST"
	if method == "DELETE" {
		form = name + " DST | " + form
	}
	return &cobra.Command{Use: form, Short: short, RunE: func(c *cobra.Command, args []string) error {
		q := api.RouteAdd{Replace: replace}
		switch {
		case len(args) >= 3 && args[1] == "via" && (len(args) == 3 || len(args) == 5 && args[3] == "dev"):
			q.Dst, q.Gateway = args[0], args[2]
		case len(args) == 2:
			q.Type, q.Dst = args[0], args[1]
		case len(args) == 1 && method == "DELETE":
			q.Dst = args[0]
		default:
			return usagef("usage: uvswitch route %s", strings.ReplaceAll(form, " | ", ", or uvswitch route "))
		}
		if method == "DELETE" {
			return a.client().Do(c.Context(), method, "/routes?dst="+url.QueryEscape(q.Dst), nil, nil)
		}
		return a.client().Do(c.Context(), method, "/routes", q, nil)
	}}
}

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
	return group("nat", "Address translation (NAT)", rules,
		show(a, "settings", "Show how NAT checks TCP windows, and the timeouts in seconds", "/nat/settings", func(w io.Writer, s api.NATSettings) {
			row(w, "windows", s.Windows)
			for _, k := range byName(s.Timers) {
				row(w, "timer "+k, s.Timers[k])
			}
		}),
		show(a, "ports", "Show the outside ports in use, and which ports of the switch hold them", "/nat/ports", printPortUse))
}

func printPortUse(w io.Writer, rows []api.PortUse) {
	row(w, "outside ports", "used", "resting", "limit", "limit per port", "held by (used and resting)")
	for _, u := range rows {
		var held []string
		for name, n := range u.Holders {
			held = append(held, fmt.Sprintf("%s %d", name, n))
		}
		sort.Strings(held)
		row(w, u.Protocol, u.Used, u.Resting, u.Limit, u.Quota, strings.Join(held, ", "))
	}
}

func (a *app) flowCommand() *cobra.Command {
	q := url.Values{}
	filters := func(c *cobra.Command) *cobra.Command {
		for _, f := range []struct{ name, short, use string }{
			{"src", "s", "original source: an address or a prefix"}, {"dst", "d", "original destination: an address or a prefix"},
			{"proto", "p", "protocol: tcp, udp, sctp, icmp, gre, esp, or proto-N"}, {"port", "", "name of the container's port on the switch"}, {"sport", "", "original source port"}, {"dport", "", "original destination port"}, {"state", "", "TCP state, such as ESTABLISHED"},
		} {
			c.Flags().StringP(f.name, f.short, "", f.use)
		}
		return c
	}
	query := func(c *cobra.Command) (string, error) {
		for _, name := range []string{"src", "dst", "proto", "port", "sport", "dport", "state"} {
			v, _ := c.Flags().GetString(name)
			if v == "" {
				continue
			}
			if _, ok := frame.ProtoNumber(v); !ok && name == "proto" {
				return "", usagef("--proto %q is not valid; use tcp, udp, sctp, icmp, gre, esp, or proto-N", v)
			}
			q.Set(name, v)
		}
		return "/flows?" + q.Encode(), nil
	}
	ls := filters(&cobra.Command{Use: "ls", Short: "List flows, as `conntrack -L` does", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		path, err := query(c)
		if err != nil {
			return err
		}
		return get(c.Context(), a, path, a.printFlows)
	}})
	end := func(use, short string, needs bool) *cobra.Command {
		return filters(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			path, err := query(c)
			if err != nil {
				return err
			}
			if needs && len(q) == 0 {
				return usagef("select the flows with --src, --dst, --proto, --port, --sport, --dport or --state; `uvswitch flow flush` removes all flows")
			}
			var n struct{ Deleted int }
			if err := a.client().Do(c.Context(), "DELETE", path, nil, &n); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]int{"deleted": n.Deleted})
			}
			_, err = fmt.Fprintf(a.out, "%d flows deleted\n", n.Deleted)
			return err
		}})
	}
	events := filters(&cobra.Command{Use: "events", Short: "Show flows live when they start, change and end, as `conntrack -E` does", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		path, err := query(c)
		if err != nil {
			return err
		}
		return a.followFlows(c.Context(), strings.Replace(path, "/flows?", "/flows/events?", 1))
	}})
	stats := show(a, "stats", "Count the flows by state, by port, and by how they ended", "/flows/stats", printFlowStats)
	return group("flow", "Flows: the tracked connections", ls, events, stats, end("del", "Remove the flows that match", true), end("flush", "Remove all flows", false))
}

// followFlows prints flow events until ctx is done.
func (a *app) followFlows(ctx context.Context, path string) error {
	body, err := a.client().Stream(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var e api.FlowEvent
		if err := dec.Decode(&e); err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if a.json {
			if err := json.NewEncoder(a.out).Encode(e); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.out, "%9s ", "["+e.Event+"]")
		if e.Reason != "" {
			fmt.Fprintf(a.out, "(%s) ", e.Reason)
		}
		a.printFlows(a.out, []api.Flow{e.Flow})
	}
}

func printFlowStats(w io.Writer, s api.FlowStats) {
	row(w, "flows", fmt.Sprintf("%d of %d; limit per port %d", s.Used, s.Limit, s.Quota))
	row(w, "created", s.Created)
	for _, k := range byName(s.Ended) {
		row(w, "ended: "+k, s.Ended[k])
	}
	for _, k := range byName(s.States) {
		row(w, "now: "+k, s.States[k])
	}
	for _, k := range byName(s.Holders) {
		row(w, "held by "+k, s.Holders[k])
	}
	if s.Missed > 0 {
		row(w, "events lost", s.Missed)
	}
}

func byName[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (a *app) printFlows(w io.Writer, rows []api.Flow) {
	for _, f := range rows {
		if a.wide == "extended" {
			fmt.Fprint(w, "ipv4     2 ")
		}
		state := ""
		if f.State != "" {
			state = f.State + " "
		}
		fmt.Fprintf(w, "%-8s %d %d %s%s ", f.Protocol, f.Number, f.Timeout, state, side(f.Original))
		for _, s := range f.Status {
			if s == "unreplied" {
				fmt.Fprint(w, "[UNREPLIED] ")
			}
		}
		fmt.Fprint(w, side(f.Reply))
		for _, s := range f.Status {
			if s == "assured" {
				fmt.Fprint(w, " [ASSURED]")
			}
		}
		fmt.Fprintln(w, " mark=0 use=1")
	}
}

func side(s api.FlowSide) string {
	if s.Type != nil {
		return fmt.Sprintf("src=%s dst=%s type=%d code=%d id=%d packets=%d bytes=%d", s.Src, s.Dst, *s.Type, *s.Code, *s.ID, s.Packets, s.Bytes)
	}
	return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d packets=%d bytes=%d", s.Src, s.Dst, s.Sport, s.Dport, s.Packets, s.Bytes)
}

func (a *app) statusCommand() *cobra.Command {
	return show(a, "status", "Show the state of the switch on one screen", "/status", func(w io.Writer, s api.Status) {
		row(w, "uvswitch", s.Version+fmt.Sprintf(", pid %d, up %s", s.PID, (time.Duration(s.Uptime)*time.Second).String()))
		backend := fmt.Sprintf("%s, %d workers", s.Backend, s.Workers)
		if s.BackendWhy != "" {
			backend += " (not io_uring: " + s.BackendWhy + ")"
		}
		row(w, "backend", backend)
		up := s.Uplink
		line := up.Kind
		if up.Kind != "none" {
			line = fmt.Sprintf("%s on %s, address %s, %s", orDash(up.Kind), orDash(up.Device), orDash(up.Address), up.State)
			if up.Why != "" {
				line += " (" + up.Why + ")"
			}
		}
		row(w, "uplink", line)
		row(w, "effect", up.Promise)
		row(w, "host port", s.Host)
		row(w, "ports", s.Ports)
		for _, n := range s.Networks {
			kind := ""
			if n.Internal {
				kind = ", internal"
			}
			row(w, "network "+n.Name, fmt.Sprintf("%s, gateway %s, MTU %d, %d ports%s", n.Subnet, n.Gateway, n.MTU, n.Ports, kind))
		}
		printTables(w, s.Tables)
		printDrops(w, s.Drops)
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func printTables(w io.Writer, tables map[string]api.Table) {
	unit := map[string]string{"fdb": "MAC addresses", "flows": "flows", "nat_ports": "outside ports of TCP and UDP"}
	for _, k := range []string{"fdb", "flows", "nat_ports"} {
		row(w, "table "+k, fmt.Sprintf("%d of %d %s", tables[k].Used, tables[k].Limit, unit[k]))
	}
}

// printDrops prints each reason with its count, meaning and remedy.
func printDrops(w io.Writer, drops map[string]uint64) {
	for _, name := range byCount(drops) {
		info, _ := reasonOf(name)
		row(w, "dropped", fmt.Sprintf("%d %s: %s; %s", drops[name], name, info.Meaning, info.Remedy))
	}
}

func (a *app) reasonsCommand() *cobra.Command {
	return &cobra.Command{Use: "reasons", Short: "List every drop reason, what it means, and what to do", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		var list []api.Reason
		for r := frame.None + 1; r < frame.NumReasons; r++ {
			i := r.Info()
			list = append(list, api.Reason{Name: i.Name, Meaning: i.Meaning, Remedy: i.Remedy})
		}
		if a.json {
			return a.printJSON(list)
		}
		for _, r := range list {
			fmt.Fprintf(a.out, "%s: %s\n%24s -> %s\n", r.Name, r.Meaning, "", r.Remedy)
		}
		return nil
	}}
}

// reasonOf returns the description of a drop reason. It is false for a reason that only a newer switch has.
func reasonOf(name string) (frame.ReasonInfo, bool) {
	r, ok := frame.ParseReason(name)
	return r.Info(), ok
}

func (a *app) statsCommand() *cobra.Command {
	return show(a, "stats", "Show counters, drops by reason, and the balance of all frames", "/stats", func(w io.Writer, s api.Stats) {
		row(w, "PORT", "RX", "RX BYTES", "RX DROPPED", "TX", "TX BYTES", "TX DROPPED")
		var names []string
		for n := range s.Ports {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			p := s.Ports[n]
			row(w, n, p.RxPackets, p.RxBytes, p.RxDropped, p.TxPackets, p.TxBytes, p.TxDropped)
		}
		fmt.Fprintln(w)
		printTables(w, s.Tables)
		printDrops(w, s.Drops)
		c := s.Conservation
		fmt.Fprintf(w, "\nreceived %d + originated %d + replicated %d = transmitted %d + dropped %d + consumed %d: balanced %v\n",
			c.Received, c.Originated, c.Replicated, c.Transmitted, c.Dropped, c.Consumed, c.Balanced)
	})
}
