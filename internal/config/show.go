package config

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/router"
)

// Running returns the running switch as a configuration file, with what was added by hand. Ports that other programs have passed
// are left out: their programs make them.
func Running(ctx context.Context, sw *api.Client) (*File, error) {
	var status api.Status
	var ports []api.Port
	var published []api.Publish
	var routes []api.Route
	var nat api.NATSettings
	var policies []api.Policy
	for path, to := range map[string]any{"/policies": &policies, "/status": &status, "/ports": &ports, "/publish": &published, "/routes": &routes, "/nat/settings": &nat} {
		if err := sw.Do(ctx, "GET", path, nil, to); err != nil {
			return nil, err
		}
	}
	f := &File{Host: Host{Address: "off"}}
	f.Uplink.Device = model.UplinkNone
	if up := status.Uplink; up.Kind != model.UplinkNone {
		f.Uplink = Uplink{Device: up.Device, Kind: up.Kind, Ports: up.Ports, Devices: up.Allowed}
	}
	if status.Host != "" {
		f.Host = Host{Address: status.Host, Inbound: api.Words(status.HostInbound), Cgroup: status.HostCgroup}
	}
	f.NAT = NAT{Windows: nat.Windows, Flows: status.Tables["flows"].Limit, Flows6: status.Tables["flows6"].Limit, FlowsPerPort: nat.FlowsPerPort, Timers: timersFrom(nat.Timers)}
	for _, n := range status.Networks {
		f.Networks = append(f.Networks, api.NetworkAdd{Name: n.Name, Subnet: n.Subnet, Gateway: n.Gateway, Subnet6: cmp.Or(n.Subnet6, model.SubnetOff), Gateway6: n.Gateway6, NAT6: n.NAT6, In6: n.In6, RA: n.RA, NDProxy: n.NDProxy, MTU: n.MTU, Internal: n.Internal, Isolated: n.Isolated,
			Mapping: n.Mapping, Filtering: n.Filtering, Protocols: api.Words(n.Protocols),
			Policies: api.Words(strings.Join(n.Policies, ",")), DHCP: n.DHCP, DHCPRange: n.DHCPRange, DHCPLease: n.DHCPLease, DHCPRoutes: api.Words(strings.Join(n.DHCPRoutes, ",")), DNS: n.DNS, DNSServers: api.Words(strings.Join(n.DNSServers, ",")), Domain: n.Domain, Names: api.Words(strings.Join(n.Names, ","))})
	}
	for _, p := range policies {
		if p.Builtin {
			continue
		}
		x := api.PolicyAdd{Name: p.Name}
		if p.DNS != model.DNSWord(policy.ByRules) {
			x.DNS = p.DNS
		}
		for _, r := range p.Rules {
			x.Rules = append(x.Rules, r.Rule)
		}
		f.Policies = append(f.Policies, x)
	}
	var left []string
	for _, p := range ports {
		kind := model.PortKind(p.Kind)
		if kind == model.KindHost || kind == model.KindUplink || p.Handed {
			left = append(left, p.Name)
			continue
		}
		f.Ports = append(f.Ports, portOf(p, kind))
	}
	for _, p := range published {
		if slices.Contains(left, p.Port) {
			continue
		}
		x := Publish{From: "any", Host: p.HostPorts(), To: fmt.Sprintf("%s:%d", p.Port, p.ContainerPort), Proto: p.Protocol}
		if len(p.From) > 0 {
			x.From = Sources(strings.Join(p.From, ","))
		}
		f.Publish = append(f.Publish, x)
	}
	for _, w := range status.Waiting {
		f.Ports = append(f.Ports, w.Add)
		for _, p := range w.Publish {
			f.Publish = append(f.Publish, publishOf(p))
		}
	}
	for _, r := range routes {
		if !r.ByHand {
			continue
		}
		x := Route{Dst: r.Dst, Via: r.Gateway}
		if r.Type != router.Unicast.String() {
			x.Type = r.Type
		}
		f.Routes = append(f.Routes, x)
	}
	return f, nil
}

// publishOf asks for what a has asked for.
func publishOf(a api.PublishAdd) Publish {
	spec, proto, _ := strings.Cut(a.Spec, "/")
	at := strings.LastIndexByte(spec, ':')
	return Publish{From: Sources(cmp.Or(strings.Join(a.From, ","), "any")), Host: spec[:max(0, at)], To: a.Port + spec[max(0, at):], Proto: proto}
}

// portOf asks for a port like p.
func portOf(p api.Port, kind model.PortKind) api.PortAdd {
	x := api.PortAdd{Name: p.Name, Container: p.Container, Tenant: p.Tenant, Aliases: api.Words(strings.Join(p.Aliases, ",")), Policies: api.Words(strings.Join(p.Policies, ",")), Network: p.Network, MAC: p.MAC, Set: settingsOf(p)}
	for _, a := range p.Addresses {
		if strings.Contains(a, ":") {
			x.IP6 = a
		} else {
			x.IP = a
		}
	}
	if p.DHCP != "" { // its station asks again
		x.IP = ""
		if kind == model.KindTAPPort || kind == model.KindPlain {
			x.IP = api.DHCPAddress
		}
		delete(x.Set, "guard") // it comes with the lease
	}
	if kind == model.KindDevice {
		x.Device = p.Ifname
		return x
	}
	x.MTU = p.MTU
	switch kind {
	case model.KindStream:
		x.QEMUStream = p.Ifname
	case model.KindDgram:
		x.QEMUDgram = p.Ifname
	case model.KindVDE:
		x.VDE = p.Ifname
	default:
		x.Netns, x.Ifname, x.NoRoute, x.Offload = p.Netns, p.Ifname, p.NoRoute, "off"
		if p.Offload {
			x.Offload = "on"
		}
	}
	return x
}

// settingsOf makes another port have the settings of p.
func settingsOf(p api.Port) api.PortSet {
	out := api.PortSet{}
	for name, on := range p.Flags {
		out[name] = model.SettingOf(name, on)
	}
	for name, limit := range p.Storm {
		if limit != model.DefaultStorm(name) {
			out[name] = api.StormSetting(limit)
		}
	}
	if p.RxRate != 0 {
		out["rate_from"] = api.RateSetting(p.RxRate, p.RxBurst)
	}
	if p.TxRate != 0 {
		out["rate_to"] = api.RateSetting(p.TxRate, p.TxBurst)
	}
	return out
}
