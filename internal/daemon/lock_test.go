package daemon

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/uvswitch/uvswitch/internal/changelock"
)

// A switch whose data plane has failed ends with that error, however often somebody has asked whether it has ended.
func TestCloseAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Daemon{ended: make(chan struct{}), failure: errors.New("the ring has failed"), stop: func() {}, changing: changelock.New()}
		close(d.ended)
		<-d.Ended()
		if err := d.Close(); err != d.failure {
			t.Errorf("%v, want %v", err, d.failure)
		}
	})
}
