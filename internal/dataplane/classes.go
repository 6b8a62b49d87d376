package dataplane

import (
	"cmp"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A port is of one of these classes, which a worker finds out from what the port does:
//
//   - A port is loud if it has many frames in a batch, or half of an equal part of the frames in a row of busy batches, or many bytes in a row
//     of batches, and costs at least half of what loud ports do in the mean.
//   - A loud port floods if its device drops as many of its frames as the worker reads, and reading all of them would take more than an equal part of half
//     of the time, and at most a quarter: its sender does not become slower, as TCP does. All ports whose devices drop so many have equal parts; what
//     one of them does not want is for the others. A port floods, too, if its frames are refused.
//   - Not every device tells what it drops (frame.Offerer). A loud port of such a device is dense, unless its frames are few and long. So is the second
//     queue of the uplink.
//   - All other ports are quiet.
//
// Ports of a higher class wait for the sake of those of a lower one. To decide who must wait, a port has the highest class that it had in the last
// second.
const (
	busyBatch    = frame.BatchSize / 2 // frames: many ports may have some
	loudRow      = 8                   // busy batches with frames of a port, one after another
	loudFrames   = 8                   // of a port in a batch; a super-frame counts for one more
	loudSize     = 128                 // with so many segments
	longBytes    = 96 << 10            // of a port in a batch
	longLeast    = 32                  // such batches, as a rule one after another: a TCP stream pauses between its bursts
	frameCost    = 3072                // bytes: what a frame costs besides, however short it is
	costWindows  = 8                   // over so many turnWindows, costs are summed
	loudTime     = 10 * turnWindow
	quietTime    = 10 * loudTime // after it was loud, a port is one like others again
	queueLength  = 1000          // frames that wait in a device, as a rule
	droppedLeast = 64            // frames that a device has dropped in costWindows
	floodTime    = 2             // ports whose devices drop much have one part in so many of the time
	timeCost     = 3             // bytes that are carried in a ns, with frameCost for each frame
)

type class uint8

const (
	quiet class = iota
	loud
	dense
	flooding
	classes
)

// oneInMost: ports of a class get at least one part in so many of the time.
var oneInMost = [classes]int64{loud: 4, dense: 16, flooding: 64}

// A device has a queue of the frames that its owner sends. No more than queueLength wait there, so the others were dropped.
type device struct {
	offered, frames, bytes uint64 // until the last window: frames that the owner has sent; frames, and their bytes, that were read
	waiting                uint64 // frames, then
	dropped, read          uint64 // frames, in the last costWindows
	cost                   uint64 // of a frame, in the mean, as turns.cost
	known                  bool
}

// wants begins a window, and returns how much time, in ns, reading all frames of the last one would have taken; 0, if the device has dropped fewer than
// were read.
func (d *device) wants(offered, frames, bytes uint64) (ns int64) {
	if d.known {
		came, read := offered-d.offered, frames-d.frames
		if read > 0 {
			d.cost = (bytes-d.bytes)/read + frameCost
		}
		d.waiting += came
		d.waiting -= min(read, d.waiting)
		dropped := d.waiting - min(queueLength, d.waiting)
		d.waiting -= dropped
		d.dropped += dropped - d.dropped/costWindows
		d.read += read - d.read/costWindows
		if d.dropped >= max(droppedLeast, d.read) {
			ns = int64(came * d.cost / timeCost)
		}
	}
	d.offered, d.frames, d.bytes, d.known = offered, frames, bytes, true
	return ns
}

// A loser is a port whose device drops as many frames as the worker reads.
type loser struct {
	id    frame.PortID
	wants int64 // ns in the last window
}

func byWants(a, b loser) int { return cmp.Compare(a.wants, b.wants) }

// findFloods finds which of the losers flood, in a window of so many ns.
//
//uvswitch:hot
func (t *turns) findFloods(now, took int64) {
	slices.SortFunc(t.losers, byWants)
	left := took / floodTime
	for i, l := range t.losers {
		part := left / int64(len(t.losers)-i)
		if l.wants >= min(part, took/floodTime/2) {
			t.flooding[l.id], t.until = now+loudTime, now+loudTime
		}
		left -= min(l.wants, part)
	}
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

// servesOthers notes for which classes a frame of the batch goes from one other port, or from the uplink, to another one: it is no answer to a
// flood.
//
//uvswitch:hot
func (t *turns) servesOthers(b *frame.Batch, now int64) {
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.ToPort {
			continue
		}
		of := t.classWith(f.Out%frame.MaxPorts, now)
		if f.Net != frame.NoNet {
			of = max(of, t.classWith(f.In%frame.MaxPorts, now))
		}
		for c := of + 1; c < classes; c++ {
			t.others[c] = true
		}
		if of == quiet {
			return
		}
	}
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

// classOf returns the class of a port, which it keeps for a time after it was seen to have it. A port that costs much less than loud ports do is
// quiet, unless it floods.
//
//uvswitch:hot
func (t *turns) classOf(id frame.PortID, now, after int64) class {
	switch {
	case now < t.flooding[id]+after:
		return flooding
	case now >= t.loud[id]+after || t.cost[id] < t.mean/2:
		return quiet
	case now < t.dense[id]+after:
		return dense
	}
	return loud
}

// classWith returns the class that a port has had; that of the bulk queue, if the port receives what is in it.
//
//uvswitch:hot
func (t *turns) classWith(id frame.PortID, now int64) class {
	of := t.classOf(id, now, quietTime)
	if now < t.bulkTo[id] {
		of = max(of, t.classOf(frame.Bulk, now, quietTime))
	}
	return of
}

// wants returns how much time the frames of a port would have taken since the last call; 0, if its device has dropped few.
func (w *worker) wants(id frame.PortID) int64 {
	d := w.dp.offererOf(id)
	if d == nil {
		return 0
	}
	offered, _ := d.Offered()
	frames, bytes := w.dp.readFrom(id)
	return w.turns.devices[id].wants(offered, frames, bytes)
}
