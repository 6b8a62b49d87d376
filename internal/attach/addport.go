package attach

import (
	"cmp"
	"context"
	"errors"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// ShouldAttachLocally reports whether the switch refused a port only because the switch cannot see or enter the namespace ns, and
// this process can see it.
func ShouldAttachLocally(refusal error, ns string) bool {
	if ns == "" || !api.IsCode(refusal, api.NamespaceNotFound) && !api.IsCode(refusal, api.NamespaceNotPermitted) {
		return false
	}
	_, err := netns.Path(ns)
	return err == nil
}

// Port creates the device of p in its namespace and passes it to the switch. A switch that may enter namespaces needs no such
// help: it creates the device itself.
func Port(ctx context.Context, sw *api.Client, p api.PortAdd) (api.Port, error) {
	if p.Offload == "off" {
		return api.Port{}, errors.New("a device without offloads cannot be passed to the switch: leave out --offload off, or run the switch with CAP_SYS_ADMIN, so that it can enter the namespace itself")
	}
	ns, err := netns.Path(p.Netns)
	if err != nil {
		return api.Port{}, err
	}
	a := &Attachment{
		Switch: sw, Network: api.NetworkAdd{Name: cmp.Or(p.Network, api.DefaultNetwork)}, Port: p.Name, Netns: ns, Display: p.Netns, Ifname: cmp.Or(p.Ifname, api.DefaultIfname),
		IP: p.IP, IP6: p.IP6, MAC: p.MAC, MTU: p.MTU, Set: p.Set,
		ID: p.Container, Tenant: p.Tenant, Aliases: p.Aliases.List(), Policies: p.Policies,
	}
	if p.NoRoute {
		a.Routes = []link.Route{}
	}
	out, err := a.Attach(ctx)
	return out.Port, err
}
