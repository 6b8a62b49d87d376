package daemon

import (
	"fmt"
	"net/http"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Two locks guard a switch's configuration.
//
// changing is held for a whole change, or for a whole reload, through every system call of it: one change happens at a time, and
// a reload's plan stays true until its end. Functions whose name ends in Locked are called with changing held.
//
// Daemon.mu is held for an instant, to read or to write the values that State copies. It is never held over I/O, over a walk of a
// table, or while another lock is taken. Only a holder of changing writes these values, so a holder of changing reads them
// without mu.

// stuckAfter is the age of a change after which the switch counts as stuck.
const stuckAfter = time.Minute

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
	return d.changePart(what, bounded, func() error {
		d.removeStoppedLocked()
		err := fn()
		d.removeStoppedLocked()
		return err
	})
}

// changePart is changeAs without the removal of stopped ports: the next change removes them.
//
//uvswitch:locks
func (d *Daemon) changePart(what string, bounded bool, fn func() error) error {
	if err := d.changing.Lock(what, bounded); err != nil {
		return err
	}
	defer d.changing.Unlock()
	if d.closed {
		return errClosing
	}
	d.usesRead = false
	err := fn()
	state := d.State()
	d.gateways.SetState(state, d.names)
	d.tellLocked(state)
	d.storeLocked()
	return err
}

// Alive returns when every worker, the slow path and the control plane have made progress. The error names a change that is stuck. If a
// worker or the slow path is stuck, Alive does not return.
func (d *Daemon) Alive() error {
	if age := d.changing.Age(); age > stuckAfter {
		return fmt.Errorf("%s has been running for %s", d.changing.What(), age.Round(time.Second))
	}
	d.State()
	d.dp.Alive()
	return nil
}
