package cli

import (
	"strings"
	"testing"
)

// What a container may name does not reach the terminal as it is.
func TestRowsArePrintable(t *testing.T) {
	var b strings.Builder
	row(&b, "eth0\x1b[2J\x1b]0;owned\a", "a\r\nb", "caf\u00e9", "\u202eevil", "")
	if want := `eth0\x1b[2J\x1b]0;owned\a` + "\t" + `a\r\nb` + "\tcaf\u00e9\t" + `\u202eevil` + "\t-\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
