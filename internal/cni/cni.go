// Package cni is a CNI plugin (podman 4, containerd, nerdctl, Kubernetes) and a netavark plugin (podman 5). Both connect a
// container to the switch with package attach.
//
// cni.go has the CNI plugin, netavark.go the netavark plugin, and names.go the names of their ports.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/attach"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// conf is the plugin's configuration in a list of plugins (conflist).
type conf struct {
	types.PluginConf
	Socket   string `json:"socket"`  // control socket of the switch
	Network  string `json:"network"` // network of the switch; when empty: the configuration's name if Subnet is set, else default
	Subnet   string `json:"subnet"`  // the network is created with it when it does not exist
	Gateway  string `json:"gateway"`
	Subnet6  string `json:"subnet6"` // likewise of IPv6: a subnet, or auto
	Gateway6 string `json:"gateway6"`
	NAT6     string `json:"nat6"`
	In6      string `json:"in6"`
	RA       string `json:"ra"`
	NDProxy  bool   `json:"ndProxy"`
	MTU      int    `json:"mtu"`
	Internal bool   `json:"internal"`
	Isolated bool   `json:"isolated"`
	Tenant   string `json:"tenant"`

	Policies   api.Words `json:"policies"`   // of the container's port
	Publish    api.Words `json:"publish"`    // ports to publish, besides those of the runtime
	Domain     string    `json:"domain"`     // of the network's names
	DNSServers api.Words `json:"dnsServers"` // for names of others

	RuntimeConfig struct {
		PortMappings []attach.PortMapping                           `json:"portMappings"`
		MAC          string                                         `json:"mac"`
		IPs          []string                                       `json:"ips"`
		DNS          *struct{ Servers, Searches, Options []string } `json:"dns"` // capability dns of CNI's conventions
		Bandwidth    *bandwidth                                     `json:"bandwidth"`
		Aliases      map[string][]string                            `json:"aliases"` // by the configuration's name
	} `json:"runtimeConfig"`
}

// bandwidth is CNI's capability bandwidth, as seen from the container: rates in bits per second, bursts in bits.
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

// settings converts b to port settings. Bursts are limited to the switch's bounds: runtimes use the largest number for no limit.
func (b *bandwidth) settings() api.PortSet {
	if b == nil {
		return nil
	}
	burst := func(bits uint64) uint64 {
		if bits == 0 {
			return 0
		}
		return min(max(bits/8, api.MinBurst), api.MaxBurst)
	}
	set := api.PortSet{}
	if b.IngressRate != 0 {
		set["rate_to"] = api.RateSetting(b.IngressRate, burst(b.IngressBurst))
	}
	if b.EgressRate != 0 {
		set["rate_from"] = api.RateSetting(b.EgressRate, burst(b.EgressBurst))
	}
	return set
}

// Main runs the CNI plugin: it takes the command and names from the environment, and the configuration from standard input
// (CNI specification, section 2).
func Main(about string) {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: command(add), Del: command(del), Check: command(check), GC: command(gc), Status: command(status)},
		version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), about)
}

func parse(stdin []byte) (*conf, error) {
	c := &conf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the configuration cannot be decoded", decodingText(err))
	}
	if err := checkKeys(stdin); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	if c.Network == "" {
		c.Network = "default"
		if c.Subnet != "" {
			c.Network = c.Name
		}
	}
	if c.Subnet == "" && c.Subnet6 != "" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "subnet6 needs subnet", "a network has an IPv4 subnet, and may have an IPv6 subnet besides: set the key subnet, too, or leave subnet6 out")
	}
	return c, nil
}

// decodingText says what is wrong with a configuration in JSON.
func decodingText(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err.Error()
	}
	needs := "a text in quotes"
	switch wrong.Type.Kind() {
	case reflect.Bool:
		needs = "true or false, without quotes"
	case reflect.Int, reflect.Uint16, reflect.Uint64:
		needs = "a whole number, without quotes"
	case reflect.Slice:
		needs = "a list"
	case reflect.Struct, reflect.Map:
		needs = "an object"
	}
	what := "key " + wrong.Field
	if wrong.Field == "" {
		what = "the configuration"
	}
	return fmt.Sprintf("%s needs %s, and has: %s", what, needs, wrong.Value)
}

// checkKeys reports keys that are one of the plugin's own but for their hyphens and underscores: nd-proxy, the name of the option, instead of
// ndProxy. Other keys may be anybody's.
func checkKeys(stdin []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return err
	}
	fold := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	own := map[string]string{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[conf]()) {
		if key := f.Tag.Get("json"); f.IsExported() && len(f.Index) == 1 && key != "" {
			own[fold(key)] = key
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if key, ok := own[fold(k)]; ok && !strings.EqualFold(k, key) {
			return fmt.Errorf("unknown key %q; did you mean %q?", k, key)
		}
	}
	return nil
}

// attachmentOf returns the attachment that a call is about.
func (c *conf) attachmentOf(args *skel.CmdArgs) *attach.Attachment {
	return &attach.Attachment{
		Switch: attach.Client(c.Socket), Netns: args.Netns, Ifname: args.IfName, ID: args.ContainerID, Port: portName("cni", c.Name, args.ContainerID, args.IfName), MTU: c.MTU,
		Network: api.NetworkAdd{Name: c.Network, Subnet: c.Subnet, Gateway: c.Gateway, Subnet6: c.Subnet6, Gateway6: c.Gateway6, NAT6: c.NAT6, In6: c.In6, RA: c.RA, NDProxy: c.NDProxy, MTU: c.MTU, Internal: c.Internal, Isolated: c.Isolated, Domain: c.Domain, DNSServers: c.DNSServers},
		Aliases: c.RuntimeConfig.Aliases[c.Name], Policies: c.Policies,
		MAC: c.RuntimeConfig.MAC, Tenant: c.Tenant, Publish: c.RuntimeConfig.PortMappings, Ports: c.Publish, Set: c.RuntimeConfig.Bandwidth.settings(),
	}
}

func command(do func(context.Context, *conf, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		c, err := parse(args.StdinData)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), attach.Timeout)
		defer cancel()
		return explain(do(ctx, c, args))
	}
}

// add implements ADD. The device must not exist yet.
func add(ctx context.Context, c *conf, args *skel.CmdArgs) (err error) {
	if same, err := netns.Same(args.Netns, netns.Original); err != nil || same {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("%s is not the network namespace of a container", args.Netns), textOf(err))
	}
	if _, err := link.Inspect(args.Netns, args.IfName); err == nil { // checked before the IPAM plugin assigns an address
		return types.NewError(types.ErrInternal, fmt.Sprintf("device %s already exists", args.IfName), "")
	}
	a := c.attachmentOf(args)
	extra := extraArgs(args.Args)
	if a.MAC == "" {
		a.MAC = extra["MAC"]
	}
	a.Aliases = append(a.Aliases, containerNames(extra)...)
	ips := c.RuntimeConfig.IPs
	if len(ips) == 0 && extra["IP"] != "" {
		ips = strings.Split(extra["IP"], ",")
	}
	if err := takeAddresses(a, ips); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	if c.IPAM.Type != "" {
		if err := c.delegate(ctx, a, args.StdinData); err != nil {
			return err
		}
		defer func() {
			if err != nil { // release the address
				ctx, cancel := attach.CleanupContext(ctx)
				defer cancel()
				_ = invoke.DelegateDel(ctx, c.IPAM.Type, args.StdinData, nil)
			}
		}()
	}
	got, err := a.Attach(ctx)
	if err != nil {
		return explain(err)
	}
	res, err := c.result(args, got)
	if err != nil {
		return err
	}
	return types.PrintResult(res, c.CNIVersion)
}

// containerNames are the names of a container from CNI_ARGS. In Kubernetes, a pod's name is unique in its namespace only.
func containerNames(extra map[string]string) []string {
	name, namespace := extra["K8S_POD_NAME"], extra["K8S_POD_NAMESPACE"]
	switch {
	case name == "":
		return nil
	case namespace == "" || namespace == name: // podman has no namespaces
		return []string{name}
	}
	return []string{name + "." + namespace}
}

// delegate asks the configuration's IPAM plugin for the address and the routes.
func (c *conf) delegate(ctx context.Context, a *attach.Attachment, stdin []byte) error {
	r, err := invoke.DelegateAdd(ctx, c.IPAM.Type, stdin, nil)
	if err != nil {
		return err
	}
	res, err := current.NewResultFromResult(r)
	if err != nil {
		_ = invoke.DelegateDel(ctx, c.IPAM.Type, stdin, nil)
		return err
	}
	if c.DNS.IsEmpty() {
		c.DNS = res.DNS
	}
	var assigned []string
	for _, ip := range res.IPs {
		assigned = append(assigned, ip.Address.String())
	}
	a.IP, a.IP6 = "", ""
	if err = takeAddresses(a, assigned); err == nil && a.IP == "" {
		err = errors.New("no IPv4 address is among them")
	}
	if err != nil {
		_ = invoke.DelegateDel(ctx, c.IPAM.Type, stdin, nil)
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("ipam %s assigned %d addresses: %v", c.IPAM.Type, len(res.IPs), err), "")
	}
	a.Routes = []link.Route{}
	for _, rt := range res.Routes {
		if p, err := netip.ParsePrefix(rt.Dst.String()); err == nil {
			via, _ := netip.AddrFromSlice(rt.GW) // invalid without a next hop: then the network's gateway
			a.Routes = append(a.Routes, link.Route{To: p.Masked(), Via: via.Unmap()})
		}
	}
	return nil
}

// textOf is an error's text; nil has none.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// takeAddresses makes the requested addresses those of the port: one of each family, at most.
func takeAddresses(a *attach.Attachment, list []string) error {
	for _, text := range list {
		to := &a.IP
		if strings.Contains(text, ":") {
			to = &a.IP6
		}
		if *to != "" && len(list) > 1 {
			return fmt.Errorf("%s and %s are requested; a port has one address of each family", *to, text)
		}
		*to = text
	}
	return nil
}

// result returns the result of ADD: the result of the previous plugin in the list, with our device, address and routes added.
func (c *conf) result(args *skel.CmdArgs, got attach.Result) (*current.Result, error) {
	ip := func(p netip.Prefix) net.IPNet {
		return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	}
	r := &current.Result{}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "prevResult cannot be read", err.Error())
	}
	if c.PrevResult != nil {
		var err error
		if r, err = current.NewResultFromResult(c.PrevResult); err != nil {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "prevResult cannot be read", err.Error())
		}
	}
	r.CNIVersion = current.ImplementedSpecVersion
	r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(len(r.Interfaces)), Address: ip(got.Addr), Gateway: got.Gateway.AsSlice()})
	if got.Addr6.IsValid() {
		r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(len(r.Interfaces)), Address: ip(got.Addr6), Gateway: got.Gateway6.AsSlice()})
	}
	r.Interfaces = append(r.Interfaces, &current.Interface{Name: args.IfName, Mac: got.MAC, Mtu: got.MTU, Sandbox: args.Netns})
	for _, x := range got.Routes {
		r.Routes = append(r.Routes, &types.Route{Dst: ip(x.To), GW: x.Via.AsSlice()})
	}
	if !c.DNS.IsEmpty() {
		r.DNS = c.DNS
	} else if r.DNS.IsEmpty() && len(got.NameServers) > 0 {
		r.DNS = types.DNS{Nameservers: got.NameServers, Domain: got.Domain, Search: []string{got.Domain}}
	}
	if d := c.RuntimeConfig.DNS; d != nil {
		for _, v := range []struct{ from, to *[]string }{{&d.Servers, &r.DNS.Nameservers}, {&d.Searches, &r.DNS.Search}, {&d.Options, &r.DNS.Options}} {
			if len(*v.from) > 0 {
				*v.to = *v.from
			}
		}
	}
	return r, nil
}

// del implements DEL, which may come twice, without a namespace, or when no switch runs.
func del(ctx context.Context, c *conf, args *skel.CmdArgs) (err error) {
	err = c.attachmentOf(args).Detach(ctx)
	if c.IPAM.Type != "" {
		err = errors.Join(err, invoke.DelegateDel(ctx, c.IPAM.Type, args.StdinData, nil))
	}
	return explain(err)
}

// check implements CHECK: the port must forward, and the device must be as ADD left it.
func check(ctx context.Context, c *conf, args *skel.CmdArgs) (err error) {
	if err := version.ParsePrevResult(&c.PluginConf); err != nil || c.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs the result of ADD (prevResult)", textOf(err))
	}
	prev, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "prevResult cannot be read", err.Error())
	}
	a := c.attachmentOf(args)
	p, err := a.Switch.Port(ctx, a.Port)
	if err != nil {
		return explain(err)
	}
	if p.State != "forwarding" || p.Ifname != args.IfName {
		return types.NewError(types.ErrInternal, fmt.Sprintf("port %s is in state %s, and its device is called %s", p.Name, p.State, p.Ifname), "")
	}
	info, err := link.Inspect(args.Netns, args.IfName)
	if err != nil {
		return explain(err)
	}
	if info.MAC.String() != p.MAC {
		return types.NewError(types.ErrInternal, fmt.Sprintf("%s has MAC %s, but ADD set %s", args.IfName, info.MAC, p.MAC), "")
	}
	if info.MTU != p.MTU {
		return types.NewError(types.ErrInternal, fmt.Sprintf("%s has MTU %d, but ADD set %d", args.IfName, info.MTU, p.MTU), "")
	}
	have, err := link.Addresses(args.Netns, args.IfName)
	if err != nil {
		return explain(err)
	}
	for _, a := range p.Addresses {
		if !slices.ContainsFunc(have, func(x netip.Prefix) bool { return x.String() == a }) {
			return types.NewError(types.ErrInternal, fmt.Sprintf("%s no longer has address %s", args.IfName, a), "")
		}
		if !slices.ContainsFunc(prev.IPs, func(ip *current.IPConfig) bool { return ip.Address.String() == a }) {
			return types.NewError(types.ErrInternal, fmt.Sprintf("the port has address %s, which ADD did not return", a), "")
		}
	}
	routes, err := link.Routes(args.Netns, args.IfName)
	if err != nil {
		return explain(err)
	}
	for _, x := range prev.Routes {
		if !slices.ContainsFunc(routes, func(r link.Route) bool { return r.To.String() == x.Dst.String() }) && isGateway(prev, p, x.GW) {
			return types.NewError(types.ErrInternal, fmt.Sprintf("the route to %s on device %s no longer exists", x.Dst.String(), args.IfName), "")
		}
	}
	if err := checkPublished(ctx, a); err != nil {
		return explain(err)
	}
	if b := c.RuntimeConfig.Bandwidth; b != nil && (p.TxRate != b.IngressRate || p.RxRate != b.EgressRate) {
		return types.NewError(types.ErrInternal, fmt.Sprintf("port %s may receive %d bit/s and send %d bit/s, but ADD requested %d and %d", p.Name, p.TxRate, p.RxRate, b.IngressRate, b.EgressRate), "")
	}
	if c.IPAM.Type != "" {
		return invoke.DelegateCheck(ctx, c.IPAM.Type, args.StdinData, nil)
	}
	return nil
}

// checkPublished returns an error when a port of a is no longer published.
func checkPublished(ctx context.Context, a *attach.Attachment) error {
	list, err := a.Switch.Published(ctx)
	if err != nil {
		return err
	}
	mappings, err := a.Mappings(ctx)
	if err != nil {
		return err
	}
	for _, m := range mappings {
		is := func(p api.Publish) bool {
			return p.Port == a.Port && p.HostPort == m.HostPort && p.ContainerPort == m.ContainerPort && p.Protocol == m.Proto()
		}
		if !slices.ContainsFunc(list, is) {
			return types.NewError(types.ErrInternal, fmt.Sprintf("port %d/%s of the host no longer leads to the container's port %d", m.HostPort, m.Proto(), m.ContainerPort), "")
		}
	}
	return nil
}

// isGateway reports whether ADD returned a gateway with one of the port's addresses.
func isGateway(prev *current.Result, p api.Port, gw net.IP) bool {
	return slices.ContainsFunc(prev.IPs, func(ip *current.IPConfig) bool {
		return slices.Contains(p.Addresses, ip.Address.String()) && gw.Equal(ip.Gateway)
	})
}

// notAvailable is the error code of STATUS for "cannot serve ADD requests" (CNI specification 1.1, section STATUS).
const notAvailable = 50

// status implements STATUS: a switch must answer, and the network must exist unless ADD can create it.
func status(ctx context.Context, c *conf, args *skel.CmdArgs) (err error) {
	list, err := attach.Client(c.Socket).Networks(ctx)
	if err != nil {
		return types.NewError(notAvailable, "the switch does not answer", err.Error())
	}
	if c.Subnet == "" && !slices.ContainsFunc(list, func(n api.Network) bool { return n.Name == c.Network }) {
		return types.NewError(notAvailable, fmt.Sprintf("the switch has no network %q", c.Network), "")
	}
	if c.IPAM.Type != "" {
		return invoke.DelegateStatus(ctx, c.IPAM.Type, args.StdinData, nil)
	}
	return nil
}

// gc implements GC: it removes this configuration's ports whose attachments the runtime no longer lists.
func gc(ctx context.Context, c *conf, args *skel.CmdArgs) (err error) {
	var valid []string
	for _, v := range c.ValidAttachments {
		valid = append(valid, portName("cni", c.Name, v.ContainerID, v.IfName))
	}
	sw := attach.Client(c.Socket)
	ports, err := sw.Ports(ctx)
	if err != nil && !api.IsUnreachable(err) {
		return explain(err)
	}
	var errs error
	for _, p := range ports {
		if strings.HasPrefix(p.Name, prefixOf("cni", c.Name)) && !slices.Contains(valid, p.Name) {
			errs = errors.Join(errs, (&attach.Attachment{Switch: sw, Port: p.Name}).Detach(ctx))
		}
	}
	if c.IPAM.Type != "" {
		errs = errors.Join(errs, invoke.DelegateGC(ctx, c.IPAM.Type, args.StdinData, nil))
	}
	return explain(errs)
}

// extraArgs parses CNI_ARGS, K=V;K=V. Runtimes add keys of their own.
func extraArgs(s string) map[string]string {
	m := map[string]string{}
	for _, kv := range strings.Split(s, ";") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			m[k] = v
		}
	}
	return m
}

// explain converts an error to one with a CNI error code. When no switch answers, the code is "try again later".
func explain(err error) error {
	var known *types.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	code := types.ErrInternal
	switch {
	case api.IsUnreachable(err) || errors.Is(err, context.DeadlineExceeded):
		code = types.ErrTryAgainLater
	case api.IsStatus(err, http.StatusBadRequest):
		code = types.ErrInvalidNetworkConfig
	}
	return types.NewError(code, api.InKeys(err).Error(), "")
}
