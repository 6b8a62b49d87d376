package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/control"
)

// What systemd wants to know (sd_notify(3), sd_watchdog_enabled(3)), what it may bring, and what it keeps.

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

// inherited is what systemd brings: sockets that it has made, and what its store has kept.
type inherited struct {
	control *net.UnixListener // of uvswitch.socket; nil without
	docker  net.Listener      // of uvswitch-docker.socket; nil without
	kept    []*os.File
}

// dockerSocket is FileDescriptorName= of uvswitch-docker.socket.
const dockerSocket = "docker"

func inherit() (in inherited, err error) {
	for _, f := range activation.Files(true) {
		if control.IsKept(f.Name()) {
			in.kept = append(in.kept, f)
			continue
		}
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return in, fmt.Errorf("what systemd brings as %q: %w", f.Name(), err)
		}
		u, ok := l.(*net.UnixListener)
		switch {
		case ok && f.Name() == dockerSocket && in.docker == nil:
			in.docker = u
		case ok && f.Name() != dockerSocket && in.control == nil:
			in.control = u
		default:
			return in, fmt.Errorf("systemd brings a socket too many, %s as %q: the switch takes one unix stream socket for control, and one for Docker (FileDescriptorName=%s)", l.Addr(), f.Name(), dockerSocket)
		}
	}
	return in, nil
}

// fdStore is systemd's file descriptor store (sd_notify(3), FDSTORE=1). The unit says how much it takes: FileDescriptorStoreMax=.
type fdStore struct {
	socket string
	mu     sync.Mutex
	silent time.Time // until then nobody waits for systemd, which has not answered
}

// store is nil when nobody keeps anything.
func store() control.Store {
	if s := os.Getenv("NOTIFY_SOCKET"); s != "" {
		return &fdStore{socket: s}
	}
	return nil
}

// Keep implements control.Store.
func (s *fdStore) Keep(name string, fd int) error {
	return s.send("FDSTORE=1\nFDNAME="+name, fd)
}

// barrierPatience bounds the wait for systemd to have read what it was sent.
const barrierPatience = 2 * time.Second

// Forget implements control.Store.
func (s *fdStore) Forget(name string) error {
	if err := s.send("FDSTOREREMOVE=1\nFDNAME="+name, -1); err != nil {
		return err
	}
	if s.isSilent() {
		return nil
	}
	// BARRIER=1: systemd closes the pipe when it has done what came before.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = s.send("BARRIER=1", int(w.Fd()))
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierPatience)); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		s.giveUp()
		return fmt.Errorf("systemd has not answered within %v: %w", barrierPatience, err)
	}
	return nil
}

// giveUp keeps whoever comes next from waiting, too: the switch does nothing else meanwhile.
func (s *fdStore) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = time.Now().Add(time.Minute)
}

func (s *fdStore) isSilent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.silent)
}

func (s *fdStore) send(text string, fd int) error {
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	patience := unix.NsecToTimeval(int64(barrierPatience)) // should nobody read there
	if err := unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	flags := 0
	if s.isSilent() {
		flags = unix.MSG_DONTWAIT
	}
	if err := unix.Sendmsg(c, []byte(text), rights, &unix.SockaddrUnix{Name: s.socket}, flags); err != nil {
		s.giveUp()
		return fmt.Errorf("telling systemd (%s): %w", s.socket, err)
	}
	return nil
}
