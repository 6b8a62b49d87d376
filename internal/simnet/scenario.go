package simnet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// Run plays one script on a new Net. It returns the Net, also with an error, for its traces. docs/scenarios.md describes the
// language; the tables statements and verbs list it. At the end, no host may have unread frames if the script has read from that
// host, every checksum must have been correct, and the account of frames must be balanced.
func Run(script string) (*Net, error) { return run(script, false) }

func run(script string, overIPv6 bool) (*Net, error) {
	lines := strings.Split(script, "\n")
	first := slices.IndexFunc(lines, func(l string) bool { return strings.TrimSpace(uncommented(l)) != "" })
	n := New()
	n.overIPv6 = overIPv6
	if first >= 0 && strings.HasPrefix(lines[first], "nat ") {
		o, pool, err := natOptions(strings.Fields(uncommented(lines[first]))[1:])
		if err != nil {
			return n, fmt.Errorf("line %d: %w", first+1, err)
		}
		n = NewWith(o)
		n.overIPv6 = overIPv6
		n.pool, lines[first] = pool, ""
	}
	return n, n.play(lines)
}

// play carries out the first lines of a scenario.
func (n *Net) play(lines []string) error {
	s := &scenario{net: n, last: map[string]sent{}, seen: map[string]bool{}}
	n.script = s
	if err := s.lines(lines); err != nil {
		return err
	}
	return s.end()
}

// more plays further lines on a Net that Run has returned.
func (n *Net) more(script string) error { return n.script.lines(strings.Split(script, "\n")) }

// uncommented is a line without its comment, which begins with a # outside quotes.
func uncommented(line string) string {
	quoted := false
	for i, c := range line {
		if c == '"' {
			quoted = !quoted
		} else if c == '#' && !quoted {
			return line[:i]
		}
	}
	return line
}

func (s *scenario) lines(lines []string) error {
	for i, line := range lines {
		line = strings.TrimSpace(uncommented(line))
		if line == "" {
			continue
		}
		err := s.line(line)
		if err == nil {
			err = s.net.failure
		}
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", i+1, line, err)
		}
	}
	return nil
}

func (s *scenario) end() error {
	n := s.net
	for _, h := range n.hosts {
		if s.strict(h) && len(h.inbox) > 0 {
			return fmt.Errorf("at the end: %s received what nobody asked for: %s", h.Name, describe(h.inbox[0]))
		}
	}
	if c := n.DP.Conservation(); !c.Balanced {
		return fmt.Errorf("at the end: not balanced: %+v", c)
	}
	return nil
}

type scenario struct {
	net    *Net
	last   map[string]sent // by host: the last frame that it sent, and the last that it received
	seen   map[string]bool // hosts whose inbox the script reads
	nextID uint16          // identification of packets in fragments
}

type sent struct{ tx, rx []byte }

// strict hosts are those that the script listens to.
func (s *scenario) strict(h *Host) bool { return s.seen[h.Name] }

// A statement is one kind of line. Its form says how the line is written; args is how many words must follow the first word.
type statement struct {
	form string
	args int
	run  func(*scenario, []string) error // the words after the first
}

// A malformed line is not of its statement's form.
type malformed string

func (m malformed) Error() string { return string(m) }

// statements begin with their name.
var statements = map[string]statement{
	"network":   {"network ID GATEWAY/LEN [internal] [isolated] [routed] [open] [mapping MAPPING] [filtering FILTERING] [protocols PROTOCOLS] [mtu BYTES]", 2, (*scenario).addNetwork},
	"uplink":    {"uplink ADDRESS [mtu BYTES], or uplink down", 1, (*scenario).setUplink},
	"host":      {"host NAME ADDRESS port ID [net ID] [as HOST] [isolated] [guard] [hairpin] [locked]", 4, (*scenario).addHost},
	"outside":   {"outside NAME ADDRESS", 2, (*scenario).addOutside},
	"publish":   {"publish PORT:PORT HOST [from PREFIX]", 2, (*scenario).publish},
	"unpublish": {"unpublish PORT", 1, (*scenario).unpublish},
	"inbound":   {"inbound HOST deny|PORT/tcp|PORT/udp|icmp...", 2, (*scenario).inbound},
	"policy":    {"policy HOST RULE (egress|ingress allow|reject|drop [PEER] [PROTOCOL[/PORTS]]), or policy HOST none", 2, (*scenario).policy},
	"answer":    {"answer HOST NAME ADDRESS TTL", 4, (*scenario).answer},
	"route":     {"route PREFIX via ADDRESS, or route PREFIX blackhole|unreachable|prohibit", 2, (*scenario).addRoute},
	"unplug":    {"unplug HOST", 1, (*scenario).unplug},
	"silent":    {"silent HOST", 1, (*scenario).silence},
	"advance":   {"advance DURATION (30s, 5m, 2h)", 1, (*scenario).advance},
	"drops":     {"drops REASON COUNT", 2, (*scenario).drops},
	"flows":     {"flows COUNT", 1, (*scenario).flows},
	"flow":      {"flow STATE SECONDS (the state is - for a protocol without states)", 2, (*scenario).flow},
	"pair":      {"pair ADDRESS PROTOCOL on|off", 3, (*scenario).pair},
}

// A verb is what a host does in a line that begins with its name.
type verb struct {
	form string
	args int
	run  func(s *scenario, h *Host, p port, f []string, text *string) error // f: the words after the verb
}

var verbs = map[string]verb{
	">":     {`HOST[:PORT] > HOST|ADDRESS[:PORT] ["TEXT" | tcp FLAGS | ping | pong | sctp | gre | esp | proto NUMBER] [WORD...]`, 1, (*scenario).send},
	"<":     {`HOST[:PORT] < HOST|ADDRESS[:PORT|:*] [PACKET], or HOST < icmp TYPE/CODE [mtu BYTES], or HOST < arp ADDRESS`, 1, (*scenario).receive},
	".":     {"HOST . (it has received nothing more)", 0, (*scenario).receivedAll},
	"arp":   {"HOST arp ADDRESS", 1, (*scenario).requestARP},
	"reply": {`HOST reply "TEXT" | tcp FLAGS | pong [WORD...]`, 0, (*scenario).reply},
	"error": {"HOST error TYPE/CODE [mtu BYTES] [hop] [badsum] [badquote]", 1, (*scenario).sendError},
}

func (s *scenario) line(line string) error {
	line, text := cutQuoted(line)
	f := strings.Fields(line)
	if len(f) == 0 {
		return fmt.Errorf("a line begins with a statement or with the name of a host")
	}
	if st, ok := statements[f[0]]; ok {
		err := error(malformed("this is incomplete"))
		if len(f) > st.args {
			err = st.run(s, f[1:])
		}
		if m, ok := err.(malformed); ok {
			err = fmt.Errorf("%w; the form is: %s", m, st.form)
		}
		return err
	}
	name, p, err := splitPort(f[0])
	if err != nil {
		return err
	}
	h := s.net.host(name)
	if h == nil {
		return fmt.Errorf("%q is neither a statement (%s) nor a host (%s)", f[0], alternatives(statements), s.net.hostNames())
	}
	if len(f) < 2 {
		return fmt.Errorf("what does %s do? The verbs are %s", name, alternatives(verbs))
	}
	v, ok := verbs[f[1]]
	if !ok {
		return fmt.Errorf("%q is not a verb; the verbs are %s", f[1], alternatives(verbs))
	}
	if len(f) < 2+v.args {
		return fmt.Errorf("this is incomplete; the form is: %s", v.form)
	}
	return v.run(s, h, p, f[2:], text)
}

// alternatives lists the keys of a table.
func alternatives[V any](table map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(table)), " ")
}

func (n *Net) hostNames() string {
	if len(n.hosts) == 0 {
		return "there is none yet"
	}
	names := make([]string, len(n.hosts))
	for i, h := range n.hosts {
		names[i] = h.Name
	}
	return strings.Join(names, " ")
}

// hostOf is the host with a name.
func (s *scenario) hostOf(name string) (*Host, error) {
	h := s.net.host(name)
	if h == nil {
		return nil, fmt.Errorf("there is no host %q; the hosts are %s", name, s.net.hostNames())
	}
	return h, nil
}

// address reads an IPv4 address.
func address(text string) (frame.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return 0, fmt.Errorf("%q is not an IPv4 address", text)
	}
	return frame.AddrFrom(a), nil
}

// count reads a number that is not negative.
func count(text string) (int, error) {
	v, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	return int(v), nil
}

func (s *scenario) receivedAll(h *Host, _ port, _ []string, _ *string) error {
	s.seen[h.Name] = true
	if len(h.inbox) > 0 {
		return fmt.Errorf("it received %s", describe(h.inbox[0]))
	}
	return nil
}

func (s *scenario) requestARP(h *Host, _ port, f []string, _ *string) error {
	a, err := address(f[0])
	if err == nil {
		s.inject(h, frametest.ARP(frame.BroadcastMAC, h.MAC, 1, h.Addr, a))
	}
	return err
}

func (s *scenario) advance(f []string) error {
	d, err := time.ParseDuration(f[0])
	if err == nil {
		s.net.Advance(frame.Tick(d / (time.Second / frame.TicksPerSecond)))
	}
	return err
}

func (s *scenario) drops(f []string) error {
	want, err := count(f[1])
	if _, known := frame.ParseReason(f[0]); !known {
		return fmt.Errorf("%q is not a drop reason; docs/drops.md lists them", f[0])
	}
	if got := s.net.DP.Drops()[f[0]]; err == nil && got != uint64(want) {
		return fmt.Errorf("there were %d; all drops: %v", got, s.net.DP.Drops())
	}
	return err
}

func (s *scenario) flows(f []string) error {
	want, err := count(f[0])
	if got := s.net.DP.NAT.Used(); err == nil && got != want {
		return fmt.Errorf("there are %d", got)
	}
	return err
}

func (s *scenario) pair(f []string) error {
	if got := s.net.pairs[f[0]+" "+f[1]]; got != f[2] {
		return fmt.Errorf("the last notice was %q", got)
	}
	return nil
}

// inbound makes a host the one that the switch runs on, and says what others may begin with it.
func (s *scenario) inbound(f []string) error {
	h, err := s.hostOf(f[0])
	if err != nil {
		return err
	}
	in := &nat.Inbound{Host: h.Port, Addrs: []netip.Addr{h.Addr.Netip(), six(h.Addr).Netip()}, Open: [2]*nat.PortSet{nat.NewPortSet(), nat.NewPortSet()}}
	for _, word := range f[1:] {
		port, proto, _ := strings.Cut(word, "/")
		n, err := strconv.ParseUint(port, 10, 16)
		switch {
		case word == "icmp":
			in.Pings = true
		case err == nil && proto == "tcp":
			in.Open[0].Claim(uint16(n))
		case err == nil && proto == "udp":
			in.Open[1].Claim(uint16(n))
		case word != "deny":
			return malformed(word + " is not one of these")
		}
	}
	p, _ := s.net.DP.Switch.Port(h.Port)
	p.Flags |= vswitch.Tracked | vswitch.Closed
	s.net.DP.Switch.SetPort(p)
	s.net.rules.Inbound = in
	s.net.rules.Reserved = []frame.Addr{h.Addr}
	s.net.update()
	return nil
}

// cutQuoted cuts the text in quotes out of a line. The text is nil if the line has no quotes.
func cutQuoted(line string) (rest string, text *string) {
	before, after, ok := strings.Cut(line, `"`)
	if !ok {
		return line, nil
	}
	t, after, _ := strings.Cut(after, `"`)
	return before + after, &t
}

const natForm = "nat [flows COUNT] [quota COUNT] [windows strict] [timers linux] [pool LOW-HIGH]"

// natOptions reads the line nat, which only the first line can be.
func natOptions(f []string) (o nat.Options, pool [2]uint16, err error) {
	o, pool = nat.Options{Flows: 1024}, [2]uint16{20000, 20099}
	if len(f)%2 != 0 {
		return o, pool, fmt.Errorf("%q has no value; the form is: %s", f[len(f)-1], natForm)
	}
	for i := 0; i < len(f); i += 2 {
		switch v := f[i+1]; f[i] {
		case "flows":
			o.Flows, err = strconv.Atoi(v)
		case "quota":
			o.FlowsPerPort, err = strconv.Atoi(v)
		case "windows":
			if o.Strict = v == "strict"; !o.Strict {
				err = fmt.Errorf("windows can only be strict; without the word they are liberal")
			}
		case "timers":
			if o.Timers = nat.LinuxTimers(); v != "linux" {
				err = fmt.Errorf("timers can only be linux; without the word they are those of the RFCs")
			}
		case "pool":
			_, err = fmt.Sscanf(v, "%d-%d", &pool[0], &pool[1])
		default:
			err = fmt.Errorf("nat has no %q; the form is: %s", f[i], natForm)
		}
		if err != nil {
			return o, pool, err
		}
	}
	return o, pool, nil
}

// flow checks the state of the first flow, and the seconds until the flow ends if it stays idle.
func (s *scenario) flow(f []string) error {
	var first *nat.Flow
	s.net.DP.NAT.Flows(s.net.now, func(x nat.Flow) bool { first = &x; return false })
	if first == nil {
		return fmt.Errorf("there is none")
	}
	if got := fmt.Sprintf("%s %d", cmp.Or(first.State, "-"), first.Timeout); got != f[0]+" "+f[1] {
		return fmt.Errorf("it is %s", got)
	}
	return nil
}

// A port is the number after a host's name. It is 1000 when the line names none, and 0 for any (*).
type port struct {
	number uint16
	named  bool
}

func splitPort(s string) (string, port, error) {
	name, text, ok := strings.Cut(s, ":")
	if !ok {
		return name, port{number: 1000}, nil
	}
	if text == "*" {
		return name, port{}, nil
	}
	p, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return name, port{}, fmt.Errorf("%q is not a port", text)
	}
	return name, port{number: uint16(p), named: true}, nil
}

func (s *scenario) addNetwork(f []string) error {
	id, err := count(f[0])
	if err != nil {
		return err
	}
	gateway, err := netip.ParsePrefix(f[1])
	if err != nil {
		return err
	}
	i := router.Interface{Net: frame.NetID(id), MTU: 1500}
	m := nat.Masquerade{Net: frame.NetID(id)}
	for f = f[2:]; len(f) > 0; f = f[1:] {
		switch f[0] {
		case "internal":
			i.Internal = true
			continue
		case "isolated":
			i.Isolated = true
			continue
		case "routed":
			m.Inside, m.Outside = gateway.Masked(), gateway.Masked()
			continue
		case "open":
			m.Open = true
			continue
		}
		if len(f) == 1 {
			return malformed(fmt.Sprintf("%q is not understood, or has no value", f[0]))
		}
		switch f[0] {
		case "mtu":
			i.MTU, err = count(f[1])
		case "mapping":
			m.Mapping, err = nat.ParseMapping(f[1])
		case "filtering":
			m.Filtering, err = nat.ParseFiltering(f[1])
		case "protocols":
			m.Protocols, err = nat.ParseProtocols(f[1])
		default:
			err = malformed(fmt.Sprintf("a network has no %q", f[0]))
		}
		if err != nil {
			return err
		}
		f = f[1:]
	}
	s.net.AddNetwork(gateway, i, m)
	return nil
}

func (s *scenario) setUplink(f []string) error {
	if f[0] == "down" {
		return s.net.SetUplink(0, 1500)
	}
	a, err := address(f[0])
	mtu := 1500
	if err == nil && len(f) == 3 && f[1] == "mtu" {
		mtu, err = count(f[2])
	} else if err == nil && len(f) > 1 {
		err = malformed("this is not understood")
	}
	if err != nil {
		return err
	}
	return s.net.SetUplink(a, mtu)
}

func (s *scenario) addOutside(f []string) error {
	a, err := address(f[1])
	if err == nil {
		s.net.AddOutside(f[0], a)
	}
	return err
}

func (s *scenario) publish(f []string) error {
	from, to, _ := strings.Cut(f[0], ":")
	lo, err1 := strconv.ParseUint(from, 10, 16)
	hi, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || len(f) != 2 && (len(f) != 4 || f[2] != "from") {
		return malformed("this is not understood")
	}
	h, err := s.hostOf(f[1])
	if err != nil {
		return err
	}
	var allowed []netip.Prefix
	if len(f) == 4 {
		p, err := netip.ParsePrefix(f[3])
		if err != nil {
			return err
		}
		allowed = append(allowed, p)
	}
	for _, proto := range []uint8{frame.TCP, frame.SCTP, frame.UDP} {
		s.net.Publish(proto, uint16(lo), h, uint16(hi), allowed...)
	}
	return nil
}

func (s *scenario) unpublish(f []string) error {
	p, err := strconv.ParseUint(f[0], 10, 16)
	if err == nil {
		s.net.Unpublish(uint16(p))
	}
	return err
}

func (s *scenario) silence(f []string) error {
	h, err := s.hostOf(f[0])
	if err == nil {
		h.silent = true
	}
	return err
}

func (s *scenario) unplug(f []string) error {
	h, err := s.hostOf(f[0])
	if err == nil {
		s.net.DP.RemovePort(h.Port)
	}
	return err
}

func (s *scenario) addRoute(f []string) error {
	p, err := netip.ParsePrefix(f[0])
	if err != nil {
		return err
	}
	if s.net.overIPv6 {
		p = sixPrefix(p)
	}
	rt := router.Route{Prefix: p}
	if kind, ok := router.ParseRouteKind(f[1]); ok {
		rt.Kind = kind
		return s.net.DP.Router.AddRoute(rt)
	}
	if f[1] != "via" || len(f) < 3 {
		return malformed("this is not understood")
	}
	a, err := address(f[2])
	if err != nil {
		return err
	}
	if rt.NextHop = a.Netip(); s.net.overIPv6 {
		rt.NextHop = six(a).Netip()
	}
	on, _ := s.net.DP.Router.Lookup(rt.NextHop)
	rt.Egress = on.Egress
	return s.net.DP.Router.AddRoute(rt)
}

// portFlags are the settings of a host's port.
var portFlags = map[string]vswitch.PortFlags{"isolated": vswitch.Isolated, "guard": vswitch.Guard, "hairpin": vswitch.HairpinMode, "locked": vswitch.Locked}

func (s *scenario) addHost(f []string) error {
	name := f[0]
	text, _, _ := strings.Cut(f[1], "/")
	addr, err := address(text)
	if err != nil {
		return err
	}
	number, id := 0, 1
	var flags vswitch.PortFlags
	var as *Host
	for f = f[2:]; len(f) > 0; f = f[1:] {
		if flag, ok := portFlags[f[0]]; ok {
			flags |= flag
			continue
		}
		if len(f) == 1 {
			return malformed(fmt.Sprintf("%q is not understood, or has no value", f[0]))
		}
		switch f[0] {
		case "port":
			number, err = count(f[1])
		case "net":
			id, err = count(f[1])
		case "as":
			as, err = s.hostOf(f[1])
		default:
			err = malformed(fmt.Sprintf("a host has no %q", f[0]))
		}
		if err != nil {
			return err
		}
		f = f[1:]
	}
	h, err := s.net.AddHost(name, addr, frame.PortID(number), frame.NetID(id), flags)
	if err == nil && as != nil {
		h.MAC = as.MAC
	}
	return err
}

func (s *scenario) inject(h *Host, raw []byte) {
	l := s.last[h.Name]
	l.tx = raw
	s.last[h.Name] = l
	s.net.Inject(h, raw)
}
