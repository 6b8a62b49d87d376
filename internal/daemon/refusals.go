package daemon

import (
	"context"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// refusals are reasons that say that a port takes, or pretends to be, more than it may.
var refusals = []frame.Reason{
	frame.GuardSourceMAC, frame.GuardSourceAddress, frame.GuardARPSender, frame.GuardRouter, frame.GuardNeighbor, frame.GuardDHCP, frame.GuardVLAN, frame.GuardDestination,
	frame.AddressStolen, frame.GatewayMACStolen, frame.StormLimited, frame.SlowReceiver,
	frame.PolicyDenied, frame.PolicyDropped,
	frame.FlowQuota, frame.FlowTableFull, frame.NATPortsExhausted, frame.PairsFull,
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
					d.log.Warn("a port was refused", "port", p.Name, "reason", r.String(), "frames", n-before[k], "seconds", int(refusalsEvery.Seconds()))
				}
			}
		}
		before = now
	}
}
