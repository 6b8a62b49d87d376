package hostclients

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A range of ports is as few prefixes as possible, and each port of the range is in exactly one.
func TestPrefixes(t *testing.T) {
	for _, tt := range []struct {
		lo, hi uint16
		count  int
	}{{80, 80, 1}, {80, 81, 1}, {81, 82, 2}, {49152, 65535, 1}, {1, 65535, 16}, {0, 65535, 1}, {1, 65534, 30}, {65535, 65535, 1}} {
		r := Rule{Proto: unix.IPPROTO_TCP, Host: netip.IPv4Unspecified(), Lo: tt.lo, Hi: tt.hi, Target: netip.MustParseAddr("10.0.0.2"), TargetPort: 7}
		covered, n := map[int]int{}, 0
		r.prefixes(func(k ruleKey, v ruleValue) {
			n++
			first := int(k.Port[0])<<8 | int(k.Port[1])
			for p := first; p < first+1<<(keyBits-k.Bits); p++ {
				covered[p]++
			}
			if v.Lo != tt.lo || v.TargetPort != 7 {
				t.Errorf("%v: %+v", tt, v)
			}
		})
		if n != tt.count || len(covered) != int(tt.hi)-int(tt.lo)+1 {
			t.Errorf("%v: %d prefixes for %d ports", tt, n, len(covered))
		}
		for p, times := range covered {
			if times != 1 || p < int(tt.lo) || p > int(tt.hi) {
				t.Errorf("%v: port %d is in %d prefixes", tt, p, times)
			}
		}
	}
}

// inNamespace runs the rest of a test in a network namespace of its own, with loopback up, and the programs on a cgroup of its own that this
// process is in.
func inNamespace(t *testing.T) *Programs {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("CI") != "" && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		t.Skip("this needs root: ", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Fatal(err)
	}
	p, err := Open("")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("this needs the root of cgroup2: ", err)
	}
	t.Cleanup(p.Close)
	return p
}

// serve answers on addr with its name, by TCP and UDP.
func serve(t *testing.T, addr, name string) {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name)
			c.Close()
		}
	}()
	go func() {
		for b := make([]byte, 100); ; {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(name), from)
		}
	}()
}

func ask(network, addr string) (answer, peer string) {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err.Error(), ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = c.Write([]byte("who are you?"))
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil && err != io.EOF {
		return err.Error(), ""
	}
	return string(b[:n]), c.RemoteAddr().String()
}

// Clients of the host are led to the container, see what they asked for as their peer, and are counted. Loopback plays host and container.
func TestLead(t *testing.T) {
	p := inNamespace(t)
	serve(t, "127.9.0.2:80", "web")
	serve(t, "127.9.0.2:1207", "range")
	container, every := netip.MustParseAddr("127.9.0.2"), netip.IPv4Unspecified()
	rules := []Rule{
		{Proto: unix.IPPROTO_TCP, Host: every, Lo: 8080, Hi: 8080, Target: container, TargetPort: 80},
		{Proto: unix.IPPROTO_UDP, Host: netip.MustParseAddr("127.0.0.1"), Lo: 5300, Hi: 5300, Target: container, TargetPort: 80},
		{Proto: unix.IPPROTO_UDP, Host: every, Lo: 2000, Hi: 20000, Target: container, TargetPort: 1000},
		{Proto: unix.IPPROTO_TCP, Host: every, Lo: 2000, Hi: 4000, Target: container, TargetPort: 1000},
	}
	if err := p.Set(rules, nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ network, addr, answer string }{
		{"tcp4", "127.0.0.1:8080", "web"},
		{"tcp4", "127.5.5.5:8080", "web"},
		{"udp4", "127.0.0.1:5300", "web"},
		{"udp4", "127.0.0.1:2207", "range"},
		{"tcp4", "127.0.0.1:2207", "range"},
	} {
		if answer, peer := ask(tt.network, tt.addr); answer != tt.answer || peer != tt.addr {
			t.Errorf("%s %s: %q from %s, want %q", tt.network, tt.addr, answer, peer, tt.answer)
		}
	}
	// A socket that is not connected: each answer comes from where the question went.
	u, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_ = u.SetDeadline(time.Now().Add(5 * time.Second))
	for _, addr := range []string{"127.0.0.1:5300", "127.0.0.1:2207"} {
		to, _ := net.ResolveUDPAddr("udp4", addr)
		_, _ = u.WriteTo([]byte("who are you?"), to)
		if _, from, err := u.ReadFrom(make([]byte, 100)); err != nil || from.String() != addr {
			t.Errorf("the answer to a datagram to %s comes from %v (%v)", addr, from, err)
		}
	}
	// The same socket, without the published port.
	direct := &net.UDPAddr{IP: net.IPv4(127, 9, 0, 2), Port: 80}
	_, _ = u.WriteTo([]byte("who are you?"), direct)
	if _, from, err := u.ReadFrom(make([]byte, 100)); err != nil || from.String() != direct.String() {
		t.Errorf("the answer to a datagram to the container itself comes from %v (%v)", from, err)
	}
	// A socket that is bound to a device stays on it.
	bound := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.BindToDevice(int(fd), "lo") })
	}}
	if c, err := bound.Dial("tcp4", "127.0.0.1:8080"); err == nil {
		t.Errorf("a client that is bound to a device was led to %v", c.RemoteAddr())
		c.Close()
	}
	if c, err := net.Dial("tcp4", "0.0.0.0:8080"); err != nil || c.RemoteAddr().String() != "127.0.0.1:8080" {
		t.Errorf("a client of 0.0.0.0 has the peer %v (%v)", c, err)
	} else {
		c.Close()
	}
	// A socket of IPv6 that sends to IPv4.
	if six, err := net.ListenPacket("udp", "[::]:0"); err == nil {
		defer six.Close()
		_ = six.SetDeadline(time.Now().Add(5 * time.Second))
		to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5300}
		_, _ = six.WriteTo([]byte("who are you?"), to)
		if _, from, err := six.ReadFrom(make([]byte, 100)); err != nil || from.String() != "127.0.0.1:5300" {
			t.Errorf("the answer to a datagram of an IPv6 socket comes from %v (%v)", from, err)
		}
	}
	if n := p.Connections(rules[0]); n != 3 {
		t.Errorf("%d connections to port 8080 were counted", n)
	}
	if n := p.Connections(rules[2]); n != 2 {
		t.Errorf("%d UDP clients of the range were counted", n)
	}
	// After the end of a published port, a client reaches the host itself.
	if err := p.Set(rules[1:], nil); err != nil {
		t.Fatal(err)
	}
	if answer, _ := ask("tcp4", "127.0.0.1:8080"); answer == "web" {
		t.Error("port 8080 is still led to the container")
	}
}
