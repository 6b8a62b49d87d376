// Package doctor looks at this host and at the switch on it, and says what is wrong or will be, each with its mend. It
// changes nothing; the one thing that it tries, a BPF program that does nothing on loopback, is gone before it answers.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/hostports"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/tap"
)

// Level is how bad a finding is.
type Level string

const (
	OK   Level = "ok"
	Note Level = "note" // it works, less well or differently
	Warn Level = "warn" // something will not work as one may expect
	Fail Level = "fail" // the switch cannot run, or carries nothing
)

// A Finding is one thing that was looked at.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"finding"`
	Mend  string `json:"mend,omitempty"`
}

// An Exam is what is to be looked at.
type Exam struct {
	Client *api.Client
	Socket string
	Name   string       // prefix of the switch's own devices
	Ports  [][2]uint16  // that NAT may give out
	Subnet netip.Prefix // of a switch to come
	none   bool         // there is no switch
	status *api.Status  // of the running switch
	ports  []api.Port
	found  []Finding
}

func (e *Exam) add(check string, l Level, mend, format string, args ...any) {
	e.found = append(e.found, Finding{check, l, fmt.Sprintf(format, args...), mend})
}

// Run looks at everything, in the network namespace that the switch runs in.
func (e *Exam) Run(ctx context.Context) []Finding {
	e.theSwitch(ctx)
	if e.status != nil {
		there := fmt.Sprintf("/proc/%d/ns/net", e.status.PID)
		own, err1 := os.Readlink("/proc/self/ns/net")
		its, err2 := os.Readlink(there)
		if err1 == nil && err2 == nil && own != its {
			if err := tap.In(there, func() error { e.host(); return nil }); err == nil {
				e.add("switch", OK, "", "it runs in another network namespace than this shell; that one was looked at")
				return e.found
			}
			e.add("switch", Warn, "run doctor as root", "it runs in another network namespace, which cannot be entered: what follows is about this one")
		}
	}
	e.host()
	return e.found
}

func (e *Exam) host() {
	e.tun()
	e.capabilities()
	e.ioUring()
	e.bpf()
	e.uplinkDevice()
	e.others()
	e.portRange()
	e.leftovers()
	e.subnets()
	e.devices()
	e.firewall()
}

// Failed tells whether anything is.
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
		e.add("switch", Note, "`uvswitch run` starts one", "none is running on %s", e.Socket)
		e.none = true
		return
	case err != nil:
		e.add("switch", Warn, "run doctor as root", "%v", err)
		return
	}
	e.status = &s
	_ = e.Client.Do(ctx, "GET", "/ports", nil, &e.ports) // it has just answered
	e.add("switch", OK, "", "%s, pid %d, %d ports", s.Version, s.PID, s.Ports)
	if s.Uplink.Kind != "none" && s.Uplink.State != "up" {
		e.add("switch", Fail, "bring the device up, or give it an address", "the uplink is down: %s", s.Uplink.Why)
	}
}

func (e *Exam) tun() {
	if err := tap.CheckTUN(); err != nil {
		e.add("tun", Fail, "modprobe tun; in a container, give it /dev/net/tun", "%v", err)
		return
	}
	e.add("tun", OK, "", "/dev/net/tun can be opened")
}

// The capabilities that `run` needs, by their numbers in linux/capability.h.
var needed = []struct {
	bit  uint
	name string
	why  string
}{
	{12, "CAP_NET_ADMIN", "devices, addresses, routes"}, {21, "CAP_SYS_ADMIN", "entering namespaces, and the uplink's programs"},
}

const capNetRaw = 13

func (e *Exam) capabilities() {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		e.add("capabilities", Warn, "", "%v", err)
		return
	}
	var eff uint64
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			eff, _ = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	var missing []string
	for _, c := range needed {
		if eff&(1<<c.bit) == 0 {
			missing = append(missing, c.name+" ("+c.why+")")
		}
	}
	if len(missing) > 0 {
		e.add("capabilities", Fail, "run as root, or with these capabilities", "missing: %s", strings.Join(missing, ", "))
		return
	}
	if eff&(1<<capNetRaw) == 0 {
		e.add("capabilities", Warn, "give it CAP_NET_RAW", "without CAP_NET_RAW no existing device can be plugged (`port add --device`)")
	}
	e.add("capabilities", OK, "", "all that are needed")
}

func (e *Exam) ioUring() {
	r, err := tap.NewIOUring(0)
	if err == nil {
		_ = r.Close() // nothing was read
		e.add("io_uring", OK, "", "can be used")
		return
	}
	mend := "frames go by read and write, which costs more CPU"
	if b, rerr := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); rerr == nil && strings.TrimSpace(string(b)) != "0" {
		mend += "; kernel.io_uring_disabled is " + strings.TrimSpace(string(b))
	}
	e.add("io_uring", Note, mend, "%v", err)
}

func (e *Exam) bpf() {
	kind, err := uplink.Probe()
	switch {
	case err != nil:
		e.add("bpf", Fail, "`uvswitch run --uplink-kind tap` needs no BPF: the host routes then; or allow bpf(2)", "no program can be attached: %v", err)
	case kind == uplink.Clsact:
		e.add("bpf", Note, "Linux 6.6 has tcx, whose programs end with the switch even when it is killed", "tcx is not there; clsact works")
	default:
		e.add("bpf", OK, "", "programs can be attached by %s", kind)
	}
}

func (e *Exam) device() string {
	if e.status != nil && e.status.Uplink.Device != "" {
		return e.status.Uplink.Device
	}
	return uplink.DefaultDevice()
}

func (e *Exam) uplinkDevice() {
	if e.status != nil && e.status.Uplink.Kind == "none" {
		return
	}
	name := e.device()
	if name == "" {
		e.add("uplink", Fail, "set a default route, name a device (`run --uplink DEV`), or go without (`--uplink none`)", "there is no default route, and so no way out")
		return
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		e.add("uplink", Fail, "`run --uplink DEV` names another", "device %s: %v", name, err)
		return
	}
	sound := len(e.found)
	if l.Attrs().Flags&unix.IFF_UP == 0 {
		e.add("uplink", Fail, "ip link set "+name+" up", "%s is down", name)
	}
	if addrs, err := netlink.AddrList(l, netlink.FAMILY_V4); err == nil && len(addrs) == 0 {
		e.add("uplink", Fail, "give it an IPv4 address: containers leave with it", "%s has no IPv4 address", name)
	}
	if e.status != nil {
		for _, n := range e.status.Networks {
			if !n.Internal && n.MTU > l.Attrs().MTU {
				e.add("mtu", Note, fmt.Sprintf("`mtu: %d` for the network spares the detour", l.Attrs().MTU), "network %s has MTU %d, %s has %d: TCP is clamped, other senders get ICMP 3/4, or fragments leave", n.Name, n.MTU, name, l.Attrs().MTU)
			}
		}
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		e.add("uplink", Warn, "ip link set "+name+" xdp off, if it is not wanted", "an XDP program on %s has frames before us, and may take them", name)
	}
	if !Failed(e.found[sound:]) {
		e.add("uplink", OK, "", "%s, MTU %d", name, l.Attrs().MTU)
	}
}

// others finds programs of other software on the uplink's ingress: what they take, we do not see.
func (e *Exam) others() {
	name := e.device()
	if name == "" {
		return
	}
	pid := 0
	if e.status != nil {
		pid = e.status.PID
	}
	list, stale := uplink.OtherPrograms(name, pid)
	for _, p := range list {
		e.add("programs", Warn, "see `bpftool net show dev "+name+"`", "%s is attached to the ingress of %s, and may take frames before the switch has them", p, name)
	}
	for _, p := range stale {
		e.add("leftovers", Warn, "the next `uvswitch run` sweeps it", "filter %s of a switch that has died is on %s", p, name)
	}
}

func (e *Exam) portRange() {
	eph := hostports.Ephemeral()
	list, err := hostports.List()
	if err != nil {
		e.add("ports", Warn, "", "the host's ports cannot be read: %v", err)
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
	total, shared := 0, 0
	for _, r := range e.Ports {
		total += int(r[1]-r[0]) + 1
		lo, hi := max(r[0], eph[0]), min(r[1], eph[1])
		if lo <= hi {
			shared += int(hi-lo) + 1
		}
	}
	switch {
	case shared == total:
		e.add("ports", Fail, "name others (`--nat-ports`), or narrow net.ipv4.ip_local_port_range", "every port that NAT may give out is one that the host's kernel picks from, %d-%d", eph[0], eph[1])
	case shared > 0:
		e.add("ports", Note, "name others (`--nat-ports`) to have them all", "%d of %d ports for NAT are left out: the host's kernel picks from %d-%d", shared, total, eph[0], eph[1])
	default:
		e.add("ports", OK, "", "%d ports for NAT, none of which the host's kernel picks by itself", total)
	}
	for _, l := range list {
		if owner := l.Owner(); inside(l.Port) && !strings.Contains(owner, "uvswitch") {
			e.add("ports", Note, "NAT leaves it out", "port %d/%s, of those for NAT, is %s's", l.Port, l.Proto, owner)
		}
	}
}

// leftovers are what a switch that was killed may leave.
func (e *Exam) leftovers() {
	if e.none {
		for _, dev := range []string{e.Name + "0", e.Name + "-up"} {
			if _, err := netlink.LinkByName(dev); err == nil {
				e.add("leftovers", Warn, "another switch's, perhaps (`--socket`, `--name`); else `ip link del "+dev+"`", "device %s is here, and no switch answers on %s", dev, e.Socket)
			}
		}
		if _, err := os.Stat(e.Socket); err == nil {
			e.add("leftovers", Note, "the next `uvswitch run` replaces it", "%s is of a switch that has ended without removing it", e.Socket)
		}
	}
}

// subnets looks for routes of the host's that a container's address would collide with.
func (e *Exam) subnets() {
	subnets := map[string]string{}
	if e.status != nil {
		for _, n := range e.status.Networks {
			subnets[n.Name] = n.Subnet
		}
	} else {
		subnets["default"] = e.Subnet.String()
	}
	for name, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			continue
		}
		if what, collides := uplink.Overlap(p, e.Name); collides {
			e.add("subnets", Warn, "give the network another subnet", "%s of network %s is also %s", p, name, what)
		}
	}
}

// devices compares what ports are to be with what their devices are.
func (e *Exam) devices() {
	mtus := map[string]int{}
	if e.status != nil {
		for _, n := range e.status.Networks {
			mtus[n.Name] = n.MTU
		}
	}
	good := 0
	for _, p := range e.ports {
		switch p.Kind {
		case "uplink":
			continue
		case "qemu-stream", "qemu-dgram", "vde":
			if p.State == "down" {
				e.add("devices", Note, "start the machine, with this socket: "+p.Ifname, "port %s: no machine is connected", p.Name)
			}
			continue
		}
		var l netlink.Link
		find := func() (err error) { l, err = netlink.LinkByName(p.Ifname); return err }
		var err error
		if p.Netns == "" { // the switch's own, where this thread is
			err = find()
		} else if path, perr := tap.NamespacePath(p.Netns); perr != nil {
			err = perr
		} else {
			err = tap.In(path, find)
		}
		switch {
		case err != nil:
			e.add("devices", Warn, "it was renamed, moved or removed inside; `uvswitch port del` and `add` make it anew", "port %s: device %s: %v", p.Name, p.Ifname, err)
			continue
		case l.Attrs().Flags&unix.IFF_UP == 0:
			e.add("devices", Warn, "ip link set "+p.Ifname+" up, inside", "port %s: device %s is down", p.Name, p.Ifname)
			continue
		}
		good++
		if m := l.Attrs().MTU; m != p.MTU {
			e.add("mtu", Warn, fmt.Sprintf("ip link set %s mtu %d, inside, or add the port anew with --mtu %d", p.Ifname, p.MTU, m), "port %s was made with MTU %d, its device has %d now", p.Name, p.MTU, m)
		} else if want := mtus[p.Network]; want != 0 && m != want {
			e.add("mtu", Warn, "make the MTUs of a network equal: no router stands between its ports to say that a frame is too long", "port %s has MTU %d, its network %d", p.Name, m, want)
		}
		if q := l.Attrs().TxQLen; q > 0 && q < 500 && p.Kind != "device" {
			e.add("devices", Note, "ip link set "+p.Ifname+" txqueuelen 1000, inside", "port %s: a queue of %d frames is short for fast senders", p.Name, q)
		}
		if !p.Offload {
			e.add("offloads", Note, "add it with --offload on, unless its station needs plain frames", "port %s has no offloads: %d frames were segmented or summed in software", p.Name, p.Segmented)
		}
	}
	if good > 0 {
		e.add("devices", OK, "", "%d devices are there and up", good)
	}
}

// firewall looks for chains of the host's netfilter that drop by default. Containers' own traffic passes none of them; the host
// port's and that of published ports on loopback does.
func (e *Exam) firewall() {
	if _, err := exec.LookPath("nft"); err != nil {
		e.add("firewall", Note, "install nftables to have them looked at", "nft is not here: other software's rules were not read")
		return
	}
	out, err := exec.Command("nft", "-j", "list", "chains").Output()
	if err != nil {
		var exit *exec.ExitError
		text := err.Error()
		if errors.As(err, &exit) {
			text = strings.TrimSpace(string(exit.Stderr))
		}
		e.add("firewall", Note, "", "the host's rules cannot be read: %s", text)
		return
	}
	var ruleset struct {
		Nftables []struct {
			Chain *struct{ Family, Table, Name, Hook, Policy string }
		}
	}
	if err := json.Unmarshal(out, &ruleset); err != nil {
		e.add("firewall", Note, "", "the host's rules cannot be read: %v", err)
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
			e.add("firewall", Warn, fmt.Sprintf("let device %s0 through there, if the host is to speak with containers; containers among themselves and to the outside are not touched", e.Name), "chain %s %s %s drops by default", c.Family, c.Table, c.Name)
		case "forward":
			l := Note
			if e.status != nil && e.status.Uplink.Kind == string(uplink.TAP) {
				l = Warn
			}
			e.add("firewall", l, "only an uplink of kind tap is routed by the host; the others pass it by", "chain %s %s %s drops by default", c.Family, c.Table, c.Name)
		default:
			e.add("firewall", Note, "", "chain %s %s %s (%s) drops by default", c.Family, c.Table, c.Name, c.Hook)
		}
	}
	if bad == 0 {
		e.add("firewall", OK, "", "no chain of the host's drops by default")
	}
}
