package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/top"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show the state of the switch on one screen", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return get(c.Context(), a, "/status", func(w io.Writer, s api.Status) {
			printStatus(w, &s)
			if list, err := a.client().Problems(c.Context()); err == nil && len(list) > 0 {
				row(w, "problems", fmt.Sprintf("%d; `uvswitch doctor` shows them, and what to do", len(list)))
			}
			printTables(w, s.Tables)
			printDrops(w, s.Drops)
		})
	}}
}

func printStatus(w io.Writer, s *api.Status) {
	row(w, "uvswitch", s.Version+fmt.Sprintf(", pid %d, up %s", s.PID, (time.Duration(s.Uptime)*time.Second).String()))
	backend := s.Backend + ", " + count(s.Workers, "worker")
	if s.BackendWhy != "" {
		backend += " (not io_uring: " + s.BackendWhy + ")"
	}
	row(w, "backend", backend)
	row(w, "sandbox", s.Sandbox)
	up := s.Uplink
	line := up.Kind
	if up.Kind != "none" {
		line = fmt.Sprintf("%s on %s, address %s, %s", orDash(up.Kind), orDash(up.Device), orDash(up.Address), up.State)
		if up.Why != "" {
			line += " (" + up.Why + ")"
		}
		if up.State == "down" && up.State6 == "up" {
			line += ", for IPv4"
		}
	}
	row(w, "uplink", line)
	if up.Kind != "none" {
		row(w, "IPv6", map[string]string{"up": "leads out, as " + orDash(up.Address6), "down": "does not lead out: " + up.Why6, "off": "the host's kernel has none"}[up.State6])
		row(w, "addresses", strings.Join(append(up.Addresses, up.Local...), ", "))
		row(w, "devices", fmt.Sprintf("%s; %d packets given back to the host", orDash(strings.Join(up.Devices, ", ")), up.GivenBack))
		if up.Flooded > 0 {
			row(w, "flooded", fmt.Sprintf("%d packets were dropped before the switch: the uplink's queue was full, and their ports received more than others", up.Flooded))
		}
	}
	row(w, "effect", up.Promise)
	row(w, "host port", s.Host)
	if s.Host != "" {
		row(w, "host inbound", s.HostInbound)
		row(w, "host clients", s.HostClients)
	}
	names := cmp.Or(strings.Join(s.NameServers, ", "), "none in /etc/resolv.conf")
	if len(s.SilentNames) > 0 {
		names += "; no answer lately from " + strings.Join(s.SilentNames, ", ")
	}
	if s.NamesWhy != "" {
		names += "; not read since they have changed: " + s.NamesWhy
	}
	row(w, "name servers", names)
	row(w, "ports", s.Ports)
	for _, p := range s.Waiting {
		row(w, "port waits", p.Port+": "+p.Why)
	}
	for _, n := range s.Networks {
		kind := ""
		if n.Internal {
			kind = ", internal"
		}
		six := ""
		if n.Subnet6 != "" {
			six = fmt.Sprintf("; IPv6 %s, gateway %s", n.Subnet6, n.Gateway6)
		}
		row(w, "network "+n.Name, fmt.Sprintf("%s, gateway %s%s, MTU %d, %s%s", n.Subnet, n.Gateway, six, n.MTU, count(n.Ports, "port"), kind))
	}
}

func (a *app) webCommand() *cobra.Command {
	url := &cobra.Command{Use: "url", Short: "Print the address of the live page, with the token that shows flows and packets", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var p api.WebPage
			if err := a.client().Do(c.Context(), "GET", "/web", nil, &p); err != nil {
				return err
			}
			if p.URL == "" {
				return errors.New("the switch serves no page; start it with --web 127.0.0.1:8088")
			}
			if a.json {
				return a.printJSON(p)
			}
			_, err := fmt.Fprintln(a.out, p.URL)
			return err
		}}
	return group("web", "The live page", url)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func printTables(w io.Writer, tables map[string]api.Table) {
	unit := map[string]string{"fdb": "MAC addresses", "flows": "flows of IPv4", "flows6": "flows of IPv6", "nat_ports": "outside ports of TCP and UDP", "sockets": "sockets of this user"}
	for _, k := range []string{"fdb", "flows", "flows6", "nat_ports", "sockets"} {
		if t, ok := tables[k]; ok {
			row(w, "table "+k, fmt.Sprintf("%d of %d %s", t.Used, t.Limit, unit[k]))
		}
	}
}

// natural compares names as people sort them: c2 comes before c10.
func natural(a, b string) int {
	digits := func(s string) int {
		return len(s) - len(strings.TrimLeft(s, "0123456789"))
	}
	for a != "" && b != "" {
		if n, m := digits(a), digits(b); n > 0 && m > 0 {
			x, y := strings.TrimLeft(a[:n], "0"), strings.TrimLeft(b[:m], "0")
			if c := cmp.Or(len(x)-len(y), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[n:], b[m:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// printDrops prints each reason with its count, meaning and remedy.
func printDrops(w io.Writer, drops map[string]uint64) {
	for _, name := range top.ByCount(drops) {
		info, _ := reasonOf(name)
		row(w, "dropped", fmt.Sprintf("%d %s: %s; %s", drops[name], name, info.Meaning, info.Remedy))
	}
}

func (a *app) reasonsCommand() *cobra.Command {
	return &cobra.Command{Use: "reasons [REASON ...]", Short: "List the drop reasons, what they mean, and what to do", RunE: func(_ *cobra.Command, names []string) error {
		for _, name := range names {
			if _, ok := frame.ParseReason(name); !ok {
				return usagef("%q is not a drop reason; `uvswitch reasons` lists them", name)
			}
		}
		var list []api.Reason
		for r := frame.None + 1; r < frame.NumReasons; r++ {
			if i := r.Info(); len(names) == 0 || slices.Contains(names, i.Name) {
				list = append(list, api.Reason{Name: i.Name, Meaning: i.Meaning, Remedy: i.Remedy})
			}
		}
		if a.json {
			return a.printJSON(list)
		}
		out := a.wrapped()
		for _, r := range list {
			fmt.Fprintf(out, "%s:  %s\n%24s->  %s\n", r.Name, r.Meaning, "", r.Remedy)
		}
		return nil
	}}
}

// reasonOf returns the description of a drop reason. It is false for a reason that only a newer switch has.
func reasonOf(name string) (frame.ReasonInfo, bool) {
	r, ok := frame.ParseReason(name)
	return r.Info(), ok
}

// printIO prints what each worker has done, and how many of its batches had how many frames.
func printIO(w io.Writer, workers []api.WorkerIO) {
	fmt.Fprintln(w)
	row(w, "WORKER", "CPU", "SPIN", "CALLS", "SLEEPS", "RE-ARMS")
	for i, x := range workers {
		row(w, i, fmt.Sprintf("%.2fs", x.CPUSeconds), fmt.Sprintf("%.2fs", x.SpinSeconds), x.Calls, x.Sleeps, x.Rearms)
	}
	fmt.Fprintln(w)
	head := []any{"BATCHES OF"}
	for _, frames := range api.BatchNames {
		head = append(head, frames)
	}
	row(w, head...)
	for i, x := range workers {
		cells := []any{fmt.Sprintf("worker %d", i)}
		for _, frames := range api.BatchNames {
			cells = append(cells, x.Batches[frames])
		}
		row(w, cells...)
	}
}

func (a *app) statsCommand() *cobra.Command {
	return show(a, "stats", "Show counters and drops by reason, and whether every frame is accounted for", "/stats", func(w io.Writer, s api.Stats) {
		printDrops(w, s.Drops)
		if len(s.Drops) > 0 {
			fmt.Fprintln(w)
		}
		row(w, "PORT", "FROM PORT", "BYTES", "DROPPED", "TO PORT", "BYTES", "DROPPED")
		var names []string
		for n := range s.Ports {
			names = append(names, n)
		}
		slices.SortFunc(names, natural)
		for _, n := range names {
			p := s.Ports[n]
			row(w, n, p.RxPackets, p.RxBytes, p.RxDropped, p.TxPackets, p.TxBytes, p.TxDropped)
		}
		fmt.Fprintln(w)
		printTables(w, s.Tables)
		printIO(w, s.IO)
		c, balanced := s.Conservation, "balanced true"
		if !c.Balanced {
			balanced = "not balanced at this moment, since some frames are on their way"
		}
		fmt.Fprintf(w, "\nreceived %d + originated %d + replicated %d = transmitted %d + dropped %d + consumed %d + waiting %d: %s\n",
			c.Received, c.Originated, c.Replicated, c.Transmitted, c.Dropped, c.Consumed, c.Waiting, balanced)
	})
}
