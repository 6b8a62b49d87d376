package dataplane

import "github.com/uvswitch/uvswitch/internal/frame"

// A Poller is one worker's I/O: the ports it reads, and every port it may write. All methods but Wake are called
// by that worker only.
//
// The bytes of the frames that Poll puts into a batch are the Poller's; they are valid until the next Poll. The bytes
// of a frame given to Send are read until the next Poll returns and must not change until then, whoever owns them: so
// one frame can be sent to many ports. The Frame itself may be used for another at once.
type Poller interface {
	// Add makes a port known for Send, and reads it unless read is NotRead.
	Add(id frame.PortID, c frame.Conn, read frame.Reading) error
	// Remove forgets a port; unknown ones are ignored. The Conn stays open: it is the caller's.
	Remove(id frame.PortID)
	// Pause stops to read a port: its frames wait in its device. Resume reads it again.
	Pause(id frame.PortID)
	Resume(id frame.PortID)
	// Yield stops to read a port, which stays known for Send. It reports whether all frames of the port that were read have been returned by
	// Poll, and whether what was sent has left: if not, it is called again after the next Poll. Frames to a slow receiver may leave later. Take
	// reads a port again.
	Yield(id frame.PortID) bool
	Take(id frame.PortID, read frame.Reading) error
	// CPUTime is for how long the calling thread has run, and CPUWait for how long it was ready and waited for a CPU; in ns. 0: not known.
	CPUTime() int64
	CPUWait() int64
	// Hurry asks for a higher priority of the calling thread, or for the usual one again.
	Hurry(on bool)
	// Counts are what the Poller has done, and what the calling thread has used.
	Counts() frame.IOCounts
	// Poll flushes what was sent, waits for a first frame, a failure or Wake, and takes what is there without
	// waiting longer. It fills Frames, N, Failed, Gone; each frame has its bytes and In.
	Poll(b *frame.Batch) error
	// Send never waits. What the port does not take is reported by a later Poll.
	Send(id frame.PortID, f *frame.Frame)
	// Wake makes a waiting Poll, or the next one, return. It may be called by any goroutine.
	Wake()
	// Close gives back what the Poller holds; not the ports.
	Close() error
}
