// Package doctor checks this host and the switch on it, and says how to fix each problem. It changes nothing, except that it
// briefly attaches a BPF program without effect to loopback.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/problems"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/tap"
)

// Level is the severity of a finding.
type Level string

const (
	OK   Level = "ok"
	Note Level = "note" // it works, but less well or differently
	Warn Level = "warn" // something may not work as expected
	Fail Level = "fail" // the switch cannot run, or carries no traffic
)

// A Finding is the result of one check.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Text   string `json:"finding"`
	Remedy string `json:"mend,omitempty"`
}

// An Exam describes what to check, and collects the findings.
type Exam struct {
	Client *api.Client
	Socket string
	Name   string       // prefix of the switch's own devices, unless a running switch tells another
	Ports  [][2]uint16  // that NAT may use
	Subnet netip.Prefix // of network default, when no switch runs
	none   bool         // no switch runs
	status *api.Status  // of the running switch
	ports  []api.Port
	found  []Finding

	viaHost [2]bool // there is a route through the host: of IPv4, of IPv6
}

func (e *Exam) add(check string, l Level, remedy, format string, args ...any) {
	e.found = append(e.found, Finding{check, l, fmt.Sprintf(format, args...), remedy})
}

// Run does all checks in the network namespace of the switch, and returns the findings. When that namespace cannot be entered, it
// checks its own namespace and adds a finding about this.
func (e *Exam) Run(ctx context.Context) []Finding {
	e.theSwitch(ctx)
	if e.status != nil {
		there := fmt.Sprintf("/proc/%d/ns/net", e.status.PID)
		own, err1 := os.Readlink("/proc/self/ns/net")
		its, err2 := os.Readlink(there)
		if err1 == nil && err2 == nil && own != its {
			if err := netns.Do(there, func() error { e.host(); return nil }); err == nil {
				e.add("switch", OK, "", "the switch runs in another network namespace than this shell; doctor checked the namespace of the switch")
				return e.found
			}
			e.add("switch", Warn, "run doctor as root", "the switch runs in another network namespace, which doctor cannot enter; the next checks are about this namespace")
		}
	}
	e.host()
	return e.found
}

func (e *Exam) host() {
	e.tun()
	if e.isRootless() {
		e.rootless()
		e.ioUring()
		e.uplinkDevice()
		e.ipv6()
		e.subnets()
		return
	}
	e.capabilities()
	e.ioUring()
	e.bpf()
	e.uplinkDevice()
	e.ipv6()
	e.others()
	e.portRange()
	e.leftovers()
	e.subnets()
	e.devices()
	e.firewall()
}

// Failed reports whether list has a finding of level Fail.
func Failed(list []Finding) bool {
	for _, f := range list {
		if f.Level == Fail {
			return true
		}
	}
	return false
}

func (e *Exam) theSwitch(ctx context.Context) {
	var s api.Status
	err := e.Client.Do(ctx, "GET", "/status", nil, &s)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		e.add("switch", Note, "`uvswitch run` starts a switch", "no switch runs on %s", e.Socket)
		e.none = true
		return
	case err != nil:
		e.add("switch", Warn, "run doctor as root", "%v", err)
		return
	}
	e.status = &s
	_ = e.Client.Do(ctx, "GET", "/ports", nil, &e.ports) // the switch has just answered
	for _, p := range e.ports {                          // the switch knows its name best
		if end, ok := map[string]string{model.UplinkPortName: "-up", model.HostPortName: "0"}[p.Name]; ok && strings.HasSuffix(p.Ifname, end) {
			e.Name = strings.TrimSuffix(p.Ifname, end)
		}
	}
	list, err := e.Client.Problems(ctx)
	if err != nil {
		e.add("switch", Warn, "run doctor again", "the switch does not say what its problems are: %v", err)
	}
	for _, p := range list {
		if p.Kind == "uplink" || p.Kind == "ports" && p.Port != "" {
			continue // doctor looks at the devices themselves
		}
		e.add(p.Kind, Warn, p.Remedy, "%s", p.Text)
	}
	var routes []api.Route
	_ = e.Client.Do(ctx, "GET", "/routes", nil, &routes)
	for _, r := range routes {
		if dst, err := netip.ParsePrefix(r.Dst); err == nil && r.Gateway == model.ViaHost {
			e.viaHost[dst.Addr().BitLen()/128] = true
		}
	}
	e.add("switch", OK, "", "%s, pid %d, %d ports", s.Version, s.PID, s.Ports)
	if s.Uplink.Kind != "none" && s.Uplink.State != "up" {
		level, text := Fail, "the uplink is down: %s"
		if e.leadsOut6() {
			level, text = Warn, "IPv4 does not lead out: %s; IPv6 does"
		}
		e.add("switch", level, problems.NoWayOut, text, s.Uplink.Why)
	}
}

func (e *Exam) tun() {
	if err := tap.CheckTUN(); err != nil {
		what, remedy, _ := strings.Cut(err.Error(), "; ")
		e.add("tun", Fail, remedy, "%s", what)
		return
	}
	e.add("tun", OK, "", "/dev/net/tun can be opened")
}

// capabilities compares the capabilities of this process with the table of the daemon and the systemd unit.
func (e *Exam) capabilities() {
	have, err := rights.Own()
	if err != nil {
		e.add("capabilities", Warn, "", "%v", err)
		return
	}
	missing := have.Missing(rights.Required)
	for _, c := range missing {
		e.add("capabilities", Fail, "run the switch as root, or as the systemd service", "%s is missing: %s", c.Name, c.User)
	}
	for _, c := range have.Missing(rights.Optional) {
		e.add("capabilities", Note, "grant "+c.Name+" if you need this", "without %s: %s", c.Name, c.Without)
	}
	if len(missing) == 0 {
		e.add("capabilities", OK, "", "all required capabilities are present")
	}
}

func (e *Exam) ioUring() {
	r, err := tap.NewIOUring(0)
	if err == nil {
		_ = r.Close() // the ring was not used
		e.add("io_uring", OK, "", "io_uring can be used")
		return
	}
	remedy := "the switch uses read and write instead, which costs more CPU"
	if b, rerr := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); rerr == nil && strings.TrimSpace(string(b)) != "0" {
		remedy += "; kernel.io_uring_disabled is " + strings.TrimSpace(string(b))
	}
	e.add("io_uring", Note, remedy, "%v", err)
}

func (e *Exam) bpf() {
	kind, err := uplink.Probe()
	switch {
	case err != nil:
		e.add("bpf", Fail, "allow bpf(2), or use `uvswitch run --uplink-kind tap`, which needs no BPF because the host routes the traffic", "no BPF program can be attached: %v", err)
	case kind == uplink.Clsact:
		e.add("bpf", Note, "Linux 6.6 or later has tcx; tcx programs end with the switch, even when the switch is killed", "the kernel has no tcx; clsact works")
	default:
		e.add("bpf", OK, "", "BPF programs can be attached with %s", kind)
	}
}

func (e *Exam) device() string {
	if e.status != nil && e.status.Uplink.Device != "" {
		return e.status.Uplink.Device
	}
	return uplink.DefaultDevice()
}

// hostForwards reports whether the host forwards packets, as far as can be read.
func hostForwards() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	return err != nil || strings.TrimSpace(string(b)) == "1"
}

// leadsOut6 reports whether a switch runs and IPv6 leads out.
func (e *Exam) leadsOut6() bool { return e.status != nil && e.status.Uplink.State6 == "up" }

func (e *Exam) uplinkDevice() {
	if e.status != nil && e.status.Uplink.Kind == "none" {
		return
	}
	name := e.device()
	if name == "" && e.leadsOut6() { // doctor has said that IPv4 does not
		return
	}
	if name == "" {
		e.add("uplink", Fail, "set a default route, name a device (`uvswitch run --uplink DEV`), or run without an uplink (`--uplink none`)", "the host has no default route, so the switch finds no device for the uplink")
		return
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		e.add("uplink", Fail, "`uvswitch run --uplink DEV` names another device", "device %s: %v", name, err)
		return
	}
	sound := len(e.found)
	if e.status != nil && (e.status.Uplink.Kind == model.ViaHost || e.viaHost[0]) {
		if !hostForwards() {
			e.add("uplink", Warn, "sysctl -w net.ipv4.ip_forward=1", "packets leave through the host's stack, but the host forwards no answers: net.ipv4.ip_forward is 0")
		}
		e.add("uplink", Note, fmt.Sprintf("if a rule for this is missing, and nobody outside knows the containers' addresses: `iptables -t nat -A POSTROUTING -s %s ! -o %s0 -j MASQUERADE`", e.subnetsOf(func(n api.Network) string { return n.Subnet }), e.Name), "packets leave with the containers' own addresses")
	}
	if e.status != nil && e.status.Uplink.Kind == string(uplink.TAP) {
		if !hostForwards() {
			e.add("uplink", Warn, "sysctl -w net.ipv4.ip_forward=1", "the host must route the packets of containers, but it does not: net.ipv4.ip_forward is 0")
		}
		e.add("uplink", Note, fmt.Sprintf("if a rule for this is missing: `iptables -t nat -A POSTROUTING -s %s -j MASQUERADE`", e.status.Uplink.Address), "packets of containers come to the host from %s, and the host must masquerade them", e.status.Uplink.Address)
	}
	if e.status != nil {
		for _, dev := range e.status.Uplink.Allowed {
			if _, err := netlink.LinkByName(dev); err != nil {
				e.add("uplink", Warn, "bring the device up, or change --uplink-devices (`uplink: {devices}`)", "packets may leave by %s, which does not exist", dev)
			}
		}
	}
	if l.Attrs().Flags&unix.IFF_UP == 0 {
		e.add("uplink", Fail, "ip link set "+name+" up", "%s is down", name)
	}
	if addrs, err := netlink.AddrList(l, netlink.FAMILY_V4); err == nil && len(addrs) == 0 && !e.leadsOut6() {
		e.add("uplink", Fail, "give it an IPv4 address: the packets of containers leave with this address", "%s has no IPv4 address", name)
	}
	if e.status != nil {
		for _, n := range e.status.Networks {
			if !n.Internal && n.MTU > l.Attrs().MTU {
				remedy := fmt.Sprintf("to avoid this, make the network and its ports anew with this MTU: `uvswitch network set %s --mtu %d`, then plug the ports in again", n.Name, l.Attrs().MTU)
				if n.Subnet6 != "" && l.Attrs().MTU < frame.MinMTU6 {
					remedy = fmt.Sprintf("raise the MTU of %s: IPv6 needs %d", name, frame.MinMTU6)
				}
				e.add("mtu", Note, remedy, "network %s has MTU %d, but %s has MTU %d: the MSS of TCP is clamped; other senders get ICMP 3/4 or ICMPv6 2/0, or their packets are fragmented", n.Name, n.MTU, name, l.Attrs().MTU)
			}
		}
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		e.add("uplink", Warn, "ip link set "+name+" xdp off, if the program is not wanted", "an XDP program on %s sees frames before the switch, and may take them", name)
	}
	if !Failed(e.found[sound:]) {
		e.add("uplink", OK, "", "%s, MTU %d", name, l.Attrs().MTU)
	}
}

// others finds BPF programs and filters of other software on the uplink's ingress: the switch does not see the frames that they
// take.
func (e *Exam) others() {
	name := e.device()
	if name == "" {
		return
	}
	if taps := uplink.OtherSwitches(e.Name + "-up"); len(taps) > 0 {
		e.add("switches", Warn, "start each switch with ports of its own, such as `--nat-ports 1024-32767` and `--nat-ports 32768-65535`",
			"another switch is on this host (%s): if both use the same ports for NAT, two containers that use one port for one destination get each other's answers", strings.Join(taps, ", "))
	}
	list, stale := uplink.OtherPrograms(name)
	for _, p := range list {
		e.add("programs", Warn, "see `bpftool net show dev "+name+"`", "%s is attached to the ingress of %s: what comes first decides, so it may take packets of containers, or not see them", p, name)
	}
	for _, p := range stale {
		e.add("leftovers", Warn, "the next `uvswitch run` removes it", "filter %s of a switch that died is still on %s", p, name)
	}
}

func (e *Exam) portRange() {
	list, err := usedports.List()
	if err != nil {
		e.add("ports", Warn, "", "doctor cannot read which ports the host uses: %v", err)
		return
	}
	inside := func(p uint16) bool {
		for _, r := range e.Ports {
			if r[0] <= p && p <= r[1] {
				return true
			}
		}
		return false
	}
	total := 0
	for _, r := range e.Ports {
		total += int(r[1]-r[0]) + 1
	}
	e.add("ports", OK, "", "NAT has %d ports for each protocol at each address of the host", total)
	for _, l := range list {
		if owner := l.Owner(); inside(l.Port) && !strings.Contains(owner, "uvswitch") && !(e.status != nil && strings.HasPrefix(owner, fmt.Sprintf("pid %d ", e.status.PID))) {
			e.add("ports", Note, "nothing to do: NAT does not use this port", "port %d/%s is in the range for NAT, but is in use by %s", l.Port, l.Proto, owner)
		}
	}
}

// leftovers finds what a killed switch may have left behind.
func (e *Exam) leftovers() {
	if e.none {
		for _, dev := range []string{e.Name + "0", e.Name + "-up"} {
			if _, err := netlink.LinkByName(dev); err == nil {
				e.add("leftovers", Warn, "if it does not belong to another switch (`--socket`, `--name`), remove it: `ip link del "+dev+"`", "device %s exists, but no switch answers on %s", dev, e.Socket)
			}
		}
		if s, err := os.Stat(e.Socket); err == nil && s.Mode().Type() == os.ModeSocket {
			e.add("leftovers", Note, "the next `uvswitch run` replaces it", "%s was left behind by a switch that ended without removing it", e.Socket)
		}
	}
}

// subnets finds routes of the host that overlap a network's subnet.
func (e *Exam) subnets() {
	subnets, proxied := map[string]string{}, map[string]bool{}
	if e.status != nil {
		for _, n := range e.status.Networks {
			subnets[n.Name] = n.Subnet
			subnets[n.Name+", IPv6"] = n.Subnet6
			outside, isNPT := strings.CutPrefix(n.NAT6, model.NPT)
			if isNPT {
				subnets[n.Name+", outside"] = outside
			}
			proxied[n.Name+", IPv6"], proxied[n.Name+", outside"] = n.NDProxy && !isNPT, n.NDProxy
			if n.NDProxy && len(n.ProxiedOn) == 0 {
				e.add("subnets", Warn, "the device must have a link-local address; see `ip -6 route` and `ip -6 addr`: the switch answers on the device whose subnet contains the network's, or else on the device of the default route", "network %s has --nd-proxy, but no device that has its prefix on the link can answer", n.Name)
			}
		}
	} else {
		subnets["default"] = e.Subnet.String()
	}
	for name, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			continue
		}
		if what, collides := uplink.Overlap(p, proxied[name], e.Name); collides {
			remedy := "give the network another subnet"
			if proxied[name] {
				remedy = "remove that address from the host, or give the network another subnet"
			}
			e.add("subnets", Warn, remedy, "%s of network %s overlaps %s", p, name, what)
		} else if route, found := uplink.Inside(p, e.Name); found {
			e.add("subnets", Warn, "remove the route, or give the network another subnet", "%s of network %s: the host does not reach a part of it, because it has a route to %s", p, name, route)
		}
	}
}

// A device is what a port's device has now.
type device struct {
	attrs  *netlink.LinkAttrs
	addrs  []netlink.Addr
	routes []netlink.Route // of its namespace
}

// deviceOf reads the device of a port, in its namespace.
func deviceOf(p *api.Port) (d device, err error) {
	find := func() error {
		l, err := netlink.LinkByName(p.Ifname)
		if err != nil {
			return err
		}
		d.attrs = l.Attrs()
		if d.addrs, err = netlink.AddrList(l, netlink.FAMILY_ALL); err == nil {
			d.routes, err = netlink.RouteList(nil, netlink.FAMILY_ALL)
		}
		return err
	}
	if p.Netns == "" { // the switch's namespace, in which this thread runs
		return d, find()
	}
	path, err := netns.Path(p.Netns)
	if err == nil {
		err = netns.Do(path, find)
	}
	return d, err
}

// lost says what may have become of a port's device, and what to do.
func lost(p *api.Port, err error) string {
	switch {
	case p.State != "forwarding":
		return "the port takes the next device of that name; or remove the port: `uvswitch port del " + p.Name + "`"
	case errors.Is(err, netns.ErrNotFound):
		return "the name of the namespace is gone, but something still holds the namespace, and the port works; the port goes when the last process there ends"
	}
	return fmt.Sprintf("the port works, so its device was renamed or moved: give it its name again: `%s`; or make the port again: `uvswitch port del %s` and `uvswitch port add`, and what is published for it", p.Inside("ip link set NAME name DEV"), p.Name)
}

// devices compares the ports with their devices.
func (e *Exam) devices() {
	var networks []api.Network
	if e.status != nil {
		networks = e.status.Networks
	}
	good := 0
	for i := range e.ports {
		p := &e.ports[i]
		switch p.Kind {
		case string(model.KindUplink):
			continue
		case string(model.KindStream), string(model.KindDgram), string(model.KindVDE):
			if p.State == "down" {
				e.add("devices", Note, "start the virtual machine with this socket: "+p.Ifname, "port %s: no virtual machine is connected", p.Name)
			}
			continue
		}
		n := problems.NetworkOf(networks, p)
		d, err := deviceOf(p)
		if err != nil {
			e.add("devices", Warn, lost(p, err), "port %s: device %s: %v", p.Name, p.Ifname, err)
			continue
		}
		if d.attrs.Flags&unix.IFF_UP == 0 {
			e.add("devices", Warn, problems.BringUp(p, n), "port %s: device %s is down", p.Name, p.Ifname)
			continue
		}
		good++
		e.compare(p, n, &d)
	}
	if good > 0 {
		e.add("devices", OK, "", "%d devices exist and are up", good)
	}
}

// compare compares a port with its device, which is up.
func (e *Exam) compare(p *api.Port, n *api.Network, d *device) {
	if m := d.attrs.MTU; m != p.MTU {
		e.add("mtu", Warn, fmt.Sprintf("`%s`; or recreate the port with --mtu %d", p.Inside(fmt.Sprintf("ip link set DEV mtu %d", p.MTU)), m), "port %s was created with MTU %d, but its device now has MTU %d", p.Name, p.MTU, m)
	}
	if q := d.attrs.TxQLen; q > 0 && q < 500 && p.Kind != string(model.KindDevice) {
		e.add("devices", Note, "`"+p.Inside("ip link set DEV txqueuelen 1000")+"`", "port %s: the device queue of %d frames is short for fast senders", p.Name, q)
	}
	if !p.Offload {
		e.add("offloads", Note, "add the port with --offload on, unless the container needs frames without offloads", "port %s has no offloads: %d frames were segmented or checksummed in software", p.Name, p.Segmented)
	}
	if !problems.IsOurs(p) {
		return
	}
	for _, a := range problems.Addresses(p) {
		want, err := netip.ParsePrefix(a)
		if err != nil || slices.ContainsFunc(d.addrs, func(x netlink.Addr) bool { return want.Addr() == addrOf(x.IP) }) {
			continue
		}
		other := slices.IndexFunc(d.addrs, func(x netlink.Addr) bool {
			return x.IP.IsGlobalUnicast() && addrOf(x.IP).Is4() == want.Addr().Is4() && !p.HasAddress(x.IP.String())
		})
		if other < 0 {
			e.add("devices", Warn, "`"+problems.AddAddress(p, a)+"`", "port %s: device %s has lost its address %s, as when it was down for a moment", p.Name, p.Ifname, want.Addr())
			continue
		}
		bits, _ := d.addrs[other].Mask.Size()
		has := netip.PrefixFrom(addrOf(d.addrs[other].IP), bits)
		e.add("devices", Warn, problems.GiveBack(p, n, has, a), "port %s: device %s has address %s, but the port has %s, and the guard allows no other", p.Name, p.Ifname, has.Addr(), want.Addr())
	}
	for _, r := range problems.Routes(p, n) {
		if !slices.ContainsFunc(d.routes, func(x netlink.Route) bool { return isTo(x, r[0]) }) {
			e.add("devices", Warn, "`"+r[1]+"`", "port %s: its namespace has no route to %s, as when device %s was down for a moment", p.Name, r[0], p.Ifname)
		}
	}
}

// isTo reports whether a route leads to a prefix: that one, or any destination.
func isTo(r netlink.Route, prefix string) bool {
	want, err := netip.ParsePrefix(prefix)
	if err != nil || r.Dst == nil || r.Dst.IP.IsUnspecified() {
		return err != nil || want.Addr().Is6() == (r.Family == netlink.FAMILY_V6)
	}
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(addrOf(r.Dst.IP), bits) == want
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// firewall finds netfilter chains of the host that drop by default. Traffic between containers and the outside does not pass
// through them. Traffic of the host port, and of published ports on loopback, does.
func (e *Exam) firewall() {
	if _, err := exec.LookPath("nft"); err != nil {
		e.add("firewall", Note, "install nftables so that doctor can read the rules", "the command nft is not installed: the host's firewall rules were not checked")
		return
	}
	out, err := exec.Command("nft", "-j", "list", "chains").Output()
	if err != nil {
		var exit *exec.ExitError
		text := err.Error()
		if errors.As(err, &exit) {
			text = strings.TrimSpace(string(exit.Stderr))
		}
		e.add("firewall", Note, "", "the host's firewall rules cannot be read: %s", text)
		return
	}
	var ruleset struct {
		Nftables []struct {
			Chain *struct{ Family, Table, Name, Hook, Policy string }
		}
	}
	if err := json.Unmarshal(out, &ruleset); err != nil {
		e.add("firewall", Note, "", "the host's firewall rules cannot be read: %v", err)
		return
	}
	bad := 0
	for _, x := range ruleset.Nftables {
		c := x.Chain
		if c == nil || c.Policy != "drop" {
			continue
		}
		bad++
		switch c.Hook {
		case "input", "output":
			e.add("firewall", Warn, fmt.Sprintf("if the host must reach containers, accept device %s0 in this chain; traffic between containers and to the outside does not pass through the chain", e.Name), "chain %s %s %s drops by default", c.Family, c.Table, c.Name)
		case "forward":
			dev := ""
			switch {
			case e.status != nil && e.status.Uplink.Kind == string(uplink.TAP):
				dev = e.Name + "-up"
			case e.status != nil && e.status.Uplink.Kind == model.ViaHost, e.viaHost[0], e.viaHost[1]:
				dev = e.Name + "0"
			}
			if dev == "" {
				e.add("firewall", Note, "nothing to do: this affects only uplinks of the kinds tap and host, and routes `via host`", "chain %s %s %s drops by default", c.Family, c.Table, c.Name)
			} else {
				e.add("firewall", Warn, fmt.Sprintf("accept in this chain what comes from %s and what goes to %s", dev, dev), "chain %s %s %s drops by default, and packets of containers pass it", c.Family, c.Table, c.Name)
			}
		default:
			e.add("firewall", Note, "", "chain %s %s %s (%s) drops by default", c.Family, c.Table, c.Name, c.Hook)
		}
	}
	if bad == 0 {
		e.add("firewall", OK, "", "no chain of the host's firewall drops by default")
	}
}
