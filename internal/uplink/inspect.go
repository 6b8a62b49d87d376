package uplink

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Probe tells how programs can be attached here, by attaching one that does nothing to loopback for a moment.
func Probe() (Kind, error) {
	p, err := loadProgram("uvs_probe", asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}) // TC_ACT_UNSPEC: the next one decides
	if err != nil {
		return "", err
	}
	defer p.Close()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return "", fmt.Errorf("uplink: %w", err)
	}
	question, _, err := openQuestion(allFlags())
	if err != nil {
		return "", err
	}
	question.Close()
	a, kind, err := attach(lo.Attrs().Index, p, Auto, owner{filterPrefix + "probe", 1})
	if err != nil {
		return "", err
	}
	a.close()
	return kind, nil
}

// OtherSwitches names the TAPs of other switches in this network namespace.
func OtherSwitches(own string) (taps []string) {
	links, _ := dump(netlink.LinkList)
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "tuntap" && a.Name != own && a.HardwareAddr.String() == tapMAC.String() {
			taps = append(taps, a.Name)
		}
	}
	return taps
}

// OtherPrograms lists the programs on a device's ingress that are no switch's, by name; stale are those of switches that have died.
func OtherPrograms(device string) (others, stale []string) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return nil, nil
	}
	if q, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress}); err == nil {
		for _, p := range q.Programs {
			name := fmt.Sprintf("program %d", p.ID)
			if prog, err := ebpf.NewProgramFromID(p.ID); err == nil {
				if info, err := prog.Info(); err == nil && info.Name != "" {
					name = info.Name
				}
				prog.Close()
			}
			if !strings.HasPrefix(name, "uvs_") {
				others = append(others, name)
			}
		}
	}
	for _, f := range filters(l.Attrs().Index) {
		b, ok := f.(*netlink.BpfFilter)
		if !ok {
			others = append(others, "a filter of type "+f.Type())
			continue
		}
		switch {
		case !strings.HasPrefix(b.Name, filterPrefix):
			others = append(others, b.Name)
		case !lives(b.Name):
			stale = append(stale, b.Name)
		}
	}
	slices.Sort(others)
	return others, stale
}

// Overlap says with what of the host a subnet would collide: the subnet of an address on a device that is not of the switch with that
// name, or a route to exactly this subnet, as in "10.0.0.0/8, which is on device eth0". A route that contains the subnet is none: the
// subnet's own route is more specific. No network of another switch may overlap the subnet. With proxied, a subnet on a device may contain p too, but not one of the host's addresses in p.
func Overlap(p netip.Prefix, proxied bool, name string) (what string, collides bool) {
	addrs, _ := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, familyOf(p)) })
	for _, a := range addrs {
		subnet := prefixOf(a.IPNet)
		if device, others := deviceOfOthers(a.LinkIndex, name); others && subnet.Overlaps(p) {
			own, _ := netip.AddrFromSlice(a.IP)
			switch own = own.Unmap(); {
			case proxied && subnet.Bits() < p.Bits() && !p.Contains(own):
				continue
			case proxied && p.Contains(own):
				return fmt.Sprintf("%s, an address of the host on device %s", own, device), true
			}
			return fmt.Sprintf("%s, which is on device %s", prefixOf(a.IPNet), device), true
		}
	}
	routes, _ := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, familyOf(p)) })
	links, _ := dump(netlink.LinkList)
	var ports []string // of the host in switches
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "tuntap" && frame.MACFrom(a.HardwareAddr)>>32 == frame.MACFor(0)>>32 {
			ports = append(ports, a.Name)
		}
	}
	for _, r := range routes {
		if r.Dst == nil || !prefixOf(r.Dst).Overlaps(p) {
			continue
		}
		if device, others := deviceOfOthers(r.LinkIndex, name); others && prefixOf(r.Dst) == p {
			return fmt.Sprintf("%s, which the host reaches through device %s", r.Dst, device), true
		} else if others && slices.Contains(ports, device) {
			return fmt.Sprintf("%s, a network of another switch, which the host reaches through device %s", r.Dst, device), true
		}
	}
	return "", false
}

// familyOf is the address family of a prefix, as netlink numbers it.
func familyOf(p netip.Prefix) int {
	if p.Addr().Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// Inside returns a route of the host to a part of a subnet: the host does not reach that part in the network of the switch.
func Inside(p netip.Prefix, name string) (route string, found bool) {
	routes, _ := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, familyOf(p)) })
	for _, r := range routes {
		if r.Dst == nil || !prefixOf(r.Dst).Overlaps(p) || prefixOf(r.Dst).Bits() <= p.Bits() {
			continue
		}
		if device, others := deviceOfOthers(r.LinkIndex, name); others {
			return fmt.Sprintf("%s through device %s", r.Dst, device), true
		}
	}
	return "", false
}

// deviceOfOthers names a device, and reports whether it is there and not of the switch with that name.
func deviceOfOthers(index int, name string) (device string, others bool) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", false
	}
	device = l.Attrs().Name
	return device, device != name+"0" && device != name+"-up"
}

// prefixOf is an IP network.
func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits).Masked()
}
