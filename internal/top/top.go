// Package top is the screen of `uvswitch top`: rates by port, drops by reason, how full each table is, and the busiest flows.
package top

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// Options say what to show, and where.
type Options struct {
	Client  *api.Client
	In      *os.File // a terminal; for Run
	Out     io.Writer
	Every   time.Duration // between two updates
	Updates int           // end after so many; 0: no end
}

func newScreen(ctx context.Context, o Options) *screen {
	return &screen{every: o.Every, left: o.Updates, width: 80, height: 24, ask: func() (sample, error) { return take(ctx, o.Client) }}
}

// Run shows the live screen until the user quits, or ctx is done.
func Run(ctx context.Context, o Options) error {
	m := newScreen(ctx, o)
	if _, err := m.ask(); err != nil { // before the program takes over the terminal
		return err
	}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithOutput(o.Out), tea.WithInput(o.In)).Run()
	if err == nil {
		err = m.err
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Print prints screens as plain text, the first after two samples, when rates are known.
func Print(ctx context.Context, o Options) error {
	m := newScreen(ctx, o)
	m.width, m.height, m.plain = 100, 30, true
	for n := 0; m.left == 0 || n <= m.left; n++ {
		s, err := m.ask()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if m.before, m.now = m.now, s; n > 0 {
			if _, err := fmt.Fprintf(o.Out, "%s\n%s\n\n", s.at.Format(time.RFC3339), m.screen()); err != nil {
				return err
			}
		}
		if m.left > 0 && n == m.left {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.every):
		}
	}
	return nil
}

// A sample is the state of the switch at one time.
type sample struct {
	at     time.Time
	status api.Status
	ports  []api.Port
	stats  api.Stats
	flows  []api.Flow
}

func take(ctx context.Context, c *api.Client) (s sample, err error) {
	for path, to := range map[string]any{"/status": &s.status, "/ports": &s.ports, "/stats": &s.stats, "/flows?limit=2000": &s.flows} {
		if err := c.Do(ctx, "GET", path, nil, to); err != nil {
			return s, err
		}
	}
	s.at = time.Now()
	return s, nil
}

// screen is the model of the screen.
type screen struct {
	ask           func() (sample, error)
	every         time.Duration
	left          int // updates left; 0: no end
	width, height int
	now, before   sample
	sort          byte
	flows, held   bool
	plain         bool // no keys and no colors
	err           error
}

type (
	tick   struct{}
	looked struct {
		sample
		err error
	}
)

func (m *screen) look() tea.Msg {
	s, err := m.ask()
	return looked{s, err}
}

// Init implements tea.Model.
func (m *screen) Init() tea.Cmd { return m.look }

// Update implements tea.Model.
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		return m, m.look
	case looked:
		if msg.err != nil {
			m.err = msg.err
			return m, tea.Quit
		}
		if !m.held {
			m.before, m.now = m.now, msg.sample
		}
		if m.left--; m.left == 0 {
			return m, tea.Quit
		}
		return m, tea.Tick(m.every, func(time.Time) tea.Msg { return tick{} })
	case tea.KeyPressMsg:
		switch key := msg.String(); key {
		case "q", "ctrl+c", "esc":
			return m, tea.Quit
		case "f", "tab":
			m.flows = !m.flows
		case "space", " ":
			m.held = !m.held
		case "r", "p", "d", "n":
			m.sort = key[0]
		}
	}
	return m, nil
}

// View implements tea.Model.
func (m *screen) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	return v
}

// seconds returns the time between the two samples; 0 when there is only one.
func (m *screen) seconds() float64 {
	if m.before.at.IsZero() {
		return 0
	}
	return m.now.at.Sub(m.before.at).Seconds()
}

// per returns the rate of a counter, per second, between the two samples.
func (m *screen) per(now, before uint64) float64 {
	if s := m.seconds(); s > 0 && now >= before {
		return float64(now-before) / s
	}
	return 0
}

// screen returns the text of the screen: at most height lines, none longer than width.
func (m *screen) screen() string {
	if m.now.at.IsZero() {
		return "asking the switch..."
	}
	s := &m.now
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	state := "balanced"
	if !s.stats.Conservation.Balanced {
		state = "busy"
	}
	if m.held {
		state = "PAUSED"
	}
	up := s.status.Uplink
	six := ""
	if up.Address6 != "" && up.State6 == "up" {
		six = " and " + up.Address6
	}
	add("uvswitch %s up %s, %s, uplink %s %s%s %s, %s", s.status.Version, (time.Duration(s.status.Uptime) * time.Second).String(), s.status.Backend, cmp.Or(up.Device, "-"), cmp.Or(up.Address, "-"), six, up.State, state)
	c, b := s.stats.Conservation, m.before.stats.Conservation
	var bytes, before uint64
	for name, p := range s.stats.Ports {
		bytes += p.RxBytes
		before += m.before.stats.Ports[name].RxBytes
	}
	add("in %s %s   out %s   dropped %s", Rate(8*m.per(bytes, before), "bit/s"), Rate(m.per(c.Received, b.Received), "pkt/s"), Rate(m.per(c.Transmitted, b.Transmitted), "pkt/s"), Rate(m.per(c.Dropped, b.Dropped), "pkt/s"))
	for i, x := range s.stats.IO {
		if before := m.before.stats.IO; i < len(before) && m.seconds() > 0 {
			sleeps, calls := m.per(x.Sleeps, before[i].Sleeps), m.per(x.Calls, before[i].Calls)
			add("worker %d   %3.0f%% of a CPU, %s, %s", i, 100*max(0, x.CPUSeconds-before[i].CPUSeconds)/m.seconds(), Rate(calls, "calls/s"), Rate(sleeps, "sleeps/s"))
		}
	}
	for _, k := range []string{"fdb", "flows", "flows6", "nat_ports", "sockets"} {
		if t, ok := s.stats.Tables[k]; ok {
			add("%-10s %s %d of %d", strings.ReplaceAll(k, "_", " "), gauge(t, 24), t.Used, t.Limit)
		}
	}
	add("")
	drops := m.dropLines()
	room := m.height - len(lines) - 2 - len(drops) - 1
	if m.flows {
		lines = append(lines, m.flowLines(room)...)
	} else {
		lines = append(lines, m.portLines(room)...)
	}
	for !m.plain && len(lines) < m.height-len(drops)-1 {
		lines = append(lines, "")
	}
	lines = append(lines, drops...)
	if !m.plain {
		lines = append(lines, "q quit  f flows/ports  sort: r from port, p to port, d drops, n name  space pause")
	}
	if len(lines) > m.height {
		lines = lines[:m.height]
	}
	for i, l := range lines {
		if r := []rune(l); len(r) > m.width {
			lines[i] = string(r[:m.width])
		}
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if len(lines) > 6 && !m.plain {
		lines[6] = reverse(lines[6], m.width)
	}
	return strings.Join(lines, "\n")
}

// reverse shows a line in inverse video, over the whole width.
func reverse(s string, width int) string {
	return "\x1b[7m" + s + strings.Repeat(" ", max(0, width-len([]rune(s)))) + "\x1b[m"
}

func (m *screen) portLines(room int) []string {
	type row struct {
		p      api.Port
		rx, tx float64
		drops  float64
	}
	var rows []row
	for _, p := range m.now.ports {
		q := m.before.stats.Ports[p.Name]
		if m.before.at.IsZero() {
			q = p.PortStats
		}
		rows = append(rows, row{p, m.per(p.RxBytes, q.RxBytes), m.per(p.TxBytes, q.TxBytes), m.per(p.RxDropped+p.TxDropped, q.RxDropped+q.TxDropped)})
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		switch m.sort {
		case 'r':
			return cmp.Compare(b.rx, a.rx)
		case 'p':
			return cmp.Compare(b.tx, a.tx)
		case 'd':
			return cmp.Compare(b.drops, a.drops)
		case 'n':
			return strings.Compare(a.p.Name, b.p.Name)
		}
		return cmp.Compare(b.rx+b.tx, a.rx+a.tx)
	})
	out := []string{fmt.Sprintf("%-15s %-9s %-10s %12s %12s %9s", "PORT", "NETWORK", "STATE", "FROM PORT", "TO PORT", "DROPS/S")}
	for i, r := range rows {
		if i == room-1 && len(rows) > room {
			out = append(out, fmt.Sprintf("... %d more", len(rows)-i))
			break
		}
		out = append(out, fmt.Sprintf("%-15.15s %-9.9s %-10s %12s %12s %9s", r.p.Name, cmp.Or(r.p.Network, "-"), r.p.State, Rate(8*r.rx, "bit/s"), Rate(8*r.tx, "bit/s"), Rate(r.drops, "")))
	}
	return out
}

func (m *screen) flowLines(room int) []string {
	before := map[uint32]uint64{}
	key := func(f api.Flow) string {
		return fmt.Sprint(f.Original.Src, f.Original.Sport, f.Original.Dst, f.Original.Dport)
	}
	same := map[uint32]string{}
	for _, f := range m.before.flows {
		before[f.ID], same[f.ID] = f.Original.Bytes+f.Reply.Bytes, key(f)
	}
	type row struct {
		f api.Flow
		r float64
	}
	var rows []row
	for _, f := range m.now.flows {
		r := row{f: f}
		if same[f.ID] == key(f) {
			r.r = m.per(f.Original.Bytes+f.Reply.Bytes, before[f.ID])
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.r, a.r) })
	end := func(addr string, port int) string {
		if port == 0 {
			return addr
		}
		return net.JoinHostPort(addr, strconv.Itoa(port))
	}
	from, to := len("203.0.113.100:65535"), len("203.0.113.100:65535") // the widths of their columns
	for _, r := range rows[:min(room, len(rows))] {
		from, to = max(from, len(end(r.f.Original.Src, r.f.Original.Sport))), max(to, len(end(r.f.Original.Dst, r.f.Original.Dport)))
	}
	out := []string{fmt.Sprintf("%-6s %-9s %-*s %-*s %-8s %9s", "PROTO", "STATE", from, "FROM", to, "TO", "PORT", "RATE")}
	for i, r := range rows {
		if i == room-1 && len(rows) > room {
			out = append(out, fmt.Sprintf("... %d more", m.now.stats.Tables["flows"].Used+m.now.stats.Tables["flows6"].Used-i))
			break
		}
		out = append(out, fmt.Sprintf("%-6s %-9.9s %-*s %-*s %-8.8s %9s", r.f.Protocol, cmp.Or(r.f.State, "-"), from, end(r.f.Original.Src, r.f.Original.Sport), to, end(r.f.Original.Dst, r.f.Original.Dport), cmp.Or(r.f.Port, "-"), Rate(8*r.r, "b/s")))
	}
	return out
}

// ByCount returns the keys of m, the most frequent first.
func ByCount(m map[string]uint64) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
}

// dropLines returns lines for the most frequent drop reasons, with their meanings.
func (m *screen) dropLines() []string {
	drops := m.now.stats.Drops
	out := []string{""}
	for i, name := range ByCount(drops) {
		if i == 4 && m.height < 34 || i == 10 {
			break
		}
		line := fmt.Sprintf("%9d %-22s", drops[name], name)
		if r := m.per(drops[name], m.before.stats.Drops[name]); r > 0 && !m.before.at.IsZero() {
			line += " " + Rate(r, "/s")
		}
		if known, ok := frame.ParseReason(name); ok && m.width > 60 {
			line += " " + known.Info().Meaning
		}
		out = append(out, line)
	}
	if len(out) == 1 {
		return append(out, "nothing has been dropped")
	}
	return out
}

func gauge(t api.Table, width int) string {
	n := 0
	if t.Limit > 0 {
		n = min(width, (t.Used*width+t.Limit-1)/t.Limit)
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
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
