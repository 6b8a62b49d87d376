package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Block types and options of pcapng.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6
	byteOrderMagic = 0x1a2b3c4d

	optEnd           = 0
	optComment       = 1
	optAppl          = 4
	optName          = 2
	optDescription   = 3
	optTimeResol     = 9
	optPacketFlags   = 2
	optDropCount     = 4
	optPacketID      = 5
	linkTypeEthernet = 1
)

// A Writer writes pcapng in little-endian byte order, with one interface per port and timestamps in nanoseconds. Each packet
// has its direction, its number, a comment that says what became of it, and the number of packets lost before it.
type Writer struct {
	Limit int  // packets to write at most; 0: no limit
	Split bool // segment super-frames and complete partial checksums, as on a physical link

	w          io.Writer
	buf        []byte
	interfaces map[frame.PortID]uint32
	describe   func(frame.PortID) (name, description string)
	segment    []byte
	written    int
}

// NewWriter returns a Writer to w and writes the section header with the name app. describe returns a port's name and
// description.
func NewWriter(w io.Writer, app string, describe func(frame.PortID) (name, description string)) (*Writer, error) {
	p := &Writer{w: w, interfaces: map[frame.PortID]uint32{}, describe: describe}
	p.begin(blockSection)
	p.u32(byteOrderMagic)
	p.u16(1)
	p.u16(0)
	p.u32(0xffffffff) // section length: unknown
	p.u32(0xffffffff)
	p.option(optAppl, []byte(app))
	return p, p.end()
}

// Written returns the number of packets written.
func (p *Writer) Written() int { return p.written }

// Write writes one record, and before it its port's interface, if that is new. lost is the number of records lost before it.
func (p *Writer) Write(r Record, lost uint64) error {
	if p.Split && r.Length == len(r.Data) && r.Vnet.NeedsCsum() {
		var f frame.Frame
		f.Reset(append(append(make([]byte, 0, len(r.Vnet)+len(r.Data)), r.Vnet...), r.Data...), r.In)
		if frame.Parse(&f); f.Verdict != frame.Drop {
			if p.segment == nil {
				p.segment = make([]byte, frame.MaxFrame)
			}
			for s := frame.NewSegments(&f); (p.Limit == 0 || p.written < p.Limit) && s.Next(p.segment); lost = 0 {
				if err := p.write(&r, s.Bytes(), len(s.Bytes()), lost); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return p.write(&r, r.Data, r.Length, lost)
}

func (p *Writer) write(r *Record, data []byte, length int, lost uint64) error {
	id, ok := p.interfaces[r.Port]
	if !ok {
		id = uint32(len(p.interfaces))
		p.interfaces[r.Port] = id
		if err := p.writeInterface(r.Port); err != nil {
			return err
		}
	}
	t := uint64(r.Time.UnixNano())
	p.begin(blockPacket)
	p.u32(id)
	p.u32(uint32(t >> 32))
	p.u32(uint32(t))
	p.u32(uint32(len(data)))
	p.u32(uint32(length))
	p.padded(data)
	p.option(optComment, []byte(r.Comment(p.name)))
	p.option(optPacketFlags, binary.LittleEndian.AppendUint32(nil, uint32(r.Dir)))
	p.option(optPacketID, binary.LittleEndian.AppendUint64(nil, r.Packet))
	if lost > 0 {
		p.option(optDropCount, binary.LittleEndian.AppendUint64(nil, lost))
	}
	p.written++
	return p.end()
}

func (p *Writer) name(id frame.PortID) string {
	name, _ := p.describe(id)
	return name
}

func (p *Writer) writeInterface(port frame.PortID) error {
	name, description := p.describe(port)
	p.begin(blockInterface)
	p.u16(linkTypeEthernet)
	p.u16(0)
	p.u32(0) // snapshot length: no limit
	p.option(optName, []byte(name))
	p.option(optDescription, []byte(description))
	p.option(optTimeResol, []byte{9})
	return p.end()
}

func (p *Writer) begin(block uint32) {
	p.buf = p.buf[:0]
	p.u32(block)
	p.u32(0) // the block's length; end sets it
}

// end closes the options, sets both lengths and writes the block.
func (p *Writer) end() error {
	p.u32(optEnd)
	n := uint32(len(p.buf) + 4)
	p.u32(n)
	binary.LittleEndian.PutUint32(p.buf[4:], n)
	_, err := p.w.Write(p.buf)
	return err
}

func (p *Writer) u16(v uint16) { p.buf = binary.LittleEndian.AppendUint16(p.buf, v) }
func (p *Writer) u32(v uint32) { p.buf = binary.LittleEndian.AppendUint32(p.buf, v) }

func (p *Writer) option(code uint16, value []byte) {
	if len(value) == 0 {
		return
	}
	p.u16(code)
	p.u16(uint16(len(value)))
	p.padded(value)
}

func (p *Writer) padded(b []byte) {
	p.buf = append(p.buf, b...)
	for len(p.buf)%4 != 0 {
		p.buf = append(p.buf, 0)
	}
}

// A Packet is a packet that a Reader has read.
type Packet struct {
	Time     time.Time
	Port     string
	Dir      Direction
	Length   int // of the frame; Data may be shorter
	Lost     uint64
	Comment  string
	Data     []byte
	isPacket bool
}

// A Reader reads the output of a Writer. It does not support other pcapng files; use gopacket or tshark for those.
type Reader struct {
	// Raw is the last block read. Head holds all blocks so far that are not packets; a file must begin with them. Fresh
	// holds those of them that came since the caller last set Fresh to nil.
	Raw, Head, Fresh []byte

	r     io.Reader
	ports []string
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next packet, or io.EOF if there is none. Packet.Data is valid until the following Next.
func (r *Reader) Next() (Packet, error) {
	for {
		p, err := r.block()
		if err != nil || p.isPacket {
			return p, err
		}
		r.Head, r.Fresh = append(r.Head, r.Raw...), append(r.Fresh, r.Raw...)
	}
}

var errNotOurs = errors.New("the stream is not a capture of uvswitch")

// Begin reads the section header, which is sent when the capture has started.
func (r *Reader) Begin() error {
	if _, err := r.block(); err != nil {
		return err
	}
	r.Head = append(r.Head, r.Raw...)
	return nil
}

func (r *Reader) block() (p Packet, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return p, err
	}
	e := binary.LittleEndian
	n := e.Uint32(head[4:])
	if n < 12 || n%4 != 0 || n > frame.MaxFrame+4096 {
		return p, fmt.Errorf("%w: a block of %d bytes", errNotOurs, n)
	}
	r.Raw = append(r.Raw[:0], head[:]...)
	r.Raw = append(r.Raw, make([]byte, n-8)...)
	if _, err := io.ReadFull(r.r, r.Raw[8:]); err != nil {
		return p, io.ErrUnexpectedEOF
	}
	body := r.Raw[8 : n-4]
	switch e.Uint32(head[:]) {
	case blockInterface:
		if len(body) < 8 {
			return p, errNotOurs
		}
		name := ""
		options(body[8:], func(code uint16, v []byte) {
			if code == optName {
				name = string(v)
			}
		})
		r.ports = append(r.ports, name)
	case blockPacket:
		if len(body) < 20 {
			return p, errNotOurs
		}
		id, kept := e.Uint32(body), int(e.Uint32(body[12:]))
		padded := (kept + 3) &^ 3
		if int(id) >= len(r.ports) || kept < 0 || 20+padded > len(body) {
			return p, errNotOurs
		}
		p = Packet{
			Time: time.Unix(0, int64(uint64(e.Uint32(body[4:]))<<32|uint64(e.Uint32(body[8:])))), Port: r.ports[id],
			Length: int(e.Uint32(body[16:])), Data: body[20 : 20+kept], isPacket: true,
		}
		options(body[20+padded:], func(code uint16, v []byte) {
			switch {
			case code == optComment:
				p.Comment = string(v)
			case code == optPacketFlags && len(v) == 4:
				p.Dir = Direction(v[0] & 3)
			case code == optDropCount && len(v) == 8:
				p.Lost = e.Uint64(v)
			}
		})
	}
	return p, nil
}

// options calls yield with each pcapng option in b.
func options(b []byte, yield func(code uint16, value []byte)) {
	for len(b) >= 4 {
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		padded := 4 + (n+3)&^3
		if code == optEnd || padded > len(b) {
			return
		}
		yield(code, b[4:4+n])
		b = b[padded:]
	}
}
