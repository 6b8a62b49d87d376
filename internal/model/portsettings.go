package model

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// Settings are what `port set` changes while a port forwards.
type Settings struct {
	Flags vswitch.PortFlags
	Rx    dataplane.Rate // limits what the switch receives from the port
	Tx    dataplane.Rate // limits what the switch sends to the port
	Storm vswitch.StormLimits
}

// newSettings are those of a new port with these flags.
func newSettings(flags vswitch.PortFlags) Settings {
	return Settings{Flags: flags, Storm: vswitch.DefaultStormLimits}
}

// flagNames are the settings that are on or off, by the names of `bridge link`.
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
	{vlanSetting, vswitch.AnyVLAN},
	{serversSetting, vswitch.AnyServer},
	{dhcpSetting, vswitch.AsksDHCP},
}

// dhcpSetting says whether the gateway answers the port's DHCP questions.
const dhcpSetting = "dhcp"

// These settings are any, as others are on, or off. serversSetting says whether the station may act as a router or as a DHCP server.
const (
	vlanSetting    = "vlan"
	serversSetting = "servers"
)

// SettingOf is the value of a setting that is on or off, or any or off.
func SettingOf(name string, on bool) api.Setting {
	if on && (name == vlanSetting || name == serversSetting) {
		return api.Any
	}
	return api.Switch(on)
}

// rateNames are the settings that are a rate. "rate" stands for the two others.
const (
	bothRates = "rate"
	rateFrom  = "rate_from"
	rateTo    = "rate_to"
)

// oldNames are names of settings that are accepted, too.
var oldNames = map[string]string{"rx_rate": rateFrom, "tx_rate": rateTo}

// stormNames are the settings that are a number of frames per second.
var stormNames = [frame.FloodClasses]string{frame.UnknownUnicast: "storm_ucast", frame.Broadcast: "storm_bcast", frame.Multicast: "storm_mcast"}

// maxStorm bounds these settings.
const maxStorm = 100_000_000

// SettingNames lists every setting, for help and for errors.
func SettingNames() (out []string) {
	for _, f := range flagNames {
		out = append(out, f.name)
	}
	return append(append(out, bothRates, rateFrom, rateTo), stormNames[:]...)
}

// FlagMap names the settings that are on or off.
func (s Settings) FlagMap() map[string]bool {
	m := map[string]bool{}
	for _, n := range flagNames {
		m[n.name] = s.Flags&n.flag != 0
	}
	return m
}

// StormMap names the limits of floods, in frames per second; 0: no limit.
func (s Settings) StormMap() map[string]uint32 {
	m := map[string]uint32{}
	for class, name := range stormNames {
		m[name] = s.Storm[class]
	}
	return m
}

// DefaultStorm is the default of a setting in StormMap.
func DefaultStorm(name string) uint32 {
	return Settings{Storm: vswitch.DefaultStormLimits}.StormMap()[name]
}

// Set is the request that makes a port have these settings.
func (s Settings) Set() api.PortSet {
	set := api.PortSet{rateFrom: api.RateSetting(s.Rx.Bits, s.Rx.Burst), rateTo: api.RateSetting(s.Tx.Bits, s.Tx.Burst)}
	for name, on := range s.FlagMap() {
		set[name] = api.Switch(on)
	}
	for name, limit := range s.StormMap() {
		set[name] = api.StormSetting(limit)
	}
	return set
}

// Change returns the settings of p after a request. Those that the request does not name stay.
func (p *Port) Change(set api.PortSet) (Settings, error) { return p.Settings.with(p, set) }

// with returns s, which are p's, with what set asks for.
func (s Settings) with(p *Port, set api.PortSet) (Settings, error) {
	for old, name := range oldNames {
		if _, both := set[name]; set[old] != "" && both {
			return s, bad("port %q: %s is the old name of %s: give one of them", p.Name, old, name)
		}
	}
	set = renamed(set)
	for _, name := range slices.Sorted(maps.Keys(set)) { // rate_from and rate_to after rate
		if err := s.apply(p, name, set[name]); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *Settings) apply(p *Port, name string, v api.Setting) error {
	if name == bothRates || name == rateFrom || name == rateTo {
		r, err := ParseRate(string(v))
		if err != nil {
			return bad("port %q: %s: %v", p.Name, name, err)
		}
		if name != rateTo {
			s.Rx = r
		}
		if name != rateFrom {
			s.Tx = r
		}
		return nil
	}
	if class := slices.Index(stormNames[:], name); class >= 0 && p.Kind != KindUplink {
		n, err := strconv.ParseUint(string(v), 10, 32)
		if v == api.Off {
			n, err = 0, nil
		} else if n == 0 || n > maxStorm || err != nil {
			return bad("port %q: %s %q: must be off, or a number of frames per second from 1 to %d", p.Name, name, v, maxStorm)
		}
		s.Storm[class] = uint32(n)
		return nil
	}
	for _, f := range flagNames {
		if f.name != name || p.Kind == KindUplink {
			continue
		}
		if name == dhcpSetting && p.Kind == KindHost && v != api.Off {
			return bad("port %q: the gateway gives the host no address; use --host ADDRESS of `uvswitch run`", p.Name)
		}
		yes := SettingOf(name, true)
		switch v {
		case yes, api.On: // what `port show` calls on
			s.Flags |= f.flag
		case api.Off:
			s.Flags &^= f.flag
		default:
			return bad("port %q: %s %q: must be %s or off", p.Name, name, v, yes)
		}
		return nil
	}
	names := SettingNames()
	if p.Kind == KindUplink {
		names = []string{bothRates, rateFrom, rateTo}
	}
	return bad("port %q has no setting %q; the settings are %s", p.Name, name, strings.Join(names, ", "))
}

// settingsAfterReload returns the request that makes p match now. A setting that was in the old file and is absent from the new
// one returns to its default; a setting that is in neither stays.
func (p *Port) settingsAfterReload(now api.PortSet) api.PortSet {
	standard := newSettings(vswitch.DefaultFlags)
	if p.Addr.IsValid() || p.NeedsLease() {
		standard.Flags |= vswitch.Guard
	}
	if p.Kind != KindDevice {
		standard.Flags |= vswitch.AsksDHCP
	}
	defaults := standard.Set()
	out := api.PortSet{}
	for name := range splitRates(p.Spec.Set) {
		out[name] = defaults[name]
	}
	maps.Copy(out, splitRates(now))
	return out
}

// renamed is set with present names in place of old ones.
func renamed(set api.PortSet) api.PortSet {
	out := api.PortSet{}
	for name, v := range set {
		out[cmp.Or(oldNames[name], name)] = v
	}
	return out
}

// splitRates is set with rate_from and rate_to in place of rate, and without old names.
func splitRates(set api.PortSet) api.PortSet {
	out := api.PortSet{}
	if v, ok := set[bothRates]; ok {
		out[rateFrom], out[rateTo] = v, v
	}
	maps.Copy(out, renamed(set))
	delete(out, bothRates)
	return out
}

// Burst returns a rate's burst in bytes, 0 without a rate.
func Burst(r dataplane.Rate) uint64 {
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

// ParseRate reads RATE[/BURST], such as 10mbit/64kb, or off.
func ParseRate(s string) (r dataplane.Rate, err error) {
	if s == string(api.Off) {
		return r, nil
	}
	rate, burst, withBurst := strings.Cut(strings.ToLower(s), "/")
	bits, ok := quantity(rate, rateUnits)
	if !ok {
		return r, fmt.Errorf("%q is not a rate: use off, or a rate such as 10mbit, 1.5gbit, 10mbit/64kb (with the burst in bytes)", s)
	}
	if bits < api.MinRate || bits > api.MaxRate {
		return r, fmt.Errorf("%s is out of range; use 1kbit to 1tbit", rate)
	}
	r.Bits = uint64(bits)
	if !withBurst {
		return r, nil
	}
	bytes, ok := quantity(burst, burstUnits)
	if !ok {
		return r, fmt.Errorf("%q is not a burst: use a size such as 64kb", burst)
	}
	if bytes < api.MinBurst || bytes > api.MaxBurst {
		return r, fmt.Errorf("burst %s is out of range; use %db to 1gb", burst, api.MinBurst)
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
