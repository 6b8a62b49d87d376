package dhcp

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A Range gives addresses to the stations of a network whose ports have none. It remembers who had which one, so that a station gets the same
// again while nobody else needs it.
type Range struct {
	First, Last netip.Addr

	at     map[netip.Addr]*Binding
	holder map[string]*Binding
	client map[string]*Binding
	port   map[string]map[*Binding]bool // bindings of each port, those that are only remembered included
	next   netip.Addr                   // where the search for an address that nobody had goes on
	fullAt time.Time                    // when no address was free last
}

// A Binding is an address and who has it, or had it last.
type Binding struct {
	Addr     netip.Addr `json:"address"`
	Holder   string     `json:"holder"` // to whom the address belongs: the port; or the station, if the port may have several
	Port     string     `json:"port"`
	Client   string     `json:"client"` // Question.Client
	MAC      string     `json:"mac"`
	Hostname string     `json:"hostname,omitempty"`  // that the station says it has
	ClientID string     `json:"client_id,omitempty"` // in hexadecimal
	Granted  bool       `json:"granted"`             // else it is only offered, or set aside
	Expires  time.Time  `json:"expires"`
}

// For how long an offer stands, and for how long an address is set aside that somebody uses without a lease.
const (
	OfferTime = time.Minute
	AsideTime = 10 * time.Minute
)

// How many bindings a range, and a port, may have before the oldest ones that have ended are forgotten; and for how long a full range stays so.
const (
	maxRemembered, maxOfPort = 4096, 64
	fullTime                 = 100 * time.Millisecond
)

// Of returns what a holder has or is offered, or nil.
func (r *Range) Of(holder string, now time.Time) *Binding {
	if b := r.holder[holder]; b != nil && now.Before(b.Expires) {
		return b
	}
	return nil
}

// LastOf returns the newest binding of a holder, also if it has ended; nil if the range has none.
func (r *Range) LastOf(holder string) *Binding { return r.holder[holder] }

// Choose finds an address for a holder: the one that the holder or its station had last, the wanted one, one that nobody had, or the one that nobody
// has had for the longest time. taken says which addresses others have, and used which ones others seem to use: these come last, since whoever
// answers for many addresses must not empty the range.
func (r *Range) Choose(holder, client string, wanted netip.Addr, taken, used func(netip.Addr) bool, now time.Time) (netip.Addr, bool) {
	if age := now.Sub(r.fullAt); age >= 0 && age < fullTime {
		return netip.Addr{}, false
	}
	for _, not := range []func(netip.Addr) bool{func(a netip.Addr) bool { return taken(a) || used(a) }, taken} {
		if a, ok := r.choose(holder, client, wanted, func(a netip.Addr) bool { return r.Free(a, holder, not, now) }); ok {
			return a, true
		}
	}
	r.fullAt = now
	return netip.Addr{}, false
}

func (r *Range) choose(holder, client string, wanted netip.Addr, free func(netip.Addr) bool) (netip.Addr, bool) {
	for _, b := range []*Binding{r.holder[holder], r.client[client]} {
		if b != nil && free(b.Addr) {
			return b.Addr, true
		}
	}
	if free(wanted) {
		return wanted, true
	}
	if !r.Contains(r.next) {
		r.next = r.First
	}
	for a, begun := r.next, false; !begun || a != r.next; begun = true {
		if r.at[a] == nil && free(a) {
			r.next = a
			return a, true
		}
		if a = a.Next(); !r.Contains(a) {
			a = r.First
		}
	}
	var oldest *Binding
	for _, b := range r.at {
		if free(b.Addr) && (oldest == nil || cmp.Or(b.Expires.Compare(oldest.Expires), b.Addr.Compare(oldest.Addr)) < 0) {
			oldest = b
		}
	}
	if oldest == nil {
		return netip.Addr{}, false
	}
	return oldest.Addr, true
}

// Free reports whether a holder may get an address.
func (r *Range) Free(a netip.Addr, holder string, taken func(netip.Addr) bool, now time.Time) bool {
	b := r.at[a]
	return r.Contains(a) && !taken(a) && (b == nil || b.Holder == holder || !now.Before(b.Expires))
}

// Contains reports whether an address is in the range.
func (r *Range) Contains(a netip.Addr) bool {
	return a.IsValid() && !a.Less(r.First) && !r.Last.Less(a)
}

// Size is how many addresses the range has, as far as 64.
func (r *Range) Size() int {
	const most = 64
	n := 0
	for a := r.First; r.Contains(a) && n < most; a = a.Next() {
		n++
	}
	return n
}

// Put notes that a holder has an address. What the holder had before, and who had the address, is forgotten.
func (r *Range) Put(b Binding, now time.Time) *Binding {
	if r.at == nil {
		r.at, r.holder, r.client, r.port = map[netip.Addr]*Binding{}, map[string]*Binding{}, map[string]*Binding{}, map[string]map[*Binding]bool{}
	}
	for _, old := range []*Binding{r.holder[b.Holder], r.at[b.Addr]} {
		if old != nil {
			r.forget(old)
		}
	}
	if len(r.at) >= maxRemembered {
		r.prune(slices.Collect(maps.Values(r.at)), now)
	}
	if len(r.port[b.Port]) >= maxOfPort {
		r.prune(slices.Collect(maps.Keys(r.port[b.Port])), now)
	}
	r.at[b.Addr] = &b
	if r.port[b.Port] == nil {
		r.port[b.Port] = map[*Binding]bool{}
	}
	r.port[b.Port][&b] = true
	if b.Holder != "" {
		r.holder[b.Holder], r.client[b.Client] = &b, &b
	}
	return &b
}

func (r *Range) forget(b *Binding) {
	if r.at[b.Addr] != b {
		return
	}
	delete(r.at, b.Addr)
	if r.holder[b.Holder] == b {
		delete(r.holder, b.Holder)
	}
	if r.client[b.Client] == b {
		delete(r.client, b.Client)
	}
	if delete(r.port[b.Port], b); len(r.port[b.Port]) == 0 {
		delete(r.port, b.Port)
	}
}

// prune forgets half of those bindings in a list that have ended, the oldest ones.
func (r *Range) prune(list []*Binding, now time.Time) {
	ended := slices.DeleteFunc(list, func(b *Binding) bool { return now.Before(b.Expires) })
	slices.SortFunc(ended, func(a, b *Binding) int { return a.Expires.Compare(b.Expires) })
	for _, b := range ended[:(len(ended)+1)/2] {
		r.forget(b)
	}
}

// SetAside keeps the address of a binding from everybody for a while: its station has found that another one uses it (RFC 2131, 3.1).
func (r *Range) SetAside(b *Binding, now time.Time) {
	r.Put(Binding{Addr: b.Addr, Port: b.Port, MAC: b.MAC, Expires: now.Add(AsideTime)}, now)
}

// Count returns how many addresses stations of a port have or are offered, and how many are set aside for the port.
func (r *Range) Count(port string, now time.Time) (held, aside int) {
	for b := range r.port[port] {
		switch {
		case !now.Before(b.Expires):
		case b.Holder == "":
			aside++
		default:
			held++
		}
	}
	return held, aside
}

// All returns all bindings, those that are only remembered included, in the order of their addresses.
func (r *Range) All() (out []*Binding) {
	for _, b := range r.at {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b *Binding) int { return a.Addr.Compare(b.Addr) })
	return out
}

// Held returns the bindings that hold at a time, in the order of their addresses.
func (r *Range) Held(now time.Time) []*Binding {
	return slices.DeleteFunc(r.All(), func(b *Binding) bool { return !now.Before(b.Expires) })
}
