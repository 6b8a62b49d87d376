package rights

import (
	"sync"

	"golang.org/x/sys/unix"
)

var umaskMu sync.Mutex // Lock 94: the process has one umask

// ForGroup runs bind. The unix socket that bind makes has mode 0660 from the beginning: a later change by its name could reach another file
// that somebody has put there meanwhile.
func ForGroup(bind func() error) error { return withUmask(0o117, bind) }

// ForOwner runs bind. The unix socket that bind makes has mode 0600 from the beginning.
func ForOwner(bind func() error) error { return withUmask(0o177, bind) }

func withUmask(mask int, bind func() error) error {
	umaskMu.Lock()
	defer umaskMu.Unlock()
	before := unix.Umask(mask)
	defer unix.Umask(before)
	return bind()
}
