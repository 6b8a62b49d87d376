package top

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/term"
)

// A column of a table. A screen that is narrower than from leaves it out.
type column struct {
	head  string
	from  int
	right bool // aligned to the right, as numbers are
	rest  bool // takes the rest of the line
}

// A line of a table.
type line struct {
	key   string // of the same object in the next sample
	cells []string
	style term.Style
	open  view // what Enter shows
}

// lay lays out a table: its head, and its lines. None is longer than width.
func lay(columns []column, lines []line, width int) (head string, out []string) {
	var shown []int
	widths := make([]int, len(columns))
	used := 0
	for i, c := range columns {
		if c.from > width {
			continue
		}
		shown = append(shown, i)
		widths[i] = len(c.head)
		for _, l := range lines {
			widths[i] = max(widths[i], len([]rune(l.cells[i])))
		}
		if !c.rest {
			used += widths[i] + 2
		}
	}
	for _, i := range shown {
		if columns[i].rest {
			widths[i] = max(8, min(widths[i], width-used))
		}
	}
	text := func(cells func(i int) string) string {
		var b strings.Builder
		for n, i := range shown {
			if n > 0 {
				b.WriteString("  ")
			}
			cell := []rune(cells(i))
			if len(cell) > widths[i] {
				cell = append(cell[:widths[i]-1], '…')
			}
			pad := strings.Repeat(" ", widths[i]-len(cell))
			if columns[i].right {
				b.WriteString(pad + string(cell))
			} else {
				b.WriteString(string(cell) + pad)
			}
		}
		return clip(strings.TrimRight(b.String(), " "), width)
	}
	for _, l := range lines {
		out = append(out, text(func(i int) string { return l.cells[i] }))
	}
	return text(func(i int) string { return columns[i].head }), out
}

// clip shortens a line without styles to width.
func clip(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:max(0, width)])
	}
	return s
}

// wrap breaks a text into lines; all but the first one are indented.
func wrap(text string, width int, indent string) (out []string) {
	now := ""
	for _, word := range strings.Fields(text) {
		if now != "" && len([]rune(now))+1+len([]rune(word)) > width {
			out, now = append(out, now), indent+word
			continue
		}
		if now != "" {
			now += " "
		}
		now += word
	}
	return append(out, now)
}

// spark draws values as a line of blocks, the last ones if there are more than width.
func spark[T float32 | float64](values []T, width int) string {
	const blocks = "▁▂▃▄▅▆▇█"
	values = values[max(0, len(values)-width):]
	if len(values) == 0 {
		return ""
	}
	most := max(slices.Max(values), 1)
	var b strings.Builder
	for _, v := range values {
		b.WriteRune([]rune(blocks)[min(7, int(v*8/most))])
	}
	return b.String()
}

func gauge(t api.Table, width int) string {
	n := 0
	if t.Limit > 0 {
		n = min(width, (t.Used*width+t.Limit-1)/t.Limit)
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

// ByCount returns the keys of m, the most frequent first.
func ByCount(m map[string]uint64) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
}

// Rate formats v with a decimal prefix: 1.2 Gbit/s.
func Rate(v float64, unit string) string {
	prefixes := []string{"", "k", "M", "G", "T"}
	i := 0
	for v >= 1000 && i < len(prefixes)-1 {
		v, i = v/1000, i+1
	}
	if v >= 100 || i == 0 {
		return fmt.Sprintf("%.0f %s%s", v, prefixes[i], unit)
	}
	return fmt.Sprintf("%.1f %s%s", v, prefixes[i], unit)
}
