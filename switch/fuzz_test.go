package vswitch_test

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// FuzzGuard: what a port says is read by gopacket, too, which takes off tags and extension headers as a receiver does. No frame that passes says
// that its sender has an address of another port or of the gateway, or is a router or a DHCP server. Port 1 has a guard, port 3 has none.
func FuzzGuard(f *testing.F) {
	const guarded, free, gatewayAddr, own, bound = 1, 3, "10.0.0.1", "10.0.0.2", "10.0.0.3"
	mine6, bound6 := frametest.Addr6("fd00::2"), frametest.Addr6("fd00::3")
	s := newSwitch(3, 0)
	s.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, Addr: frametest.Addr(gatewayAddr), FDB: vswitch.NewFDB(1024, 3)})
	s.SetPort(vswitch.Port{ID: guarded, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(1), Addr: frametest.Addr(own), Addrs6: []frame.Addr6{mine6}})
	s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(2), Addr: frametest.Addr(bound), Addrs6: []frame.Addr6{bound6}})
	ofOthers := map[string]bool{gatewayAddr: true, bound: true, bound6.Netip().String(): true, mac(2).LinkLocal().Netip().String(): true}
	mine := map[string]bool{own: true, mine6.Netip().String(): true, mac(1).LinkLocal().Netip().String(): true}

	ra := packet6(own6, 58, 134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, raw := range [][]byte{
		frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: frametest.Addr(own), Dst: frametest.Addr(bound), SrcPort: 67, DstPort: 68}.Raw(),
		frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src6: mine6, Dst6: bound6, SrcPort: 547, DstPort: 546, Ext: []byte{60, 0, 1, 4, 0, 0, 0, 0}}.Raw(),
		frametest.ARP(frame.BroadcastMAC, mac(1), 2, frametest.Addr(bound), frametest.Addr(gatewayAddr)),
		frametest.ARP(frame.BroadcastMAC, mac(1), 1, 0, frametest.Addr(bound)),
		packet6(own6, 58, nd(136, own6, 2, mac(1))...), packet6(own6, 58, nd(135, own6, 1, mac(2))...), ra,
		packet6(own6, 0, append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, nd(136, others6, 2, mac(2))...)...),
		packet6(own6, 44, append([]byte{58, 0, 0, 1, 0, 0, 0, 7}, nd(136, own6, 2, mac(2))...)...),
	} {
		for tags := range 3 {
			f.Add(true, tagged(raw, tags)[frame.VnetLen:])
			f.Add(false, tagged(raw, tags)[frame.VnetLen:])
		}
	}
	f.Fuzz(func(t *testing.T, hasGuard bool, eth []byte) {
		if len(eth) == 0 || len(eth) > 1600 {
			return
		}
		in := frame.PortID(free)
		if hasGuard {
			in = guarded
		}
		b := frametest.Batch(in, 1, append(make([]byte, frame.VnetLen), eth...))
		fr := &b.Frames[0]
		if run(s, b); fr.Verdict == frame.Drop || fr.Verdict == frame.Punt {
			return
		}
		may := func(what string, ip net.IP) {
			if a := ip.String(); ofOthers[a] || hasGuard && !mine[a] && !ip.IsUnspecified() {
				t.Errorf("%s is %s", what, a)
			}
		}
		mayMAC := func(what string, m net.HardwareAddr) {
			if a := frame.LoadMAC(m); a == gateway || hasGuard && a != mac(1) {
				t.Errorf("%s is %s", what, a)
			}
		}
		packet := gopacket.NewPacket(eth, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
		if packet.Metadata().Truncated { // its receiver drops it (linux net/ipv4/ip_input.c, ip_rcv_core; net/ipv6/ip6_input.c, ip6_rcv_core)
			return
		}
		addressed := false
		for _, l := range packet.Layers() {
			if l.LayerType() == layers.LayerTypeIPv4 || l.LayerType() == layers.LayerTypeIPv6 || l.LayerType() == layers.LayerTypeEthernet {
				if addressed {
					return // a tunnel: the guard does not look at the packets inside
				}
				addressed = l.LayerType() != layers.LayerTypeEthernet
			}
			switch l := l.(type) {
			case *layers.Ethernet:
				mayMAC("the source", l.SrcMAC)
			case *layers.Dot1Q:
				if l.VLANIdentifier != 0 {
					if hasGuard {
						t.Errorf("VLAN %d", l.VLANIdentifier)
					}
					return
				}
			case *layers.ARP:
				if l.AddrType == layers.LinkTypeEthernet && l.Protocol == layers.EthernetTypeIPv4 && l.HwAddressSize == 6 && l.ProtAddressSize == 4 {
					if sender := net.IP(l.SourceProtAddress); sender.IsUnspecified() {
						if a := net.IP(l.DstProtAddress).String(); a == bound {
							t.Errorf("ARP asks whether somebody has %s", a)
						}
					} else {
						may("the sender of ARP", sender)
					}
					if hasGuard {
						mayMAC("the sender of ARP", l.SourceHwAddress)
					}
				}
			case *layers.IPv4:
				if l.Version != 4 || l.IHL < 5 || int(binary.BigEndian.Uint16(l.Contents[2:])) < 4*int(l.IHL) { // likewise
					return
				}
				may("the source", l.SrcIP)
			case *layers.IPv6:
				if l.Version != 6 {
					return
				}
				may("the source", l.SrcIP)
			case *layers.UDP:
				if l.DstPort == 68 || l.DstPort == 546 {
					t.Errorf("a DHCP server speaks to port %d", l.DstPort)
				}
			case *layers.ICMPv6RouterAdvertisement, *layers.ICMPv6Redirect:
				t.Errorf("a router speaks: %v", l)
			case *layers.ICMPv6NeighborAdvertisement:
				may("the advertised neighbor", l.TargetAddress)
				for _, o := range l.Options {
					if o.Type == layers.ICMPv6OptTargetAddress && len(o.Data) == 6 && hasGuard {
						mayMAC("the advertised neighbor", o.Data)
					}
				}
			}
		}
	})
}
