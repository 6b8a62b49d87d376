// Package events remembers what has happened to a switch lately, for those who look later and for those who listen.
package events

import (
	"fmt"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// remembered is how many events there are at most; the oldest one goes first.
const remembered = 2048

// A Log has the last events. Several goroutines may use it. The zero Log is empty.
type Log struct {
	mu    sync.Mutex  // Lock 99
	list  []api.Event // the oldest first
	first uint64      // number of list[0]
	more  chan struct{}
}

// Add adds an event that happens now.
func (l *Log) Add(e api.Event) {
	e.Time = time.Now().UTC().Format(time.RFC3339Nano)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) == remembered {
		l.list, l.first = append([]api.Event(nil), l.list[remembered/2:]...), l.first+remembered/2
	}
	l.list = append(l.list, e)
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// What a port's stations may write into a Log: so many events at once, and then one in this time.
const (
	stationBurst = 20
	stationEvery = 5 * time.Second
	reasonEvery  = 10 * time.Minute // one event of each reason at least: no reason hides another one
)

// A Stations adds the events that stations cause to a Log. No station can fill the log with them: beyond what a port may write, events are counted, and
// the port's next one says how many were left out.
type Stations struct {
	Log *Log

	mu sync.Mutex // Lock 98
	of map[string]*stationEvents
}

type stationEvents struct {
	since time.Time            // moves on by stationEvery with each event
	told  map[string]time.Time // by reason
	out   int
}

// Add adds an event, unless its port has caused very many.
func (s *Stations) Add(e api.Event) {
	now := time.Now()
	s.mu.Lock()
	x := s.of[e.Port]
	if x == nil {
		if s.of == nil || len(s.of) > remembered { // ports come and go
			s.of = map[string]*stationEvents{}
		}
		x = &stationEvents{told: map[string]time.Time{}}
		s.of[e.Port] = x
	}
	if begun := now.Add(-stationBurst * stationEvery); x.since.Before(begun) {
		x.since = begun
	}
	if x.since = x.since.Add(stationEvery); x.since.After(now) {
		x.since = x.since.Add(-stationEvery)
		if now.Sub(x.told[e.Reason]) < reasonEvery {
			x.out++
			s.mu.Unlock()
			return
		}
	}
	x.told[e.Reason] = now
	out := x.out
	x.out = 0
	s.mu.Unlock()
	if out > 0 {
		e.Text += fmt.Sprintf("; %s of this port before it are left out", Counted(uint64(out), "event"))
	}
	s.Log.Add(e)
}

// From returns the events from number n on, the number of the next one, and how many before are forgotten. more is closed when there is a next one.
func (l *Log) From(n uint64) (list []api.Event, next, lost uint64, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	if n < l.first {
		lost, n = l.first-n, l.first
	}
	next = l.first + uint64(len(l.list))
	return append([]api.Event(nil), l.list[min(n, next)-l.first:]...), next, lost, l.more
}
