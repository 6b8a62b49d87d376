package filter

import "encoding/binary"

// A Filter is a compiled expression. The zero value matches everything.
type Filter struct{ root node }

// Match reports whether the filter selects a frame, given from its destination MAC on. p is scratch space.
func (f Filter) Match(p *Packet, frame []byte) bool {
	if f.root == nil {
		return true
	}
	p.b, p.beyond = frame, false
	return f.root.match(p) && !p.beyond
}

// A Packet is scratch space for Match. Each goroutine needs its own.
type Packet struct {
	b      []byte
	beyond bool // there was an access beyond the end of the frame
}

func (p *Packet) u8(at int) uint32  { return p.load(at, 1) }
func (p *Packet) u16(at int) uint32 { return p.load(at, 2) }
func (p *Packet) u32(at int) uint32 { return p.load(at, 4) }

func (p *Packet) load(at, size int) uint32 {
	if at < 0 || at+size > len(p.b) {
		p.beyond = true
		return 0
	}
	switch size {
	case 1:
		return uint32(p.b[at])
	case 2:
		return uint32(binary.BigEndian.Uint16(p.b[at:]))
	}
	return binary.BigEndian.Uint32(p.b[at:])
}

// A node is a boolean part of an expression.
type node interface{ match(*Packet) bool }

type (
	and     struct{ a, b node }
	or      struct{ a, b node }
	not     struct{ a node }
	test    func(*Packet) bool
	compare struct {
		a, b value
		op   string
	}
)

func (n and) match(p *Packet) bool  { return n.a.match(p) && !p.beyond && n.b.match(p) }
func (n or) match(p *Packet) bool   { return n.a.match(p) || !p.beyond && n.b.match(p) }
func (n not) match(p *Packet) bool  { return !n.a.match(p) }
func (n test) match(p *Packet) bool { return n(p) }

func (n compare) match(p *Packet) bool {
	a := n.a.eval(p)
	if p.beyond {
		return false
	}
	b := n.b.eval(p)
	switch n.op {
	case "<":
		return a < b
	case ">":
		return a > b
	case "<=":
		return a <= b
	case ">=":
		return a >= b
	case "!=":
		return a != b
	}
	return a == b
}

// A value is a numeric part of an expression. Numbers have 32 bits, as in BPF.
type value interface{ eval(*Packet) uint32 }

type (
	number uint32
	length struct{}
	access struct { // proto[at:size]
		guard node                // true if the frame has the header
		base  func(p *Packet) int // offset of the header in bytes
		at    value
		size  int
	}
	arithmetic struct {
		a, b value
		op   byte
	}
)

func (v number) eval(*Packet) uint32   { return uint32(v) }
func (v length) eval(p *Packet) uint32 { return uint32(len(p.b)) }

func (v access) eval(p *Packet) uint32 {
	at := v.at.eval(p)
	if at > uint32(len(p.b)) {
		p.beyond = true
		return 0
	}
	return p.load(v.base(p)+int(at), v.size)
}

func (v arithmetic) eval(p *Packet) uint32 {
	a, b := v.a.eval(p), v.b.eval(p)
	switch v.op {
	case '+':
		return a + b
	case '-':
		return a - b
	case '*':
		return a * b
	case '&':
		return a & b
	case '|':
		return a | b
	case '^':
		return a ^ b
	case '<':
		return a << min(b, 32)
	case '>':
		return a >> min(b, 32)
	}
	if b == 0 { // as in BPF, a division by zero rejects the frame
		p.beyond = true
		return 0
	}
	if v.op == '%' {
		return a % b
	}
	return a / b
}
