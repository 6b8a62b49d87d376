package problems

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Each fact that is no fault stays out, and each fault names its port and what to do.
func TestList(t *testing.T) {
	ports := []api.Port{{Name: "web", State: "forwarding", Addresses: []string{"172.29.0.2/16", "fd00::2/64"}}, {Name: "db", State: "forwarding", Addresses: []string{"172.29.0.3/16"}}}
	flow := func(id uint32, proto, src, dst string, packets uint64) api.Flow {
		return api.Flow{ID: id, Protocol: proto, Port: "web", Original: api.FlowSide{Src: src, Dst: dst, Dport: 443, Packets: packets}, Reply: api.FlowSide{Src: dst, Sport: 443, Dst: "198.51.100.1"}}
	}
	published := flow(4, "tcp", "198.51.100.7", "198.51.100.1", 3)
	published.Reply = api.FlowSide{Src: "172.29.0.2", Sport: 80}
	drop := func(reason string, count int) Drops {
		return Drops{Count: count, Last: api.Verdict{Reason: reason, In: "web", Out: "db", Packet: "some packet", Remedy: "do it"}}
	}
	good := Facts{Status: api.Status{Uplink: api.Uplink{State: "up"}, Tables: map[string]api.Table{"flows": {Used: 90, Limit: 100}, "flows6": {}}}, Ports: ports,
		Use:   []api.PortUse{{Protocol: "tcp", Quota: 10, Holders: map[string]int{"web": 9}, Tenants: map[string]int{"acme": 9}}},
		Flows: []api.Flow{flow(1, "tcp", "172.29.0.2", "203.0.113.8", 2), flow(2, "udp", "172.29.0.2", "203.0.113.8", 99)},
		Drops: []Drops{drop("ack_superseded", 999), drop("not_for_us", 999), drop("fragmentation_needed", 3), drop("no_egress", 999)},
	}
	if list := List(good); list == nil || len(list) > 0 {
		t.Errorf("nothing is wrong: %+v", list)
	}
	bad := Facts{
		Status:     api.Status{Networks: []api.Network{{Name: "default", Gateway: "172.29.0.1", Gateway6: "fd00::1", Routes6: []string{"::/0"}, MTU: 1500}}, Uplink: api.Uplink{State: "down", Why: "no route"}, Tables: map[string]api.Table{"flows": {Used: 91, Limit: 100}}, Waiting: []api.WaitingPort{{Port: "late", Why: "no namespace"}}, SilentNames: []string{"192.0.2.53"}, NamesWhy: "denied"},
		Ports:      append(ports, api.Port{Name: "c3", State: "down", Kind: "tap", Ifname: "eth0", Netns: "c3", Network: "default", MTU: 1280, Addresses: []string{"172.29.0.4/16", "fd00::4/64"}}, api.Port{Name: "vm", State: "down", Kind: "vde", Ifname: "/run/vde"}),
		Unanswered: []api.Unanswered{{Port: "web", Dst: "172.29.0.77", Count: 3, Why: "nobody", Remedy: "start it"}},
		Use:        []api.PortUse{{Protocol: "tcp", Quota: 10, Holders: map[string]int{"web": 10}, Tenants: map[string]int{"acme": 10}}},
		Flows: []api.Flow{flow(1, "tcp", "172.29.0.2", "203.0.113.8", 3), flow(1, "tcp", "172.29.0.2", "203.0.113.8", 3), flow(2, "tcp", "172.29.0.2", "203.0.113.8", 3), flow(3, "tcp", "172.29.0.2", "172.29.0.3", 3),
			published, flow(5, "icmp", "2001:db8::7", "fd00::2", 3)},
		Drops: []Drops{drop("guard_source_address", 1), drop("fragmentation_needed", 30), {Count: 5, Last: api.Verdict{Reason: "port_down", In: "web", Out: "c3"}}},
	}
	other := drop("guard_arp_sender", 2)
	other.Last.In, other.Last.Src = "c3", "172.29.0.50"
	bad.Drops = append(bad.Drops, other)
	other.Last.Src = "172.29.0.4" // its own by now
	bad.Drops = append(bad.Drops, other)
	for _, src := range []string{"172.29.0.1", "172.29.0.3"} { // those of the gateway and of db
		other.Last.Src, other.Last.Out = src, src
		bad.Drops = append(bad.Drops, other)
	}
	old := drop("flow_invalid", 4)
	old.Age = 50
	bad.Drops = append(bad.Drops, old)
	bad.Unread = []Unread{{"web", 70000, 4}}
	var said strings.Builder
	keys := map[string]bool{}
	for _, p := range List(bad) {
		if keys[p.Key] {
			t.Errorf("key %q twice", p.Key)
		}
		keys[p.Key] = true
		if p.Kind == "" || p.Text == "" || p.Remedy == "" {
			t.Errorf("something is missing: %+v", p)
		}
		said.WriteString(p.Kind + " " + p.Port + ": " + p.Text + " -> " + p.Remedy + "\n")
	}
	for _, want := range []string{
		"uplink : the uplink is down: no route -> ", "ports : port late of the configuration file waits: no namespace", "names : these name servers", "names : /etc/resolv.conf was replaced", "tables : table flows is nearly full: 91 of 100",
		"ports c3: port c3 is down: its device eth0 is not up -> bring it up: `ip netns exec c3 ip link set eth0 up`; it has lost its IPv6 address fd00::4/64: `ip netns exec c3 ip addr add fd00::4/64 dev eth0 nodad`; and its route to 0.0.0.0/0: `ip netns exec c3 ip route add default via 172.29.0.1`; and its route to ::/0: `ip netns exec c3 ip -6 route add ::/0 via fd00::1 dev eth0`",
		"mtu c3: port c3 has MTU 1280, but its network default has MTU 1500", "neighbors web: web asks for 172.29.0.77", "shares web: port web holds 10 of the 10",
		"shares : the ports of tenant acme hold 10 of the 10 outside ports of tcp that they may have together -> ",
		"answers web: web gets no answer from outside (tcp to 203.0.113.8:443, 2 flows)", "answers web: web gets no answer from port db (tcp to 172.29.0.3:443)", "answers web: web does not answer 198.51.100.7, a client of a published port (tcp to 172.29.0.2:80)", "answers web: web does not answer (icmp to [fd00::2]:443)",
		"172.29.0.1 is the address of the gateway, and none of these packets went on; if what is in port c3 attacks: `uvswitch port del c3`; if its device has the address by mistake (`ip netns exec c3 ip addr`): give the device",
		"172.29.0.3 is the address of port db, and none", "flow_invalid: packets from port web to port db were dropped: ", "floods web: port web sends faster than the switch reads it: its device has dropped packets (70000 packets were not read, 4 s ago)",
		"drops web: guard_source_address: packets from port web to port db are dropped", "drops web: fragmentation_needed",
		"give the device its own address again: `ip netns exec c3 ip addr del 172.29.0.50/16 dev eth0`, `ip netns exec c3 ip addr add 172.29.0.4/16 dev eth0`, `ip netns exec c3 ip route add default via 172.29.0.1`; or",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in:\n%s", want, &said)
		}
	}
	if n := len(List(bad)); n != 21 {
		t.Errorf("%d problems:\n%s", n, &said)
	}
}

// A scan is one problem, and what a container calls its device is no part of a command.
func TestHostileContainers(t *testing.T) {
	var list []api.Unanswered
	for _, dst := range []string{"172.29.0.71", "172.29.0.72", "172.29.0.73", "172.29.0.74"} {
		list = append(list, api.Unanswered{Port: "scanner", Dst: dst})
	}
	got := ofQuestions(append(list, api.Unanswered{Port: "db", Dst: "172.29.0.9"}))
	if len(got) != 2 || got[0].Text != "scanner asks for many addresses, and nobody answers: 172.29.0.71, 172.29.0.72, 172.29.0.73, ..." || got[1].Key != "neighbors db 172.29.0.9" {
		t.Errorf("%+v", got)
	}
	for _, name := range []string{"$(reboot)", "a;b", "`x`", "-n", "a'b", "a\nb"} {
		p := api.Port{Name: "web", State: "down", Kind: "tap", Ifname: name, Netns: name, Addresses: []string{"172.29.0.4/16", "fd00::4/64"}}
		if text := BringUp(&p, &api.Network{Gateway: "172.29.0.1"}); strings.Contains(text, name) || !strings.Contains(text, "ip netns exec NAME ip link set DEV up") {
			t.Errorf("%q: %s", name, text)
		}
	}
}
