package capture

import (
	"encoding/binary"
	"io"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Block types and options of pcapng.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6
	byteOrderMagic = 0x1a2b3c4d

	optAppl          = 4
	optName          = 2
	optDescription   = 3
	optTimeResol     = 9
	optPacketFlags   = 2
	linkTypeEthernet = 1
)

// A Writer writes pcapng, in little-endian order: one interface per port, nanoseconds, the direction of each
// packet.
type Writer struct {
	w          io.Writer
	buf        []byte
	interfaces map[frame.PortID]uint32
	describe   func(frame.PortID) (name, description string)
}

// NewWriter writes the section header. describe names a port when its first packet comes.
func NewWriter(w io.Writer, app string, describe func(frame.PortID) (name, description string)) (*Writer, error) {
	p := &Writer{w: w, interfaces: map[frame.PortID]uint32{}, describe: describe}
	p.begin(blockSection)
	p.u32(byteOrderMagic)
	p.u16(1)
	p.u16(0)
	p.u32(0xffffffff) // section length: not known
	p.u32(0xffffffff)
	p.option(optAppl, []byte(app))
	return p, p.end()
}

// Write writes one packet, and its interface before it when it is new.
func (p *Writer) Write(r Record) error {
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
	p.u32(uint32(len(r.Data)))
	p.u32(uint32(r.Length))
	p.padded(r.Data)
	p.option(optPacketFlags, binary.LittleEndian.AppendUint32(nil, uint32(r.Dir)))
	return p.end()
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
	p.u32(0) // the length, known at the end
}

// end closes the options, sets both lengths and writes the block.
func (p *Writer) end() error {
	p.u32(0) // opt_endofopt
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
