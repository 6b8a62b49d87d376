package nat

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Protocols says which IP protocols without ports, such as GRE and ESP, a network's containers may send to the outside. TCP, UDP, ICMP and
// the other protocols with ports are never in it: they may leave always. The zero value allows all.
type Protocols struct {
	listed bool // only those in set
	set    [256 / 64]uint64
}

// ParseProtocols reads "all" (or nothing), "none", or a list such as "gre,esp,proto-4".
func ParseProtocols(s string) (p Protocols, err error) {
	if s == "" || s == "all" {
		return p, nil
	}
	if p.listed = true; s == "none" {
		return p, nil
	}
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		n, ok := frame.ProtoNumber(word)
		if v, err := strconv.ParseUint(word, 10, 8); err == nil {
			n, ok = uint8(v), true
		}
		switch {
		case !ok:
			return p, fmt.Errorf("protocols: %q is not an IP protocol; write all, none, or a list such as gre,esp,proto-4", word)
		case !optional(n):
			return p, fmt.Errorf("protocols: %s is always allowed; the list is for protocols that have no ports, such as gre and esp", frame.ProtoName(n))
		}
		p.set[n>>6] |= 1 << (n & 63)
	}
	return p, nil
}

// String is the reverse of ParseProtocols.
func (p Protocols) String() string {
	if !p.listed {
		return "all"
	}
	var out []string
	for n := range 256 {
		if p.set[n>>6]>>(n&63)&1 != 0 {
			out = append(out, frame.ProtoName(uint8(n)))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ",")
}

// optional reports whether a network may refuse this protocol.
func optional(proto uint8) bool { return protoIndex(proto) < 0 && !frame.HasPorts(proto) }

// allows reports whether a packet of this protocol may leave.
func (p *Protocols) allows(proto uint8) bool {
	return !p.listed || !optional(proto) || p.set[proto>>6]>>(proto&63)&1 != 0
}
