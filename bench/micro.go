package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

var (
	c1         = frametest.Addr("10.0.0.2")
	c2         = frametest.Addr("10.0.0.3")
	remote     = frametest.Addr("203.0.113.8")
	external   = frametest.Addr("198.51.100.1")
	container6 = frametest.Addr6("fd00::2")
	external6  = frametest.Addr6("2001:db8::1")
	remote6    = frametest.Addr6("2001:db8:113::")
)

const (
	mac1    frame.MAC = 0x020000000001
	mac2    frame.MAC = 0x020000000002
	gateway frame.MAC = 0x0200000000fe
)

// inMemory is an I/O backend without devices. Each Poll returns a full batch of copies of one frame.
type inMemory struct {
	raws [][]byte
	orig []byte
	in   frame.PortID
	sent int
	edit func(raw []byte) // makes each frame different
}

// fill creates the frames of the batch, as copies of orig.
func (m *inMemory) fill() {
	for range frame.BatchSize {
		m.raws = append(m.raws, append([]byte(nil), m.orig...))
	}
}

func (m *inMemory) Poll(b *frame.Batch) error {
	b.N = len(m.raws)
	for i, raw := range m.raws {
		copy(raw[:80], m.orig) // restore what the last round rewrote
		if m.edit != nil {
			m.edit(raw)
		}
		b.Frames[i].Reset(raw, m.in)
	}
	return nil
}
func (m *inMemory) Send(frame.PortID, *frame.Frame)                   { m.sent++ }
func (m *inMemory) Add(frame.PortID, frame.Conn, frame.Reading) error { return nil }
func (m *inMemory) Remove(frame.PortID)                               {}
func (m *inMemory) Pause(frame.PortID)                                {}
func (m *inMemory) Resume(frame.PortID)                               {}
func (m *inMemory) Yield(frame.PortID) bool                           { return true }
func (m *inMemory) Take(frame.PortID, frame.Reading) error            { return nil }
func (m *inMemory) CPUTime() int64                                    { return 0 }
func (m *inMemory) CPUWait() int64                                    { return 0 }
func (m *inMemory) Hurry(bool)                                        {}
func (m *inMemory) Counts() (c frame.IOCounts)                        { return c }
func (m *inMemory) Wake()                                             {}
func (m *inMemory) Close() error                                      { return nil }

// wireless is a frame.Conn without a device; longest is what GSOMaxSize returns, in bytes.
type wireless struct {
	frame.Conn
	longest int
}

func (w wireless) GSOMaxSize(uint8) int { return w.longest }

// plane returns a dataplane with the given number of ports (the first two are c1 and c2), an uplink, and room for the given
// number of flows.
func plane(ports, flows int) (*dataplane.Dataplane, *inMemory) {
	m := &inMemory{}
	n := nat.New(nat.Options{Flows: flows, Flows6: flows, FlowsPerPort: flows, Seed: 3, Alloc: hugePages})
	d := dataplane.New(n, func() int64 { return 1e9 }, m)
	d.Switch.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, FDB: vswitch.NewFDB(8192, 1)})
	p := netip.MustParsePrefix("10.0.0.0/16")
	d.Router.SetInterface(router.Interface{Net: 1, Addr: frametest.Addr("10.0.0.1"), Prefix: p, Addr6: frametest.Addr6("fd00::1"), Prefix6: netip.MustParsePrefix("fd00::/64"), MAC: gateway, MTU: 1500})
	d.Router.SetInterface(router.Interface{Addr: external, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Addr6: external6, Prefix6: netip.MustParsePrefix("::/0"), MAC: 5, PeerMAC: 6, MTU: 1500, MTU6: 1500, Port: 1000, Up: true, Up6: true})
	masquerade := []*nat.Masquerade{{Net: 1, RuleCount: &nat.RuleCount{}}}
	rules := nat.Rules{Own: []frame.Addr{external}, Masquerade: masquerade, Six: nat.RulesOf[frame.Addr6]{Own: []frame.Addr6{external6}, Masquerade: masquerade}}
	for i := range rules.Pool {
		rules.Pool[i] = nat.NewPortSet()
		rules.Pool[i].AddRange(20000, 29999)
	}
	n.Update(rules)
	d.WithSlowPath(func(out router.Output) {
		d.Router.SetNeighbor(1, c1.Netip(), mac1, out)
		d.Router.SetNeighbor(1, container6.Netip(), mac1, out)
	})
	for i := 1; i <= ports; i++ {
		if err := d.AddPort(vswitch.Port{ID: frame.PortID(i), Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500}, wireless{}); err != nil {
			panic(err) // cannot happen: the port IDs are valid
		}
		d.Switch.FDB(1).Set(mac1+frame.MAC(i)-1, frame.PortID(i), false)
	}
	if err := d.AddPort(vswitch.Port{ID: 1000, Flags: vswitch.Forwarding | vswitch.Uplink, MTU: 65521}, wireless{}); err != nil {
		panic(err)
	}
	return d, m
}

// hugePages allocates n bytes in huge pages, as the daemon does for its tables.
func hugePages(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b
}

// A point is the cost of a frame in nanoseconds with N flows or ports.
type point struct {
	N  int     `json:"n"`
	Ns float64 `json:"ns"`
}

type microResult struct {
	Flows []point `json:"flows"`
	Six   []point `json:"flows_ipv6"`
	Ports []point `json:"ports"`
}

// micro measures the whole path of a frame in user space, in memory: of a switched frame for several numbers of ports, and
// of a translated frame for several numbers of flows. Consecutive frames belong to different flows.
func micro() *microResult {
	r := &microResult{}
	for _, ports := range []int{2, 10, 50, 100, 250, 500} {
		d, m := plane(ports, 1024)
		m.orig, m.in = frametest.Packet{SrcMAC: mac1, DstMAC: mac2, Src: c1, Dst: c2, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64)}.Raw(), 1
		m.fill()
		r.Ports = append(r.Ports, point{ports, perFrame(func() { step1(d) })})
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		p, edit := packetsOf(family)
		for _, flows := range []int{1000, 10000, 100000, 250000, 1000000} {
			d, _ := translating(p, flows, edit)
			before, _ := d.NAT.Stats()
			at := point{flows, perFrame(func() { step1(d) })}
			if after, _ := d.NAT.Stats(); after != before {
				panic(fmt.Sprintf("bench: %d of %d flows were made while they should be looked up", after-before, flows))
			}
			if family == "IPv4" {
				r.Flows = append(r.Flows, at)
			} else {
				r.Six = append(r.Six, at)
			}
		}
	}
	return r
}

// packetsOf returns a packet of a container that leaves, and a function that makes an IP packet one of flow n.
func packetsOf(family string) (p frametest.Packet, edit func(ip []byte, n int)) {
	p = frametest.Packet{SrcMAC: mac1, DstMAC: gateway, Src: c1, Dst: remote, SrcPort: 1, DstPort: 2, Payload: make([]byte, 64), NoChecksum: true}
	if family == "IPv4" {
		return p, func(raw []byte, n int) {
			ip := frame.IPv4(raw)
			ip.SetAddrs(c1, remote+frame.Addr(n), frame.Delta32(uint32(remote), uint32(remote)+uint32(n)))
			binary.BigEndian.PutUint16(ip[frame.IPv4Len:], uint16(1+n%100))
		}
	}
	p.Src, p.Dst, p.Src6, p.Dst6, p.NoChecksum, p.Partial = 0, 0, container6, remote6, false, true
	return p, func(raw []byte, n int) {
		ip, dst := frame.IPv6(raw), frame.Addr6{Hi: remote6.Hi, Lo: remote6.Lo + uint64(n)}
		ip.SetAddrs(container6, dst)
		udp := frame.UDPHeader(ip[frame.IPv6Len:])
		udp.SetChecksum(frame.AddrDelta(remote6, dst).Partial(udp.Checksum()))
		binary.BigEndian.PutUint16(udp, uint16(1+n%100))
	}
}

// translating returns a dataplane that has a number of flows, of which each Step takes a batch.
func translating(p frametest.Packet, flows int, edit func(ip []byte, n int)) (*dataplane.Dataplane, *inMemory) {
	d, m := plane(2, 1<<22) // a port may have a quarter
	m.orig, m.in = p.Raw(), 1
	m.fill()
	next := 0
	leave := func(raw []byte) { // a stride that no prefetcher follows, and that visits every flow
		next = (next + 7919) % flows
		edit(raw[frame.VnetLen+frame.EthernetLen:], next)
	}
	for made := 0; made < flows+frame.BatchSize; made += frame.BatchSize {
		m.edit, m.in = leave, 1
		step1(d)
		m.answer() // a flow without an answer may go early
		step1(d)
	}
	m.edit, m.in = leave, 1
	return d, m
}

// answer makes the next batch the answers to the last one.
func (m *inMemory) answer() {
	var answers [][]byte
	for _, raw := range m.raws {
		b := append([]byte(nil), raw...)
		var f frame.Frame
		f.Reset(b, 1000)
		frame.Parse(&f)
		l4 := f.Payload()
		src, dst := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		binary.BigEndian.PutUint16(l4, dst)
		binary.BigEndian.PutUint16(l4[2:], src)
		if f.Flags&frame.IsIPv6 != 0 {
			f.IPv6().SetAddrs(f.IPv6().Dst(), f.IPv6().Src())
		} else {
			f.IPv4().SetAddrs(f.Tuple.Dst, f.Tuple.Src, 0)
		}
		frametest.PutMACs(b[frame.VnetLen:], 5, 6)
		answers = append(answers, b)
	}
	i := 0
	m.in, m.edit = 1000, func(raw []byte) {
		copy(raw, answers[i%len(answers)])
		i++
	}
}

func step1(d *dataplane.Dataplane) {
	if err := d.Step(); err != nil {
		panic(err)
	}
}

// perFrame returns the time per frame in nanoseconds, as the median of several runs. batch processes a whole batch.
func perFrame(batch func()) float64 {
	var runs []float64
	for range 9 {
		const n = 4000
		began := time.Now()
		for range n {
			batch()
		}
		runs = append(runs, float64(time.Since(began).Nanoseconds())/n/frame.BatchSize)
	}
	return median(runs)
}

func (m *microResult) table(w io.Writer) {
	fmt.Fprintf(w, "\n### A frame's whole way in user space\n\nIn memory, without a kernel; medians of 9 runs.\n\n| ports | switched, ns |\n|---|---|\n")
	for _, p := range m.Ports {
		fmt.Fprintf(w, "| %d | %.1f |\n", p.N, p.Ns)
	}
	fmt.Fprintf(w, "\n| flows, each frame of another | translated, ns |\n|---|---|\n")
	for _, p := range m.Flows {
		fmt.Fprintf(w, "| %d | %.1f |\n", p.N, p.Ns)
	}
	for _, p := range m.Six {
		fmt.Fprintf(w, "| %d, IPv6 | %.1f |\n", p.N, p.Ns)
	}
}
