package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/term"
)

// The views: lists, and pages about one object.
type viewKind int

const (
	portsView viewKind = iota
	flowsView
	dropsView
	reasonsView
	publishedView
	problemsView
	portPage // its list is on the page
	flowPage // this page and those below have no list
	dropPage
	problemPage
	tracePage
)

var viewNames = []string{"ports", "flows", "last drops", "drops by reason", "published ports", "problems"}

// A view is what the screen shows, and where in it the user is.
type view struct {
	kind         viewKind
	port, reason string // only what belongs to them
	flow         api.Flow
	drop         api.Verdict
	problem      api.Problem
	packet       string // to trace; it comes in at port

	filter string
	sort   int    // index of sorts
	key    string // of the chosen line
	at     int    // its number
	from   int    // number of the first line on the screen
}

// sorts are the orders of a list, by name.
var sorts = map[viewKind][]string{
	portsView: {"traffic", "from port", "to port", "drops", "name"}, flowsView: {"rate", "bytes", "port", "state", "expires"}, reasonsView: {"rate", "count", "name"},
}

// screen is the model of the screen.
type screen struct {
	ask           func(view) (sample, error)
	every         time.Duration
	left          int // updates left; 0: no end
	width, height int
	now, before   sample
	total         []float64            // received, bit/s, at each sample
	past          map[string][]float64 // the same of each port, in both directions
	views         []view               // the last one is shown; the others are where Esc leads
	typing, help  bool
	prompt        bool   // asks for a packet to trace
	asked         string // what the user has typed there
	held          bool
	asking        bool // a sample is on its way; its end asks for the next one
	again         bool // the view has changed meanwhile
	plain         bool // no keys and no colors
	err           error
}

func newScreen(o Options, ask func(view) (sample, error)) *screen {
	return &screen{every: o.Every, left: o.Updates, width: 80, height: 24, ask: ask, views: []view{{}}, past: map[string][]float64{}}
}

func (m *screen) view() view   { return m.views[len(m.views)-1] }
func (m *screen) shown() *view { return &m.views[len(m.views)-1] }

type (
	tick   struct{}
	looked struct {
		sample
		err error
	}
)

func (m *screen) look() tea.Cmd {
	if m.asking {
		m.again = true
		return nil
	}
	m.asking = true
	v := m.view()
	return func() tea.Msg {
		s, err := m.ask(v)
		return looked{s, err}
	}
}

// Init implements tea.Model.
func (m *screen) Init() tea.Cmd { return m.look() }

// keptSamples is how many values a sparkline has.
const keptSamples = 60

// take makes a sample the present one.
func (m *screen) take(s sample) {
	if s.noProblems {
		s.problems = m.now.problems
	}
	if m.before, m.now = m.now, s; m.before.at.IsZero() {
		return
	}
	var all uint64
	keep := func(list []float64, v float64) []float64 { return append(list[max(0, len(list)+1-keptSamples):], v) }
	for name, p := range s.stats.Ports {
		q, known := m.before.stats.Ports[name]
		if !known {
			continue
		}
		all += p.RxBytes - min(q.RxBytes, p.RxBytes)
		m.past[name] = keep(m.past[name], 8*(m.per(p.RxBytes, q.RxBytes)+m.per(p.TxBytes, q.TxBytes)))
	}
	for name := range m.past {
		if _, there := s.stats.Ports[name]; !there {
			delete(m.past, name)
		}
	}
	m.total = keep(m.total, 8*m.per(all, 0))
}

// Update implements tea.Model.
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		return m, m.look()
	case looked:
		m.asking = false
		if msg.err != nil {
			m.err = msg.err
			return m, tea.Quit
		}
		if !m.held || m.again {
			m.take(msg.sample)
		}
		if m.again {
			m.again = false
			return m, m.look()
		}
		if m.left--; m.left == 0 {
			return m, tea.Quit
		}
		return m, tea.Tick(m.every, func(time.Time) tea.Msg { return tick{} })
	case tea.KeyPressMsg:
		return m, m.key(msg)
	case tea.PasteMsg:
		text := term.Printable(strings.Join(strings.Fields(msg.Content), " "))
		switch v := m.shown(); {
		case m.prompt:
			m.asked += text
		case m.typing:
			v.filter += text
		}
	}
	return m, nil
}

// key obeys a key.
func (m *screen) key(msg tea.KeyPressMsg) tea.Cmd {
	v, key := m.shown(), msg.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case m.help:
		m.help = false
		return nil
	case m.prompt:
		return m.typePacket(key, msg.Text)
	case m.typing:
		switch key {
		case "enter":
			m.typing = false
		case "esc":
			m.typing, v.filter = false, ""
		case "backspace":
			r := []rune(v.filter)
			v.filter = string(r[:max(0, len(r)-1)])
		default:
			v.filter += msg.Text
		}
		return nil
	}
	lists := map[string]viewKind{"1": portsView, "p": portsView, "2": flowsView, "f": flowsView, "3": dropsView, "d": dropsView, "4": reasonsView, "r": reasonsView, "5": publishedView, "u": publishedView, "6": problemsView, "!": problemsView}
	page := max(1, m.height-12)
	switch key {
	case "q":
		return tea.Quit
	case "?":
		m.help = true
	case "space", " ":
		m.held = !m.held
	case "/":
		m.typing = v.kind < portPage
	case "s":
		if n := len(sorts[v.kind]); n > 0 {
			v.sort = (v.sort + 1) % n
		}
	case "t":
		m.prompt, m.asked = true, m.packetHere()
	case "esc", "left", "h", "backspace":
		switch {
		case v.filter != "":
			v.filter = ""
		case len(m.views) > 1:
			m.views = m.views[:len(m.views)-1]
			return m.look()
		}
	case "enter", "right", "l":
		if lines := m.lines(); v.at < len(lines) && lines[v.at].open.kind >= dropsView {
			return m.show(lines[v.at].open)
		}
	case "tab":
		m.views = []view{{kind: (m.views[0].kind + 1) % portPage}}
		return m.look()
	case "up", "k":
		m.choose(v.at - 1)
	case "down", "j":
		m.choose(v.at + 1)
	case "pgup", "ctrl+b":
		m.choose(v.at - page)
	case "pgdown", "ctrl+f":
		m.choose(v.at + page)
	case "home", "g":
		m.choose(0)
	case "end", "G":
		m.choose(1 << 30)
	default:
		if kind, ok := lists[key]; ok {
			if v.kind == portPage && (kind == flowsView || kind == dropsView) {
				return m.show(view{kind: kind, port: v.port})
			}
			m.views = []view{{kind: kind}}
			return m.look()
		}
	}
	return nil
}

// packetHere is the beginning of a packet for a trace: it comes from the port that the view is about, and is that of the flow or the drop.
func (m *screen) packetHere() string {
	v := m.shown()
	switch lines := m.lines(); {
	case v.kind == tracePage:
		return v.port + " " + v.packet
	case v.kind == flowPage:
		return fmt.Sprintf("%s %s %s > %s ", m.originOf(&v.flow), strings.TrimSuffix(v.flow.Protocol, "v6"), api.AddrPort(v.flow.Original.Src, v.flow.Original.Sport), api.AddrPort(v.flow.Original.Dst, v.flow.Original.Dport))
	case v.kind == dropPage:
		return v.drop.In + " " + v.drop.Trace
	case v.kind == problemPage && v.problem.Port != "":
		return v.problem.Port + " "
	case v.kind == portPage:
		return v.port + " "
	case v.kind == portsView && v.at < len(lines):
		return lines[v.at].key + " "
	}
	return ""
}

// originOf is the port where the packets of a flow's original direction come in: its container's, or the uplink's.
func (m *screen) originOf(f *api.Flow) string {
	for i := range m.now.ports {
		p := &m.now.ports[i]
		if p.HasAddress(f.Original.Src) {
			return p.Name
		}
	}
	if f.Original.Dst != f.Reply.Src || f.Original.Dport != f.Reply.Sport { // it comes in by a published port
		return "uplink"
	}
	return f.Port
}

// typePacket obeys a key while the user types a packet.
func (m *screen) typePacket(key, text string) tea.Cmd {
	switch key {
	case "enter":
		m.prompt = false
		if strings.TrimSpace(m.asked) != "" {
			if v := m.shown(); v.kind == tracePage {
				m.views = m.views[:len(m.views)-1]
			}
			in, packet, _ := strings.Cut(strings.TrimSpace(m.asked), " ")
			return m.show(view{kind: tracePage, port: in, packet: packet})
		}
	case "esc":
		m.prompt = false
	case "backspace":
		r := []rune(m.asked)
		m.asked = string(r[:max(0, len(r)-1)])
	case "ctrl+u":
		m.asked = ""
	default:
		m.asked += text
	}
	return nil
}

// show opens a view over the present one.
func (m *screen) show(v view) tea.Cmd {
	m.views = append(m.views, v)
	return m.look()
}

// choose moves to a line; on a page without a list, it moves the page.
func (m *screen) choose(n int) {
	v, lines := m.shown(), m.lines()
	if v.kind > portPage {
		v.at = max(0, n) // page knows the last line
		return
	}
	v.at = max(0, min(n, len(lines)-1))
	if v.at < len(lines) {
		v.key = lines[v.at].key
	}
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
	switch {
	case m.now.at.IsZero():
		return "asking the switch..."
	case m.help:
		return strings.Join(m.fit(helpLines), "\n")
	}
	out, v := m.head(), m.shown()
	var foot []string
	if v.kind == portsView {
		foot = m.dropLines()
	}
	if m.prompt {
		r := []rune(m.asked)
		foot = append(foot, "trace: "+string(r[max(0, len(r)-max(8, m.width-8)):])+"_")
	}
	if !m.plain {
		foot = append(foot, "", m.keyLine())
	}
	room := max(0, m.height-len(out)-len(foot))
	switch {
	case m.now.noted != "" && !m.plain:
		out = append(out, wrap(m.now.noted, m.width, "")...)
		if v.kind == tracePage {
			out = append(out, "", "t changes the packet, Esc leads back.")
		}
	case v.kind < portPage:
		out = append(out, m.list(room)...)
	default:
		out = append(out, m.page(room)...)
	}
	for !m.plain && len(out) < m.height-len(foot) {
		out = append(out, "")
	}
	return strings.Join(m.fit(append(out, foot...)), "\n")
}

// fit cuts what the screen has no room for.
func (m *screen) fit(lines []string) []string {
	lines = slices.Clone(lines[:min(len(lines), m.height)])
	for i, l := range lines {
		if !strings.Contains(l, "\x1b") {
			lines[i] = strings.TrimRight(clip(l, m.width), " ")
		}
	}
	return lines
}

// styled is a text in a style, unless the screen has none.
func (m *screen) styled(style term.Style, text string) string {
	if text = clip(text, m.width); m.plain {
		return text
	}
	return style.Of(text)
}

// head returns the lines about the switch itself.
func (m *screen) head() (out []string) {
	s := &m.now
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
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
	line := func(backend, six string) string {
		return fmt.Sprintf("uvswitch %s up %s%s, uplink %s %s%s %s, %s", s.status.Version, (time.Duration(s.status.Uptime) * time.Second).String(), backend, cmp.Or(up.Device, "-"), cmp.Or(up.Address, "-"), six, up.State, state)
	}
	about := line(", "+s.status.Backend, six)
	if len(about) > m.width && !m.plain {
		about = line("", "")
	}
	out = append(out, about)
	c, b := s.stats.Conservation, m.before.stats.Conservation
	rate := 0.0
	if len(m.total) > 0 {
		rate = m.total[len(m.total)-1]
	}
	traffic := fmt.Sprintf("in %s %s   out %s   dropped %s", Rate(rate, "bit/s"), Rate(m.per(c.Received, b.Received), "pkt/s"), Rate(m.per(c.Transmitted, b.Transmitted), "pkt/s"), Rate(m.per(c.Dropped, b.Dropped), "pkt/s"))
	if room := m.width - len(traffic) - 3; room > 4 && !m.plain {
		traffic += "   " + spark(m.total, min(room, keptSamples))
	}
	out = append(out, traffic)
	for i, x := range s.stats.IO {
		if before := m.before.stats.IO; i < len(before) && m.seconds() > 0 {
			sleeps, calls := m.per(x.Sleeps, before[i].Sleeps), m.per(x.Calls, before[i].Calls)
			add("worker %d   %3.0f%% of a CPU, %s, %s", i, 100*max(0, x.CPUSeconds-before[i].CPUSeconds)/m.seconds(), Rate(calls, "calls/s"), Rate(sleeps, "sleeps/s"))
		}
	}
	for _, k := range api.TableNames {
		if t, ok := s.stats.Tables[k]; ok {
			text := fmt.Sprintf("%-10s %s %d of %d", strings.ReplaceAll(k, "_", " "), gauge(t, min(24, max(4, m.width-36))), t.Used, t.Limit)
			if t.NearlyFull() {
				text = m.styled(term.Bad, text)
			}
			out = append(out, text)
		}
	}
	switch n := len(s.problems); {
	case n > 0 && m.plain:
		out = append(out, fmt.Sprintf("problems   %d (`uvswitch doctor` shows them)", n))
	case n > 0:
		out = append(out, m.styled(term.Warn, fmt.Sprintf("problems   %d (6 shows them)", n)))
	}
	return append(out, "")
}

// list returns the lines of a list: what it is, its head, and the lines around the chosen one.
func (m *screen) list(room int) (out []string) {
	v, lines := m.shown(), m.lines()
	if i := slices.IndexFunc(lines, func(l line) bool { return l.key == v.key }); i >= 0 {
		v.at = i
	}
	v.at = max(0, min(v.at, len(lines)-1))
	head, text := lay(m.columns(), lines, m.width)
	if !m.plain {
		out = append(out, m.styled(term.Bold, m.title(len(lines))))
	}
	out = append(out, m.styled(term.Key, head))
	room = max(1, room-len(out))
	if v.from = max(min(v.from, v.at), v.at-room+1, 0); m.plain {
		v.from = 0
	}
	for i := v.from; i < min(len(lines), v.from+room); i++ {
		switch {
		case m.plain && i == room-1 && len(lines) > room:
			return append(out, fmt.Sprintf("... %d more", len(lines)-i))
		case !m.plain && i == v.at:
			out = append(out, m.chosen(text[i]))
		default:
			out = append(out, m.styled(lines[i].style, text[i]))
		}
	}
	if len(lines) == 0 {
		out = append(out, m.empty()...)
	}
	if v.kind == publishedView && !m.plain && len(out) < room {
		out = append(out, "")
		for _, text := range wrap("To publish one: uvswitch publish add HOSTPORT:PORT --port NAME", m.width, "  ") {
			out = append(out, m.styled(term.Dim, text))
		}
	}
	return out
}

// empty says why a list has nothing.
func (m *screen) empty() []string {
	v := m.shown()
	switch {
	case v.filter != "":
		return wrap("nothing has this text; Esc removes the filter", m.width, "")
	case v.kind == problemsView:
		return wrap("The switch sees no problem. t traces a packet: it says what would happen to it. `uvswitch doctor` looks at the host, too.", m.width, "")
	case v.kind == publishedView:
		return wrap("No port of the host is published: nobody outside can begin a connection to a container.", m.width, "")
	}
	return []string{"nothing to show"}
}

// chosen is the chosen line, over the whole width.
func (m *screen) chosen(text string) string {
	return term.Reverse.Of(text + strings.Repeat(" ", max(0, m.width-len([]rune(text)))))
}

// title says what the list has.
func (m *screen) title(n int) string {
	v := m.shown()
	s := fmt.Sprintf("%s (%d)", viewNames[v.kind], n)
	if v.port != "" {
		s += " of port " + v.port
	}
	if v.reason != "" {
		s += ", reason " + v.reason
	}
	if by := sorts[v.kind]; len(by) > 0 {
		s += ", sorted by " + by[v.sort]
	}
	switch {
	case m.typing:
		s += "   filter: " + v.filter + "_"
	case v.filter != "":
		s += "   filter: " + v.filter
	}
	return s
}

func (m *screen) keyLine() string {
	switch {
	case m.prompt:
		return clip("PORT PACKET, such as web tcp > 1.1.1.1:443   Enter traces it   Esc leaves", m.width)
	case m.typing:
		return "type a part of a line   Enter keeps the filter   Esc removes it"
	}
	text := "q quit  ? help  Enter open  Esc back  / filter  s sort  t trace  1 ports  2 flows  3 drops  4 reasons  5 published  6 problems  space pause"
	if m.width < len(text) {
		text = "q quit  ? help  Enter open  Esc back  / filter  s sort  t trace  1-6"
	}
	if m.width < len(text) {
		text = "q quit  ? help  Enter open  / filter  t trace  1-6"
	}
	return m.styled(term.Dim, text)
}

var helpLines = []string{
	"Keys",
	"",
	"  1 or p      ports",
	"  2 or f      flows; on a port's page, those of the port",
	"  3 or d      the last drops; on a port's page, its own",
	"  4 or r      drops by reason",
	"  5 or u      published ports",
	"  6 or !      problems, and what to do",
	"  Tab         the next list",
	"",
	"  Up, Down, j, k, PgUp, PgDn, g, G   choose a line",
	"  Enter       open the chosen line",
	"  Esc         back; it removes a filter first",
	"  /           show only lines that have a text",
	"  s           sort by the next column",
	"  t           trace a packet: what would happen to it",
	"  space       pause; q quits",
	"",
	"The pages of drops and of problems say what to do.",
	"Any key closes this help.",
}
