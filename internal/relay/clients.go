package relay

import (
	"net/netip"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/internal/rights"
)

// A registry has the clients of all relays. Each takes descriptors of the switch, so that there is a bound. Beyond it, the remote address that has most
// clients loses one that has been silent for long.
type registry struct {
	mu     sync.Mutex // Lock 96
	limit  func() int
	shares bool // no address has more than what is left for others
	n      int
	of     map[netip.Addr]map[*client]struct{} // by remote address
	nets   map[netip.Prefix]int                // how many there are, of addresses of IPv6 that begin with the same 64 bits: one station may have them all
}

// A client is one of the registry.
type client struct {
	remote netip.Addr
	silent func() time.Duration // for how long it has sent and got nothing
	close  func()               // must not wait
}

// A UDP client takes a descriptor, and a port of the host: these are few, and the host's own programs need them, too. A connection takes up to six
// descriptors, since io.Copy keeps pipes.
var (
	connections = registry{limit: func() int { return min(max((rights.RelayFiles()-mostUDP())/6, 16), 65536) }}
	udpClients  = registry{limit: mostUDP, shares: true}
)

func mostUDP() int { return min(max(rights.RelayFiles()/8, 64), 4096) }

// fewClients is how many clients an address may always have.
const fewClients = 64

// add takes a client in, and puts another one out if there are too many.
func (r *registry) add(c *client) {
	r.mu.Lock()
	var out *client
	own, left := r.of[c.remote], r.limit()-r.n
	switch {
	case left <= 0:
		out = r.worst(netip.Prefix{})
	case r.shares && len(own) >= max(left, fewClients):
		out = longestSilent(own)
	case r.shares && c.net().IsValid() && r.nets[c.net()] >= 2*max(left, fewClients):
		out = r.worst(c.net())
	}
	r.removeLocked(out)
	if r.of == nil {
		r.of, r.nets = map[netip.Addr]map[*client]struct{}{}, map[netip.Prefix]int{}
	}
	if r.of[c.remote] == nil {
		r.of[c.remote] = map[*client]struct{}{}
	}
	r.of[c.remote][c] = struct{}{}
	r.nets[c.net()]++
	r.n++
	r.mu.Unlock()
	if out != nil {
		out.close()
	}
}

// net is what the client's address begins with; not valid for IPv4.
func (c *client) net() netip.Prefix {
	if !c.remote.Is6() || c.remote.Is4In6() {
		return netip.Prefix{}
	}
	p, _ := c.remote.WithZone("").Prefix(64)
	return p
}

// makeRoom puts a client out, and reports whether there was one.
func (r *registry) makeRoom() bool {
	r.mu.Lock()
	out := r.worst(netip.Prefix{})
	r.removeLocked(out)
	r.mu.Unlock()
	if out != nil {
		out.close()
	}
	return out != nil
}

// looks is how many clients of an address are asked for how long they have been silent: that takes a system call each.
const looks = 32

// worst is the client that is put out next: of the address that has most clients, in a network if it is valid. It is nil if there is none.
func (r *registry) worst(in netip.Prefix) *client {
	var most map[*client]struct{}
	for a, clients := range r.of {
		if len(clients) > len(most) && (!in.IsValid() || in.Contains(a.WithZone(""))) {
			most = clients
		}
	}
	return longestSilent(most)
}

func longestSilent(clients map[*client]struct{}) (c *client) {
	left, longest := looks, time.Duration(-1)
	for x := range clients { // in any order
		if silent := x.silent(); silent > longest {
			c, longest = x, silent
		}
		if left--; left == 0 {
			break
		}
	}
	return c
}

func (r *registry) remove(c *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(c)
}

// removeLocked takes a client out, if it is in.
func (r *registry) removeLocked(c *client) {
	if c == nil {
		return
	}
	if _, in := r.of[c.remote][c]; !in {
		return
	}
	delete(r.of[c.remote], c)
	if len(r.of[c.remote]) == 0 {
		delete(r.of, c.remote)
	}
	if r.nets[c.net()]--; r.nets[c.net()] == 0 {
		delete(r.nets, c.net())
	}
	r.n--
}
