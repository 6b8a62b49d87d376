package daemon

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// lookAgain is how often the daemon looks for the namespaces and devices that ports of the configuration wait for, and for devices that have gone.
const lookAgain = time.Second

// placeMissing returns why a port cannot be made yet: its namespace or its device is not there. Anything else is nil.
func placeMissing(a api.PortAdd) error {
	if err := checkPlace(a); errors.Is(err, netns.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// missingLocked returns the ports of a configuration whose place is not there. A port that is there already needs none.
func (d *Daemon) missingLocked(c model.Config) (out []model.WaitingPort) {
	for _, a := range c.Ports {
		if p := d.ports[a.Name]; p != nil && p.Spec.Netns == a.Netns && p.Spec.Device == a.Device {
			continue
		}
		if err := placeMissing(a); err != nil {
			out = append(out, model.WaitingPort{Spec: a, Why: err.Error()})
		}
	}
	return out
}

func (d *Daemon) setWaitingLocked(list []model.WaitingPort) {
	d.mu.Lock()
	d.waiting = list
	d.mu.Unlock()
}

// followPlaces removes the ports whose devices have gone, and makes the ports that have waited, once their places are there.
func (d *Daemon) followPlaces(ctx context.Context) {
	for tick := time.NewTicker(lookAgain); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		d.findGone()
		d.mu.Lock()
		list := d.waiting
		d.mu.Unlock()
		if slices.ContainsFunc(list, func(w model.WaitingPort) bool { return placeMissing(w.Spec) == nil }) {
			d.follow("adding a port whose namespace has come", d.bringWaitingLocked)
		}
	}
}

func (d *Daemon) bringWaitingLocked() {
	var left []model.WaitingPort
	for _, w := range d.waiting {
		if err := placeMissing(w.Spec); err != nil {
			left = append(left, w)
			continue
		}
		err := d.addWaitingLocked(w.Spec)
		if err == nil {
			d.log.Info("a port of the configuration has come", "port", w.Spec.Name, "netns", w.Spec.Netns)
			continue
		}
		if err.Error() != w.Why {
			d.log.Error("a port of the configuration cannot be made; trying again each second", "port", w.Spec.Name, "error", err)
		}
		left = append(left, model.WaitingPort{Spec: w.Spec, Why: err.Error()})
	}
	d.setWaitingLocked(left)
}

// addWaitingLocked adds a port of the configuration, and what is published for it.
func (d *Daemon) addWaitingLocked(a api.PortAdd) error {
	if _, err := d.addPortLocked(a, nil); err != nil {
		return err
	}
	for _, p := range d.config.Publishes {
		if p.Port != a.Name {
			continue
		}
		if _, err := d.addPublishLocked(p); err != nil {
			return errors.Join(err, d.deletePortLocked(a.Name))
		}
	}
	return nil
}
