package dataplane

import (
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A flood costs one write for each port of the network, and these are made at the cost of all ports that the worker reads. So what one
// port may have flooded is limited: frames of each class by the port's settings, and copies of all classes together. If more than copiesOfAll ports of
// a worker flood much, they share copiesOfAll times copiesPerSecond.

const (
	copiesPerSecond = 50000                         // of a port,
	copiesLeast     = copiesPerSecond / 16          // and at least so many
	copiesOfAll     = 2                             // times as many, of all ports of a worker that flood much
	stormBurst      = int64(250 * time.Millisecond) // what may be flooded at once after a pause
	muchCopies      = copiesLeast / 4               // more of them in a time of stormBurst are much,
	muchFrames      = 32                            // if they are those of more frames than these
)

// A stormCount is how many ports flood much.
type stormCount struct {
	ports, soFar int64 // in the last time of stormBurst, and in the present one,
	ends         int64 // which ends then
	number       uint32
}

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

// A storm is the state of one port's limits: for each class, and for copies, the time until which the frames flooded so far have used the
// limit, in ns of the data plane's clock (see bucket). Only the worker that reads the port uses it.
type storm struct {
	frames [frame.FloodClasses]int64
	copies int64
	wanted int64  // copies, with those that were refused
	number uint32 // the stormCount.number that wanted belongs to
}

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
	much := max(muchCopies, muchFrames*int64(ports))
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
	}
	s.copies = max(s.copies, now) + copies
	if limit != 0 {
		*paid = max(*paid, now) + segments*int64(time.Second)/int64(limit)
	}
	return true
}
