package daemon

import (
	"encoding/json"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/fdstore"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/tap"
)

// A TAP that another program has made and passed could not be made again. The descriptor store keeps it beyond the end of the
// process, with a description of the port, its network and its published ports. The next process restores them.

// storedState is what the store was given last.
type storedState struct {
	text     string
	sequence uint64
}

// storeLocked stores what describes the passed TAPs, when that has changed. It runs after every change.
func (d *Daemon) storeLocked() {
	if d.opts.Store == nil || !d.built { // what is not restored yet must not be forgotten
		return
	}
	s := d.toStoreLocked()
	text, err := json.Marshal(s)
	if err != nil || string(text) == d.stored.text || len(s.Ports) == 0 && d.stored.sequence == 0 {
		return
	}
	d.stored.sequence++
	s.Sequence = d.stored.sequence
	if err := fdstore.Save(d.opts.Store, s); err != nil { // tried again with the next change
		d.log.Error("ports passed by other programs would not survive a restart", "error", err)
		return
	}
	d.stored.text = string(text)
}

func (d *Daemon) toStoreLocked() (s fdstore.State) {
	for _, p := range d.byID {
		if p == nil || !p.ByFD {
			continue
		}
		a := p.CurrentSpec()
		if p.MAC != 0 {
			a.MAC = p.MAC.String()
		}
		s.Ports = append(s.Ports, a)
		if !slices.Contains(s.Networks, p.net.Spec) {
			s.Networks = append(s.Networks, p.net.Spec)
		}
	}
	for _, p := range d.policies {
		s.Policies = append(s.Policies, p.Spec)
	}
	for _, p := range d.publishes {
		if p.port.ByFD {
			s.Publish = append(s.Publish, p.Spec)
		}
	}
	return s
}

// storePortLocked gives the descriptor of a passed TAP to the store.
func (d *Daemon) storePortLocked(p *port) {
	if d.opts.Store == nil {
		return
	}
	if err := d.opts.Store.Keep(fdstore.PortName(p.Name), p.conn.FD()); err != nil {
		d.log.Error("cannot save the TAP of the port; the port would not survive a restart", "port", p.Name, "error", err)
	}
}

func (d *Daemon) forgetStoredPortLocked(name string) {
	if d.opts.Store == nil {
		return
	}
	if err := d.opts.Store.Forget(fdstore.PortName(name)); err != nil {
		d.log.Error("cannot remove the TAP of the port from the file descriptor store; the store may still hold it", "port", name, "error", err)
	}
}

// loadStoredLocked reads what the last process has stored, and forgets what nobody needs.
func (d *Daemon) loadStoredLocked() (s fdstore.State, devices map[string]*tap.Device) {
	s, fds, errs := fdstore.Load(d.opts.Stored)
	for _, err := range errs {
		d.log.Error("cannot read a part of what the previous process of the switch stored; ports may be missing: restart their containers", "error", err)
	}
	d.opts.Stored = nil
	d.stored.sequence = s.Sequence
	devices = map[string]*tap.Device{}
	for name, fd := range fds {
		dev := existing(fd)
		if dev != nil && slices.ContainsFunc(s.Ports, func(a api.PortAdd) bool { return a.Name == name }) {
			devices[name] = dev
			continue
		}
		if dev != nil {
			_ = dev.Close()
		}
		d.forgetStoredPortLocked(name)
	}
	return s, devices
}

// existing is the TAP of a descriptor; nil when the device has gone with its namespace.
func existing(fd int) *tap.Device {
	dev, err := tap.FromFD(fd)
	if err == nil {
		if _, err = dev.Up(); err == nil {
			return dev
		}
	}
	unix.Close(fd)
	return nil
}

// restorePortsLocked makes ports of the TAPs that the last process has stored, with their networks.
func (d *Daemon) restorePortsLocked(s fdstore.State, devices map[string]*tap.Device) {
	for _, a := range s.Policies { // the configuration's come first
		if d.State().Policy(a.Name) != nil {
			continue
		}
		if err := d.setPolicyLocked(a); err != nil {
			d.log.Error("a policy could not be restored; ports that have it are missing", "policy", a.Name, "error", err)
		}
	}
	for _, a := range s.Ports {
		dev := devices[a.Name]
		if dev == nil {
			continue
		}
		err := d.restoreNetworkLocked(s, a.Network)
		if err == nil {
			a.Handed = true
			_, err = d.addPortLocked(a, dev)
		} else {
			_ = dev.Close()
		}
		if err != nil {
			d.forgetStoredPortLocked(a.Name)
			d.log.Error("a port could not be restored; restart its container", "port", a.Name, "error", err)
			continue
		}
		d.log.Info("port restored", "port", a.Name)
	}
}

func (d *Daemon) restoreNetworkLocked(s fdstore.State, name string) error {
	i := slices.IndexFunc(s.Networks, func(a api.NetworkAdd) bool { return a.Name == name })
	if d.networks[name] != nil || i < 0 {
		return nil // where the network is missing, addPortLocked says so
	}
	return d.addNetworkLocked(s.Networks[i])
}

// restorePublishesLocked publishes what was published of the ports that exist again.
func (d *Daemon) restorePublishesLocked(s fdstore.State) {
	have := d.State()
	known := model.PublishSetOf(have.Publishes) // the configuration may have some, too
	d.rulesHeld = true
	for _, a := range s.Publish {
		p, err := model.ParsePublish(a)
		if err != nil || d.ports[a.Port] == nil || known.Has(&p) {
			continue
		}
		if p, err = have.NewPublish(a); err == nil {
			p, err = d.publishLocked(p)
		}
		if err != nil {
			d.log.Error("cannot restore a published port", "port", a.Port, "publish", a.Spec, "error", err)
			continue
		}
		if !p.StandsBy {
			have.Publishes = append(have.Publishes, p)
		}
	}
	d.rulesHeld = false
	d.updateRulesLocked()
}
