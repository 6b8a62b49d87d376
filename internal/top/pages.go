package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/term"
)

// page returns the lines of a page about one object.
func (m *screen) page(room int) (out []string) {
	switch v := m.shown(); v.kind {
	case portPage:
		return m.aboutPort(v.port, room)
	case flowPage:
		out = m.aboutFlow(&v.flow)
	case dropPage:
		out = m.aboutDrop(&v.drop)
	case problemPage:
		out = m.aboutProblem(&v.problem)
	case tracePage:
		out = m.aboutPacket(v.port, v.packet)
	}
	v := m.shown()
	v.at = max(0, min(v.at, len(out)-room))
	return out[v.at:min(len(out), v.at+room)]
}

// fact is a line of a page; a long value goes on in the next line.
func (m *screen) fact(name, value string) (out []string) {
	for i, text := range wrap(term.Printable(value), max(20, m.width-14), "") {
		if i > 0 {
			name = ""
		}
		out = append(out, fmt.Sprintf("%-12s  %s", name, text))
	}
	return out
}

func (m *screen) aboutPort(name string, room int) (out []string) {
	i := slices.IndexFunc(m.now.ports, func(p api.Port) bool { return p.Name == name })
	if i < 0 {
		return []string{fmt.Sprintf("Port %s does not exist any more. Esc leads back.", name)}
	}
	p := &m.now.ports[i]
	q := m.before.stats.Ports[name]
	add := func(name, value string) { out = append(out, m.fact(name, value)...) }
	out = append(out, m.styled(term.Bold, "port "+name))
	place := p.Kind
	if p.Netns != "" {
		place += " " + p.Ifname + " in " + p.Netns
	}
	add("is", fmt.Sprintf("%s, %s, in network %s", p.State, place, p.Network))
	add("addresses", strings.Join(append(slices.Clone(p.Addresses), p.MAC), "  "))
	if len(p.Policies) > 0 {
		add("policies", strings.Join(p.Policies, ", "))
	}
	add("from it", fmt.Sprintf("%s, %s", Rate(8*m.per(p.RxBytes, q.RxBytes), "bit/s"), Rate(m.per(p.RxPackets, q.RxPackets), "pkt/s")))
	add("to it", fmt.Sprintf("%s, %s", Rate(8*m.per(p.TxBytes, q.TxBytes), "bit/s"), Rate(m.per(p.TxPackets, q.TxPackets), "pkt/s")))
	if past := m.now.past.Ports[name]; len(past.RxBytes) > 0 {
		width := min(len(past.RxBytes), max(10, m.width-14))
		add("10 min from", spark(past.RxBytes, width))
		add("10 min to", spark(past.TxBytes, width))
	}
	add("flows", fmt.Sprintf("%d%s (f shows them)", len(m.now.flows), map[bool]string{true: " or more"}[len(m.now.flows) == mostFlows]))
	out = append(out, "")
	lines := m.lines()
	v := m.shown()
	v.at = max(0, min(v.at, len(lines)-1))
	head, text := lay([]column{{head: "DROPS BY REASON"}, {head: "COUNT", right: true}, {head: "RATE", right: true}, {head: "MEANING", rest: true, from: 60}}, lines, m.width)
	if len(lines) == 0 {
		return append(out, "Nothing of this port was dropped.")
	}
	out = append(out, m.styled(term.Key, head))
	for i, l := range text {
		if i == v.at {
			l = m.chosen(l)
		}
		out = append(out, l)
	}
	return out[:min(len(out), room)]
}

func (m *screen) aboutFlow(f *api.Flow) (out []string) {
	state := "It has ended since."
	for i := range m.now.flows {
		if flowKey(&m.now.flows[i]) == flowKey(f) {
			f, state = &m.now.flows[i], ""
		}
	}
	add := func(name, value string) { out = append(out, m.fact(name, value)...) }
	out = append(out, m.styled(term.Bold, fmt.Sprintf("flow %d, %s", f.ID, f.Protocol)))
	if state != "" {
		out = append(out, m.styled(term.Warn, state))
	}
	add("state", strings.TrimSpace(f.State+" "+strings.Join(f.Status, " ")))
	add("port", fmt.Sprintf("%s of network %s", f.Port, f.Network))
	side := func(s api.FlowSide) string {
		return fmt.Sprintf("%s > %s   %d packets, %d bytes", api.AddrPort(s.Src, s.Sport), api.AddrPort(s.Dst, s.Dport), s.Packets, s.Bytes)
	}
	add("original", side(f.Original))
	add("reply", side(f.Reply))
	add("rate", Rate(m.flowRates()(f), "bit/s"))
	add("expires in", (time.Duration(f.Timeout)*time.Second).String()+", if no packet comes")
	out = append(out, "")
	add("its frames", fmt.Sprintf("uvswitch dump -i %s host %s", f.Port, f.Original.Dst))
	ports := ""
	if f.Original.Sport != 0 {
		ports = fmt.Sprintf(" --sport %d --dport %d", f.Original.Sport, f.Original.Dport)
	}
	add("end it", fmt.Sprintf("uvswitch flow del -p %s -s %s -d %s%s", f.Protocol, f.Original.Src, f.Original.Dst, ports))
	return out
}

func (m *screen) aboutDrop(d *api.Verdict) (out []string) {
	add := func(name, value string) {
		if value != "" {
			out = append(out, m.fact(name, value)...)
		}
	}
	known, _ := frame.ParseReason(d.Reason)
	out = append(out, m.styled(term.Bold, "dropped: "+d.Reason))
	add("packet", d.Packet)
	add("came from", d.In)
	add("for port", d.Out)
	add("at", d.Time)
	add("meaning", known.Info().Meaning)
	add("why", d.Why)
	out = append(out, "")
	add("to do", d.Remedy)
	out = append(out, "")
	if m.now.trace == nil {
		return append(out, m.fact("now", "A packet of this kind cannot be described for a trace; uvswitch trace --pcap takes it from a capture.")...)
	}
	out = append(out, m.styled(term.Key, "What would happen to it now"))
	return append(out, m.traced()...)
}

func (m *screen) aboutProblem(p *api.Problem) (out []string) {
	out = append(out, m.styled(term.Bold, "problem: "+p.Kind))
	if !slices.ContainsFunc(m.now.problems, func(x api.Problem) bool { return x.Key == p.Key }) {
		out = append(out, m.styled(term.Good, "It is gone."))
	}
	out = append(out, m.fact("what", p.Text)...)
	if p.Count > 0 {
		out = append(out, m.fact("how often", fmt.Sprintf("%d times in the last minute, or more", p.Count))...)
	}
	return append(append(out, ""), m.fact("to do", p.Remedy)...)
}

func (m *screen) aboutPacket(in, packet string) []string {
	out := append([]string{m.styled(term.Bold, "trace of a packet")}, m.fact("from port", in)...)
	out = append(append(out, m.fact("packet", packet)...), "")
	if m.now.trace == nil {
		return out
	}
	return append(out, m.traced()...)
}

// traced is the trace of the sample: its end, which is what the user wants to know, and its steps.
func (m *screen) traced() (out []string) {
	t := m.now.trace
	style, end := term.Good, "=> "+t.Verdict
	if t.Verdict == "dropped" {
		style = term.Bad
	}
	if t.Reason != "" {
		end += " " + t.Reason
	}
	if len(t.Ports) > 0 {
		end += " to " + strings.Join(t.Ports, ", ")
	}
	for _, text := range wrap(term.Printable(end+": "+t.Why), max(20, m.width-3), "   ") {
		out = append(out, m.styled(style, text))
	}
	if t.Remedy != "" {
		out = append(out, m.fact("   to do", t.Remedy)...)
	}
	out = append(out, "")
	for _, s := range t.Steps {
		for i, text := range wrap(term.Printable(s.Text), max(20, m.width-24), "") {
			stage, result := s.Stage, s.Result
			if i > 0 {
				stage, result = "", ""
			}
			out = append(out, fmt.Sprintf("  %-12s %-8s %s", stage, result, text))
		}
	}
	return out
}
