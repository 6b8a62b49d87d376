package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	sdaemon "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/apiserver"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/docker"
	"github.com/uvswitch/uvswitch/internal/fdstore"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/sandbox"
	"github.com/uvswitch/uvswitch/internal/tapmaker"
)

// runFlags are the flags of `run`. A flag that is given overrides the configuration file.
type runFlags struct {
	config, subnet, subnet6, uplink, kind, host, name, ports, io string
	metrics, web, docker, state, fence, cgroup, inbound          string
	sandbox                                                      string
	vmFolders                                                    []string
	lacks                                                        []string // what the host does not give
	workers, readyFD                                             int
	busyPoll                                                     string
	verbose                                                      bool
}

func (a *app) runCommand() *cobra.Command {
	f := runFlags{}
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the switch in the foreground",
		Long: "Run the switch in the network namespace of this shell. It creates the network `default` with its gateway, the port of\n" +
			"the host itself (device uvs0; --name changes the prefix uvs), and an uplink on the device of the default route.\n" +
			"SIGTERM ends it, and nothing is left behind.",
		Args: cobra.NoArgs,
	}
	fl := c.Flags()
	fl.StringVarP(&f.config, "config", "c", "", "configuration `FILE` (YAML)")
	fl.StringVar(&f.subnet, "subnet", model.DefaultSubnet, "subnet of network default; its gateway is the first address")
	fl.StringVar(&f.subnet6, "subnet6", model.SubnetAuto, "IPv6 subnet of network default: auto (a /64 of the switch's own), off, or a subnet such as fd00:1::/64")
	fl.StringVar(&f.uplink, "uplink", model.UplinkAuto, "the way out: auto (the device of the default route), none, or a device")
	fl.StringVar(&f.kind, "uplink-kind", "", "how to attach to the uplink's device: tcx or clsact (BPF, Linux 5.12 or later), tap (no BPF: the host routes and masquerades), host (through the host's stack, untranslated) or sockets (by sockets of the switch, which needs no root) (default tcx, else clsact; without root: sockets)")
	fl.StringVar(&f.host, "host", "on", "host port, which connects the host itself to network default: on or off (without root: off)")
	fl.StringVar(&f.inbound, "host-inbound", "allow", "what containers may begin with the host: allow, deny, or what is open, such as 22/tcp,53/udp,icmp")
	fl.StringVar(&f.cgroup, "cgroup", "", "`FOLDER` of cgroup2 whose processes reach published ports directly, or off: they use the relay (default the root of cgroup2)")
	fl.StringVar(&f.name, "name", defaultName, "name prefix of the switch's own devices, NAME0 and NAME-up")
	fl.StringVar(&f.fence, "uplink-devices", "", "let packets leave by these devices of the host only, such as wg0,eth1 (default all): a kill switch for a VPN")
	fl.StringVar(&f.ports, "nat-ports", model.DefaultNATPorts, "ports of the host that NAT may use")
	fl.StringVar(&f.io, "io", "auto", "I/O backend: auto, io_uring or read-write (auto: io_uring where the kernel permits it)")
	fl.IntVar(&f.workers, "workers", 0, "number of workers (default: one for every two CPUs, but at most 4)")
	fl.StringVar(&f.busyPoll, "busy-poll", "auto", "look for frames this long before sleeping, such as 50us: lower latency for more CPU; auto: while two ends talk, and a CPU is spare; off: never (io_uring only)")
	fl.IntVar(&f.readyFD, "ready-fd", 0, "write READY=1 to this file descriptor when the switch is ready")
	fl.StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics on this loopback `ADDRESS:PORT`, or on unix:PATH")
	fl.StringVar(&f.web, "web", "", "serve a web page with live counters and flows on this loopback `ADDRESS:PORT`, or on unix:PATH; `uvswitch web url` prints its address")
	fl.StringVar(&f.docker, "docker", "", "register as Docker network driver `NAME`, for docker network create -d NAME; write --docker=NAME: the equals sign is needed")
	fl.Lookup("docker").NoOptDefVal = dockerName
	fl.StringVar(&f.state, "state", defaultState(), "folder for what must survive a restart: leases of addresses, Docker's networks")
	fl.StringVar(&f.sandbox, "sandbox", "on", "give up, at start, system calls, files and capabilities that a running switch does not use: on or off")
	fl.StringSliceVar(&f.vmFolders, "vm-folders", nil, "let sockets of virtual machines be made below these `FOLDERS`, too (without: /run, /tmp, /var/tmp and those of the configuration file)")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "log events to stderr")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.run(c.Context(), c.Flags(), f) }
	return c
}

// defaultState is the folder that systemd has made for a service (systemd.exec(5), StateDirectory), or else that of an ordinary user or of root.
func defaultState() string {
	service, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return cmp.Or(service, api.UserFolder(), "/var/lib/uvswitch")
}

// machineID is the host's /etc/machine-id. Without one, as in images for many machines, whose prefixes must differ, it is another one each
// time.
func machineID() string {
	raw, _ := os.ReadFile("/etc/machine-id")
	if id := strings.TrimSpace(string(raw)); id != "" {
		return id
	}
	return rand.Text()
}

// ownFolder makes the folder of a user's switch, which nobody else may read or write. It refuses a folder that somebody else has made.
func ownFolder(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("cannot create the folder of this user's switch: %w; set XDG_RUNTIME_DIR to a folder of this user", err)
	}
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder that only this user may write; set XDG_RUNTIME_DIR to another folder of this user", folder)
	}
	return nil
}

// ofSwitch is what a switch of that name has on this host: its /48 of IPv6, and its secret.
func ofSwitch(name string) (netip.Prefix, model.Secret) {
	id := machineID()
	return model.ULA(id, name), model.NewSecret(id, name)
}

// run runs a switch until ctx is done. It checks the flags and the configuration before it changes the host. Then it opens the
// sockets, starts the switch, and starts the control API and Docker's driver.
func (a *app) run(ctx context.Context, given *pflag.FlagSet, f runFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	raiseFileLimit()
	source := f.source(given)
	source.Unprivileged = !rights.IsAdmin()
	if folder := api.UserFolder(); source.Unprivileged && folder != "" {
		if err := ownFolder(folder); err != nil {
			return err
		}
		if a.socket == api.DefaultSocket && !given.Changed("socket") {
			a.socket = filepath.Join(folder, "uvswitch.sock")
		}
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		source.ULA, source.Secret = ofSwitch(f.name)
	}
	conf, err := source.Start()
	if err != nil {
		return err
	}
	log := f.logger(a)
	in, err := inherit()
	if err != nil {
		return err
	}
	asUser := f.docker != "" && in.docker == nil && source.Unprivileged // Docker's driver is another process
	var plugin net.Listener
	if !asUser {
		plugin, err = f.listenDocker(in.docker)
	}
	if err != nil {
		return err
	}
	if plugin != nil {
		defer plugin.Close()
	}
	if in.control == nil { // before any device is created: a second switch fails here
		if in.control, err = apiserver.Listen(a.socket, true); err != nil {
			return err
		}
	}
	defer in.control.Close()
	metrics, err := apiserver.ListenReader("--metrics", f.metrics)
	if err != nil {
		return err
	}
	page, err := apiserver.ListenReader("--web", f.web)
	if err != nil {
		return err
	}
	for _, l := range []net.Listener{metrics, page} {
		if l != nil {
			defer l.Close()
		}
	}
	taps, endChild, err := tapMaker()
	if err != nil {
		return err
	}
	defer endChild()
	_ = os.MkdirAll(f.state, 0o700)
	f.lacks = lacks(f.state, asUser)
	unlock, err := lockState(f.state, f.name)
	if err != nil {
		return err
	}
	defer unlock()
	if asUser { // before the sandbox closes, which lets no program be started
		end, err := a.startDockerDriver(ctx, &f, given.Changed("state"))
		if err != nil {
			return err
		}
		defer end()
	}
	context.AfterFunc(ctx, func() { notify(sdaemon.SdNotifyStopping) })
	d, err := daemon.Start(ctx, daemon.Options{
		Config: conf, Name: f.name, Workers: f.workers, BusyPoll: busyPollTime(f.busyPoll), IO: f.io, TAPs: taps, Store: fdstore.Systemd(), Stored: in.stored, Log: log,
		LeaseFile: filepath.Join(f.state, "leases-"+f.name+".json"), PolicyFile: filepath.Join(f.state, "policies-"+f.name+".json"),
		Seal: f.seal(a, conf, log),
	})
	if err != nil {
		return err
	}
	server := apiserver.Start(d, apiserver.Options{Listener: in.control, Metrics: metrics, Web: page, Version: Version, Source: source, Log: log})
	err = a.serve(ctx, f, d, server, plugin, taps)
	server.Close() // first the control API, then the switch
	return errors.Join(err, d.Close())
}

// serve serves Docker and handles SIGHUP and the watchdog, until ctx is done or a part of the switch fails.
func (a *app) serve(ctx context.Context, f runFlags, d *daemon.Daemon, server *apiserver.Server, plugin net.Listener, taps tapmaker.Maker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go server.ReloadOnSignal(ctx, hangup)
	if plugin != nil {
		if err := docker.Start(ctx, plugin, a.client(), taps, f.dockerState(), f.logger(a)); err != nil {
			return err
		}
	}
	a.announce(f, server)
	feedWatchdog(ctx, d.Alive)
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.Ended():
		return err
	case <-d.Ended():
		return nil // Close says why
	}
}

// seal returns the function that closes the sandbox; nil with --sandbox off.
func (f *runFlags) seal(a *app, conf model.Config, log *slog.Logger) func() (string, error) {
	if f.sandbox == "off" {
		return nil
	}
	paths := slices.Clone(rights.Paths)
	allow := func(access rights.Access, folders ...string) {
		for _, p := range folders {
			if p != "" {
				paths = append(paths, rights.Path{Name: p, Access: access})
			}
		}
	}
	folderOf := func(path string) string {
		if !strings.Contains(path, "/") { // an address, or nothing
			return ""
		}
		return filepath.Dir(strings.TrimPrefix(path, "unix:"))
	}
	if f.config != "" { // a reload reads it again
		for _, path := range []string{f.config, realPath(f.config)} {
			if dir := realPath(filepath.Dir(path)); os.Geteuid() == 0 && isShared(dir) {
				allow(rights.Read, path)
			} else {
				allow(rights.Read, dir)
			}
		}
	}
	allow(rights.Keep, f.state)
	allow(rights.Sockets, append(f.vmFolders, filepath.Dir(a.socket), folderOf(f.metrics), folderOf(f.web))...)
	for _, p := range conf.Ports {
		allow(rights.Sockets, folderOf(cmp.Or(p.QEMUStream, p.QEMUDgram, p.VDE)))
	}
	return func() (string, error) {
		holds, err := sandbox.Enter(paths)
		if err != nil {
			if errors.Is(err, unix.EMFILE) {
				return "", fmt.Errorf("%w; let this process have more open files: `ulimit -n 4096`", err)
			}
			return "", fmt.Errorf("%w; `--sandbox off` runs without it", err)
		}
		log.Info("sandbox closed", "holds", holds)
		return holds, nil
	}
}

// raiseFileLimit lets this process have as many open files as it may: each published port takes one. Without the right to raise the limit, it
// stays.
func raiseFileLimit() {
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) != nil {
		return
	}
	const most = 1 << 20 // fs.nr_open, unless somebody has changed it
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: max(most, now.Max), Max: max(most, now.Max)}) != nil {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: now.Max, Max: now.Max})
	}
}

// realPath follows symbolic links, as far as it can.
func realPath(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}

// isShared reports whether a folder has files that root alone should read.
func isShared(dir string) bool {
	home, _ := os.UserHomeDir()
	return slices.Contains([]string{"/", "/etc", "/root", "/home", "/var", "/usr", "/boot", "/srv", home}, dir)
}

// tapMaker starts the child process that creates TAPs in other namespaces, if this process may enter them.
func tapMaker() (tapmaker.Maker, func(), error) {
	if !rights.MayEnterNamespaces() {
		return tapmaker.Forbidden{}, func() {}, nil
	}
	child, err := tapmaker.Start()
	if err != nil {
		return nil, nil, err
	}
	return child, func() { _ = child.Close() }, nil
}

// netnsChildCommand is the command of that child process; see package tapmaker.
func netnsChildCommand() *cobra.Command {
	return &cobra.Command{Use: tapmaker.ChildCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return tapmaker.Serve() }}
}

// busyPollTime reads --busy-poll: auto, off, or a time.
func busyPollTime(text string) time.Duration {
	if text == "off" || text == "0" {
		return 0
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d
	}
	return daemon.BusyPollAuto
}

// check reports values of flags that are not valid.
func (f *runFlags) check() error {
	switch {
	case len(f.name) == 0 || len(f.name) > 12 || strings.ContainsAny(f.name, "/ :"):
		return usagef("--name %q: must be 1 to 12 characters without slash, space and colon, because the names of devices begin with it", f.name)
	case f.kind != "" && !slices.Contains(model.UplinkKinds, f.kind):
		return usagef("--uplink-kind %q: must be tcx, clsact, tap, host or sockets", f.kind)
	case f.busyPoll != "auto" && (busyPollTime(f.busyPoll) < 0 || busyPollTime(f.busyPoll) > time.Millisecond):
		return usagef("--busy-poll %q: must be auto, off, or a time up to 1ms, such as 50us", f.busyPoll)
	case !slices.Contains(daemon.IOKinds, f.io):
		return usagef("--io %q: must be one of %s", f.io, strings.Join(daemon.IOKinds, ", "))
	case f.workers < 0 || f.workers > maxWorkers:
		return usagef("--workers %d: must be 0 (chosen by the number of CPUs) to %d", f.workers, maxWorkers)
	case f.readyFD < 0 || f.readyFD > 0 && !isOpen(f.readyFD):
		return usagef("--ready-fd %d: this file descriptor is not open", f.readyFD)
	case f.sandbox != "on" && f.sandbox != "off":
		return usagef("--sandbox %q: must be on or off", f.sandbox)
	case strings.Trim(f.docker, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || len(f.docker) > 32:
		return usagef("--docker %q is not a valid name; use 1 to 32 letters, digits, dashes and underscores", f.docker)
	case f.host != "on" && f.host != "off":
		return usagef("--host %q: must be on or off", f.host)
	}
	for _, folder := range f.vmFolders {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			return usagef("--vm-folders %s: no such folder; create it before the switch starts", folder)
		}
	}
	if _, err := netip.ParsePrefix(f.subnet); err != nil {
		return usagef("--subnet %q is not a subnet; use a subnet such as 172.29.0.0/16", f.subnet)
	}
	return nil
}

// defaultName is the name of a switch that gets no other.
const defaultName = "uvs"

const maxWorkers = 64

// fewSockets is how few sockets for connections an ordinary user should know about.
const fewSockets = 1000

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

// source returns the configuration file with the flags that override it.
func (f *runFlags) source(given *pflag.FlagSet) config.Source {
	s := config.Source{Path: f.config}
	for flag, x := range map[string]struct {
		to   **string
		from *string
	}{
		"uplink": {&s.Flags.UplinkDevice, &f.uplink}, "uplink-kind": {&s.Flags.UplinkKind, &f.kind}, "uplink-devices": {&s.Flags.UplinkDevices, &f.fence}, "nat-ports": {&s.Flags.NATPorts, &f.ports},
		"subnet": {&s.Flags.Subnet, &f.subnet}, "subnet6": {&s.Flags.Subnet6, &f.subnet6}, "cgroup": {&s.Flags.Cgroup, &f.cgroup}, "host-inbound": {&s.Flags.HostInbound, &f.inbound},
	} {
		if given.Changed(flag) {
			*x.to = x.from
		}
	}
	if given.Changed("host") {
		on := f.host == "on"
		s.Flags.Host = &on
	}
	return s
}

func (f *runFlags) logger(a *app) *slog.Logger {
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

const dockerName = "uvswitch"

// listenDocker returns the socket at which Docker looks for its driver: made, the one from systemd, or a new one. It returns nil
// when no driver is requested.
func (f *runFlags) listenDocker(made net.Listener) (net.Listener, error) {
	if made != nil {
		f.docker = cmp.Or(f.docker, dockerName)
	}
	if f.docker == "" {
		return nil, nil
	}
	if err := os.MkdirAll(f.state, 0o700); err != nil {
		return nil, fmt.Errorf("--state: cannot create the folder: %w", err)
	}
	if made != nil {
		return made, nil
	}
	l, err := apiserver.Listen(filepath.Join("/run/docker/plugins", f.docker+".sock"), false) // no group: only root, and so Docker, may connect
	if err != nil {
		return nil, fmt.Errorf("--docker: %w", err)
	}
	return l, nil
}

// lockState keeps the state of a switch from others, until unlock is called or the process ends.
func lockState(folder, name string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(folder, name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}, nil // nothing can be saved either
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		file.Close()
		return nil, fmt.Errorf("another switch named %s keeps its state in %s; give this one a --state and a --name of its own", name, folder)
	}
	return func() { file.Close() }, nil
}

// dockerState returns the path of the driver's state file. Each driver name has its own file.
func (f *runFlags) dockerState() string { return filepath.Join(f.state, "docker-"+f.docker+".json") }

// announce reports that the switch is ready, and what it has found and chosen: on stderr, on --ready-fd and to systemd.
func (a *app) announce(f runFlags, server *apiserver.Server) {
	s := server.Status()
	fmt.Fprintf(a.err, "uvswitch: ready; control socket %s\n", a.socket)
	for _, line := range []struct{ name, text string }{{"way out", wayOut(s.Uplink)}, {"networks", networkLine(s.Networks)}, {"host", hostLine(s)}, {"missing", missing(s, f.lacks)}} {
		fmt.Fprintf(a.err, "  %-9s %s\n", line.name, line.text)
	}
	if page := server.WebURL(); page != "" {
		fmt.Fprintf(a.err, "uvswitch: the live page is %s (`uvswitch web url` prints this, too)\n", page)
	}
	if f.readyFD > 0 {
		fd := os.NewFile(uintptr(f.readyFD), "ready")
		fmt.Fprintln(fd, "READY=1")
		fd.Close()
	}
	notify(sdaemon.SdNotifyReady)
}

// wayOut says how packets leave.
func wayOut(u api.Uplink) string {
	if u.Kind == "none" {
		return "none: containers reach each other only"
	}
	out := u.Kind
	if u.Device != "" {
		out += " by " + u.Device
	}
	if u.State == "up" {
		out += "; IPv4 as " + u.Address
	} else {
		out += "; IPv4: " + u.Why
	}
	switch u.State6 {
	case "up":
		out += "; IPv6 as " + u.Address6
	case "down":
		out += "; IPv6: " + u.Why6
	}
	return out
}

func networkLine(list []api.Network) string {
	var out []string
	for _, n := range list {
		text := fmt.Sprintf("%s %s, gateway %s", n.Name, n.Subnet, n.Gateway)
		if n.Subnet6 != "" {
			text += fmt.Sprintf("; %s, gateway %s", n.Subnet6, n.Gateway6)
		}
		if n.Internal {
			text += "; internal"
		}
		out = append(out, text)
	}
	const most = 4
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("%d more (uvswitch network ls)", len(out)-most))
	}
	return strings.Join(out, " | ")
}

func hostLine(s api.Status) string {
	if s.Host == "" {
		return "not a member of a network"
	}
	accepts := s.HostInbound
	switch accepts {
	case "allow":
		accepts = "everything"
	case "deny":
		accepts = "nothing"
	}
	return fmt.Sprintf("%s in network %s; it accepts from containers: %s", s.Host, api.DefaultNetwork, accepts)
}

// lacks lists what this host does not give to the switch, as far as it shows before the sandbox closes.
func lacks(state string, asUser bool) (out []string) {
	if fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		out = append(out, fmt.Sprintf("/dev/net/tun (%v): only virtual machines with sockets can be plugged in", err))
	} else {
		unix.Close(fd)
	}
	if asUser {
		if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
			out = append(out, "pings to the outside (net.ipv4.ping_group_range does not have this user's group)")
		} else {
			unix.Close(fd)
		}
	}
	if file, err := os.CreateTemp(state, ".try-*"); err != nil {
		out = append(out, fmt.Sprintf("a folder for what must survive a restart, leases and policies (--state: %v)", err))
	} else {
		file.Close()
		os.Remove(file.Name())
	}
	return out
}

// missing says what this host lacks, so that the switch does without.
func missing(s api.Status, out []string) string {
	if t, ok := s.Tables["sockets"]; ok && t.Limit < fewSockets {
		out = append(out, fmt.Sprintf("descriptors (`ulimit -n`): there is room for %d connections to the outside", t.Limit))
	}
	if s.BackendWhy != "" {
		out = append(out, "io_uring ("+s.BackendWhy+")")
	}
	if why, relay := strings.CutPrefix(s.HostClients, "relay: "); relay {
		out = append(out, "direct ways of the host's programs to published ports ("+why+")")
	}
	for _, p := range s.Waiting {
		out = append(out, "port "+p.Port+", which waits ("+p.Why+")")
	}
	switch {
	case s.NamesWhy != "":
		out = append(out, "name servers ("+s.NamesWhy+")")
	case len(s.NameServers) == 0:
		out = append(out, "name servers (/etc/resolv.conf has none)")
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, "; ") + "; `uvswitch doctor` says more"
}
