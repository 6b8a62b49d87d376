package gateway

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
)

// A Binder gives ports the addresses that their stations have leased, and takes them away. It may wait; the calls come from goroutines of their own.
type Binder interface {
	BindLease(id frame.PortID, addr netip.Addr, mac string) error
	UnbindLease(id frame.PortID)
}

// leases answer DHCP questions. A port with an address gives it to its station. The stations of other ports get addresses of their network's
// range: the first one that asks binds the port, so that from then on the address is the port's until the lease ends. A plugged device leads to
// several stations: each of them has a lease, and none of them binds the port.
type leases struct {
	binder Binder
	known  func(frame.NetID, netip.Addr) frame.MAC // the station that uses an address; 0: none
	now    func() time.Time
	tell   func(api.Event)

	mu      sync.Mutex // Lock 92
	nets    map[string]*leaseNet
	byID    map[frame.NetID]*leaseNet
	of      map[frame.PortID]*leasePort
	static  map[frame.PortID]Grant
	live    map[*dhcp.Binding]*leaseNet // whose beginning was told
	binding map[frame.PortID]bool       // the binder is at work
	pending []SavedLease                // of the last process, of networks that do not exist yet
	changed bool                        // since the last Save
}

// maxLeases is how many stations of a plugged device may have a lease.
const maxLeases = 16

type leaseNet struct {
	id     frame.NetID
	name   string
	on     bool // it has ports whose questions are answered
	prefix netip.Prefix
	addrs  dhcp.Range
	taken  map[netip.Addr]bool // by the gateway and ports
}

// A leasePort is a port whose questions are answered.
type leasePort struct {
	name  string
	net   *leaseNet
	lease dhcp.Lease // Addr is invalid while the port has no address
	many  bool       // several stations are behind the port
	bound bool       // the address was leased
}

func (p *leasePort) key() string { return p.net.name + "/" + p.name }

// holder is to whom an address belongs.
func (p *leasePort) holder(q *dhcp.Question) string {
	if p.many {
		return "port " + p.name + ", " + q.Client()
	}
	return "port " + p.name
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
	defer l.mu.Unlock()
	nets, before := map[string]*leaseNet{}, map[string]bool{}
	for _, x := range l.of {
		before[x.key()] = true
	}
	l.byID, l.of = map[frame.NetID]*leaseNet{}, map[frame.PortID]*leasePort{}
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
	l.nets = nets
	l.pending = slices.DeleteFunc(l.pending, l.takeOver)
	for i := range s.Ports {
		p := &s.Ports[i]
		x := nets[p.Network]
		if x == nil {
			continue
		}
		if p.Addr.IsValid() && !p.Leased {
			x.taken[p.Addr.Addr()] = true
		}
		if p.AsksDHCP() {
			x.on = true
			l.of[p.ID] = &leasePort{p.Name, x, leaseOf(s.Network(p.Network), p), p.Kind == model.KindDevice && !p.Addr.IsValid(), p.Leased}
		}
	}
	for id, g := range l.static {
		if x := l.of[id]; x == nil || x.name != g.Port || x.bound || x.lease.Addr.Addr() != g.Addr {
			delete(l.static, id)
		}
	}
	l.endLost(before)
	l.bindAgain()
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

// endLost ends the leases of ports that were there before and have gone, or that have another address now. Ports of the last process may still
// come. The caller holds mu.
func (l *leases) endLost(before map[string]bool) {
	ports := map[string]*leasePort{}
	for _, x := range l.of {
		ports[x.key()] = x
	}
	now := l.now()
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(now) {
			if x := ports[n.name+"/"+b.Port]; x == nil && before[n.name+"/"+b.Port] || x != nil && x.lease.Addr.IsValid() && (!x.bound || x.lease.Addr.Addr() != b.Addr) {
				l.finish(n, b, "its port has gone, or has another address")
			}
		}
	}
}

// bindAgain binds the ports whose leases are older than this process. The caller holds mu.
func (l *leases) bindAgain() {
	for id, x := range l.of {
		if b := x.net.addrs.Of(x.holder(&dhcp.Question{}), l.now()); !x.many && !x.lease.Addr.IsValid() && b != nil && b.Granted {
			l.bind(id, b, nil)
		}
	}
}

// bind lets the binder give a port the address of b, and calls then afterwards if that succeeds. The caller holds mu.
func (l *leases) bind(id frame.PortID, b *dhcp.Binding, then func()) {
	if l.binder == nil || l.binding[id] {
		return
	}
	if l.binding == nil {
		l.binding = map[frame.PortID]bool{}
	}
	l.binding[id] = true
	go func() {
		err := l.binder.BindLease(id, b.Addr, b.MAC)
		l.mu.Lock()
		delete(l.binding, id)
		if n := l.live[b]; err != nil && n != nil {
			l.finish(n, b, err.Error())
		}
		l.mu.Unlock()
		if err == nil && then != nil {
			then()
		}
	}()
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
// why there is none. Without send, it changes nothing.
func (l *leases) answer(d *router.Datagram, send func(router.Datagram, []byte)) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.of[d.In]
	if x == nil || d.To.Addr() != x.lease.Server && d.To.Addr() != dhcp.Everyone {
		return nil
	}
	q, refusal := dhcp.Parse(d.Payload)
	lease := x.lease
	var b *dhcp.Binding
	if refusal == "" && (x.bound || !lease.Addr.IsValid()) {
		b, refusal = l.find(d, x, &q, send != nil)
		if lease.Addr = (netip.Prefix{}); b != nil {
			lease.Addr = netip.PrefixFrom(b.Addr, x.net.prefix.Bits())
		}
	} else if refusal == "" && q.Ends() {
		delete(l.static, d.In)
		return nil // the address stays the port's
	}
	var r dhcp.Reply
	if refusal == "" && !q.Ends() {
		r, refusal = q.Answer(lease)
	}
	if refusal != "" {
		d.Refused = reasons[refusal]
	}
	if r.Payload == nil {
		return nil
	}
	d.From, d.To = netip.AddrPortFrom(r.To, dhcp.ClientPort), netip.AddrPortFrom(x.lease.Server, dhcp.ServerPort)
	if send == nil || !r.Grants(&q) {
		return r.Payload
	}
	expires := l.now().Add(x.lease.Time)
	if b == nil {
		if l.static == nil {
			l.static = map[frame.PortID]Grant{}
		}
		l.static[d.In] = Grant{Network: x.net.name, Port: x.name, MAC: d.MAC.String(), Addr: x.lease.Addr.Addr(), Hostname: q.Hostname, ClientID: hex.EncodeToString(q.ClientID), Expires: expires}
		return r.Payload
	}
	b.Granted, b.Expires, b.Client, l.changed = true, expires, q.Client(), true
	b.MAC, b.Hostname, b.ClientID = d.MAC.String(), q.Hostname, hex.EncodeToString(q.ClientID)
	l.begin(x.net, b)
	if x.many || x.bound {
		return r.Payload
	}
	to := *d
	l.bind(d.In, b, func() { send(to, r.Payload) }) // the station may use its address as soon as it gets the answer
	return nil
}

// find returns what the station has, or gets. Without note, nothing changes: what it would get is returned.
func (l *leases) find(d *router.Datagram, x *leasePort, q *dhcp.Question, note bool) (*dhcp.Binding, dhcp.Refusal) {
	now, addrs := l.now(), &x.net.addrs
	holder := x.holder(q)
	b := addrs.Of(holder, now)
	switch {
	case q.Ends():
		if b != nil && note && q.Wanted == b.Addr {
			l.end(d.In, x, b, q.Declines())
		}
		return b, ""
	case q.Informs():
		if x.net.prefix.Contains(q.Wanted) {
			return &dhcp.Binding{Addr: q.Wanted}, ""
		}
		return nil, dhcp.NoQuestion
	case q.Selects() && q.ForOther(x.lease.Server):
		if b != nil && note && !b.Granted {
			b.Expires = now // the offer
		}
		return b, ""
	case b != nil:
		return b, ""
	case x.many && l.count(x) >= maxLeases:
		return nil, dhcp.Quota
	}
	taken := func(a netip.Addr) bool {
		station := l.known(x.net.id, a)
		return x.net.taken[a] || station != 0 && station != d.MAC
	}
	a, ok := addrs.Choose(holder, q.Client(), q.Wanted, taken, now)
	switch {
	case q.Selects() && (!ok || a != q.Wanted): // it had another address before, or elsewhere
		if q.Wanted != a && addrs.Free(q.Wanted, holder, taken, now) {
			a, ok = q.Wanted, true
			break
		}
		return nil, ""
	case !ok:
		return nil, dhcp.Exhausted
	}
	fresh := dhcp.Binding{Addr: a, Holder: holder, Port: x.name, Client: q.Client(), MAC: d.MAC.String(), Expires: now.Add(dhcp.OfferTime)}
	if !note {
		return &fresh, ""
	}
	return addrs.Put(fresh), ""
}

// count is how many stations of a port have a lease or an offer. The caller holds mu.
func (l *leases) count(x *leasePort) (n int) {
	for _, b := range x.net.addrs.Held(l.now()) {
		if b.Port == x.name && b.Holder != "" {
			n++
		}
	}
	return n
}

// end ends a lease. With aside, nobody gets its address for a while. The caller holds mu.
func (l *leases) end(id frame.PortID, x *leasePort, b *dhcp.Binding, aside bool) {
	why := "its station gives it back"
	if aside {
		why = "its station says that another one uses the address"
	}
	if l.finish(x.net, b, why); aside {
		x.net.addrs.SetAside(b, l.now())
	}
	if x.bound {
		go l.binder.UnbindLease(id)
	}
}

// begin tells that a lease begins, unless it goes on. The caller holds mu.
func (l *leases) begin(n *leaseNet, b *dhcp.Binding) {
	if l.live[b] != nil {
		return
	}
	if l.live == nil {
		l.live = map[*dhcp.Binding]*leaseNet{}
	}
	l.live[b] = n
	l.say(n, b, "began", fmt.Sprintf("lease began: %s for station %s at port %s", b.Addr, b.MAC, b.Port))
}

// finish ends a lease, or an offer, and tells of it. The caller holds mu.
func (l *leases) finish(n *leaseNet, b *dhcp.Binding, why string) {
	if now := l.now(); now.Before(b.Expires) {
		b.Expires = now
	}
	l.changed = true
	if l.live[b] != nil {
		delete(l.live, b)
		l.say(n, b, "ended", fmt.Sprintf("lease ended: %s of station %s at port %s: %s", b.Addr, b.MAC, b.Port, why))
	}
}

func (l *leases) say(n *leaseNet, b *dhcp.Binding, action, text string) {
	if l.tell != nil {
		l.tell(api.Event{Event: "lease", Action: action, Network: n.name, Port: b.Port, Address: b.Addr.String(), Hwaddr: b.MAC, Text: text})
	}
}

// expire ends the leases whose time is over, and unbinds their ports.
func (l *leases) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for b, n := range l.live {
		if !now.Before(b.Expires) {
			l.finish(n, b, "its time is over")
		}
	}
	for id, x := range l.of {
		if x.bound && x.net.addrs.Of(x.holder(&dhcp.Question{}), now) == nil {
			go l.binder.UnbindLease(id)
		}
	}
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
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(now) {
			if b.Granted {
				out = append(out, Grant{n.name, b.Port, b.MAC, b.Addr, b.Hostname, b.ClientID, b.Expires, true})
			}
		}
	}
	slices.SortFunc(out, func(a, b Grant) int {
		return strings.Compare(a.Network+"\x00"+a.Port+"\x00"+a.Addr.String(), b.Network+"\x00"+b.Port+"\x00"+b.Addr.String())
	})
	return out
}

// held lists what is leased, offered or set aside: the switch assigns none of these addresses itself.
func (l *leases) held() (out []model.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.nets {
		for _, b := range n.addrs.Held(l.now()) {
			out = append(out, model.Lease{Addr: b.Addr, Port: b.Port, MAC: b.MAC})
		}
	}
	return out
}

// A SavedLease is a lease as it is kept for the next process.
type SavedLease struct {
	Network string `json:"network"`
	dhcp.Binding
}

// save returns all leases that stations have or had, and whether they have changed since the last call.
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
		return strings.Compare(a.Network+"\x00"+a.Addr.String(), b.Network+"\x00"+b.Addr.String())
	})
	return out, true
}

// restore takes over the leases of the last process. Those that are not of their network's range are left out.
func (l *leases) restore(saved []SavedLease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = slices.DeleteFunc(slices.Clone(saved), func(s SavedLease) bool { return s.Holder == "" || l.takeOver(s) })
	l.bindAgain()
}

// takeOver gives a saved lease to its network, and reports whether the network exists. The caller holds mu.
func (l *leases) takeOver(s SavedLease) bool {
	n := l.nets[s.Network]
	if n != nil && n.addrs.Contains(s.Addr) && n.addrs.Of(s.Holder, l.now()) == nil {
		if b := n.addrs.Put(s.Binding); l.now().Before(b.Expires) {
			l.begin(n, b)
		}
	}
	return n != nil
}
