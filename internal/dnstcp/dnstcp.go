// Package dnstcp takes questions for names over TCP. The gateways have no other TCP, so that a TCP/IP stack in user space, gVisor's, gets the
// segments to port 53 and nothing else. It is made with the first segment.
//
//	Segment ──► netstack ──► converse: a question, its answer ──► netstack ──► deliver ──► Options.Send
//
// Sources: RFC 7766; gvisor.dev/gvisor/pkg/tcpip.
package dnstcp

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Origin is where a connection comes from.
type Origin struct {
	Port frame.PortID
	Net  frame.NetID
	MAC  frame.MAC
}

// Options are what a Server needs.
type Options struct {
	// Ask answers a question: at once by its result, or later by one call of reply. Where there is nothing to answer, it does neither.
	Ask func(from Origin, message []byte, reply func([]byte)) (answer []byte, later bool)
	// Send sends an IP packet to the station where a connection comes from.
	Send func(to Origin, packet []byte)
}

// Connections at a time, of all ports of the switch and of one; and questions of one connection.
const (
	port                      = 53
	maxConnections, maxOfPort = 256, 32
	maxQuestions              = 16
	longestQuestion           = 4096             // bytes; a name has 255 at most
	room                      = 16 << 10         // bytes that the stack keeps of a connection in each direction
	idle                      = 10 * time.Second // without a question, a connection is closed; one that never begins is forgotten
	writeTime                 = 5 * time.Second  // for an answer
	life                      = time.Minute      // of a connection
	linger                    = 10 * time.Second // for the last segments of one that has ended
)

// mtu is the length of the longest packet that the stack makes, in bytes: every network with IPv6 carries it.
const mtu = header.IPv6MinimumMTU

// A Server serves connections.
type Server struct {
	options Options
	start   sync.Once
	stack   *stack.Stack
	link    *channel.Endpoint

	mu      sync.Mutex // Lock 91
	origins map[ends]*connection
	ofPort  map[frame.PortID]int // that have not ended
	live    int                  // likewise, of all ports
}

// ends identify a connection.
type ends struct{ remote, local netip.AddrPort }

// A connection is one that has begun, or may begin: its first segment has come.
type connection struct {
	Origin
	since time.Time
	asked time.Time // its last question; since, if there was none
	open  bool
	ended bool           // it is kept for its last segments only
	conn  *gonet.TCPConn // nil until it is open
}

// New makes a server.
func New(o Options) *Server {
	return &Server{options: o, origins: map[ends]*connection{}, ofPort: map[frame.PortID]int{}}
}

// Segment takes an IP packet with a TCP segment to a gateway. It does not wait. The packet is the server's.
func (s *Server) Segment(from Origin, packet []byte) {
	e, flags, ok := parse(packet)
	if !ok || !s.note(e, from, flags) {
		return
	}
	s.start.Do(s.begin)
	proto := header.IPv4ProtocolNumber
	if e.remote.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer p.DecRef()
	s.link.InjectInbound(proto, p)
}

// parse reads the ends of a segment and its flags, as the station sees them.
func parse(packet []byte) (e ends, flags header.TCPFlags, ok bool) {
	at, src, dst := 0, netip.Addr{}, netip.Addr{}
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		ip := header.IPv4(packet)
		if !ip.IsValid(len(packet)) || ip.TransportProtocol() != tcp.ProtocolNumber {
			return e, 0, false
		}
		at, src, dst = int(ip.HeaderLength()), netip.AddrFrom4(ip.SourceAddress().As4()), netip.AddrFrom4(ip.DestinationAddress().As4())
	case header.IPv6Version:
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) || ip.NextHeader() != uint8(tcp.ProtocolNumber) {
			return e, 0, false // extension headers: none of a station that connects to its gateway
		}
		at, src, dst = header.IPv6MinimumSize, netip.AddrFrom16(ip.SourceAddress().As16()), netip.AddrFrom16(ip.DestinationAddress().As16())
	default:
		return e, 0, false
	}
	if len(packet) < at+header.TCPMinimumSize {
		return e, 0, false
	}
	t := header.TCP(packet[at:])
	return ends{netip.AddrPortFrom(src, t.SourcePort()), netip.AddrPortFrom(dst, t.DestinationPort())}, t.Flags(), true
}

// note remembers where a connection comes from, and reports whether its segment is taken. A connection begins with a SYN.
func (s *Server) note(e ends, from Origin, flags header.TCPFlags) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	const begin, others = header.TCPFlagSyn, header.TCPFlagSyn | header.TCPFlagAck | header.TCPFlagRst | header.TCPFlagFin
	begins := flags&others == begin
	if c := s.origins[e]; c != nil && !(c.ended && begins) {
		if c.Net != from.Net { // the same link-local addresses in two networks
			return false
		}
		c.MAC = from.MAC
		return true
	}
	if !begins {
		return false
	}
	now := time.Now()
	if s.isFull(from.Port) || len(s.origins) >= 4*maxConnections {
		for x, c := range s.origins {
			if c.ended || !c.open && now.Sub(c.since) > idle {
				s.endLocked(c)
				delete(s.origins, x)
			}
		}
	}
	if s.ofPort[from.Port] < maxOfPort && s.live >= maxConnections {
		s.makeRoomLocked(from.Port)
	}
	if s.isFull(from.Port) {
		return false
	}
	s.origins[e] = &connection{Origin: from, since: now, asked: now}
	s.ofPort[from.Port]++
	s.live++
	return true
}

// isFull reports whether a port can have no other connection.
func (s *Server) isFull(port frame.PortID) bool {
	return s.live >= maxConnections || s.ofPort[port] >= maxOfPort
}

// makeRoomLocked ends one connection, so that ports that hold all connections keep no other port out. The port that has most connections loses the
// one that has been idle for longest. No port loses one if all have as many as the asking port would have then.
func (s *Server) makeRoomLocked(asks frame.PortID) {
	most := asks
	for port, n := range s.ofPort {
		if n > s.ofPort[most] || n == s.ofPort[most] && port < most && most != asks {
			most = port
		}
	}
	if s.ofPort[most] <= s.ofPort[asks]+1 {
		return
	}
	var oldest *connection
	var at ends
	for e, c := range s.origins {
		if c.Port == most && !c.ended && (oldest == nil || c.asked.Before(oldest.asked)) {
			oldest, at = c, e
		}
	}
	s.endLocked(oldest)
	if oldest.conn == nil {
		delete(s.origins, at)
	} else {
		go oldest.conn.Close() // it has locks of its own, and converse ends
	}
}

// endLocked counts a connection no more.
func (s *Server) endLocked(c *connection) {
	if c.ended {
		return
	}
	c.ended = true
	s.live--
	if s.ofPort[c.Port]--; s.ofPort[c.Port] == 0 {
		delete(s.ofPort, c.Port)
	}
}

// begin makes the stack: one device that has every address.
func (s *Server) begin() {
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	const device = 1
	s.link = channel.New(256, mtu, "")
	s.link.LinkEPCapabilities |= stack.CapabilityRXChecksumOffload // the sums of stations on this host are partial
	if err := s.stack.CreateNIC(device, s.link); err != nil {
		panic("dnstcp: " + err.String()) // the numbers above are wrong
	}
	s.stack.SetPromiscuousMode(device, true)
	s.stack.SetSpoofing(device, true)
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: device}, {Destination: header.IPv6EmptySubnet, NIC: device}})
	s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: room, Max: room})
	s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: room, Max: room})
	cookies := tcpip.TCPAlwaysUseSynCookies(true) // else the stack keeps a connection that never opens for two minutes, and takes no more than some
	s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &cookies)
	for _, proto := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		go s.accept(s.listen(proto, tcpip.FullAddress{NIC: device, Port: port}))
	}
	go s.deliver()
}

// listen returns a listener of one family.
func (s *Server) listen(proto tcpip.NetworkProtocolNumber, at tcpip.FullAddress) *gonet.TCPListener {
	var queue waiter.Queue
	end, err := s.stack.NewEndpoint(tcp.ProtocolNumber, proto, &queue)
	if err == nil {
		end.SocketOptions().SetV6Only(proto == ipv6.ProtocolNumber)
		patience := tcpip.TCPUserTimeoutOption(linger) // else the stack keeps a connection whose last bytes nobody takes for a quarter of an hour
		err = end.SetSockOpt(&patience)
	}
	if err == nil {
		err = end.Bind(at)
	}
	if err == nil {
		err = end.Listen(maxConnections)
	}
	if err != nil {
		panic("dnstcp: " + err.String()) // the numbers above are wrong
	}
	return gonet.NewTCPListener(s.stack, &queue, end)
}

// deliver sends what the stack sends.
func (s *Server) deliver() {
	for {
		p := s.link.ReadContext(context.Background())
		if p == nil {
			return
		}
		view := p.ToView()
		packet := append([]byte(nil), view.AsSlice()...)
		view.Release()
		p.DecRef()
		back, _, ok := parse(packet)
		if !ok {
			continue // not TCP
		}
		s.mu.Lock()
		c := s.origins[ends{back.local, back.remote}]
		var to Origin
		if c != nil {
			to = c.Origin
		}
		s.mu.Unlock()
		if c != nil {
			s.options.Send(to, packet)
		}
	}
}

// accept takes the connections of a family.
func (s *Server) accept(l *gonet.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go s.serve(c.(*gonet.TCPConn))
	}
}

// serve serves a connection until it ends.
func (s *Server) serve(c *gonet.TCPConn) {
	e := ends{addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())}
	s.mu.Lock()
	known := s.origins[e]
	counted := known != nil && !known.ended // one that has ended does not open again by its last segments
	if counted {
		known.open, known.conn = true, c
	}
	s.mu.Unlock()
	if !counted {
		c.Close()
		return
	}
	s.converse(c, known)
	c.Close()
	s.mu.Lock()
	s.endLocked(known)
	s.mu.Unlock()
	time.AfterFunc(linger, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.origins[e] == known {
			delete(s.origins, e)
		}
	})
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().WithZone(""), p.Port())
}

// converse answers the questions of a connection, several at a time, and in the order in which they are ready.
func (s *Server) converse(c *gonet.TCPConn, of *connection) {
	s.mu.Lock()
	from := of.Origin // its MAC may change
	s.mu.Unlock()
	var writing sync.Mutex // Lock 92
	var asked sync.WaitGroup
	defer asked.Wait()
	places := make(chan struct{}, maxQuestions)
	failed := false
	reply := func(answer []byte) {
		writing.Lock()
		defer writing.Unlock()
		if failed {
			return
		}
		_ = c.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			failed = true // a part of it may have been sent: nothing can follow
			c.Close()
		}
	}
	for end := time.Now().Add(life); time.Now().Before(end); {
		_ = c.SetReadDeadline(time.Now().Add(idle))
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint16(length[:])
		if n > longestQuestion {
			return
		}
		message := make([]byte, n)
		if _, err := io.ReadFull(c, message); err != nil {
			return
		}
		s.mu.Lock()
		of.asked = time.Now()
		s.mu.Unlock()
		places <- struct{}{}
		asked.Add(1)
		done := func(answer []byte) {
			if answer != nil {
				reply(answer)
			}
			<-places
			asked.Done()
		}
		now, later := s.options.Ask(from, message, done)
		if !later {
			done(now)
		}
		if now == nil && !later { // it does not speak DNS
			return
		}
	}
}
