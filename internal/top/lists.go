package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/term"
)

// columns are those of the shown list.
func (m *screen) columns() []column {
	switch m.shown().kind {
	case flowsView:
		return []column{{head: "PROTO"}, {head: "STATE"}, {head: "FROM"}, {head: "TO"}, {head: "PORT"}, {head: "RATE", right: true}, {head: "BYTES", right: true, from: 110}, {head: "EXPIRES", right: true, from: 120}}
	case dropsView:
		return []column{{head: "TIME"}, {head: "REASON"}, {head: "PORT"}, {head: "PACKET", rest: true}}
	case publishedView:
		return []column{{head: "HOST"}, {head: "PROTO"}, {head: "PORT"}, {head: "CONTAINER", from: 60}, {head: "FROM", from: 80}, {head: "PACKETS", right: true, from: 60}, {head: "BYTES", right: true, from: 100}}
	case problemsView:
		return []column{{head: "KIND"}, {head: "PORT"}, {head: "PROBLEM", rest: true}}
	case reasonsView:
		return []column{{head: "REASON"}, {head: "COUNT", right: true}, {head: "RATE", right: true}, {head: "MEANING", rest: true, from: 60}}
	}
	columns := []column{{head: "PORT"}, {head: "NETWORK", from: 70}, {head: "STATE", from: 60}, {head: "FROM PORT", right: true}, {head: "TO PORT", right: true}, {head: "DROPS/S", right: true}, {head: "ADDRESS", from: 110}}
	if !m.plain {
		columns = append(columns, column{head: "", from: 80, rest: true})
	}
	return columns
}

// lines are those of the shown list, in its order, that have the filter's text.
func (m *screen) lines() []line {
	v := m.shown()
	var all []line
	switch v.kind {
	case portsView:
		all = m.portLines()
	case flowsView:
		all = m.flowLines()
	case dropsView:
		all = m.dropped()
	case reasonsView:
		all = m.reasons()
	case publishedView:
		all = m.publishedLines()
	case problemsView:
		for _, p := range m.now.problems {
			all = append(all, line{p.Key, []string{p.Kind, cmp.Or(p.Port, "-"), p.Text}, term.Plain, view{kind: problemPage, problem: p}})
		}
	case portPage:
		all = m.reasonsOf(v.port)
	}
	for i := range all {
		for c := range all[i].cells {
			all[i].cells[c] = term.Printable(all[i].cells[c])
		}
	}
	if v.filter == "" {
		return all
	}
	return slices.DeleteFunc(all, func(l line) bool {
		return !strings.Contains(strings.ToLower(strings.Join(l.cells, " ")), strings.ToLower(v.filter))
	})
}

func (m *screen) portLines() (out []line) {
	type row struct {
		p      api.Port
		rx, tx float64
		drops  float64
	}
	var rows []row
	for _, p := range m.now.ports {
		q, known := m.before.stats.Ports[p.Name]
		if !known {
			q = p.PortStats
		}
		rows = append(rows, row{p, m.per(p.RxBytes, q.RxBytes), m.per(p.TxBytes, q.TxBytes), m.per(lost(&p.PortStats), lost(&q))})
	}
	by := sorts[portsView][m.shown().sort]
	slices.SortStableFunc(rows, func(a, b row) int {
		switch by {
		case "from port":
			return cmp.Compare(b.rx, a.rx)
		case "to port":
			return cmp.Compare(b.tx, a.tx)
		case "drops":
			return cmp.Compare(b.drops, a.drops)
		case "name":
			return strings.Compare(a.p.Name, b.p.Name)
		}
		return cmp.Compare(b.rx+b.tx, a.rx+a.tx)
	})
	for _, r := range rows {
		style := term.Plain
		switch {
		case r.p.State != "forwarding":
			style = term.Dim
		case r.drops >= 1:
			style = term.Warn
		}
		address := "-"
		if len(r.p.Addresses) > 0 {
			address, _, _ = strings.Cut(r.p.Addresses[0], "/")
		}
		cells := []string{r.p.Name, cmp.Or(r.p.Network, "-"), r.p.State, Rate(8*r.rx, "bit/s"), Rate(8*r.tx, "bit/s"), Rate(r.drops, ""), address, spark(m.past[r.p.Name], 24)}
		out = append(out, line{r.p.Name, cells, style, view{kind: portPage, port: r.p.Name}})
	}
	return out
}

// lost counts the frames of a port that were dropped, without acknowledgements that were not needed any more.
func lost(p *api.PortStats) uint64 {
	return p.RxDropped + p.TxDropped - p.Drops[frame.AckSuperseded.String()]
}

// flowKey is the same for a flow in each sample: IDs are used again.
func flowKey(f *api.Flow) string {
	return fmt.Sprint(f.ID, f.Original.Src, f.Original.Sport, f.Original.Dst, f.Original.Dport)
}

// flowRates returns a function that gives the rate of a flow in both directions, in bit/s.
func (m *screen) flowRates() func(*api.Flow) float64 {
	before := map[uint32]*api.Flow{}
	for i := range m.before.flows {
		before[m.before.flows[i].ID] = &m.before.flows[i]
	}
	return func(f *api.Flow) float64 {
		b := before[f.ID]
		if b == nil || flowKey(b) != flowKey(f) {
			return 0
		}
		return 8 * m.per(f.Original.Bytes+f.Reply.Bytes, b.Original.Bytes+b.Reply.Bytes)
	}
}

func (m *screen) flowLines() (out []line) {
	rate := m.flowRates()
	type row struct {
		f    *api.Flow
		rate float64
	}
	var rows []row
	for i := range m.now.flows {
		rows = append(rows, row{&m.now.flows[i], rate(&m.now.flows[i])})
	}
	by := sorts[flowsView][m.shown().sort]
	slices.SortStableFunc(rows, func(a, b row) int {
		switch by {
		case "bytes":
			return cmp.Compare(b.f.Original.Bytes+b.f.Reply.Bytes, a.f.Original.Bytes+a.f.Reply.Bytes)
		case "port":
			return strings.Compare(a.f.Port, b.f.Port)
		case "state":
			return strings.Compare(a.f.State, b.f.State)
		case "expires":
			return cmp.Compare(a.f.Timeout, b.f.Timeout)
		}
		return cmp.Compare(b.rate, a.rate)
	})
	for _, r := range rows {
		cells := []string{r.f.Protocol, cmp.Or(r.f.State, "-"), api.AddrPort(r.f.Original.Src, r.f.Original.Sport), api.AddrPort(r.f.Original.Dst, r.f.Original.Dport), cmp.Or(r.f.Port, "-"), Rate(r.rate, "b/s"),
			strconv.FormatUint(r.f.Original.Bytes+r.f.Reply.Bytes, 10), (time.Duration(r.f.Timeout) * time.Second).String()}
		out = append(out, line{flowKey(r.f), cells, term.Plain, view{kind: flowPage, flow: *r.f, port: r.f.Port}})
	}
	return out
}

func (m *screen) publishedLines() (out []line) {
	for _, p := range m.now.published {
		cells := []string{p.HostPorts(), p.Protocol, p.Port, api.AddrPort(p.Address, p.ContainerPort), cmp.Or(strings.Join(p.From, ","), "any"), strconv.FormatUint(p.Packets, 10), strconv.FormatUint(p.Bytes, 10)}
		out = append(out, line{p.Host() + p.Port, cells, term.Plain, view{kind: portPage, port: p.Port}})
	}
	return out
}

// dropped are the last drops, the newest first.
func (m *screen) dropped() (out []line) {
	for _, d := range m.now.drops {
		at := d.Time
		if t, err := time.Parse(time.RFC3339Nano, d.Time); err == nil {
			at = t.Local().Format("15:04:05.0")
		}
		out = append(out, line{d.Time + d.Packet, []string{at, d.Reason, d.In, d.Packet}, term.Plain, view{kind: dropPage, drop: d}})
	}
	return out
}

func (m *screen) reasons() (out []line) {
	drops, before := m.now.stats.Drops, m.before.stats.Drops
	names := ByCount(drops)
	rate := func(name string) float64 { return m.per(drops[name], before[name]) }
	switch sorts[reasonsView][m.shown().sort] {
	case "rate":
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(rate(b), rate(a)) })
	case "name":
		slices.Sort(names)
	}
	for _, name := range names {
		out = append(out, reasonLine(name, drops[name], rate(name), view{kind: dropsView, reason: name}))
	}
	return out
}

// reasonsOf are the reasons for which frames of a port were dropped.
func (m *screen) reasonsOf(port string) (out []line) {
	drops, before := m.now.stats.Ports[port].Drops, m.before.stats.Ports[port].Drops
	for _, name := range ByCount(drops) {
		out = append(out, reasonLine(name, drops[name], m.per(drops[name], before[name]), view{kind: dropsView, reason: name, port: port}))
	}
	return out
}

func reasonLine(name string, count uint64, rate float64, open view) line {
	meaning := ""
	if known, ok := frame.ParseReason(name); ok {
		meaning = known.Info().Meaning
	}
	style := term.Plain
	if rate >= 1 {
		style = term.Warn
	}
	return line{name, []string{name, strconv.FormatUint(count, 10), Rate(rate, "/s"), meaning}, style, open}
}

// dropLines are the most frequent drop reasons, with their meanings.
func (m *screen) dropLines() []string {
	drops := m.now.stats.Drops
	out := []string{""}
	for i, name := range ByCount(drops) {
		if i == 1 && m.height < 24 || i == 4 && m.height < 34 || i == 10 {
			break
		}
		text := fmt.Sprintf("%9d %-22s", drops[name], name)
		if r := m.per(drops[name], m.before.stats.Drops[name]); r > 0 && !m.before.at.IsZero() {
			text += " " + Rate(r, "/s")
		}
		if known, ok := frame.ParseReason(name); ok && m.width > 60 {
			text += " " + known.Info().Meaning
		}
		out = append(out, text)
	}
	if len(out) == 1 {
		return append(out, "nothing has been dropped")
	}
	return out
}
