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
	of     map[netip.Addr]map[*client]struct{} // by remote address, or by the first 64 bits of one of IPv6: a station may have all addresses that begin so
}

// A client is one of the registry.
type client struct {
	remote netip.Addr
	silent func() time.Duration // for how long it has sent and got nothing
	close  func()               // must not wait
}

// A connection takes up to six descriptors, since io.Copy keeps pipes. A UDP client takes one, and a port of the host: these are few, and the host's own programs
// need them, too.
var (
	connections = registry{limit: func() int { return min(max(rights.RelayFiles()/12, 16), 65536) }}
	udpClients  = registry{limit: func() int { return min(max(rights.RelayFiles()/2, 64), 4096) }, shares: true}
)

// fewClients is how many clients an address may always have.
const fewClients = 64

// add takes a client in, and puts another one out if there are too many.
func (r *registry) add(c *client) {
	r.mu.Lock()
	var out *client
	own, left := r.of[c.key()], r.limit()-r.n
	switch {
	case left <= 0:
		out = r.worst()
	case r.shares && len(own) >= max(left, fewClients):
		out = longestSilent(own)
	}
	r.removeLocked(out)
	if r.of == nil {
		r.of = map[netip.Addr]map[*client]struct{}{}
	}
	if r.of[c.key()] == nil {
		r.of[c.key()] = map[*client]struct{}{}
	}
	r.of[c.key()][c] = struct{}{}
	r.n++
	r.mu.Unlock()
	if out != nil {
		out.close()
	}
}

func (c *client) key() netip.Addr {
	if !c.remote.Is6() || c.remote.Is4In6() {
		return c.remote
	}
	p, _ := c.remote.WithZone("").Prefix(64)
	return p.Addr()
}

// makeRoom puts a client out, and reports whether there was one.
func (r *registry) makeRoom() bool {
	r.mu.Lock()
	out := r.worst()
	r.removeLocked(out)
	r.mu.Unlock()
	if out != nil {
		out.close()
	}
	return out != nil
}

// looks is how many clients of an address are asked for how long they have been silent: that takes a system call each.
const looks = 32

// worst is the client that is put out next; nil if there is none.
func (r *registry) worst() *client {
	var most map[*client]struct{}
	for _, clients := range r.of {
		if len(clients) > len(most) {
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
	if _, in := r.of[c.key()][c]; !in {
		return
	}
	delete(r.of[c.key()], c)
	if len(r.of[c.key()]) == 0 {
		delete(r.of, c.key())
	}
	r.n--
}
