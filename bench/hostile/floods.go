package hostile

import (
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// A Flood is one kind of hostile traffic. Its packets go from a container to the MAC of the gateway; those of FromOutside go from the outside
// to the host, and on to a port that a container publishes.
type Flood struct {
	Name        string
	FromOutside bool
	ARP         bool
	Silent      bool // no packets: the sender only uses its CPU, and shows what that alone costs the victim
	Sockets     int  // packet sockets that the sender opens; they make it a slow receiver of the answers to PoliteRate packets per second
	packet      func(p *frametest.Packet, i int)
}

// PublishedPort is the host's port that leads to a container, whose packets of FromOutside go to.
const PublishedPort = 5202

// Floods are the rows of the matrix.
var Floods = []Flood{
	{Name: "SYN to new ports", packet: func(p *frametest.Packet, i int) {
		p.Proto, p.Flags, p.SrcPort, p.DstPort = frame.TCP, frame.FlagSYN, uint16(1024+i%60000), uint16(1+i/60000)
	}},
	{Name: "UDP to new ports", packet: func(p *frametest.Packet, i int) { p.SrcPort, p.DstPort = uint16(1024+i%60000), uint16(10000+i/60000) }},
	{Name: "UDP, one flow", packet: func(p *frametest.Packet, _ int) { p.Payload = make([]byte, 1000) }},
	{Name: "first fragments", packet: func(p *frametest.Packet, i int) {
		p.Frag, p.IPID, p.Payload = 0x2000, uint16(1+i), make([]byte, 200)
	}},
	{Name: "later fragments", packet: func(p *frametest.Packet, i int) { p.Frag, p.IPID, p.Payload = 100, uint16(1+i), make([]byte, 200) }},
	{Name: "ICMP to the gateway", packet: echo},
	{Name: "expired TTL", packet: func(p *frametest.Packet, i int) { p.TTL, p.SrcPort = 1, uint16(1024+i%60000) }},
	{Name: "ARP", ARP: true},
	{Name: "broadcast", packet: func(p *frametest.Packet, _ int) {
		p.DstMAC, p.Dst = frame.BroadcastMAC, frametest.Addr("172.29.255.255")
	}},
	{Name: "unknown unicast", packet: func(p *frametest.Packet, _ int) { p.DstMAC, p.Dst = 0x020000999999, frametest.Addr("172.29.9.9") }},
	{Name: "multicast", packet: func(p *frametest.Packet, _ int) { p.DstMAC, p.Dst = 0x01005e000101, frametest.Addr("239.0.1.1") }},
	{Name: "absent neighbors", packet: func(p *frametest.Packet, i int) { p.Dst = frametest.Addr("172.29.100.0") + frame.Addr(i%20000) }},
	{Name: "source MACs", packet: func(p *frametest.Packet, i int) { p.SrcMAC = 0x020000000000 | frame.MAC(i&0xffffff) }},
	{Name: "gso_size 64", packet: func(p *frametest.Packet, _ int) { super(p, 64) }},
	{Name: "64 KiB frames", packet: func(p *frametest.Packet, _ int) { super(p, 1400) }},
	{Name: "slow receiver", Sockets: 2000, packet: echo},
	{Name: "no packets", Silent: true},
	{Name: "spoofed SYN from outside", FromOutside: true, packet: func(p *frametest.Packet, i int) {
		p.Src = frametest.Addr("198.18.0.0") + frame.Addr(i)
		p.Proto, p.Flags, p.SrcPort, p.DstPort = frame.TCP, frame.FlagSYN, uint16(1024+i%60000), PublishedPort
	}},
}

var gateway = frametest.Addr("172.29.0.1")

func echo(p *frametest.Packet, i int) {
	p.Dst, p.Proto, p.Type, p.Seq, p.Payload = gateway, frame.ICMP, frame.ICMPEcho, uint16(i), make([]byte, 56)
}

func super(p *frametest.Packet, size uint16) {
	p.Proto, p.Flags, p.GSO, p.Payload = frame.TCP, frame.FlagACK, size, make([]byte, 60000)
}

// Ready is the line that Send prints when it could send its first packet.
const Ready = "ready to send"

// PoliteRate is what a polite sender sends of the same packets, in a second.
const PoliteRate = 1000

const distinct = 60000 // packets; most floods repeat them from there on

// Find returns the flood with a name.
func Find(name string) (Flood, error) {
	for _, f := range Floods {
		if f.Name == name {
			return f, nil
		}
	}
	return Flood{}, fmt.Errorf("no flood %q", name)
}

// Send sends packets of one kind from eth0 of this namespace until it is killed: from one IPv4 address to another one, by way of the MAC next.
// It begins when the standard input ends. A polite sender sends PoliteRate of them.
func Send(kind, from, to, next string, polite bool) error {
	mac, err := net.ParseMAC(next)
	if err != nil {
		return err
	}
	f, err := Find(kind)
	if err != nil {
		return err
	}
	dev, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	rate := 0
	if polite {
		f.Sockets, rate = 0, PoliteRate
	} else if f.Sockets > 0 {
		rate = PoliteRate
	}
	for range f.Sockets {
		if _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(bits.ReverseBytes16(unix.ETH_P_ALL))); err != nil {
			return err
		}
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Index})
	}
	if err != nil {
		return err
	}
	if f.Silent {
		return idleOrSpin(polite)
	}
	p := frametest.Packet{SrcMAC: frame.LoadMAC(dev.HardwareAddr), DstMAC: frame.LoadMAC(mac), Src: frametest.Addr(from), Dst: frametest.Addr(to), SrcPort: 5000, DstPort: 9}
	raws := f.packets(p)
	runtime.GC() // the memory of a full set of packets is not collected beside the victim
	awaitStart()
	return transmit(fd, raws, rate)
}

// awaitStart waits until all senders are ready: one that sends delays those that start.
func awaitStart() {
	fmt.Println(Ready)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// idleOrSpin uses no CPU time or a whole CPU.
func idleOrSpin(idle bool) error {
	awaitStart()
	for idle {
		time.Sleep(time.Hour)
	}
	for {
		runtime.KeepAlive(nil)
	}
}

// packets returns what the flood sends, made from p.
func (f Flood) packets(p frametest.Packet) (raws [][]byte) {
	if f.ARP {
		return [][]byte{append(make([]byte, frame.VnetLen), frametest.ARP(frame.BroadcastMAC, p.SrcMAC, 1, p.Src, gateway)[frame.VnetLen:]...)}
	}
	var last []byte
	for i := range distinct {
		q := p
		f.packet(&q, i)
		raw := q.Raw()
		if string(raw) == string(last) { // all are alike
			break
		}
		raws, last = append(raws, raw), raw
	}
	return raws
}

// transmit sends packets, with their virtio-net headers, in turn: rate of them in a second, or as many as possible.
func transmit(fd int, raws [][]byte, rate int) error {
	began := time.Now()
	for i := 0; ; i++ {
		raw := raws[i%len(raws)]
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&raw[0])), uintptr(len(raw)))
		if errno != 0 && errno != unix.ENOBUFS && errno != unix.EAGAIN {
			return errno
		}
		if rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		}
	}
}
