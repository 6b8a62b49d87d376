package dhcp

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var lease = Lease{
	Addr: netip.MustParsePrefix("172.29.0.7/16"), Server: netip.MustParseAddr("172.29.0.1"), Router: netip.MustParseAddr("172.29.0.1"),
	DNS: []netip.Addr{netip.MustParseAddr("172.29.0.1"), netip.MustParseAddr("fd00::1")}, Domain: "default.uvs.internal", Name: "vm", MTU: 1400, Time: time.Hour,
	Routes: []Route{{netip.MustParsePrefix("10.8.0.0/13"), netip.MustParseAddr("172.29.0.9")}},
}

func answer(message []byte, l Lease) (r Reply, q Question, refusal Refusal) {
	if q, refusal = Parse(message); refusal == "" {
		r, refusal = q.Answer(l)
	}
	return r, q, refusal
}

type option struct {
	of   layers.DHCPOpt
	data []byte
}

func message(t layers.DHCPMsgType, edit func(*layers.DHCPv4), options ...option) []byte {
	m := layers.DHCPv4{
		Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: 0x12345678, ClientHWAddr: []byte{2, 0, 0, 0, 0, 7},
		ClientIP: make([]byte, 4), YourClientIP: make([]byte, 4), NextServerIP: make([]byte, 4), RelayAgentIP: make([]byte, 4),
	}
	if t != 0 {
		m.Options = append(m.Options, layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(t)}))
	}
	for _, o := range options {
		m.Options = append(m.Options, layers.NewDHCPOption(o.of, o.data))
	}
	if edit != nil {
		edit(&m)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := m.SerializeTo(buf, gopacket.SerializeOptions{FixLengths: true}); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// A DHCPREQUEST is answered by what it names: a server, an address, or neither. DHCPINFORM gives no address. BOOTP and relays are refused.
func TestRFC2131_4_3_2_Answers(t *testing.T) {
	const discover, request, ack, nak, offer = layers.DHCPMsgTypeDiscover, layers.DHCPMsgTypeRequest, layers.DHCPMsgTypeAck, layers.DHCPMsgTypeNak, layers.DHCPMsgTypeOffer
	ours, other := option{layers.DHCPOptServerID, []byte{172, 29, 0, 1}}, option{layers.DHCPOptServerID, []byte{172, 29, 0, 9}}
	right, wrong := option{layers.DHCPOptRequestIP, []byte{172, 29, 0, 7}}, option{layers.DHCPOptRequestIP, []byte{172, 29, 0, 8}}
	has := func(last byte) func(*layers.DHCPv4) {
		return func(m *layers.DHCPv4) { m.ClientIP = []byte{172, 29, 0, last} }
	}
	everyone := "255.255.255.255"
	for name, tt := range map[string]struct {
		message []byte
		want    layers.DHCPMsgType
		to      string
		refusal Refusal
	}{
		"discover":                           {message(discover, nil), offer, "172.29.0.7", ""},
		"discover, asks for another address": {message(discover, nil, wrong), offer, "172.29.0.7", ""},
		"discover, by broadcast":             {message(discover, func(m *layers.DHCPv4) { m.Flags = 0x8000 }), offer, everyone, ""},
		"selecting":                          {message(request, nil, ours, right), ack, "172.29.0.7", ""},
		"selecting another server":           {message(request, nil, other, right), 0, "", NotForUs},
		"selecting what was not offered":     {message(request, nil, ours, wrong), nak, everyone, ""},
		"after a reboot":                     {message(request, nil, right), ack, "172.29.0.7", ""},
		"after a reboot elsewhere":           {message(request, nil, wrong), nak, everyone, ""},
		"renewing":                           {message(request, has(7)), ack, "172.29.0.7", ""},
		"renewing what is another's":         {message(request, has(8)), nak, everyone, ""},
		"inform":                             {message(layers.DHCPMsgTypeInform, has(44)), ack, "172.29.0.44", ""},
		"release":                            {message(layers.DHCPMsgTypeRelease, has(7), ours), 0, "", NoQuestion},
		"decline":                            {message(layers.DHCPMsgTypeDecline, nil, ours, right), 0, "", NoQuestion},
		"BOOTP":                              {message(0, nil), 0, "", NotDHCP},
		"by a relay":                         {message(discover, func(m *layers.DHCPv4) { m.RelayAgentIP = []byte{172, 29, 0, 1} }), 0, "", Relayed},
		"a reply":                            {message(offer, func(m *layers.DHCPv4) { m.Operation = layers.DHCPOpReply }), 0, "", Malformed},
		"too short":                          {message(discover, nil)[:200], 0, "", Malformed},
	} {
		r, _, refusal := answer(tt.message, lease)
		if refusal != tt.refusal || r.Type != tt.want || tt.to != "" && r.To.String() != tt.to {
			t.Errorf("%s: %v to %v, %q; want %v to %s, %q", name, r.Type, r.To, refusal, tt.want, tt.to, tt.refusal)
		}
		if tt.want == 0 {
			continue
		}
		var m layers.DHCPv4
		if err := m.DecodeFromBytes(r.Payload, gopacket.NilDecodeFeedback); err != nil {
			t.Fatal(err)
		}
		options := map[layers.DHCPOpt]string{}
		for _, o := range m.Options {
			options[o.Type] = string(o.Data)
		}
		gives := tt.want != nak && name != "inform"
		if m.Operation != layers.DHCPOpReply || m.Xid != 0x12345678 || m.ClientHWAddr.String() != "02:00:00:00:00:07" || m.YourClientIP.Equal([]byte{172, 29, 0, 7}) != gives || len(r.Payload) < 300 {
			t.Errorf("%s: %+v", name, m)
		}
		if options[layers.DHCPOptServerID] != string([]byte{172, 29, 0, 1}) || (options[layers.DHCPOptLeaseTime] != "") != gives {
			t.Errorf("%s: %v", name, options)
		}
		if gives && (options[layers.DHCPOptSubnetMask] != "\xff\xff\x00\x00" || options[layers.DHCPOptRouter] != "\xac\x1d\x00\x01" || options[layers.DHCPOptDNS] != "\xac\x1d\x00\x01" ||
			options[layers.DHCPOptDomainName] != "default.uvs.internal" || options[layers.DHCPOptHostname] != "vm" || options[layers.DHCPOptInterfaceMTU] != "\x05\x78" ||
			options[optDomainSearch] != "\x07default\x03uvs\x08internal\x00" || options[layers.DHCPOptClasslessStaticRoute] != "\x0d\x0a\x08\xac\x1d\x00\x09\x00\xac\x1d\x00\x01" ||
			options[layers.DHCPOptBroadcastAddr] != "\xac\x1d\xff\xff" || options[layers.DHCPOptT1] != "\x00\x00\x07\x08") {
			t.Errorf("%s: %q", name, options)
		}
	}
}

// A reply has room for what the station takes: 576 bytes, or what it says (RFC 2132, 9.10). The most important options come first.
func TestRFC2132_9_10_MaximumSize(t *testing.T) {
	long := lease
	long.Domain = strings.Repeat("a.", 120) + "example"
	long.Routes = nil
	for range 20 {
		long.Routes = append(long.Routes, lease.Routes[0])
	}
	for size, all := range map[int]bool{0: false, 300: false, 1500: true} {
		var options []option
		if size > 0 {
			options = append(options, option{layers.DHCPOptMaxMessageSize, []byte{byte(size >> 8), byte(size)}})
		}
		r, _, _ := answer(message(layers.DHCPMsgTypeDiscover, nil, options...), long)
		if got := len(r.Payload) + 28; got > max(576, size) {
			t.Errorf("size %d: %d bytes", size, got)
		}
		if bytes.Contains(r.Payload, []byte("\x0c\x02vm")) != all || !bytes.Contains(r.Payload, []byte{1, 4, 255, 255, 0, 0}) {
			t.Errorf("size %d: %q", size, r.Payload[240:])
		}
	}
}

// A lease without an address refuses what the station asks for.
func TestRefuses(t *testing.T) {
	none := lease
	none.Addr = netip.Prefix{}
	r, _, refusal := answer(message(layers.DHCPMsgTypeRequest, nil, option{layers.DHCPOptRequestIP, []byte{172, 29, 0, 7}}), none)
	if r.Type != layers.DHCPMsgTypeNak || r.To != Everyone || refusal != "" {
		t.Errorf("%v to %v, %q", r.Type, r.To, refusal)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(message(layers.DHCPMsgTypeDiscover, nil))
	f.Add(message(layers.DHCPMsgTypeRequest, nil, option{layers.DHCPOptServerID, []byte{172, 29, 0, 1}}, option{layers.DHCPOptRequestIP, []byte{172, 29, 0, 7}}))
	f.Fuzz(func(t *testing.T, m []byte) {
		r, asked, refusal := answer(m, lease)
		if (refusal == "") != (len(r.Payload) >= minReply) || refusal == "" && asked.Type == 0 {
			t.Errorf("%d bytes of type %v for %v, %q", len(r.Payload), r.Type, asked.Type, refusal)
		}
	})
}
