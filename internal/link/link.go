// Package link configures and inspects network devices inside a namespace, through netlink: name, MAC, MTU, addresses,
// routes.
//
// It creates no devices (package tap does) and reads no frames.
//
// Sources: rtnetlink(7), ip-link(8).
package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// A Config is the wanted configuration of a device inside its namespace.
type Config struct {
	MAC     frame.MAC
	MTU     int          // longest IP packet in bytes; MinMTU to MaxMTU
	Addr    netip.Prefix // zero: none
	Gateway netip.Addr   // of the default route; zero: none
	Routes  []Route      // if not nil, added instead of the default route; existing routes are kept
	NoIPv6  bool         // no IPv6 link-local address

	Addr6   netip.Prefix   // zero: none
	Behind6 []netip.Prefix // prefixes that Via6 leads to
	Via6    netip.Addr

	IgnoreRAs bool // the device asks for no router advertisement, and follows none

	// Shy keeps Addr6 from being chosen as the source of packets that leave by other devices (RFC 6724, 5): it is deprecated, and the routes of
	// this device name it.
	Shy bool
}

// The range of a TAP's MTU, in bytes (linux drivers/net/tun.c: ETH_MIN_MTU, and 64 KiB less an Ethernet header). The minimum
// for ports of the switch is higher: see package model.
const (
	MinMTU = 68
	MaxMTU = 65521
)

// Configure sets MAC, MTU, address and routes of device name in the network namespace at path ns and brings the device
// up. It also brings up the namespace's loopback device, as container runtimes do.
func Configure(ns, name string, s Config) error {
	return netns.Do(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
		if lo, err := netlink.LinkByName("lo"); err == nil {
			_ = netlink.LinkSetUp(lo) // no error: the port works without loopback
		}
		if s.NoIPv6 || s.Addr6.IsValid() {
			_ = netlink.LinkSetIP6AddrGenMode(link, addrGenModeNone) // fails without IPv6, which is fine
		}
		if err := netlink.LinkSetHardwareAddr(link, s.MAC.HardwareAddr()); err != nil {
			return fmt.Errorf("setting MAC %s on %s: %w", s.MAC, name, err)
		}
		if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
			return fmt.Errorf("setting MTU %d on %s: %w (use %d to %d)", s.MTU, name, err, MinMTU, MaxMTU)
		}
		if s.Addr.IsValid() {
			a := &netlink.Addr{IPNet: ipNet(s.Addr)}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("setting address %s on %s: %w", s.Addr, name, err)
			}
		}
		if err := s.addAddresses6(link, name); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bringing %s up: %w", name, err)
		}
		if err := s.addRoutes6(link); err != nil {
			return err
		}
		if s.Routes == nil && s.Gateway.IsValid() {
			return addRoute(link, Route{To: everywhere, Via: s.Gateway})
		}
		return addMissing(link, s.Routes)
	})
}

// Restore gives a device of the calling thread's namespace what the kernel takes from a device that goes down, or that is without IPv6 for a
// while, and what commands have taken: addresses and routes. It changes nothing while the device is down or IPv6 is switched off on it, and says why then.
func (s *Config) Restore(name string) (why6 string, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return "", fmt.Errorf("device %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return name + " is down (`ip link set " + name + " up` on the host)", nil
	}
	if s.Addr.IsValid() {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(s.Addr)}); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("setting address %s on %s: %w", s.Addr, name, err)
		}
	}
	if off, why := WithoutIPv6(link); off {
		why6 = why
	} else if err := s.addAddresses6(link, name); err != nil {
		return "", err
	} else if err := s.addRoutes6(link); err != nil {
		return "", err
	}
	return why6, addMissing(link, s.Routes)
}

// WithoutIPv6 reports whether the kernel has no IPv6 on a device, and why.
func WithoutIPv6(l netlink.Link) (without bool, why string) {
	switch name, mtu := l.Attrs().Name, l.Attrs().MTU; {
	case mtu < frame.MinMTU6:
		return true, fmt.Sprintf("the MTU of %s is %d, and IPv6 needs %d: raise it again (`ip link set %[1]s mtu` on the host)", name, mtu, frame.MinMTU6)
	case isSet(conf6(name, "disable_ipv6")):
		return true, "IPv6 is switched off on " + name + " (`sysctl -w net.ipv6.conf." + name + ".disable_ipv6=0` on the host)"
	}
	return false, ""
}

// addAddresses6 gives a device its IPv6 addresses: the link-local one that is made from its MAC, and its own. They are usable at once: the
// switch knows all addresses of a network, so that nothing is probed for duplicates (RFC 4862, 5.4).
func (s *Config) addAddresses6(link netlink.Link, name string) error {
	if !s.Addr6.IsValid() {
		return nil
	}
	if path := conf6(name, "disable_ipv6"); isSet(path) { // as container engines leave it
		if err := os.WriteFile(path, []byte("0"), 0o644); err != nil {
			return fmt.Errorf("switching IPv6 on for %s: %w", name, err)
		}
	}
	if s.IgnoreRAs {
		if err := setConf6(name, "accept_ra", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("switching router advertisements off for %s: %w", name, err)
		}
	}
	own := &netlink.Addr{IPNet: ipNet(s.Addr6), Flags: unix.IFA_F_NODAD}
	if s.Shy {
		own.Flags |= unix.IFA_F_NOPREFIXROUTE
		own.ValidLft = math.MaxUint32 // for ever; preferred for no time
	}
	for _, a := range []*netlink.Addr{{IPNet: ipNet(netip.PrefixFrom(s.MAC.LinkLocal().Netip(), 64)), Flags: unix.IFA_F_NODAD}, own} {
		if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("setting address %s on %s: %w", a.IPNet, name, err)
		}
	}
	return nil
}

// OffByDefault reports whether new devices of the calling thread's namespace have no IPv6.
func OffByDefault() bool { return isSet(conf6("default", "disable_ipv6")) }

// Forwards6 reports whether the host forwards IPv6 packets.
func Forwards6() bool { return isSet(conf6("all", "forwarding")) }

// ForwardsNoIPv6 reports whether IPv6 forwarding is off for a device that has such a setting.
func ForwardsNoIPv6(name string) bool { return is(conf6(name, "forwarding"), "0") }

// conf6 is the file of a setting of net.ipv6.conf.DEVICE.
func conf6(device, setting string) string { return "/proc/sys/net/ipv6/conf/" + device + "/" + setting }

// isSet reports whether a setting is 1.
func isSet(path string) bool { return is(path, "1") }

func is(path, value string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(b)) == value
}

func (s *Config) addRoutes6(link netlink.Link) error {
	var routes []Route
	var src netip.Addr
	if s.Shy && s.Addr6.IsValid() {
		src = s.Addr6.Addr()
		routes = append(routes, Route{To: s.Addr6.Masked(), Src: src})
	}
	for _, p := range s.Behind6 {
		routes = append(routes, Route{To: p, Via: s.Via6, Src: src})
	}
	return addMissing(link, routes)
}

// addMissing adds routes to those that are there.
func addMissing(link netlink.Link, routes []Route) error {
	for _, r := range routes {
		if err := addRoute(link, r); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// SetMTU sets the MTU of a device, in bytes.
func SetMTU(ns, name string, mtu int) error {
	return netns.Do(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetMTU(link, mtu)
		}
		if err != nil {
			return fmt.Errorf("setting MTU %d on %s: %w (use %d to %d)", mtu, name, err, MinMTU, MaxMTU)
		}
		return nil
	})
}

// Settings of net.ipv4.conf.DEVICE, by their numbers (linux include/uapi/linux/ip.h, IPV4_DEVCONF_*).
const (
	confForwarding    = 1
	confSendRedirects = 6
	confRPFilter      = 8
)

// SetForwarding switches IPv4 forwarding on for one device of the calling thread's namespace, and for no other. It writes nothing when
// that is so already: each write is told to all who listen for changes of devices.
func SetForwarding(index int) error {
	if forwards(index) {
		return nil
	}
	return setConf(index, map[uint16]uint32{confForwarding: 1})
}

// SetForwarding6 switches IPv6 forwarding on or off for one device of the calling thread's namespace, and for no other. A device without IPv6
// has no such setting.
func SetForwarding6(name string, on bool) error {
	value := map[bool]string{true: "1", false: "0"}[on]
	if err := setConf6(name, "forwarding", value); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("setting net.ipv6.conf.%s.forwarding to %s: %w", name, value, err)
	}
	return nil
}

// setConf6 writes a setting of net.ipv6.conf.DEVICE, unless it is so already: each write may be told to all who listen for changes.
func setConf6(name, setting, value string) error {
	path := conf6(name, setting)
	if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) == value {
		return err
	}
	return os.WriteFile(path, []byte(value), 0o644)
}

// netconf is struct netconfmsg of linux/netconf.h, padded.
type netconf [4]byte

func (m netconf) Len() int          { return len(m) }
func (m netconf) Serialize() []byte { return m[:] }

// forwards reports whether IPv4 forwarding is on for a device (linux net/ipv4/devinet.c, inet_netconf_get_devconf).
func forwards(index int) bool {
	const attrIndex, attrForwarding = 1, 2 // NETCONFA_IFINDEX and NETCONFA_FORWARDING of linux/netconf.h
	req := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, unix.NLM_F_ACK)
	req.AddData(netconf{unix.AF_INET})
	req.AddData(nl.NewRtAttr(attrIndex, nl.Uint32Attr(uint32(index))))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNETCONF)
	if err != nil || len(messages) != 1 || len(messages[0]) < 4 {
		return false
	}
	attrs, err := nl.ParseRouteAttr(messages[0][4:])
	return err == nil && slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == attrForwarding && len(a.Value) >= 4 && binary.NativeEndian.Uint32(a.Value) == 1
	})
}

// ForwardThrough makes the host's stack forward what comes by one device, from any source, and send no redirects.
func ForwardThrough(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	if err := setConf(l.Attrs().Index, map[uint16]uint32{confForwarding: 1, confSendRedirects: 0, confRPFilter: 0}); err != nil {
		return err
	}
	return SetForwarding6(name, true)
}

// StopForwarding is the reverse, but for the redirects and the check of the source.
func StopForwarding(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	return errors.Join(setConf(l.Attrs().Index, map[uint16]uint32{confForwarding: 0}), SetForwarding6(name, false))
}

// setConf writes what net.ipv4.conf.DEVICE says, by netlink (linux net/ipv4/devinet.c, inet_set_link_af).
func setConf(index int, values map[uint16]uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	families := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := families.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	for number, value := range values {
		conf.AddRtAttr(int(number), nl.Uint32Attr(value))
	}
	req.AddData(families)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("setting net.ipv4.conf of device %d: %w", index, err)
	}
	return nil
}

const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h

// A Route is a route to prefix To through gateway Via, inside a namespace.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // invalid: To is on the link
	Src netip.Addr // preferred source; invalid: none
}

var (
	everywhere  = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	everywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

func addRoute(link netlink.Link, r Route) error {
	err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To), Gw: r.Via.AsSlice(), Src: r.Src.AsSlice()})
	switch {
	case errors.Is(err, unix.EEXIST) && r.To == everywhere:
		return fmt.Errorf("the namespace has a default route already (%w); use --no-route, or delete it (`ip route del default`)", err)
	case err != nil:
		return fmt.Errorf("route to %s via %s: %w", r.To, r.Via, err)
	}
	return nil
}

// Routes returns the routes of a device that have a gateway, of both families.
func Routes(ns, name string) (out []Route, err error) {
	err = withLink(ns, name, func(link netlink.Link) error {
		list, err := netlink.RouteList(link, netlink.FAMILY_ALL)
		for _, r := range list {
			via, ok := netip.AddrFromSlice(r.Gw)
			via = via.Unmap()
			to := everywhere
			if via.Is6() {
				to = everywhere6
			}
			if r.Dst != nil {
				to = prefixOf(r.Dst)
			}
			if ok {
				out = append(out, Route{To: to, Via: via})
			}
		}
		return err
	})
	return out, err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the inverse of ipNet.
func prefixOf(n *net.IPNet) netip.Prefix {
	ip, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits)
}

// withLink calls fn with device name, in the network namespace at path ns.
func withLink(ns, name string, fn func(netlink.Link) error) error {
	return netns.Do(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("no device %q: %w", name, err)
		}
		return fn(link)
	})
}

// An Info describes a device, as the kernel reports it.
type Info struct {
	Index int
	Name  string
	Ether bool // its frames have Ethernet headers
	MAC   frame.MAC
	MTU   int
	Up    bool
}

// Inspect returns what the kernel reports about a device. The device need not belong to the switch.
func Inspect(ns, name string) (Info, error) {
	var d Info
	err := withLink(ns, name, func(link netlink.Link) error {
		d = infoOf(link)
		return nil
	})
	return d, err
}

// List returns all devices of a namespace.
func List(ns string) (out []Info, err error) {
	err = netns.Do(ns, func() error {
		links, err := netlink.LinkList()
		for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ { // a device changed during the dump
			links, err = netlink.LinkList()
		}
		for _, l := range links {
			out = append(out, infoOf(l))
		}
		return err
	})
	return out, err
}

func infoOf(l netlink.Link) Info {
	a := l.Attrs()
	return Info{Index: a.Index, Name: a.Name, Ether: a.EncapType == "ether", MAC: frame.MACFrom(a.HardwareAddr), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
}

// Addresses returns the addresses of a device, of both families.
func Addresses(ns, name string) (out []netip.Prefix, err error) {
	err = withLink(ns, name, func(link netlink.Link) error {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range addrs {
			out = append(out, prefixOf(a.IPNet))
		}
		return err
	})
	return out, err
}

// DeleteTAP removes a device. It returns an error if the device is not a TAP.
func DeleteTAP(ns, name string) error {
	return withLink(ns, name, func(link netlink.Link) error {
		if link.Type() != "tuntap" && link.Type() != "tun" {
			return fmt.Errorf("device %s is of kind %s, not a TAP, and is not removed", name, link.Type())
		}
		return netlink.LinkDel(link)
	})
}

// SetUp brings up an existing device.
func SetUp(ns, name string) error {
	return withLink(ns, name, netlink.LinkSetUp)
}

// Move moves device from of the original namespace into the network namespace at path ns and renames it to name there.
func Move(from, ns, name string) error {
	link, err := netlink.LinkByName(from)
	if err != nil {
		return fmt.Errorf("device %s: %w", from, err)
	}
	fd, err := unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", ns, err)
	}
	defer unix.Close(fd)
	// A unique name for the move: another switch may be moving a device with the same temporary name.
	transit := fmt.Sprintf("uvs%d", link.Attrs().Index)
	if err := netlink.LinkSetName(link, transit); err != nil {
		return fmt.Errorf("device %s: %w", from, err)
	}
	if err := netlink.LinkSetNsFd(link, fd); err != nil {
		return fmt.Errorf("moving a device into %s: %w", ns, err)
	}
	return netns.Do(ns, func() error {
		moved, err := netlink.LinkByName(transit)
		if err == nil {
			err = netlink.LinkSetName(moved, name)
		}
		if err != nil {
			return fmt.Errorf("naming the device %s in %s: %w", name, ns, err)
		}
		return nil
	})
}

// CheckName returns an error when name is not a valid device name.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/:%") || strings.ContainsFunc(name, unicode.IsSpace) {
		return fmt.Errorf("%q is not an interface name: 1 to 15 characters without slash, colon, percent and space", name)
	}
	return nil
}
