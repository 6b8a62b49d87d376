// Package problems says what does not work now, as far as the state of a switch shows it, and what to do.
package problems

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
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
}

// Drops are dropped packets of the last minute with the same ports and reason.
type Drops struct {
	Count int
	Last  api.Verdict
	Age   int // of the last one, in seconds
}

// List lists the problems: first those of the switch, then those of ports.
func List(f Facts) []api.Problem {
	out := slices.Concat(ofSwitch(&f.Status), ofPorts(f.Ports, f.Status.Networks), ofMTUs(f.Ports, f.Status.Networks), ofQuestions(f.Unanswered), ofShares(f.Use), ofFlows(f.Flows, f.Ports), ofDrops(f.Drops, f.Ports))
	return append([]api.Problem{}, out...) // in JSON, no problem is an empty list
}

func ofSwitch(s *api.Status) (out []api.Problem) {
	add := func(kind, remedy, format string, args ...any) {
		out = append(out, api.Problem{Kind: kind, Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	if up := s.Uplink; up.Kind != "none" && up.State != "up" && up.State6 != "up" {
		add("uplink", "give the host a default route, or bring the uplink's device up and give it an address", "the uplink is down: %s", up.Why)
	}
	for _, p := range s.Waiting {
		add("ports", "make the namespace or the device; the switch adds the port within a second, with what is published for it", "port %s of the configuration file waits: %s", p.Port, p.Why)
	}
	if len(s.SilentNames) > 0 {
		add("names", "look whether they work: `dig @SERVER example.com` on the host; other servers: /etc/resolv.conf, or `uvswitch network set NAME --dns-servers`", "these name servers have not answered containers lately: %s", strings.Join(s.SilentNames, ", "))
	}
	if s.NamesWhy != "" {
		add("names", "restart the switch; to avoid this, write into the file instead of replacing it", "/etc/resolv.conf was replaced, and the switch's sandbox does not let it read the new file; it asks the servers of before: %s", s.NamesWhy)
	}
	for _, k := range []string{"fdb", "flows", "flows6", "nat_ports", "sockets"} {
		if t := s.Tables[k]; nearlyFull(t.Used, t.Limit) {
			add("tables", "see what fills it: `uvswitch flow stats`, `uvswitch nat ports`, `uvswitch fdb show`", "table %s is nearly full: %d of %d", k, t.Used, t.Limit)
		}
	}
	return out
}

func nearlyFull(used, limit int) bool { return limit > 0 && used*10 > limit*9 }

func ofPorts(ports []api.Port, networks []api.Network) (out []api.Problem) {
	for i := range ports {
		p := &ports[i]
		if p.State == "down" && !strings.HasPrefix(p.Kind, "qemu-") && p.Kind != "vde" { // a virtual machine may be off
			out = append(out, api.Problem{Kind: "ports", Port: p.Name, Text: fmt.Sprintf("port %s is down: its device %s is not up", p.Name, p.Ifname), Remedy: BringUp(p, NetworkOf(networks, p))})
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
	text := fmt.Sprintf("bring it up: `%s`", p.Inside("ip link set "+p.Ifname+" up"))
	if !IsOurs(p) {
		return text + "; if its routes are missing then, restart what is in the namespace"
	}
	for _, a := range p.Addresses {
		if strings.Contains(a, ":") {
			text += fmt.Sprintf("; it has lost its IPv6 address: `%s`", AddAddress(p, a))
		}
	}
	if !p.NoRoute && n.Gateway != "" {
		text += fmt.Sprintf("; and its default route: `%s`", AddRoute(p, n))
	}
	return text
}

// IsOurs reports whether the switch has given the device of a port its addresses and its default route.
func IsOurs(p *api.Port) bool {
	return (p.Kind == "tap" || p.Kind == "plain") && !p.Handed && p.DHCP == "" && p.Netns != ""
}

// AddAddress and AddRoute are the commands that give a port's device an address, and the default route, again.
func AddAddress(p *api.Port, addr string) string {
	return p.Inside("ip addr add " + addr + " dev " + p.Ifname)
}

func AddRoute(p *api.Port, n *api.Network) string {
	return p.Inside("ip route add default via " + n.Gateway)
}

// ofMTUs are the ports with another MTU than their network. No router between ports of one network could say that a frame is too long.
func ofMTUs(ports []api.Port, networks []api.Network) (out []api.Problem) {
	for i := range ports {
		p := &ports[i]
		n := NetworkOf(networks, p)
		if n.MTU == 0 || p.MTU == n.MTU || p.Kind == "uplink" || p.Kind == "host" {
			continue
		}
		out = append(out, api.Problem{Kind: "mtu", Port: p.Name, Text: fmt.Sprintf("port %s has MTU %d, but its network %s has MTU %d", p.Name, p.MTU, n.Name, n.MTU), Remedy: SetMTU(p, n)})
	}
	return out
}

// SetMTU says how to give a port the MTU of its network.
func SetMTU(p *api.Port, n *api.Network) string {
	if !IsOurs(p) {
		return fmt.Sprintf("give it MTU %d where it was made, and plug it in again", n.MTU)
	}
	return fmt.Sprintf("note what `uvswitch config show` prints about it, and plug it in again: `uvswitch port del %s`, `uvswitch port add %[1]s --netns %s --ifname %s --ip %s --mtu %d`; or give all ports and the network the same other MTU", p.Name, p.Netns, p.Ifname, address4(p), n.MTU)
}

// address4 is the port's IPv4 address.
func address4(p *api.Port) string {
	for _, a := range p.Addresses {
		if a, _, _ = strings.Cut(a, "/"); !strings.Contains(a, ":") {
			return a
		}
	}
	return "auto"
}

func ofQuestions(list []api.Unanswered) (out []api.Problem) {
	for _, q := range list {
		out = append(out, api.Problem{Kind: "neighbors", Port: q.Port, Text: fmt.Sprintf("%s asks for %s, and nobody answers (%d times, first %d s and last %d s ago): %s", q.Port, q.Dst, q.Count, q.Since, q.Last, q.Why), Remedy: q.Remedy})
	}
	return out
}

func ofShares(list []api.PortUse) (out []api.Problem) {
	for _, u := range list {
		for name, held := range u.Holders {
			if nearlyFull(held, u.Quota) {
				out = append(out, api.Problem{Kind: "shares", Port: name, Text: fmt.Sprintf("port %s holds %d of the %d outside ports of %s that it may have", name, held, u.Quota, u.Protocol),
					Remedy: fmt.Sprintf("see its flows: `uvswitch flow ls --port %s`; or widen the ports for NAT (--nat-ports of run, or uplink.ports in the configuration file, which a reload changes)", name)})
			}
		}
	}
	return sorted(out)
}

// someTries is how many packets of a connection or a ping remain without an answer before that is a problem: TCP sends the third one after three
// seconds.
const someTries = 3

// ofFlows are connections and pings that nobody answers. Nothing of them was dropped here. Much that is sent by UDP needs no answer.
func ofFlows(flows []api.Flow, ports []api.Port) []api.Problem {
	type key struct{ port, client, peer, what string }
	ids := map[key]map[uint32]bool{}
	for _, f := range flows {
		if f.Original.Packets < someTries || f.Protocol != "tcp" && f.Protocol != "icmp" && f.Protocol != "icmpv6" {
			continue
		}
		k := key{port: f.Port, peer: f.Original.Dst}
		at := f.Original.Dport
		if station(ports, f.Original.Src) == "" { // it comes from outside, to a container
			k.client, k.peer, at = f.Original.Src, f.Reply.Src, f.Reply.Sport
		}
		if k.what = f.Protocol + " to " + k.peer; at != 0 {
			k.what = f.Protocol + " to " + net.JoinHostPort(k.peer, strconv.Itoa(at))
		}
		if ids[k] == nil {
			ids[k] = map[uint32]bool{}
		}
		ids[k][f.ID] = true
	}
	var out []api.Problem
	for k, of := range ids {
		x := api.Problem{Kind: "answers", Port: k.port}
		if len(of) > 1 {
			k.what += fmt.Sprintf(", %d flows", len(of))
		}
		behind := station(ports, k.peer)
		switch {
		case k.client != "":
			x.Text = fmt.Sprintf("%s does not answer %s, a client of a published port (%s)", k.port, k.client, k.what)
		case behind != "":
			x.Text = fmt.Sprintf("%s gets no answer from port %s (%s)", k.port, behind, k.what)
		default:
			x.Text = fmt.Sprintf("%s gets no answer from outside (%s)", k.port, k.what)
		}
		x.Remedy = fmt.Sprintf("the packets have left by port %s; see whether a program listens there, and what its firewall does: `ss -ltn`, `nft list ruleset` in its namespace", cmp.Or(behind, k.port))
		if k.client == "" && behind == "" {
			x.Remedy = fmt.Sprintf("the packets have left by the uplink; a firewall or the far end does not answer them: `uvswitch dump -i uplink host %s`", k.peer)
		}
		out = append(out, x)
	}
	return sorted(out)
}

// station is the name of the port that has an address; empty if there is none.
func station(ports []api.Port, addr string) string {
	for i := range ports {
		for _, a := range ports[i].Addresses {
			if a, _, _ = strings.Cut(a, "/"); a == addr {
				return ports[i].Name
			}
		}
	}
	return ""
}

// oftenWrong are reasons for which a few drops are normal, and manyDrops are not.
var oftenWrong = map[frame.Reason]bool{frame.FragmentationNeeded: true, frame.TTLExceeded: true, frame.SamePort: true, frame.RxRateExceeded: true, frame.TxRateExceeded: true}

const manyDrops = 20

// ofDrops are the drops, without normal ones. The most frequent ones come first.
func ofDrops(list []Drops, ports []api.Port) (out []api.Problem) {
	isDown := func(name string) bool {
		return slices.ContainsFunc(ports, func(p api.Port) bool { return p.Name == name && p.State == "down" })
	}
	for _, d := range list {
		why, known := frame.ParseReason(d.Last.Reason)
		if why == frame.PortDown && isDown(d.Last.Out) { // it is a problem already
			continue
		}
		if !known || why == frame.NotForUs || why.IsNormal() && (!oftenWrong[why] || d.Count < manyDrops) {
			continue
		}
		way := ""
		if d.Last.In != "" {
			way = " from port " + d.Last.In
		}
		if d.Last.Out != "" {
			way += " to port " + d.Last.Out
		}
		has := ""
		if i := slices.IndexFunc(ports, func(p api.Port) bool { return p.Name == d.Last.In }); i >= 0 && why.Info().Stage == frame.Guarding && len(ports[i].Addresses) > 0 {
			has = fmt.Sprintf(" (it has %s, %s)", strings.Join(ports[i].Addresses, ", "), ports[i].MAC)
		}
		out = append(out, api.Problem{
			Kind: "drops", Port: portOf(why, &d.Last), Reason: d.Last.Reason, Count: d.Count,
			Text:   fmt.Sprintf("%s: packets%s are dropped: %s%s; the last one, %d s ago: %s", d.Last.Reason, way, cmp.Or(d.Last.Why, why.Info().Meaning), has, d.Age, d.Last.Packet),
			Remedy: cmp.Or(d.Last.Remedy, why.RemedyFor(d.Last.In, d.Last.Out)),
		})
	}
	slices.SortStableFunc(sorted(out), func(a, b api.Problem) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// portOf is the port that a drop is about: where the packet came in, or, if it was refused there, where it would have left.
func portOf(why frame.Reason, v *api.Verdict) string {
	if i := why.Info(); i.Stage == frame.Egress || why == frame.ExceedsMTU {
		return cmp.Or(v.Out, v.In)
	}
	return cmp.Or(v.In, v.Out)
}

// sorted sorts a list that comes from a map.
func sorted(list []api.Problem) []api.Problem {
	slices.SortFunc(list, func(a, b api.Problem) int { return strings.Compare(a.Text, b.Text) })
	return list
}
