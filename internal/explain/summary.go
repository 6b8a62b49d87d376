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
	case f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 || f.Malformed != frame.None:
		return fmt.Sprintf("%s > %s, EtherType %#04x", f.Src, f.Dst, f.EtherType)
	case f.IsND():
		return ndSummary(f)
	}
	t := frame.EndpointsOf(f.Tuple)
	if f.Flags&frame.IsIPv6 != 0 {
		t = frame.EndpointsOf(f.Tuple6())
	}
	name := frame.ProtoName(f.Proto)
	switch {
	case f.FragOffset() != 0:
		return fmt.Sprintf("%s %s > %s, fragment at %d", name, t.Src, t.Dst, f.FragOffset())
	case f.Flags&frame.ICMPError != 0:
		text := fmt.Sprintf("%s %s > %s %s", name, t.Src, t.Dst, icmpSummary(f))
		if q, _, ok := frame.Quoted(f.Payload()); ok && f.Proto == frame.ICMP {
			text += fmt.Sprintf(" about %s", q)
		}
		if q, _, ok := frame.Quoted6(f.Payload()); ok && f.Proto == frame.ICMPv6 {
			text += fmt.Sprintf(" about %s", q)
		}
		return text
	case f.Proto == frame.ICMP || f.Proto == frame.ICMPv6 && f.Flags&frame.HasTuple != 0:
		return fmt.Sprintf("%s %s > %s %s id %d", name, t.Src, t.Dst, icmpSummary(f), f.ICMP().ID())
	case f.Proto == frame.ICMPv6:
		return fmt.Sprintf("%s %s > %s %s", name, t.Src, t.Dst, icmpSummary(f))
	case f.Proto == frame.TCP:
		return fmt.Sprintf("%s %s", t, frame.TCPFlags(f.TCP().Flags()))
	case f.Proto == frame.UDP:
		return t.String() + serviceSummary(f)
	case frame.HasPorts(f.Proto):
		return t.String()
	}
	return fmt.Sprintf("%s %s > %s", name, t.Src, t.Dst)
}

// ndSummary is a message of neighbor discovery.
func ndSummary(f *frame.Frame) string {
	src, dst, l4 := f.IPv6().Src(), f.IPv6().Dst(), f.Payload()
	what := map[uint8]string{
		frame.ICMPv6RouterSolicitation: "router solicitation", frame.ICMPv6RouterAdvertisement: "router advertisement", frame.ICMPv6Redirect: "redirect",
		frame.ICMPv6NeighborSolicitation: "who-has", frame.ICMPv6NeighborAdvertisement: "is-at",
	}[l4[0]]
	if len(l4) >= 24 && (l4[0] == frame.ICMPv6NeighborSolicitation || l4[0] == frame.ICMPv6NeighborAdvertisement) {
		what += " " + frame.LoadAddr6(l4[8:]).String()
	}
	return fmt.Sprintf("nd %s > %s %s", src, dst, what)
}

// icmpSummary names an ICMP type and code, or gives their numbers.
func icmpSummary(f *frame.Frame) string {
	typ, code := f.ICMP().Type(), f.ICMP().Code()
	if f.Proto == frame.ICMPv6 {
		return icmp6Summary(typ, code)
	}
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

// icmp6Summary is icmpSummary for ICMPv6 (RFC 4443, 3 and 4).
func icmp6Summary(typ, code uint8) string {
	numbers := fmt.Sprintf("%d/%d", typ, code)
	switch typ {
	case frame.ICMPv6Echo:
		return "echo request"
	case frame.ICMPv6EchoReply:
		return "echo reply"
	case frame.ICMPv6TooBig:
		return "packet too big (" + numbers + ")"
	case frame.ICMPv6TimeExceeded:
		return "time exceeded (" + numbers + ")"
	case frame.ICMPv6Parameter:
		return "parameter problem (" + numbers + ")"
	case frame.ICMPv6Unreachable:
		names := map[uint8]string{0: "no route", 1: "prohibited", 2: "beyond scope", 3: "address", 4: "port"}
		if n, ok := names[code]; ok {
			return "unreachable: " + n + " (" + numbers + ")"
		}
	}
	return numbers
}
