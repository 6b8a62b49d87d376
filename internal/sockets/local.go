package sockets

// locals are the clients of UDP on the host itself. Containers see all of them at one address, so that a client is known by the port that is shown.
// In a key, out is the client.
type locals struct {
	byShown map[key]*local
	byReal  map[key]*local
}

type local struct {
	shown, real key
	last        int64 // ns: when it was used
}

const (
	// maxLocals is how many clients are remembered.
	maxLocals = 4096
	// mostShown is how many ports are tried for a client whose own port another one has.
	mostShown = 16
)

func newLocals() locals { return locals{map[key]*local{}, map[key]*local{}} }

// show changes the client's port in shown to one that no other client is shown with; false if there are too many.
func (l *locals) show(shown, real *key, now int64) bool {
	if had := l.byReal[*real]; had != nil {
		if had.shown.in == shown.in {
			shown.outPort, had.last = had.shown.outPort, now
			return true
		}
		l.forget(had) // the host has got another address since
	}
	if len(l.byReal) >= maxLocals {
		return false
	}
	for range mostShown {
		if l.byShown[*shown] == nil {
			is := &local{*shown, *real, now}
			l.byShown[*shown], l.byReal[*real] = is, is
			return true
		}
		shown.outPort = portAfter(shown.outPort)
	}
	return false
}

func portAfter(port uint16) uint16 { return port%65535 + 1 }

// real is the key of a client that a container answers.
func (l *locals) real(shown *key, now int64) (key, bool) {
	is := l.byShown[*shown]
	if is == nil {
		return key{}, false
	}
	is.last = now
	return is.real, true
}

func (l *locals) sweep(now int64) {
	for _, is := range l.byReal {
		if now-is.last > streamTime {
			l.forget(is)
		}
	}
}

func (l *locals) forget(is *local) {
	delete(l.byShown, is.shown)
	delete(l.byReal, is.real)
}
