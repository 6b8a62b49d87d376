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
)

// Packet is an existing device, such as the host end of a veth pair, by an AF_PACKET socket with the virtio-net
// header: super-frames and partial checksums pass as through a TAP.
//
// A device that goes away leaves the socket, which hears nothing then; Rebind gives it the device that comes in its place.
type AFPacket struct {
	file
	index int // the device's
	// What one Read needs; a port is read by one worker.
	msg  unix.Msghdr
	iov  unix.Iovec
	ctrl [64]byte
}

// OpenPacket plugs device dev of the namespace at path ns. The device is made promiscuous while it is plugged.
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
		p = &AFPacket{file: file{fd: fd}}
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
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Rebind plugs another device of the same namespace, by its index, in place of one that has gone. Reads and writes may go on meanwhile.
func (p *AFPacket) Rebind(ifindex int) error {
	promisc := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC} // ends with the device
	if err := unix.SetsockoptPacketMreq(p.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promisc); err != nil {
		return err
	}
	if err := unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex}); err != nil {
		return err
	}
	p.index = ifindex
	return nil
}

// Index is the device's that was bound last. Rebind and Index are for one goroutine.
func (p *AFPacket) Index() int { return p.index }

// Bound tells whether that device is still there: one that has left the namespace for a moment comes back with its index, but the
// kernel has unbound the socket (linux net/packet/af_packet.c, packet_notifier).
func (p *AFPacket) Bound() bool {
	a, err := unix.Getsockname(p.fd)
	l, ok := a.(*unix.SockaddrLinklayer)
	return err == nil && ok && l.Ifindex == p.index
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Vnet is false for a ring's purposes: a read needs the auxiliary data, where the kernel puts a VLAN tag.
func (p *AFPacket) Vnet() bool { return false }

// Read implements frame.Conn. A VLAN tag that the kernel has taken out of the frame is put back.
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
		// A frame that the kernel could not describe, or a device that went down or away: see what is next.
	}
	return 0, nil
}

const retries = 64 // of one Read; each takes an error or a frame off the socket

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
	if tci, tpid, ok := p.vlan(); ok && n >= frame.VnetLen+frame.EthernetLen {
		const macs = frame.VnetLen + 12
		copy(b[macs+tag:], b[macs:n])
		binary.BigEndian.PutUint16(b[macs:], tpid)
		binary.BigEndian.PutUint16(b[macs+2:], tci)
		if h := frame.VnetHdr(b); h.NeedsCsum() {
			h.Set(h[0], h[1], h.HdrLen()+tag, h.GSOSize(), h.CsumStart()+tag, h.CsumOffset())
		}
		n += tag
	}
	return n, 0
}

// vlan finds the tag in the auxiliary data (struct tpacket_auxdata).
//
//uvswitch:hot
func (p *AFPacket) vlan() (tci, tpid uint16, ok bool) {
	const at = unix.SizeofCmsghdr
	if int(p.msg.Controllen) < at+20 {
		return 0, 0, false
	}
	e := binary.NativeEndian
	status := e.Uint32(p.ctrl[at:])
	if status&unix.TP_STATUS_VLAN_VALID == 0 {
		return 0, 0, false
	}
	tci, tpid = e.Uint16(p.ctrl[at+16:]), frame.TypeVLAN
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = e.Uint16(p.ctrl[at+18:])
	}
	return tci, tpid, true
}

// Write implements frame.Conn.
//
//uvswitch:hot
func (p *AFPacket) Write(f *frame.Frame) frame.Reason {
	why := p.writeChain(f)
	if why == frame.PortGone { // the device is, and may come again
		return frame.PortDown
	}
	return why
}

// Longest implements frame.Conn.
func (p *AFPacket) GSOMaxSize(proto uint8) int { return longest(proto) }
