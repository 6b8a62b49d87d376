// Package connlimit bounds the connections of an HTTP server, so that those who may only read cannot take all its descriptors and much memory.
package connlimit

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// A Limit bounds the connections of one server. Beyond it, the user with most connections loses one: the one that has been idle for longest, else
// the oldest one that is not favored, else the oldest one.
type Limit struct {
	most int
	user func(net.Conn) (id int64, counts bool)

	mu    sync.Mutex // Lock 90
	conns map[net.Conn]*conn
}

type conn struct {
	user    int64
	since   time.Time
	busy    bool // a request comes, or is being answered
	favored bool
}

// New makes a Limit. user says whose a connection is, and whether it counts.
func New(most int, user func(net.Conn) (id int64, counts bool)) *Limit {
	return &Limit{most: most, user: user, conns: map[net.Conn]*conn{}}
}

// ConnState is the server's function of that name.
func (l *Limit) ConnState(c net.Conn, state http.ConnState) {
	if state == http.StateNew {
		l.add(c)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.conns[c]; x != nil {
		x.busy, x.since = state == http.StateActive, time.Now()
	}
	if state == http.StateClosed || state == http.StateHijacked {
		delete(l.conns, c)
	}
}

func (l *Limit) add(c net.Conn) {
	id, counts := l.user(c)
	if !counts {
		return
	}
	l.mu.Lock()
	l.conns[c] = &conn{user: id, since: time.Now(), busy: true} // its request is on its way
	var out net.Conn
	if len(l.conns) > l.most {
		out = l.worstLocked()
		delete(l.conns, out)
	}
	l.mu.Unlock()
	if out != nil {
		out.Close()
	}
}

// worstLocked is the connection that is closed next.
func (l *Limit) worstLocked() (worst net.Conn) {
	counts, greedy, most := map[int64]int{}, int64(0), 0
	for _, x := range l.conns {
		if counts[x.user]++; counts[x.user] > most {
			greedy, most = x.user, counts[x.user]
		}
	}
	var than *conn
	for c, x := range l.conns {
		if x.user == greedy && (than == nil || x.worse(than)) {
			worst, than = c, x
		}
	}
	return worst
}

func (x *conn) worse(y *conn) bool {
	switch {
	case x.busy != y.busy:
		return y.busy
	case x.favored != y.favored:
		return y.favored
	}
	return x.since.Before(y.since)
}

// Favor says that a connection is of somebody who is known.
func (l *Limit) Favor(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.conns[c]; x != nil {
		x.favored = true
	}
}
