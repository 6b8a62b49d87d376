package dnstcp

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A port, and all ports together, have a bound on their connections. Those that never began are forgotten.
func TestConnectionsAreBounded(t *testing.T) {
	s := New(Options{})
	at := func(i int) ends {
		return ends{netip.AddrPortFrom(netip.MustParseAddr("172.29.0.2"), uint16(1+i)), netip.MustParseAddrPort("172.29.0.1:53")}
	}
	taken := 0
	for i := range 2 * maxOfPort {
		if s.note(at(i), Origin{Port: 1}, header.TCPFlagSyn) {
			taken++
		}
	}
	if taken != maxOfPort {
		t.Errorf("%d connections of one port are taken", taken)
	}
	if !s.note(at(0), Origin{Port: 1}, header.TCPFlagAck) {
		t.Error("a segment of a connection that is there is refused")
	}
	if s.note(at(0), Origin{Port: 1, Net: 2}, header.TCPFlagAck) {
		t.Error("another network's segment is taken for this one's")
	}
	if s.note(at(5000), Origin{Port: 2}, header.TCPFlagRst) {
		t.Error("a reset begins a connection")
	}
	for i := range 2 * maxConnections {
		s.note(at(10000+i), Origin{Port: frame.PortID(2 + i/maxOfPort)}, header.TCPFlagSyn)
	}
	if len(s.origins) != maxConnections {
		t.Errorf("%d connections", len(s.origins))
	}
	for _, c := range s.origins {
		c.since = time.Now().Add(-2 * idle)
	}
	s.origins[at(0)].open = true
	if !s.note(at(20000), Origin{Port: 900}, header.TCPFlagSyn) {
		t.Error("connections that never began keep another one out")
	}
	if len(s.origins) != 2 || len(s.ofPort) != 2 {
		t.Errorf("%d connections of %d ports are left", len(s.origins), len(s.ofPort))
	}
}

// No packet makes parse read behind its end.
func FuzzParse(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 172, 29, 0, 2, 172, 29, 0, 1, 0x9c, 0x40, 0, 53, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 20, 6, 64}, make([]byte, 52)...))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if e, _, ok := parse(packet); ok && !e.remote.IsValid() {
			t.Errorf("no end of %x", packet)
		}
	})
}
