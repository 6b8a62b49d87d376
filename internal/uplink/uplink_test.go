package uplink

import (
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// inMemory is an uplink on plain memory, without BPF maps: it has an address, and the port sets are empty.
func inMemory(addr string) *Uplink {
	u := &Uplink{maps: &maps{portsMem: make([]byte, int(sets)*nat.PortSetBytes)}}
	u.known.Store(&known{State: State{Addr: netip.MustParseAddr(addr), Up: true}, kind: "tcx"})
	return u
}

// Each protocol has its own set of ports, and replacing a set removes the ports that are not in the new set.
func TestSetPorts(t *testing.T) {
	u := inMemory("198.51.100.1")
	tcp, udp, sctp := nat.NewPortSet(), nat.NewPortSet(), nat.NewPortSet()
	tcp.AddRange(80, 90)
	udp.AddRange(53, 53)
	sctp.AddRange(65535, 65535)
	u.SetPorts(tcp, udp, sctp)
	u.ICMPIDs().AddRange(7, 7)
	for i, want := range map[setIndex][]uint16{setTCP: {80, 90}, setUDP: {53}, setICMPID: {7}, setSCTP: {65535}} {
		for _, p := range []uint16{7, 53, 79, 80, 90, 91, 65535} {
			has := u.maps.portSet(i).Has(p)
			should := false
			for _, w := range want {
				should = should || w == p
			}
			if has != should {
				t.Errorf("set %d has port %d: %v", i, p, has)
			}
		}
	}
	u.SetPorts(nat.NewPortSet(), udp, sctp)
	if u.maps.portSet(setTCP).Has(80) || !u.maps.portSet(setUDP).Has(53) || !u.maps.portSet(setICMPID).Has(7) {
		t.Error("replacing the set of TCP changes another set, or keeps a port")
	}
}

// Claims agrees with the ingress program about what belongs to the switch (see bpf_ingress.go): packets to the host's address whose
// port, identifier or quoted packet is in a set.
func TestClaims(t *testing.T) {
	u := inMemory("198.51.100.1")
	tcp, udp := nat.NewPortSet(), nat.NewPortSet()
	tcp.AddRange(8080, 8080)
	udp.AddRange(20000, 20010)
	u.SetPorts(tcp, udp, nat.NewPortSet())
	u.ICMPIDs().AddRange(9, 9)
	us, peer := frametest.Addr("198.51.100.1"), frametest.Addr("203.0.113.8")
	out := frametest.Packet{Src: us, Dst: peer, Proto: frame.UDP, SrcPort: 20005, DstPort: 53, Payload: []byte("question")}
	host := out
	host.SrcPort = 40000
	for name, tt := range map[string]struct {
		p    frametest.Packet
		want bool
	}{
		"a published port":           {frametest.Packet{Src: peer, Dst: us, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, true},
		"the port of a mapping":      {frametest.Packet{Src: peer, Dst: us, Proto: frame.UDP, SrcPort: 53, DstPort: 20005}, true},
		"a port of the host":         {frametest.Packet{Src: peer, Dst: us, Proto: frame.TCP, SrcPort: 5, DstPort: 22}, false},
		"that port of UDP":           {frametest.Packet{Src: peer, Dst: us, Proto: frame.UDP, SrcPort: 5, DstPort: 8080}, false},
		"another address":            {frametest.Packet{Src: peer, Dst: us + 1, Proto: frame.TCP, SrcPort: 5, DstPort: 8080}, false},
		"the answer to our ping":     {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: frame.ICMPEchoReply, ID: 9}, true},
		"the answer to another ping": {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: frame.ICMPEchoReply, ID: 8}, false},
		"a ping to the host":         {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: frame.ICMPEcho, ID: 9}, false},
		"an error about our packet":  {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: 3, Code: 3, Payload: frametest.Quote(out.Raw(), 8)}, true},
		"an error about the host's":  {frametest.Packet{Src: peer, Dst: us, Proto: frame.ICMP, Type: 3, Code: 3, Payload: frametest.Quote(host.Raw(), 8)}, false},
		"a later fragment":           {frametest.Packet{Src: peer, Dst: us, Proto: frame.UDP, Frag: 9, Payload: []byte("more of it")}, true},
	} {
		var f frame.Frame
		f.Reset(tt.p.Raw(), 1)
		frame.Parse(&f)
		if got := u.Claims(&f); got != tt.want {
			t.Errorf("%s: claimed: %v", name, got)
		}
	}
}
