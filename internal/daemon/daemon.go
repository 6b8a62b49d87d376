package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/changelock"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/dns"
	"github.com/uvswitch/uvswitch/internal/events"
	"github.com/uvswitch/uvswitch/internal/fdstore"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/gateway"
	"github.com/uvswitch/uvswitch/internal/hostclients"
	"github.com/uvswitch/uvswitch/internal/hugepages"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/ndproxy"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/policies"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/sockets"
	"github.com/uvswitch/uvswitch/internal/tapmaker"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/tap"
)

// Options are the first configuration of a switch, and what cannot change while it runs.
type Options struct {
	Config   model.Config
	Name     string // prefix of the switch's own devices: NAME0 and NAME-up
	Workers  int    // 0: one for two CPUs, 4 at most
	BusyPoll time.Duration
	IO       string         // one of IOKinds; auto when empty
	TAPs     tapmaker.Maker // creates TAPs in namespaces
	Store    fdstore.Store  // keeps TAPs that other programs have passed, beyond the end of the process; nil for none
	Stored   []*os.File     // what it has kept from the last process
	// PolicyFile keeps the policies that were made or attached by hand, for the next process. Empty: nothing does.
	PolicyFile string
	// LeaseFile keeps the leases of stations beyond the end of the process; empty: nothing does.
	LeaseFile string
	Seal      func() (string, error) // closes the sandbox and says what holds; called before the first frame is read. nil: none
	Log       *slog.Logger
}

// A Daemon is one running switch.
type Daemon struct {
	opts    Options
	dp      *dataplane.Dataplane
	up      *uplink.Uplink  // nil without one
	engine  *sockets.Engine // the way out of an uplink of kind sockets; else nil
	started time.Time
	backend backend

	proxy      ndproxy.Proxy         // answers on the host's devices for containers
	clients    *hostclients.Programs // see openClients
	clientsWhy string
	retries    atomic.Bool // refreshUplink has failed, and runs again soon
	gateways   *gateway.Service
	names      map[string][]model.Name // added by hand, by network; under mu
	policies   []model.Policy          // in the order in which they were made; under mu, replaced as a whole
	policing   policies.Compiler
	happened   events.Log
	stations   events.Stations // adds to happened
	formerly   policies.Saved  // what the last process has left; see recallPoliciesLocked
	saved      policies.Saved  // what is left to the next one
	leaseError bool            // leases could not be saved last time
	leasesKept chan struct{}   // closed when keepLeases has ended; nil if it has not begun
	sandbox    string          // see Sandbox
	log        *slog.Logger
	ended      chan struct{} // closed when the data plane has ended
	failure    error         // why it has ended; written before
	stop       context.CancelFunc

	changing changelock.Lock // Lock 20: before every other lock of the daemon; see lock.go

	// Written with changing held.
	closed       bool
	built        bool                 // everything that the configuration asks for exists
	hostUses     []usedports.Listener // ports of the host in use, as last read
	usesRead     bool                 // in the present change
	poolFree     int                  // ports of NAT's smaller pool
	stopped      []stoppedPort        // see removeStoppedLocked
	rulesHeld    bool                 // another published port follows in this change: see updateRulesLocked
	lastID       frame.PortID         // assigned last: ids are reused late, so that captures do not mistake one port for another
	nextRule     uint32
	local        []netip.Prefix // see localLocked
	broken       [2]string      // State.Broken and Broken6 of the uplink
	host6        bool           // the host's port takes IPv6 packets
	forwards     bool           // the host's stack forwards what comes by the host port, for static routes through it
	stored       storedState
	told         toldState
	retryDevices *time.Timer // of refreshDevices

	mu        sync.Mutex // Lock 30: everything below; see lock.go
	config    model.Config
	networks  map[string]*network
	ports     map[string]*port
	byID      [frame.MaxPorts]*port
	refused   []pastRefusal           // at ports that are gone; replaced as a whole
	unread    map[frame.PortID]Unread // replaced as a whole
	former    map[frame.PortID]string // names of removed ports; replaced as a whole
	publishes []*publish
	standby   []model.Publish     // published ports that wait for another port of their container to go; replaced as a whole
	waiting   []model.WaitingPort // replaced as a whole
	tunnels   []uint8             // IP protocols that the host uses for tunnels
	external  netip.Addr          // the host's address that is shown, and the source of packets whose way is not known yet
	own       []netip.Addr        // all IPv4 addresses of the host that containers may leave by
	way6      way6                // what is known of IPv6's way out
	freed     []netip.Addr        // addresses that removed ports had, oldest first; replaced as a whole
}

type network struct {
	model.Network
	masquerade familyCounts
	attached   []string // policies, by `policy attach`
}

// Start starts a switch. It forwards when Start returns, and until Close. Its context ends what it does in the background.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if what, instead := o.Config.NeedsRoot(); what != "" {
		if err := rights.Check(what, instead); err != nil {
			return nil, err
		}
		if err := tap.CheckTUN(); err != nil {
			return nil, err
		}
	}
	if _, err := model.ParsePortRanges(o.Config.Uplink.Ports); err != nil {
		return nil, err
	}
	d, err := newDaemon(o)
	if err != nil {
		return nil, err
	}
	if d.sandbox = "off"; o.Seal != nil {
		if d.sandbox, err = o.Seal(); err != nil {
			d.clients.Close()
			d.closeUplink()
			return nil, err
		}
	}
	ctx, d.stop = context.WithCancel(ctx)
	go func() {
		defer close(d.ended)
		d.failure = d.dp.Run(ctx, d.portGone)
	}()
	d.loadLeases()
	d.loadPolicies()
	err = d.change("starting", d.buildLocked)
	if err == nil {
		err = uplink.Watch(ctx, func() { d.refreshUplink(); d.refreshDevices() })
	}
	if err == nil && d.usesBPF() {
		err = uplink.WatchNextHops(ctx, (&deadHops{d: d}).add)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.usesBPF() {
		go d.up.GuardQueue(ctx)
	}
	go d.refreshNATPorts(ctx)
	go d.logRefusals(ctx)
	go d.followPlaces(ctx)
	d.leasesKept = make(chan struct{})
	go d.keepLeases(ctx)
	return d, nil
}

func newDaemon(o Options) (*Daemon, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	byLoad := o.Workers <= 0
	if byLoad {
		o.Workers = defaultWorkers()
	}
	d := &Daemon{
		opts: o, log: o.Log, started: time.Now(), ended: make(chan struct{}), changing: changelock.New(),
		config: o.Config, networks: map[string]*network{}, ports: map[string]*port{}, nextRule: 1,
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	var tables hugepages.Memory
	natOptions := nat.Options{
		Flows: o.Config.NAT.Flows, Flows6: o.Config.NAT.Flows6, FlowsPerPort: o.Config.NAT.FlowsPerPort, Seed: binary.NativeEndian.Uint64(seed[:]), Timers: o.Config.NAT.Timers,
		Strict: o.Config.NAT.Strict, Alloc: tables.Alloc, Grow: func() { go tables.Grow() },
	}
	if o.Config.Uplink.Device != model.UplinkNone {
		if err := d.openUplink(); err != nil {
			return nil, err
		}
		if d.bySockets() {
			if err := d.openSockets(); err != nil {
				return nil, err
			}
			byLoad, o.Workers = false, 1 // the worker that reads the uplink has all sockets
		}
		if d.usesBPF() {
			natOptions.Outside, natOptions.Outside6 = d.up, uplink.Uplink6{Uplink: d.up}
			d.warnOfOtherSwitches()
		}
	}
	if o.Config.Host.On || d.usesBPF() {
		if err := d.openClients(); err != nil {
			d.closeUplink()
			return nil, err
		}
	}
	pollers, chosen, err := newPollers(o.IO, o.Workers, o.BusyPoll)
	if err != nil {
		d.clients.Close()
		d.closeUplink()
		return nil, err
	}
	d.backend = chosen
	if chosen.why != "" {
		d.log.Warn("the preferred I/O backend cannot be used; falling back to another one", "backend", chosen.name, "why", chosen.why)
	}
	d.dp = dataplane.New(nat.New(natOptions), d.clock, pollers...)
	d.dp.TellPanics(d.tellPanic)
	if byLoad && o.Workers > 1 {
		d.dp.Balance(tap.SpareCPU())
	}
	if d.engine != nil {
		d.dp.DivideAlso(d.engine.Share)
	}
	names := dns.NewServer(gateway.ResolvConf)
	d.dp.DivideAlso(names.DivideAmong)
	if helper, ok := o.TAPs.(interface{ OpenResolvConf() (*os.File, error) }); ok {
		names.SetOpener(helper.OpenResolvConf)
	}
	d.gateways = gateway.NewService(names, d.dp.Router, d.dp.WithSlowPath, d.dp.NAT.Policies, d.dp.Now)
	d.stations.Log = &d.happened
	d.gateways.SetTeller(d.stations.Add)
	d.dp.Router.SetService(d.gateways)
	if d.usesBPF() {
		d.dp.Router.SetWayMTU(d.up.WayMTU)
		d.dp.SetLearnWay(d.up.LearnWay)
	}
	return d, nil
}

// clock is the clock of the data plane. It begins at tick 1, because some fields use tick 0 for never.
func (d *Daemon) clock() int64 {
	return int64(time.Since(d.started) + time.Second/frame.TicksPerSecond)
}

// buildLocked makes what the configuration asks for.
func (d *Daemon) buildLocked() error {
	d.readUsedPortsLocked()
	for _, a := range d.config.Policies {
		if err := d.setPolicyLocked(a); err != nil {
			return err
		}
	}
	for _, n := range d.config.AllNetworks() {
		if err := d.addNetworkLocked(n); err != nil {
			return err
		}
	}
	if d.up != nil {
		if err := d.addUplinkPortLocked(); err != nil {
			return err
		}
	}
	if d.config.Host.On {
		if err := d.addHostPortLocked(); err != nil {
			return err
		}
	}
	d.refreshUplinkLocked()
	stored, devices := d.loadStoredLocked()
	d.setWaitingLocked(d.missingLocked(d.config))
	present := d.config.Without(d.waiting)
	// In this order: ports that name their address, ports of the last process, ports that get what is free.
	for _, named := range []bool{true, false} {
		for _, p := range present.Ports {
			if p.NamesAddress() != named {
				continue
			}
			if _, err := d.addPortLocked(p, nil); err != nil {
				return err
			}
		}
		if named {
			d.restorePortsLocked(stored, devices)
		}
	}
	for _, p := range present.Publishes {
		if _, err := d.addPublishLocked(p); err != nil {
			return err
		}
	}
	d.restorePublishesLocked(stored)
	d.recallAllPoliciesLocked()
	for _, r := range d.config.Routes {
		if err := d.addRouteLocked(r); err != nil {
			return err
		}
	}
	d.built = true
	return nil
}

// Ended is closed when the data plane has ended. Close returns the reason.
func (d *Daemon) Ended() <-chan struct{} { return d.ended }

// Close ends the switch and gives everything back: listeners, ports and their devices, the uplink.
func (d *Daemon) Close() error {
	d.stop()
	<-d.ended
	if d.engine != nil {
		d.engine.Stop() // before the lock: its holder may wait for the worker
	}
	if d.leasesKept != nil {
		<-d.leasesKept
	}
	_ = d.changing.Lock("ending", false)
	defer d.changing.Unlock()
	d.closed = true
	d.saveLeases()
	d.clients.Close()
	for _, p := range d.publishes {
		p.relays.Close()
	}
	for _, p := range d.ports {
		p.closeWire()
	}
	for _, p := range d.stopped {
		p.closeWire()
		close(p.removed)
	}
	_ = d.proxy.Set(nil)
	d.closeUplink()
	return d.failure
}

// State returns the configuration in force, without static routes and neighbors (see fullStateLocked). The values are the
// caller's.
func (d *Daemon) State() *model.State {
	s := &model.State{Name: d.opts.Name}
	if d.up != nil {
		up, kind := d.up.State()
		s.UplinkDevice, s.UplinkKind = up.Device, string(kind)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Policies = d.policies
	s.Config, s.Former, s.External, s.External6, s.Own, s.Freed, s.Standby = d.config, d.former, d.external, d.way6.addr, slices.Concat(d.own, d.way6.own), d.freed, d.standby
	s.Waiting = d.waiting
	for _, n := range d.networks {
		s.Networks = append(s.Networks, n.Network)
	}
	for _, p := range d.byID {
		if p != nil {
			s.Ports = append(s.Ports, p.Port)
		}
	}
	s.Publishes = make([]model.Publish, 0, len(d.publishes))
	for _, p := range d.publishes {
		s.Publishes = append(s.Publishes, p.Publish)
	}
	slices.SortFunc(s.Networks, func(a, b model.Network) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

// stateLocked is State with what must not be given to a new port: the host's default device, and addresses that stations hold by DHCP.
func (d *Daemon) stateLocked() *model.State {
	s := d.State()
	s.Held = d.gateways.Held()
	for _, w := range s.Waiting {
		text, _, _ := strings.Cut(w.Spec.IP, "/")
		if addr, err := netip.ParseAddr(text); err == nil {
			s.Held = append(s.Held, model.HeldAddr{Addr: addr, Port: w.Spec.Name, Waits: true})
		}
	}
	if d.up == nil {
		s.UplinkDevice = uplink.DefaultDevice()
	}
	return s
}

// Dataplane returns the switch's data plane.
func (d *Daemon) Dataplane() *dataplane.Dataplane { return d.dp }

// Started is when the switch was started.
func (d *Daemon) Started() time.Time { return d.started }

// Sandbox says what the process has given up, and what the kernel lacks for that; or off.
func (d *Daemon) Sandbox() string { return d.sandbox }

// Backend returns the I/O backend's name, and why it is not io_uring where that was wanted.
func (d *Daemon) Backend() (name, why string) { return d.backend.name, d.backend.why }

// withStatus gives errors of packages that know nothing of HTTP a status and a code.
func withStatus(err error) error {
	var known *api.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, netns.ErrNotPermitted):
		return api.Errorf(http.StatusNotImplemented, "%v; `uvswitch port add`, run as root, creates the device itself and passes it to the switch", err).With(api.NamespaceNotPermitted)
	case errors.Is(err, netns.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err).With(api.NamespaceNotFound)
	case errors.Is(err, os.ErrNotExist):
		return api.Errorf(http.StatusNotFound, "%v", err)
	}
	return api.Errorf(http.StatusConflict, "%v", err)
}
