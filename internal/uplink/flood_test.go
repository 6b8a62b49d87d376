package uplink

import (
	"testing"
	"time"
)

// A port that is alone gets fifteen sixteenths of what was read in a slice of 4.2 ms.
func TestMostAlone(t *testing.T) {
	for _, c := range []struct {
		read uint64
		in   time.Duration
		want uint32
	}{
		{2000, 10 * time.Millisecond, 785},
		{20000, 100 * time.Millisecond, 785},
		{10, 10 * time.Millisecond, aloneLeast},
		{0, 0, aloneLeast},
		{1 << 40, time.Nanosecond, unlimited},
	} {
		if got := mostAlone(c.read, c.in); got != c.want {
			t.Errorf("%d packets in %s: %d, want %d", c.read, c.in, got, c.want)
		}
	}
}
