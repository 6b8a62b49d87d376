package daemon

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// A change waits for the change before it for 10 s; then it is refused, and the error names that change. What follows the host waits
// as long as it must.
func TestChangeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newChangeLock()
		if err := l.lock("a reload", true); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		following := make(chan error)
		go func() { following <- l.lock("following the host", false) }()
		err := l.lock("adding port web", true)
		var e *api.Error
		if !errors.As(err, &e) || e.Status != 503 || e.Code != api.Busy || !strings.Contains(err.Error(), "running for 10s: a reload") || time.Since(began) != changeTimeout {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		time.Sleep(time.Hour)
		l.unlock()
		if err := <-following; err != nil || l.what() != "following the host" {
			t.Errorf("%v, %s", err, l.what())
		}
		l.unlock()
		if l.age() != 0 {
			t.Errorf("nobody holds the lock, for %s", l.age())
		}
	})
}

// Changes happen one at a time.
func TestChangesExclude(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newChangeLock()
		var group sync.WaitGroup
		inside, done := 0, 0
		for range 100 {
			group.Go(func() {
				if l.lock("one of a hundred", false) != nil {
					return
				}
				defer l.unlock()
				if inside++; inside != 1 {
					t.Errorf("%d changes at once", inside)
				}
				time.Sleep(time.Second)
				inside--
				done++
			})
		}
		group.Wait()
		if done != 100 {
			t.Errorf("%d of 100 were done", done)
		}
	})
}

// A switch whose data plane has failed ends with that error, however often somebody has asked whether it has ended.
func TestCloseAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Daemon{ended: make(chan struct{}), failure: errors.New("the ring has failed"), stop: func() {}, changing: newChangeLock()}
		close(d.ended)
		<-d.Ended()
		if err := d.Close(); err != d.failure {
			t.Errorf("%v, want %v", err, d.failure)
		}
	})
}
