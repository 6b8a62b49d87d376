package apiserver

import (
	"net/http"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

func (v *view) flow(f nat.Flow) api.Flow {
	x := api.Flow{
		ID: f.ID, Family: api.FamilyOf(f.Original.Src), Protocol: frame.ProtoName(f.Original.Proto), Number: int(f.Original.Proto), State: f.State, Timeout: int(f.Timeout),
		Original: flowSide(f.Original, f, 0), Reply: flowSide(f.Reply, f, 1), Status: []string{},
		Network: v.NetworkName(f.Net), Port: v.PortName(f.Port),
	}
	if f.Assured {
		x.Status = append(x.Status, "assured")
	}
	if !f.Replied {
		x.Status = append(x.Status, "unreplied")
	}
	return x
}

func flowSide(t frame.Endpoints, f nat.Flow, dir int) api.FlowSide {
	s := api.FlowSide{
		Src: t.Src.String(), Dst: t.Dst.String(), Sport: int(t.SrcPort), Dport: int(t.DstPort),
		Packets: f.Packets[dir], Bytes: f.Bytes[dir],
	}
	if t.Proto == frame.ICMP || t.Proto == frame.ICMPv6 {
		typ, id, code := int(t.DstPort), int(t.SrcPort), 0
		if dir == 1 {
			id, typ = int(t.DstPort), int(t.SrcPort)+1
			if t.SrcPort == frame.ICMPEcho {
				typ = frame.ICMPEchoReply
			}
		}
		s.Sport, s.Dport, s.Type, s.Code, s.ID = 0, 0, &typ, &code, &id
	}
	return s
}

// flowList lists the flows that the query selects.
func (v *view) flowList(r *http.Request) (any, error) {
	f, err := parseFlowFilter(r.URL.Query(), v.State)
	if err != nil {
		return nil, err
	}
	limit, err := parseCount(r.URL.Query(), "limit")
	if err != nil {
		return nil, err
	}
	if !mayChange(r) && (limit == 0 || limit > guestFlows) {
		limit = guestFlows
	}
	var flows []nat.Flow
	v.dp.NAT.Flows(v.dp.Now(), func(x nat.Flow) bool {
		if f.matches(x) {
			flows = append(flows, x)
		}
		return limit == 0 || len(flows) < limit
	})
	v.d.SetSocketEndpoints(flows)
	out := make([]api.Flow, len(flows))
	for i := range flows {
		out[i] = v.flow(flows[i])
	}
	return out, nil
}

func (v *view) flowStats() api.FlowStats {
	n := v.dp.NAT
	four, six := n.UsedByFamily()
	most, most6 := n.Limits()
	x := api.FlowStats{
		Used: four, Limit: most, Used6: six, Limit6: most6, Quota: n.FlowQuota(), States: map[string]int{}, Missed: v.missed(),
	}
	x.Created, x.Ended = n.Stats()
	n.Flows(v.dp.Now(), func(f nat.Flow) bool {
		x.States[stateOf(f)]++
		return true
	})
	x.Holders, x.Tenants = v.held(n.FlowsOf)
	return x
}

// held counts what ports hold, by port and by tenant.
func (v *view) held(by func(frame.PortID) int) (ports, tenants map[string]int) {
	ports, tenants = map[string]int{}, map[string]int{}
	for i := range v.Ports {
		p := &v.Ports[i]
		n := by(p.ID)
		if n == 0 {
			continue
		}
		ports[p.Name] = n
		if p.Spec.Tenant != "" {
			tenants[p.Spec.Tenant] += n
		}
	}
	return ports, tenants
}

// stateOf names a flow's state for totals: TCP's, else whether it was answered.
func stateOf(f nat.Flow) string {
	state := f.State
	if state == "" {
		state = "UNREPLIED"
		if f.Replied {
			state = "REPLIED"
		}
	}
	return frame.ProtoName(f.Original.Proto) + " " + state
}
