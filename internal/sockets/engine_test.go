package sockets

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A bench is an engine, and gVisor's TCP/IP stack as the container. What passes between them may be lost, repeated or out of order. The sockets are
// in a network namespace of their own, whose loopback device has the address of the outside.
type bench struct {
	t    *testing.T
	e    *Engine
	s    *stack.Stack
	link *channel.Endpoint
	rng  *rand.Rand
	loss int // of a thousand frames
	odd  int // of a thousand frames: repeated, or late
	late []func()
	last atomic.Uint32 // what Write has returned
	jobs chan func()   // for the thread in the namespace
	stop chan struct{}
	done chan struct{}
}

var (
	inside  = netip.MustParseAddr("10.0.0.2")
	outside = netip.MustParseAddr("198.51.100.9")
)

func newBench(t *testing.T, o Options) *bench {
	began := time.Now()
	o.MAC, o.PeerMAC, o.Sockets, o.Clock = 0x020000000001, 0x020000000002, max(o.Sockets, 0), func() int64 { return int64(time.Since(began)) }
	if o.Sockets == 0 {
		o.Sockets = 1000
	}
	o.MayHost = func(uint8, uint16) bool { return true }
	o.LocalClient = [2]netip.Addr{outside, netip.MustParseAddr("fd00::9")}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root: it makes a network namespace")
		}
		t.Skip("needs root: it makes a network namespace")
	}
	b := &bench{t: t, rng: rand.New(rand.NewPCG(1, 2)), jobs: make(chan func()), stop: make(chan struct{}), done: make(chan struct{})}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.e = e
	b.s = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	b.link = channel.New(4096, 1500, "")
	if err := b.s.CreateNIC(1, b.link); err != nil {
		t.Fatal(err)
	}
	if err := b.s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFrom4(inside.As4()).WithPrefix()}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	b.s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	ready := make(chan error)
	go b.work(ready)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(b.stop)
		<-b.done
		b.link.Close()
		b.s.Destroy()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// work is the worker: frames from the container, then those for it.
func (b *bench) work(ready chan error) {
	defer close(b.done)
	runtime.LockOSThread() // the thread ends with this goroutine
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: outside.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
		}
	}
	if ready <- err; err != nil {
		return
	}
	room := make([]byte, frame.VnetLen+frame.MaxFrame)
	poll := []unix.PollFd{{Fd: int32(b.e.FD()), Events: unix.POLLIN}}
	for {
		select {
		case <-b.stop:
			return
		case job := <-b.jobs:
			job()
		default:
		}
		idle := true
		for p := b.link.Read(); p != nil; p = b.link.Read() {
			idle = false
			v := p.ToView()
			b.cross(v.AsSlice(), b.leave)
			v.Release()
			p.DecRef()
		}
		for range 64 {
			n, err := b.e.Read(room)
			if err != nil {
				b.t.Error(err)
				return
			}
			if n == 0 {
				break
			}
			idle = false
			b.split(room[:n])
		}
		if idle {
			b.flushLate()
			_, _ = unix.Poll(poll, 1)
		}
	}
}

// cross carries a packet over the link, which is not a good one.
func (b *bench) cross(packet []byte, to func([]byte)) {
	switch x := b.rng.IntN(1000); {
	case x < b.loss:
	case x < b.loss+b.odd/2:
		to(packet)
		to(packet)
	case x < b.loss+b.odd:
		copied := bytes.Clone(packet)
		b.late = append(b.late, func() { to(copied) })
	default:
		to(packet)
		b.flushLate()
	}
}

func (b *bench) flushLate() {
	late := b.late
	b.late = nil
	for _, deliver := range late {
		deliver()
	}
}

// leave passes a packet of the container to the engine.
func (b *bench) leave(packet []byte) {
	raw := make([]byte, frame.VnetLen+frame.EthernetLen+len(packet))
	eth := raw[frame.VnetLen:]
	eth[0], eth[6], eth[12] = 2, 2, frame.TypeIPv4>>8
	copy(raw[frame.VnetLen+frame.EthernetLen:], packet)
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	why := b.e.Write(&f)
	b.last.Store(uint32(why))
}

// split passes a frame of the engine to the container, super-frames in pieces.
func (b *bench) split(raw []byte) {
	var f frame.Frame
	f.Reset(bytes.Clone(raw), 1)
	frame.Parse(&f)
	if f.Malformed != frame.None {
		b.t.Errorf("the engine makes a malformed frame: %v", f.Malformed)
	}
	g := frame.NewSegments(&f)
	buf := make([]byte, frame.VnetLen+frame.MaxFrame)
	for g.Next(buf) {
		b.cross(g.Bytes()[frame.EthernetLen:], b.enter)
	}
}

func (b *bench) enter(packet []byte) {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(bytes.Clone(packet))})
	b.link.InjectInbound(ipv4.ProtocolNumber, p)
	p.DecRef()
}

func (b *bench) dial(port int) (net.Conn, error) {
	return gonet.DialTCP(b.s, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(outside.As4()), Port: uint16(port)}, ipv4.ProtocolNumber)
}

// outsideDo runs fn in the namespace of the sockets.
func (b *bench) outsideDo(fn func()) {
	done := make(chan struct{})
	b.jobs <- func() { fn(); close(done) }
	<-done
}

// listen starts a server outside that gives each connection to serve.
func (b *bench) listen(serve func(*net.TCPConn)) (port int) {
	var l *net.TCPListener
	var err error
	b.outsideDo(func() { l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: outside.AsSlice()}) })
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// TestStreams sends data both ways at once, over links that lose, repeat and reorder, and compares sums.
func TestStreams(t *testing.T) {
	for _, reread := range []bool{false, true} {
		for _, link := range []struct{ loss, odd, size int }{{0, 0, 64 << 20}, {10, 0, 1 << 20}, {0, 30, 1 << 20}, {10, 30, 1 << 20}} {
			t.Run(fmt.Sprintf("reread %v, loss %d, odd %d", reread, link.loss, link.odd), func(t *testing.T) {
				b := newBench(t, Options{Kernel: kernel(t, reread)})
				b.loss, b.odd = link.loss, link.odd
				data := make([]byte, link.size)
				rng := rand.NewChaCha8([32]byte{1})
				_, _ = rng.Read(data)
				want := sha256.Sum256(data)
				got := make(chan [32]byte, 1)
				port := b.listen(func(c *net.TCPConn) {
					defer c.Close()
					sent := make(chan struct{})
					go func() {
						defer close(sent)
						_, _ = c.Write(data)
						_ = c.CloseWrite()
					}()
					defer func() { <-sent }()
					h := sha256.New()
					_, _ = io.Copy(h, c)
					got <- [32]byte(h.Sum(nil))
				})
				c, err := b.dial(port)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
				go func() {
					_, _ = c.Write(data)
					_ = c.(*gonet.TCPConn).CloseWrite()
				}()
				h := sha256.New()
				if n, err := io.Copy(h, c); err != nil || int(n) != len(data) || [32]byte(h.Sum(nil)) != want {
					t.Errorf("to the container: %d bytes, %v", n, err)
				}
				if <-got != want {
					t.Error("from the container: other data")
				}
			})
		}
	}
}

// TestEnds: how connections fail and end.
func TestEnds(t *testing.T) {
	b := newBench(t, Options{})
	if _, err := b.dial(1); err == nil || !bytes.Contains([]byte(err.Error()), []byte("refused")) {
		t.Errorf("a port that nobody listens on: %v", err)
	}

	// The server ends first; the container still sends.
	heard := make(chan string, 1)
	port := b.listen(func(c *net.TCPConn) {
		_, _ = c.Write([]byte("bye"))
		_ = c.CloseWrite()
		text, _ := io.ReadAll(c)
		heard <- string(text)
		c.Close()
	})
	c, err := b.dial(port)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if text, err := io.ReadAll(c); err != nil || string(text) != "bye" {
		t.Errorf("until the server's end: %q %v", text, err)
	}
	_, _ = c.Write([]byte("late words"))
	c.Close()
	if got := <-heard; got != "late words" {
		t.Errorf("after the server's end, it hears %q", got)
	}

	// Resets pass both ways.
	port = b.listen(func(c *net.TCPConn) {
		_ = c.SetLinger(0)
		c.Close()
	})
	if c, err = b.dial(port); err == nil {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err = c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("after the server's reset: %v", err)
		}
	}
	ended := make(chan error, 1)
	port = b.listen(func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	})
	if _, err = b.dial(port); err != nil {
		t.Fatal(err)
	}
	b.e.Do(func() { b.e.Forget(1) })
	if err := <-ended; err == nil || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the container has gone; the server's connection ends by %v", err)
	}
	n := 1
	for until := time.Now().Add(20 * time.Second); n > 0 && time.Now().Before(until); { // the last segments are on their way
		b.outsideDo(func() { n, _ = b.e.InUse() })
	}
	if n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

// TestSlowContainer: a container that does not read closes its window. Nothing is lost, and no memory is used for what waits.
func TestSlowContainer(t *testing.T) {
	b := newBench(t, Options{})
	data := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
	port := b.listen(func(c *net.TCPConn) {
		_, _ = c.Write(data)
		c.Close()
	})
	c, err := b.dial(port)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	probes := b.e.o.Clock() + int64(2*time.Second)
	for b.e.o.Clock() < probes { // until the window has been probed
		runtime.Gosched()
		unix.Nanosleep(&unix.Timespec{Nsec: 1e7}, nil)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
	}
}

// TestExhausted: when there are no sockets left, the container is told at once.
func TestExhausted(t *testing.T) {
	b := newBench(t, Options{Sockets: 4})
	port := b.listen(func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	var open []net.Conn
	for range 2 {
		c, err := b.dial(port)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := b.dial(port); err == nil {
		t.Error("a third connection, where a container may have two")
	}
	if why := frame.Reason(b.last.Load()); why != frame.SocketsExhausted {
		t.Errorf("the SYN was dropped for %v", why)
	}
	for _, c := range open {
		c.Close()
	}
}

// TestDatagrams: one socket for an endpoint, whatever it talks to, and errors of the port that nobody listens on.
func TestDatagrams(t *testing.T) {
	b := newBench(t, Options{})
	var servers []*net.UDPConn
	for range 2 {
		var c *net.UDPConn
		var err error
		b.outsideDo(func() { c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: outside.AsSlice()}) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		servers = append(servers, c)
	}
	c, err := gonet.DialUDP(b.s, &tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(inside.As4()), Port: 40000}, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var from []netip.AddrPort
	text := make([]byte, 100)
	for i, s := range servers {
		if _, err := c.WriteTo([]byte("question"), &net.UDPAddr{IP: outside.AsSlice(), Port: s.LocalAddr().(*net.UDPAddr).Port}); err != nil {
			t.Fatal(err)
		}
		n, at, err := s.ReadFromUDPAddrPort(text)
		if err != nil || string(text[:n]) != "question" {
			t.Fatalf("server %d: %q %v", i, text[:n], err)
		}
		from = append(from, at)
	}
	if from[0] != from[1] {
		t.Errorf("two servers see one endpoint as %v", from)
	}
	if _, err := servers[1].WriteToUDPAddrPort([]byte("answer"), from[0]); err != nil {
		t.Fatal(err)
	}
	if n, _, err := c.ReadFrom(text); err != nil || string(text[:n]) != "answer" {
		t.Errorf("the answer: %q %v", text[:n], err)
	}
}

// TestHostile: frames that are damaged in any way end nothing but themselves, and leave no socket behind.
func TestHostile(t *testing.T) {
	b := newBench(t, Options{Sockets: 64})
	port := b.listen(func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	c, err := b.dial(port)
	if err != nil {
		t.Fatal(err)
	}
	own := c.LocalAddr().(*net.TCPAddr).Port
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		b.outsideDo(func() {
			for range 100 {
				b.damaged(rng, own, port)
			}
		})
	}
	c.Close()
	b.outsideDo(func() { b.e.Forget(1) })
	if n, _ := b.e.InUse(); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

// damaged passes one frame of random bytes to the engine. Its addresses are right; half of the frames have the ports of a connection.
func (b *bench) damaged(rng *rand.Rand, own, port int) {
	proto := []uint8{frame.TCP, frame.TCP, frame.UDP, frame.ICMP, frame.GRE}[rng.IntN(5)]
	p := make([]byte, 20+rng.IntN(80))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	p[0], p[6], p[7], p[9] = 0x45, 0, 0, proto
	p[2], p[3] = 0, byte(len(p))
	src, dst := inside.As4(), outside.As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	if len(p) >= 34 && rng.IntN(2) == 0 { // one that is of the connection, but for its numbers
		p[20], p[21], p[22], p[23] = byte(own>>8), byte(own), byte(port>>8), byte(port)
	}
	p[10], p[11] = 0, 0
	sum := ^frame.Sum(p[:20], 0)
	p[10], p[11] = byte(sum>>8), byte(sum)
	raw := make([]byte, frame.VnetLen+frame.EthernetLen+len(p))
	eth := raw[frame.VnetLen:]
	eth[0], eth[6], eth[12] = 2, 2, frame.TypeIPv4>>8
	copy(eth[frame.EthernetLen:], p)
	if proto == frame.TCP && rng.IntN(4) > 0 { // a checksum that the kernel would complete
		raw[0], raw[6], raw[8] = frame.VnetNeedsCsum, frame.EthernetLen+20, 16
	}
	var f frame.Frame
	f.Reset(raw, 1)
	if frame.Parse(&f); f.Verdict != frame.Drop {
		b.e.Write(&f)
	}
}
