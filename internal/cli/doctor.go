package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/doctor"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/term"
)

func (a *app) doctorCommand() *cobra.Command {
	var name string
	c := &cobra.Command{Use: "doctor", Short: "Check this host and the running switch, and say how to fix each problem", Args: cobra.NoArgs,
		Long: "Check that this host has what the switch needs, that nothing on it conflicts with the switch, and that a running switch works.\nNothing is changed. " +
			"The exit status is 1 when a check ends with FAIL: the switch cannot run, or it carries no traffic.",
		RunE: func(c *cobra.Command, _ []string) error {
			e := doctor.Exam{Client: a.client(), Socket: a.socket, Name: name, Subnet: netip.MustParsePrefix(model.DefaultSubnet)}
			ranges := model.DefaultNATPorts
			var s api.Status
			if a.client().Do(c.Context(), "GET", "/status", nil, &s) == nil && s.Uplink.Ports != "" {
				ranges = s.Uplink.Ports
			}
			e.Ports, _ = model.ParsePortRanges(ranges) // the default ranges, or those of the running switch
			list := e.Run(c.Context())
			if a.json {
				if err := a.printJSON(list); err != nil {
					return err
				}
			} else {
				out := a.wrapped()
				for _, f := range list {
					style := map[doctor.Level]term.Style{doctor.OK: term.Good, doctor.Warn: term.Warn, doctor.Fail: term.Bad}[f.Level]
					fmt.Fprintf(out, "%s %-12s  %s\n", a.styled(style, fmt.Sprintf("%-5s", strings.ToUpper(string(f.Level)))), f.Check, term.Printable(f.Text))
					if f.Remedy != "" {
						fmt.Fprintf(out, "%20s->  %s\n", "", term.Printable(f.Remedy))
					}
				}
			}
			if doctor.Failed(list) {
				return exitError{exitFailed}
			}
			return nil
		}}
	c.Flags().StringVar(&name, "name", defaultName, "name prefix of the switch's own devices, if no switch runs: the --name with which it is started")
	return c
}
