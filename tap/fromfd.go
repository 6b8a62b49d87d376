package tap

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// FromFD returns a Device that owns fd, the descriptor of a TAP that another program created. The TAP must have the flags
// that Open sets: IFF_NO_PI and IFF_VNET_HDR. On an error, fd stays the caller's.
func FromFD(fd int) (*Device, error) {
	// Attach a filter: without one, TUNGETIFF sets IFF_NOFILTER, the same bit as IFF_NO_PI (linux drivers/net/tun.c).
	all := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}
	if err := tunIoctl(fd, unix.TUNATTACHFILTER, &unix.SockFprog{Len: 1, Filter: &all}); err != nil {
		return nil, fmt.Errorf("tap: the file descriptor does not belong to a TAP: %w", err)
	}
	ifr := &unix.Ifreq{}
	err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	if err := tunIoctl(fd, unix.TUNDETACHFILTER, &unix.SockFprog{}); err != nil {
		return nil, fmt.Errorf("tap: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("tap: the file descriptor does not belong to a TAP: %w", err)
	}
	const want = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if f := ifr.Uint16(); f&(unix.IFF_TUN|want) != want {
		return nil, fmt.Errorf("tap: device %s has wrong flags; it must be a TAP with a virtio-net header and without packet information (IFF_TAP, IFF_VNET_HDR, IFF_NO_PI), but its flags are %#x", ifr.Name(), f)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, frame.VnetLen); err != nil {
		return nil, fmt.Errorf("tap: %s: cannot set the header size of %d bytes: %w", ifr.Name(), frame.VnetLen, err)
	}
	if err := setOffloads(fd, ifr.Name()); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("tap: %s: %w", ifr.Name(), err)
	}
	return &Device{file: file{fd: fd}}, nil
}

func tunIoctl(fd int, request uintptr, p *unix.SockFprog) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(p))); errno != 0 {
		return errno
	}
	return nil
}

// Name returns the device's present name: other programs may have renamed the device or moved it to another namespace. An
// error means that the device no longer exists.
func (d *Device) Name() (string, error) {
	ifr := &unix.Ifreq{}
	if err := unix.IoctlIfreq(d.fd, unix.TUNGETIFF, ifr); err != nil {
		return "", fmt.Errorf("tap: the device no longer exists: %w", err)
	}
	return ifr.Name(), nil
}

// Up reports whether the device is up, in whatever namespace it is. An error means that the device no longer exists. Up
// polls for POLLOUT: a TAP is writable while it is up (linux drivers/net/tun.c, tun_chr_poll).
func (d *file) Up() (bool, error) {
	fds := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLOUT}}
	for {
		_, err := unix.Poll(fds, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return false, fmt.Errorf("tap: %w", err)
		case fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0:
			return false, errors.New("tap: the device no longer exists")
		}
		return fds[0].Revents&unix.POLLOUT != 0, nil
	}
}
