package dataplane

import (
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// Many ports that flood have twice the copies of one, in equal parts. A port that floods little beside them loses nothing.
func TestStormsOfManyPorts(t *testing.T) {
	testStorms(t, stormCount{}, copiesOfAll*copiesPerSecond)
}

// What a port has flooded counts after it has moved to another worker, too.
func TestStormMoves(t *testing.T) {
	d := New(nat.New(nat.Options{Flows: 1024}), func() int64 { return int64(time.Second) }, &script{}, &script{})
	if err := d.AddPort(vswitch.Port{ID: 1, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500}, &wire{fd: -1}); err != nil {
		t.Fatal(err)
	}
	from := d.readers[1]
	to := 1 - from
	d.workers[from].storms[1] = storm{copies: 5, wanted: 7, number: 3}
	d.workers[from].storms[1].frames[frame.Broadcast] = 9
	d.move(move{[]frame.PortID{1}, from, to})
	want := storm{copies: 5}
	want.frames[frame.Broadcast] = 9
	if was, is := d.workers[from].storms[1], d.workers[to].storms[1]; d.readers[1] != to || is != want || was != (storm{}) {
		t.Errorf("read by worker %d; %+v is left behind, and %+v has come along", d.readers[1], was, is)
	}
}

// While the worker gets a third of the CPU time that it wants, and a copy takes 5 us, copies take a quarter of that.
func TestStormsWhileTimeIsScarce(t *testing.T) {
	var count stormCount
	for range 100 {
		count.copies = 1000
		count.took(5e6)
		count.has(4e6, 12e6)
	}
	testStorms(t, count, 1_000_000/3/4/5)
	if count.forget(); count.isScarce() {
		t.Error("it is scarce without end")
	}
}

// However scarce time was, a port may flood again soon afterwards.
func TestStormsAreForgiven(t *testing.T) {
	var f frame.Frame
	f.Reset(frametest.ARP(frame.BroadcastMAC, 0x020000000001, 1, 1, 2), 1)
	frame.Parse(&f)
	var s storm
	count, now := stormCount{most: 1}, int64(time.Second)
	for s.take(&f, now, 0, 1000, &count) {
	}
	count.forget()
	if now += longestDebt; !s.take(&f, now, 0, 1000, &count) {
		t.Errorf("it may not flood for %v more", time.Duration(s.copies-now))
	}
}

func testStorms(t *testing.T, count stormCount, most int) {
	var f frame.Frame
	f.Reset(frametest.ARP(frame.BroadcastMAC, 0x020000000001, 1, 1, 2), 1)
	frame.Parse(&f)
	const ports, receivers, seconds = 17, 17, 4
	var storms [ports + 1]storm
	var copies [ports + 1]int
	lost := 0
	for ms := range int64(seconds * 1000) {
		now := (1000 + ms) * int64(time.Millisecond)
		for i := range ports {
			for range 5 {
				if storms[i].take(&f, now, 0, receivers, &count) {
					copies[i] += receivers
				}
			}
		}
		if ms%100 == 0 && !storms[ports].take(&f, now, 1000, receivers, &count) { // 170 copies in a second
			lost++
		}
	}
	sum := 0
	for i, n := range copies[:ports] {
		if sum += n; n < copies[0]/2 || n > 2*copies[0] {
			t.Errorf("port %d had %d copies, the first one %d", i, n, copies[0])
		}
	}
	if most *= seconds; sum < most/2 || sum > most*3/2 {
		t.Errorf("%d copies, want %d", sum, most)
	}
	if lost > 0 {
		t.Errorf("the quiet port has lost %d frames", lost)
	}
}
