package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sdaemon "github.com/coreos/go-systemd/v22/daemon"

	"github.com/uvswitch/uvswitch/internal/fdstore"
)

// What systemd is told (sd_notify(3), sd_watchdog_enabled(3)), and what it passes (sd_listen_fds(3)).

// notify tells systemd, where there is one.
func notify(state string) { _, _ = sdaemon.SdNotify(false, state) }

// feedWatchdog tells systemd that the switch is alive, twice as often as systemd asks for. Once the switch is stuck, alive does not
// return or fails, and systemd restarts it.
func feedWatchdog(ctx context.Context, alive func() error) {
	every, err := sdaemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	go func() {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		for {
			if alive() == nil {
				notify(sdaemon.SdNotifyWatchdog)
			}
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
}

// inherited is what systemd passes: sockets that it listens on, and what its store has kept.
type inherited struct {
	control *net.UnixListener // of uvswitch.socket; nil without
	docker  net.Listener      // of uvswitch-docker.socket; nil without
	stored  []*os.File
}

// dockerSocket is FileDescriptorName= of uvswitch-docker.socket.
const dockerSocket = "docker"

func inherit() (in inherited, err error) {
	for _, f := range activation.Files(true) {
		if fdstore.IsStored(f.Name()) {
			in.stored = append(in.stored, f)
			continue
		}
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return in, fmt.Errorf("the file descriptor that systemd passed as %q: %w", f.Name(), err)
		}
		u, ok := l.(*net.UnixListener)
		switch {
		case ok && f.Name() == dockerSocket && in.docker == nil:
			in.docker = u
		case ok && f.Name() != dockerSocket && in.control == nil:
			in.control = u
		default:
			return in, fmt.Errorf("systemd passed an unexpected socket, %s as %q: the switch takes one unix stream socket for control, and one for Docker (FileDescriptorName=%s)", l.Addr(), f.Name(), dockerSocket)
		}
	}
	return in, nil
}
