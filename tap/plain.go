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

// Plain is a TAP without a virtio-net header, created by songgao/water, for ports or kernels without offloads. Frames
// written to it are segmented and checksummed in software; Segmented returns how many were.
type Plain struct {
	file
	frame.Segmenter
}

// PlainFromFD returns a Plain that owns fd, the descriptor of a plain TAP that OpenPlain created, perhaps in another
// process.
func PlainFromFD(fd int) *Plain { return &Plain{file: file{fd: fd}} }

// OpenPlain creates a plain TAP called name in the network namespace at path ns. If the name is already in use, the error
// wraps ErrExists.
func OpenPlain(ns, name string) (*Plain, error) {
	var p *Plain
	made := name
	if ns != netns.Original {
		made = anyName
	}
	err := atHome(func() error {
		probe, err := openTUN() // water's error would not explain a missing /dev/net/tun
		if err != nil {
			return err
		}
		unix.Close(probe)
		if _, err := net.InterfaceByName(name); err == nil && ns == netns.Original {
			return createError(name, unix.EEXIST) // water would attach to a persistent TAP of that name
		}
		ifce, err := water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: water.PlatformSpecificParams{Name: made}})
		if err != nil {
			return createError(name, err)
		}
		defer ifce.Close() // p keeps a duplicate of its descriptor
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

// Gone is Device.Gone.
func (p *Plain) Gone() bool { return p.gone() }

// descriptor returns a non-blocking duplicate of the descriptor in water's os.File, because Read and Write of an os.File
// take a lock. It uses SyscallConn, since Fd would make the descriptor blocking.
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

// Vnet implements frame.Conn. It is false: an io_uring must not read or write the descriptor directly.
func (p *Plain) Vnet() bool { return false }

// GSOMaxSize implements frame.Conn. It is 0: a coalesced packet would only have to be segmented again here.
func (p *Plain) GSOMaxSize(uint8) int { return 0 }

// Read implements frame.Conn. The virtio-net header is all zero: the checksums are complete, and it is no super-frame.
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

// Write implements frame.Conn. It segments a super-frame; when one segment is refused, the super-frame counts as refused.
func (p *Plain) Write(f *frame.Frame) frame.Reason { return p.Send(f, p.write) }
