package tap

import (
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Plain is a TAP without a virtio-net header, made by songgao/water: for ports or kernels without offloads. What
// goes out is segmented and summed here, in software; Segmented says how often.
type Plain struct {
	file
	segmenter
	ifce *water.Interface // keeps the descriptor from being finalized
}

// OpenPlain makes a plain TAP called name in the namespace at path ns.
func OpenPlain(ns, name string) (*Plain, error) {
	var p *Plain
	err := In(Own, func() error {
		probe, err := openTUN() // water's own error for a missing device is bare
		if err != nil {
			return err
		}
		unix.Close(probe)
		if _, err := net.InterfaceByName(name); err == nil && ns == Own {
			return createError(name, unix.EEXIST) // water would attach to a persistent TAP of that name
		}
		ifce, err := water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: water.PlatformSpecificParams{Name: tempName(ns, name)}})
		if err != nil {
			return createError(name, err)
		}
		p = &Plain{ifce: ifce}
		if err = p.adopt(); err == nil && ns != Own {
			err = move(ifce.Name(), ns, name)
		}
		if err != nil {
			ifce.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// adopt takes the raw descriptor out of water's os.File, whose own Read and Write lock, and sets what water leaves
// out: close-on-exec. Asking by SyscallConn keeps it non-blocking, which Fd would not.
func (p *Plain) adopt() error {
	f, ok := p.ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return fmt.Errorf("tap: water returned a %T, not a file", p.ifce.ReadWriteCloser)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	if err := raw.Control(func(fd uintptr) { p.fd = int(fd) }); err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	unix.CloseOnExec(p.fd)
	return unix.SetNonblock(p.fd, true)
}

// Vnet is false: a ring may not read or write the descriptor by itself.
func (p *Plain) Vnet() bool { return false }

// Longest implements frame.Conn: what was joined would only have to be taken apart here.
func (p *Plain) GSOMaxSize(uint8) int { return 0 }

// Close implements frame.Conn.
func (p *Plain) Close() error { return p.ifce.Close() }

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

var scratch = sync.Pool{New: func() any { b := make([]byte, frame.MaxFrame); return &b }}

// Write implements frame.Conn. A super-frame becomes several; when one of them is refused, so is the whole.
func (p *Plain) Write(f *frame.Frame) frame.Reason { return p.plain(f, p.write) }

// A segmenter takes frames apart for wires without offloads, and counts them.
type segmenter struct{ count atomic.Uint64 }

// Segmented is how many frames were segmented or summed.
func (g *segmenter) Segmented() uint64 { return g.count.Load() }

// plain sends a frame as the plain frames that a wire would carry.
func (g *segmenter) plain(f *frame.Frame, send func([]byte) frame.Reason) frame.Reason {
	if f.Vnet().Flags()&frame.VnetNeedsCsum == 0 {
		return send(f.Bytes())
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	g.count.Add(1)
	why := frame.TxRefused
	for s := frame.NewSegments(f); s.Next(*buf); {
		if why = send(s.Bytes()); why != frame.None {
			break
		}
	}
	return why
}
