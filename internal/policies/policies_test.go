package policies

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// stateOf is a switch with the ports web and db, and policies.
func stateOf(t *testing.T, policies ...api.PolicyAdd) *model.State {
	t.Helper()
	s := &model.State{Own: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}
	s.Networks = []model.Network{{Name: "default", Prefix: netip.MustParsePrefix("10.0.0.0/24")}}
	for i, name := range []string{"web", "db"} {
		p := model.Port{ID: frame.PortID(i + 1), Name: name, Kind: model.KindTAPPort, Network: "default", Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 2)}), 24), MAC: frame.MAC(0x020000000002 + i)}
		s.Ports = append(s.Ports, p)
	}
	for _, a := range policies {
		p, err := model.NewPolicy(a)
		if err != nil {
			t.Fatal(err)
		}
		s.Policies = append(s.Policies, p)
	}
	return s
}

// Compile returns nothing new while nothing has changed. A rule keeps its number and its counters while its policy and its text stay.
func TestCompile(t *testing.T) {
	var c Compiler
	if to, changed := c.Compile(stateOf(t), nil); to != nil || changed {
		t.Errorf("without policies: %v, %v", to, changed)
	}
	agent := api.PolicyAdd{Name: "agent", Rules: []string{"egress allow port:db tcp/80", "egress allow outside udp/53"}}
	policed := func(a api.PolicyAdd) *model.State {
		s := stateOf(t, a)
		s.Ports[0].Policies = []string{a.Name}
		return s
	}
	first, changed := c.Compile(policed(agent), nil)
	if !changed || first.Set(1) == nil || first.Set(2) != nil {
		t.Fatalf("changed %v: %+v", changed, first)
	}
	web, db := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	judge := func(p *policy.Ports, dst netip.Addr, proto uint8, port uint16) policy.Ruling {
		r := p.Judge(policy.Flow{From: 1, To: p.Stations[dst], Src: web, Dst: dst, Proto: proto, Port: port}, policy.Admission{}, 1)
		p.Count(&r)
		return r
	}
	one := judge(first, db, frame.TCP, 80)
	if one.Why != frame.None || judge(first, db, frame.TCP, 81).Why != frame.PolicyDenied || judge(first, netip.MustParseAddr("198.51.100.1"), frame.UDP, 53).Why != frame.PolicyDenied {
		t.Errorf("%+v", one)
	}
	if again, changed := c.Compile(policed(agent), nil); changed || again != first {
		t.Error("the same state is compiled again")
	}
	agent.Rules = []string{"egress allow outside udp/123", agent.Rules[0]}
	other, changed := c.Compile(policed(agent), nil)
	if r := judge(other, db, frame.TCP, 80); !changed || r.By != one.By {
		t.Errorf("changed %v; the rule that stays is %d, before %d", changed, r.By.Egress, one.By.Egress)
	}
	if flows, _ := c.Count("agent", agent.Rules[1]); flows != 2 {
		t.Errorf("%d flows", flows)
	}
	if flows, refused := c.Count("agent", "egress allow outside udp/53"); flows+refused != 0 {
		t.Error("a rule that is gone counts")
	}
	if to, changed := c.Compile(stateOf(t), nil); to != nil || !changed {
		t.Error("the last policy is gone")
	}
}

// Explain names the policy and the rule, and the command that allows the flow.
func TestExplain(t *testing.T) {
	s := stateOf(t, api.PolicyAdd{Name: "agent", Rules: []string{"egress allow name:api.example.com tcp/443", "egress drop 203.0.113.66 log"}}, api.PolicyAdd{Name: "inner", Rules: []string{"ingress allow outside tcp/80"}})
	s.Ports[0].Policies, s.Ports[1].Policies = []string{"agent"}, []string{"inner", model.Sandbox}
	s.Publishes = []model.Publish{{Lo: 8080, Hi: 8080, Proto: "tcp", Port: "db", Target: 81}}
	var c Compiler
	ports, _ := c.Compile(s, nil)
	ports.Set(1).Learn("www.example.com", []netip.Addr{netip.MustParseAddr("203.0.113.9")}, 60, true, 1)
	ports.Set(1).Learn("api.example.com", []netip.Addr{netip.MustParseAddr("203.0.113.20")}, 60, true, 1)
	for _, tt := range []struct {
		from        frame.PortID
		src, dst    string
		proto       uint8
		port        uint16
		why, remedy string
		log         bool
		now         frame.Tick
	}{
		{1, "10.0.0.2", "203.0.113.9", frame.TCP, 80, "no rule of policy agent, of port web, allows it (egress); the port knows 203.0.113.9 as www.example.com", "policy add agent egress allow name:www.example.com tcp/80", false, 1},
		{1, "10.0.0.2", "203.0.113.10", frame.ICMP, 0, "no rule of policy agent", "policy add agent egress allow 203.0.113.10 icmp", false, 1},
		{1, "10.0.0.2", "198.51.100.1", frame.UDP, 53, "no rule of policy agent", "policy add agent egress allow host udp/53", false, 1},
		{1, "10.0.0.2", "203.0.113.66", frame.TCP, 443, "rule 2 of policy agent refuses it: egress drop 203.0.113.66 log", "policy del agent 2", true, 1},
		{2, "10.0.0.3", "10.0.0.2", frame.TCP, 80, "rule 2 of policy sandbox refuses it: egress reject inside", "a policy of your own in its place", false, 1},
		{0, "203.0.113.9", "198.51.100.1", frame.TCP, 8080, "", "", false, 1}, // sandbox lets the clients of a published port in
		{1, "10.0.0.2", "203.0.113.20", frame.TCP, 443, "no rule of policy agent, of port web, allows it (egress); the port knew 203.0.113.20 as api.example.com, but that answer has ended", "ask for api.example.com again", false, 100 * frame.TicksPerSecond},
	} {
		raw := frametest.Packet{Src: frametest.Addr(tt.src), Dst: frametest.Addr(tt.dst), Proto: tt.proto, SrcPort: 40000, DstPort: tt.port, Type: frame.ICMPEcho}.Raw()
		f := frame.Partial(tt.from, nil, raw[frame.VnetLen:], len(raw)-frame.VnetLen)
		r, ok := c.Explain(&f, tt.now)
		if tt.why == "" {
			if !ok || !strings.HasPrefix(r.Why, "the present rules would allow it") {
				t.Errorf("%s > %s: %+v, %v", tt.src, tt.dst, r, ok)
			}
			continue
		}
		if !ok || !strings.HasPrefix(r.Why, tt.why) || !strings.Contains(r.Remedy, tt.remedy) || r.Log != tt.log {
			t.Errorf("%s > %s: %+v, %v", tt.src, tt.dst, r, ok)
		}
	}
}
