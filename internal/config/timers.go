package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// maxTimer is the longest time-out, a year, in seconds.
const maxTimer = 365 * 24 * 3600

// Timers are the time-outs of idle flows, in seconds: a profile, and what differs from it. `timers: linux` is the short
// form of {profile: linux}.
type Timers struct {
	Profile     string            `yaml:"profile,omitempty"`         // what the other keys change; rfc (the default) or linux
	UDP         uint32            `yaml:"udp,omitempty"`             // UDP that was not answered
	UDPStream   uint32            `yaml:"udp_stream,omitempty"`      // UDP in both directions
	UDPShort    uint32            `yaml:"udp_short,omitempty"`       // UDP to a well-known port, such as a question for a name
	SynSent     uint32            `yaml:"tcp_syn_sent,omitempty"`    // TCP in state SYN_SENT
	SynRecv     uint32            `yaml:"tcp_syn_recv,omitempty"`    // TCP in state SYN_RECV
	Established uint32            `yaml:"tcp_established,omitempty"` // TCP in state ESTABLISHED
	FinWait     uint32            `yaml:"tcp_fin_wait,omitempty"`    // TCP in state FIN_WAIT
	CloseWait   uint32            `yaml:"tcp_close_wait,omitempty"`  // TCP in state CLOSE_WAIT
	LastAck     uint32            `yaml:"tcp_last_ack,omitempty"`    // TCP in state LAST_ACK
	TimeWait    uint32            `yaml:"tcp_time_wait,omitempty"`   // TCP in state TIME_WAIT
	TCPReset    uint32            `yaml:"tcp_close,omitempty"`       // TCP after a reset
	ICMP        uint32            `yaml:"icmp,omitempty"`            // pings
	Generic     uint32            `yaml:"generic,omitempty"`         // other protocols
	Ports       map[string]uint32 `yaml:"ports,omitempty"`           // seconds by destination port, such as 5060/udp: 600
}

// The keys of time-outs stand in the tags of Timers alone. Its fields and those of nat.Timers have the same names.

// NAT returns the profile with what the file changes of it.
func (t Timers) NAT() (nat.Timers, error) {
	out := nat.RFCTimers()
	if t.Profile == "linux" {
		out = nat.LinuxTimers()
	}
	from, to := reflect.ValueOf(t), reflect.ValueOf(&out).Elem()
	for key, field := range timerFields() {
		seconds := from.FieldByName(field).Uint()
		if seconds > maxTimer {
			return out, fmt.Errorf("config: nat.timers.%s: %d seconds is longer than the longest time-out, %d", key, seconds, maxTimer)
		}
		if seconds != 0 {
			to.FieldByName(field).SetUint(seconds)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(t.Ports)) {
		seconds := t.Ports[k]
		port, proto, _ := strings.Cut(k, "/")
		number, ok := frame.ProtoNumber(proto)
		p, err := strconv.ParseUint(port, 10, 16)
		if !ok || err != nil || p == 0 || seconds == 0 || seconds > maxTimer {
			return out, fmt.Errorf("config: nat.timers.ports: %q: %d is not valid; write PORT/PROTOCOL and 1 to %d seconds, such as \"5060/udp\": 600", k, seconds, maxTimer)
		}
		out.Ports = append(out.Ports, nat.PortTimer{Proto: number, Port: uint16(p), Seconds: seconds})
	}
	return out, nil
}

// timerFields are the fields of Timers that are a number of seconds, by their keys.
func timerFields() map[string]string {
	out := map[string]string{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Timers]()) {
		if f.Type.Kind() == reflect.Uint32 {
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			out[key] = f.Name
		}
	}
	return out
}

// TimerKeys returns the time-outs in force, in seconds, by the keys of the file, and by PORT/PROTOCOL. The zero Timers are the
// defaults.
func TimerKeys(t nat.Timers) map[string]uint32 {
	if t.Established == 0 {
		t = nat.RFCTimers()
	}
	v, out := reflect.ValueOf(t), map[string]uint32{}
	for key, field := range timerFields() {
		out[key] = uint32(v.FieldByName(field).Uint())
	}
	for _, p := range t.Ports {
		out[fmt.Sprintf("%d/%s", p.Port, frame.ProtoName(p.Proto))] = p.Seconds
	}
	return out
}

// timersFrom is the reverse of TimerKeys.
func timersFrom(m map[string]uint32) Timers {
	t := Timers{Profile: "rfc"}
	v := reflect.ValueOf(&t).Elem()
	fields := timerFields()
	for key, seconds := range m {
		if field, ok := fields[key]; ok {
			v.FieldByName(field).SetUint(uint64(seconds))
		} else {
			if t.Ports == nil {
				t.Ports = map[string]uint32{}
			}
			t.Ports[key] = seconds
		}
	}
	return t
}
