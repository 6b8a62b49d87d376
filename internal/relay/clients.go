package relay

import (
	"cmp"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/internal/rights"
)

// A registry has the clients of all relays. Each takes up to six descriptors of the switch (io.Copy keeps pipes), so that there is a bound. Beyond it,
// the remote address that has most clients loses the one that has been silent for longest.
type registry struct {
	mu   sync.Mutex // Lock 96
	most int        // 0: as many as the limit of open files allows
	n    int
	of   map[netip.Addr]map[*client]struct{} // by remote address
}

// A client is one of the registry.
type client struct {
	remote netip.Addr
	last   atomic.Int64 // when it sent last, or came, in nanoseconds
	close  func()       // must not wait
}

var allClients registry

// maxClients is how many clients the limit of open files allows: they take three quarters of it at most.
func maxClients() int {
	return min(max(rights.OpenFiles()/8, 16), 65536)
}

// add takes a client in, and puts another one out if there are too many.
func (r *registry) add(c *client) {
	c.last.Store(time.Now().UnixNano())
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

// worst is the client that is put out next; nil if there is none.
func (r *registry) worst() (worst *client) {
	most := 0
	for _, clients := range r.of {
		if len(clients) < most {
			continue
		}
		for c := range clients {
			if worst == nil || len(clients) > most || c.last.Load() < worst.last.Load() {
				worst, most = c, len(clients)
			}
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
