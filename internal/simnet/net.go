package simnet

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/explain"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

const (
	gatewayMAC frame.MAC    = 0x0275000000fe
	uplinkMAC  frame.MAC    = 0x0275000000ff
	peerMAC    frame.MAC    = 0x027500000100
	uplinkPort frame.PortID = 1000
)

// A Net is a dataplane with fake hosts.
type Net struct {
	DP       *dataplane.Dataplane
	Poller   *Poller
	hosts    []*Host
	now      frame.Tick
	fine     time.Duration // after it
	rules    nat.Rules
	nextID   uint32
	trace    []string // every frame, as text
	records  []record // and as bytes
	pool     [2]uint16
	source   frame.Addr // what the host's routing would answer; 0: nothing
	pairsMu  sync.Mutex
	pairs    map[string]string // what was said of protocols without ports
	script   *scenario
	policies policies
	full     bool // no room for another pair
	overIPv6 bool // see RunOverIPv6
	tagged   bool // frames of containers have a priority tag (VLAN identifier 0), which changes nothing
	native   bool // the test sends packets of IPv6 as they are, and reads records; hosts only answer neighbor solicitations
	lenient  bool // the test injected a frame with a wrong checksum or length, so the frames that leave are not checked
	failure  error
	panics   int // how many more times Inside panics, as a fault of a step would
}

type record struct {
	now  frame.Tick
	port frame.PortID
	out  bool
	raw  []byte
}

// A Host answers ARP for its address and remembers what it received. An outside host is behind the uplink.
type Host struct {
	Name    string
	Addr    frame.Addr
	MAC     frame.MAC
	Port    frame.PortID
	Net     frame.NetID
	outside bool
	silent  bool // does not answer ARP
	inbox   [][]byte
}

// New makes a dataplane with one worker and no network.
func New() *Net { return NewWith(nat.Options{Flows: 1024}) }

// NewWith says how NAT is to be, and gives each of several workers its Poller. Without one, there is one worker, and the Net's Poller.
func NewWith(o nat.Options, pollers ...dataplane.Poller) *Net {
	n := &Net{Poller: NewPoller(), now: 100, pool: [2]uint16{20000, 20099}, pairs: map[string]string{}, rules: nat.Rules{Stations: map[frame.Addr]frame.PortID{}}}
	o.Seed = 1
	o.Outside, o.Outside6, o.Flows6 = n, outside6{n}, o.Flows
	tracker := nat.New(o)
	if len(pollers) == 0 {
		pollers = []dataplane.Poller{n.Poller}
	}
	n.DP = dataplane.New(tracker, n.Now, pollers...)
	n.DP.TellPanics(func(p dataplane.Panic) { panic(p.What + "\n" + p.Stack) }) // a test that causes one says so
	return n
}

// PortSet implements nat.Outside.
func (n *Net) PortSet(int, uint8) *nat.PortSet { return nat.NewPortSet() }

// UseAddr implements nat.Outside.
func (n *Net) UseAddr(frame.Addr, int) {}

// Peer implements nat.Outside.
func (n *Net) Peer(_, a frame.Addr, proto uint8, on bool) (ok bool) {
	n.pairsMu.Lock()
	defer n.pairsMu.Unlock()
	n.pairs[a.String()+" "+frame.ProtoName(proto)] = map[bool]string{true: "on", false: "off"}[on]
	return !n.full
}

// Inside implements nat.Outside.
func (n *Net) Inside(_ frame.PortID, a frame.Addr) uint32 {
	if n.panics > 0 {
		n.panics--
		panic("a fault of the test")
	}
	return uint32(a)
}

// SourceFor implements nat.Outside.
func (n *Net) SourceFor(frame.Addr) frame.Addr { return 0 }

// AskSource implements nat.Outside.
func (n *Net) AskSource(frame.Tuple, uint8) frame.Addr { return n.source }

// AddNetwork makes a network with its gateway; i and m say the rest.
func (n *Net) AddNetwork(gateway netip.Prefix, i router.Interface, m nat.Masquerade) {
	id := i.Net
	mac := gatewayMAC + frame.MAC(id)<<16
	i.Addr, i.Prefix, i.MAC = frame.AddrFrom(gateway.Addr()), gateway.Masked(), mac
	if n.overIPv6 {
		i.Addr6, i.Prefix6, i.MTU = six(i.Addr), sixPrefix(i.Prefix), i.MTU+longerHeader
	}
	n.DP.Switch.SetNetwork(vswitch.Network{ID: id, Gateway: mac, Addr: i.Addr, Addrs6: i.Addrs6(), Groups: i.Groups(), FDB: vswitch.NewFDB(64, 7)})
	n.DP.Router.SetInterface(i)
	if !i.Internal {
		m.RuleCount = &nat.RuleCount{}
		n.rules.Masquerade = append(n.rules.Masquerade, &m)
	}
	n.update()
}

// SetUplink gives the way out its address; 0 takes it away.
func (n *Net) SetUplink(addr frame.Addr, mtu int) error {
	if _, ok := n.DP.Switch.Port(uplinkPort); !ok {
		p := vswitch.Port{ID: uplinkPort, Flags: vswitch.Forwarding | vswitch.Uplink, MTU: 65521}
		if err := n.DP.AddPort(p, conn{}); err != nil {
			return err
		}
	}
	i := router.Interface{
		Addr: addr, Prefix: netip.MustParsePrefix("0.0.0.0/0"), MAC: uplinkMAC, MTU: mtu, Port: uplinkPort, PeerMAC: peerMAC, Up: addr != 0,
	}
	if n.overIPv6 {
		i.Addr6, i.Prefix6, i.MTU6, i.Up6 = six(addr), netip.MustParsePrefix("::/0"), mtu+longerHeader, i.Up
	}
	n.DP.Router.SetInterface(i)
	n.rules.Own = nil
	if addr != 0 {
		n.rules.Own = []frame.Addr{addr}
	}
	if n.rules.Pool[0] == nil {
		for i := range n.rules.Pool {
			n.rules.Pool[i] = nat.NewPortSet()
			n.rules.Pool[i].AddRange(n.pool[0], n.pool[1])
		}
	}
	n.update()
	return nil
}

func (n *Net) update() {
	n.compilePolicies()
	if n.overIPv6 {
		n.rules.Six = n.sixRules()
	}
	n.DP.NAT.Update(n.rules)
}

// UseWays makes the uplink one with programs: its frames have way headers (frame.WayMACs).
func (n *Net) UseWays() {
	p, _ := n.DP.Switch.Port(uplinkPort)
	p.Flags |= vswitch.Ways
	n.DP.Switch.SetPort(p)
	i, _ := n.DP.Router.Interface(frame.NoNet)
	i.PeerMAC = 0
	n.DP.Router.SetInterface(i)
}

// Own gives the host more addresses. Packets whose way is not known leave by the first.
func (n *Net) Own(addrs ...frame.Addr) {
	n.rules.Own = addrs
	n.update()
}

// LastOut is the last frame that left by the uplink; nil if none has.
func (n *Net) LastOut() []byte {
	for i := len(n.records) - 1; i >= 0; i-- {
		if r := n.records[i]; r.out && r.port == uplinkPort {
			return r.raw
		}
	}
	return nil
}

// ComeBack returns the last frame that left by the uplink, as its programs do.
func (n *Net) ComeBack(code frame.WayCode, source frame.Addr, mtu int) {
	n.comeBack(n.LastOut(), code, source, mtu)
}

func (n *Net) comeBack(raw []byte, code frame.WayCode, source frame.Addr, mtu int) {
	n.putBack(raw, code, source, mtu)
	n.Settle()
}

// putBack lets a frame that left by the uplink come back.
func (n *Net) putBack(raw []byte, code frame.WayCode, source frame.Addr, mtu int) {
	raw = bytes.Clone(raw)
	eth := raw[frame.VnetLen:]
	binary.BigEndian.PutUint16(eth[4:], uint16(mtu))
	eth[6], eth[7] = 2, byte(code)
	binary.BigEndian.PutUint32(eth[8:], uint32(source))
	n.Poller.Put(uplinkPort, raw)
}

// AddHost puts a host on a port of network id, adding the port when it is new.
func (n *Net) AddHost(name string, addr frame.Addr, port frame.PortID, id frame.NetID, flags vswitch.PortFlags) (*Host, error) {
	h := &Host{Name: name, Addr: addr, MAC: 0x020000000000 | frame.MAC(addr&0xffffff)<<8 | frame.MAC(port), Port: port, Net: id}
	if _, ok := n.DP.Switch.Port(port); !ok {
		p := vswitch.Port{ID: port, Net: id, Flags: vswitch.DefaultFlags | flags, MTU: 1500, MAC: h.MAC, Addr: addr, Storm: vswitch.DefaultStormLimits}
		if n.overIPv6 {
			p.MTU, p.Addrs6 = p.MTU+longerHeader, []frame.Addr6{six(addr)}
		}
		if err := n.DP.AddPort(p, conn{}); err != nil {
			return nil, err
		}
	}
	n.hosts = append(n.hosts, h)
	n.rules.Stations[addr] = port
	n.update()
	return h, nil
}

// AddOutside puts a host beyond the uplink.
func (n *Net) AddOutside(name string, addr frame.Addr) {
	n.hosts = append(n.hosts, &Host{Name: name, Addr: addr, MAC: peerMAC, Port: uplinkPort, outside: true})
}

func (n *Net) host(name string) *Host {
	i := slices.IndexFunc(n.hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return nil
	}
	return n.hosts[i]
}

// insideOf is the inside port that has an outside port, by the flow table.
func (n *Net) insideOf(port uint16) (inside uint16, ok bool) {
	n.DP.NAT.Flows(n.now, func(f nat.Flow) bool {
		if ok = f.Reply.DstPort == port; ok {
			inside = f.Original.SrcPort
		}
		return !ok
	})
	return inside, ok
}

// Publish sends a port of the uplink's address to a host's port. In a routed network it also opens that port at the host's own address.
func (n *Net) Publish(proto uint8, port uint16, to *Host, target uint16, from ...netip.Prefix) {
	n.nextID++
	p := &nat.Publish{
		ID: n.nextID, Proto: proto, Lo: port, Hi: port, Target: to.Addr, Port: target, Inside: to.Port, Net: to.Net, From: from,
		RuleCount: &nat.RuleCount{},
	}
	n.rules.Publish = append(n.rules.Publish, p)
	if slices.ContainsFunc(n.rules.Masquerade, func(m *nat.Masquerade) bool { return m.Net == to.Net && m.Outside.IsValid() }) {
		own := *p
		own.HostAddr, own.Lo, own.Hi = to.Addr, target, target
		n.rules.Publish = append(n.rules.Publish, &own)
	}
	n.update()
}

// Unpublish takes a published port back.
func (n *Net) Unpublish(port uint16) {
	gone := map[uint32]bool{}
	for _, p := range n.rules.Publish {
		gone[p.ID] = gone[p.ID] || p.Lo == port && p.HostAddr == 0
	}
	n.rules.Publish = slices.DeleteFunc(n.rules.Publish, func(p *nat.Publish) bool { return gone[p.ID] })
	n.update()
}

// Inject lets frames come in from a host, in one batch, and carries everything through that follows.
func (n *Net) Inject(h *Host, raws ...[]byte) {
	for _, raw := range raws {
		n.lenient = n.lenient || !frametest.Sound(raw) && frametest.IsIPv4(raw)
		n.put(h.Port, raw)
	}
	n.Settle()
}

// put lets a frame come in by a port.
func (n *Net) put(port frame.PortID, raw []byte) {
	if n.overIPv6 {
		var err error
		if raw, err = ToIPv6(raw); err != nil {
			n.failure = err
			return
		}
	}
	n.log(port, false, raw)
	n.Poller.Put(port, n.tag(port, raw))
}

// tag puts a priority tag into a frame of a container, if tagged says so.
func (n *Net) tag(port frame.PortID, raw []byte) []byte {
	if !n.tagged || port == uplinkPort {
		return raw
	}
	raw = append(bytes.Clone(raw[:frame.VnetLen+12]), append([]byte{0x81, 0, 0, 0}, raw[frame.VnetLen+12:]...)...)
	if h := frame.VnetHdr(raw); h.NeedsCsum() {
		h.Set(h[0], h[1], h.HdrLen()+frame.VLANLen, h.GSOSize(), h.CsumStart()+frame.VLANLen, h.CsumOffset())
	}
	return raw
}

// Settle runs until nothing moves. A frame may be on its way between a worker and the slow path twice without being seen outside.
func (n *Net) Settle() {
	for quiet, steps := 0, 0; steps < 300; steps++ {
		if err := n.DP.Step(); err != nil {
			n.failure = err
			return
		}
		out := n.Poller.Out
		n.Poller.Out = nil
		for _, s := range out {
			n.deliver(s)
		}
		if len(out) > 0 || n.Poller.Pending() {
			quiet = 0
		} else if quiet++; quiet == 3 {
			return
		}
	}
	n.failure = fmt.Errorf("the network does not come to rest: a loop")
}

// Advance moves time on, a second at a time, as the slow path sees time.
func (n *Net) Advance(t frame.Tick) {
	for end := n.now + t; n.now < end; {
		n.now += min(frame.TicksPerSecond, end-n.now)
		n.Settle()
	}
}

// Wait moves time on in steps of a millisecond, as the alarm of a worker's shaper does.
func (n *Net) Wait(d time.Duration) {
	const tick = time.Second / frame.TicksPerSecond
	for ; d > 0; d -= time.Millisecond {
		if n.fine += time.Millisecond; n.fine >= tick {
			n.now, n.fine = n.now+1, n.fine-tick
		}
		n.Settle()
	}
}

// deliver hands a frame to the hosts behind its port. ARP requests for their address they answer at once.
func (n *Net) deliver(s Sent) {
	n.log(s.Port, true, s.Raw)
	if n.overIPv6 {
		if err := frametest.Check(s.Raw); err != nil && !n.lenient && n.failure == nil {
			n.failure = fmt.Errorf("port %d was sent a frame with %w", s.Port, err)
		}
		raw, err := toFour(s.Raw, n.native)
		if n.native && err != nil {
			return
		}
		if err != nil {
			n.failure = cmp.Or(n.failure, err)
			return
		}
		s.Raw = raw
	}
	var f frame.Frame
	f.Reset(s.Raw, s.Port)
	frame.Parse(&f)
	if f.Malformed == frame.None && !n.lenient {
		if err := frametest.Check(s.Raw); err != nil && n.failure == nil {
			n.failure = fmt.Errorf("port %d was sent a frame with %w", s.Port, err)
		}
	}
	for _, h := range n.hosts {
		if h.Port != s.Port || h.outside && f.Flags&frame.IsIPv4 != 0 && f.Tuple.Dst != h.Addr {
			continue
		}
		if f.Flags&frame.IsARP != 0 && !h.outside {
			a := f.ARP()
			if a.Operation() == frame.ARPRequest && a.TargetAddr() == h.Addr {
				if !h.silent {
					reply := frametest.ARP(a.SenderMAC(), h.MAC, frame.ARPReply, h.Addr, a.SenderAddr())
					n.put(h.Port, reply)
				}
				continue
			}
			if i, _ := n.DP.Router.Interface(h.Net); f.Src == i.MAC && a.Operation() == frame.ARPRequest && a.SenderAddr() != a.TargetAddr() {
				continue // the router looks for somebody else
			}
		}
		h.inbox = append(h.inbox, s.Raw)
	}
}

func (n *Net) log(port frame.PortID, out bool, raw []byte) {
	arrow := "->"
	if out {
		arrow = "<-"
	}
	var names []string
	for _, h := range n.hosts {
		if h.Port == port {
			names = append(names, h.Name)
		}
	}
	n.trace = append(n.trace, fmt.Sprintf("%8.1fs %s %s %s", float64(n.now)/frame.TicksPerSecond, strings.Join(names, ","), arrow, describe(raw)))
	n.records = append(n.records, record{n.now, port, out, raw})
}

// describe is one line about a frame, with what UDP carries.
func describe(raw []byte) string {
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	if f.Flags&frame.HasTuple != 0 && f.Proto == frame.UDP {
		return fmt.Sprintf("%s %.60q", explain.Text(&f), f.Payload()[frame.UDPLen:])
	}
	return explain.Text(&f)
}
