package rights

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// OpenToGroup gives a unix socket that this process has just bound mode 0660. Nobody can make another file of it by changing what the path
// names meanwhile.
func OpenToGroup(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFSOCK || int(s.Uid) != unix.Geteuid() {
		return fmt.Errorf("%s is no longer the socket that was made there; somebody else writes to that folder", path)
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), 0o660, 0); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
