package relay

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Many clients that say nothing keep no other client out.
func TestIdleClients(t *testing.T) {
	const idle = 1100
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil || most.Cur < 5*idle {
		t.Skipf("this needs %d descriptors; %d are allowed", 5*idle, most.Cur)
	}
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
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
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	to := target.Addr().(*net.TCPAddr).AddrPort()
	s, err := Open(Rule{Proto: "tcp", Host: netip.MustParseAddr("127.0.0.1"), Lo: at.Port(), Hi: at.Port(), Target: to.Addr(), TargetPort: to.Port(), Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
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
