package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// proxyText says where neighbor solicitations are answered for a network.
func proxyText(n api.Network) string {
	switch {
	case !n.NDProxy:
		return "off"
	case len(n.ProxiedOn) == 0:
		return "on no device"
	}
	return "on " + strings.Join(n.ProxiedOn, ", ")
}

// network asks for one network.
func (a *app) network(ctx context.Context, name string) (n api.Network, err error) {
	var all []api.Network
	if err := a.client().Do(ctx, "GET", "/networks", nil, &all); err != nil {
		return n, err
	}
	i := slices.IndexFunc(all, func(n api.Network) bool { return n.Name == name })
	if i < 0 {
		return n, fmt.Errorf("network %q does not exist; `uvswitch network ls` lists the networks", name)
	}
	return all[i], nil
}

func (a *app) networkCommand() *cobra.Command {
	n := api.NetworkAdd{}
	add := &cobra.Command{Use: "add NAME --subnet CIDR", Short: "Add a network", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		n.Name = args[0]
		if err := a.client().Do(c.Context(), "POST", "/networks", n, nil); err != nil {
			return err
		}
		added, err := a.network(c.Context(), n.Name)
		if err != nil {
			return err
		}
		if a.json {
			err = a.printJSON(added)
		} else {
			_, err = fmt.Fprintf(a.out, "network %s: %s\n", added.Name, strings.TrimSpace(added.Subnet+" "+added.Subnet6))
		}
		if n.NDProxy && len(added.ProxiedOn) == 0 {
			fmt.Fprintf(c.ErrOrStderr(), "note: no device of the host that is ready has the prefix on its link now, so that nobody outside finds the containers by neighbor solicitations (`uvswitch doctor` says more)\n")
		}
		return err
	}}
	add.Flags().StringVar(&n.Subnet, "subnet", "", "subnet of the network, such as 172.30.0.0/16")
	add.Flags().StringVar(&n.Subnet6, "subnet6", "", "IPv6 subnet: auto (a /64 of the switch's own), off, or a subnet of /48 to /124, such as fd00:1::/64 (default off)")
	add.Flags().StringVar(&n.Gateway6, "gateway6", "", "IPv6 address of the gateway (default the first of the subnet)")
	add.Flags().StringVar(&n.Gateway, "gateway", "", "address of the gateway (default: the first address of the subnet)")
	networkFlags(add, &n)
	_ = add.MarkFlagRequired("subnet")
	table := func(w io.Writer, rows []api.Network) {
		head := []any{"NAME", "SUBNET", "GATEWAY", "MAC", "MTU", "INTERNAL", "ISOLATED", "PORTS", "SUBNET6"}
		if a.output == "wide" {
			head = append(head, "MAPPING", "FILTERING", "PROTOCOLS", "NAT6", "IN6", "RA", "ND-PROXY", "DNS", "DOMAIN", "DHCP")
		}
		row(w, head...)
		for _, n := range rows {
			cells := []any{n.Name, n.Subnet, n.Gateway, n.MAC, n.MTU, n.Internal, n.Isolated, n.Ports, cmp.Or(n.Subnet6, "-")}
			if a.output == "wide" {
				cells = append(cells, n.Mapping, n.Filtering, n.Protocols, cmp.Or(n.NAT6, "-"), cmp.Or(n.In6, "-"), cmp.Or(n.RA, "-"), proxyText(n), n.DNS, n.Domain, n.DHCP)
			}
			row(w, cells...)
		}
	}
	return group("network", "Networks: broadcast domains with a subnet and a gateway",
		show(a, "ls", "List networks", "/networks", table), add,
		a.networkSet(), a.remove("del NAME", "Remove a network that has no ports", "/networks/"),
		&cobra.Command{Use: "show NAME", Short: "Show one network", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			n, err := a.network(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(n)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, r := range [][2]any{{"name", n.Name}, {"subnet", n.Subnet}, {"gateway", n.Gateway + " at " + n.MAC}, {"subnet6", cmp.Or(n.Subnet6, "-")}, {"gateway6", cmp.Or(n.Gateway6, "-")}, {"nat6", cmp.Or(n.NAT6, "-")}, {"in6", cmp.Or(n.In6, "-")}, {"ra", cmp.Or(n.RA, "-")}, {"nd-proxy", proxyText(n)}, {"mtu", n.MTU}, {"internal", n.Internal},
				{"isolated", n.Isolated}, {"mapping", n.Mapping}, {"filtering", n.Filtering}, {"protocols", n.Protocols}, {"dhcp", n.DHCP}, {"dhcp-range", cmp.Or(n.DHCPRange, "-")}, {"dhcp-lease", cmp.Or(n.DHCPLease, "-")}, {"dhcp-routes", cmp.Or(strings.Join(n.DHCPRoutes, ","), "-")}, {"dns", n.DNS}, {"domain", n.Domain},
				{"dns-servers", cmp.Or(strings.Join(n.DNSServers, ","), "those of the host")}, {"names", cmp.Or(strings.Join(n.Names, ","), "-")}, {"policies", cmp.Or(strings.Join(n.Policies, ","), "-")}, {"ports", n.Ports}} {
				row(w, r[0], r[1])
			}
			return w.Flush()
		}})
}

// networkFlags are the settings of a network that can change.
func networkFlags(c *cobra.Command, n *api.NetworkAdd) {
	c.Flags().StringVar(&n.NAT6, "nat6", "", "with which source IPv6 packets leave: masquerade (an address of the host), routed (their own address) or npt=PREFIX (RFC 6296) (default masquerade for unique local addresses, else routed)")
	c.Flags().StringVar(&n.In6, "in6", "", "what may begin outside, with --nat6 routed or npt: replies (only published ports and pings) or any (default replies)")
	c.Flags().StringVar(&n.RA, "ra", "", "router advertisements of the gateway: on, slaac (stations make an address of their own) or off (default on)")
	c.Flags().BoolVar(&n.NDProxy, "nd-proxy", false, "answer neighbor solicitations on the host's devices for the containers' IPv6 addresses, so that the subnet may be a part of a subnet there (RFC 4861, 7.2.8); with --nat6 routed or npt")
	c.Flags().IntVar(&n.MTU, "mtu", 0, "MTU: the longest IP packet, in bytes (default 1500)")
	c.Flags().BoolVar(&n.Internal, "internal", false, "internal network: no packet leaves it or enters it")
	c.Flags().BoolVar(&n.Isolated, "isolated", false, "isolated network: it reaches no other network; it still reaches the host, the outside and published ports")
	c.Flags().StringVar(&n.Mapping, "mapping", "", "NAT mapping, by the names of RFC 4787: endpoint-independent (default), or address-and-port-dependent (allows more flows than outside ports)")
	c.Flags().StringVar(&n.Filtering, "filtering", "", "NAT filtering, by the names of RFC 4787: which outside senders may reach a container's outside port; address-and-port-dependent (default), address-dependent or endpoint-independent")
	c.Flags().StringVar((*string)(&n.Protocols), "protocols", "", "IP protocols without ports that may leave: all (default), none, or a list such as gre,esp,proto-4; TCP, UDP and ICMP may always leave")
	c.Flags().StringVar(&n.DNS, "dns", "", "what the gateway answers to questions for names: on, local (names of the switch only) or off (default on)")
	c.Flags().StringVar((*string)(&n.Policies), "policy", "", "which flows of all ports of the network may begin: names of policies, separated by commas (see uvswitch policy)")
	c.Flags().StringVar((*string)(&n.DNSServers), "dns-servers", "", "servers for other names than those of the switch, separated by commas (default those of /etc/resolv.conf)")
	c.Flags().StringVar(&n.Domain, "domain", "", "domain in which the names of the network's ports are (default NETWORK.SWITCH.internal)")
	c.Flags().StringVar((*string)(&n.Names), "names", "", "names besides those of ports: NAME=ADDRESS, separated by commas")
	c.Flags().StringVar(&n.DHCP, "dhcp", "", "whether the gateway answers DHCP questions: on or off (default on)")
	c.Flags().StringVar(&n.DHCPRange, "dhcp-range", "", "FIRST-LAST: the addresses for stations whose port has none (default: the upper half of the subnet)")
	c.Flags().StringVar(&n.DHCPLease, "dhcp-lease", "", "for how long a station has an address, from 2m to 720h (default 1h)")
	c.Flags().StringVar((*string)(&n.DHCPRoutes), "dhcp-routes", "", "routes that stations are told of besides the default route: PREFIX=GATEWAY, separated by commas")
}

func (a *app) networkSet() *cobra.Command {
	n := api.NetworkAdd{}
	c := &cobra.Command{Use: "set NAME [OPTIONS]", Short: "Change settings of a network; what is not named stays",
		Long: "Change settings of a network. What is not named stays. The value default takes a setting back.\n" +
			"The subnets and gateways cannot change. Devices keep the MTU that they have.\n" +
			"The change holds until the switch ends; a reload of a configuration file sets what the file says.",
		Args: cobra.ExactArgs(1)}
	networkFlags(c, &n)
	c.RunE = func(c *cobra.Command, args []string) error {
		all, err := json.Marshal(n)
		if err != nil {
			return err
		}
		var given map[string]any
		if err := json.Unmarshal(all, &given); err != nil {
			return err
		}
		set := map[string]any{}
		c.Flags().Visit(func(f *pflag.Flag) {
			if key := api.Key("--" + f.Name); key != "" {
				switch set[key] = given[key]; {
				case set[key] == "default":
					set[key] = ""
				case set[key] == nil: // left out, as it is empty
					set[key] = map[string]any{"string": "", "bool": false, "int": 0}[f.Value.Type()]
				}
			}
		})
		if len(set) == 0 {
			return usagef("say what to change: `uvswitch network set --help` lists the settings")
		}
		return a.change(c, "PATCH", "/networks/"+url.PathEscape(args[0]), set)
	}
	return c
}
