package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// ownedAddrs are the IPv4 addresses of a network that belong to the gateway or to a guarded port. No other port may say that it has one, by
// ARP or as the source of a packet. It is a hash table with open addressing, made for one snapshot: words are address<<16 | port, and 0 when empty.
type ownedAddrs []uint64

// newOwned makes the table from pairs of addresses and ports.
func newOwned(of map[frame.Addr]frame.PortID) ownedAddrs {
	n := 8
	for n < 4*len(of) {
		n *= 2
	}
	t := make(ownedAddrs, n)
	for a, id := range of {
		i := t.slot(a)
		for t[i] != 0 {
			i = (i + 1) & (n - 1)
		}
		t[i] = uint64(a)<<16 | uint64(id)
	}
	return t
}

//uvswitch:hot
func (t ownedAddrs) slot(a frame.Addr) int { return int(uint32(a)*0x9e3779b1>>8) & (len(t) - 1) }

// otherThan reports whether address a belongs to somebody other than port id.
//
//uvswitch:hot
func (t ownedAddrs) otherThan(a frame.Addr, id frame.PortID) bool {
	if len(t) == 0 {
		return false
	}
	for i := t.slot(a); t[i] != 0; i = (i + 1) & (len(t) - 1) {
		if t[i]>>16 == uint64(a) {
			return frame.PortID(t[i]) != id
		}
	}
	return false
}
