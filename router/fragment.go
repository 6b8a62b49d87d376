package router

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// fragment replaces p with fragments that fit mtu bytes (RFC 791, 3.2). It returns false, without an effect, if DF is
// set, or if the packet or mtu does not allow fragments. A super-frame is segmented first.
func (r *Router) fragment(p PuntedFrame, mtu int, out Output) bool {
	f := p.f
	if f.Verdict == frame.Drop || f.Malformed != frame.None || f.Flags&(frame.IsIPv4|frame.HasVLAN) != frame.IsIPv4 || f.IPv4().DontFrag() {
		return false
	}
	if hl := f.IPv4().HeaderLen(); mtu < hl+8 {
		return false
	}
	buf := make([]byte, f.Len())
	for s := frame.NewSegments(f); s.Next(buf); {
		eth := s.Bytes()
		ip := frame.IPv4(eth[frame.EthernetLen:])
		fragmentOne(eth[:frame.EthernetLen], ip[:ip.TotalLen()], mtu, func(raw []byte) { out.Reroute(p, raw) })
	}
	return true
}

// fragmentOne cuts one IP packet into fragments and calls emit for each, with a virtio-net and an Ethernet header.
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

// laterHeader returns the IP header for the fragments after the first: of the options it keeps those with the copied
// flag (RFC 791, 3.1).
func laterHeader(h []byte) []byte {
	out := append([]byte(nil), h[:frame.IPv4Len]...)
	for opt := h[frame.IPv4Len:]; ; {
		kind, n := frame.NextOption(opt)
		if n <= 0 {
			break
		}
		if kind&0x80 != 0 {
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
