package apiserver

import (
	"context"
	"net/http"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Some calls cost the switch much: a walk over a million flows, or a trace, which runs on a worker. Few run at a time. Clients that are not
// root have a queue of their own, so that they cannot delay root.
type turns struct {
	root, guests chan struct{}
	pause        chan struct{} // of guests' calls: at most guestsPerSecond
}

const (
	rootTurns       = 2
	guestTurns      = 1
	guestsPerSecond = 5
	turnPatience    = 3 * time.Second // how long a call waits for its turn
)

func newTurns() *turns {
	return &turns{root: make(chan struct{}, rootTurns), guests: make(chan struct{}, guestTurns), pause: make(chan struct{}, 1)}
}

// take waits for a turn. The caller calls done when the call has ended.
func (t *turns) take(ctx context.Context, root bool) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	queue := t.root
	if !root {
		queue = t.guests
		select {
		case t.pause <- struct{}{}:
			time.AfterFunc(time.Second/guestsPerSecond, func() { <-t.pause })
		case <-ctx.Done():
			return nil, errTurns()
		}
	}
	select {
	case queue <- struct{}{}:
		return func() { <-queue }, nil
	case <-ctx.Done():
		return nil, errTurns()
	}
}

func errTurns() error {
	return api.Errorf(http.StatusServiceUnavailable, "too many lists of flows or traces are running; try again in a second").With(api.Busy)
}
