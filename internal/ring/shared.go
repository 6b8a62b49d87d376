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

// Reserve is Queue.Reserve for a record in the share of port id.
//
//uvswitch:hot
func (s *Shared) Reserve(id frame.PortID, n int) []byte {
	if id >= frame.MaxPorts {
		id = frame.NoPort
	}
	if s.Shares.Held(id)+space(n) > s.Shares.Most(id) {
		return nil
	}
	rec := s.Queue.Reserve(n)
	if rec != nil {
		binary.NativeEndian.PutUint16(s.buf[s.head.Load()&s.mask+holderAt:], uint16(id))
	}
	return rec
}

// Commit is Queue.Commit. Only now the record counts against the share: what is reserved may be given up.
//
//uvswitch:hot
func (s *Shared) Commit() {
	id, n := s.holder(s.head.Load())
	s.Shares.ChargeMany(id, n)
	s.Queue.Commit()
}

// Release is Queue.Release.
//
//uvswitch:hot
func (s *Shared) Release() {
	id, n := s.holder(s.tail.Load())
	s.Shares.ReturnMany(id, n)
	s.Queue.Release()
}

// holder returns the port in whose share a record is, and the space of the record.
//
//uvswitch:hot
func (s *Shared) holder(at uint64) (frame.PortID, int) {
	b := s.buf[at&s.mask:]
	return frame.PortID(binary.NativeEndian.Uint16(b[holderAt:])), space(int(binary.NativeEndian.Uint32(b)))
}
