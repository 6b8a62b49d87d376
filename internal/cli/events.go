package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/term"
)

func (a *app) eventsCommand() *cobra.Command {
	var since, until, format string
	var filters []string
	var past bool
	c := &cobra.Command{
		Use: "events [--since TIME] [--until TIME] [--filter KEY=VALUE]", Short: "Show what happens to the switch: ports, networks, policies, leases, refusals",
		Long: "Print a line for each event, until Ctrl-C: a port, a network, a published port or a policy has come, gone or changed; a lease began or\n" +
			"ended; a name was added or removed by hand; the uplink changed; a port was refused something. The switch remembers at least its last 1,024 events.\n" +
			"--since prints earlier ones first. TIME is how long ago (10m), or a time (2026-11-28T12:00:00Z).\n" +
			"The fields of a --format are Time, Event, Action, Network, Port, Name, Address, Hwaddr, Reason, Count and Text.\n" +
			"Filters are event=, action=, network=, port=, name= and reason=. Of several with one key, one must match.",
		Args: cobra.NoArgs,
	}
	fl := c.Flags()
	fl.StringVar(&since, "since", "", "print the events since this time first")
	fl.StringVar(&until, "until", "", "end at this time")
	fl.StringArrayVar(&filters, "filter", nil, "only events with this value, such as event=port or port=web")
	fl.BoolVar(&past, "no-follow", false, "print the remembered events, and end")
	fl.StringVar(&format, "format", "", "json, or a line's form as a template of Go: '{{.Event}} {{.Action}} {{.Port}}', '{{json .}}'")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if format == "json" {
			a.json = true
		}
		form, err := template.New("").Funcs(template.FuncMap{"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err }}).Parse(format + "\n")
		if err == nil {
			err = form.Execute(io.Discard, &api.Event{})
		}
		if err != nil {
			return usagef("--format: %v; the fields are Time, Event, Action, Network, Port, Name, Address, Hwaddr, Reason, Count and Text", err)
		}
		if err := a.noYAML(); err != nil {
			return err
		}
		q := url.Values{"since": {since}, "until": {until}, "filter": filters}
		if past {
			q.Set("follow", "0")
		}
		enc := api.NewEncoder(a.out)
		for e, err := range a.client().Events(c.Context(), q) {
			switch {
			case err != nil:
				return cut(c.Context(), err)
			case a.json:
				err = enc.Encode(e)
			case format != "":
				err = form.Execute(a.out, &e)
			default:
				_, err = fmt.Fprintln(a.out, eventLine(&e))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// eventLine formats an event for people.
func eventLine(e *api.Event) string {
	stamp := e.Time
	if t, err := time.Parse(time.RFC3339Nano, e.Time); err == nil {
		stamp = t.Local().Format("2006-01-02 15:04:05.000")
	}
	if e.Lost > 0 {
		return fmt.Sprintf("%s (%d events are forgotten)\n%s %s", stamp, e.Lost, stamp, term.Printable(e.Text))
	}
	return stamp + " " + term.Printable(e.Text)
}
