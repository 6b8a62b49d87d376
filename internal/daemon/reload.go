package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/plan"
	"github.com/uvswitch/uvswitch/nat"
)

// Reload applies a configuration to the running switch. Objects that only the previous configuration names are removed; objects that
// were added by hand stay. Everything is checked before the first change. If a step fails nevertheless, the steps before it are undone.
// A port whose namespace or device is not there waits for it. With dry, nothing is changed. The steps are returned as text.
func (d *Daemon) Reload(c model.Config, dry bool) (steps []string, err error) {
	err = d.change("reloading", func() error {
		have := d.fullStateLocked()
		want, err := model.Desired(c, have)
		if err != nil {
			return err
		}
		waiting := d.missingLocked(c)
		if len(waiting) > 0 {
			if want, err = model.Desired(c.Without(waiting), have); err != nil {
				return err
			}
		}
		todo, err := plan.Diff(have, want)
		if err != nil {
			return err
		}
		for _, s := range todo {
			steps = append(steps, s.String())
		}
		for _, w := range waiting {
			steps = append(steps, fmt.Sprintf("wait with port %s: %s", w.Spec.Name, w.Why))
		}
		if err := d.checkHostLocked(todo, have); err != nil || dry {
			return err
		}
		if err := d.applyAllLocked(todo); err != nil {
			steps = nil
			return err
		}
		d.adoptConfigLocked(c)
		d.setWaitingLocked(waiting)
		d.savePoliciesLocked()
		d.log.Info("configuration reloaded", "changes", len(todo))
		return nil
	})
	return steps, err
}

// adoptConfigLocked stores the configuration. Some settings have no step, such as the default mapping: they apply to later networks.
func (d *Daemon) adoptConfigLocked(c model.Config) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Uplink.Device, c.Uplink.Kind, c.Uplink.Devices, c.Host = d.config.Uplink.Device, d.config.Uplink.Kind, d.config.Uplink.Devices, d.config.Host // what the switch was started with
	d.config = c
	for _, a := range c.Ports {
		if p := d.ports[a.Name]; p != nil {
			p.Spec = a
		}
	}
}

// checkHostLocked looks at the host for what would make a step fail.
func (d *Daemon) checkHostLocked(steps []plan.Step, have *model.State) error {
	var published []*model.Publish
	for _, s := range steps {
		var err error
		switch a := s.Do.(type) {
		case plan.AddPort:
			if err = checkPlace(a.Spec); err != nil {
				err = fmt.Errorf("port %q: %w", a.Spec.Name, withStatus(err))
			}
		case plan.AddPublish:
			ours := slices.ContainsFunc(have.Publishes, func(x model.Publish) bool {
				return x.Proto == a.Publish.Proto && x.Lo <= a.Publish.Hi && a.Publish.Lo <= x.Hi
			})
			published = append(published, &a.Publish)
			if ours { // its ports are bound by the switch itself
				continue
			}
			if err = d.checkHostPortsLocked(&a.Publish); err != nil {
				err = fmt.Errorf("publish %s: %w", a.Publish.Spec.Spec, err)
			}
		}
		if err != nil {
			return err
		}
	}
	if len(published) > 0 {
		return d.checkPoolsLocked(published...)
	}
	return nil
}

// checkPlace looks whether the device or the namespace of a port exists.
func checkPlace(a api.PortAdd) (err error) {
	switch {
	case a.Device != "":
		_, err = link.Inspect(netns.Original, a.Device)
	case a.Netns != "":
		_, err = netns.Path(a.Netns)
	}
	return err
}

// applyAllLocked carries out every step, or none.
func (d *Daemon) applyAllLocked(steps []plan.Step) error {
	for i, s := range steps {
		if err := d.applyOneLocked(s.Do, i+1 < len(steps) && plan.Publishes(steps[i+1].Do)); err != nil {
			d.updateRulesLocked()
			return api.Errorf(http.StatusConflict, "%s: %v; %s", s, err, d.undoLocked(steps[:i]))
		}
	}
	return nil
}

// undoLocked undoes steps, the last first, and says how that went.
func (d *Daemon) undoLocked(steps []plan.Step) string {
	var failed []string
	for i, s := range slices.Backward(steps) {
		var errs error
		for j, a := range s.Undo {
			more := j+1 == len(s.Undo) && i > 0 && len(steps[i-1].Undo) > 0 && plan.Publishes(steps[i-1].Undo[0])
			if err := d.applyOneLocked(a, more); err != nil && !(plan.Takes(a) && model.IsNotFound(err)) {
				errs = errors.Join(errs, err)
			}
		}
		if errs != nil {
			failed = append(failed, fmt.Sprintf("undoing %q failed: %v", s, errs))
		}
	}
	switch {
	case len(failed) > 0:
		d.log.Error("the reload failed, and some changes could not be undone", "error", strings.Join(failed, "; "))
		return strings.Join(failed, "; ")
	case slices.ContainsFunc(steps, plan.Step.Removes):
		return "rolled back; recreated objects lost their flows"
	}
	return "nothing was changed"
}

// applyOneLocked carries out one of several actions. With more, a published port comes or goes next: the rules of NAT wait for the last one.
func (d *Daemon) applyOneLocked(a plan.Action, more bool) error {
	if _, removes := a.(plan.RemovePort); !removes {
		d.removeStoppedLocked() // what comes next may need what they have
	}
	d.rulesHeld = more && plan.Publishes(a)
	defer func() { d.rulesHeld = false }()
	return d.applyLocked(a)
}

// applyLocked carries out one action.
func (d *Daemon) applyLocked(a plan.Action) (err error) {
	switch a := a.(type) {
	case plan.AddNetwork:
		return d.addNetworkLocked(a.Spec)
	case plan.ChangeNetwork:
		return d.changeNetworkLocked(a.To)
	case plan.RemoveNetwork:
		return d.deleteNetworkLocked(a.Name)
	case plan.AddPort:
		_, err = d.addPortLocked(a.Spec, nil)
	case plan.ChangePort:
		return d.setPortLocked(a.Name, a.Set)
	case plan.SetAliases:
		p := d.ports[a.Port]
		if p == nil {
			return model.NoPort(a.Port)
		}
		d.mu.Lock()
		p.Aliases, p.Spec.Aliases = a.Aliases, api.Words(strings.Join(a.Aliases, ","))
		d.mu.Unlock()
	case plan.SetPolicy:
		return d.setPolicyLocked(a.Policy)
	case plan.RemovePolicy:
		return d.deletePolicyLocked(a.Name)
	case plan.SetPortPolicies:
		return d.setPortPoliciesLocked(a.Port, a.Policies)
	case plan.RemovePort:
		return d.deletePortLocked(a.Name)
	case plan.AddPublish:
		_, err = d.publishLocked(a.Publish) // the plan has checked it
	case plan.RemovePublish:
		return d.unpublishLocked(a.Publish.HostPorts()+"/"+a.Publish.Proto, a.Publish.SameHostPorts)
	case plan.AddRoute:
		return d.addRouteLocked(a.Route.Spec())
	case plan.RemoveRoute:
		return d.deleteRouteLocked(a.Route.Prefix.String())
	case plan.AddNeighbor:
		return d.addNeighborLocked(a.Neighbor.Spec())
	case plan.SetNATPorts:
		d.setNATPortsLocked(a.Ranges)
	case plan.SetTimers:
		d.setTimersLocked(a.Timers)
	default:
		return fmt.Errorf("daemon: no way to apply %T", a)
	}
	return err
}

// SetNATPorts changes which ports of the host NAT may give out, until the next reload.
func (d *Daemon) SetNATPorts(ranges string) error {
	if _, err := model.ParsePortRanges(ranges); err != nil {
		return err
	}
	return d.change("changing the ports for NAT", func() error {
		d.setNATPortsLocked(ranges)
		return nil
	})
}

func (d *Daemon) setNATPortsLocked(ranges string) {
	d.setConfigLocked(func(c *model.Config) { c.Uplink.Ports = ranges })
	d.updateRulesLocked()
}

func (d *Daemon) setTimersLocked(t nat.Timers) {
	d.setConfigLocked(func(c *model.Config) { c.NAT.Timers = t })
	d.dp.NAT.SetTimers(t)
}

func (d *Daemon) setConfigLocked(edit func(*model.Config)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	edit(&d.config)
}
