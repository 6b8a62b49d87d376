package tap

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// Device is a TAP with IFF_VNET_HDR and all offloads that the kernel supports. One read returns one frame with its
// virtio-net header; the frame may be a super-frame of up to 64 KiB.
type Device struct {
	file
	bulk    *Device        // see OpenTwoQueues; nil: there is one queue
	offered *atomic.Uint64 // see Count; nil: frames are not counted
	before  uint64         // frames that offered had then
}

// ErrExists is wrapped by errors that report a device name, or the path of a socket, as already in use.
var ErrExists = errors.New("the name is already in use")

// ErrNoTUN is wrapped by errors that mean that /dev/net/tun cannot be used.
var ErrNoTUN = errors.New("cannot use /dev/net/tun")

// offloads lists sets of offload flags, the largest first; the first set that the kernel accepts is used.
var offloads = []int{
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
	unix.TUN_F_CSUM,
}

// Open creates a TAP called name in the network namespace at path ns. The TAP exists until Close. If the name is already
// in use, the error wraps ErrExists.
//
// The TAP is created in the process's own namespace and then moved: a TAP's descriptor keeps alive the namespace in
// which /dev/net/tun was opened, and a container's namespace must be able to go away.
func Open(ns, name string) (*Device, error) {
	if ns == netns.Original {
		return open(atHome, name, oneQueue, nil)
	}
	return open(atHome, anyName, oneQueue, func(made string) error { return moveTo(made, ns, name) })
}

// OpenTwoQueues is Open in the process's own namespace, of a TAP with two queues that the switch reads. The second one is Bulk. The program of Steer
// chooses a frame's queue, 0 or BulkQueue.
func OpenTwoQueues(name string) (*Device, error) { return open(atHome, name, twoQueues, nil) }

// BulkQueue is the number of the second queue.
const BulkQueue = 1

// Flags for one queue, and for two.
const oneQueue, twoQueues uint16 = 0, unix.IFF_MULTI_QUEUE

// OpenApart is Open for a process that may itself be in a container's namespace, or in one that holds those of containers: the TAP is created in
// a namespace of its own.
func OpenApart(ns, name string) (*Device, error) {
	return open(netns.DoApart, anyName, oneQueue, func(made string) error { return moveTo(made, ns, name) })
}

// atHome runs fn in the process's own namespace.
func atHome(fn func() error) error { return netns.Do(netns.Original, fn) }

// open creates a TAP called name where in runs functions, and then calls move, if any, with the name that it has got.
func open(in func(func() error) error, name string, queues uint16, move func(made string) error) (*Device, error) {
	for deadline := time.Now().Add(afterlife); ; time.Sleep(10 * time.Millisecond) {
		d, err := openOnce(in, name, queues, move)
		if !errors.Is(err, ErrExists) || time.Now().After(deadline) {
			return d, err
		}
	}
}

// afterlife is how long Open retries while the name is in use. The device of a killed switch may still exist: the kernel
// releases an io_uring some time after its process has ended (linux io_uring/io_uring.c, io_ring_exit_work).
const afterlife = time.Second

func openOnce(in func(func() error) error, name string, queues uint16, move func(made string) error) (*Device, error) {
	var d *Device
	err := in(func() error {
		fd, made, err := openQueue(name, unix.IFF_TUN_EXCL|queues)
		if err != nil {
			return err
		}
		d = &Device{file: file{fd: fd}}
		if queues == twoQueues {
			second, _, err := openQueue(made, queues)
			if err != nil {
				return err
			}
			d.bulk = &Device{file: file{fd: second}}
		}
		if move != nil {
			return move(made)
		}
		return nil
	})
	if err != nil {
		if d != nil {
			d.Close()
		}
		return nil, err
	}
	return d, nil
}

// anyName is the name under which a device is created before it is moved; the kernel replaces %d by a number.
const anyName = "uvsnew%d"

// moveTo calls link.Move. If the name is already in use, the error wraps ErrExists.
func moveTo(made, ns, name string) error {
	err := link.Move(made, ns, name)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return createError(name, err)
	}
	return err
}

func openTUN() (int, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, noTUN(err)
	}
	return fd, nil
}

// CheckTUN returns an error that wraps ErrNoTUN when /dev/net/tun cannot be opened. It creates no device.
func CheckTUN() error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return noTUN(err)
	}
	return unix.Close(fd)
}

const tunDevice = "/dev/net/tun"

func noTUN(err error) error { return fmt.Errorf("tap: %w: %w%s", ErrNoTUN, err, tunHint(err)) }

func tunHint(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "; run `modprobe tun`, or `mknod /dev/net/tun c 10 200` where the module is built into the kernel; in a container, it takes `--device /dev/net/tun`"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "; the kernel has no driver for it: run `modprobe tun`"
	case errors.Is(err, os.ErrPermission):
		return "; run as root, or let root run `chmod 666 /dev/net/tun`, as most systems have it: the device gives no rights by itself; in a container, it takes `--device /dev/net/tun`"
	}
	return ""
}

// openQueue opens a queue of a TAP, which it creates if flags have IFF_TUN_EXCL, and returns the name that the kernel gave the TAP.
func openQueue(name string, flags uint16) (fd int, made string, err error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, "", fmt.Errorf("tap: %q is not an interface name", name)
	}
	if fd, err = openTUN(); err != nil {
		return -1, "", err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
	if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		err = createError(name, err)
	} else {
		err = setOffloads(fd, ifr.Name())
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, ifr.Name(), err
}

func setOffloads(fd int, name string) (err error) {
	for _, o := range offloads {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, o); err == nil {
			return nil
		}
	}
	return fmt.Errorf("tap: %s: the kernel grants no offloads: %w", name, err)
}

func createError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("tap: cannot create device %s: %w; choose another name (--ifname), or remove the existing device", name, ErrExists)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("tap: cannot create device %s: %w; this needs root, or CAP_NET_ADMIN", name, err)
	}
	return fmt.Errorf("tap: cannot create device %s: %w", name, err)
}

// Vnet implements frame.Conn. It is true: reads and writes of the descriptor carry the virtio-net header.
func (d *Device) Vnet() bool { return true }

// Read implements frame.Conn.
//
//uvswitch:hot
func (d *Device) Read(b []byte) (int, error) { return d.read(b) }

// Bulk is the second queue; nil if there is none. It is closed with the device.
func (d *Device) Bulk() *Device { return d.bulk }

// Write implements frame.Conn.
//
//uvswitch:hot
func (d *Device) Write(f *frame.Frame) frame.Reason { return d.writeChain(f) }

// Steer makes a BPF program of type socket filter choose the queue of each frame that the device's owner sends (TUNSETSTEERINGEBPF). The device
// keeps the program.
func (d *Device) Steer(program int) error {
	return unix.IoctlSetPointerInt(d.fd, unix.TUNSETSTEERINGEBPF, program)
}

// Count makes a BPF program of type socket filter see each frame that the device's owner sends, before it waits in the device's queue
// (TUNSETFILTEREBPF). The frame keeps as many bytes as the program returns. The device keeps the program, which counts the frames in offered.
// Count is called before the device is used.
func (d *Device) Count(program int, offered *atomic.Uint64) error {
	err := unix.IoctlSetPointerInt(d.fd, unix.TUNSETFILTEREBPF, program)
	if err == nil {
		d.offered, d.before = offered, offered.Load()
	}
	return err
}

// Close implements frame.Conn. The kernel removes a TAP when its last descriptor is closed. One that others keep is no longer counted.
func (d *Device) Close() error {
	if d.offered != nil {
		_ = unix.IoctlSetPointerInt(d.fd, unix.TUNSETFILTEREBPF, -1)
	}
	if d.bulk != nil {
		_ = d.bulk.Close()
	}
	return d.file.Close()
}

// Offered implements frame.Offerer.
func (d *Device) Offered() (frames uint64, ok bool) {
	if d.offered == nil {
		return 0, false
	}
	return d.offered.Load() - d.before, true
}

// GSOMaxSize implements frame.Conn.
func (d *Device) GSOMaxSize(proto uint8) int { return longest(proto) }

const maxPacket = 65535

// longest returns the size in bytes of the longest coalesced packet that the kernel accepts; 0 when it accepts none.
// It accepts coalesced UDP datagrams since Linux 6.2 (linux include/linux/virtio_net.h, virtio_net_hdr_to_skb), but before 6.9 no more than 64
// of them (include/linux/udp.h, UDP_MAX_SEGMENTS).
func longest(proto uint8) int {
	if proto == frame.UDP && !joinsUDP {
		return 0
	}
	return maxPacket
}

var joinsUDP = kernelAtLeast(6, 9)

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// file is a non-blocking descriptor that transfers whole frames. Its system calls never wait, so they are raw calls, of
// which Go's scheduler is not told.
type file struct{ fd int }

// FD implements frame.Conn.
func (d *file) FD() int { return d.fd }

// Close implements frame.Conn.
func (d *file) Close() error { return unix.Close(d.fd) }

//uvswitch:hot
func (d *file) read(b []byte) (int, error) {
	for range retries { // an error may concern one frame only: try the next one
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(d.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch {
		case errno == 0:
			return int(n), nil
		case errno == syscall.EAGAIN:
			return 0, nil
		case isDead(errno):
			return 0, errno
		}
	}
	return 0, nil
}

// Gone reports whether the device no longer exists. A reader may miss the end of its device: the kernel wakes readers before it takes the device
// from its descriptors (linux drivers/net/tun.c, tun_detach_all), so a read in between finds no error, and nothing wakes its reader again.
func (d *Device) Gone() bool { return d.gone() }

func (d *file) gone() bool {
	fds := []unix.PollFd{{Fd: int32(d.fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0 // tun_chr_poll
}

// isDead reports whether the error of a read means that the device no longer exists, for example because its namespace
// was removed.
//
//uvswitch:hot
func isDead(errno syscall.Errno) bool {
	return errno == syscall.EBADFD || errno == syscall.EBADF || errno == syscall.ENODEV || errno == syscall.EFAULT
}

// writeChain writes a frame and its chain as one super-frame, in one system call.
//
//uvswitch:hot
func (d *file) writeChain(f *frame.Frame) frame.Reason {
	if f.Next() == nil {
		return d.write(f.Raw())
	}
	var iov [frame.BatchSize]unix.Iovec
	n := gather(iov[:], f)
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(n))
		if errno != syscall.EINTR {
			return WriteReason(errno)
		}
	}
}

// gather puts the pieces of f and its chain into iov and returns how many there are.
//
//uvswitch:hot
func gather(iov []unix.Iovec, f *frame.Frame) int {
	iov[0].Base = &f.Raw()[0]
	iov[0].SetLen(len(f.Raw()))
	n := 1
	for f = f.Next(); f != nil; f = f.Next() {
		b := f.Rest()
		iov[n].Base = &b[0]
		iov[n].SetLen(len(b))
		n++
	}
	return n
}

//uvswitch:hot
func (d *file) write(b []byte) frame.Reason {
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(d.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno != syscall.EINTR {
			return WriteReason(errno)
		}
	}
}

// WriteReason returns the drop reason for the errno of a write; frame.None when errno is 0.
//
//uvswitch:hot
func WriteReason(errno syscall.Errno) frame.Reason {
	switch errno {
	case 0:
		return frame.None
	case syscall.EIO, syscall.ENETDOWN:
		return frame.PortDown
	case syscall.EAGAIN, syscall.ENOBUFS, syscall.ENOMEM:
		return frame.TxQueueFull
	case syscall.EBADFD, syscall.EBADF, syscall.ENODEV, syscall.ENXIO:
		return frame.PortGone
	case syscall.EMSGSIZE:
		return frame.ExceedsMTU
	}
	return frame.TxRefused
}
