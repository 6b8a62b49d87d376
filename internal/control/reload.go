package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// A reload makes the switch what a file says, while it runs: what the file says is there afterwards, what only the file
// before said is gone, and what was added by hand stays. All of it is checked before anything is touched; should a step
// fail even so, those before it are taken back. shadow.go says what is to be, plan.go what is to be done.

// Check tells whether what o says about networks, ports, published ports and routes can be at all. It touches nothing, and
// knows nothing of the host.
func Check(o Options) error {
	_, err := shadow(o, nil)
	return err
}

// Reload makes the switch what o says; with dry it only says what would be done. Either all of it is done, or an error
// tells why nothing is.
func (d *Daemon) Reload(o Options, dry bool) (done api.Reload, err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.mu.Lock()
	steps, err := d.plan(o)
	d.mu.Unlock()
	done.Changes = namesOf(steps, func(s step) string { return s.text })
	if done.Changes == nil {
		done.Changes = []string{}
	}
	if err != nil || dry {
		return done, err
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			problems := d.undo(steps[:i])
			return api.Reload{}, api.Errorf(http.StatusConflict, "%s: %v; %s", s.text, err, problems)
		}
	}
	d.mu.Lock()
	d.opts.Networks, d.opts.Default, d.opts.Ports, d.opts.Publish, d.opts.Routes = o.Networks, o.Default, o.Ports, o.Publish, o.Routes
	for _, a := range o.Ports {
		if p := d.ports[a.Name]; p != nil {
			p.asked = a
		}
	}
	d.opts.NATPorts, d.opts.Timers, d.opts.Mapping, d.opts.Filtering = o.NATPorts, o.Timers, o.Mapping, o.Filtering
	d.keep()
	d.mu.Unlock()
	d.log.Info("reloaded", "changes", len(steps))
	return done, nil
}

// reloadOnHangup reloads the switch's own file each time it is asked to; what is wrong is logged.
func (d *Daemon) reloadOnHangup(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.opts.Hangup:
			o, err := d.opts.Load(nil)
			if err == nil {
				_, err = d.Reload(o, false)
			}
			if err != nil {
				d.log.Error("reload", "error", err)
			}
		}
	}
}

// undo takes steps back, the last first, and says how it went.
func (d *Daemon) undo(steps []step) string {
	var failed []string
	for _, s := range slices.Backward(steps) {
		if err := s.undo(); err != nil {
			failed = append(failed, fmt.Sprintf("%s could not be taken back: %v", s.text, err))
		}
	}
	if len(failed) == 0 && !slices.ContainsFunc(steps, func(s step) bool { return strings.HasPrefix(s.text, "remove ") }) {
		return "nothing has changed"
	}
	if len(failed) == 0 {
		return "everything has been taken back; what had been removed was made anew, and its flows begin again"
	}
	d.log.Error("reload", "error", strings.Join(failed, "; "))
	return strings.Join(failed, "; ")
}

func (d *Daemon) setTimers(t nat.Timers) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Timers = t
	d.dp.NAT.SetTimers(t)
}

func (d *Daemon) setNATPorts(s string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.NATPorts = s
	d.updateRules()
	return nil
}
