package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Sizes of messages over UDP, in bytes: without EDNS, and at most, so that no answer is fragmented (RFC 6891, 6.2.5; the DNS flag day of 2020).
const (
	minUDP = 512
	maxUDP = 1232
)

// MaxMessage is the length of the longest message, in bytes.
const MaxMessage = 65535

// ttl is how long an answer about our names may be kept, in seconds: containers come and go.
const ttl = 5

const headerLen = 12

// A question is a parsed message.
type question struct {
	dnsmessage.Header
	dnsmessage.Question
	name  string // in lower case
	limit int    // length of the longest answer, in bytes
	edns  bool   // the answer must have an OPT record
	rcode dnsmessage.RCode

	options []dnsmessage.Option // of the answer's OPT record
}

// badVersion is the RCODE for another version of EDNS than 0 (RFC 6891, 6.1.3); its upper bits stand in the OPT record.
const badVersion = dnsmessage.RCode(16)

// isWhole reports whether a name refers to no other place. A reference to the number of the message would lead elsewhere once the message is passed on with
// another number: the name that was judged is not the one that is asked for.
func isWhole(name []byte) bool {
	for len(name) > 0 && name[0] != 0 {
		if name[0] > 63 || len(name) <= int(name[0]) {
			return false
		}
		name = name[1+name[0]:]
	}
	return len(name) > 0
}

// parse reads a question. ok is false if there is nothing to answer: the message is no question. A question that cannot be answered has its
// rcode. limit is the length of the longest answer that its transport takes, in bytes.
func parse(m []byte, udp bool, limit int) (q question, ok bool) {
	if len(m) < headerLen || m[2]&0x80 != 0 { // an answer is never answered
		return q, false
	}
	q.limit = limit
	if udp {
		q.limit = min(limit, minUDP)
	}
	var p dnsmessage.Parser
	var err error
	if q.Header, err = p.Start(m); err != nil {
		return q, false
	}
	if q.OpCode != 0 {
		q.rcode = dnsmessage.RCodeNotImplemented
		return q, true
	}
	if binary.BigEndian.Uint16(m[4:]) != 1 {
		q.rcode = dnsmessage.RCodeFormatError
		return q, true
	}
	if q.Question, err = p.Question(); err != nil || !isWhole(m[headerLen:]) {
		q.rcode = dnsmessage.RCodeFormatError
		return q, true
	}
	q.name = lower(q.Name.String())
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		q.rcode = dnsmessage.RCodeFormatError
		return q, true
	}
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return q, true
		}
		if err != nil || h.Type == dnsmessage.TypeOPT && q.edns { // two are an error (RFC 6891, 6.1.1)
			q.rcode = dnsmessage.RCodeFormatError
			return q, true
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			if udp {
				q.limit = min(limit, maxUDP, max(minUDP, int(h.Class)))
			}
			if version := h.TTL >> 16 & 0xff; version != 0 {
				q.rcode = badVersion
			}
		}
		if p.SkipAdditional() != nil {
			q.rcode = dnsmessage.RCodeFormatError
			return q, true
		}
	}
}

// answer answers a question about a name of ours. It returns nil if others are to be asked.
func (z *Zones) answer(port frame.PortID, from frame.NetID, q *question) []byte {
	if q.rcode != 0 {
		return q.refuse(q.rcode)
	}
	n := z.networks[from]
	if n == nil || q.Class != dnsmessage.ClassINET && q.Class != dnsmessage.ClassANY {
		return q.refuse(dnsmessage.RCodeRefused)
	}
	f := z.find(z.asker(port, from), q.name)
	switch {
	case f.ours:
		return q.reply(&f)
	case n.Local: // not REFUSED: musl would ask again, for 5 s
		return q.negative(dnsmessage.RCodeNameError, &finding{zone: n.Domain})
	}
	return nil
}

// lower folds the case of ASCII letters, and of nothing else (RFC 4343, 3).
func lower(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// plainName is the name without its last dot.
func (q *question) plainName() string { return strings.TrimSuffix(q.name, ".") }

// extendedError is the EDNS option that says why (RFC 8914, 2). Its codes: a policy does not allow the name (4.19), and no server can be reached (4.23).
const (
	extendedError = 15
	prohibited    = 18
	noAuthority   = 22
)

// explain adds to the answer why it is an error.
func (q *question) explain(code uint16, why string) {
	q.options = []dnsmessage.Option{{Code: extendedError, Data: append(binary.BigEndian.AppendUint16(nil, code), why...)}}
}

// prohibit says that there is no such name, and in an Extended DNS Error that a policy says so. It is not REFUSED: musl would ask again, for 5 s.
// Without a SOA, nobody keeps the answer (RFC 2308, 5).
func (q *question) prohibit() []byte {
	b := q.begin(dnsmessage.RCodeNameError, false)
	q.explain(prohibited, "a policy of this port does not allow the name")
	return q.finish(&b, dnsmessage.RCodeNameError)
}

// addressesIn returns the addresses that an answer gives to a name, by aliases too (CNAME), and for how long they hold, in seconds. Records of other
// names do not count.
func addressesIn(answer []byte, name string) (addrs []netip.Addr, seconds uint32) {
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil || p.SkipAllQuestions() != nil {
		return nil, 0
	}
	type alias struct {
		to  string
		ttl uint32
	}
	aliases, of := map[string]alias{}, map[string][]netip.Addr{}
	ttls := map[string]uint32{}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			break
		}
		if h.Class != dnsmessage.ClassINET {
			if p.SkipAnswer() != nil {
				return nil, 0
			}
			continue
		}
		owner := lower(h.Name.String())
		switch h.Type {
		case dnsmessage.TypeCNAME:
			r, err := p.CNAMEResource()
			if err != nil {
				return nil, 0
			}
			aliases[owner] = alias{lower(r.CNAME.String()), h.TTL}
			continue
		case dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return nil, 0
			}
			of[owner] = append(of[owner], netip.AddrFrom4(r.A))
		case dnsmessage.TypeAAAA:
			r, err := p.AAAAResource()
			if err != nil {
				return nil, 0
			}
			of[owner] = append(of[owner], netip.AddrFrom16(r.AAAA))
		default:
			if p.SkipAnswer() != nil {
				return nil, 0
			}
			continue
		}
		if old, known := ttls[owner]; !known || h.TTL < old {
			ttls[owner] = h.TTL
		}
	}
	seconds = 1<<32 - 1
	for range maxAliases {
		if list := of[name]; list != nil {
			return list, min(seconds, ttls[name])
		}
		a, ok := aliases[name]
		if !ok {
			break
		}
		name, seconds = a.to, min(seconds, a.ttl)
	}
	return nil, 0
}

// maxAliases is how many aliases may follow one another.
const maxAliases = 16

// refuse answers with an error and nothing else.
func (q *question) refuse(rcode dnsmessage.RCode) []byte {
	b := q.begin(rcode, false)
	return q.finish(&b, rcode)
}

// begin begins an answer with the question.
func (q *question) begin(rcode dnsmessage.RCode, truncated bool) dnsmessage.Builder {
	h := dnsmessage.Header{
		ID: q.ID, Response: true, OpCode: q.OpCode, Authoritative: rcode == dnsmessage.RCodeSuccess || rcode == dnsmessage.RCodeNameError,
		RecursionDesired: q.RecursionDesired, RecursionAvailable: true, RCode: rcode & 15, Truncated: truncated,
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, minUDP), h)
	b.EnableCompression()
	if q.Name.Length > 0 { // the question could be read
		_ = b.StartQuestions()
		_ = b.Question(q.Question)
	}
	return b
}

// finish ends an answer. The OPT record has the upper bits of rcode.
func (q *question) finish(b *dnsmessage.Builder, rcode dnsmessage.RCode) []byte {
	if q.edns {
		_ = b.StartAdditionals()
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: maxUDP, TTL: uint32(rcode>>4) << 24}
		_ = b.OPTResource(h, dnsmessage.OPTResource{Options: q.options})
	}
	m, err := b.Finish()
	if err != nil { // only if a name is too long, and then it was not read
		return nil
	}
	return m
}

// reply answers with what was found. An answer that is too long is cut at a record, with TC.
func (q *question) reply(f *finding) []byte {
	if !f.known {
		return q.negative(dnsmessage.RCodeNameError, f)
	}
	addrs := f.of(q.Type)
	isName := f.ptr != "" && (q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL)
	isZone := f.apex && (q.Type == dnsmessage.TypeSOA || q.Type == dnsmessage.TypeNS || q.Type == dnsmessage.TypeALL)
	if len(addrs) == 0 && !isName && !isZone {
		return q.negative(dnsmessage.RCodeSuccess, f)
	}
	if len(addrs) > 1 { // another one is the first each time
		first := rand.IntN(len(addrs))
		addrs = append(addrs[first:len(addrs):len(addrs)], addrs[:first]...)
	}
	ofRecord := 16 // bytes: a reference to the name, type, class, TTL, length, address
	if len(addrs) > 0 && addrs[0].Is6() {
		ofRecord = 28
	}
	for n := min(len(addrs), (q.limit-headerLen)/ofRecord); ; n-- { // at most so many fit
		b := q.begin(dnsmessage.RCodeSuccess, n < len(addrs))
		_ = b.StartAnswers()
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		for _, a := range addrs[:n] {
			if a.Is4() {
				_ = b.AResource(h, dnsmessage.AResource{A: a.As4()})
			} else {
				_ = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
		if name, err := dnsmessage.NewName(f.ptr); isName && err == nil {
			_ = b.PTRResource(h, dnsmessage.PTRResource{PTR: name})
		}
		if isZone && q.Type != dnsmessage.TypeNS {
			_ = b.SOAResource(h, soa(f.zone))
		}
		if isZone && q.Type == dnsmessage.TypeNS {
			_ = b.NSResource(h, dnsmessage.NSResource{NS: server(f.zone)})
		}
		if m := q.finish(&b, 0); len(m) <= q.limit || n == 0 {
			return m
		}
	}
}

// of returns a copy of the addresses for a type of records. ANY gets those of one type (RFC 8482, 4.1).
func (f *finding) of(t dnsmessage.Type) (addrs []netip.Addr) {
	for _, a := range f.addrs {
		if t == dnsmessage.TypeA && a.Is4() || t == dnsmessage.TypeAAAA && a.Is6() || t == dnsmessage.TypeALL && a.Is4() == f.addrs[0].Is4() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// negative says that there is no such name, or none of this type, and for how long that holds (RFC 2308, 3).
func (q *question) negative(rcode dnsmessage.RCode, f *finding) []byte {
	b := q.begin(rcode, false)
	if name, err := dnsmessage.NewName(f.zone); err == nil {
		_ = b.StartAuthorities()
		_ = b.SOAResource(dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}, soa(f.zone))
	}
	return q.finish(&b, rcode)
}

func soa(zone string) dnsmessage.SOAResource {
	ns := server(zone)
	return dnsmessage.SOAResource{NS: ns, MBox: ns, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: ttl}
}

// server is the name of the server of a zone: the network's gateway.
func server(zone string) dnsmessage.Name {
	name, err := dnsmessage.NewName("gateway." + zone)
	if err != nil {
		name = dnsmessage.MustNewName("gateway.")
	}
	return name
}
