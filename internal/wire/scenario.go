package wire

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/switch"
)

// Run plays a scenario, line by line, on a fresh Net, which is returned for its traces. A line is one of
//
//	network ID GATEWAY/LEN [internal]       uplink ADDR|down
//	host NAME ADDR port N [net ID] [as OTHER, with its MAC] [FLAG..]
//	outside NAME ADDR
//	publish PORT:PORT NAME [from CIDR]      unpublish PORT
//	unplug NAME                             silent NAME
//	A > B "text"          UDP; A and B are NAME or NAME:PORT, or an address; port 1000 when not said
//	A > B tcp FLAGS       a segment with tcpdump's letters for its flags: S S. . P. F. R
//	A > B ping [ttl N]    an ICMP echo
//	... frag first|later  at the end of any of these: only that fragment
//	A arp ADDR            an ARP request
//	A reply ...           an answer to what A received last: "text", tcp FLAGS or pong
//	A error TYPE/CODE     an ICMP error about what A received last
//	A < B ...             the next thing A received: from B (* for any port), as above; pong; arp ADDR
//	A < icmp TYPE/CODE    the next thing A received is this error, about the last thing A sent
//	A .                   A has received nothing more
//	advance 30s           time passes
//	drops REASON N        so many frames were dropped for this reason by now
//	flows N               so many flows there are
//
// and # begins a comment. At the end nobody may have anything unread that a line has not asked for, every checksum
// must have been right, and the account of frames must be balanced.
func Run(script string) (*Net, error) {
	n := New()
	s := &scenario{net: n, last: map[string]sent{}}
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		err := s.line(line)
		if err == nil {
			err = n.failure
		}
		if err != nil {
			return n, fmt.Errorf("line %d: %s: %w", i+1, strings.TrimSpace(line), err)
		}
	}
	for _, h := range n.hosts {
		if s.strict(h) && len(h.inbox) > 0 {
			return n, fmt.Errorf("at the end: %s received what nobody asked for: %s", h.Name, describe(h.inbox[0]))
		}
	}
	if c := n.DP.Conservation(); !c.Balanced {
		return n, fmt.Errorf("at the end: not balanced: %+v", c)
	}
	return n, nil
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
	f := strings.Fields(line)
	switch f[0] {
	case "network", "uplink", "host", "outside", "publish", "unpublish", "unplug", "silent":
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
		return s.receive(h, port, f[2:], text(line))
	case ">":
		return s.send(h, port, f[2:], text(line))
	case "arp":
		s.inject(h, frametest.ARP(frame.BroadcastMAC, h.MAC, 1, h.Addr, frametest.Addr(f[2])))
		return nil
	case "error":
		return s.sendError(h, f[2])
	case "reply":
		return s.reply(h, f, text(line))
	}
	return fmt.Errorf("%q is none of > < . arp reply error", f[1])
}

// text is what stands in quotes.
func text(line string) string {
	if _, rest, ok := strings.Cut(line, `"`); ok {
		t, _, _ := strings.Cut(rest, `"`)
		return t
	}
	return ""
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
		n.AddNetwork(frame.NetID(id), p, len(f) > 3 && f[3] == "internal")
		return nil
	case "uplink":
		if f[1] == "down" {
			return n.SetUplink(0)
		}
		return n.SetUplink(frametest.Addr(f[1]))
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

// send makes the packet of a line: to a host by name, or to an address.
func (s *scenario) send(h *Host, port uint16, f []string, payload string) error {
	name, dport, err := splitPort(f[0], 1000)
	if err != nil {
		return err
	}
	p := frametest.Packet{SrcMAC: h.MAC, Src: h.Addr, SrcPort: port, DstPort: dport, Payload: []byte(payload)}
	if to := s.net.host(name); to != nil {
		p.Dst = to.Addr
		p.DstMAC = to.MAC
		if to.outside || to.Net != h.Net {
			p.DstMAC = s.gateway(h)
		}
	} else {
		p.Dst, p.DstMAC = frametest.Addr(name), s.gateway(h)
	}
	if h.outside {
		p.DstMAC = uplinkMAC
	}
	if len(f) > 1 {
		switch f[1] {
		case "tcp":
			p.Proto, p.Flags = frame.TCP, flagsFrom(f[2])
		case "ping":
			p.Proto, p.Type, p.ID = frame.ICMP, frame.ICMPEcho, port
		case "pong":
			p.Proto, p.Type, p.ID = frame.ICMP, frame.ICMPEchoReply, p.DstPort
		}
	}
	if len(f) > 2 && f[len(f)-2] == "frag" {
		p.Frag = map[string]uint16{"first": 0x2000, "later": 9, "tiny": 1}[f[len(f)-1]]
	}
	if len(f) > 3 && f[len(f)-2] == "ttl" {
		ttl, err := strconv.Atoi(f[len(f)-1])
		if err != nil {
			return err
		}
		p.TTL = uint8(ttl)
	}
	if i := slices.Index(f, "fragments"); i > 0 {
		size, err := strconv.Atoi(f[i+1])
		if err != nil {
			return err
		}
		s.nextID++
		p.IPID = s.nextID
		pieces := frametest.Fragments(p.Raw(), size)
		if slices.Contains(f, "reversed") {
			slices.Reverse(pieces)
		}
		for _, raw := range pieces {
			s.inject(h, raw)
		}
		return nil
	}
	s.inject(h, p.Raw())
	return nil
}

func (s *scenario) gateway(h *Host) frame.MAC {
	i, _ := s.net.DP.Router.Interface(h.Net)
	return i.MAC
}

// reply answers the last thing h received: the same addresses and ports turned round.
func (s *scenario) reply(h *Host, f []string, payload string) error {
	var p frame.Frame
	rx := s.last[h.Name].rx
	if rx == nil {
		return fmt.Errorf("%s has received nothing", h.Name)
	}
	p.Reset(rx, h.Port)
	frame.Parse(&p)
	return s.send(h, p.Tuple.DstPort, append([]string{fmt.Sprintf("%s:%d", p.Tuple.Src, p.Tuple.SrcPort)}, f[2:]...), payload)
}

// sendError sends an ICMP error from h about what it received last.
func (s *scenario) sendError(h *Host, what string) error {
	var typ, code uint8
	if _, err := fmt.Sscanf(what, "%d/%d", &typ, &code); err != nil {
		return err
	}
	rx := s.last[h.Name].rx
	if rx == nil {
		return fmt.Errorf("%s has received nothing", h.Name)
	}
	ip := frame.IPv4(rx[frame.VnetLen+frame.EthernetLen:])
	mac := s.gateway(h)
	if h.outside {
		mac = uplinkMAC
	}
	s.inject(h, frametest.Packet{
		SrcMAC: h.MAC, DstMAC: mac, Src: h.Addr, Dst: ip.Src(), Proto: frame.ICMP, Type: typ, Code: code, Payload: frametest.Quote(rx, 8),
	}.Raw())
	return nil
}

// receive checks the next thing in h's inbox.
func (s *scenario) receive(h *Host, port uint16, f []string, payload string) error {
	if len(h.inbox) == 0 {
		return fmt.Errorf("it received nothing")
	}
	raw := h.inbox[0]
	h.inbox = h.inbox[1:]
	l := s.last[h.Name]
	l.rx = raw
	s.last[h.Name] = l
	var p frame.Frame
	p.Reset(raw, h.Port)
	frame.Parse(&p)
	if len(f) > 1 && f[1] == "fragments" {
		pieces := [][]byte{raw}
		for _, r := range h.inbox {
			if frame.IPv4(r[frame.VnetLen+frame.EthernetLen:]).ID() == p.IPv4().ID() {
				pieces = append(pieces, r)
			}
		}
		h.inbox = h.inbox[len(pieces)-1:]
		whole, err := frametest.Reassemble(pieces)
		if err != nil {
			return err
		}
		if err := frametest.Check(whole); err != nil {
			return err
		}
		raw = whole
		p = frame.Frame{}
		p.Reset(raw, h.Port)
		frame.Parse(&p)
		f = append(f[:1], f[2:]...)
	}
	wrong := func() error { return fmt.Errorf("it received %s", describe(raw)) }
	switch f[0] {
	case "icmp":
		if p.Flags&frame.ICMPError == 0 || fmt.Sprintf("%d/%d", p.Payload()[0], p.Payload()[1]) != f[1] {
			return wrong()
		}
		return s.aboutLast(h, &p)
	case "arp":
		if p.Flags&frame.IsARP == 0 || frame.LoadAddr(p.Bytes()[p.L3+14:]) != frametest.Addr(f[1]) {
			return wrong()
		}
		return nil
	}
	name, sport, err := splitPort(f[0], 1000)
	if err != nil {
		return err
	}
	src := frame.Addr(0)
	if from := s.net.host(name); from != nil {
		src = from.Addr
	} else {
		src = frametest.Addr(name)
	}
	if p.Flags&frame.HasTuple == 0 || p.Tuple.Src != src {
		return wrong()
	}
	kind := ""
	if len(f) > 1 {
		kind = f[1]
	}
	ok := false
	switch kind {
	case "tcp":
		ok = p.Proto == frame.TCP && p.Payload()[13] == flagsFrom(f[2]) && (sport == 0 || sport == p.Tuple.SrcPort)
	case "ping":
		ok = p.Proto == frame.ICMP && p.Payload()[0] == frame.ICMPEcho
	case "pong":
		ok = p.Proto == frame.ICMP && p.Payload()[0] == frame.ICMPEchoReply && p.Tuple.DstPort == port
	default:
		ok = p.Proto == frame.UDP && string(p.Payload()[frame.UDPLen:]) == payload && (sport == 0 || sport == p.Tuple.SrcPort)
	}
	if !ok {
		return wrong()
	}
	return nil
}

// aboutLast: an error must quote what its receiver sent, as it was sent.
func (s *scenario) aboutLast(h *Host, p *frame.Frame) error {
	q, _, ok := frame.Quoted(p.Payload())
	var own frame.Frame
	own.Reset(s.last[h.Name].tx, h.Port)
	frame.Parse(&own)
	if !ok || q != own.Tuple {
		return fmt.Errorf("the error quotes %s, and it had sent %s", q, own.Tuple)
	}
	return nil
}
