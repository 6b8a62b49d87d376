package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/simnet"
	"github.com/uvswitch/uvswitch/tap"
)

// The same packets go through the kernel's MASQUERADE and DNAT, and through uvswitch. Then the received packets are compared.

// A natProbe is a set of packets that one end sends.
type natProbe struct {
	name, from string
	make       func(c *natCourse) [][]byte // builds the frames; natCourse.one fills in their MACs
}

// natCourse is one run of all probes, through the kernel or through uvswitch.
type natCourse struct {
	b     *Bed
	conns map[string]*tap.AFPacket
	gw    frame.MAC // the gateway's, as the containers see it
	macs  map[string]frame.MAC
	port  map[string]uint16   // outside port of each flow, by key, such as "c1 udp 5000"
	got   map[string][]string // received packets by probe, each with the end that received it
	bytes map[string]int      // the same for UDP in the current probe: bytes after the IP header
	last  string              // key in port of the flow that is being sent
	six   bool                // all packets are translated to IPv6, and back: see simnet.ToIPv6
	probe string              // the one that is being sent
	not   map[string]bool     // probes that could not be translated
}

var natAddrs = map[string]frame.Addr{
	"c1": frametest.Addr("172.29.0.2"), "c2": frametest.Addr("172.29.0.3"), "out": frametest.Addr("10.1.0.2"), "host": frametest.Addr("10.1.0.1"),
	"gw": frametest.Addr("172.29.0.1"), "hop": frametest.Addr("10.1.0.77"),
}

func natName(a frame.Addr) string {
	for name, addr := range natAddrs {
		if a == addr {
			return name
		}
	}
	return a.String()
}

// one returns p as a frame from an end, with its MACs and source address filled in.
func (c *natCourse) one(from string, p frametest.Packet) []byte {
	p.SrcMAC, p.DstMAC = c.macs[from], c.gw
	if from == "out" {
		p.DstMAC = c.macs["host"]
	}
	if p.Src == 0 {
		p.Src = natAddrs[from]
	}
	return p.Raw()
}

// flowOut returns a probe in which a container sends p to out. The flow's outside port is stored under key.
func flowOut(name, from, key string, p frametest.Packet) natProbe {
	return natProbe{name, from, func(c *natCourse) [][]byte {
		c.last = key
		p.Dst = natAddrs["out"]
		return [][]byte{c.one(from, p)}
	}}
}

// back returns a probe in which out sends p to the outside port stored under key.
func back(name, key string, p frametest.Packet) natProbe {
	return natProbe{name, "out", func(c *natCourse) [][]byte {
		q := p
		q.Dst = natAddrs["host"]
		if q.Proto == frame.ICMP {
			q.ID = c.port[key]
		} else {
			q.DstPort = c.port[key]
		}
		return [][]byte{c.one("out", q)}
	}}
}

// errorAbout returns a probe in which out sends an ICMP error about a packet of key's flow.
func errorAbout(name, key string, typ, code uint8, src string, about frametest.Packet) natProbe {
	return natProbe{name, "out", func(c *natCourse) [][]byte {
		q := about
		q.Src, q.Dst = natAddrs["host"], natAddrs["out"]
		if q.Proto == frame.ICMP {
			q.ID = c.port[key]
		} else {
			q.SrcPort = c.port[key]
		}
		return [][]byte{c.one("out", frametest.Packet{
			Src: natAddrs[src], Dst: natAddrs["host"], Proto: frame.ICMP, Type: typ, Code: code, Seq: 1300, Payload: frametest.Quote(q.Raw(), 8),
		})}
	}}
}

func pieces(name, from, key string, reversed bool, p frametest.Packet) natProbe {
	return natProbe{name, from, func(c *natCourse) [][]byte {
		q := p
		if from == "out" {
			q.Dst, q.DstPort = natAddrs["host"], c.port[key]
		} else {
			c.last, q.Dst = key, natAddrs["out"]
		}
		list := frametest.Fragments(c.one(from, q), 24)
		if reversed {
			slices.Reverse(list)
		}
		return list
	}}
}

func natProbes() []natProbe {
	pay := []byte("some payload that is long enough to be cut")
	udp := func(sport, dport uint16) frametest.Packet {
		return frametest.Packet{SrcPort: sport, DstPort: dport, Payload: pay}
	}
	seg := func(flags uint8, sport, dport uint16, seq, ack uint32) frametest.Packet {
		return frametest.Packet{Proto: frame.TCP, Flags: flags, SrcPort: sport, DstPort: dport, TCPSeq: seq, TCPAck: ack, Window: 8000}
	}
	const syn, ack, fin, rst, psh = frame.FlagSYN, frame.FlagACK, frame.FlagFIN, frame.FlagRST, frame.FlagPSH
	to := func(name, from, dst string, p frametest.Packet) natProbe {
		return natProbe{name, from, func(c *natCourse) [][]byte {
			p.Dst = natAddrs[dst]
			if p.Dst == 0 {
				p.Dst = frametest.Addr(dst)
			}
			return [][]byte{c.one(from, p)}
		}}
	}
	broken := udp(5000, 53)
	return []natProbe{
		flowOut("UDP out", "c1", "u1", udp(5000, 53)),
		back("UDP answer", "u1", udp(53, 0)),
		flowOut("UDP out again", "c1", "u1", udp(5000, 53)),
		back("UDP from another port", "u1", udp(54, 0)),
		flowOut("UDP of another container on the same port", "c2", "u2", udp(5000, 53)),
		back("its answer", "u2", udp(53, 0)),
		errorAbout("port unreachable", "u1", 3, 3, "out", udp(0, 53)),
		errorAbout("time exceeded by a router on the way", "u1", 11, 0, "hop", udp(0, 53)),
		errorAbout("fragmentation needed", "u1", 3, 4, "hop", udp(0, 53)),
		errorAbout("redirect", "u1", 5, 1, "hop", udp(0, 53)),
		{"an error about nothing of ours", "out", func(c *natCourse) [][]byte {
			q := udp(4, 5)
			q.Src, q.Dst = natAddrs["host"], natAddrs["out"]
			return [][]byte{c.one("out", frametest.Packet{Dst: natAddrs["host"], Proto: frame.ICMP, Type: 3, Code: 1, Payload: frametest.Quote(q.Raw(), 8)})}
		}},
		flowOut("SYN", "c1", "t1", seg(syn, 6000, 80, 100, 0)),
		back("SYN/ACK", "t1", seg(syn|ack, 80, 0, 500, 101)),
		flowOut("ACK", "c1", "t1", seg(ack, 6000, 80, 101, 501)),
		back("data", "t1", seg(psh|ack, 80, 0, 501, 101)),
		flowOut("FIN", "c1", "t1", seg(fin|ack, 6000, 80, 101, 501)),
		back("ACK of the FIN", "t1", seg(ack, 80, 0, 501, 102)),
		back("data after the half-close", "t1", seg(psh|ack, 80, 0, 501, 102)),
		back("FIN of the other side", "t1", seg(fin|ack, 80, 0, 501, 102)),
		flowOut("last ACK", "c1", "t1", seg(ack, 6000, 80, 102, 502)),
		flowOut("SYN on the port in TIME_WAIT", "c1", "t1", seg(syn, 6000, 80, 900000, 0)),
		back("its SYN/ACK", "t1", seg(syn|ack, 80, 0, 700000, 900001)),
		flowOut("its ACK", "c1", "t1", seg(ack, 6000, 80, 900001, 700001)),
		back("RST", "t1", seg(rst|ack, 80, 0, 700001, 900001)),
		flowOut("SYN of another container", "c2", "t2", seg(syn, 6000, 80, 100, 0)),
		back("refused", "t2", seg(rst|ack, 80, 0, 0, 101)),
		flowOut("SYN again", "c2", "t2", seg(syn, 6000, 80, 7000, 0)),
		flowOut("ACK without a connection", "c1", "t3", seg(ack, 6100, 80, 5, 5)),
		flowOut("SYN/ACK without a connection", "c1", "t4", seg(syn|ack, 6101, 80, 5, 5)),
		flowOut("RST without a connection", "c1", "t5", seg(rst, 6102, 80, 5, 5)),
		flowOut("no flags", "c1", "t6", seg(0, 6103, 80, 5, 5)),
		to("SYN from outside to no published port", "out", "host", seg(syn, 4000, 81, 1, 0)),
		to("SYN to a published port", "out", "host", seg(syn, 4000, 8080, 1, 0)),
		{"answer of the published one", "c1", func(c *natCourse) [][]byte {
			p := seg(syn|ack, 80, 4000, 1, 2)
			p.Dst = natAddrs["out"]
			return [][]byte{c.one("c1", p)}
		}},
		to("data to the published one", "out", "host", seg(psh|ack, 4000, 8080, 2, 2)),
		to("SYN from the neighbour to the published port", "c2", "host", seg(syn, 4100, 8080, 1, 0)),
		flowOut("echo request", "c1", "e1", frametest.Packet{Proto: frame.ICMP, Type: 8, ID: 77, Payload: pay}),
		back("echo reply", "e1", frametest.Packet{Proto: frame.ICMP, Type: 0, Payload: pay}),
		flowOut("echo request of another with the same id", "c2", "e2", frametest.Packet{Proto: frame.ICMP, Type: 8, ID: 77, Payload: pay}),
		back("its echo reply", "e2", frametest.Packet{Proto: frame.ICMP, Type: 0, Payload: pay}),
		errorAbout("host unreachable about the ping", "e1", 3, 1, "hop", frametest.Packet{Proto: frame.ICMP, Type: 8}),
		flowOut("echo reply that nobody asked for", "c1", "e3", frametest.Packet{Proto: frame.ICMP, Type: 0, ID: 78, Payload: pay}),
		flowOut("timestamp request", "c1", "e4", frametest.Packet{Proto: frame.ICMP, Type: 13, ID: 79, Payload: make([]byte, 12)}),
		pieces("fragments out", "c1", "u1", false, frametest.Packet{SrcPort: 5000, DstPort: 53, Payload: pay, IPID: 1}),
		pieces("fragments in", "out", "u1", false, frametest.Packet{SrcPort: 53, Payload: pay, IPID: 2}),
		pieces("fragments out in reverse", "c1", "u1", true, frametest.Packet{SrcPort: 5000, DstPort: 53, Payload: pay, IPID: 3}),
		pieces("fragments in in reverse", "out", "u1", true, frametest.Packet{SrcPort: 53, Payload: pay, IPID: 4}),
		flowOut("protocol 253 out", "c1", "x1", frametest.Packet{Proto: 253, Payload: pay}),
		back("protocol 253 answer", "x1", frametest.Packet{Proto: 253, Payload: pay}),
		flowOut("protocol 253 of another", "c2", "x2", frametest.Packet{Proto: 253, Payload: pay}),
		flowOut("TTL 1", "c1", "v1", frametest.Packet{SrcPort: 5001, DstPort: 53, TTL: 1, Payload: pay}),
		to("to the gateway's closed port", "c1", "gw", udp(5002, 7)),
		to("ping of the gateway", "c1", "gw", frametest.Packet{Proto: frame.ICMP, Type: 8, ID: 5, Payload: pay}),
		flowOut("too long, DF", "c1", "v2", frametest.Packet{SrcPort: 5003, DstPort: 53, Frag: 0x4000, Payload: make([]byte, 1420)}),
		flowOut("too long", "c1", "v3", frametest.Packet{SrcPort: 5003, DstPort: 53, Payload: make([]byte, 1420)}),
		flowOut("from an address that is not there", "c1", "v4", frametest.Packet{Src: frametest.Addr("9.9.9.9"), SrcPort: 1, DstPort: 53, Payload: pay}),
		flowOut("from loopback", "c1", "v5", frametest.Packet{Src: frametest.Addr("127.0.0.1"), SrcPort: 1, DstPort: 53, Payload: pay}),
		to("to reserved", "c1", "240.0.0.1", udp(1, 2)),
		to("to the directed broadcast", "out", "172.29.255.255", udp(1, 2)),
		flowOut("loose source route", "c1", "v6", frametest.Packet{SrcPort: 5004, DstPort: 53, Options: []byte{131, 7, 4, 10, 1, 0, 2, 0}, Payload: pay}),
		{"a wrong header checksum", "c1", func(c *natCourse) [][]byte {
			broken.Dst = natAddrs["out"]
			raw := c.one("c1", broken)
			raw[frame.VnetLen+frame.EthernetLen+10] ^= 0x33
			return [][]byte{raw}
		}},
		{"a wrong UDP checksum", "c1", func(c *natCourse) [][]byte {
			broken.Dst = natAddrs["out"]
			raw := c.one("c1", broken)
			raw[frame.VnetLen+frame.EthernetLen+frame.IPv4Len+6] ^= 0x33
			return [][]byte{raw}
		}},
		flowOut("SCTP", "c1", "s1", frametest.Packet{Proto: frame.SCTP, Payload: sctpChunk(20000, 80, "\x00\x00\x00\x00", 1)}),
		{"SCTP answer", "out", func(c *natCourse) [][]byte {
			return [][]byte{c.one("out", frametest.Packet{Dst: natAddrs["host"], Proto: frame.SCTP, Payload: sctpChunk(80, c.port["s1"], "tag1", 2)})}
		}},
		to("from outside to a container's address", "out", "c1", udp(1, 2)),
	}
}

// sctpChunk returns an SCTP packet with an INIT (1) or INIT ACK (2) and its CRC32c.
func sctpChunk(src, dst uint16, tag string, kind byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst)
	b = append(append(b, tag+"\x00\x00\x00\x00"...), kind, 0, 0, 20)
	b = append(b, "tag1\x00\x00\x20\x00\x00\x01\x00\x01tsn1"...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// natIntended has the intended differences from the kernel, by probe, with their reasons.
var natIntended = map[string]string{
	"RST without a connection":                     "the kernel lets it out untranslated, with an address that nobody can answer",
	"SYN/ACK without a connection":                 "the kernel lets it out untranslated",
	"no flags":                                     "the kernel lets it out untranslated",
	"echo reply that nobody asked for":             "the kernel lets it out untranslated",
	"SYN from the neighbour to the published port": "without a rule for hairpinning the kernel delivers it with the neighbour's own address, and the answer goes another way",
	"to reserved":                                  "the kernel forwards 240/4; RFC 1812, 5.3.7 says drop",
	"a wrong UDP checksum":                         "the kernel lets it out untranslated; we translate it, still wrong, for its receiver to drop",
	"from an address that is not there":            "the kernel forwards it, untranslated: rp_filter is off here",
	"from outside to a container's address":        "the kernel routes it: whoever is beside the host reaches every container (moby 41872); ours are not reached",
}

// TestKernelNATAgrees compares uvswitch with the kernel's MASQUERADE and DNAT in the same topology, over IPv4 and over IPv6.
func TestKernelNATAgrees(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { kernelNATAgrees(t, false) })
	t.Run("IPv6", func(t *testing.T) { kernelNATAgrees(t, true) })
}

func kernelNATAgrees(t *testing.T, six bool) {
	Need(t, "iptables", "ip6tables", "sysctl")
	b := NewHost(t)
	b.AddNS("c1", "c2")
	ip, tables, mtu := "ip ", "iptables ", 1400
	text := func(a frame.Addr) string { return a.String() }
	target, nodad := text, ""
	if six {
		ip, tables, mtu, nodad = "ip -6 ", "ip6tables ", 1420, " nodad"
		text = func(a frame.Addr) string { return simnet.IPv6Of(a).String() }
		target = func(a frame.Addr) string { return "[" + text(a) + "]" }
	}
	prefix := func(a frame.Addr, bits int) string { // of the network of a, which has 32 bits in both families
		if six {
			bits += 96
		}
		return fmt.Sprintf("%s/%d", text(a), bits)
	}
	gateway, host := natAddrs["gw"], natAddrs["host"]
	for _, c := range []string{"c1", "c2"} {
		b.Sh("host", fmt.Sprintf("ip link add h-%s type veth peer name eth0 netns %s && ip link set h-%s addrgenmode none up", c, b.NS(c), c))
		b.Sh(c, "ip link set eth0 addrgenmode none up && "+ip+"addr add "+prefix(natAddrs[c], 16)+" dev eth0"+nodad+" && "+ip+"route add default via "+text(gateway))
	}
	if six {
		b.Sh("out", "ip link set eth0 addrgenmode none && ip addr add "+prefix(natAddrs["out"], 24)+" dev eth0"+nodad)
		b.Sh("host", "ip addr add "+prefix(host, 24)+" dev eth0"+nodad+" && ip -6 route add default via "+text(natAddrs["out"]))
	}
	for _, ns := range []string{"c1", "c2", "out"} { // these kernels answer only ARP and neighbor solicitations
		if six {
			for _, chain := range []string{"INPUT", "OUTPUT"} {
				b.Sh(ns, "ip6tables -A "+chain+" -p icmpv6 --icmpv6-type 135 -j ACCEPT && ip6tables -A "+chain+" -p icmpv6 --icmpv6-type 136 -j ACCEPT")
			}
		}
		b.Sh(ns, tables+"-P INPUT DROP && "+tables+"-P OUTPUT DROP")
		for _, dev := range []string{"tx", "rx", "tso", "gso", "gro"} {
			_, _ = b.TrySh(ns, "ethtool -K eth0 "+dev+" off")
		}
	}
	b.Sh("out", fmt.Sprintf("ip link set eth0 mtu %d", mtu))
	b.Sh("host", fmt.Sprintf("ip link set eth0 mtu %d addrgenmode none", mtu))

	b.Sh("host", "ip link add br0 type bridge stp_state 0 mcast_snooping 0 && ip link set br0 addrgenmode none up && ip addr add "+prefix(gateway, 16)+" dev br0"+nodad)
	for _, c := range []string{"c1", "c2"} {
		b.Sh("host", "ip link set h-"+c+" master br0")
	}
	b.Sh("host", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.br0.rp_filter=0 net.ipv4.icmp_ratelimit=0 net.ipv6.conf.all.forwarding=1 net.ipv6.icmp.ratelimit=0")
	b.Sh("host", tables+"-t nat -A POSTROUTING -s "+prefix(gateway&^0xffff, 16)+" -o eth0 -j MASQUERADE && "+tables+"-t nat -A PREROUTING -d "+text(host)+" -p tcp --dport 8080 -j DNAT --to "+target(natAddrs["c1"])+":80")
	for i, c := range []string{"c1", "c2"} {
		b.Sh("host", fmt.Sprintf("%s-t nat -A PREROUTING -d %s -p udp --dport %d -j DNAT --to %s:%[3]d", tables, text(host), syncIn[i], target(natAddrs[c])))
	}
	b.Eventually("the bridge forwards", func() bool { return strings.Count(b.Sh("host", "bridge link"), "state forwarding") == 2 })
	kernel := runCourse(b, linkMAC(b, "host", "br0"), nil, six)
	b.Sh("host", "ip link del br0 && "+tables+"-t nat -F && sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")

	network := "{name: default, subnet: 172.29.0.0/16}"
	if six {
		network = "{name: default, subnet: 172.29.0.0/16, subnet6: \"" + prefix(gateway&^0xffff, 16) + "\", nat6: masquerade}"
	}
	file := filepath.Join(t.TempDir(), "uvs.yaml")
	if err := os.WriteFile(file, []byte("host: {address: off}\nnetworks: ["+network+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Start("-c", file)
	for _, c := range []string{"c1", "c2"} {
		add := []string{"port", "add", c, "--device", "h-" + c, "--ip", natAddrs[c].String()}
		if six {
			add = append(add, "--ip6", text(natAddrs[c]))
		}
		b.CLI(add...)
		b.CLI("port", "set", c, "guard", "off")
	}
	b.CLI("publish", "add", "8080:80", "--port", "c1")
	for i, c := range []string{"c1", "c2"} {
		b.CLI("publish", "add", fmt.Sprintf("%d:%[1]d/udp", syncIn[i]), "--port", c)
	}
	var nets []api.Network
	b.JSON(&nets, "network", "ls")
	gw, err := frame.ParseMAC(nets[0].MAC)
	if err != nil {
		t.Fatal(err)
	}
	ours := runCourse(b, gw, kernel, six)
	agreed := 0
	intended := maps.Clone(natIntended)
	if six {
		delete(intended, "to reserved") // of IPv6, it is a multicast group
	}
	for _, p := range natProbes() {
		why, expected := intended[p.name]
		k, o := strings.Join(kernel[p.name], "; "), strings.Join(ours[p.name], "; ")
		switch same := k == o; {
		case same && expected && why != "":
			t.Errorf("%s: no difference any more (%s): take it out of the table", p.name, o)
		case !same && !expected:
			t.Errorf("%s:\n  the kernel: %s\n  uvswitch:   %s", p.name, k, o)
		case same && !(six && slices.Contains(natNot6, p.name)):
			agreed++
		}
	}
	t.Logf("%d of %d agree", agreed, len(natProbes()))
	b.Balanced()
}

func linkMAC(b *Bed, ns, dev string) frame.MAC {
	b.t.Helper()
	var links []struct{ Address string }
	if err := json.Unmarshal([]byte(b.Sh(ns, "ip -j link show "+dev)), &links); err != nil || len(links) != 1 {
		b.t.Fatalf("%s in %s: %v", dev, ns, err)
	}
	m, err := frame.ParseMAC(links[0].Address)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

// runCourse sends all probes, one after the other, and returns what arrived. If want names what must arrive, runCourse waits for packets that
// are late.
func runCourse(b *Bed, gw frame.MAC, want map[string][]string, six bool) map[string][]string {
	b.t.Helper()
	c := &natCourse{b: b, six: six, not: map[string]bool{}, conns: map[string]*tap.AFPacket{}, gw: gw, macs: map[string]frame.MAC{}, port: map[string]uint16{}, got: map[string][]string{}, bytes: map[string]int{}}
	for _, ns := range []string{"c1", "c2", "out", "host"} {
		c.macs[ns] = linkMAC(b, ns, "eth0")
		if ns == "host" {
			continue
		}
		conn, err := tap.OpenAFPacket(filepath.Join("/run/netns", b.NS(ns)), "eth0")
		if err != nil {
			b.t.Fatal(err)
		}
		defer conn.Close()
		c.conns[ns] = conn
	}
	c.sync("", "c1")
	c.sync("", "c2")
	c.sync("", "out")
	clear(c.got)
	clear(c.bytes)
	for _, p := range natProbes() {
		c.last, c.probe = "", p.name
		for _, raw := range p.make(c) {
			c.send(p.from, raw)
		}
		c.sync(p.name, p.from)
		c.sync(p.name, p.from) // again: fragments that waited, and segments that GRO queued, may arrive after later packets
		direct := c.got[p.name]
		all := func() []string {
			list := slices.Clone(direct)
			for class, n := range c.bytes {
				list = append(list, fmt.Sprintf("%s, %d bytes", class, n))
			}
			return slices.Sorted(slices.Values(list))
		}
		for range 20 { // on a busy machine, they may arrive still later
			if want == nil || natIntended[p.name] != "" || slices.Equal(all(), want[p.name]) {
				break
			}
			c.sync(p.name, p.from)
			direct = c.got[p.name]
		}
		c.got[p.name] = all()
		clear(c.bytes)
	}
	if not := slices.Sorted(maps.Keys(c.not)); six && !slices.Equal(not, slices.Sorted(slices.Values(natNot6))) {
		b.t.Errorf("not translated to IPv6: %v; want %v", not, natNot6)
	}
	return c.got
}

// natNot6 has the probes that have no counterpart in IPv6.
var natNot6 = []string{"redirect", "timestamp request", "loose source route"}

// send sends a frame, or nothing if it has no counterpart in IPv6.
func (c *natCourse) send(from string, raw []byte) {
	if c.six {
		var err error
		if raw, err = simnet.ToIPv6(raw); err != nil {
			c.not[c.probe] = true
			return
		}
	}
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	if why := c.conns[from].Write(&f); why != frame.None {
		c.b.t.Fatalf("sending from %s: %v", from, why)
	}
}

const syncPort = 9999

var syncIn = [2]uint16{9998, 9997} // published ports of c1 and of c2

// sync sends a marker on each path that packets of the probe may take, and reads until every end has received one. Markers
// arrive after the probe's packets. Each path needs its own, since a worker keeps the order only of frames to the same port.
func (c *natCourse) sync(probe, from string) {
	c.b.t.Helper()
	heard := map[string]bool{}
	c.b.Eventually("the end of probe "+probe, func() bool {
		if from == "out" {
			for _, port := range syncIn {
				c.send(from, c.one(from, frametest.Packet{Dst: natAddrs["host"], SrcPort: syncPort, DstPort: port}))
			}
			c.send(from, c.one(from, frametest.Packet{Dst: natAddrs["host"], Proto: frame.ICMP, Type: 8, ID: syncPort}))
		} else {
			other := map[string]string{"c1": "c2", "c2": "c1"}[from]
			c.send(from, c.one(from, frametest.Packet{Dst: natAddrs["out"], SrcPort: syncPort, DstPort: syncPort}))
			c.send(from, c.one(from, frametest.Packet{Dst: natAddrs["gw"], Proto: frame.ICMP, Type: 8, ID: syncPort}))
			across := frametest.Packet{SrcMAC: c.macs[from], DstMAC: c.macs[other], Src: natAddrs[from], Dst: natAddrs[other], SrcPort: syncPort, DstPort: syncPort}
			c.send(from, across.Raw())
		}
		for name := range c.conns {
			if c.drain(probe, name) {
				heard[name] = true
			}
		}
		return len(heard) == len(c.conns)
	})
	for name := range c.conns {
		c.drain(probe, name)
	}
}

// drain reads the packets that have arrived at one end, and reports whether a marker of sync was among them.
func (c *natCourse) drain(probe, at string) (synced bool) {
	buf := make([]byte, frame.VnetLen+frame.MaxFrame)
	for n, _ := c.conns[at].Read(buf); n > 0; n, _ = c.conns[at].Read(buf) {
		raw := slices.Clone(buf[:n])
		if c.six {
			var err error
			if raw, err = simnet.ToIPv4(raw); err != nil {
				continue
			}
		}
		var f frame.Frame
		f.Reset(raw, 1)
		frame.Parse(&f)
		if f.Flags&frame.IsIPv4 == 0 || f.Src == c.macs[at] {
			continue
		}
		t := f.Tuple
		if t.Proto == frame.UDP && (t.SrcPort == syncPort || t.DstPort == syncPort) || t.Proto == frame.ICMP && t.DstPort == syncPort {
			synced = true
			continue
		}
		if f.Flags&frame.ICMPError != 0 {
			if q, _, ok := frame.Quoted(f.Payload()); ok && (q.SrcPort == syncPort || q.DstPort == syncPort) {
				continue
			}
		}
		if at == "out" && c.last != "" && natName(t.Src) == "host" && f.Flags&frame.HasTuple != 0 {
			c.port[c.last] = t.SrcPort
		}
		class := at + " gets " + classOf(&f)
		if t.Proto == frame.UDP { // a packet may arrive whole or in fragments
			c.bytes[class] += len(f.Payload())
			continue
		}
		c.got[probe] = append(c.got[probe], class)
	}
	return synced
}

// classOf describes a packet without what may differ: identifications, TTLs, and ports that NAT chose.
func classOf(f *frame.Frame) string {
	t := f.Tuple
	s := fmt.Sprintf("%s %s>%s", frame.ProtoName(f.Proto), natName(t.Src), natName(t.Dst))
	switch {
	case f.Flags&frame.ICMPError != 0:
		l4 := f.Payload()
		s += fmt.Sprintf(" %d/%d", l4[0], l4[1])
		if q, _, ok := frame.Quoted(l4); ok {
			s += fmt.Sprintf(" about %s %s>%s", frame.ProtoName(q.Proto), natName(q.Src), natName(q.Dst))
		}
		if l4[0] == 3 && l4[1] == 4 {
			s += fmt.Sprintf(" mtu %d", binary.BigEndian.Uint16(l4[6:]))
		}
	case f.Proto == frame.ICMP:
		s += fmt.Sprintf(" type %d", f.Payload()[0])
	case f.Proto == frame.TCP:
		s += " " + frame.TCPFlags(f.Payload()[13])
	}
	return s
}
