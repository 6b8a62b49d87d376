package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/share"
)

// udp writes a datagram of a port of the switch.
func (w *wire) udp(owner frame.PortID, from, to uint16) frame.Reason {
	w.owner = owner
	defer func() { w.owner = 1 }()
	return w.write(frametest.Packet{SrcPort: from, DstPort: to, Payload: []byte("x")}, func([]byte) {})
}

// A port that opens sockets without end leaves some to the others.
func TestShares(t *testing.T) {
	w := newWire(t, Options{Sockets: 64})
	w.e.Share(share.Among{Ports: 3})
	w.clock = w.e.now
	opened := 0
	for w.udp(1, uint16(20000+opened), 9) == frame.None {
		opened++
	}
	if opened < 16 || opened > 32 {
		t.Errorf("one port may have %d of 64 sockets", opened)
	}
	if why := w.udp(2, 30000, 9); why != frame.None {
		t.Errorf("another port gets none: %v", why)
	}
	w.clock += reuseTime + 1
	if why := w.udp(1, 50000, 9); why != frame.None {
		t.Errorf("a socket that has asked once is not used again: %v", why)
	}
	if n, _ := w.e.InUse(); n != opened+1 {
		t.Errorf("%d sockets are in use", n)
	}
}

// A socket that was used once is closed soon; one of a conversation stays.
func TestIdleTimes(t *testing.T) {
	w := newWire(t, Options{})
	w.clock = w.e.now
	w.udp(1, 20000, 53)
	w.udp(1, 20001, 9)
	p := &w.e.points[w.e.pointKeys[pointKey{addrOf(inside), 20001, pointUDP}]]
	p.bits |= hasAnswer
	w.udp(1, 20001, 9)
	w.udp(1, 20002, 9)
	for _, x := range []struct {
		after int64
		left  int
	}{{questionTime, 2}, {singleTime, 1}, {streamTime, 0}} {
		w.clock = p.last + x.after + int64(time.Second)
		w.e.now, w.e.swept = w.clock, 0
		w.e.sweepPoints()
		if n, _ := w.e.InUse(); n != x.left {
			t.Errorf("%d sockets after %v, want %d", n, time.Duration(x.after), x.left)
		}
	}
}

// Resets for which there is no room are sent later: a program that only reads would wait for ever.
func TestLateResets(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	const flows = 400
	var servers []int
	for i := range uint16(flows) {
		fd, _ := w.connect(l, 20000+i, port, 60000)
		servers = append(servers, fd)
	}
	for i := range w.e.flows {
		if c := &w.e.flows[i]; c.state != closed {
			w.e.resetBoth(int32(i))
		}
	}
	told := map[uint16]bool{}
	for s, ok := w.read(); ok; s, ok = w.read() {
		if s.flags&frame.FlagRST != 0 {
			told[s.to] = true
		}
	}
	if len(told) != flows {
		t.Errorf("%d of %d connections were told", len(told), flows)
	}
	for _, fd := range servers {
		unix.Close(fd)
	}
}

// What a container has sent before its end reaches the peer, also what the socket has not taken yet.
func TestDataOfTheGone(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	fd, seq := w.connect(l, 40000, port, 60000)
	next, refused := uint32(100), 0
	for refused < 3 { // until the socket and the piece are full
		before := w.e.flows[1].rcvNxt
		w.write(frametest.Packet{Proto: frame.TCP, SrcPort: 40000, DstPort: port, Flags: frame.FlagACK, TCPSeq: next, TCPAck: seq, Payload: make([]byte, 30000)}, func([]byte) {})
		next += w.e.flows[1].rcvNxt - before
		if w.e.flows[1].rcvNxt == before {
			refused++
		}
	}
	w.tcp(40000, port, frame.FlagFIN|frame.FlagACK, next, seq, 60000)
	if w.e.flows[1].piece < 0 {
		t.Fatal("the socket has taken all: the test is none")
	}
	w.e.Forget(1)
	server := os.NewFile(uintptr(fd), "server")
	got := make(chan int64, 1)
	go func() {
		n, err := io.Copy(io.Discard, server)
		if err != nil {
			t.Error(err)
		}
		got <- n
	}()
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); w.read() {
		select {
		case n := <-got:
			if n != int64(next-100) {
				t.Errorf("the peer got %d of %d bytes", n, next-100)
			}
			if n, _ := w.e.InUse(); n != 0 {
				t.Errorf("%d sockets are left", n)
			}
			return
		default:
		}
	}
	t.Error("the peer waits")
}

// Containers begin nothing with what the host's kernel takes for its own: addresses, and prefixes of the table local.
func TestHostPrefixes(t *testing.T) {
	w := newWire(t, Options{})
	w.e.o.MayHost = func(uint8, uint16) bool { return false }
	w.e.SetHost(nil, []netip.Prefix{netip.PrefixFrom(outside, 24).Masked()})
	w.read()
	if why := w.udp(1, 20000, 9); why != frame.HostInbound {
		t.Errorf("a datagram: %v", why)
	}
}

// The handshake is not over until the SYN-ACK is acknowledged.
func TestWrongAck(t *testing.T) {
	w := newWire(t, Options{})
	_, port := w.listen()
	w.tcp(40000, port, frame.FlagSYN, 99, 0, 60000)
	got := w.await(has(frame.FlagSYN))
	w.write(frametest.Packet{Proto: frame.TCP, SrcPort: 40000, DstPort: port, Flags: frame.FlagACK, TCPSeq: 100, TCPAck: got[len(got)-1].seq, Payload: []byte("data")}, func([]byte) {})
	if got = w.await(has(frame.FlagRST)); !has(frame.FlagRST)(got) {
		t.Errorf("the answer: %v", got)
	}
	if w.e.flows[1].rcvNxt != 100 {
		t.Error("the data were taken")
	}
}

// A container that provokes answers without end delays neither the data of others nor their handshakes.
func TestProvokedAnswers(t *testing.T) {
	for what, provokes := range map[string]func(w *wire, port, i uint16){
		"segments of no connection":     func(w *wire, port, i uint16) { w.tcp(20000+i, port, frame.FlagACK, 1, 1, 60000) },
		"SYNs in a connection":          func(w *wire, port, _ uint16) { w.tcp(40000, port, frame.FlagSYN, 7, 0, 60000) },
		"datagrams that cannot be sent": func(w *wire, _, i uint16) { w.sendNowhere(20000 + i) },
	} {
		w := newWire(t, Options{})
		l, port := w.listen()
		fd, _ := w.connect(l, 40000, port, 60000)
		provoke := func() {
			for i := range uint16(400) {
				provokes(w, port, i)
			}
		}
		w.send(fd, "data", 0)
		provoke()
		data := w.await(func(all []segment) bool { return len(all) > 0 && all[len(all)-1].data != "" })
		if len(data) > 4 || data[len(data)-1].data != "data" {
			t.Errorf("%s: %d segments before the data", what, len(data)-1)
		}
		w.tcp(40001, port, frame.FlagSYN, 99, 0, 60000)
		var got []segment
		for n := 0; n < 4*mostReads && !has(frame.FlagSYN)(got); n++ { // not for a time: what is provoked takes most of it on a busy machine
			provoke()
			if s, ok := w.read(); ok {
				got = append(got, s)
			}
		}
		if !has(frame.FlagSYN)(got) {
			t.Errorf("%s: no handshake", what)
		}
	}
}

// sendNowhere writes a datagram to an address that no route leads to.
func (w *wire) sendNowhere(from uint16) {
	w.write(frametest.Packet{SrcPort: from, DstPort: 9, Dst: frametest.Addr("203.0.113.77"), Payload: []byte("x")}, func([]byte) {})
}

// A refusal is counted as a drop of the SYN.
func TestRefusedIsCounted(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	unix.Close(l)
	var why frame.Reason
	if why = w.write(frametest.Packet{Proto: frame.TCP, SrcPort: 40000, DstPort: port, Flags: frame.FlagSYN, TCPSeq: 1}, func([]byte) {}); why == frame.None {
		w.await(has(frame.FlagRST))
		if late := w.e.Failures(nil); len(late) == 1 {
			why = late[0].Reason
		}
	}
	if why != frame.ConnectRefused {
		t.Errorf("the reason: %v", why)
	}
}

// The end of a published port frees its sockets once.
func TestListeningCloses(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	for i := range uint16(3) { // points that have ended
		w.udp(1, 20000+i, 9)
	}
	w.e.Forget(1)
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		for range 3 {
			l, err := w.e.Listen(proto, netip.IPv4Unspecified(), 5300, 1)
			if err != nil {
				t.Fatal(err)
			}
			w.read()
			w.e.Stop() // Close waits for no worker
			l.Close()
			w.e.calls.stopped = false
		}
	}
	if slices.Sort(w.e.freePoint); len(slices.Compact(slices.Clone(w.e.freePoint))) != len(w.e.freePoint) {
		t.Errorf("entries were freed twice: %v", w.e.freePoint)
	}
}

// Clients on the host that have one port at two addresses are two clients.
func TestClientsWithOnePort(t *testing.T) {
	for _, udp := range []bool{false, true} {
		t.Run(fmt.Sprint("udp ", udp), func(t *testing.T) {
			w := newWire(t, Options{})
			w.e.SetHost([]netip.Addr{outside}, nil)
			proto, typ := uint8(frame.TCP), unix.SOCK_STREAM
			if udp {
				proto, typ = frame.UDP, unix.SOCK_DGRAM
			}
			if _, err := w.e.Listen(proto, netip.IPv4Unspecified(), 8080, 1); err != nil {
				t.Fatal(err)
			}
			w.read()
			var clients []int
			for i := range byte(2) {
				c, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					err = unix.Bind(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1 + i}, Port: 41000})
				}
				if err == nil {
					err = unix.Connect(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 8080})
				}
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(c)
				if clients = append(clients, c); udp {
					_, _ = unix.Write(c, []byte("question"))
				}
			}
			ports := map[uint16]bool{}
			b := make([]byte, frame.VnetLen+frame.MaxFrame)
			for until := time.Now().Add(time.Second); len(ports) < 2 && time.Now().Before(until); {
				if n, _ := w.e.Read(b); n > 0 {
					l4 := b[frame.VnetLen+frame.EthernetLen+frame.IPv4Len:]
					ports[uint16(l4[0])<<8|uint16(l4[1])] = true
				}
			}
			if len(ports) != 2 {
				t.Fatalf("the container sees clients at the ports %v", ports)
			}
			if !udp {
				return
			}
			for p := range ports { // each answer reaches its client
				k := key{in: addrOf(outside), out: w.e.localClient(addrOf(inside)), inPort: 8080, outPort: p}
				real, _ := w.e.locals.real(&k, w.e.now)
				answer := frametest.Packet{Src: frame.Addr(k.in.Lo), Dst: frame.Addr(k.out.Lo), SrcPort: 8080, DstPort: p, Payload: fmt.Append(nil, real.out.Lo&0xff)}
				if why := w.write(answer, func([]byte) {}); why != frame.None {
					t.Fatalf("the answer does not leave: %v", why)
				}
			}
			for i, c := range clients {
				_ = unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
				if n, err := unix.Read(c, b); err != nil || string(b[:n]) != fmt.Sprint(1+i) {
					t.Errorf("client %d got %q: %v", i, b[:max(n, 0)], err)
				}
			}
		})
	}
}

// A client on the host is known again after the host's address has changed.
func TestClientAfterNewAddress(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	if _, err := w.e.Listen(frame.UDP, netip.IPv4Unspecified(), 8080, 1); err != nil {
		t.Fatal(err)
	}
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 8080})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(c)
	b := make([]byte, frame.VnetLen+frame.MaxFrame)
	for _, own := range []netip.Addr{outside, netip.MustParseAddr("198.51.100.77")} {
		w.e.SetHost([]netip.Addr{own}, nil)
		_, _ = unix.Write(c, []byte("question"))
		n := 0
		for until := time.Now().Add(time.Second); n == 0 && time.Now().Before(until); {
			n, _ = w.e.Read(b)
		}
		ip := frame.IPv4(b[frame.VnetLen+frame.EthernetLen : n])
		port := binary.BigEndian.Uint16(ip[frame.IPv4Len:])
		if why := w.write(frametest.Packet{Src: ip.Dst(), Dst: ip.Src(), SrcPort: 8080, DstPort: port, Payload: []byte("answer")}, func([]byte) {}); why != frame.None {
			t.Fatalf("at %v, the answer does not leave: %v", own, why)
		}
		_ = unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
		if n, err := unix.Read(c, b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("at %v, the client got %q: %v", own, b[:max(n, 0)], err)
		}
	}
}

// Entries of connections that end at once are used again, without a tick: there is room for as many as there may be sockets.
func TestManyShortConnections(t *testing.T) {
	w := newWire(t, Options{Sockets: 16})
	w.clock = 1
	l, port := w.listen()
	for i := range uint16(200) {
		fd, seq := w.connect(l, 20000+i, port, 60000)
		w.tcp(20000+i, port, frame.FlagRST, 100, seq, 0)
		unix.Close(fd)
	}
	if n := cap(w.e.flows); len(w.e.flows) > 4 || n != 1+16+2 {
		t.Errorf("%d of %d entries were used", len(w.e.flows), n)
	}
}

// A burst of clients is served, however little room there is for the segments that greet the container.
func TestBurstOfClients(t *testing.T) {
	w := newWire(t, Options{})
	w.e.SetHost([]netip.Addr{outside}, nil)
	if _, err := w.e.Listen(frame.TCP, netip.IPv4Unspecified(), 8080, 1); err != nil {
		t.Fatal(err)
	}
	w.read()
	const burst = 1000
	for range burst {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(c)
		if err := unix.Connect(c, &unix.SockaddrInet4{Addr: outside.As4(), Port: 8080}); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	syns := 0
	for until := time.Now().Add(10 * time.Second); syns < burst && time.Now().Before(until); {
		if s, ok := w.read(); ok && s.flags&frame.FlagSYN != 0 {
			syns++
		}
	}
	if syns != burst {
		t.Errorf("the container got %d of %d SYNs", syns, burst)
	}
}

// A connection takes no more memory than its entry.
func TestFlowSize(t *testing.T) {
	if n := unsafe.Sizeof(tcpFlow{}); n > 128 {
		t.Errorf("a flow takes %d bytes", n)
	}
}

// Datagrams that the data plane has joined leave as such, each alone; also where the way is too narrow for the kernel to cut them (UDP_SEGMENT).
func TestJoinedDatagrams(t *testing.T) {
	for _, mtu := range []int{65536, 1280} {
		w := newWire(t, Options{})
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetMTU(lo, mtu)
		}
		if err != nil {
			t.Fatal(err)
		}
		server, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err = errors.Join(err, unix.Bind(server, &unix.SockaddrInet4{Addr: outside.As4(), Port: 7000})); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(server)
		var gro frame.GRO
		gro.Begin()
		frames := make([]frame.Frame, 5)
		for i := range frames {
			p := frametest.Packet{SrcMAC: 2, DstMAC: 4, Src: frametest.Addr(inside.String()), Dst: frametest.Addr(outside.String()), SrcPort: 20000, DstPort: 7000, Payload: bytes.Repeat([]byte{byte('a' + i)}, 1400), Partial: true}
			frames[i].Reset(p.Raw(), 1)
			frame.Parse(&frames[i])
			if what, _ := gro.Add(&frames[i], w.e.GSOMaxSize(frame.UDP)); (what == frame.Merged) != (i > 0) {
				t.Fatalf("datagram %d: %v", i, what)
			}
		}
		if why := w.e.Write(&frames[0]); why != frame.None {
			t.Fatal(why)
		}
		for i := range frames {
			b := make([]byte, 4000)
			n, err := unix.Read(server, b)
			if n != 1400 || b[0] != byte('a'+i) {
				t.Errorf("MTU %d: datagram %d has %d bytes: %v", mtu, i, n, err)
			}
		}
	}
}

// The way of a segment, in and out, allocates nothing.
func TestAllocations(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	fd, seq := w.connect(l, 40000, port, 60000)
	raw := frametest.Packet{SrcMAC: 2, DstMAC: 4, Src: frametest.Addr(inside.String()), Dst: frametest.Addr(outside.String()), Proto: frame.TCP, SrcPort: 40000, DstPort: port,
		Flags: frame.FlagACK, TCPSeq: 100, TCPAck: seq, Payload: make([]byte, 1000), Partial: true}.Raw()
	tcp := raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len:]
	room, answer := make([]byte, frame.VnetLen+frame.MaxFrame), make([]byte, 1000)
	var f frame.Frame
	next, had := uint32(100), seq
	n := testing.AllocsPerRun(50, func() {
		binary.BigEndian.PutUint32(tcp[4:], next)
		binary.BigEndian.PutUint32(tcp[8:], had)
		f.Reset(raw, 1)
		frame.Parse(&f)
		w.e.Write(&f)
		next += 1000
		_, _ = unix.Write(fd, answer)
		for range 8 {
			size, _ := w.e.Read(room)
			if size == 0 {
				break
			}
			had += uint32(size - frame.VnetLen - frame.EthernetLen - frame.IPv4Len - frame.TCPLen)
		}
		_, _ = unix.Read(fd, answer)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if next-w.e.flows[1].rcvNxt != 0 || had-seq < 10000 {
		t.Errorf("nothing passes: %d and %d bytes", w.e.flows[1].rcvNxt-100, had-seq)
	}
}

// A SYN-ACK in a connection that is up carries nothing.
func TestSYNInConnection(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	_, seq := w.connect(l, 40000, port, 60000)
	w.tcp(40000, port, frame.FlagSYN|frame.FlagACK, 100, seq, 60000)
	if w.e.flows[1].rcvNxt != 100 {
		t.Error("it took a sequence number")
	}
}

// A client that has reset its connection, and comes again from the same port, is served; and a client that goes before the container has answered
// leaves nothing.
func TestClientsThatReset(t *testing.T) {
	w := newWire(t, Options{})
	if _, err := w.e.Listen(frame.TCP, outside, 8080, 1); err != nil {
		t.Fatal(err)
	}
	w.read()
	for range 2 { // the container answers, and its window is closed
		fd := w.client(outside)
		all := w.await(has(frame.FlagSYN))
		syn := all[len(all)-1]
		answer := frametest.Packet{Proto: frame.TCP, Src: frametest.Addr(outside.String()), Dst: frametest.Addr(outside.String()), SrcPort: 8080, DstPort: 41000, Flags: frame.FlagSYN | frame.FlagACK, TCPSeq: 99, TCPAck: syn.seq + 1}
		w.write(answer, func(h []byte) { h[14], h[15] = 0, 0 })
		if n, _ := w.e.InUse(); n != 1 {
			t.Fatalf("%d sockets", n)
		}
		abort(fd)
	}
	abort(w.client(outside))
	w.await(func([]segment) bool { n, _ := w.e.InUse(); return n == 0 })
	if n, _ := w.e.InUse(); n != 0 {
		t.Errorf("%d sockets are left of clients that went before they were answered", n)
	}
}

// The engine answers a late copy of the SYN by an ACK. A container that has begun a new connection answers this ACK by a reset (RFC 5961, 4.2).
func TestLateSYN(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	_, seq := w.connect(l, 40000, port, 60000)
	w.tcp(40000, port, frame.FlagSYN, 99, 0, 60000)
	if got := w.await(has(frame.FlagACK)); !has(frame.FlagACK)(got) || got[len(got)-1].seq != seq || len(w.e.keys) != 1 {
		t.Errorf("the SYN is answered by %v; %d connections", got, len(w.e.keys))
	}
	w.tcp(40000, port, frame.FlagRST, 150, 0, 0) // in the window, and not the next number
	if len(w.e.keys) != 1 {
		t.Error("a reset with a guessed number ends the connection")
	}
	if w.tcp(40000, port, frame.FlagRST, 100, 0, 0); len(w.e.keys) != 0 {
		t.Error("the container's reset does not end the connection")
	}
}

// What the peer has sent, and nobody has read, does not keep the container's last data from the peer.
func TestUnreadDataOfTheGone(t *testing.T) {
	w := newWire(t, Options{})
	l, port := w.listen()
	fd, seq := w.connect(l, 40000, port, 60000)
	w.send(fd, "a banner", 0)
	next := uint32(100)
	for range 4 {
		w.write(frametest.Packet{Proto: frame.TCP, SrcPort: 40000, DstPort: port, Flags: frame.FlagACK, TCPSeq: next, TCPAck: seq, Payload: make([]byte, 30000)}, func([]byte) {})
		next += 30000
	}
	w.tcp(40000, port, frame.FlagFIN|frame.FlagACK, next, seq, 60000)
	w.e.Forget(1)
	got, b := 0, make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		if got += max(n, 0); err != nil || n == 0 {
			if err != nil || got != 120000 {
				t.Errorf("the peer got %d bytes: %v", got, err)
			}
			return
		}
	}
}

// A container's socket of IPv6 leaves the same port of IPv4 to others.
func TestOnePortOfEachFamily(t *testing.T) {
	w := newWire(t, Options{Ephemeral: [2]uint16{32768, 60999}})
	for _, p := range []frametest.Packet{{Src6: frametest.Addr6("fd00::2"), Dst6: frametest.Addr6("fd00::9")}, {Src: frametest.Addr(inside.String()), Dst: frametest.Addr(outside.String())}} {
		p.SrcPort, p.DstPort, p.Partial = 40000, 9, true
		var f frame.Frame
		f.Reset(p.Raw(), 1)
		frame.Parse(&f)
		w.e.Write(&f)
	}
	for _, src := range []netip.Addr{netip.MustParseAddr("fd00::2"), inside} {
		own := w.e.endpointOf(&frame.Endpoints{Src: src, SrcPort: 40000, Proto: frame.UDP})
		if own.Port() != 40000 {
			t.Errorf("%v has the outside endpoint %v", src, own)
		}
	}
}
