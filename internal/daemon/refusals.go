package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/events"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policies"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// refusals are reasons that say that a port takes, or pretends to be, more than it may.
var refusals = []frame.Reason{
	frame.InternalError,
	frame.GuardSourceMAC, frame.GuardSourceAddress, frame.GuardARPSender, frame.GuardRouter, frame.GuardNeighbor, frame.GuardICMPError, frame.GuardDHCP, frame.GuardVLAN, frame.GuardDestination,
	frame.AddressStolen, frame.GatewayMACStolen, frame.StormLimited, frame.SlowReceiver,
	frame.PolicyDenied, frame.PolicyDropped,
	frame.FlowQuota, frame.FlowTableFull, frame.NATPortsExhausted, frame.PairsFull,
	frame.DHCPQuota, frame.DHCPRangeFull,
	frame.PuntRateLimited, frame.PuntQueueFull, frame.InjectQueueFull, frame.FragmentQueueFull, frame.NeighborQueueFull,
}

// manyUnread is how many packets that were not read in refusalsEvery make an event. More than a thousand do not wait in a device, as a rule, so
// the device has dropped many.
const manyUnread = 2000

// notRead is the reason, in an event, that a port sends faster than it is read. It is no reason of the switch: the port's device drops the packets.
const notRead = "not_read"

// Unread are packets of a port that were not read in the refusalsEvery before At.
type Unread struct {
	Packets uint64
	At      time.Time
}

// Unread is which ports sent faster than they were read, when it was last looked at.
func (d *Daemon) Unread() map[frame.PortID]Unread {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unread
}

// tellUnread tells that n packets of a port were not read since the last look.
func (d *Daemon) tellUnread(p *model.Port, n uint64) {
	text := fmt.Sprintf("port %s sends faster than the switch reads it: %s in %d s were not read, and its device drops what does not fit into its queue", p.Name, events.Counted(n, "packet"), int(refusalsEvery.Seconds()))
	d.stations.Add(api.Event{Event: events.Refusal, Action: events.Began, Port: p.Name, Network: p.Network, Reason: notRead, Count: n, Text: text})
	d.log.Warn("a port sends faster than it is read", "port", p.Name, "packets", n, "seconds", int(refusalsEvery.Seconds()))
}

// refusalsEvery is how often a port is named for a reason, at most.
const refusalsEvery = 10 * time.Second

// logRefusals writes to the log which ports have been refused something, and how often, until ctx is done.
func (d *Daemon) logRefusals(ctx context.Context) {
	type key struct {
		port   frame.PortID
		reason frame.Reason
	}
	go d.logRules(ctx)
	before, since, failed := map[key]uint64{}, d.dp.Now(), uint64(0)
	unreadBefore := map[frame.PortID]uint64{}
	every := time.NewTicker(refusalsEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		now, tick := map[key]uint64{}, d.dp.Now()
		d.tellNames(since, tick)
		if n := d.NameCounts().Failed.Load(); n > failed {
			d.tellUnanswered(n - failed)
			failed = n
		}
		since = tick
		recent := sync.OnceValue(d.dp.Recent)
		unread, many := map[frame.PortID]uint64{}, map[frame.PortID]Unread{}
		for _, p := range d.State().Ports {
			stats := d.dp.PortStats(p.ID)
			unread[p.ID] = stats.Unread
			if n := stats.Unread - min(unreadBefore[p.ID], stats.Unread); n >= manyUnread {
				many[p.ID] = Unread{n, time.Now()}
				d.tellUnread(&p, n)
			}
			for _, r := range refusals {
				n := stats.Drops[r.String()]
				if n == 0 {
					continue
				}
				k := key{p.ID, r}
				if now[k] = n; n > before[k] {
					text := fmt.Sprintf("port %s was refused %s in %d s: %s", p.Name, events.Counted(n-before[k], "frame"), int(refusalsEvery.Seconds()), r)
					if last := d.lastRefused(recent, p.ID, r); last != "" {
						text += "; the last one: " + last
					}
					d.stations.Add(api.Event{Event: events.Refusal, Action: events.Began, Port: p.Name, Network: p.Network, Reason: r.String(), Count: n - before[k], Text: text})
					d.log.Warn("a port was refused", "port", p.Name, "reason", r.String(), "frames", n-before[k], "seconds", int(refusalsEvery.Seconds()))
				}
			}
		}
		before, unreadBefore = now, unread
		d.mu.Lock()
		d.unread = many
		d.mu.Unlock()
	}
}

// tellPanic writes a fault of the switch to its log.
func (d *Daemon) tellPanic(p dataplane.Panic) {
	go func() { // a worker does not wait for the log
		var ports []string
		for _, id := range p.Ports {
			ports = append(ports, d.State().PortName(id))
		}
		d.log.Error("a fault in the switch: please report it", "fault", p.What, "frames of", strings.Join(ports, ", "), "stack", p.Stack)
	}()
}

// lastRefused describes the last packet of a port that policies have refused for a reason; empty if it is not known.
func (d *Daemon) lastRefused(recent func() []dataplane.Drop, id frame.PortID, why frame.Reason) (packet string) {
	if why != frame.PolicyDenied && why != frame.PolicyDropped {
		return ""
	}
	last := frame.Tick(0)
	for _, x := range recent() {
		if x.In != id || x.Reason != why || int32(x.Tick-last) < 0 {
			continue
		}
		f := frame.Partial(x.In, nil, x.Head, int(x.Length))
		if r, ok := d.ExplainRefusal(&f); ok && r.Packet != "" {
			packet, last = r.Packet, x.Tick
		}
	}
	return packet
}

// A pastRefusal explains a packet that the policies of a port have refused which is gone.
type pastRefusal struct {
	in    frame.PortID
	begin string // of the frame
	policies.Refusal
}

const maxPastRefusals = 256

// keepRefusalsLocked keeps what explains the last refusals of a port that is about to be removed: its policies go with it.
func (d *Daemon) keepRefusalsLocked(p *port) {
	if len(p.Policies) == 0 && (p.net == nil || len(p.net.Policies) == 0) {
		return
	}
	var kept []pastRefusal
	for _, x := range d.dp.Recent() {
		if x.In != p.ID || x.Reason != frame.PolicyDenied && x.Reason != frame.PolicyDropped || len(x.Head) == 0 {
			continue
		}
		f := frame.Partial(x.In, nil, x.Head, int(x.Length))
		if r, ok := d.policing.Explain(&f, d.dp.Now()); ok {
			kept = append(kept, pastRefusal{x.In, string(x.Head), r})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	kept = append(slices.Clone(d.refused), kept...)
	d.refused = kept[max(0, len(kept)-maxPastRefusals):]
}

// pastRefusal explains a frame of a port that is gone.
func (d *Daemon) pastRefusal(f *frame.Frame) (policies.Refusal, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.refused {
		if d.byID[x.in] == nil && x.in == f.In && strings.HasPrefix(string(f.Bytes()), x.begin) {
			return x.Refusal, true
		}
	}
	return policies.Refusal{}, false
}

// namesTold is of how many refused names of a port is told at a time: a port must not fill the list of events.
const namesTold = 8

// tellNames tells which names ports have asked for in vain since a time, each once.
func (d *Daemon) tellNames(since, now frame.Tick) {
	names, _ := d.PolicyRefusals()
	state, told := d.State(), map[frame.PortID]int{}
	for _, r := range names {
		p := state.PortByID(r.Port)
		if p == nil || int32(r.Last-since) < 0 || int32(r.Last-now) >= 0 {
			continue
		}
		if told[r.Port]++; told[r.Port] <= namesTold {
			d.stations.Add(api.Event{Event: events.Refusal, Action: events.Began, Port: p.Name, Network: p.Network, Name: r.Name, Reason: events.NameDenied, Count: r.Count,
				Text: fmt.Sprintf("port %s asked for the name %s, which its policies do not allow", p.Name, r.Name)})
		}
	}
}

// tellUnanswered tells that no name server has answered questions of containers.
func (d *Daemon) tellUnanswered(questions uint64) {
	_, silent, _ := d.NameServers()
	var list []string
	for _, a := range silent {
		list = append(list, a.String())
	}
	text := fmt.Sprintf("no name server has answered %s for names in %d s; silent: %s", events.Counted(questions, "question"), int(refusalsEvery.Seconds()), cmp.Or(strings.Join(list, ", "), "none is known"))
	d.stations.Add(api.Event{Event: events.Name, Action: events.Ended, Count: questions, Text: text})
	d.log.Warn("names of others are not resolved", "why", text)
}

// Rules with the word log: how often the last drops are read, how many lines a rule gets for a port in that time, and how many there are in all: each
// port has one of each rule at least.
const (
	rulesEvery   = time.Second
	linesPerRule = 10
	mostLines    = 200
)

// logRules writes to the log what rules with the word log refuse, until ctx is done.
func (d *Daemon) logRules(ctx context.Context) {
	tick := time.NewTicker(rulesEvery)
	defer tick.Stop()
	seen := d.dp.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := d.dp.Now()
		if !slices.ContainsFunc(d.State().Policies, func(p model.Policy) bool {
			return slices.ContainsFunc(p.Rules, func(r policy.Rule) bool { return r.Log })
		}) {
			seen = now
			continue
		}
		type key struct {
			port frame.PortID
			rule string
		}
		lines, all := map[key]int{}, 0
		for _, x := range d.dp.Recent() {
			if x.Reason != frame.PolicyDenied && x.Reason != frame.PolicyDropped || int32(x.Tick-seen) < 0 || int32(x.Tick-now) >= 0 {
				continue
			}
			f := frame.Partial(x.In, nil, x.Head, int(x.Length))
			why, ok := d.ExplainRefusal(&f)
			if !ok || !why.Log {
				continue
			}
			k := key{x.In, why.Why}
			if lines[k]++; lines[k] == 1 || lines[k] <= linesPerRule && all < mostLines {
				all++
				port := d.State().PortName(x.In)
				d.stations.Add(api.Event{Event: events.Refusal, Action: events.Began, Port: port, Reason: x.Reason.String(), Count: 1, Text: fmt.Sprintf("port %s was refused %s: %s", port, why.Packet, why.Why)})
				d.log.Warn("a policy refused a packet", "port", port, "packet", why.Packet, "why", why.Why)
			}
		}
		seen = now
	}
}
