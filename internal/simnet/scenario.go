package simnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

// Run plays a scenario, line by line, on a fresh Net, which is returned for its traces. A line is one of
//
//	nat [flows N] [quota N] [windows strict] [timers linux] [pool LO-HI]    first of all, if at all
//	network ID GATEWAY/LEN [internal] [isolated] [mapping X] [filtering X] [mtu N]
//	uplink ADDR [mtu N]                     uplink down
//	host NAME ADDR port N [net ID] [as OTHER, with its MAC] [FLAG..]
//	outside NAME ADDR
//	publish PORT:PORT NAME [from CIDR]      unpublish PORT
//	route PREFIX blackhole|unreachable|prohibit|via ADDR
//	unplug NAME                             silent NAME
//	A > B "text" ...      UDP; A and B are NAME or NAME:PORT, or an address; port 1000 when not said
//	A > B tcp FLAGS ...   a segment with tcpdump's letters for its flags: S S. . P. F. R
//	A > B ping ...        an ICMP echo
//	A > B sctp|gre|esp|proto N ...
//	A arp ADDR            an ARP request
//	A reply ...           an answer to what A received last: "text", tcp FLAGS or pong
//	A error TYPE/CODE ... an ICMP error about what A received last
//	A < B ...             the next thing A received: from B (* for any port), as above; pong; arp ADDR
//	A < icmp TYPE/CODE    the next thing A received is this error, about the last thing A sent
//	A .                   A has received nothing more
//	advance 30s           time passes
//	drops REASON N        so many frames were dropped for this reason by now
//	flows N               so many flows there are
//	flow STATE N          the first flow is in this TCP state, and goes in N seconds if it stays idle
//	pair ADDR PROTO on|off   the last that was said about a protocol without ports
//
// What is sent may have more words: ttl N, size N (bytes of payload), df, mss N, seq N, ack N, win N, options HEX, src ADDR,
// frag first|later|tiny (that fragment alone), fragments N [reversed] (whole, in fragments of N bytes), times N (with as
// many source ports); an error: mtu N, badsum, badquote, hop (from a router on the way, not the receiver). What is received:
// ttl N, mss N, mtu N, size N, fragments.
//
// and # begins a comment. At the end nobody may have anything unread that a line has not asked for, every checksum
// must have been right, and the account of frames must be balanced.
func Run(script string) (*Net, error) {
	s := &scenario{last: map[string]sent{}}
	n := New()
	if strings.HasPrefix(script, "nat ") {
		line, rest, _ := strings.Cut(script, "\n")
		o, pool, err := natOptions(strings.Fields(line)[1:])
		if err != nil {
			return nil, err
		}
		n = NewWith(o)
		n.pool, script = pool, "\n"+rest
	}
	s.net = n
	n.script = s
	if err := s.lines(script); err != nil {
		return n, err
	}
	return n, s.end()
}

// more plays further lines on a Net that Run has returned.
func (n *Net) more(script string) error { return n.script.lines(script) }

func (s *scenario) lines(script string) error {
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		err := s.line(line)
		if err == nil {
			err = s.net.failure
		}
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", i+1, strings.TrimSpace(line), err)
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
	last   map[string]sent // by host: what it sent and what it was given
	seen   map[string]bool // hosts whose inbox the script reads
	nextID uint16          // identification of packets in fragments
}

type sent struct{ tx, rx []byte }

// strict hosts are those that the script listens to.
func (s *scenario) strict(h *Host) bool { return s.seen[h.Name] }

func (s *scenario) line(line string) error {
	line, text := cutQuoted(line)
	f := strings.Fields(line)
	switch f[0] {
	case "network", "uplink", "host", "outside", "publish", "unpublish", "unplug", "silent", "route":
		return s.setUp(f)
	case "advance":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			return err
		}
		s.net.Advance(frame.Tick(d / (time.Second / frame.TicksPerSecond)))
		return nil
	case "drops":
		want, err := strconv.ParseUint(f[2], 10, 64)
		if got := s.net.DP.Drops()[f[1]]; err == nil && got != want {
			return fmt.Errorf("%d were; all drops: %v", got, s.net.DP.Drops())
		}
		return err
	case "flows":
		want, err := strconv.Atoi(f[1])
		if got := s.net.DP.NAT.Used(); err == nil && got != want {
			return fmt.Errorf("there are %d", got)
		}
		return err
	}
	switch f[0] {
	case "flow":
		return s.flow(f)
	case "pair":
		if got := s.net.pairs[f[1]+" "+f[2]]; got != f[3] {
			return fmt.Errorf("the last said was %q", got)
		}
		return nil
	}
	name, port, err := splitPort(f[0], 1000)
	if err != nil {
		return err
	}
	h := s.net.host(name)
	if h == nil || len(f) < 2 {
		return fmt.Errorf("%q is neither a command nor a host", f[0])
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	switch f[1] {
	case ".":
		s.seen[name] = true
		if len(h.inbox) > 0 {
			return fmt.Errorf("it received %s", describe(h.inbox[0]))
		}
		return nil
	case "<":
		s.seen[name] = true
		return s.receive(h, port, f[2:], text)
	case ">":
		return s.send(h, port, f[2:], text)
	case "arp":
		s.inject(h, frametest.ARP(frame.BroadcastMAC, h.MAC, 1, h.Addr, frametest.Addr(f[2])))
		return nil
	case "error":
		return s.sendError(h, f[2:])
	case "reply":
		return s.reply(h, f, text)
	}
	return fmt.Errorf("%q is none of > < . arp reply error", f[1])
}

// cutQuoted takes what stands in quotes out of a line; nil when nothing does.
func cutQuoted(line string) (rest string, text *string) {
	before, after, ok := strings.Cut(line, `"`)
	if !ok {
		return line, nil
	}
	t, after, _ := strings.Cut(after, `"`)
	return before + after, &t
}

// natOptions reads the words of line nat.
func natOptions(f []string) (o nat.Options, pool [2]uint16, err error) {
	o, pool = nat.Options{Flows: 1024}, [2]uint16{20000, 20099}
	for i := 0; i+1 < len(f); i += 2 {
		switch v := f[i+1]; f[i] {
		case "flows":
			o.Flows, err = strconv.Atoi(v)
		case "quota":
			o.FlowsPerPort, err = strconv.Atoi(v)
		case "windows":
			o.Strict = v == "strict"
		case "timers":
			o.Timers = nat.LinuxTimers()
		case "pool":
			_, err = fmt.Sscanf(v, "%d-%d", &pool[0], &pool[1])
		default:
			err = fmt.Errorf("nat has no %q", f[i])
		}
		if err != nil {
			return o, pool, err
		}
	}
	return o, pool, nil
}

// flow checks the first flow.
func (s *scenario) flow(f []string) error {
	var first *nat.Flow
	s.net.DP.NAT.Flows(s.net.now, func(x nat.Flow) bool { first = &x; return false })
	if first == nil {
		return fmt.Errorf("there is none")
	}
	if got := fmt.Sprintf("%s %d", cmp.Or(first.State, "-"), first.Timeout); got != f[1]+" "+f[2] {
		return fmt.Errorf("it is %s", got)
	}
	return nil
}

func splitPort(s string, def uint16) (string, uint16, error) {
	name, port, ok := strings.Cut(s, ":")
	if !ok {
		return name, def, nil
	}
	if port == "*" {
		return name, 0, nil
	}
	p, err := strconv.ParseUint(port, 10, 16)
	return name, uint16(p), err
}

func (s *scenario) setUp(f []string) error {
	n := s.net
	switch f[0] {
	case "network":
		id, err := strconv.Atoi(f[1])
		if err != nil {
			return err
		}
		p, err := netip.ParsePrefix(f[2])
		if err != nil {
			return err
		}
		return s.addNetwork(frame.NetID(id), p, f[3:])
	case "uplink":
		if f[1] == "down" {
			return n.SetUplink(0, 1500)
		}
		mtu := 1500
		if len(f) > 3 && f[2] == "mtu" {
			mtu, _ = strconv.Atoi(f[3])
		}
		return n.SetUplink(frametest.Addr(f[1]), mtu)
	case "route":
		return s.addRoute(f[1:])
	case "outside":
		n.AddOutside(f[1], frametest.Addr(f[2]))
		return nil
	case "host":
		return s.addHost(f[1:])
	case "unpublish":
		p, err := strconv.ParseUint(f[1], 10, 16)
		n.Unpublish(uint16(p))
		return err
	}
	if f[0] == "publish" {
		from, to, _ := strings.Cut(f[1], ":")
		lo, err1 := strconv.ParseUint(from, 10, 16)
		hi, err2 := strconv.ParseUint(to, 10, 16)
		h := n.host(f[2])
		if err1 != nil || err2 != nil || h == nil {
			return fmt.Errorf("the form is publish PORT:PORT NAME [from CIDR]")
		}
		var allowed []netip.Prefix
		if len(f) > 4 {
			allowed = append(allowed, netip.MustParsePrefix(f[4]))
		}
		n.Publish(frame.TCP, uint16(lo), h, uint16(hi), allowed...)
		n.Publish(frame.SCTP, uint16(lo), h, uint16(hi), allowed...)
		n.Publish(frame.UDP, uint16(lo), h, uint16(hi), allowed...)
		return nil
	}
	h := n.host(f[1])
	if h == nil {
		return fmt.Errorf("there is no host %q", f[1])
	}
	if f[0] == "silent" {
		h.silent = true
		return nil
	}
	n.DP.RemovePort(h.Port)
	return nil
}

func (s *scenario) addNetwork(id frame.NetID, p netip.Prefix, f []string) error {
	i := router.Interface{Net: id, MTU: 1500}
	m := nat.Masquerade{Net: id}
	var err error
	for k := 0; k < len(f); k++ {
		switch f[k] {
		case "internal":
			i.Internal = true
			continue
		case "isolated":
			i.Isolated = true
			continue
		}
		if k+1 == len(f) {
			return fmt.Errorf("%q says nothing", f[k])
		}
		k++
		switch f[k-1] {
		case "mtu":
			i.MTU, err = strconv.Atoi(f[k])
		case "mapping":
			m.Mapping, err = nat.ParseMapping(f[k])
		case "filtering":
			m.Filtering, err = nat.ParseFiltering(f[k])
		default:
			err = fmt.Errorf("a network has no %q", f[k-1])
		}
		if err != nil {
			return err
		}
	}
	s.net.AddNetwork(p, i, m)
	return nil
}

// addRoute adds PREFIX KIND, or PREFIX via ADDR.
func (s *scenario) addRoute(f []string) error {
	p, err := netip.ParsePrefix(f[0])
	if err != nil {
		return err
	}
	rt := router.Route{Prefix: p}
	switch f[1] {
	case "via":
		rt.NextHop = frametest.Addr(f[2])
		on, _ := s.net.DP.Router.Lookup(rt.NextHop)
		rt.Egress = on.Egress
	default:
		kind, ok := router.ParseRouteKind(f[1])
		if !ok {
			return fmt.Errorf("there is no route %q", f[1])
		}
		rt.Kind = kind
	}
	return s.net.DP.Router.AddRoute(rt)
}

var knobs = map[string]vswitch.PortFlags{"isolated": vswitch.Isolated, "guard": vswitch.Guard, "hairpin": vswitch.HairpinMode, "locked": vswitch.Locked}

func (s *scenario) addHost(f []string) error {
	port, id := frame.PortID(0), frame.NetID(1)
	var flags vswitch.PortFlags
	var as *Host
	for i := 2; i < len(f); i++ {
		switch f[i] {
		case "port", "net":
			v, err := strconv.Atoi(f[i+1])
			if err != nil {
				return err
			}
			if f[i] == "port" {
				port = frame.PortID(v)
			} else {
				id = frame.NetID(v)
			}
			i++
		case "as":
			as = s.net.host(f[i+1])
			i++
		default:
			flags |= knobs[f[i]]
		}
	}
	addr, _, _ := strings.Cut(f[1], "/")
	h, err := s.net.AddHost(f[0], frametest.Addr(addr), port, id, flags)
	if as != nil {
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
