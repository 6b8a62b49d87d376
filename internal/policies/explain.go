package policies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// A Refusal says why policies refuse a packet, and what would allow it.
type Refusal struct {
	Why, Remedy string
	Packet      string // such as "tcp/443 to 192.0.2.1"; empty if it is no IP packet
	Log         bool   // a rule refuses it, and asks for lines in the log
}

// Explain says why a parsed frame is refused, by the rules of now. ok is false if they do not refuse it.
func (c *Compiler) Explain(f *frame.Frame, now frame.Tick) (r Refusal, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, ports := c.of, c.last
	if ports == nil {
		return r, false
	}
	q, known := flowOf(state, ports, f)
	if !known {
		r.Why = "policies let IP packets pass only, and ARP"
		return r, ports.Set(f.In) != nil
	}
	r.Packet = fmt.Sprintf("%s to %s", policy.ServiceText(q.Proto, q.Port), q.Dst)
	if q.From == frame.NoPort {
		r.Packet = fmt.Sprintf("%s from %s to %s", policy.ServiceText(q.Proto, q.Port), q.Src, q.Dst)
	}
	ruling := ports.Judge(q, policy.Admission{}, now)
	if ruling.Why == frame.None {
		if ports.Set(q.From) == nil && ports.Set(q.To) == nil {
			return r, false
		}
		r.Why = "the present rules would allow it: either the rules were others when the packet came, or the packet cannot begin a flow, or it was sent to the MAC of another station than that of its address"
		return r, true
	}
	p := state.PortByID(ruling.Port)
	if p == nil {
		return r, false
	}
	peer := q.Dst
	if ruling.Side == policy.Ingress {
		peer = q.Src
	}
	names := state.PoliciesOf(p)
	if ruling.Rule != 0 {
		of, number, text := c.ruleLocked(ruling.Rule)
		r.Log = ports.Set(ruling.Port).Logs(ruling.Rule)
		r.Why = fmt.Sprintf("rule %d of policy %s refuses it: %s", number, of, text)
		if r.Remedy = fmt.Sprintf("to end this: `uvswitch policy del %s %d`", of, number); state.Policy(of).Builtin {
			r.Remedy = fmt.Sprintf("no other rule can allow it while port %s has policy %s; for exceptions, attach a policy of your own in its place (docs/sandbox.md)", p.Name, of)
		}
		return r, true
	}
	what := "policy " + names[0]
	if len(names) > 1 {
		what = "the policies " + strings.Join(names, ", ")
	}
	r.Why = fmt.Sprintf("no rule of %s, of port %s, allows it (%s)", what, p.Name, ruling.Side)
	who := whoIs(state, ports, peer)
	if learned := ports.Set(ruling.Port).Addresses.NamesOf(peer, now); len(learned) > 0 && ruling.Side == policy.Egress {
		if r.Why += fmt.Sprintf("; the port knows %s as %s", peer, strings.Join(learned, ", ")); ports.Places.Class(peer) == policy.Outside && policy.IsPublic(peer) {
			who = policy.Peer{Kind: policy.NamePeer, Name: learned[len(learned)-1]}
		}
	}
	if ended := ports.Set(ruling.Port).Addresses.EndedNamesOf(peer, now); who.Kind == policy.Prefix && ruling.Side == policy.Egress {
		if i := slices.IndexFunc(ended, func(name string) bool { return ports.Set(ruling.Port).RuleForName(name, q.Proto, q.Port) != 0 }); i >= 0 {
			r.Why += fmt.Sprintf("; the port knew %s as %s, but that answer has ended", peer, ended[i])
			r.Remedy = fmt.Sprintf("let the program ask for %s again: a name opens an address for the TTL of the answer, and for 30 s at least", ended[i])
			return r, true
		}
	}
	rule := policy.Allowing(ruling.Side, who, q.Proto, q.Port)
	own := slices.IndexFunc(names, func(n string) bool { return !state.Policy(n).Builtin })
	to := "NAME"
	if own >= 0 {
		to = names[own]
	}
	if r.Remedy = fmt.Sprintf("to allow it: `uvswitch policy add %s %s`", to, rule); own < 0 {
		r.Remedy += fmt.Sprintf(", and `uvswitch policy attach NAME --port %s`", p.Name)
	}
	return r, true
}

// whoIs is an address as the peer of a rule.
func whoIs(state *model.State, ports *policy.Ports, a netip.Addr) policy.Peer {
	if id, known := ports.Stations[a]; known {
		if p := state.PortByID(id); p != nil {
			return policy.Peer{Kind: policy.PortPeer, Name: p.Name}
		}
	}
	if ports.Places.Class(a) == policy.Host {
		return policy.Peer{Kind: policy.OfClass, Class: policy.Host}
	}
	return policy.Peer{Kind: policy.Prefix, Prefix: netip.PrefixFrom(a, a.BitLen())}
}

// flowOf is the flow that a frame would begin. A published port leads to its container. ok is false if it is no IP packet.
func flowOf(state *model.State, ports *policy.Ports, f *frame.Frame) (q policy.Flow, ok bool) {
	q = policy.Flow{From: f.In, Proto: f.Proto, Port: f.Tuple.DstPort}
	switch {
	case f.Malformed != frame.None:
		return q, false
	case f.Flags&frame.IsIPv4 != 0:
		q.Src, q.Dst = f.Tuple.Src.Netip(), f.Tuple.Dst.Netip()
	case f.Flags&frame.IsIPv6 != 0:
		q.Src, q.Dst = f.IPv6().Src().Netip(), f.IPv6().Dst().Netip()
	default:
		return q, false
	}
	if p := state.PortByID(f.In); p != nil && p.Kind == model.KindUplink {
		q.From = frame.NoPort
	}
	if ports.Places.Class(q.Dst) == policy.Host {
		for i := range state.Publishes {
			x := &state.Publishes[i]
			proto, _ := frame.ProtoNumber(x.Proto)
			to := state.Port(x.Port)
			if proto != f.Proto || q.Port < x.Lo || q.Port > x.Hi || to == nil {
				continue
			}
			at := to.Addr.Addr()
			if q.Dst.Is6() {
				at = to.Known6().Addr()
			}
			q.Dst, q.Port = at, x.Target+(q.Port-x.Lo)
			break
		}
	}
	q.To = ports.Stations[q.Dst]
	return q, true
}
