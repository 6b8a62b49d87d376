package relay

import (
	"net"
	"net/netip"
	"testing"
)

// UDP clients of a relay have a bound: the one that has been silent for longest makes room.
func TestUDPClientsAreBounded(t *testing.T) {
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
	who := func(i int) udpClient {
		return udpClient{from: netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(i)), asked: netip.IPv6Loopback()}
	}
	for i := range maxUDPClients + 100 {
		if r.session(who(i+1)) == nil {
			t.Fatalf("client %d is not served", i)
		}
	}
	r.mu.Lock()
	n, first, last := len(r.clients), r.clients[who(1)], r.clients[who(maxUDPClients+100)]
	r.mu.Unlock()
	if n > maxUDPClients || first != nil || last == nil {
		t.Errorf("%d clients; the first is there: %v, the last: %v", n, first != nil, last != nil)
	}
	s.Close()
	if all := allUDPClients.Load(); all != 0 {
		t.Errorf("%d clients are counted in the end", all)
	}
}
