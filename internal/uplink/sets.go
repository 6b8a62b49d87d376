package uplink

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// shared is what the programs, NAT and the daemon share.
type shared struct {
	*bpfMaps
	mu     sync.Mutex // Lock 76: the index of each address
	index  map[frame.Addr]int
	owned  map[frame.Addr]uint32   // what the map own has
	locals map[netip.Prefix]uint32 // what the map local has

	peersMu sync.Mutex       // Lock 78: what follows; a worker takes it when a flow without a set of ports begins or ends
	peers   map[[12]byte]int // flows, by pairKey
}

func newShared(fenced int, fib fibFlags) (*shared, error) {
	m, err := newMaps(fenced, fib)
	if err != nil {
		return nil, err
	}
	return &shared{bpfMaps: m, index: map[frame.Addr]int{}, owned: map[frame.Addr]uint32{}, locals: map[netip.Prefix]uint32{}, peers: map[[12]byte]int{}}, nil
}

// setOwn makes the host's addresses, and the other prefixes that its kernel takes for itself, those that the way in looks at.
func (s *shared) setOwn(addrs []netip.Addr, local []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefixes, all := map[netip.Prefix]uint32{}, map[frame.Addr]uint32{}
	for _, p := range local {
		prefixes[p] = 0
	}
	// A full map is tried again by the next call.
	_ = bpf.SetEntries(s.local, s.locals, prefixes, func(p netip.Prefix) any { return bpf.PrefixKeyOf(p) })
	for _, a := range addrs {
		x := frame.AddrFrom(a)
		all[x] = uint32(s.index[x])
	}
	for a, index := range s.index { // an address of such a prefix that has sets of its own
		if s.isLocalLocked(a) {
			all[a] = uint32(index)
		}
	}
	_ = bpf.SetEntries(s.own, s.owned, all, func(a frame.Addr) any { return inNetworkOrder(a) })
}

func (s *shared) isLocalLocked(a frame.Addr) bool {
	for p := range s.locals {
		if p.Contains(a.Netip()) {
			return true
		}
	}
	return false
}

// isHostsLocked reports whether the way in looks at packets to a.
func (s *shared) isHostsLocked(a frame.Addr) bool {
	_, ok := s.owned[a]
	return ok || s.isLocalLocked(a)
}

// setFence makes the named devices those that packets may leave by.
func (s *shared) setFence(devices []string) {
	if s.fence == nil {
		return
	}
	want := map[uint32]bool{}
	for _, name := range devices {
		if d, err := net.InterfaceByName(name); err == nil {
			want[uint32(d.Index)] = true
			_ = s.fence.Put(uint32(d.Index), uint32(1))
		}
	}
	var index, v uint32
	for it := s.fence.Iterate(); it.Next(&index, &v); {
		if !want[index] {
			_ = s.fence.Delete(index)
		}
	}
}

// forgetSources makes the program "way out" ask user space again which source address a next hop needs.
func (s *shared) forgetSources() {
	if s.sources == nil {
		return
	}
	var place [8]byte
	var source [4]byte
	for it := s.sources.Iterate(); it.Next(&place, &source); {
		_ = s.sources.Delete(place)
	}
}

// inNetworkOrder is the key of an address in a map.
func inNetworkOrder(a frame.Addr) (key [4]byte) {
	binary.BigEndian.PutUint32(key[:], uint32(a))
	return key
}

// PortSet implements nat.Outside. The set is emptied: the index may have been another address's.
func (u *Uplink) PortSet(index int, proto uint8) *nat.PortSet {
	s := u.maps.portSet(index, setOf[proto])
	for w := range s {
		s[w].Store(0)
	}
	return s
}

// UseAddr implements nat.Outside.
func (u *Uplink) UseAddr(a frame.Addr, index int) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, i := range s.index {
		if i == index && other != a {
			delete(s.index, other)
			if _, ok := s.owned[other]; ok && s.own.Put(inNetworkOrder(other), uint32(0)) == nil {
				s.owned[other] = 0
			}
		}
	}
	s.index[a] = index
	if s.isHostsLocked(a) && s.own.Put(inNetworkOrder(a), uint32(index)) == nil {
		s.owned[a] = uint32(index)
	}
}

// Peer implements nat.Outside.
func (u *Uplink) Peer(own, remote frame.Addr, proto uint8, on bool) (ok bool) {
	s, key := u.maps, pairKey(own, remote, proto)
	s.peersMu.Lock()
	defer s.peersMu.Unlock()
	was := s.peers[key]
	if on {
		s.peers[key]++
	} else {
		s.peers[key]--
	}
	ok = true
	switch now := s.peers[key]; {
	case was <= 0 && now > 0:
		ok = s.pairs.Put(key, uint32(1)) == nil
	case was > 0 && now <= 0:
		_ = s.pairs.Delete(key)
	}
	if s.peers[key] == 0 {
		delete(s.peers, key)
	}
	return ok
}

func pairKey(own, remote frame.Addr, proto uint8) (key [12]byte) {
	binary.BigEndian.PutUint32(key[:], uint32(own))
	binary.BigEndian.PutUint32(key[4:], uint32(remote))
	binary.NativeEndian.PutUint32(key[8:], uint32(proto))
	return key
}

// SetPublished says which ports are published: on every address with the key 0, or on one. The ports of an address that flows do not
// leave by yet count once NAT has been told to use it.
func (u *Uplink) SetPublished(at map[frame.Addr]map[uint8]*nat.PortSet) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	fill := func(index int, from map[uint8]*nat.PortSet) {
		for proto, i := range setOf {
			to := s.portSet(index, setPublished+i)
			for w := range to {
				bits := uint64(0)
				if f := from[proto]; f != nil {
					bits = f[w].Load()
				}
				if to[w].Load() != bits {
					to[w].Store(bits)
				}
			}
		}
	}
	fill(0, at[0])
	for a, index := range s.index {
		fill(index, at[a])
	}
}

// A wayHint is what the host's routing said when the program "way out" asked it about a destination. Addresses are in network byte
// order. A destination has one place only, and another one may take it.
type wayHint struct{ dst, src, mtu, ifindex atomic.Uint32 }

const (
	hintBits   = 10
	wayHints   = 1 << hintBits
	hintFactor = 0x9e3779b1
)

// hint returns what is known of the way to an address, or nil.
//
//uvswitch:hot
func (s *shared) hint(a frame.Addr) *wayHint {
	key := inNetworkOrder(a)
	dst := binary.NativeEndian.Uint32(key[:])
	h := (*wayHint)(unsafe.Pointer(&s.waysMem[uintptr(dst*hintFactor>>(32-hintBits))*unsafe.Sizeof(wayHint{})]))
	if h.dst.Load() != dst {
		return nil
	}
	return h
}

// SourceFor implements nat.Outside.
func (u *Uplink) SourceFor(remote frame.Addr) frame.Addr {
	h := u.maps.hint(remote)
	if h == nil {
		return 0
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], h.src.Load())
	if u.maps.hint(remote) != h { // the program has given the place to another destination
		return 0
	}
	return frame.Addr(binary.BigEndian.Uint32(b[:]))
}

// unknownMTU is what the way to an address that was never asked for is taken to carry, in bytes.
const unknownMTU = 1500

// WayMTU returns the MTU of the host's way to an address, in bytes, as far as it is known.
//
//uvswitch:hot
func (u *Uplink) WayMTU(remote frame.Addr) int {
	if h := u.maps.hint(remote); h != nil {
		if mtu := int(h.mtu.Load()); mtu != 0 && u.maps.hint(remote) == h {
			return mtu
		}
	}
	return unknownMTU
}

// Claims reports whether the way in would redirect a packet to the switch, as far as this process can tell: it does not ask the host's
// sockets. Later fragments follow their first one: true.
func (u *Uplink) Claims(f *frame.Frame) bool {
	if f.Flags&frame.IsIPv4 == 0 || f.Malformed != frame.None {
		return false
	}
	t := f.Tuple
	s := u.maps
	s.mu.Lock()
	known, index := s.isHostsLocked(t.Dst), s.index[t.Dst]
	s.mu.Unlock()
	if !known {
		return false
	}
	port, remote := t.DstPort, t.Src
	switch {
	case f.Flags&frame.Fragment != 0 && f.IPv4().FragOffset() != 0:
		return true
	case f.Flags&frame.ICMPError != 0:
		q, _, ok := frame.Quoted(f.Payload())
		if !ok || q.Src != t.Dst {
			return false
		}
		t, port, remote = q, q.SrcPort, q.Dst
	case t.Proto == frame.ICMP && !frame.IsICMPAnswer(t.Proto, f.Payload()[0]):
		return false
	}
	if i, ok := setOf[t.Proto]; ok {
		return s.portSet(0, setPublished+i).Has(port) || index != 0 && (s.portSet(index, setPublished+i).Has(port) || s.portSet(index, i).Has(port))
	}
	var v uint32
	return s.pairs.Lookup(pairKey(f.Tuple.Dst, remote, t.Proto), &v) == nil
}
