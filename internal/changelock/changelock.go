// Package changelock lets one change of a configuration happen at a time. Who waits for too long hears which change is in the way.
package changelock

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Timeout is how long a change waits for another one.
const Timeout = 10 * time.Second

// A Lock lets one change happen at a time, and knows which.
type Lock struct {
	slot   chan struct{}
	holder atomic.Pointer[change]
}

type change struct {
	what  string
	since time.Time
}

// New returns a lock that nobody holds.
func New() Lock { return Lock{slot: make(chan struct{}, 1)} }

// Lock waits for the present change to end. If bounded, it waits for at most Timeout.
func (l *Lock) Lock(what string, bounded bool) error {
	var timeout <-chan time.Time
	if bounded {
		t := time.NewTimer(Timeout)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case l.slot <- struct{}{}:
	case <-timeout:
		return api.Errorf(http.StatusServiceUnavailable, "another change has been running for %s: %s; try again", l.Age().Round(time.Second), l.What()).With(api.Busy)
	}
	l.holder.Store(&change{what, time.Now()})
	return nil
}

// Unlock ends the present change.
func (l *Lock) Unlock() {
	l.holder.Store(nil)
	<-l.slot
}

// Age is how long the present change has been running.
func (l *Lock) Age() time.Duration {
	if h := l.holder.Load(); h != nil {
		return time.Since(h.since)
	}
	return 0
}

// What says which change it is, for people.
func (l *Lock) What() string {
	if h := l.holder.Load(); h != nil {
		return h.what
	}
	return "one that has just ended"
}
