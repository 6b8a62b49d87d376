package apiserver

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/explain"
	"github.com/uvswitch/uvswitch/internal/filter"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policies"
)

// streamCapture streams pcapng until the client disconnects, or count packets have been written. The section header is sent once
// the capture is in force.
func (s *Server) streamCapture(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	o, err := s.captureOptions(q, mayChange(r))
	count, cerr := parseCount(q, "count")
	if err = cmp.Or(err, cerr); err != nil {
		writeJSON(w, nil, err)
		return
	}
	if q.Get("drops") == "1" {
		if o.Dir != 0 {
			writeJSON(w, nil, badRequest("a dropped frame has no direction: leave --dir out"))
			return
		}
		o.Ends, o.Drops = true, true
	}
	names := s.describer()
	var out *capture.Writer
	s.stream(w, r, o, "application/x-pcapng", func() error {
		var err error
		out, err = capture.NewWriter(w, "uvswitch "+s.opts.Version, names)
		if err == nil {
			out.Split, out.Limit = q.Get("split") == "1", count
		}
		return err
	}, func(rec capture.Record, lost uint64) (written, more bool, err error) {
		rec.Detail = s.refusalOf(&rec).Why
		err = out.Write(rec, lost)
		return true, count == 0 || out.Written() < count, err
	})
}

// streamMonitor streams verdicts as newline-delimited JSON, after the last drops when these are asked for.
func (s *Server) streamMonitor(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	o, err := s.captureOptions(q, mayChange(r))
	last, lerr := parseCount(q, "last")
	want := q.Get("verdict")
	if want != "" && !slices.Contains(verdicts, want) {
		err = badRequest("verdict %q: must be forwarded, flooded, consumed or dropped", want)
	}
	reason := q.Get("reason")
	if _, ok := frame.ParseReason(reason); reason != "" && !ok {
		err = badRequest("%q is not a drop reason; `uvswitch reasons` lists them", reason)
	}
	follow := q.Get("follow") != "0"
	switch {
	case reason != "" && want != "" && want != "dropped":
		err = badRequest("a frame that is %s has no drop reason: leave out --verdict or --reason", want)
	case !follow && want != "" && want != "dropped":
		err = badRequest("only drops are remembered, not frames that were %s; leave out --last, or add -f to see new frames", want)
	}
	if err = cmp.Or(err, lerr); err != nil {
		writeJSON(w, nil, err)
		return
	}
	o.Ends, o.Snap = true, monitorSnap
	o.Drops = want == "dropped" || reason != ""
	names := s.describer() // looked up once for each port
	name := func(id frame.PortID) string { n, _ := names(id); return n }
	enc := api.NewEncoder(w)
	var known time.Time // drops until then are among the remembered
	recent := func() error {
		if last == 0 {
			return nil
		}
		known = time.Now()
		for _, rec := range s.recentDrops(o, reason, last) {
			v := s.verdictOf(&rec, name)
			v.Time = rec.Time.Format("2006-01-02T15:04:05.0Z07:00") // as precise as it is known
			if err := enc.Encode(v); err != nil {
				return err
			}
		}
		return nil
	}
	if !follow {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = recent() // the client may have gone
		return
	}
	s.stream(w, r, o, "application/x-ndjson", recent, func(rec capture.Record, lost uint64) (written, more bool, err error) {
		v := s.verdictOf(&rec, name)
		v.Lost = lost
		if q.Get("bytes") == "1" {
			v.Bytes = hex.EncodeToString(rec.Data)
		}
		if want != "" && v.Verdict != want || reason != "" && v.Reason != reason || v.Verdict == "dropped" && rec.Time.Before(known) {
			return false, true, nil
		}
		return true, true, enc.Encode(v)
	})
}

const monitorSnap = 384 // bytes of a frame that its text needs

var verdicts = []string{"forwarded", "flooded", "consumed", "dropped"}

// stream calls each for every record, until the client disconnects or each returns more=false. lost counts the records lost since each
// last returned written=true. begin is called once the capture is in force.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, o capture.Options, kind string, begin func() error, each func(rec capture.Record, lost uint64) (written, more bool, err error)) {
	c, err := s.capture.Start(o)
	if err != nil {
		writeJSON(w, nil, api.Errorf(http.StatusServiceUnavailable, "%v", err))
		return
	}
	defer c.Close()
	_, next, _, changed := s.d.Events().From(math.MaxUint64)
	follow := func() {
		if names := r.URL.Query()["port"]; len(names) > 0 {
			c.Follow(portsNamed(s.d.State(), names))
		}
	}
	follow() // a change may have come since the names were looked up
	w.Header().Set("Content-Type", kind)
	err = begin()
	flush := http.NewResponseController(w)
	var told uint64
	more := true
	for err == nil && more {
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed: // a port of a name may have gone, or have come again
			_, next, _, changed = s.d.Events().From(next)
			follow()
			continue
		case <-c.Wait():
		}
		c.Drain(func(rec capture.Record) bool {
			lost := c.Lost.Load()
			var written bool
			if written, more, err = each(rec, lost-told); written {
				told = lost
			}
			return err == nil && more
		})
	}
}

const maxGuestFilter = 256

// captureOptions reads what capture and monitor share.
func (s *Server) captureOptions(q url.Values, root bool) (o capture.Options, err error) {
	if o.Snap, err = parseCount(q, "snap"); err != nil {
		return o, err
	}
	switch q.Get("dir") {
	case "", "both", "inout": // tcpdump's word
	case "in":
		o.Dir = capture.In
	case "out":
		o.Dir = capture.Out
	default:
		return o, badRequest("dir %q: must be in, out or both", q.Get("dir"))
	}
	if n := len(q.Get("filter")); n > maxGuestFilter && !root {
		return o, api.Errorf(http.StatusForbidden, "the filter has %d characters; %d are the limit for a user who is not root; use a shorter one, or run as root", n, maxGuestFilter)
	}
	if o.Filter, err = filter.Compile(q.Get("filter")); err != nil {
		return o, badRequest("%v", err)
	}
	o.Root = root
	state := s.d.State()
	for _, name := range q["port"] {
		if state.Port(name) == nil {
			return o, model.NoPort(name)
		}
	}
	o.Ports = portsNamed(state, q["port"])
	return o, nil
}

// portsNamed are the ports with these names that are there now.
func portsNamed(state *model.State, names []string) (ids []frame.PortID) {
	for _, name := range names {
		if p := state.Port(name); p != nil {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// parseCount reads a number that is not negative. A missing parameter is 0.
func parseCount(q url.Values, key string) (int, error) {
	s := q.Get(key)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, badRequest("%s %q is not a number from 0 upwards", key, s)
	}
	return n, nil
}

// recentDrops returns the last n drops that the data plane has kept, in order. No bytes are kept of frames that a port refused: a
// filter leaves them out.
func (s *Server) recentDrops(o capture.Options, reason string, n int) (out []capture.Record) {
	s.dropLogMu.Lock()
	defer s.dropLogMu.Unlock()
	var room filter.Packet
	buf := make([]byte, frame.VnetLen+frame.MaxFrame)
	wants := func(p frame.PortID) bool { return len(o.Ports) == 0 || slices.Contains(o.Ports, p) }
	for _, x := range s.dp.Recent() {
		if !wants(x.In) && !wants(x.Out) || reason != "" && x.Reason.String() != reason {
			continue
		}
		raw := buf[:frame.VnetLen+min(int(x.Length), frame.MaxFrame)] // bytes that were not kept are zeros
		copy(raw[frame.VnetLen:], x.Head)
		if len(x.Head) == 0 {
			raw = raw[:frame.VnetLen]
		}
		if !o.Filter.Match(&room, raw[frame.VnetLen:]) {
			continue
		}
		at := s.d.Started().Add(time.Duration(x.Tick-1) * (time.Second / frame.TicksPerSecond))
		out = append(out, capture.Record{
			Time: at, Kind: capture.End, Verdict: frame.Drop, Reason: x.Reason, In: x.In, Out: x.Out, Length: int(x.Length),
			Vnet: make([]byte, frame.VnetLen), Data: x.Head,
		})
	}
	slices.SortStableFunc(out, func(a, b capture.Record) int { return a.Time.Compare(b.Time) })
	return out[max(0, len(out)-n):]
}

// refusalOf explains a drop by a policy.
func (s *Server) refusalOf(r *capture.Record) (why policies.Refusal) {
	if r.Verdict != frame.Drop && r.Verdict != frame.Punt || r.Reason != frame.PolicyDenied && r.Reason != frame.PolicyDropped || len(r.Data) == 0 {
		return why
	}
	f := frame.Partial(r.In, r.Vnet, r.Data, r.Length)
	why, _ = s.d.ExplainRefusal(&f)
	if why.Why != "" && time.Since(r.Time) > longAgo {
		why.Why = "by the present rules: " + why.Why
	}
	return why
}

// longAgo is the age of a packet from which on the rules may have been others when it came.
const longAgo = 2 * time.Second

// verdictOf describes a record.
func (s *Server) verdictOf(r *capture.Record, name func(frame.PortID) string) api.Verdict {
	v := api.Verdict{Time: r.Time.Format(time.RFC3339Nano), Flow: r.Flow, Length: r.Length}
	if r.In != frame.NoPort {
		v.In = name(r.In)
	}
	if r.Out != frame.NoPort {
		v.Out = name(r.Out)
	}
	switch r.Verdict {
	case frame.Drop:
		v.Verdict, v.Reason = "dropped", r.Reason.String()
	case frame.Flood:
		v.Verdict, v.Copies = "flooded", r.Copies
	case frame.Punt:
		v.Verdict = "consumed"
	default:
		v.Verdict = "forwarded"
	}
	why := s.refusalOf(r)
	v.Why, v.Remedy = why.Why, why.Remedy
	if r.Verdict == frame.Drop && v.Remedy == "" {
		v.Remedy = r.Reason.RemedyFor(v.In, v.Out)
	}
	if r.Translated() && r.Verdict != frame.Drop {
		v.Becomes = r.After.String()
	}
	if len(r.Data) == 0 {
		v.Packet = fmt.Sprintf("a frame of %d bytes", r.Length)
		return v
	}
	f := frame.Partial(r.In, r.Vnet, r.Data, r.Length)
	v.Packet = explain.Text(&f)
	if t := capture.EndpointsOf(&f); t != (frame.Endpoints{}) {
		v.Src, v.Dst, v.Protocol = t.Src.String(), t.Dst.String(), frame.ProtoName(t.Proto)
		if frame.HasPorts(t.Proto) {
			v.Sport, v.Dport = int(t.SrcPort), int(t.DstPort)
		}
	}
	if r.Verdict == frame.Drop && f.Flags&frame.IsARP != 0 {
		v.Src, v.Dst, v.Protocol = f.ARP().SenderAddr().String(), f.ARP().TargetAddr().String(), "arp"
		v.Trace = fmt.Sprintf("arp %s > %s", v.Src, v.Dst)
	} else if r.Verdict == frame.Drop {
		v.Trace = explain.Words(&v)
	}
	return v
}

// describer names ports as they are now, and remembers them: a port that is removed keeps its name in a capture.
func (s *Server) describer() func(frame.PortID) (name, description string) {
	type words struct{ name, description string }
	known := map[frame.PortID]words{}
	return func(id frame.PortID) (string, string) {
		w, ok := known[id]
		if !ok {
			w.name, w.description = s.describePort(id)
			known[id] = w
		}
		return w.name, w.description
	}
}

func (s *Server) describePort(id frame.PortID) (name, description string) {
	if id == frame.Gateway {
		return "gateway", "the router of every network"
	}
	state := s.d.State()
	p := state.PortByID(id)
	if p == nil {
		return cmp.Or(state.Former[id], fmt.Sprintf("port-%d", id)), "a port that has been removed"
	}
	description = string(p.Kind) + " " + p.Ifname
	if p.Netns != "" {
		description += " in " + p.Netns
	}
	if p.Network != "" {
		description += ", network " + p.Network
	}
	return p.Name, description
}
