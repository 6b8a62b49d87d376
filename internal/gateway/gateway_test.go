package gateway

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dns"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/router"
)

// testState has networks front and cell (isolated), and the host.
func testState(t *testing.T) *model.State {
	t.Helper()
	s := &model.State{Name: "Lab"}
	for i, a := range []api.NetworkAdd{{Name: "front", Subnet: "172.30.0.0/24", Names: "printer=172.30.0.99,web=172.30.0.50"}, {Name: "cell", Subnet: "172.30.1.0/24", Isolated: true, DNS: "local"}} {
		n, err := s.NewNetwork(a)
		if err != nil {
			t.Fatal(err)
		}
		n.ID = frame.NetID(i + 1)
		s.Networks = append(s.Networks, n)
	}
	for i, a := range []api.PortAdd{{Name: "Web", Netns: "w", Network: "front", IP: "172.30.0.2", Aliases: "aaa,www"}, {Name: "db", Netns: "d", Network: "front", IP: "172.30.0.3", Aliases: "www"}, {Name: "one", Netns: "o", Network: "cell", IP: "172.30.1.2"}} {
		p, err := s.NewPort(a)
		if err != nil {
			t.Fatal(err)
		}
		p.ID = frame.PortID(i + 1)
		s.Ports = append(s.Ports, p)
	}
	s.Ports = append(s.Ports, model.Port{ID: 9, Name: model.HostPortName, Kind: model.KindHost, Network: "front", Addr: netip.MustParsePrefix("172.30.0.254/24")})
	return s
}

// Names come from ports, aliases, settings and by hand; an address has the name of its port.
func TestNames(t *testing.T) {
	server := dns.NewServer("")
	s := NewService(server, nil, nil, func() *policy.Ports { return nil }, nil)
	s.SetState(testState(t), map[string][]model.Name{"front": {{Name: "spy", Addr: netip.MustParseAddr("172.30.0.3")}}, "cell": {{Name: "0spy", Addr: netip.MustParseAddr("172.30.0.2")}}})
	for _, tt := range []struct {
		net  frame.NetID
		name string
		typ  dnsmessage.Type
		want string
	}{
		{1, "web.", dnsmessage.TypeA, "Success [172.30.0.2 172.30.0.50]"},
		{1, "www.front.lab.internal.", dnsmessage.TypeA, "Success [172.30.0.2 172.30.0.3]"},
		{1, "spy.", dnsmessage.TypeA, "Success [172.30.0.3]"},
		{1, "2.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, "Success [web.front.lab.internal.]"},
		{1, "3.0.30.172.in-addr.arpa.", dnsmessage.TypePTR, "Success [db.front.lab.internal.]"},
		{1, "one.cell.lab.internal.", dnsmessage.TypeA, "NameError []"},
		{2, "host.", dnsmessage.TypeA, "Success [172.30.0.254]"}, // an isolated network reaches the host
		{2, "one.", dnsmessage.TypeA, "Success [172.30.1.2]"},
	} {
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
		_ = b.StartQuestions()
		_ = b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(tt.name), Type: tt.typ, Class: dnsmessage.ClassINET})
		question, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		d := router.Datagram{Net: tt.net, In: 1, MTU: 1500, To: netip.MustParseAddrPort("172.30.0.1:53"), Payload: question}
		var m dnsmessage.Message
		if err := m.Unpack(s.Datagram(&d)); err != nil {
			t.Fatal(tt.name, err)
		}
		got := []string{}
		for _, r := range m.Answers {
			switch b := r.Body.(type) {
			case *dnsmessage.AResource:
				got = append(got, netip.AddrFrom4(b.A).String())
			case *dnsmessage.PTRResource:
				got = append(got, b.PTR.String())
			}
		}
		if len(got) == 2 && got[0] > got[1] {
			got[0], got[1] = got[1], got[0]
		}
		if text := fmt.Sprint(m.RCode.String()[len("RCode"):], " ", got); text != tt.want {
			t.Errorf("network %d, %s: %s, want %s", tt.net, tt.name, text, tt.want)
		}
	}
	if !s.Serves(1, frame.TCP, 53) || !s.Serves(1, frame.UDP, 67) || s.Serves(1, frame.TCP, 67) || s.Serves(1, frame.UDP, 80) || s.Serves(3, frame.UDP, 53) {
		t.Error("the wrong ports are served")
	}
}

// A container does not become the gateway or the host by an alias.
func TestAliasesOfTheGateway(t *testing.T) {
	gateway, own := netip.MustParseAddr("172.29.0.1"), netip.MustParseAddr("172.29.0.9")
	s := &model.State{
		Networks: []model.Network{{ID: 1, Name: "default", Prefix: netip.MustParsePrefix("172.29.0.0/16"), Gateway: gateway, Names: model.Names{DNS: model.DNSOn, Domain: "default.uvs.internal"}}},
		Ports:    []model.Port{{Name: "web", Kind: model.KindTAPPort, Network: "default", Addr: netip.PrefixFrom(own, 16), Aliases: []string{"gateway", "host", "www"}}},
	}
	got := map[string][]netip.Addr{}
	for _, r := range Rows(s, nil) {
		got[r.Name] = append(got[r.Name], r.Addrs...)
	}
	want := map[string][]netip.Addr{"gateway": {gateway}, "web": {own}, "www": {own}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A port that asks for very many names that it may not ask for keeps its own refusals only.
func TestRefusalsOfOthersStay(t *testing.T) {
	now := frame.Tick(100)
	g := &gate{now: func() frame.Tick { now++; return now }}
	g.Denied(1, "mine.example.com")
	for i := range 1000 {
		g.Denied(2, fmt.Sprintf("n%d.example.com", i))
	}
	if g.refused[asked{1, "mine.example.com"}] == nil || len(g.refused) > maxRefusals {
		t.Errorf("%d refusals; that of port 1: %v", len(g.refused), g.refused[asked{1, "mine.example.com"}])
	}
}
