package daemon

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/hostclients"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/natports"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/nat"
)

// openClients leads the host's own clients of published ports to the containers by programs. Where that is not possible, the relays serve
// all of them. Programs also keep some ports free for the containers.
func (d *Daemon) openClients() error {
	if d.config.Host.Cgroup == model.CgroupOff {
		d.clientsWhy = "--cgroup off"
		return nil
	}
	p, err := hostclients.Open(d.config.Host.Cgroup)
	if err != nil && d.config.Host.Cgroup != "" {
		return fmt.Errorf("--cgroup: %w; name a folder of cgroup2, or off", err)
	}
	if err != nil {
		d.clientsWhy = err.Error()
		d.log.Warn("the relay serves the host's own clients of published ports", "why", err)
		return nil
	}
	d.clients = p
	if !d.usesBPF() {
		return nil
	}
	if lo, hi := natports.Floor(d.config.Uplink.Ports, usedports.Ephemeral()); hi > 0 {
		if err := p.KeepPorts(lo, hi); err != nil {
			d.log.Warn("no ports are kept free for the containers: users of the host may bind them all", "why", err)
		}
	}
	return nil
}

// HostClients tells how the host's own clients of published ports are served: by programs at connect(2), or by the relay alone, and why.
func (d *Daemon) HostClients() (byPrograms bool, why string) { return d.clients != nil, d.clientsWhy }

// updateClientsLocked passes the published ports and the host's addresses to the programs.
func (d *Daemon) updateClientsLocked() {
	h := d.ports[model.HostPortName]
	if d.clients == nil || h == nil || d.closed {
		return
	}
	own, _ := familiesOf(d.local)
	for _, a := range d.hostAddrsLocked() {
		if a.Is4() {
			own = append(own, netip.PrefixFrom(a, 32))
		}
	}
	isOwn := func(a netip.Addr) bool {
		return slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	var rules []hostclients.Rule
	for _, p := range d.publishes {
		if r, ok := p.clientRule(); ok && (p.HostAddr.IsUnspecified() || p.HostAddr.IsLoopback() || isOwn(p.HostAddr)) {
			rules = append(rules, r)
		}
	}
	if err := d.clients.Set(rules, own); err != nil {
		d.log.Error("cannot lead the host's own clients to published ports; the relay serves them", "error", err)
	}
}

// hostAddrsLocked are the addresses of the host, its port's included.
func (d *Daemon) hostAddrsLocked() (own []netip.Addr) {
	h := d.ports[model.HostPortName]
	if d.leavesByHost() {
		own = slices.Clone(d.own)
	} else {
		for _, a := range h.Own {
			own = append(own, a.Netip())
		}
	}
	own = append(own, h.Addr.Addr())
	if h.Addr6.IsValid() {
		own = append(own, h.Addr6.Addr())
	}
	return append(own, d.way6.own...)
}

// inboundLocked says what containers may begin with the host; nil: everything.
func (d *Daemon) inboundLocked() *nat.Inbound {
	in, _ := model.ParseInbound(d.config.Host.Inbound) // checked at the start
	h := d.ports[model.HostPortName]
	if in == nil || h == nil {
		return nil
	}
	in.Host, in.Addrs, in.Local = h.ID, d.hostAddrsLocked(), uplink.LocalPrefixes()
	return in
}

// clientRule is the published port as the programs take it. SCTP and IPv6 have no such programs: the relay serves the clients of IPv6.
func (p *publish) clientRule() (r hostclients.Rule, ok bool) {
	proto, _ := frame.ProtoNumber(p.Proto)
	if p.HostAddr.Is6() || !p.port.Addr.IsValid() || proto != frame.TCP && proto != frame.UDP {
		return r, false
	}
	return hostclients.Rule{
		Proto: proto, Host: p.HostAddr, Lo: p.Lo, Hi: p.Hi, Target: p.port.Addr.Addr(), TargetPort: p.Target,
	}, true
}
