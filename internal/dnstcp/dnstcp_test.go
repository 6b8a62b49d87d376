package dnstcp

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
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
	for _, c := range s.origins {
		c.open = true
		break
	}
	if !s.note(at(20000), Origin{Port: 900}, header.TCPFlagSyn) {
		t.Error("connections that never began keep another one out")
	}
	if len(s.origins) != 2 || len(s.ofPort) != 2 {
		t.Errorf("%d connections of %d ports are left", len(s.origins), len(s.ofPort))
	}
}

// Ports that hold all connections keep no other port out: whoever has most loses the one whose last question is the longest ago.
func TestOthersFindRoom(t *testing.T) {
	s := New(Options{})
	at := func(i int) ends {
		return ends{netip.AddrPortFrom(netip.MustParseAddr("172.29.0.2"), uint16(1+i)), netip.MustParseAddrPort("172.29.0.1:53")}
	}
	for i := range maxConnections {
		s.note(at(i), Origin{Port: frame.PortID(1 + i/maxOfPort)}, header.TCPFlagSyn)
	}
	for _, c := range s.origins { // all are in use
		c.open, c.asked = true, time.Now().Add(time.Minute)
	}
	s.origins[at(5)].asked = time.Now().Add(-time.Minute)
	got := 0
	for i := range 2 * maxOfPort {
		if s.note(at(1000+i), Origin{Port: 900}, header.TCPFlagSyn) {
			got++
		}
		if s.live > maxConnections {
			t.Fatalf("%d connections", s.live)
		}
	}
	if s.origins[at(5)] != nil {
		t.Error("the connection that asks for nothing was kept")
	}
	if fair := maxConnections / 9; got < fair-1 || got > fair+1 {
		t.Errorf("beside 8 ports that hold all connections, another one got %d; its part is %d", got, fair)
	}
	for port, n := range s.ofPort {
		if n < maxConnections/9-1 {
			t.Errorf("port %d has %d connections left", port, n)
		}
	}
}

// Connections that never open keep no other one out, however many of them there were.
func TestHalfOpen(t *testing.T) {
	answered := make(chan frame.PortID, 10000)
	s := New(Options{Send: func(to Origin, packet []byte) {
		if _, flags, ok := parse(packet); ok && flags == header.TCPFlagSyn|header.TCPFlagAck {
			answered <- to.Port
		}
	}})
	begin := func(i int, from frame.PortID) {
		p := frametest.Packet{Src: frametest.Addr("172.29.0.2") + frame.Addr(from), Dst: frametest.Addr("172.29.0.1"), SrcPort: uint16(1 + i), DstPort: 53, Proto: frame.TCP, Flags: frame.FlagSYN, TCPSeq: uint32(1 + 7*i)}
		s.Segment(Origin{Port: from, Net: 1}, p.Raw()[frame.VnetLen+frame.EthernetLen:])
	}
	wait := func(of frame.PortID) {
		t.Helper()
		again, end := time.NewTicker(50*time.Millisecond), time.After(20*time.Second)
		defer again.Stop()
		for {
			select {
			case port := <-answered:
				if port == of {
					return
				}
			case <-again.C:
				begin(60000, of) // as a client does
			case <-end:
				t.Fatalf("the question of port %d is not answered", of)
			}
		}
	}
	for wave := range 6 {
		for i := range maxConnections {
			begin(1000*wave+i, frame.PortID(1+i/maxOfPort))
		}
		s.mu.Lock()
		for _, c := range s.origins {
			c.since = time.Now().Add(-2 * idle)
		}
		s.mu.Unlock()
		begin(60000, frame.PortID(100+wave))
		wait(frame.PortID(100 + wave))
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
