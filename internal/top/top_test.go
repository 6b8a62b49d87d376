package top

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// stage is a screen on a switch that the test plays: 40 ports, flows and drops, which grow with each sample.
func stage(width, height int) *screen {
	n := 0
	m := newScreen(Options{Every: time.Second}, func(v view) (s sample, err error) {
		n++
		s.at = time.Unix(1000+int64(n), 0)
		s.status = api.Status{Version: "1", Backend: "io_uring", Uplink: api.Uplink{Device: "eth0", Address: "198.51.100.1", State: "up"}}
		s.stats = api.Stats{Ports: map[string]api.PortStats{}, Drops: map[string]uint64{"nat_filtered": uint64(9 * n), "martian_destination": 7}, Tables: map[string]api.Table{"flows": {Used: 95, Limit: 100}}}
		for i := range 40 {
			st := api.PortStats{RxBytes: uint64(i * n * 1000), TxBytes: uint64(n * 10), Drops: map[string]uint64{"nat_filtered": uint64(n)}}
			name := fmt.Sprintf("c%02d", i)
			s.stats.Ports[name] = st
			s.ports = append(s.ports, api.Port{Name: name, Network: "default", State: "forwarding", Addresses: []string{fmt.Sprintf("172.29.0.%d/16", i+2)}, PortStats: st})
		}
		if v.kind == flowsView || v.kind == flowPage {
			f := api.Flow{ID: 7, Protocol: "tcp", State: "ESTABLISHED", Port: "c01", Timeout: 60, Original: api.FlowSide{Src: "172.29.0.3", Sport: 1000, Dst: "2001:db8:1234:5678:9abc:def0:1234:5678", Dport: 443, Bytes: uint64(n * 1000)}}
			s.flows = []api.Flow{f}
		}
		if v.kind == dropsView {
			for i := range 100 {
				s.drops = append(s.drops, api.Verdict{Time: fmt.Sprintf("2026-11-29T10:00:%02d.5Z", i%60), Verdict: "dropped", Reason: "nat_filtered", Remedy: "publish the port", In: "c0\x1b[2J1", Packet: fmt.Sprintf("udp 192.0.2.1:%d > 172.29.0.3:53", i), Protocol: "udp", Src: "192.0.2.1", Dst: "172.29.0.3", Sport: i, Dport: 53})
			}
		}
		s.problems = []api.Problem{{Key: "neighbors c02", Kind: "neighbors", Port: "c02", Count: 4, Text: "c02 asks for 172.29.0.77, and nobody answers", Remedy: "start it"}}
		if v.kind == publishedView {
			s.published = []api.Publish{{HostAddress: "127.0.0.1", HostPort: 8080, HostPortEnd: 8080, Protocol: "tcp", Port: "c01", Address: "172.29.0.3", ContainerPort: 80}, {HostAddress: "0.0.0.0", HostPort: 53, HostPortEnd: 53, Protocol: "udp", Port: "c01"}}
		}
		if v.kind == dropPage || v.kind == tracePage {
			s.trace = &api.Trace{Verdict: "dropped", Reason: "nat_filtered", Why: strings.Repeat("why ", 40), Steps: []api.TraceStep{{Stage: "guard", Result: "pass", Text: strings.Repeat("word ", 30)}}}
		}
		return s, nil
	})
	m.width, m.height = width, height
	m.poll()
	m.poll()
	return m
}

// poll plays the program: it takes a sample, and those that the sample asks for.
func (m *screen) poll() {
	for cmd := m.look(); cmd != nil; {
		msg, ok := cmd().(looked)
		if !ok {
			return
		}
		if _, cmd = m.Update(msg); !m.asking {
			return // the next one comes after a time
		}
	}
}

func (m *screen) press(keys ...string) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		if code, ok := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "end": tea.KeyEnd, "home": tea.KeyHome, "pgdown": tea.KeyPgDown, "tab": tea.KeyTab}[k]; ok {
			msg = tea.KeyPressMsg{Code: code}
		}
		if _, cmd := m.Update(tea.Msg(msg)); cmd != nil {
			if got, ok := cmd().(looked); ok {
				m.Update(got)
			}
		}
	}
}

// bare is the screen without its styles.
func (m *screen) bare() string {
	var b strings.Builder
	for rest := m.screen(); ; {
		before, after, found := strings.Cut(rest, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		_, rest, _ = strings.Cut(after, "m")
	}
}

// TestScreen walks through all views by keys, on screens of three sizes. Each has what it should, and each fits.
func TestScreen(t *testing.T) {
	for _, size := range [][2]int{{60, 20}, {80, 24}, {132, 43}} {
		m := stage(size[0], size[1])
		expect := func(after string, want ...string) {
			t.Helper()
			text := m.bare()
			lines := strings.Split(text, "\n")
			for _, l := range lines {
				if len([]rune(l)) > size[0] {
					t.Errorf("%v, after %s: too long: %q", size, after, l)
				}
			}
			if len(lines) > size[1] || strings.Contains(m.screen(), "\x1b[2J") {
				t.Errorf("%v, after %s: %d lines\n%s", size, after, len(lines), text)
			}
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("%v, after %s: no %q in\n%s", size, after, w, text)
				}
			}
		}
		expect("the start", "ports (40), sorted by traffic", "c39", "nat_filtered", "q quit")
		m.press("s", "s", "s", "s")
		expect("s, s, s, s", "sorted by name", "c00")
		m.press("end")
		expect("End", "c39")
		m.press("/", "c", "0", "1", "enter")
		expect("a filter", "filter: c01", "ports (1)")
		m.press("enter")
		expect("Enter", "port c01", "172.29.0.3/16", "DROPS BY REASON", "nat_filtered")
		m.press("enter")
		expect("Enter on a reason", "last drops (100) of port c01, reason nat_filtered")
		m.press("down", "enter")
		expect("Enter on a drop", "dropped: nat_filtered", "to do", "192.0.2.1:1 >")
		m.press("down", "down", "down", "down", "down")
		expect("further down", "=> dropped", "why")
		m.press("end")
		expect("End of the page", "guard", "word")
		m.press("esc", "esc", "f")
		expect("f on a port's page", "flows (1) of port c01")
		m.press("enter")
		expect("Enter on a flow", "flow 7, tcp", "original")
		m.press("end")
		expect("the end of a flow's page", "uvswitch flow del -p tcp")
		m.press("4")
		expect("4", "drops by reason (2)", "martian_destination")
		m.press("enter", "esc", "?")
		expect("?", "Any key closes this help.")
		m.press("x", "tab")
		expect("Tab", "published ports (2)", "127.0.0.1:8080", "publish add")
		m.press("/", "n", "o", "enter")
		expect("a filter without lines", "nothing has this text")
		m.press("esc", "down", "enter")
		expect("Enter on a published port", "port c01")
		m.press("!")
		expect("!", "problems (1)", "c02 asks for 172.29.0.77", "problems   1 (6 shows them)")
		m.press("enter")
		expect("Enter on a problem", "problem: neighbors", "how often", "to do", "start it")
		m.press("t")
		expect("t on a problem", "trace: c02 _", "Enter traces it")
		m.press("x", "esc", "1", "t", "esc", "home", "t", "i", "c", "m", "p", " ", ">", " ", "8", "enter")
		expect("a packet", "trace of a packet", "from port     c39", "icmp > 8", "=> dropped")
		m.press("t", "z", "enter", "esc")
		expect("t on a trace, and Esc", "ports (40)")
		m.press("2", "enter", "t")
		expect("t on a flow", "443")
		m.press("esc", "6", "tab")
		expect("Tab", "ports (40)")
		for _, cmd := range []string{"q"} {
			if _, quit := m.Update(tea.KeyPressMsg{Text: cmd, Code: 'q'}); quit == nil {
				t.Error("q does not quit")
			}
		}
	}
}

// TestLowScreens checks that every view is drawn on screens that have no room for it.
func TestLowScreens(t *testing.T) {
	for height := range 14 {
		for _, keys := range [][]string{{}, {"enter"}, {"enter", "enter"}, {"enter", "enter", "enter", "end"}, {"2"}, {"2", "enter"}, {"3", "end"}, {"4"}, {"5"}, {"6", "enter"}, {"t"}, {"t", "a", "enter", "end"}, {"?"}} {
			m := stage(10, height)
			m.press(keys...)
			if lines := strings.Count(m.screen(), "\n"); lines >= max(height, 1) {
				t.Errorf("height %d, after %v: %d lines", height, keys, lines+1)
			}
		}
	}
}

// TestChoiceFollows checks that the chosen line stays the chosen one when the order changes.
func TestChoiceFollows(t *testing.T) {
	m := stage(100, 30)
	m.press("down", "down")
	if !strings.Contains(m.screen(), "\x1b[7mc37") {
		t.Fatalf("%q", m.screen())
	}
	m.press("s", "s", "s", "s") // by name
	if m.screen(); m.shown().at != 37 || !strings.Contains(m.screen(), "\x1b[7mc37") {
		t.Errorf("line %d is chosen", m.shown().at)
	}
}

// TestPaused checks that space holds the samples.
func TestPaused(t *testing.T) {
	m := stage(100, 30)
	m.press(" ")
	at := m.now.at
	if m.poll(); m.now.at != at || !strings.Contains(m.bare(), "PAUSED") {
		t.Error("it goes on")
	}
	m.press(" ")
	if m.poll(); m.now.at == at {
		t.Error("it does not go on")
	}
}

func TestSpark(t *testing.T) {
	if s := spark([]float64{0, 50, 100}, 2); s != "▅█" {
		t.Error(s)
	}
	if s := spark([]float64{0, 0}, 9); s != "▁▁" {
		t.Error(s)
	}
}
