package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// Clients that are not root, however many, keep root from nothing, and get few turns themselves.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, ctx := newTurns(), context.Background()
		var served atomic.Int64
		for range 100 {
			go func() {
				done, err := turns.take(ctx, false)
				if err != nil {
					if !api.IsCode(err, api.Busy) {
						t.Errorf("%v", err)
					}
					return
				}
				served.Add(1)
				time.Sleep(10 * time.Millisecond)
				done()
			}()
		}
		synctest.Wait()
		for range rootTurns {
			done, err := turns.take(ctx, true)
			if err != nil {
				t.Fatalf("root waits for guests: %v", err)
			}
			defer done()
		}
		began := time.Now()
		if _, err := turns.take(ctx, true); !api.IsCode(err, api.Busy) || time.Since(began) < turnPatience {
			t.Errorf("a call beyond root's turns: %v after %s", err, time.Since(began))
		}
		if n, most := int(served.Load()), guestsPerSecond*int(turnPatience/time.Second)+1; n == 0 || n > most {
			t.Errorf("%d calls of guests were served in %s, want 1 to %d", n, turnPatience, most)
		}
		time.Sleep(time.Second)
	})
}

// Calls that walk tables wait for their turn, and calls that show what containers send are not for strangers.
func TestWhichCallsWait(t *testing.T) {
	costly := map[string]bool{"GET /flows": true, "GET /flows/stats": true, "DELETE /flows": true, "POST /trace": true, "POST /layers": true, "GET /problems": true}
	private := map[string]bool{"GET /flows": true, "GET /flows/events": true, "POST /trace": true, "GET /monitor": true, "GET /capture": true, "GET /web": true, "GET /neighbors/unanswered": true, "GET /problems": true,
		"GET /events": true, "POST /layers": true, "GET /policy-refusals": true, "GET /ports/{name}/names": true, "POST /policy-test": true}
	for _, r := range routeTable() {
		call := r.method + " " + r.path
		if costly[call] && !r.costly {
			t.Errorf("%s is not costly", call)
		}
		if private[call] && !r.private {
			t.Errorf("%s is not private", call)
		}
		delete(costly, call)
		delete(private, call)
	}
	if len(costly)+len(private) > 0 {
		t.Errorf("no such calls: %v %v", costly, private)
	}
}

// TestRetryAfter: whoever is refused for want of room is told when to come again (RFC 9110, 10.2.3).
func TestRetryAfter(t *testing.T) {
	for status, want := range map[int]string{http.StatusServiceUnavailable: "1", http.StatusConflict: ""} {
		w := httptest.NewRecorder()
		writeJSON(w, nil, fmt.Errorf("adding: %w", api.Errorf(status, "no")))
		if got := w.Header().Get("Retry-After"); w.Code != status || got != want {
			t.Errorf("status %d, Retry-After %q; want %d, %q", w.Code, got, status, want)
		}
	}
	// The limits that many readers meet.
	var e flowEvents
	tracker := nat.New(nat.Options{Flows: 1024})
	for _, x := range []struct {
		of   listener
		most int
	}{ // no user may have all of them, and root may listen beside users who have all that they may
		{listener{user: 1001}, ofOneUser}, {listener{user: 1002}, ofOneUser}, {listener{user: -1}, maxListeners - forRoot - 2*ofOneUser},
		{listener{user: 1003}, 0}, {listener{root: true}, forRoot},
	} {
		for n := range x.most {
			if _, _, err := e.listen(tracker, x.of); err != nil {
				t.Errorf("%+v: listener %d of %d: %v", x.of, n+1, x.most, err)
			}
		}
		if _, _, err := e.listen(tracker, x.of); !api.IsStatus(err, http.StatusServiceUnavailable) {
			t.Errorf("%+v: listener %d: %v", x.of, x.most+1, err)
		}
	}
}
