package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// testNetworks gives each address the first of its names in reverse.
func testNetworks(networks map[frame.NetID]*Network) *Zones {
	for _, n := range networks {
		n.Reverse = map[netip.Addr]string{}
		for name, addrs := range n.Names {
			for _, a := range addrs {
				n.Reverse[a] = name
			}
		}
	}
	return NewZones("uvs.internal.", "uvs0", networks)
}

// testZones has networks 1 (front), 2 (back), 3 (alone, isolated) and 4 (quiet, local).
func testZones() *Zones {
	many := map[string][]netip.Addr{"web": addrs("172.30.2.2")}
	for i := range 60 {
		many["crowd"] = append(many["crowd"], netip.AddrFrom4([4]byte{172, 30, 2, byte(10 + i)}))
	}
	return testNetworks(map[frame.NetID]*Network{
		1: {Domain: "front.uvs.internal.", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/23"), netip.MustParsePrefix("fd00:1::/64")}, Names: map[string][]netip.Addr{
			"web": addrs("172.30.0.2", "fd00:1::2"), "db": addrs("172.30.0.3"), "a.b.c": addrs("172.30.0.4"), "gateway": addrs("172.30.0.1", "fd00:1::1"),
		}},
		2: {Domain: "example.org.", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.30.2.0/24")}, Names: many},
		3: {Domain: "alone.uvs.internal.", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.30.3.0/24")}, Names: map[string][]netip.Addr{"cell": addrs("172.30.3.2")}, Isolated: true},
		4: {Domain: "quiet.uvs.internal.", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.30.4.0/24")}, Names: map[string][]netip.Addr{"mouse": addrs("172.30.4.2")}, Local: true},
		5: {Domain: "home.arpa.", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.30.5.0/24")}, Names: map[string][]netip.Addr{"c": addrs("172.30.5.2")}},
	})
}

// A container in several networks finds the names of all of them by each of its ports; its own network's come first. Others find as before.
func TestJoined(t *testing.T) {
	z := testZones()
	z.Join(7, 3)
	z.Join(7, 2)
	for _, tt := range []struct {
		port frame.PortID
		name string
		typ  dnsmessage.Type
		want string
	}{
		{7, "cell.alone.uvs.internal.", dnsmessage.TypeA, "172.30.3.2"},
		{7, "cell.", dnsmessage.TypeA, "172.30.3.2"},
		{7, "2.3.30.172.in-addr.arpa.", dnsmessage.TypePTR, "cell.alone.uvs.internal."},
		{7, "web.", dnsmessage.TypeA, "172.30.0.2"},
		{7, "web.example.org.", dnsmessage.TypeA, "172.30.2.2"},
		{7, "nobody.", dnsmessage.TypeA, "RCodeNameError"},
		{8, "cell.alone.uvs.internal.", dnsmessage.TypeA, "RCodeNameError"},
		{8, "cell.", dnsmessage.TypeA, "RCodeNameError"},
		{8, "2.3.30.172.in-addr.arpa.", dnsmessage.TypePTR, "RCodeNameError"},
	} {
		q, _ := parse(ask(tt.name, tt.typ, 0), true, 1472)
		var m dnsmessage.Message
		if err := m.Unpack(z.answer(tt.port, 1, &q)); err != nil {
			t.Fatal(err)
		}
		got := m.RCode.String()
		if len(m.Answers) > 0 {
			switch r := m.Answers[0].Body.(type) {
			case *dnsmessage.AResource:
				got = netip.AddrFrom4(r.A).String()
			case *dnsmessage.PTRResource:
				got = r.PTR.String()
			}
		}
		if got != tt.want {
			t.Errorf("port %d, %s: %s, want %s", tt.port, tt.name, got, tt.want)
		}
	}
}

func ask(name string, t dnsmessage.Type, edns int) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	_ = b.StartQuestions()
	_ = b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: t, Class: dnsmessage.ClassINET})
	if edns > 0 {
		_ = b.StartAdditionals()
		_ = b.OPTResource(dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Class: dnsmessage.Class(edns)}, dnsmessage.OPTResource{})
	}
	m, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return m
}

// text is an answer in short: its RCODE, its flags, and the records of its answer, sorted.
func text(t *testing.T, m []byte) string {
	t.Helper()
	var a dnsmessage.Message
	if err := a.Unpack(m); err != nil {
		t.Fatalf("an answer that cannot be read: %v: %x", err, m)
	}
	words := []string{strings.TrimPrefix(a.RCode.String(), "RCode")}
	if a.Truncated {
		words = append(words, "truncated")
	}
	var records []string
	for _, r := range a.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			records = append(records, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			records = append(records, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			records = append(records, b.PTR.String())
		case *dnsmessage.SOAResource:
			records = append(records, "SOA "+b.NS.String())
		case *dnsmessage.NSResource:
			records = append(records, "NS "+b.NS.String())
		default:
			t.Fatalf("a record of type %T", b)
		}
	}
	slices.Sort(records)
	return strings.Join(append(words, records...), " ")
}

func TestOwnNames(t *testing.T) {
	z := testZones()
	const a, aaaa, any = dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeALL
	for _, tt := range []struct {
		net  frame.NetID
		name string
		typ  dnsmessage.Type
		want string // empty: others are asked
	}{
		{1, "web.", a, "Success 172.30.0.2"},
		{1, "WeB.", aaaa, "Success fd00:1::2"},
		{1, "web.front.uvs.internal.", a, "Success 172.30.0.2"},
		{2, "web.", a, "Success 172.30.2.2"},
		{2, "web.example.org.", a, "Success 172.30.2.2"},
		{1, "web.example.org.", a, "Success 172.30.2.2"}, // another network that the router reaches
		{1, "db.", aaaa, "Success"},                      // the name is there: never NXDOMAIN
		{1, "db.", dnsmessage.TypeMX, "Success"},
		{1, "db.", dnsmessage.Type(65), "Success"}, // HTTPS
		{1, "b.c.front.uvs.internal.", a, "Success"},
		{1, "a.b.c.front.uvs.internal.", a, "Success 172.30.0.4"},
		{1, "a.b.c.", a, "Success 172.30.0.4"},
		{2, "a.b.c.", a, ""},
		{1, "nobody.", a, "NameError"}, // a single label is never asked for elsewhere
		{1, "nobody.front.uvs.internal.", a, "NameError"},
		{1, "cell.alone.uvs.internal.", a, "NameError"}, // cannot be reached, is not named
		{3, "cell.", a, "Success 172.30.3.2"},
		{3, "web.front.uvs.internal.", a, "NameError"},
		{1, "uvs.internal.", a, "Success"},
		{1, "uvs.internal.", dnsmessage.TypeSOA, "Success SOA gateway.uvs.internal."},
		{1, "front.uvs.internal.", dnsmessage.TypeNS, "Success NS gateway.front.uvs.internal."},
		{1, "other.uvs.internal.", a, "NameError"},
		{1, "web.", any, "Success 172.30.0.2"}, // RFC 8482: one type
		{1, "3.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, "Success db.front.uvs.internal."},
		{1, "2.2.30.172.in-addr.arpa.", dnsmessage.TypePTR, "Success web.example.org."},
		{3, "3.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, "NameError"}, // not reached, and nobody else's
		{1, "c.home.arpa.", a, "Success 172.30.5.2"},
		{1, "9.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, "NameError"},
		{1, "0.30.172.in-addr.arpa.", dnsmessage.TypePTR, "Success"},
		{1, "30.172.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{1, "01.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{1, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "Success web.front.uvs.internal."},
		{1, "localhost.", a, "Success 127.0.0.1"},
		{1, "a.localhost.", aaaa, "Success ::1"},
		{1, "www.example.com.", a, ""},
		{1, "org.", a, "NameError"},
		{4, "www.example.com.", a, "NameError"}, // not REFUSED, after which musl asks again
		{4, "mouse.", a, "Success 172.30.4.2"},
		{9, "web.", a, "Refused"}, // of no network
	} {
		q, ok := parse(ask(tt.name, tt.typ, 0), true, 1472)
		if !ok {
			t.Fatal("no question: ", tt.name)
		}
		got := ""
		if m := z.answer(0, tt.net, &q); m != nil {
			got = text(t, m)
		}
		if got != tt.want {
			t.Errorf("network %d, %s %v: %q, want %q", tt.net, tt.name, tt.typ, got, tt.want)
		}
	}
}

// An answer is cut at a record where it does not fit, by what the station takes and what its transport carries.
func TestLimits(t *testing.T) {
	z := testZones()
	answer := func(message []byte, udp bool, limit int) []byte {
		q, ok := parse(message, udp, limit)
		if !ok {
			t.Fatal("no question")
		}
		return z.answer(0, 2, &q)
	}
	var m dnsmessage.Message
	for _, tt := range []struct {
		edns, limit int
		udp         bool
		records     int
		truncated   bool
	}{{0, 1472, true, 27, true}, {4096, 1472, true, 60, false}, {4096, 548, true, 28, true}, {100, 1472, true, 27, true}, {0, MaxMessage, false, 60, false}} {
		got := answer(ask("crowd.", dnsmessage.TypeA, tt.edns), tt.udp, tt.limit)
		if err := m.Unpack(got); err != nil {
			t.Fatal(err)
		}
		limit := tt.limit
		if tt.udp {
			limit = min(limit, max(512, min(tt.edns, maxUDP)))
		}
		if len(got) > limit || len(m.Answers) < tt.records || len(m.Answers) > 60 || m.Truncated != tt.truncated {
			t.Errorf("%+v: %d bytes, %d records, truncated: %v", tt, len(got), len(m.Answers), m.Truncated)
		}
	}
}

// What cannot be answered gets the error that says why, or nothing.
func TestRefusedQuestions(t *testing.T) {
	z := testZones()
	good := ask("web.", dnsmessage.TypeA, 4096)
	change := func(at int, v byte) []byte {
		m := slices.Clone(good)
		m[at] = v
		return m
	}
	for name, tt := range map[string]struct {
		m    []byte
		want string
	}{
		"an answer":            {change(2, 0x80), ""},
		"too short":            {good[:11], ""},
		"an update":            {change(2, 5<<3), "NotImplemented"},
		"two questions":        {change(5, 2), "FormatError"},
		"no question":          {change(5, 0), "FormatError"},
		"cut in the question":  {good[:14], "FormatError"},
		"cut in EDNS":          {good[:len(good)-3], "FormatError"},
		"another version":      {change(len(good)-5, 1), "Success"}, // BADVERS: 16, of which these are the lower bits
		"of class CHAOS":       {change(16+4, 3), "Refused"},
		"a label of 200 bytes": {change(12, 200), "FormatError"},
	} {
		got := ""
		if q, ok := parse(tt.m, true, 1472); ok {
			got = text(t, z.answer(0, 1, &q))
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	q, _ := parse(change(len(good)-5, 1), true, 1472)
	var m dnsmessage.Message
	if err := m.Unpack(z.answer(0, 1, &q)); err != nil || len(m.Additionals) != 1 || m.Additionals[0].Header.TTL>>24 != 1 {
		t.Errorf("BADVERS: %+v, %v", m.Additionals, err)
	}
}

// A fakeServer answers by UDP, and by TCP, on one port of loopback.
func fakeServer(t *testing.T, answer func(question []byte, tcp bool) [][]byte) netip.AddrPort {
	t.Helper()
	var u net.PacketConn
	var l net.Listener
	for range 20 { // the port that is free of UDP may be in use by TCP
		var err error
		if u, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp4", u.LocalAddr().String()); err == nil {
			break
		}
		u.Close()
	}
	if l == nil {
		t.Fatal("no port is free of UDP and TCP")
	}
	t.Cleanup(func() { u.Close(); l.Close() })
	go func() {
		for b := make([]byte, MaxMessage); ; {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			for _, m := range answer(b[:n], false) {
				_, _ = u.WriteTo(m, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, MaxMessage)
			if n, err := c.Read(b); err == nil && n > 2 {
				for _, m := range answer(b[2:n], true) {
					_, _ = c.Write(append([]byte{byte(len(m) >> 8), byte(len(m))}, m...))
				}
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(u.LocalAddr().String())
}

// reply is an answer to question with an address, or with an RCODE.
func reply(question []byte, addr string, rcode dnsmessage.RCode, truncated bool) []byte {
	var p dnsmessage.Parser
	h, _ := p.Start(question)
	q, _ := p.Question()
	h.Response, h.RCode, h.Truncated = true, rcode, truncated
	b := dnsmessage.NewBuilder(nil, h)
	_ = b.StartQuestions()
	_ = b.Question(q)
	if addr != "" {
		_ = b.StartAnswers()
		_ = b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}, dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()})
	}
	m, _ := b.Finish()
	return m
}

// Servers that refuse, fail, lie or truncate.
func TestForward(t *testing.T) {
	refuses := fakeServer(t, func(q []byte, _ bool) [][]byte { return [][]byte{reply(q, "", dnsmessage.RCodeRefused, false)} })
	fails := fakeServer(t, func(q []byte, _ bool) [][]byte { return [][]byte{reply(q, "", dnsmessage.RCodeServerFailure, false)} })
	lies := fakeServer(t, func(q []byte, _ bool) [][]byte {
		wrong := slices.Clone(q)
		wrong[0]++
		other := ask("other.example.com.", dnsmessage.TypeA, 0)
		copy(other, q[:2])
		return [][]byte{reply(wrong, "6.6.6.6", 0, false), reply(other, "6.6.6.6", 0, false), q, {1, 2, 3}, reply(q, "192.0.2.1", 0, false)}
	})
	truncates := fakeServer(t, func(q []byte, tcp bool) [][]byte {
		if tcp {
			return [][]byte{reply(q, "192.0.2.2", 0, false)}
		}
		return [][]byte{reply(q, "", 0, true)}
	})
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	deaf := fakeServer(t, func([]byte, bool) [][]byte { return nil })
	for name, tt := range map[string]struct {
		servers []netip.AddrPort
		want    string
	}{
		"one that lies on the way":   {[]netip.AddrPort{lies}, "Success 192.0.2.1"},
		"one that truncates":         {[]netip.AddrPort{truncates}, "Success 192.0.2.2"},
		"the second":                 {[]netip.AddrPort{refuses, lies}, "Success 192.0.2.1"},
		"the third":                  {[]netip.AddrPort{closed, fails, lies}, "Success 192.0.2.1"},
		"no fourth":                  {[]netip.AddrPort{fails, fails, refuses, lies}, "Refused"},
		"beside two that are silent": {[]netip.AddrPort{deaf, deaf, lies}, "Success 192.0.2.1"},
		"none":                       {[]netip.AddrPort{closed}, "ServerFailure"},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewServer("")
			s.SetZones(NewZones("uvs.internal.", "uvs0", map[frame.NetID]*Network{1: {Domain: "front.uvs.internal.", Servers: tt.servers}}))
			got := make(chan []byte, 1)
			q := Question{Port: 3, Net: 1, Message: ask("www.example.com.", dnsmessage.TypeA, 0), UDP: true, Limit: 1472}
			if now, _ := s.Ask(q, func(m []byte) { got <- m }); now != nil {
				t.Fatalf("at once: %s", text(t, now))
			}
			select {
			case m := <-got:
				if text(t, m) != tt.want || m[1] != 7 {
					t.Errorf("%q with number %d, want %q", text(t, m), m[1], tt.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("no answer")
			}
		})
	}
}

// One port cannot take the place of all others, and a gateway of ours is never asked.
func TestForwardIsBounded(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 2*maxAsked)
	slow := fakeServer(t, func(q []byte, _ bool) [][]byte {
		asked <- struct{}{}
		<-release
		return [][]byte{reply(q, "192.0.2.1", 0, false)}
	})
	s := NewServer("")
	s.SetZones(NewZones("uvs.internal.", "uvs0", map[frame.NetID]*Network{1: {
		Domain: "front.uvs.internal.", Gateways: addrs("172.30.0.1"),
		Servers: []netip.AddrPort{netip.MustParseAddrPort("172.30.0.1:53"), netip.MustParseAddrPort("[::ffff:172.30.0.1]:53"), netip.MustParseAddrPort("[fe80::1%uvs0]:53"), slow},
	}}))
	answers := make(chan []byte, 2*maxAsked)
	refused := 0
	q := Question{Port: 3, Net: 1, Message: ask("www.example.com.", dnsmessage.TypeA, 0), UDP: true, Limit: 1472}
	s.forward.shares.Divide(maxAsked, share.Among{Ports: 8}, maxAskedOfPort) // whatever the limit of open files is
	for range maxAskedOfPort + 10 {
		if m, _ := s.Ask(q, func(m []byte) { answers <- m }); m != nil && text(t, m) == "Refused" {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d questions were refused", refused)
	}
	q.Port = 4
	if m, later := s.Ask(q, func(m []byte) { answers <- m }); m != nil || !later {
		t.Errorf("another port: %s", text(t, m))
	}
	<-asked
	close(release)
	for range maxAskedOfPort + 1 {
		if got := text(t, <-answers); got != "Success 192.0.2.1" && got != "ServerFailure" { // the fake server's queue may lose some
			t.Errorf("an answer: %s", got)
		}
	}
}

// Ports that hold all the questions they can leave every other one some.
func TestForwardIsShared(t *testing.T) {
	release := make(chan struct{})
	var f forwarder
	f.shares.Divide(maxAsked, share.Among{Ports: 20}, maxAskedOfPort)
	begin := func(port frame.PortID) bool { return f.begin(port, func() { <-release }) }
	for port := frame.PortID(1); port <= 10; port++ {
		for range 200 {
			begin(port)
		}
	}
	for port := frame.PortID(11); port <= 20; port++ {
		for i := range 20 {
			if !begin(port) {
				t.Fatalf("port %d has %d questions beside ten that ask without end", port, i)
			}
		}
	}
	close(release)
}

// A port that asks others very often is refused, and no other port.
func TestForwardHasARate(t *testing.T) {
	var f forwarder
	f.shares.Divide(1<<20, share.Among{Ports: 8}, 1<<20)
	began, got := time.Now(), 0
	for range 2 * askedBurst {
		if f.begin(1, func() {}) {
			got++
		}
	}
	if most := askedBurst + int(time.Since(began).Seconds()*askedRate) + 1; got < askedBurst || got > most {
		t.Errorf("%d questions of one port are asked, of %d to %d", got, askedBurst, most)
	}
	if !f.begin(2, func() {}) {
		t.Error("another port may not ask")
	}
}

// A question that a server leaves unanswered changes nothing for other ports.
func TestSilenceIsOfAPort(t *testing.T) {
	s := NewServer("")
	first, second := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")
	f, n, z := &s.forward, &Network{Servers: []netip.AddrPort{first, second}}, s.zones.Load()
	f.note(1, first, os.ErrDeadlineExceeded)
	if got := f.choose(1, n, z); got[0] != second {
		t.Errorf("the port that has waited in vain asks %s first", got[0])
	}
	if got := f.choose(2, n, z); got[0] != first {
		t.Errorf("another port asks %s first", got[0])
	}
	if got := s.Silent(); len(got) != 1 || got[0] != first {
		t.Errorf("silent: %v", got)
	}
	if f.note(2, first, nil); len(s.Silent()) != 0 {
		t.Errorf("silent, although it answers another port: %v", s.Silent())
	}
	if got := f.choose(1, n, z); got[0] != second {
		t.Errorf("the first port asks %s first", got[0])
	}
	if f.note(1, first, nil); f.choose(1, n, z)[0] != first {
		t.Error("a server that has answered the port comes last")
	}
	for i := range frame.PortID(2 * maxSilences) {
		f.note(i, first, os.ErrDeadlineExceeded)
	}
	if len(f.silent) > maxSilences {
		t.Errorf("%d silences are remembered", len(f.silent))
	}
}

func TestHostServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string, at int) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(int64(at), 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("# a comment\nsearch example.com\nnameserver 127.0.0.53\n nameserver\t2001:db8::53 # more\nnameserver fe80::1%eth0\nnameserver wrong\noptions edns0", 1)
	h := hostServers{path: path}
	now := time.Unix(1000, 0)
	if got := fmt.Sprint(h.list(now)); got != "[127.0.0.53:53 [2001:db8::53]:53 [fe80::1%eth0]:53]" {
		t.Error(got)
	}
	write("nameserver 192.0.2.1\n", 2)
	if got := fmt.Sprint(h.list(now.Add(900 * time.Millisecond))); !strings.HasPrefix(got, "[127.0.0.53:53") {
		t.Errorf("within a second: %s", got)
	}
	if got := fmt.Sprint(h.list(now.Add(time.Second))); got != "[192.0.2.1:53]" {
		t.Errorf("after a second: %s", got)
	}
	_ = os.Remove(path)
	if got := fmt.Sprint(h.list(now.Add(3 * time.Second))); got != "[192.0.2.1:53]" {
		t.Errorf("without the file: %s", got)
	}
}

// No message makes the server panic, answer an answer, or answer with more than it may.
func FuzzAsk(f *testing.F) {
	f.Add(ask("web.", dnsmessage.TypeA, 0), uint16(1472), true)
	f.Add(ask("crowd.example.org.", dnsmessage.TypeALL, 4096), uint16(548), true)
	f.Add(ask("3.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, 1), uint16(600), false)
	f.Add(ask("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, 512), uint16(1232), true)
	z := testZones()
	f.Fuzz(func(t *testing.T, message []byte, limit uint16, udp bool) {
		limit = max(limit, minUDP)
		for net := frame.NetID(1); net < 5; net++ {
			q, ok := parse(message, udp, int(limit))
			if !ok {
				continue
			}
			m := z.answer(0, net, &q)
			if m == nil {
				m = q.refuse(dnsmessage.RCodeServerFailure)
			}
			if len(m) < headerLen || m[2]&0x80 == 0 || m[0] != message[0] || m[1] != message[1] {
				t.Fatalf("no answer: %x to %x", m, message)
			}
			if len(m) > int(limit) {
				t.Fatalf("%d bytes of %d", len(m), limit)
			}
			var p dnsmessage.Message
			if err := p.Unpack(m); err != nil {
				t.Fatalf("an answer that cannot be read: %v: %x to %x", err, m, message)
			}
		}
	})
}
