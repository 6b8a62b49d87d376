package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/uplink"
)

// sysctl6 reads a setting of IPv6: of a device, or of all or default. It is -1 if there is none.
func sysctl6(device, name string) int {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", device, name))
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	return n
}

// ipv6 finds what keeps IPv6 from leading out, and what may end it.
func (e *Exam) ipv6() {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil || sysctl6("default", "disable_ipv6") == 1 {
		e.add("ipv6", Note, "for IPv6, boot without ipv6.disable=1, and set `sysctl net.ipv6.conf.default.disable_ipv6=0`", "IPv6 is switched off on this host: containers use IPv4 only")
		return
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		e.add("ipv6", Warn, "run doctor as root", "doctor cannot read the IPv6 routes: %v", err)
		return
	}
	var out netlink.Link
	byRA, best := false, 0
	for _, r := range routes {
		if len(r.MultiPath) > 0 {
			r.LinkIndex = r.MultiPath[0].LinkIndex
		}
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.Type != unix.RTN_UNICAST || out != nil && r.Priority >= best {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().Name != e.Name+"0" {
			out, byRA, best = l, int(r.Protocol) == unix.RTPROT_RA, r.Priority
		}
	}
	if out == nil {
		e.add("ipv6", Note, "for IPv6, give the host an IPv6 default route", "the host has no IPv6 default route: containers reach the outside by IPv4 only, and hear so at once")
		return
	}
	if e.status != nil && e.status.Uplink.State6 == "down" && (e.status.Uplink.Kind == model.ViaHost || e.status.Uplink.Kind == string(uplink.TAP)) {
		e.add("ipv6", Note, "use --uplink-kind tcx or clsact", "an uplink of kind %s carries no IPv6", e.status.Uplink.Kind)
		return
	}
	name := out.Attrs().Name
	sound := len(e.found)
	if byRA && sysctl6(name, "forwarding") == 1 && sysctl6(name, "accept_ra") != 2 {
		e.add("ipv6", Warn, "sysctl -w net.ipv6.conf."+name+".accept_ra=2", "the IPv6 default route came by a router advertisement, and %s forwards: the kernel takes no other advertisement, so the route will go", name)
	}
	if out.Attrs().MTU < model.MinMTU6 {
		e.add("ipv6", Warn, fmt.Sprintf("raise the MTU of %s to %d or more", name, model.MinMTU6), "%s has MTU %d, and IPv6 needs %d: IPv6 does not lead out", name, out.Attrs().MTU, model.MinMTU6)
	}
	addrs, _ := netlink.AddrList(out, netlink.FAMILY_V6)
	global, local := 0, 0
	for _, a := range addrs {
		switch ip, _ := netip.AddrFromSlice(a.IP); {
		case ip.IsLinkLocalUnicast():
		case ip.IsPrivate():
			local++
		default:
			global++
		}
	}
	switch {
	case global == 0 && local > 0:
		e.add("ipv6", Note, "nothing to do, if another router translates these addresses", "%s has unique local addresses only: programs prefer IPv4 for destinations outside (RFC 6724)", name)
	case global == 0:
		e.add("ipv6", Note, "give it an IPv6 address of global scope", "%s has no IPv6 address but its link-local one: packets leave with an address of another device, or not at all", name)
	}
	if len(e.found) == sound {
		e.add("ipv6", OK, "", "IPv6 leads out by %s", name)
	}
}
