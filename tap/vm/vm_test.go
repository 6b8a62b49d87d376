package vm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// readUntil reads frames until ok returns true; it calls ok(nil) when there is no frame.
func readUntil(t *testing.T, c frame.Conn, ok func(eth []byte) bool) {
	t.Helper()
	b := make([]byte, frame.VnetLen+frame.MaxFrame)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && ok(b[frame.VnetLen:n]) || n == 0 && ok(nil) {
			return
		}
	}
	t.Fatal("not within 10 s")
}

func frameOf(payload string) *frame.Frame {
	f := new(frame.Frame)
	f.Reset(frametest.Packet{SrcMAC: 2, DstMAC: 4, Src: 1, Dst: 2, Payload: []byte(payload)}.Raw(), 1)
	frame.Parse(f)
	return f
}

func streamed(eth []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(eth))), eth...)
}

func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := OpenStream(path)
	if err != nil {
		t.Fatal(err)
	}
	f := frameOf("from the switch")
	if why := s.Write(f); why != frame.PortDown || s.Connected() {
		t.Errorf("without a machine: %v", why)
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dial()
	readUntil(t, s, func([]byte) bool { return s.Connected() })

	// Frames arrive in pieces of any size, and several at once.
	var all []byte
	for _, p := range []string{"one", "two, which is longer", "three"} {
		all = append(all, streamed(frameOf(p).Bytes())...)
	}
	go func() {
		for _, b := range all[:60] {
			_, _ = c.Write([]byte{b})
		}
		_, _ = c.Write(all[60:])
	}()
	got := 0
	readUntil(t, s, func(eth []byte) bool {
		if eth != nil {
			got++
		}
		return got == 3
	})

	// A second machine is refused.
	other := dial()
	_ = other.SetReadDeadline(time.Now().Add(10 * time.Second))
	turned := make(chan error, 1)
	go func() {
		_, err := other.Read(make([]byte, 1))
		turned <- err
	}()
	readUntil(t, s, func([]byte) bool { return len(turned) > 0 })
	if err := <-turned; err != io.EOF {
		t.Errorf("a second machine: %v", err)
	}
	s.Close()
}

// A machine that does not read loses whole frames and never gets a part of one, even when several workers write.
func TestStreamSlowReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := OpenStream(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	readUntil(t, s, func([]byte) bool { return s.Connected() })
	f := frameOf(string(bytes.Repeat([]byte("x"), 1400)))
	taken, lost := make([]int, 3), make([]int, 3)
	var wg sync.WaitGroup
	for i := range taken {
		wg.Go(func() {
			for range 2000 {
				switch why := s.Write(f); why {
				case frame.None:
					taken[i]++
				case frame.TxQueueFull:
					lost[i]++
				default:
					t.Errorf("%v", why)
				}
			}
		})
	}
	wg.Wait()
	sent := taken[0] + taken[1] + taken[2]
	if lost[0]+lost[1]+lost[2] == 0 || sent == 0 {
		t.Fatalf("%d taken, %v lost", sent, lost)
	}
	done := make(chan struct{})
	go func() { // the reader flushes frames that were sent in part
		defer close(done)
		for range sent {
			var head [4]byte
			if _, err := io.ReadFull(c, head[:]); err != nil || int(binary.BigEndian.Uint32(head[:])) != f.Len() {
				t.Errorf("length %d: %v", binary.BigEndian.Uint32(head[:]), err)
				return
			}
			eth := make([]byte, f.Len())
			if _, err := io.ReadFull(c, eth); err != nil || !bytes.Equal(eth, f.Bytes()) {
				t.Errorf("a frame is torn: %v", err)
				return
			}
		}
	}()
	readUntil(t, s, func([]byte) bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

// An invalid length ends the connection; the next connection starts fresh.
func TestStreamHostile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := OpenStream(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0, 2, 0, 0, 1}, {0, 0, 0, 9, 1, 2}} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(bad)
		if bad[3] == 9 { // the connection ends within a frame
			readUntil(t, s, func([]byte) bool { return s.Connected() })
			c.Close()
		}
		ended := make(chan struct{})
		go func() {
			_, _ = c.Read(make([]byte, 1))
			close(ended)
		}()
		readUntil(t, s, func([]byte) bool {
			select {
			case <-ended:
				return !s.Connected()
			default:
				return false
			}
		})
		c.Close()
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(streamed(frameOf("sound").Bytes()))
	readUntil(t, s, func(eth []byte) bool { return bytes.Contains(eth, []byte("sound")) })
	if _, err := OpenStream(path); err == nil {
		t.Error("a path that is in use was taken")
	}
	s.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
	again, err := OpenStream(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStream(path); err == nil {
		t.Error("a file was taken for a socket")
	}
}

func TestDgram(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d")
	d, err := OpenDgram(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	nameless, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer nameless.Close()
	_, _ = nameless.Write(frameOf("nameless").Bytes())
	readUntil(t, d, func(eth []byte) bool { return bytes.Contains(eth, []byte("nameless")) })
	if d.Connected() || d.Write(frameOf("x")) != frame.PortDown {
		t.Error("who has no address cannot be answered")
	}
	_, _ = nameless.Write(make([]byte, frame.MaxFrame+5)) // too long: ignored
	for _, name := range []string{"m1", "m2"} {           // one machine, then another
		local := &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unixgram"}
		m, err := net.DialUnix("unixgram", local, &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = m.Write(frameOf(name).Bytes())
		readUntil(t, d, func(eth []byte) bool { return bytes.Contains(eth, []byte(name)) })
		if why := d.Write(frameOf("to " + name)); why != frame.None {
			t.Errorf("%s: %v", name, why)
		}
		b := make([]byte, 2000)
		_ = m.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := m.Read(b); err != nil || !bytes.Contains(b[:n], []byte("to "+name)) {
			t.Errorf("%s got %q, %v", name, b[:n], err)
		}
		m.Close()
		_ = os.Remove(local.Name)
	}
	if why := d.Write(frameOf("x")); why != frame.PortDown || d.Connected() {
		t.Errorf("nobody is there: %v", why)
	}
}

// A Read may give up and leave frames unread. Its descriptor then becomes readable once more, since a Poller waits for changes only.
func TestReadGivesUp(t *testing.T) {
	runtime.LockOSThread() // in a network namespace of its own, where long queues are allowed; the thread ends with the test
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		err = os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("200"), 0)
	}
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("this needs root: ", err)
	}
	path := filepath.Join(t.TempDir(), "d")
	d, err := OpenDgram(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	poller, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(poller)
	if err := unix.EpollCtl(poller, unix.EPOLL_CTL_ADD, d.FD(), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}); err != nil {
		t.Fatal(err)
	}
	waits := func(ms int) bool {
		n, err := unix.EpollWait(poller, make([]unix.EpollEvent, 1), ms)
		return n == 1 && err == nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, frame.VnetLen+frame.MaxFrame)
	for range 2 * retries {
		if _, err := c.Write(nil); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = c.Write(frameOf("the last").Bytes())
	for range 100 {
		if !waits(10_000) {
			t.Fatal("the descriptor is not readable, and a frame waits")
		}
		for n := 1; n > 0; {
			n, _ = d.Read(b)
			if bytes.Contains(b[:n], []byte("the last")) {
				return
			}
		}
	}
	t.Error("the frame was not read")
}

// A client that does not speak VDE's protocol, or names a socket of another user, is refused. Real clients are in e2e.
func TestVDEHostile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vde")
	v, err := OpenVDE(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := binary.NativeEndian
	request := func(magic, version uint32, family uint16, path string) []byte {
		b := make([]byte, vdeRequest)
		e.PutUint32(b, magic)
		e.PutUint32(b[4:], version)
		e.PutUint16(b[12:], family)
		copy(b[14:], path)
		return b
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing": {}, "one byte": {1}, "magic": request(7, 3, 1, file), "version": request(vdeMagic, 2, 1, file), "family": request(vdeMagic, 3, 2, file),
		"a file": request(vdeMagic, 3, 1, file), "not there": request(vdeMagic, 3, 1, "/nowhere/x"), "no path": request(vdeMagic, 3, 1, ""), "long": make([]byte, 5000),
	} {
		c, err := net.Dial("unix", filepath.Join(dir, "ctl"))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 {
			_, _ = c.Write(b)
		}
		closed := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, c)
			close(closed)
		}()
		if len(b) == 0 {
			c.(*net.UnixConn).CloseWrite()
		}
		readUntil(t, v, func([]byte) bool {
			select {
			case <-closed:
				return true
			default:
				return false
			}
		})
		if v.Connected() {
			t.Errorf("%s: it got a port", name)
		}
		c.Close()
	}
	v.Close()
	if _, err := os.Lstat(dir); err == nil {
		t.Error("the folder is left behind")
	}
}

func openVDE(t *testing.T) *VDE {
	t.Helper()
	v, err := OpenVDE(filepath.Join(t.TempDir(), "vde"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// dialVDE connects a client, which has not sent its request yet.
func dialVDE(t *testing.T, v *VDE) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(filepath.Dir(v.name), "ctl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A symbolic link does not lead frames to a socket.
func TestVDELink(t *testing.T) {
	v := openVDE(t)
	dialVDE(t, v)
	v.control()
	target, link := filepath.Join(t.TempDir(), "real"), filepath.Join(t.TempDir(), "link")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: target, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if v.connectTo(link) == nil {
		t.Error("a symbolic link is followed")
	}
	if err := v.connectTo(target); err != nil {
		t.Errorf("the client's own socket: %v", err)
	}
}

// A call accepts a few clients only, however many connect: the worker makes it.
func TestVDEAccepts(t *testing.T) {
	v := openVDE(t)
	if err := unix.Listen(v.listener, 4096); err != nil {
		t.Fatal(err)
	}
	var clients []net.Conn
	for range 200 {
		clients = append(clients, dialVDE(t, v))
	}
	v.control()
	accepted := 1 // the last one waits for its request; all others are hung up
	for _, c := range clients {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			accepted++
		}
	}
	if accepted > acceptsPerCall {
		t.Errorf("one call accepted %d clients", accepted)
	}
}

// The client's socket is the one that was looked at, also when its name leads elsewhere a moment later.
func TestVDESwap(t *testing.T) {
	v := openVDE(t)
	dir := t.TempDir()
	name, link, foreign := filepath.Join(dir, "client"), filepath.Join(dir, "link"), filepath.Join(dir, "foreign")
	var sockets []*net.UnixConn
	for _, path := range []string{name, foreign} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		sockets = append(sockets, l)
	}
	if err := os.Symlink(foreign, link); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	dialVDE(t, v)
	v.control()
	f, connected := frameOf("x"), 0
	for range 3000 {
		if v.connectTo(name) == nil {
			connected++
			v.there.Store(true)
			_ = v.Write(f)
		}
	}
	close(stop)
	<-done
	if connected == 0 {
		t.Fatal("the client's socket was never found: this test shows nothing")
	}
	_ = sockets[1].SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := sockets[1].Read(make([]byte, 2000)); err == nil {
		t.Errorf("a socket behind a link got %d bytes", n)
	}
}

// Sockets are born with their mode, whatever the umask is.
func TestModesAtBirth(t *testing.T) {
	dir := t.TempDir()
	defer unix.Umask(unix.Umask(0))
	s, err := OpenStream(filepath.Join(dir, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := OpenDgram(filepath.Join(dir, "dgram"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	v, err := OpenVDE(filepath.Join(dir, "vde"))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, path := range []string{"stream", "dgram", "vde/ctl"} {
		if i, err := os.Stat(filepath.Join(dir, path)); err != nil || i.Mode().Perm() != 0o660 {
			t.Errorf("%s: %v %v", path, i.Mode(), err)
		}
	}
}

// A socket is not made where every user may put another file in its place.
func TestFolderOfEveryone(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		mode os.FileMode
		ok   bool
	}{{0o777, false}, {0o777 | os.ModeSticky, true}, {0o770, true}} {
		if err := os.Chmod(dir, tt.mode); err != nil {
			t.Fatal(err)
		}
		d, err := OpenDgram(filepath.Join(dir, "s"))
		if (err == nil) != tt.ok {
			t.Errorf("mode %v: %v", tt.mode, err)
		}
		if err == nil {
			d.Close()
		}
	}
}
