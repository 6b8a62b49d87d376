package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// StormLimits are how many frames of each class of flood a port may send in a second; 0: any number. A super-frame counts as its
// segments.
type StormLimits [frame.FloodClasses]uint32

// DefaultStormLimits are those of a new port.
var DefaultStormLimits = StormLimits{frame.UnknownUnicast: 1000, frame.Broadcast: 1000, frame.Multicast: 10000}

// StormLimit is the limit for flooded frame f at the port that it came from.
//
//uvswitch:hot
func (s *Switch) StormLimit(f *frame.Frame) uint32 {
	if p := s.snap.Load().port(f.In); p != nil {
		return p.Storm[f.Class]
	}
	return 0
}
