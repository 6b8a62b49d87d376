package tap

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// A waker is an eventfd that makes a waiting Poll return. Wake may be called at any time, even after close.
type waker struct {
	mu sync.Mutex // Lock 90
	fd int        // -1 when closed
}

func newWaker() (*waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("tap: eventfd: %w", err)
	}
	return &waker{fd: fd}, nil
}

// Wake implements dataplane.Poller.
func (w *waker) Wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		_, _ = unix.Write(w.fd, one[:]) // fails only when the counter is full; the eventfd is then readable anyway
	}
}

// clear resets the eventfd: wake-ups so far are consumed.
//
//uvswitch:hot
func (w *waker) clear() {
	var count [8]byte
	_, _ = unix.Read(w.fd, count[:])
}

func (w *waker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	unix.Close(w.fd)
	w.fd = -1
}
