package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/usedports"
)

// nameUser says which program of the host has a port that cannot be published, if this process sees it. The switch in its sandbox does not.
func (a *app) nameUser(ctx context.Context, err error, p api.PublishAdd) error {
	var s api.Status
	spec, perr := model.ParsePublish(p)
	if !api.IsCode(err, api.HostPortInUse) || perr != nil || a.client().Do(ctx, "GET", "/status", nil, &s) != nil {
		return err
	}
	list, lerr := usedports.ListOf(s.PID)
	if lerr != nil {
		return err
	}
	for port := int(spec.Lo); port <= int(spec.Hi); port++ {
		if l, ok := usedports.Find(list, spec.Proto, spec.HostAddr, uint16(port)); ok && l.Owner() != usedports.Hidden {
			return model.HostPortTaken(port, spec.Proto, l.Owner())
		}
	}
	return err
}

// targetOf is where a published port leads in one family; address is the container's.
func targetOf(p api.Publish, address string) string {
	if address == "" {
		return "-"
	}
	return fmt.Sprintf("%s:%d", p.Literal(address), p.ContainerPort)
}

func (a *app) publishCommand() *cobra.Command {
	p := api.PublishAdd{}
	add := &cobra.Command{
		Use: "add [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp] --port NAME", Short: "Publish a port of a container on the host",
		Long: "Publish a port of a container on the host. A range is published on as many ports of the container, beginning with PORT:\n" +
			"5000-5009:6000 leads to 6000-6009. Without HOST_ADDR, the port is published on all addresses of the host, of both families. An IPv6 address is in\n" +
			"brackets: '[2001:db8::1]:8080:80'. Default: tcp.",
		Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			p.Spec = args[0]
			var made api.Publish
			if err := a.client().Do(c.Context(), "POST", "/publish", p, &made); err != nil {
				return a.nameUser(c.Context(), err, p)
			}
			if a.json {
				return a.printJSON(made)
			}
			waits := ""
			if made.Waits {
				waits = "; it waits, since another port of this container has these host ports"
			}
			line := func(host, target string) {
				to := targetOf(made, target)
				if to == "-" {
					to = "by the relay"
				}
				fmt.Fprintf(a.out, "%s:%s/%s -> %s (%s)%s\n", made.Literal(host), made.PortRange(), made.Protocol, made.Port, to, waits)
			}
			line(made.HostAddress, made.Address)
			if made.Address6 != "" {
				line("::", made.Address6)
			}
			return nil
		},
	}
	add.Flags().StringVar(&p.Port, "port", "", "name of the container's port on the switch")
	add.Flags().StringSliceVar(&p.From, "from", nil, "accept only these sources: CIDRs, separated by commas (default: all)")
	_ = add.MarkFlagRequired("port")
	del := &cobra.Command{Use: "del [HOST_ADDR:]HOST_PORT[-END][/tcp|udp|sctp]", Short: "Remove a published port", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c, "DELETE", "/publish?host="+url.QueryEscape(args[0]), nil)
		}}
	return group("publish", "Published ports: ports of the host that lead to a container",
		show(a, "ls", "List published ports", "/publish", func(w io.Writer, rows []api.Publish) {
			row(w, "HOST", "PROTO", "PORT", "TARGET", "FROM", "NEW FLOWS", "BYTES", "HOST CLIENTS", "IPV6 TARGET")
			for _, p := range rows {
				if p.Waits {
					p.Port += " (waits)"
				}
				row(w, p.Literal(p.HostAddress)+":"+p.PortRange(), p.Protocol, p.Port, targetOf(p, p.Address),
					cmp.Or(strings.Join(p.From, ","), "any"), p.Packets, p.Bytes, p.HostClients, targetOf(p, p.Address6))
			}
		}), add, del)
}
