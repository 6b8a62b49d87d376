package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A lab has a network, 172.30.0.0/24, whose range is 172.30.0.200 to 203. It binds leases as a daemon does.
type lab struct {
	t     testing.TB
	l     *leases
	state model.State
	now   time.Time
	bound string // what the last answer has waited for
	sent  chan []byte
}

func newLab(t testing.TB, ports ...api.PortAdd) *lab {
	x := &lab{t: t, now: time.Unix(1_000_000, 0), sent: make(chan []byte, 100)}
	n, err := x.state.NewNetwork(api.NetworkAdd{Name: "default", Subnet: "172.30.0.0/24", DHCPRange: "172.30.0.200-172.30.0.203"})
	if err != nil {
		t.Fatal(err)
	}
	n.ID = 1
	x.state.Networks = []model.Network{n}
	x.l = &leases{now: func() time.Time { return x.now }, known: func(frame.NetID, netip.Addr) frame.MAC { return 0 }}
	for _, a := range ports {
		x.add(a)
	}
	return x
}

func (x *lab) add(a api.PortAdd) {
	x.t.Helper()
	p, err := x.state.NewPort(a)
	if err != nil {
		x.t.Fatal(err)
	}
	p.ID = frame.PortID(len(x.state.Ports) + 1)
	x.state.Ports = append(x.state.Ports, p)
	x.l.set(&x.state)
}

// apply makes the changes that the leases ask for, as a daemon does, and says which.
func (x *lab) apply() (what string) {
	x.now = x.now.Add(betweenMoves)
	for _, c := range x.l.changes() {
		p := &x.state.Ports[c.ID-1]
		if p.Addr, p.Leased = (netip.Prefix{}), c.To.IsValid(); p.Leased {
			p.Addr = netip.PrefixFrom(c.To, 24)
			what += "bind " + c.To.String()
		} else {
			what += "unbind"
		}
	}
	x.l.set(&x.state)
	return what
}

// ask lets station m behind a port ask, and returns the type and the address of the answer; or why there is none.
func (x *lab) ask(port frame.PortID, m byte, t layers.DHCPMsgType, wanted string, with ...layers.DHCPOption) string {
	x.t.Helper()
	q := layers.DHCPv4{
		Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, ClientHWAddr: []byte{2, 0, 0, 0, 0, m},
		ClientIP: make([]byte, 4), YourClientIP: make([]byte, 4), NextServerIP: make([]byte, 4), RelayAgentIP: make([]byte, 4),
		Options: append(layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(t)})}, with...),
	}
	if wanted != "" {
		q.Options = append(q.Options, layers.NewDHCPOption(layers.DHCPOptRequestIP, netip.MustParseAddr(wanted).AsSlice()))
	}
	buf := gopacket.NewSerializeBuffer()
	if err := q.SerializeTo(buf, gopacket.SerializeOptions{FixLengths: true}); err != nil {
		x.t.Fatal(err)
	}
	d := router.Datagram{In: port, Net: 1, MAC: 0x020000000000 | frame.MAC(m), To: netip.AddrPortFrom(dhcp.Everyone, 67), Payload: buf.Bytes()}
	answer := x.l.answer(&d, func(_ router.Datagram, raw []byte) { x.sent <- raw })
	if answer == nil && d.Refused != frame.None {
		return d.Refused.String()
	}
	if answer == nil && len(x.l.waiting) > 0 && len(with) == 0 {
		x.bound = x.apply()
		select {
		case answer = <-x.sent:
		default:
		}
	}
	if answer == nil {
		return "no answer"
	}
	var r layers.DHCPv4
	if err := r.DecodeFromBytes(answer, gopacket.NilDecodeFeedback); err != nil {
		x.t.Fatal(err)
	}
	for _, o := range r.Options {
		if o.Type == layers.DHCPOptMessageType {
			return strings.ToLower(layers.DHCPMsgType(o.Data[0]).String()) + " " + r.YourClientIP.String()
		}
	}
	return "not DHCP"
}

// lease lets the station of port 1 get an address, which the port then has.
func (x *lab) lease(addr string) {
	x.t.Helper()
	x.ask(1, 1, discover, addr)
	x.wants("request", x.ask(1, 1, request, addr), "ack "+addr)
	x.wants("the port", x.bound, "bind "+addr)
}

func (x *lab) wants(what, got, want string) {
	x.t.Helper()
	if got != want {
		x.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

const discover, request, release, decline = layers.DHCPMsgTypeDiscover, layers.DHCPMsgTypeRequest, layers.DHCPMsgTypeRelease, layers.DHCPMsgTypeDecline

// A port without an address gets one of the range with its station's lease, and loses it when the lease ends.
func TestLeaseBinds(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"}, api.PortAdd{Name: "other", VDE: "/other"}, api.PortAdd{Name: "web", Netns: "w", IP: "172.30.0.9"})
	x.wants("a port's own address", x.ask(3, 3, discover, ""), "offer 172.30.0.9")
	x.wants("discover", x.ask(1, 1, discover, ""), "offer 172.30.0.200")
	x.wants("discover of another port", x.ask(2, 2, discover, "172.30.0.200"), "offer 172.30.0.201")
	x.wants("request", x.ask(1, 1, request, "172.30.0.200"), "ack 172.30.0.200")
	x.wants("the port", x.bound, "bind 172.30.0.200")
	x.wants("again, by another station", x.ask(1, 9, discover, ""), "offer 172.30.0.200")
	x.wants("the other one's request", x.ask(1, 9, request, "172.30.0.200"), "ack 172.30.0.200")
	x.now = x.now.Add(betweenMoves)
	if c := x.l.changes(); len(c) != 1 || c[0].From != c[0].To || c[0].MAC != "02:00:00:00:00:09" {
		t.Errorf("the address has another station: %+v", c)
	}
	x.wants("what another one has", x.ask(2, 2, request, "172.30.0.200"), "nak 0.0.0.0")
	x.now = x.now.Add(50 * time.Minute)
	x.wants("renewed", x.ask(1, 1, request, "172.30.0.200"), "ack 172.30.0.200")
	x.now = x.now.Add(50 * time.Minute)
	x.l.expire()
	if g := x.l.grants(); len(g) != 1 || !g[0].Dynamic || g[0].Port != "vm" || g[0].MAC != "02:00:00:00:00:01" || len(x.l.changes()) != 1 {
		t.Errorf("leases: %+v", g)
	}
	x.now = x.now.Add(11 * time.Minute)
	x.l.expire()
	x.wants("at its end", x.apply(), "unbind")
	x.wants("the same again, after a reboot", x.ask(1, 1, request, "172.30.0.200"), "ack 172.30.0.200")
	x.wants("the port", x.bound, "bind 172.30.0.200")
	x.ask(1, 1, decline, "172.30.0.200")
	x.wants("somebody uses the address", x.apply(), "unbind")
	x.wants("then one that nobody had", x.ask(1, 1, discover, "172.30.0.200"), "offer 172.30.0.202")
	x.now = x.now.Add(dhcp.OfferTime)
	x.wants("an offer that was not taken", x.ask(2, 2, discover, ""), "offer 172.30.0.201")
	x.wants("an address elsewhere", x.ask(2, 2, request, "192.0.2.1"), "nak 0.0.0.0")
	if saved, changed := x.l.save(); !changed || len(saved) > 1 {
		t.Errorf("saved: %+v, %v", saved, changed)
	}
	if _, changed := x.l.save(); changed {
		t.Error("saved twice")
	}
}

// Leases are kept for the next process: the port is bound again before its station asks.
func TestLeaseKept(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.ask(1, 1, discover, "172.30.0.202")
	x.wants("request", x.ask(1, 1, request, "172.30.0.202"), "ack 172.30.0.202")
	saved, _ := x.l.save()
	y := newLab(t)
	y.l.set(&y.state)
	y.l.restore(saved)
	y.add(api.PortAdd{Name: "new", VDE: "/new"})
	y.wants("an address that is kept", y.ask(1, 7, request, "172.30.0.202"), "nak 0.0.0.0")
	y.add(api.PortAdd{Name: "vm", VDE: "/vm"})
	y.wants("the port", y.apply(), "bind 172.30.0.202")
	if g := y.l.grants(); len(g) != 1 || g[0].Port != "vm" {
		t.Errorf("leases: %+v", g)
	}
}

// A lease whose port has gone holds no address, but the station's next port gets the same one.
func TestLeaseOfGonePort(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.lease("172.30.0.202")
	x.state.Ports = nil
	x.l.set(&x.state)
	if len(x.l.held())+len(x.l.grants()) != 0 {
		t.Errorf("held: %v", x.l.held())
	}
	x.add(api.PortAdd{Name: "again", VDE: "/again"})
	x.wants("the same station", x.ask(1, 1, discover, ""), "offer 172.30.0.202")
}

// Several stations behind a plugged device have leases, which bind nothing. A port has 16 at most, and harms the others no further.
func TestLeasesOfDevice(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "lan", Device: "eth9"}, api.PortAdd{Name: "vm", VDE: "/vm"})
	if x.l.serves(1) && x.l.of[1] != nil {
		t.Error("a device's stations are answered unasked")
	}
	x.state.Networks[0].DHCP.Last = netip.MustParseAddr("172.30.0.250")
	x.state.Ports[0].Flags |= x.state.Ports[1].Flags
	x.l.set(&x.state)
	for m := range byte(maxLeases) {
		want := "172.30.0." + []string{"200", "201", "202", "203", "204", "205", "206", "207", "208", "209", "210", "211", "212", "213", "214", "215"}[m]
		x.wants("discover", x.ask(1, m+1, discover, ""), "offer "+want)
		x.wants("request", x.ask(1, m+1, request, want), "ack "+want)
	}
	x.wants("one more", x.ask(1, 99, discover, ""), "dhcp_quota")
	x.wants("another port", x.ask(2, 99, discover, ""), "offer 172.30.0.216")
	x.ask(1, 1, release, "172.30.0.200")
	x.wants("after a release", x.ask(1, 99, discover, ""), "offer 172.30.0.217")
	x.wants("the port", x.apply(), "")
	x.state.Networks[0].DHCP.Last = netip.MustParseAddr("172.30.0.203")
	x.l.set(&x.state)
	x.now = x.now.Add(dhcp.OfferTime)
	x.wants("the last one", x.ask(1, 1, discover, ""), "offer 172.30.0.200")
	x.wants("a full range", x.ask(2, 98, discover, ""), "dhcp_range_full")
}

// DHCPDECLINE: nobody gets the address for ten minutes.
func TestRFC2131_4_3_3_Decline(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"}, api.PortAdd{Name: "other", VDE: "/other"})
	x.lease("172.30.0.201")
	x.ask(1, 1, decline, "172.30.0.201")
	x.wants("the port", x.apply(), "unbind")
	for port := range frame.PortID(2) {
		if got := x.ask(port+1, byte(port+1), discover, "172.30.0.201"); got == "offer 172.30.0.201" {
			t.Errorf("port %d: %s", port+1, got)
		}
	}
	x.now = x.now.Add(dhcp.AsideTime)
	x.wants("ten minutes later", x.ask(2, 2, request, "172.30.0.201"), "ack 172.30.0.201")
}

// DHCPRELEASE: the address is free at once, and is the station's first choice later.
func TestRFC2131_4_3_4_Release(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"}, api.PortAdd{Name: "other", VDE: "/other"})
	x.lease("172.30.0.201")
	x.ask(1, 1, release, "172.30.0.202")
	if len(x.l.grants()) != 1 {
		t.Error("a release of another address ended the lease")
	}
	x.ask(1, 1, release, "172.30.0.201")
	x.wants("the port", x.apply(), "unbind")
	if g := x.l.grants(); len(g) != 0 {
		t.Errorf("leases: %+v", g)
	}
	x.wants("the same again", x.ask(1, 1, discover, ""), "offer 172.30.0.201")
}

// A lease that is ended by hand gives its address free, and so does an address that is set aside. A port's own address and a published one stay.
func TestRevoke(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"}, api.PortAdd{Name: "fixed", VDE: "/fixed", IP: "172.30.0.7"}, api.PortAdd{Name: "other", VDE: "/other"})
	revoke := func(a string) string {
		if err := x.l.revoke(netip.MustParseAddr(a)); err != nil {
			return err.Error()
		}
		return ""
	}
	x.lease("172.30.0.201")
	for addr, want := range map[string]string{"172.30.0.7": "the address of port \"fixed\" itself", "172.30.0.202": "no station has 172.30.0.202"} {
		if got := revoke(addr); !strings.Contains(got, want) {
			t.Errorf("%s: %q", addr, got)
		}
	}
	x.state.Publishes = []model.Publish{{Port: "vm"}}
	x.l.set(&x.state)
	if got := revoke("172.30.0.201"); !strings.Contains(got, "published") {
		t.Errorf("of a published port: %q", got)
	}
	x.state.Publishes = nil
	x.l.set(&x.state)
	x.wants("by hand", revoke("172.30.0.201"), "")
	x.wants("the port", x.apply(), "unbind")
	x.wants("another station", x.ask(3, 3, request, "172.30.0.201"), "ack 172.30.0.201")
	x.now = x.now.Add(betweenMoves)
	x.apply()
	x.ask(3, 3, decline, "172.30.0.201")
	x.wants("set aside", x.ask(1, 1, request, "172.30.0.201"), "nak 0.0.0.0")
	x.wants("what is set aside", revoke("172.30.0.201"), "")
	x.wants("free again", x.ask(1, 1, request, "172.30.0.201"), "ack 172.30.0.201")
}

// A station gives its address back while its port is being published: the address stays.
func TestReleaseWhilePublished(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.lease("172.30.0.201")
	x.ask(1, 1, release, "172.30.0.201")
	x.state.Publishes = []model.Publish{{Port: "vm"}}
	x.l.set(&x.state)
	x.now = x.now.Add(betweenMoves)
	x.wants("the port", x.apply(), "")
	if g := x.l.grants(); len(g) != 1 {
		t.Errorf("leases: %+v", g)
	}
}

// DHCPINFORM: the station has an address, and gets the rest. No lease begins.
func TestRFC2131_4_3_5_Inform(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.wants("inform", x.ask(1, 1, layers.DHCPMsgTypeInform, "172.30.0.9"), "ack 0.0.0.0")
	if len(x.l.held()) > 0 {
		t.Errorf("held: %v", x.l.held())
	}
}

// An address that a neighbor uses is not given away.
func TestLeaseBesideNeighbor(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.l.known = func(_ frame.NetID, a netip.Addr) frame.MAC {
		if a.As4()[3] < 202 {
			return 0x020000000042
		}
		return 0
	}
	x.wants("discover", x.ask(1, 1, discover, "172.30.0.200"), "offer 172.30.0.202")
	x.wants("of another one", x.ask(1, 1, request, "172.30.0.201"), "nak 0.0.0.0")
	x.wants("its own", x.ask(1, 0x42, discover, "172.30.0.200"), "offer 172.30.0.202") // the port has an offer
}

// A message that is no question is dropped with a reason. It takes no address.
func TestLeaseRefusals(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.wants("an answer", x.ask(1, 1, layers.DHCPMsgTypeOffer, ""), "dhcp_refused")
	x.wants("inform", x.ask(1, 1, layers.DHCPMsgTypeInform, "172.30.0.9"), "ack 0.0.0.0")
	x.wants("for another server", x.ask(1, 1, request, "172.30.0.200", layers.NewDHCPOption(layers.DHCPOptServerID, []byte{172, 30, 0, 77})), "no answer")
	if len(x.l.held()) > 0 {
		t.Errorf("held: %v", x.l.held())
	}
}

// A DECLINE of what is only offered sets nothing aside, and a port has few addresses set aside: nobody empties the range with lies.
func TestDeclinesAreBounded(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "evil", VDE: "/evil"}, api.PortAdd{Name: "good", VDE: "/good"})
	x.state.Networks[0].DHCP.Last = netip.MustParseAddr("172.30.0.220")
	x.l.set(&x.state)
	offered := func() string {
		_, addr, _ := strings.Cut(x.ask(1, 1, discover, ""), " ")
		return addr
	}
	for range 30 {
		x.ask(1, 1, decline, offered())
	}
	x.wants("after declined offers", x.ask(2, 2, discover, ""), "offer 172.30.0.201")
	for range 30 {
		addr := offered()
		if got := x.ask(1, 1, request, addr); got != "ack "+addr {
			t.Fatalf("request of %s: %s", addr, got)
		}
		x.ask(1, 1, decline, addr)
		x.apply()
	}
	if _, aside := x.l.nets["default"].addrs.Count("evil", x.now); aside > maxAside {
		t.Errorf("%d addresses are set aside", aside)
	}
	if got := x.ask(2, 2, discover, ""); !strings.HasPrefix(got, "offer") {
		t.Errorf("after declined leases: %s", got)
	}
	small := newLab(t, api.PortAdd{Name: "evil", VDE: "/evil"}, api.PortAdd{Name: "good", VDE: "/good"})
	small.state.Networks[0].DHCP.Last = netip.MustParseAddr("172.30.0.203")
	small.l.set(&small.state)
	for range 10 {
		_, addr, _ := strings.Cut(small.ask(1, 1, discover, ""), " ")
		small.ask(1, 1, request, addr)
		small.ask(1, 1, decline, addr)
		small.apply()
	}
	if got := small.ask(2, 2, discover, ""); !strings.HasPrefix(got, "offer") {
		t.Errorf("after declined leases of a range of four: %s", got)
	}
	ours := layers.NewDHCPOption(layers.DHCPOptServerID, []byte{172, 30, 0, 77})
	addr := offered()
	x.ask(1, 1, request, addr)
	if x.ask(1, 1, decline, addr, ours); len(x.l.grants()) != 1 {
		t.Error("a decline for another server ended the lease")
	}
}

// A station that asks for another address before its port has lost the old one gets its answer when the port has the new one.
func TestAnswerWaitsForPort(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.ask(1, 1, discover, "")
	x.wants("request", x.ask(1, 1, request, "172.30.0.200"), "ack 172.30.0.200")
	x.ask(1, 1, decline, "172.30.0.200")
	x.wants("discover", x.ask(1, 1, discover, ""), "offer 172.30.0.201")
	x.wants("request", x.ask(1, 1, request, "172.30.0.201"), "ack 172.30.0.201")
	x.wants("the port", x.bound, "bind 172.30.0.201")
	if len(x.l.changes()) != 0 || len(x.l.waiting) != 0 {
		t.Error("something is left to do")
	}
}

// A port changes its leased address once in a second at most, whatever its station does.
func TestMovesAreBounded(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	moves, none := 0, layers.NewDHCPOption(layers.DHCPOptPad, nil) // the answer is not waited for
	for range 100 {
		x.ask(1, 1, discover, "172.30.0.200", none)
		x.ask(1, 1, request, "172.30.0.200", none)
		moves += len(x.l.changes())
		x.ask(1, 1, release, "172.30.0.200", none)
		moves += len(x.l.changes())
	}
	if moves != 1 {
		t.Errorf("%d moves", moves)
	}
}

// Where DHCP is switched off, the lease ends, and its address goes. A port with published ports or policies keeps the address.
func TestLeaseEndsWithDHCP(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
		x.ask(1, 1, discover, "")
		x.wants("request", x.ask(1, 1, request, "172.30.0.200"), "ack 172.30.0.200")
		want, left := "unbind", 0
		if keeps {
			want, left = "", 1
			x.state.Publishes = []model.Publish{{Port: "vm"}}
			x.l.set(&x.state)
			x.now = x.now.Add(2 * time.Hour)
			x.l.expire()
			x.wants("after its time", x.apply(), "")
			x.ask(1, 1, release, "172.30.0.200")
			x.wants("after a release", x.apply(), "")
		}
		x.state.Ports[0].DHCP = false
		x.l.set(&x.state)
		x.wants("without DHCP", x.apply(), want)
		if n := len(x.l.grants()); n != left {
			t.Errorf("%d leases", n)
		}
	}
}

// A foreign server's station behind a plugged device gets no NAK for an address that is not ours: the server of its own LAN answers.
func TestRFC2131_4_3_2_InitRebootUnknown(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "lan", Device: "eth9"}, api.PortAdd{Name: "vm", VDE: "/vm"})
	x.state.Ports[0].Flags |= x.state.Ports[1].Flags
	x.l.set(&x.state)
	x.wants("behind a device", x.ask(1, 1, request, "192.168.1.7"), "no answer")
	x.wants("at a port of its own", x.ask(2, 2, request, "192.168.1.7"), "nak 0.0.0.0")
}

// A saved lease takes no address from somebody who has it now.
func TestRestoreTakesNothing(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "a", VDE: "/a"}, api.PortAdd{Name: "b", VDE: "/b"})
	x.ask(1, 1, discover, "")
	x.wants("request", x.ask(1, 1, request, "172.30.0.200"), "ack 172.30.0.200")
	saved, _ := x.l.save()
	saved[0].Holder, saved[0].Port = "port b", "b"
	x.l.restore(saved)
	if g := x.l.grants(); len(g) != 1 || g[0].Port != "a" {
		t.Errorf("leases: %+v", g)
	}
	if _, changed := x.l.save(); changed {
		t.Error("nothing has changed")
	}
	x.l.unsaved()
	if _, changed := x.l.save(); !changed {
		t.Error("what could not be saved is forgotten")
	}
}

// Events tell of each lease's beginning and end once, also when its network goes.
func TestLeaseEvents(t *testing.T) {
	x := newLab(t, api.PortAdd{Name: "vm", VDE: "/vm"})
	var told []string
	x.l.tell = func(e api.Event) { told = append(told, e.Action+" "+e.Address) }
	x.ask(1, 1, discover, "")
	for range 3 {
		x.ask(1, 1, request, "172.30.0.200")
	}
	x.state.Networks, x.state.Ports = nil, nil
	x.l.set(&x.state)
	x.now = x.now.Add(2 * time.Hour)
	x.l.expire()
	if got := strings.Join(told, ", "); got != "began 172.30.0.200, ended 172.30.0.200" {
		t.Error(got)
	}
}

// BenchmarkExchange is a DISCOVER and a REQUEST with their answers, of 16 stations behind a device in turn.
func BenchmarkExchange(b *testing.B) {
	x := newLab(b, api.PortAdd{Name: "lan", Device: "eth9"})
	x.state.Networks[0].DHCP.Last = netip.MustParseAddr("172.30.0.250")
	x.state.Ports[0].Flags |= vswitch.AsksDHCP
	x.l.set(&x.state)
	i := byte(0)
	for b.Loop() {
		i = (i + 1) % maxLeases
		x.ask(1, i, discover, "")
		x.ask(1, i, request, netip.AddrFrom4([4]byte{172, 30, 0, 200 + i}).String())
	}
}
