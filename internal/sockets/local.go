package sockets

import "container/list"

// locals are the clients of UDP on the host itself. Containers see all of them at one address, so that a client is known by the port that is shown.
// When there are too many, the one that has been silent for longest is forgotten: a program of the host must not keep all others out.
type locals struct {
	byShown map[key]*local
	byReal  map[key]*local
	order   *list.List // of *local: the one that was used last stands last
}

type local struct {
	shown, real key
	last        int64 // ns: when it was used
	at          *list.Element
}

const (
	// maxLocals is how many clients are remembered.
	maxLocals = 4096
	// mostShown is how many ports are tried for a client whose own port another one has.
	mostShown = 16
)

func newLocals() locals { return locals{map[key]*local{}, map[key]*local{}, list.New()} }

// show changes the client's port in shown to one that no other client is shown with; false if there is none near it.
func (l *locals) show(shown, real *key, now int64) bool {
	if had := l.byReal[*real]; had != nil {
		if had.shown.in == shown.in {
			shown.outPort = had.shown.outPort
			l.use(had, now)
			return true
		}
		l.forget(had) // the host has got another address since
	}
	if len(l.byReal) >= maxLocals {
		l.forget(l.order.Front().Value.(*local))
	}
	for range mostShown {
		if l.byShown[*shown] == nil {
			is := &local{shown: *shown, real: *real, last: now}
			is.at = l.order.PushBack(is)
			l.byShown[*shown], l.byReal[*real] = is, is
			return true
		}
		shown.outPort = portAfter(shown.outPort)
	}
	return false
}

func portAfter(port uint16) uint16 { return port%65535 + 1 }

func (l *locals) use(is *local, now int64) {
	is.last = now
	l.order.MoveToBack(is.at)
}

// real is the key of a client that a container answers.
func (l *locals) real(shown *key, now int64) (key, bool) {
	is := l.byShown[*shown]
	if is == nil {
		return key{}, false
	}
	l.use(is, now)
	return is.real, true
}

func (l *locals) sweep(now int64) {
	for e := l.order.Front(); e != nil && now-e.Value.(*local).last > streamTime; e = l.order.Front() {
		l.forget(e.Value.(*local))
	}
}

func (l *locals) forget(is *local) {
	delete(l.byShown, is.shown)
	delete(l.byReal, is.real)
	l.order.Remove(is.at)
}
