// Package attach gives one device of a container a port of the switch, from outside of the switch's process: it creates the
// TAP inside the namespace, passes it to the switch by its file descriptor, configures it and publishes ports. So the process
// that enters namespaces need not be the one that forwards.
//
// The CNI plugin, the netavark plugin and `uvswitch port add` use it.
package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/tap"
)

// An Attachment is one device of one container.
type Attachment struct {
	Switch  *api.Client
	Network api.NetworkAdd // created when it does not exist and has a subnet
	Port    string         // name of the port in the switch
	Netns   string         // path of the namespace
	Display string         // the user's name of the namespace; the path when empty
	Ifname  string
	IP      string       // an address of the network; empty: the switch chooses
	MAC     string       // likewise
	MTU     int          // 0: the network's
	Routes  []link.Route // via the gateway, unless a route names another; nil: the default route, unless the network is internal
	Publish []PortMapping
	Set     api.PortSet // port settings
}

// A Result is what an Attachment has become.
type Result struct {
	Port    api.Port
	MAC     string
	MTU     int
	Addr    netip.Prefix
	Gateway netip.Addr
	Routes  []link.Route
}

// Client is a client of the switch at socket; an empty socket means the environment's, or the default one.
func Client(socket string) *api.Client {
	return api.NewClient(cmp.Or(socket, os.Getenv("UVSWITCH_SOCKET"), api.DefaultSocket))
}

// Attach creates the device, passes it to the switch, configures it and publishes its ports. On an error nothing remains.
func (a *Attachment) Attach(ctx context.Context) (_ Result, err error) {
	n, err := a.findNetwork(ctx)
	if err != nil {
		return Result{}, err
	}
	var made api.Port
	mtu := cmp.Or(a.MTU, n.MTU)
	t, err := tap.Open(a.Netns, a.Ifname)
	if err != nil {
		return Result{}, err
	}
	defer t.Close() // the switch has a descriptor of its own
	defer func() {
		if err == nil || api.IsStatus(err, http.StatusConflict) && made.Name == "" {
			return // in the second case the port, if there is one, is another's
		}
		ctx, cancel := CleanupContext(ctx)
		defer cancel()
		err = errors.Join(err, a.Detach(ctx))
	}()
	made, err = a.Switch.HandPort(ctx, api.PortAdd{Name: a.Port, Network: n.Name, Netns: cmp.Or(a.Display, a.Netns), Ifname: a.Ifname, IP: cmp.Or(a.IP, "auto"), MAC: a.MAC, MTU: mtu, Set: a.Set}, t.FD())
	if err != nil {
		return Result{}, err
	}
	out := Result{Port: made, MAC: made.MAC, MTU: mtu, Routes: a.Routes}
	if out.Addr, err = netip.ParsePrefix(made.Addresses[0]); err != nil {
		return Result{}, err
	}
	if out.Gateway, err = netip.ParseAddr(n.Gateway); err != nil {
		return Result{}, err
	}
	if out.Routes == nil && !n.Internal {
		out.Routes = []link.Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
	}
	if out.Routes == nil {
		out.Routes = []link.Route{}
	}
	for i := range out.Routes {
		if !out.Routes[i].Via.IsValid() {
			out.Routes[i].Via = out.Gateway
		}
	}
	mac, err := frame.ParseMAC(made.MAC)
	if err != nil {
		return Result{}, err
	}
	if err := link.Configure(a.Netns, a.Ifname, link.Config{MAC: mac, MTU: mtu, Addr: out.Addr, Gateway: out.Gateway, Routes: out.Routes}); err != nil {
		return Result{}, err
	}
	there, err := link.Routes(a.Netns, a.Ifname)
	if err != nil {
		return Result{}, err
	}
	out.Routes = slices.DeleteFunc(slices.Clone(out.Routes), func(r link.Route) bool { return !slices.Contains(there, r) }) // another network's came first
	for _, p := range a.Publish {
		if p.HostPort == 0 || p.IsDuplicate(a.Publish) {
			continue
		}
		spec, err := p.Spec()
		if err == nil {
			_, err = a.Switch.Publish(ctx, api.PublishAdd{Spec: spec, Port: a.Port})
		}
		if err != nil {
			return Result{}, err
		}
	}
	return out, nil
}

// ShouldAttachLocally reports whether the switch refused a port only because it cannot see or enter a namespace that this
// process can see.
func ShouldAttachLocally(refusal error, ns string) bool {
	if ns == "" || !api.IsCode(refusal, api.NamespaceNotFound) && !api.IsCode(refusal, api.NamespaceNotPermitted) {
		return false
	}
	_, err := netns.Path(ns)
	return err == nil
}

// Port creates the device that p asks for inside its namespace and passes it to the switch. A switch that may enter namespaces
// does the same by itself.
func Port(ctx context.Context, sw *api.Client, p api.PortAdd) (api.Port, error) {
	if p.Offload == "off" {
		return api.Port{}, errors.New("a device without offloads cannot be passed to the switch: only a switch that may enter namespaces (CAP_SYS_ADMIN) creates such a port")
	}
	ns, err := netns.Path(p.Netns)
	if err != nil {
		return api.Port{}, err
	}
	a := &Attachment{
		Switch: sw, Network: api.NetworkAdd{Name: cmp.Or(p.Network, api.DefaultNetwork)}, Port: p.Name, Netns: ns, Display: p.Netns, Ifname: cmp.Or(p.Ifname, api.DefaultIfname),
		IP: p.IP, MAC: p.MAC, MTU: p.MTU, Set: p.Set,
	}
	if p.NoRoute {
		a.Routes = []link.Route{}
	}
	out, err := a.Attach(ctx)
	return out.Port, err
}

// Timeout bounds what an attachment waits for the switch.
const Timeout = 30 * time.Second

// CleanupContext is a context for undoing work, also after ctx has ended.
func CleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), Timeout)
}

// Detach ends the port, and with it the device and what is published; one that is not there is not an error, nor is a switch that is
// not.
func (a *Attachment) Detach(ctx context.Context) error {
	err := a.Switch.DeletePort(ctx, a.Port)
	switch {
	case api.IsStatus(err, http.StatusNotFound):
		return nil
	case api.IsUnreachable(err):
		if own, err := netns.Same(a.Netns, netns.Original); err == nil && !own { // the device may be kept for the next switch
			_ = link.DeleteTAP(a.Netns, a.Ifname) // fails when it is gone, or another's
		}
		return nil
	}
	return err
}

// findNetwork is the switch's network, made when it may be; one that is there must be what is asked for, or be without ports and give way.
func (a *Attachment) findNetwork(ctx context.Context) (api.Network, error) {
	n, err := a.lookUp(ctx)
	switch {
	case err != nil:
		return api.Network{}, err
	case n != nil && a.differs(n) == "":
		return *n, nil
	case n != nil && n.Ports > 0:
		return *n, fmt.Errorf("network %q of the switch has %s; when its last container is removed, run `uvswitch network del %[1]s`", n.Name, a.differs(n))
	case n != nil:
		if err := a.Switch.DeleteNetwork(ctx, n.Name); err != nil {
			return *n, err
		}
	case a.Network.Subnet == "":
		return api.Network{}, fmt.Errorf("the switch has no network %q; create it with `uvswitch network add %[1]s --subnet ...`, or set a subnet in the configuration", a.Network.Name)
	}
	refused := a.Switch.AddNetwork(ctx, a.Network)
	if n, err = a.lookUp(ctx); err != nil {
		return api.Network{}, err
	}
	if n != nil && a.differs(n) == "" { // another container may have made it just now
		return *n, nil
	}
	return api.Network{}, refused
}

func (a *Attachment) lookUp(ctx context.Context) (*api.Network, error) {
	list, err := a.Switch.Networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if n.Name == a.Network.Name {
			return &n, nil
		}
	}
	return nil, nil
}

// differs says in what the switch's network is not what is asked for. Without a subnet nothing is.
func (a *Attachment) differs(n *api.Network) string {
	want := a.Network
	switch {
	case want.Subnet == "":
	case n.Subnet != want.Subnet:
		return fmt.Sprintf("subnet %s, but the configuration says %s", n.Subnet, want.Subnet)
	case want.Gateway != "" && n.Gateway != want.Gateway:
		return fmt.Sprintf("gateway %s, but the configuration says %s", n.Gateway, want.Gateway)
	case n.Internal != want.Internal:
		return fmt.Sprintf("internal: %v, but the configuration says %v", n.Internal, want.Internal)
	case n.Isolated != want.Isolated:
		return fmt.Sprintf("isolated: %v, but the configuration says %v", n.Isolated, want.Isolated)
	}
	return ""
}
