package control

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/switch"
)

// knobs are what `port set` turns.
type knobs struct {
	flags  vswitch.PortFlags
	rx, tx dataplane.Rate // what the port may send, and what it gets
}

// flagNames are the switches among the knobs, by the names of `bridge link`.
var flagNames = []struct {
	name string
	flag vswitch.PortFlags
}{
	{"learning", vswitch.Learning},
	{"flood", vswitch.FloodUcast},
	{"mcast_flood", vswitch.FloodMcast},
	{"bcast_flood", vswitch.FloodBcast},
	{"hairpin", vswitch.HairpinMode},
	{"isolated", vswitch.Isolated},
	{"locked", vswitch.Locked},
	{"guard", vswitch.Guard},
}

func flagMap(f vswitch.PortFlags) map[string]bool {
	m := map[string]bool{}
	for _, n := range flagNames {
		m[n.name] = f&n.flag != 0
	}
	return m
}

// set is the PortSet that turns all of them so.
func (k knobs) set() api.PortSet {
	s := api.PortSet{"rx_rate": api.RateKnob(k.rx.Bits, k.rx.Burst), "tx_rate": api.RateKnob(k.tx.Bits, k.tx.Burst)}
	for name, on := range flagMap(k.flags) {
		s[name] = api.Switch(on)
	}
	return s
}

// withKnobs are p's knobs with those of set turned.
func withKnobs(p *port, set api.PortSet) (knobs, error) {
	k := p.knobs
	for _, name := range slices.Sorted(maps.Keys(set)) { // rx_rate and tx_rate after rate
		v := set[name]
		if strings.HasSuffix(name, "rate") {
			r, err := parseRate(string(v))
			if err != nil {
				return k, api.Errorf(http.StatusBadRequest, "port %q: %s: %v", p.name, name, err)
			}
			switch name {
			case "rate":
				k.rx, k.tx = r, r
				continue
			case "rx_rate":
				k.rx = r
				continue
			case "tx_rate":
				k.tx = r
				continue
			}
		}
		i := slices.IndexFunc(flagNames, func(n struct {
			name string
			flag vswitch.PortFlags
		}) bool {
			return n.name == name
		})
		switch {
		case i < 0 || p.kind == kindUplink:
			return k, api.Errorf(http.StatusBadRequest, "port %q has no knob %q; there are learning, flood, mcast_flood, bcast_flood, hairpin, isolated, locked, guard, rate, rx_rate, tx_rate", p.name, name)
		case v == api.On:
			k.flags |= flagNames[i].flag
		case v == api.Off:
			k.flags &^= flagNames[i].flag
		default:
			return k, api.Errorf(http.StatusBadRequest, "port %q: %s %q: say on or off", p.name, name, v)
		}
	}
	return k, nil
}

// afterReload is what is to be turned so that p, which was asked for with its own PortSet, is as if with this one: what is not
// said any more goes back to its default, what neither has said stays as it is.
func afterReload(p *port, now api.PortSet) api.PortSet {
	standard := knobs{flags: vswitch.DefaultFlags}
	if p.addr.IsValid() {
		standard.flags |= vswitch.Guard
	}
	defaults := standard.set()
	out := api.PortSet{}
	for name := range bothRates(p.asked.Set) {
		out[name] = defaults[name]
	}
	maps.Copy(out, bothRates(now))
	return out
}

// bothRates is set with rx_rate and tx_rate for rate.
func bothRates(set api.PortSet) api.PortSet {
	out := api.PortSet{}
	if v, said := set["rate"]; said {
		out["rx_rate"], out["tx_rate"] = v, v
	}
	maps.Copy(out, set)
	delete(out, "rate")
	return out
}

// burstOf is a rate's burst in bytes, and 0 without a rate.
func burstOf(r dataplane.Rate) uint64 {
	if r.Bits == 0 {
		return 0
	}
	return cmp.Or(r.Burst, r.DefaultBurst())
}

// Units of tc(8).
var (
	rateUnits  = map[string]float64{"bit": 1, "": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
	burstUnits = map[string]float64{"b": 1, "": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}
)

// parseRate reads RATE[/BURST], such as 10mbit/64kb, or off.
func parseRate(s string) (r dataplane.Rate, err error) {
	if s == string(api.Off) {
		return r, nil
	}
	rate, burst, withBurst := strings.Cut(strings.ToLower(s), "/")
	bits, ok := quantity(rate, rateUnits)
	if !ok {
		return r, fmt.Errorf("%q is no rate: say off, or such as 10mbit, 1.5gbit, 10mbit/64kb (with the burst in bytes)", s)
	}
	if bits < api.MinRate || bits > api.MaxRate {
		return r, fmt.Errorf("%s is out of range: 1kbit to 1tbit", rate)
	}
	r.Bits = uint64(bits)
	if !withBurst {
		return r, nil
	}
	bytes, ok := quantity(burst, burstUnits)
	if !ok {
		return r, fmt.Errorf("%q is no burst: say such as 64kb", burst)
	}
	if bytes < api.MinBurst || bytes > api.MaxBurst {
		return r, fmt.Errorf("burst %s is out of range: %db to 1gb", burst, api.MinBurst)
	}
	r.Burst = uint64(bytes)
	return r, nil
}

// quantity reads a number with a unit.
func quantity(s string, units map[string]float64) (float64, bool) {
	at := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if at < 0 {
		at = len(s)
	}
	unit, known := units[s[at:]]
	v, err := strconv.ParseFloat(s[:at], 64)
	return math.Round(v * unit), known && err == nil
}
