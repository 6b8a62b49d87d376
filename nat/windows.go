package nat

import (
	"encoding/binary"
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// windows follow the sequence numbers of TCP connections, so that a segment which its receiver would not take is dropped
// here (nat.windows: strict). The bounds are those of "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij, 2000),
// as in linux net/netfilter/nf_conntrack_proto_tcp.c. Both directions change both sides, so this takes a lock, one
// of 256; it is off by default.
type windows struct {
	locks [256]sync.Mutex
	state [][2]window // by flow and direction
}

// window is what one end has sent and may send.
type window struct {
	end    uint32 // the highest sequence number it has sent, +1
	maxEnd uint32 // and may send: the other's last acknowledgement and window
	maxWin uint32 // the largest window it has offered; 0: it has not been heard
	scale  uint8
	scales bool // it has sent the window scale option
}

func newWindows(n int) *windows { return &windows{state: make([][2]window, n)} }

func (w *windows) clear(e uint32) { w.state[e] = [2]window{} }

// accept tells whether the segment in f, of flow s, is inside the windows, and moves them.
func (w *windows) accept(f *frame.Frame, s *flow, dry bool) bool {
	mu := &w.locks[f.Flow%uint32(len(w.locks))]
	mu.Lock()
	defer mu.Unlock()
	side := w.state[f.Flow]
	l4 := f.Payload()
	if fl := l4[13]; fl&(frame.FlagSYN|frame.FlagACK) == frame.FlagSYN && f.Dir == 0 {
		if st := tcpState(s.state.Load() & stateMask); st == tcpTimeWait || st == tcpClose {
			side = [2]window{} // the tuple is used again
		}
	}
	ok := follow(&side[f.Dir], &side[1-f.Dir], l4)
	if ok && !dry {
		w.state[f.Flow] = side
	}
	return ok
}

func before(a, b uint32) bool { return int32(a-b) < 0 }

// maxAckWindow is the least by which an acknowledgement may be behind.
const maxAckWindow = 66000

// follow judges a segment that from sends to to.
func follow(from, to *window, l4 []byte) bool {
	flags, header := l4[13], int(l4[12]>>4)*4
	seq, ack := binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:])
	win := uint32(binary.BigEndian.Uint16(l4[14:]))
	end := seq + uint32(len(l4)-header)
	if flags&frame.FlagSYN != 0 {
		end++
	}
	if flags&frame.FlagFIN != 0 {
		end++
	}
	if flags&frame.FlagSYN == 0 && from.scales && to.scales {
		win <<= from.scale
	}
	if from.maxWin == 0 {
		from.end, from.maxEnd, from.maxWin = end, end, max(win, 1)
		if flags&frame.FlagSYN != 0 {
			from.scale, from.scales = windowScale(l4[frame.TCPLen:header])
		} else {
			from.maxEnd = end + from.maxWin // picked up in the middle
		}
		if to.maxWin == 0 {
			to.end, to.maxEnd = ack, ack+win
			return true
		}
	}
	if flags&frame.FlagACK == 0 {
		ack = to.end
	}
	if seq == end && flags&frame.FlagRST != 0 && seq == 0 {
		seq, end = from.end, from.end // answer to a SYN (RFC 9293, 3.10.7.1)
	}
	behind := max(to.maxWin, 1)
	if before(from.maxEnd, seq) || before(end, from.end-behind) && to.maxWin > 0 ||
		before(to.end, ack) && to.maxWin > 0 || before(ack, to.end-max(from.maxWin, maxAckWindow)) {
		return false
	}
	if before(from.end, end) {
		from.end = end
		if before(from.maxEnd, end) {
			from.maxEnd = end
		}
	}
	from.maxWin = max(from.maxWin, win)
	if flags&frame.FlagACK != 0 {
		if limit := ack + max(win, 1); before(to.maxEnd, limit) {
			to.maxEnd = limit
		}
	}
	return true
}

// windowScale reads the option (RFC 7323, 2.2).
func windowScale(opt []byte) (uint8, bool) {
	for len(opt) > 0 && opt[0] != frame.OptEnd {
		if opt[0] == frame.OptNop {
			opt = opt[1:]
			continue
		}
		if len(opt) < 2 || opt[1] < 2 || int(opt[1]) > len(opt) {
			break
		}
		if opt[0] == frame.OptWScale && opt[1] == 3 {
			return min(opt[2], 14), true
		}
		opt = opt[opt[1]:]
	}
	return 0, false
}
