package tap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Setup is how a device made here is to look inside its namespace.
type Setup struct {
	MAC     frame.MAC
	MTU     int          // bytes of the longest IP packet
	Addr    netip.Prefix // zero for none
	Gateway netip.Addr   // of the default route; zero for none
	Routes  []Route      // instead of the default route, when not nil; what is there already stays
	NoIPv6  bool         // give it no link-local address: nobody speaks IPv6 there
}

// Configure gives device name in the namespace at path ns its addresses and brings it up, and the namespace's
// loopback with it, as container runtimes do.
func Configure(ns, name string, s Setup) error {
	return In(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("tap: device %s: %w", name, err)
		}
		if lo, err := netlink.LinkByName("lo"); err == nil {
			_ = netlink.LinkSetUp(lo) // a namespace without loopback still has a port
		}
		if s.NoIPv6 {
			_ = netlink.LinkSetIP6AddrGenMode(link, addrGenModeNone) // fails without IPv6: then there is none
		}
		if err := netlink.LinkSetHardwareAddr(link, s.MAC.HardwareAddr()); err != nil {
			return fmt.Errorf("tap: setting MAC %s on %s: %w", s.MAC, name, err)
		}
		if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
			return fmt.Errorf("tap: setting MTU %d on %s: %w (68 to 65521)", s.MTU, name, err)
		}
		if s.Addr.IsValid() {
			a := &netlink.Addr{IPNet: ipNet(s.Addr)}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("tap: setting address %s on %s: %w", s.Addr, name, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("tap: bringing %s up: %w", name, err)
		}
		if s.Routes == nil && s.Gateway.IsValid() {
			return addRoute(link, Route{To: everywhere, Via: s.Gateway})
		}
		for _, r := range s.Routes {
			if err := addRoute(link, r); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
		return nil
	})
}

// SetMTU sets how long an IP packet may be on a device, in bytes.
func SetMTU(ns, name string, mtu int) error {
	return In(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetMTU(link, mtu)
		}
		if err != nil {
			return fmt.Errorf("tap: setting MTU %d on %s: %w (68 to 65521)", mtu, name, err)
		}
		return nil
	})
}

const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h

// A Route is one of IPv4 inside a namespace.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

func addRoute(link netlink.Link, r Route) error {
	err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To), Gw: r.Via.AsSlice()})
	switch {
	case errors.Is(err, unix.EEXIST) && r.To == everywhere:
		return fmt.Errorf("tap: the namespace has a default route already (%w); use --no-route, or delete it (`ip route del default`)", err)
	case err != nil:
		return fmt.Errorf("tap: route to %s via %s: %w", r.To, r.Via, err)
	}
	return nil
}

// Routes are those of IPv4 by a device and a gateway.
func Routes(ns, name string) (out []Route, err error) {
	err = withLink(ns, name, func(link netlink.Link) error {
		list, err := netlink.RouteList(link, netlink.FAMILY_V4)
		for _, r := range list {
			via, ok := netip.AddrFromSlice(r.Gw.To4())
			to := everywhere
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

// prefixOf is ipNet's inverse, for IPv4.
func prefixOf(n *net.IPNet) netip.Prefix {
	ip, _ := netip.AddrFromSlice(n.IP.To4())
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(ip, bits)
}

// withLink calls fn, in the namespace at path ns, with the device of that name.
func withLink(ns, name string, fn func(netlink.Link) error) error {
	return In(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("tap: no device %q: %w", name, err)
		}
		return fn(link)
	})
}

// A DeviceInfo is what the kernel says of a device.
type DeviceInfo struct {
	Index int
	Name  string
	Ether bool // its frames have Ethernet headers
	MAC   frame.MAC
	MTU   int
	Up    bool
}

// Inspect looks a device up; it need not be one of ours.
func Inspect(ns, name string) (DeviceInfo, error) {
	var d DeviceInfo
	err := withLink(ns, name, func(link netlink.Link) error {
		d = deviceInfo(link)
		return nil
	})
	return d, err
}

// Devices are all of a namespace.
func Devices(ns string) (out []DeviceInfo, err error) {
	err = In(ns, func() error {
		links, err := netlink.LinkList()
		for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ { // something changed meanwhile
			links, err = netlink.LinkList()
		}
		for _, l := range links {
			out = append(out, deviceInfo(l))
		}
		return err
	})
	return out, err
}

func deviceInfo(l netlink.Link) DeviceInfo {
	a := l.Attrs()
	return DeviceInfo{Index: a.Index, Name: a.Name, Ether: a.EncapType == "ether", MAC: frame.MACFrom(a.HardwareAddr), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
}

// Addresses are a device's of IPv4.
func Addresses(ns, name string) (out []netip.Prefix, err error) {
	err = withLink(ns, name, func(link netlink.Link) error {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		for _, a := range addrs {
			out = append(out, prefixOf(a.IPNet))
		}
		return err
	})
	return out, err
}

// DeleteTAP removes a device, when it is a TAP.
func DeleteTAP(ns, name string) error {
	return withLink(ns, name, func(link netlink.Link) error {
		if link.Type() != "tuntap" && link.Type() != "tun" {
			return fmt.Errorf("tap: device %s is of kind %s", name, link.Type())
		}
		return netlink.LinkDel(link)
	})
}

// SetUp brings an existing device up.
func SetUp(ns, name string) error {
	return withLink(ns, name, netlink.LinkSetUp)
}
