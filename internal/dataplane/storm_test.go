package dataplane

import (
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// Many ports that flood have twice the copies of one, in equal parts. A port that floods little beside them loses nothing.
func TestStormsOfManyPorts(t *testing.T) {
	var f frame.Frame
	f.Reset(frametest.ARP(frame.BroadcastMAC, 0x020000000001, 1, 1, 2), 1)
	frame.Parse(&f)
	const ports, receivers, seconds = 17, 17, 4
	var storms [ports + 1]storm
	var copies [ports + 1]int
	var count stormCount
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
	if most := copiesOfAll * copiesPerSecond * seconds; sum < most/2 || sum > most*3/2 {
		t.Errorf("%d copies, want %d", sum, most)
	}
	if lost > 0 {
		t.Errorf("the quiet port has lost %d frames", lost)
	}
}
