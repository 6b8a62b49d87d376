package natports

import "testing"

func TestFloor(t *testing.T) {
	for _, tt := range []struct {
		ranges string
		lo, hi uint16
	}{
		{"1024-65535", 63488, 65535},
		{"1024-40000", 30720, 32767},
		{"40000-43071", 41536, 43071},
		{"40000-59999", 57952, 59999},
		{"1024-1033", 1029, 1033},
		{"1024-1033,64000-64009", 64000, 64009},
		{"5000", 0, 0},
	} {
		if lo, hi := Floor(tt.ranges, [2]uint16{32768, 60999}); lo != tt.lo || hi != tt.hi {
			t.Errorf("%s: %d to %d, want %d to %d", tt.ranges, lo, hi, tt.lo, tt.hi)
		}
	}
}
