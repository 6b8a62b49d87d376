package apiserver

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// problemTime is how long a dropped packet counts as a problem.
const problemTime = time.Minute

// oftenWrong are reasons for which a few drops are normal, and manyDrops in problemTime are not.
var oftenWrong = map[frame.Reason]bool{frame.FragmentationNeeded: true, frame.TTLExceeded: true, frame.SamePort: true, frame.RxRateExceeded: true, frame.TxRateExceeded: true}

const manyDrops = 20

// problems lists what does not work now, as far as the switch can see it, and what to do: first what concerns the switch, then single ports.
func problems(s *Server, _ *http.Request) (any, error) {
	v := s.view()
	return append([]api.Problem{}, slices.Concat(v.problemsOfSwitch(), v.problemsOfPorts(), s.problemsOfPackets())...), nil
}

func (v *view) problemsOfSwitch() (out []api.Problem) {
	add := func(kind, remedy, format string, args ...any) {
		out = append(out, api.Problem{Kind: kind, Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	s := v.status()
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
		if t := s.Tables[k]; t.Limit > 0 && t.Used*10 > t.Limit*9 {
			add("tables", "see what fills it: `uvswitch flow stats`, `uvswitch nat ports`, `uvswitch fdb show`", "table %s is nearly full: %d of %d", k, t.Used, t.Limit)
		}
	}
	return out
}

// problemsOfPorts are ports that carry nothing, questions that nobody answers, and shares that are used up.
func (v *view) problemsOfPorts() (out []api.Problem) {
	states := v.d.PortStatuses()
	for i := range v.Ports {
		p := &v.Ports[i]
		x := api.Problem{Kind: "ports", Port: p.Name}
		switch state := states[p.Name].State; {
		case p.IsOwn():
			continue
		case state == daemon.Down && p.IsVM():
			x.Text, x.Remedy = "no virtual machine is connected to port "+p.Name, "start the virtual machine with this socket: "+p.Ifname
		case state == daemon.Down:
			x.Text, x.Remedy = fmt.Sprintf("port %s is down: its device %s is", p.Name, p.Ifname), fmt.Sprintf("bring it up: `ip link set %s up`, in its namespace", p.Ifname)
		default:
			continue
		}
		out = append(out, x)
	}
	for _, q := range v.unanswered() {
		out = append(out, api.Problem{Kind: "neighbors", Port: q.Port, Text: fmt.Sprintf("%s asks for %s, and nobody answers (%d times in %d s): %s", q.Port, q.Dst, q.Count, q.Since, q.Why), Remedy: q.Remedy})
	}
	for _, u := range v.portUse() {
		for name, held := range u.Holders {
			if held*10 > u.Quota*9 {
				out = append(out, api.Problem{Kind: "shares", Port: name, Text: fmt.Sprintf("port %s holds %d of the %d outside ports of %s that it may have", name, held, u.Quota, u.Protocol),
					Remedy: fmt.Sprintf("see its flows: `uvswitch flow ls --port %s`; or widen the ports for NAT (--nat-ports of run, or uplink.ports in the configuration file, which a reload changes)", name)})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b api.Problem) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}

// problemsOfPackets are the drops of the last minute, by port and reason. Normal ones are left out.
func (s *Server) problemsOfPackets() (out []api.Problem) {
	type key struct {
		in, out frame.PortID
		why     frame.Reason
	}
	counts, last := map[key]int{}, map[key]capture.Record{}
	for _, r := range s.recentDrops(capture.Options{}, "", math.MaxInt) {
		if r.Reason == frame.NotForUs || r.Reason.IsNormal() && !oftenWrong[r.Reason] || time.Since(r.Time) > problemTime {
			continue
		}
		k := key{r.In, r.Out, r.Reason}
		counts[k]++
		last[k] = r
	}
	describe := s.describer()
	name := func(id frame.PortID) string { n, _ := describe(id); return n }
	for k, r := range last {
		if k.why.IsNormal() && counts[k] < manyDrops {
			continue
		}
		x := s.verdictOf(&r, name)
		from := ""
		switch {
		case x.In != "" && x.Out != "":
			from = fmt.Sprintf("from port %s to port %s", x.In, x.Out)
		case x.In != "":
			from = "from port " + x.In
		case x.Out != "":
			from = "for port " + x.Out
		}
		out = append(out, api.Problem{
			Kind: "drops", Port: cmp.Or(x.In, x.Out), Reason: x.Reason, Count: counts[k],
			Text:   fmt.Sprintf("%s: packets %s are dropped: %s; the last one: %s", x.Reason, from, cmp.Or(x.Why, k.why.Info().Meaning), x.Packet),
			Remedy: cmp.Or(x.Remedy, k.why.RemedyFor(x.In, x.Out)),
		})
	}
	slices.SortFunc(out, func(a, b api.Problem) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Text, b.Text)) })
	return out
}
