package dataplane

import (
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A flood costs one write for each port of the network, and these are made at the cost of all ports that the worker reads. So what one
// port may have flooded is limited: frames of each class by the port's settings, and copies of all classes together. If more than copiesOfAll ports of
// a worker flood much, they share copiesOfAll times copiesPerSecond. They have fewer if these would take more than a quarter of the time that
// the worker gets on a CPU.

const (
	copiesPerSecond = 50000                         // limit of one port
	copiesLeast     = copiesPerSecond / 16          // the least that this limit becomes beside other ports, while CPU time is not scarce
	copiesOfAll     = 2                             // limit of all ports of a worker that flood much, in multiples of copiesPerSecond
	copiesOneIn     = 4                             // copies of ports that flood much take at most one part in so many of the worker's time
	costCopies      = 64                            // the cost of a copy is measured in batches with at least so many
	hasWindows      = 32                            // turnWindows over which ran and wanted are means: a thread may wait for a CPU for all of some windows
	stormBurst      = int64(250 * time.Millisecond) // so much of a limit may be used at once after a pause
	muchCopies      = copiesLeast / 4               // a port floods much if it has more copies than these in stormBurst,
	muchFrames      = 32                            // of more frames than these,
	scarceFrames    = 4                             // or of more frames than these while CPU time is scarce
	longestDebt     = int64(16 * time.Second)       // the longest time for which a port may flood nothing, since it has flooded much
)

// A stormCount is how many ports flood much.
type stormCount struct {
	ports, soFar int64 // in the last time of stormBurst, and in the present one,
	ends         int64 // which ends then
	number       uint32

	copies int64 // since the last Poll
	cost   int64 // of a copy, in ns of CPU time, in the mean; 0: not known
	most   int64 // copies in a second of all ports that flood much; 0: copiesOfAll times copiesPerSecond
	ran    int64 // ns on a CPU, in the last hasWindows,
	wanted int64 // and ns that the worker wanted to be on one
}

// took notes the CPU time from Poll to Poll, in ns.
//
//uvswitch:hot
func (c *stormCount) took(ns int64) {
	if c.copies >= costCopies {
		if of := ns / c.copies; c.cost == 0 {
			c.cost = of
		} else {
			c.cost += (of - c.cost) / 8
		}
	}
	c.copies = 0
}

// has notes how long the worker was on a CPU, and how long it wanted to be, in a window.
//
//uvswitch:hot
func (c *stormCount) has(ran, wanted int64) {
	c.ran += ran - c.ran/hasWindows
	c.wanted += wanted - c.wanted/hasWindows
	if c.cost > 0 && c.wanted > 0 {
		c.most = max(1, int64(time.Second)/copiesOneIn*c.ran/c.wanted/c.cost)
	}
}

// forget forgets how much time there is for copies: CPU time is not scarce any more.
func (c *stormCount) forget() { c.most, c.ran, c.wanted = 0, 0, 0 }

// at moves on to the present time.
//
//uvswitch:hot
func (c *stormCount) at(now int64) {
	if now < c.ends {
		return
	}
	if c.ports = c.soFar; now-c.ends >= stormBurst {
		c.ports = 0
	}
	c.soFar, c.ends, c.number = 0, now+stormBurst, c.number+1
}

// isScarce reports whether all the copies that there may be would take too much time.
//
//uvswitch:hot
func (c *stormCount) isScarce() bool { return c.most > 0 && c.most < copiesOfAll*copiesPerSecond }

// much is how many copies of a port in a time of stormBurst are not much, for a flood to so many ports.
//
//uvswitch:hot
func (c *stormCount) much(ports int64) int64 {
	if c.isScarce() {
		return max(muchCopies*c.most/(copiesOfAll*copiesPerSecond), scarceFrames*ports)
	}
	return max(muchCopies, muchFrames*ports)
}

// A storm is the state of one port's limits: for each class, and for copies, the time until which the frames flooded so far have used the
// limit, in ns of the data plane's clock (see bucket). Only the worker that reads the port uses it.
type storm struct {
	frames [frame.FloodClasses]int64
	copies int64
	wanted int64  // copies, with those that were refused
	number uint32 // the stormCount.number that wanted belongs to
}

// owes is what counts at another worker, too: not what belongs to this worker's stormCount.
func (s *storm) owes() storm { return storm{frames: s.frames, copies: s.copies} }

// take reports whether frame f may be flooded to so many ports, and counts it. limit is for frames of its class; 0: no limit. A super-frame costs as much
// as its segments. After a pause it passes, unless its copies are more than those of a whole second.
//
//uvswitch:hot
func (s *storm) take(f *frame.Frame, now int64, limit uint32, ports int, c *stormCount) bool {
	paid, segments := &s.frames[f.Class], int64(f.SegmentCount())
	copies := int64(ports) * segments
	if c.at(now); s.number != c.number {
		s.number, s.wanted = c.number, 0
	}
	s.wanted += copies
	much := c.much(int64(ports))
	if s.wanted > much && s.wanted-copies <= much {
		c.soFar++
	}
	copies *= int64(time.Second) / copiesPerSecond
	switch {
	case limit != 0 && *paid-now > stormBurst, s.copies-now > stormBurst:
		return false
	case copies > stormBurst && (s.copies > now || copies > int64(time.Second)):
		return false
	}
	if s.wanted > much {
		copies = max(copies, copies*min(max(c.ports, c.soFar), copiesOfAll*copiesPerSecond/copiesLeast)/copiesOfAll)
		if c.isScarce() {
			copies = copies * copiesOfAll * copiesPerSecond / c.most
		}
	}
	s.copies = min(max(s.copies, now)+copies, now+longestDebt)
	if limit != 0 {
		*paid = max(*paid, now) + segments*int64(time.Second)/int64(limit)
	}
	return true
}
