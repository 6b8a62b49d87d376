package apiserver

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/problems"
	"github.com/uvswitch/uvswitch/nat"
)

// problemTime is how long a dropped packet counts as a problem.
const problemTime = time.Minute

func listProblems(s *Server, _ *http.Request) (any, error) {
	v := s.view()
	f := problems.Facts{Status: v.status(), Ports: v.ports(), Use: v.portUse(), Drops: s.dropsByReason()}
	for id, u := range s.d.Unread() {
		f.Unread = append(f.Unread, problems.Unread{Port: v.PortName(id), Packets: u.Packets, Age: int(time.Since(u.At).Seconds())})
	}
	f.Unanswered = v.unanswered(f.Ports, f.Status.Networks)
	v.dp.NAT.Unanswered(v.dp.Now(), func(x nat.Flow) { f.Flows = append(f.Flows, v.flow(x)) })
	return problems.List(f), nil
}

// dropsByReason are the drops of the last problemTime.
func (s *Server) dropsByReason() (out []problems.Drops) {
	type key struct {
		in, out frame.PortID
		why     frame.Reason
	}
	counts, last := map[key]int{}, map[key]capture.Record{}
	for _, r := range s.recentDrops(capture.Options{}, "", math.MaxInt) {
		if time.Since(r.Time) < problemTime {
			k := key{r.In, r.Out, r.Reason}
			counts[k]++
			last[k] = r
		}
	}
	describe := s.describer()
	name := func(id frame.PortID) string { n, _ := describe(id); return n }
	for k, r := range last {
		out = append(out, problems.Drops{Count: counts[k], Last: s.verdictOf(&r, name), Age: int(time.Since(r.Time).Seconds())})
	}
	return out
}

// unanswered lists addresses for which stations ask in vain, and says what is missing. It takes the ports and networks of v, as they are shown.
func (v *view) unanswered(ports []api.Port, networks []api.Network) []api.Unanswered {
	out := []api.Unanswered{}
	now := v.dp.Now()
	seconds := func(then frame.Tick) int { return int(now.Since(then)) / frame.TicksPerSecond }
	for i := range v.Ports {
		p := &v.Ports[i]
		n := v.Network(p.Network)
		if n == nil {
			continue
		}
		for _, q := range v.dp.Switch.Unanswered(p.ID, now) {
			x := api.Unanswered{Port: p.Name, Network: n.Name, Dst: q.Addr.String(), Count: int(q.Count), First: seconds(q.First), Last: seconds(q.Last)}
			owner, shown := v.Holder(n, q.Addr), &api.Port{}
			if owner != nil {
				x.Owner = owner.Name
				shown = &ports[slices.IndexFunc(ports, func(p api.Port) bool { return p.Name == owner.Name })]
			}
			switch {
			case owner == nil:
				x.Why = fmt.Sprintf("no port of network %s has this address", n.Name)
				x.Remedy = "`uvswitch port ls` lists the addresses of all ports; start what has this address, or use another address"
			case !v.MayTalk(p, owner):
				x.Why = fmt.Sprintf("port %s has this address, and ports %[1]s and %s are isolated from each other", owner.Name, p.Name)
				x.Remedy = fmt.Sprintf("if they may talk: `uvswitch port set %s isolated off`", owner.Name)
			case shown.State == daemon.Down:
				x.Why = fmt.Sprintf("port %s has this address, and its device is down", owner.Name)
				x.Remedy = problems.BringUp(shown, problems.NetworkOf(networks, shown))
			default:
				x.Why = fmt.Sprintf("port %s has this address, but what is behind it does not answer", owner.Name)
				x.Remedy = fmt.Sprintf("see whether its device has the address: `%s`", shown.Inside("ip addr"))
			}
			out = append(out, x)
		}
	}
	return out
}
