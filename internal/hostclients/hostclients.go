// Package hostclients leads the host's own clients of published ports to the containers. A client that connects to a published port of the
// host, or sends a datagram there, gets the container's address at once, by programs that the kernel runs in connect(2) and sendmsg(2)
// (BPF_PROG_TYPE_CGROUP_SOCK_ADDR). Its packets then take the host port: there is no relay between the two ends, no copy, and a reset is a
// reset. getpeername(2) and recvmsg(2) say what the client asked for.
//
//	connect, sendmsg ──► programs.go: published? ──► the container's address; a map keeps what the socket asked for
//	recvmsg, getpeername ──► programs.go: in the map? ──► the address that the socket asked for
//
// The programs are on the root of cgroup2, since any process of the host may be a client. They act in one network namespace only, and end
// with this process.
//
// KeepPorts (floor.go) keeps some ports of the host free for NAT, by programs in bind(2).
//
// Package relay serves whom these programs do not serve: clients of ::1, and sockets that are bound to an address of loopback's network.
//
// Sources: linux kernel/bpf/cgroup.c, net/core/filter.c (sock_addr_is_valid_access), bpf_get_netns_cookie (Linux 5.14).
package hostclients

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
)

// A Rule is a published port that the switch has bound on the host: connections to ports Lo to Hi of an address lead to Target, from port TargetPort on.
type Rule struct {
	Proto      uint8      // TCP or UDP, by number
	Host       netip.Addr // unspecified: every address of the host
	Lo, Hi     uint16
	Target     netip.Addr
	TargetPort uint16 // for Lo
}

// Programs lead clients while they are open. Connections may be called while Set runs; two Sets may not run at once.
type Programs struct {
	cgroup *os.File
	cookie uint64 // of the host's network namespace
	maps   maps
	links  []link.Link
	rules  map[ruleKey]ruleValue   // in maps.rules
	own    map[netip.Prefix]uint32 // in maps.own
}

// ruleKey is the key of a trie: the published ports whose first bits are those of Port. Numbers are in network byte order.
type ruleKey struct {
	Bits  uint32 // of what follows that count
	Host  [4]byte
	Proto [2]byte
	Port  [2]byte
}

// ruleValue is where they lead.
type ruleValue struct {
	Target      [4]byte
	Lo          uint16 // host byte order
	TargetPort  uint16 // for Lo, likewise
	Connections uint64 // that were led; a UDP socket's datagrams to one port are one
}

// Open loads the programs and attaches them to cgroup, a folder of a cgroup2 file system. Empty stands for its root, wherever it is.
func Open(cgroup string) (*Programs, error) {
	dir, err := openCgroup(cgroup)
	if err != nil {
		return nil, err
	}
	cookie, err := netnsCookie()
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("the kernel gives network namespaces no cookie (Linux 5.14 does): %w", err)
	}
	p := &Programs{cgroup: dir, cookie: cookie, rules: map[ruleKey]ruleValue{}, own: map[netip.Prefix]uint32{}}
	if p.maps, err = newMaps(); err == nil {
		err = p.attachAll()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// attachAll loads and attaches each program that leads clients.
func (p *Programs) attachAll() error {
	for _, at := range hooks {
		prog, err := p.maps.load(at, p.cookie)
		if err != nil {
			return err
		}
		if err := p.attach(prog, at); err != nil {
			return err
		}
	}
	return nil
}

// attach attaches a program, and closes it.
func (p *Programs) attach(prog *ebpf.Program, at ebpf.AttachType) error {
	defer prog.Close() // the link holds it
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(p.cgroup.Fd()), Program: prog, Attach: at})
	if err != nil {
		return fmt.Errorf("cannot attach to cgroup2 at %v: %w", at, err)
	}
	p.links = append(p.links, l)
	return nil
}

// Close detaches the programs. On a nil Programs it does nothing.
func (p *Programs) Close() {
	if p == nil {
		return
	}
	for _, l := range p.links {
		l.Close()
	}
	p.maps.close()
	p.cgroup.Close()
}

// Set makes these the published ports, and own what the host takes for itself besides loopback's network: its addresses, and prefixes.
func (p *Programs) Set(rules []Rule, own []netip.Prefix) error {
	want := map[ruleKey]ruleValue{}
	for _, r := range rules {
		r.prefixes(func(k ruleKey, v ruleValue) { want[k] = v })
	}
	prefixes := map[netip.Prefix]uint32{}
	for _, x := range own {
		prefixes[x] = 1
	}
	return errors.Join(
		bpf.SetEntries(p.maps.own, p.own, prefixes, func(x netip.Prefix) any { return bpf.PrefixKey(x) }),
		bpf.SetEntries(p.maps.rules, p.rules, want, func(k ruleKey) any { return k }))
}

// Connections returns how many connections and UDP clients of the host were led by a rule.
func (p *Programs) Connections(r Rule) (n uint64) {
	if p == nil {
		return 0
	}
	r.prefixes(func(k ruleKey, _ ruleValue) {
		var v ruleValue
		if p.maps.rules.Lookup(k, &v) == nil {
			n += v.Connections
		}
	})
	return n
}

// prefixes calls fn for the fewest prefixes that make up the range of ports.
func (r *Rule) prefixes(fn func(ruleKey, ruleValue)) {
	v := ruleValue{Target: r.Target.As4(), Lo: r.Lo, TargetPort: r.TargetPort}
	for lo, hi := uint32(r.Lo), uint32(r.Hi); lo <= hi; {
		size := uint32(1)
		for lo&size == 0 && lo+2*size-1 <= hi && size < 1<<16 {
			size *= 2
		}
		k := ruleKey{Bits: keyBits - uint32(bits.TrailingZeros32(size)), Host: r.Host.As4()}
		binary.BigEndian.PutUint16(k.Proto[:], uint16(r.Proto))
		binary.BigEndian.PutUint16(k.Port[:], uint16(lo))
		fn(k, v)
		lo += size
	}
}

// netnsCookie is the kernel's name of this process's network namespace.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// openCgroup opens a folder of cgroup2; empty: its root. Where no mount of it is in sight, the root is opened without one, and then by way
// of the first process's mounts.
func openCgroup(path string) (*os.File, error) {
	if path != "" {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		} else if s.Type != unix.CGROUP2_SUPER_MAGIC {
			return nil, fmt.Errorf("%s is no folder of cgroup2", path)
		}
		return os.Open(path)
	}
	if mount, ok := cgroupMount(); ok {
		return os.Open(mount)
	}
	if fd, err := unmountedRoot(); err == nil {
		return os.NewFile(uintptr(fd), "cgroup2"), nil
	}
	const first = "/proc/1/root/sys/fs/cgroup"
	var s unix.Statfs_t
	if err := unix.Statfs(first, &s); err == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
		return os.Open(first)
	}
	return nil, errors.New("no cgroup2 is mounted here, and this process may not open its root (CAP_SYS_ADMIN)")
}

// cgroupMount finds the mount of the root of cgroup2.
func cgroupMount() (path string, ok bool) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // proc(5): 3 is the root, 4 the mount point; the type follows a "-"
		_, after, found := strings.Cut(line, " - ")
		if found && len(f) > 5 && f[3] == "/" && strings.HasPrefix(after, "cgroup2 ") {
			return strings.ReplaceAll(f[4], `\040`, " "), true
		}
	}
	return "", false
}

// unmountedRoot opens the root of cgroup2 without a mount point.
func unmountedRoot() (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}
