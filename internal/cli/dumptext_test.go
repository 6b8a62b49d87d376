package cli

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

func textCorpus(t *testing.T) (list [][]byte) {
	a := frametest.Addr
	add := func(p frametest.Packet) []byte {
		p.SrcMAC, p.DstMAC = 0x020000000001, 0x020000000002
		raw := p.Raw()
		list = append(list, raw[frame.VnetLen:])
		return raw
	}
	c, s := a("10.0.0.2"), a("192.168.1.1")
	seg := func(back bool, flags uint8, seq, ack uint32, n int) {
		p := frametest.Packet{Src: c, Dst: s, Proto: frame.TCP, SrcPort: 40000, DstPort: 8099, Flags: flags, TCPSeq: seq, TCPAck: ack, Window: 8000, Payload: make([]byte, n)}
		if back {
			p.Src, p.Dst, p.SrcPort, p.DstPort = s, c, 8099, 40000
		}
		add(p)
	}
	seg(false, frame.FlagSYN, 1000, 0, 0)
	seg(true, frame.FlagSYN|frame.FlagACK, 5000, 1001, 0)
	seg(false, frame.FlagACK, 1001, 5001, 0)
	seg(false, frame.FlagACK|frame.FlagPSH, 1001, 5001, 35)
	seg(true, frame.FlagACK, 5001, 1036, 0)
	seg(true, frame.FlagACK|frame.FlagFIN, 5001, 1036, 0)
	seg(false, frame.FlagRST, 1036, 0, 0)
	seg(false, 0, 1036, 0, 3)
	seg(true, frame.FlagACK|0x20|0x40|0x80, 5002, 1040, 1)
	udp := add(frametest.Packet{Src: c, Dst: s, SrcPort: 40001, DstPort: 9, Payload: make([]byte, 20)})
	add(frametest.Packet{Src: c, Dst: s, Proto: frame.ICMP, Type: 8, ID: 7, Seq: 1 << 16 >> 8, Payload: make([]byte, 56)})
	add(frametest.Packet{Src: s, Dst: c, Proto: frame.ICMP, Type: 0, ID: 7, Payload: make([]byte, 56)})
	for _, e := range [][2]uint8{{3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 4}, {3, 9}, {3, 10}, {3, 13}, {11, 0}, {11, 1}} {
		add(frametest.Packet{Src: s, Dst: c, Proto: frame.ICMP, Type: e[0], Code: e[1], Seq: 1400, Payload: frametest.Quote(udp, 8)})
	}
	add(frametest.Packet{Src: c, Dst: s, Proto: 253, Payload: make([]byte, 12)})
	for _, f := range frametest.Fragments(frametest.Packet{SrcMAC: 2, DstMAC: 4, Src: c, Dst: s, SrcPort: 40000, DstPort: 9, Payload: make([]byte, 60), IPID: 9}.Raw(), 24) {
		list = append(list, f[frame.VnetLen:])
	}
	made := func(l ...gopacket.SerializableLayer) {
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, l...); err != nil {
			t.Fatal(err)
		}
		list = append(list, bytes.Clone(b.Bytes()))
	}
	eth := func(t layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: t}
	}
	for _, x := range []struct {
		op       uint16
		src, dst [4]byte
		to       byte
	}{{1, [4]byte{10, 0, 0, 2}, [4]byte{10, 0, 0, 3}, 0}, {2, [4]byte{10, 0, 0, 3}, [4]byte{10, 0, 0, 2}, 2}, {1, [4]byte{10, 0, 0, 2}, [4]byte{10, 0, 0, 3}, 7},
		{1, [4]byte{10, 0, 0, 2}, [4]byte{10, 0, 0, 2}, 0}, {1, [4]byte{}, [4]byte{10, 0, 0, 2}, 0}} {
		made(eth(layers.EthernetTypeARP), &layers.ARP{AddrType: 1, Protocol: 0x800, HwAddressSize: 6, ProtAddressSize: 4, Operation: x.op,
			SourceHwAddress: []byte{2, 0, 0, 0, 0, 1}, SourceProtAddress: x.src[:], DstHwAddress: []byte{x.to, 0, 0, 0, 0, 0}, DstProtAddress: x.dst[:]})
	}
	v6 := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: layers.IPProtocolUDP, SrcIP: []byte("\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"), DstIP: []byte("\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")}
	made(eth(layers.EthernetTypeIPv6), v6, &layers.UDP{SrcPort: 40000, DstPort: 9}, gopacket.Payload(make([]byte, 8)))
	icmp6 := *v6
	icmp6.NextHeader = layers.IPProtocolICMPv6
	made(eth(layers.EthernetTypeIPv6), &icmp6, gopacket.Payload([]byte{128, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3}))
	made(eth(layers.EthernetTypeIPv6), &icmp6, gopacket.Payload(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, v6.DstIP...)))
	a6, b6 := frametest.Addr6("fd00::1"), frametest.Addr6("fd00::2")
	six := func(p frametest.Packet) []byte {
		if p.Src6.IsZero() {
			p.Src6, p.Dst6 = a6, b6
		}
		return add(p)
	}
	target := make([]byte, 16)
	b6.Put(target)
	option := []byte{1, 1, 2, 0, 0, 0, 0, 1}
	six(frametest.Packet{Proto: frame.TCP, SrcPort: 40000, DstPort: 8099, Flags: frame.FlagSYN, TCPSeq: 1000, Window: 8000})
	six(frametest.Packet{Proto: frame.TCP, SrcPort: 40000, DstPort: 8099, Flags: frame.FlagACK | frame.FlagPSH, TCPSeq: 1001, TCPAck: 5001, Window: 8000, Payload: make([]byte, 20)})
	question := six(frametest.Packet{SrcPort: 40001, DstPort: 9, Payload: make([]byte, 20)})
	six(frametest.Packet{Proto: frame.ICMPv6, Type: 129, ID: 7, Seq: 1, Payload: make([]byte, 56)})
	six(frametest.Packet{Proto: frame.ICMPv6, TTL: 255, Type: 135, Payload: append(bytes.Clone(target), option...)})
	six(frametest.Packet{Proto: frame.ICMPv6, TTL: 255, Type: 136, ID: 0x6000, Payload: append(bytes.Clone(target), 2, 1, 2, 0, 0, 0, 0, 1)})
	six(frametest.Packet{Proto: frame.ICMPv6, TTL: 255, Type: 133, Payload: option})
	for _, e := range [][2]uint8{{1, 0}, {1, 1}, {1, 3}, {1, 4}, {2, 0}, {3, 0}, {4, 1}} {
		six(frametest.Packet{Proto: frame.ICMPv6, Type: e[0], Code: e[1], Seq: 1400, Payload: question[frame.VnetLen+frame.EthernetLen:]})
	}
	six(frametest.Packet{SrcPort: 40000, DstPort: 9, Next: 44, Ext: []byte{17, 0, 0, 1, 0, 0, 0, 9}, Payload: make([]byte, 40), NoChecksum: true})
	six(frametest.Packet{SrcPort: 40000, DstPort: 9, Next: 60, Ext: []byte{17, 0, 1, 4, 0, 0, 0, 0}, Payload: make([]byte, 4)})
	ip4 := &layers.IPv4{Version: 4, IHL: 5, TTL: 9, Protocol: layers.IPProtocolTCP, SrcIP: []byte{10, 0, 0, 9}, DstIP: []byte{10, 0, 0, 3}}
	made(eth(layers.EthernetTypeIPv4), ip4, &layers.TCP{SrcPort: 40000, DstPort: 99, SYN: true, Window: 64240, Options: []layers.TCPOption{
		{OptionType: 2, OptionLength: 4, OptionData: []byte{5, 0xb4}}, {OptionType: 4, OptionLength: 2}, {OptionType: 8, OptionLength: 10, OptionData: []byte{0, 0, 0, 1, 0, 0, 0, 0}},
		{OptionType: 1}, {OptionType: 3, OptionLength: 3, OptionData: []byte{7}}}})
	made(eth(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, ip4, &layers.TCP{SrcPort: 40000, DstPort: 99, SYN: true, Window: 5})
	return list
}

// TestTextAgainstTcpdump checks that tcpdump prints the same lines for the same packets.
func TestTextAgainstTcpdump(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs tcpdump")
	}
	list := textCorpus(t)
	file := pcapHead(0)
	at := time.Unix(1700000000, 123456000)
	for i, raw := range list {
		file = append(file, pcapPacket(&capture.Packet{Time: at.Add(time.Duration(i) * time.Second), Length: len(raw), Data: raw})...)
	}
	for _, flags := range [][]string{{}, {"-e"}, {"-S"}, {"-x"}, {"-X"}, {"-xx"}, {"-XX"}, {"-t"}, {"-tt"}, {"-ttt"}, {"-tttt"}, {"-ttttt"}, {"-q"}, {"-q", "-e"}, {"-A"}, {"-#"}, {"-tt", "--nano"}, {"-K", "-O", "-N", "-u", "-b"}} {
		cmd := exec.Command("tcpdump", append([]string{"-n", "-r", "-"}, flags...)...)
		cmd.Stdin, cmd.Env = bytes.NewReader(file), append(os.Environ(), "TZ=UTC")
		theirs, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var f dumpFlags
		fl := pflag.NewFlagSet("dump", pflag.ContinueOnError)
		f.add(fl)
		if err := fl.Parse(flags); err != nil {
			t.Fatal(err)
		}
		var ours bytes.Buffer
		p := newPrinter(&ours, &f)
		time.Local = time.UTC
		for i, raw := range list {
			if err := p.packet(&capture.Packet{Time: at.Add(time.Duration(i) * time.Second), Port: "web", Dir: capture.In, Length: len(raw), Data: raw}); err != nil {
				t.Fatal(err)
			}
		}
		got := strings.Split(strings.ReplaceAll(ours.String(), "web   In  ", ""), "\n")
		want := strings.Split(string(theirs), "\n")
		if len(got) != len(want) {
			t.Errorf("%v: %d lines; tcpdump has %d", flags, len(got), len(want))
		}
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Errorf("%v:\n     we: %s\ntcpdump: %s", flags, got[i], want[i])
			}
		}
	}
}
