// Package cni gives containers of CNI runtimes (podman 4, containerd, nerdctl, Kubernetes) and of podman's netavark a port of
// the switch. It runs in the runtime's process: it enters the container's namespace, makes the TAP there and hands it over, so that the
// switch needs no right to enter namespaces.
//
// cni.go is the CNI plugin, netavark.go netavark's, attach.go what both do.
package cni

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/tap"
)

// An attachment is one device of one container.
type attachment struct {
	sw      *api.Client
	network api.NetworkAdd // made when it is not there and has a subnet
	port    string         // its name in the switch
	netns   string
	ifname  string
	ip      string // an address of the network; empty: the switch chooses
	mac     string // likewise
	mtu     int    // 0: the network's
	// routes by the gateway inside; nil: the default route, unless the network is internal.
	routes  []netip.Prefix
	publish []portMapping
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
	mac     string
	mtu     int
	addr    netip.Prefix
	gateway netip.Addr
	routes  []netip.Prefix
}

// client is the switch's; the socket is the configuration's, else the environment's, else the usual one.
func client(socket string) *api.Client {
	if socket == "" {
		socket = os.Getenv("UVSWITCH_SOCKET")
	}
	if socket == "" {
		socket = api.DefaultSocket
	}
	return api.NewClient(socket)
}

// portName is the same for the same device of the same container in the same configuration, and has as much of the container's ID as
// runtimes print.
func portName(kind, conf, container, ifname string) string {
	return prefixOf(kind, conf) + container[:min(len(container), 12)] + "-" + digest(container, ifname)[:6]
}

// prefixOf is how the ports of one configuration begin.
func prefixOf(kind, conf string) string { return kind + "-" + digest(conf)[:4] + "-" }

func digest(parts ...string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
}

// attach makes the device, gives it to the switch, configures it and publishes its ports. On an error nothing remains.
func (a *attachment) attach(ctx context.Context) (_ attached, err error) {
	n, err := a.findNetwork(ctx)
	if err != nil {
		return attached{}, err
	}
	mtu := a.mtu
	if mtu == 0 {
		mtu = n.MTU
	}
	t, err := tap.Open(a.netns, a.ifname)
	if err != nil {
		return attached{}, err
	}
	defer t.Close() // the switch has a descriptor of its own
	made, err := a.sw.HandPort(ctx, api.PortAdd{Name: a.port, Network: n.Name, Netns: a.netns, Ifname: a.ifname, IP: orAuto(a.ip), MAC: a.mac, MTU: mtu}, t.FD())
	if err != nil {
		return attached{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.detach(ctx))
		}
	}()
	out := attached{mac: made.MAC, mtu: mtu, routes: a.routes}
	if out.addr, err = netip.ParsePrefix(made.Addresses[0]); err != nil {
		return attached{}, err
	}
	if out.gateway, err = netip.ParseAddr(n.Gateway); err != nil {
		return attached{}, err
	}
	if out.routes == nil && !n.Internal {
		out.routes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	}
	mac, err := frame.ParseMAC(made.MAC)
	if err != nil {
		return attached{}, err
	}
	if err := tap.Configure(a.netns, a.ifname, tap.Setup{MAC: mac, MTU: mtu, Addr: out.addr, Gateway: out.gateway, Routes: out.routes}); err != nil {
		return attached{}, err
	}
	for _, p := range a.publish {
		spec, err := p.spec()
		if err == nil && spec != "" {
			_, err = a.sw.Publish(ctx, api.PublishAdd{Spec: spec, Port: a.port})
		}
		if err != nil {
			return attached{}, err
		}
	}
	return out, nil
}

func orAuto(ip string) string {
	if ip == "" {
		return "auto"
	}
	return ip
}

// detach ends the port, and with it the device and what is published; one that is not there is not an error, nor is a switch that is
// not: its devices went with it.
func (a *attachment) detach(ctx context.Context) error {
	err := a.sw.DeletePort(ctx, a.port)
	var refused *api.Error
	if unreachable(err) || errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil
	}
	return err
}

func unreachable(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// findNetwork is the switch's network, made when it may be.
func (a *attachment) findNetwork(ctx context.Context) (api.Network, error) {
	n, found, err := a.lookUp(ctx)
	if found || err != nil {
		return n, err
	}
	if a.network.Subnet == "" {
		return n, fmt.Errorf("the switch has no network %q; `uvswitch network add %[1]s --subnet ...`, or say a subnet in the configuration", a.network.Name)
	}
	refused := a.sw.AddNetwork(ctx, a.network)
	if n, found, err = a.lookUp(ctx); found || err != nil { // another container may have made it just now
		return n, err
	}
	return n, refused
}

func (a *attachment) lookUp(ctx context.Context) (api.Network, bool, error) {
	list, err := a.sw.Networks(ctx)
	if err != nil {
		return api.Network{}, false, err
	}
	for _, n := range list {
		if n.Name != a.network.Name {
			continue
		}
		if a.network.Subnet != "" && n.Subnet != a.network.Subnet {
			return n, true, fmt.Errorf("network %q of the switch is %s, and the configuration says %s", n.Name, n.Subnet, a.network.Subnet)
		}
		return n, true, nil
	}
	return api.Network{}, false, nil
}

// spec is p as the switch takes it; empty for nothing to publish.
func (p portMapping) spec() (string, error) {
	if p.HostPort == 0 { // no port of the host's: nothing to publish
		return "", nil
	}
	if p.HostPort < 0 || p.HostPort > 65535 || p.ContainerPort <= 0 || p.ContainerPort > 65535 {
		return "", fmt.Errorf("port mapping %d:%d: a port is 1 to 65535", p.HostPort, p.ContainerPort)
	}
	host := strconv.Itoa(p.HostPort)
	if p.count > 1 {
		host += "-" + strconv.Itoa(p.HostPort+p.count-1)
	}
	if p.HostIP != "" && p.HostIP != "0.0.0.0" {
		ip, err := netip.ParseAddr(p.HostIP)
		switch {
		case err == nil && ip.Is6() && ip.IsUnspecified():
			return "", nil // the twin of one for IPv4
		case err != nil || !ip.Is4():
			return "", fmt.Errorf("port mapping %d:%d: %q is no IPv4 address of the host", p.HostPort, p.ContainerPort, p.HostIP)
		}
		host = p.HostIP + ":" + host
	}
	proto := strings.ToLower(p.Protocol)
	if proto == "" {
		proto = "tcp"
	}
	return fmt.Sprintf("%s:%d/%s", host, p.ContainerPort, proto), nil
}
