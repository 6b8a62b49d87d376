package router

import (
	"net/netip"

	"github.com/mdlayher/ndp"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An Advertising is what the gateway of a network says of itself in router advertisements (RFC 4861, 6.2).
type Advertising struct {
	Advertise bool
	Slaac     bool           // stations may make an address of Interface.Prefix6 (RFC 4862)
	Behind    []netip.Prefix // prefixes behind the gateway, besides the default route (RFC 4191)
}

// An advertiser is the state of a network's advertisements.
type advertiser struct {
	next  frame.Tick // when the next one is due
	last  frame.Tick // when the last one was sent to all
	fast  int        // how many follow soon
	leads bool       // the last one told of a default route
	slaac bool       // the last one gave addresses

	deprecates bool // they are told that the addresses are deprecated
}

// Times of router advertisements (RFC 4861, 6.2.1 and 10).
const (
	second       = 1e9 // ns, as package ndp counts
	raLifetime   = 1800 * second
	raValid      = 2592000 * second // of addresses
	raPreferred  = 604800 * second
	raMin, raMax = 200 * frame.TicksPerSecond, 600 * frame.TicksPerSecond
	raSoon       = 16 * frame.TicksPerSecond // between those after a start or a change
	raFast       = 3
	raDistance   = 3 * frame.TicksPerSecond // at least, between two that go to all
)

// advertise sends the router advertisements that are due. A change of what leads out is told at once, and twice more (RFC 7084, G-4, G-5).
func (r *Router) advertise(now frame.Tick, out Output) {
	s := r.snap.Load()
	for id, i := range s.ifaces {
		if i == nil || id == int(frame.NoNet) || !i.HasIPv6() || !i.Advertise {
			if a := r.advertisers[frame.NetID(id)]; a != nil && i != nil && i.HasIPv6() {
				a.deprecates = a.deprecates || a.slaac
				r.sendRA(i, false, true, frame.AllNodes, frame.AllNodes.GroupMAC(), out) // it was switched off: RFC 4861, 6.2.5
			}
			delete(r.advertisers, frame.NetID(id))
			continue
		}
		a := r.advertisers[i.Net]
		if a == nil {
			a = &advertiser{next: now, fast: raFast}
			r.advertisers[i.Net] = a
		}
		if leads := i.LeadsOut6(s.ifaces[frame.NoNet]); leads != a.leads {
			a.leads, a.next, a.fast = leads, now, raFast
		}
		if i.Slaac != a.slaac {
			a.deprecates = a.slaac
			a.slaac, a.next, a.fast = i.Slaac, now, raFast
		}
		if int32(now-a.next) < 0 || a.last != 0 && now-a.last < raDistance {
			continue
		}
		a.last = now
		if a.fast > 0 {
			a.fast--
		}
		r.rng = frame.Mix(r.rng^uint64(now), 0x9e3779b97f4a7c15)
		if a.next = now + raMin + frame.Tick(r.rng%uint64(raMax-raMin)); a.fast > 0 {
			a.next = now + raSoon
		}
		r.sendRA(i, a.leads, false, frame.AllNodes, frame.AllNodes.GroupMAC(), out)
	}
}

// AdvertiseSoon makes the gateway of a network send a router advertisement to all as soon as it may, if it sends any.
func (r *Router) AdvertiseSoon(id frame.NetID, now frame.Tick) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.advertisers[id]; a != nil {
		a.next = now
	}
}

// routerSolicitation answers a station that looks for routers (RFC 4861, 6.2.6): directly, or all stations if it has no address yet.
func (r *Router) routerSolicitation(f *frame.Frame, p PuntedFrame, iface *Interface, src frame.Addr6, m *ndp.RouterSolicitation, now frame.Tick, out Output) {
	mac := linkLayer(m.Options, ndp.Source)
	if src.IsZero() && mac != 0 {
		return
	}
	if mac != 0 {
		r.heardOf(p, iface, src, mac, now, out)
	}
	if !iface.Advertise {
		return
	}
	leads := iface.LeadsOut6(r.snap.Load().ifaces[frame.NoNet])
	if !src.IsZero() {
		if mac == 0 {
			mac = f.Src
		}
		r.sendRA(iface, leads, false, src, mac, out)
		return
	}
	if a := r.advertisers[p.Net]; a == nil || a.last != 0 && now-a.last < raDistance {
		return // the one that all have just had was for this station, too
	}
	r.advertisers[p.Net].last = now
	r.sendRA(iface, leads, false, frame.AllNodes, frame.AllNodes.GroupMAC(), out)
}

// sendRA sends a router advertisement; the last one takes back what the others gave.
func (r *Router) sendRA(i *Interface, leads, last bool, to frame.Addr6, mac frame.MAC, out Output) {
	m := &ndp.RouterAdvertisement{CurrentHopLimit: 64, Options: append(macOption(i.MAC, ndp.Source), ndp.NewMTU(uint32(mtu6(i, &byUplink))))}
	if leads {
		m.RouterLifetime = raLifetime
	}
	a := r.advertisers[i.Net]
	gives := i.Slaac && i.Advertise
	if gives || a != nil && a.deprecates {
		o := &ndp.PrefixInformation{PrefixLength: uint8(i.Prefix6.Bits()), OnLink: true, AutonomousAddressConfiguration: true, Prefix: i.Prefix6.Addr()}
		if gives {
			o.ValidLifetime, o.PreferredLifetime = raValid, raPreferred
		}
		m.Options = append(m.Options, o)
	}
	for _, p := range i.Behind {
		o := &ndp.RouteInformation{PrefixLength: uint8(p.Bits()), Prefix: p.Addr()}
		if !last { // RFC 4861, 6.2.5
			o.RouteLifetime = raLifetime
		}
		m.Options = append(m.Options, o)
	}
	r.sendND(i.Net, i, mac, frame.FirstLocal, to, m, out)
}

// leave tells the stations of a network that the gateway goes (RFC 4861, 6.2.5).
func (r *Router) leave(i *Interface, out Output) {
	if i == nil {
		return
	}
	if i.Net != frame.NoNet && i.HasIPv6() && i.Advertise {
		r.sendRA(i, false, true, frame.AllNodes, frame.AllNodes.GroupMAC(), out)
	}
	delete(r.advertisers, i.Net)
}
