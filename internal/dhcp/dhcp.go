// Package dhcp answers DHCP questions. Each port of the switch has one address at most, which was assigned when the port was made: the server
// gives a port's station this address, whatever the station asks for. So there is no pool, and no answer depends on an earlier one.
//
// Sources: RFC 2131; RFC 2132.
package dhcp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Ports of UDP.
const (
	ServerPort = 67
	ClientPort = 68
)

// A Lease is what a port's station is given.
type Lease struct {
	Addr   netip.Prefix
	Server netip.Addr   // the gateway
	Router netip.Addr   // invalid: no default route
	DNS    []netip.Addr // name servers
	Domain string
	Name   string // of the station
	MTU    int    // longest IP packet, bytes
}

// Time is for how long a lease holds. A station renews it after half of this time.
const Time = time.Hour

// A Reply is what the server sends.
type Reply struct {
	Payload []byte
	To      netip.Addr // the station's address, or the broadcast address (RFC 2131, 4.1)
	Type    layers.DHCPMsgType
}

// A Question is what a station asks, and says of itself.
type Question struct {
	Type     layers.DHCPMsgType
	Hostname string // option 12
	ClientID []byte // option 61
}

// A Refusal says why a message gets no answer.
type Refusal string

// Refusals.
const (
	Malformed  Refusal = "malformed"
	NotDHCP    Refusal = "BOOTP"
	Relayed    Refusal = "relayed"
	NotForUs   Refusal = "for another server"
	NoQuestion Refusal = "no question"
)

const minLen = 236 + 4 // header and magic cookie

// minReply is how long a reply is at least, in bytes: some clients take no shorter one (RFC 1542, 2.1).
const minReply = 300

// Everyone is the address to which stations without one send.
var Everyone = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Answer answers a message of a port with a lease. Without a reply, refusal says why.
func Answer(message []byte, l Lease) (r Reply, asked Question, refusal Refusal) {
	var q layers.DHCPv4
	if len(message) < minLen || message[1] != 1 || message[2] != 6 || q.DecodeFromBytes(message, gopacket.NilDecodeFeedback) != nil || q.Operation != layers.DHCPOpRequest {
		return r, asked, Malformed
	}
	if !isZero(q.RelayAgentIP) {
		return r, asked, Relayed
	}
	options := map[layers.DHCPOpt][]byte{}
	for _, o := range q.Options {
		if _, twice := options[o.Type]; !twice {
			options[o.Type] = o.Data
		}
	}
	if len(options[layers.DHCPOptMessageType]) != 1 {
		return r, asked, NotDHCP
	}
	asked = Question{layers.DHCPMsgType(options[layers.DHCPOptMessageType][0]), string(options[layers.DHCPOptHostname]), append([]byte(nil), options[layers.DHCPOptClientID]...)}
	named, hasNamed := addrOf(options[layers.DHCPOptServerID])
	wanted, hasWanted := addrOf(options[layers.DHCPOptRequestIP])
	has, _ := netip.AddrFromSlice(q.ClientIP.To4())
	switch asked.Type {
	case layers.DHCPMsgTypeDiscover:
		return l.reply(&q, asked.Type, layers.DHCPMsgTypeOffer, has), asked, ""
	case layers.DHCPMsgTypeRequest:
		switch {
		case hasNamed && named != l.Server: // the station has chosen another one
			return r, asked, NotForUs
		case !hasWanted: // it renews
			wanted = has
		}
		if wanted == l.Addr.Addr() {
			return l.reply(&q, asked.Type, layers.DHCPMsgTypeAck, has), asked, ""
		}
		return l.reply(&q, asked.Type, layers.DHCPMsgTypeNak, has), asked, ""
	case layers.DHCPMsgTypeInform:
		return l.reply(&q, asked.Type, layers.DHCPMsgTypeAck, has), asked, ""
	}
	return r, asked, NoQuestion // a release, or a decline: the address stays the port's
}

func isZero(ip []byte) bool {
	for _, b := range ip {
		if b != 0 {
			return false
		}
	}
	return true
}

func addrOf(option []byte) (netip.Addr, bool) {
	if len(option) != 4 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(option)), true
}

// reply makes a reply of type t to q, whose type is asked, of a station that has an address (0.0.0.0: none).
func (l *Lease) reply(q *layers.DHCPv4, asked, t layers.DHCPMsgType, has netip.Addr) Reply {
	none := netip.IPv4Unspecified()
	m := layers.DHCPv4{
		Operation: layers.DHCPOpReply, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: q.Xid, Flags: q.Flags, ClientHWAddr: q.ClientHWAddr,
		ClientIP: none.AsSlice(), YourClientIP: none.AsSlice(), NextServerIP: none.AsSlice(), RelayAgentIP: none.AsSlice(),
	}
	add := func(o layers.DHCPOpt, data []byte) { m.Options = append(m.Options, layers.NewDHCPOption(o, data)) }
	seconds := func(d time.Duration) []byte { return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second)) }
	add(layers.DHCPOptMessageType, []byte{byte(t)})
	add(layers.DHCPOptServerID, l.Server.AsSlice())
	if t == layers.DHCPMsgTypeAck {
		m.ClientIP = has.AsSlice()
	}
	switch {
	case t == layers.DHCPMsgTypeNak:
		add(layers.DHCPOptMessage, []byte("this port has another address"))
	case asked != layers.DHCPMsgTypeInform: // it has an address of its own
		m.YourClientIP = l.Addr.Addr().AsSlice()
		add(layers.DHCPOptLeaseTime, seconds(Time))
		add(layers.DHCPOptT1, seconds(Time/2))
		add(layers.DHCPOptT2, seconds(Time*7/8))
		fallthrough
	default:
		l.describe(add)
	}
	buf := gopacket.NewSerializeBuffer()
	if m.SerializeTo(buf, gopacket.SerializeOptions{FixLengths: true}) != nil {
		return Reply{}
	}
	payload := append([]byte(nil), buf.Bytes()...)
	for len(payload) < minReply {
		payload = append(payload, 0)
	}
	const wantsBroadcast = 0x8000
	to := l.Addr.Addr()
	switch { // RFC 2131, 4.1
	case t == layers.DHCPMsgTypeNak:
		to = Everyone
	case has != none && l.Addr.Contains(has):
		to = has
	case q.Flags&wantsBroadcast != 0:
		to = Everyone
	}
	return Reply{Payload: payload, To: to, Type: t}
}

// describe adds what the station must know of its network.
func (l *Lease) describe(add func(layers.DHCPOpt, []byte)) {
	mask := ^uint32(0) << (32 - l.Addr.Bits())
	add(layers.DHCPOptSubnetMask, binary.BigEndian.AppendUint32(nil, mask))
	a := l.Addr.Addr().As4()
	add(layers.DHCPOptBroadcastAddr, binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])|^mask))
	if l.Router.IsValid() {
		add(layers.DHCPOptRouter, l.Router.AsSlice())
	}
	var servers []byte
	for _, s := range l.DNS {
		if s.Is4() {
			servers = append(servers, s.AsSlice()...)
		}
	}
	if len(servers) > 0 {
		add(layers.DHCPOptDNS, servers)
		if l.Domain != "" {
			add(layers.DHCPOptDomainName, []byte(l.Domain))
		}
	}
	if l.Name != "" {
		add(layers.DHCPOptHostname, []byte(l.Name))
	}
	if l.MTU != 1500 && l.MTU > 0 {
		add(layers.DHCPOptInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(l.MTU)))
	}
}

// Ends reports whether the station gives its address back.
func (q *Question) Ends() bool {
	return q.Type == layers.DHCPMsgTypeRelease || q.Type == layers.DHCPMsgTypeDecline
}

// Grants reports whether the reply gives the station its address for a time.
func (r *Reply) Grants(asked Question) bool {
	return r.Type == layers.DHCPMsgTypeAck && asked.Type == layers.DHCPMsgTypeRequest
}
