package relay

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// echo listens and sends back what comes.
func echo(t *testing.T) netip.AddrPort {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return target.Addr().(*net.TCPAddr).AddrPort()
}

// relayTo relays a free port of 127.0.0.1 to an address, and returns where.
func relayTo(t *testing.T, to netip.AddrPort) netip.AddrPort {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	s, err := Open(Rule{Proto: "tcp", Host: netip.MustParseAddr("127.0.0.1"), Lo: at.Port(), Hi: at.Port(), Target: to.Addr(), TargetPort: to.Port(), Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return at
}

// A client that may not reach the container any more is put out.
func TestRecheck(t *testing.T) {
	to := echo(t)
	var closed atomic.Bool
	s, err := Open(Rule{
		Proto: "tcp", Host: netip.MustParseAddr("127.0.0.2"), Lo: to.Port(), Hi: to.Port(), Target: to.Addr(), TargetPort: to.Port(), Serve: true,
		May: func(netip.Addr, netip.AddrPort) bool { return !closed.Load() },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), to.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	say := func() error {
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	if err := say(); err != nil {
		t.Fatal(err)
	}
	s.Recheck()
	if err := say(); err != nil {
		t.Errorf("a client that may go on: %v", err)
	}
	closed.Store(true)
	s.Recheck()
	if err := say(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that may not go on: %v", err)
	}
}

// Many clients that say nothing keep no other client out.
func TestIdleClients(t *testing.T) {
	const idle = 1100
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil || most.Cur < 5*idle {
		t.Skipf("this needs %d descriptors; %d are allowed", 5*idle, most.Cur)
	}
	at := relayTo(t, echo(t))
	for range idle {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("beside %d idle clients: %v", idle, err)
	}
}

// A client that goes on stays, beside very many of the same address that say nothing.
func TestBusyClientStays(t *testing.T) {
	before := connections.limit
	t.Cleanup(func() { connections.limit = before }) // after the relay has ended
	connections.limit = func() int { return 100 }
	at := relayTo(t, echo(t))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	busy, buf := dial(), make([]byte, 1)
	for i := range 400 {
		dial()
		if _, err := busy.Write([]byte{byte(i)}); err != nil {
			t.Fatalf("after %d others: %v", i, err)
		}
		if _, err := io.ReadFull(busy, buf); err != nil || buf[0] != byte(i) {
			t.Fatalf("after %d others: %v, %d", i, err, buf[0])
		}
	}
}
