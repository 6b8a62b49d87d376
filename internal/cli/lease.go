package cli

import (
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func (a *app) leaseCommand() *cobra.Command {
	return group("lease", "Leases: addresses that stations have got from the gateways by DHCP", a.leaseList(), a.leaseDel())
}

func (a *app) leaseList() *cobra.Command {
	var network, port string
	c := &cobra.Command{Use: "ls", Short: "List the leases that hold", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		q := url.Values{"network": {network}, "port": {port}}
		return get(c.Context(), a, "/leases?"+q.Encode(), func(w io.Writer, rows []api.Lease) {
			row(w, "NETWORK", "PORT", "ADDRESS", "MAC", "HOST NAME", "TYPE", "LEFT", "EXPIRES")
			for _, l := range rows {
				left := ""
				if t, err := time.Parse(time.RFC3339, l.Expires); err == nil {
					left, l.Expires = time.Until(t).Round(time.Second).String(), t.Local().Format(time.DateTime)
				}
				row(w, l.Network, l.Port, l.Address, l.Hwaddr, l.Hostname, l.Type, left, l.Expires)
			}
		})
	}}
	c.Flags().StringVar(&network, "network", "", "only leases of this network")
	c.Flags().StringVar(&port, "port", "", "only leases of stations behind this port")
	return c
}

func (a *app) leaseDel() *cobra.Command {
	c := a.remove("del ADDRESS", "End a lease before its time", "/leases/")
	c.Long = "End the lease of an address before its time. The port loses the address, and its flows end. The station does not hear of it: it goes\n" +
		"on to use the address until its DHCP client asks again.\n" +
		"An address that is set aside, because a station has said that another one uses it, is free again."
	return c
}
