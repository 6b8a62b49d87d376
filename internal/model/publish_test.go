package model

import (
	"net/netip"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for spec, want := range map[string]Publish{
		"8080:80":               {HostAddr: netip.IPv4Unspecified(), Lo: 8080, Hi: 8080, Target: 80, Proto: "tcp"},
		"8080:80/udp":           {HostAddr: netip.IPv4Unspecified(), Lo: 8080, Hi: 8080, Target: 80, Proto: "udp"},
		"127.0.0.1:8080:80/tcp": {HostAddr: netip.MustParseAddr("127.0.0.1"), Lo: 8080, Hi: 8080, Target: 80, Proto: "tcp"},
		"9000-9009:80":          {HostAddr: netip.IPv4Unspecified(), Lo: 9000, Hi: 9009, Target: 80, Proto: "tcp"},
	} {
		r, err := parseSpec(spec)
		if err != nil || r.HostAddr != want.HostAddr || r.Lo != want.Lo || r.Hi != want.Hi || r.Target != want.Target || r.Proto != want.Proto {
			t.Errorf("%s: %+v %v", spec, r, err)
		}
	}
	for _, bad := range []string{"", "80", "a:80", "80:a", "0:80", "80:0", "70000:80", "90-80:1", "1-65535:2", "1:2:3:4", "::1:80:80", "80:80/icmp", "80:80/"} {
		if r, err := parseSpec(bad); err == nil {
			t.Errorf("%q is %+v", bad, r)
		}
	}
}

func TestParsePortRanges(t *testing.T) {
	if r, err := ParsePortRanges("20000-29999, 61000"); err != nil || len(r) != 2 || r[0] != [2]uint16{20000, 29999} || r[1] != [2]uint16{61000, 61000} {
		t.Errorf("%v %v", r, err)
	}
	for _, bad := range []string{"", "0-2", "3000-2000", "x", "2000-", "2000-70000"} {
		if r, err := ParsePortRanges(bad); err == nil {
			t.Errorf("%q is %v", bad, r)
		}
	}
}

func TestUsable(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/29")
	for addr, want := range map[string]bool{"10.0.0.0": false, "10.0.0.1": true, "10.0.0.6": true, "10.0.0.7": false, "10.0.0.8": false} {
		if usable(p, netip.MustParseAddr(addr)) != want {
			t.Errorf("%s: %v", addr, !want)
		}
	}
	if a := broadcast(netip.MustParsePrefix("172.29.0.0/16")); a.String() != "172.29.255.255" {
		t.Errorf("broadcast is %v", a)
	}
}
