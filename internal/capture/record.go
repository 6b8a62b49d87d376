package capture

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Kind is what a record is about.
type Kind uint8

const (
	Arrival   Kind = iota // a frame as a port sent it
	Departure             // as another port gets it
	End                   // a frame has its verdict, or a port did not take it
)

// Direction of a record, as pcapng numbers it: In is what the switch read from the port.
type Direction uint8

const (
	In  Direction = 1
	Out Direction = 2
)

// A Record is one frame at one point of its way. Data is valid until the next call of Drain.
type Record struct {
	Time    time.Time
	Kind    Kind
	Dir     Direction
	Port    frame.PortID // whose record it is: In of what arrives, Out of what departs
	In, Out frame.PortID // Out is the port it goes to, when that is one; of an End for Reason of a port, the one that refused it
	Copies  int          // how many ports get it
	Verdict frame.Verdict
	Reason  frame.Reason // of a drop; of a frame for the gateway, what it would be dropped for
	Flow    uint32       // the tracked connection's number; 0 without one
	Packet  uint64       // the same for all records of a frame of one batch
	Before  frame.Tuple  // as it arrived; zero without addresses
	After   frame.Tuple  // as it departs
	Frames  int          // how many were joined to this one
	Length  int          // of the frame in bytes; Data may be shorter
	Vnet    frame.VnetHdr
	Data    []byte
}

// Translated tells whether addresses or ports were rewritten.
func (r *Record) Translated() bool { return r.Before != r.After && r.After != (frame.Tuple{}) }

// Comment says what became of the frame. name names a port.
func (r *Record) Comment(name func(frame.PortID) string) string {
	var parts []string
	switch {
	case r.Verdict == frame.Drop && r.Kind == End && r.Out != frame.NoPort:
		parts = append(parts, fmt.Sprintf("dropped: %s at %s", r.Reason, name(r.Out)))
	case r.Verdict == frame.Drop || r.Verdict == frame.Punt && r.hopeless():
		parts = append(parts, "dropped: "+r.Reason.String())
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

// hopeless tells whether the housekeeper can only drop what it was handed for this reason, and tell the sender.
func (r *Record) hopeless() bool {
	switch r.Reason {
	case frame.TTLExceeded, frame.NoRoute, frame.HostUnreachable, frame.ProhibitRoute, frame.UplinkDown, frame.FlowNotResumed, frame.NATPortsExhausted, frame.FlowTableFull:
		return true
	case frame.FragmentationNeeded: // but for what may be cut
		return len(r.Data) > frame.EthernetLen+6 && r.Data[frame.EthernetLen+6]&0x40 != 0
	}
	return false
}

// In a ring, in the host's byte order:
//
//	0 time (8) | 8 packet (8) | 16 length (4) | 20 flow (4) | 24 in (2) | 26 out (2) | 28 kind | 29 verdict | 30 reason |
//	31 frames | 32 copies (2) | 34 port (2) | 36 before (13) | 49 after (13) | 62 virtio-net header (10) | 72 bytes
const recordLen = 72

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
	putTuple(b[36:], &r.Before)
	putTuple(b[49:], &r.After)
	copy(b[62:recordLen], r.Vnet)
}

func decode(b []byte) Record {
	e := binary.NativeEndian
	r := Record{
		Time: time.Unix(0, int64(stamp(b))), Packet: e.Uint64(b[8:]), Length: int(e.Uint32(b[16:])), Flow: e.Uint32(b[20:]),
		In: frame.PortID(e.Uint16(b[24:])), Out: frame.PortID(e.Uint16(b[26:])), Kind: Kind(b[28]), Verdict: frame.Verdict(b[29]),
		Reason: frame.Reason(b[30]), Frames: int(b[31]), Copies: int(e.Uint16(b[32:])), Port: frame.PortID(e.Uint16(b[34:])),
		Before: getTuple(b[36:]), After: getTuple(b[49:]), Vnet: b[62:recordLen], Data: b[recordLen:], Dir: In,
	}
	if r.Kind == Departure {
		r.Dir = Out
	}
	return r
}

func stamp(rec []byte) uint64 { return binary.NativeEndian.Uint64(rec) }

func putTuple(b []byte, t *frame.Tuple) {
	e := binary.NativeEndian
	e.PutUint32(b, uint32(t.Src))
	e.PutUint32(b[4:], uint32(t.Dst))
	e.PutUint16(b[8:], t.SrcPort)
	e.PutUint16(b[10:], t.DstPort)
	b[12] = t.Proto
}

func getTuple(b []byte) frame.Tuple {
	e := binary.NativeEndian
	return frame.Tuple{Src: frame.Addr(e.Uint32(b)), Dst: frame.Addr(e.Uint32(b[4:])), SrcPort: e.Uint16(b[8:]), DstPort: e.Uint16(b[10:]), Proto: b[12]}
}
