package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/term"
)

func (a *app) monitorCommand() *cobra.Command {
	var ports []string
	var verdict, reason string
	var last, count int
	var follow bool
	c := &cobra.Command{
		Use: "monitor [--verdict VERDICT] [--reason REASON] [--port NAME] [--last N] [-f] [EXPRESSION]", Short: "Show the verdict of each frame live, and the reason of each drop",
		Long: "Print a line for each frame with its verdict: forwarded, flooded, consumed by the gateway, or dropped with a reason.\n" +
			"--last N prints the last N drops. Each worker (--workers of run) always remembers the last 64 drops of each port, so a\n" +
			"port that floods pushes out only its own.\n" +
			"With -f, new frames follow.",
	}
	fl := c.Flags()
	fl.StringSliceVar(&ports, "port", nil, "only frames from or to these ports")
	fl.StringVar(&verdict, "verdict", "", "only frames with this verdict: forwarded, flooded, consumed or dropped")
	fl.StringVar(&reason, "reason", "", "only frames that were dropped for this reason (see uvswitch reasons)")
	fl.IntVar(&last, "last", 0, "print the last N drops first; without -f, exit after them")
	fl.IntVarP(&count, "count", "c", 0, "exit after N lines")
	fl.BoolVarP(&follow, "follow", "f", false, "after --last, continue with new frames")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := a.noYAML(); err != nil {
			return err
		}
		if last < 0 || count < 0 || c.Flags().Changed("last") && last == 0 {
			return usagef("--last and --count must be numbers from 1")
		}
		q := url.Values{"verdict": {verdict}, "reason": {reason}, "last": {strconv.Itoa(last)}, "filter": {strings.Join(args, " ")}, "port": ports}
		if last > 0 && !follow {
			q.Set("follow", "0")
		}
		body, err := a.client().Stream(c.Context(), "GET", "/monitor?"+q.Encode(), nil)
		if err != nil {
			return err
		}
		defer body.Close()
		if last == 0 || follow {
			fmt.Fprintln(a.err, "uvswitch: listening")
		}
		dec, enc := json.NewDecoder(body), api.NewEncoder(a.out)
		for n := 0; count == 0 || n < count; n++ {
			var v api.Verdict
			if err := dec.Decode(&v); err != nil {
				return cut(c.Context(), err)
			}
			if a.json {
				err = enc.Encode(v)
			} else {
				style := term.Plain
				if v.Verdict == "dropped" {
					style = term.Bad
				}
				_, err = fmt.Fprintln(a.out, a.styled(style, verdictLine(&v)))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// verdictLine formats a verdict for people.
func verdictLine(v *api.Verdict) string {
	stamp := v.Time
	if t, err := time.Parse(time.RFC3339Nano, v.Time); err == nil {
		stamp = t.Local().Format("15:04:05.000000")
		if point := strings.IndexByte(v.Time, '.'); point >= 0 && strings.TrimLeft(v.Time[point+2:], "0123456789") == v.Time[point+2:] {
			stamp = t.Local().Format("15:04:05.0     ") // remembered drops have a time of lower precision
		}
	}
	s := fmt.Sprintf("%s %-8s %s", stamp, orDash(v.In), term.Printable(v.Packet))
	if v.Lost > 0 {
		s = fmt.Sprintf("%s (%d lines lost: this reader was too slow, or captures used up their time)\n%s", stamp, v.Lost, s)
	}
	switch v.Verdict {
	case "dropped":
		s += " DROPPED " + v.Reason
		if v.Out != "" && v.In != v.Out {
			s += " at " + v.Out
		}
		if v.Why != "" {
			s += ": " + term.Printable(v.Why)
		}
	case "flooded":
		s += fmt.Sprintf(" flooded to %d ports", v.Copies)
	case "consumed":
		s += " consumed by the gateway"
	default:
		s += " forwarded to " + v.Out
	}
	if v.Becomes != "" {
		s += ", translated to " + term.Printable(v.Becomes)
	}
	if v.Flow != 0 {
		s += fmt.Sprintf(" (flow %d)", v.Flow)
	}
	return s
}
