package nat

import (
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// windows tracks the sequence numbers of TCP connections, so that segments outside the receive window are dropped
// (nat.windows: strict). The bounds are those of "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij, 2000),
// as in linux net/netfilter/nf_conntrack_proto_tcp.c. A segment changes the windows of both ends, so this takes one
// of 256 locks; it is off by default.
type windows struct {
	locks [256]sync.Mutex // Lock 76: by flow
	state [][2]window     // by flow and direction
}

// window is the range of sequence numbers that one end has sent and may send.
type window struct {
	end    uint32 // highest sequence number that it has sent, +1
	maxEnd uint32 // highest that it may send, +1: last acknowledgement plus window of the other end
	maxWin uint32 // largest window that it has offered, bytes; 0: no segment from it yet
	scale  uint8
	scales bool // it has sent the window scale option
}

func newWindows(n int) *windows { return &windows{state: make([][2]window, n)} }

func (w *windows) clear(e uint32) { w.state[e] = [2]window{} }

// accept reports whether the segment in f, of flow s, is inside the windows. If it is, accept updates the windows,
// but not in a dry run.
func (w *windows) accept(f *frame.Frame, s *flow, dry bool) bool {
	mu := &w.locks[f.Flow%uint32(len(w.locks))]
	mu.Lock()
	defer mu.Unlock()
	side := w.state[f.Flow]
	h := f.TCP()
	ok := advanceWindows(&side[f.Dir], &side[1-f.Dir], h)
	if ok && !dry {
		w.state[f.Flow] = side
	}
	return ok
}

func before(a, b uint32) bool { return int32(a-b) < 0 }

// maxAckWindow is how far, in bytes, an acknowledgement may always be behind, even with smaller windows.
const maxAckWindow = 66000

// advanceWindows reports whether a segment that end from sends to end to is inside the windows, and updates them.
func advanceWindows(from, to *window, h frame.TCPHeader) bool {
	flags, seq, ack, win := h.Flags(), h.Seq(), h.Ack(), uint32(h.Window())
	end := seq + uint32(len(h)-h.HeaderLen())
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
			from.scale, from.scales = windowScale(h.Options())
		} else {
			from.maxEnd = end + from.maxWin // the connection began before tracking did
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

// windowScale returns the shift of the window scale option (RFC 7323, 2.2), at most 14; false if opt has none.
func windowScale(options []byte) (uint8, bool) {
	for {
		kind, n := frame.NextOption(options)
		if n <= 0 {
			return 0, false
		}
		if kind == frame.OptWScale && n == 3 {
			return min(options[2], 14), true
		}
		options = options[n:]
	}
}
