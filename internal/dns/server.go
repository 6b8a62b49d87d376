package dns

import (
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// A Question is a message from a station.
type Question struct {
	Port    frame.PortID
	Net     frame.NetID
	Message []byte
	UDP     bool
	Limit   int // length of the longest answer that the transport takes, in bytes
}

// A Server answers questions.
type Server struct {
	Counts
	zones   atomic.Pointer[Zones]
	forward forwarder
	gate    Gate
	turn    atomic.Uint32 // of quick answers with several addresses
}

// A Gate says for which names ports may ask, and learns what they are answered. Names are in lower case, without the last dot. Several
// goroutines use it.
type Gate interface {
	// Watches reports whether the gate has a say about a port.
	Watches(port frame.PortID) bool
	// Denied counts a question that MayAsk has refused.
	Denied(port frame.PortID, name string)
	// MayAsk reports whether a port may ask for a name. ours: it is one of the switch, with these addresses.
	MayAsk(port frame.PortID, name string, ours bool, addrs []netip.Addr) bool
	// Learn is called before an answer leaves. ttl is in seconds.
	Learn(port frame.PortID, name string, ours bool, addrs []netip.Addr, ttl uint32)
}

// SetGate is called before the first question.
func (s *Server) SetGate(g Gate) { s.gate = g }

// Counts say what became of questions.
type Counts struct {
	Own       atomic.Uint64 // answered about our names
	Forwarded atomic.Uint64 // answered by a server of the host
	Failed    atomic.Uint64 // no server has answered
	Denied    atomic.Uint64 // a policy of the port does not allow the name
	Refused   atomic.Uint64 // too many at a time, or of a network that asks nobody
	Malformed atomic.Uint64 // no questions
}

// NewServer makes a server that asks the servers of a file in the format of resolv.conf(5), unless a network names its own.
func NewServer(resolvConf string) *Server {
	s := &Server{}
	s.forward.host.path = resolvConf
	s.forward.silent, s.forward.answered = map[silence]time.Time{}, map[netip.AddrPort]time.Time{}
	s.forward.divide(share.Among{})
	s.zones.Store(NewZones("", "", nil))
	return s
}

// SetOpener says who opens the file with the host's servers where this process may not. It is called before the first question.
func (s *Server) SetOpener(open func() (*os.File, error)) { s.forward.host.open = open }

// DivideAmong sets which ports share the questions that are asked elsewhere.
func (s *Server) DivideAmong(a share.Among) { s.forward.divide(a) }

// SetZones says what the server's names are.
func (s *Server) SetZones(z *Zones) { s.zones.Store(z) }

// Ask answers a question: at once by its result, or later by one call of reply from another goroutine. Where there is nothing to answer, it
// does neither.
func (s *Server) Ask(q Question, reply func([]byte)) (answer []byte, later bool) {
	p, ok := parse(q.Message, q.UDP, q.Limit)
	if !ok {
		s.Malformed.Add(1)
		return nil, false
	}
	z := s.zones.Load()
	f, watched, denied := s.ofGate(&q, &p, z)
	if denied {
		s.Denied.Add(1)
		s.gate.Denied(q.Port, p.plainName())
		return p.prohibit(), false
	}
	if watched && f.ours {
		s.gate.Learn(q.Port, p.plainName(), true, f.addrs, ttl)
	}
	if m := z.answer(q.Port, q.Net, &p); m != nil {
		if rcode := dnsmessage.RCode(m[3] & 15); rcode == dnsmessage.RCodeRefused {
			s.Refused.Add(1)
		} else {
			s.Own.Add(1)
		}
		return m, false
	}
	message := append([]byte(nil), q.Message...)
	begun := s.forward.begin(q.Port, func() {
		answer := s.forward.ask(q.Port, z.networks[q.Net], message, z)
		if answer == nil {
			s.Failed.Add(1)
			p.explain(noAuthority, "no name server has answered")
			answer = p.refuse(dnsmessage.RCodeServerFailure)
		} else {
			s.Forwarded.Add(1)
			if watched {
				addrs, seconds := addressesIn(answer, p.name)
				s.gate.Learn(q.Port, p.plainName(), false, addrs, seconds)
			}
		}
		if len(answer) > p.limit {
			b := p.begin(dnsmessage.RCodeSuccess, true)
			answer = p.finish(&b, 0)
			answer[2] &^= 4 // not authoritative
		}
		reply(answer)
	})
	if !begun {
		s.Refused.Add(1)
		return p.refuse(dnsmessage.RCodeRefused), false
	}
	return nil, true
}

// ofGate asks the gate about a question. watched: the gate has a say about the port; f is then what the zones know of the name.
func (s *Server) ofGate(q *Question, p *question, z *Zones) (f finding, watched, denied bool) {
	n := z.networks[q.Net]
	if s.gate == nil || n == nil || p.rcode != 0 || !s.gate.Watches(q.Port) {
		return f, false, false
	}
	f = z.find(z.asker(q.Port, q.Net), p.name)
	return f, true, !s.gate.MayAsk(q.Port, p.plainName(), f.ours, f.addrs)
}

// Serves reports whether stations of a network get answers.
func (s *Server) Serves(net frame.NetID) bool { return s.zones.Load().networks[net] != nil }

// Preview returns the answer about a name of ours, and counts nothing. It is nil where others are asked, and where there is nothing to answer.
func (s *Server) Preview(q Question) []byte {
	p, ok := parse(q.Message, q.UDP, q.Limit)
	if !ok {
		return nil
	}
	z := s.zones.Load()
	if _, _, denied := s.ofGate(&q, &p, z); denied {
		return p.prohibit()
	}
	return z.answer(q.Port, q.Net, &p)
}
