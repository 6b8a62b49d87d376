package simnet

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

const traceBed = `nat windows strict quota 8 pool 20000-20009
network 1 10.0.0.1/24 filtering address-dependent
network 2 10.0.1.1/24 isolated mapping address-and-port-dependent
network 3 10.0.2.1/24 internal
uplink 198.51.100.1 mtu 600
host a 10.0.0.2 port 1 guard
host b 10.0.0.3 port 2 isolated
host c 10.0.0.4 port 3 isolated locked
host d 10.0.1.2 port 4 net 2
host e 10.0.2.2 port 5 net 3
outside o 203.0.113.8
outside p 203.0.113.9
publish 8080:80 b from 203.0.113.8/32
publish 8081:80 d
route 192.0.2.0/24 blackhole
route 192.0.3.0/24 prohibit
a:20003 > o:80 tcp S seq 1
o:80 > 198.51.100.1:20003 tcp S. seq 1 ack 2
d:20004 > o:80 tcp S seq 1
o:80 > 198.51.100.1:20004 tcp S. seq 1 ack 2
`

// state is everything that a trace must leave alone.
func state(n *Net) string {
	s := fmt.Sprint(n.DP.Conservation(), n.DP.Drops(), n.DP.Router.Neighbors())
	n.DP.NAT.Flows(n.now, func(f nat.Flow) bool { s += fmt.Sprintf("%+v", f); return true })
	for id := range frame.NetID(4) {
		if t := n.DP.Switch.FDB(id); t != nil {
			s += fmt.Sprint(t.Entries())
		}
	}
	created, ended := n.DP.NAT.Stats()
	return s + fmt.Sprint(created, ended, n.DP.NAT.PortUseOf(frame.TCP), n.DP.NAT.PortUseOf(frame.UDP))
}

func genFrame(t *rapid.T, n *Net) (*Host, []byte) {
	h := rapid.SampledFrom(n.hosts).Draw(t, "from")
	i, _ := n.DP.Router.Interface(h.Net)
	mac := i.MAC
	if h.outside {
		mac = uplinkMAC
	}
	macs := []frame.MAC{mac, mac, mac, mac, frame.BroadcastMAC, 0x0180c2000001, n.hosts[1].MAC}
	addrs := []frame.Addr{frametest.Addr("198.51.100.1"), frametest.Addr("198.51.100.1"), i.Addr, frametest.Addr("192.0.2.1"), frametest.Addr("192.0.3.1"), frametest.Addr("224.0.0.1"), frametest.Addr("10.0.0.99")}
	for _, x := range n.hosts {
		addrs = append(addrs, x.Addr)
	}
	p := frametest.Packet{
		SrcMAC: rapid.SampledFrom([]frame.MAC{h.MAC, h.MAC, h.MAC, h.MAC, n.hosts[0].MAC}).Draw(t, "smac"), DstMAC: rapid.SampledFrom(macs).Draw(t, "dmac"),
		Src: rapid.SampledFrom([]frame.Addr{h.Addr, h.Addr, h.Addr, 0x7f000001}).Draw(t, "src"), Dst: rapid.SampledFrom(addrs).Draw(t, "dst"),
		Proto: rapid.SampledFrom([]uint8{frame.TCP, frame.TCP, frame.UDP, frame.UDP, frame.ICMP, frame.GRE}).Draw(t, "proto"),
		Flags: rapid.SampledFrom([]uint8{frame.FlagSYN, frame.FlagACK, frame.FlagSYN | frame.FlagACK, frame.FlagRST, frame.FlagFIN | frame.FlagACK}).Draw(t, "flags"),
		Type:  rapid.SampledFrom([]uint8{0, 8, 8, 3}).Draw(t, "type"), ID: 7,
		SrcPort: rapid.SampledFrom([]uint16{80, 20001, 20002, 30000}).Draw(t, "sport"), DstPort: rapid.SampledFrom([]uint16{80, 8080, 8081, 20001, 20002}).Draw(t, "dport"),
		TTL:     rapid.SampledFrom([]uint8{1, 64, 64, 64}).Draw(t, "ttl"),
		Frag:    rapid.SampledFrom([]uint16{0, 0, 0, 0, 0x4000, 0x2000, 2}).Draw(t, "frag"),
		Payload: make([]byte, rapid.SampledFrom([]int{8, 8, 24, 700}).Draw(t, "length")),
	}
	if rapid.IntRange(0, 12).Draw(t, "arp") == 0 {
		return h, frametest.ARP(p.DstMAC, p.SrcMAC, 1, p.Src, p.Dst)
	}
	return h, p.Raw()
}

// masked is a frame without what is drawn at random when a flow is made: the outside port, and the sums over it.
func masked(raw []byte, planned bool) []byte {
	b := bytes.Clone(raw)
	if at := frame.VnetLen + frame.EthernetLen + frame.IPv4Len; planned && len(b) >= at+8 && frametest.IsIPv4(b) {
		l4 := b[at:]
		switch b[at-frame.IPv4Len+9] {
		case frame.TCP:
			l4[0], l4[1], l4[16], l4[17] = 0, 0, 0, 0
		case frame.UDP:
			l4[0], l4[1], l4[6], l4[7] = 0, 0, 0, 0
		case frame.ICMP:
			l4[2], l4[3], l4[4], l4[5] = 0, 0, 0, 0
		}
	}
	return b
}

// A trace says what happens then: the same ports get the same bytes, or the same reason is counted; and it changes nothing.
func TestTraceEqualsLive(t *testing.T) {
	ways := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		n, err := Run(traceBed)
		if err != nil {
			t.Fatal(err)
		}
		n.lenient = true
		for range rapid.IntRange(1, 25).Draw(t, "frames") {
			h, raw := genFrame(t, n)
			before := state(n)
			var sent []Sent
			var why frame.Reason
			var planned, waits, consumed, held bool
			n.DP.Trace(func(tr *dataplane.Tracer) {
				o := tr.Run(h.Port, bytes.Clone(raw), func(string, *dataplane.TracedFrame, *dataplane.TracedFrame) {})
				for _, raw := range o.Pieces {
					sent = append(sent, Sent{Port: o.Ports[0], Raw: raw})
				}
				for _, p := range o.Ports {
					if o.Pieces != nil {
						break
					}
					sent = append(sent, Sent{Port: p, Raw: bytes.Clone(o.Frame.Raw())})
				}
				if o.Frame.Verdict == frame.Drop {
					why = o.Frame.Reason
				}
				if o.Slow != nil {
					why, consumed, held = o.Slow.Why, o.Slow.Consumed, o.Slow.Held
				}
				planned, waits = n.DP.NAT.Planned(), o.Waits
			})
			if after := state(n); after != before {
				t.Fatalf("the trace has changed something:\n%s\n%s", before, after)
			}
			drops, c := n.DP.Drops(), n.DP.Conservation()
			n.Poller.Put(h.Port, bytes.Clone(raw))
			if err := n.DP.Step(); err != nil {
				t.Fatal(err)
			}
			live := n.Poller.Out
			n.Poller.Out = nil
			report := func(format string, args ...any) {
				t.Fatalf("%s\nfrom %s: %s\ntrace: %d sent, %v, consumed %v, held %v, waits %v; live: %d sent, drops %v", fmt.Sprintf(format, args...), h.Name, describe(raw),
					len(sent), why, consumed, held, waits, len(live), n.DP.Drops())
			}
			if len(live) != len(sent) {
				report("different ports")
			}
			for i := range live {
				same := live[i].Port == sent[i].Port && bytes.Equal(masked(live[i].Raw, planned), masked(sent[i].Raw, planned))
				if !same {
					report("port %d gets % x, the trace said port %d and % x", live[i].Port, live[i].Raw, sent[i].Port, sent[i].Raw)
				}
			}
			now := n.DP.Drops()
			maps.DeleteFunc(now, func(k string, v uint64) bool { return drops[k] == v })
			got := slices.Sorted(maps.Keys(now))
			switch {
			case why != frame.None && !slices.Equal(got, []string{why.String()}):
				report("dropped for %v", got)
			case why == frame.None && len(got) > 0:
				report("dropped for %v", got)
			case consumed != (n.DP.Conservation().Consumed > c.Consumed):
				report("consumed or not")
			}
			switch {
			case why != frame.None:
				ways[why.String()]++
			case waits || held:
				ways["waits"]++
			default:
				ways[fmt.Sprintf("sent to %d", len(sent))]++
			}
			for _, s := range live {
				n.deliver(s)
			}
			n.Settle()
			if rapid.IntRange(0, 9).Draw(t, "time") == 0 {
				n.Advance(frame.Seconds(uint32(rapid.SampledFrom([]int{1, 40, 400}).Draw(t, "seconds"))))
			}
		}
	})
	if len(ways) < 15 {
		t.Errorf("the test is too easy; it saw %v", ways)
	}
	t.Log(ways)
}

// A SYN from outside ends a connection that has been reset, and with it the mapping and the permission that nothing else uses: the SYN is dropped.
// The trace, which ends nothing, says so, too.
func TestTraceOfReopened(t *testing.T) {
	for _, c := range []struct {
		filtering, also string
		want            frame.Reason
	}{
		{"endpoint-independent", "", frame.NATFiltered},
		{"endpoint-independent", "a:20000 > p:80 tcp S", frame.TTLExceeded}, // it keeps the mapping
		{"address-dependent", "a:20000 > p:80 tcp S", frame.NATFiltered},
		{"address-dependent", "a:20000 > o:81 tcp S\no < 198.51.100.1:20000 tcp S", frame.TTLExceeded}, // and the permission
	} {
		n := play(t, strings.Replace(bed, "/24", "/24 filtering "+c.filtering, 1)+"a:20000 > o:80 tcp S\no < 198.51.100.1:20000 tcp S\no reply tcp R.\na < o:80 tcp R.\n"+c.also)
		o := n.host("o")
		gateway, _ := n.DP.Router.Interface(frame.NoNet)
		raw := frametest.Packet{
			SrcMAC: o.MAC, DstMAC: gateway.MAC, Src: o.Addr, Dst: gateway.Addr, SrcPort: 80, DstPort: 20000, Proto: frame.TCP, Flags: frame.FlagSYN, TTL: 1,
		}.Raw()
		traced := n.traced(o.Port, raw)
		n.Poller.Put(o.Port, raw)
		n.Settle()
		if traced != c.want || n.DP.Drops()[c.want.String()] != 1 {
			t.Errorf("%s, %q: the trace says %v; dropped for %v", c.filtering, c.also, traced, n.DP.Drops())
		}
	}
}
