package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/control"
	"github.com/uvswitch/uvswitch/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var name string
	c := &cobra.Command{Use: "doctor", Short: "Say what is wrong on this host, and how to mend it", Args: cobra.NoArgs,
		Long: "Look at what the switch needs of this host, at what is in its way, and at the running switch, if one is. Nothing is changed.\n" +
			"The exit status is 1 when something fails: the switch cannot run, or carries nothing.",
		RunE: func(c *cobra.Command, _ []string) error {
			e := doctor.Exam{Client: a.client(), Socket: a.socket, Name: name, Subnet: netip.MustParsePrefix(control.DefaultSubnet)}
			ranges := control.DefaultNATPorts
			var s api.Status
			if a.client().Do(c.Context(), "GET", "/status", nil, &s) == nil && s.Uplink.Ports != "" {
				ranges = s.Uplink.Ports
			}
			e.Ports, _ = control.ParseRanges(ranges) // the switch's own
			list := e.Run(c.Context())
			if a.json {
				if err := a.printJSON(list); err != nil {
					return err
				}
			} else {
				for _, f := range list {
					fmt.Fprintf(a.out, "%-5s %-12s %s\n", strings.ToUpper(string(f.Level)), f.Check, f.Text)
					if f.Mend != "" {
						fmt.Fprintf(a.out, "%18s -> %s\n", "", f.Mend)
					}
				}
			}
			if doctor.Failed(list) {
				return exitError{exitFailed}
			}
			return nil
		}}
	c.Flags().StringVar(&name, "name", "uvs", "prefix of the switch's own devices, as for run")
	return c
}
