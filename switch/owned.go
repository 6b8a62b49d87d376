package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// ownedAddrs are the addresses of one family in a network that belong to the gateway or to a guarded port. No other port may say that it
// has one, by ARP, by neighbor discovery, or as the source of a packet. It is a hash table with open addressing, made for one snapshot.
type ownedAddrs[A frame.Address] []ownedAddr[A]

type ownedAddr[A frame.Address] struct {
	addr A
	port frame.PortID // NoPort: empty
}

// newOwned makes the table from pairs of addresses and ports.
func newOwned[A frame.Address](of map[A]frame.PortID) ownedAddrs[A] {
	if len(of) == 0 {
		return nil
	}
	n := 8
	for n < 4*len(of) {
		n *= 2
	}
	t := make(ownedAddrs[A], n)
	for a, id := range of {
		i := t.slot(a)
		for t[i].port != frame.NoPort {
			i = (i + 1) & (n - 1)
		}
		t[i] = ownedAddr[A]{a, id}
	}
	return t
}

//uvswitch:hot
func (t ownedAddrs[A]) slot(a A) int {
	h := uint32(0)
	switch a := any(a).(type) {
	case frame.Addr:
		h = uint32(a) * 0x9e3779b1
	case frame.Addr6:
		h = uint32(frame.Mix(a.Hi^0x9e3779b97f4a7c15, a.Lo^0xbf58476d1ce4e5b9))
	}
	return int(h>>8) & (len(t) - 1)
}

// owner returns the port that address a belongs to, and NoPort if it belongs to nobody.
//
//uvswitch:hot
func (t ownedAddrs[A]) owner(a A) frame.PortID {
	if len(t) == 0 {
		return frame.NoPort
	}
	i := t.slot(a)
	for t[i].port != frame.NoPort && t[i].addr != a {
		i = (i + 1) & (len(t) - 1)
	}
	return t[i].port
}

// isOfPort reports whether address a belongs to a port other than id. The gateway is none.
//
//uvswitch:hot
func (t ownedAddrs[A]) isOfPort(a A, id frame.PortID) bool {
	o := t.owner(a)
	return o != frame.NoPort && o != frame.Gateway && o != id
}

// otherThan reports whether address a belongs to somebody other than port id.
//
//uvswitch:hot
func (t ownedAddrs[A]) otherThan(a A, id frame.PortID) bool {
	o := t.owner(a)
	return o != frame.NoPort && o != id
}
