package cli

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/capture"
)

// The older pcap format, with timestamps in nanoseconds, in little-endian byte order. Source: draft-ietf-opsawg-pcap.

func pcapHead(snap int) []byte {
	if snap <= 0 {
		snap = 262144
	}
	e := binary.LittleEndian
	b := e.AppendUint32(nil, 0xa1b23c4d)
	b = e.AppendUint16(e.AppendUint16(b, 2), 4)
	b = append(b, make([]byte, 8)...)
	return e.AppendUint32(e.AppendUint32(b, uint32(snap)), 1) // link type: Ethernet
}

func pcapPacket(p *capture.Packet) []byte {
	e := binary.LittleEndian
	b := e.AppendUint32(nil, uint32(p.Time.Unix()))
	b = e.AppendUint32(b, uint32(p.Time.Nanosecond()))
	b = e.AppendUint32(b, uint32(len(p.Data)))
	b = e.AppendUint32(b, uint32(p.Length))
	return append(b, p.Data...)
}
