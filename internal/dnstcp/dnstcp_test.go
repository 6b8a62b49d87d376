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
	for _, flags := range []header.TCPFlags{header.TCPFlagRst, header.TCPFlagAck, header.TCPFlagSyn | header.TCPFlagAck, header.TCPFlagSyn | header.TCPFlagFin, 0x3f, 0} {
		if s.note(at(5000), Origin{Port: 2}, flags) {
			t.Errorf("flags %v begin a connection", flags)
		}
	}
	for i := range 2 * maxConnections {
		s.note(at(10000+i), Origin{Port: frame.PortID(2 + i/maxOfPort)}, header.TCPFlagSyn)
	}
	if len(s.origins) != maxConnections || s.live != maxConnections {
		t.Errorf("%d connections, %d live", len(s.origins), s.live)
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

// A connection that has ended is there for its last segments, and does not count.
func TestEndedConnections(t *testing.T) {
	s := New(Options{})
	e := ends{netip.MustParseAddrPort("172.29.0.2:4000"), netip.MustParseAddrPort("172.29.0.1:53")}
	s.note(e, Origin{Port: 1}, header.TCPFlagSyn)
	s.endLocked(s.origins[e])
	if s.live != 0 || len(s.ofPort) != 0 || !s.note(e, Origin{Port: 1}, header.TCPFlagAck) || s.live != 0 {
		t.Errorf("%d live, %v", s.live, s.ofPort)
	}
	if !s.note(e, Origin{Port: 1}, header.TCPFlagSyn) || s.live != 1 || s.origins[e].ended {
		t.Errorf("the same port again: %d live", s.live)
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
