package nat

import (
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// An OutsideOf is what the uplink and NAT tell each other about one family. Several goroutines may call it at once.
type OutsideOf[A frame.Address] interface {
	// PortSet returns the memory of the set of ports in use at the host's address with this index, from 1 on. ICMP's are identifiers.
	PortSet(index int, proto uint8) *PortSet
	// UseAddr says that flows leave by address a of the host from now on, and that its ports are in the sets with this index.
	UseAddr(a A, index int)
	// Peer says that a flow of a protocol without a set of ports between the host's address own and remote has begun (on), or has ended.
	// There may be several, and the end of one may be told before its begin.
	// A begin is refused when there is no room for its answers.
	Peer(own, remote A, proto uint8, on bool) (ok bool)
	// Inside returns how the uplink's programs are told the inside address a of a packet that port id has sent, in the packet's way header
	// (see frame.WayMACs); 0 if they are not told.
	Inside(id frame.PortID, a A) uint32
	// SourceFor returns the source address that the host's routing chose last for packets to a remote address; 0 if it is not known.
	SourceFor(remote A) A
	// AskSource asks the host's routing which source address a packet with this tuple and class (see frame.Frame.TrafficClass) gets; 0 if it is not
	// known. It takes some microseconds.
	AskSource(inside frame.TupleOf[A], class uint8) A
}

// What the uplink and NAT tell each other, by family.
type (
	Outside  = OutsideOf[frame.Addr]
	Outside6 = OutsideOf[frame.Addr6]
)

// privately is the OutsideOf of a NAT without one.
type privately[A frame.Address] struct{}

func (privately[A]) PortSet(int, uint8) *PortSet             { return NewPortSet() }
func (privately[A]) UseAddr(A, int)                          {}
func (privately[A]) Peer(A, A, uint8, bool) (ok bool)        { return true }
func (privately[A]) Inside(frame.PortID, A) uint32           { return 0 }
func (privately[A]) SourceFor(remote A) (a A)                { return a }
func (privately[A]) AskSource(frame.TupleOf[A], uint8) (a A) { return a }

// MaxAddrs is how many addresses of the host flows may leave by at a time.
const MaxAddrs = 63

// A hostAddr is an address of the host that flows leave by, with its outside ports.
type hostAddr[A frame.Address] struct {
	addr  A
	index int
	ports [protocols]outsidePorts
	fins  []lastFIN // by outside port of TCP
}

// hostAddrs are the addresses that flows leave by. Workers read the list; it is replaced as a whole.
type hostAddrs[A frame.Address] struct {
	list atomic.Pointer[[]*hostAddr[A]]
}

// find returns the entry of address a, or nil. There are few.
func (h *hostAddrs[A]) find(a A) *hostAddr[A] {
	for _, x := range *h.list.Load() {
		if x.addr == a {
			return x
		}
	}
	return nil
}

// UseAddr lets flows leave by address a of the host, or returns the reason why they may not: a is no address of the host, or flows leave by
// MaxAddrs others. The slow path calls it, and Update.
func (n *NAT) UseAddr(a netip.Addr) frame.Reason {
	if a.Is4() {
		return n.useAddr(frame.AddrFrom(a))
	}
	return n.six.useAddr(frame.Addr6From(a))
}

func (n *tracker[A]) useAddr(a A) frame.Reason {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.useAddrLocked(n.config.Load(), a)
}

func (n *tracker[A]) useAddrLocked(c *config[A], a A) frame.Reason {
	if !c.has(a) {
		return frame.UplinkDown
	}
	if n.addrs.find(a) != nil {
		return frame.None
	}
	list := slices.Clone(*n.addrs.list.Load())
	if len(list) == MaxAddrs { // the place of an address that no flow needs, and whose last port has rested
		gone := slices.IndexFunc(list, func(x *hostAddr[A]) bool { return x.addr != c.source && !c.publishesAt(x.addr) && x.unused() })
		if gone < 0 {
			return frame.TooManySources
		}
		list = slices.Delete(list, gone, gone+1)
	}
	index := 1
	for slices.ContainsFunc(list, func(x *hostAddr[A]) bool { return x.index == index }) {
		index++
	}
	x := &hostAddr[A]{addr: a, index: index, fins: slab[lastFIN](n.alloc, 65536)}
	for i := range x.ports {
		x.ports[i].used = n.outside.PortSet(index, protoNumber[A](i))
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
func (n *NAT) AskSource(raw []byte) netip.Addr {
	var f frame.Frame
	f.Reset(raw, frame.NoPort)
	frame.Parse(&f)
	if f.Flags&frame.IsIPv6 != 0 {
		return n.six.outside.AskSource(f.Tuple6(), f.TrafficClass()).Netip()
	}
	return n.outside.AskSource(f.Tuple, f.TrafficClass()).Netip()
}

func (x *hostAddr[A]) unused() bool {
	return !slices.ContainsFunc(x.ports[:], func(o outsidePorts) bool { return o.used.Len() > 0 })
}

// sourceFor returns the host's address by which a flow to remote leaves: the one that the way out has asked for, the one that packets to
// remote had last, or the default.
func (n *tracker[A]) sourceFor(c *config[A], remote, asked A) *hostAddr[A] {
	if x := n.leavesBy(c, asked); x != nil {
		return x
	}
	if x := n.leavesBy(c, n.outside.SourceFor(remote)); x != nil {
		return x
	}
	return n.leavesBy(c, c.source)
}

// leavesBy returns the entry of a, if flows may leave by a; else nil.
func (n *tracker[A]) leavesBy(c *config[A], a A) *hostAddr[A] {
	if a == zero[A]() || !c.has(a) {
		return nil
	}
	return n.addrs.find(a)
}
