package uplink

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kind is how the programs are attached.
type Kind string

// The kinds of uplink. TCX links end with the process; clsact filters are swept at the next start after a crash.
const (
	Auto    Kind = ""
	TCX     Kind = "tcx"
	Clsact  Kind = "clsact"
	TAP     Kind = "tap"     // no programs: a device with an address of its own, and the host routes
	Sockets Kind = "sockets" // no device: packets leave by sockets of this process
	Host    Kind = "host"    // packets leave through the host's own stack; programs for published ports only, attached as with Auto
)

const (
	filterPrefix   = "uvswitch/"
	filterPriority = 0x7576 // before filters without a priority, which the kernel gives 49152 and less
)

// An owner says whose a clsact filter is: a switch is known by its TAP, which ends with it. Process IDs are not unique: two switches may be
// in different PID namespaces.
type owner struct {
	name   string
	handle uint32
}

// ownerOf is the switch whose TAP has this index.
func ownerOf(tap int) owner { return owner{filterPrefix + "tap-" + strconv.Itoa(tap), uint32(tap)} }

// dropper owns what DropIngress attaches. A device is plugged into one switch only.
var dropper = owner{filterPrefix + "drop", 1}

// lives reports whether the owner with this name still runs, as far as its TAP tells.
func lives(name string) bool {
	if name == dropper.name {
		return true
	}
	index, err := strconv.Atoi(strings.TrimPrefix(name, filterPrefix+"tap-"))
	if err != nil {
		return false
	}
	l, err := netlink.LinkByIndex(index)
	return err == nil && l.Type() == "tuntap" && l.Attrs().HardwareAddr.String() == tapMAC.String()
}

// An attachment is one program on the ingress of one device.
type attachment struct {
	ifindex int
	link    link.Link // tcx
	filter  *netlink.BpfFilter
	ownDisc *netlink.GenericQdisc // clsact: made by us
}

// attach puts a program on a device's ingress. Auto tries tcx and falls back to clsact; the kind used is returned.
// It must run in the device's namespace.
func attach(ifindex int, p *ebpf.Program, kind Kind, by owner) (*attachment, Kind, error) {
	if kind != Clsact {
		l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			return &attachment{link: l, ifindex: ifindex}, TCX, nil
		}
		if kind == TCX || !errors.Is(err, ebpf.ErrNotSupported) {
			return nil, "", fmt.Errorf("uplink: cannot attach with tcx: %w (tcx needs Linux 6.6 or later; use `--uplink-kind clsact` on older kernels)", err)
		}
	}
	a, err := attachClsact(ifindex, p, by)
	if err != nil {
		return nil, "", fmt.Errorf("uplink: cannot attach with clsact: %w%s", err, hint(err))
	}
	return a, Clsact, nil
}

func attachClsact(ifindex int, p *ebpf.Program, by owner) (*attachment, error) {
	a := &attachment{ifindex: ifindex}
	disc := &netlink.GenericQdisc{
		QdiscType:  "clsact",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
	}
	switch err := netlink.QdiscAdd(disc); {
	case err == nil:
		a.ownDisc = disc
	case !errors.Is(err, unix.EEXIST):
		return nil, err
	}
	a.filter = &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: by.handle,
			Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: p.FD(), Name: by.name, DirectAction: true,
	}
	if err := netlink.FilterAdd(a.filter); err != nil {
		a.filter = nil
		a.close()
		return nil, err
	}
	return a, nil
}

// close takes the program off again. It must run in the device's namespace; a device that is gone is no error.
func (a *attachment) close() {
	if a.link != nil {
		a.link.Close()
	}
	if a.filter != nil {
		_ = netlink.FilterDel(a.filter)
	}
	if a.ownDisc != nil && len(filters(a.ownDisc.LinkIndex)) == 0 {
		_ = netlink.QdiscDel(a.ownDisc)
	}
}

// isThere reports whether the program is still attached: anybody may remove a clsact filter, and another device may have got the index.
func (a *attachment) isThere() bool {
	if a.link != nil {
		info, err := a.link.Info()
		return err != nil || info.TCX() == nil || int(info.TCX().Ifindex) == a.ifindex // 0 when its device has gone
	}
	return slices.ContainsFunc(filters(a.ifindex), func(f netlink.Filter) bool {
		b, ok := f.(*netlink.BpfFilter)
		return ok && b.Name == a.filter.Name
	})
}

func filters(ifindex int) []netlink.Filter {
	var all []netlink.Filter
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		l := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
		if f, err := netlink.FilterList(l, parent); err == nil {
			all = append(all, f...)
		}
	}
	return all
}

// sweep removes the filters on a device for which gone returns true, and the clsact that nobody else uses.
func sweep(ifindex int, gone func(name string) bool) {
	swept := 0
	for _, f := range filters(ifindex) {
		b, ok := f.(*netlink.BpfFilter)
		if ok && strings.HasPrefix(b.Name, filterPrefix) && gone(b.Name) && netlink.FilterDel(b) == nil {
			swept++
		}
	}
	if swept > 0 && len(filters(ifindex)) == 0 {
		_ = netlink.QdiscDel(&netlink.GenericQdisc{
			QdiscType:  "clsact",
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		})
	}
}

// An IngressDrop keeps frames that arrive on a device from the host's stack.
type IngressDrop struct{ at *attachment }

// DropIngress attaches an IngressDrop to device ifindex of the calling thread's namespace.
func DropIngress(ifindex int) (*IngressDrop, error) {
	p, err := dropAll()
	if err != nil {
		return nil, err
	}
	defer p.Close()                                                        // the attachment holds it
	sweep(ifindex, func(name string) bool { return name == dropper.name }) // of a switch that has died
	a, _, err := attach(ifindex, p, Auto, dropper)
	if err != nil {
		return nil, err
	}
	return &IngressDrop{a}, nil
}

// Close takes it off; call it in the device's namespace.
func (s *IngressDrop) Close() { s.at.close() }
