package dns

import (
	"encoding/binary"
	"strings"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Workers answer the most common questions by themselves: those for the addresses of a name of ours. What they answer says the same as what Ask
// answers; every other question is left to Ask.

// records are the addresses of a name as an answer has them behind the question.
type records struct {
	network *Network
	bytes   [2][]byte // of A and of AAAA: records of recordLen bytes
	soa     []byte    // for an answer without records
}

// recordLen is the length of an A and of an AAAA record whose name refers to the question.
var recordLen = [2]int{16, 28}

const (
	typeA, typeAAAA, typeOPT, classIN = 1, 28, 41, 1

	maxName = 255
	optLen  = 11 // of an OPT record without options
)

// fillQuick makes the tables of quick answers: by the names that stations of a network may leave the zone away from, and by full names.
func (z *Zones) fillQuick() {
	z.full = map[string]*records{}
	for _, n := range z.networks {
		n.short = make(map[string]*records, len(n.Names))
		soa := soaRecord(n.Domain)
		for name, addrs := range n.Names {
			if name == "localhost" || strings.HasSuffix(name, ".localhost") {
				continue
			}
			x := &records{network: n, soa: soa}
			for _, a := range addrs {
				i := 1
				if a.Is4() {
					i = 0
				}
				x.bytes[i] = appendRecord(x.bytes[i], [2]uint16{typeA, typeAAAA}[i], a.AsSlice())
			}
			if key, ok := wireName(name + "."); ok {
				n.short[key] = x
			}
			if key, ok := wireName(name + "." + n.Domain); ok && z.zoneOf(name+"."+n.Domain) == n {
				z.full[key] = x
			}
		}
	}
}

// appendRecord appends a record of the name that is asked for, which stands behind the header.
func appendRecord(to []byte, typ uint16, data []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, 0xc000|headerLen)
	to = binary.BigEndian.AppendUint16(to, typ)
	to = binary.BigEndian.AppendUint16(to, classIN)
	to = binary.BigEndian.AppendUint32(to, ttl)
	return append(binary.BigEndian.AppendUint16(to, uint16(len(data))), data...)
}

// soaRecord is the SOA record of a zone, without references; nil if the zone is no name.
func soaRecord(zone string) []byte {
	name, err := dnsmessage.NewName(zone)
	if err != nil {
		return nil
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
	_ = b.StartAuthorities()
	_ = b.SOAResource(dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}, soa(zone))
	m, err := b.Finish()
	if err != nil {
		return nil
	}
	return m[headerLen:]
}

// wireName is a name as messages have it (RFC 1035, 3.1). The name ends with a dot.
func wireName(name string) (string, bool) {
	out := make([]byte, 0, len(name)+1)
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return "", false
		}
		out = append(append(out, byte(len(label))), label...)
	}
	return string(append(out, 0)), len(out) < maxName
}

// Quick answers a question that came by UDP from a port of a network in its own place, without waiting: message has as much room as its capacity
// says. limit is the length of the longest answer that the transport takes, in bytes. Quick returns the answer's length; or 0, and the message is
// unchanged.
func (s *Server) Quick(port frame.PortID, net frame.NetID, message []byte, limit int) int {
	z := s.zones.Load()
	n := z.networks[net]
	if n == nil || s.gate != nil && s.gate.Watches(port) {
		return 0
	}
	length := z.quick(n, message, limit, &s.turn)
	if length > 0 {
		s.Own.Add(1)
	}
	return length
}

// quick is Quick without what the server counts. turn is for the order of several addresses.
func (z *Zones) quick(n *Network, m []byte, limit int, turn *atomic.Uint32) int {
	const opcode, response = 0x78, 0x80
	if len(m) < headerLen || m[2]&(opcode|response) != 0 || binary.BigEndian.Uint64(m[4:])>>16 != 1<<32 || m[10] != 0 || m[11] > 1 {
		return 0 // more than one question, and perhaps OPT
	}
	var name [maxName]byte // in lower case
	at := headerLen
	for {
		if at >= len(m) || m[at] > 63 || at-headerLen+int(m[at]) >= maxName || at+int(m[at]) >= len(m) {
			return 0
		}
		label := m[at : at+int(m[at])+1]
		name[at-headerLen] = label[0]
		for i, c := range label[1:] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			name[at-headerLen+1+i] = c
		}
		if at += len(label); len(label) == 1 {
			break
		}
	}
	key := name[:at-headerLen]
	x := n.short[string(key)]
	if x == nil {
		x = z.full[string(key)]
	}
	if x == nil || !n.reaches(x.network) || x.soa == nil || at+4 > len(m) || binary.BigEndian.Uint16(m[at+2:]) != classIN {
		return 0
	}
	i := 0
	switch binary.BigEndian.Uint16(m[at:]) {
	case typeA:
	case typeAAAA:
		i = 1
	default:
		return 0
	}
	at += 4
	edns := m[11] == 1
	if longest, ok := readOPT(m[at:], edns); ok {
		limit = min(limit, longest)
	} else {
		return 0
	}
	records, length := x.bytes[i], at+max(len(x.bytes[i]), 1)
	if len(records) == 0 {
		length = at + len(x.soa)
	}
	if edns {
		length += optLen
	}
	if length > min(limit, cap(m)) {
		return 0
	}
	m = m[:length]
	if len(records) > 0 {
		first := 0
		if len(records) > recordLen[i] { // another one is the first each time
			first = int(turn.Add(1)) % (len(records) / recordLen[i]) * recordLen[i]
		}
		at += copy(m[at:], records[first:])
		at += copy(m[at:], records[:first])
	} else {
		at += copy(m[at:], x.soa)
	}
	if edns {
		copy(m[at:], []byte{0, 0, typeOPT, maxUDP >> 8, maxUDP & 0xff, 0, 0, 0, 0, 0, 0})
	}
	const authoritative, recursionDesired, recursionAvailable = 4, 1, 0x80
	m[2], m[3] = response|authoritative|m[2]&recursionDesired, recursionAvailable
	m[7], m[9] = byte(len(records)/recordLen[i]), 0
	if len(records) == 0 {
		m[9] = 1
	}
	return length
}

// readOPT reads what follows the question: nothing, or an OPT record (RFC 6891, 6.1.2). It returns the length of the longest answer over UDP.
func readOPT(rest []byte, edns bool) (longest int, ok bool) {
	if !edns {
		return minUDP, len(rest) == 0
	}
	if len(rest) < optLen || rest[0] != 0 || binary.BigEndian.Uint16(rest[1:]) != typeOPT || rest[6] != 0 || int(binary.BigEndian.Uint16(rest[9:])) != len(rest)-optLen {
		return 0, false
	}
	for options := rest[optLen:]; len(options) > 0; {
		if len(options) < 4 || 4+int(binary.BigEndian.Uint16(options[2:])) > len(options) {
			return 0, false
		}
		options = options[4+int(binary.BigEndian.Uint16(options[2:])):]
	}
	return min(maxUDP, max(minUDP, int(binary.BigEndian.Uint16(rest[3:])))), true
}
