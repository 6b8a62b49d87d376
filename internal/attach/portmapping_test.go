package attach

import (
	"strings"
	"testing"
)

func TestSpec(t *testing.T) {
	for want, m := range map[string]PortMapping{
		"8080:80/tcp":                 {HostPort: 8080, ContainerPort: 80},
		"53:53/udp":                   {HostPort: 53, ContainerPort: 53, Protocol: "UDP", HostIP: "0.0.0.0"},
		"0:80/tcp":                    {ContainerPort: 80},
		"[2001:db8::1]:8080:80/tcp":   {HostPort: 8080, ContainerPort: 80, HostIP: "2001:db8::1"},
		"81:80/tcp":                   {HostPort: 81, ContainerPort: 80, HostIP: "::"},
		"10.1.0.1:3000-3009:3000/tcp": {HostPort: 3000, ContainerPort: 3000, HostIP: "10.1.0.1", Count: 10},
	} {
		if got, err := m.Spec(); got != want || err != nil {
			t.Errorf("%+v is %q, %v; want %q", m, got, err, want)
		}
	}
	for want, m := range map[string]PortMapping{
		"8080:0 is not valid; a port is 1 to 65535": {HostPort: 8080},
		"70000:80 is not valid":                     {HostPort: 70000, ContainerPort: 80},
		`"localhost" is not an address of the host`: {HostPort: 8080, ContainerPort: 80, HostIP: "localhost"},
	} {
		if got, err := m.Spec(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v is %q, %v; want %q", m, got, err, want)
		}
	}
}

// A runtime may send each mapping for IPv4 and for IPv6; the copy is left out, and a mapping for IPv6 alone is not.
func TestIsDuplicate(t *testing.T) {
	four, six := PortMapping{HostPort: 80, ContainerPort: 80, Protocol: "tcp", HostIP: "0.0.0.0"}, PortMapping{HostPort: 80, ContainerPort: 80, Protocol: "tcp", HostIP: "::"}
	other := six
	other.Protocol = "udp"
	for _, tt := range []struct {
		m    PortMapping
		list []PortMapping
		want bool
	}{{six, []PortMapping{four, six}, true}, {four, []PortMapping{four, six}, false}, {six, []PortMapping{six}, false}, {other, []PortMapping{four, other}, false}} {
		if got := tt.m.IsDuplicate(tt.list); got != tt.want {
			t.Errorf("%+v of %+v: %v", tt.m, tt.list, got)
		}
	}
}
