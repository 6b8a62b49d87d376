// Package attach connects a container to the switch from outside the switch's process: it creates a TAP in the container's
// namespace, passes its file descriptor to the switch, configures the device and publishes ports. So the process that enters
// namespaces need not be the one that forwards.
//
// It is used by the CNI plugin, the netavark plugin and `uvswitch port add`.
package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/tap"
)

// An Attachment is one device of one container.
type Attachment struct {
	Switch   *api.Client
	Network  api.NetworkAdd // created when it does not exist and has a subnet
	Port     string         // name of the switch's port
	ID       string         // of the container
	Tenant   string         // whose container it is; empty: its own
	Policies api.Words      // of the port
	Aliases  []string       // other names of the container in its network; what is no name of DNS is left out
	Netns    string         // path of the namespace
	Display  string         // name of the namespace to show; when empty: Netns
	Ifname   string
	IP       string        // an address of the network; empty: the switch chooses
	IP6      string        // likewise, in a network with IPv6
	MAC      string        // empty: the switch chooses
	MTU      int           // 0: the network's
	Routes   []link.Route  // via the gateway of their family, unless a route names a next hop; nil: a default route, or none in an internal network
	Publish  []PortMapping // of the runtime: see Mappings
	Ports    api.Words     // ports to publish besides, each in the form of api.PublishAdd
	Set      api.PortSet   // port settings
}

// A Result describes the device that Attach created.
type Result struct {
	Port    api.Port
	MAC     string
	MTU     int
	Addr    netip.Prefix
	Gateway netip.Addr

	Addr6    netip.Prefix // not valid without IPv6
	Gateway6 netip.Addr
	Routes   []link.Route

	NameServers []string // the gateways, if they answer questions for names
	Domain      string   // of the network; empty without name servers
}

// Client returns a client of the switch at socket. An empty socket means that of api.Socket.
func Client(socket string) *api.Client {
	return api.NewClient(cmp.Or(socket, api.Socket()))
}

// Attach creates the device, passes it to the switch, configures it and publishes its ports. After an error nothing remains.
func (a *Attachment) Attach(ctx context.Context) (_ Result, err error) {
	n, err := a.findNetwork(ctx)
	if err != nil {
		return Result{}, err
	}
	var made api.Port
	mtu := cmp.Or(a.MTU, n.MTU)
	t, err := tap.OpenApart(a.Netns, a.Ifname)
	if err != nil {
		return Result{}, err
	}
	defer t.Close() // the switch has its own descriptor
	defer func() {
		if err == nil || made.Name == "" && (api.IsStatus(err, http.StatusConflict) || api.IsCode(err, api.Busy)) {
			return // the switch has made nothing; a port of that name belongs to another device
		}
		ctx, cancel := CleanupContext(ctx)
		defer cancel()
		err = errors.Join(err, a.Detach(ctx))
	}()
	made, err = a.Switch.HandPort(ctx, api.PortAdd{Name: a.Port, Container: a.ID, Tenant: a.Tenant, Aliases: a.aliases(), Policies: a.Policies, Network: n.Name, Netns: cmp.Or(a.Display, a.Netns), Ifname: a.Ifname, IP: cmp.Or(a.IP, "auto"), IP6: a.IP6, MAC: a.MAC, MTU: mtu, Set: a.Set}, t.FD())
	if err != nil {
		return Result{}, err
	}
	out := Result{Port: made, MAC: made.MAC, MTU: mtu, Routes: slices.Clone(a.Routes)}
	if err := out.readAddresses(made, n); err != nil {
		return Result{}, err
	}
	if out.Routes == nil && !n.Internal {
		out.Routes = []link.Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
		for _, p := range n.Routes6 {
			to, err := netip.ParsePrefix(p)
			if err != nil {
				return Result{}, err
			}
			out.Routes = append(out.Routes, link.Route{To: to})
		}
	}
	if out.Routes == nil {
		out.Routes = []link.Route{}
	}
	for i := range out.Routes {
		if out.Routes[i].Via.IsValid() {
			continue
		}
		if out.Routes[i].Via = out.Gateway; out.Routes[i].To.Addr().Is6() {
			out.Routes[i].Via = out.Gateway6
		}
	}
	out.Routes = slices.DeleteFunc(out.Routes, func(r link.Route) bool { return !r.Via.IsValid() }) // of a family that the port has not
	mac, err := frame.ParseMAC(made.MAC)
	if err != nil {
		return Result{}, err
	}
	if err := link.Configure(a.Netns, a.Ifname, link.Config{MAC: mac, MTU: mtu, Addr: out.Addr, Addr6: out.Addr6, Gateway: out.Gateway, Routes: out.Routes}); err != nil {
		return Result{}, err
	}
	there, err := link.Routes(a.Netns, a.Ifname)
	if err != nil {
		return Result{}, err
	}
	out.Routes = slices.DeleteFunc(slices.Clone(out.Routes), func(r link.Route) bool { return !slices.Contains(there, r) }) // it may exist on another device
	return out, a.publish(ctx)
}

// publish publishes the port mappings and Ports.
func (a *Attachment) publish(ctx context.Context) error {
	mappings, err := a.Mappings(ctx)
	if err != nil {
		return err
	}
	specs := a.Ports.List()
	for _, p := range mappings {
		spec, err := p.Spec()
		if err != nil {
			return err
		}
		specs = append(specs, spec)
	}
	for _, spec := range specs {
		if _, err := a.Switch.Publish(ctx, api.PublishAdd{Spec: spec, Port: a.Port}); err != nil {
			return err
		}
	}
	return nil
}

// readAddresses takes the port's addresses and the network's gateways from what the switch has answered.
func (r *Result) readAddresses(made api.Port, n api.Network) (err error) {
	for _, text := range made.Addresses {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return err
		case p.Addr().Is6():
			r.Addr6 = p
		default:
			r.Addr = p
		}
	}
	if r.Addr.IsValid() {
		if r.Gateway, err = netip.ParseAddr(n.Gateway); err != nil {
			return err
		}
	}
	if r.Addr6.IsValid() {
		r.Gateway6, err = netip.ParseAddr(n.Gateway6)
	}
	if n.DNS != "off" {
		r.Domain, r.NameServers = n.Domain, []string{n.Gateway}
		if r.Gateway6.IsValid() {
			r.NameServers = append(r.NameServers, n.Gateway6)
		}
	}
	return err
}

// aliases are the other names of the container, as the switch takes them.
func (a *Attachment) aliases() api.Words {
	var names []string
	for _, name := range a.Aliases {
		if name = strings.ToLower(name); api.IsDNSName(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return api.Words(strings.Join(names, ","))
}

// PlainName is a container's name without dots. With them it could be any name of the internet, and the gateway would answer questions for it.
func PlainName(container string) string { return strings.ReplaceAll(container, ".", "-") }

// Timeout is the time limit for an attachment and for its removal.
const Timeout = 30 * time.Second

// CleanupContext returns a context for undoing work. It has its own timeout and remains valid after ctx has ended.
func CleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), Timeout)
}

// Detach removes the port, and with it the device and the published ports. It is no error when the port does not exist, or when
// no switch answers.
func (a *Attachment) Detach(ctx context.Context) error {
	err := a.Switch.DeletePort(ctx, a.Port)
	switch {
	case api.IsStatus(err, http.StatusNotFound):
		return nil
	case api.IsUnreachable(err):
		if own, err := netns.Same(a.Netns, netns.Original); err == nil && !own { // systemd may keep the device for the next switch
			_ = link.DeleteTAP(a.Netns, a.Ifname) // fails when the device does not exist, or is no TAP
		}
		return nil
	}
	return err
}

// findNetwork returns the switch's network, and creates it when a subnet is set and it does not exist. An existing network must
// have the requested settings; one that differs is replaced when it has no ports.
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
	if n != nil && a.differs(n) == "" { // another container may have created it meanwhile
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

// differs describes the first difference between the switch's network and the requested one; empty when there is none, or when no
// subnet is requested. A setting that the request leaves out may be anything.
func (a *Attachment) differs(n *api.Network) string {
	want := a.Network
	if want.Subnet == "" {
		return ""
	}
	if want.Subnet6 == "auto" { // any subnet will do; without IPv6 in the kernel, none
		want.Subnet6 = ""
	}
	if n.Subnet6 == "" {
		want.NAT6, want.In6, want.RA, want.NDProxy = "", "", "", false
	}
	yesNo := strconv.FormatBool
	for _, x := range []struct{ what, is, want string }{
		{"subnet", n.Subnet, want.Subnet},
		{"IPv6 subnet", cmp.Or(n.Subnet6, "none"), want.Subnet6},
		{"IPv6 gateway", n.Gateway6, want.Gateway6},
		{"gateway", n.Gateway, want.Gateway},
		{"nat6", n.NAT6, want.NAT6},
		{"in6", n.In6, want.In6},
		{"ra", n.RA, want.RA},
		{"nd-proxy", yesNo(n.NDProxy), yesNo(want.NDProxy || n.NDProxy)},
		{"protocols", n.Protocols, string(want.Protocols)},
		{"internal:", yesNo(n.Internal), yesNo(want.Internal)},
		{"isolated:", yesNo(n.Isolated), yesNo(want.Isolated)},
	} {
		if x.want != "" && canonical(x.is) != canonical(x.want) {
			return fmt.Sprintf("%s %s, but the configuration says %s", x.what, x.is, x.want)
		}
	}
	return ""
}

// canonical is one form of an address, of a prefix (also of one behind "npt="), or of a list.
func canonical(s string) string {
	s = strings.TrimPrefix(s, "npt=")
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked().String()
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String()
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	slices.Sort(words)
	return strings.Join(words, ",")
}
