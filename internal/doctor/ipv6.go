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

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
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
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		e.add("ipv6", Note, "for IPv6, boot without ipv6.disable=1", "the kernel has no IPv6: containers use IPv4 only")
		return
	}
	if sysctl6("default", "disable_ipv6") == 1 {
		e.add("ipv6", Note, "set `sysctl net.ipv6.conf.default.disable_ipv6=0`, and restart the switch, if the host and its containers shall reach each other by IPv6", "new devices have no IPv6 on this host (net.ipv6.conf.default.disable_ipv6=1), so the host port has none; containers have it")
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
	e.throughHost6()
	if out == nil {
		e.add("ipv6", Note, "for IPv6, give the host an IPv6 default route", "the host has no IPv6 default route: containers reach the outside by IPv4 only, and hear so at once")
		return
	}
	name := out.Attrs().Name
	sound := len(e.found)
	if byRA && sysctl6(name, "forwarding") == 1 && sysctl6(name, "accept_ra") != 2 {
		e.add("ipv6", Warn, "sysctl -w net.ipv6.conf."+name+".accept_ra=2", "the IPv6 default route came by a router advertisement, and %s forwards: the kernel takes no other advertisement, so the route will go", name)
	}
	if out.Attrs().MTU < frame.MinMTU6 {
		e.add("ipv6", Warn, fmt.Sprintf("raise the MTU of %s to %d or more", name, frame.MinMTU6), "%s has MTU %d, and IPv6 needs %d: IPv6 does not lead out", name, out.Attrs().MTU, frame.MinMTU6)
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
	if len(e.found) == sound && (e.status == nil || e.status.Uplink.State6 == "up") {
		e.add("ipv6", OK, "", "IPv6 leads out by %s", name)
	}
}

// throughHost6 checks what an uplink of kind host or tap needs of the host's stack.
func (e *Exam) throughHost6() {
	if e.status == nil {
		return
	}
	from, unless := "", ""
	switch kind := e.status.Uplink.Kind; {
	case kind == string(uplink.TAP):
		from = e.status.Uplink.Address6
	case kind == model.ViaHost || e.viaHost[1]:
		from = e.subnetsOf(func(n api.Network) string {
			if kind == model.ViaHost && n.NAT6 != model.Masquerade {
				return ""
			}
			return n.Subnet6
		})
		if from == "" {
			break
		}
		from += " ! -o " + e.Name + "0"
		if kind == model.ViaHost {
			unless = ", unless machines outside have a route to the containers' addresses"
		}
	default:
		return
	}
	if sysctl6("all", "forwarding") != 1 {
		e.add("ipv6", Warn, "sysctl -w net.ipv6.conf.all.forwarding=1; set accept_ra=2 first on devices that get their route by router advertisements", "the host must forward the IPv6 packets of containers, but it does not: net.ipv6.conf.all.forwarding is 0")
	}
	if from == "" {
		return
	}
	e.add("ipv6", Note, fmt.Sprintf("if a rule for this is missing: `ip6tables -t nat -A POSTROUTING -s %s -j MASQUERADE`", from), "the host must masquerade the IPv6 packets of containers%s", unless)
}

// subnetsOf lists one thing of each network that is not internal, as iptables reads it.
func (e *Exam) subnetsOf(what func(n api.Network) string) string {
	var all []string
	for _, n := range e.status.Networks {
		if s := what(n); s != "" && !n.Internal {
			all = append(all, s)
		}
	}
	return strings.Join(all, ",")
}
