package sockets

import (
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// A wire is an engine whose container is the test: each segment is written and read one by one. The clock stands still when clock is set.
type wire struct {
	t     *testing.T
	e     *Engine
	clock int64
	owner frame.PortID // of what is written
}

// A segment is one that the engine has sent.
type segment struct {
	to    uint16
	from  uint16
	flags uint8
	seq   uint32
	ack   uint32
	data  string
}

// kernel is this host's, as of before Linux 6.9 with old.
func kernel(t *testing.T, old bool) Kernel {
	l, err := NewLinux()
	if err != nil {
		t.Fatal(err)
	}
	l.NoPeekOffset = old
	return l
}

func newWire(t *testing.T, o Options) *wire {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test, in a namespace of its own
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("a network namespace needs root: %v", err)
		}
		t.Skipf("a network namespace needs root: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: outside.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
	}
	if err != nil {
		t.Fatal(err)
	}
	w, began := &wire{t: t, owner: 1}, time.Now()
	o.Sockets = cmp.Or(o.Sockets, 8000)
	o.MAC, o.PeerMAC, o.MayHost = 0x020000000001, 0x020000000002, func(uint8, uint16) bool { return true }
	o.LocalClient = [2]netip.Addr{netip.MustParseAddr("169.254.1.2"), netip.MustParseAddr("fd00::9")}
	o.Clock = func() int64 {
		if w.clock != 0 {
			return w.clock
		}
		return int64(time.Since(began))
	}
	if w.e, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.e.flows != nil {
			w.e.Close()
		}
	})
	return w
}

func (w *wire) write(p frametest.Packet, change func([]byte)) frame.Reason {
	p.SrcMAC, p.DstMAC, p.Src, p.Dst = 0x020000000002, 0x020000000001, cmp.Or(p.Src, frametest.Addr(inside.String())), cmp.Or(p.Dst, frametest.Addr(outside.String()))
	p.Partial = true
	raw := p.Raw()
	change(raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len:])
	var f frame.Frame
	f.Reset(raw, w.owner)
	frame.Parse(&f)
	return w.e.Write(&f)
}

func (w *wire) tcp(from, to uint16, flags uint8, seq, ack uint32, window uint16) {
	w.write(frametest.Packet{Proto: frame.TCP, SrcPort: from, DstPort: to, Flags: flags, TCPSeq: seq, TCPAck: ack}, func(h []byte) { binary.BigEndian.PutUint16(h[14:], window) })
}

// read returns the next segment, if there is one.
func (w *wire) read() (s segment, ok bool) {
	b := make([]byte, frame.VnetLen+frame.MaxFrame)
	n, err := w.e.Read(b)
	if err != nil {
		w.t.Fatal(err)
	}
	if n == 0 {
		return s, false
	}
	p := b[frame.VnetLen+frame.EthernetLen : n]
	if p[9] != frame.TCP {
		return s, true
	}
	h := frame.TCPHeader(p[frame.IPv4Len:])
	return segment{binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint16(h), h.Flags(), h.Seq(), h.Ack(), string(h[h.HeaderLen():])}, true
}

// await reads until is is true of all that was read, or a second has passed.
func (w *wire) await(is func([]segment) bool) (all []segment) {
	for until := time.Now().Add(time.Second); time.Now().Before(until) && !is(all); runtime.Gosched() {
		if s, ok := w.read(); ok {
			all = append(all, s)
		}
	}
	return all
}

func has(flag uint8) func([]segment) bool {
	return func(all []segment) bool { return len(all) > 0 && all[len(all)-1].flags&flag != 0 }
}

// listen returns a server's socket and its port.
func (w *wire) listen() (fd int, port uint16) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err := errors.Join(err, unix.Bind(fd, &unix.SockaddrInet4{Addr: outside.As4()}), unix.Listen(fd, 1000)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Close(fd) })
	sa, err := unix.Getsockname(fd)
	if err != nil {
		w.t.Fatal(err)
	}
	return fd, uint16(sa.(*unix.SockaddrInet4).Port)
}

// connect opens a connection, and returns the server's socket and the engine's next sequence number. The container's is 100.
func (w *wire) connect(server int, from, to, window uint16) (fd int, seq uint32) {
	w.t.Helper()
	w.tcp(from, to, frame.FlagSYN, 99, 0, window)
	got := w.await(has(frame.FlagSYN))
	if !has(frame.FlagSYN)(got) {
		w.t.Fatalf("no SYN-ACK: %v", got)
	}
	seq = got[len(got)-1].seq + 1
	w.tcp(from, to, frame.FlagACK, 100, seq, window)
	fd, _, err := unix.Accept(server)
	if err != nil {
		w.t.Fatal(err)
	}
	return fd, seq
}

// client connects to port 8080 of the outside address, which is published: from an address of the namespace, and from the same port each time.
func (w *wire) client(from netip.Addr) (fd int) {
	w.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4(), Port: 41000}))
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: outside.As4(), Port: 8080})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return fd
}

func (w *wire) send(fd int, text string, flags int) {
	if err := unix.Sendto(fd, []byte(text), flags, nil); err != nil {
		w.t.Fatal(err)
	}
}

func abort(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// Urgent data are passed as plain (RFC 6093, 5).
func TestUrgentData(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	fd, seq := w.connect(l, 40000, port, 60000)
	var got strings.Builder
	for _, x := range []struct {
		text  string
		flags int
	}{{"abc", 0}, {"U", unix.MSG_OOB}, {"def", 0}, {"ghi", 0}} {
		w.send(fd, x.text, x.flags)
		for _, s := range w.await(func(all []segment) bool { return len(all) > 0 && all[len(all)-1].data != "" }) {
			got.WriteString(s.data)
			seq += uint32(len(s.data))
		}
		w.tcp(40000, port, frame.FlagACK, 100, seq, 60000)
	}
	if got.String() != "abcUdefghi" {
		t.Errorf("the container got %q", got.String())
	}
}

// What a container does not answer is sent again after times that double, and given up after one and a half minutes: a virtual machine may be paused.
func TestRepetitions(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	fd, seq := w.connect(l, 40000, port, 60000)
	w.send(fd, "hello", 0)
	w.await(func(s []segment) bool { return len(s) > 0 && s[len(s)-1].data != "" })
	w.clock = w.e.now
	last, gap, began := w.clock, int64(0), w.clock
	for end := w.clock + int64(200*time.Second); w.clock < end; w.clock += int64(TickTime) {
		w.e.now = w.clock
		w.e.expire()
		s, ok := w.read()
		if !ok {
			continue
		}
		if s.flags&frame.FlagRST != 0 {
			if took := time.Duration(w.clock - began); took < 90*time.Second || took > 140*time.Second {
				t.Errorf("given up after %v", took)
			}
			return
		}
		if now := w.clock - last; s.data != "hello" || s.seq != seq || now < min(2*gap, longTime)-2*int64(TickTime) {
			t.Fatalf("after %v: %+v, the gap before was %v", time.Duration(now), s, time.Duration(gap))
		} else {
			last, gap = w.clock, now
		}
	}
	t.Error("it is never given up")
}

// A client uses its port again while the container still knows the connection before: the container answers the SYN with an acknowledgement of that
// one, and the reset that it gets lets the next SYN in (RFC 9293, 3.10.7.3). A new connection also has a higher sequence number than one before.
func TestSamePortAgain(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	if _, err := w.e.Listen(frame.TCP, outside, 8080, 1); err != nil {
		t.Fatal(err)
	}
	w.read()
	own := frametest.Addr(outside.String())
	before := uint32(0)
	for i := range 3 {
		fd := w.client(netip.MustParseAddr("127.0.0.1"))
		all := w.await(has(frame.FlagSYN))
		syn := all[len(all)-1]
		if i > 0 && int32(syn.seq-before) <= 0 {
			t.Errorf("sequence number %d after %d", syn.seq, before)
		}
		before = syn.seq
		answer := frametest.Packet{Proto: frame.TCP, Src: own, Dst: frametest.Addr("169.254.1.2"), SrcPort: 8080, DstPort: 41000, Flags: frame.FlagACK, TCPSeq: 7000, TCPAck: syn.seq - 500}
		w.write(answer, func([]byte) {})
		if got := w.await(has(frame.FlagRST)); !has(frame.FlagRST)(got) || got[len(got)-1].seq != syn.seq-500 {
			t.Errorf("an acknowledgement of another connection is answered by %v", got)
		}
		answer.Flags = frame.FlagRST
		if w.write(answer, func([]byte) {}); len(w.e.keys) != 1 {
			t.Error("a reset that acknowledges nothing ends the connection")
		}
		answer.Flags, answer.TCPAck = frame.FlagRST|frame.FlagACK, syn.seq+1
		if w.write(answer, func([]byte) {}); len(w.e.keys) != 0 {
			t.Error("a refusal does not end the connection")
		}
		unix.Close(fd)
	}
}

// Urgent data that wait in the socket with others: a read ends before them, and an acknowledgement covers more than such a read.
func TestQueuedUrgentData(t *testing.T) {
	for _, old := range []bool{false, true} {
		for _, end := range []bool{false, true} {
			w := newWire(t, Options{Kernel: kernel(t, old)})
			l, port := w.listen()
			fd, seq := w.connect(l, 40000, port, 60000)
			w.read() // looks at the socket once more
			w.send(fd, "abc", 0)
			w.send(fd, "def", unix.MSG_OOB)
			w.send(fd, "ghi", 0)
			if end {
				_ = unix.Shutdown(fd, unix.SHUT_WR)
			}
			all, got := "abcdefghi", ""
			for n := 0; n < len(all); runtime.Gosched() {
				n, _ = unix.IoctlGetInt(int(w.e.flows[1].fd), unix.SIOCINQ)
			}
			for until := time.Now().Add(2 * time.Second); len(got) < len(all) && time.Now().Before(until); {
				if s, ok := w.read(); ok && s.seq == seq+uint32(len(got)) {
					if got += s.data; s.flags&frame.FlagFIN != 0 && got != all {
						t.Fatalf("rereads %v: a FIN after %q", old, got)
					}
				} else if !ok {
					w.tcp(40000, port, frame.FlagACK, 100, seq+uint32(len(got)), 60000)
				}
			}
			w.tcp(40000, port, frame.FlagACK, 100, seq+uint32(len(got)), 60000)
			if n, _ := unix.IoctlGetInt(int(w.e.flows[1].fd), unix.SIOCINQ); n != 0 {
				t.Errorf("rereads %v: %d bytes stay in the socket", old, n)
			}
			if !end {
				w.send(fd, "jkl", 0)
			}
			more := w.await(func(s []segment) bool {
				return len(s) > 0 && (s[len(s)-1].data != "" || s[len(s)-1].flags&frame.FlagFIN != 0)
			})
			last := more[len(more)-1]
			if got != all || last.seq != seq+uint32(len(all)) || last.data != map[bool]string{false: "jkl"}[end] {
				t.Errorf("rereads %v, end %v: the container got %q, then %v", old, end, got, more)
			}
		}
	}
}

// Urgent data that come before the connection is accepted are passed, too.
func TestUrgentBeforeAccept(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	if _, err := w.e.Listen(frame.TCP, outside, 8080, 1); err != nil {
		t.Fatal(err)
	}
	w.read()
	fd := w.client(netip.MustParseAddr("127.0.0.1"))
	defer unix.Close(fd)
	for _, x := range "123" {
		w.send(fd, string(x), unix.MSG_OOB)
	}
	w.send(fd, "456", 0)
	all := w.await(has(frame.FlagSYN))
	syn := all[len(all)-1]
	c := int(w.e.flows[1].fd)
	for _, x := range [][2]int{{unix.SOL_TCP, unix.TCP_NODELAY}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_SOCKET, unix.SO_OOBINLINE}, {unix.SOL_SOCKET, unix.SO_LINGER}} {
		if on, err := unix.GetsockoptInt(c, x[0], x[1]); err != nil || on == 0 {
			t.Errorf("option %d of level %d is not inherited: %d, %v", x[1], x[0], on, err)
		}
	}
	p := frametest.Packet{Proto: frame.TCP, Src: frametest.Addr(outside.String()), Dst: frametest.Addr("169.254.1.2"), SrcPort: 8080, DstPort: syn.from, Flags: frame.FlagSYN | frame.FlagACK, TCPSeq: 99, TCPAck: syn.seq + 1, Window: 60000}
	w.write(p, func([]byte) {})
	got := ""
	for until := time.Now().Add(time.Second); len(got) < 6 && time.Now().Before(until); {
		if s, ok := w.read(); ok && s.seq == syn.seq+1+uint32(len(got)) {
			got += s.data
		}
	}
	if got != "123456" {
		t.Errorf("the container got %q", got)
	}
}

// The end of the switch is a reset for the peer, not an end of the data; but it is one where the container has sent its FIN.
func TestClose(t *testing.T) {
	for _, fin := range []bool{false, true} {
		w := newWire(t, Options{})
		l, port := w.listen()
		fd, seq := w.connect(l, 40000, port, 60000)
		if fin {
			w.tcp(40000, port, frame.FlagFIN|frame.FlagACK, 100, seq, 60000)
		}
		w.e.Stop()
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			for range 100 { // readers of the control API do not wait for the end
				w.e.Endpoints([]frame.Endpoints{{Src: inside, Dst: outside, SrcPort: 40000, DstPort: port, Proto: frame.TCP}})
			}
		}()
		_ = w.e.Close()
		<-asked
		n, err := unix.Read(fd, make([]byte, 10))
		if fin && (n != 0 || err != nil) || !fin && err != unix.ECONNRESET {
			t.Errorf("FIN %v: the peer reads %d bytes: %v", fin, n, err)
		}
	}
}

// The first FIN is acknowledged after it was to be sent again: there is no second one.
func TestLateAckOfFIN(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	fd, seq := w.connect(l, 40000, port, 60000)
	w.send(fd, "hello", 0)
	_ = unix.Shutdown(fd, unix.SHUT_WR)
	w.await(has(frame.FlagFIN))
	for range 4 { // three equal ones ask for the data again
		w.tcp(40000, port, frame.FlagACK, 100, seq, 60000)
	}
	w.tcp(40000, port, frame.FlagACK, 100, seq+6, 60000)
	for s, ok := w.read(); ok; s, ok = w.read() {
		if s.flags&frame.FlagFIN != 0 {
			t.Errorf("a FIN at %d after the one at 5", s.seq-seq)
		}
	}
	w.tcp(40000, port, frame.FlagFIN|frame.FlagACK, 100, seq+6, 60000)
	if n, _ := w.e.InUse(); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

// A server's reset reaches the container as such: behind data, and behind a half-close.
func TestServerResets(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newWire(t, Options{Kernel: kernel(t, again)})
		l, port := w.listen()
		fd, _ := w.connect(l, 40000, port, 60000)
		w.send(fd, "hello", 0)
		abort(fd)
		if got := w.await(has(frame.FlagRST)); !has(frame.FlagRST)(got) {
			t.Errorf("rereads %v: data, then a reset: %v", again, got)
		}
		fd, seq := w.connect(l, 40001, port, 60000)
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		w.await(has(frame.FlagFIN))
		w.tcp(40001, port, frame.FlagACK, 100, seq+1, 60000)
		abort(fd)
		if got := w.await(has(frame.FlagRST)); !has(frame.FlagRST)(got) {
			t.Errorf("rereads %v: a half-close, then a reset: %v", again, got)
		}
		if n, _ := w.e.InUse(); n != 0 {
			t.Errorf("rereads %v: %d sockets are left", again, n)
		}
	}
}

// Connections whose window is closed live as long as their containers answer, however many they are. They are asked less and less often.
func TestManyClosedWindows(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	const flows = 300
	seqs := map[uint16]uint32{}
	for i := range uint16(flows) {
		fd, seq := w.connect(l, 20000+i, port, 0)
		seqs[20000+i] = seq
		w.send(fd, "x", 0)
	}
	asked := 0
	w.clock = w.e.now
	for end := w.clock + int64(150*time.Second); w.clock < end; w.clock += int64(TickTime) {
		w.e.now = w.clock
		w.e.expire()
		for s, ok := w.read(); ok; s, ok = w.read() {
			if s.flags&frame.FlagRST != 0 {
				t.Fatalf("a reset of %d", s.to)
			}
			asked++
			w.tcp(s.to, port, frame.FlagACK, 100, seqs[s.to], 0)
		}
	}
	if n, _ := w.e.InUse(); n != flows || asked < 10*flows || asked > 40*flows {
		t.Errorf("%d of %d connections are left; %d probes", n, flows, asked)
	}
}

// What always has something to send keeps nobody waiting.
func TestBusySocketAndCalls(t *testing.T) {
	w := newWire(t, Options{})
	w.write(frametest.Packet{SrcPort: 40000, DstPort: 9, Payload: []byte("x")}, func([]byte) {})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err = errors.Join(err, unix.Connect(fd, &unix.SockaddrInet4{Addr: outside.As4(), Port: 40000})); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, _ = unix.Write(fd, []byte("x")) // may tell an earlier error
	_, _ = unix.Write(fd, []byte("x"))
	done := false
	w.e.Do(func() { done = true })
	for n := 0; !done; n++ {
		if n > 1000 {
			t.Fatal("what Do was given has not run")
		}
		_, _ = unix.Write(fd, []byte("x")) // one comes for each that is read
		w.read()
	}
}

// Two addresses of the host may publish the same port: the end of one leaves the other.
func TestPublishedAtTwoAddresses(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	one, err := w.e.Listen(frame.UDP, netip.MustParseAddr("127.0.0.1"), 5300, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.e.Listen(frame.UDP, outside, 5300, 1); err != nil {
		t.Fatal(err)
	}
	w.read()
	go one.Close()
	w.await(func([]segment) bool { return len(w.e.freePoint) > 0 })
	if _, ok := w.e.published(&key{in: addrOf(outside), inPort: 5300, out: addrOf(inside), outPort: 9}); !ok {
		t.Error("the other one has no socket for its answers")
	}
}

// toLoopback connects to port 8080 of ::1, and returns the entry of the connection.
func (w *wire) toLoopback() (client int, i int32) {
	w.t.Helper()
	if _, err := w.e.Listen(frame.TCP, netip.IPv4Unspecified(), 8080, 1); err != nil {
		w.t.Fatal(err)
	}
	w.read()
	client, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(client, &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: 8080})
	}
	if err != nil {
		w.t.Skip(err)
	}
	w.t.Cleanup(func() { unix.Close(client) })
	w.await(func([]segment) bool { return len(w.e.keys) > 0 })
	return client, w.e.keys[slices.Collect(maps.Keys(w.e.keys))[0]]
}

// A host without IPv6 addresses has none that could stand for ::1: its clients are served over IPv4.
func TestLoopbackWithoutAddress(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	if _, i := w.toLoopback(); w.e.flows[i].key.in != addrOf(outside) || w.e.flows[i].key.out != addrOf(w.e.o.LocalClient[0]) {
		t.Errorf("%+v", w.e.flows[i].key)
	}
}

// A client connects to ::1, and the container serves IPv4 only: it refuses the SYN over IPv6. The connection then begins over IPv4. If the container refuses
// that, too, the client is reset.
func TestTurnsToIPv4(t *testing.T) {
	for _, serves := range []bool{true, false} {
		w := newWire(t, Options{})
		w.e.SetHost([]netip.Addr{outside, netip.MustParseAddr("2001:db8::7")}, nil)
		client, i := w.toLoopback()
		c := &w.e.flows[i]
		if is4(c.key.in) {
			t.Fatalf("%+v", c.key)
		}
		refuse := func() {
			t.Helper()
			p := frametest.Packet{Proto: frame.TCP, SrcPort: c.key.inPort, DstPort: c.key.outPort, Flags: frame.FlagRST | frame.FlagACK, TCPAck: c.nxt}
			if is4(c.key.in) {
				p.Src, p.Dst = frame.AddrFrom(netipOf(c.key.in)), frame.AddrFrom(netipOf(c.key.out))
			} else {
				p.Src6, p.Dst6 = c.key.in, c.key.out
			}
			w.write(p, func([]byte) {})
		}
		refuse()
		if c.state != opening || c.key.in != addrOf(outside) || w.e.keys[c.key] != i || len(w.e.keys) != 1 {
			t.Fatalf("%+v, keys %v", c, w.e.keys)
		}
		got := w.await(func(all []segment) bool { return has(frame.FlagSYN)(all) && all[len(all)-1].seq == c.una })
		if len(got) == 0 || got[len(got)-1].to != 8080 {
			t.Fatalf("no SYN over IPv4: %v", got)
		}
		if !serves {
			refuse()
			w.read()
			if n, err := unix.Read(client, make([]byte, 1)); err != unix.ECONNRESET || len(w.e.keys) != 0 {
				t.Errorf("the client read %d bytes: %v", n, err)
			}
			continue
		}
		w.write(frametest.Packet{Proto: frame.TCP, Src: frame.AddrFrom(netipOf(c.key.in)), Dst: frame.AddrFrom(netipOf(c.key.out)), SrcPort: 8080, DstPort: c.key.outPort, Flags: frame.FlagSYN | frame.FlagACK, TCPSeq: 500, TCPAck: c.nxt},
			func(h []byte) { binary.BigEndian.PutUint16(h[14:], 60000) })
		w.send(client, "hello", 0)
		if got := w.await(func(all []segment) bool { return len(all) > 0 && all[len(all)-1].data == "hello" }); len(got) == 0 {
			t.Error("no data")
		}
	}
}

// A container's FIN is acknowledged once; if the container sends it again, once more, also when its acknowledgement of the peer's FIN ends the
// connection.
func TestFINIsAcknowledged(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newWire(t, Options{})
		l, port := w.listen()
		fd, seq := w.connect(l, 40000, port, 60000)
		acks := 0
		count := func(all []segment) {
			for _, s := range all {
				if s.ack == 101 && s.flags&frame.FlagFIN == 0 {
					acks++
				}
			}
		}
		w.tcp(40000, port, frame.FlagFIN|frame.FlagACK, 100, seq, 60000)
		count(w.await(func(s []segment) bool { return len(s) > 0 && s[len(s)-1].ack == 101 }))
		unix.Close(fd)
		count(w.await(has(frame.FlagFIN)))
		flags, at := uint8(frame.FlagACK), uint32(101)
		if again {
			flags, at = flags|frame.FlagFIN, 100
		}
		w.tcp(40000, port, flags, at, seq+1, 60000)
		for s, ok := w.read(); ok; s, ok = w.read() {
			count([]segment{s})
		}
		want := 1
		if again {
			want = 2
		}
		if n, _ := w.e.InUse(); acks != want || n != 0 {
			t.Errorf("sent again %v: %d acknowledgements, want %d; %d sockets are left", again, acks, want, n)
		}
	}
}
