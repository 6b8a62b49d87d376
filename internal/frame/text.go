package frame

import (
	"encoding/binary"
	"fmt"
)

// Text is one line about a parsed frame, after tcpdump's manner.
func Text(f *Frame) string {
	switch {
	case f.Len() < EthernetLen:
		return fmt.Sprintf("a frame of %d bytes", f.Len())
	case f.Flags&IsARP != 0:
		a := f.Bytes()[f.L3:]
		if a[7] == 1 {
			return fmt.Sprintf("arp who-has %s tell %s", LoadAddr(a[24:]), LoadAddr(a[14:]))
		}
		return fmt.Sprintf("arp %s is-at %s", LoadAddr(a[14:]), LoadMAC(a[8:]))
	case f.Flags&IsIPv4 == 0 || f.Malformed != None:
		return fmt.Sprintf("%s > %s, EtherType %#04x", f.Src, f.Dst, f.EtherType)
	}
	l4 := f.Payload()
	t := f.Tuple
	switch {
	case f.Flags&Fragment != 0 && f.IPv4().FragOffset() != 0:
		return fmt.Sprintf("%s %s > %s, fragment at %d", ProtoName(f.Proto), t.Src, t.Dst, f.IPv4().FragOffset())
	case f.Flags&ICMPError != 0:
		text := fmt.Sprintf("icmp %s > %s %s", t.Src, t.Dst, ICMPText(l4[0], l4[1]))
		if q, _, ok := Quoted(l4); ok {
			text += fmt.Sprintf(" about %s", q)
		}
		return text
	case f.Proto == ICMP:
		return fmt.Sprintf("icmp %s > %s %s id %d", t.Src, t.Dst, ICMPText(l4[0], l4[1]), binary.BigEndian.Uint16(l4[4:]))
	case f.Proto == TCP:
		return fmt.Sprintf("%s %s", t, TCPFlags(l4[13]))
	case HasPorts(f.Proto):
		return t.String()
	}
	return fmt.Sprintf("%s %s > %s", ProtoName(f.Proto), t.Src, t.Dst)
}
