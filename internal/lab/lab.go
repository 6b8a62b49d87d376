package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	nsname "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// Addresses of the lab, from the ranges for documentation (RFC 5737, RFC 3849).
const (
	HostAddr    = "198.51.100.1"
	OutAddr     = "198.51.100.2"
	BeyondAddr  = "203.0.113.8" // one hop further, for an address on the Internet
	HostAddr6   = "2001:db8:51::1"
	OutAddr6    = "2001:db8:51::2"
	BeyondAddr6 = "2001:db8:113::8"
	prefixLen   = 24
	prefixLen6  = 64
	runDir      = "/run/uvswitch"
	readyWithin = 10 * time.Second
)

// A Lab is a set of namespaces and the processes in them. Its parts are web, db, host and out; their namespaces are NAME-web and
// so on.
type Lab struct {
	Name string
	Self string   // the uvswitch executable
	Args []string // further arguments of the switch's `run`

	attached bool // the lab's processes end with this process
	rootless bool // packets leave by sockets
}

// Parts are the namespaces of every lab.
var Parts = []string{"host", "out", "web", "db"}

// state describes a running lab; it is saved in a file.
type state struct {
	Exe  string   `json:"exe"` // executable of the processes
	PIDs []int    `json:"pids"`
	NS   []string `json:"namespaces"`
}

// New returns a lab that is not up yet; it needs root. With attached, the lab's processes end with this process.
func New(name string, attached bool) (*Lab, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if unix.Geteuid() != 0 {
		return nil, errors.New("the lab creates network namespaces, which needs root; without root, `uvswitch lab tour` shows the same, and `uvswitch exec -- COMMAND` plugs a command into a switch of your own")
	}
	if name == "" || strings.ContainsAny(name, "/ ") || len(name) > 32 {
		return nil, fmt.Errorf("lab name %q: must be 1 to 32 characters without slash and space", name)
	}
	return &Lab{Name: name, Self: self, attached: attached}, nil
}

// ownRun gives a process that is root of its user namespace only a /run of its own, where the names of namespaces are.
func ownRun() error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	}
	if err != nil {
		return fmt.Errorf("lab: cannot make a folder /run of its own: %w", err)
	}
	return nil
}

// NS returns the name of a part's namespace.
func (l *Lab) NS(part string) string { return l.Name + "-" + part }

// Socket returns the path of the control socket of the lab's switch.
func (l *Lab) Socket() string { return filepath.Join(runDir, l.Name+".sock") }

func (l *Lab) stateFile() string { return filepath.Join(runDir, l.Name+".json") }

// stateFolder is where the lab's switch keeps its state: a lab begins without policies.
func (l *Lab) stateFolder() string { return filepath.Join(runDir, l.Name+".state") }

// Client returns a client of the lab's switch.
func (l *Lab) Client() *api.Client { return api.NewClient(l.Socket()) }

// Up creates the namespaces and starts the switch and the outside web server. With containers, it also adds the ports web and db
// and starts web's server. After an error nothing remains.
func (l *Lab) Up(ctx context.Context, containers bool) (err error) {
	if s, err := l.load(); err == nil {
		for _, pid := range s.PIDs {
			if s.isOurs(pid) {
				return fmt.Errorf("lab %q is already up; `uvswitch lab show%s` shows it, `uvswitch lab down%s` stops it", l.Name, l.flag(), l.flag())
			}
		}
		l.sweep(s) // a lab that died without cleaning up
	}
	defer func() {
		if err != nil {
			_ = l.Down() // the first error is the one to report
		}
	}()
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	for _, p := range Parts {
		if err := l.AddNamespace(p); err != nil {
			return err
		}
	}
	if err := l.wire(); err != nil {
		return err
	}
	if l.rootless { // namespaces forbid ping sockets at first
		allow := func() error { return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0) }
		if err := netns.Do(l.path("host"), allow); err != nil {
			return fmt.Errorf("lab: cannot allow ping sockets: %w", err)
		}
	}
	if err := l.startSwitch(); err != nil {
		return err
	}
	if err := l.start("out", "lab", "tool", "httpd", "80", "the outside"); err != nil {
		return err
	}
	if !containers {
		return nil
	}
	for _, p := range []string{"web", "db"} {
		if err := l.Client().Do(ctx, "POST", "/ports", api.PortAdd{Name: p, Netns: l.NS(p)}, nil); err != nil {
			return err
		}
	}
	return l.start("web", "lab", "tool", "httpd", "80", "web")
}

// AddNamespace creates one namespace of the lab, with its loopback up.
func (l *Lab) AddNamespace(part string) error {
	name := l.NS(part)
	if _, err := os.Stat(filepath.Join("/run/netns", name)); err == nil {
		return fmt.Errorf("lab: namespace %s already exists; if it is not in use, remove it with `ip netns del %s`", name, name)
	}
	if err := l.remember(func(s *state) { s.NS = append(s.NS, part) }); err != nil {
		return err
	}
	err := netns.Do(netns.Original, func() error { // Do restores the thread's namespace afterwards
		if err := shareNamespaces(); err != nil {
			return err
		}
		h, err := nsname.NewNamed(name)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return fmt.Errorf("lab: cannot create namespace %s: %w", name, err)
	}
	return nil
}

// shareNamespaces makes the folder of namespaces a shared mount, as `ip netns add` does (iproute2, ip/ipnetns.c). Otherwise, the first `ip netns add`
// would mount the folder over the lab's namespaces, and nobody could remove them.
func shareNamespaces() error {
	const dir = "/run/netns"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	share := func() error { return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	if share() == nil {
		return nil
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("cannot mount %s: %w", dir, err)
	}
	return share()
}

// wire connects host and out with a veth pair, which represents the network card and the network outside.
func (l *Lab) wire() error {
	out, err := nsname.GetFromName(l.NS("out"))
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer out.Close()
	err = netns.Do(l.path("host"), func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(out)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return addressed("eth0", HostAddr, OutAddr, HostAddr6, OutAddr6)
	})
	if err == nil {
		err = netns.Do(l.path("out"), func() error {
			if err := addressed("eth0", OutAddr, "", OutAddr6, ""); err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if hasIPv6() {
				if err := addAddr(lo, BeyondAddr6, 128); err != nil {
					return err
				}
			}
			return addAddr(lo, BeyondAddr, 32)
		})
	}
	if err == nil {
		err = l.introduce()
	}
	if err != nil {
		return fmt.Errorf("lab: cannot connect the namespaces host and out: %w", err)
	}
	return nil
}

// introduce tells host and out each other's MAC, as if they had just asked. In the first second of a device, the kernel does not hear who asks
// for its IPv6 addresses.
func (l *Lab) introduce() error {
	if !hasIPv6() {
		return nil
	}
	ends := [2]string{"host", "out"}
	eth0 := func(i int, do func(netlink.Link) error) error {
		return netns.Do(l.path(ends[i]), func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return do(link)
		})
	}
	for i, other := range []string{OutAddr6, HostAddr6} {
		n := netlink.Neigh{Family: netlink.FAMILY_V6, IP: net.ParseIP(other), State: netlink.NUD_REACHABLE}
		err := eth0(1-i, func(link netlink.Link) error { n.HardwareAddr = link.Attrs().HardwareAddr; return nil })
		if err == nil {
			err = eth0(i, func(link netlink.Link) error { n.LinkIndex = link.Attrs().Index; return netlink.NeighSet(&n) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addressed gives a device its addresses and its default routes. An empty gateway gives no route. IPv6 is left out where the kernel has none.
func addressed(dev, addr, gateway, addr6, gateway6 string) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	if err := addAddr(link, addr, prefixLen); err != nil {
		return err
	}
	via := []string{gateway}
	if hasIPv6() {
		if err := addAddr(link, addr6, prefixLen6); err != nil {
			return err
		}
		via = append(via, gateway6)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for i, gateway := range via {
		if gateway == "" {
			continue
		}
		_, all, _ := net.ParseCIDR([]string{"0.0.0.0/0", "::/0"}[i])
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: net.ParseIP(gateway)}); err != nil {
			return err
		}
	}
	return nil
}

func addAddr(link netlink.Link, addr string, bits int) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(addr), Mask: net.CIDRMask(bits, 32)}}
	if a.IP.To4() == nil {
		a.Mask, a.Flags = net.CIDRMask(bits, 128), unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(link, a)
}

// hasIPv6 reports whether the kernel has IPv6.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func (l *Lab) path(part string) string { return filepath.Join("/run/netns", l.NS(part)) }

// startSwitch starts the switch in host and waits until it is ready.
func (l *Lab) startSwitch() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c := l.command(append([]string{"--socket", l.Socket(), "run", "--ready-fd", "3", "--state", l.stateFolder()}, l.Args...)...)
	c.ExtraFiles = []*os.File{w}
	log, err := os.CreateTemp("", "uvswitch-lab-*.log")
	if err != nil {
		w.Close()
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	c.Stderr = log
	err = l.launch("host", c)
	w.Close()
	if err != nil {
		return err
	}
	_ = r.SetReadDeadline(time.Now().Add(readyWithin))
	if b, _ := io.ReadAll(r); !strings.HasPrefix(string(b), "READY") {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("lab: the switch did not start: %s", strings.TrimSpace(string(said)))
	}
	return nil
}

// command returns a command that runs uvswitch with args, for launch.
func (l *Lab) command(args ...string) *exec.Cmd {
	c := exec.Command(l.Self, args...)
	c.Env = l.env()
	return c
}

// env returns the environment of commands in the lab, with UVSWITCH_SOCKET set to the lab's switch.
func (l *Lab) env() []string { return append(os.Environ(), "UVSWITCH_SOCKET="+l.Socket()) }

// Program returns the command for a program name in the lab: uvswitch itself, a program of the system, or our replacement for a
// tool that the system lacks. Run runs it.
func (l *Lab) Program(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path, err := l.Self, error(nil)
	if name != "uvswitch" {
		if path, err = exec.LookPath(name); err != nil {
			if !slices.Contains(tools, name) {
				return nil, fmt.Errorf("the program %s was not found on this machine", name)
			}
			path, args = l.Self, append([]string{"lab", "tool", name}, args...)
		}
	}
	c := exec.CommandContext(ctx, path, args...)
	c.Env = l.env()
	return c, nil
}

// start launches uvswitch with args in a part's namespace.
func (l *Lab) start(part string, args ...string) error { return l.launch(part, l.command(args...)) }

// launch starts c in a part's namespace and saves its pid in the state file.
func (l *Lab) launch(part string, c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if l.attached {
		c.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	if err := netns.Do(l.path(part), c.Start); err != nil {
		return fmt.Errorf("lab: cannot start a program in namespace %s: %w", part, err)
	}
	go func() { _ = c.Wait() }() // avoids a zombie
	return l.remember(func(s *state) { s.PIDs = append(s.PIDs, c.Process.Pid) })
}

// Run runs c in a part's namespace; an empty part means the caller's namespace.
func (l *Lab) Run(part string, c *exec.Cmd) error {
	if part == "" {
		return c.Run()
	}
	if err := netns.Do(l.path(part), c.Start); err != nil {
		return err
	}
	return c.Wait()
}

// Check returns an error unless the lab is up and has this part.
func (l *Lab) Check(part string) error {
	if _, err := l.load(); err != nil {
		return fmt.Errorf("lab %q is not up; `uvswitch lab up%s` starts it", l.Name, l.flag())
	}
	if _, err := os.Stat(l.path(part)); err != nil {
		return fmt.Errorf("the lab has no namespace %q; its namespaces are %s", part, strings.Join(Parts, ", "))
	}
	return nil
}

// flag returns the flag that selects the lab on a command line; empty for the default lab.
func (l *Lab) flag() string {
	if l.Name == "lab" {
		return ""
	}
	return " --name " + l.Name
}

// Down ends the processes and removes the namespaces. A lab that is not up is an error.
func (l *Lab) Down() error {
	s, err := l.load()
	if err != nil {
		return fmt.Errorf("lab %q is not up; `uvswitch lab up%s` starts it", l.Name, l.flag())
	}
	for _, pid := range s.PIDs {
		if s.isOurs(pid) {
			_ = unix.Kill(pid, unix.SIGTERM) // it may have ended meanwhile
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for _, pid := range s.PIDs {
		for s.isOurs(pid) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		if s.isOurs(pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	l.sweep(s)
	return nil
}

func (l *Lab) sweep(s *state) {
	for _, part := range s.NS {
		_ = nsname.DeleteNamed(l.NS(part)) // it may not exist any more
	}
	os.Remove(l.Socket())
	os.Remove(l.stateFile())
	os.RemoveAll(l.stateFolder())
}

// isOurs reports whether pid is still one of the lab's processes: the kernel reuses pids.
func (s *state) isOurs(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(exe, " (deleted)") == s.Exe
}

func (l *Lab) load() (*state, error) {
	b, err := os.ReadFile(l.stateFile())
	if err != nil {
		return nil, err
	}
	s := &state{}
	return s, json.Unmarshal(b, s)
}

// remember updates the state file. For a namespace it is called before the namespace is created.
func (l *Lab) remember(edit func(*state)) error {
	s, err := l.load()
	if err != nil {
		s = &state{}
	}
	s.Exe = l.Self
	edit(s)
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(l.stateFile(), b, 0o600)
}
