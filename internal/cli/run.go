package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/control"
	"github.com/uvswitch/uvswitch/internal/docker"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
)

// runFlags are the flags of `run` as given; flags that were given win over the file.
type runFlags struct {
	config, subnet, uplink, kind, host, name, ports, io string
	metrics, web, docker, state                         string
	workers, readyFD                                    int
	busyPoll                                            time.Duration
	verbose                                             bool
}

func (a *app) runCommand() *cobra.Command {
	f := runFlags{}
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the switch in the foreground",
		Long: "Run the switch in the network namespace it is started in: network `default`, its gateway, host port NAME0,\n" +
			"and an uplink on the device of the default route. SIGTERM ends it; nothing is left behind.",
		Args: cobra.NoArgs,
	}
	fl := c.Flags()
	fl.StringVarP(&f.config, "config", "c", "", "configuration file (YAML)")
	fl.StringVar(&f.subnet, "subnet", control.DefaultSubnet, "subnet of network default; the gateway is its first address")
	fl.StringVar(&f.uplink, "uplink", "auto", "the way out: auto, none, or a device")
	fl.StringVar(&f.kind, "uplink-kind", "", "how to attach to it: tcx, clsact or tap (default: tcx, else clsact)")
	fl.StringVar(&f.host, "host", "on", "the host port: on or off")
	fl.StringVar(&f.name, "name", "uvs", "prefix of the switch's own devices, NAME0 and NAME-up")
	fl.StringVar(&f.ports, "nat-ports", control.DefaultNATPorts, "ports of the host that NAT may give out")
	fl.StringVar(&f.io, "io", "auto", "how frames are read and written: auto, io_uring or read-write (default: io_uring where the kernel lets us)")
	fl.IntVar(&f.workers, "workers", 0, "number of workers (default: one for two CPUs, 4 at most)")
	fl.DurationVar(&f.busyPoll, "busy-poll", 0, "look for frames for so long before sleeping, such as 50us: shorter delays for CPU time (io_uring)")
	fl.IntVar(&f.readyFD, "ready-fd", 0, "write READY=1 to this descriptor when ready")
	fl.StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics on this loopback ADDRESS:PORT, or unix socket (a path)")
	fl.StringVar(&f.web, "web", "", "serve the live page on this loopback ADDRESS:PORT")
	fl.StringVar(&f.docker, "docker", "", "be Docker's network driver, of this name (uvswitch, when none is said): docker network create -d NAME")
	fl.Lookup("docker").NoOptDefVal = dockerName
	fl.StringVar(&f.state, "state", "/var/lib/uvswitch", "folder of what must outlive a restart: Docker's networks")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "log what happens, to stderr")
	c.RunE = func(c *cobra.Command, _ []string) error {
		o, err := a.runOptions(c, f, nil)
		if err != nil {
			return err
		}
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
		o.Hangup = hup
		in, err := inherit()
		if err != nil {
			return err
		}
		plugin, err := f.listenDocker(in.docker)
		if err != nil {
			return err
		}
		if plugin != nil {
			defer plugin.Close()
		}
		o.Listener, o.Kept, o.Store = in.control, in.kept, store()
		context.AfterFunc(c.Context(), func() { notify(daemon.SdNotifyStopping) })
		return control.Run(c.Context(), o, func(ctx context.Context, d *control.Daemon) error {
			if plugin != nil {
				if err := docker.Start(ctx, plugin, a.client(), f.dockerState(), o.Log); err != nil {
					return err
				}
			}
			a.announce(f, o)
			feedWatchdog(ctx, d.Alive)
			return nil
		})
	}
	return c
}

const dockerName = "uvswitch"

// listenDocker makes the socket where Docker looks for its driver, unless systemd has; nil when it is not asked for.
func (f *runFlags) listenDocker(made net.Listener) (net.Listener, error) {
	if made != nil {
		f.docker = cmp.Or(f.docker, dockerName)
	}
	if f.docker == "" {
		return nil, nil
	}
	if strings.Trim(f.docker, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || len(f.docker) > 32 {
		return nil, usagef("--docker %q: a name is 1 to 32 letters, digits, dashes and underscores", f.docker)
	}
	if err := os.MkdirAll(f.state, 0o700); err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	if made != nil {
		return made, nil
	}
	l, err := control.Listen(filepath.Join("/run/docker/plugins", f.docker+".sock"), false) // Docker's alone
	if err != nil {
		return nil, fmt.Errorf("--docker: %w", err)
	}
	return l, nil
}

// dockerState is the file of what Docker has asked for: one for each driver's name.
func (f runFlags) dockerState() string { return filepath.Join(f.state, "docker-"+f.docker+".json") }

// announce says that the switch is ready: to people, to --ready-fd, and to systemd.
func (a *app) announce(f runFlags, o control.Options) {
	fmt.Fprintf(a.err, "uvswitch: ready; network %s is %s, control socket %s\n", control.DefaultNetwork, o.Default.Subnet, o.Socket)
	if f.readyFD > 0 {
		fd := os.NewFile(uintptr(f.readyFD), "ready")
		fmt.Fprintln(fd, "READY=1")
		fd.Close()
	}
	notify(daemon.SdNotifyReady)
}

// runOptions puts flags and the configuration file together; text is the file's, when it has been read already.
func (a *app) runOptions(c *cobra.Command, f runFlags, text []byte) (control.Options, error) {
	o := control.Options{Socket: a.socket, Name: f.name, Workers: f.workers, Version: Version, NATPorts: f.ports, IO: f.io, BusyPoll: f.busyPoll,
		Metrics: f.metrics, Web: f.web}
	given := f
	o.Load = func(text []byte) (control.Options, error) {
		if len(text) == 0 && given.config == "" {
			return control.Options{}, errors.New("this switch was started without a configuration file: name one, as in `uvswitch reload FILE`")
		}
		if len(text) == 0 { // an editor that has emptied it and not written yet
			b, err := os.ReadFile(given.config)
			if err != nil {
				return control.Options{}, fmt.Errorf("config: %w", err)
			}
			if text = b; strings.TrimSpace(string(b)) == "" {
				return control.Options{}, fmt.Errorf("config: %s is empty: what was in it would be removed", given.config)
			}
		}
		return a.runOptions(c, given, text)
	}
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	o.Log = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	if len(f.name) == 0 || len(f.name) > 12 || strings.ContainsAny(f.name, "/ :") {
		return o, usagef("--name %q: 1 to 12 characters of an interface name", f.name)
	}
	if f.config != "" || len(text) > 0 {
		var file *config.File
		var err error
		if len(text) > 0 {
			file, err = config.Parse(text)
		} else {
			file, err = config.Load(f.config)
		}
		if err == nil {
			applyFile(c, &f, &o, file)
			o.Timers, err = timersOf(file.NAT.Timers)
		}
		if err != nil {
			return o, err
		}
	}
	if _, err := netip.ParsePrefix(f.subnet); err != nil {
		return o, usagef("--subnet %q is not a subnet such as 172.29.0.0/16", f.subnet)
	}
	o.Default.Name, o.Default.Subnet = control.DefaultNetwork, f.subnet
	switch o.UplinkKind = uplink.Kind(f.kind); o.UplinkKind {
	case uplink.Auto, uplink.TCX, uplink.Clsact, uplink.TAP:
	default:
		return o, usagef("--uplink-kind %q: say tcx, clsact or tap", f.kind)
	}
	if f.busyPoll < 0 || f.busyPoll > time.Millisecond {
		return o, usagef("--busy-poll %s: 0 to 1ms", f.busyPoll)
	}
	if !slices.Contains(control.IOKinds, f.io) {
		return o, usagef("--io %q: say %s", f.io, strings.Join(control.IOKinds, ", "))
	}
	if f.host != "on" && f.host != "off" {
		return o, usagef("--host %q: say on or off", f.host)
	}
	o.Uplink, o.Host = f.uplink, f.host == "on"
	return o, nil
}

// timersOf is a profile with what the file changes of it.
func timersOf(f config.Timers) (nat.Timers, error) {
	t := nat.RFCTimers()
	if f.Profile == "linux" {
		t = nat.LinuxTimers()
	}
	for _, v := range []struct {
		to   *uint32
		from uint32
	}{
		{&t.UDP, f.UDP}, {&t.UDPStream, f.UDPStream}, {&t.UDPShort, f.UDPShort}, {&t.SynSent, f.SynSent}, {&t.SynRecv, f.SynRecv},
		{&t.Established, f.Established}, {&t.FinWait, f.FinWait}, {&t.CloseWait, f.CloseWait}, {&t.LastAck, f.LastAck},
		{&t.TimeWait, f.TimeWait}, {&t.TCPReset, f.TCPReset}, {&t.ICMP, f.ICMP}, {&t.Generic, f.Generic},
	} {
		if v.from > maxTimer {
			return t, fmt.Errorf("config: nat.timers: %d seconds is longer than the longest time-out, %d", v.from, maxTimer)
		}
		*v.to = cmp.Or(v.from, *v.to)
	}
	for _, k := range slices.Sorted(maps.Keys(f.Ports)) {
		seconds := f.Ports[k]
		port, proto, _ := strings.Cut(k, "/")
		number, ok := frame.ProtoNumber(proto)
		p, err := strconv.ParseUint(port, 10, 16)
		if !ok || err != nil || p == 0 || seconds == 0 || seconds > maxTimer {
			return t, fmt.Errorf("config: nat.timers.ports: %q: %d: say PORT/PROTOCOL and 1 to %d seconds, such as \"5060/udp\": 600", k, seconds, maxTimer)
		}
		t.Ports = append(t.Ports, nat.PortTimer{Proto: number, Port: uint16(p), Seconds: seconds})
	}
	return t, nil
}

// maxTimer is a year, in seconds.
const maxTimer = 365 * 24 * 3600

// applyFile fills in what the file says and no flag does.
func applyFile(c *cobra.Command, f *runFlags, o *control.Options, file *config.File) {
	set := func(flag string, to *string, value string) {
		if value != "" && !c.Flags().Changed(flag) {
			*to = value
		}
	}
	set("uplink", &f.uplink, file.Uplink.Device)
	set("uplink-kind", &f.kind, file.Uplink.Kind)
	set("nat-ports", &o.NATPorts, file.Uplink.Ports)
	switch file.Host.Address {
	case "off":
		set("host", &f.host, "off")
	case "", "auto":
	default:
		o.HostAddr = file.Host.Address
	}
	o.Flows, o.FlowsPerPort, o.Strict = file.NAT.Flows, file.NAT.FlowsPerPort, file.NAT.Windows == "strict"
	o.Mapping, o.Filtering = file.NAT.Mapping, file.NAT.Filtering
	for _, n := range file.Networks {
		if n.Name == control.DefaultNetwork {
			set("subnet", &f.subnet, n.Subnet)
			o.Default = api.NetworkAdd(n)
			continue
		}
		o.Networks = append(o.Networks, api.NetworkAdd(n))
	}
	for _, p := range file.Ports {
		knobs := api.PortSet{}
		for name, v := range p.Set {
			knobs[name] = api.Knob(v)
		}
		o.Ports = append(o.Ports, api.PortAdd{
			Name: p.Name, Network: p.Network, Netns: p.Netns, Ifname: p.Ifname, Device: p.Device, IP: p.IP, MAC: p.MAC,
			MTU: p.MTU, Offload: p.Offload, NoRoute: p.NoRoute, Set: knobs, QEMUStream: p.QEMUStream, QEMUDgram: p.QEMUDgram, VDE: p.VDE,
		})
	}
	for _, p := range file.Publish {
		name, port, _ := strings.Cut(p.To, ":")
		add := api.PublishAdd{Spec: p.Host + ":" + port + "/" + cmp.Or(p.Proto, "tcp"), Port: name}
		if p.From != "" && p.From != "any" {
			add.From = strings.Split(p.From, ",")
		}
		o.Publish = append(o.Publish, add)
	}
	for _, r := range file.Routes {
		o.Routes = append(o.Routes, api.RouteAdd{Dst: r.Dst, Gateway: r.Via, Type: r.Type})
	}
}
