package apiserver

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/nat"
)

// A flowFilter selects flows by what they were before translation. nil: any.
type flowFilter struct {
	family       family
	src, dst     netip.Prefix // invalid: any
	proto        *uint8
	port         *frame.PortID
	sport, dport *uint16
	state        string // of TCP; empty: any
}

// parseFlowFilter reads what selects flows. A filter that can match nothing is an error.
func parseFlowFilter(q url.Values, s *model.State) (f flowFilter, err error) {
	for key, to := range map[string]**uint16{"sport": &f.sport, "dport": &f.dport} {
		if text := q.Get(key); text != "" {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return f, badRequest("%q is not a port number", text)
			}
			p := uint16(n)
			*to = &p
		}
	}
	for key, to := range map[string]*netip.Prefix{"src": &f.src, "dst": &f.dst} {
		s := q.Get(key)
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if s != "" && err != nil {
			return f, badRequest("%q is neither an address nor a prefix such as 10.0.0.0/8", s)
		}
		*to = p
	}
	if name := q.Get("port"); name != "" {
		p := s.Port(name)
		if p == nil {
			return f, model.NoPort(name)
		}
		f.port = &p.ID
	}
	if name := q.Get("proto"); name != "" {
		n, ok := frame.ProtoNumber(strings.ToLower(name))
		if !ok {
			return f, badRequest("%q is not a protocol; use tcp, udp, sctp, icmp, gre, esp, or proto-N", name)
		}
		f.proto = &n
	}
	if f.family, err = familyOf(q); err != nil {
		return f, err
	}
	if f.state = strings.ToUpper(q.Get("state")); f.state != "" && !slices.Contains(nat.TCPStates(), f.state) {
		return f, badRequest("%q is not a TCP state; the states are %s", q.Get("state"), strings.Join(nat.TCPStates(), ", "))
	}
	return f, nil
}

// A family is the parameter "family": ipv4 or ipv6; empty: both.
type family string

func familyOf(q url.Values) (family, error) {
	switch f := strings.ToLower(q.Get("family")); f {
	case "", "ipv4", "ipv6":
		return family(f), nil
	default:
		return "", badRequest("%q is not an address family; use ipv4 or ipv6", f)
	}
}

// has reports whether an address is of the family.
func (f family) has(a netip.Addr) bool { return f == "" || string(f) == api.FamilyOf(a) }

// matches reports whether the filter selects a flow.
func (f *flowFilter) matches(x nat.Flow) bool {
	sport, dport := x.Original.SrcPort, x.Original.DstPort
	if x.Original.Proto == frame.ICMP || x.Original.Proto == frame.ICMPv6 { // these are its identifier and its type
		sport, dport = 0, 0
	}
	return f.family.has(x.Original.Src) && (f.proto == nil || *f.proto == x.Original.Proto) && (f.port == nil || *f.port == x.Port) && (f.sport == nil || *f.sport == sport) &&
		(f.dport == nil || *f.dport == dport) && (f.state == "" || f.state == x.State) &&
		(!f.src.IsValid() || f.src.Contains(x.Original.Src)) && (!f.dst.IsValid() || f.dst.Contains(x.Original.Dst))
}
