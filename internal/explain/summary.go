// Package explain describes packets and what happens to them. trace.go runs a trace and narrate.go tells it in words, packet.go builds a packet from
// words, summary.go describes a packet in one line, and tcpdump.go prints a packet as tcpdump does.
package explain

import (
	"fmt"
	"strconv"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Text describes a parsed frame in one line, in the form that a trace takes a packet in.
func Text(f *frame.Frame) string {
	switch {
	case f.Len() < frame.EthernetLen:
		return fmt.Sprintf("a frame of %d bytes", f.Len())
	case f.Flags&frame.IsARP != 0:
		a := f.ARP()
		if a.Operation() == frame.ARPRequest {
			return fmt.Sprintf("arp who-has %s tell %s", a.TargetAddr(), a.SenderAddr())
		}
		return fmt.Sprintf("arp %s is-at %s", a.SenderAddr(), a.SenderMAC())
	case f.Flags&frame.IsIPv4 == 0 || f.Malformed != frame.None:
		return fmt.Sprintf("%s > %s, EtherType %#04x", f.Src, f.Dst, f.EtherType)
	}
	t := f.Tuple
	switch {
	case f.Flags&frame.Fragment != 0 && f.IPv4().FragOffset() != 0:
		return fmt.Sprintf("%s %s > %s, fragment at %d", frame.ProtoName(f.Proto), t.Src, t.Dst, f.IPv4().FragOffset())
	case f.Flags&frame.ICMPError != 0:
		text := fmt.Sprintf("icmp %s > %s %s", t.Src, t.Dst, icmpSummary(f.ICMP()))
		if q, _, ok := frame.Quoted(f.Payload()); ok {
			text += fmt.Sprintf(" about %s", q)
		}
		return text
	case f.Proto == frame.ICMP:
		return fmt.Sprintf("icmp %s > %s %s id %d", t.Src, t.Dst, icmpSummary(f.ICMP()), f.ICMP().ID())
	case f.Proto == frame.TCP:
		return fmt.Sprintf("%s %s", t, frame.TCPFlags(f.TCP().Flags()))
	case frame.HasPorts(f.Proto):
		return t.String()
	}
	return fmt.Sprintf("%s %s > %s", frame.ProtoName(f.Proto), t.Src, t.Dst)
}

// icmpSummary names an ICMP type and code, or gives their numbers.
func icmpSummary(h frame.ICMPHeader) string {
	typ, code := h.Type(), h.Code()
	switch typ {
	case frame.ICMPEcho:
		return "echo request"
	case frame.ICMPEchoReply:
		return "echo reply"
	case frame.ICMPTimeExceeded:
		return "time exceeded (11/" + strconv.Itoa(int(code)) + ")"
	case frame.ICMPUnreachable:
		names := map[uint8]string{frame.CodeNet: "net", frame.CodeHost: "host", frame.CodeProtocol: "protocol", frame.CodePort: "port", frame.CodeFragNeeded: "fragmentation needed", frame.CodeAdminFiltered: "prohibited"}
		if n, ok := names[code]; ok {
			return "unreachable: " + n + " (3/" + strconv.Itoa(int(code)) + ")"
		}
	}
	return strconv.Itoa(int(typ)) + "/" + strconv.Itoa(int(code))
}
