package changelock

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
		l := New()
		if err := l.Lock("a reload", true); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		following := make(chan error)
		go func() { following <- l.Lock("following the host", false) }()
		err := l.Lock("adding port web", true)
		var e *api.Error
		if !errors.As(err, &e) || e.Status != 503 || e.Code != api.Busy || !strings.Contains(err.Error(), "running for 10s: a reload") || time.Since(began) != Timeout {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		time.Sleep(time.Hour)
		l.Unlock()
		if err := <-following; err != nil || l.What() != "following the host" {
			t.Errorf("%v, %s", err, l.What())
		}
		l.Unlock()
		if l.Age() != 0 {
			t.Errorf("nobody holds the lock, for %s", l.Age())
		}
	})
}

// Changes happen one at a time.
func TestChangesExclude(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		var group sync.WaitGroup
		inside, done := 0, 0
		for range 100 {
			group.Go(func() {
				if l.Lock("one of a hundred", false) != nil {
					return
				}
				defer l.Unlock()
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
