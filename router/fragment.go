package router

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// fragment puts the fragments of p that fit mtu in its place (RFC 791, 3.2); false where DF or the packet forbids it. A
// super-frame is segmented first.
func (r *Router) fragment(p PuntedFrame, mtu int, out Output) bool {
	var f frame.Frame
	f.Reset(p.Raw, p.In)
	frame.Parse(&f)
	if f.Verdict == frame.Drop || f.Malformed != frame.None || f.Flags&(frame.IsIPv4|frame.HasVLAN) != frame.IsIPv4 || f.IPv4().DontFrag() {
		return false
	}
	if hl := f.IPv4().HeaderLen(); mtu < hl+8 {
		return false
	}
	buf := make([]byte, f.Len())
	for s := frame.NewSegments(&f); s.Next(buf); {
		eth := s.Bytes()
		ip := frame.IPv4(eth[frame.EthernetLen:])
		fragmentOne(eth[:frame.EthernetLen], ip[:ip.TotalLen()], mtu, func(raw []byte) { out.Reroute(p, raw) })
	}
	return true
}

// fragmentOne cuts one packet.
func fragmentOne(eth []byte, ip frame.IPv4, mtu int, emit func(raw []byte)) {
	hl := ip.HeaderLen()
	payload, base, more := ip[hl:], ip.FragOffset(), ip.MoreFrags()
	header := append([]byte(nil), ip[:hl]...)
	for at := 0; at < len(payload); {
		n := len(payload) - at
		if len(header)+n > mtu {
			n = (mtu - len(header)) &^ 7
		}
		raw := make([]byte, frame.VnetLen, frame.VnetLen+frame.EthernetLen+len(header)+n)
		raw = append(append(append(raw, eth...), header...), payload[at:at+n]...)
		h := frame.IPv4(raw[frame.VnetLen+frame.EthernetLen:])
		word := uint16((base + at) / 8)
		if more || at+n < len(payload) {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(h[2:], uint16(len(header)+n))
		binary.BigEndian.PutUint16(h[6:], word)
		binary.BigEndian.PutUint16(h[10:], 0)
		binary.BigEndian.PutUint16(h[10:], ^frame.Sum(h[:len(header)], 0))
		emit(raw)
		if at == 0 {
			header = laterHeader(header)
		}
		at += n
	}
}

// laterHeader keeps the options that every fragment carries: those with the copied flag (RFC 791, 3.1).
func laterHeader(h []byte) []byte {
	out := append([]byte(nil), h[:frame.IPv4Len]...)
	for opt := h[frame.IPv4Len:]; len(opt) > 1 && opt[0] != 0; {
		n := 1
		if opt[0] != 1 {
			n = int(opt[1])
		}
		if n < 1 || n > len(opt) || n == 1 && opt[0] != 1 {
			break
		}
		if opt[0]&0x80 != 0 {
			out = append(out, opt[:n]...)
		}
		opt = opt[n:]
	}
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	out[0] = 0x40 | uint8(len(out)/4)
	return out
}
