package explain

import (
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// The description of a dropped packet has its length, if that was the reason, and is one that a trace takes.
func TestWords(t *testing.T) {
	for want, v := range map[string]api.Verdict{
		"icmp 172.29.0.3 > 203.0.113.8 len 3000 df":          {Reason: "fragmentation_needed", Protocol: "icmp", Src: "172.29.0.3", Dst: "203.0.113.8", Length: 3042},
		"icmp 172.29.0.3 > 203.0.113.8":                      {Reason: "policy_denied", Protocol: "icmp", Src: "172.29.0.3", Dst: "203.0.113.8", Length: 3042},
		"tcp [2001:db8::1]:80 > [2001:db8::2]:90 len 926 df": {Reason: "exceeds_mtu", Protocol: "tcp", Src: "2001:db8::1", Dst: "2001:db8::2", Sport: 80, Dport: 90, Length: 1000},
		"icmp 2001:db8::1 > 2001:db8::2":                     {Reason: "no_route", Protocol: "icmpv6", Src: "2001:db8::1", Dst: "2001:db8::2"},
		"":                                                   {Reason: "no_route", Protocol: "gre", Src: "172.29.0.3", Dst: "203.0.113.8"},
	} {
		got := Words(&v)
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if _, err := parseSpec(got); err != nil && want != "" {
			t.Errorf("%q: %v", got, err)
		}
	}
}
