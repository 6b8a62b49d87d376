package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
)

// A Source is where a switch's configuration comes from: a file, and the flags of `uvswitch run`, which win over the file.
type Source struct {
	Path   string       // of the file; empty for none
	ULA    netip.Prefix // see model.Config
	Secret model.Secret // likewise
	Flags  Flags

	Unprivileged bool // the switch may not change the host: without other words, it has no host port, and its way out is by sockets
}

// Flags are those of `uvswitch run` that the file can say, too. nil: not given.
type Flags struct {
	UplinkDevice, UplinkKind, UplinkDevices, NATPorts, Subnet, Subnet6, Cgroup, HostInbound *string

	Host *bool
}

// Start returns the configuration to start with.
func (s Source) Start() (model.Config, error) {
	f := &File{}
	if s.Path != "" {
		var err error
		if f, err = Load(s.Path); err != nil {
			return model.Config{}, err
		}
	}
	c, _, err := s.config(f)
	return c, err
}

// Load returns the configuration that text is, or the source's own file when text is empty. notes say what of the file does not count.
func (s Source) Load(text []byte) (c model.Config, notes []string, err error) {
	if len(text) == 0 {
		if s.Path == "" {
			return c, nil, errors.New("this switch was started without a configuration file; name one: `uvswitch reload FILE`, `uvswitch config diff FILE`")
		}
		b, err := os.ReadFile(s.Path)
		if errors.Is(err, os.ErrPermission) {
			return c, nil, fmt.Errorf("config: %w; the sandbox lets the switch read the folder that the file was in at the start, but in a folder such as /etc only this very file: give the file a folder of its own, or name it: `uvswitch reload FILE`", err)
		}
		if err != nil {
			return c, nil, fmt.Errorf("config: %w", err)
		}
		if text = b; strings.TrimSpace(string(b)) == "" { // an editor may have emptied it, and not written yet
			return c, nil, fmt.Errorf("config: %s is empty; a reload with it would remove everything that the file described before; write the file, and reload again", s.Path)
		}
	}
	f, err := Parse(text)
	if err != nil {
		return c, nil, err
	}
	return s.config(f)
}

// userFlows is the size of IPv4's flow table of an ordinary user, who has fewer sockets than that: a small table touches less memory.
const userFlows = 1 << 17

// config puts defaults, file and flags together.
func (s Source) config(f *File) (c model.Config, notes []string, err error) {
	c = model.Config{
		ULA:     s.ULA,
		Secret:  s.Secret,
		Uplink:  model.Uplink{Device: cmp.Or(f.Uplink.Device, model.UplinkAuto), Kind: f.Uplink.Kind, Ports: cmp.Or(f.Uplink.Ports, model.DefaultNATPorts), Devices: strings.Join(f.Uplink.Devices, ",")},
		Host:    model.Host{On: f.Host.Address != "off", Cgroup: f.Host.Cgroup, Inbound: string(f.Host.Inbound)},
		NAT:     model.NAT{Flows: f.NAT.Flows, Flows6: f.NAT.Flows6, FlowsPerPort: f.NAT.FlowsPerPort, Strict: f.NAT.Windows == "strict", Mapping: f.NAT.Mapping, Filtering: f.NAT.Filtering},
		Default: api.NetworkAdd{Name: api.DefaultNetwork},
		Ports:   f.Ports,
	}
	if s.Unprivileged && c.Uplink.Kind == "" && c.Uplink.Device == model.UplinkAuto {
		c.Uplink.Kind = model.KindSockets
		c.NAT.Flows = cmp.Or(c.NAT.Flows, userFlows)
	}
	if s.Unprivileged && f.Host.Address == "" {
		c.Host.On = false
	}
	if f.Host.Address != "auto" && f.Host.Address != "off" {
		c.Host.Address = f.Host.Address
	}
	if c.NAT.Timers, err = f.NAT.Timers.NAT(); err != nil {
		return c, nil, err
	}
	for _, n := range f.Networks {
		if n.Name == api.DefaultNetwork {
			c.Default = n
		} else {
			c.Networks = append(c.Networks, n)
		}
	}
	c.Default.Subnet = cmp.Or(c.Default.Subnet, model.DefaultSubnet)
	c.Default.Subnet6 = cmp.Or(c.Default.Subnet6, model.SubnetAuto)
	for _, p := range f.Publish {
		c.Publishes = append(c.Publishes, p.spec())
	}
	c.Policies = f.Policies
	for _, r := range f.Routes {
		c.Routes = append(c.Routes, api.RouteAdd{Dst: r.Dst, Gateway: r.Via, Type: r.Type})
	}
	notes = s.Flags.apply(&c, f)
	if c.Uplink.Kind == model.ViaHost && !c.Host.On {
		return c, notes, errors.New("an uplink of kind host leads through the host's port: it needs --host on")
	}
	in, err := model.ParseInbound(c.Host.Inbound)
	if err == nil && in != nil && c.Uplink.Kind == model.KindTAP && c.Uplink.Device != model.UplinkNone {
		err = errors.New("with an uplink of kind tap, containers reach the host by its routing, and host.inbound cannot be kept; use another --uplink-kind, or --host-inbound allow")
	}
	return c, notes, err
}

// apply changes what the flags say, and notes which words of the file do not count for that.
func (f Flags) apply(c *model.Config, file *File) (notes []string) {
	def := api.NetworkAdd{}
	if i := slices.IndexFunc(file.Networks, func(n api.NetworkAdd) bool { return n.Name == api.DefaultNetwork }); i >= 0 {
		def = file.Networks[i]
	}
	for _, x := range []struct {
		name      string
		flag, to  *string
		key, says string
	}{
		{"uplink", f.UplinkDevice, &c.Uplink.Device, "uplink.device", file.Uplink.Device},
		{"uplink-kind", f.UplinkKind, &c.Uplink.Kind, "uplink.kind", file.Uplink.Kind},
		{"uplink-devices", f.UplinkDevices, &c.Uplink.Devices, "uplink.devices", strings.Join(file.Uplink.Devices, ",")},
		{"nat-ports", f.NATPorts, &c.Uplink.Ports, "uplink.ports", file.Uplink.Ports},
		{"subnet", f.Subnet, &c.Default.Subnet, "subnet of network default", def.Subnet},
		{"subnet6", f.Subnet6, &c.Default.Subnet6, "subnet6 of network default", def.Subnet6},
		{"cgroup", f.Cgroup, &c.Host.Cgroup, "host.cgroup", file.Host.Cgroup},
		{"host-inbound", f.HostInbound, &c.Host.Inbound, "host.inbound", string(file.Host.Inbound)},
	} {
		if x.flag == nil {
			continue
		}
		*x.to = *x.flag
		if x.says != "" && x.says != *x.flag {
			notes = append(notes, fmt.Sprintf("the flag --%s %s of `uvswitch run` overrides %s of the file", x.name, *x.flag, x.key))
		}
	}
	if f.Host != nil {
		c.Host.On = *f.Host
	}
	if off := file.Host.Address == "off"; f.Host != nil && file.Host.Address != "" && off == *f.Host {
		notes = append(notes, "the flag --host "+map[bool]string{true: "on", false: "off"}[*f.Host]+" of `uvswitch run` overrides host.address of the file")
	}
	return notes
}

// spec is the published port as the API takes it.
func (p Publish) spec() api.PublishAdd {
	name, port, _ := strings.Cut(p.To, ":")
	a := api.PublishAdd{Spec: p.Host + ":" + port + "/" + cmp.Or(p.Proto, "tcp"), Port: name}
	if p.From != "" && p.From != "any" {
		a.From = strings.Split(string(p.From), ",")
	}
	return a
}
