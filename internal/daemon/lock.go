package daemon

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/router"
)

// Two locks guard a switch's configuration.
//
// changing is held for a whole change, or for a whole reload, through every system call of it: one change happens at a time, and
// a reload's plan stays true until its end. Functions whose name ends in Locked are called with changing held.
//
// Daemon.mu is held for an instant, to read or to write the values that State copies. It is never held over I/O, over a walk of a
// table, or while another lock is taken. Only a holder of changing writes these values, so a holder of changing reads them
// without mu.

// changeTimeout is how long a change waits for another one.
const changeTimeout = 10 * time.Second

// stuckAfter is the age of a change after which the switch counts as stuck.
const stuckAfter = time.Minute

// A changeLock lets one change happen at a time, and knows which.
type changeLock struct {
	slot   chan struct{}
	holder atomic.Pointer[change]
}

type change struct {
	what  string
	since time.Time
}

func newChangeLock() changeLock { return changeLock{slot: make(chan struct{}, 1)} }

// lock waits for the present change to end. If bounded, it waits for at most changeTimeout.
func (l *changeLock) lock(what string, bounded bool) error {
	var timeout <-chan time.Time
	if bounded {
		t := time.NewTimer(changeTimeout)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case l.slot <- struct{}{}:
	case <-timeout:
		return api.Errorf(http.StatusServiceUnavailable, "another change has been running for %s: %s; try again", l.age().Round(time.Second), l.what()).With(api.Busy)
	}
	l.holder.Store(&change{what, time.Now()})
	return nil
}

func (l *changeLock) unlock() {
	l.holder.Store(nil)
	<-l.slot
}

// age is how long the present change has been running.
func (l *changeLock) age() time.Duration {
	if h := l.holder.Load(); h != nil {
		return time.Since(h.since)
	}
	return 0
}

func (l *changeLock) what() string {
	if h := l.holder.Load(); h != nil {
		return h.what
	}
	return "one that has just ended"
}

var errClosing = api.Errorf(http.StatusServiceUnavailable, "the switch is stopping")

// change runs fn as one change of the configuration: no other change happens meanwhile. What must outlive the process is stored
// afterwards. what describes the change to those that wait.
//
//uvswitch:locks
func (d *Daemon) change(what string, fn func() error) error { return d.changeAs(what, true, fn) }

// follow is change for what the host does: it waits as long as it must.
//
//uvswitch:locks
func (d *Daemon) follow(what string, fn func()) {
	_ = d.changeAs(what, false, func() error { fn(); return nil }) // the switch may be ending
}

//uvswitch:locks
func (d *Daemon) changeAs(what string, bounded bool, fn func() error) error {
	if err := d.changing.lock(what, bounded); err != nil {
		return err
	}
	defer d.changing.unlock()
	if d.closed {
		return errClosing
	}
	err := fn()
	d.storeLocked()
	return err
}

// Alive returns when every worker, the slow path and the control plane have made progress. The error names a change that is stuck. If a
// worker or the slow path is stuck, Alive does not return.
func (d *Daemon) Alive() error {
	if age := d.changing.age(); age > stuckAfter {
		return fmt.Errorf("%s has been running for %s", d.changing.what(), age.Round(time.Second))
	}
	d.State()
	d.dp.Barrier()
	d.dp.WithSlowPath(func(router.Output) {})
	return nil
}
