package simnet

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
)

// policed is a network in which a may send to b by TCP to port 80, and to x by UDP to port 53, and c helps a.
func policed(t *testing.T) *Net {
	t.Helper()
	n, err := Run(`
network 1 10.0.0.1/24
uplink 198.51.100.1
outside x 203.0.113.9
host a 10.0.0.2 port 1 guard
host b 10.0.0.3 port 2 guard
host c 10.0.0.4 port 3
b:1 > a:1 "hello"
c:1 > a:1 "hello"
policy a egress allow port:b tcp/80
policy a egress allow 203.0.113.9 udp/53
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range n.hosts {
		h.inbox = nil
	}
	n.lenient = true
	return n
}

// A container with policies tries to pass what no rule allows, with the help of another one and without.
func TestPolicyAttacks(t *testing.T) {
	secret := []byte("a secret of the container")
	tcp := func(n *Net, p frametest.Packet) frametest.Packet {
		p.SrcMAC, p.Src, p.SrcPort, p.DstPort, p.Proto, p.Flags, p.Payload = n.host("a").MAC, n.host("a").Addr, 4000, 80, frame.TCP, frame.FlagSYN, secret
		if p.Dst == 0 {
			p.Dst = n.host("b").Addr
		}
		if p.DstMAC == 0 {
			p.DstMAC = n.host("b").MAC
		}
		return p
	}
	for name, raws := range map[string]func(n *Net) [][]byte{
		"to a helper's MAC, with an address that is allowed": func(n *Net) [][]byte {
			return [][]byte{tcp(n, frametest.Packet{DstMAC: n.host("c").MAC}).Raw(), tcp(n, frametest.Packet{DstMAC: n.host("c").MAC, Dst: frametest.Addr("203.0.113.9")}).Raw()}
		},
		"to a station that is not known": func(n *Net) [][]byte {
			return [][]byte{tcp(n, frametest.Packet{DstMAC: 0x0200000000aa, Dst: frametest.Addr("10.0.0.77")}).Raw()}
		},
		"later fragments without a first one, and of one that is refused": func(n *Net) [][]byte {
			p := tcp(n, frametest.Packet{})
			p.Payload = bytes.Repeat(secret, 100)
			pieces := frametest.Fragments(p.Raw(), 600)
			p.DstPort = 81
			return append(pieces[1:], frametest.Fragments(p.Raw(), 600)...)
		},
		"another EtherType, a VLAN": func(n *Net) [][]byte {
			raw := tcp(n, frametest.Packet{}).Raw()
			other := bytes.Clone(raw)
			other[frame.VnetLen+12], other[frame.VnetLen+13] = 0x88, 0xb5
			return [][]byte{other, slices.Insert(raw, frame.VnetLen+12, 0x81, 0, 0, 5)}
		},
		"a broadcast, a multicast": func(n *Net) [][]byte {
			p := tcp(n, frametest.Packet{DstMAC: frame.BroadcastMAC, Dst: frametest.Addr("255.255.255.255")})
			q := tcp(n, frametest.Packet{DstMAC: 0x01005e000009, Dst: frametest.Addr("224.0.0.9")})
			p.Proto, q.Proto = frame.UDP, frame.UDP
			return [][]byte{p.Raw(), q.Raw()}
		},
		"a group's MAC with an address that is allowed": func(n *Net) [][]byte {
			var out [][]byte
			for _, m := range []frame.MAC{frame.BroadcastMAC, 0x01005e010203} {
				out = append(out, tcp(n, frametest.Packet{DstMAC: m}).Raw(), tcp(n, frametest.Packet{DstMAC: m, Dst: frametest.Addr("203.0.113.9")}).Raw())
			}
			return out
		},
		"ARP with data, of other kinds, in a tag": func(n *Net) [][]byte {
			arp := func() []byte {
				return frametest.ARP(n.host("b").MAC, n.host("a").MAC, 1, n.host("a").Addr, n.host("b").Addr)
			}
			with, op, target, tag := append(arp()[:frame.VnetLen+42], secret...), arp(), arp(), arp()
			op[frame.VnetLen+21] = 77
			copy(target[frame.VnetLen+32:], secret)
			return [][]byte{with, op, target, slices.Insert(tag, frame.VnetLen+12, 0x81, 0, 0, 0), frametest.ARP(n.host("c").MAC, n.host("a").MAC, 1, n.host("a").Addr, n.host("b").Addr)}
		},
		"a ping, an ICMP error about nothing": func(n *Net) [][]byte {
			p := tcp(n, frametest.Packet{})
			p.Proto, p.Type = frame.ICMP, frame.ICMPEcho
			q := p
			q.Type, q.Payload = frame.ICMPUnreachable, frametest.Quote(frametest.Packet{Src: n.host("b").Addr, Dst: n.host("a").Addr, Proto: frame.TCP, SrcPort: 1, DstPort: 2}.Raw(), 64)
			return [][]byte{p.Raw(), q.Raw()}
		},
		"IPv6 to a neighbor and to all": func(n *Net) [][]byte {
			p := tcp(n, frametest.Packet{Src6: n.host("a").MAC.LinkLocal(), Dst6: n.host("b").MAC.LinkLocal()})
			q := p
			q.DstMAC, q.Dst6, q.Proto = 0x333300000001, frametest.Addr6("ff02::1"), frame.UDP
			return [][]byte{p.Raw(), q.Raw()}
		},
		"a protocol without ports": func(n *Net) [][]byte {
			p := tcp(n, frametest.Packet{})
			p.Proto = frame.GRE
			return [][]byte{p.Raw()}
		},
		"out, to another port": func(n *Net) [][]byte {
			return [][]byte{tcp(n, frametest.Packet{DstMAC: gatewayMAC + 1<<16, Dst: frametest.Addr("203.0.113.9")}).Raw()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := policed(t)
			before := len(n.records)
			list := raws(n)
			for _, raw := range list {
				n.Inject(n.host("a"), raw)
			}
			for _, r := range n.records[before:] {
				if r.out && r.port != n.host("a").Port && (bytes.Contains(r.raw, secret[:8]) || !frametest.IsIPv4(r.raw) && len(r.raw) > 70) {
					t.Errorf("port %d got %s", r.port, describe(r.raw))
				}
			}
			if refused := n.DP.Drops()["policy_denied"] + n.DP.Drops()["fragment_timeout"] + n.DP.Drops()["guard_vlan"] + n.DP.Drops()["guard_source_address"]; refused < uint64(len(list)) {
				t.Errorf("%d frames, %d refused: %v", len(list), refused, n.DP.Drops())
			}
			if c := n.DP.Conservation(); !c.Balanced {
				t.Errorf("%+v", c)
			}
		})
	}
}

// What is allowed passes in fragments, too, within a network and out.
func TestPolicyAndFragments(t *testing.T) {
	n := policed(t)
	b, x := n.host("b"), n.host("x")
	p := frametest.Packet{SrcMAC: n.host("a").MAC, DstMAC: b.MAC, Src: n.host("a").Addr, Dst: b.Addr, SrcPort: 4000, DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN, Payload: make([]byte, 1400)}
	n.Inject(n.host("a"), frametest.Fragments(p.Raw(), 600)...)
	if len(b.inbox) != 3 {
		t.Errorf("b got %d fragments; drops: %v", len(b.inbox), n.DP.Drops())
	}
	p.DstMAC, p.Dst, p.DstPort, p.Proto = gatewayMAC+1<<16, x.Addr, 53, frame.UDP
	n.Inject(n.host("a"), frametest.Fragments(p.Raw(), 600)...)
	if len(x.inbox) != 3 {
		t.Errorf("x got %d fragments; drops: %v", len(x.inbox), n.DP.Drops())
	}
}

// The same to an address of the host, where both the translation and the filter watch fragments.
func TestPolicyAndFragmentsToHost(t *testing.T) {
	n := policed(t)
	if err := n.more("host h 10.0.0.254 port 9\npolicy a egress allow 198.51.100.1 udp/53\n"); err != nil {
		t.Fatal(err)
	}
	a, h, own := n.host("a"), n.host("h"), frametest.Addr("198.51.100.1")
	n.DP.Router.SetHost(h.Addr, frame.Addr6{}, h.Port)
	if err := n.DP.Router.AddRoute(router.Route{Prefix: netip.PrefixFrom(own.Netip(), 32), Kind: router.Local, Egress: h.Net, NextHop: h.Addr.Netip()}); err != nil {
		t.Fatal(err)
	}
	for id := range uint16(2) {
		p := frametest.Packet{SrcMAC: a.MAC, DstMAC: gatewayMAC + 1<<16, Src: a.Addr, Dst: own, SrcPort: 4000, DstPort: 53, IPID: 7 + id, Payload: make([]byte, 1400)}
		h.inbox = nil
		for _, raw := range frametest.Fragments(p.Raw(), 600) { // each is watched by both before the next one comes
			n.Inject(a, raw)
		}
		if len(h.inbox) != 3 {
			t.Errorf("the host got %d of 3 fragments; drops: %v", len(h.inbox), n.DP.Drops())
		}
	}
}

// Two first fragments of one packet: the receiver's stack may take the one that the switch does not judge by. Only the first passes, if it begins a
// flow, and nothing after it.
func TestPolicyAndTwoFirstFragments(t *testing.T) {
	n := policed(t)
	a, b := n.host("a"), n.host("b")
	p := frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: b.Addr, SrcPort: 4000, DstPort: 80, Proto: frame.TCP, Flags: frame.FlagRST, Payload: make([]byte, 1400)}
	reset := frametest.Fragments(p.Raw(), 600)
	p.Flags, p.SrcPort = frame.FlagSYN, 4001
	allowed := frametest.Fragments(p.Raw(), 600)
	p.DstPort = 22
	denied := frametest.Fragments(p.Raw(), 600)
	for what, raws := range map[string][][]byte{
		"a reset, then another port":        {reset[0], denied[0], denied[1], denied[2]},
		"an allowed one, then another port": {allowed[0], denied[0], denied[1], denied[2]},
	} {
		b.inbox = nil
		n.Inject(a, raws...)
		for _, raw := range b.inbox {
			if d := describe(raw); strings.Contains(d, ":22") || what[:7] == "a reset" || bytes.Equal(raw, denied[1]) {
				t.Errorf("%s: b got %s", what, d)
			}
		}
		n.Wait(31 * time.Second)
	}
}

// A later fragment has no TCP header: its bytes are no flags, however few they are.
func TestPolicyAndShortFragments(t *testing.T) {
	n := policed(t)
	a, b := n.host("a"), n.host("b")
	for size := range 40 {
		p := frametest.Packet{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.Addr, Dst: b.Addr, SrcPort: uint16(5000 + size), DstPort: 80, Proto: frame.TCP, Flags: frame.FlagSYN, Payload: bytes.Repeat([]byte{frame.FlagRST}, 580+size)}
		b.inbox = nil
		n.Inject(a, frametest.Fragments(p.Raw(), 600)...)
		if want := min(2, 1+size); len(b.inbox) != want {
			t.Errorf("%d bytes in the last fragment: b got %d fragments; drops: %v", size, len(b.inbox), n.DP.Drops())
		}
		n.DP.NAT.Flows(n.DP.Now(), func(f nat.Flow) bool {
			if f.Original.SrcPort == p.SrcPort && f.State != "SYN_SENT" {
				t.Errorf("%d bytes in the last fragment: the flow is %s", size, f.State)
			}
			return true
		})
	}
}

// A neighbor that forges addresses gets no flow with a policed port: the "answers" would go where no rule lets them.
func TestPolicyAndForgedSources(t *testing.T) {
	n := policed(t)
	a, c, x := n.host("a"), n.host("c"), n.host("x")
	forged := frametest.Packet{SrcMAC: c.MAC, DstMAC: a.MAC, Src: x.Addr, Dst: a.Addr, SrcPort: 443, DstPort: 4000}
	n.Inject(c, forged.Raw())
	before := len(n.records)
	n.Inject(a, frametest.Packet{SrcMAC: a.MAC, DstMAC: gatewayMAC + 1<<16, Src: a.Addr, Dst: x.Addr, SrcPort: 4000, DstPort: 443}.Raw(), frametest.Packet{SrcMAC: a.MAC, DstMAC: c.MAC, Src: a.Addr, Dst: x.Addr, SrcPort: 4000, DstPort: 443}.Raw())
	for _, r := range n.records[before:] {
		if r.out && r.port != a.Port {
			t.Errorf("port %d got %s", r.port, describe(r.raw))
		}
	}
	if got := n.DP.Drops()["policy_denied"]; got != 2 {
		t.Errorf("drops: %v", n.DP.Drops())
	}
}

// A connection that a rule ends is not begun again by the segments of its peer, in whose direction nothing is forbidden.
func TestPolicyEndsConnections(t *testing.T) {
	n, err := Run(`
network 1 10.0.0.1/24
host a 10.0.0.2 port 1 guard
host b 10.0.0.3 port 2 guard
b:1 > a:1 "hello"
a < b:1 "hello"
a:20000 > b:80 tcp S
b < a:20000 tcp S
b reply tcp S.
a < b:80 tcp S.
policy a egress drop any
b:80 > a:20000 tcp .
b < icmp 3/13
a:20000 > b:80 tcp .
a .
`)
	if err == nil || !strings.Contains(err.Error(), "b < icmp 3/13") { // in silence: the rule drops
		t.Errorf("%v", err)
	}
	if drops := n.DP.Drops(); drops["policy_dropped"] != 1 {
		t.Errorf("drops: %v", drops)
	}
	if err := n.more("a:20000 > b:80 tcp .\na .\nb ."); err != nil {
		t.Error(err)
	}
}

// A flow that begins without policies has no rule, although the entry of the table that it gets had one.
func TestPolicyOfAnEntryBefore(t *testing.T) {
	n, err := Run(`
nat flows 4
network 1 10.0.0.1/24
uplink 198.51.100.1
outside x 203.0.113.9
outside y 203.0.113.10
host a 10.0.0.2 port 1 guard
policy a egress allow name:api.example.com udp/443
answer a api.example.com 203.0.113.9 3600
a:20001 > x:443 "1"
a:20002 > x:443 "2"
a:20003 > x:443 "3"
`)
	if err != nil {
		t.Fatal(err)
	}
	rules := n.policies.rules
	n.DP.NAT.Flush(func(nat.Flow) bool { return true })
	n.Advance(20)
	n.policies.rules = map[frame.PortID][]policy.Numbered{}
	n.DP.NAT.SetPolicies(nil)
	x := &scenario{net: n, last: map[string]sent{}, seen: map[string]bool{}}
	for i := 20001; i < 20004; i++ {
		x.inject(n.host("a"), frametest.Packet{SrcMAC: n.host("a").MAC, DstMAC: gatewayMAC + 1<<16, Src: n.host("a").Addr, Dst: n.host("y").Addr, SrcPort: uint16(i), DstPort: 443}.Raw())
	}
	n.policies.rules = rules
	n.update()
	y := n.host("y")
	y.inbox = nil
	for i := 20001; i < 20004; i++ {
		x.inject(n.host("a"), frametest.Packet{SrcMAC: n.host("a").MAC, DstMAC: gatewayMAC + 1<<16, Src: n.host("a").Addr, Dst: y.Addr, SrcPort: uint16(i), DstPort: 443}.Raw())
	}
	if len(y.inbox) > 0 {
		t.Errorf("%d packets of flows that no rule has let in", len(y.inbox))
	}
}
