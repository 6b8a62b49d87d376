package nat

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Outside is what the uplink and NAT tell each other. Several goroutines may call it at once.
type Outside interface {
	// PortSet returns the memory of the set of ports in use at the host's address with this index, from 1 on. ICMP's are identifiers.
	PortSet(index int, proto uint8) *PortSet
	// UseAddr says that flows leave by address a of the host from now on, and that its ports are in the sets with this index.
	UseAddr(a frame.Addr, index int)
	// Peer says that a flow of a protocol without a set of ports between the host's address own and remote has begun (on), or has ended.
	// There may be several, and the end of one may be told before its begin.
	// A begin is refused when there is no room for its answers.
	Peer(own, remote frame.Addr, proto uint8, on bool) (ok bool)
	// SourceFor returns the source address that the host's routing chose last for packets to a remote address; 0 if it is not known.
	SourceFor(remote frame.Addr) frame.Addr
	// AskSource asks the host's routing which source address a packet with this tuple gets; 0 if it is not known. It takes some
	// microseconds.
	AskSource(inside frame.Tuple) frame.Addr
}

// privately is the Outside of a NAT without one.
type privately struct{}

func (privately) PortSet(int, uint8) *PortSet                        { return NewPortSet() }
func (privately) UseAddr(frame.Addr, int)                            {}
func (privately) Peer(frame.Addr, frame.Addr, uint8, bool) (ok bool) { return true }
func (privately) SourceFor(remote frame.Addr) (a frame.Addr)         { return 0 }
func (privately) AskSource(frame.Tuple) (a frame.Addr)               { return 0 }

// MaxAddrs is how many addresses of the host flows may leave by at a time.
const MaxAddrs = 63

// A hostAddr is an address of the host that flows leave by, with its outside ports.
type hostAddr struct {
	addr  frame.Addr
	index int
	ports [protocols]outsidePorts
	fins  []lastFIN // by outside port of TCP
}

// hostAddrs are the addresses that flows leave by. Workers read the list; it is replaced as a whole.
type hostAddrs struct{ list atomic.Pointer[[]*hostAddr] }

// find returns the entry of address a, or nil. There are few.
func (h *hostAddrs) find(a frame.Addr) *hostAddr {
	for _, x := range *h.list.Load() {
		if x.addr == a {
			return x
		}
	}
	return nil
}

// UseAddr lets flows leave by address a of the host, or returns the reason why they may not: a is no address of the host, or flows leave by
// MaxAddrs others. The slow path calls it, and Update.
func (n *NAT) UseAddr(a frame.Addr) frame.Reason {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.useAddrLocked(n.config.Load(), a)
}

func (n *NAT) useAddrLocked(c *config, a frame.Addr) frame.Reason {
	if !c.has(a) {
		return frame.UplinkDown
	}
	if n.addrs.find(a) != nil {
		return frame.None
	}
	list := slices.Clone(*n.addrs.list.Load())
	if len(list) == MaxAddrs { // the place of an address that no flow needs, and whose last port has rested
		gone := slices.IndexFunc(list, func(x *hostAddr) bool { return x.addr != c.source && !c.publishesAt(x.addr) && x.unused() })
		if gone < 0 {
			return frame.TooManySources
		}
		list = slices.Delete(list, gone, gone+1)
	}
	index := 1
	for slices.ContainsFunc(list, func(x *hostAddr) bool { return x.index == index }) {
		index++
	}
	x := &hostAddr{addr: a, index: index, fins: slab[lastFIN](n.alloc, 65536)}
	for i := range x.ports {
		x.ports[i].used = n.outside.PortSet(index, protoNumbers[i])
		x.ports[i].quarantined, x.ports[i].overloaded = slab[quarantineInfo](n.alloc, 65536), slab[atomic.Int32](n.alloc, 65536)
		if i != icmp {
			x.ports[i].quarantine = NewPortSet()
		}
	}
	list = append(list, x)
	n.addrs.list.Store(&list)
	n.outside.UseAddr(a, index)
	return frame.None
}

// AskSource asks the host's routing which source address a packet from inside gets; raw is its frame with the virtio-net header.
func (n *NAT) AskSource(raw []byte) frame.Addr {
	var f frame.Frame
	f.Reset(raw, frame.NoPort)
	frame.Parse(&f)
	return n.outside.AskSource(f.Tuple)
}

func (x *hostAddr) unused() bool {
	return !slices.ContainsFunc(x.ports[:], func(o outsidePorts) bool { return o.used.Len() > 0 })
}

// sourceFor returns the host's address by which a flow to remote leaves: the one that the way out has asked for, the one that packets to
// remote had last, or the default.
func (n *NAT) sourceFor(c *config, remote, asked frame.Addr) *hostAddr {
	for _, a := range [...]frame.Addr{asked, n.outside.SourceFor(remote), c.source} {
		if a != 0 && c.has(a) {
			if x := n.addrs.find(a); x != nil {
				return x
			}
		}
	}
	return nil
}
