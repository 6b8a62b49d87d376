package control

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/hostports"
	"github.com/uvswitch/uvswitch/nat"
)

// rule is one published port, or range of ports.
type rule struct {
	id       uint32
	hostAddr netip.Addr // unspecified for every address of the host
	lo, hi   uint16
	proto    string
	port     *port
	target   uint16
	from     []netip.Prefix
	count    *nat.RuleCount
	relays   *relays
	asked    api.PublishAdd
}

// maxRelays bounds the listeners that one rule has on the host: a larger range is published to the outside and to
// containers only.
const maxRelays = 256

// parsePublish reads [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp].
func parsePublish(spec string) (*rule, error) {
	bad := func(why string) (*rule, error) {
		return nil, api.Errorf(http.StatusBadRequest, "%q: %s; the form is [HOST_ADDR:]HOST_PORT[-END]:PORT[/tcp|udp|sctp], such as 8080:80", spec, why)
	}
	r := &rule{proto: "tcp", hostAddr: netip.IPv4Unspecified()}
	rest, proto, found := strings.Cut(spec, "/")
	if found {
		r.proto = proto
	}
	if r.proto != "tcp" && r.proto != "udp" && r.proto != "sctp" {
		return bad("the protocol is tcp, udp or sctp")
	}
	parts := strings.Split(rest, ":")
	if len(parts) == 3 {
		a, err := netip.ParseAddr(parts[0])
		if err != nil || !a.Is4() {
			return bad("the host's address is not an IPv4 address")
		}
		r.hostAddr, parts = a, parts[1:]
	}
	if len(parts) != 2 {
		return bad("it has no two ports")
	}
	lo, hi, isRange := strings.Cut(parts[0], "-")
	if !isRange {
		hi = lo
	}
	var err error
	for _, p := range []struct {
		to   *uint16
		text string
	}{{&r.lo, lo}, {&r.hi, hi}, {&r.target, parts[1]}} {
		var v uint64
		if v, err = strconv.ParseUint(p.text, 10, 16); err != nil || v == 0 {
			return bad(fmt.Sprintf("%q is not a port, 1 to 65535", p.text))
		}
		*p.to = uint16(v)
	}
	if r.hi < r.lo || int(r.target)+int(r.hi-r.lo) > 65535 {
		return bad("the range of ports is empty or too long")
	}
	return r, nil
}

func (d *Daemon) addPublish(a api.PublishAdd) (api.Publish, error) {
	r, err := ruleOf(a)
	if err != nil {
		return api.Publish{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return api.Publish{}, errClosing
	}
	if r.port = d.ports[a.Port]; r.port == nil {
		return api.Publish{}, noPort(a.Port)
	}
	if err := d.checkPublish(r); err != nil {
		return api.Publish{}, err
	}
	if err := d.checkHostPorts(r); err != nil {
		return api.Publish{}, err
	}
	if r.relays, err = d.openRelays(r); err != nil {
		return api.Publish{}, err
	}
	r.id, r.count = d.nextRule, &nat.RuleCount{}
	d.nextRule++
	d.rules = append(d.rules, r)
	d.updateRules()
	d.log.Info("published", "host", r.hostPorts(), "port", r.port.name, "target", r.target, "protocol", r.proto)
	return d.publishView(r), nil
}

// ruleOf reads what is asked for.
func ruleOf(a api.PublishAdd) (*rule, error) {
	r, err := parsePublish(a.Spec)
	if err != nil {
		return nil, err
	}
	r.asked = a
	for _, f := range a.From {
		p, err := netip.ParsePrefix(f)
		if err != nil {
			if addr, aerr := netip.ParseAddr(f); aerr == nil {
				p, err = addr.Prefix(32)
			}
		}
		if err != nil || !p.Addr().Is4() {
			return nil, api.Errorf(http.StatusBadRequest, "--from %q is not an IPv4 address or CIDR", f)
		}
		r.from = append(r.from, p.Masked())
	}
	return r, nil
}

// checkPublish says what stands in the way of a rule.
func (d *Daemon) checkPublish(r *rule) error {
	switch {
	case !r.port.addr.IsValid() || r.port.kind == kindHost || r.port.kind == kindUplink:
		return api.Errorf(http.StatusConflict, "port %q has no address that the switch knows; add it with --ip", r.port.name)
	case r.port.net.internal:
		return api.Errorf(http.StatusConflict, "network %q is internal: nothing in it can be published", r.port.net.name)
	}
	for _, q := range d.rules {
		sameAddr := q.hostAddr == r.hostAddr || q.hostAddr.IsUnspecified() || r.hostAddr.IsUnspecified()
		if q.proto == r.proto && q.lo <= r.hi && r.lo <= q.hi && sameAddr {
			return api.Errorf(http.StatusConflict, "host port %s/%s is published already, to port %q; `uvswitch publish del %s/%s` first", q.hostPorts(), q.proto, q.port.name, q.hostPorts(), q.proto)
		}
	}
	return nil
}

// checkHostPorts says what of the host's own stands in the way.
func (d *Daemon) checkHostPorts(r *rule) error {
	if d.up != nil && !r.hostAddr.IsUnspecified() && !r.hostAddr.IsLoopback() {
		if s, _ := d.up.State(); s.Addr != r.hostAddr {
			return api.Errorf(http.StatusBadRequest, "%s is not the uplink's address (%s) nor 127.0.0.1; leave it out for all of the host's addresses", r.hostAddr, d.externalString())
		}
	}
	if eph := hostports.Ephemeral(); int(r.hi)-int(r.lo) >= maxRelays && r.lo <= eph[1] && r.hi >= eph[0] {
		return api.Errorf(http.StatusConflict, "a range of more than %d ports may not overlap %d-%d, which the host's kernel picks from for its own connections", maxRelays, eph[0], eph[1])
	}
	if pool := d.pools(r); d.up != nil && (pool[0].Len() == 0 || pool[1].Len() == 0) {
		return api.Errorf(http.StatusConflict, "that would leave no port for the containers' own connections; widen --nat-ports, or publish fewer")
	}
	list, err := hostports.List()
	if err != nil {
		return err
	}
	for p := int(r.lo); p <= int(r.hi); p++ {
		if l, taken := hostports.Find(list, r.proto, r.hostAddr, uint16(p)); taken {
			return api.Errorf(http.StatusConflict, "port %d/%s is taken by %s; publish another, or stop it", p, r.proto, l.Owner())
		}
	}
	return nil
}

func (r *rule) hostPorts() string {
	s := strconv.Itoa(int(r.lo))
	if r.hi != r.lo {
		s += "-" + strconv.Itoa(int(r.hi))
	}
	if !r.hostAddr.IsUnspecified() {
		s = r.hostAddr.String() + ":" + s
	}
	return s
}

// deletePublish ends the rule named by its host side, [HOST_ADDR:]HOST_PORT[-END][/PROTO]; what follows the ports
// in the form of `publish add` may stand there too.
func (d *Daemon) deletePublish(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, r := range d.rules {
		full := r.hostPorts() + ":" + strconv.Itoa(int(r.target))
		for _, n := range []string{r.hostPorts(), full} {
			if name == n+"/"+r.proto || r.proto == "tcp" && name == n {
				r.relays.close()
				d.rules = slices.Delete(d.rules, i, i+1)
				d.updateRules()
				return nil
			}
		}
	}
	return api.Errorf(http.StatusNotFound, "%s is not published; `uvswitch publish ls` lists what is", name)
}

// updateRules puts networks, published ports and the ports that may be given out in force. Nothing happens when
// nothing has changed. mu is held.
func (d *Daemon) updateRules() {
	if d.closed {
		return
	}
	pools := d.pools()
	r := nat.Rules{Pool: pools}
	if d.external.IsValid() {
		r.External = frame.AddrFrom(d.external)
	}
	owned := map[string]*nat.PortSet{}
	for proto, pool := range map[string]*nat.PortSet{"tcp": pools[0], "udp": pools[1], "sctp": pools[1]} {
		number, _ := frame.ProtoNumber(proto)
		s := nat.NewPortSet()
		for w := range s {
			s[w].Store(pool[w].Load() | d.dp.NAT.InUse(number)[w].Load())
		}
		owned[proto] = s
	}
	for _, q := range d.rules {
		if q.hostAddr.IsLoopback() {
			continue // the host's own relay only
		}
		r.Publish = append(r.Publish, publishRule(q))
		owned[q.proto].AddRange(q.lo, q.hi)
	}
	for _, n := range d.networkList() {
		if !n.internal {
			r.Masquerade = append(r.Masquerade, &nat.Masquerade{
				Net: n.id, Prefix: n.prefix, Mapping: n.mapping, Filtering: n.filtering, RuleCount: n.masquerade,
			})
		}
	}
	d.dp.NAT.Update(r)
	if d.up != nil && d.opts.UplinkKind != "tap" {
		d.up.SetPorts(owned["tcp"], owned["udp"], owned["sctp"])
	}
}

func publishRule(q *rule) *nat.Publish {
	proto, _ := frame.ProtoNumber(q.proto)
	n := &nat.Publish{
		ID: q.id, Proto: proto, Lo: q.lo, Hi: q.hi, Target: frame.AddrFrom(q.port.addr.Addr()), Port: q.target,
		From: q.from, Inside: q.port.id, Net: q.port.net.id, RuleCount: q.count,
	}
	if !q.hostAddr.IsUnspecified() {
		n.HostAddr = frame.AddrFrom(q.hostAddr)
	}
	return n
}

// pools are the ports of the host's address that NAT may give out: the configured ranges without those that the
// kernel may pick, that the host listens on, or that are published.
func (d *Daemon) pools(rules ...*rule) [2]*nat.PortSet {
	ranges, _ := ParseRanges(d.opts.NATPorts)
	local := hostports.Ephemeral()
	list, err := hostports.List()
	if err != nil {
		d.log.Error("the host's ports; those known before are kept clear of", "error", err)
		list = d.taken
	}
	d.taken = list
	var out [2]*nat.PortSet
	for i, proto := range []string{"tcp", "udp"} {
		s := nat.NewPortSet()
		for _, r := range ranges {
			s.AddRange(r[0], r[1])
		}
		s.RemoveRange(local[0], local[1])
		for _, l := range list {
			if l.Proto == proto {
				s.Release(l.Port)
			}
		}
		for _, q := range append(rules, d.rules...) {
			if q.proto == proto || q.proto == "sctp" && proto == "udp" { // they share a pool
				s.RemoveRange(q.lo, q.hi)
			}
		}
		out[i] = s
	}
	return out
}

// DefaultNATPorts lie outside the kernel's usual ip_local_port_range, so that it never picks one.
const DefaultNATPorts = "20000-29999,61000-65535"

// ParseRanges reads "20000-29999,61000".
func ParseRanges(s string) ([][2]uint16, error) {
	var out [][2]uint16
	for _, part := range strings.Split(s, ",") {
		lo, hi, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 16)
		b, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil || a < 1 || b < a {
			return nil, fmt.Errorf("%q is not a range of ports like %s (1 to 65535)", part, DefaultNATPorts)
		}
		out = append(out, [2]uint16{uint16(a), uint16(b)})
	}
	return out, nil
}
