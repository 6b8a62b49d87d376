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

// Messages to systemd (sd_notify(3), sd_watchdog_enabled(3)), and file descriptors from systemd (sd_listen_fds(3)).

// notify sends state to systemd, if systemd started this process.
func notify(state string) { _, _ = sdaemon.SdNotify(false, state) }

// feedWatchdog tells systemd that the switch is alive, twice in each watchdog interval. When the switch is stuck, alive blocks or
// fails, no message is sent, and systemd restarts the switch.
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

// inherited has the file descriptors from systemd: listening sockets, and those from its file descriptor store.
type inherited struct {
	control *net.UnixListener // of uvswitch.socket; nil without this unit
	docker  net.Listener      // of uvswitch-docker.socket; nil without this unit
	stored  []*os.File
}

// dockerSocket is the FileDescriptorName= of uvswitch-docker.socket.
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
