package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Kind is the event that a record describes.
type Kind uint8

const (
	Arrival   Kind = iota // a frame as it came from a port
	Departure             // a frame as it goes to a port
	End                   // the verdict on a frame, or a port's refusal to take it
)

// Direction is the direction of a frame, numbered as in pcapng. In means that the switch read it from the port.
type Direction uint8

const (
	In  Direction = 1
	Out Direction = 2
)

// A Record is one frame at one point of its path. Data is valid until the function that Drain calls returns.
type Record struct {
	Time    time.Time
	Kind    Kind
	Dir     Direction
	Port    frame.PortID // the port it belongs to: In of an Arrival, Out of a Departure
	In, Out frame.PortID // Out is the port it goes to, if it goes to one only, or the port that refused it
	Copies  int          // number of ports that get it
	Verdict frame.Verdict
	Reason  frame.Reason    // of a drop, or why a frame was punted
	Flow    uint32          // number of the flow; 0: none
	Packet  uint64          // number of the frame, the same in all its records from one batch
	Before  frame.Endpoints // addresses and ports as it arrived; zero: none
	After   frame.Endpoints // addresses and ports as it departs
	Detail  string          // of a drop: which policy and rule; filled in by who writes the record
	Frames  int             // how many frames were coalesced into this one, itself included
	Length  int             // of the frame in bytes; Data may be shorter
	Vnet    frame.VnetHdr
	Data    []byte
}

// Translated reports whether addresses or ports were rewritten.
func (r *Record) Translated() bool { return r.Before != r.After && r.After != (frame.Endpoints{}) }

// Comment returns a text that says what became of the frame. name returns the name of a port.
func (r *Record) Comment(name func(frame.PortID) string) string {
	var parts []string
	switch {
	case r.Verdict == frame.Drop && r.Kind == End && r.Out != frame.NoPort:
		parts = append(parts, fmt.Sprintf("dropped: %s at %s", r.Reason, name(r.Out)))
	case r.Verdict == frame.Drop || r.Verdict == frame.Punt && r.isRejected():
		parts = append(parts, "dropped: "+r.Reason.String())
		if r.Detail != "" {
			parts = append(parts, r.Detail)
		}
	case r.Kind == Departure:
		parts = append(parts, "from "+name(r.In))
	case r.Verdict == frame.Punt && r.Reason == frame.None:
		parts = append(parts, "consumed by the gateway")
	case r.Verdict == frame.Queued, r.Verdict == frame.Punt && (r.Reason == frame.NeighborFailed || r.Reason == frame.FragmentWaits || r.Reason == frame.FlowBusy):
		parts = append(parts, fmt.Sprintf("waits (%s)", r.Reason))
	case r.Verdict == frame.Punt:
		parts = append(parts, fmt.Sprintf("passed to the slow path (%s)", r.Reason))
	case r.Verdict == frame.Flood:
		parts = append(parts, fmt.Sprintf("flooded to %d ports", r.Copies))
	default:
		parts = append(parts, "to "+name(r.Out))
	}
	if r.Flow != 0 {
		parts = append(parts, fmt.Sprintf("flow %d", r.Flow))
	}
	if r.Translated() {
		if r.Kind == Departure {
			parts = append(parts, "was "+r.Before.String())
		} else {
			parts = append(parts, "becomes "+r.After.String())
		}
	}
	if r.Frames > 1 {
		parts = append(parts, fmt.Sprintf("%d frames joined", r.Frames))
	}
	return strings.Join(parts, "; ")
}

// isRejected reports whether the slow path can only drop the frame, and tell its sender.
func (r *Record) isRejected() bool {
	if r.Reason == frame.FragmentationNeeded { // without DF the packet is cut
		return len(r.Data) > frame.EthernetLen+6 && r.Data[frame.EthernetLen+6]&0x40 != 0
	}
	return r.Reason.Punt() == frame.Reject
}

// Layout of a record in a ring, with sizes in bytes, in host byte order:
//
//	0 time (8) | 8 packet (8) | 16 length (4) | 20 flow (4) | 24 in (2) | 26 out (2) | 28 kind | 29 verdict | 30 reason |
//	31 frames | 32 copies (2) | 34 port (2) | 36 before (38) | 74 after (38) | 112 virtio-net header (10) | 128 bytes
//
// Addresses and ports: 0 source (16) | 16 destination (16) | 32 source port (2) | 34 destination port (2) | 36 protocol | 37 IP version, or 0.
const (
	recordLen = 128
	beforeAt  = 36
	afterAt   = 74
	vnetAt    = 112
)

func (r *Record) put(b []byte) {
	e := binary.NativeEndian
	e.PutUint64(b, uint64(r.Time.UnixNano()))
	e.PutUint64(b[8:], r.Packet)
	e.PutUint32(b[16:], uint32(r.Length))
	e.PutUint32(b[20:], r.Flow)
	e.PutUint16(b[24:], uint16(r.In))
	e.PutUint16(b[26:], uint16(r.Out))
	b[28], b[29], b[30], b[31] = uint8(r.Kind), uint8(r.Verdict), uint8(r.Reason), uint8(r.Frames)
	e.PutUint16(b[32:], uint16(r.Copies))
	e.PutUint16(b[34:], uint16(r.Port))
	putEndpoints(b[beforeAt:], &r.Before)
	putEndpoints(b[afterAt:], &r.After)
	copy(b[vnetAt:recordLen], r.Vnet)
}

func decode(b []byte) Record {
	e := binary.NativeEndian
	r := Record{
		Time: time.Unix(0, int64(stamp(b))), Packet: e.Uint64(b[8:]), Length: int(e.Uint32(b[16:])), Flow: e.Uint32(b[20:]),
		In: frame.PortID(e.Uint16(b[24:])), Out: frame.PortID(e.Uint16(b[26:])), Kind: Kind(b[28]), Verdict: frame.Verdict(b[29]),
		Reason: frame.Reason(b[30]), Frames: int(b[31]), Copies: int(e.Uint16(b[32:])), Port: frame.PortID(e.Uint16(b[34:])),
		Before: getEndpoints(b[beforeAt:]), After: getEndpoints(b[afterAt:]), Vnet: b[vnetAt : vnetAt+frame.VnetLen], Data: b[recordLen:], Dir: In,
	}
	if r.Kind == Departure {
		r.Dir = Out
	}
	return r
}

func stamp(rec []byte) uint64 { return binary.NativeEndian.Uint64(rec) }

func putEndpoints(b []byte, t *frame.Endpoints) {
	e := binary.NativeEndian
	src, dst := t.Src.As16(), t.Dst.As16()
	copy(b, src[:])
	copy(b[16:], dst[:])
	e.PutUint16(b[32:], t.SrcPort)
	e.PutUint16(b[34:], t.DstPort)
	b[36], b[37] = t.Proto, 0
	switch {
	case t.Src.Is4():
		b[37] = 4
	case t.Src.Is6():
		b[37] = 6
	}
}

func getEndpoints(b []byte) (t frame.Endpoints) {
	if b[37] == 0 {
		return t
	}
	e := binary.NativeEndian
	t = frame.Endpoints{Src: netip.AddrFrom16([16]byte(b)), Dst: netip.AddrFrom16([16]byte(b[16:])), SrcPort: e.Uint16(b[32:]), DstPort: e.Uint16(b[34:]), Proto: b[36]}
	if b[37] == 4 {
		t.Src, t.Dst = t.Src.Unmap(), t.Dst.Unmap()
	}
	return t
}

// EndpointsOf are the addresses and ports that a frame has now; zero if it has no ports or identifier.
func EndpointsOf(f *frame.Frame) (t frame.Endpoints) {
	switch {
	case f.Flags&frame.HasTuple == 0:
		return t
	case f.Flags&frame.IsIPv6 != 0:
		return frame.EndpointsOf(f.Tuple6())
	}
	return frame.EndpointsOf(f.Tuple)
}
