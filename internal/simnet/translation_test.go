package simnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
)

// A station is a container's end of a TCP connection through the sockets of a Kernel. It believes nothing: each segment is judged after RFC 9293.
type station struct {
	w           *translation
	port        uint16
	iss         uint32
	una, nxt    uint32 // what it has sent and the other end has not acknowledged
	sent        []byte // all data
	fin         bool   // it has ended its direction
	edge        uint32 // of the window that the other end has given
	irs         uint32 // the other end's first sequence number
	got         []byte
	gotFIN      bool
	reach       uint32 // of the windows that it has given
	window      uint16
	established bool
	reset       bool
	gone        bool // it has sent the reset
	socket      *Socket
	told        []byte // all data of the peer
	ended       bool   // by the peer
	last        []byte // the frame that it has sent last
}

// A translation is a net with one container and two connections.
type translation struct {
	t        *testing.T
	n        *Net
	k        *Kernel
	h        *Host
	stations []*station
	lost     [2]int // how many frames are lost next: to the container, and from it
	eager    bool   // stations acknowledge each segment
	running  bool   // frames are carried: what is sent meanwhile comes behind those
}

func newTranslation(t *testing.T, old bool) *translation {
	n := New()
	w := &translation{t: t, n: n}
	n.AddNetwork(netip.MustParsePrefix("10.0.0.1/24"), router.Interface{Net: 1, MTU: 1500}, nat.Masquerade{Net: 1})
	err := n.SetUplink(frametest.Addr("198.51.100.1"), 65521)
	if err == nil {
		w.h, err = n.AddHost("c", frametest.Addr("10.0.0.2"), 1, 1, 0)
	}
	if err == nil {
		w.k = NewKernel(n.Now)
		w.k.NoPeekOffset = old
		_, err = n.UseSockets(w.k)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.lenient = true // window 0 is written into frames
	w.connect(40000)
	w.connect(40001)
	return w
}

// By how many bits windows are shifted: those of the container (frametest.Packet), and those of the engine.
const (
	ownScale = 7
	itsScale = 8
)

// byteAt is byte number i of what an end sends.
func byteAt(port uint16, i int) byte { return byte(i>>8) ^ byte(i)*31 ^ byte(port) }

func (w *translation) connect(port uint16) {
	s := &station{w: w, port: port, iss: 1<<32 - 43000 + uint32(port), window: 40} // the numbers begin again soon
	s.una, s.nxt = s.iss, s.iss+1
	w.stations = append(w.stations, s)
	had := len(w.k.Sockets())
	s.send(frame.FlagSYN, s.iss, nil)
	if all := w.k.Sockets(); len(all) == had+1 {
		s.socket = all[had]
	} else {
		w.t.Fatal("the SYN makes no socket")
	}
	w.k.Answer(s.socket, 0)
	w.run()
	if !s.established {
		w.t.Fatal("no SYN-ACK")
	}
}

// send sends a segment.
func (s *station) send(flags uint8, seq uint32, data []byte) {
	ack := uint32(0)
	if s.established {
		flags |= frame.FlagACK
		ack = s.next()
		if reach := ack + uint32(s.window)<<ownScale; int32(reach-s.reach) > 0 {
			s.reach = reach
		}
	}
	p := frametest.Packet{SrcMAC: s.w.h.MAC, DstMAC: gatewayMAC + 1<<16, Src: s.w.h.Addr, Dst: frametest.Addr("203.0.113.8"), Proto: frame.TCP, SrcPort: s.port, DstPort: 80,
		Flags: flags, TCPSeq: seq, TCPAck: ack, MSS: map[bool]uint16{true: 1460}[flags&frame.FlagSYN != 0], Payload: data, Partial: true}
	raw := p.Raw()
	tcp := raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len:]
	binary.BigEndian.PutUint32(tcp[4:], seq) // also a 0
	binary.BigEndian.PutUint16(tcp[14:], s.window)
	s.last = bytes.Clone(raw)
	s.w.leave(raw)
}

func (w *translation) leave(raw []byte) {
	if w.lost[1] > 0 {
		w.lost[1]--
		return
	}
	if w.n.Poller.Put(w.h.Port, bytes.Clone(raw)); !w.running {
		w.run()
	}
}

// next is the sequence number that it waits for.
func (s *station) next() uint32 {
	n := s.irs + 1 + uint32(len(s.got))
	if s.gotFIN {
		n++
	}
	return n
}

// more sends new data, as far as the window allows.
func (s *station) more(n int) {
	if s.fin || s.reset {
		return
	}
	if n = min(n, int(int32(s.edge-s.nxt))); n <= 0 {
		return
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byteAt(s.port, len(s.sent)+i)
	}
	s.sent = append(s.sent, data...)
	clean := s.una == s.nxt && s.w.lost == [2]int{}
	s.nxt += uint32(n)
	if s.send(frame.FlagPSH, s.nxt-uint32(n), data); clean && s.una != s.nxt && !s.reset {
		s.w.t.Fatalf("port %d: %d of %d bytes in the window were not taken", s.port, s.nxt-s.una, n)
	}
}

// again sends what was not acknowledged, or a part of it.
func (s *station) again(most int) {
	if s.una == s.nxt || s.reset {
		return
	}
	from := int(s.una - s.iss - 1)
	data := s.sent[from:min(len(s.sent), from+most)]
	flags := uint8(0)
	if s.fin && from+len(data) == len(s.sent) {
		flags = frame.FlagFIN
	}
	s.send(flags, s.una, data)
}

func (s *station) end() {
	if !s.fin && !s.reset {
		s.fin = true
		s.nxt++
		s.send(frame.FlagFIN, s.nxt-1, nil)
	}
}

// run carries frames until nothing moves.
func (w *translation) run() {
	w.running = true
	defer func() { w.running = false }()
	for moved := true; moved; {
		w.n.Settle()
		if w.n.failure != nil {
			w.t.Fatal(w.n.failure)
		}
		inbox := w.h.inbox
		w.h.inbox = nil
		moved = len(inbox) > 0
		for _, raw := range inbox {
			if w.lost[0] > 0 {
				w.lost[0]--
				continue
			}
			w.receive(raw)
		}
	}
}

func (w *translation) receive(raw []byte) {
	var f frame.Frame
	f.Reset(bytes.Clone(raw), 1)
	frame.Parse(&f)
	if f.Proto != frame.TCP || f.Flags&frame.HasTuple == 0 {
		return
	}
	for _, s := range w.stations {
		if s.port == f.Tuple.DstPort {
			s.receive(f.TCP(), f.Payload()[f.TCP().HeaderLen():])
		}
	}
}

func (s *station) receive(h frame.TCPHeader, data []byte) {
	t, flags, seq, ack := s.w.t, h.Flags(), h.Seq(), h.Ack()
	if flags&frame.FlagRST != 0 {
		s.reset = true
		return
	}
	if s.gone { // its reset was lost
		s.send(frame.FlagRST, ack, nil)
		return
	}
	if s.reset {
		t.Fatalf("port %d: a segment after a reset", s.port)
	}
	if flags&frame.FlagSYN != 0 {
		if ack != s.iss+1 {
			t.Fatalf("port %d: the SYN-ACK acknowledges %d of %d", s.port, ack-s.iss, 1)
		}
		s.irs, s.una, s.established = seq, ack, true
		s.reach, s.edge = seq+1+uint32(s.window)<<ownScale, ack+uint32(h.Window())
		s.send(0, s.nxt, nil)
		return
	}
	if int32(ack-s.nxt) > 0 {
		t.Fatalf("port %d: %d bytes are acknowledged, %d were sent", s.port, ack-s.iss-1, s.nxt-s.iss-1)
	}
	if edge := ack + uint32(h.Window())<<itsScale; int32(edge-s.edge) < 0 {
		if int32(ack-s.una) >= 0 && s.edge-edge >= 1<<itsScale {
			t.Fatalf("port %d: the window shrinks by %d", s.port, s.edge-edge)
		}
	} else {
		s.edge = edge
	}
	if int32(ack-s.una) > 0 {
		s.una = ack
	}
	if int32(seq+uint32(len(data))-s.reach) > 0 {
		t.Fatalf("port %d: %d bytes beyond the window", s.port, seq+uint32(len(data))-s.reach)
	}
	for i, b := range data {
		if at := int(seq+uint32(i)-s.irs) - 1; b != byteAt(^s.port, at) {
			t.Fatalf("port %d: byte %d is another one", s.port, at)
		}
	}
	old := s.next() - seq
	wanted := int32(old) >= 0 && int(old) < len(data)
	if wanted {
		s.got = append(s.got, data[old:]...)
	}
	if flags&frame.FlagFIN != 0 && seq+uint32(len(data)) == s.next() && !s.gotFIN {
		s.gotFIN = true
	} else if len(data) == 0 && seq == s.next() {
		return // nothing that must be acknowledged
	}
	if !wanted && !s.gotFIN || s.w.eager {
		s.send(0, s.nxt, nil)
	}
}

// peer lets the other end send n bytes, of which the last one is urgent or not.
func (s *station) peer(n int, urgent bool) {
	if s.ended || s.socket.Closed {
		return
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byteAt(^s.port, len(s.told)+i)
	}
	s.told = append(s.told, data...)
	if s.w.k.Deliver(s.socket, data[:n/2]); urgent {
		s.w.k.DeliverUrgent(s.socket, data[n/2:])
	} else {
		s.w.k.Deliver(s.socket, data[n/2:])
	}
	s.w.run()
}

// step does what some bytes of a fuzzer say.
func (w *translation) step(b [3]byte) {
	s, n := w.stations[b[0]>>7], int(b[1])
	switch b[0] & 0x7f % 15 {
	case 0:
		s.more(1 + n*40)
	case 1:
		s.again(1 + n*40)
	case 2:
		s.window = []uint16{0, 3, 40, 470}[n%4]
		if !s.reset {
			s.send(0, s.nxt, nil)
		}
	case 3:
		s.end()
	case 4, 5:
		s.peer(1+n*90, b[2] < 40)
	case 6:
		w.k.Acknowledge(s.socket, n*300)
		w.run()
	case 7:
		if s.ended = true; n < 60 {
			w.k.Abort(s.socket)
		} else {
			w.k.Finish(s.socket)
		}
		w.run()
	case 8:
		w.wait(time.Duration(n) * 10 * time.Millisecond)
	case 9:
		w.lost[n%2] = 1 + int(b[2])%3
	case 10:
		w.leave(s.last) // once more
	case 11:
		if !s.reset { // three equal ones
			for range 3 {
				s.send(0, s.nxt, nil)
			}
		}
	case 12:
		w.eager = !w.eager
	case 13:
		if n > 250 && !s.reset {
			s.reset, s.gone = true, true
			s.send(frame.FlagRST, s.nxt, nil)
		}
	case 14: // it is no part of a connection that is up
		if !s.reset {
			s.send(frame.FlagSYN, s.nxt, nil)
		}
	}
}

func (w *translation) wait(d time.Duration) {
	const tick = time.Second / frame.TicksPerSecond
	for ; d >= tick; d -= tick {
		w.n.Advance(1)
		w.run()
	}
}

// heal lets nothing be lost any more, until all has arrived.
func (w *translation) heal() {
	w.lost, w.eager = [2]int{}, true
	for n := 0; n < 400 && (n < 20 || !w.isDone()); n++ {
		for _, s := range w.stations {
			if s.window = 470; !s.reset && n == 0 { // later, only what the engine sends again helps
				s.send(0, s.nxt, nil)
			}
			s.again(1400)
			w.k.Acknowledge(s.socket, 1<<20)
			w.run()
		}
		w.wait(300 * time.Millisecond)
	}
}

// isDone reports whether nothing is on its way any more.
func (w *translation) isDone() bool {
	for _, s := range w.stations {
		if s.reset != s.socket.Reset || !s.reset && (!bytes.Equal(s.sent, s.socket.Sent) || !bytes.Equal(s.told, s.got) || s.fin != s.socket.Shut || s.ended != s.gotFIN) {
			return false
		}
	}
	return true
}

func (w *translation) check() {
	for _, s := range w.stations {
		switch {
		case s.reset || s.socket.Reset:
			if s.send(0, s.nxt, nil); !s.reset { // its next segment tells it
				w.t.Fatalf("port %d: the socket was reset, and the container does not know", s.port)
			}
			if !s.socket.Closed {
				w.t.Fatalf("port %d: the container was reset, and the socket is there", s.port)
			}
			if !bytes.HasPrefix(s.sent, s.socket.Sent) {
				w.t.Fatalf("port %d: the peer got other data", s.port)
			}
			if !bytes.HasPrefix(s.told, s.got) {
				w.t.Fatalf("port %d: the container got other data", s.port)
			}
			continue
		case !bytes.Equal(s.sent, s.socket.Sent):
			w.t.Fatalf("port %d: the peer got %d of %d bytes", s.port, len(s.socket.Sent), len(s.sent))
		case !bytes.Equal(s.told, s.got):
			w.t.Fatalf("port %d: the container got %d of %d bytes", s.port, len(s.got), len(s.told))
		case s.fin != s.socket.Shut || s.ended != s.gotFIN:
			w.t.Fatalf("port %d: ends: of the container %v %v, of the peer %v %v", s.port, s.fin, s.socket.Shut, s.ended, s.gotFIN)
		case (s.fin && s.ended) != s.socket.Closed:
			w.t.Fatalf("port %d: the socket is closed: %v, and both ends have ended: %v", s.port, s.socket.Closed, s.fin && s.ended)
		}
	}
	if c := w.n.DP.Conservation(); !c.Balanced {
		w.t.Fatalf("not balanced: %+v", c)
	}
}

// FuzzTranslation: whatever is lost, late or repeated between a container and the switch, both ends get what the other one has sent, once and in
// order, or a reset.
func FuzzTranslation(f *testing.F) {
	addRandom(f, 16, 240, 7)
	f.Fuzz(func(t *testing.T, script []byte, old bool) {
		w := newTranslation(t, old)
		for script = script[:min(len(script), 300)]; len(script) >= 3; script = script[3:] {
			w.step([3]byte(script))
		}
		w.heal()
		w.check()
	})
}

// TestRefusedConnection: the container hears of a refusal, and the account knows it.
func TestRefusedConnection(t *testing.T) {
	w := newTranslation(t, false)
	s := &station{w: w, port: 40002, iss: 9}
	s.nxt = s.iss + 1
	w.stations = append(w.stations, s)
	s.send(frame.FlagSYN, s.iss, nil)
	all := w.k.Sockets()
	w.k.Answer(all[len(all)-1], unix.ECONNREFUSED)
	w.run()
	w.run()
	if !s.reset || w.n.DP.Drops()[frame.ConnectRefused.String()] != 1 {
		t.Errorf("reset %v, drops %v", s.reset, w.n.DP.Drops())
	}
	if c := w.n.DP.Conservation(); !c.Balanced {
		t.Errorf("not balanced: %+v", c)
	}
}

// TestLastFramesLost: what nothing follows is sent again after a time.
func TestLastFramesLost(t *testing.T) {
	for _, old := range []bool{false, true} {
		w := newTranslation(t, old)
		s := w.stations[0]
		w.lost[0] = 2
		s.peer(3000, false)
		s.ended = true
		w.k.Finish(s.socket)
		w.run()
		if w.wait(2 * time.Second); len(s.got) != 3000 || !s.gotFIN {
			t.Errorf("after two seconds, %d bytes are there, the end %v", len(s.got), s.gotFIN)
		}
	}
}
