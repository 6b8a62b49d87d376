package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A rule is read as it is meant, and what String writes is read as the same rule.
func TestParse(t *testing.T) {
	pfx := netip.MustParsePrefix
	for _, tt := range []struct {
		text, usual string // usual is what String writes; "": text
		want        Rule
	}{
		{"egress allow", "egress allow any", Rule{Action: Allow, Proto: AnyProto}},
		{"ingress drop", "ingress drop any", Rule{Direction: Ingress, Action: Drop, Proto: AnyProto}},
		{"egress allow any", "", Rule{Action: Allow, Proto: AnyProto}},
		{"  egress\t allow   any\n", "egress allow any", Rule{Action: Allow, Proto: AnyProto}},
		{"egress reject log", "egress reject any log", Rule{Action: Reject, Proto: AnyProto, Log: true}},
		{"egress reject any log", "", Rule{Action: Reject, Proto: AnyProto, Log: true}},
		{"egress allow tcp", "egress allow any tcp", Rule{Action: Allow, Proto: frame.TCP}},
		{"egress drop tcp/443 log", "egress drop any tcp/443 log", Rule{Action: Drop, Proto: frame.TCP, Ports: []PortRange{{443, 443}}, Log: true}},
		{"egress allow inside", "", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: OfClass, Class: Inside}}},
		{"ingress allow outside udp", "", Rule{Direction: Ingress, Action: Allow, Proto: frame.UDP, Peer: Peer{Kind: OfClass, Class: Outside}}},
		{"ingress allow host", "", Rule{Direction: Ingress, Action: Allow, Proto: AnyProto, Peer: Peer{Kind: OfClass, Class: Host}}},
		{"egress drop 192.0.2.0/24", "", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: Prefix, Prefix: pfx("192.0.2.0/24")}}},
		{"egress drop 192.0.2.1", "", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: Prefix, Prefix: pfx("192.0.2.1/32")}}},
		{"egress drop 192.0.2.1/32", "egress drop 192.0.2.1", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: Prefix, Prefix: pfx("192.0.2.1/32")}}},
		{"egress drop 0.0.0.0/0", "", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: Prefix, Prefix: pfx("0.0.0.0/0")}}},
		{"egress drop ::/0", "", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: Prefix, Prefix: pfx("::/0")}}},
		{"egress drop 2001:DB8:0:0::/32", "egress drop 2001:db8::/32", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: Prefix, Prefix: pfx("2001:db8::/32")}}},
		{"egress drop 2001:db8::1 icmp", "", Rule{Action: Drop, Proto: frame.ICMP, Peer: Peer{Kind: Prefix, Prefix: pfx("2001:db8::1/128")}}},
		{"ingress allow port:web tcp/80", "", Rule{Direction: Ingress, Action: Allow, Proto: frame.TCP, Ports: []PortRange{{80, 80}}, Peer: Peer{Kind: PortPeer, Name: "web"}}},
		{"egress allow port:Web", "", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: PortPeer, Name: "Web"}}},
		{"egress allow network:db", "", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: NetworkPeer, Name: "db"}}},
		{"egress allow port:log", "", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: PortPeer, Name: "log"}}},
		{"egress drop port:log log", "", Rule{Action: Drop, Proto: AnyProto, Peer: Peer{Kind: PortPeer, Name: "log"}, Log: true}},
		{"egress allow name:API.Example.com. tcp/443", "egress allow name:api.example.com tcp/443", Rule{Action: Allow, Proto: frame.TCP, Ports: []PortRange{{443, 443}}, Peer: Peer{Kind: NamePeer, Name: "api.example.com"}}},
		{"egress allow name:*.Example.com", "egress allow name:*.example.com", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: NamePeer, Name: "*.example.com"}}},
		{"egress allow name:*.com", "", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: NamePeer, Name: "*.com"}}},
		{"egress allow name:db", "", Rule{Action: Allow, Proto: AnyProto, Peer: Peer{Kind: NamePeer, Name: "db"}}},
		{"egress allow any icmpv6", "egress allow any icmp", Rule{Action: Allow, Proto: frame.ICMP}},
		{"egress allow icmp6", "egress allow any icmp", Rule{Action: Allow, Proto: frame.ICMP}},
		{"egress allow 58", "egress allow any icmp", Rule{Action: Allow, Proto: frame.ICMP}},
		{"egress allow proto-58", "egress allow any icmp", Rule{Action: Allow, Proto: frame.ICMP}},
		{"egress allow 6/443", "egress allow any tcp/443", Rule{Action: Allow, Proto: frame.TCP, Ports: []PortRange{{443, 443}}}},
		{"egress allow 0", "egress allow any proto-0", Rule{Action: Allow, Proto: 0}},
		{"egress allow 254", "egress allow any proto-254", Rule{Action: Allow, Proto: 254}},
		{"egress allow proto-89", "egress allow any proto-89", Rule{Action: Allow, Proto: 89}},
		{"egress allow sctp/1", "egress allow any sctp/1", Rule{Action: Allow, Proto: frame.SCTP, Ports: []PortRange{{1, 1}}}},
		{"egress allow udplite/65535", "egress allow any udplite/65535", Rule{Action: Allow, Proto: frame.UDPLite, Ports: []PortRange{{65535, 65535}}}},
		{"egress allow dccp/1-65535", "egress allow any dccp/1-65535", Rule{Action: Allow, Proto: frame.DCCP, Ports: []PortRange{{1, 65535}}}},
		{"egress allow any tcp/8000-8010,443,0080,9-9", "egress allow any tcp/9,80,443,8000-8010", Rule{Action: Allow, Proto: frame.TCP, Ports: []PortRange{{9, 9}, {80, 80}, {443, 443}, {8000, 8010}}}},
		{"egress allow any udp/5-9,7,5-9", "", Rule{Action: Allow, Proto: frame.UDP, Ports: []PortRange{{5, 9}, {5, 9}, {7, 7}}}},
	} {
		r, err := Parse(tt.text)
		if err != nil || !reflect.DeepEqual(r, tt.want) {
			t.Errorf("%q: %+v, %v, want %+v", tt.text, r, err, tt.want)
			continue
		}
		if tt.usual != "" && r.String() != tt.usual {
			t.Errorf("%q: String is %q, want %q", tt.text, r, tt.usual)
		}
		if again, err := Parse(r.String()); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%q: String is %q, which is %+v, %v", tt.text, r, again, err)
		}
	}
}

// Parse refuses a text that is no rule. Its error says what to write.
func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ text, helps string }{
		{"", "DIRECTION ACTION [PEER]"},
		{"egress", "such as: egress allow name:api.example.com tcp/443"},
		{"out allow any", "egress (flows that begin at the port)"},
		{"Egress allow any", "ingress (flows that begin elsewhere)"},
		{"allow egress any", "egress"},
		{"egress accept any", "allow, reject or drop"},
		{"egress Allow any", "allow, reject or drop"},
		{"egress none any", "allow, reject or drop"},
		{"egress allow everybody", "a peer is any, inside, outside, host, an address, a subnet, port:NAME, network:NAME or name:NAME"},
		{"egress allow special", "no peer and no protocol"},
		{"egress allow Inside", "no peer and no protocol"},
		{"egress allow api.example.com", "did you mean name:api.example.com?"},
		{"egress allow any 443/tcp", "did you mean tcp/443?"},
		{"egress allow 53/udp", "did you mean udp/53?"},
		{"out allow any", "did you mean egress?"},
		{"egress accept any", "did you mean allow?"},
		{"ingress deny any", "reject (the sender is told) or drop"},
		{"egress allow log", "log stands in rules that reject or drop"},
		{"egress allow name:example.com tcp/443 log", "log stands in rules that reject or drop"},
		{"egress drop log log", "no peer and no protocol"},
		{"egress allow log tcp", "no peer and no protocol"},
		{"egress allow 255", "no peer and no protocol"},
		{"egress allow proto-255", "no peer and no protocol"},
		{"egress allow 256", "no peer and no protocol"},
		{"egress allow +6", "no peer and no protocol"},
		{"egress allow /443", "no peer and no protocol"},
		{"egress allow 192.0.2.256", "no peer and no protocol"},
		{"egress allow 192.0.2.0/33", "33 is not the length of a prefix"},
		{"egress allow 192.0.2.0-192.0.2.9", "no peer and no protocol"},
		{"egress allow fe80::1%eth0", "no peer and no protocol"},
		{"egress allow 192.0.2.1/24", "did you mean 192.0.2.0/24 or 192.0.2.1?"},
		{"egress allow 2001:db8::1/64", "did you mean 2001:db8::/64 or 2001:db8::1?"},
		{"egress allow port:", "a name must follow the colon"},
		{"egress allow network:", "a name must follow the colon"},
		{"egress allow name:", "not a name of DNS"},
		{"egress allow name:.", "not a name of DNS"},
		{"egress allow name:.example.com", "not a name of DNS"},
		{"egress allow name:example.com..", "not a name of DNS"},
		{"egress allow name:a..example.com", "not a name of DNS"},
		{"egress allow name:https://example.com", "not a name of DNS"},
		{"egress allow name:example.com:443", "not a name of DNS"},
		{"egress allow name:*..", "not a name of DNS"},
		{"egress allow name:" + strings.Repeat("a.", 126) + "aa", "not a name of DNS"},
		{"egress allow name:*", "as in *.example.com"},
		{"egress allow name:*.*.example.com", "as in *.example.com"},
		{"egress allow name:a.*.example.com", "as in *.example.com"},
		{"egress allow name:*example.com", "as in *.example.com"},
		{"egress drop name:example.com", "egress allow"},
		{"egress reject name:example.com", "egress allow"},
		{"ingress allow name:example.com", "egress allow"},
		{"egress allow any http", "tcp, udp, icmp, sctp, or a number"},
		{"egress allow any TCP", "tcp, udp, icmp, sctp, or a number"},
		{"egress allow any any", "not a protocol"},
		{"egress allow any icmp/8", "icmp has no ports"},
		{"egress allow any 1/8", "has no ports"},
		{"egress allow any gre/", "gre has no ports"},
		{"egress allow any tcp/", "443 or 8000-8010"},
		{"egress allow any tcp/0", "443 or 8000-8010"},
		{"egress allow any tcp/0-9", "443 or 8000-8010"},
		{"egress allow any tcp/65536", "443 or 8000-8010"},
		{"egress allow any tcp/1-65536", "443 or 8000-8010"},
		{"egress allow any tcp/9-8", "443 or 8000-8010"},
		{"egress allow any tcp/9-", "443 or 8000-8010"},
		{"egress allow any tcp/-9", "443 or 8000-8010"},
		{"egress allow any tcp/1-2-3", "443 or 8000-8010"},
		{"egress allow any tcp/80,", "443 or 8000-8010"},
		{"egress allow any tcp/http", "443 or 8000-8010"},
		{"egress allow any tcp/80/81", "443 or 8000-8010"},
		{"egress allow any tcp/80 udp/53", "nothing but log follows the protocol"},
		{"egress allow tcp 192.0.2.1", "nothing but log follows the protocol"},
		{"egress allow any tcp/80 LOG", "nothing but log follows the protocol"},
		{"egress allow 192.0.2.1 log tcp", "not a protocol"},
	} {
		_, err := Parse(tt.text)
		switch {
		case err == nil:
			t.Errorf("%q is accepted", tt.text)
		case !strings.Contains(err.Error(), tt.helps):
			t.Errorf("%q: the error %q lacks %q", tt.text, err, tt.helps)
		case !strings.Contains(err.Error(), fmt.Sprintf("rule %q", tt.text)):
			t.Errorf("%q: the error %q does not name the rule", tt.text, err)
		}
	}
}

// The longest name of DNS has 253 characters, with or without "*.".
func TestParseLongName(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a"
	for _, name := range []string{long, long + ".", "*." + long} {
		if _, err := Parse("egress allow name:" + name); err != nil {
			t.Error(err)
		}
	}
}

// FuzzRule checks that Parse takes any text, and that what it accepts can be written and read again.
func FuzzRule(f *testing.F) {
	for _, text := range []string{
		"", "egress allow", "ingress drop any log", "egress allow name:api.example.com tcp/443", "egress allow name:*.Example.com. udp/53,1-9",
		"egress reject 192.0.2.0/24 icmp", "egress drop ::ffff:192.0.2.1", "ingress allow port:web tcp/80-81,80-82", "ingress drop any udp/9 log", "egress allow network:db proto-99", "egress allow inside 58",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q is %+v; String is %q, which is %+v, %v", text, r, r, again, err)
		}
		if r.Direction > Ingress || r.Action < Allow || r.Action > Drop {
			t.Fatalf("%q is %+v", text, r)
		}
		for i, p := range r.Ports {
			if p.Lo == 0 || p.Hi < p.Lo || i > 0 && p.Lo < r.Ports[i-1].Lo || !frame.HasPorts(r.Proto) {
				t.Fatalf("%q has ports %v", text, r.Ports)
			}
		}
	})
}
