package relay

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// Clients have a bound. The remote address that has most of them loses some of those that have been silent for long.
func TestClientsAreBounded(t *testing.T) {
	before := udpClients.limit
	t.Cleanup(func() { udpClients.limit = before }) // after the relay has ended
	udpClients.limit = func() int { return 500 }
	target, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	to := target.LocalAddr().(*net.UDPAddr).AddrPort()
	s, err := Open(Rule{Proto: "udp", Host: netip.MustParseAddr("127.0.0.2"), Lo: to.Port(), Hi: to.Port(), Target: to.Addr(), TargetPort: to.Port(), Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	r := &s.udp
	who := func(addr string, port int) udpClient {
		return udpClient{from: netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)), asked: netip.IPv6Loopback()}
	}
	const greedy, polite = "2001:db8::1", "2001:db8::2"
	if r.session(who(polite, 1)) == nil {
		t.Fatal("the first client is not served")
	}
	for i := range 600 {
		if r.session(who(greedy, 1000+i)) == nil {
			t.Fatalf("client %d is not served", i)
		}
	}
	if r.session(who(polite, 2)) == nil {
		t.Error("beside very many clients, another one is not served")
	}
	r.set.settle(t, 252) // an address has no more than what is left for others
	r.mu.Lock()
	for i := range 10 {
		if r.sessions[who(greedy, 1590+i)] == nil {
			t.Errorf("client %d of the last ones is gone", i)
		}
	}
	for port := range 2 {
		if r.sessions[who(polite, port+1)] == nil {
			t.Errorf("port %d of the polite address is gone", port+1)
		}
	}
	r.mu.Unlock()
	s.rule.May = func(netip.Addr, netip.AddrPort) bool { return false }
	s.Recheck()
	r.set.settle(t, 0)
	s.Close()
	if udpClients.n != 0 || len(udpClients.of) != 0 {
		t.Errorf("%d clients of %d addresses are left in the end", udpClients.n, len(udpClients.of))
	}
}

// settle waits until the goroutines of the clients that were put out have ended.
func (s *Set) settle(t *testing.T, sessions int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		s.udp.mu.Lock()
		n := len(s.udp.sessions)
		s.udp.mu.Unlock()
		if n == sessions {
			return
		}
	}
	t.Fatalf("not %d sessions within 10 s", sessions)
}
