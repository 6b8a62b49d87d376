package filter

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// expressions are compared with tcpdump on all frames of corpus.
var expressions = []string{
	"", "ip", "ip6", "arp", "rarp", "tcp", "udp", "icmp", "icmp6", "sctp", "igmp", "esp", "not arp", "! tcp",
	"host 10.0.0.2", "src host 10.0.0.2", "dst 10.0.0.2", "src or dst host 10.0.0.2", "src and dst 10.0.0.2", "ip host 10.0.0.3", "arp host 10.0.0.3",
	"net 10.0.0.0/24", "net 10", "net 10.0", "dst net 192.168.0.0/16", "net 10.0.0.0 mask 255.255.255.0", "net 0.0.0.0/0",
	"port 80", "src port 80", "tcp port 80", "udp port 53", "port domain", "portrange 50-90", "udp dst portrange 1-100", "port 80 or 53", "tcp dst port http",
	"ip6 host fd00::1", "host fd00::1", "net fd00::/16", "ip6 src fd00::2", "ip6 and port 80",
	"ether host 02:00:00:00:00:01", "ether src 02:00:00:00:00:01", "ether dst 02:00:00:00:00:02", "ether broadcast", "broadcast", "multicast", "ether multicast",
	"ip multicast", "ip6 multicast", "ether proto 0x0806", "ether proto 0x88cc", "ip proto 17", "ip proto 47", "proto 6", "ip6 proto 17",
	"less 60", "greater 100", "len > 70", "len = 42", "len >= 60 and len < 200",
	"tcp[tcpflags] & tcp-syn != 0", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", "tcp[13] = 0x12", "tcp[0:2] = 80", "tcp[2:2] > 79 and tcp[2:2] < 81",
	"icmp[icmptype] = icmp-echo", "icmp[0] != 8", "not icmp[icmptype] = icmp-echo", "ip[8] < 5", "ip[6:2] & 0x1fff != 0", "ip[2:2] > 60",
	"(ip[0] & 0xf) << 2 > 20", "udp[4:2] - 8 > 10", "ether[0] & 1 = 0 and ip[16] >= 224", "ip[0] & 0xf != 5", "tcp[4:4] > 1000", "arp[6:2] = 1", "arp[7] = 2",
	"ip6[6] = 17", "icmp6[0] = 135", "len % 2 = 1", "ip[9] / 2 = 3", "ip[9] ^ 6 = 0", "1 = 1", "tcp[100] = 0", "not tcp[100] = 0",
	"tcp[tcp[12] >> 2:4] != 0", "tcp[((tcp[12] & 0xf0) >> 2):4] = 0", "len - 8 > 60", "ip proto \\tcp", "ip[8] * 2 % 4 = 0", "ip[8] ^ 1 & 3 = 1", "1 + ip[9] % 4 = 3",
	"net 10.0/16", "net 10.0.0/24 and tcp", "net 192.168/16 or arp",
	"vlan", "vlan 5", "vlan and ip", "vlan 5 and tcp", "vlan and host 10.0.0.2", "vlan and vlan", "not vlan",
	"tcp and port 80 and host 10.0.0.2", "tcp or udp and port 53", "(tcp or udp) and port 53", "not (tcp or udp)", "not tcp and not udp", "not host 10.0.0.2 or arp",
	"host 10.0.0.2 and (port 80 or 443)", "src host 10.0.0.2 && dst port 53 || icmp", "tcp[20:4] = 0x70617920", "portrange 79-81 and tcp", "src net 10 and not dst net 10",
}

func corpus() [][]byte {
	var list [][]byte
	add := func(p frametest.Packet) {
		p.SrcMAC, p.DstMAC = 0x020000000001, 0x020000000002
		list = append(list, p.Raw()[frame.VnetLen:])
	}
	pay := []byte("pay load of some length, to be seen")
	a := frametest.Addr
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		for _, ports := range [][2]uint16{{4000, 80}, {80, 4000}, {5000, 53}, {443, 7}} {
			add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("192.168.1.1"), Proto: proto, SrcPort: ports[0], DstPort: ports[1], Flags: frame.FlagSYN, TCPSeq: 5, Payload: pay})
			add(frametest.Packet{Src: a("192.168.1.1"), Dst: a("10.0.0.3"), Proto: proto, SrcPort: ports[1], DstPort: ports[0], Flags: frame.FlagSYN | frame.FlagACK, TCPSeq: 500000, TTL: 3})
		}
	}
	add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("10.0.0.2"), Proto: frame.TCP, SrcPort: 1, DstPort: 80, Flags: frame.FlagACK})
	add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("10.0.0.3"), Proto: frame.ICMP, Type: 8, ID: 7, Payload: pay})
	add(frametest.Packet{Src: a("10.0.0.3"), Dst: a("10.0.0.2"), Proto: frame.ICMP, Type: 0, ID: 7, Payload: pay[:3]})
	add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("224.0.0.5"), SrcPort: 9, DstPort: 53, Payload: pay})
	add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("8.8.8.8"), SrcPort: 9, DstPort: 53, Options: []byte{7, 3, 4, 0}, Payload: pay})
	add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("8.8.8.8"), Proto: 47, Payload: pay})
	add(frametest.Packet{Src: a("10.0.0.2"), Dst: a("8.8.8.8"), Proto: frame.SCTP, Payload: []byte{0, 80, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0}})
	p := frametest.Packet{SrcMAC: 0x020000000001, DstMAC: 0x020000000002, Src: a("10.0.0.2"), Dst: a("8.8.8.8"), SrcPort: 80, DstPort: 53, Payload: pay, IPID: 9}
	for _, f := range frametest.Fragments(p.Raw(), 24) {
		list = append(list, f[frame.VnetLen:])
	}
	eth := func(t layers.EthernetType, dst []byte) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: dst, EthernetType: t}
	}
	one, all := []byte{2, 0, 0, 0, 0, 2}, []byte{255, 255, 255, 255, 255, 255}
	made := func(l ...gopacket.SerializableLayer) {
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, l...); err != nil {
			panic(err)
		}
		list = append(list, b.Bytes())
	}
	for op := range uint16(2) {
		made(eth(layers.EthernetTypeARP, all), &layers.ARP{AddrType: 1, Protocol: 0x800, HwAddressSize: 6, ProtAddressSize: 4, Operation: op + 1,
			SourceHwAddress: []byte{2, 0, 0, 0, 0, 1}, SourceProtAddress: []byte{10, 0, 0, 2}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 0, 0, 3}})
	}
	v6 := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: layers.IPProtocolUDP, SrcIP: []byte("\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"), DstIP: []byte("\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")}
	made(eth(layers.EthernetTypeIPv6, one), v6, &layers.UDP{SrcPort: 80, DstPort: 9}, gopacket.Payload(pay))
	sol := *v6
	sol.NextHeader, sol.DstIP = layers.IPProtocolICMPv6, []byte("\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\x00\x00\x01")
	made(eth(layers.EthernetTypeIPv6, []byte{0x33, 0x33, 0xff, 0, 0, 1}), &sol, gopacket.Payload(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, v6.DstIP...)))
	frag := *v6
	frag.NextHeader = layers.IPProtocolIPv6Fragment
	made(eth(layers.EthernetTypeIPv6, one), &frag, gopacket.Payload(append([]byte{17, 0, 0, 0, 0, 0, 0, 1}, pay...)))
	ip4 := &layers.IPv4{Version: 4, IHL: 5, TTL: 9, Protocol: layers.IPProtocolTCP, SrcIP: []byte{10, 0, 0, 2}, DstIP: []byte{10, 0, 0, 3}}
	tcp := &layers.TCP{SrcPort: 9, DstPort: 80, SYN: true, Window: 9}
	made(eth(layers.EthernetTypeDot1Q, one), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, ip4, tcp)
	made(eth(layers.EthernetTypeQinQ, one), &layers.Dot1Q{VLANIdentifier: 6, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, ip4, tcp)
	made(eth(0x88cc, []byte{1, 0x80, 0xc2, 0, 0, 14}), gopacket.Payload(pay))
	for _, n := range []int{14, 20, 33, 34, 36, 40, 54} { // truncated frames
		list = append(list, list[0][:n])
	}
	return list
}

func TestAgainstTcpdump(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs tcpdump")
	}
	list := corpus()
	var all bytes.Buffer // a capture file of all frames; a frame's time is its number
	w := pcapgo.NewWriter(&all)
	_ = w.WriteFileHeader(1<<16, layers.LinkTypeEthernet)
	for i, raw := range list {
		_ = w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), CaptureLength: len(raw), Length: len(raw)}, raw)
	}
	var room Packet
	for _, e := range expressions {
		f, err := Compile(e)
		if err != nil {
			t.Errorf("%q: %v", e, err)
			continue
		}
		c := exec.Command("tcpdump", "-tt", "-n", "-q", "-r", "-", e)
		c.Stdin = bytes.NewReader(all.Bytes())
		out, err := c.Output()
		if err != nil {
			t.Errorf("tcpdump %q: %v", e, err)
			continue
		}
		theirs := map[string]bool{}
		for line := range strings.Lines(string(out)) {
			if stamp, _, ok := strings.Cut(line, "."); ok {
				theirs[stamp] = true
			}
		}
		for i, raw := range list {
			if got := f.Match(&room, raw); got != theirs[strconv.Itoa(i)] {
				t.Errorf("%q: frame %d (% x): we say %v", e, i, raw[:min(40, len(raw))], got)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	for e, want := range map[string]string{
		"port":                  "a value is missing after port",
		"port 70000":            "is not a port",
		"hots 1.2.3.4":          "is not a primitive",
		"host example.org":      "names are not resolved",
		"(tcp":                  "a closing bracket ) is missing",
		"tcp and":               "the expression ends",
		"tcp udp":               "is not expected at this place",
		"net 10.1.1.1/8":        "did you mean 10.0.0.0/8",
		"ether host 1.2.3.4":    "not a MAC address",
		"icmp port 5":           "has no ports",
		"inbound":               "--dir in",
		"tcp[0:3] = 1":          "use 1, 2 or 4",
		strings.Repeat("(", 99): "brackets",
	} {
		if _, err := Compile(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", e, err, want)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	raw := corpus()[0]
	f, err := Compile("tcp[tcpflags] & tcp-syn != 0 and host 10.0.0.2 and (port 80 or 443) and not net fd00::/16")
	if err != nil {
		t.Fatal(err)
	}
	var room Packet
	if n := testing.AllocsPerRun(100, func() { f.Match(&room, raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCompile(f *testing.F) {
	for _, e := range expressions {
		f.Add(e, []byte{1, 2, 3})
	}
	frames := corpus()
	f.Fuzz(func(t *testing.T, e string, raw []byte) {
		c, err := Compile(e)
		if err != nil {
			return
		}
		var room Packet
		c.Match(&room, raw)
		for _, x := range frames {
			c.Match(&room, x)
		}
	})
}
