package wire

import (
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
)

type pollerInterface = dataplane.Poller

// loopPoller reads the same frame again and again and counts what is sent.
type loopPoller struct {
	raw, buf []byte
	port     frame.PortID
	sent     int
}

func (l *loopPoller) Poll(b *frame.Batch) error {
	copy(l.buf, l.raw)
	b.Frames[0].Reset(l.buf, l.port)
	b.N = 1
	return nil
}

func (l *loopPoller) Send(frame.PortID, *frame.Frame)          { l.sent++ }
func (l *loopPoller) Add(frame.PortID, frame.Conn, bool) error { return nil }
func (l *loopPoller) Remove(frame.PortID)                      {}
func (l *loopPoller) Wake()                                    {}
func (l *loopPoller) Close() error                             { return nil }
