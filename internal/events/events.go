// Package events remembers what has happened to a switch lately, for those who look later and for those who listen.
package events

import (
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
