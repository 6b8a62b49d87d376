package daemon

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dns"
	"github.com/uvswitch/uvswitch/internal/events"
	"github.com/uvswitch/uvswitch/internal/gateway"
	"github.com/uvswitch/uvswitch/internal/model"
)

// Names lists all names.
func (d *Daemon) Names() []gateway.Row {
	state := d.State()
	d.mu.Lock()
	added := maps.Clone(d.names)
	d.mu.Unlock()
	return gateway.Rows(state, added)
}

// NameCounts say what became of questions for names.
func (d *Daemon) NameCounts() *dns.Counts { return d.gateways.Counts() }

// NameServers lists the servers that the host asks, and those of all networks that have not answered lately. The error says why the host's servers
// of now are not known.
func (d *Daemon) NameServers() (host, silent []netip.AddrPort, err error) {
	return d.gateways.NameServers()
}

// AddName gives a network a name.
func (d *Daemon) AddName(a api.NameAdd) error {
	return d.change("adding name "+a.Name, func() error {
		n, err := d.networkOfNameLocked(a)
		if err != nil {
			return err
		}
		x, err := model.ParseName(a.Name, a.Address)
		if err != nil {
			return err
		}
		if slices.Contains(n.Names.Static, x) || slices.Contains(d.names[n.Name], x) {
			return api.Errorf(http.StatusConflict, "network %q has the name %s with the address %s already", n.Name, x.Name, x.Addr)
		}
		d.setNamesLocked(n.Name, append(slices.Clone(d.names[n.Name]), x))
		d.tellName(n, events.Added, x)
		return nil
	})
}

// DeleteName takes from a network a name that was added by hand: with one address, or with all if none is named.
func (d *Daemon) DeleteName(a api.NameAdd) error {
	return d.change("removing name "+a.Name, func() error {
		n, err := d.networkOfNameLocked(a)
		if err != nil {
			return err
		}
		name := strings.ToLower(strings.TrimSuffix(a.Name, "."))
		is := func(x model.Name) bool { return x.Name == name && (a.Address == "" || x.Addr.String() == a.Address) }
		kept := slices.DeleteFunc(slices.Clone(d.names[n.Name]), is)
		if len(kept) == len(d.names[n.Name]) {
			if slices.ContainsFunc(n.Names.Static, is) {
				return api.Errorf(http.StatusConflict, "the name %s of network %q comes from the network's own settings (names); change the configuration file, and `uvswitch reload`", name, n.Name)
			}
			return api.Errorf(http.StatusNotFound, "network %q has no name %s that was added by `uvswitch dns add`; `uvswitch dns ls` lists all names", n.Name, name)
		}
		for _, x := range d.names[n.Name] {
			if is(x) {
				d.tellName(n, events.Removed, x)
			}
		}
		d.setNamesLocked(n.Name, kept)
		return nil
	})
}

// tellName adds an event: a name was added or removed by hand.
func (d *Daemon) tellName(n *network, action string, x model.Name) {
	d.happened.Add(api.Event{Event: events.Name, Action: action, Network: n.Name, Name: x.Name, Address: x.Addr.String(), Text: fmt.Sprintf("name %s.%s %s: %s", x.Name, n.Names.Domain, action, x.Addr)})
}

// networkOfNameLocked is the network that a request about a name means.
func (d *Daemon) networkOfNameLocked(a api.NameAdd) (*network, error) {
	name := a.Network
	if name == "" {
		name = api.DefaultNetwork
	}
	n := d.networks[name]
	if n == nil {
		return nil, model.NoNetwork(name)
	}
	if n.Names.DNS == model.DNSOff {
		return nil, api.Errorf(http.StatusConflict, "network %q answers no questions for names (dns: off)", name)
	}
	return n, nil
}

// setNamesLocked replaces the names that were added to a network by hand.
func (d *Daemon) setNamesLocked(network string, names []model.Name) {
	all := maps.Clone(d.names)
	if all == nil {
		all = map[string][]model.Name{}
	}
	if all[network] = names; len(names) == 0 {
		delete(all, network)
	}
	d.mu.Lock()
	d.names = all
	d.mu.Unlock()
}
