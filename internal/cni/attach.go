// Package cni gives containers of CNI runtimes (podman 4, containerd, nerdctl, Kubernetes) and of podman's netavark a port of
// the switch. It runs in the runtime's process: it enters the container's namespace, makes the TAP there and hands it over, so that the
// switch needs no right to enter namespaces.
//
// cni.go is the CNI plugin, netavark.go netavark's, attach.go what both do.
package cni

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/tap"
)

// An attachment is one device of one container.
type attachment struct {
	sw      *api.Client
	network api.NetworkAdd // made when it is not there and has a subnet
	port    string         // its name in the switch
	netns   string         // its path
	says    string         // what its user calls it; the path when empty
	ifname  string
	ip      string // an address of the network; empty: the switch chooses
	mac     string // likewise
	mtu     int    // 0: the network's
	// routes by the gateway inside; nil: the default route, unless the network is internal.
	routes  []tap.Route
	publish []portMapping
	knobs   api.PortSet
}

// portMapping is a published port, as CNI's capability portMappings has it.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp when empty
	HostIP        string `json:"hostIP"`
	count         int    // ports from there on; 1 when 0
}

// attached is what came of an attachment.
type attached struct {
	port    api.Port
	mac     string
	mtu     int
	addr    netip.Prefix
	gateway netip.Addr
	routes  []tap.Route
}

// client is the switch's; the socket is the configuration's, else the environment's, else the usual one.
func client(socket string) *api.Client {
	return api.NewClient(cmp.Or(socket, os.Getenv("UVSWITCH_SOCKET"), api.DefaultSocket))
}

// portName is the same for the same device of the same container in the same configuration, and has as much of the container's ID as
// runtimes print.
func portName(kind, conf, container, ifname string) string {
	return prefixOf(kind, conf) + container[:min(len(container), 12)] + "-" + digest(container, ifname)[:8]
}

// prefixOf is how the ports of one configuration begin.
func prefixOf(kind, conf string) string { return kind + "-" + digest(conf)[:12] + "-" }

func digest(parts ...string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
}

// attach makes the device, gives it to the switch, configures it and publishes its ports. On an error nothing remains.
func (a *attachment) attach(ctx context.Context) (_ attached, err error) {
	n, err := a.findNetwork(ctx)
	if err != nil {
		return attached{}, err
	}
	var made api.Port
	mtu := cmp.Or(a.mtu, n.MTU)
	t, err := tap.Open(a.netns, a.ifname)
	if err != nil {
		return attached{}, err
	}
	defer t.Close() // the switch has a descriptor of its own
	defer func() {
		if err == nil || api.IsStatus(err, http.StatusConflict) && made.Name == "" {
			return // in the second case the port, if there is one, is another's
		}
		ctx, cancel := cleanup(ctx)
		defer cancel()
		err = errors.Join(err, a.detach(ctx))
	}()
	made, err = a.sw.HandPort(ctx, api.PortAdd{Name: a.port, Network: n.Name, Netns: cmp.Or(a.says, a.netns), Ifname: a.ifname, IP: cmp.Or(a.ip, "auto"), MAC: a.mac, MTU: mtu, Set: a.knobs}, t.FD())
	if err != nil {
		return attached{}, err
	}
	out := attached{port: made, mac: made.MAC, mtu: mtu, routes: a.routes}
	if out.addr, err = netip.ParsePrefix(made.Addresses[0]); err != nil {
		return attached{}, err
	}
	if out.gateway, err = netip.ParseAddr(n.Gateway); err != nil {
		return attached{}, err
	}
	if out.routes == nil && !n.Internal {
		out.routes = []tap.Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
	}
	if out.routes == nil {
		out.routes = []tap.Route{}
	}
	for i := range out.routes {
		if !out.routes[i].Via.IsValid() {
			out.routes[i].Via = out.gateway
		}
	}
	mac, err := frame.ParseMAC(made.MAC)
	if err != nil {
		return attached{}, err
	}
	if err := tap.Configure(a.netns, a.ifname, tap.Setup{MAC: mac, MTU: mtu, Addr: out.addr, Gateway: out.gateway, Routes: out.routes}); err != nil {
		return attached{}, err
	}
	there, err := tap.Routes(a.netns, a.ifname)
	if err != nil {
		return attached{}, err
	}
	out.routes = slices.DeleteFunc(slices.Clone(out.routes), func(r tap.Route) bool { return !slices.Contains(there, r) }) // another network's came first
	for _, p := range a.publish {
		if p.HostPort == 0 || p.isTwin(a.publish) {
			continue
		}
		spec, err := p.spec()
		if err == nil {
			_, err = a.sw.Publish(ctx, api.PublishAdd{Spec: spec, Port: a.port})
		}
		if err != nil {
			return attached{}, err
		}
	}
	return out, nil
}

// Elsewhere tells whether a switch refused a port only for not seeing, or not entering, a namespace that is there for us.
func Elsewhere(refusal error, netns string) bool {
	if netns == "" || !api.IsStatus(refusal, http.StatusNotImplemented) && !(api.IsStatus(refusal, http.StatusNotFound) && strings.Contains(refusal.Error(), tap.ErrNoNamespace.Error())) {
		return false
	}
	_, err := tap.NamespacePath(netns)
	return err == nil
}

// Attach makes the device that p asks for, in its namespace, and hands it over: what a switch does by itself that may enter
// namespaces.
func Attach(ctx context.Context, sw *api.Client, p api.PortAdd) (api.Port, error) {
	if p.Offload == "off" {
		return api.Port{}, errors.New("a device without offloads cannot be handed over: such a port is made by a switch that may enter namespaces (CAP_SYS_ADMIN)")
	}
	ns, err := tap.NamespacePath(p.Netns)
	if err != nil {
		return api.Port{}, err
	}
	a := &attachment{
		sw: sw, network: api.NetworkAdd{Name: cmp.Or(p.Network, "default")}, port: p.Name, netns: ns, says: p.Netns, ifname: cmp.Or(p.Ifname, "eth0"),
		ip: p.IP, mac: p.MAC, mtu: p.MTU, knobs: p.Set,
	}
	if p.NoRoute {
		a.routes = []tap.Route{}
	}
	out, err := a.attach(ctx)
	return out.port, err
}

// cleanup is a context for what must be undone, however ctx ended.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), patience)
}

// detach ends the port, and with it the device and what is published; one that is not there is not an error, nor is a switch that is
// not.
func (a *attachment) detach(ctx context.Context) error {
	err := a.sw.DeletePort(ctx, a.port)
	switch {
	case api.IsStatus(err, http.StatusNotFound):
		return nil
	case api.IsUnreachable(err):
		if own, err := sameNamespace(a.netns, tap.Own); err == nil && !own { // the device may be kept for the next switch
			_ = tap.DeleteTAP(a.netns, a.ifname) // fails when it is gone, or another's
		}
		return nil
	}
	return err
}

// findNetwork is the switch's network, made when it may be; one that is there must be what is asked for, or be without ports and give way.
func (a *attachment) findNetwork(ctx context.Context) (api.Network, error) {
	n, err := a.lookUp(ctx)
	switch {
	case err != nil:
		return api.Network{}, err
	case n != nil && a.differs(n) == "":
		return *n, nil
	case n != nil && n.Ports > 0:
		return *n, fmt.Errorf("network %q of the switch has %s; `uvswitch network del %[1]s` when its last container has gone", n.Name, a.differs(n))
	case n != nil:
		if err := a.sw.DeleteNetwork(ctx, n.Name); err != nil {
			return *n, err
		}
	case a.network.Subnet == "":
		return api.Network{}, fmt.Errorf("the switch has no network %q; `uvswitch network add %[1]s --subnet ...`, or say a subnet in the configuration", a.network.Name)
	}
	refused := a.sw.AddNetwork(ctx, a.network)
	if n, err = a.lookUp(ctx); err != nil {
		return api.Network{}, err
	}
	if n != nil && a.differs(n) == "" { // another container may have made it just now
		return *n, nil
	}
	return api.Network{}, refused
}

func (a *attachment) lookUp(ctx context.Context) (*api.Network, error) {
	list, err := a.sw.Networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if n.Name == a.network.Name {
			return &n, nil
		}
	}
	return nil, nil
}

// differs says in what the switch's network is not what is asked for. Without a subnet nothing is.
func (a *attachment) differs(n *api.Network) string {
	want := a.network
	switch {
	case want.Subnet == "":
	case n.Subnet != want.Subnet:
		return fmt.Sprintf("subnet %s, and the configuration says %s", n.Subnet, want.Subnet)
	case want.Gateway != "" && n.Gateway != want.Gateway:
		return fmt.Sprintf("gateway %s, and the configuration says %s", n.Gateway, want.Gateway)
	case n.Internal != want.Internal:
		return fmt.Sprintf("internal: %v, and the configuration says %v", n.Internal, want.Internal)
	case n.Isolated != want.Isolated:
		return fmt.Sprintf("isolated: %v, and the configuration says %v", n.Isolated, want.Isolated)
	}
	return ""
}

// isTwin tells whether p is one of the list, for IPv6: runtimes may send both.
func (p portMapping) isTwin(list []portMapping) bool {
	return p.HostIP == "::" && slices.ContainsFunc(list, func(o portMapping) bool {
		return (o.HostIP == "" || o.HostIP == "0.0.0.0") && o.HostPort == p.HostPort && o.ContainerPort == p.ContainerPort && o.Protocol == p.Protocol
	})
}

// spec is p as the switch takes it.
func (p portMapping) spec() (string, error) {
	if p.HostPort < 0 || p.HostPort > 65535 || p.ContainerPort <= 0 || p.ContainerPort > 65535 {
		return "", fmt.Errorf("port mapping %d:%d: a port is 1 to 65535", p.HostPort, p.ContainerPort)
	}
	host := strconv.Itoa(p.HostPort)
	if p.count > 1 {
		host += "-" + strconv.Itoa(p.HostPort+p.count-1)
	}
	if p.HostIP != "" && p.HostIP != "0.0.0.0" {
		if ip, err := netip.ParseAddr(p.HostIP); err != nil || !ip.Is4() {
			return "", fmt.Errorf("port mapping %d:%d: %q is no IPv4 address of the host", p.HostPort, p.ContainerPort, p.HostIP)
		}
		host = p.HostIP + ":" + host
	}
	return fmt.Sprintf("%s:%d/%s", host, p.ContainerPort, p.protocol()), nil
}

func (p portMapping) protocol() string { return cmp.Or(strings.ToLower(p.Protocol), "tcp") }
