// Package usedports reads which ports of the host are in use and by which process, so that NAT allocates none of them and an error can name
// the process. It changes nothing.
//
// Source: proc(5), /proc/net/tcp; see also diag.
package usedports

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Listener is a socket that occupies a port of the host: a listening TCP socket or a bound UDP socket. A raw socket occupies an IP
// protocol.
type Listener struct {
	Proto string // tcp, udp or raw
	Addr  netip.Addr
	Port  uint16 // of raw: the protocol's number
	inode string
}

const tcpListen = "0A"

// List returns the listeners of the calling thread's network namespace.
func List() ([]Listener, error) { return listOf("thread-self", diag) }

// ListOf returns the listeners of the network namespace that a process is in.
func ListOf(pid int) ([]Listener, error) {
	return listOf(strconv.Itoa(pid), func(string) ([]Listener, bool) { return nil, false })
}

// listOf reads each table by ask, or from /proc where ask cannot.
func listOf(process string, ask func(table string) ([]Listener, bool)) ([]Listener, error) {
	var all []Listener
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		if l, ok := ask(name); ok {
			all = append(all, l...)
			continue
		}
		l, err := read(process, name)
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("usedports: cannot read the sockets of the host: %w", err)
		}
		all = append(all, l...)
	}
	return all, nil
}

func read(process, name string) ([]Listener, error) {
	f, err := os.Open("/proc/" + process + "/net/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f, strings.TrimSuffix(name, "6"))
}

// parse reads a table of sockets in the format of /proc/net.
func parse(table io.Reader, proto string) (out []Listener, err error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		col := strings.Fields(lines.Text())
		if proto == "tcp" && len(col) > 3 && col[3] != tcpListen && col[3] != "st" {
			break // those that listen come first (linux net/ipv4/tcp_ipv4.c, tcp_seq_start); there may be very many connections
		}
		if len(col) < 10 || col[3] == "st" {
			continue
		}
		addr, port, ok := strings.Cut(col[1], ":")
		p, err := strconv.ParseUint(port, 16, 16)
		if !ok || err != nil || p == 0 {
			continue
		}
		out = append(out, Listener{proto, parseAddr(addr), uint16(p), col[9]})
	}
	return out, lines.Err()
}

// parseAddr parses an address as the kernel prints it: in hex, as 32-bit words in host byte order (little-endian).
func parseAddr(s string) netip.Addr {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}

// Hidden stands for the owner of a socket that this process may not see.
const Hidden = "a program that is not visible from here"

// Owner names the process that has the socket open, such as "pid 812 (nginx)", or is Hidden.
func (l Listener) Owner() string {
	want := "socket:[" + l.inode + "]"
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == want {
			pid := strings.Split(fd, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("pid %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return Hidden
}

// Find returns the listener with which a bind to addr and port would conflict; false if there is none.
func Find(list []Listener, proto string, addr netip.Addr, port uint16) (Listener, bool) {
	for _, l := range list {
		if l.Proto == proto && l.Port == port && (addr.IsUnspecified() || l.Addr.IsUnspecified() || l.Addr == addr) {
			return l, true
		}
	}
	return Listener{}, false
}

// Ephemeral returns the first and last port of the range from which the kernel picks ports for the host's own
// connections (net.ipv4.ip_local_port_range); Linux's default if it cannot be read.
func Ephemeral() (r [2]uint16) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return [2]uint16{32768, 60999}
	}
	f := strings.Fields(string(b))
	for i := range min(len(f), 2) {
		v, _ := strconv.ParseUint(f[i], 10, 16)
		r[i] = uint16(v)
	}
	return r
}
