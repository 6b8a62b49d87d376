package vswitch

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Question is an address for which a station has asked by ARP or neighbor discovery. Nobody has answered since First.
type Question struct {
	Addr        netip.Addr
	First, Last frame.Tick
	Count       uint32
}

const (
	maxQuestions = 8                         // of one port
	questionTime = 60 * frame.TicksPerSecond // a question that is not asked again for so long is forgotten
	answerTime   = frame.TicksPerSecond      // an answer may take so long
)

// questions are the unanswered questions of each port. The oldest one of a port gives way to a new one.
type questions [frame.MaxPorts]struct {
	mu   sync.Mutex // Lock 67: a worker does not wait for it; if it is taken, the worker drops the question or the answer
	list [maxQuestions]question
}

// question is a Question with the address as frames have it; IPv4 in the low word, with a zero high one.
type question struct {
	addr        frame.Addr6
	first, last frame.Tick
	count       uint32 // 0: none
}

// note notes that the station behind port id asks for an address.
func (t *questions) note(id frame.PortID, a frame.Addr6, now frame.Tick) {
	q := &t[id]
	if !q.mu.TryLock() {
		return
	}
	defer q.mu.Unlock()
	oldest := &q.list[0]
	for i := range q.list {
		switch x := &q.list[i]; {
		case x.count > 0 && x.addr == a:
			if now.Since(x.last) > questionTime {
				x.first, x.count = now, 0
			}
			x.last = now
			x.count++
			return
		case x.count == 0 || oldest.count > 0 && x.last < oldest.last:
			oldest = x
		}
	}
	*oldest = question{a, now, now, 1}
}

// answer notes that the station behind port id learns who has an address.
func (t *questions) answer(id frame.PortID, a frame.Addr6) {
	q := &t[id]
	if !q.mu.TryLock() {
		return
	}
	defer q.mu.Unlock()
	for i := range q.list {
		if q.list[i].addr == a {
			q.list[i].count = 0
		}
	}
}

// forget removes the questions of a port.
func (t *questions) forget(id frame.PortID) {
	q := &t[id]
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = [maxQuestions]question{}
}

// Unanswered lists the addresses for which the station behind port id has asked in vain in the last minute; the last question comes first.
func (s *Switch) Unanswered(id frame.PortID, now frame.Tick) (out []Question) {
	if int(id) >= len(s.questions) {
		return nil
	}
	q := &s.questions[id]
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, x := range q.list {
		if x.count == 0 || now.Since(x.last) > questionTime || now.Since(x.first) < answerTime {
			continue
		}
		a := x.addr.Netip()
		if x.addr.Hi == 0 {
			a = frame.Addr(x.addr.Lo).Netip()
		}
		out = append(out, Question{a, x.first, x.last, x.count})
	}
	slices.SortFunc(out, func(a, b Question) int { return int(int32(b.Last - a.Last)) })
	return out
}
