package relay

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// UDP clients of a relay have a bound: the one that has been silent for longest makes room.
func TestUDPClientsAreBounded(t *testing.T) {
	target, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	var served Set
	r := &udpRelay{write: func([]byte, udpClient) {}, to: target.LocalAddr().String(), count: &served.clients, clients: map[udpClient]*udpSession{}}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	who := func(i int) udpClient {
		return udpClient{netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(i)), netip.IPv6Loopback()}
	}
	for i := range maxUDPClients + 100 {
		if r.session(ctx, who(i+1), &done) == nil {
			t.Fatalf("client %d is not served", i)
		}
	}
	r.mu.Lock()
	n, first, last := len(r.clients), r.clients[who(1)], r.clients[who(maxUDPClients+100)]
	for _, c := range r.clients {
		c.conn.Close()
	}
	r.mu.Unlock()
	if n > maxUDPClients || first != nil || last == nil {
		t.Errorf("%d clients; the first is there: %v, the last: %v", n, first != nil, last != nil)
	}
	cancel()
	done.Wait()
	if all := allUDPClients.Load(); all != 0 {
		t.Errorf("%d clients are counted in the end", all)
	}
}
