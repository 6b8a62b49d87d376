package apiserver

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/events"
)

// An eventQuery says which events a reader wants.
type eventQuery struct {
	since, until time.Time // zero: no limit
	values       map[string][]string
	follow       bool
}

// eventKeys are the words of filters, and the value that an event has for each.
var eventKeys = map[string]func(*api.Event) string{
	"event":   func(e *api.Event) string { return e.Event },
	"action":  func(e *api.Event) string { return e.Action },
	"network": func(e *api.Event) string { return e.Network },
	"port":    func(e *api.Event) string { return e.Port },
	"name":    func(e *api.Event) string { return e.Name },
	"reason":  func(e *api.Event) string { return e.Reason },
}

func parseEventQuery(r *http.Request, now time.Time) (q eventQuery, err error) {
	v := r.URL.Query()
	q.values, q.follow = map[string][]string{}, v.Get("follow") != "0"
	if q.since, err = parseMoment("since", v.Get("since"), now); err != nil {
		return q, err
	}
	if q.until, err = parseMoment("until", v.Get("until"), now); err != nil {
		return q, err
	}
	if !q.since.IsZero() && !q.until.IsZero() && q.until.Before(q.since) {
		return q, badRequest("until (%s) is before since (%s)", v.Get("until"), v.Get("since"))
	}
	for _, word := range v["filter"] {
		key, value, ok := strings.Cut(word, "=")
		if key == "type" && ok {
			return q, badRequest("the filter %q: kinds of events are named by event=%s", word, value)
		}
		if eventKeys[key] == nil || !ok {
			return q, badRequest("the filter %q is not KEY=VALUE with one of the keys event, action, network, port, name and reason", word)
		}
		if key == "event" && !slices.Contains(events.Kinds(), value) {
			return q, badRequest("there are no events of kind %q; the kinds are %s", value, strings.Join(events.Kinds(), ", "))
		}
		q.values[key] = append(q.values[key], value)
	}
	return q, nil
}

// parseMoment reads a time (RFC 3339), or how long ago it was, such as 10m. Empty is the zero time.
func parseMoment(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if s, err := strconv.ParseInt(text, 10, 64); err == nil && s > 1e8 { // as `docker events` takes it
		return time.Unix(s, 0), nil
	}
	for _, form := range []string{time.DateTime, time.DateOnly, "2006-01-02T15:04:05", "2006-01-02T15:04"} { // as `uvswitch events` prints it, and others
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return now, badRequest("%s %q is neither a time, such as 2026-11-28T12:00:00Z or \"2026-11-28 12:00:00\", nor how long ago, such as 10m", name, text)
}

// matches reports whether an event is wanted: of several values of one key, one must be right.
func (q *eventQuery) matches(e *api.Event) bool {
	if at, err := time.Parse(time.RFC3339Nano, e.Time); err != nil || !q.since.IsZero() && at.Before(q.since) || !q.until.IsZero() && at.After(q.until) {
		return false
	}
	for key, values := range q.values {
		if !slices.Contains(values, eventKeys[key](e)) {
			return false
		}
	}
	return true
}

// streamEvents streams what has happened since a time, and what happens from now on, as newline-delimited JSON.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	q, err := parseEventQuery(r, time.Now())
	if err != nil {
		writeJSON(w, nil, err)
		return
	}
	list, next, _, more := s.d.Events().From(0)
	if q.since.IsZero() && q.follow {
		list = nil
	}
	var end <-chan time.Time
	if !q.until.IsZero() {
		timer := time.NewTimer(time.Until(q.until))
		defer timer.Stop()
		end = timer.C
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush, enc := http.NewResponseController(w), api.NewEncoder(w)
	var lost uint64
	for {
		for i := range list {
			if e := &list[i]; q.matches(e) {
				e.Lost, lost = lost, 0
				if enc.Encode(e) != nil {
					return
				}
			}
		}
		if flush.Flush() != nil || !q.follow {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-end:
			return
		case <-more:
		}
		var forgotten uint64
		list, next, forgotten, more = s.d.Events().From(next)
		lost += forgotten
	}
}
