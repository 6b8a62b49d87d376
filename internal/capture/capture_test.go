package capture_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/filter"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/simnet"
)

// gopacket reads the Writer's output: interfaces with names, times to the nanosecond, lengths, bytes.
func TestWriterAgainstGopacket(t *testing.T) {
	var out bytes.Buffer
	w, err := capture.NewWriter(&out, "test", func(p frame.PortID) (string, string) {
		return map[frame.PortID]string{1: "web", 2: "uplink"}[p], "a port"
	})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	data := []byte("some bytes, 23 of them")
	for i, p := range []frame.PortID{1, 2, 1} {
		r := capture.Record{Time: at.Add(time.Duration(i)), Port: p, In: p, Out: 2, Dir: capture.In, Verdict: frame.ToPort, Length: 100, Data: data[:20+i], Vnet: make([]byte, frame.VnetLen)}
		if err := w.Write(r, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	ours := capture.NewReader(bytes.NewReader(out.Bytes()))
	r, err := pcapgo.NewNgReader(&out, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"web", "uplink", "web"} {
		got, info, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		ifc, err := r.Interface(info.InterfaceIndex)
		if err != nil || ifc.Name != name || !info.Timestamp.Equal(at.Add(time.Duration(i))) || info.Length != 100 || !bytes.Equal(got, data[:20+i]) {
			t.Errorf("packet %d: %+v on %+v, %q", i, info, ifc, got)
		}
		p, err := ours.Next()
		if err != nil || p.Port != name || !p.Time.Equal(info.Timestamp) || p.Length != 100 || !bytes.Equal(p.Data, got) || p.Lost != uint64(i) || p.Comment != "to uplink" || p.Dir != capture.In {
			t.Errorf("packet %d, read by us: %+v, %v", i, p, err)
		}
	}
}

// bed is a test bed: a network with two ports, and a capture hub.
type bed struct {
	t   *testing.T
	n   *simnet.Net
	hub *capture.Hub
}

func newBed(t *testing.T) *bed {
	n, err := simnet.Run("network 1 10.0.0.1/24\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\nb > a \"learn\"\na > b \"me\"\n")
	if err != nil {
		t.Fatal(err)
	}
	return &bed{t, n, capture.NewHub(n.DP)}
}

func (b *bed) start(o capture.Options) *capture.Capture {
	b.t.Helper()
	c, err := b.hub.Start(o)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// send sends a frame from port 1, to host b unless p has a destination MAC.
func (b *bed) send(p frametest.Packet) {
	b.t.Helper()
	p.SrcMAC, p.Src = 0x020000000201, frametest.Addr("10.0.0.2")
	if p.DstMAC == 0 {
		p.DstMAC, p.Dst = 0x020000000302, frametest.Addr("10.0.0.3")
	}
	b.n.Poller.Put(1, p.Raw())
	b.step()
}

func (b *bed) step() {
	b.t.Helper()
	if err := b.n.DP.Step(); err != nil {
		b.t.Fatal(err)
	}
}

func drain(c *capture.Capture) (got []capture.Record) {
	c.Drain(func(r capture.Record) bool {
		r.Data, r.Vnet = bytes.Clone(r.Data), bytes.Clone(r.Vnet)
		got = append(got, r)
		return true
	})
	return got
}

var seen = frametest.Packet{Payload: []byte("seen")}

// While it runs, a capture sees a forwarded frame on both ports.
func TestCapture(t *testing.T) {
	b := newBed(t)
	all, one := b.start(capture.Options{}), b.start(capture.Options{Ports: []frame.PortID{2}, Snap: 20})
	in, ends := b.start(capture.Options{Dir: capture.In}), b.start(capture.Options{Ends: true})
	b.send(seen)
	got := drain(all)
	if len(got) != 2 || got[0].Port != 1 || got[0].Dir != capture.In || got[1].Port != 2 || got[1].Dir != capture.Out || got[0].Packet != got[1].Packet {
		t.Fatalf("all ports: %+v", got)
	}
	name := func(p frame.PortID) string { return map[frame.PortID]string{1: "a", 2: "b"}[p] }
	if x, y := got[0].Comment(name), got[1].Comment(name); x != "to b" || y != "from a" {
		t.Errorf("comments %q and %q", x, y)
	}
	if got := drain(one); len(got) != 1 || got[0].Port != 2 || len(got[0].Data) != 20 || got[0].Length != 46 {
		t.Errorf("one port, 20 bytes: %+v", got)
	}
	if got := drain(in); len(got) != 1 || got[0].Dir != capture.In {
		t.Errorf("in: %+v", got)
	}
	if got := drain(ends); len(got) != 1 || got[0].Kind != capture.End || got[0].Verdict != frame.ToPort || got[0].In != 1 || got[0].Out != 2 {
		t.Errorf("ends: %+v", got)
	}
	for _, c := range []*capture.Capture{all, one, in, ends} {
		c.Close()
	}
	b.send(seen)
	if got := drain(all); len(got) != 0 {
		t.Errorf("after its end: %+v", got)
	}
	if c := b.n.DP.Conservation(); !c.Balanced {
		t.Errorf("%+v", c)
	}
}

// The filter runs before the copy, on the frame as each port sees it.
func TestFilter(t *testing.T) {
	b := newBed(t)
	f, err := filter.Compile("udp dst port 53")
	if err != nil {
		t.Fatal(err)
	}
	c := b.start(capture.Options{Filter: f})
	b.send(seen)
	b.send(frametest.Packet{DstPort: 53})
	if got := drain(c); len(got) != 2 || got[0].After.DstPort != 53 {
		t.Errorf("%+v", got)
	}
}

// Every drop is seen, wherever it happens: in a stage, at a port that does not take the frame, or in the slow path.
func TestDrops(t *testing.T) {
	b := newBed(t)
	c := b.start(capture.Options{Ends: true, Drops: true})
	b.send(seen)
	if got := drain(c); len(got) != 0 {
		t.Errorf("nothing was dropped: %+v", got)
	}
	b.n.Poller.Refuse[2] = frame.PortDown
	b.send(frametest.Packet{Payload: []byte("not taken")})
	b.step()
	got := drain(c)
	c.Close() // frames refused while no capture runs must not appear later
	b.send(frametest.Packet{Payload: []byte("unseen")})
	c = b.start(capture.Options{Ends: true, Drops: true})
	b.step()
	if late := drain(c); len(late) > 0 {
		t.Errorf("of before the capture: %+v", late)
	}
	delete(b.n.Poller.Refuse, 2)
	if len(got) != 1 || got[0].Reason != frame.PortDown || got[0].In != 1 || got[0].Out != 2 || !bytes.Contains(got[0].Data, []byte("not taken")) {
		t.Errorf("at the port: %+v", got)
	}
	gw, _ := b.n.DP.Router.Interface(1)
	b.send(frametest.Packet{DstMAC: gw.MAC, Dst: frametest.Addr("9.9.9.9")}) // no route to it
	b.send(frametest.Packet{DstMAC: gw.MAC, Dst: gw.Addr, DstPort: 7})       // the gateway has no service
	got = drain(c)
	if len(got) != 2 || got[0].Reason != frame.NoRoute || got[1].Reason != frame.GatewayService {
		t.Errorf("routed: %+v", got)
	}
	var recent []frame.Reason
	for _, d := range b.n.DP.Recent() {
		recent = append(recent, d.Reason)
	}
	for _, want := range []frame.Reason{frame.PortDown, frame.NoRoute, frame.GatewayService} {
		if !slices.Contains(recent, want) {
			t.Errorf("%v is not among the last drops, %v", want, recent)
		}
	}
}

// A reader that does not read loses records and delays nothing.
func TestSlowReader(t *testing.T) {
	b := newBed(t)
	c := b.start(capture.Options{})
	for range 200000 {
		b.send(seen)
		b.n.Poller.Out = nil
		if c.Lost.Load() > 0 {
			return
		}
	}
	t.Error("nothing was lost: is the ring bounded?")
}

// Captures that have used up their time get one record a second, and count what they miss of what they wanted. Afterwards, they see frames again.
func TestLateCaptures(t *testing.T) {
	b := newBed(t)
	both, out, other := b.start(capture.Options{}), b.start(capture.Options{Ports: []frame.PortID{2}, Dir: capture.Out}), b.start(capture.Options{Ports: []frame.PortID{1}, Dir: capture.Out})
	ends := b.start(capture.Options{Ends: true})
	b.hub.Spend(time.Hour)
	b.send(seen)
	b.send(seen)
	if got := drain(both); len(got) != 1 || len(got[0].Data) != 46 {
		t.Errorf("late, there are %d records", len(got))
	}
	if both, out, other, ends := both.Lost.Load(), out.Lost.Load(), other.Lost.Load(), ends.Lost.Load(); both != 3 || out != 1 || other != 0 || ends != 1 {
		t.Errorf("lost %d, %d, %d and %d records, not 3, 1, 0 and 1", both, out, other, ends)
	}
	b.hub.Spend(-time.Hour)
	b.send(seen)
	if got := drain(both); len(got) != 2 || len(got[0].Data) != 46 || both.Lost.Load() != 3 {
		t.Errorf("afterwards: %+v, lost %d", got, both.Lost.Load())
	}
}

// An observed worker allocates nothing once its buffers have grown.
func TestObservedAllocatesNothing(t *testing.T) {
	b := newBed(t)
	all, ends := b.start(capture.Options{}), b.start(capture.Options{Ends: true})
	p := seen
	p.SrcMAC, p.Src, p.DstMAC, p.Dst = 0x020000000201, frametest.Addr("10.0.0.2"), 0x020000000302, frametest.Addr("10.0.0.3")
	raw := p.Raw()
	run := func() {
		b.n.Poller.Put(1, raw)
		b.step()
		b.n.Poller.Out = nil
	}
	run()
	observed := testing.AllocsPerRun(100, run)
	all.Close()
	ends.Close()
	if plain := testing.AllocsPerRun(100, run); observed > plain {
		t.Errorf("%v allocations, %v without captures", observed, plain)
	}
}

// The number of captures is bounded, some are reserved for root, and packet numbers continue when captures start and end.
func TestBounds(t *testing.T) {
	b := newBed(t)
	first := b.start(capture.Options{})
	numbers := map[uint64]int{}
	for range 3 {
		b.send(seen)
		for _, r := range drain(first) {
			numbers[r.Packet]++
		}
		b.start(capture.Options{}).Close()
	}
	first.Close()
	if len(numbers) != 3 {
		t.Errorf("packets are numbered %v", numbers)
	}
	var list []*capture.Capture
	for {
		c, err := b.hub.Start(capture.Options{})
		if err != nil {
			break
		}
		if list = append(list, c); len(list) > 64 {
			t.Fatal("no limit")
		}
	}
	root, err := b.hub.Start(capture.Options{Root: true})
	if err != nil {
		t.Errorf("nothing is left for root: %v", err)
	} else {
		root.Close()
	}
	for _, c := range list {
		c.Close()
	}
}

// A super-frame is written as it is or, with Split, as a physical link would carry it.
func TestSplit(t *testing.T) {
	b := newBed(t)
	c := b.start(capture.Options{Dir: capture.In})
	b.send(frametest.Packet{Proto: frame.TCP, Flags: frame.FlagACK | frame.FlagPSH, GSO: 100, Payload: make([]byte, 450)})
	rec := drain(c)
	if len(rec) != 1 {
		t.Fatalf("%+v", rec)
	}
	for _, split := range []bool{false, true} {
		var out bytes.Buffer
		w, _ := capture.NewWriter(&out, "test", func(frame.PortID) (string, string) { return "a", "" })
		w.Split = split
		if err := w.Write(rec[0], 0); err != nil {
			t.Fatal(err)
		}
		want := map[bool]int{false: 1, true: 5}[split]
		r := capture.NewReader(&out)
		n := 0
		for p, err := r.Next(); err == nil; p, err = r.Next() {
			n++
			if split {
				if err := frametest.Check(append(make([]byte, frame.VnetLen), p.Data...)); err != nil {
					t.Error(err)
				}
			}
		}
		if n != want || w.Written() != want {
			t.Errorf("split %v: %d packets, not %d", split, n, want)
		}
	}
}

// A Reader does not panic, whatever the input.
func FuzzReader(f *testing.F) {
	var out bytes.Buffer
	w, _ := capture.NewWriter(&out, "test", func(frame.PortID) (string, string) { return "a", "b" })
	_ = w.Write(capture.Record{Time: time.Unix(1, 0), Data: []byte{1, 2, 3}, Length: 3, Vnet: make([]byte, frame.VnetLen)}, 1)
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := capture.NewReader(bytes.NewReader(b))
		for _, err := r.Next(); err == nil; _, err = r.Next() {
		}
	})
}
