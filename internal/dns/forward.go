package dns

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Questions that are asked elsewhere at a time, of all ports and of one.
const maxAsked, maxAskedOfPort = 1024, 128

// timeout is how long a server has for its answer. At most maxServers are asked for a question.
const (
	timeout    = 4 * time.Second
	maxServers = 3
)

// A forwarder asks servers of the host. Each question has a socket of its own, connected to the server, with a port and a number that nobody can
// foresee: who is not on the way cannot answer in the server's place (RFC 5452).
type forwarder struct {
	host hostServers

	mu     sync.Mutex // Lock 97
	asked  int
	ofPort map[frame.PortID]int
}

// begin runs do in a goroutine, unless too many questions are on their way.
func (f *forwarder) begin(port frame.PortID, do func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked >= maxAsked || f.ofPort[port] >= maxAskedOfPort {
		return false
	}
	if f.ofPort == nil {
		f.ofPort = map[frame.PortID]int{}
	}
	f.asked++
	f.ofPort[port]++
	go func() {
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asked--
			if f.ofPort[port]--; f.ofPort[port] == 0 {
				delete(f.ofPort, port)
			}
		}()
		do()
	}()
	return true
}

// ask passes a question of network n on, and returns the answer with the question's number, or nil. A server that fails or refuses is not the
// last word while there is another one.
func (f *forwarder) ask(n *Network, question []byte, z *Zones) (answer []byte) {
	servers := n.Servers
	if servers == nil {
		servers = f.host.list(time.Now())
	}
	asked := 0
	for _, s := range servers {
		if _, ours := z.byAddr[s.Addr().WithZone("")]; ours { // it would come back
			continue
		}
		if asked++; asked > maxServers {
			break
		}
		m, err := exchange(s, question)
		if err != nil {
			continue
		}
		answer = m
		if rcode := dnsmessage.RCode(m[3] & 15); rcode != dnsmessage.RCodeServerFailure && rcode != dnsmessage.RCodeRefused {
			break
		}
	}
	if answer != nil {
		copy(answer, question[:2])
	}
	return answer
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
	for buf := make([]byte, MaxMessage); ; {
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

// hostServers are the servers that the host asks. The file is read again when it has changed, at most once in a second.
type hostServers struct {
	path string

	mu      sync.Mutex // Lock 98
	checked time.Time
	changed time.Time
	servers []netip.AddrPort
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
	if err != nil {
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
