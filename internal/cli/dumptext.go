package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/explain"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A printer prints packets in tcpdump's format.
type printer struct {
	w    io.Writer
	f    *dumpFlags
	last time.Time
	n    int
	text explain.Tcpdump
}

func newPrinter(w io.Writer, f *dumpFlags) *printer {
	return &printer{w: w, f: f, text: explain.Tcpdump{Verbose: f.verbosity > 0, Quick: f.brief, Ether: f.ether, Absolute: f.absolute}}
}

func (p *printer) close() error { return nil }

func (p *printer) packet(k *capture.Packet) error {
	dir := map[capture.Direction]string{capture.In: "In", capture.Out: "Out"}[k.Dir]
	p.n++
	number := ""
	if p.f.number {
		number = fmt.Sprintf("%5d  ", p.n)
	}
	line := number + fmt.Sprintf("%s%-5s %-3s %s", p.stamp(k.Time), k.Port, dir, p.text.Line(k.Data, k.Length))
	if k.Comment != "" && (p.f.verbosity > 0 || strings.HasPrefix(k.Comment, "dropped")) {
		line += " [" + k.Comment + "]"
	}
	line += "\n"
	from := frame.EthernetLen
	for from < len(k.Data) && from >= 2 && k.Data[from-2] == 0x81 && k.Data[from-1] == 0 { // VLAN tags belong to the link header, too
		from += 4
	}
	if p.f.hex > 1 || p.f.hexASCII > 1 {
		from = 0
	}
	if p.f.hex+p.f.hexASCII > 0 && len(k.Data) > from {
		line += dumpBytes(k.Data[from:], p.f.hexASCII > 0)
	}
	if p.f.ascii && len(k.Data) > from {
		line += asciiOf(k.Data[from:]) + "\n"
	}
	_, err := io.WriteString(p.w, line)
	return err
}

// asciiOf returns b in the format of tcpdump's -A.
func asciiOf(b []byte) string {
	out := make([]byte, 0, len(b))
	for i, c := range b {
		switch {
		case c == '\r' && i+1 < len(b) && b[i+1] == '\n': // a line's end
		case c == '\n' || c == '\t' || c >= ' ' && c <= '~':
			out = append(out, c)
		default:
			out = append(out, '.')
		}
	}
	return string(out)
}

func (p *printer) stamp(t time.Time) string {
	last := p.last
	p.last = t
	part, unit, digits := ".000000", time.Microsecond, 6
	if p.f.nano || p.f.precision == "nano" {
		part, unit, digits = ".000000000", time.Nanosecond, 9
	}
	switch p.f.stamps {
	case 0:
		return t.Local().Format("15:04:05" + part + " ")
	case 1:
		return ""
	case 2:
		return fmt.Sprintf("%d.%0*d ", t.Unix(), digits, t.Nanosecond()/int(unit))
	case 3, 5:
		if last.IsZero() {
			last = t
		}
		if p.f.stamps == 5 { // since the first packet
			p.last = last
		}
		d := t.Sub(last)
		return fmt.Sprintf(" %02d:%02d:%02d.%0*d ", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60, digits, d%time.Second/unit)
	}
	return t.Local().Format("2006-01-02 15:04:05" + part + " ")
}

// dumpBytes returns b in the format of tcpdump's -x, or of -X with ascii.
func dumpBytes(b []byte, ascii bool) string {
	var s strings.Builder
	for at := 0; at < len(b); at += 16 {
		line := b[at:min(at+16, len(b))]
		var h strings.Builder
		for i := 0; i < len(line); i += 2 {
			h.WriteString(" " + hex.EncodeToString(line[i:min(i+2, len(line))]))
		}
		if !ascii {
			fmt.Fprintf(&s, "\t0x%04x: %s\n", at, h.String())
			continue
		}
		text := make([]byte, len(line))
		for i, c := range line {
			if text[i] = c; c <= 0x20 || c > 0x7e {
				text[i] = '.'
			}
		}
		fmt.Fprintf(&s, "\t0x%04x: %-40s  %s\n", at, h.String(), text)
	}
	return s.String()
}
