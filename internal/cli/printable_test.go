package cli

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// What a container may name does not reach the terminal as it is.
func TestRowsArePrintable(t *testing.T) {
	var b strings.Builder
	row(&b, "eth0\x1b[2J\x1b]0;owned\a", "a\r\nb", "caf\u00e9", "\u202eevil", "")
	if want := `eth0\x1b[2J\x1b]0;owned\a` + "\t" + `a\r\nb` + "\tcaf\u00e9\t" + `\u202eevil` + "\t-\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	const evil = "a\x1b[2J\nb"
	trace := strings.Builder{}
	(&app{out: &trace}).printTrace(&api.Trace{Packet: evil, Why: evil, Remedy: evil, Steps: []api.TraceStep{{Text: evil}}})
	for _, line := range []string{
		eventLine(&api.Event{Text: evil}), eventLine(&api.Event{Text: evil, Lost: 1}),
		verdictLine(&api.Verdict{Verdict: "dropped", Packet: evil, Why: evil}), verdictLine(&api.Verdict{Packet: evil, Becomes: evil}), trace.String(),
	} {
		if strings.Contains(line, "\x1b") || strings.Contains(line, "\nb") {
			t.Errorf("%q", line)
		}
	}
}
