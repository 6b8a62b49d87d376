package gateway

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/events"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
)

// leases answer DHCP questions. A port with an address gives it to its station. The stations of other ports get addresses of their network's
// range: the lease of a station binds its port, so that the address is the port's until the lease ends. A plugged device leads to several
// stations: each of them has a lease, and none of them binds the port.
//
// What the leases say and what the ports have is made equal by the daemon, a change at a time (changes). A station gets its answer when its port
// has the address.
type leases struct {
	known func(frame.NetID, netip.Addr) frame.MAC // the station that uses an address; 0: none
	now   func() time.Time
	tell  func(api.Event)
	wake  chan struct{} // there may be changes

	mu      sync.Mutex // Lock 92
	nets    map[string]*leaseNet
	byID    map[frame.NetID]*leaseNet
	of      map[frame.PortID]*leasePort
	static  map[frame.PortID]Grant
	live    map[*dhcp.Binding]*leaseNet // leases whose beginning was told
	waiting map[frame.PortID]waiting
	moved   map[frame.PortID]move // the last change of each port's leased address
	pending []SavedLease          // of the last process, of networks that do not exist yet
	changed bool                  // since the last save
}

// A waiting answer is sent when its port has an address.
type waiting struct {
	addr netip.Addr
	send func()
}

// How many stations of a plugged device may have a lease, how many addresses are set aside for a port at a time, and how often the leased address
// of a port changes at most.
const (
	maxLeases    = 16
	maxAside     = 4
	betweenMoves = time.Second
)

type leaseNet struct {
	id     frame.NetID
	name   string
	on     bool // it has ports whose questions are answered
	prefix netip.Prefix
	addrs  dhcp.Range
	taken  map[netip.Addr]bool // by the gateway and ports
}

// A leasePort is a port whose questions are answered, or whose address is leased.
type leasePort struct {
	name   string
	net    *leaseNet
	lease  dhcp.Lease // Addr is invalid while the port has no address
	asks   bool       // its questions are answered
	shared bool       // several stations are behind the port
	bound  bool       // the address is leased
	keeps  bool       // ports are published or policies attached: the address stays
}

func (p *leasePort) key() string { return p.net.name + "/" + p.name }

// holder is to whom an address belongs. If several stations are behind the port, it depends on the question.
func (p *leasePort) holder(q *dhcp.Question) string {
	if p.shared && q != nil {
		return "port " + p.name + ", " + q.Client()
	}
	return "port " + p.name
}

// binding is what the port's station has or is offered; nil if several stations are behind the port.
func (p *leasePort) binding(now time.Time) *dhcp.Binding {
	if p.shared {
		return nil
	}
	return p.net.addrs.Of(p.holder(nil), now)
}

// isStatic reports whether the port has an address of its own.
func (p *leasePort) isStatic() bool { return p.lease.Addr.IsValid() && !p.bound }

// has is the leased address that the port has.
func (p *leasePort) has() (a netip.Addr) {
	if p.bound {
		a = p.lease.Addr.Addr()
	}
	return a
}

// A Grant is a lease that a station has asked for, and got.
type Grant struct {
	Network, Port string
	MAC           string
	Addr          netip.Addr
	Hostname      string // that the station says it has
	ClientID      string // in hexadecimal
	Expires       time.Time
	Dynamic       bool // the address is one of the network's range
}

// set makes the ports and networks those of a state.
func (l *leases) set(s *model.State) {
	l.mu.Lock()
	before := map[string]bool{}
	for _, x := range l.of {
		before[x.key()] = true
	}
	l.setNetworks(s)
	l.setPorts(s)
	for id, g := range l.static {
		if x := l.of[id]; x == nil || x.name != g.Port || !x.isStatic() || x.lease.Addr.Addr() != g.Addr {
			delete(l.static, id)
		}
	}
	l.pending = slices.DeleteFunc(l.pending, l.takeOver)
	l.prolong()
	l.endLost(before)
	answers := l.ready()
	l.mu.Unlock()
	for _, send := range answers {
		send()
	}
	l.notify()
}

func (l *leases) setNetworks(s *model.State) {
	nets := map[string]*leaseNet{}
	l.byID = map[frame.NetID]*leaseNet{}
	for i := range s.Networks {
		n := &s.Networks[i]
		x := l.nets[n.Name]
		if x == nil || x.prefix != n.Prefix {
			x = &leaseNet{}
		}
		x.id, x.name, x.prefix, x.on, x.taken = n.ID, n.Name, n.Prefix, false, map[netip.Addr]bool{n.Gateway: true}
		x.addrs.First, x.addrs.Last = n.DHCP.First, n.DHCP.Last
		nets[n.Name], l.byID[n.ID] = x, x
	}
	for name, old := range l.nets {
		if nets[name] != old {
			for _, b := range old.addrs.Held(l.now()) {
				l.finish(old, b, "its network has gone")
			}
		}
	}
	l.nets = nets
}

func (l *leases) setPorts(s *model.State) {
	l.of = map[frame.PortID]*leasePort{}
	published := map[string]bool{}
	for i := range s.Publishes {
		published[s.Publishes[i].Port] = true
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		x := l.nets[p.Network]
		if x == nil {
			continue
		}
		if p.Addr.IsValid() && !p.Leased {
			x.taken[p.Addr.Addr()] = true
		}
		if !p.AsksDHCP() && !p.Leased {
			continue
		}
		x.on = x.on || p.AsksDHCP()
		l.of[p.ID] = &leasePort{
			name: p.Name, net: x, lease: leaseOf(s.Network(p.Network), p), asks: p.AsksDHCP(), shared: p.Kind == model.KindDevice && !p.Addr.IsValid(),
			bound: p.Leased, keeps: p.Leased && (published[p.Name] || !p.NeedsLease() && len(s.PoliciesOf(p)) > 0),
		}
	}
}

// leaseOf is what a port's station is told, with the port's address, if it has one.
func leaseOf(n *model.Network, p *model.Port) dhcp.Lease {
	x := dhcp.Lease{Addr: p.Addr, Server: n.Gateway, MTU: p.MTU, Time: n.DHCP.Time}
	if name := strings.ToLower(p.Name); api.IsDNSName(name) && p.Kind != model.KindDevice {
		x.Name = name
	}
	if !n.Internal {
		x.Router = n.Gateway
	}
	if n.Names.DNS != model.DNSOff {
		x.DNS, x.Domain = []netip.Addr{n.Gateway}, n.Names.Domain
	}
	for _, r := range n.DHCP.Routes {
		x.Routes = append(x.Routes, dhcp.Route(r))
	}
	return x
}

// endLost ends the leases of ports that were there before and have gone, that have an address of their own now, or whose questions are answered
// no more. Ports of the last process may still come. The caller holds mu.
func (l *leases) endLost(before map[string]bool) {
	ports := map[string]*leasePort{}
	for _, x := range l.of {
		ports[x.key()] = x
	}
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(l.now()) {
			x := ports[n.name+"/"+b.Port]
			if b.Holder != "" && n.taken[b.Addr] {
				l.finish(n, b, "the gateway or a port has the address")
			} else if b.Holder != "" && b.Granted && !n.addrs.Contains(b.Addr) && (x == nil || !x.keeps) {
				l.finish(n, b, "it is outside of the network's range now")
			} else if b.Holder != "" && x == nil && before[n.name+"/"+b.Port] {
				l.finish(n, b, "its port has gone")
			} else if b.Holder != "" && x != nil && x.isStatic() {
				l.finish(n, b, "its port has an address of its own")
			} else if b.Holder != "" && x != nil && !x.asks && !x.keeps {
				l.finish(n, b, "its port gets no address by DHCP any more")
			}
		}
	}
}

// ready takes the answers that may be sent now. The caller holds mu, and sends them without it.
func (l *leases) ready() (send []func()) {
	for id, w := range l.waiting {
		switch x := l.of[id]; {
		case x == nil || l.wants(x) != w.addr:
			delete(l.waiting, id)
		case x.has() == w.addr:
			delete(l.waiting, id)
			send = append(send, w.send)
		}
	}
	return send
}

// wants is the leased address that a port is to have; invalid: none. The caller holds mu.
func (l *leases) wants(x *leasePort) (a netip.Addr) {
	if b := x.binding(l.now()); b != nil && b.Granted && !x.isStatic() && (x.asks || x.keeps) {
		a = b.Addr
	}
	return a
}

func (l *leases) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// A move is a change of a port's leased address, or of the station that has it.
type move struct {
	at  time.Time
	mac string
}

// A LeaseChange says which leased address a port is to have instead of another one; an invalid one is none. If both are the same, another station
// has the address.
type LeaseChange struct {
	ID   frame.PortID
	Port string
	From netip.Addr
	To   netip.Addr
	MAC  string // of the station
}

// changes lists the ports that have another leased address than the leases say. A port that has just changed comes later.
func (l *leases) changes() (list []LeaseChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, x := range l.of {
		c, ok := l.change(id, x)
		if !ok {
			continue
		}
		if l.moved == nil {
			l.moved = map[frame.PortID]move{}
		}
		l.moved[id] = move{l.now(), c.MAC}
		list = append(list, c)
	}
	return list
}

// change is what is to change at a port; ok is false if nothing is, or not yet. The caller holds mu.
func (l *leases) change(id frame.PortID, x *leasePort) (c LeaseChange, ok bool) {
	c = LeaseChange{ID: id, Port: x.name, From: x.has(), To: l.wants(x)}
	if c.To.IsValid() {
		c.MAC = x.binding(l.now()).MAC
	}
	last := l.moved[id]
	return c, (c.From != c.To || c.To.IsValid() && c.MAC != last.mac) && l.now().Sub(last.at) >= betweenMoves
}

// differ reports whether there are changes.
func (l *leases) differ() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, x := range l.of {
		if _, ok := l.change(id, x); ok {
			return true
		}
	}
	return false
}

// failed ends the lease of a port that cannot have its address.
func (l *leases) failed(c LeaseChange, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.of[c.ID]; x != nil && x.name == c.Port && l.wants(x) == c.To {
		l.finish(x.net, x.binding(l.now()), why.Error())
	}
}

// serves reports whether the gateway of a network answers DHCP questions.
func (l *leases) serves(net frame.NetID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[net] != nil && l.byID[net].on
}

// reasons say why a frame with a question is dropped.
var reasons = map[dhcp.Refusal]frame.Reason{
	dhcp.Malformed: frame.DHCPRefused, dhcp.NotDHCP: frame.DHCPRefused, dhcp.Relayed: frame.DHCPRefused, dhcp.NoQuestion: frame.DHCPRefused,
	dhcp.Quota: frame.DHCPQuota, dhcp.Exhausted: frame.DHCPRangeFull,
}

// answer answers a question: at once, or later by send. It sets d.From to where the answer goes, and d.To to where it comes from; or d.Refused to
// why there is none. Without send, it says what it would answer, and changes nothing.
func (l *leases) answer(d *router.Datagram, send func(router.Datagram, []byte)) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.of[d.In]
	if x == nil || !x.asks || d.To.Addr() != x.lease.Server && d.To.Addr() != dhcp.Everyone {
		return nil
	}
	dry := send == nil
	q, refusal := dhcp.Parse(d.Payload)
	switch {
	case refusal != "":
		d.Refused = reasons[refusal]
		return nil
	case q.Ends():
		if !dry && !q.ForOther(x.lease.Server) {
			l.giveBack(d.In, x, &q)
		}
		return nil
	}
	lease := x.lease
	var b *dhcp.Binding
	if !x.isStatic() {
		if b, refusal = l.bindingFor(d, x, &q, dry); b != nil {
			lease.Addr = netip.PrefixFrom(b.Addr, x.net.prefix.Bits())
		} else {
			lease.Addr = netip.Prefix{}
		}
	}
	var r dhcp.Reply
	if refusal == "" {
		r, refusal = q.Answer(lease)
	}
	if refusal != "" {
		d.Refused = reasons[refusal]
		return nil
	}
	d.From, d.To = netip.AddrPortFrom(r.To, dhcp.ClientPort), netip.AddrPortFrom(x.lease.Server, dhcp.ServerPort)
	if dry || !r.Grants(&q) || l.grant(d, x, b, &q) {
		return r.Payload
	}
	to := *d
	if l.waiting == nil {
		l.waiting = map[frame.PortID]waiting{}
	}
	l.waiting[d.In] = waiting{b.Addr, func() { send(to, r.Payload) }}
	l.notify()
	return nil
}

// grant notes that a station has a lease: b, or else that of its port's own address. It reports whether the answer may be sent at once. The caller
// holds mu.
func (l *leases) grant(d *router.Datagram, x *leasePort, b *dhcp.Binding, q *dhcp.Question) bool {
	expires := l.now().Add(x.lease.Time)
	if b == nil {
		if l.static == nil {
			l.static = map[frame.PortID]Grant{}
		}
		l.static[d.In] = Grant{Network: x.net.name, Port: x.name, MAC: d.MAC.String(), Addr: x.lease.Addr.Addr(), Hostname: q.Hostname, ClientID: hex.EncodeToString(q.ClientID), Expires: expires}
		return true
	}
	b.Granted, b.Expires = true, expires
	b.MAC, b.Hostname, b.ClientID, l.changed = d.MAC.String(), q.Hostname, hex.EncodeToString(q.ClientID), true
	l.begin(x.net, b)
	return x.shared || x.has() == b.Addr
}

// giveBack ends what a station gives back. The address of a port itself stays, and one that is published or has policies.
func (l *leases) giveBack(id frame.PortID, x *leasePort, q *dhcp.Question) {
	if x.isStatic() {
		delete(l.static, id)
		return
	}
	b := x.net.addrs.Of(x.holder(q), l.now())
	if b == nil || q.Wanted != b.Addr || x.keeps {
		return
	}
	if !q.Declines() {
		l.finish(x.net, b, "its station gives it back")
	} else if b.Granted { // an offer is no lease yet: another station may have the address by mistake, or a liar may want the range
		l.finish(x.net, b, "its station says that another one uses the address")
		if _, aside := x.net.addrs.Count(x.name, l.now()); aside < min(maxAside, max(1, x.net.addrs.Size()/4)) {
			x.net.addrs.SetAside(b, l.now())
		}
	}
	l.notify()
}

// bindingFor returns what a station has, or gets. Without a binding and a refusal, the station may not have what it asks for. If dry, nothing changes:
// what the station would get is returned.
func (l *leases) bindingFor(d *router.Datagram, x *leasePort, q *dhcp.Question, dry bool) (*dhcp.Binding, dhcp.Refusal) {
	now, addrs, holder := l.now(), &x.net.addrs, x.holder(q)
	b := addrs.Of(holder, now)
	if q.Informs() {
		if !x.net.prefix.Contains(q.Wanted) {
			return nil, dhcp.NoQuestion
		}
		return &dhcp.Binding{Addr: q.Wanted}, "" // it has an address of its own
	}
	if q.Requests() && q.ForOther(x.lease.Server) {
		if b != nil && !dry && !b.Granted {
			b.Expires = now // the offer
		}
		return nil, dhcp.NotForUs
	}
	if b != nil {
		return b, ""
	}
	if held, _ := addrs.Count(x.name, now); x.shared && held >= maxLeases {
		return nil, dhcp.Quota
	}
	taken := func(a netip.Addr) bool { return x.net.taken[a] }
	used := func(a netip.Addr) bool {
		station := l.known(x.net.id, a)
		return station != 0 && station != d.MAC
	}
	a, ok := q.Wanted, addrs.Free(q.Wanted, holder, func(a netip.Addr) bool { return taken(a) || used(a) }, now)
	switch {
	case q.Requests() && ok:
	case q.Requests() && x.shared && !q.Server.IsValid(): // another server of that LAN may know the station (RFC 2131, 4.3.2)
		return nil, dhcp.NotForUs
	case q.Requests():
		return nil, ""
	default:
		if a, ok = addrs.Choose(holder, q.Client(), q.Wanted, taken, used, now); !ok {
			return nil, dhcp.Exhausted
		}
	}
	fresh := dhcp.Binding{Addr: a, Holder: holder, Port: x.name, Client: q.Client(), MAC: d.MAC.String(), Expires: now.Add(dhcp.OfferTime)}
	if dry {
		return &fresh, ""
	}
	return addrs.Put(fresh, now), ""
}

// begin tells that a lease begins, unless it goes on. The caller holds mu.
func (l *leases) begin(n *leaseNet, b *dhcp.Binding) {
	if l.live[b] != nil {
		return
	}
	l.follow(n, b)
	l.say(n, b, events.Began, fmt.Sprintf("lease began: %s for station %s at port %s", b.Addr, b.MAC, b.Port))
}

// follow has the end of a lease told. The caller holds mu.
func (l *leases) follow(n *leaseNet, b *dhcp.Binding) {
	if l.live == nil {
		l.live = map[*dhcp.Binding]*leaseNet{}
	}
	l.live[b] = n
}

// finish ends a lease, or an offer, and tells of it. The port's address follows: see changes. The caller holds mu.
func (l *leases) finish(n *leaseNet, b *dhcp.Binding, why string) {
	if now := l.now(); now.Before(b.Expires) {
		b.Expires = now
	}
	l.changed = true
	if l.live[b] != nil {
		delete(l.live, b)
		l.say(n, b, events.Ended, fmt.Sprintf("lease ended: %s of station %s at port %s: %s", b.Addr, b.MAC, b.Port, why))
	}
}

func (l *leases) say(n *leaseNet, b *dhcp.Binding, action, text string) {
	if l.tell != nil {
		l.tell(api.Event{Event: events.Lease, Action: action, Network: n.name, Port: b.Port, Address: b.Addr.String(), Hwaddr: b.MAC, Text: text})
	}
}

// prolong makes the leases of ports that keep their address go on, also one that its station has just given back. The caller holds mu.
func (l *leases) prolong() {
	now := l.now()
	for _, x := range l.of {
		if x.keeps {
			if b := x.net.addrs.LastOf(x.holder(nil)); b != nil && b.Addr == x.has() && !now.Before(b.Expires) {
				b.Expires, l.changed = now.Add(x.lease.Time), true
				l.begin(x.net, b)
			}
		}
	}
}

// expire ends the leases whose time is over. Those of ports that keep their address go on.
func (l *leases) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.prolong()
	for b, n := range l.live {
		if !now.Before(b.Expires) {
			l.finish(n, b, "its time is over")
			l.notify()
		}
	}
}

// revoke ends the lease of an address before its time, or an offer of it. An address that is set aside is free again.
func (l *leases) revoke(a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.of {
		switch {
		case x.isStatic() && x.lease.Addr.Addr() == a:
			return api.Errorf(http.StatusConflict, "%s is the address of port %q itself, not of the network's range; it goes with the port", a, x.name)
		case x.has() == a && x.keeps:
			return api.Errorf(http.StatusConflict, "port %q keeps %s while ports of it are published or policies are attached to it; end these first", x.name, a)
		}
	}
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(l.now()) {
			if b.Addr == a {
				l.finish(n, b, "somebody has ended it by hand")
				l.notify()
				return nil
			}
		}
	}
	return api.Errorf(http.StatusNotFound, "no station has %s by DHCP; `uvswitch lease ls` lists the leases", a)
}

// grants lists the leases that hold, by network, port and address.
func (l *leases) grants() (out []Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, g := range l.static {
		if now.Before(g.Expires) {
			out = append(out, g)
		}
	}
	ports := map[string]bool{}
	for _, x := range l.of {
		ports[x.key()] = true
	}
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(now) {
			if b.Granted && ports[n.name+"/"+b.Port] { // else the port may come again
				out = append(out, Grant{n.name, b.Port, b.MAC, b.Addr, b.Hostname, b.ClientID, b.Expires, true})
			}
		}
	}
	slices.SortFunc(out, func(a, b Grant) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Port, b.Port), a.Addr.Compare(b.Addr))
	})
	return out
}

// held lists what is leased, offered or set aside: the switch assigns none of these addresses itself.
func (l *leases) held() (out []model.HeldAddr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(l.now()) {
			out = append(out, model.HeldAddr{Addr: b.Addr, Port: b.Port, MAC: b.MAC})
		}
	}
	return out
}

// A SavedLease is a lease as it is kept for the next process.
type SavedLease struct {
	Network string `json:"network"`
	dhcp.Binding
}

// save returns all leases that stations have or had, and whether they have changed since the last call, or since unsaved.
func (l *leases) save() (out []SavedLease, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if changed, l.changed = l.changed, false; !changed {
		return nil, false
	}
	for _, n := range l.nets {
		for _, b := range n.addrs.All() {
			if b.Granted {
				out = append(out, SavedLease{n.name, *b})
			}
		}
	}
	out = append(out, l.pending...)
	slices.SortFunc(out, func(a, b SavedLease) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
	return out, true
}

// unsaved says that what save has returned could not be kept.
func (l *leases) unsaved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed = true
}

// restore takes over the leases of the last process, as their networks come. Those that are not of their network's range are left out.
func (l *leases) restore(saved []SavedLease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = slices.DeleteFunc(slices.Clone(saved), func(s SavedLease) bool { return s.Holder == "" || l.takeOver(s) })
}

// takeOver gives a saved lease to its network, and reports whether the network exists. The caller holds mu.
func (l *leases) takeOver(s SavedLease) bool {
	n, now := l.nets[s.Network], l.now()
	if n == nil {
		return false
	}
	held := now.Before(s.Expires)
	if n.addrs.Of(s.Holder, now) == nil && n.addrs.Free(s.Addr, s.Holder, func(a netip.Addr) bool { return n.taken[a] }, now) {
		if b := n.addrs.Put(s.Binding, now); held { // its beginning was told by the last process
			l.follow(n, b)
		}
	} else if held {
		l.say(n, &s.Binding, events.Ended, fmt.Sprintf("lease ended: %s of station %s at port %s: since the restart, the address is outside of the network's range, or another one has it", s.Addr, s.MAC, s.Port))
	}
	return true
}
