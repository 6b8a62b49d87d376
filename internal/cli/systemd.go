package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// What systemd wants to know (sd_notify(3), sd_watchdog_enabled(3)), and what it may bring: the control socket.

// notify tells systemd; without it, nobody.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// feedWatchdog tells systemd that the switch is alive, twice as often as it asks for, each time that alive has returned: a switch
// that is stuck is silent, and started anew.
func feedWatchdog(ctx context.Context, alive func()) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	go func() {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		for {
			alive()
			notify(daemon.SdNotifyWatchdog)
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
}

// activated is the control socket when systemd has made it (a .socket unit); nil without.
func activated() (*net.UnixListener, error) {
	if os.Getenv("LISTEN_FDS") == "" {
		return nil, nil
	}
	list, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("the sockets that systemd brings: %w", err)
	}
	if len(list) == 0 {
		return nil, nil // they are another process's
	}
	l, ok := list[0].(*net.UnixListener)
	if len(list) != 1 || !ok {
		return nil, fmt.Errorf("systemd brings %d sockets: the switch takes one, a unix stream socket for control (ListenStream=/run/uvswitch/uvswitch.sock)", len(list))
	}
	return l, nil
}
