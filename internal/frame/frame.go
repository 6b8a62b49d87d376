package frame

import (
	"encoding/binary"
	"math/bits"
)

// PortID names a port of the switch. Ids are small, so that they index tables.
type PortID uint16

const (
	NoPort  PortID = 0      // no port; the zero value
	Bulk    PortID = NoPort // what a Poller calls the second queue of the uplink, since no port has this number: see Batch.Bulk
	Gateway PortID = 0xffff // the router behind every network: it has no wire
)

// MaxPorts bounds the ids: 1 to MaxPorts-1.
const MaxPorts = 1024

// NetID names a network: one broadcast domain with a subnet and a gateway. It indexes tables too.
type NetID uint16

// NoNet is the uplink's: no broadcast domain of ours.
const NoNet NetID = 0

// MaxNets bounds the ids: 1 to MaxNets-1.
const MaxNets = 256

// Tick is the dataplane's coarse clock: tenths of a second since the switch was made. It wraps after 13 years.
type Tick uint32

// TicksPerSecond is the resolution of every time-out and age.
const TicksPerSecond = 10

// TickAt is the tick of a moment, ns nanoseconds after the switch was made.
func TickAt(ns int64) Tick { return Tick(ns / (1e9 / TicksPerSecond)) }

// Since is how long ago a moment was. It is 0 if the moment comes after now: another thread has read a newer clock.
func (now Tick) Since(then Tick) Tick {
	if int32(now-then) < 0 {
		return 0
	}
	return now - then
}

// Seconds converts whole seconds to ticks.
func Seconds(s uint32) Tick { return Tick(s * TicksPerSecond) }

// Verdict says what is to be done with a frame. Each stage acts on the frames whose verdict is its own input
// and leaves the others alone.
type Verdict uint8

const (
	Switch    Verdict = iota // undecided: vswitch.Forward looks up the destination MAC
	ToPort                   // write to port Out
	Flood                    // write to every port of network Net that takes frames of this FloodClass
	Local                    // addressed to the router: nat.PreRouting and router.Route are next
	Routed                   // router.Route chose the egress interface; nat.PostRouting and router.Resolve are next
	Resolved                 // MACs are rewritten; vswitch.ForwardRouted finds the port in network Egress
	Punt                     // for the slow path
	Drop                     // dropped for Reason
	Coalesced                // goes to port Out as a part of another frame's chain
	Queued                   // waits in its worker until the port's rate allows it
	Policed                  // goes to port Out if nat.Filter lets it pass
	CameBack                 // the uplink could not send it: nat.Return undoes its translation
)

// FloodClass is why a frame is flooded; ports may refuse each class of its own (`bridge link set flood off`).
type FloodClass uint8

const (
	UnknownUnicast FloodClass = iota
	Broadcast
	Multicast
	FloodClasses
)

// Flags are facts that Parse found.
type Flags uint16

const (
	IsIPv4         Flags = 1 << iota // L3 is the offset of a whole IPv4 header
	IsIPv6                           // L3 is the offset of a whole IPv6 header
	IsARP                            // L3 is the offset of the ARP packet
	HasVLAN                          // an 802.1Q or 802.1ad tag stands before the EtherType, with a VLAN identifier
	HasPriority                      // a tag with VLAN identifier 0, which says only the priority (802.1Q, 9.6), stands there; with HasVLAN: before it
	HasTuple                         // Tuple is valid: L4 is inside the frame and not a later fragment
	Fragment                         // a fragment, the first one included
	ICMPError                        // an ICMP error: it quotes a packet, and Tuple is the outer one without ports
	Injected                         // made by the router: In is Gateway
	ViaRouter                        // the router forwards it into network Egress
	FromSibling                      // its source is the address of another port of the same container: it may only be part of a flow
	LeavesByUplink                   // it answers what came in by the uplink, and leaves by it, whatever the routes say
	Cut                              // too long for its way: it leaves in fragments
	Waited                           // has waited for the rate of port Out, and may go now
	SourceRouted                     // IPv6: a routing header of type 0 with segments left
	Displaces                        // its port is at its share: a flow or a packet in fragments of that port had to make room for this frame's
)

// NATKind is what conntrack knows of a frame.
type NATKind uint8

const (
	NATNone        NATKind = iota
	NATEstablished         // Flow and Dir name its flow
	NATNew                 // it came to a published port or a mapping, and its flow is not created yet: RouteDst and RoutePort are the new destination
	NATRelated             // an ICMP error about a packet of flow Flow, travelling in direction Dir
	NATDone                // nat.PostRouting has translated it
)

// A Frame is one Ethernet frame with the virtio-net header before it, parsed once and never copied.
//
// The bytes are borrowed from the Poller that read them: they are valid from one Poll to the next. A stage may
// rewrite headers in place as long as the frame has not been sent.
type Frame struct {
	raw []byte // VnetLen bytes of virtio-net header, then the frame from the destination MAC on

	// Set by GRO, on frames about to be sent.
	nextSegment *Frame // whose payload follows this one's in a super-frame
	payloadOff  uint16 // where in raw that payload begins

	// Set by the Poller.
	In PortID // where it came from

	Slot uint8 // set by an observer: its place among the frames of one Poll; else 0

	// Set by Parse; later stages change them only together with the bytes they were read from.
	Flags     Flags
	Proto     uint8  // IP protocol: of IPv6 the one after all extension headers that were walked; valid with IsIPv4 or IsIPv6
	EtherType uint16 // after any VLAN tags
	L3, L4    uint16 // offsets in Bytes(); L4 is valid with IsIPv4 or IsIPv6
	L3End     uint32 // where the IP packet ends, by its own length; valid with IsIPv4 or IsIPv6
	Source    Addr   // set when the way out has said which of the host's addresses it needs, for IPv6 to 1 + the index of the Way6 that has it; else 0
	Dst, Src  MAC
	Tuple     Tuple  // of IPv6 only ports and protocol: see Tuple6
	Malformed Reason // why the router must reject it, although the switch forwards it; None when sound

	// Set by the stages.
	Verdict   Verdict
	Class     FloodClass // valid with Flood
	Reason    Reason     // of Drop; of Punt: why, and why it is dropped if the slow path rejects it
	Net       NetID      // the network that In belongs to
	Egress    NetID      // the network it leaves by; valid from Routed on
	Out       PortID     // valid with Unicast
	ToGateway bool       // a flooded frame that the router wants to see as well (ARP)
	NAT       NATKind
	Dir       uint8  // 0 original, 1 reply; valid with NATEstablished and NATRelated
	Hairpin   bool   // NAT hairpinning: from inside to a port of the host's address that leads inside
	Flow      uint32 // valid with NATEstablished and NATRelated, and after nat.PostRouting
	Mapping   uint32 // the mapping that was hit; valid with NATNew when Rule is 0
	Rule      uint32 // the publish rule that was hit, or 0; valid with NATNew
	RouteDst  Addr   // the destination after DNAT; valid from nat.PreRouting on; of IPv6 in Batch.To
	RoutePort uint16
	FragAt    uint16 // offset in Bytes() of IPv6's Fragment header; 0: it has none
	NextHop   Addr   // valid from Routed on; of IPv6 in Batch.To
}

// Reset makes f a frame of raw, whose first VnetLen bytes are a virtio-net header, read from port in.
//
//uvswitch:hot
func (f *Frame) Reset(raw []byte, in PortID) {
	*f = Frame{raw: raw, In: in}
}

// Raw returns the virtio-net header and the frame: what a TAP with IFF_VNET_HDR reads and writes.
func (f *Frame) Raw() []byte { return f.raw }

// Next is the frame whose Rest follows in the super-frame that f begins or is part of; usually nil.
func (f *Frame) Next() *Frame { return f.nextSegment }

// Rest is what a frame that is not the first adds to a super-frame: its payload, without padding.
func (f *Frame) Rest() []byte { return f.raw[f.payloadOff:] }

// WireLen is the length of the frame with its chain, in bytes, without the virtio-net header.
func (f *Frame) WireLen() int {
	n := f.Len()
	for g := f.nextSegment; g != nil; g = g.nextSegment {
		n += len(g.Rest())
	}
	return n
}

// CopyTo copies the frame from the destination MAC on, with its chain, as far as there is room.
func (f *Frame) CopyTo(b []byte) int {
	n := copy(b, f.Bytes())
	for g := f.nextSegment; g != nil; g = g.nextSegment {
		n += copy(b[n:], g.Rest())
	}
	return n
}

// Vnet returns the virtio-net header before the frame.
func (f *Frame) Vnet() VnetHdr { return VnetHdr(f.raw[:VnetLen]) }

// Bytes returns the frame from the destination MAC on, without a frame check sequence.
func (f *Frame) Bytes() []byte { return f.raw[VnetLen:] }

// Len returns the frame's length in bytes without the virtio-net header.
func (f *Frame) Len() int { return len(f.raw) - VnetLen }

// IPv4 returns the IPv4 header and what follows. It may be called only with IsIPv4.
func (f *Frame) IPv4() IPv4 { return IPv4(f.raw[VnetLen+int(f.L3):]) }

// Payload returns the transport header and what follows, up to the end by the IP header's length. It may be called
// only with IsIPv4 or IsIPv6, and no Malformed.
func (f *Frame) Payload() []byte { return f.raw[VnetLen+int(f.L4) : VnetLen+int(f.L3End)] }

// TCP returns the TCP header and what follows. It may be called only with Proto TCP, no Malformed, and not on a later fragment; so may
// the others.
func (f *Frame) TCP() TCPHeader     { return TCPHeader(f.Payload()) }
func (f *Frame) UDP() UDPHeader     { return UDPHeader(f.Payload()) }
func (f *Frame) ICMP() ICMPHeader   { return ICMPHeader(f.Payload()) }
func (f *Frame) Ports() PortsHeader { return PortsHeader(f.Payload()) }

// ICMPPseudoSum is the pseudo parameter of ICMPHeader.UpdateChecksum for an ICMP or ICMPv6 message.
func (f *Frame) ICMPPseudoSum() uint16 {
	if f.Proto == ICMPv6 {
		return f.IPv6().PseudoSum(ICMPv6, len(f.Payload()))
	}
	return 0
}

// HasRightICMPSum reports whether the checksum of an ICMP or ICMPv6 message is right.
func (f *Frame) HasRightICMPSum() bool { return Sum(f.Payload(), f.ICMPPseudoSum()) == 0xffff }

// ARP returns the ARP packet. It may be called only with IsARP.
func (f *Frame) ARP() ARPPacket { return ARPPacket(f.raw[VnetLen+int(f.L3):]) }

// PartialSum reports whether the transport header's checksum is partial: it covers the pseudo-header only, and a device or the
// receiver's kernel completes it. The partial checksum of a packet inside a tunnel is none: the outer header's is complete (linux
// Documentation/networking/checksum-offloads.rst, LCO).
//
//uvswitch:hot
func (f *Frame) PartialSum() bool {
	h := f.Vnet()
	return h.NeedsCsum() && h.CsumStart() == f.L4
}

// DropPriorityTag removes a tag with VLAN identifier 0 from the frame: the virtio-net header and the MACs move by its length.
func (f *Frame) DropPriorityTag() {
	copy(f.raw[VLANLen:], f.raw[:VnetLen+12])
	f.raw = f.raw[VLANLen:]
	if h := f.Vnet(); h.NeedsCsum() {
		h.Set(h[0], h[1], h.HdrLen()-VLANLen, h.GSOSize(), h.CsumStart()-VLANLen, h.CsumOffset())
	}
	f.L3, f.L4, f.L3End = f.L3-VLANLen, f.L4-VLANLen, f.L3End-VLANLen
	if f.FragAt != 0 {
		f.FragAt -= VLANLen
	}
	f.Flags &^= HasPriority
}

// SetMACs rewrites both addresses, in the bytes and in the parsed fields.
//
//uvswitch:hot
func (f *Frame) SetMACs(dst, src MAC) {
	b := f.raw[VnetLen:]
	binary.BigEndian.PutUint32(b, uint32(dst>>16))
	binary.BigEndian.PutUint16(b[4:], uint16(dst))
	binary.BigEndian.PutUint16(b[6:], uint16(src>>32))
	binary.BigEndian.PutUint32(b[8:], uint32(src))
	f.Dst, f.Src = dst, src
}

// DropFor sets the verdict Drop with its reason.
//
//uvswitch:hot
func (f *Frame) DropFor(r Reason) {
	f.Verdict, f.Reason = Drop, r
}

// PuntFor passes the frame to the slow path. why is the drop reason if the slow path rejects it.
//
//uvswitch:hot
func (f *Frame) PuntFor(why Reason) {
	f.Verdict, f.Reason = Punt, why
}

// BatchSize is how many frames a batch holds. BatchBytes bounds their bytes: a long batch of super-frames costs fewer sleeps and wake-ups, but
// other frames wait for its end.
const (
	BatchSize  = 64
	BatchBytes = 512 << 10
)

// A TxFailure is a frame, with its chain, that the port refused.
type TxFailure struct {
	Port   PortID
	In     PortID // where it came from; NoPort if nobody knows any more
	Reason Reason
	Frames uint8
	Slot   uint8  // of the first; NoSlot for a frame of an earlier batch
	Bytes  uint32 // of all of them, without virtio-net headers
	kept   uint8
	head   [FailureHead]byte
}

// FailureHead is how many bytes of a refused frame are kept: the headers up to the ports, of both families.
const FailureHead = 96

// Head is how the frame began; empty if nobody knows any more.
func (t *TxFailure) Head() []byte { return t.head[:t.kept] }

// Keep keeps the first bytes of a frame that came from port in; raw is without the virtio-net header.
func (t *TxFailure) Keep(in PortID, raw []byte) { t.In, t.kept = in, uint8(copy(t.head[:], raw)) }

// NoSlot is the Slot of a failed frame that no observer remembers.
const NoSlot = 255

// Failure is the TxFailure of f and its chain.
//
//uvswitch:hot
func Failure(id PortID, why Reason, f *Frame) TxFailure {
	t := TxFailure{Port: id, Reason: why, Slot: f.Slot}
	for ; f != nil; f = f.nextSegment {
		t.Frames++
		t.Bytes += uint32(f.Len())
	}
	return t
}

// Refused is Failure with what describes the frame.
//
//uvswitch:hot
func Refused(id PortID, why Reason, f *Frame) TxFailure {
	t := Failure(id, why, f)
	t.Keep(f.In, f.Bytes())
	return t
}

// A Way6 is where an IPv6 frame goes. A Frame has no room for it.
type Way6 struct {
	Tuple Tuple6 // of the packet as it is now
	Dst   Addr6  // the destination after DNAT; valid from nat.PreRouting on
	Hop   Addr6  // next hop; valid from Routed on

	Source Addr6 // see Frame.Source
}

// A Batch is what one Poll brought: N frames of possibly several ports, in the order they were read.
type Batch struct {
	Took   int64 // ns that the frames of the last batch took, for the Poller
	Scarce bool  // loud ports take CPU time that others need: the Poller is to make their turns short

	Frames  [BatchSize]Frame
	To      [BatchSize]Way6 // of IPv6 frames, by their index
	N       int
	Bulk    uint64   // a bit for each frame, by its index: it comes from the second queue of the uplink, which has what host ports with many packets receive
	Tick    Tick     // the coarse time that holds for the whole batch
	Locals  int      // frames that entered the routing stages; without any, these are skipped
	Learned struct { // of a dry batch: the station that would have been learned
		MAC  MAC
		Port PortID
	}
	Dry bool // a trace: the stages decide and rewrite, and change no table and no counter

	Failed []TxFailure // sends that failed since the last Poll; valid until the next Poll
	Gone   []PortID    // ports that were found dead, and are no longer read; likewise
}

// IOCounts are what a worker's I/O has done since the worker began.
type IOCounts struct {
	Calls     uint64    // system calls that read, or wait for frames
	Sleeps    uint64    // of these, waits with nothing to read
	Rearms    uint64    // reads of io_uring that had no buffer left, and were begun again
	Batches   [6]uint64 // by the number of frames: 1, 2-3, 4-7, 8-15, 16-31, 32 and more
	Spun      int64     // ns in which it looked for frames instead of sleeping
	CPU       int64     // ns that the worker's thread has run
	Switches  uint64    // times that the thread gave up its CPU
	Preempted uint64    // times that it lost its CPU
	Hurried   uint64    // times that it waited for a CPU for more than twice as long as it ran, and got a higher priority
	Diverted  uint64    // times that a slow receiver got a thread of its own
}

// Batch counts a batch of n frames.
//
//uvswitch:hot
func (c *IOCounts) Batch(n int) {
	if n > 0 {
		c.Batches[min(bits.Len(uint(n)), len(c.Batches))-1]++
	}
}

// A Reading is how a Poller reads a port.
type Reading uint8

const (
	NotRead Reading = iota
	ReadPort
	ReadUplink // it carries the frames of many senders: it gets half of a batch while other ports have many frames, too
)

// A Conn is a port's wire: whole frames in, whole frames out, never waiting. Implementations are in package tap.
type Conn interface {
	// FD is the descriptor to wait on; -1 for none.
	FD() int
	// Vnet reports whether writes of FD carry frames with a virtio-net header, so that io_uring may do them; and reads, unless they need
	// more than a read: then package tap knows how to do them.
	Vnet() bool
	// Read reads one frame with its virtio-net header into b, which has at least VnetLen+MaxFrame bytes. n is 0 when no frame waits; an
	// error means that the port is dead.
	Read(b []byte) (n int, err error)
	// Write writes one frame with its chain. It returns None, or why the frame was refused.
	Write(f *Frame) Reason
	// GSOMaxSize is the longest IP packet of protocol TCP or UDP that may be coalesced for this port, in bytes; 0: none.
	GSOMaxSize(proto uint8) int
	// Close gives the descriptor back.
	Close() error
}

// An Answerer is a Conn whose Write may leave frames that Read returns at once. It may also find out after a Write that the frame cannot be
// delivered: Failures appends such frames to a list, without the port, and forgets them. It is called before each round of Reads.
type Answerer interface {
	HasFrames() bool
	Failures(to []TxFailure) []TxFailure
}

// An Offerer is a Conn whose device counts the frames that its owner has sent. Those that have not been read wait in the device's queue, or the
// device has dropped them. ok is false, always, if it does not count.
type Offerer interface {
	Offered() (frames uint64, ok bool)
}

// AsConn converts what an opener returns to a Conn. On an error it returns a nil Conn, not a Conn that holds a nil pointer.
func AsConn[C Conn](c C, err error) (Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}
