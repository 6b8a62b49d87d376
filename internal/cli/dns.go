package cli

import (
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func (a *app) dnsCommand() *cobra.Command {
	var network string
	ofNetwork := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&network, "network", "", "name of the network (default: the network default)")
		return c
	}
	add := ofNetwork(&cobra.Command{Use: "add NAME ADDRESS", Short: "Give a network a name, until the switch ends", Args: cobra.ExactArgs(2),
		Long: "Give a network a name with an address, besides the names of its ports. Several addresses of one name are answered together.\n" +
			"The name is there until the switch ends. Names that stay are in the configuration file: networks: [{names: [NAME=ADDRESS]}].",
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c, "POST", "/names", api.NameAdd{Network: network, Name: args[0], Address: args[1]})
		}})
	del := ofNetwork(&cobra.Command{Use: "del NAME [ADDRESS]", Short: "Remove a name that `dns add` has added", Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			q := url.Values{"name": {args[0]}, "network": {network}}
			if len(args) == 2 {
				q.Set("address", args[1])
			}
			return a.change(c, "DELETE", "/names?"+q.Encode(), nil)
		}})
	return group("dns", "Names: what the gateways answer to questions for names (DNS)",
		show(a, "ls", "List the names of all networks", "/names", func(w io.Writer, rows []api.Name) {
			row(w, "NETWORK", "NAME", "ADDRESSES", "SOURCE", "PORT", "FULL NAME")
			for _, n := range rows {
				row(w, n.Network, n.Name, strings.Join(n.Addresses, " "), n.Source, n.Port, n.FQDN)
			}
		}), add, del)
}
