package apiserver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Clients that are not root, however many, keep root from nothing, and get few turns themselves.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, ctx := newTurns(), context.Background()
		served := 0
		for range 100 {
			go func() {
				done, err := turns.take(ctx, false)
				if err != nil {
					if !api.IsCode(err, api.Busy) {
						t.Errorf("%v", err)
					}
					return
				}
				served++
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
		if most := guestsPerSecond*int(turnPatience/time.Second) + 1; served == 0 || served > most {
			t.Errorf("%d calls of guests were served in %s, want 1 to %d", served, turnPatience, most)
		}
		time.Sleep(time.Second)
	})
}

// Calls that walk tables wait for their turn, and calls that show what containers send are not for strangers.
func TestWhichCallsWait(t *testing.T) {
	costly := map[string]bool{"GET /flows": true, "GET /flows/stats": true, "DELETE /flows": true, "POST /trace": true}
	private := map[string]bool{"GET /flows": true, "GET /flows/events": true, "POST /trace": true, "GET /monitor": true, "GET /capture": true, "GET /web": true}
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
