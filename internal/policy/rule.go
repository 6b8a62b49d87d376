package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Direction is seen from the port that has the policy.
type Direction uint8

// The directions.
const (
	Egress  Direction = iota // flows that begin at the port
	Ingress                  // flows that begin elsewhere
)

func (d Direction) String() string { return [...]string{"egress", "ingress"}[d] }

// An Action is what a rule does. A greater one wins.
type Action uint8

// The actions.
const (
	NoAction Action = iota // no rule fits
	Allow
	Reject // the sender is told
	Drop   // the sender is not told
)

func (a Action) String() string { return [...]string{"none", "allow", "reject", "drop"}[a] }

// A Class is what kind of place an address is: a set of bits in a rule, one bit of an address.
type Class uint8

// The classes of addresses.
const (
	Inside  Class = 1 << iota // in a network of the switch, or a group
	Outside                   // behind the uplink
	Host                      // the host's own
	Special                   // where clouds keep their metadata and credentials: only a rule for the very addresses speaks of them
	anybody = Inside | Outside | Host
)

func (c Class) String() string {
	switch c {
	case Inside:
		return "inside"
	case Outside:
		return "outside"
	case Host:
		return "host"
	}
	return "any"
}

// A PeerKind is how a rule says who is at the other end.
type PeerKind uint8

// The kinds of peers.
const (
	Everybody   PeerKind = iota // any
	Prefix                      // addresses: 192.0.2.0/24
	OfClass                     // inside, outside, host
	PortPeer                    // port:NAME
	NetworkPeer                 // network:NAME
	NamePeer                    // name:api.example.com or name:*.example.com
)

// A Peer is who is at the other end of a flow.
type Peer struct {
	Kind   PeerKind
	Class  Class        // of OfClass
	Prefix netip.Prefix // of Prefix
	Name   string       // of the last three kinds; names of DNS in lower case, without the last dot
}

func (p Peer) String() string {
	switch p.Kind {
	case Prefix:
		if p.Prefix.IsSingleIP() {
			return p.Prefix.Addr().String()
		}
		return p.Prefix.String()
	case OfClass:
		return p.Class.String()
	case PortPeer:
		return "port:" + p.Name
	case NetworkPeer:
		return "network:" + p.Name
	case NamePeer:
		return "name:" + p.Name
	}
	return "any"
}

// AnyProto is the protocol of a rule for every protocol.
const AnyProto = 0xff // reserved by IANA

// A Rule is one rule of a policy.
type Rule struct {
	Direction Direction
	Action    Action
	Peer      Peer
	Proto     uint8       // IP protocol, or AnyProto; frame.ICMP stands for ICMPv6, too
	Ports     []PortRange // of the responder, sorted; none: all
	Log       bool        // what the rule refuses stands in the log
}

// A PortRange is the ports from Lo to Hi.
type PortRange struct{ Lo, Hi uint16 }

// String is the rule as Parse reads it.
func (r Rule) String() string {
	words := []string{r.Direction.String(), r.Action.String(), r.Peer.String()}
	if r.Proto != AnyProto {
		proto := frame.ProtoName(r.Proto)
		var ports []string
		for _, p := range r.Ports {
			if p.Lo == p.Hi {
				ports = append(ports, strconv.Itoa(int(p.Lo)))
			} else {
				ports = append(ports, fmt.Sprintf("%d-%d", p.Lo, p.Hi))
			}
		}
		if len(ports) > 0 {
			proto += "/" + strings.Join(ports, ",")
		}
		words = append(words, proto)
	}
	if r.Log {
		words = append(words, "log")
	}
	return strings.Join(words, " ")
}

// ServiceText is a protocol with the responder's port, such as tcp/443, as rules write it.
func ServiceText(proto uint8, port uint16) string {
	text := frame.ProtoName(normal(proto))
	if frame.HasPorts(proto) {
		text += "/" + strconv.Itoa(int(port))
	}
	return text
}

// Allowing is the rule that allows one kind of flow. port is the responder's; it does not count for a protocol without ports.
func Allowing(d Direction, peer Peer, proto uint8, port uint16) Rule {
	r := Rule{Direction: d, Action: Allow, Peer: peer, Proto: normal(proto)}
	if frame.HasPorts(proto) {
		r.Ports = []PortRange{{port, port}}
	}
	return r
}

// Parse reads a rule: DIRECTION ACTION [PEER] [PROTOCOL[/PORTS]] [log], such as "egress allow name:api.example.com tcp/443".
func Parse(text string) (r Rule, err error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return r, fmt.Errorf("rule %q: write DIRECTION ACTION [PEER] [PROTOCOL[/PORTS]] [log], such as: egress allow name:api.example.com tcp/443", text)
	}
	fail := func(format string, args ...any) (Rule, error) {
		return r, fmt.Errorf("rule %q: "+format, append([]any{text}, args...)...)
	}
	switch words[0] {
	case "egress":
	case "ingress":
		r.Direction = Ingress
	default:
		return fail("%q is not egress (flows that begin at the port) or ingress (flows that begin elsewhere)%s", words[0], meant(words[0]))
	}
	action := slices.Index([]string{"allow", "reject", "drop"}, words[1])
	if action < 0 {
		return fail("%q is not allow, reject or drop%s", words[1], meant(words[1]))
	}
	r.Action, r.Proto = Allow+Action(action), AnyProto
	words = words[2:]
	if r.Action == Allow && len(words) > 0 && words[len(words)-1] == "log" {
		return fail("log stands in rules that reject or drop; what a rule allows is among the flows (uvswitch flow events)")
	}
	if n := len(words); n > 0 && words[n-1] == "log" {
		r.Log, words = true, words[:n-1]
	}
	if len(words) > 0 {
		peer, isPeer, err := parsePeer(words[0])
		if err != nil {
			return fail("%w", err)
		}
		if isPeer {
			r.Peer, words = peer, words[1:]
		}
	}
	if len(words) > 0 {
		if r.Proto, r.Ports, err = parseProto(words[0]); err != nil {
			return fail("%w", err)
		}
		words = words[1:]
	}
	if len(words) > 0 {
		return fail("%q: nothing but log follows the protocol", words[0])
	}
	if r.Peer.Kind == NamePeer && (r.Direction != Egress || r.Action != Allow) {
		return fail("a name only stands in rules that begin with \"egress allow\": an address whose name the port has not asked for cannot be recognized")
	}
	return r, nil
}

// meant says which word of a rule stands for a word of other tools.
func meant(word string) string {
	for mean, words := range map[string][]string{
		"egress": {"out", "output", "outgoing", "outbound"}, "ingress": {"in", "input", "incoming", "inbound"},
		"allow": {"accept", "permit", "pass"}, "reject (the sender is told) or drop": {"deny", "block", "refuse"},
	} {
		if slices.Contains(words, strings.ToLower(word)) {
			return "; did you mean " + mean + "?"
		}
	}
	return ""
}

// parsePeer reads a peer. ok is false if the word is none; it may be a protocol.
func parsePeer(word string) (p Peer, ok bool, err error) {
	for c := Inside; c <= Host; c <<= 1 {
		if word == c.String() {
			return Peer{Kind: OfClass, Class: c}, true, nil
		}
	}
	if word == "any" {
		return p, true, nil
	}
	for kind, prefix := range map[PeerKind]string{PortPeer: "port:", NetworkPeer: "network:", NamePeer: "name:"} {
		name, found := strings.CutPrefix(word, prefix)
		if !found {
			continue
		}
		if kind == NamePeer {
			if name, err = checkPattern(name); err != nil {
				return p, false, err
			}
		}
		if name == "" {
			return p, false, fmt.Errorf("%q: a name must follow the colon", word)
		}
		return Peer{Kind: kind, Name: name}, true, nil
	}
	if prefix, err := netip.ParsePrefix(word); err == nil && !prefix.Addr().Is4In6() {
		if prefix != prefix.Masked() {
			return p, false, fmt.Errorf("%s is an address inside a subnet; did you mean %s or %s?", prefix, prefix.Masked(), prefix.Addr())
		}
		return Peer{Kind: Prefix, Prefix: prefix}, true, nil
	}
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" && !a.Is4In6() {
		return Peer{Kind: Prefix, Prefix: netip.PrefixFrom(a, a.BitLen())}, true, nil
	}
	proto, rest, _ := strings.Cut(word, "/")
	if !known(proto) && !isReversed(proto, rest) {
		if _, err := netip.ParseAddr(proto); err == nil && rest != "" {
			return p, false, fmt.Errorf("%q is no peer: %s is not the length of a prefix", word, rest)
		}
		if _, err := checkPattern(word); err == nil && strings.Contains(word, ".") && !isDigits(word[strings.LastIndex(word, ".")+1:]) {
			return p, false, fmt.Errorf("%q is no peer; did you mean name:%s?", word, word)
		}
		return p, false, fmt.Errorf("%q is no peer and no protocol; a peer is any, inside, outside, host, an address, a subnet, port:NAME, network:NAME or name:NAME; a protocol is tcp, udp, icmp, or tcp/443 with a port", word)
	}
	return p, false, nil
}

// isReversed reports whether somebody has written a port and its protocol, such as 443/tcp.
func isReversed(port, proto string) bool { return isDigits(port) && !isDigits(proto) && known(proto) }

// known reports whether a word is a protocol.
func known(word string) bool {
	_, ok := protoNumber(word)
	return ok
}

// isDigits reports whether a word begins with a digit, as ports and the last part of an IPv4 address do, and no domain.
func isDigits(word string) bool { return word != "" && word[0] >= '0' && word[0] <= '9' }

// checkPattern reads the name of a rule.
func checkPattern(name string) (string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	rest, _ := strings.CutPrefix(name, "*.")
	if strings.Contains(rest, "*") {
		return "", fmt.Errorf("name %q: * may only stand for the first parts of a name, as in *.example.com", name)
	}
	isBad := func(label string) bool {
		return label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_') })
	}
	if _, err := netip.ParseAddr(rest); err == nil {
		return "", fmt.Errorf("%q is an address, not a name; write it without the word name", name)
	}
	if len(rest) > 253 || slices.ContainsFunc(strings.Split(rest, "."), isBad) {
		return "", fmt.Errorf("%q is not a name of DNS, such as api.example.com or *.example.com", name)
	}
	return name, nil
}

func protoNumber(name string) (uint8, bool) {
	if name == "icmpv6" || name == "icmp6" { // one rule is for both families
		name = "icmp"
	}
	if n, err := strconv.ParseUint(name, 10, 8); err == nil && n < AnyProto {
		return uint8(n), true
	}
	n, known := frame.ProtoNumber(name)
	return n, known && n != AnyProto
}

func parseProto(word string) (proto uint8, ports []PortRange, err error) {
	name, list, withPorts := strings.Cut(word, "/")
	if isReversed(name, list) {
		return 0, nil, fmt.Errorf("%q: the protocol comes first; did you mean %s/%s?", word, list, name)
	}
	proto, known := protoNumber(name)
	if !known {
		return 0, nil, fmt.Errorf("%q is not a protocol, such as tcp, udp, icmp, sctp, or a number", name)
	}
	proto = normal(proto)
	if !withPorts {
		return proto, nil, nil
	}
	if !frame.HasPorts(proto) {
		return 0, nil, fmt.Errorf("%q: %s has no ports", word, name)
	}
	for _, part := range strings.Split(list, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		a, err1 := strconv.ParseUint(lo, 10, 16)
		b := a
		var err2 error
		if isRange {
			b, err2 = strconv.ParseUint(hi, 10, 16)
		}
		if err1 != nil || err2 != nil || a == 0 || b < a {
			return 0, nil, fmt.Errorf("%q is not a port or a range of ports, such as 443 or 8000-8010", part)
		}
		ports = append(ports, PortRange{uint16(a), uint16(b)})
	}
	slices.SortFunc(ports, func(x, y PortRange) int { return int(x.Lo) - int(y.Lo) })
	return proto, ports, nil
}
