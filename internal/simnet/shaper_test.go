package simnet

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// numbered is a frame from a to b with a number in its payload, of a flow of its own: none is joined to another.
func numbered(n *Net, i, size int) []byte {
	a, b := n.host("a"), n.host("b")
	payload := make([]byte, size)
	binary.BigEndian.PutUint32(payload, uint32(i))
	return frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: b.Addr, SrcPort: uint16(i), DstPort: 2, Payload: payload}.Raw()
}

// arrived takes those that b has received, as UDP payloads.
func arrived(n *Net) (list []int) {
	b := n.host("b")
	for _, raw := range b.inbox {
		if len(raw) > frame.VnetLen+46 {
			list = append(list, int(binary.BigEndian.Uint32(raw[frame.VnetLen+42:])))
		}
	}
	b.inbox = nil
	return list
}

// heard is the fixture, whose switch has heard b.
func heard(t *testing.T) *Net {
	n := newFixture(t)
	a, b := n.host("a"), n.host("b")
	n.Inject(b, frametest.Packet{SrcMAC: b.MAC, DstMAC: a.MAC, Src: b.Addr, Dst: a.Addr}.Raw())
	return n
}

// A port that is offered ten times its rate sends its rate, in each direction, in order; what passes at once is the burst, and
// what waits does so for no longer than 50 ms.
func TestRate(t *testing.T) {
	const frameBytes, rate, burst = 1042, 8_000_000, 20_000
	for name, set := range map[string]func(*Net, dataplane.Rate){
		"rx": func(n *Net, r dataplane.Rate) { n.DP.SetRate(1, r, dataplane.Rate{}) },
		"tx": func(n *Net, r dataplane.Rate) { n.DP.SetRate(2, dataplane.Rate{}, r) },
		"both": func(n *Net, r dataplane.Rate) {
			n.DP.SetRate(1, r, dataplane.Rate{})
			n.DP.SetRate(2, dataplane.Rate{}, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := heard(t)
			set(n, dataplane.Rate{Bits: rate, Burst: burst})
			i, last, got := 0, -1, 0
			lateness := 0
			for ms := range 1000 { // 10 frames a millisecond, of which one conforms
				for range 10 {
					i++
					n.Poller.Put(1, numbered(n, i, 1000))
				}
				n.Wait(time.Millisecond)
				for _, v := range arrived(n) {
					if v <= last {
						t.Fatalf("frame %d came after %d", v, last)
					}
					last = v
					got++
					lateness = max(lateness, ms-(v-1)/10)
				}
			}
			want := (rate/8 + burst) / frameBytes
			if got < want-2 || got > want+3 {
				t.Errorf("%d frames of %d bytes in a second, and %d conform", got, frameBytes, want)
			}
			if lateness < 10 || lateness > 55 && name != "both" || lateness > 110 {
				t.Errorf("a frame waited for %d ms", lateness)
			}
			n.Wait(200 * time.Millisecond)
			rest := len(arrived(n))
			if c := n.DP.Conservation(); !c.Balanced || rest == 0 {
				t.Errorf("%+v, and %d frames that waited", c, rest)
			}
			n.Wait(100 * time.Millisecond) // the burst is there again
			for range 15 {
				i++
				n.Poller.Put(1, numbered(n, i, 1000))
			}
			n.Settle()
			if now := len(arrived(n)); now != 15 {
				t.Errorf("after a pause %d of 15 frames passed at once", now)
			}
			drops, where := n.DP.Drops(), n.DP.PortStats(1).RxDropped
			if name == "tx" {
				where = n.DP.PortStats(2).TxDropped
			}
			if sum := drops["rx_rate_exceeded"] + drops["tx_rate_exceeded"]; sum != uint64(10*1000+15-got-rest-15) || name != "both" && where != sum {
				t.Errorf("drops %v, at the port %d; %d frames came out", drops, where, got+rest+15)
			}
			n.DP.SetRate(1, dataplane.Rate{}, dataplane.Rate{})
			n.DP.SetRate(2, dataplane.Rate{}, dataplane.Rate{})
			for range 200 {
				i++
				n.Poller.Put(1, numbered(n, i, 1000))
			}
			n.Settle()
			if now := len(arrived(n)); now != 200 {
				t.Errorf("without a rate %d of 200 frames passed", now)
			}
		})
	}
}

// A super-frame takes what its segments take, passes when there is any room, and is paid for by those behind it.
func TestRateOfSuperFrames(t *testing.T) {
	n := heard(t)
	a, b := n.host("a"), n.host("b")
	n.DP.SetRate(2, dataplane.Rate{}, dataplane.Rate{Bits: 8_000_000, Burst: 2000})
	big := frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: b.Addr, Proto: frame.TCP, Flags: frame.FlagACK, GSO: 1000, Payload: make([]byte, 50_000)}.Raw()
	n.Inject(a, big)
	if len(b.inbox) == 0 {
		t.Fatal("a super-frame longer than the burst did not pass")
	}
	arrived(n)
	n.Inject(a, numbered(n, 1, 1000))
	ms := 0
	for ; len(arrived(n)) == 0 && ms < 100; ms++ {
		n.Wait(time.Millisecond)
	}
	// 50 segments and their headers, but for the burst
	if ms < 50 || ms > 53 {
		t.Errorf("the next frame waited for %d ms", ms)
	}
}

// What a sender claims of its segments does not keep the port from others for longer than it can be true.
func TestRateOfLies(t *testing.T) {
	n := heard(t)
	a, b := n.host("a"), n.host("b")
	n.DP.SetRate(2, dataplane.Rate{}, dataplane.Rate{Bits: 8_000_000, Burst: 2000})
	n.Inject(a, frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: b.Addr, Proto: frame.TCP, Flags: frame.FlagACK, GSO: 48, Payload: make([]byte, 20_000)}.Raw())
	if len(b.inbox) == 0 {
		t.Fatal("it did not pass")
	}
	arrived(n)
	n.Inject(a, numbered(n, 1, 1000))
	n.Wait(60 * time.Millisecond)
	if got := arrived(n); len(got) != 1 {
		t.Errorf("after 60 ms %v", got)
	}
}

// Packets that leave in fragments have the rate, as all others do, and wait for it: other ports are not kept out by them.
func TestRateOfCutPackets(t *testing.T) {
	n := newFixture(t)
	a, b, o := n.host("a"), n.host("b"), n.host("o")
	n.DP.SetRate(uplinkPort, dataplane.Rate{}, dataplane.Rate{Bits: 8_000_000, Burst: 5000})
	gateway, _ := n.DP.Router.Interface(1)
	to := func(h *Host, size int) []byte {
		return frametest.Packet{SrcMAC: h.MAC, DstMAC: gateway.MAC, Src: h.Addr, Dst: o.Addr, SrcPort: 9, DstPort: 9, Payload: make([]byte, size)}.Raw()
	}
	got := func() (frames, bytes int) {
		for _, raw := range o.inbox {
			frames, bytes = frames+1, bytes+len(raw)-frame.VnetLen
		}
		o.inbox = nil
		return frames, bytes
	}
	sum := 0
	for range 500 { // 4 MB in half a second
		for range 4 {
			n.Poller.Put(a.Port, to(a, 2000))
		}
		n.Wait(time.Millisecond)
		frames, bytes := got()
		if sum += bytes; frames%2 != 0 {
			t.Fatalf("%d fragments of packets of two", frames)
		}
	}
	if sum < 490_000 || sum > 580_000 {
		t.Errorf("%d bytes left in half a second, and the rate is 500,000", sum)
	}
	n.Wait(60 * time.Millisecond)
	got()
	n.Inject(b, to(b, 100))
	n.Wait(10 * time.Millisecond)
	if frames, _ := got(); frames != 1 {
		t.Errorf("%d frames of b left afterwards: %v", frames, n.DP.Drops())
	}
	if c := n.DP.Conservation(); !c.Balanced {
		t.Errorf("%+v", c)
	}
}

// A flooded frame never waits, but takes from the rate.
func TestRateOfFloods(t *testing.T) {
	n := heard(t)
	a, b := n.host("a"), n.host("b")
	n.DP.SetRate(2, dataplane.Rate{}, dataplane.Rate{Bits: 8_000_000, Burst: 2000})
	broadcast := frametest.Packet{SrcMAC: a.MAC, DstMAC: frame.BroadcastMAC, Src: a.Addr, Dst: frametest.Addr("10.0.0.255"), Payload: make([]byte, 1000)}.Raw()
	for range 50 {
		n.Poller.Put(1, bytes.Clone(broadcast))
	}
	n.Settle()
	if got := len(b.inbox); got != 50 {
		t.Errorf("%d of 50 broadcasts", got)
	}
	b.inbox = nil
	n.Inject(a, numbered(n, 1, 1000), numbered(n, 2, 1000))
	if got := arrived(n); len(got) != 1 { // of three that a whole burst lets pass
		t.Errorf("after broadcasts %v pass at once", got)
	}
	for range 20 { // as many broadcasts as the rate allows, and more
		n.Poller.Put(1, bytes.Clone(broadcast))
		n.Poller.Put(1, bytes.Clone(broadcast))
		n.Wait(time.Millisecond)
	}
	if got := len(b.inbox); got != 41 {
		t.Errorf("%d frames: broadcasts keep the frame that waits from passing", got)
	}
}

// A port that goes, or whose rate changes, loses nothing that is not accounted for.
func TestRateChangesWhileFramesWait(t *testing.T) {
	slow := dataplane.Rate{Bits: 80_000, Burst: 2000}
	for name, change := range map[string]struct {
		do   func(*Net)
		want int // frames that b gets of ten
	}{
		"off": {func(n *Net) {
			n.DP.SetRate(1, dataplane.Rate{}, dataplane.Rate{})
			n.DP.SetRate(2, dataplane.Rate{}, dataplane.Rate{})
		}, 10},
		"faster": {func(n *Net) {
			n.DP.SetRate(1, dataplane.Rate{Bits: 1e9}, slow)
			n.DP.SetRate(2, slow, dataplane.Rate{Bits: 1e9})
		}, 10},
		"sender gone":   {func(n *Net) { n.DP.RemovePort(1) }, -1},
		"receiver gone": {func(n *Net) { n.DP.RemovePort(2); n.Poller.Remove(2) }, -1},
	} {
		for _, dir := range []string{"rx", "tx"} {
			t.Run(name+" "+dir, func(t *testing.T) {
				n := heard(t)
				if dir == "rx" {
					n.DP.SetRate(1, slow, dataplane.Rate{})
				} else {
					n.DP.SetRate(2, dataplane.Rate{}, slow)
				}
				for i := range 10 {
					n.Poller.Put(1, numbered(n, i, 1000))
				}
				n.Settle()
				first := len(arrived(n))
				if first > 5 {
					t.Fatalf("%d frames at once", first)
				}
				change.do(n)
				n.Settle()
				n.Wait(2 * time.Second)
				if got := first + len(arrived(n)); change.want >= 0 && got != change.want {
					t.Errorf("%d frames", got)
				}
				if c := n.DP.Conservation(); !c.Balanced {
					t.Errorf("%+v %v", c, n.DP.Drops())
				}
			})
		}
	}
}

// Neither what waits nor what goes on costs an allocation.
func TestRateAllocatesNothing(t *testing.T) {
	for _, dir := range []string{"rx", "tx"} {
		n := heard(t)
		r := dataplane.Rate{Bits: 8_000_000, Burst: 2000}
		if dir == "rx" {
			n.DP.SetRate(1, r, dataplane.Rate{})
		} else {
			n.DP.SetRate(2, dataplane.Rate{}, r)
		}
		raw := numbered(n, 1, 1000)
		n.Poller.loop = &loopPoller{raw: raw, buf: bytes.Clone(raw), port: 1}
		if allocs := testing.AllocsPerRun(500, func() {
			n.fine += 100 * time.Microsecond
			if err := n.DP.Step(); err != nil {
				t.Fatal(err)
			}
		}); allocs != 0 {
			t.Errorf("%s: %v allocations per frame", dir, allocs)
		}
		if sent := n.Poller.loop.sent; sent < 40 || sent > 60 {
			t.Errorf("%s: %d frames in 50 ms", dir, sent)
		}
		if n.DP.Drops()[dir+"_rate_exceeded"] == 0 {
			t.Errorf("%s: nothing was dropped: %v", dir, n.DP.Drops())
		}
	}
}
