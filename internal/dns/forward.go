package dns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/share"
)

// Questions that are asked elsewhere at a time, of all ports, which share them, and of one, if the limit of open files allows it: each takes a socket
// for each server.
const maxAsked, maxAskedOfPort = 1024, 128

// Questions of a port that are asked elsewhere: so many in a second, and so many at once after a pause. The servers of the host are others' as well.
const (
	askedRate  = 500
	askedBurst = 1000
)

// At most maxServers are asked for a question. A server that has not answered after patience is not waited for: the next one is asked besides. All have
// timeout. A server that has been silent comes last for a while, for the port that has asked: else one port could turn all others to another
// server, which may know other names, by a question that no server answers.
const (
	maxServers = 3
	patience   = time.Second
	timeout    = 4 * time.Second
	lastFor    = 30 * time.Second
)

// A forwarder asks servers of the host. Each question has a socket of its own, connected to the server, with a port and a number that nobody can
// foresee: who is not on the way cannot answer in the server's place (RFC 5452).
type forwarder struct {
	host hostServers

	shares share.Pool // of the questions on their way

	mu       sync.Mutex                   // Lock 97
	silent   map[silence]time.Time        // until when it comes last
	answered map[netip.AddrPort]time.Time // when a server has answered last
	paid     [frame.MaxPorts]time.Time    // until when a port's questions so far have used its rate
}

// A silence is of a server to a port.
type silence struct {
	port   frame.PortID
	server netip.AddrPort
}

// divide sets who shares the questions that are on their way.
func (f *forwarder) divide(a share.Among) {
	f.shares.Divide(min(maxAsked, rights.NameFiles()/maxServers), a, maxAskedOfPort)
}

// begin runs do in a goroutine, unless too many questions are on their way.
func (f *forwarder) begin(port frame.PortID, do func()) bool {
	if port %= frame.MaxPorts; !f.mayAsk(port) || !f.shares.Take(port) {
		return false
	}
	go func() {
		defer f.shares.Return(port)
		do()
	}()
	return true
}

// mayAsk reports whether a port has not asked too often, and counts a question.
func (f *forwarder) mayAsk(port frame.PortID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if least := now.Add(-askedBurst * time.Second / askedRate); f.paid[port].Before(least) {
		f.paid[port] = least
	}
	if f.paid[port].After(now) {
		return false
	}
	f.paid[port] = f.paid[port].Add(time.Second / askedRate)
	return true
}

// ask passes a question of a port in network n on, and returns the answer with the question's number, or nil. A server that fails or refuses is not the
// last word while there is another one.
func (f *forwarder) ask(port frame.PortID, n *Network, question []byte, z *Zones) (answer []byte) {
	servers := f.choose(port, n, z)
	answers := make(chan []byte, len(servers))
	next, open := 0, 0
	begin := func() {
		s := servers[next]
		next++
		open++
		go func() {
			m, err := exchange(s, question)
			if err != nil {
				m = nil
			}
			f.note(port, s, err)
			answers <- m
		}()
	}
	for next < len(servers) || open > 0 {
		if open == 0 {
			begin()
		}
		var late <-chan time.Time
		if next < len(servers) {
			late = time.After(patience)
		}
		select {
		case <-late:
			begin()
			continue
		case m := <-answers:
			open--
			if m == nil {
				continue
			}
			answer = m
			copy(answer, question[:2])
			if rcode := dnsmessage.RCode(m[3] & 15); rcode != dnsmessage.RCodeServerFailure && rcode != dnsmessage.RCodeRefused {
				return answer
			}
		}
	}
	return answer
}

// choose returns the servers for a question of a port in network n, those that have been silent last.
func (f *forwarder) choose(port frame.PortID, n *Network, z *Zones) []netip.AddrPort {
	now := time.Now()
	servers := n.Servers
	if servers == nil {
		servers = f.host.list(now)
	}
	servers = slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool { return z.isGateway(s.Addr()) })
	servers = servers[:min(len(servers), maxServers)]
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortStableFunc(servers, func(a, b netip.AddrPort) int {
		silent := func(s netip.AddrPort) int {
			if now.Before(f.silent[silence{port, s}]) {
				return 1
			}
			return 0
		}
		return silent(a) - silent(b)
	})
	return servers
}

// note remembers whether a server has answered a port.
func (f *forwarder) note(port frame.PortID, s netip.AddrPort, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if err == nil {
		delete(f.silent, silence{port, s})
		f.answered[s] = now
		return
	}
	if len(f.silent) >= maxSilences {
		maps.DeleteFunc(f.silent, func(_ silence, until time.Time) bool { return now.After(until) })
	}
	if len(f.silent) < maxSilences {
		f.silent[silence{port, s}] = now.Add(lastFor)
	}
	maps.DeleteFunc(f.answered, func(_ netip.AddrPort, at time.Time) bool { return now.Sub(at) > lastFor })
}

const maxSilences = 4096

// Silent lists the servers that have left a question without an answer lately, and have answered no other one since it was asked.
func (s *Server) Silent() (list []netip.AddrPort) {
	f := &s.forward
	f.mu.Lock()
	defer f.mu.Unlock()
	for of, until := range f.silent {
		if at := f.answered[of.server]; time.Now().Before(until) && at.Before(until.Add(-lastFor-timeout)) {
			list = append(list, of.server)
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return slices.Compact(list)
}

// HostServers lists the servers that the host asks. The error says why those of now are not known: the last ones are asked.
func (s *Server) HostServers() ([]netip.AddrPort, error) {
	h := &s.forward.host
	list := h.list(time.Now())
	h.mu.Lock()
	defer h.mu.Unlock()
	return list, h.failure
}

// exchange asks one server, by UDP, and by TCP if the answer does not fit.
func exchange(server netip.AddrPort, question []byte) ([]byte, error) {
	own := append([]byte(nil), question...)
	binary.BigEndian.PutUint16(own, uint16(rand.Uint32()))
	m, err := exchangeBy("udp", server, own)
	if err == nil && m[2]&2 != 0 { // TC
		if whole, terr := exchangeBy("tcp", server, own); terr == nil {
			return whole, nil
		}
	}
	return m, err
}

var buffers = sync.Pool{New: func() any { return new([MaxMessage]byte) }}

func exchangeBy(network string, server netip.AddrPort, question []byte) ([]byte, error) {
	deadline := time.Now().Add(timeout)
	c, err := (&net.Dialer{Deadline: deadline}).Dial(network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	tcp := network == "tcp"
	send := question
	if tcp {
		send = append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	}
	if _, err := c.Write(send); err != nil {
		return nil, err
	}
	room := buffers.Get().(*[MaxMessage]byte)
	defer buffers.Put(room)
	for buf := room[:]; ; {
		n := 0
		if tcp {
			var length [2]byte
			if _, err := io.ReadFull(c, length[:]); err != nil {
				return nil, err
			}
			n, err = io.ReadFull(c, buf[:binary.BigEndian.Uint16(length[:])])
		} else {
			n, err = c.Read(buf)
		}
		if err != nil {
			return nil, err
		}
		if isAnswer(question, buf[:n]) {
			return append([]byte(nil), buf[:n]...), nil
		}
		if tcp {
			return nil, io.ErrUnexpectedEOF
		}
	}
}

// isAnswer reports whether m answers a question: it has the same number and asks for the same (RFC 5452, 3).
func isAnswer(question, m []byte) bool {
	if len(m) < headerLen || m[2]&0x80 == 0 || !bytes.Equal(m[:2], question[:2]) {
		return false
	}
	if m[4] == 0 && m[5] == 0 { // an error may leave the question out
		return m[3]&15 != 0
	}
	var p, o dnsmessage.Parser
	if _, err := p.Start(question); err != nil {
		return false
	}
	if _, err := o.Start(m); err != nil {
		return false
	}
	a, aerr := p.Question()
	b, berr := o.Question()
	return aerr == nil && berr == nil && a.Type == b.Type && a.Class == b.Class && strings.EqualFold(a.Name.String(), b.Name.String())
}

func readOpened(open func() (*os.File, error)) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxResolvConf))
}

// maxResolvConf is how much of the host's file is read, in bytes.
const maxResolvConf = 64 << 10

// hostServers are the servers that the host asks. The file is read again when it has changed, at most once in a second.
type hostServers struct {
	path string
	open func() (*os.File, error) // opens the file where this process may not; nil: nobody does

	mu      sync.Mutex // Lock 98
	checked time.Time
	changed time.Time
	servers []netip.AddrPort
	failure error // why the file could not be read when it had changed
}

func (h *hostServers) list(now time.Time) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.checked.IsZero() && now.Sub(h.checked) < time.Second {
		return h.servers
	}
	h.checked = now
	info, err := os.Stat(h.path)
	if err != nil || info.ModTime().Equal(h.changed) {
		return h.servers
	}
	text, err := os.ReadFile(h.path)
	if errors.Is(err, os.ErrPermission) && h.open != nil {
		h.mu.Unlock() // who opens it has a lock of its own
		text, err = readOpened(h.open)
		h.mu.Lock()
	}
	if h.failure = err; err != nil {
		return h.servers
	}
	h.changed, h.servers = info.ModTime(), ParseResolvConf(string(text))
	return h.servers
}

// ParseResolvConf returns the servers of a file in the format of resolv.conf(5).
func ParseResolvConf(text string) (servers []netip.AddrPort) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}
