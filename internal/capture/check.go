package capture

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxCaptured bounds the length of a frame in a capture file that is read, in bytes. gopacket reserves what a file claims.
const MaxCaptured = 16 << 20

// CheckFile reports a pcapng file that claims a longer block or frame. Of a file in another format, it says nothing. It leaves f at its begin.
//
// Source: draft-ietf-opsawg-pcapng, 3.1 and 4.
func CheckFile(f io.ReadSeeker) (err error) {
	defer func() {
		if _, serr := f.Seek(0, io.SeekStart); err == nil {
			err = serr
		}
	}()
	const section, simple, old, enhanced = 0x0a0d0d0a, 3, 2, 6
	var order binary.ByteOrder
	var b [24]byte // type, length, and what a packet block begins with
	for at := int64(0); ; {
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
		n, _ := io.ReadFull(f, b[:])
		if n < 12 {
			return nil // the end
		}
		switch {
		case binary.LittleEndian.Uint32(b[:]) != section: // the same in both orders
		case binary.LittleEndian.Uint32(b[8:]) == 0x1a2b3c4d:
			order = binary.LittleEndian
		default:
			order = binary.BigEndian
		}
		if order == nil {
			return nil // another format
		}
		length, captured := int64(order.Uint32(b[4:])), uint32(0)
		switch order.Uint32(b[:]) {
		case simple:
			captured = order.Uint32(b[8:])
		case old, enhanced:
			captured = order.Uint32(b[20:])
		}
		if length < 12 || length > MaxCaptured || captured > MaxCaptured {
			return fmt.Errorf("at byte %d, the file claims a block of %d bytes with a frame of %d; `uvswitch trace` reads up to %d", at, length, captured, MaxCaptured)
		}
		at += length
	}
}
