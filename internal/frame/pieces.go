package frame

import "encoding/binary"

// Pieces cuts an IPv4 packet into fragments that fit an MTU (RFC 791, 3.2). A packet that is a fragment itself is cut further.
//
//	p := NewPieces(f, mtu)
//	for raw := p.Next(buf); raw != nil; raw = p.Next(buf) { send(raw) }
type Pieces struct {
	eth     []byte // Ethernet header, with its tags
	payload []byte
	header  [MaxIPv4Len]byte
	hl      int
	mtu     int
	at      int // next byte of payload
	base    int // offset of payload in its packet
	more    bool
}

// MaxIPv4Len is the length of the longest IPv4 header, in bytes.
const MaxIPv4Len = 60

// NewPieces begins. f must be IPv4, sound and not a super-frame. A partial checksum is completed in the frame's bytes. ok is false if
// no fragment fits mtu bytes.
func NewPieces(f *Frame, mtu int) (p Pieces, ok bool) {
	if h := f.Vnet(); h.NeedsCsum() {
		s := Segments{out: f.Bytes(), start: int(h.CsumStart()), field: int(h.CsumStart()) + int(h.CsumOffset())}
		s.complete(Sum(s.out[s.start:], 0))
		h.Set(0, GSONone, 0, 0, 0, 0)
	}
	ip := f.IPv4()[:f.IPv4().TotalLen()]
	hl := ip.HeaderLen()
	p = Pieces{eth: f.Bytes()[:f.L3], payload: ip[hl:], hl: hl, mtu: mtu, base: ip.FragOffset(), more: ip.MoreFrags()}
	copy(p.header[:], ip[:hl])
	return p, mtu >= hl+8
}

// Next writes the next fragment to buf, which must have room for it with its virtio-net and Ethernet headers, and returns it; nil after
// the last one.
func (p *Pieces) Next(buf []byte) []byte {
	if p.at >= len(p.payload) {
		return nil
	}
	n := len(p.payload) - p.at
	if p.hl+n > p.mtu {
		n = (p.mtu - p.hl) &^ 7
	}
	clear(buf[:VnetLen])
	end := VnetLen + copy(buf[VnetLen:], p.eth)
	h := IPv4(buf[end:])
	end += copy(h, p.header[:p.hl])
	end += copy(buf[end:], p.payload[p.at:p.at+n])
	word := uint16((p.base + p.at) / 8)
	if p.more || p.at+n < len(p.payload) {
		word |= 0x2000
	}
	binary.BigEndian.PutUint16(h[2:], uint16(p.hl+n))
	binary.BigEndian.PutUint16(h[6:], word)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^Sum(h[:p.hl], 0))
	if p.at == 0 {
		p.laterHeader()
	}
	p.at += n
	return buf[:end]
}

// CutPieces returns all fragments of f, each in memory of its own; none if no fragment fits mtu bytes. See NewPieces.
func CutPieces(f *Frame, mtu int) (all [][]byte) {
	p, ok := NewPieces(f, mtu)
	if !ok {
		return nil
	}
	for raw := p.Next(make([]byte, len(f.raw))); raw != nil; raw = p.Next(make([]byte, len(f.raw))) {
		all = append(all, raw)
	}
	return all
}

// CutPieces6 is CutPieces for an IPv6 packet of our own, without extension headers: only the source of a packet cuts it (RFC 8200, 4.5). id
// is its identification.
func CutPieces6(f *Frame, mtu int, id uint32) (all [][]byte) {
	head, payload := f.raw[:VnetLen+int(f.L4)], f.Payload()
	most := (mtu - IPv6Len - fragmentLen) &^ 7
	for at := 0; at < len(payload); at += most {
		n := min(most, len(payload)-at)
		word := uint16(at)
		if at+n < len(payload) {
			word |= 1
		}
		raw := append(make([]byte, 0, len(head)+fragmentLen+n), head...)
		ip := IPv6(raw[VnetLen+int(f.L3):])
		raw = append(raw, ip[6], 0)
		raw = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(raw, word), id)
		raw = append(raw, payload[at:at+n]...)
		ip[6] = ExtFragment
		binary.BigEndian.PutUint16(ip[4:], uint16(fragmentLen+n))
		all = append(all, raw)
	}
	return all
}

// laterHeader makes the IP header that of the fragments after the first: of the options it keeps those with the copied
// flag (RFC 791, 3.1).
func (p *Pieces) laterHeader() {
	options := p.header[IPv4Len:p.hl]
	kept := IPv4Len
	for at := 0; ; {
		kind, n := NextOption(options[at:])
		if n <= 0 {
			break
		}
		if kind&0x80 != 0 {
			kept += copy(p.header[kept:], options[at:at+n])
		}
		at += n
	}
	for ; kept%4 != 0; kept++ {
		p.header[kept] = 0
	}
	p.hl = kept
	p.header[0] = 0x40 | uint8(kept/4)
}
