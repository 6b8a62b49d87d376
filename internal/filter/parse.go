package filter

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Compile compiles an expression; an empty one matches everything. An error says what is wrong, and where.
func Compile(expr string) (Filter, error) {
	if len(expr) > maxLength {
		return Filter{}, fmt.Errorf("the filter has %d characters; the limit is %d", len(expr), maxLength)
	}
	c := compiler{tokens: scan(expr)}
	if len(c.tokens) == 0 {
		return Filter{}, nil
	}
	n, err := c.expression()
	if err == nil && c.at < len(c.tokens) {
		err = fmt.Errorf("%q is not expected at this place", c.peek())
	}
	if err != nil {
		return Filter{}, fmt.Errorf("filter %q: %w", expr, err)
	}
	return Filter{n}, nil
}

const (
	maxLength = 4096
	maxDepth  = 64
)

// scan splits an expression into words and operators.
func scan(s string) (tokens []string) {
	for i := 0; i < len(s); {
		switch ch := s[i]; {
		case strings.IndexByte(" \t\n\r", ch) >= 0:
			i++
		case i+1 < len(s) && slices.Contains([]string{"&&", "||", "<=", ">=", "!=", "==", "<<", ">>"}, s[i:i+2]):
			tokens = append(tokens, s[i:i+2])
			i += 2
		case ch == '\\': // tcpdump allows one before a protocol's name
			i++
		case strings.IndexByte("()[]!<>=&|^+*/%", ch) >= 0:
			tokens = append(tokens, s[i:i+1])
			i++
		case ch == '-' || ch == ':':
			tokens = append(tokens, s[i:i+1])
			i++
		default:
			j := i
			for j < len(s) && (isWordByte(s[j]) || s[j] == '-' && j > i && j+1 < len(s) && isWordByte(s[j+1]) && !isMinus(tokens, s[i:j])) {
				j++
			}
			if j == i {
				j++
			}
			// MAC and IPv6 addresses contain colons. Within brackets, a colon separates offset and size.
			for j < len(s) && s[j] == ':' && !bracketOpen(tokens) {
				j++
				for j < len(s) && (isWordByte(s[j]) || s[j] == '/') {
					j++
				}
			}
			if j < len(s) && s[j] == '/' && !bracketOpen(tokens) && (strings.ContainsAny(s[i:j], ".") || len(tokens) > 0 && tokens[len(tokens)-1] == "net") { // a prefix length
				for j++; j < len(s) && isWordByte(s[j]); {
					j++
				}
			}
			tokens = append(tokens, s[i:j])
			i = j
		}
	}
	return tokens
}

func isWordByte(c byte) bool {
	return c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func bracketOpen(tokens []string) bool {
	depth := 0
	for _, t := range tokens {
		switch t {
		case "[":
			depth++
		case "]":
			depth--
		}
	}
	return depth > 0
}

// isMinus reports whether a dash after word is a minus sign: after len, and within brackets after a number.
func isMinus(tokens []string, word string) bool {
	_, err := strconv.ParseUint(word, 0, 32)
	return word == "len" || err == nil && bracketOpen(tokens)
}

// A compiler parses the tokens of one expression.
type compiler struct {
	tokens []string
	at     int
	depth  int
	vlans  int        // VLAN tags matched so far; later primitives look behind them
	last   qualifiers // of the last primitive; a value without qualifiers uses them
	named  bool       // last is valid
}

// qualifiers are the words before a value, such as `tcp dst port`.
type qualifiers struct{ proto, dir, kind string }

func (c *compiler) peek() string {
	if c.at < len(c.tokens) {
		return c.tokens[c.at]
	}
	return ""
}

func (c *compiler) next() string {
	t := c.peek()
	c.at++
	return t
}

// take consumes the next token when it is one of words.
func (c *compiler) take(words ...string) (string, bool) {
	if t := c.peek(); t != "" && slices.Contains(words, t) {
		c.at++
		return t, true
	}
	return "", false
}

// expression parses terms joined by `and` and `or`, which have the same precedence and associate to the left.
func (c *compiler) expression() (node, error) {
	if c.depth++; c.depth > maxDepth {
		return nil, fmt.Errorf("more than %d levels of brackets and negations", maxDepth)
	}
	defer func() { c.depth-- }()
	left, err := c.term()
	for err == nil {
		if _, ok := c.take("and", "&&"); ok {
			var right node
			right, err = c.term()
			left = and{left, right}
		} else if _, ok := c.take("or", "||"); ok {
			var right node
			right, err = c.term()
			left = or{left, right}
		} else {
			return left, nil
		}
	}
	return nil, err
}

func (c *compiler) term() (node, error) {
	if _, ok := c.take("not", "!"); ok {
		if c.depth++; c.depth > maxDepth {
			return nil, fmt.Errorf("more than %d levels of brackets and negations", maxDepth)
		}
		defer func() { c.depth-- }()
		n, err := c.term()
		return not{n}, err
	}
	if c.peek() == "(" {
		if n, err := c.tryRelation(); n != nil || err != nil {
			return n, err
		}
		c.next()
		n, err := c.expression()
		if err != nil {
			return nil, err
		}
		if _, ok := c.take(")"); !ok {
			return nil, fmt.Errorf("a closing bracket ) is missing")
		}
		return n, nil
	}
	if n, err := c.tryRelation(); n != nil || err != nil {
		return n, err
	}
	return c.primitive()
}

// tryRelation parses `value OPERATOR value`. If the tokens are no relation, it consumes nothing and returns nil.
func (c *compiler) tryRelation() (node, error) {
	start := c.at
	n, err := c.relation()
	if err == nil {
		return n, nil
	}
	if start+1 < len(c.tokens) && c.tokens[start+1] == "[" { // only a relation begins like this
		return nil, err
	}
	c.at = start
	return nil, nil
}

func (c *compiler) relation() (node, error) {
	a, err := c.arithmetic(0)
	if err != nil {
		return nil, err
	}
	op, ok := c.take("=", "==", "!=", "<", ">", "<=", ">=")
	if !ok {
		return nil, fmt.Errorf("a comparison operator is missing after %q", c.tokens[c.at-1])
	}
	b, err := c.arithmetic(0)
	if err != nil {
		return nil, err
	}
	var n node = compare{a, b, op}
	for _, v := range []value{b, a} { // the frame must have the headers that are compared
		n = withGuards(v, n)
	}
	return n, nil
}

// withGuards returns a node that is n if the frame has the headers that v reads, and false if it has not.
func withGuards(v value, n node) node {
	switch v := v.(type) {
	case access:
		return and{v.guard, withGuards(v.at, n)}
	case arithmetic:
		return withGuards(v.a, withGuards(v.b, n))
	}
	return n
}

// anything marks operators without a precedence in libpcap's grammar: their right operand is everything to their right.
const anything = 9

// binding returns the precedence of an operator in libpcap's grammar, which differs from C's; 0 if op is no operator.
func binding(op string) int {
	switch op {
	case "|":
		return 1
	case "&":
		return 2
	case "<<", ">>":
		return 3
	case "+", "-":
		return 4
	case "*", "/":
		return 5
	case "%", "^":
		return anything
	}
	return 0
}

func (c *compiler) arithmetic(least int) (value, error) {
	if c.depth++; c.depth > maxDepth {
		return nil, fmt.Errorf("more than %d levels of brackets and negations", maxDepth)
	}
	defer func() { c.depth-- }()
	a, err := c.operand()
	for err == nil {
		op := c.peek()
		b := binding(op)
		if b == 0 || b <= least {
			return a, nil
		}
		c.next()
		if b == anything {
			b = 0
		}
		var right value
		right, err = c.arithmetic(b)
		a = arithmetic{a, right, op[0]}
	}
	return nil, err
}

func (c *compiler) operand() (value, error) {
	t := c.next()
	if v, ok := constants[t]; ok {
		return number(v), nil
	}
	if v, err := strconv.ParseUint(t, 0, 32); err == nil {
		return number(v), nil
	}
	switch {
	case t == "len":
		return length{}, nil
	case t == "(":
		v, err := c.arithmetic(0)
		if err != nil {
			return nil, err
		}
		if _, ok := c.take(")"); !ok {
			return nil, fmt.Errorf("a closing bracket ) is missing")
		}
		return v, nil
	case c.peek() == "[":
		c.next()
		return c.access(t)
	}
	return nil, fmt.Errorf("%q is not a number", t)
}

// access parses the rest of proto[at:size], after the opening bracket.
func (c *compiler) access(proto string) (value, error) {
	h, ok := c.header(proto)
	if !ok {
		return nil, fmt.Errorf("%q has no header bytes to compare; use ether, ip, ip6, arp, tcp, udp, icmp, icmp6 or sctp", proto)
	}
	var err error
	if h.at, err = c.arithmetic(0); err != nil {
		return nil, err
	}
	h.size = 1
	if _, ok := c.take(":"); ok {
		switch t := c.next(); t {
		case "1", "2", "4":
			h.size = int(t[0] - '0')
		default:
			return nil, fmt.Errorf("the size %q is not valid; use 1, 2 or 4 bytes", t)
		}
	}
	if _, ok := c.take("]"); !ok {
		return nil, fmt.Errorf("a closing bracket ] is missing")
	}
	return h, nil
}

// Words that are qualifiers of a value.
var (
	protoWords = []string{"ether", "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "ah", "esp", "pim", "vrrp"}
	kindWords  = []string{"host", "net", "port", "portrange", "proto"}
)

// primitive parses `[proto] [dir] [kind] value`, or a word that needs no value.
func (c *compiler) primitive() (node, error) {
	start := c.at
	switch t := c.peek(); t {
	case "":
		return nil, fmt.Errorf("the expression ends where a primitive is expected, such as tcp or host 10.0.0.1")
	case "vlan":
		c.next()
		return c.vlan()
	case "broadcast", "multicast":
		c.next()
		return c.group("ether", t)
	case "less", "greater":
		c.next()
		n, err := c.number("a length")
		if err != nil {
			return nil, err
		}
		if t == "less" {
			return compare{length{}, n, "<="}, nil
		}
		return compare{length{}, n, ">="}, nil
	case "inbound", "outbound":
		return nil, fmt.Errorf("%q is not supported; use --dir in or --dir out", t)
	}
	var q qualifiers
	q.proto, _ = c.take(protoWords...)
	if q.proto != "" {
		if t, ok := c.take("broadcast", "multicast"); ok {
			return c.group(q.proto, t)
		}
	}
	if d, ok := c.take("src", "dst"); ok {
		q.dir = d
		other := map[string]string{"src": "dst", "dst": "src"}[d]
		if c.at+1 < len(c.tokens) && c.tokens[c.at+1] == other && (c.peek() == "or" || c.peek() == "and") {
			if c.next() == "or" {
				q.dir = ""
			} else {
				q.dir = "both"
			}
			c.next()
		}
	}
	q.kind, _ = c.take(kindWords...)
	if q.kind == "" && q.dir == "" && q.proto != "" {
		c.named = false
		return c.protocol(q.proto)
	}
	if c.at == start { // a value without qualifiers
		if !c.named {
			return nil, fmt.Errorf("%q is not a primitive; use host, net, port, tcp, ... as in tcpdump", c.peek())
		}
		q = c.last
	}
	if q.kind == "" {
		q.kind = "host"
	}
	c.last, c.named = q, true
	return c.qualified(q, c.next())
}

func (c *compiler) number(what string) (number, error) {
	t := c.next()
	v, err := strconv.ParseUint(t, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number; %s is expected", t, what)
	}
	return number(v), nil
}

// qualified returns the node for value v with qualifiers q.
func (c *compiler) qualified(q qualifiers, v string) (node, error) {
	if v == "" {
		return nil, fmt.Errorf("a value is missing after %s", q.kind)
	}
	switch q.kind {
	case "port", "portrange":
		lo, hi := v, v
		if q.kind == "portrange" {
			var ok bool
			if lo, hi, ok = strings.Cut(v, "-"); !ok {
				if _, ok = c.take("-"); !ok {
					return nil, fmt.Errorf("%q is not a range of ports, such as 80-90", v)
				}
				hi = c.next()
			}
		}
		a, err := portNumber(lo)
		if err != nil {
			return nil, err
		}
		b, err := portNumber(hi)
		if err != nil {
			return nil, err
		}
		return c.port(q, min(a, b), max(a, b))
	case "proto":
		return c.protoNumber(q, v)
	case "net":
		p, err := c.prefix(v)
		if err != nil {
			return nil, err
		}
		return c.address(q, p)
	}
	if q.proto == "ether" {
		mac, err := net.ParseMAC(v)
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("%q is not a MAC address", v)
		}
		return station(q.dir, [6]byte(mac)), nil
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		return nil, fmt.Errorf("%q is not an IP address (names are not resolved)", v)
	}
	return c.address(q, netip.PrefixFrom(a, a.BitLen()))
}

// prefix parses 10.0.0.0/8, 10.0.0.0 mask 255.0.0.0, or a short form such as 10, 10.1 or 10.1.2.
func (c *compiler) prefix(v string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(v); err == nil {
		if p != p.Masked() {
			return p, fmt.Errorf("%s has address bits beyond its prefix length; did you mean %s?", v, p.Masked())
		}
		return p, nil
	}
	v, length, sized := strings.Cut(v, "/")
	bits := 8 * (1 + strings.Count(v, "."))
	full := v + strings.Repeat(".0", 3-min(3, strings.Count(v, ".")))
	a, err := netip.ParseAddr(full)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network, such as 10.0.0.0/8", v)
	}
	if a.Is6() {
		bits = 128
	}
	if sized {
		if bits, err = strconv.Atoi(length); err != nil || bits < 0 || bits > 32 {
			return netip.Prefix{}, fmt.Errorf("%q is not a prefix length", length)
		}
	}
	if _, ok := c.take("mask"); ok {
		m := c.next()
		mask, err := netip.ParseAddr(m)
		if err != nil || !mask.Is4() {
			return netip.Prefix{}, fmt.Errorf("%q is not a mask, such as 255.0.0.0", m)
		}
		b := mask.As4()
		ones, size := net.IPMask(b[:]).Size()
		if size == 0 {
			return netip.Prefix{}, fmt.Errorf("mask %s is not contiguous", m)
		}
		bits = ones
	}
	p := netip.PrefixFrom(a, bits)
	if p != p.Masked() {
		return p, fmt.Errorf("%s has address bits beyond its mask; did you mean %s?", v, p.Masked())
	}
	return p, nil
}

func portNumber(s string) (uint32, error) {
	if v, ok := services[s]; ok {
		return v, nil
	}
	v, err := strconv.ParseUint(s, 0, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port; use 0 to 65535", s)
	}
	return uint32(v), nil
}

// services maps the known port names to ports.
var services = map[string]uint32{
	"ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "http": 80, "pop3": 110,
	"ntp": 123, "imap2": 143, "snmp": 161, "bgp": 179, "https": 443, "syslog": 514, "imaps": 993, "openvpn": 1194, "mysql": 3306, "postgresql": 5432,
}

// constants maps names to offsets, ICMP types and bits.
var constants = map[string]uint32{
	"icmptype": 0, "icmpcode": 1, "icmp6type": 0, "icmp6code": 1, "tcpflags": 13,
	"icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5, "icmp-echo": 8, "icmp-routeradvert": 9,
	"icmp-routersolicit": 10, "icmp-timxceed": 11, "icmp-paramprob": 12, "icmp-tstamp": 13, "icmp-tstampreply": 14,
	"icmp6-destinationunreach": 1, "icmp6-packettoobig": 2, "icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4, "icmp6-echo": 128, "icmp6-echoreply": 129,
	"icmp6-routersolicit": 133, "icmp6-routeradvert": 134, "icmp6-neighborsolicit": 135, "icmp6-neighboradvert": 136, "icmp6-redirect": 137,
	"tcp-fin": 1, "tcp-syn": 2, "tcp-rst": 4, "tcp-push": 8, "tcp-ack": 16, "tcp-urg": 32, "tcp-ece": 64, "tcp-cwr": 128,
}
