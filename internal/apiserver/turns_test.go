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
