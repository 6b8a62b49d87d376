package apiserver

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// flowEvents passes the connection tracker's events to listeners. Workers put them into a channel without waiting; an event that
// finds no room is counted as missed. Without listeners, the tracker reports nothing.
type flowEvents struct {
	missed atomic.Uint64

	mu        sync.Mutex                  // Lock 50
	listeners map[chan flowEvent]listener // whose the channels are
}

// A listener is a client that follows the events.
type listener struct {
	user int64 // -1: over TCP, where the kernel names no user; all such clients count as one user
	root bool  // the client has root's rights
}

type flowEvent struct {
	kind nat.EventKind
	flow nat.Flow
	why  string
	at   time.Time
}

const (
	eventQueue   = 16384 // events that may wait for one listener
	maxListeners = 16
	forRoot      = 4 // of these are reserved for clients with root's rights
	ofOneUser    = 4 // that has not
)

// listen returns a channel of events, and a function that ends it. It fails when too many listen.
func (e *flowEvents) listen(n *nat.NAT, client listener) (<-chan flowEvent, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	guests, same := 0, 0
	for _, l := range e.listeners {
		if !l.root {
			guests++
			if l.user == client.user {
				same++
			}
		}
	}
	switch {
	case len(e.listeners) == maxListeners:
		return nil, nil, api.Errorf(http.StatusServiceUnavailable, "%d clients follow flow events already, which is the limit; end one of them", maxListeners)
	case !client.root && same == ofOneUser:
		return nil, nil, api.Errorf(http.StatusServiceUnavailable, "%d clients of this user follow flow events already, which is the limit of a user without root's rights; end one of them, or run as root", same)
	case !client.root && guests == maxListeners-forRoot:
		return nil, nil, api.Errorf(http.StatusServiceUnavailable, "%d clients without root's rights follow flow events already, which is their limit; end one of them, or run as root", guests)
	}
	c := make(chan flowEvent, eventQueue)
	if e.listeners == nil {
		e.listeners = map[chan flowEvent]listener{}
	}
	e.listeners[c] = client
	e.watchLocked(n)
	return c, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.listeners, c)
		e.watchLocked(n)
	}, nil
}

// listenerOf returns the client of a request.
func listenerOf(r *http.Request) listener {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return listener{user: -1}
	}
	return listener{int64(int32(cred.Uid)), trusted(cred)}
}

// watchLocked passes the present listeners to the tracker. The caller holds mu.
func (e *flowEvents) watchLocked(n *nat.NAT) {
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

// streamFlowEvents streams events as newline-delimited JSON until the client disconnects.
func (s *Server) streamFlowEvents(w http.ResponseWriter, r *http.Request) {
	filter, err := parseFlowFilter(r.URL.Query(), s.d.State())
	if err != nil {
		writeJSON(w, nil, err)
		return
	}
	events, stop, err := s.events.listen(s.dp.NAT, listenerOf(r))
	if err != nil {
		writeJSON(w, nil, err)
		return
	}
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	enc := api.NewEncoder(w)
	if flush.Flush() != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			for v := s.view(); ; e = <-events { // the names of one moment for all events that wait
				if filter.matches(e.flow) {
					if v.PortName(e.flow.Port) == "" {
						v = s.view() // a port that is newer than the view
					}
					if enc.Encode(api.FlowEvent{Event: e.kind.String(), Reason: e.why, Time: e.at.Format(time.RFC3339Nano), Flow: v.flow(e.flow)}) != nil {
						return
					}
				}
				if len(events) == 0 {
					break
				}
			}
			if flush.Flush() != nil { // also of lines before an event that does not match
				return
			}
		}
	}
}
