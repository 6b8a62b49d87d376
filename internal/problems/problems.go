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
}

// List lists the problems: first those of the switch, then those of ports.
func List(f Facts) []api.Problem {
	out := slices.Concat(ofSwitch(&f.Status), ofPorts(f.Ports), ofQuestions(f.Unanswered), ofShares(f.Use), ofFlows(f.Flows, f.Ports), ofDrops(f.Drops))
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

func ofPorts(ports []api.Port) (out []api.Problem) {
	for _, p := range ports {
		switch {
		case p.State != "down":
		case strings.HasPrefix(p.Kind, "qemu-") || p.Kind == "vde":
			out = append(out, api.Problem{Kind: "ports", Port: p.Name, Text: "no virtual machine is connected to port " + p.Name, Remedy: "start the virtual machine with this socket: " + p.Ifname})
		default:
			out = append(out, api.Problem{Kind: "ports", Port: p.Name, Text: fmt.Sprintf("port %s is down: its device %s is", p.Name, p.Ifname), Remedy: fmt.Sprintf("bring it up: `ip link set %s up`, in its namespace", p.Ifname)})
		}
	}
	return out
}

func ofQuestions(list []api.Unanswered) (out []api.Problem) {
	for _, q := range list {
		out = append(out, api.Problem{Kind: "neighbors", Port: q.Port, Text: fmt.Sprintf("%s asks for %s, and nobody answers (%d times in %d s): %s", q.Port, q.Dst, q.Count, q.Since, q.Why), Remedy: q.Remedy})
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
func ofDrops(list []Drops) (out []api.Problem) {
	for _, d := range list {
		why, known := frame.ParseReason(d.Last.Reason)
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
		out = append(out, api.Problem{
			Kind: "drops", Port: cmp.Or(d.Last.In, d.Last.Out), Reason: d.Last.Reason, Count: d.Count,
			Text:   fmt.Sprintf("%s: packets%s are dropped: %s; the last one: %s", d.Last.Reason, way, cmp.Or(d.Last.Why, why.Info().Meaning), d.Last.Packet),
			Remedy: cmp.Or(d.Last.Remedy, why.RemedyFor(d.Last.In, d.Last.Out)),
		})
	}
	slices.SortStableFunc(sorted(out), func(a, b api.Problem) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// sorted sorts a list that comes from a map.
func sorted(list []api.Problem) []api.Problem {
	slices.SortFunc(list, func(a, b api.Problem) int { return strings.Compare(a.Text, b.Text) })
	return list
}
