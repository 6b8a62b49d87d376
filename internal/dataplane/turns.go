package dataplane

import (
	"math"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A frame costs its worker CPU time, also when it is refused. So a port that floods is paused: it is not read for a while. Its frames wait in
// its device's queue. What does not fit there is dropped by the device, at the cost of the sender.
//
//   - Frames that are refused or need the slow path get a tenth of the worker's time. A port that has refusedLeast of them in a batch pauses
//     for nine times as long as they took. So does a port that has some in a row of batches with refusedLeast of them. A long frame counts for
//     several: a batch has room for a few long frames only.
//   - A port is loud if it has many frames in a batch, or half of an equal part of the frames in a row of busy batches, or many bytes in a row
//     of batches, and costs at least half of what loud ports do in the mean. If other ports have frames, too, and the worker must wait for a CPU
//     or is never idle, loud ports get less and less of its time, down to a sixteenth. They get more and more again, once that has ended.
//     A port is no other one if its frames are refused, or if it has been loud in the last second and does not cost much less than loud ports do.
//
// Ports are paused one after another, so the parts are those of all paused ports together.
const (
	refusedLeast = 8       // refused frames in a batch,
	refusedBytes = 8 << 10 // or so many of these bytes, for one more each
	refusedPart  = 10      // refused frames get this part of the time

	turnWindow  = int64(10 * time.Millisecond)
	busyBatch   = frame.BatchSize / 2  // frames: many ports may have some
	loudRow     = 8                    // busy batches with frames of a port, one after another
	loudFrames  = 8                    // of a port in a batch; a super-frame counts for one more
	loudSize    = 128                  // with so many segments
	longBytes   = frame.BatchBytes / 2 // of a port in a batch
	longLeast   = 32                   // such batches, as a rule one after another: a TCP stream pauses between its bursts
	frameCost   = 3072                 // bytes: what a frame costs besides, however short it is
	costWindows = 8                    // over so many turnWindows, costs are summed
	loudTime    = 10 * turnWindow
	quietTime   = 10 * loudTime // after it was loud, a port is one like others again
	fullPart    = 1             // loud ports get all of the time
	leastPart   = 16            // and at least this part,
	longPart    = 4             // or this one, if their frames are few and long: TCP streams have such frames, too
	longest     = int64(250 * time.Millisecond)
	dearest     = int64(100 * time.Microsecond) // that a frame is charged for: the frames of a batch do not cost the same
)

// turns is what a worker knows of its ports' turns. Times are ns of the data plane's clock.
type turns struct {
	paused []pausedPort // in the order in which they will be read again

	loud       [frame.MaxPorts]int64  // until then, the port is loud, if it costs enough: see isLoud
	batches    uint32                 // that were busy
	row        [frame.MaxPorts]streak // of busy batches with frames of the port
	refusing   uint32                 // batches with many refused frames
	refusedRow [frame.MaxPorts]streak // of these, with such frames of the port
	refused    [frame.MaxPorts]int64  // until then, the port is loud, whatever it costs
	streams    [frame.MaxPorts]bool   // the port is loud only since its frames are long
	long       [frame.MaxPorts]uint8  // batches with longBytes of the port; halved by every other batch with frames of it
	cost       [frame.MaxPorts]int64  // of the ports, in the last costWindows: bytes, and frameCost for each frame
	mean       int64                  // cost of the ports that may be loud, in the mean
	until      int64                  // until then, CPU times are measured: some port has been loud or refused
	others     bool                   // in this window, one other port has sent to another one
	began      int64                  // of the window
	ran        int64                  // CPU time of this thread when the window began; 0: not known
	waited     int64                  // likewise, its CPU wait
	part       int64                  // loud ports get this part of the time: fullPart to leastPart

	debt     [frame.MaxPorts]int64 // ns of a pause that would be too short
	charges  []charge              // of the last batch
	frames   int64                 // in the last batch
	cpu      int64                 // CPU time of this thread when the batch came
	measured bool                  // cpu is known
}

// A streak is a row of batches, of which one may be missing: a port that is read again has no frames in the batch that has just come.
type streak struct {
	last uint32 // number of the last one
	n    uint8  // at most loudRow
}

// add adds the batch with a number to the row, and reports whether the row is long.
//
//uvswitch:hot
func (s *streak) add(number uint32) bool {
	if number-s.last > 2 {
		s.n = 0
	}
	s.last, s.n = number, min(s.n+1, loudRow)
	return s.n == loudRow
}

type pausedPort struct {
	id    frame.PortID
	until int64
}

// A charge is for frames of a port in one batch. Their cost is known after the next Poll, which writes what they have caused: it is the CPU
// time from Poll to Poll, in equal parts for all frames of the batch.
type charge struct {
	id            frame.PortID
	frames, part  int64
	answers, most int64 // frames to the port that are charged, too, and their limit: the port's own frames
}

// settle pauses the ports that are charged for the last batch, and reads paused ports again whose time has come.
//
//uvswitch:hot
func (w *worker) settle(now int64) {
	t := &w.turns
	if measured := t.measured; len(t.charges) > 0 || now < t.until {
		before := t.cpu
		t.cpu, t.measured = w.poller.CPUTime(), true
		for _, c := range t.charges {
			if measured {
				w.pause(c.id, now, (c.part-1)*c.frames*min((t.cpu-before)/t.frames, dearest))
			}
		}
	} else {
		t.measured = false
	}
	n := 0
	for n < len(t.paused) && t.paused[n].until <= now {
		id := t.paused[n].id
		t.row[id].last, t.refusedRow[id].last = t.batches, t.refusing // a pause is no gap
		w.poller.Resume(id)
		n++
	}
	if n > 0 {
		t.paused = t.paused[:copy(t.paused, t.paused[n:])]
	}
}

// pause pauses a port for ns after the pauses of others. A port that had sent one more batch before its pause began pauses for longer.
func (w *worker) pause(id frame.PortID, now, ns int64) {
	t := &w.turns
	if t.debt[id] += ns; t.debt[id] < alarmEvery { // the worker does not wake up more often
		return
	}
	ns, t.debt[id] = t.debt[id], 0
	i := slices.IndexFunc(t.paused, func(p pausedPort) bool { return p.id == id })
	if i < 0 {
		i = len(t.paused)
		from := now
		if i > 0 {
			from = max(from, t.paused[i-1].until)
		}
		t.paused = append(t.paused, pausedPort{id, from})
		if c := w.counters.port(id); c != nil {
			c.pauses.Add(1)
		}
		w.poller.Pause(id)
	}
	for ; i < len(t.paused); i++ {
		t.paused[i].until = min(t.paused[i].until+ns, now+longest)
	}
}

// nextResume is when the first paused port will be read again.
//
//uvswitch:hot
func (t *turns) nextResume() int64 {
	if len(t.paused) == 0 {
		return math.MaxInt64
	}
	return t.paused[0].until
}

// charge notes what the ports of a received batch have sent.
//
//uvswitch:hot
func (w *worker) charge(b *frame.Batch, now int64) {
	t := &w.turns
	t.charges, t.frames = t.charges[:0], int64(b.N)
	busy := b.N >= busyBatch || b.N >= busyBatch/2 && len(t.paused) > 0
	if busy {
		t.batches++
	}
	refusing := w.tally.refusals >= refusedLeast
	if refusing {
		t.refusing++
	}
	for _, id := range w.tally.touched[:w.tally.n] {
		p := &w.tally.ports[id]
		if p.rxPackets == 0 {
			continue
		}
		t.cost[id] += int64(p.rxBytes + frameCost*p.rxPackets)
		many := p.rxPackets+p.segments/loudSize >= loudFrames
		if id == w.uplink { // it carries the frames of many senders: it is never loud and never paused
			if many {
				w.dp.uplinkIsBusy()
			}
			continue
		}
		many = busy && 2*p.rxPackets*w.tally.senders >= uint64(b.N) && t.row[id].add(t.batches) || many
		if long := t.isLong(id, p.rxBytes); long || many {
			t.loud[id], t.until, t.streams[id] = now+loudTime, now+loudTime, !many
		}
		inARow := refusing && p.refused > 0 && t.refusedRow[id].add(t.refusing)
		if (inARow || p.refusals >= refusedLeast) && 2*p.refused >= p.rxPackets {
			t.until, t.refused[id] = now+loudTime, now+loudTime
			t.charges = append(t.charges, charge{id: id, frames: int64(p.refused), part: refusedPart, most: int64(p.refused)})
		} else if t.part > fullPart && t.isLoud(id, now) {
			part := t.part
			if t.streams[id] {
				part = min(part, longPart)
			}
			t.charges = append(t.charges, charge{id: id, frames: int64(p.rxPackets), part: part, most: int64(p.rxPackets)})
		}
	}
	if len(t.charges) > 0 {
		w.chargeAnswers(b)
	}
	if now < t.until && !t.others {
		t.others = t.servesOthers(b, now)
	}
	if now-t.began >= turnWindow {
		w.closeWindow(now)
	}
}

// chargeAnswers charges a port for what the uplink brings it, too: its own frames made others send that.
//
//uvswitch:hot
func (w *worker) chargeAnswers(b *frame.Batch) {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.ToPort || f.Net != frame.NoNet {
			continue
		}
		for k := range w.turns.charges {
			if c := &w.turns.charges[k]; f.Out == c.id && c.answers < c.most {
				c.answers++
				c.frames++
			}
		}
	}
}

// servesOthers reports whether a frame of the batch goes from one other port, or from the uplink, to another one: it is no answer to a flood.
//
//uvswitch:hot
func (t *turns) servesOthers(b *frame.Batch, now int64) bool {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict == frame.ToPort && (f.Net == frame.NoNet || t.isOther(f.In%frame.MaxPorts, now)) && t.isOther(f.Out%frame.MaxPorts, now) {
			return true
		}
	}
	return false
}

// isLong counts a batch with so many bytes of a port, and reports whether the port has many bytes all the time.
//
//uvswitch:hot
func (t *turns) isLong(id frame.PortID, bytes uint64) bool {
	if bytes >= longBytes {
		t.long[id] = min(t.long[id]+1, longLeast)
	} else {
		t.long[id] /= 2
	}
	return t.long[id] == longLeast
}

// isOther reports whether loud ports shall wait for the sake of a port.
//
//uvswitch:hot
func (t *turns) isOther(id frame.PortID, now int64) bool {
	return now >= t.refused[id] && (now >= t.loud[id]+quietTime || t.cost[id] < t.mean/2)
}

// isLoud reports whether a port is loud, and costs at least half of what loud ports do in the mean.
//
//uvswitch:hot
func (t *turns) isLoud(id frame.PortID, now int64) bool {
	return now < t.refused[id] || now < t.loud[id] && t.cost[id] >= t.mean/2
}

// closeWindow sets the part of the loud ports for the next window.
//
//uvswitch:hot
func (w *worker) closeWindow(now int64) {
	t := &w.turns
	if now < t.until {
		ran, waited, took := w.poller.CPUTime(), w.poller.CPUWait(), now-t.began
		isScarce := waited-t.waited > took/8 || ran-t.ran+waited-t.waited > took-took/32
		switch {
		case t.others && isScarce && t.ran != 0:
			t.part = min(leastPart, max(2, 2*t.part))
		case !t.others:
			t.part = max(fullPart, t.part/2)
		case t.part > fullPart:
			t.part--
		}
		t.ran, t.waited = ran, waited
	} else {
		t.part, t.ran = fullPart, 0
	}
	left := int64(1 << 16)
	for range min((now-t.began)/turnWindow, 8*costWindows) {
		left -= left / costWindows
	}
	sum, ports := int64(0), int64(0)
	for id := range t.cost {
		t.cost[id], t.debt[id] = t.cost[id]*left>>16, t.debt[id]*left>>16
		if t.loud[id] > now {
			sum, ports = sum+t.cost[id], ports+1
		}
	}
	t.mean = sum / max(1, ports)
	t.began, t.others = now, false
}

// forget forgets a port that is being removed.
func (t *turns) forget(id frame.PortID) {
	t.paused = slices.DeleteFunc(t.paused, func(p pausedPort) bool { return p.id == id })
	t.charges = slices.DeleteFunc(t.charges, func(c charge) bool { return c.id == id })
	t.loud[id], t.refused[id], t.long[id], t.cost[id], t.debt[id], t.row[id], t.refusedRow[id] = 0, 0, 0, 0, 0, streak{}, streak{}
}

// refused counts a frame of the received batch that cost time for nothing, or for the slow path.
//
//uvswitch:hot
func (w *worker) refused(f *frame.Frame) {
	if w.origin == received {
		weight := uint64(1 + f.Len()/refusedBytes)
		w.tally.ports[f.In].refused++
		w.tally.ports[f.In].refusals += weight
		w.tally.refusals += weight
	}
}

// isRefusal reports whether a drop is to the disadvantage of the frame's sender. A port may always send faster than its rate, and many TCP
// acknowledgements.
//
//uvswitch:hot
func isRefusal(why frame.Reason) bool {
	return why != frame.AckSuperseded && why != frame.RxRateExceeded && why != frame.TxRateExceeded
}
