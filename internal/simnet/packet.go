package simnet

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// words describe a packet: its kind, its numbers by their names, and its flags.
type words struct {
	kind, arg string
	num       map[string]int
	flag      map[string]string
}

var (
	numbers = []string{"ttl", "size", "mss", "seq", "ack", "win", "fragments", "times", "mtu"}
	texts   = []string{"frag", "options", "src"}
	flags   = []string{"df", "reversed", "badsum", "badquote", "hop"}
	checked = []string{"ttl", "size", "mss", "mtu"} // the numbers that a line about a received frame may have
	kinds   = []string{"tcp", "ping", "pong", "sctp", "gre", "esp", "proto"}
)

// parseWords reads f.
func parseWords(f []string, text *string) (w words, err error) {
	w = words{num: map[string]int{}, flag: map[string]string{}}
	if len(f) > 0 && text == nil && !slices.Contains(numbers, f[0]) {
		if w.kind = f[0]; w.kind == "tcp" || w.kind == "proto" || w.kind == "icmp" || w.kind == "arp" {
			if len(f) < 2 {
				return w, fmt.Errorf("%s has no value: tcp FLAGS, proto NUMBER, icmp TYPE/CODE or arp ADDRESS", w.kind)
			}
			w.arg = f[1]
			f = f[1:]
		}
		f = f[1:]
	}
	for i := 0; i < len(f); i++ {
		switch {
		case slices.Contains(numbers, f[i]):
			if f[i] == "fragments" && (i+1 == len(f) || slices.Contains(numbers, f[i+1])) { // of what is received
				w.flag["fragments"] = ""
				continue
			}
			if i+1 == len(f) {
				return w, fmt.Errorf("%s has no value", f[i])
			}
			if w.num[f[i]], err = strconv.Atoi(f[i+1]); err != nil {
				return w, err
			}
			i++
		case slices.Contains(texts, f[i]):
			if i+1 == len(f) {
				return w, fmt.Errorf("%s has no value", f[i])
			}
			w.flag[f[i]] = f[i+1]
			i++
		case slices.Contains(flags, f[i]):
			w.flag[f[i]] = "yes"
		default:
			return w, fmt.Errorf("%q does not describe a packet; the words are %s", f[i], strings.Join(slices.Concat(numbers, texts, flags), " "))
		}
	}
	return w, nil
}

func (w *words) has(flag string) bool { _, ok := w.flag[flag]; return ok }

// send makes the packet of a line: to a host by name, or to an address.
func (s *scenario) send(h *Host, from port, f []string, text *string) error {
	name, to, err := splitPort(f[0])
	if err != nil {
		return err
	}
	w, err := parseWords(f[1:], text)
	if err != nil {
		return err
	}
	p := frametest.Packet{SrcMAC: h.MAC, Src: h.Addr, SrcPort: from.number, DstPort: to.number}
	if text != nil {
		p.Payload = []byte(*text)
	}
	if other := s.net.host(name); other != nil {
		p.Dst = other.Addr
		p.DstMAC = other.MAC
		if other.outside || other.Net != h.Net {
			p.DstMAC = s.gateway(h)
		}
	} else {
		if p.Dst, err = address(name); err != nil {
			return fmt.Errorf("%w, and not a host (%s)", err, s.net.hostNames())
		}
		p.DstMAC = s.gateway(h)
	}
	if h.outside {
		p.DstMAC = uplinkMAC
	}
	if err := w.fill(&p); err != nil {
		return err
	}
	for i := range max(1, w.num["times"]) {
		q := p
		q.SrcPort += uint16(i)
		s.transmit(h, &q, &w)
	}
	return nil
}

// fill sets what the words say.
func (w *words) fill(p *frametest.Packet) error {
	switch w.kind {
	case "":
	case "tcp":
		p.Proto, p.Flags = frame.TCP, frame.ParseTCPFlags(w.arg)
	case "ping":
		p.Proto, p.Type, p.ID = frame.ICMP, frame.ICMPEcho, p.SrcPort
	case "pong":
		p.Proto, p.Type, p.ID = frame.ICMP, frame.ICMPEchoReply, p.DstPort
	default:
		name := w.kind
		if w.kind == "proto" {
			name = "proto-" + w.arg
		}
		number, ok := frame.ProtoNumber(name)
		if !ok {
			return fmt.Errorf("%q is not a kind of packet; the kinds are %s", w.kind, strings.Join(kinds, " "))
		}
		p.Proto, p.Payload = number, append([]byte("a payload of it "), p.Payload...)
		if number == frame.SCTP {
			binary.BigEndian.PutUint16(p.Payload, p.SrcPort)
			binary.BigEndian.PutUint16(p.Payload[2:], p.DstPort)
		}
	}
	if n := w.num["size"]; n > 0 {
		p.Payload = make([]byte, n)
		for i := range p.Payload {
			p.Payload[i] = byte(i)
		}
	}
	if v, ok := w.flag["options"]; ok {
		b, err := hex.DecodeString(v)
		if err != nil {
			return err
		}
		p.Options = b
	}
	if v, ok := w.flag["src"]; ok {
		a, err := address(v)
		if err != nil {
			return err
		}
		p.Src = a
	}
	p.TTL, p.MSS, p.Window = uint8(w.num["ttl"]), uint16(w.num["mss"]), uint16(w.num["win"])
	p.TCPSeq, p.TCPAck = uint32(w.num["seq"]), uint32(w.num["ack"])
	if v, ok := w.flag["frag"]; ok {
		if p.Frag, ok = map[string]uint16{"first": 0x2000, "later": 9, "tiny": 1}[v]; !ok {
			return fmt.Errorf("there is no fragment %q; the fragments are first, later and tiny", v)
		}
	}
	if w.has("df") {
		p.Frag |= 0x4000
	}
	return nil
}

// transmit sends a packet whole or in fragments.
func (s *scenario) transmit(h *Host, p *frametest.Packet, w *words) {
	size := w.num["fragments"]
	if size == 0 {
		s.inject(h, p.Raw())
		return
	}
	s.nextID++
	p.IPID = s.nextID
	pieces := frametest.Fragments(p.Raw(), size)
	if w.has("reversed") {
		slices.Reverse(pieces)
	}
	for _, raw := range pieces {
		s.inject(h, raw)
	}
}

func (s *scenario) gateway(h *Host) frame.MAC {
	i, _ := s.net.DP.Router.Interface(h.Net)
	return i.MAC
}

// reply answers the last thing h received: the same addresses and ports turned round.
func (s *scenario) reply(h *Host, _ port, f []string, text *string) error {
	var p frame.Frame
	rx := s.last[h.Name].rx
	if rx == nil {
		return fmt.Errorf("%s has received nothing", h.Name)
	}
	p.Reset(rx, h.Port)
	frame.Parse(&p)
	return s.send(h, port{number: p.Tuple.DstPort}, append([]string{fmt.Sprintf("%s:%d", p.Tuple.Src, p.Tuple.SrcPort)}, f...), text)
}

// sendError sends an ICMP error from h, or a router before it, about what it received last.
func (s *scenario) sendError(h *Host, _ port, f []string, _ *string) error {
	var typ, code uint8
	if _, err := fmt.Sscanf(f[0], "%d/%d", &typ, &code); err != nil {
		return fmt.Errorf("%q is not TYPE/CODE", f[0])
	}
	w, err := parseWords(append([]string{"error"}, f[1:]...), nil)
	if err != nil {
		return err
	}
	rx := s.last[h.Name].rx
	if rx == nil {
		return fmt.Errorf("%s has received nothing", h.Name)
	}
	ip := frame.IPv4(rx[frame.VnetLen+frame.EthernetLen:])
	p := frametest.Packet{
		SrcMAC: h.MAC, DstMAC: s.gateway(h), Src: h.Addr, Dst: ip.Src(), Proto: frame.ICMP, Type: typ, Code: code,
		Seq: uint16(w.num["mtu"]), Payload: frametest.Quote(rx, 8),
	}
	if h.outside {
		p.DstMAC = uplinkMAC
	}
	if w.has("hop") {
		p.Src = frametest.Addr("192.0.2.1")
	}
	if w.has("badquote") {
		p.Payload[10] ^= 0x55
	}
	raw := p.Raw()
	if w.has("badsum") {
		raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len+2] ^= 0x55
	}
	s.inject(h, raw)
	return nil
}

// receive checks the next frame in h's inbox.
func (s *scenario) receive(h *Host, at port, f []string, text *string) error {
	s.seen[h.Name] = true
	if len(h.inbox) == 0 {
		return fmt.Errorf("it received nothing; drops: %v", s.net.DP.Drops())
	}
	raw := h.inbox[0]
	h.inbox = h.inbox[1:]
	from := f[0]
	if from != "icmp" && from != "arp" {
		f = f[1:]
	}
	w, err := parseWords(f, text)
	if err != nil {
		return err
	}
	for name := range w.num {
		if !slices.Contains(checked, name) {
			return fmt.Errorf("%s cannot be checked in a frame that was received; the words are %s and fragments", name, strings.Join(checked, " "))
		}
	}
	if w.has("fragments") {
		if raw, err = h.reassemble(raw); err != nil {
			return err
		}
	}
	l := s.last[h.Name]
	l.rx = raw
	s.last[h.Name] = l
	var p frame.Frame
	p.Reset(raw, h.Port)
	frame.Parse(&p)
	wrong := func() error { return fmt.Errorf("it received %s", describe(raw)) }
	switch from {
	case "icmp":
		if p.Flags&frame.ICMPError == 0 || fmt.Sprintf("%d/%d", p.Payload()[0], p.Payload()[1]) != w.arg {
			return wrong()
		}
		if mtu, ok := w.num["mtu"]; ok && int(binary.BigEndian.Uint16(p.Payload()[6:])) != mtu {
			return fmt.Errorf("it says MTU %d", binary.BigEndian.Uint16(p.Payload()[6:]))
		}
		return s.aboutLast(h, &p)
	case "arp":
		about, err := address(w.arg)
		if err != nil {
			return err
		}
		if p.Flags&frame.IsARP == 0 || p.ARP().SenderAddr() != about {
			return wrong()
		}
		return nil
	}
	name, sport, err := splitPort(from)
	if err != nil {
		return err
	}
	var src frame.Addr
	if from := s.net.host(name); from != nil {
		src = from.Addr
	} else if src, err = address(name); err != nil {
		return fmt.Errorf("%w, and not a host (%s)", err, s.net.hostNames())
	}
	if p.Flags&frame.HasTuple == 0 || p.Tuple.Src != src {
		return wrong()
	}
	sameSrc := sport.number == 0 || sport.number == p.Tuple.SrcPort
	ok := false
	switch w.kind {
	case "tcp":
		ok = p.Proto == frame.TCP && p.TCP().Flags() == frame.ParseTCPFlags(w.arg) && sameSrc
	case "ping":
		ok = p.Proto == frame.ICMP && p.Payload()[0] == frame.ICMPEcho
	case "pong":
		ok = p.Proto == frame.ICMP && p.Payload()[0] == frame.ICMPEchoReply && p.Tuple.DstPort == at.number
	case "", "size":
		ok = p.Proto == frame.UDP && sameSrc && (text == nil || string(p.Payload()[frame.UDPLen:]) == *text)
	default:
		ok = frame.ProtoName(p.Proto) == w.kind && (sameSrc || p.Proto != frame.SCTP) || w.kind == "proto" && fmt.Sprint(p.Proto) == w.arg
	}
	ported := p.Proto == frame.TCP || p.Proto == frame.UDP || p.Proto == frame.SCTP
	if !ok || ported && at.named && at.number != p.Tuple.DstPort {
		return wrong()
	}
	return w.check(&p)
}

// check compares numbers.
func (w *words) check(p *frame.Frame) error {
	if ttl, ok := w.num["ttl"]; ok && int(p.IPv4().TTL()) != ttl {
		return fmt.Errorf("its TTL is %d", p.IPv4().TTL())
	}
	if mss, ok := w.num["mss"]; ok {
		if got := int(binary.BigEndian.Uint16(p.Payload()[frame.TCPLen+7:])); got != mss { // where frametest puts it
			return fmt.Errorf("its MSS is %d", got)
		}
	}
	if size, ok := w.num["size"]; ok && len(p.Payload())-frame.UDPLen != size {
		return fmt.Errorf("it has %d bytes", len(p.Payload())-frame.UDPLen)
	}
	return nil
}

// reassemble takes the other fragments of raw's packet from the inbox and puts them together.
func (h *Host) reassemble(raw []byte) ([]byte, error) {
	id := func(b []byte) uint16 { return frame.IPv4(b[frame.VnetLen+frame.EthernetLen:]).ID() }
	pieces := [][]byte{raw}
	h.inbox = slices.DeleteFunc(h.inbox, func(b []byte) bool {
		same := id(b) == id(raw)
		if same {
			pieces = append(pieces, b)
		}
		return same
	})
	whole, err := frametest.Reassemble(pieces)
	if err == nil {
		err = frametest.Check(whole)
	}
	return whole, err
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
