package dataplane

import (
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A flood costs one write for each port of the network, and these are made at the cost of all ports that the worker reads. So what one
// port may have flooded is limited: frames of each class by the port's settings, and copies of all classes together.

const (
	copiesPerSecond = 50000
	stormBurst      = int64(250 * time.Millisecond) // what may be flooded at once after a pause
)

// A storm is the state of one port's limits: for each class, and for copies, the time until which the frames flooded so far have used the
// limit, in ns of the data plane's clock (see bucket). Only the worker that reads the port uses it.
type storm struct {
	frames [frame.FloodClasses]int64
	copies int64
}

// take reports whether frame f may be flooded to so many ports, and counts it. limit is for frames of its class; 0: no limit. A super-frame costs as much
// as its segments: it may be too much at any time.
//
//uvswitch:hot
func (s *storm) take(f *frame.Frame, now int64, limit uint32, ports int) bool {
	paid, segments := &s.frames[f.Class], int64(f.SegmentCount())
	copies, frames := max(s.copies, now)+int64(ports)*segments*int64(time.Second)/copiesPerSecond, max(*paid, now)
	if limit != 0 {
		frames += segments * int64(time.Second) / int64(limit)
	}
	if copies-now > stormBurst || limit != 0 && frames-now > max(stormBurst, int64(time.Second)/int64(max(limit, 1))) { // a limit below four in a second lets one frame pass
		return false
	}
	s.copies, *paid = copies, frames
	return true
}
