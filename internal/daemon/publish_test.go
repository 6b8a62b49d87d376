package daemon

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/model"
)

// What undoes a reload publishes a port again. When the container's port could not be added again, that is an error and no more.
func TestPublishWithoutPort(t *testing.T) {
	d := &Daemon{}
	if _, err := d.publishLocked(model.Publish{Port: "web", Lo: 8080, Hi: 8080, Proto: "tcp"}); !model.IsNotFound(err) {
		t.Error(err)
	}
}
