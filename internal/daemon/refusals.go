package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/events"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/policy"
)

// refusals are reasons that say that a port takes, or pretends to be, more than it may.
var refusals = []frame.Reason{
	frame.GuardSourceMAC, frame.GuardSourceAddress, frame.GuardARPSender, frame.GuardRouter, frame.GuardNeighbor, frame.GuardDHCP, frame.GuardVLAN, frame.GuardDestination,
	frame.AddressStolen, frame.GatewayMACStolen, frame.StormLimited, frame.SlowReceiver,
	frame.PolicyDenied, frame.PolicyDropped,
	frame.FlowQuota, frame.FlowTableFull, frame.NATPortsExhausted, frame.PairsFull,
	frame.DHCPQuota, frame.DHCPRangeFull,
	frame.PuntRateLimited, frame.PuntQueueFull, frame.InjectQueueFull, frame.FragmentQueueFull, frame.NeighborQueueFull,
}

// refusalsEvery is how often a port is named for a reason, at most.
const refusalsEvery = 10 * time.Second

// logRefusals writes to the log which ports have been refused something, and how often, until ctx is done.
func (d *Daemon) logRefusals(ctx context.Context) {
	type key struct {
		port   string
		reason frame.Reason
	}
	go d.logRules(ctx)
	before := map[key]uint64{}
	tick := time.NewTicker(refusalsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := map[key]uint64{}
		for _, p := range d.State().Ports {
			drops := d.dp.PortStats(p.ID).Drops
			for _, r := range refusals {
				n := drops[r.String()]
				if n == 0 {
					continue
				}
				k := key{p.Name, r}
				if now[k] = n; n > before[k] {
					d.happened.Add(api.Event{Event: events.Refusal, Action: events.Began, Port: p.Name, Network: p.Network, Reason: r.String(), Count: n - before[k],
						Text: fmt.Sprintf("port %s was refused %d frames in %d s: %s", p.Name, n-before[k], int(refusalsEvery.Seconds()), r)})
					d.log.Warn("a port was refused", "port", p.Name, "reason", r.String(), "frames", n-before[k], "seconds", int(refusalsEvery.Seconds()))
				}
			}
		}
		before = now
	}
}

// Rules with the word log: how often the last drops are read, and how many lines a rule gets in that time.
const (
	rulesEvery   = time.Second
	linesPerRule = 10
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
		lines := map[string]int{}
		for _, x := range d.dp.Recent() {
			if x.Reason != frame.PolicyDenied && x.Reason != frame.PolicyDropped || int32(x.Tick-seen) < 0 || int32(x.Tick-now) >= 0 {
				continue
			}
			f := frame.Partial(x.In, nil, x.Head, int(x.Length))
			why, ok := d.ExplainRefusal(&f)
			if !ok || !why.Log {
				continue
			}
			if lines[why.Why]++; lines[why.Why] <= linesPerRule {
				d.happened.Add(api.Event{Event: events.Refusal, Action: events.Began, Port: d.State().PortName(x.In), Reason: x.Reason.String(), Count: 1, Text: why.Why})
				d.log.Warn("a policy refused a packet", "port", d.State().PortName(x.In), "why", why.Why)
			}
		}
		seen = now
	}
}
