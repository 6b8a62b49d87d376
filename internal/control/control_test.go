package control

import (
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func TestParsePublish(t *testing.T) {
	for spec, want := range map[string]rule{
		"8080:80":               {hostAddr: netip.IPv4Unspecified(), lo: 8080, hi: 8080, target: 80, proto: "tcp"},
		"8080:80/udp":           {hostAddr: netip.IPv4Unspecified(), lo: 8080, hi: 8080, target: 80, proto: "udp"},
		"127.0.0.1:8080:80/tcp": {hostAddr: netip.MustParseAddr("127.0.0.1"), lo: 8080, hi: 8080, target: 80, proto: "tcp"},
		"9000-9009:80":          {hostAddr: netip.IPv4Unspecified(), lo: 9000, hi: 9009, target: 80, proto: "tcp"},
	} {
		r, err := parsePublish(spec)
		if err != nil || r.hostAddr != want.hostAddr || r.lo != want.lo || r.hi != want.hi || r.target != want.target || r.proto != want.proto {
			t.Errorf("%s: %+v %v", spec, r, err)
		}
	}
	for _, bad := range []string{"", "80", "a:80", "80:a", "0:80", "80:0", "70000:80", "90-80:1", "1-65535:2", "1:2:3:4", "::1:80:80", "80:80/icmp", "80:80/"} {
		if r, err := parsePublish(bad); err == nil {
			t.Errorf("%q is %+v", bad, r)
		}
	}
}

func TestParseRanges(t *testing.T) {
	if r, err := ParseRanges("20000-29999, 61000"); err != nil || len(r) != 2 || r[0] != [2]uint16{20000, 29999} || r[1] != [2]uint16{61000, 61000} {
		t.Errorf("%v %v", r, err)
	}
	for _, bad := range []string{"", "0-2", "3000-2000", "x", "2000-", "2000-70000"} {
		if r, err := ParseRanges(bad); err == nil {
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
	if a := last(netip.MustParsePrefix("172.29.0.0/16")); a.String() != "172.29.255.255" {
		t.Errorf("last is %v", a)
	}
}

// Bodies of the API: anything but one JSON object with known keys is an error, and nothing panics.
func FuzzBody(f *testing.F) {
	f.Add(`{"name":"web","netns":"web"}`)
	f.Add(`{"nmae":"web"}`)
	f.Add(`{}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := body[api.PortAdd](httptest.NewRequest("POST", "/v1/ports", strings.NewReader(text)))
		if err == nil && !json.Valid([]byte(text)) {
			t.Errorf("%q is not JSON, and was read as %+v", text, v)
		}
		if p, err := body[api.PublishAdd](httptest.NewRequest("POST", "/v1/publish", strings.NewReader(text))); err == nil {
			_, _ = parsePublish(p.Spec)
		}
	})
}
