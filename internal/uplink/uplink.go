package uplink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/tap"
)

// Options say which device to use and how.
type Options struct {
	Device string // "auto": the device of the default route
	Kind   Kind
	TAP    string // what our own device is called
}

// State is what is known of the way out. It changes while the switch runs: addresses are renewed, links flap, the
// default route moves.
type State struct {
	Device string
	Index  int
	Addr   netip.Addr // the host's address on it; invalid while there is none
	MTU    int
	Up     bool   // there is a device, it is up, and it has an address
	Why    string // when not Up
}

// The two ends of the link between the host and the switch: the TAP's own address, and the router's.
const (
	tapMAC    frame.MAC = 0x027576000001
	RouterMAC frame.MAC = 0x027576000002
)

// An Uplink is the TAP in the host's namespace and the programs that join it to the host's device. Its methods work
// in the namespace of the process.
type Uplink struct {
	Device *tap.Device // the dataplane's wire
	MAC    frame.MAC   // of the TAP

	opts Options
	maps *maps

	known atomic.Pointer[known] // as State returns it

	mu       sync.Mutex // Lock 45: held through netlink
	in, out  *attachment
	tapIdx   int
	attached int // the device that the programs are on
	closed   bool
}

type known struct {
	State
	kind Kind
}

// The two ends of an uplink of kind tap: the host's and ours (RFC 7335's range, which nobody routes).
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
	m, err := newMaps()
	if err != nil {
		return nil, err
	}
	u := &Uplink{opts: o, maps: m}
	u.known.Store(&known{kind: o.Kind})
	if u.Device, err = tap.Open(netns.Original, o.TAP); err != nil {
		m.close()
		return nil, err
	}
	u.MAC = tapMAC
	setup := link.Config{MAC: u.MAC, MTU: link.MaxMTU, NoIPv6: true}
	if o.Kind == TAP {
		setup.MTU, setup.Addr = 1500, tapHost
	}
	err = link.Configure(netns.Original, o.TAP, setup)
	if err == nil {
		var d link.Info
		d, err = link.Inspect(netns.Original, o.TAP)
		u.tapIdx = d.Index
	}
	if err == nil {
		_, err = u.Refresh()
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// ICMPIDs is the set of ICMP identifiers in use, for nat to fill: the program reads the same memory.
func (u *Uplink) ICMPIDs() *nat.PortSet { return u.maps.portSet(setICMPID) }

// SetPorts says which TCP, UDP and SCTP ports of the host's address are ours.
func (u *Uplink) SetPorts(tcp, udp, sctp *nat.PortSet) {
	for i, from := range map[setIndex]*nat.PortSet{setTCP: tcp, setUDP: udp, setSCTP: sctp} {
		to := u.maps.portSet(i)
		for w := range from {
			to[w].Store(from[w].Load())
		}
	}
}

// Claims reports whether the ingress program would redirect a packet to the switch. Later fragments follow their first one: true.
func (u *Uplink) Claims(f *frame.Frame) bool {
	if s, _ := u.State(); f.Flags&frame.IsIPv4 == 0 || f.Malformed != frame.None || !s.Addr.IsValid() || f.Tuple.Dst != frame.AddrFrom(s.Addr) {
		return false
	}
	t := f.Tuple
	port, remote := t.DstPort, t.Src
	switch {
	case f.Flags&frame.Fragment != 0 && f.IPv4().FragOffset() != 0:
		return true
	case f.Flags&frame.ICMPError != 0:
		q, _, ok := frame.Quoted(f.Payload())
		if !ok || q.Src != t.Dst {
			return false
		}
		t, port, remote = q, q.SrcPort, q.Dst
	case t.Proto == frame.ICMP && !frame.IsICMPAnswer(f.Payload()[0]):
		return false
	}
	if i, ok := setOf[t.Proto]; ok {
		return u.maps.portSet(i).Has(port)
	}
	key := [8]byte{4: t.Proto}
	binary.BigEndian.PutUint32(key[:], uint32(remote))
	var v uint32
	return u.maps.pairs.Lookup(key, &v) == nil
}

var setOf = map[uint8]setIndex{frame.TCP: setTCP, frame.UDP: setUDP, frame.ICMP: setICMPID, frame.SCTP: setSCTP}

// SetPortlessPeer says whether packets of a protocol without ports from a remote address are ours. When the table is full they
// stay the host's.
func (u *Uplink) SetPortlessPeer(remote frame.Addr, proto uint8, on bool) {
	key := [8]byte{4: proto}
	binary.BigEndian.PutUint32(key[:], uint32(remote))
	if on {
		_ = u.maps.pairs.Put(key, uint32(1))
	} else {
		_ = u.maps.pairs.Delete(key)
	}
}

// State returns what is known now, and how the programs are attached. It does not wait for a Refresh.
func (u *Uplink) State() (State, Kind) {
	k := u.known.Load()
	return k.State, k.kind
}

// Refresh looks at the host's devices, addresses and routes, moves the programs when the device has changed, and
// tells whether anything did.
func (u *Uplink) Refresh() (changed bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false, nil
	}
	s := u.inspect()
	was := u.known.Load()
	if s == was.State {
		return false, nil
	}
	kind := was.kind
	if s.Index != u.attached && u.opts.Kind != TAP {
		u.detachLocked()
		u.attached = 0
		if s.Index != 0 {
			if kind, err = u.attachLocked(s.Index); err != nil {
				s.Up, s.Why = false, err.Error()
			} else {
				u.attached = s.Index
			}
		}
	}
	u.known.Store(&known{s, kind})
	var addr uint32
	if s.Up {
		a := s.Addr.As4()
		addr = binary.NativeEndian.Uint32(a[:])
	}
	binary.NativeEndian.PutUint32(u.maps.configMem, addr)
	return true, err
}

// look reads the host's state.
func (u *Uplink) inspect() State {
	s := State{Device: u.opts.Device}
	var index int
	if _, err := netlink.LinkByIndex(u.tapIdx); err != nil {
		s.Why = u.opts.TAP + " has been removed; restart the switch"
		return s
	}
	if s.Device == "auto" {
		s.Device = ""
		index = defaultIndex(u.tapIdx)
		if index == 0 {
			s.Why = "the host has no default route"
			return s
		}
	}
	var link netlink.Link
	var err error
	if index != 0 {
		link, err = netlink.LinkByIndex(index)
	} else {
		link, err = netlink.LinkByName(s.Device)
	}
	if err != nil {
		s.Why = "the device no longer exists"
		return s
	}
	a := link.Attrs()
	s.Device, s.Index, s.MTU = a.Name, a.Index, a.MTU
	if addrs, err := netlink.AddrList(link, netlink.FAMILY_V4); err == nil {
		for _, ad := range addrs {
			if ip, ok := netip.AddrFromSlice(ad.IP.To4()); ok && ad.Scope == int(netlink.SCOPE_UNIVERSE) {
				s.Addr = ip
				break
			}
		}
	}
	if u.opts.Kind == TAP {
		s.Addr = tapOurs
	}
	switch {
	case a.Flags&net.FlagUp == 0:
		s.Why = "the device is down"
	case !s.Addr.IsValid():
		s.Why = "the device has no IPv4 address"
	default:
		s.Up = true
	}
	return s
}

// defaultIndex is the device of the default route with the lowest metric, other than our own; 0 without one.
func defaultIndex(own int) (index int) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return 0
	}
	best := -1
	for _, r := range routes {
		isDefault := r.Dst == nil || r.Dst.IP.IsUnspecified()
		if isDefault && r.LinkIndex != 0 && r.LinkIndex != own && (best < 0 || r.Priority < best) {
			best, index = r.Priority, r.LinkIndex
		}
	}
	return index
}

// DefaultDevice names the device of the host's default route; empty without one.
func DefaultDevice() string {
	if l, err := netlink.LinkByIndex(max(defaultIndex(0), 1)); err == nil && l.Attrs().Name != "lo" {
		return l.Attrs().Name
	}
	return ""
}

// attachLocked puts the programs on a device and on the TAP, and returns how.
func (u *Uplink) attachLocked(index int) (kind Kind, err error) {
	sweep(index)
	in, err := u.maps.ingress(u.tapIdx)
	if err != nil {
		return u.opts.Kind, err
	}
	defer in.Close() // attachments hold their programs
	out, err := egress(index)
	if err != nil {
		return u.opts.Kind, err
	}
	defer out.Close()
	if u.in, kind, err = attach(index, in, u.opts.Kind); err != nil {
		return kind, err
	}
	if u.out, _, err = attach(u.tapIdx, out, u.opts.Kind); err != nil {
		u.detachLocked()
	}
	return kind, err
}

func (u *Uplink) detachLocked() {
	for _, a := range []*attachment{u.in, u.out} {
		if a != nil {
			a.close()
		}
	}
	u.in, u.out = nil, nil
}

// Watch calls changed at once, and after each change of the host's links, addresses and routes, until ctx is done. The caller
// then asks Refresh.
func Watch(ctx context.Context, changed func()) error {
	events, err := subscribe()
	if err != nil {
		return err
	}
	go func() {
		changed() // what has changed before the subscription
		for ctx.Err() == nil {
			if events.wait(ctx) {
				changed()
				continue
			}
			events.close() // the kernel had more to tell than we could hear: begin again
			if events, err = subscribe(); err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
			changed()
		}
		events.close()
	}()
	return nil
}

type events struct {
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
	done   chan struct{}
}

func subscribe() (*events, error) {
	e := &events{make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64), make(chan struct{})}
	err := netlink.LinkSubscribe(e.links, e.done)
	if err == nil {
		err = netlink.AddrSubscribe(e.addrs, e.done)
	}
	if err == nil {
		err = netlink.RouteSubscribe(e.routes, e.done)
	}
	if err != nil {
		e.close()
		return nil, fmt.Errorf("uplink: cannot watch the host's devices: %w", err)
	}
	return e, nil
}

// wait returns false when a subscription has ended.
func (e *events) wait(ctx context.Context) (ok bool) {
	if e == nil {
		return false
	}
	select {
	case <-ctx.Done():
		return true
	case _, ok = <-e.links:
	case _, ok = <-e.addrs:
	case _, ok = <-e.routes:
	}
	return ok
}

func (e *events) close() {
	if e != nil {
		close(e.done)
	}
}

// Close detaches the programs and removes the TAP.
func (u *Uplink) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.detachLocked()
	if u.Device != nil {
		_ = u.Device.Close() // the descriptor was ours; the TAP goes with it
	}
	u.maps.close()
}
