package dhcp

import (
	"cmp"
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

// Of returns what a holder has or is offered, or nil.
func (r *Range) Of(holder string, now time.Time) *Binding {
	if b := r.holder[holder]; b != nil && now.Before(b.Expires) {
		return b
	}
	return nil
}

// Choose finds an address for a holder: the one that he or his station had last, the wanted one, one that nobody had, or the one that nobody has had
// for the longest time. taken says which addresses somebody else uses. Choose changes nothing.
func (r *Range) Choose(holder, client string, wanted netip.Addr, taken func(netip.Addr) bool, now time.Time) (netip.Addr, bool) {
	free := func(a netip.Addr) bool { return r.Free(a, holder, taken, now) }
	if b := r.holder[holder]; b != nil && free(b.Addr) {
		return b.Addr, true
	}
	var old []*Binding
	for _, b := range r.at {
		switch {
		case !free(b.Addr):
		case b.Client == client:
			return b.Addr, true
		default:
			old = append(old, b)
		}
	}
	if free(wanted) {
		return wanted, true
	}
	for a := r.First; r.Contains(a); a = a.Next() {
		if r.at[a] == nil && free(a) {
			return a, true
		}
	}
	if len(old) == 0 {
		return netip.Addr{}, false
	}
	return slices.MinFunc(old, func(a, b *Binding) int { return cmp.Or(a.Expires.Compare(b.Expires), a.Addr.Compare(b.Addr)) }).Addr, true
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

// Put notes that a holder has an address. What he had before, and who had the address, is forgotten.
func (r *Range) Put(b Binding) *Binding {
	if r.at == nil {
		r.at, r.holder = map[netip.Addr]*Binding{}, map[string]*Binding{}
	}
	for _, old := range []*Binding{r.holder[b.Holder], r.at[b.Addr]} {
		if old != nil {
			r.forget(old)
		}
	}
	r.at[b.Addr] = &b
	if b.Holder != "" {
		r.holder[b.Holder] = &b
	}
	return &b
}

func (r *Range) forget(b *Binding) {
	delete(r.at, b.Addr)
	if r.holder[b.Holder] == b {
		delete(r.holder, b.Holder)
	}
}

// SetAside keeps the address of a binding from everybody for a while: its station has found that another one uses it (RFC 2131, 3.1).
func (r *Range) SetAside(b *Binding, now time.Time) {
	r.Put(Binding{Addr: b.Addr, Port: b.Port, MAC: b.MAC, Expires: now.Add(AsideTime)})
}

// Held returns the bindings that hold at a time, in the order of their addresses.
func (r *Range) Held(now time.Time) (out []*Binding) {
	for _, b := range r.at {
		if now.Before(b.Expires) {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b *Binding) int { return a.Addr.Compare(b.Addr) })
	return out
}

// All returns all bindings, those that are only remembered included, in the order of their addresses.
func (r *Range) All() (out []*Binding) {
	for _, b := range r.at {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b *Binding) int { return a.Addr.Compare(b.Addr) })
	return out
}
