package relay

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/internal/rights"
)

// A registry has the clients of all relays. Each takes up to six descriptors of the switch (io.Copy keeps pipes), so that there is a bound. Beyond it,
// the remote address that has most clients loses one that has been silent for long.
type registry struct {
	mu   sync.Mutex // Lock 96
	most int        // 0: as many as the limit of open files allows
	n    int
	of   map[netip.Addr]map[*client]struct{} // by remote address
}

// A client is one of the registry.
type client struct {
	remote netip.Addr
	silent func() time.Duration // for how long it has sent and got nothing
	close  func()               // must not wait
}

var allClients registry

// maxClients is how many clients the limit of open files allows.
func maxClients() int { return min(max(rights.RelayFiles()/6, 16), 65536) }

// add takes a client in, and puts another one out if there are too many.
func (r *registry) add(c *client) {
	r.mu.Lock()
	var out *client
	if r.n >= cmp.Or(r.most, maxClients()) {
		out = r.worst()
		r.removeLocked(out)
	}
	if r.of == nil {
		r.of = map[netip.Addr]map[*client]struct{}{}
	}
	if r.of[c.remote] == nil {
		r.of[c.remote] = map[*client]struct{}{}
	}
	r.of[c.remote][c] = struct{}{}
	r.n++
	r.mu.Unlock()
	if out != nil {
		out.close()
	}
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
func (r *registry) worst() (worst *client) {
	var most map[*client]struct{}
	for _, clients := range r.of {
		if len(clients) > len(most) {
			most = clients
		}
	}
	left, longest := looks, time.Duration(-1)
	for c := range most { // in any order
		if silent := c.silent(); silent > longest {
			worst, longest = c, silent
		}
		if left--; left == 0 {
			break
		}
	}
	return worst
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
	r.n--
}
