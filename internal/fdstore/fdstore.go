// Package fdstore keeps descriptors beyond the end of the process and gives them to the next one. The switch stores the TAPs that
// other programs have made and passed to it, which it could not make again, and a file in memory that describes them. So these
// TAPs, their networks and their published ports survive a crash and a restart.
//
// Source: sd_notify(3), FDSTORE=1.
package fdstore

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// A Store keeps descriptors by name.
type Store interface {
	Keep(name string, fd int) error
	// Forget returns when the store has closed what it kept by that name.
	Forget(name string) error
}

// Names in the store.
const (
	portPrefix  = "port."
	statePrefix = "state." // and a or b: the new state is stored before the old one is forgotten
)

// IsStored reports whether an inherited descriptor of that name comes from a Store.
func IsStored(name string) bool {
	return strings.HasPrefix(name, portPrefix) || strings.HasPrefix(name, statePrefix)
}

// PortName is the name in the store of the TAP of a port.
func PortName(port string) string { return portPrefix + port }

// A State describes the stored TAPs.
type State struct {
	Sequence uint64           `json:"sequence"` // of two states the one with the higher number counts
	Networks []api.NetworkAdd `json:"networks"`
	Ports    []api.PortAdd    `json:"ports"`
	Publish  []api.PublishAdd `json:"publish"`
	Policies []api.PolicyAdd  `json:"policies,omitempty"`
}

// Save stores a state in place of the one before.
func Save(to Store, s State) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("uvswitch-state", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot create a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	turns := [2]string{statePrefix + "a", statePrefix + "b"}
	if err := to.Keep(turns[s.Sequence%2], fd); err != nil {
		return err
	}
	return to.Forget(turns[(s.Sequence+1)%2])
}

// Load reads what the last process has stored, and closes the files: the state, and the TAPs' descriptors by port, which are the
// caller's. A file that cannot be read is left out, and is among the errors.
func Load(files []*os.File) (s State, taps map[string]int, errs []error) {
	taps = map[string]int{}
	for _, f := range files {
		var err error
		if port, is := strings.CutPrefix(f.Name(), portPrefix); is {
			if _, twice := taps[port]; !twice {
				var fd int
				if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
					taps[port] = fd
				}
			}
		} else {
			var have State
			if have, err = read(f); err == nil && have.Sequence > s.Sequence {
				s = have
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("stored descriptor %s: %w", f.Name(), err))
		}
		f.Close()
	}
	return s, taps, errs
}

func read(f *os.File) (s State, err error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<24))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}
