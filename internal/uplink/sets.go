package uplink

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// shared is what the programs, NAT and the daemon share.
type shared struct {
	*bpfMaps
	mu       sync.Mutex // Lock 76: the index of each address, of both families
	four     addrSets[frame.Addr]
	six      addrSets[frame.Addr6]
	owners   map[uint32]uint32       // what the map arrivals says of owners
	routes   map[netip.Prefix]uint32 // what the map routes6 has
	stations map[netip.Addr]uint32   // what the map stations6 has
	byDevice map[uint32][16]byte     // what the map sources6 has
	fenced   map[uint32]uint32       // what the map fence has

	peersMu sync.Mutex // Lock 78: peers, of both families; a worker takes it when a flow without a set of ports begins or ends
}

// addrSets are the host's addresses of one family, each with its sets of ports.
type addrSets[A frame.Address] struct {
	own, local, pairs *ebpf.Map

	base   int // of the indices: the sets of index 0 are those of base
	index  map[A]int
	owned  map[A]uint32            // what the map own has
	locals map[netip.Prefix]uint32 // what the map local has
	peers  map[string]int          // flows, by pairKey
}

func newShared(fenced int, fib fibFlags) (*shared, error) {
	m, err := newMaps(fenced, fib)
	if err != nil {
		return nil, err
	}
	return &shared{bpfMaps: m, four: newAddrSets[frame.Addr](m.own, m.local, m.pairs, 0), six: newAddrSets[frame.Addr6](m.own6, m.local6, m.pairs6, sixBase), owners: map[uint32]uint32{}, routes: map[netip.Prefix]uint32{}, stations: map[netip.Addr]uint32{}, byDevice: map[uint32][16]byte{}, fenced: map[uint32]uint32{}}, nil
}

func newAddrSets[A frame.Address](own, local, pairs *ebpf.Map, base int) addrSets[A] {
	return addrSets[A]{own: own, local: local, pairs: pairs, base: base, index: map[A]int{}, owned: map[A]uint32{}, locals: map[netip.Prefix]uint32{}, peers: map[string]int{}}
}

// setOwn makes the host's addresses of both families, and the other prefixes that its kernel takes for itself, those that the way in looks at.
func (s *shared) setOwn(addrs, addrs6 []netip.Addr, local []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.four.setOwn(addrs, local)
	s.six.setOwn(addrs6[:min(len(addrs6), maxOwn6)], local)
}

// setSources6 says by which address packets leave by a device, on a kernel that does not tell it.
func (s *shared) setSources6(state *State) {
	if s.sources6 == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[uint32][16]byte{}
	for _, w := range state.Watched {
		if a := state.sourceOf(w.Index); a.IsValid() {
			want[uint32(w.Index)] = a.As16()
		}
	}
	_ = bpf.SetEntries(s.sources6, s.byDevice, want, func(device uint32) any { return device })
}

// setPrefixes makes a map have these prefixes; is says which ones it has. A full map is tried again by the next call.
func setPrefixes(m *ebpf.Map, is map[netip.Prefix]uint32, prefixes []netip.Prefix) {
	want := map[netip.Prefix]uint32{}
	for _, p := range prefixes {
		want[p] = 0
	}
	_ = bpf.SetEntries(m, is, want, func(p netip.Prefix) any { return bpf.PrefixKey(p) })
}

// setOwn makes addrs the host's addresses, and the prefixes of the family those that its kernel takes for itself.
func (f *addrSets[A]) setOwn(addrs []netip.Addr, local []netip.Prefix) {
	var a A
	setPrefixes(f.local, f.locals, slices.DeleteFunc(slices.Clone(local), func(p netip.Prefix) bool { return p.Addr().BitLen() != frame.Netip(a).BitLen() }))
	all := map[A]uint32{}
	for _, a := range addrs {
		x := frame.Of[A](a)
		all[x] = uint32(f.index[x])
	}
	for a, index := range f.index {
		if f.isLocal(a) { // it has sets of its own
			all[a] = uint32(index)
		}
	}
	_ = bpf.SetEntries(f.own, f.owned, all, func(a A) any { return inNetworkOrder(a) })
}

func (f *addrSets[A]) isLocal(a A) bool {
	for p := range f.locals {
		if p.Contains(frame.Netip(a)) {
			return true
		}
	}
	return false
}

// isHosts reports whether the way in looks at packets to a.
func (f *addrSets[A]) isHosts(a A) bool {
	_, ok := f.owned[a]
	return ok || f.isLocal(a)
}

// setFence makes the named devices those that packets may leave by.
func (s *shared) setFence(devices []string) {
	if s.fence == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[uint32]uint32{}
	for _, name := range devices {
		if d, err := net.InterfaceByName(name); err == nil {
			want[uint32(d.Index)] = 1
		}
	}
	_ = bpf.SetEntries(s.fence, s.fenced, want, func(index uint32) any { return index })
}

// forgetSources makes the program "way out" ask user space again which source address a next hop needs.
func (s *shared) forgetSources() {
	s.forgotten.Add(1)
	for i := range s.answers.of {
		s.answers.of[i].Store(nil)
	}
	s.answers.last.Store(nil)
	var key toldKey
	var way toldWay
	for it := s.ways6.Iterate(); it.Next(&key, &way); {
		_ = s.ways6.Delete(key)
	}
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
func inNetworkOrder[A frame.Address](a A) []byte { return frame.Netip(a).AsSlice() }

// emptySet returns a set of an address, emptied: the index may have been another address's.
func (s *shared) emptySet(index int, proto uint8) *nat.PortSet {
	set := s.portSet(index, setOf[proto])
	for w := range set {
		set[w].Store(0)
	}
	return set
}

// PortSet implements nat.Outside.
func (u *Uplink) PortSet(index int, proto uint8) *nat.PortSet { return u.maps.emptySet(index, proto) }

// UseAddr implements nat.Outside.
func (u *Uplink) UseAddr(a frame.Addr, index int) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	s.four.use(a, index)
}

// use gives an address the sets of an index, and takes them from the address that had them.
func (f *addrSets[A]) use(a A, index int) {
	for other, i := range f.index {
		if i == index && other != a {
			delete(f.index, other)
			if _, ok := f.owned[other]; ok && f.own.Put(inNetworkOrder(other), uint32(0)) == nil {
				f.owned[other] = 0
			}
		}
	}
	f.index[a] = index
	if f.isHosts(a) && f.own.Put(inNetworkOrder(a), uint32(index)) == nil {
		f.owned[a] = uint32(index)
	}
}

// Peer implements nat.Outside.
func (u *Uplink) Peer(own, remote frame.Addr, proto uint8, on bool) (ok bool) {
	u.maps.peersMu.Lock()
	defer u.maps.peersMu.Unlock()
	return u.maps.four.peer(own, remote, proto, on)
}

func (f *addrSets[A]) peer(own, remote A, proto uint8, on bool) (ok bool) {
	key := pairKey(own, remote, proto)
	was := f.peers[string(key)]
	now := was - 1
	if on {
		now = was + 1
	}
	ok = true
	switch {
	case was <= 0 && now > 0:
		ok = f.pairs.Put(key, uint32(1)) == nil
	case was > 0 && now <= 0:
		_ = f.pairs.Delete(key)
	}
	if f.peers[string(key)] = now; now == 0 {
		delete(f.peers, string(key))
	}
	return ok
}

func pairKey[A frame.Address](own, remote A, proto uint8) []byte {
	return binary.NativeEndian.AppendUint32(append(inNetworkOrder(own), inNetworkOrder(remote)...), uint32(proto))
}

// Published are the published ports by the host's address, zero for every address, and by protocol.
type Published[A frame.Address] map[A]map[uint8]*nat.PortSet

// SetPublished says which ports are published. The ports of an address that flows do not leave by yet count once NAT has been told to use
// it.
func (u *Uplink) SetPublished(at Published[frame.Addr], at6 Published[frame.Addr6]) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	setPublishedOf(s, &s.four, at)
	setPublishedOf(s, &s.six, at6)
}

func setPublishedOf[A frame.Address](s *shared, f *addrSets[A], at Published[A]) {
	fill := func(index int, from map[uint8]*nat.PortSet) {
		for proto, i := range setOf {
			to := s.portSet(f.base+index, setPublished+i)
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
	var every A
	fill(0, at[every])
	for a, index := range f.index {
		fill(index, at[a])
	}
}

// SetRoutes6 says which IPv6 prefixes are known outside as the switch's, and which of their addresses a port has. Packets to them come to the
// switch.
func (u *Uplink) SetRoutes6(prefixes []netip.Prefix, stations map[netip.Addr]frame.PortID) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	setPrefixes(s.routes6, s.routes, prefixes)
	ports := map[netip.Addr]uint32{}
	for a, id := range stations {
		ports[a] = uint32(id)
	}
	_ = bpf.SetEntries(s.stations6, s.stations, ports, func(a netip.Addr) any { return a.AsSlice() })
}

// Uplink6 is the uplink as NAT sees it for IPv6.
type Uplink6 struct{ *Uplink }

// PortSet implements nat.Outside6.
func (u Uplink6) PortSet(index int, proto uint8) *nat.PortSet {
	return u.maps.emptySet(sixBase+index, proto)
}

// UseAddr implements nat.Outside6.
func (u Uplink6) UseAddr(a frame.Addr6, index int) {
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	s.six.use(a, index)
}

// Peer implements nat.Outside6.
func (u Uplink6) Peer(own, remote frame.Addr6, proto uint8, on bool) (ok bool) {
	u.maps.peersMu.Lock()
	defer u.maps.peersMu.Unlock()
	return u.maps.six.peer(own, remote, proto, on)
}

// Inside implements nat.Outside6: a place of the map uvs_inside6, in which the address is. Each port has places of its own, in groups by a hash of
// the address. An address that is new takes the place of the oldest of its group: packets of a port that sends from more than insideWays
// addresses of one group in one batch are routed as if they came from another of its addresses.
//
//uvswitch:hot
func (u Uplink6) Inside(id frame.PortID, a frame.Addr6) uint32 {
	group := uint32(id%frame.MaxPorts)*insideGroups + uint32(frame.Mix(a.Hi^0x9e3779b97f4a7c15, a.Lo^0xbf58476d1ce4e5b9))%insideGroups
	hi, lo := networkOrder(a.Hi), networkOrder(a.Lo)
	places := (*[insideWays][2]atomic.Uint64)(unsafe.Pointer(&u.maps.insideMem[group*insideWays*16]))
	for i := range places {
		if p := &places[i]; p[0].Load() == hi && p[1].Load() == lo {
			return group*insideWays + uint32(i)
		}
	}
	i := u.maps.insideNext[group].Add(1) % insideWays
	places[i][0].Store(hi)
	places[i][1].Store(lo)
	return group*insideWays + i
}

// networkOrder is v with its bytes in memory as in a packet.
//
//uvswitch:hot
func networkOrder(v uint64) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	return binary.NativeEndian.Uint64(b[:])
}

// portOfPlace is the port whose address is in a place of Inside.
func portOfPlace(place uint32) frame.PortID {
	return frame.PortID(place / (insideGroups * insideWays) % frame.MaxPorts)
}

// InsideAt returns the address in a place of Inside.
func (u *Uplink) InsideAt(place uint32) frame.Addr6 {
	if at := int(place) * 16; at+16 <= len(u.maps.insideMem) {
		return frame.LoadAddr6(u.maps.insideMem[at:])
	}
	return frame.Addr6{}
}

// The places for inside addresses: groups of each port, and places of a group.
const insideGroups, insideWays = 16, 8

// An answer6 is the source address that the host's routing has chosen for packets to remote.
type answer6 struct{ remote, source frame.Addr6 }

// answers6 are the last answers: by remote address, which has one place only, and the very last one.
type answers6 struct {
	of   [1024]atomic.Pointer[answer6]
	last atomic.Pointer[answer6]
}

func (s *answers6) at(remote frame.Addr6) *atomic.Pointer[answer6] {
	return &s.of[frame.Mix(remote.Hi, remote.Lo)%uint64(len(s.of))]
}

// SourceFor implements nat.Outside6. If nothing is known of the way to remote, it is the source that was chosen last.
func (u Uplink6) SourceFor(remote frame.Addr6) (a frame.Addr6) {
	if x := u.maps.answers.at(remote).Load(); x != nil && x.remote == remote {
		return x.source
	}
	if x := u.maps.answers.last.Load(); x != nil {
		return x.source
	}
	return a
}

// AskSource implements nat.Outside6.
func (u Uplink6) AskSource(t frame.Tuple6, class uint8) (a frame.Addr6) {
	x := &answer6{remote: t.Dst}
	if u.known.Load().Told != 0 { // a worker does not wait for netlink
		w, known := u.maps.toldWay(u.toldKey(t, class))
		if !known || w.Code != 0 {
			return a
		}
		x.source = frame.LoadAddr6(w.Source[:])
	} else {
		w, err := u.Ask6(t, class)
		if err != nil || w.Code != 0 {
			return a
		}
		x.source = frame.Addr6From(w.Source)
	}
	u.maps.answers.at(t.Dst).Store(x)
	u.maps.answers.last.Store(x)
	return x.source
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
	var key [4]byte
	binary.BigEndian.PutUint32(key[:], uint32(a))
	dst := binary.NativeEndian.Uint32(key[:])
	h := (*wayHint)(unsafe.Pointer(&s.waysMem[uintptr(dst*hintFactor>>(32-hintBits))*unsafe.Sizeof(wayHint{})]))
	if h.dst.Load() != dst {
		return nil
	}
	return h
}

// Inside implements nat.Outside.
//
//uvswitch:hot
func (u *Uplink) Inside(_ frame.PortID, a frame.Addr) uint32 { return uint32(a) }

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
	s := u.maps
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.Malformed != frame.None:
		return false
	case f.Flags&frame.IsIPv4 != 0:
		return claimsLocked(s, &s.four, f, f.Tuple)
	case f.Flags&frame.IsIPv6 != 0:
		dst := f.IPv6().Dst()
		if f.IPv6().Src().IsLinkLocal() {
			return false
		}
		for p := range s.routes {
			if _, own := s.six.owned[dst]; !own && p.Contains(dst.Netip()) {
				return !f.IsND() // see internal/ndproxy
			}
		}
		return claimsLocked(s, &s.six, f, f.Tuple6())
	}
	return false
}

func claimsLocked[A frame.Address](s *shared, of *addrSets[A], f *frame.Frame, t frame.TupleOf[A]) bool {
	own, port, remote := t.Dst, t.DstPort, t.Src
	index := of.index[own]
	switch {
	case !of.isHosts(own):
		return false
	case f.FragOffset() != 0:
		return true
	case f.Flags&frame.ICMPError != 0:
		q, _, ok := frame.QuotedOf[A](f.Payload())
		if !ok || q.Src != own {
			return false
		}
		t, port, remote = q, q.SrcPort, q.Dst
	case (t.Proto == frame.ICMP || t.Proto == frame.ICMPv6) && !frame.IsICMPAnswer(t.Proto, f.Payload()[0]):
		return false
	}
	if i, ok := setOf[t.Proto]; ok {
		return s.portSet(of.base, setPublished+i).Has(port) ||
			index != 0 && (s.portSet(of.base+index, setPublished+i).Has(port) || s.portSet(of.base+index, i).Has(port))
	}
	var v uint32
	return of.pairs.Lookup(pairKey(own, remote, t.Proto), &v) == nil
}
