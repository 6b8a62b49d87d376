package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/control"
)

func (a *app) configCommand() *cobra.Command {
	check := &cobra.Command{Use: "check FILE", Short: "Tell whether a configuration file is right", Args: cobra.ExactArgs(1),
		Long: "Read FILE, and check everything in it that does not depend on the host: keys, names, subnets, addresses, published ports.",
		RunE: func(c *cobra.Command, args []string) error {
			run := a.runCommand()
			f := runFlags{config: args[0], subnet: control.DefaultSubnet, uplink: "auto", host: "on", name: "uvs", ports: control.DefaultNATPorts, io: "auto"}
			o, err := a.runOptions(run, f, nil)
			if err == nil {
				err = control.Check(o)
			}
			if err != nil { // whatever it is: not wrong usage
				return fmt.Errorf("%s: %s", args[0], strings.TrimPrefix(err.Error(), "config: "+args[0]+": "))
			}
			if a.json {
				return a.printJSON(map[string]any{"file": args[0], "ok": true})
			}
			_, err = fmt.Fprintf(a.out, "%s: networks %d, ports %d, published %d, routes %d: all right\n", args[0], len(o.Networks)+1, len(o.Ports), len(o.Publish), len(o.Routes))
			return err
		}}
	show := &cobra.Command{Use: "show", Short: "Print what the switch does as a configuration file", Args: cobra.NoArgs,
		Long: "Print the running switch, with what was added by hand, in the form of a configuration file: `uvswitch run -c` makes it again.",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := a.running(c)
			if err != nil {
				return err
			}
			text, err := yaml.MarshalWithOptions(f, yaml.IndentSequence(true))
			if err == nil && a.json {
				text, err = yaml.YAMLToJSON(text) // with the file's keys
			}
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		}}
	diff := &cobra.Command{Use: "diff [FILE]", Short: "Say what a reload would change", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.reload(c, args, true) }}
	return group("config", "The configuration file", check, show, diff)
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{Use: "reload [FILE]", Short: "Make the running switch what its configuration file says", Args: cobra.MaximumNArgs(1),
		Long: "Read the switch's configuration file again, or FILE, and make the switch what it says, all or nothing: what the file says is\n" +
			"there afterwards, what only the file before said is gone, and what was added by hand stays. What does not change goes on\n" +
			"without losing a packet. SIGHUP does the same. A few settings need a restart; the error says which.",
		RunE: func(c *cobra.Command, args []string) error { return a.reload(c, args, false) }}
}

func (a *app) reload(c *cobra.Command, args []string, dry bool) error {
	q := api.ReloadRequest{Dry: dry}
	if len(args) > 0 {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		if q.File = string(text); strings.TrimSpace(q.File) == "" {
			return fmt.Errorf("%s is empty", args[0])
		}
	}
	var done api.Reload
	if err := a.client().Do(c.Context(), "POST", "/reload", q, &done); err != nil {
		if len(args) > 0 {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return err
	}
	if a.json {
		return a.printJSON(done)
	}
	for _, s := range done.Changes {
		fmt.Fprintln(a.out, s)
	}
	if len(done.Changes) == 0 {
		fmt.Fprintln(a.out, "nothing to change")
	}
	return nil
}

// running is the switch as a configuration file.
func (a *app) running(c *cobra.Command) (*config.File, error) {
	var status api.Status
	var nets []api.Network
	var ports []api.Port
	var handed []string
	var rules []api.Publish
	var routes []api.Route
	var nat api.NATSettings
	var errs error
	for path, to := range map[string]any{"/status": &status, "/networks": &nets, "/ports": &ports, "/publish": &rules, "/routes": &routes, "/nat/settings": &nat} {
		errs = errors.Join(errs, a.client().Do(c.Context(), "GET", path, nil, to))
	}
	if errs != nil {
		return nil, errs
	}
	f := &config.File{Host: config.Host{Address: "off"}}
	f.Uplink.Device = "none"
	if up := status.Uplink; up.Kind != "none" {
		f.Uplink = config.Uplink{Device: up.Device, Kind: up.Kind, Ports: up.Ports}
	}
	if status.Host != "" {
		f.Host.Address = status.Host
	}
	f.NAT = config.NAT{Windows: nat.Windows, Flows: status.Tables["flows"].Limit, FlowsPerPort: nat.FlowsPerPort, Timers: config.TimersFrom(nat.Timers)}
	for _, n := range nets {
		f.Networks = append(f.Networks, config.Network{Name: n.Name, Subnet: n.Subnet, Gateway: n.Gateway, MTU: n.MTU, Internal: n.Internal, Isolated: n.Isolated,
			Mapping: n.Mapping, Filtering: n.Filtering})
	}
	for _, p := range ports {
		if p.Kind == "host" || p.Kind == "uplink" || p.Handed { // the last are their maker's to say
			handed = append(handed, p.Name)
			continue
		}
		x := config.Port{Name: p.Name, Network: p.Network, MAC: p.MAC, Set: knobsOf(&p)}
		if len(p.Addresses) > 0 {
			x.IP = p.Addresses[0]
		}
		switch p.Kind {
		case "device":
			x.Device = p.Ifname
		case "qemu-stream":
			x.QEMUStream, x.MTU = p.Ifname, p.MTU
		case "qemu-dgram":
			x.QEMUDgram, x.MTU = p.Ifname, p.MTU
		case "vde":
			x.VDE, x.MTU = p.Ifname, p.MTU
		default:
			x.Netns, x.Ifname, x.MTU, x.NoRoute = p.Netns, p.Ifname, p.MTU, p.NoRoute
			x.Offload = map[bool]string{true: "on", false: "off"}[p.Offload]
		}
		f.Ports = append(f.Ports, x)
	}
	for _, r := range rules {
		if slices.Contains(handed, r.Port) {
			continue
		}
		x := config.Publish{From: "any", Host: r.HostPorts(), To: fmt.Sprintf("%s:%d", r.Port, r.ContainerPort), Proto: r.Protocol}
		if len(r.From) > 0 {
			x.From = strings.Join(r.From, ",")
		}
		f.Publish = append(f.Publish, x)
	}
	for _, r := range routes {
		if r.ByHand {
			x := config.Route{Dst: r.Dst, Via: r.Gateway}
			if r.Type != "unicast" {
				x.Type = r.Type
			}
			f.Routes = append(f.Routes, x)
		}
	}
	return f, nil
}
