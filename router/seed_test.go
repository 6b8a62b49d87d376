package router

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Nobody can foresee which addresses share a slot.
func TestNeighborTablesHaveSecrets(t *testing.T) {
	if a, b := newNeighTable[frame.Addr](8), newNeighTable[frame.Addr](8); a.factor == b.factor {
		t.Errorf("two tables have the factor %x", a.factor)
	}
}
