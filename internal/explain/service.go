package explain

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/gopacket/layers"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/frame"
)

const dnsPort = 53

// serviceSummary is what a datagram of DHCP or DNS says, after a blank; empty for others.
func serviceSummary(f *frame.Frame) string {
	h := f.UDP()
	n := min(int(h.Length()), len(h))
	if n < frame.UDPLen || f.Flags&frame.Fragment != 0 {
		return ""
	}
	payload, src, dst := h[frame.UDPLen:n], f.Tuple.SrcPort, f.Tuple.DstPort
	switch {
	case src == dhcp.ServerPort || dst == dhcp.ServerPort:
		return dhcpSummary(payload)
	case src == dnsPort || dst == dnsPort:
		return dnsSummary(payload)
	}
	return ""
}

// dhcpSummary names the message and the address that it is about. The message may be cut.
func dhcpSummary(m []byte) string {
	const options = 240
	if len(m) < options {
		return ""
	}
	text, addr := "", netip.AddrFrom4([4]byte(m[16:])) // the one that the server gives, or else the one that the station has
	if addr.IsUnspecified() {
		addr = netip.AddrFrom4([4]byte(m[12:]))
	}
	for o := m[options:]; len(o) > 2 && o[0] != byte(layers.DHCPOptEnd); o = o[2+int(o[1]):] {
		for len(o) > 2 && o[0] == byte(layers.DHCPOptPad) {
			o = o[1:]
		}
		if len(o) < 3 || len(o) < 2+int(o[1]) {
			break
		}
		switch {
		case layers.DHCPOpt(o[0]) == layers.DHCPOptMessageType && o[1] == 1:
			text = " dhcp " + strings.ToLower(layers.DHCPMsgType(o[2]).String())
		case layers.DHCPOpt(o[0]) == layers.DHCPOptRequestIP && o[1] == 4:
			addr = netip.AddrFrom4([4]byte(o[2:]))
		}
	}
	if text != "" && !addr.IsUnspecified() {
		text += " " + addr.String()
	}
	return text
}

// dnsSummary is the question, or the answer's code and records.
func dnsSummary(payload []byte) string {
	var p dnsmessage.Parser
	h, err := p.Start(payload)
	if err != nil {
		return ""
	}
	q, err := p.Question()
	if err != nil || p.SkipAllQuestions() != nil {
		return ""
	}
	text := fmt.Sprintf(" dns %s? %s", strings.TrimPrefix(q.Type.String(), "Type"), printable(q.Name.String()))
	if !h.Response {
		return text
	}
	var found []string
	for {
		a, err := p.Answer()
		if err != nil {
			break
		}
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			found = append(found, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			found = append(found, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			found = append(found, printable(b.PTR.String()))
		case *dnsmessage.CNAMEResource:
			found = append(found, printable(b.CNAME.String()))
		}
	}
	switch {
	case h.RCode != dnsmessage.RCodeSuccess:
		text += " " + cmp.Or(rcodes[h.RCode], strings.TrimPrefix(h.RCode.String(), "RCode")) + extendedError(&p)
	case len(found) == 0 && binary.BigEndian.Uint16(payload[6:]) == 0:
		text += " no record"
	case len(found) == 0:
		text += fmt.Sprintf(" %d records", binary.BigEndian.Uint16(payload[6:]))
	default:
		text += " " + strings.Join(found, " ")
	}
	return text
}

// rcodes are names of errors as dig has them.
var rcodes = map[dnsmessage.RCode]string{
	dnsmessage.RCodeFormatError: "FORMERR", dnsmessage.RCodeServerFailure: "SERVFAIL", dnsmessage.RCodeNameError: "NXDOMAIN", dnsmessage.RCodeNotImplemented: "NOTIMP", dnsmessage.RCodeRefused: "REFUSED",
}

// extendedError is the text of the option that says why (RFC 8914, 2), in parentheses; empty without one. p has come to the end of the answers.
func extendedError(p *dnsmessage.Parser) string {
	const extended = 15
	if p.SkipAllAuthorities() != nil {
		return ""
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return ""
		}
		if h.Type != dnsmessage.TypeOPT {
			if p.SkipAdditional() != nil {
				return ""
			}
			continue
		}
		r, err := p.OPTResource()
		if err != nil {
			return ""
		}
		for _, o := range r.Options {
			if o.Code == extended && len(o.Data) > 2 {
				return " (" + printable(string(o.Data[2:])) + ")"
			}
		}
	}
}

// printable is a text from a packet without what terminals obey.
func printable(s string) string {
	quoted := strconv.QuoteToASCII(s)
	return quoted[1 : len(quoted)-1]
}

// discover is the question of a station that has no address yet.
func discover(mac frame.MAC) *layers.DHCPv4 {
	none := make([]byte, 4)
	return &layers.DHCPv4{
		Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, ClientHWAddr: mac.HardwareAddr(),
		ClientIP: none, YourClientIP: none, NextServerIP: none, RelayAgentIP: none,
		Options: layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeDiscover)})},
	}
}

// question is a question for the addresses of a name.
func question(name string, six bool) ([]byte, error) {
	n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return nil, fmt.Errorf("%q is not a name: %w", name, err)
	}
	typ := dnsmessage.TypeA
	if six {
		typ = dnsmessage.TypeAAAA
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: typ, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{{ // EDNS: an error says why
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: 1232}, Body: &dnsmessage.OPTResource{},
		}},
	}
	return m.Pack()
}
