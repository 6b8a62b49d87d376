package control

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/hostports"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/tap"
)

// Options are what `uvswitch run` is told.
type Options struct {
	Socket       string
	Listener     *net.UnixListener // on Socket, when somebody else has made it
	Store        Store             // keeps what is handed over when the process ends; nil for none
	Kept         []*os.File        // what it has kept from the last one
	Name         string            // prefix of the switch's own devices: NAME0 and NAME-up
	Uplink       string            // auto, none, or a device
	UplinkKind   uplink.Kind
	NATPorts     string // ranges NAT may give out
	Host         bool
	Workers      int
	BusyPoll     time.Duration // how long a worker looks for frames before it sleeps; io_uring only
	IO           string        // auto, io_uring or read-write; auto when empty
	HostAddr     string        // the host port's address; the subnet's last when empty
	Flows        int
	FlowsPerPort int
	Timers       nat.Timers // RFCTimers when zero
	Strict       bool       // drop TCP segments outside of the window
	Mapping      string     // of networks that say nothing; the default when empty
	Filtering    string     // likewise
	Version      string
	Default      api.NetworkAdd   // network default
	Networks     []api.NetworkAdd // further ones
	Ports        []api.PortAdd
	Publish      []api.PublishAdd
	Routes       []api.RouteAdd
	Metrics      string                             // where Prometheus may ask, loopback or a unix socket; empty: nowhere
	Web          string                             // where the live page is, loopback; empty: nowhere
	Hangup       <-chan os.Signal                   // asks for a reload of its own file
	Load         func(file []byte) (Options, error) // reads a configuration file, or its own again
	Log          *slog.Logger
}

// DefaultNetwork is the name of the network that `run` makes.
const DefaultNetwork = "default"

// DefaultSubnet is its subnet unless another is said.
const DefaultSubnet = "172.29.0.0/16"

// A Daemon is one running switch.
type Daemon struct {
	opts    Options
	dp      *dataplane.Dataplane
	up      *uplink.Uplink // nil without one
	capture *capture.Hub
	started time.Time
	backend backend
	events  flowEvents
	log     *slog.Logger

	reloading sync.Mutex // held for a whole reload, before mu
	recalling sync.Mutex // held while the last drops are collected

	mu       sync.Mutex // everything below; the dataplane's workers never need it
	networks map[string]*network
	ports    map[string]*port
	byID     [frame.MaxPorts]*port
	names    [frame.MaxPorts]string // of the ports that had these ids last
	lastID   frame.PortID           // given out last: ids are used again late, so that captures do not mistake one port for another
	rules    []*rule
	nextRule uint32
	external netip.Addr // what the rules were last made for
	closed   bool
	taken    []hostports.Listener // the host's ports, when last looked at

	built        bool   // everything that Options ask for is there
	keptText     []byte // what was given to the store last
	keptSequence uint64
}

// Run runs a switch until ctx is done. ready is called once it forwards and answers on its socket; on its error the switch
// ends, and its context ends with the switch. Whatever was made is removed before Run returns.
func Run(ctx context.Context, o Options, ready func(context.Context, *Daemon) error) error {
	if err := requireRights(); err != nil {
		return err
	}
	if _, err := ParseRanges(o.NATPorts); err != nil {
		return err
	}
	listener := o.Listener
	if listener == nil {
		var err error
		if listener, err = Listen(o.Socket, true); err != nil { // first: a second switch must not get as far as its devices
			return err
		}
	}
	defer listener.Close()
	d, err := newDaemon(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running := make(chan error, 1)
	go func() { running <- d.dp.Run(ctx, d.portGone) }()
	stop := func() error { // in this order: nobody asks, nothing moves, nothing is left
		cancel()
		err := <-running
		d.close()
		return err
	}
	if err := d.build(); err != nil {
		return errors.Join(err, stop())
	}
	if err := uplink.Watch(ctx, func() { d.refreshUplink(); d.refreshDevices() }); err != nil {
		return errors.Join(err, stop())
	}
	go d.refreshPorts(ctx)
	go d.reloadOnHangup(ctx)
	endSides, err := d.serveSides()
	if err != nil {
		return errors.Join(err, stop())
	}
	server := &http.Server{
		Handler: d.handler(), ReadHeaderTimeout: 10 * time.Second,
		ConnContext: rememberPeer, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(handingListener{listener}) }()
	d.log.Info("ready", "socket", o.Socket, "subnet", o.Default.Subnet, "uplink", d.uplinkStatus().State, "workers", d.dp.Workers())
	if err = ready(ctx, d); err == nil {
		select {
		case <-ctx.Done():
		case err = <-serving:
		case err = <-running:
			running <- nil // stop reads it again
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	server.Close()
	endSides()
	return errors.Join(err, stop())
}

func newDaemon(o Options) (*Daemon, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Workers <= 0 {
		o.Workers = defaultWorkers()
	}
	d := &Daemon{
		opts: o, log: o.Log, started: time.Now(),
		networks: map[string]*network{}, ports: map[string]*port{}, nextRule: 1,
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	var ids *nat.PortSet
	if o.Uplink != "none" {
		var err error
		d.up, err = uplink.Open(uplink.Options{Device: o.Uplink, Kind: o.UplinkKind, TAP: o.Name + "-up"})
		if errors.Is(err, tap.ErrExists) {
			return nil, fmt.Errorf("there is a device %s-up already, perhaps another switch's; give this one a name of its own (--name)", o.Name)
		}
		if err != nil {
			return nil, err
		}
		if o.UplinkKind != uplink.TAP {
			ids = d.up.ICMPIDs()
		}
	}
	pollers, chosen, err := newPollers(o.IO, o.Workers, o.BusyPoll)
	if err != nil {
		d.closeUplink()
		return nil, err
	}
	d.backend = chosen
	if chosen.why != "" {
		d.log.Warn("falling back to another I/O backend", "backend", chosen.name, "why", chosen.why)
	}
	var pair nat.PortlessPeer
	if ids != nil {
		pair = d.up.SetPortlessPeer
	}
	n := nat.New(nat.Options{
		Flows: o.Flows, FlowsPerPort: o.FlowsPerPort, Seed: binary.NativeEndian.Uint64(seed[:]), ICMPIDs: ids, Timers: o.Timers, Strict: o.Strict, PortlessPeer: pair,
		Alloc: hugeMemory,
	})
	d.dp = dataplane.New(n, d.clock, pollers...)
	d.capture = capture.NewHub(d.dp)
	return d, nil
}

// Alive returns when every worker, the housekeeper and the control API have moved on: never, when one of them is stuck.
func (d *Daemon) Alive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dp.Barrier()
	d.dp.SlowPath(func(router.Output) {})
}

// clock is the dataplane's: it begins with tick 1, since 0 means never in places.
func (d *Daemon) clock() int64 {
	return int64(time.Since(d.started) + time.Second/frame.TicksPerSecond)
}

// build makes what Options ask for.
func (d *Daemon) build() error {
	for _, n := range append([]api.NetworkAdd{d.opts.Default}, d.opts.Networks...) {
		if err := d.addNetwork(n); err != nil {
			return err
		}
	}
	if d.up != nil {
		if err := d.addUplinkPort(); err != nil {
			return err
		}
	}
	if d.opts.Host {
		if err := d.addHostPort(); err != nil {
			return err
		}
	}
	d.refreshUplink()
	k, devices := d.readKept()
	for _, restored := range []bool{false, true} { // those whose address is said, those that were there before, and then what is free
		for _, p := range d.opts.Ports {
			if (p.IP == "" || p.IP == "auto") != restored {
				continue
			}
			if _, err := d.addPort(p, nil); err != nil {
				return err
			}
		}
		if !restored {
			d.restorePorts(k, devices)
		}
	}
	for _, p := range d.opts.Publish {
		if _, err := d.addPublish(p); err != nil {
			return err
		}
	}
	d.restorePublished(k)
	for _, r := range d.opts.Routes {
		if err := d.addRoute(r); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.built = true
	d.keep()
	return nil
}

// close gives everything back: rules and their listeners, ports and their devices, the uplink.
func (d *Daemon) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, r := range d.rules {
		r.relays.close()
	}
	for _, p := range d.ports {
		p.close()
	}
	d.closeUplink()
}

func (d *Daemon) closeUplink() {
	if d.up != nil {
		d.up.Close()
	}
}

// refreshUplink follows the host: when its device, address or link has changed, the router and NAT are told.
func (d *Daemon) refreshUplink() {
	if d.up == nil {
		return
	}
	if _, err := d.up.Refresh(); err != nil {
		d.log.Error("uplink", "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.ports[uplinkPort]
	if p == nil {
		return
	}
	s, _ := d.up.State()
	i := router.Interface{
		Net: frame.NoNet, Addr: frame.AddrFrom(s.Addr), Prefix: everywhere, MAC: uplinkMAC, MTU: s.MTU,
		Port: p.id, PeerMAC: d.up.MAC, Up: s.Up,
	}
	if old, ok := d.dp.Router.Interface(frame.NoNet); ok && old == i {
		return
	}
	d.dp.Router.SetInterface(i)
	d.routeToHost(s.Addr)
	d.updateRules()
	d.log.Info("uplink", "device", s.Device, "address", s.Addr, "up", s.Up, "why", s.Why)
}

var everywhere = netip.MustParsePrefix("0.0.0.0/0")

const uplinkMAC frame.MAC = 0x027576000002

// routeToHost sends packets for the host's own address to the host port.
func (d *Daemon) routeToHost(addr netip.Addr) {
	if d.external.IsValid() && d.external != addr {
		d.dp.Router.DeleteRoute(netip.PrefixFrom(d.external, 32))
	}
	d.external = addr
	if !addr.IsValid() || d.opts.UplinkKind == uplink.TAP {
		return
	}
	rt := router.Route{Prefix: netip.PrefixFrom(addr, 32), Kind: router.Unreachable}
	if h := d.ports[hostPort]; h != nil {
		rt.Kind, rt.Egress, rt.NextHop = router.Local, h.net.id, frame.AddrFrom(h.addr.Addr())
	}
	if err := d.dp.Router.AddRoute(rt); err != nil {
		d.log.Error("route to the host", "error", err)
	}
}

// refreshPorts keeps the ports that NAT may give out clear of those the host begins to use.
func (d *Daemon) refreshPorts(ctx context.Context) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			d.mu.Lock()
			d.updateRules()
			d.mu.Unlock()
		}
	}
}

// requireRights explains early what would fail later with less to say.
func requireRights() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return fmt.Errorf("reading this process's capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN (TAP devices, BPF programs)"}, {unix.CAP_NET_RAW, "CAP_NET_RAW (packet sockets)"}} {
		if have[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("uvswitch run needs %s; try sudo, or the systemd unit, which gives it those without root", strings.Join(missing, " and "))
	}
	return tap.CheckTUN()
}

// hugeMemory is memory for tables, in huge pages where the kernel gives them: a look-up among a million flows misses
// the cache, and should not miss in the page tables too. It is touched, and so counts, as it is used.
func hugeMemory(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]byte, n)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b
}
