package daemon

import (
	"fmt"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/events"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/uplink"
)

// Events has what has happened to the switch lately.
func (d *Daemon) Events() *events.Log { return &d.happened }

// toldState is what the events so far say of the switch.
type toldState struct {
	state  *model.State
	uplink uplink.State
}

// tellLocked adds what the change that ends now has done; state is what it has led to.
func (d *Daemon) tellLocked(state *model.State) {
	if !d.built { // nobody has asked for what the switch begins with
		return
	}
	was := d.told
	d.told.state = state
	if d.told.uplink, _, _ = d.Uplink(); was.state == nil {
		d.happened.Add(api.Event{Event: events.Switch, Action: events.Began, Text: fmt.Sprintf("switch started with %s and %s", events.Counted(uint64(len(state.Networks)), "network"), events.Counted(uint64(len(state.Ports)), "port"))})
		nobodyWaits := *state
		nobodyWaits.Waiting = nil
		was.state, was.uplink = &nobodyWaits, d.told.uplink
	}
	for _, e := range events.Between(was.state, state) {
		p, old := state.Port(e.Port), was.state.Port(e.Port)
		if e.Event == events.Port && e.Action == events.Changed && p != nil && old != nil && p.AsksDHCP() && p.Addr != old.Addr { // its station leases addresses
			d.stations.Add(e)
		} else {
			d.happened.Add(e)
		}
	}
	if text := uplinkText(&d.told.uplink); text != uplinkText(&was.uplink) {
		d.happened.Add(api.Event{Event: events.Uplink, Action: events.Changed, Name: d.told.uplink.Device, Address: model.AddrText(d.told.uplink.Addr), Text: text})
	}
}

// uplinkText says where the uplink leads.
func uplinkText(s *uplink.State) string {
	text := "uplink down: " + s.Why
	if s.Up {
		text = fmt.Sprintf("uplink up: device %s, address %s", s.Device, model.AddrText(s.Addr))
	}
	if s.Up6 && s.Addr6.IsValid() {
		return text + ", IPv6 address " + s.Addr6.String()
	}
	return text
}
