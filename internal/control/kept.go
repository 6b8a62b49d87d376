package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/tap"
)

// A Store keeps descriptors beyond the end of the process, by name, and gives them to the next one: systemd's file descriptor store
// is one. What is kept are the TAPs that others have made and handed over, which could not be made anew, and a file in memory
// that says what they are. So they, their networks and what is published of them survive a crash and a restart.
type Store interface {
	Keep(name string, fd int) error
	// Forget returns when the store has closed what it kept by that name.
	Forget(name string) error
}

// Names in the store.
const (
	keptPort  = "port."
	keptState = "state." // and a or b: the new one is there before the old one goes
)

// IsKept tells whether a descriptor of that name has come from a Store.
func IsKept(name string) bool {
	return strings.HasPrefix(name, keptPort) || strings.HasPrefix(name, keptState)
}

// kept is what the file in memory says.
type kept struct {
	Sequence uint64           `json:"sequence"` // the highest counts, should two be there
	Networks []api.NetworkAdd `json:"networks"`
	Ports    []api.PortAdd    `json:"ports"`
	Publish  []api.PublishAdd `json:"publish"`
}

// keep writes down what is handed over, when that has changed. mu is held.
func (d *Daemon) keep() {
	if d.opts.Store == nil || d.closed || !d.built { // what is not restored yet must not be forgotten
		return
	}
	var k kept
	for _, p := range d.portList() {
		if !p.handed {
			continue
		}
		a := d.asItIs(p)
		if p.mac != 0 {
			a.MAC = p.mac.String()
		}
		k.Ports = append(k.Ports, a)
		if !slices.Contains(k.Networks, p.net.asked) {
			k.Networks = append(k.Networks, p.net.asked)
		}
	}
	for _, r := range d.rules {
		if r.port.handed {
			k.Publish = append(k.Publish, r.asked)
		}
	}
	text, err := json.Marshal(k)
	if err != nil || bytes.Equal(text, d.keptText) || len(k.Ports) == 0 && d.keptSequence == 0 {
		return
	}
	d.keptSequence++
	k.Sequence = d.keptSequence
	if err := d.keepState(k); err != nil { // tried again with the next change
		d.log.Error("what is handed over would not survive a restart", "error", err)
		return
	}
	d.keptText = text
}

func (d *Daemon) keepState(k kept) error {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("uvswitch-state", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	turns := [2]string{keptState + "a", keptState + "b"}
	if err := d.opts.Store.Keep(turns[k.Sequence%2], fd); err != nil {
		return err
	}
	return d.opts.Store.Forget(turns[(k.Sequence+1)%2])
}

// keepPort gives the descriptor of a TAP that was handed over to the store. mu is held.
func (d *Daemon) keepPort(p *port) {
	if d.opts.Store == nil {
		return
	}
	if err := d.opts.Store.Keep(keptPort+p.name, p.conn.FD()); err != nil {
		d.log.Error("the port would not survive a restart", "port", p.name, "error", err)
	}
}

func (d *Daemon) forgetPort(name string) {
	if d.opts.Store == nil {
		return
	}
	if err := d.opts.Store.Forget(keptPort + name); err != nil {
		d.log.Error("the store may still have the port's device", "port", name, "error", err)
	}
}

// readKept sorts what the last process has left, and forgets what nobody needs.
func (d *Daemon) readKept() (k kept, devices map[string]*tap.Device) {
	devices = map[string]*tap.Device{}
	for _, f := range d.opts.Kept {
		if name, is := strings.CutPrefix(f.Name(), keptPort); is && devices[name] == nil {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err == nil {
				devices[name] = alive(fd)
			}
		} else if !is {
			var have kept
			text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<24))
			if err == nil {
				err = json.Unmarshal(text, &have)
			}
			if err != nil {
				d.log.Error("what the last process has left cannot be read", "name", f.Name(), "error", err)
			} else if have.Sequence > k.Sequence {
				k = have
			}
		}
		f.Close()
	}
	d.opts.Kept = nil
	d.keptSequence = k.Sequence
	for name, dev := range devices {
		known := slices.ContainsFunc(k.Ports, func(a api.PortAdd) bool { return a.Name == name })
		if dev != nil && known {
			continue
		}
		if dev != nil {
			_ = dev.Close()
		}
		delete(devices, name)
		d.forgetPort(name)
	}
	return k, devices
}

// alive is the TAP of a descriptor; nil when the device has gone with its namespace.
func alive(fd int) *tap.Device {
	dev, err := tap.FromFD(fd)
	if err == nil {
		if _, err = dev.Up(); err == nil {
			return dev
		}
	}
	unix.Close(fd)
	return nil
}

// restorePorts makes ports of the TAPs that the last process has left, with their networks.
func (d *Daemon) restorePorts(k kept, devices map[string]*tap.Device) {
	for _, a := range k.Ports {
		dev := devices[a.Name]
		if dev == nil {
			continue
		}
		err := d.restoreNetwork(k, a.Network)
		if err == nil {
			a.Handed = true
			_, err = d.addPort(a, dev)
		} else {
			_ = dev.Close()
		}
		if err != nil {
			d.forgetPort(a.Name)
			d.log.Error("a port could not be restored; its container must be started anew", "port", a.Name, "error", err)
			continue
		}
		d.log.Info("port restored", "port", a.Name)
	}
}

func (d *Daemon) restoreNetwork(k kept, name string) error {
	d.mu.Lock()
	n := d.networks[name]
	d.mu.Unlock()
	i := slices.IndexFunc(k.Networks, func(a api.NetworkAdd) bool { return a.Name == name })
	if n != nil || i < 0 {
		return nil // where it is not, addPort says so
	}
	return d.addNetwork(k.Networks[i])
}

// restorePublished publishes what was published of the ports that are there again.
func (d *Daemon) restorePublished(k kept) {
	for _, a := range k.Publish {
		r, err := ruleOf(a)
		d.mu.Lock()
		needless := err != nil || d.ports[a.Port] == nil || hasRule(d.rules, r) // which the configuration has, too
		d.mu.Unlock()
		if needless {
			continue
		}
		if _, err := d.addPublish(a); err != nil {
			d.log.Error("a published port could not be restored", "port", a.Port, "publish", a.Spec, "error", err)
		}
	}
}
