package fdstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Systemd returns systemd's store, or nil where this process has none.
func Systemd() Store {
	if s := os.Getenv("NOTIFY_SOCKET"); s != "" {
		return &systemd{socket: s}
	}
	return nil
}

// systemd is systemd's file descriptor store (sd_notify(3), FDSTORE=1). The unit bounds it: FileDescriptorStoreMax=.
type systemd struct {
	socket string
	mu     sync.Mutex // Lock 90
	silent time.Time  // until then nobody waits for systemd, which did not answer
}

// Keep implements Store.
func (s *systemd) Keep(name string, fd int) error {
	return s.send("FDSTORE=1\nFDNAME="+name, fd)
}

// barrierTimeout bounds the wait for systemd to have read what it was sent.
const barrierTimeout = 2 * time.Second

// Forget implements Store.
func (s *systemd) Forget(name string) error {
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
	if err := r.SetReadDeadline(time.Now().Add(barrierTimeout)); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		s.giveUp()
		return fmt.Errorf("systemd did not answer within %v: %w", barrierTimeout, err)
	}
	return nil
}

// giveUp keeps the next calls from waiting, too.
func (s *systemd) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = time.Now().Add(time.Minute)
}

func (s *systemd) isSilent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.silent)
}

func (s *systemd) send(text string, fd int) error {
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	timeout := unix.NsecToTimeval(int64(barrierTimeout)) // should nobody read there
	if err := unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
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
		return fmt.Errorf("cannot send a message to systemd (%s): %w", s.socket, err)
	}
	return nil
}
