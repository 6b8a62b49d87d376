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
// as its segments. After a pause it passes, unless its copies are more than those of a whole second.
//
//uvswitch:hot
func (s *storm) take(f *frame.Frame, now int64, limit uint32, ports int) bool {
	paid, segments := &s.frames[f.Class], int64(f.SegmentCount())
	copies := int64(ports) * segments * int64(time.Second) / copiesPerSecond
	switch {
	case limit != 0 && *paid-now > stormBurst, s.copies-now > stormBurst:
		return false
	case copies > stormBurst && (s.copies > now || copies > int64(time.Second)):
		return false
	}
	s.copies = max(s.copies, now) + copies
	if limit != 0 {
		*paid = max(*paid, now) + segments*int64(time.Second)/int64(limit)
	}
	return true
}
