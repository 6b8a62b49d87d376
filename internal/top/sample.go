package top

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// A sample is the state of the switch at one time, as far as a view needs it.
type sample struct {
	at     time.Time
	status api.Status
	ports  []api.Port
	stats  api.Stats
	flows  []api.Flow    // of the view's port, if it has one; at most mostFlows
	drops  []api.Verdict // the last ones, the newest first
	past   api.History   // of the view's port
	trace  *api.Trace    // of the packet of a drop's page, or of one that the user has asked for

	published  []api.Publish
	problems   []api.Problem
	noProblems bool   // they are not known: the switch was busy
	noted      string // why something of this is missing
}

const (
	mostFlows = 2000
	lastDrops = 200
)

func take(ctx context.Context, c *api.Client, v view) (s sample, err error) {
	for path, to := range map[string]any{"/status": &s.status, "/ports": &s.ports, "/stats": &s.stats} {
		if err := c.Do(ctx, "GET", path, nil, to); err != nil {
			return s, err
		}
	}
	// What another user of the host may not see does not end the screen.
	note := func(err error) {
		if err != nil && ctx.Err() == nil {
			s.noted = err.Error()
		}
	}
	if v.kind == flowsView || v.kind == flowPage || v.kind == portPage {
		s.flows, err = c.Flows(ctx, values("limit", strconv.Itoa(mostFlows), "port", v.port))
		note(err)
	}
	if v.kind == dropsView {
		q := values("verdict", "dropped", "last", strconv.Itoa(lastDrops), "follow", "0", "port", v.port, "reason", v.reason)
		for d, err := range c.Monitor(ctx, q) {
			note(err)
			if err != nil {
				break
			}
			s.drops = append(s.drops, d)
		}
		slices.Reverse(s.drops)
	}
	if s.problems, err = c.Problems(ctx); err != nil {
		s.problems, s.noProblems = nil, true
		if v.kind == problemsView {
			note(err)
		}
	}
	in, packet := "", ""
	switch v.kind {
	case publishedView:
		note(c.Do(ctx, "GET", "/publish", nil, &s.published))
	case portPage:
		note(c.Do(ctx, "GET", "/history?"+values("port", v.port).Encode(), nil, &s.past))
	case dropPage:
		in, packet = v.drop.In, v.drop.Trace
	case tracePage:
		in, packet = v.port, v.packet
	}
	if packet != "" {
		t, err := c.Trace(ctx, api.TraceRequest{In: in, Packet: packet})
		note(err)
		if err == nil {
			s.trace = &t
		}
	}
	s.at = time.Now()
	return s, nil
}

// values are pairs of names and values; empty values are left out.
func values(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}
