package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func (a *app) leaseCommand() *cobra.Command {
	return group("lease", "Leases: addresses that stations have got from the gateways by DHCP",
		show(a, "ls", "List the leases that hold", "/leases", func(w io.Writer, rows []api.Lease) {
			row(w, "NETWORK", "PORT", "ADDRESS", "MAC", "HOST NAME", "TYPE", "EXPIRES")
			for _, l := range rows {
				row(w, l.Network, l.Port, l.Address, l.Hwaddr, l.Hostname, l.Type, l.Expires)
			}
		}))
}
