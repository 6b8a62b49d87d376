package tap

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/uring"
)

// AFPacket is an existing device, such as the host end of a veth pair, read and written through an AF_PACKET socket with
// virtio-net headers. Super-frames and partial checksums pass as they do through a TAP.
//
// When the device is removed, the socket stays open but receives nothing. Rebind binds it to the device that replaces it.
type AFPacket struct {
	file
	index int // interface index of the device bound last
	// Used by Read; only one worker reads a port.
	msg  unix.Msghdr
	iov  unix.Iovec
	ctrl [controlRoom]byte

	header unix.Msghdr // of an io_uring's reads
}

// controlRoom is the room for a message's auxiliary data, in bytes: a header and a struct tpacket_auxdata are 36.
const controlRoom = 64

// messageRoom is how many bytes of a buffer an io_uring needs before the frame.
const messageRoom = uring.MessageHead + controlRoom

// OpenAFPacket opens the existing device dev of the network namespace at path ns. The device is promiscuous until Close.
func OpenAFPacket(ns, dev string) (*AFPacket, error) {
	var p *AFPacket
	err := netns.Do(ns, func() error {
		ifc, err := net.InterfaceByName(dev)
		if err != nil {
			return fmt.Errorf("tap: device %q does not exist here (`ip link` lists the devices; `ip link add %s type veth peer name ...` creates one)", dev, dev)
		}
		fd, err := packetSocket()
		if err != nil {
			return fmt.Errorf("tap: cannot plug in %s: %w", dev, err)
		}
		p = &AFPacket{file: file{fd: fd}, header: unix.Msghdr{Controllen: controlRoom}}
		if err := p.Rebind(ifc.Index); err != nil {
			unix.Close(fd)
			return fmt.Errorf("tap: cannot plug in %s: %w", dev, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

func packetSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	for _, opt := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING, unix.PACKET_AUXDATA} {
		if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, opt, 1); err != nil {
			break
		}
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	}
	if err == unix.EPERM { // only root of a user namespace: as much as the host gives to everybody (net.core.rmem_max)
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// receiveBuffer is how many bytes may wait for the switch.
const receiveBuffer = 8 << 20

// Rebind binds the socket to another device of the same namespace, given by interface index, in place of a removed one.
// Reads and writes may go on meanwhile.
func (p *AFPacket) Rebind(ifindex int) error {
	promisc := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC} // ends when the device is removed
	if err := unix.SetsockoptPacketMreq(p.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promisc); err != nil {
		return err
	}
	if err := unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex}); err != nil {
		return err
	}
	p.index = ifindex
	return nil
}

// Index returns the interface index of the device that was bound last. Rebind and Index must be called by one goroutine.
func (p *AFPacket) Index() int { return p.index }

// Bound reports whether the socket is still bound to that device. A device that leaves the namespace and comes back has
// its old index, but the kernel has unbound the socket (linux net/packet/af_packet.c, packet_notifier).
func (p *AFPacket) Bound() bool {
	a, err := unix.Getsockname(p.fd)
	l, ok := a.(*unix.SockaddrLinklayer)
	return err == nil && ok && l.Ifindex == p.index
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Vnet implements frame.Conn. It is true, but an io_uring must receive messages: a read would miss the auxiliary data, where the kernel puts
// a VLAN tag.
func (p *AFPacket) Vnet() bool { return true }

// unpack returns the frame in b, what an io_uring has received: its first byte, and where it ends. It puts back a VLAN tag that the kernel has
// taken out. ok is false if there is no frame, or it is longer than MaxFrame.
//
//uvswitch:hot
func unpack(b []byte) (begin, end int, ok bool) {
	control, begin, ok := uring.Split(b, controlRoom)
	if !ok || len(b) < begin+frame.VnetLen+frame.EthernetLen {
		return 0, 0, false
	}
	if tci, tpid, ok := vlan(control); ok {
		copy(b[begin-frame.VLANLen:], b[begin:begin+tagAt])
		begin -= frame.VLANLen
		setTag(b[begin:], tci, tpid)
	}
	return begin, len(b), len(b)-begin <= frame.VnetLen+frame.MaxFrame
}

// tagAt is where a VLAN tag stands in a frame with its virtio-net header: behind the MACs.
const tagAt = frame.VnetLen + 12

// setTag writes a VLAN tag into the room for it in b, a frame with its virtio-net header.
//
//uvswitch:hot
func setTag(b []byte, tci, tpid uint16) {
	binary.BigEndian.PutUint16(b[tagAt:], tpid)
	binary.BigEndian.PutUint16(b[tagAt+2:], tci)
	if h := frame.VnetHdr(b); h.NeedsCsum() {
		h.Set(h[0], h[1], h.HdrLen()+frame.VLANLen, h.GSOSize(), h.CsumStart()+frame.VLANLen, h.CsumOffset())
	}
}

// Read implements frame.Conn. If the kernel has taken a VLAN tag out of the frame, Read puts it back.
//
//uvswitch:hot
func (p *AFPacket) Read(b []byte) (int, error) {
	for range retries {
		n, errno := p.receive(b)
		switch errno {
		case 0:
			return n, nil
		case syscall.EAGAIN:
			return 0, nil
		}
		// The kernel could not describe a frame, or the device went down or was removed: try again.
	}
	return 0, nil
}

const retries = 64 // system calls per Read at most; each takes an error or a frame off the socket

//uvswitch:hot
func (p *AFPacket) receive(b []byte) (int, syscall.Errno) {
	const tag = frame.VLANLen
	p.iov.Base = &b[0]
	p.iov.SetLen(frame.VnetLen + frame.MaxFrame - tag)
	p.msg.Iov, p.msg.Iovlen = &p.iov, 1
	p.msg.Control = &p.ctrl[0]
	p.msg.SetControllen(len(p.ctrl))
	r, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&p.msg)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, errno
	}
	n := int(r)
	if tci, tpid, ok := vlan(p.ctrl[:min(uint64(p.msg.Controllen), controlRoom)]); ok && n >= frame.VnetLen+frame.EthernetLen {
		copy(b[tagAt+tag:], b[tagAt:n])
		setTag(b, tci, tpid)
		n += tag
	}
	return n, 0
}

// vlan returns the VLAN tag in a frame's control data, which is its auxiliary data (struct tpacket_auxdata); ok is false if there is none.
//
//uvswitch:hot
func vlan(control []byte) (tci, tpid uint16, ok bool) {
	const at = unix.SizeofCmsghdr
	if len(control) < at+20 {
		return 0, 0, false
	}
	e := binary.NativeEndian
	status := e.Uint32(control[at:])
	if status&unix.TP_STATUS_VLAN_VALID == 0 {
		return 0, 0, false
	}
	tci, tpid = e.Uint16(control[at+16:]), frame.TypeVLAN
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = e.Uint16(control[at+18:])
	}
	return tci, tpid, true
}

// Write implements frame.Conn.
//
//uvswitch:hot
func (p *AFPacket) Write(f *frame.Frame) frame.Reason { return mayReturn(p.writeChain(f)) }

// mayReturn is why a write to a packet socket failed: when its device is gone, another may come in its place.
//
//uvswitch:hot
func mayReturn(why frame.Reason) frame.Reason {
	if why == frame.PortGone {
		return frame.PortDown
	}
	return why
}

// writeReason is WriteReason for a write to c's descriptor that its Write did not do.
func writeReason(c frame.Conn, errno syscall.Errno) frame.Reason {
	why := WriteReason(errno)
	if _, ok := c.(*AFPacket); ok {
		return mayReturn(why)
	}
	return why
}

// GSOMaxSize implements frame.Conn.
func (p *AFPacket) GSOMaxSize(proto uint8) int { return longest(proto) }
