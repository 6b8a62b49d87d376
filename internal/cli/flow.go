package cli

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

func (a *app) flowCommand() *cobra.Command {
	q := url.Values{}
	filters := func(c *cobra.Command) *cobra.Command {
		for _, f := range []struct{ name, short, use string }{
			{"family", "f", "address family: ipv4 or ipv6"}, {"src", "s", "original source: an address or a prefix"}, {"dst", "d", "original destination: an address or a prefix"},
			{"proto", "p", "protocol: tcp, udp, sctp, icmp (with -f ipv6: icmpv6), icmpv6, gre, esp, or proto-N"}, {"port", "", "name of the container's port on the switch"}, {"sport", "", "original source port"}, {"dport", "", "original destination port"}, {"state", "", "TCP state, such as ESTABLISHED"},
		} {
			c.Flags().StringP(f.name, f.short, "", f.use)
		}
		return c
	}
	query := func(c *cobra.Command) (string, error) {
		for _, name := range []string{"family", "src", "dst", "proto", "port", "sport", "dport", "state"} {
			v, _ := c.Flags().GetString(name)
			if v == "" {
				continue
			}
			if _, ok := frame.ProtoNumber(v); !ok && name == "proto" {
				return "", usagef("--proto %q is not valid; use tcp, udp, sctp, icmp, icmpv6, gre, esp, or proto-N", v)
			}
			q.Set(name, v)
		}
		if q.Get("family") == "ipv6" && q.Get("proto") == "icmp" {
			q.Set("proto", "icmpv6")
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
				return usagef("select the flows with --family, --src, --dst, --proto, --port, --sport, --dport or --state; `uvswitch flow flush` removes all flows")
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
		if err := a.noYAML(); err != nil {
			return err
		}
		if _, err := query(c); err != nil {
			return err
		}
		for e, err := range a.client().FlowEvents(c.Context(), q) {
			if err != nil {
				return err
			}
			if err := a.printFlowEvent(&e); err != nil {
				return err
			}
		}
		return nil
	}})
	stats := show(a, "stats", "Count the flows by state, by port, and by how they ended", "/flows/stats", printFlowStats)
	return group("flow", "Flows: the tracked connections", ls, events, stats, end("del", "Remove the flows that match", true), end("flush", "Remove all flows, or, with options, those that match", false))
}

func (a *app) printFlowEvent(e *api.FlowEvent) error {
	if a.json {
		return api.NewEncoder(a.out).Encode(e)
	}
	fmt.Fprintf(a.out, "%9s ", "["+e.Event+"]")
	if e.Reason != "" {
		fmt.Fprintf(a.out, "(%s) ", e.Reason)
	}
	a.printFlows(a.out, []api.Flow{e.Flow})
	return nil
}

func printFlowStats(w io.Writer, s api.FlowStats) {
	row(w, "flows", fmt.Sprintf("%d of %d; limit per port %d", s.Used, s.Limit, s.Quota))
	row(w, "flows of IPv6", fmt.Sprintf("%d of %d", s.Used6, s.Limit6))
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
	for _, k := range byName(s.Tenants) {
		row(w, "held by tenant "+k, s.Tenants[k])
	}
	if s.Missed > 0 {
		row(w, "events lost", s.Missed)
	}
}

func byName[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (a *app) printFlows(w io.Writer, rows []api.Flow) {
	for _, f := range rows {
		if a.output == "extended" {
			fmt.Fprintf(w, "%-8s %d ", f.Family, map[string]int{"ipv4": unix.AF_INET, "ipv6": unix.AF_INET6}[f.Family])
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
