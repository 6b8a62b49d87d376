package frame

// A way header: what the 12 bytes before the EtherType of a frame mean between the switch and the programs of its uplink. Neither MAC
// is needed there: the programs replace both.
//
//	direction    destination MAC                                     source MAC
//	out          0, protocol, inside port (2), remote port (2)       02, a command, inside address (4)
//	given back   as it came in                                       02, WayBack, index of its device (4)
//	in           as it came in                                       02, WayIn, WayInAgain or WayClone, index of its device (4)
//	came back    0 (2), as it went out (2), MTU in bytes (2)         02, a WayCode, source address that the way needs (4)
//	unknown way  its command, and the rest as it went out (5)        02, WayUnknown, as it went out (4)
//
// The inside address and port are those that the host's routing sees: policy routing and multipath decide by them. Address 0 stands for
// the packet's own source. Of IPv6, the inside address is a number, by which the programs find it, and no source address comes back; the
// protocol is the one behind the extension headers, or 0 for that of the first header.
// All numbers are in network byte order.
const wayPrefix = 0x02 // first byte of the source MAC

// Commands of frames to the programs, and marks of frames from outside.
const (
	WaySend      = 0    // route it, send it
	WayAsk       = 1    // likewise, if its source address and its port are right; else it comes back
	WayBack      = 2    // it is the host's: to the host's stack, as if it had just come in
	WayAskSource = 3    // like WayAsk, but the port is right: it is published
	WayBackLast  = 4    // like WayBack, and no other switch shall take it
	WayInAgain   = 0xfd // another switch has given it back
	WayClone     = 0xfe // the host has a copy
	WayIn        = 0xff
)

// A WayCode says why a frame came back. The first ones are the results of bpf_fib_lookup (linux include/uapi/linux/bpf.h).
type WayCode uint8

const (
	WayBlackhole   WayCode = 1
	WayUnreachable WayCode = 2
	WayProhibited  WayCode = 3
	WayNoRoute     WayCode = 4
	WayNoForward   WayCode = 5 // forwarding is off on the uplink's TAP
	WayEncap       WayCode = 6
	WayTooLong     WayCode = 8
	WayNoSource    WayCode = 9
	WaySource      WayCode = 0x20 // the way needs another source address
	WayPort        WayCode = 0x21 // a socket of the host would get the answer
	WayFenced      WayCode = 0x22 // by a device that the configuration does not allow
	WayUnknown     WayCode = 0x23 // the programs must be told the way first: see ResendWay
)

// String returns the type of the route, by the names of `ip route`, or the cause.
func (c WayCode) String() string {
	if name, ok := wayNames[c]; ok {
		return name
	}
	return "unreachable"
}

// Reason is why such a frame is dropped, unless it can be sent again.
//
//uvswitch:hot
func (c WayCode) Reason() Reason { return wayReasons[c] }

// IsFinal reports whether a packet with the code is dropped. One with another code is sent again, in another way.
func (c WayCode) IsFinal() bool {
	switch c {
	case 0, WayTooLong, WaySource, WayPort, WayUnknown:
		return false
	}
	return c.Reason() != None
}

var wayReasons = [256]Reason{
	WayBlackhole: BlackholeRoute, WayUnreachable: HostUnreachable, WayProhibited: ProhibitRoute, WayNoRoute: NoRoute, WayNoForward: UplinkDown,
	WayEncap: NeedsHostStack, WayTooLong: FragmentationNeeded, WayNoSource: UplinkDown, WaySource: WayChanged, WayPort: WayChanged, WayFenced: WayNotAllowed,
}

var wayNames = map[WayCode]string{
	0: "unicast", WayBlackhole: "blackhole", WayProhibited: "prohibit", WayEncap: "encap", WayTooLong: "too long", WayFenced: "not allowed",
}

// WayMACs are the destination and source MAC of a frame on its way out.
//
//uvswitch:hot
func WayMACs(command uint8, inside uint32, proto uint8, insidePort, remotePort uint16) (dst, src MAC) {
	return MAC(proto)<<32 | MAC(insidePort)<<16 | MAC(remotePort), wayMAC(command, inside)
}

// WayNobody is the source MAC of a frame that came back from the programs, once its translation is undone: its sender's is lost.
const WayNobody MAC = wayPrefix << 40

// WayArrived is the source MAC of a packet from outside when its device does not matter.
const WayArrived MAC = wayPrefix<<40 | WayIn<<32

// WayGivenBack is the source MAC of a frame that came in with a mark from device ifindex, and is given back to the host.
func WayGivenBack(mark uint8, ifindex uint32) MAC {
	if mark == WayInAgain {
		return wayMAC(WayBackLast, ifindex)
	}
	return wayMAC(WayBack, ifindex)
}

//uvswitch:hot
func wayMAC(second uint8, low uint32) MAC {
	return MAC(wayPrefix)<<40 | MAC(second)<<32 | MAC(low)
}

// Way splits the source MAC of a frame from the programs: its second byte and the four after it. ok is false for a frame of another
// origin, such as the host's stack.
//
//uvswitch:hot
func (f *Frame) Way() (second uint8, low uint32, ok bool) {
	return uint8(f.Src >> 32), uint32(f.Src), f.Src>>40 == wayPrefix
}

// ResendWay makes a frame that came back for WayUnknown what was sent: its command stands in the first byte of its destination MAC.
func (f *Frame) ResendWay() {
	f.SetMACs(f.Dst&(1<<40-1), wayMAC(uint8(f.Dst>>40), uint32(f.Src)))
}

// WayMTU is the longest packet that the way takes, in bytes, of a frame that came back for WayTooLong.
func (f *Frame) WayMTU() int { return int(f.Dst & 0xffff) }
