// Package problems says what does not work now, as far as the state of a switch shows it, and what to do.
package problems

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// Facts are what List looks at.
type Facts struct {
	Status     api.Status
	Ports      []api.Port
	Unanswered []api.Unanswered
	Use        []api.PortUse // of outside ports
	Flows      []api.Flow    // that have no packet in the reply direction
	Drops      []Drops
	Unread     []Unread
}

// Unread is a port that sent faster than it was read, lately.
type Unread struct {
	Port    string
	Packets uint64 // that were not read, in some seconds
	Age     int    // seconds ago
}

// Drops are dropped packets of the last minute with the same ports and reason.
type Drops struct {
	Count int
	Last  api.Verdict
	Age   int // of the last one, in seconds
}

// List lists the problems: first those of the switch, then those of ports.
func List(f Facts) []api.Problem {
	out := slices.Concat(ofSwitch(&f.Status), ofPorts(f.Ports, f.Status.Networks), ofMTUs(f.Ports, f.Status.Networks), ofQuestions(f.Unanswered), ofShares(f.Use), ofFlows(f.Flows, f.Ports), ofUnread(f.Unread), ofDrops(f.Drops, f.Ports, f.Status.Networks))
	return append([]api.Problem{}, out...) // in JSON, no problem is an empty list
}

// NoWayOut says what to do when the uplink is down.
const NoWayOut = "give the host a default route, or bring the uplink's device up and give it an address"

func ofSwitch(s *api.Status) (out []api.Problem) {
	add := func(kind, remedy, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		out = append(out, api.Problem{Key: kind + " " + text, Kind: kind, Text: text, Remedy: remedy})
	}
	if up := s.Uplink; up.Kind != "none" && up.State != "up" && up.State6 != "up" {
		add("uplink", NoWayOut, "the uplink is down: %s", up.Why)
	}
	for _, p := range s.Waiting {
		add("ports", "make the namespace or the device; the switch adds the port within a second, with what is published for it", "port %s of the configuration file waits: %s", p.Port, p.Why)
	}
	if len(s.SilentNames) > 0 {
		add("names", "look whether they work: `dig @SERVER example.com` on the host; other servers: /etc/resolv.conf, or `uvswitch network set NAME --dns-servers`", "these name servers have not answered containers lately: %s", strings.Join(s.SilentNames, ", "))
	}
	if s.NamesWhy != "" {
		add("names", "restart the switch; to avoid this, write into the file instead of replacing it", "/etc/resolv.conf was replaced, and the switch's sandbox does not let it read the new file; it still asks the old servers: %s", s.NamesWhy)
	}
	for _, k := range api.TableNames {
		if t := s.Tables[k]; t.NearlyFull() {
			out = append(out, api.Problem{Key: "tables " + k, Kind: "tables", Text: fmt.Sprintf("table %s is nearly full: %d of %d", k, t.Used, t.Limit), Remedy: "see what fills it: `uvswitch flow stats`, `uvswitch nat ports`, `uvswitch fdb show`"})
		}
	}
	return out
}

func ofPorts(ports []api.Port, networks []api.Network) (out []api.Problem) {
	for i := range ports {
		p := &ports[i]
		if p.State == "down" && !strings.HasPrefix(p.Kind, "qemu-") && p.Kind != "vde" { // a virtual machine may be off
			out = append(out, api.Problem{Key: "ports " + p.Name, Kind: "ports", Port: p.Name, Text: fmt.Sprintf("port %s is down: its device %s is not up", p.Name, p.Ifname), Remedy: BringUp(p, NetworkOf(networks, p))})
		}
	}
	return out
}

// NetworkOf is the network of a port; an empty one if it is not among those.
func NetworkOf(networks []api.Network, p *api.Port) *api.Network {
	for i := range networks {
		if networks[i].Name == p.Network {
			return &networks[i]
		}
	}
	return &api.Network{}
}

// BringUp says how to bring the device of a port up. While it was down, Linux has removed its routes and its IPv6 addresses.
func BringUp(p *api.Port, n *api.Network) string {
	text := fmt.Sprintf("bring it up: `%s`", p.Inside("ip link set DEV up"))
	if !IsOurs(p) {
		return text + "; if its routes are missing then, restart what is in the namespace"
	}
	for _, a := range Addresses(p) {
		if strings.Contains(a, ":") {
			text += fmt.Sprintf("; it has lost its IPv6 address %s: `%s`", a, AddAddress(p, a))
		}
	}
	for _, r := range Routes(p, n) {
		text += fmt.Sprintf("; and its route to %s: `%s`", r[0], r[1])
	}
	return text
}

// IsOurs reports whether the switch has given the device of a port its addresses and its default route.
func IsOurs(p *api.Port) bool {
	return (p.Kind == "tap" || p.Kind == "plain") && !p.Handed && p.DHCP == "" && p.Netns != ""
}

// AddAddress is the command that gives a port's device an address again.
func AddAddress(p *api.Port, addr string) string {
	command := "ip addr add " + addr + " dev DEV"
	if strings.Contains(addr, ":") {
		command += " nodad" // the switch knows that nobody else has it
	}
	return p.Inside(command)
}

// Addresses are those that the switch has given a port's device, the link-local one included.
func Addresses(p *api.Port) []string {
	out := slices.Clone(p.Addresses)
	if m, err := frame.ParseMAC(p.MAC); err == nil && has(p, true) {
		out = append(out, netip.PrefixFrom(m.LinkLocal().Netip(), 64).String())
	}
	return out
}

// Routes are the routes that the switch has given a port's device, each with the command that adds it again.
func Routes(p *api.Port, n *api.Network) (out [][2]string) {
	if p.NoRoute {
		return nil
	}
	if has(p, false) && n.Gateway != "" {
		out = append(out, [2]string{"0.0.0.0/0", p.Inside("ip route add default via " + n.Gateway)})
	}
	if has(p, true) && n.Gateway6 != "" {
		for _, to := range n.Routes6 {
			out = append(out, [2]string{to, p.Inside("ip -6 route add " + to + " via " + n.Gateway6 + " dev DEV")})
		}
	}
	return out
}

// has reports whether a port has an address of IPv4 or IPv6.
func has(p *api.Port, six bool) bool {
	return slices.ContainsFunc(p.Addresses, func(a string) bool { return strings.Contains(a, ":") == six })
}

// ofMTUs are the ports with another MTU than their network. No router between ports of one network could say that a frame is too long.
func ofMTUs(ports []api.Port, networks []api.Network) (out []api.Problem) {
	for i := range ports {
		p := &ports[i]
		n := NetworkOf(networks, p)
		if n.MTU == 0 || p.MTU == n.MTU || p.Kind == "uplink" || p.Kind == "host" {
			continue
		}
		remedy := fmt.Sprintf("give it MTU %d where it was made, and plug it in again", n.MTU)
		if IsOurs(p) {
			remedy = fmt.Sprintf("`uvswitch config show > uvs.yaml`, change `mtu` of port %s to %d there, and `uvswitch reload uvs.yaml`: the port is made again, with its address and its published ports", p.Name, n.MTU)
		}
		out = append(out, api.Problem{Key: "mtu " + p.Name, Kind: "mtu", Port: p.Name, Text: fmt.Sprintf("port %s has MTU %d, but its network %s has MTU %d", p.Name, p.MTU, n.Name, n.MTU), Remedy: remedy})
	}
	return out
}

// fewQuestions of one port are told one by one.
const fewQuestions = 3

// ofQuestions are addresses for which a station asks in vain. Many of one port are one problem: it looks for whom there is.
func ofQuestions(list []api.Unanswered) (out []api.Problem) {
	of := map[string][]string{}
	for _, q := range list {
		of[q.Port] = append(of[q.Port], q.Dst)
	}
	for _, q := range list {
		if asked := of[q.Port]; len(asked) <= fewQuestions {
			out = append(out, api.Problem{Key: "neighbors " + q.Port + " " + q.Dst, Kind: "neighbors", Port: q.Port, Remedy: q.Remedy,
				Text: fmt.Sprintf("%s asks for %s, and nobody answers (%d times, first %d s and last %d s ago): %s", q.Port, q.Dst, q.Count, q.First, q.Last, q.Why)})
		} else if asked[0] == q.Dst {
			out = append(out, api.Problem{Key: "neighbors " + q.Port, Kind: "neighbors", Port: q.Port,
				Text:   fmt.Sprintf("%s asks for many addresses, and nobody answers: %s, ...", q.Port, strings.Join(asked[:fewQuestions], ", ")),
				Remedy: "see them all: `uvswitch neigh unanswered`; what is behind the port may look for whom there is"})
		}
	}
	return out
}

func ofShares(list []api.PortUse) (out []api.Problem) {
	const widen = "or widen the ports for NAT: `uvswitch nat set ports 1024-65535`, and for the next start --nat-ports of run or uplink.ports in the configuration file"
	for _, u := range list {
		for name, held := range u.Holders {
			if (api.Table{Used: held, Limit: u.Quota}).NearlyFull() {
				out = append(out, api.Problem{Key: "shares " + name + " " + u.Protocol, Kind: "shares", Port: name, Text: fmt.Sprintf("port %s holds %d of the %d outside ports of %s that it may have", name, held, u.Quota, u.Protocol),
					Remedy: fmt.Sprintf("see its flows: `uvswitch flow ls --port %s`; %s", name, widen)})
			}
		}
		for name, held := range u.Tenants {
			if (api.Table{Used: held, Limit: u.Quota}).NearlyFull() {
				out = append(out, api.Problem{Key: "shares of tenant " + name + " " + u.Protocol, Kind: "shares", Text: fmt.Sprintf("the ports of tenant %s hold %d of the %d outside ports of %s that they may have together", name, held, u.Quota, u.Protocol),
					Remedy: "see which ports hold them: `uvswitch nat ports`; " + widen})
			}
		}
	}
	return sorted(out)
}

// someTries: after so many packets without an answer, a connection or a ping is a problem. TCP sends the third one after three seconds.
const someTries = 3

// ofFlows are connections and pings that nobody answers. Nothing of them was dropped here. Much that is sent by UDP needs no answer.
func ofFlows(flows []api.Flow, ports []api.Port) (out []api.Problem) {
	type key struct{ port, client, peer, what string }
	ids := map[key]map[uint32]bool{}
	for _, f := range flows {
		if f.Original.Packets < someTries || f.Protocol != "tcp" && f.Protocol != "icmp" && f.Protocol != "icmpv6" {
			continue
		}
		k, at := key{port: f.Port, peer: f.Original.Dst}, f.Original.Dport
		if f.Reply.Src != f.Original.Dst || f.Reply.Sport != f.Original.Dport { // a published port: its destination is translated
			k.client, k.peer, at = f.Original.Src, f.Reply.Src, f.Reply.Sport
		}
		k.what = f.Protocol + " to " + api.AddrPort(k.peer, at)
		if ids[k] == nil {
			ids[k] = map[uint32]bool{}
		}
		ids[k][f.ID] = true
	}
	stations := map[string]string{}
	for i := range ports {
		for _, a := range ports[i].Addresses {
			a, _, _ = strings.Cut(a, "/")
			stations[a] = ports[i].Name
		}
	}
	for k, of := range ids {
		x := api.Problem{Key: fmt.Sprint("answers ", k), Kind: "answers", Port: k.port}
		what, behind := k.what, stations[k.peer]
		if len(of) > 1 {
			what += fmt.Sprintf(", %d flows", len(of))
		}
		switch {
		case k.client != "":
			x.Text = fmt.Sprintf("%s does not answer %s, a client of a published port (%s)", k.port, k.client, what)
		case behind == k.port:
			x.Text = fmt.Sprintf("%s does not answer (%s)", k.port, what)
		case behind != "":
			x.Text = fmt.Sprintf("%s gets no answer from port %s (%s)", k.port, behind, what)
		default:
			x.Text = fmt.Sprintf("%s gets no answer from outside (%s)", k.port, what)
		}
		x.Remedy = fmt.Sprintf("the packets have left by port %s; see whether a program listens there, and what its firewall does (`ss -ltn`, `nft list ruleset` in its namespace), and whether it has lost its routes (`uvswitch doctor`)", cmp.Or(behind, k.port))
		if k.client == "" && behind == "" {
			x.Remedy = fmt.Sprintf("the packets have left by the uplink; a firewall or the far end does not answer them: `uvswitch dump -i uplink host %s`", k.peer)
		}
		out = append(out, x)
	}
	return sorted(out)
}

// ofUnread are ports that may flood.
func ofUnread(list []Unread) (out []api.Problem) {
	for _, u := range list {
		out = append(out, api.Problem{Key: "floods " + u.Port, Kind: "floods", Port: u.Port, Count: int(u.Packets),
			Text:   fmt.Sprintf("port %s sends faster than the switch reads it: its device has dropped packets (%d packets were not read, %d s ago)", u.Port, u.Packets, u.Age),
			Remedy: fmt.Sprintf("the switch reads the ports of others first; see what it sends: `uvswitch dump -i %s -c 20`; to bound it: `uvswitch port set %[1]s rate_from 100mbit`; for a program that loses datagrams: let it send more slowly, or give the host more CPUs", u.Port)})
	}
	return sorted(out)
}

// oftenWrong are normal reasons whose drops are a problem when there are manyDrops in a minute.
var oftenWrong = map[frame.Reason]bool{frame.FragmentationNeeded: true, frame.TTLExceeded: true, frame.SamePort: true, frame.RxRateExceeded: true, frame.TxRateExceeded: true}

const (
	manyDrops = 20
	longAgo   = 10 // seconds
)

// ofDrops are the drops, without normal ones. The most frequent ones come first.
func ofDrops(list []Drops, ports []api.Port, networks []api.Network) (out []api.Problem) {
	for _, d := range list {
		why, known := frame.ParseReason(d.Last.Reason)
		if why == frame.PortDown { // ofPorts names the port, while it is down
			continue
		}
		p, src := &api.Port{}, netip.Addr{}
		if i := slices.IndexFunc(ports, func(p api.Port) bool { return p.Name == d.Last.In }); i >= 0 && (why == frame.GuardSourceAddress || why == frame.GuardARPSender) {
			p = &ports[i]
			src, _ = netip.ParseAddr(d.Last.Src)
		}
		if p.HasAddress(src.String()) { // the port has this address by now
			continue
		}
		if !known || why == frame.NotForUs { // outside, there is always something
			continue
		}
		if many := oftenWrong[why] && d.Count >= manyDrops; why.Info().Normal && !many {
			continue
		}
		way, are := "", "are"
		if d.Age > longAgo {
			are = "were"
		}
		if d.Last.In != "" {
			way = " from port " + d.Last.In
		}
		if d.Last.Out != "" {
			way += " to port " + d.Last.Out
		}
		port := cmp.Or(d.Last.In, d.Last.Out)
		if why.AtEgress() {
			port = cmp.Or(d.Last.Out, d.Last.In)
		}
		has := ""
		if i := slices.IndexFunc(ports, func(p api.Port) bool { return p.Name == d.Last.In }); i >= 0 && why.Info().Stage == frame.Guarding && len(ports[i].Addresses) > 0 {
			has = fmt.Sprintf(" (it has %s, %s)", strings.Join(ports[i].Addresses, ", "), ports[i].MAC)
		}
		out = append(out, api.Problem{
			Key: "drops " + d.Last.In + " " + d.Last.Out + " " + d.Last.Reason, Kind: "drops", Port: port, Reason: d.Last.Reason, Count: d.Count,
			Text:   fmt.Sprintf("%s: packets%s %s dropped: %s%s; the last one, %d s ago: %s", d.Last.Reason, way, are, cmp.Or(d.Last.Why, why.Info().Meaning), has, d.Age, d.Last.Packet),
			Remedy: cmp.Or(otherAddress(p, ports, NetworkOf(networks, p), src), d.Last.Remedy),
		})
	}
	slices.SortStableFunc(sorted(out), func(a, b api.Problem) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// otherAddress says what to do about packets from src, if src is not the port's address. Otherwise it returns nothing.
func otherAddress(p *api.Port, ports []api.Port, n *api.Network, src netip.Addr) string {
	if !IsOurs(p) || !src.IsGlobalUnicast() {
		return ""
	}
	for _, a := range p.Addresses {
		own, err := netip.ParsePrefix(a)
		if err != nil || own.Addr().Is4() != src.Is4() {
			continue
		}
		give, owner := GiveBack(p, n, netip.PrefixFrom(src, own.Bits()), a), ""
		if src.String() == n.Gateway || src.String() == n.Gateway6 {
			owner = "the gateway"
		} else if i := slices.IndexFunc(ports, func(p api.Port) bool { return p.HasAddress(src.String()) }); i >= 0 {
			owner = "port " + ports[i].Name
		}
		if owner != "" {
			return fmt.Sprintf("%s is the address of %s, and none of these packets went on; if what is in port %s attacks: `uvswitch port del %[3]s`; if its device has the address by mistake (`%s`): %s", src, owner, p.Name, p.Inside("ip addr"), give)
		}
		return give + fmt.Sprintf("; or, if the container may have the other one: `uvswitch config show > uvs.yaml`, change the address of port %s there, and `uvswitch reload uvs.yaml`", p.Name)
	}
	return ""
}

// GiveBack says how to give the device of a port its own address in the place of another one. Routes go with the old address.
func GiveBack(p *api.Port, n *api.Network, other netip.Prefix, own string) string {
	text := fmt.Sprintf("give the device its own address again: `%s`, `%s`", p.Inside(fmt.Sprintf("ip addr del %s dev DEV", other)), AddAddress(p, own))
	for _, r := range Routes(p, n) {
		if strings.Contains(r[0], ":") != other.Addr().Is4() {
			text += fmt.Sprintf(", `%s`", r[1])
		}
	}
	return text
}

// sorted sorts a list that comes from a map.
func sorted(list []api.Problem) []api.Problem {
	slices.SortFunc(list, func(a, b api.Problem) int { return strings.Compare(a.Text, b.Text) })
	return list
}
