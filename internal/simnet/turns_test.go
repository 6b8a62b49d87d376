package simnet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// turnsBed is a network with 18 ports, in which each frame takes 2 us of CPU time.
func turnsBed(t *testing.T) *Net {
	n := play(t, "network 1 10.0.0.1/24\nuplink 198.51.100.1\noutside o 203.0.113.9\n"+strings.ReplaceAll(hosts(18), "\n", " guard\n"))
	n.Poller.FrameCost = int64(2 * time.Microsecond)
	return n
}

// steps lets time pass, a quarter of a millisecond at a time, and keeps so many frames of each host waiting. It returns how many frames of each
// host came through.
func steps(t *testing.T, n *Net, d time.Duration, waiting map[string][]byte, most int) map[string]uint64 {
	t.Helper()
	before, got := map[string]uint64{}, map[string]uint64{}
	for name := range waiting {
		before[name] = n.DP.PortStats(n.host(name).Port).RxPackets
	}
	for ; d > 0; d -= 250 * time.Microsecond {
		n.fine += 250 * time.Microsecond
		if n.fine >= time.Second/frame.TicksPerSecond {
			n.now, n.fine = n.now+1, 0
		}
		for name, raw := range waiting {
			h := n.host(name)
			for range most - waitingOf(n.Poller, h.Port) {
				n.Poller.Put(h.Port, raw)
			}
		}
		if err := n.DP.Step(); err != nil {
			t.Fatal(err)
		}
		n.Poller.Out = nil
	}
	for name := range waiting {
		got[name] = n.DP.PortStats(n.host(name).Port).RxPackets - before[name]
	}
	return got
}

func waitingOf(p *Poller, port frame.PortID) (n int) {
	for _, q := range p.in {
		if q.port == port {
			n++
		}
	}
	return n
}

// A port whose frames are refused gets a tenth of the time, and two of them get a tenth together.
func TestRefusedFramesWait(t *testing.T) {
	for _, flooders := range [][]string{{"h1"}, {"h1", "h2"}} {
		n := turnsBed(t)
		waiting := map[string][]byte{}
		for _, name := range flooders {
			h := n.host(name)
			waiting[name] = frametest.Packet{SrcMAC: 0x020000123456, DstMAC: n.host("h3").MAC, Src: h.Addr, Dst: n.host("h3").Addr, SrcPort: 9, DstPort: 9}.Raw()
		}
		got, sum := steps(t, n, time.Second, waiting, 64), uint64(0)
		for _, name := range flooders {
			sum += got[name]
			if n.DP.PortStats(n.host(name).Port).Pauses == 0 {
				t.Errorf("%s was not paused", name)
			}
		}
		if sum < 30000 || sum > 56000 { // a tenth of 500,000; less, since time moves on in steps
			t.Errorf("%d flooders: %d refused frames were read in a second, of 500,000 that there is time for", len(flooders), sum)
		}
		if a, b := got["h1"], got["h2"]; len(flooders) == 2 && (a > 2*b || b > 2*a) {
			t.Errorf("the flooders got %d and %d", a, b)
		}
	}
}

// Long frames, of which a batch has few, are refused as cheaply.
func TestLongRefusedFramesWait(t *testing.T) {
	n := turnsBed(t)
	n.Poller.FrameCost = int64(20 * time.Microsecond)
	waiting := map[string][]byte{}
	for _, name := range []string{"h1", "h2"} {
		h := n.host(name)
		waiting[name] = frametest.Packet{SrcMAC: 0x020000123456, DstMAC: n.host("h3").MAC, Src: h.Addr, Dst: n.host("h3").Addr, SrcPort: 9, DstPort: 9, Proto: frame.TCP, GSO: 1400, Payload: make([]byte, 60000)}.Raw()
	}
	got := steps(t, n, time.Second, waiting, 2)
	if sum := got["h1"] + got["h2"]; sum < 2000 || sum > 7000 { // a tenth of 50,000
		t.Errorf("%d refused frames were read in a second, of 50,000 that there is time for: %v", sum, got)
	}
}

// A loud port gets less of the time while the worker waits for a CPU and others have frames, and all of it again afterwards.
func TestLoudPortsWait(t *testing.T) {
	t.Run("many frames", func(t *testing.T) { loudPortsWait(t, 0, 64, 2*time.Microsecond) })
	t.Run("long frames", func(t *testing.T) { loudPortsWait(t, 60000, 3, 40*time.Microsecond) })
}

func loudPortsWait(t *testing.T, payload, most int, cost time.Duration) {
	n := turnsBed(t)
	n.Poller.FrameCost = int64(cost)
	h1, h2 := n.host("h1"), n.host("h2")
	loud := map[string][]byte{"h1": toUplink(h1, payload)}
	run := func(others bool, scarce bool) uint64 {
		for range 10 {
			if scarce {
				n.Poller.Waited += int64(50 * time.Millisecond)
			}
			if others {
				n.Poller.Put(h2.Port, toUplink(h2, 0))
			}
			steps(t, n, 10*time.Millisecond, loud, most)
		}
		return steps(t, n, 10*time.Millisecond, loud, most)["h1"]
	}
	for _, c := range []struct {
		others, scarce, paused bool
	}{{false, false, false}, {true, false, false}, {false, true, false}, {true, true, true}, {true, false, false}} {
		got := run(c.others, c.scarce)
		if all := uint64(40 * most); got < all/2 != c.paused {
			t.Errorf("others %v, CPUs scarce %v: %d frames of the loud port in 10 ms, of %d", c.others, c.scarce, got, all)
		}
		for range 4 { // the part grows again
			run(false, false)
		}
	}
}

// toUplink is a datagram of a host to the outside, or a super-frame when its payload is long.
func toUplink(h *Host, payload int) []byte {
	p := frametest.Packet{SrcMAC: h.MAC, DstMAC: gatewayMAC + 1<<16, Src: h.Addr, Dst: frametest.Addr("203.0.113.9"), SrcPort: 7, DstPort: 9}
	if payload > 0 {
		p.GSO, p.Payload = 1400, make([]byte, payload)
	}
	return p.Raw()
}

// A loud port gets less of the time, too, if it leaves none for others.
func TestLoudPortsLeaveTime(t *testing.T) {
	n := turnsBed(t)
	n.Poller.FrameCost = int64(8 * time.Microsecond)
	h1, h2 := n.host("h1"), n.host("h2")
	run := func() uint64 {
		n.Poller.Put(h2.Port, toUplink(h2, 0))
		return steps(t, n, 10*time.Millisecond, map[string][]byte{"h1": toUplink(h1, 0)}, 64)["h1"]
	}
	for range 10 {
		run()
	}
	if got, all := run(), uint64(40*64); got > all/2 {
		t.Errorf("%d frames of the loud port in 10 ms, of %d", got, all)
	}
	if p := n.DP.PortStats(h2.Port).Pauses; p != 0 {
		t.Errorf("the other port was paused %d times", p)
	}
}

// A port that streams is not paused for the sake of one that floods, which sends good and bad packets in turn and so costs less.
func TestStreamBesideRefusedFrames(t *testing.T) {
	n := turnsBed(t)
	h1, h2 := n.host("h1"), n.host("h2")
	bad := frametest.Packet{SrcMAC: 0x020000123456, DstMAC: h2.MAC, Src: h1.Addr, Dst: n.host("h3").Addr, SrcPort: 9, DstPort: 9}.Raw()
	for range 400 {
		n.Poller.Waited += int64(time.Millisecond)
		for range 8 {
			n.Poller.Put(h1.Port, bad)
			n.Poller.Put(h1.Port, toUplink(h1, 0))
		}
		steps(t, n, time.Millisecond, map[string][]byte{"h2": toUplink(h2, 60000)}, 3)
	}
	if floods, streams := n.DP.PortStats(h1.Port).Pauses, n.DP.PortStats(h2.Port).Pauses; floods == 0 || streams != 0 {
		t.Errorf("the port that floods was paused %d times, the one that streams %d times", floods, streams)
	}
}

// Many ports that flood have few frames each in a batch. They wait as one would.
func TestManyPortsWait(t *testing.T) {
	for _, refused := range []bool{true, false} {
		n := turnsBed(t)
		waiting, last := map[string][]byte{}, n.host("h18")
		for i := 1; i <= 17; i++ {
			h := n.host(fmt.Sprintf("h%d", i))
			waiting[h.Name] = toUplink(h, 0)
			if refused {
				waiting[h.Name] = frametest.Packet{SrcMAC: 0x020000123456, DstMAC: last.MAC, Src: h.Addr, Dst: last.Addr, SrcPort: 9, DstPort: 9}.Raw()
			}
		}
		run := func(d time.Duration) (sum uint64) {
			n.Poller.Waited += int64(50 * time.Millisecond)
			n.Poller.Put(last.Port, toUplink(last, 0))
			if refused { // a punt counts as a refused frame
				n.Poller.Put(last.Port, frametest.ARP(frame.BroadcastMAC, last.MAC, 1, last.Addr, frametest.Addr("10.0.0.1")))
			}
			for _, got := range steps(t, n, d, waiting, 3) {
				sum += got
			}
			return sum
		}
		for range 30 {
			run(10 * time.Millisecond)
		}
		if got, all := run(10*time.Millisecond), uint64(40*17*3); got > all/3 {
			t.Errorf("refused %v: %d frames were read in 10 ms, of %d", refused, got, all)
		}
		if p := n.DP.PortStats(last.Port).Pauses; p != 0 {
			t.Errorf("the port that has one frame in 10 ms was paused %d times", p)
		}
	}
}

// A worker that waits for a CPU hurries beside a port that floods, and not beside one that streams.
func TestHurriesBesideFloods(t *testing.T) {
	for _, floods := range []bool{false, true} {
		n := turnsBed(t)
		h1 := n.host("h1")
		waiting, most := map[string][]byte{"h1": toUplink(h1, 60000)}, 3
		if floods {
			most, waiting["h1"] = 64, frametest.Packet{SrcMAC: 0x020000123456, DstMAC: n.host("h2").MAC, Src: h1.Addr, Dst: n.host("h2").Addr}.Raw()
		}
		for range 40 {
			n.Poller.Waited += int64(30 * time.Millisecond)
			steps(t, n, 10*time.Millisecond, waiting, most)
		}
		if n.Poller.Hurries != floods {
			t.Errorf("floods %v: the worker hurries: %v", floods, n.Poller.Hurries)
		}
	}
}

// Of two loud ports, the one that costs more waits for the other one.
func TestHeaviestPortWaits(t *testing.T) {
	n := turnsBed(t)
	h1, h2 := n.host("h1"), n.host("h2")
	both := map[string][]byte{"h1": toUplink(h1, 60000), "h2": toUplink(h2, 0)}
	for range 20 {
		n.Poller.Waited += int64(50 * time.Millisecond)
		steps(t, n, 10*time.Millisecond, both, 16)
	}
	if heavy, light := n.DP.PortStats(h1.Port).Pauses, n.DP.PortStats(h2.Port).Pauses; heavy == 0 || light > heavy/10 {
		t.Errorf("the heavy port was paused %d times, the light one %d times", heavy, light)
	}
}

// A port that is removed while it is paused leaves nothing behind for the next one with its number.
func TestPausedPortGoes(t *testing.T) {
	n := turnsBed(t)
	h := n.host("h1")
	bad := frametest.Packet{SrcMAC: 0x020000123456, DstMAC: n.host("h3").MAC, Src: h.Addr, Dst: n.host("h3").Addr, SrcPort: 9, DstPort: 9}.Raw()
	steps(t, n, 5*time.Millisecond, map[string][]byte{"h1": bad}, 64)
	if n.DP.PortStats(h.Port).Pauses == 0 {
		t.Fatal("the port was not paused")
	}
	p, _ := n.DP.Switch.Port(h.Port)
	n.DP.RemovePort(h.Port)
	n.Poller.in = nil
	if err := n.DP.AddPort(p, conn{}); err != nil {
		t.Fatal(err)
	}
	good := frametest.Packet{SrcMAC: h.MAC, DstMAC: n.host("h3").MAC, Src: h.Addr, Dst: n.host("h3").Addr, SrcPort: 9, DstPort: 9}.Raw()
	if got := steps(t, n, time.Millisecond, map[string][]byte{"h1": good}, 1)["h1"]; got == 0 {
		t.Error("the new port is not read")
	}
}

// A flood, a stream and a port with few frames compete for the worker. The flood's device drops what is not read, so the flood waits for both others.
// The stream's sender becomes slower before that. So the stream waits only for the port with few frames, and keeps a quarter of the time.
func TestFloodBesideStream(t *testing.T) {
	for _, busy := range []bool{false, true} {
		n := turnsBed(t)
		n.Poller.FrameCost = int64(60 * time.Microsecond)
		h1, h2, h3 := n.host("h1"), n.host("h2"), n.host("h3")
		var flood, stream counting
		plugIn(t, n, h1, &flood)
		plugIn(t, n, h2, &stream)
		got := map[string]uint64{}
		const ms = 400
		for i := range ms {
			n.Poller.Waited += int64(time.Millisecond)
			if busy {
				n.Poller.Put(h3.Port, toUplink(h3, 0))
			}
			flood.offered += 500
			for name, n := range steps(t, n, time.Millisecond, map[string][]byte{"h1": toUplink(h1, 60000), "h2": toUplink(h2, 60000)}, 3) {
				map[string]*counting{"h1": &flood, "h2": &stream}[name].offered += n
				if i >= ms/2 {
					got[name] += n
				}
			}
		}
		if p := n.DP.PortStats(h2.Port).Pauses; p > 0 != busy {
			t.Errorf("a port with few frames %v: the stream was paused %d times", busy, p)
		}
		if p := n.DP.PortStats(h3.Port).Pauses; p != 0 {
			t.Errorf("the port with few frames was paused %d times", p)
		}
		all := uint64(ms / 2 * 4 * 3)
		if got["h1"] > all/16 || !busy && got["h2"] < all/2 || busy && (got["h2"] < all/8 || got["h2"] > all/2) {
			t.Errorf("a port with few frames %v: of the flood and the stream, %v frames came through, of %d", busy, got, all)
		}
		if a, b := n.DP.PortStats(h1.Port).Unread, n.DP.PortStats(h2.Port).Unread; a != 500*ms || b != 0 {
			t.Errorf("%d and %d frames were not read, want %d and 0", a, b, 500*ms)
		}
	}
}

// A sender of constant rate that takes little time loses nothing, although it sends on while it is paused: it does not wait behind a port that
// floods, and does not count as one.
func TestSteadySenderIsNoFlood(t *testing.T) {
	n := turnsBed(t)
	n.Poller.FrameCost = int64(40 * time.Microsecond)
	h1, h2, h3 := n.host("h1"), n.host("h2"), n.host("h3")
	var flood, steady counting
	plugIn(t, n, h1, &flood)
	plugIn(t, n, h3, &steady)
	lost := 0
	const ms = 2000
	for i := range ms {
		n.Poller.Waited += int64(time.Millisecond)
		n.Poller.Put(h2.Port, toUplink(h2, 0))
		for range 10 * (i % 2) {
			if steady.offered++; waitingOf(n.Poller, h3.Port) < 1000 {
				n.Poller.Put(h3.Port, toUplink(h3, 0))
			} else {
				lost++
			}
		}
		flood.offered += 100
		flood.offered += steps(t, n, time.Millisecond, map[string][]byte{"h1": toUplink(h1, 60000)}, 16)["h1"]
	}
	if p := n.DP.PortStats(h1.Port).Pauses; p == 0 {
		t.Error("the port that floods was not paused")
	}
	if lost > 0 {
		t.Errorf("%d of %d frames of the steady sender were lost", lost, 5*ms)
	}
}

// plugIn gives the port of a host another device.
func plugIn(t *testing.T, n *Net, h *Host, device frame.Conn) {
	t.Helper()
	p, _ := n.DP.Switch.Port(h.Port)
	n.DP.RemovePort(h.Port)
	if err := n.DP.AddPort(p, device); err != nil {
		t.Fatal(err)
	}
}

// counting is a device that counts what it is offered.
type counting struct {
	conn
	offered uint64
}

func (c *counting) Offered() (uint64, bool) { return c.offered, true }
