package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// acceptTCP serves a client of port number i.
func (s *Set) acceptTCP(i int) {
	fd, sa, err := unix.Accept4(s.sockets[i], unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		if errors.Is(err, unix.EMFILE) { // else others have taken what is missing
			connections.makeRoom()
		}
		time.Sleep(10 * time.Millisecond) // until some are closed
		return
	case err != nil:
		return // the client has gone
	}
	file := os.NewFile(uintptr(fd), "client")
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return
	}
	in := c.(*net.TCPConn)
	peer, zone := addrPort(sa)
	remote := peer.Addr().Unmap()
	to := s.rule.targets(i, remote)
	if len(to) == 0 || !isAllowed(s.rule.From, remote, zone, false) {
		_ = in.SetLinger(0) // with a reset
		in.Close()
		return
	}
	s.clients.Add(1)
	s.done.Go(func() { s.relayTCP(in, remote, i, to) })
}

// silence is for how long a connection has carried no data: see tcp(7), TCP_INFO.
func silence(c *net.TCPConn) (d time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			d = time.Duration(min(i.Last_data_recv, i.Last_data_sent)) * time.Millisecond
		}
	})
	return d
}

// relayTCP connects a client of port number i to the first target that answers, and copies in both directions. What ends one side ends the other in the same way: the last byte with FIN, an error with RST.
func (s *Set) relayTCP(in *net.TCPConn, remote netip.Addr, i int, to []netip.AddrPort) {
	defer in.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	me := &client{remote: remote, silent: func() time.Duration { return silence(in) }, close: cancel}
	connections.add(me)
	defer connections.remove(me)
	defer s.serving(me, i)()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp", to[0].String())
	if err != nil && len(to) > 1 { // the program may listen on IPv4 only
		c, err = dialer.DialContext(ctx, "tcp", to[1].String())
	}
	if err != nil {
		_ = in.SetLinger(0) // answer with a reset, as the container's kernel would
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	reset := func() {
		_, _ = in.SetLinger(0), out.SetLinger(0)
		in.Close()
		out.Close()
	}
	stop := context.AfterFunc(ctx, reset)
	defer stop()
	var wg sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{in, out}, {out, in}} {
		wg.Go(func() {
			if _, err := io.Copy(way[1], way[0]); err != nil {
				reset()
				return
			}
			_ = way[1].CloseWrite()
		})
	}
	wg.Wait()
}
