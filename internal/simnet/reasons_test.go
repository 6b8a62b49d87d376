package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A provocation is how one drop reason comes about.
type provocation struct {
	before string         // of the scenario, after reasonsBed
	do     func(*teasing) // what is dropped
	untold bool           // a trace of the last frame cannot know: it depends on what else is on its way
}

const reasonsBed = `network 1 10.0.0.1/24
network 2 10.0.1.1/24 isolated
network 3 10.0.2.1/24 internal
uplink 198.51.100.1
host a 10.0.0.2 port 1
host b 10.0.0.3 port 2
host d 10.0.1.2 port 4 net 2
host e 10.0.2.2 port 5 net 3
outside o 203.0.113.8
publish 8080:80 b
b > a "here I am"
a < b "here I am"
`

// teasing is one provocation at work.
type teasing struct {
	t    *testing.T
	n    *Net
	last *Host
	raw  []byte
}

// A refuser is a service of the gateway that refuses each datagram.
type refuser struct {
	router.Service
	why frame.Reason
}

func (refuser) Serves(frame.NetID, uint8, uint16) bool { return true }

func (r refuser) Datagram(d *router.Datagram) []byte {
	d.Refused = r.why
	return nil
}

func (refuser) Quick(frame.PortID, frame.NetID, uint16, []byte, int) int { return 0 }

func (r refuser) Preview(d *router.Datagram) []byte { return r.Datagram(d) }

// refusedByService sends a datagram to a service of the gateway that refuses it.
func refusedByService(why frame.Reason) provocation {
	return provocation{do: func(x *teasing) {
		x.n.DP.Router.SetService(refuser{why: why})
		x.send("a", frametest.Packet{Dst: x.n.host("a").Addr&^0xff | 1, DstPort: 67})
	}}
}

// send puts packets in from a host, to the gateway unless they say otherwise, in one batch.
func (x *teasing) send(from string, list ...frametest.Packet) {
	x.t.Helper()
	h := x.n.host(from)
	var raws [][]byte
	for _, p := range list {
		raws = append(raws, x.packet(h, p))
	}
	x.frames(h, raws...)
}

// play plays a line of a script.
func (x *teasing) play(line string) {
	x.t.Helper()
	if x.n.script == nil {
		x.n.script = &scenario{net: x.n, last: map[string]sent{}, seen: map[string]bool{}}
	}
	if err := x.n.more(line); err != nil {
		x.t.Fatal(err)
	}
}

func (x *teasing) packet(h *Host, p frametest.Packet) []byte {
	if p.SrcMAC == 0 {
		p.SrcMAC = h.MAC
	}
	if p.Src == 0 {
		p.Src = h.Addr
	}
	if p.DstMAC == 0 {
		i, _ := x.n.DP.Router.Interface(h.Net)
		if p.DstMAC = i.MAC; h.outside {
			p.DstMAC = uplinkMAC
		}
	}
	if p.Dst == 0 {
		p.Dst = frametest.Addr("203.0.113.8")
	}
	return p.Raw()
}

// frames puts frames in, and remembers the last: it is traced first.
func (x *teasing) frames(h *Host, raws ...[]byte) {
	x.n.lenient = true
	for _, raw := range raws {
		x.n.Poller.Put(h.Port, bytes.Clone(raw))
	}
	x.last, x.raw = h, raws[len(raws)-1]
}

// converse sends p to o:80 from an outside port that stays the same, and answers, twice: a flow that is not given up.
func (x *teasing) converse(h *Host, port uint16, p frametest.Packet) {
	answer := p
	p.SrcPort, p.DstPort, answer.SrcPort, answer.DstPort, answer.Dst = port, 80, 80, port, frametest.Addr("198.51.100.1")
	answer.Flags |= frame.FlagACK
	for range 2 {
		x.n.Poller.Put(h.Port, x.packet(h, p))
		x.n.Settle()
		x.n.Poller.Put(uplinkPort, x.packet(x.n.host("o"), answer))
		x.n.Settle()
		p.Flags = frame.FlagACK
	}
}

func (x *teasing) flags(port frame.PortID, f vswitch.PortFlags, clear vswitch.PortFlags) {
	p, _ := x.n.DP.Switch.Port(port)
	p.Flags = p.Flags&^clear | f
	x.n.DP.Switch.SetPort(p)
}

func (x *teasing) mac(host string) frame.MAC { return x.n.host(host).MAC }

// toB is a frame that a's port switches to b.
func (x *teasing) toB(p frametest.Packet) frametest.Packet {
	p.DstMAC, p.Dst = x.mac("b"), frametest.Addr("10.0.0.3")
	return p
}

func refused(why frame.Reason) provocation {
	return provocation{untold: true, do: func(x *teasing) {
		x.n.Poller.Refuse[2] = why
		x.send("a", x.toB(frametest.Packet{}))
	}}
}

func out(p frametest.Packet) provocation {
	return provocation{do: func(x *teasing) { x.send("a", p) }}
}

var provocations = func() map[frame.Reason]provocation {
	a := frametest.Addr
	const tcp, icmp = frame.TCP, frame.ICMP
	guard := func(p func(x *teasing) []byte) provocation {
		return provocation{do: func(x *teasing) {
			x.flags(1, vswitch.Guard, 0)
			x.frames(x.n.host("a"), p(x))
		}}
	}
	quote := func(x *teasing, inner frametest.Packet, e frametest.Packet) frametest.Packet {
		inner.SrcMAC, inner.DstMAC = 2, 4
		e.Proto, e.Payload = icmp, frametest.Quote(inner.Raw(), 8)
		return e
	}
	reported := func(e frametest.Packet, damage int) provocation { // an error about a's flow
		return provocation{before: "a:20005 > o:53 \"x\"\n", do: func(x *teasing) {
			e.Dst = a("198.51.100.1")
			raw := x.packet(x.n.host("o"), quote(x, frametest.Packet{Src: a("198.51.100.1"), Dst: a("203.0.113.8"), SrcPort: 20005, DstPort: 53}, e))
			raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len+2] ^= byte(damage)
			x.frames(x.n.host("o"), raw)
		}}
	}
	big := func(n int) []byte { return make([]byte, n) }
	pings := func(x *teasing, hosts, each, size int) { // to the gateway
		for i := range hosts {
			h, _ := x.n.AddHost("", a("10.0.0.100")+frame.Addr(i), frame.PortID(20+i), 1, 0)
			for range each {
				raw := x.packet(h, frametest.Packet{Dst: a("10.0.0.1"), Proto: icmp, Type: 8, Payload: big(size)})
				x.n.Poller.Put(h.Port, raw)
			}
		}
		x.n.lenient = true
	}
	return map[frame.Reason]provocation{
		frame.Runt: {do: func(x *teasing) { x.frames(x.n.host("a"), make([]byte, frame.VnetLen+9)) }},
		frame.BadVnetHeader: {do: func(x *teasing) {
			raw := x.packet(x.n.host("a"), frametest.Packet{})
			raw[1] = 99
			x.frames(x.n.host("a"), raw)
		}},
		frame.BadSourceMAC: out(frametest.Packet{SrcMAC: 0x010000000001}),
		frame.RxRateExceeded: {untold: true, do: func(x *teasing) {
			x.n.DP.SetRate(1, dataplane.Rate{Bits: 100_000, Burst: 1514}, dataplane.Rate{})
			x.send("a", slices.Repeat([]frametest.Packet{x.toB(frametest.Packet{Payload: big(1400)})}, 20)...)
		}},
		frame.TxRateExceeded: {untold: true, do: func(x *teasing) {
			x.n.DP.SetRate(2, dataplane.Rate{}, dataplane.Rate{Bits: 100_000, Burst: 1514})
			x.send("a", slices.Repeat([]frametest.Packet{x.toB(frametest.Packet{Payload: big(1400)})}, 20)...)
		}},
		frame.StormLimited: {untold: true, do: func(x *teasing) {
			x.send("a", slices.Repeat([]frametest.Packet{{DstMAC: frame.BroadcastMAC, Dst: a("10.0.0.255")}}, 300)...)
		}},
		frame.PortNotForwarding:  {do: func(x *teasing) { x.flags(1, 0, vswitch.Forwarding); x.send("a", frametest.Packet{}) }},
		frame.GatewayMACStolen:   {do: func(x *teasing) { i, _ := x.n.DP.Router.Interface(1); x.send("a", frametest.Packet{SrcMAC: i.MAC}) }},
		frame.GuardSourceMAC:     guard(func(x *teasing) []byte { return x.packet(x.n.host("a"), frametest.Packet{SrcMAC: 0x020000999999}) }),
		frame.GuardSourceAddress: guard(func(x *teasing) []byte { return x.packet(x.n.host("a"), frametest.Packet{Src: a("10.0.0.9")}) }),
		frame.GuardDHCP: guard(func(x *teasing) []byte {
			return x.packet(x.n.host("a"), frametest.Packet{DstMAC: frame.BroadcastMAC, Dst: a("255.255.255.255"), SrcPort: 67, DstPort: 68})
		}),
		frame.GuardNeighbor: guard(func(x *teasing) []byte {
			m := x.mac("a") // it says that it is a neighbor with another MAC
			return frametest.Packet{
				SrcMAC: m, DstMAC: frame.AllNodes.GroupMAC(), Src6: m.LinkLocal(), Dst6: frame.AllNodes, TTL: 255, Proto: frame.ICMPv6, Type: frame.ICMPv6NeighborAdvertisement,
				Payload: binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 0xfe80<<48), 0x2ff_fe00_0001),
			}.Raw()
		}),
		frame.GuardICMPError: guard(func(x *teasing) []byte {
			about := frametest.Packet{Src: x.n.host("b").Addr, Dst: a("192.0.2.7")}.Raw()[frame.VnetLen+14:] // a packet to somebody else
			return x.packet(x.n.host("a"), frametest.Packet{DstMAC: x.mac("b"), Dst: x.n.host("b").Addr, Proto: frame.ICMP, Type: 3, Code: 4, Seq: 600, Payload: about})
		}),
		frame.ExtHeaders: guard(func(x *teasing) []byte {
			return frametest.Packet{SrcMAC: x.mac("a"), DstMAC: frame.AllNodes.GroupMAC(), Src6: x.mac("a").LinkLocal(), Dst6: frame.AllNodes, Ext: []byte{17, 9}}.Raw() // 80 bytes of options that are not there
		}),
		frame.ScopeExceeded: {do: func(x *teasing) {
			i, _ := x.n.DP.Router.Interface(1)
			i.Addr6, i.Prefix6 = frametest.Addr6("fd00:1::1"), netip.MustParsePrefix("fd00:1::/64")
			x.n.DP.Router.SetInterface(i)
			x.frames(x.n.host("a"), frametest.Packet{SrcMAC: x.mac("a"), DstMAC: i.MAC, Src6: x.mac("a").LinkLocal(), Dst6: frametest.Addr6("2001:db8::1")}.Raw())
		}},
		frame.AddressStolen: {do: func(x *teasing) {
			i, _ := x.n.DP.Router.Interface(1)
			x.send("a", frametest.Packet{DstMAC: x.mac("b"), Src: i.Addr, Dst: x.n.host("b").Addr})
		}},
		frame.GuardARPSender: guard(func(x *teasing) []byte {
			return frametest.ARP(frame.BroadcastMAC, x.mac("a"), 1, a("10.0.0.3"), a("10.0.0.1"))
		}),
		frame.GuardVLAN: guard(func(x *teasing) []byte {
			raw := x.packet(x.n.host("a"), x.toB(frametest.Packet{}))
			return slices.Insert(raw, frame.VnetLen+12, 0x81, 0, 0, 5)
		}),
		frame.GuardDestination: {do: func(x *teasing) { // port 2 is the host's
			p, _ := x.n.DP.Switch.Port(2)
			p.Own = []frame.Addr{}
			x.n.DP.Switch.SetPort(p)
			x.send("a", frametest.Packet{DstMAC: x.mac("b"), Dst: a("192.0.2.9")})
		}},
		frame.HostInbound: {do: func(x *teasing) { // port 2 is the host's
			p, _ := x.n.DP.Switch.Port(2)
			p.Flags |= vswitch.Tracked
			x.n.DP.Switch.SetPort(p)
			x.n.rules.Inbound = &nat.Inbound{Host: 2, Addrs: []netip.Addr{x.n.host("b").Addr.Netip()}, Open: [2]*nat.PortSet{nat.NewPortSet(), nat.NewPortSet()}}
			x.n.update()
			x.send("a", x.toB(frametest.Packet{}))
		}},
		frame.PolicyDenied: {do: func(x *teasing) {
			x.play("policy a egress allow port:b udp/1")
			x.send("a", x.toB(frametest.Packet{}))
		}},
		frame.PolicyDropped: {do: func(x *teasing) {
			x.play("policy a egress drop port:b")
			x.send("a", x.toB(frametest.Packet{}))
		}},
		frame.IPsecPolicy: {do: func(x *teasing) {
			x.n.DP.Router.SetIPsec([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")})
			x.send("a", frametest.Packet{})
		}},
		frame.NeedsHostStack: cameBack(frame.WayEncap),
		frame.WayNotAllowed:  cameBack(frame.WayFenced),
		frame.GuardRouter: guard(func(x *teasing) []byte {
			raw := make([]byte, frame.VnetLen+frame.EthernetLen+frame.IPv6Len+16)
			b := raw[frame.VnetLen:]
			copy(b, []byte{0x33, 0x33, 0, 0, 0, 1})
			frametest.PutMACs(b, 0x333300000001, x.mac("a"))
			b[12], b[13], b[14] = 0x86, 0xdd, 0x60
			b[14+4], b[14+5], b[14+6] = 0, 16, 58
			b[14+frame.IPv6Len] = 134
			return raw
		}),
		frame.PortLocked: {do: func(x *teasing) { x.flags(1, vswitch.Locked, 0); x.send("a", frametest.Packet{SrcMAC: 0x020000777777}) }},
		frame.StationBound: {do: func(x *teasing) {
			x.n.DP.Switch.FDB(1).Set(x.mac("b"), 2, true)
			x.send("a", frametest.Packet{SrcMAC: x.mac("b")})
		}},
		frame.LinkLocalGroup: out(frametest.Packet{DstMAC: 0x0180c2000000}),
		frame.SamePort: {do: func(x *teasing) {
			x.n.DP.Switch.FDB(1).Set(0x020000555555, 1, true)
			x.send("a", frametest.Packet{DstMAC: 0x020000555555})
		}},
		frame.PortIsolated: {do: func(x *teasing) {
			x.flags(1, vswitch.Isolated, 0)
			x.flags(2, vswitch.Isolated, 0)
			x.send("a", x.toB(frametest.Packet{}))
		}},
		frame.NoEgress: {do: func(x *teasing) {
			h, _ := x.n.AddHost("alone", a("10.0.3.2"), 30, 4, 0)
			x.n.AddNetwork(prefix("10.0.3.1/24"), router.Interface{Net: 4, MTU: 1500}, masqueradeOf(4))
			x.frames(h, x.packet(h, frametest.Packet{DstMAC: 0x020000000999}))
		}},
		frame.ExceedsMTU: {do: func(x *teasing) { x.send("a", x.toB(frametest.Packet{Payload: big(2000)})) }},
		frame.NotIPv4: {do: func(x *teasing) {
			raw := x.packet(x.n.host("a"), frametest.Packet{})
			raw[frame.VnetLen+12], raw[frame.VnetLen+13] = 0x88, 0xb5
			x.frames(x.n.host("a"), raw)
		}},
		frame.VLANNotRouted: {do: func(x *teasing) {
			raw := x.packet(x.n.host("a"), frametest.Packet{})
			x.frames(x.n.host("a"), slices.Insert(raw, frame.VnetLen+12, 0x81, 0, 0, 5))
		}},
		frame.MalformedPacket: {do: func(x *teasing) {
			raw := x.packet(x.n.host("a"), frametest.Packet{})
			raw[frame.VnetLen+frame.EthernetLen+3] = 0xff
			x.frames(x.n.host("a"), raw)
		}},
		frame.BadIPChecksum: {do: func(x *teasing) {
			raw := x.packet(x.n.host("a"), frametest.Packet{})
			raw[frame.VnetLen+frame.EthernetLen+10] ^= 1
			x.frames(x.n.host("a"), raw)
		}},
		frame.MartianSource:      out(frametest.Packet{Src: a("127.0.0.1")}),
		frame.MartianDestination: out(frametest.Packet{Dst: a("240.0.0.1")}),
		frame.SourceRoute:        out(frametest.Packet{Options: []byte{131, 7, 4, 10, 1, 0, 2, 0}}),
		frame.TTLExceeded:        out(frametest.Packet{TTL: 1}),
		frame.NoRoute:            {do: func(x *teasing) { x.n.DP.Router.DeleteRoute(prefix("0.0.0.0/0")); x.send("a", frametest.Packet{}) }},
		frame.BlackholeRoute:     {before: "route 192.0.2.0/24 blackhole\n", do: func(x *teasing) { x.send("a", frametest.Packet{Dst: a("192.0.2.1")}) }},
		frame.ProhibitRoute:      {before: "route 192.0.2.0/24 prohibit\n", do: func(x *teasing) { x.send("a", frametest.Packet{Dst: a("192.0.2.1")}) }},
		frame.HostUnreachable:    {before: "route 192.0.2.0/24 unreachable\n", do: func(x *teasing) { x.send("a", frametest.Packet{Dst: a("192.0.2.1")}) }},
		frame.NetworkInternal:    {do: func(x *teasing) { x.send("e", frametest.Packet{}) }},
		frame.NetworkIsolated:    {do: func(x *teasing) { x.send("d", frametest.Packet{Dst: a("10.0.0.2")}) }},
		frame.UplinkDown:         {before: "uplink down\n", do: func(x *teasing) { x.send("a", frametest.Packet{}) }},
		frame.NotForUs:           {do: func(x *teasing) { x.send("o", frametest.Packet{Dst: a("198.51.100.1"), DstPort: 7}) }},
		frame.NATFiltered:        {before: "a:20005 > o:53 \"x\"\n", do: func(x *teasing) { x.send("o", frametest.Packet{Dst: a("198.51.100.1"), SrcPort: 99, DstPort: 20005}) }},
		frame.FragmentNotTranslated: {do: func(x *teasing) {
			sctp := []byte{0x4e, 0x21, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0}
			x.send("b", frametest.Packet{Proto: frame.SCTP, Payload: sctp})
			x.n.Settle()
			x.send("a", frametest.Packet{Proto: frame.SCTP, Frag: 0x2000, Payload: sctp}) // gets another port
		}},
		frame.FragmentInvalid: out(frametest.Packet{Frag: 0x2000, Payload: big(1), Proto: tcp}),
		frame.FragmentWaits: {untold: true, do: func(x *teasing) {
			x.send("a", frametest.Packet{Frag: 100, Payload: big(16)})
			x.n.Settle()
			x.n.DP.RemovePort(1)
		}},
		frame.FragmentTimeout: {untold: true, do: func(x *teasing) {
			x.send("a", frametest.Packet{Frag: 100, Payload: big(16)})
			x.n.Settle()
			x.n.Advance(frame.Seconds(30))
		}},
		frame.FragmentQueueFull: {untold: true, do: func(x *teasing) {
			for i := range 400 {
				x.n.Poller.Put(1, x.packet(x.n.host("a"), frametest.Packet{Frag: 100, IPID: uint16(i), Payload: big(16)}))
			}
		}},
		frame.FragmentationNeeded: {before: "uplink 198.51.100.1 mtu 1400\n", do: func(x *teasing) { x.send("a", frametest.Packet{Frag: 0x4000, Payload: big(1440)}) }},
		frame.FlowNotFound: {before: "a:20005 > o:53 \"x\"\nhost f 10.0.0.7 port 7\nroute 203.0.113.0/24 via 10.0.0.7\n", do: func(x *teasing) {
			x.send("a", frametest.Packet{SrcPort: 20005, DstPort: 53})
		}},
		frame.FlowInvalid:    out(frametest.Packet{Proto: tcp, Flags: frame.FlagRST}),
		frame.FlowNotResumed: out(frametest.Packet{Proto: tcp, Flags: frame.FlagACK, SrcPort: 5, DstPort: 80}),
		frame.TCPOutOfWindow: {before: "a:20003 > o:80 tcp S seq 1\no < 198.51.100.1:* tcp S\no reply tcp S. seq 1 ack 2\na < o:80 tcp S.\n", do: func(x *teasing) {
			x.send("a", frametest.Packet{Proto: tcp, Flags: frame.FlagACK, SrcPort: 20003, DstPort: 80, TCPSeq: 900000000, TCPAck: 2, Payload: big(5)})
		}},
		frame.FlowTableFull: {do: func(x *teasing) { // more ports than places
			for i := range 9 {
				x.n.Settle()
				x.play(fmt.Sprintf("host h%d 10.0.0.%d port %d\n", i, 10+i, 10+i))
				x.send(fmt.Sprintf("h%d", i), frametest.Packet{})
			}
		}},
		frame.FlowQuota: {untold: true, do: func(x *teasing) {
			for i := range 200 {
				x.send("a", frametest.Packet{Proto: frame.GRE, Dst: a("203.0.113.8") + frame.Addr(i)})
				x.n.Settle()
			}
		}},
		frame.FlowToItself: {before: "a:20005 > o:53 \"x\"\n", do: func(x *teasing) {
			x.send("a", frametest.Packet{SrcPort: 20005, DstPort: 20005, Dst: a("198.51.100.1")})
		}},
		frame.FlowClash: {before: "publish 8081:80 b\no:6 > 198.51.100.1:8080 \"x\"\nb < o:6 \"x\"\nb reply \"y\"\nadvance 2s\no:6 > 198.51.100.1:8080 \"x\"\nb < o:6 \"x\"\nb reply \"y\"\n", do: func(x *teasing) {
			x.send("o", frametest.Packet{SrcPort: 6, DstPort: 8081, Dst: a("198.51.100.1")})
		}},
		frame.NATPortsExhausted: {do: func(x *teasing) {
			for i := range 100 {
				x.converse(x.n.host("a"), uint16(20000+i), frametest.Packet{Proto: tcp, Flags: frame.FlagSYN})
			}
			x.send("a", frametest.Packet{Proto: tcp, Flags: frame.FlagSYN, SrcPort: 9, DstPort: 80})
		}},
		frame.PairHostTunnel: {do: func(x *teasing) {
			x.n.rules.HostUses = []uint8{frame.GRE}
			x.n.update()
			x.send("a", frametest.Packet{Proto: frame.GRE, Payload: big(8)})
		}},
		frame.ProtocolRefused: {do: func(x *teasing) {
			for _, m := range x.n.rules.Masquerade {
				m.Protocols, _ = nat.ParseProtocols("esp")
			}
			x.n.update()
			x.send("a", frametest.Packet{Proto: frame.GRE, Payload: big(8)})
		}},
		frame.TooManySources: {untold: true, do: func(x *teasing) {
			x.n.UseWays()
			x.n.lenient = true
			for i := range 70 {
				x.n.rules.Own = append(x.n.rules.Own, a("192.0.2.1")+frame.Addr(i))
			}
			x.n.update()
			for i := range 64 {
				x.send("a", frametest.Packet{Proto: frame.ICMP, Type: frame.ICMPEcho, ID: uint16(20000 + i)})
				x.n.Settle()
				x.n.ComeBack(frame.WaySource, a("192.0.2.1")+frame.Addr(i), 0)
			}
		}},
		frame.PairsFull: {untold: true, do: func(x *teasing) {
			x.n.full = true
			x.send("a", frametest.Packet{Proto: frame.GRE, Payload: big(8)})
		}},
		frame.AddressPairTaken: {do: func(x *teasing) {
			x.send("b", frametest.Packet{Proto: frame.GRE, Payload: big(8)})
			x.n.Settle()
			x.send("a", frametest.Packet{Proto: frame.GRE, Payload: big(8)})
		}},
		frame.ICMPErrorUnmatched: {do: func(x *teasing) {
			x.send("o", quote(x, frametest.Packet{Src: a("198.51.100.1"), Dst: a("203.0.113.8"), SrcPort: 4, DstPort: 5}, frametest.Packet{Type: 3, Dst: a("198.51.100.1")}))
		}},
		frame.BadICMPChecksum:     reported(frametest.Packet{Type: 3, Code: 3}, 1),
		frame.ICMPRedirectRefused: reported(frametest.Packet{Type: 5, Code: 1}, 0),
		frame.PublishRefused: {before: "publish 9090:80 b from 192.0.2.0/24\n", do: func(x *teasing) {
			x.send("o", frametest.Packet{DstPort: 9090, Proto: tcp, Flags: frame.FlagSYN, Dst: a("198.51.100.1")})
		}},
		frame.NeighborQueueFull: {untold: true, do: func(x *teasing) {
			for range 200 {
				x.send("a", frametest.Packet{Dst: a("10.0.0.99")})
			}
		}},
		frame.NeighborFailed: {untold: true, do: func(x *teasing) {
			x.send("a", frametest.Packet{Dst: a("10.0.0.99")})
			x.n.Settle()
			x.n.Advance(frame.Seconds(10))
		}},
		frame.DHCPRefused:        refusedByService(frame.DHCPRefused),
		frame.DHCPQuota:          refusedByService(frame.DHCPQuota),
		frame.DHCPRangeFull:      refusedByService(frame.DHCPRangeFull),
		frame.GatewayService:     out(frametest.Packet{Dst: a("10.0.0.1"), DstPort: 7}),
		frame.PuntQueueFull:      {untold: true, do: func(x *teasing) { pings(x, 12, 4, 60000) }},
		frame.PuntRateLimited:    {untold: true, do: func(x *teasing) { pings(x, 1, 10, 60000) }},
		frame.InjectQueueFull:    {untold: true, do: func(x *teasing) { pings(x, 12, 4, 60000) }}, // the answers are cut, and need more room
		frame.PortGone:           {untold: true, do: func(x *teasing) { x.n.Poller.Remove(2); x.send("a", x.toB(frametest.Packet{})) }},
		frame.PortDown:           refused(frame.PortDown),
		frame.Connecting:         refused(frame.Connecting), // those of an uplink of kind sockets: see package sockets
		frame.ConnectRefused:     refused(frame.ConnectRefused),
		frame.ConnectUnreachable: refused(frame.ConnectUnreachable),
		frame.SocketsExhausted:   refused(frame.SocketsExhausted),
		frame.PingNotAllowed:     refused(frame.PingNotAllowed),
		frame.NeedsRoot:          refused(frame.NeedsRoot),
		frame.TxRefused:          refused(frame.TxRefused),
		frame.TxQueueFull:        refused(frame.TxQueueFull),
		frame.SlowReceiver:       refused(frame.SlowReceiver),
		frame.InternalError: {untold: true, do: func(x *teasing) {
			x.n.DP.TellPanics(nil)
			x.n.panics = 1
			x.send("a", frametest.Packet{})
		}},
		frame.AckSuperseded: {untold: true, do: func(x *teasing) {
			x.send("a", x.toB(frametest.Packet{Proto: tcp, Flags: frame.FlagACK, TCPAck: 10}), x.toB(frametest.Packet{Proto: tcp, Flags: frame.FlagACK, TCPAck: 2000}))
		}},
	}
}()

// FlowBusy is no end: what two workers did at once is tried again (TestFlowBusyIsTriedAgain). WayChanged is none either: NAT
// translates the packet again (TestAnotherSource). After WayAsked, the packet leaves (TestWays6 in internal/e2e).
var neverAnEnd = []frame.Reason{frame.FlowBusy, frame.WayChanged, frame.WayAsked}

// cameBack is a packet that the uplink's programs return.
func cameBack(code frame.WayCode) provocation {
	return provocation{untold: true, do: func(x *teasing) {
		x.n.UseWays()
		x.send("a", frametest.Packet{DstPort: 7, Payload: []byte("out")})
		x.n.Settle()
		x.last, x.raw = nil, nil
		x.n.ComeBack(code, 0, 0)
	}}
}

// Every reason, provoked: the same word stands in the counters, in a capture of drops with its comment, among the last drops,
// and in a trace of the same frame just before.
func TestEveryReason(t *testing.T) {
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		p, ok := provocations[r]
		if slices.Contains(neverAnEnd, r) {
			continue
		}
		if !ok {
			t.Errorf("nothing provokes %s", r)
			continue
		}
		t.Run(r.String(), func(t *testing.T) {
			options := ""
			switch r {
			case frame.TCPOutOfWindow:
				options = "nat windows strict\n"
			case frame.FlowTableFull:
				options = "nat flows 8\n"
			}
			n, err := Run(options + reasonsBed + p.before)
			if err != nil {
				t.Fatal(err)
			}
			hub := capture.NewHub(n.DP)
			drops, err := hub.Start(capture.Options{Ends: true, Drops: true})
			if err != nil {
				t.Fatal(err)
			}
			all, _ := hub.Start(capture.Options{Ends: true})
			before := n.DP.Drops()[r.String()]
			x := &teasing{t: t, n: n}
			p.do(x)
			if !p.untold {
				if got := x.traced(); got != r {
					t.Errorf("a trace says %s", got)
				}
			}
			n.Settle()
			n.Settle()
			count := n.DP.Drops()[r.String()] - before
			if count == 0 {
				t.Fatalf("not provoked; drops %v", n.DP.Drops())
			}
			for name, c := range map[string]*capture.Capture{"capture of drops": drops, "monitor": all} {
				seen := uint64(0)
				c.Drain(func(rec capture.Record) bool {
					if rec.Verdict == frame.Drop && rec.Reason == r {
						seen++
						comment := rec.Comment(func(frame.PortID) string { return "p" })
						if want := "dropped: " + r.String(); comment != want && comment != want+" at p" && !bytes.HasPrefix([]byte(comment), []byte(want+"; ")) {
							t.Errorf("comment %q", comment)
						}
					}
					return true
				})
				if seen+c.Lost.Load() < count {
					t.Errorf("the %s has %d of %d", name, seen, count)
				}
			}
			recent := slices.ContainsFunc(n.DP.Recent(), func(d dataplane.Drop) bool { return d.Reason == r })
			if recent == (r == frame.AckSuperseded) { // which would push out all others
				t.Errorf("among the last drops: %v", recent)
			}
			n.Advance(frame.Seconds(60)) // nothing waits any more
			if c := n.DP.Conservation(); !c.Balanced {
				t.Errorf("%+v", c)
			}
		})
	}
}

// traced is what a trace of the last frame says.
func (x *teasing) traced() frame.Reason { return x.n.traced(x.last.Port, x.raw) }

// traced is why a frame that comes from a port would be dropped.
func (n *Net) traced(port frame.PortID, raw []byte) (why frame.Reason) {
	n.DP.Trace(func(tr *dataplane.Tracer) {
		o := tr.Run(port, bytes.Clone(raw), func(string, *dataplane.TracedFrame, *dataplane.TracedFrame) {})
		if why = o.Frame.Reason; o.Slow != nil {
			why = o.Slow.Why
		}
		if o.Frame.Verdict != frame.Drop && o.Slow == nil {
			why = frame.None
		}
	})
	return why
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func masqueradeOf(id frame.NetID) nat.Masquerade { return nat.Masquerade{Net: id} }
