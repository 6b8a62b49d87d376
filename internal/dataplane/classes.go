package dataplane

import "github.com/uvswitch/uvswitch/internal/frame"

// A port is of one of these classes, which a worker finds out from what the port does:
//
//   - A port is loud if it has many frames in a batch, or half of an equal part of the frames in a row of busy batches, or many bytes in a row
//     of batches, and costs at least half of what loud ports do in the mean.
//   - A loud port floods if its device drops as many of its frames as the worker reads, and reading all of them would take some quarter of the
//     worker's time: its sender does not become slower, as TCP does, and takes more than its part. A port floods, too, if its frames are refused.
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
	floodTime    = 4             // a part of the time: one in so many
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

// floods begins a window, and reports whether the owner has flooded in the last one, which took so many ns.
func (d *device) floods(offered, frames, bytes uint64, took int64) (floods bool) {
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
		floods = d.dropped >= max(droppedLeast, d.read) && came*d.cost >= uint64(took)*timeCost/floodTime
	}
	d.offered, d.frames, d.bytes, d.known = offered, frames, bytes, true
	return floods
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

// floods reports whether the owner of a port's device has flooded since the last call, took ns ago.
func (w *worker) floods(id frame.PortID, took int64) bool {
	d := w.dp.offererOf(id)
	if d == nil {
		return false
	}
	offered, _ := d.Offered()
	frames, bytes := w.dp.readFrom(id)
	return w.turns.devices[id].floods(offered, frames, bytes, took)
}
