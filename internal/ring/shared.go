package ring

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// A Shared is a Queue of which each port has a share, in bytes.
type Shared struct {
	*Queue
	Shares share.Pool
}

// NewShared is New. Divide says among whom the queue is shared.
func NewShared(size int) *Shared {
	s := &Shared{Queue: New(size)}
	s.Divide(share.Among{})
	return s
}

// Divide sets who has shares. What belongs to no port has a share, too. An eighth of the buffer is nobody's: where the buffer wraps around, a part
// of it, which is shorter than a record, is not used.
func (s *Shared) Divide(among share.Among) {
	among.Ports++
	s.Shares.Divide(len(s.buf)-len(s.buf)/8, among, 0)
}

// Reserve is Queue.Reserve for a record in the share of port id. Each record must be committed before the next one is reserved.
//
//uvswitch:hot
func (s *Shared) Reserve(id frame.PortID, n int) []byte {
	if id >= frame.MaxPorts {
		id = frame.NoPort
	}
	if !s.Shares.TakeMany(id, space(n)) {
		return nil
	}
	rec := s.Queue.Reserve(n)
	if rec == nil {
		s.Shares.ReturnMany(id, space(n))
		return nil
	}
	binary.NativeEndian.PutUint16(s.buf[s.head.Load()&s.mask+holderAt:], uint16(id))
	return rec
}

// Release is Queue.Release.
//
//uvswitch:hot
func (s *Shared) Release() {
	at := s.tail.Load() & s.mask
	n := int(binary.NativeEndian.Uint32(s.buf[at:]))
	s.Shares.ReturnMany(frame.PortID(binary.NativeEndian.Uint16(s.buf[at+holderAt:])), space(n))
	s.Queue.Release()
}
