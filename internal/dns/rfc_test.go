package dns

import (
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// answerTo answers a question of network 1 over UDP. It checks the worker's answer, too, if there is one.
func answerTo(t *testing.T, message []byte) (m dnsmessage.Message) {
	t.Helper()
	z := testZones()
	q, ok := parse(message, true, 1472)
	if !ok {
		t.Fatal("no question")
	}
	raw := z.answer(0, 1, &q)
	if quick := quickly(t, z, 1, message, 1472); quick != nil {
		same(t, quick, raw)
	}
	if err := m.Unpack(raw); err != nil {
		t.Fatal(err)
	}
	return m
}

// Names are compared without regard to case, and the answer keeps the letters of the question.
func TestRFC1035_2_3_3_Case(t *testing.T) {
	m := answerTo(t, ask("WeB.FRONT.uvs.Internal.", dnsmessage.TypeA, 0))
	if len(m.Answers) != 1 || m.Questions[0].Name.String() != "WeB.FRONT.uvs.Internal." || m.Answers[0].Header.Name.String() != "WeB.FRONT.uvs.Internal." {
		t.Errorf("%v", m.GoString())
	}
}

// Addresses have names in in-addr.arpa, with the octets in reverse.
func TestRFC1035_3_5_Reverse(t *testing.T) {
	m := answerTo(t, ask("3.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, 0))
	if len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.PTRResource).PTR.String() != "db.front.uvs.internal." {
		t.Errorf("%v", m.GoString())
	}
}

// An answer has the identifier, the operation and the wish for recursion of its question; QR and, about names of ours, AA are set.
func TestRFC1035_4_1_1_Header(t *testing.T) {
	for _, recursion := range []bool{true, false} {
		message := ask("web.", dnsmessage.TypeA, 0)
		if message[0], message[1] = 0xab, 0xcd; !recursion {
			message[2] &^= 1
		}
		if m := answerTo(t, message); m.ID != 0xabcd || !m.Response || m.OpCode != 0 || !m.Authoritative || m.Truncated || m.RecursionDesired != recursion || !m.RecursionAvailable || m.RCode != 0 {
			t.Errorf("%+v", m.Header)
		}
	}
}

// An operation that the server does not know is answered with RCODE 4, a message that it cannot read with 1; an answer is not answered.
func TestRFC1035_4_1_1_Errors(t *testing.T) {
	update := ask("web.", dnsmessage.TypeA, 0)
	update[2] |= 5 << 3
	if m := answerTo(t, update); m.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("an update: %v", m.RCode)
	}
	if m := answerTo(t, ask("web.", dnsmessage.TypeA, 0)[:14]); m.RCode != dnsmessage.RCodeFormatError {
		t.Errorf("a cut message: %v", m.RCode)
	}
	answer := ask("web.", dnsmessage.TypeA, 0)
	answer[2] |= 0x80
	if _, ok := parse(answer, true, 1472); ok {
		t.Error("an answer is taken for a question")
	}
}

// A name in a question that refers to another place is an error: to itself, to the number of the message, which changes when it is passed on, or behind
// the message.
func TestRFC1035_4_1_4_Compression(t *testing.T) {
	for _, to := range []byte{0, 12, 13, 200} {
		message := ask("web.", dnsmessage.TypeA, 0)
		message[0], message[1] = 0, 0 // a name: the root
		message = slices.Concat(message[:12], []byte{0xc0, to, 0, 1, 0, 1})
		if m := answerTo(t, message); m.RCode != dnsmessage.RCodeFormatError {
			t.Errorf("a reference to %d: %v", to, m.RCode)
		}
	}
}

// Without EDNS, an answer over UDP has 512 bytes at most. One that is longer is cut at a record, with TC.
func TestRFC1035_4_2_1_Truncation(t *testing.T) {
	z := testZones()
	q, _ := parse(ask("crowd.example.org.", dnsmessage.TypeA, 0), true, 1472)
	raw := z.answer(0, 1, &q)
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil {
		t.Fatal(err)
	}
	if len(raw) > 512 || len(raw) < 512-28 || !m.Truncated || len(m.Answers) == 0 {
		t.Errorf("%d bytes, %d records, truncated: %v", len(raw), len(m.Answers), m.Truncated)
	}
}

// negative checks that an answer has no record, an SOA record of a zone, and how long both hold.
func negative(t *testing.T, m *dnsmessage.Message, rcode dnsmessage.RCode, zone string) {
	t.Helper()
	if m.RCode != rcode || len(m.Answers) != 0 || len(m.Authorities) != 1 || m.Authorities[0].Header.Name.String() != zone {
		t.Fatalf("%v", m.GoString())
	}
	if soa, ok := m.Authorities[0].Body.(*dnsmessage.SOAResource); !ok || m.Authorities[0].Header.TTL != ttl || soa.MinTTL != ttl {
		t.Errorf("%v", m.GoString())
	}
}

// NXDOMAIN comes with the SOA record of the zone.
func TestRFC2308_2_1_NameError(t *testing.T) {
	m := answerTo(t, ask("nobody.front.uvs.internal.", dnsmessage.TypeA, 0))
	negative(t, &m, dnsmessage.RCodeNameError, "front.uvs.internal.")
}

// A name without records of a type has no error: an empty answer with the SOA record of the zone.
func TestRFC2308_2_2_NoData(t *testing.T) {
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeMX} {
		m := answerTo(t, ask("db.front.uvs.internal.", typ, 0))
		negative(t, &m, dnsmessage.RCodeSuccess, "front.uvs.internal.")
	}
}

// A negative answer may be kept for the smaller one of the SOA's TTL and its MINIMUM: both are the TTL of the names.
func TestRFC2308_5_TTL(t *testing.T) {
	m := answerTo(t, ask("nobody.", dnsmessage.TypeA, 0))
	negative(t, &m, dnsmessage.RCodeNameError, "front.uvs.internal.")
}

// A name below which others exist exists, too: it is no NXDOMAIN.
func TestRFC8020_2_NothingUnderneath(t *testing.T) {
	m := answerTo(t, ask("b.c.front.uvs.internal.", dnsmessage.TypeA, 0))
	negative(t, &m, dnsmessage.RCodeSuccess, "front.uvs.internal.")
}

// A question of type ANY is answered with one of the sets of records.
func TestRFC8482_4_1_SubsetOfANY(t *testing.T) {
	m := answerTo(t, ask("web.", dnsmessage.TypeALL, 0))
	if len(m.Answers) != 1 || m.Answers[0].Header.Type != dnsmessage.TypeA {
		t.Errorf("%v", m.GoString())
	}
}
