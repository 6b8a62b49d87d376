package control

import (
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// flowEvents hands the tracker's events to those who listen. Workers put them into a channel without waiting; what finds
// no room is counted. While nobody listens, nothing is watched.
type flowEvents struct {
	missed atomic.Uint64

	mu        sync.Mutex
	listeners map[chan flowEvent]bool
}

type flowEvent struct {
	kind nat.EventKind
	flow nat.Flow
	why  string
	at   time.Time
}

const (
	eventQueue   = 16384 // events that one listener may be behind
	maxListeners = 16
)

// listen returns a channel of events, and a function that ends it; an error when too many listen.
func (e *flowEvents) listen(n *nat.NAT) (<-chan flowEvent, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.listeners) == maxListeners {
		return nil, nil, api.Errorf(http.StatusServiceUnavailable, "%d follow flow events already, which is the limit", maxListeners)
	}
	c := make(chan flowEvent, eventQueue)
	if e.listeners == nil {
		e.listeners = map[chan flowEvent]bool{}
	}
	e.listeners[c] = true
	e.watch(n)
	return c, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.listeners, c)
		e.watch(n)
	}, nil
}

// watch tells the tracker whom to tell; mu is held.
func (e *flowEvents) watch(n *nat.NAT) {
	if len(e.listeners) == 0 {
		n.Watch(nil)
		return
	}
	var to []chan flowEvent
	for c := range e.listeners {
		to = append(to, c)
	}
	n.Watch(func(kind nat.EventKind, f nat.Flow, why string) {
		event := flowEvent{kind, f, why, time.Now()}
		for _, c := range to {
			select {
			case c <- event:
			default:
				e.missed.Add(1)
			}
		}
	})
}

// serveFlowEvents streams events as newline-delimited JSON until the client goes.
func (d *Daemon) serveFlowEvents(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	filter, err := d.filterOf(r.URL.Query())
	d.mu.Unlock()
	if err != nil {
		answer(w, nil, err)
		return
	}
	events, stop, err := d.events.listen(d.dp.NAT)
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	if flush.Flush() != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			d.mu.Lock()
			v := api.FlowEvent{Event: e.kind.String(), Reason: e.why, Time: e.at.Format(time.RFC3339Nano), Flow: d.flowView(e.flow)}
			d.mu.Unlock()
			if !mayChange(r) {
				_ = flush.SetWriteDeadline(time.Now().Add(streamPatience))
			}
			if filter.matches(&v.Flow) && enc.Encode(v) != nil {
				return
			}
			if len(events) == 0 && flush.Flush() != nil { // also of lines before one that does not match
				return
			}
		}
	}
}

// flowStatsView is `flow stats`.
func (d *Daemon) flowStatsView() api.FlowStats {
	n := d.dp.NAT
	v := api.FlowStats{
		Used: n.Used(), Limit: n.Limit(), Quota: n.FlowQuota(), States: map[string]int{}, Holders: map[string]int{}, Missed: d.events.missed.Load(),
	}
	v.Created, v.Ended = n.Stats()
	n.Flows(d.dp.Now(), func(f nat.Flow) bool {
		v.States[stateOf(f)]++
		return true
	})
	for _, p := range d.portList() {
		if held := n.FlowsOf(p.id); held > 0 {
			v.Holders[p.name] = held
		}
	}
	return v
}
