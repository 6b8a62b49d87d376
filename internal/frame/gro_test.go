package frame_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

const longest = 65535

// A family makes packets of IPv4, or of IPv6.
type family struct {
	name string
	six  bool
}

var families = []family{{"IPv4", false}, {"IPv6", true}}

// of gives a packet the family's addresses, from 1 to dst.
func (x family) of(dst uint64, p frametest.Packet) frametest.Packet {
	if x.six {
		p.Src6, p.Dst6 = frame.Addr6{Hi: 0xfd << 56, Lo: 1}, frame.Addr6{Hi: 0xfd << 56, Lo: dst}
	} else {
		p.Src, p.Dst = 1, frame.Addr(dst)
	}
	return p
}

// tcpSegment is a segment with a partial checksum: what a container's stack hands to its TAP.
func (x family) tcpSegment(seq, ack uint32, flags uint8, payload []byte, gso int) []byte {
	raw := x.of(2, frametest.Packet{SrcPort: 7, DstPort: 9, Proto: frame.TCP, Flags: flags, Payload: payload, Partial: true, GSO: uint16(gso)}).Raw()
	l4 := raw[frame.VnetLen+frame.EthernetLen+x.headerLen():]
	binary.BigEndian.PutUint32(l4[4:], seq)
	binary.BigEndian.PutUint32(l4[8:], ack)
	return raw
}

func (x family) headerLen() int {
	if x.six {
		return frame.IPv6Len
	}
	return frame.IPv4Len
}

func (x family) datagram(payload []byte) []byte {
	return x.of(2, frametest.Packet{SrcPort: 7, DstPort: 9, Payload: payload, Partial: true}).Raw()
}

// coalesce parses the frames, has them joined on their way to port out, and returns what became of each.
func coalesce(b *frame.Batch, out func(i int) frame.PortID, raws ...[]byte) []frame.GROResult {
	frametest.Fill(b, 1, raws...)
	frame.ParseBatch(b)
	var c frame.GRO
	c.Begin()
	what := make([]frame.GROResult, b.N)
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		f.Verdict, f.Out = frame.ToPort, out(i)
		w, older := c.Add(f, longest)
		what[i] = w
		switch w {
		case frame.Merged:
			f.Verdict = frame.Coalesced
		case frame.Supersedes:
			older.DropFor(frame.AckSuperseded)
		}
	}
	return what
}

func to2(int) frame.PortID { return 2 }

// whole is what a port gets of f: one frame.
func whole(f *frame.Frame) []byte {
	raw := append(bytes.Clone(f.Vnet()), make([]byte, f.WireLen())...)
	if n := f.CopyTo(raw[frame.VnetLen:]); n != f.WireLen() {
		panic("a chain is not as long as it says")
	}
	return raw
}

// wires are the plain frames, checksums complete, that a super-frame stands for.
func wires(t interface{ Fatalf(string, ...any) }, raw []byte) [][]byte {
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	if f.Verdict == frame.Drop || f.Malformed != frame.None {
		t.Fatalf("what is sent does not parse: %v %v", f.Reason, f.Malformed)
	}
	var out [][]byte
	buf := make([]byte, len(raw))
	s := frame.NewSegments(&f)
	for s.Next(buf) {
		out = append(out, bytes.Clone(s.Bytes()))
	}
	if len(out) == 0 {
		t.Fatalf("a super-frame without segments")
	}
	return out
}

func TestCoalesce(t *testing.T) {
	for _, x := range families {
		t.Run(x.name, x.testCoalesce)
	}
}

func (x family) testCoalesce(t *testing.T) {
	tcpSegment, datagram := x.tcpSegment, x.datagram
	hops, l4 := frame.EthernetLen+8, frame.EthernetLen+x.headerLen() // where fields stand
	if x.six {
		hops--
	}
	const ack, psh, fin, syn = frame.FlagACK, frame.FlagPSH, frame.FlagFIN, frame.FlagSYN
	data := make([]byte, 3000)
	seg := func(seq uint32, n int) []byte { return tcpSegment(seq, 5, ack, data[:n], 0) }
	edit := func(raw []byte, at int, v byte) []byte { raw[frame.VnetLen+at] = v; return raw }
	complete := func(seq uint32, n int) []byte {
		return x.of(2, frametest.Packet{SrcPort: 7, DstPort: 9, Proto: frame.TCP, Flags: ack, TCPSeq: seq, TCPAck: 5, Payload: data[:n]}).Raw()
	}
	pure := func(seq, a uint32) []byte { return tcpSegment(seq, a, ack, nil, 0) }
	const A, M, S = frame.Alone, frame.Merged, frame.Supersedes
	for _, c := range []struct {
		name string
		raws [][]byte
		want []frame.GROResult
	}{
		{"in sequence", [][]byte{seg(0, 1000), seg(1000, 1000), seg(2000, 1000)}, []frame.GROResult{A, M, M}},
		{"a short one is the last", [][]byte{seg(0, 1000), seg(1000, 10), seg(1010, 1000)}, []frame.GROResult{A, M, A}},
		{"a longer one", [][]byte{seg(0, 1000), seg(1000, 1001)}, []frame.GROResult{A, A}},
		{"a gap", [][]byte{seg(0, 1000), seg(1001, 1000)}, []frame.GROResult{A, A}},
		{"again", [][]byte{seg(0, 1000), seg(0, 1000)}, []frame.GROResult{A, A}},
		{"after a gap", [][]byte{seg(0, 1000), seg(3000, 1000), seg(1000, 1000), seg(2000, 1000)}, []frame.GROResult{A, A, A, M}},
		{"PSH", [][]byte{seg(0, 1000), tcpSegment(1000, 5, ack|psh, data[:1000], 0), seg(2000, 1000)}, []frame.GROResult{A, M, M}},
		{"FIN", [][]byte{seg(0, 1000), tcpSegment(1000, 5, ack|fin, data[:1000], 0)}, []frame.GROResult{A, A}},
		{"SYN", [][]byte{tcpSegment(0, 0, syn, nil, 0), seg(1, 1000)}, []frame.GROResult{A, A}},
		{"other acknowledgement", [][]byte{seg(0, 1000), tcpSegment(1000, 6, ack, data[:1000], 0)}, []frame.GROResult{A, A}},
		{"super-frames", [][]byte{tcpSegment(0, 5, ack, data[:2000], 500), tcpSegment(2000, 5, ack, data[:1500], 500)}, []frame.GROResult{A, M}},
		{"a super-frame with a short tail", [][]byte{tcpSegment(0, 5, ack, data[:2001], 500), seg(2001, 500)}, []frame.GROResult{A, A}},
		{"a super-frame of another size", [][]byte{tcpSegment(0, 5, ack, data[:2000], 500), tcpSegment(2000, 5, ack, data[:800], 400)}, []frame.GROResult{A, A}},
		{"type of service", [][]byte{seg(0, 1000), edit(seg(1000, 1000), 15, 4)}, []frame.GROResult{A, A}},
		{"time to live", [][]byte{seg(0, 1000), edit(seg(1000, 1000), hops, 63)}, []frame.GROResult{A, A}},
		{"another station", [][]byte{seg(0, 1000), edit(seg(1000, 1000), 5, 9)}, []frame.GROResult{A, A}},
		{"window", [][]byte{seg(0, 1000), edit(seg(1000, 1000), l4+15, 1)}, []frame.GROResult{A, A}},
		{"complete checksums", [][]byte{complete(1, 1000), complete(1001, 1000), complete(2001, 10)}, []frame.GROResult{A, M, M}},
		{"a wrong checksum", [][]byte{complete(1, 1000), edit(complete(1001, 1000), l4+16, 0x77)}, []frame.GROResult{A, A}},
		{"after a wrong checksum", [][]byte{edit(complete(1, 1000), l4+16, 0x77), complete(1001, 1000)}, []frame.GROResult{A, A}},
		{"acknowledgements", [][]byte{pure(0, 5), pure(0, 6), pure(0, 7)}, []frame.GROResult{A, S, S}},
		{"duplicate acknowledgements", [][]byte{pure(0, 5), pure(0, 5), pure(0, 5)}, []frame.GROResult{A, A, A}},
		{"an older acknowledgement", [][]byte{pure(0, 6), pure(0, 5)}, []frame.GROResult{A, A}},
		{"an acknowledgement between data", [][]byte{seg(0, 1000), pure(1000, 6), seg(1000, 1000)}, []frame.GROResult{A, A, A}},
		{"data between acknowledgements", [][]byte{pure(0, 5), seg(0, 1000), pure(1000, 6)}, []frame.GROResult{A, A, A}},
		{"an acknowledgement to another station", [][]byte{pure(0, 5), edit(pure(0, 6), 5, 9)}, []frame.GROResult{A, A}},
		{"a checksum elsewhere", [][]byte{seg(0, 1000), func() []byte { r := seg(1000, 1000); frame.VnetHdr(r).Set(1, 0, 0, 0, uint16(l4), 18); return r }()}, []frame.GROResult{A, A}},
		{"datagrams", [][]byte{datagram(data[:64]), datagram(data[:64]), datagram(data[:1]), datagram(data[:64])}, []frame.GROResult{A, M, M, A}},
		{"an empty datagram", [][]byte{datagram(data[:64]), datagram(nil), datagram(data[:64])}, []frame.GROResult{A, A, A}},
		{"a datagram without checksum", [][]byte{datagram(data[:64]), x.of(2, frametest.Packet{SrcPort: 7, DstPort: 9, Payload: data[:64], NoChecksum: true}).Raw()}, []frame.GROResult{A, A}},
		{"another destination", [][]byte{seg(0, 1000), x.of(3, frametest.Packet{SrcPort: 7, DstPort: 9, Proto: frame.TCP, Flags: ack, TCPSeq: 1000, TCPAck: 5, Payload: data[:1000], Partial: true}).Raw()}, []frame.GROResult{A, A}},
		{"a padded frame", [][]byte{datagram(data[:2]), append(datagram(data[:2]), 0, 0, 0)}, []frame.GROResult{A, A}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b frame.Batch
			for i, got := range coalesce(&b, to2, c.raws...) {
				if got != c.want[i] {
					t.Errorf("frame %d: %d, want %d", i, got, c.want[i])
				}
			}
		})
	}
	// Two flows that share a slot of the table are both sent as they are. Few do, by which seed ever.
	t.Run("another flow between", func(t *testing.T) {
		const seeds = 1000
		joined := 0
		rng := rand.New(rand.NewPCG(1, 2))
		for range seeds {
			seed := rng.Uint64()
			restore := frame.SetGROSeed(seed)
			var b frame.Batch
			got := coalesce(&b, to2, seg(0, 1000), datagram(data[:9]), seg(1000, 1000), datagram(data[:9]))
			restore()
			switch {
			case slices.Equal(got, []frame.GROResult{A, A, M, M}):
				joined++
			case !slices.Equal(got, []frame.GROResult{A, A, A, A}):
				t.Fatalf("seed %#x: %v", seed, got)
			}
		}
		if joined < seeds*9/10 || joined == seeds {
			t.Errorf("both flows were joined with %d of %d seeds", joined, seeds)
		}
	})
	t.Run("two ports", func(t *testing.T) {
		var b frame.Batch
		if got := coalesce(&b, func(i int) frame.PortID { return frame.PortID(2 + i) }, seg(0, 1000), seg(1000, 1000)); got[1] != A {
			t.Error("frames to two ports were joined")
		}
	})
	t.Run("no longer than a packet may be", func(t *testing.T) {
		var b frame.Batch
		big := make([]byte, 40000)
		if got := coalesce(&b, to2, tcpSegment(0, 5, ack, big, 1000), tcpSegment(40000, 5, ack, big, 1000)); got[1] != A {
			t.Error("joined beyond 65,535 bytes")
		}
	})
}

// What arrives is what would have arrived: per flow the same segments in the same order, but for IP identifications,
// where PSH stands, and pure acknowledgements that a later one makes superfluous.
func TestCoalesceKeepsEveryByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, frame.BatchSize).Draw(t, "frames")
		seqs, acks := map[int]uint32{}, map[int]uint32{}
		var raws [][]byte
		var outs []frame.PortID
		stamp := byte(0)
		for range n {
			flow := rapid.IntRange(0, 5).Draw(t, "flow")
			x := families[flow%2]
			size := rapid.SampledFrom([]int{0, 1, 7, 100, 100, 100, 250}).Draw(t, "size")
			payload := bytes.Repeat([]byte{stamp}, size)
			stamp++
			p := x.of(uint64(2+flow/4), frametest.Packet{SrcPort: 7, DstPort: uint16(flow), Payload: payload, Partial: rapid.Bool().Draw(t, "partial")})
			if flow < 2 {
				raws = append(raws, p.Raw())
			} else {
				p.Proto, p.Flags = frame.TCP, rapid.SampledFrom([]uint8{16, 16, 16, 16, 24, 17, 18}).Draw(t, "flags")
				p.GSO = uint16(rapid.SampledFrom([]int{0, 0, 100, 50}).Draw(t, "gso"))
				if size <= int(p.GSO) {
					p.GSO = 0
				}
				acks[flow] += uint32(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "ack"))
				seqs[flow] += uint32(rapid.SampledFrom([]int{0, 0, 0, 0, 0, 5}).Draw(t, "gap"))
				p.TCPSeq, p.TCPAck = 1+seqs[flow], 1+acks[flow]
				raw := p.Raw()
				seqs[flow] += uint32(size)
				raws = append(raws, raw)
			}
			outs = append(outs, frame.PortID(2+rapid.IntRange(0, 9).Draw(t, "port")/9))
		}
		flat := func(list [][]byte, key func(i int) string) map[string][]string {
			m := map[string][]string{}
			for i, raw := range list {
				for _, w := range wires(t, raw) {
					if err := frametest.Check(append(make([]byte, frame.VnetLen), w...)); err != nil {
						t.Fatalf("frame %d: %v", i, err)
					}
					ip := w[frame.EthernetLen:]
					proto, l4 := transport(ip)
					if ip[0]>>4 == 4 {
						copy(ip[4:6], "\x00\x00")   // identification
						copy(ip[10:12], "\x00\x00") // and the sums over it and PSH
					}
					if proto == frame.TCP {
						l4[13] &^= frame.FlagPSH
						copy(l4[16:18], "\x00\x00")
					}
					m[key(i)] = append(m[key(i)], string(w))
				}
			}
			return m
		}
		var b frame.Batch
		what := coalesce(&b, func(i int) frame.PortID { return outs[i] }, raws...)
		name := func(i int) string { return fmt.Sprint(outs[i], b.Frames[i].Flags&frame.IsIPv6, b.Frames[i].Tuple) }
		var sent, kept [][]byte
		var sentAt, keptAt []int
		for i := range b.Frames[:b.N] {
			f := &b.Frames[i]
			switch {
			case f.Verdict == frame.Drop:
				a := f.Payload()
				later := false
				for j := i + 1; j < b.N; j++ {
					g := &b.Frames[j]
					later = later || name(j) == name(i) && what[j] == frame.Supersedes &&
						int32(binary.BigEndian.Uint32(g.Payload()[8:])-binary.BigEndian.Uint32(a[8:])) > 0
				}
				if !later {
					t.Fatalf("frame %d is gone and nothing supersedes it", i)
				}
				continue
			case f.Verdict == frame.ToPort:
				sent, sentAt = append(sent, whole(f)), append(sentAt, i)
			}
			kept, keptAt = append(kept, raws[i]), append(keptAt, i)
		}
		// coalesce rewrites headers of what it was given: judge by a copy made anew.
		got := flat(sent, func(k int) string { return name(sentAt[k]) })
		want := flat(fresh(kept), func(k int) string { return name(keptAt[k]) })
		for k, w := range want {
			if fmt.Sprintf("%x", got[k]) != fmt.Sprintf("%x", w) {
				t.Fatalf("flow %s:\n got %x\nwant %x", k, got[k], w)
			}
		}
	})
}

// transport is what an IP packet without options and extension headers carries.
func transport(ip []byte) (proto uint8, l4 []byte) {
	if ip[0]>>4 == 4 {
		return ip[9], ip[frame.IPv4Len:]
	}
	return ip[6], ip[frame.IPv6Len:]
}

// fresh undoes what joining did to the headers of the first in a chain: lengths, as the frame's own says.
func fresh(raws [][]byte) [][]byte {
	var out [][]byte
	for _, raw := range raws {
		c := bytes.Clone(raw)
		ip := c[frame.VnetLen+frame.EthernetLen:]
		proto, l4 := transport(ip)
		length, own := ip[4:6], len(ip)-frame.IPv6Len
		if ip[0]>>4 == 4 {
			length, own = ip[2:4], len(ip)
		}
		was, is := binary.BigEndian.Uint16(length), uint16(own)
		if was != is {
			binary.BigEndian.PutUint16(length, is)
			if ip[0]>>4 == 4 {
				binary.BigEndian.PutUint16(ip[10:], frame.Delta16(was, is).Complete(binary.BigEndian.Uint16(ip[10:])))
			}
			var field []byte
			var size int
			if proto == frame.UDP {
				binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
				field, size = l4[6:8], len(l4)-frame.UDPLen
			} else {
				field, size = l4[16:18], len(l4)-frame.TCPLen
			}
			binary.BigEndian.PutUint16(field, frame.Delta16(was, is).Partial(binary.BigEndian.Uint16(field)))
			if h := frame.VnetHdr(c); int(h.GSOSize()) >= size {
				h.Set(h[0], frame.GSONone, 0, 0, h.CsumStart(), h.CsumOffset())
			}
		}
		out = append(out, c)
	}
	return out
}

func TestCoalesceAllocatesNothing(t *testing.T) {
	for _, x := range families {
		var b frame.Batch
		var c frame.GRO
		data := make([]byte, 64)
		raws := make([][]byte, frame.BatchSize)
		for i := range raws {
			raws[i] = x.datagram(data)
		}
		frametest.Fill(&b, 1, raws...)
		if allocs := testing.AllocsPerRun(100, func() {
			frame.ParseBatch(&b)
			c.Begin()
			for i := range b.Frames[:b.N] {
				c.Add(&b.Frames[i], longest)
			}
		}); allocs != 0 {
			t.Errorf("%s: %v allocations", x.name, allocs)
		}
	}
}

// Datagrams are joined up to what Linux takes in one super-frame.
func TestCoalesceAtMost64Datagrams(t *testing.T) {
	for _, x := range families {
		uso := x.of(2, frametest.Packet{SrcPort: 7, DstPort: 9, Payload: make([]byte, 2000), GSO: 100}).Raw()
		b := &frame.Batch{}
		coalesce(b, to2, uso, bytes.Clone(uso), bytes.Clone(uso), bytes.Clone(uso))
		f := &b.Frames[0]
		if n := (f.WireLen() - frame.EthernetLen - x.headerLen() - frame.UDPLen) / int(f.Vnet().GSOSize()); n != 60 {
			t.Errorf("%s: the first of four super-frames of 20 datagrams became one of %d, want 60", x.name, n)
		}
	}
}
