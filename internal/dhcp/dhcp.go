// Package dhcp answers DHCP questions. A port of the switch that has an address gives it to its station, whatever the station asks for. The
// stations of other ports get an address of their network's range (Range).
//
// Sources: RFC 2131; RFC 2132; RFC 3397 (search list); RFC 3442 (routes).
package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
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
	Name   string        // of the station
	MTU    int           // longest IP packet, bytes
	Time   time.Duration // for how long it holds; a station renews it after half of this time
	Routes []Route       // besides the default route
}

// A Route is a route that stations are told of.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// A Reply is what the server sends.
type Reply struct {
	Payload []byte
	To      netip.Addr // the station's address, or the broadcast address (RFC 2131, 4.1)
	Type    layers.DHCPMsgType
}

// A Question is what a station asks, and says of itself.
type Question struct {
	Type     layers.DHCPMsgType
	Hostname string     // option 12
	ClientID []byte     // option 61
	Wanted   netip.Addr // option 50, or else the address that the station has: the one that it asks for; 0.0.0.0 for none
	Server   netip.Addr // option 54; invalid when the station names no server

	message layers.DHCPv4
	has     netip.Addr // 0.0.0.0 for none
	room    int        // for the options of the reply, bytes
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
	Quota      Refusal = "the port has as many leases as it may have"
	Exhausted  Refusal = "no address is free"
)

const minLen = 236 + 4 // header and magic cookie

// minReply is how long a reply is at least, in bytes: some clients take no shorter one (RFC 1542, 2.1).
const minReply = 300

// Everyone is the address to which stations without one send.
var Everyone = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Parse reads a message. refusal says why it gets no answer.
func Parse(message []byte) (q Question, refusal Refusal) {
	m := &q.message
	if len(message) < minLen || message[1] != 1 || message[2] != 6 || m.DecodeFromBytes(message, gopacket.NilDecodeFeedback) != nil || m.Operation != layers.DHCPOpRequest {
		return q, Malformed
	}
	if !isZero(m.RelayAgentIP) {
		return q, Relayed
	}
	options := map[layers.DHCPOpt][]byte{}
	for _, o := range m.Options {
		if _, twice := options[o.Type]; !twice {
			options[o.Type] = o.Data
		}
	}
	if len(options[layers.DHCPOptMessageType]) != 1 {
		return q, NotDHCP
	}
	q.Type = layers.DHCPMsgType(options[layers.DHCPOptMessageType][0])
	q.Hostname, q.ClientID = string(options[layers.DHCPOptHostname]), append([]byte(nil), options[layers.DHCPOptClientID]...)
	const headers, end = 28, 1
	longest := 576 // RFC 2131, 2
	if o := options[layers.DHCPOptMaxMessageSize]; len(o) == 2 {
		longest = max(longest, int(binary.BigEndian.Uint16(o)))
	}
	q.room = longest - headers - minLen - end
	q.Server, _ = addrOf(options[layers.DHCPOptServerID])
	q.has, _ = netip.AddrFromSlice(m.ClientIP.To4())
	wanted, named := addrOf(options[layers.DHCPOptRequestIP])
	if q.Wanted = q.has; named {
		q.Wanted = wanted
	}
	switch q.Type {
	case layers.DHCPMsgTypeDiscover, layers.DHCPMsgTypeRequest, layers.DHCPMsgTypeInform, layers.DHCPMsgTypeRelease, layers.DHCPMsgTypeDecline:
		return q, ""
	}
	return q, NoQuestion
}

// Client is what tells one station from others (RFC 2131, 4.2).
func (q *Question) Client() string {
	if len(q.ClientID) > 0 {
		return "id " + hex.EncodeToString(q.ClientID)
	}
	return "mac " + q.message.ClientHWAddr.String()
}

// Answer answers a question with a lease. A lease without an address refuses what the station asks for. Without a reply, refusal says why.
func (q *Question) Answer(l Lease) (r Reply, refusal Refusal) {
	switch q.Type {
	case layers.DHCPMsgTypeDiscover:
		return l.reply(q, layers.DHCPMsgTypeOffer), ""
	case layers.DHCPMsgTypeRequest:
		switch {
		case q.ForOther(l.Server):
			return r, NotForUs
		case l.Addr.IsValid() && q.Wanted == l.Addr.Addr():
			return l.reply(q, layers.DHCPMsgTypeAck), ""
		}
		return l.reply(q, layers.DHCPMsgTypeNak), ""
	case layers.DHCPMsgTypeInform:
		return l.reply(q, layers.DHCPMsgTypeAck), ""
	}
	return r, NoQuestion // a release, or a decline
}

// Requests reports whether the station asks for a particular address: one that was offered, or that it had before, or has.
func (q *Question) Requests() bool { return q.Type == layers.DHCPMsgTypeRequest }

// Informs reports whether the station has an address, and asks for the rest.
func (q *Question) Informs() bool { return q.Type == layers.DHCPMsgTypeInform }

// Ends reports whether the station gives its address back.
func (q *Question) Ends() bool { return q.Type == layers.DHCPMsgTypeRelease || q.Declines() }

// Declines reports whether the station has found that another one uses its address.
func (q *Question) Declines() bool { return q.Type == layers.DHCPMsgTypeDecline }

// ForOther reports whether the station has chosen another server than this one.
func (q *Question) ForOther(server netip.Addr) bool { return q.Server.IsValid() && q.Server != server }

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

// reply makes a reply of type t.
func (l *Lease) reply(question *Question, t layers.DHCPMsgType) Reply {
	none, q, has := netip.IPv4Unspecified(), &question.message, question.has
	m := layers.DHCPv4{
		Operation: layers.DHCPOpReply, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: q.Xid, Flags: q.Flags, ClientHWAddr: q.ClientHWAddr,
		ClientIP: none.AsSlice(), YourClientIP: none.AsSlice(), NextServerIP: none.AsSlice(), RelayAgentIP: none.AsSlice(),
	}
	room := question.room
	add := func(o layers.DHCPOpt, data []byte) { // the most important ones come first
		if room -= 2 + len(data); room >= 0 {
			m.Options = append(m.Options, layers.NewDHCPOption(o, data))
		}
	}
	seconds := func(d time.Duration) []byte { return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second)) }
	add(layers.DHCPOptMessageType, []byte{byte(t)})
	add(layers.DHCPOptServerID, l.Server.AsSlice())
	if t == layers.DHCPMsgTypeAck {
		m.ClientIP = has.AsSlice()
	}
	switch {
	case t == layers.DHCPMsgTypeNak:
		add(layers.DHCPOptMessage, []byte("this address is not the station's"))
	case question.Type != layers.DHCPMsgTypeInform: // it has an address of its own
		m.YourClientIP = l.Addr.Addr().AsSlice()
		add(layers.DHCPOptLeaseTime, seconds(l.Time))
		add(layers.DHCPOptT1, seconds(l.Time/2))
		add(layers.DHCPOptT2, seconds(l.Time*7/8))
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
	to := l.Addr.Addr() // NAKs are for everyone
	switch {            // RFC 2131, 4.1
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
			add(optDomainSearch, encodeName(l.Domain))
		}
	}
	if l.Name != "" {
		add(layers.DHCPOptHostname, []byte(l.Name))
	}
	if len(l.Routes) > 0 {
		add(layers.DHCPOptClasslessStaticRoute, l.encodeRoutes())
	}
	if l.MTU != 1500 && l.MTU > 0 {
		add(layers.DHCPOptInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(l.MTU)))
	}
}

const optDomainSearch layers.DHCPOpt = 119

// encodeName is a name as DNS has it, without compression.
func encodeName(name string) (out []byte) {
	for _, label := range strings.Split(name, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}

// encodeRoutes is the option of routes (RFC 3442). Stations that read it ignore the option of routers, so it has the default route, too.
func (l *Lease) encodeRoutes() (out []byte) {
	routes := l.Routes
	if l.Router.IsValid() {
		routes = append(routes[:len(routes):len(routes)], Route{netip.PrefixFrom(netip.IPv4Unspecified(), 0), l.Router})
	}
	for _, r := range routes {
		a := r.To.Addr().As4()
		out = append(append(out, byte(r.To.Bits())), a[:(r.To.Bits()+7)/8]...)
		out = append(out, r.Via.AsSlice()...)
	}
	return out
}

// Grants reports whether the reply gives the station its address for a time.
func (r *Reply) Grants(q *Question) bool {
	return r.Type == layers.DHCPMsgTypeAck && q.Requests()
}
