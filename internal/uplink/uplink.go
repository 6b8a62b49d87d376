package uplink

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/tap"
)

// Options say which device to use and how.
type Options struct {
	Device  string // whose state is shown; "auto": the device of the default route
	Kind    Kind
	TAP     string   // what our own device is called
	Devices []string // packets may leave by these devices only; empty: by all

	// TAPPrefix6 is for the link of an uplink of kind tap, at least a /126; invalid: without IPv6.
	TAPPrefix6 netip.Prefix
}

// State is what is known of the way out. It changes while the switch runs: addresses are renewed, links flap, routes change.
type State struct {
	Device string     // of the route to 0.0.0.0/0, or the one that the options name
	Addr   netip.Addr // the host's address on it; invalid while there is none
	MTU    int
	Up     bool   // there is a device, it is up, and it has an address
	Why    string // when not Up

	Broken, Broken6 string             // why no packet leaves by the switch's own device; empty: packets may leave
	Addr6           netip.Addr         // the host's IPv6 address by which containers leave as a rule; invalid while there is none
	MTU6            int                // of the device of IPv6's default route
	Up6             bool               // IPv6 leads out, if only for packets that keep their source
	Why6            string             // when not Up6, or without Addr6
	Forwards        bool               // the host's stack forwards IPv6 packets
	Own6            []netip.Addr       // all IPv6 addresses of the host, but link-local ones, sorted
	Sources6        map[int]netip.Addr // by device: the address by which containers leave
	OnLink          []OnLink           // where the host's routing looks for IPv6 neighbors
	Told            toldBy             // not 0: the host has rules of IPv6 that the programs do not see

	Own      []netip.Addr         // all addresses of the host, sorted; containers leave by these
	Local    []netip.Prefix       // what else the host's kernel takes for itself (`ip route add local`), sorted; no broadcast addresses
	MTUs     map[netip.Prefix]int // of routes that have an MTU, in bytes; 65535 for routes without one inside of such a route
	Tunnels  []uint8              // IP protocols of the host's own tunnels and of its IPsec, sorted
	Policies []netip.Prefix       // destinations of the host's IPsec policies: packets to these must not leave without IPsec
	Watched  []Watched            // devices that the way in is attached to, sorted by name
}

// A Watched device is one that the program "way in" is attached to.
type Watched struct {
	Name  string
	Index int
	Plain bool // its packets have no Ethernet header, as those of WireGuard, PPP and TUN
}

// An OnLink is a prefix whose addresses routers and hosts on an Ethernet device look for by neighbor discovery. It is the subnet of the
// device. On the device of the default route it may be any prefix: some providers give the host one address, and take the whole subnet to be
// on-link.
type OnLink struct {
	Prefix    netip.Prefix
	Device    int
	Name      string
	MAC       frame.MAC
	LinkLocal netip.Addr // of the device
}

// OnLinkOf returns where a prefix of containers is on the link: by the longest prefixes that contain it.
func (s *State) OnLinkOf(p netip.Prefix) (on []OnLink) {
	best := 0
	for _, l := range s.OnLink {
		if !l.Prefix.Contains(p.Addr()) || l.Prefix.Bits() > p.Bits() || l.Prefix.Bits() < best {
			continue
		}
		if l.Prefix.Bits() > best {
			best, on = l.Prefix.Bits(), nil
		}
		on = append(on, l)
	}
	return on
}

func (s *State) equal(o *State) bool {
	return s.Device == o.Device && s.Addr == o.Addr && s.MTU == o.MTU && s.Up == o.Up && s.Why == o.Why && s.Broken == o.Broken && s.Broken6 == o.Broken6 &&
		slices.Equal(s.Own, o.Own) && s.Addr6 == o.Addr6 && s.MTU6 == o.MTU6 && s.Up6 == o.Up6 && s.Why6 == o.Why6 && s.Forwards == o.Forwards && s.Told == o.Told && slices.Equal(s.Own6, o.Own6) && maps.Equal(s.Sources6, o.Sources6) && slices.Equal(s.OnLink, o.OnLink) && slices.Equal(s.Local, o.Local) && slices.Equal(s.Policies, o.Policies) && maps.Equal(s.MTUs, o.MTUs) && slices.Equal(s.Tunnels, o.Tunnels) && slices.Equal(s.Watched, o.Watched)
}

// The two ends of the link between the host and the switch. With programs, the TAP's MAC is only what the host's stack puts into frames
// of its own: it must not look like a way header (frame.WayMACs).
const (
	tapMAC    frame.MAC = 0x0a7576000001
	RouterMAC frame.MAC = 0x0a7576000002
)

// An Uplink is the TAP in the host's namespace and the programs that join it to the host's devices. Its methods work
// in the namespace of the process.
type Uplink struct {
	Device *tap.Device // the data plane's wire
	MAC    frame.MAC   // of the TAP

	opts   Options
	config link.Config // of the TAP
	maps   *shared
	mark   int32

	question *ebpf.Program                  // see Ask
	oneQueue *ebpf.Program                  // see OneQueue; nil: the kernel takes none
	offered  *ebpf.Map                      // see CountOffered; likewise
	counts   *[frame.MaxPorts]atomic.Uint64 // its memory, which stays mapped: the workers read it

	asked [frame.MaxPorts]askCount // see LearnWay

	known atomic.Pointer[known] // as State returns it

	mu       sync.Mutex          // Lock 45: held through netlink
	in       map[int]*attachment // by device
	out      *attachment
	attached Kind             // how
	programs [2]*ebpf.Program // the way in, for devices with and without Ethernet headers; loaded when needed
	tapIdx   int
	closed   bool
}

type known struct {
	State
	kind Kind
}

// The two ends of an uplink of kind tap: the host's and ours (RFC 7335's range, which nobody routes). Of IPv6, see ends6.
var (
	tapHost = netip.MustParsePrefix("192.0.0.1/30")
	tapOurs = netip.MustParseAddr("192.0.0.2")
)

// ErrNoDevice is wrapped when there is no device for the way out.
var ErrNoDevice = errors.New("no device for the uplink")

// Open makes the TAP and attaches the programs. A device that is not there yet is no error when it is to be found
// by the default route: the uplink is then down until there is one.
func Open(o Options) (*Uplink, error) {
	if o.Kind == TAP {
		o.Device = o.TAP
	} else if o.Device != "auto" {
		if _, err := net.InterfaceByName(o.Device); err != nil {
			return nil, fmt.Errorf("%w: %q does not exist (`ip link` lists devices; `--uplink auto` uses the device of the default route)", ErrNoDevice, o.Device)
		}
	}
	if o.Kind == Sockets {
		return openSockets(o)
	}
	u := &Uplink{opts: o, in: map[int]*attachment{}}
	fib, err := fibGetSource, error(nil)
	if o.Kind != TAP {
		if u.question, fib, err = openQuestion(allFlags()); err != nil {
			return nil, err
		}
		u.oneQueue, _ = loadOneQueue()
		if m, memory, err := mappedArray("uvs_offered", 8*frame.MaxPorts, 1); err == nil {
			u.offered, u.counts = m, (*[frame.MaxPorts]atomic.Uint64)(unsafe.Pointer(&memory[0]))
		}
	}
	m, err := newShared(len(o.Devices), fib)
	if err != nil {
		u.Close()
		return nil, err
	}
	u.maps = m
	u.known.Store(&known{kind: o.Kind})
	if u.Device, err = openTAP(o); err != nil {
		u.Close()
		return nil, err
	}
	u.MAC = tapMAC
	u.config = link.Config{MAC: u.MAC, MTU: link.MaxMTU, NoIPv6: true}
	if o.Kind == TAP {
		u.config.MTU, u.config.Addr, u.config.IgnoreRAs = 1500, tapHost, true
		u.config.Addr6, _ = u.ends6()
	}
	err = link.Configure(netns.Original, o.TAP, u.config)
	if err == nil {
		var d link.Info
		d, err = link.Inspect(netns.Original, o.TAP)
		u.tapIdx, u.mark = d.Index, markBase|int32(d.Index%markOfAll)
	}
	if err == nil && o.Kind != TAP {
		err = u.attachOut()
	}
	if err == nil {
		if _, err = u.Refresh(); len(u.in) > 0 {
			err = nil // what cannot be attached to one device is said at the next Refresh
		}
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// openTAP creates the TAP; with two queues, if there is a way in and the kernel takes the program that chooses one.
func openTAP(o Options) (*tap.Device, error) {
	if o.Kind != TAP {
		if program, err := loadTwoQueues(); err == nil {
			defer program.Close()
			d, err := tap.OpenTwoQueues(o.TAP)
			if err != nil || d.Steer(program.FD()) == nil {
				return d, err
			}
			_ = d.Close()
		}
	}
	return tap.Open(netns.Original, o.TAP)
}

// attachOut puts the way out on the TAP.
func (u *Uplink) attachOut() error {
	p, err := u.maps.wayOut(u.mark)
	if err != nil {
		return err
	}
	defer p.Close() // the attachment holds it
	var kind Kind
	if u.opts.Kind != Host {
		kind = u.opts.Kind
	}
	if u.out, u.attached, err = attach(u.tapIdx, p, kind, ownerOf(u.tapIdx)); err != nil {
		return err
	}
	if u.opts.Kind != Host {
		u.known.Store(&known{kind: u.attached})
	}
	return nil
}

// State returns what is known now, and how the programs are attached. It does not wait for a Refresh.
func (u *Uplink) State() (State, Kind) {
	k := u.known.Load()
	return k.State, k.kind
}

// Refresh looks at the host's devices, addresses and routes, attaches and detaches the way in, and reports whether anything has changed.
func (u *Uplink) Refresh() (changed bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false, nil
	}
	if u.opts.Kind == Sockets {
		s, err := u.inspectSockets()
		if was := u.known.Load(); err == nil && !s.equal(&was.State) {
			u.known.Store(&known{s, Sockets})
			changed = true
		}
		return changed, err
	}
	kept := u.keepOwnDevice()
	if u.opts.Kind != TAP {
		defer u.maps.forgetSources()
	}
	s, err := u.inspect()
	if err != nil {
		return false, errors.Join(kept, err) // an interrupted dump is never taken for an empty one
	}
	was := u.known.Load()
	err = kept
	if u.opts.Kind != TAP {
		err = errors.Join(err, u.watchLocked(&s))
		u.maps.setOwn(s.Own, s.Own6, s.Local)
		u.maps.setSources6(&s)
		_ = u.maps.told.Put(uint32(0), uint32(s.Told))
		u.maps.setFence(u.opts.Devices)
	}
	if s.equal(&was.State) {
		return false, err
	}
	u.known.Store(&known{s, was.kind})
	return true, err
}

// keepOwnDevice gives the TAP again what the host's commands have taken from it: a write to ip_forward resets every device.
func (u *Uplink) keepOwnDevice() error {
	if u.opts.Kind != TAP {
		_ = link.SetForwarding6(u.opts.TAP, true) // State.Broken6 says that it failed
		return link.SetForwarding(u.tapIdx)
	}
	why6, err := u.config.Restore(u.opts.TAP)
	if err == nil && why6 == "" && u.config.Addr6.IsValid() {
		err = u.knowOurEnd6()
	}
	return err
}

// watchLocked attaches the way in to the devices of s, and takes it off all others. A device that it cannot be attached to is left out of s.
func (u *Uplink) watchLocked(s *State) (errs error) {
	s.Watched = slices.DeleteFunc(s.Watched, func(w Watched) bool {
		if a := u.in[w.Index]; a != nil && a.isThere() {
			return false
		}
		p, err := u.wayInLocked(w.Plain)
		if err == nil {
			own := ownerOf(u.tapIdx)
			sweep(w.Index, func(name string) bool { return name == own.name || !lives(name) })
			u.in[w.Index], _, err = attach(w.Index, p, u.attached, own)
		}
		if err != nil {
			delete(u.in, w.Index)
			errs = errors.Join(errs, fmt.Errorf("device %s: %w", w.Name, err))
		}
		return err != nil
	})
	for index, a := range u.in {
		if !slices.ContainsFunc(s.Watched, func(w Watched) bool { return w.Index == index }) {
			a.close()
			delete(u.in, index)
		}
	}
	return errs
}

func (u *Uplink) wayInLocked(plain bool) (*ebpf.Program, error) {
	i := 0
	if plain {
		i = 1
	}
	if u.programs[i] == nil {
		p, err := u.maps.wayIn(u.tapIdx, u.mark, plain, u.attached == Clsact)
		if err != nil {
			return nil, err
		}
		u.programs[i] = p
	}
	return u.programs[i], nil
}

// Close detaches the programs and removes the TAP.
func (u *Uplink) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, a := range u.in {
		a.close()
	}
	if u.out != nil {
		u.out.close()
	}
	for _, p := range u.programs {
		if p != nil {
			p.Close()
		}
	}
	if u.oneQueue != nil {
		u.oneQueue.Close()
	}
	if u.offered != nil {
		u.offered.Close()
	}
	if u.question != nil {
		u.question.Close()
	}
	if u.Device != nil {
		_ = u.Device.Close() // the descriptor was ours; the TAP goes with it
	}
	if u.maps != nil {
		u.maps.close()
	}
}

// byName sorts devices.
func byName(a, b Watched) int { return cmp.Compare(a.Name, b.Name) }
