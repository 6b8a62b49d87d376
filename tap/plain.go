package tap

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// Plain is a TAP without a virtio-net header, made by songgao/water: for ports or kernels without offloads. What
// goes out is segmented and summed here, in software; Segmented says how often.
type Plain struct {
	file
	frame.Segmenter
}

// PlainFromFD takes over the descriptor of a plain TAP that OpenPlain has made, perhaps in another process.
func PlainFromFD(fd int) *Plain { return &Plain{file: file{fd: fd}} }

// OpenPlain makes a plain TAP called name in the namespace at path ns.
func OpenPlain(ns, name string) (*Plain, error) {
	var p *Plain
	err := netns.Do(netns.Original, func() error {
		probe, err := openTUN() // water's own error for a missing device is bare
		if err != nil {
			return err
		}
		unix.Close(probe)
		if _, err := net.InterfaceByName(name); err == nil && ns == netns.Original {
			return createError(name, unix.EEXIST) // water would attach to a persistent TAP of that name
		}
		ifce, err := water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: water.PlatformSpecificParams{Name: tempName(ns, name)}})
		if err != nil {
			return createError(name, err)
		}
		defer ifce.Close() // the port has a descriptor of its own
		fd, err := descriptor(ifce)
		if err != nil {
			return err
		}
		if ns != netns.Original {
			err = moveTo(ifce.Name(), ns, name)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		p = PlainFromFD(fd)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// descriptor returns a non-blocking copy of the descriptor in water's os.File, whose own Read and Write lock. Asking by
// SyscallConn keeps it non-blocking, which Fd would not.
func descriptor(ifce *water.Interface) (fd int, err error) {
	f, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return -1, fmt.Errorf("tap: water returned a %T, not a file", ifce.ReadWriteCloser)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("tap: %w", err)
	}
	cerr := raw.Control(func(had uintptr) { fd, err = unix.FcntlInt(had, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return -1, fmt.Errorf("tap: %w", err)
	}
	return fd, unix.SetNonblock(fd, true)
}

// Vnet is false: a ring may not read or write the descriptor by itself.
func (p *Plain) Vnet() bool { return false }

// Longest implements frame.Conn: what was joined would only have to be taken apart here.
func (p *Plain) GSOMaxSize(uint8) int { return 0 }

// Read implements frame.Conn: the header is all zero, "complete and unsegmented".
//
//uvswitch:hot
func (p *Plain) Read(b []byte) (int, error) {
	n, err := p.read(b[frame.VnetLen:])
	if n == 0 {
		return 0, err
	}
	clear(b[:frame.VnetLen])
	return n + frame.VnetLen, nil
}

// Write implements frame.Conn. A super-frame becomes several; when one of them is refused, so is the whole.
func (p *Plain) Write(f *frame.Frame) frame.Reason { return p.Send(f, p.write) }
