package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// TestIPv4Attacks: a tenant speaks for others, by frames made by hand, with virtio-net headers, and by dsniff and yersinia. Its victim's
// neighbors, routes and path MTUs stay as they are. On a kernel's bridge, two of the attacks move the victim.
func TestIPv4Attacks(t *testing.T) {
	Need(t, "arpspoof", "yersinia", "script", "socat")
	b := New(t)
	containers(b)
	ping(b, "web", "172.29.0.3")
	ping(b, "web", "172.29.0.1")
	b.Background("web", "sleep 300 | socat - UDP:10.1.0.2:9999,sourceport=7777") // the ICMP errors are about its packets
	b.Eventually("the victim's socket is there", func() bool { return strings.Contains(b.Sh("web", "ss -unH"), ":7777") })

	mac := func(ns string) frame.MAC {
		m, err := frame.ParseMAC(strings.TrimSpace(b.Sh(ns, "ip -o link show eth0 | sed 's/.*ether //; s/ .*//'")))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	addr := frametest.Addr
	// attacks are those of a station with an address and a MAC against a victim, whose gateway has another address and MAC.
	attacks := func(me, victim, gateway frame.Addr, mine, its, gatewayMAC frame.MAC) []struct {
		name string
		raw  []byte
		drop string // empty: the frame passes, and the receiver's kernel refuses it
	} {
		packet := func(p frametest.Packet) []byte {
			p.SrcMAC, p.DstMAC, p.Src, p.Dst = mine, its, cmp.Or(p.Src, me), victim
			return p.Raw()
		}
		about := frametest.Packet{Src: victim, Dst: addr("10.1.0.2"), SrcPort: 7777, DstPort: 9999}.Raw()[frame.VnetLen+14:]
		icmp := func(typ, code uint8, mtu uint16) frametest.Packet {
			return frametest.Packet{Proto: frame.ICMP, Type: typ, Code: code, Seq: mtu, Payload: about}
		}
		spoof := frametest.ARP(its, mine, 2, gateway, victim)
		inTags := func(raw []byte, tags ...byte) []byte {
			return slices.Insert(bytes.Clone(raw), frame.VnetLen+12, tags...)
		}
		first, fromGateway := icmp(3, 4, 600), icmp(3, 4, 600)
		first.Frag, fromGateway.Src = 0x2000, gateway
		partial := packet(frametest.Packet{Payload: make([]byte, 40)})
		partial[0], partial[6], partial[8] = 1, 40, 6 // a checksum to be put over other bytes
		inSNAP := slices.Concat(spoof[:frame.VnetLen+12], []byte{0, 36, 0xaa, 0xaa, 3, 0, 0, 0, 8, 6}, spoof[frame.VnetLen+14:])
		return []struct {
			name string
			raw  []byte
			drop string
		}{
			{"a forged ARP reply", spoof, "guard_arp_sender"},
			{"ICMP: fragmentation needed", packet(icmp(3, 4, 600)), "guard_icmp_error"},
			{"the same in a first fragment", packet(first), "guard_icmp_error"},
			{"the same, from the gateway", packet(fromGateway), "guard_source_address"},
			{"ICMP: port unreachable", packet(icmp(3, 3, 0)), "guard_icmp_error"},
			{"ICMP: redirect", packet(icmp(5, 1, 0)), "guard_icmp_error"},
			{"a forged ARP reply to all", frametest.ARP(frame.BroadcastMAC, mine, 2, gateway, gateway), "guard_arp_sender"},
			{"a forged ARP request", frametest.ARP(its, mine, 1, gateway, victim), "guard_arp_sender"},
			{"a forged ARP reply with a priority", inTags(spoof, 0x81, 0, 0, 0), "guard_arp_sender"},
			{"in two tags", inTags(spoof, 0x81, 0, 0, 0, 0x81, 0, 0, 0), "guard_vlan"},
			{"in a service tag", inTags(spoof, 0x88, 0xa8, 0, 0), "guard_arp_sender"},
			{"in SNAP", inSNAP, ""},
			{"from the gateway's MAC", frametest.ARP(its, gatewayMAC, 2, gateway, victim), "gateway_mac_stolen"},
			{"from another MAC", frametest.ARP(its, 0x020000000066, 2, gateway, victim), "guard_source_mac"},
			{"an answer of a DHCP server", packet(frametest.Packet{SrcPort: 67, DstPort: 68, Payload: make([]byte, 240)}), "guard_dhcp"},
			{"a checksum over other bytes", partial, "bad_vnet_header"},
			{"a bridge's message", append(make([]byte, frame.VnetLen), "\x01\x80\xc2\x00\x00\x00\x02\x00\x00\x00\x00\x66\x00\x26\x42\x42\x03\x00\x00\x00\x00\x00"...), "guard_source_mac"},
		}
	}
	state := func(ns, gateway string) string {
		return b.Sh(ns, fmt.Sprintf("ip neigh show dev eth0 | awk '$1 == %q { print $1, $3 }'; ip route show; ip route get 10.1.0.2 | sed 's/ uid.*//; s/expires [0-9]*sec//'; ip addr show dev eth0 | grep inet", gateway))
	}
	drops := func() map[string]uint64 {
		var s struct{ Drops map[string]uint64 }
		b.JSON(&s, "stats")
		return s.Drops
	}
	before := state("web", "172.29.0.1")
	try := func(what, drop string, do func()) {
		had := drops()
		do()
		b.Eventually(what+" is dropped", func() bool { return drop == "" || drops()[drop] > had[drop] })
		ping(b, "web", "172.29.0.1")
		if after := state("web", "172.29.0.1"); after != before {
			t.Fatalf("%s moved the victim:\n%s", what, diff(before, after))
		}
	}
	for _, a := range attacks(addr("172.29.0.3"), addr("172.29.0.2"), addr("172.29.0.1"), mac("db"), mac("web"), frame.MACFor(addr("172.29.0.1"))) {
		try(a.name, a.drop, func() { b.sendRaw("db", a.raw) })
	}
	for _, a := range [][2]string{{"arpspoof -i eth0 -t 172.29.0.2 172.29.0.1", "guard_arp_sender"}, {"arpspoof -i eth0 172.29.0.1", "guard_arp_sender"}} {
		try(a[0], a[1], func() { told(b, "db", "timeout 2 "+a[0], "arp reply") })
	}
	for _, a := range []string{"stp -attack 2", "dhcp -attack 1", "cdp -attack 1", "dtp -attack 1", "dot1q -attack 1", "vtp -attack 0"} { // it ends with its input, and leaves a log in its folder
		try("yersinia "+a, "guard_source_mac", func() {
			_, _ = b.TrySh("db", "cd "+b.dir+" && sleep 1 | timeout 5 script -qfc 'yersinia "+a+" -interface eth0' /dev/null")
		})
	}
	b.Balanced()

	b.bridge("172.29.0.%d/16", "172.29.0.1/16", "ping -c 1 -W 1 172.29.0.1") // the same on a bridge
	b.Background("victim", "sleep 300 | socat - UDP:10.1.0.2:9999,sourceport=7777")
	b.Eventually("the victim's socket is there, too", func() bool { return strings.Contains(b.Sh("victim", "ss -unH"), ":7777") })
	for _, a := range attacks(addr("172.29.0.3"), addr("172.29.0.2"), addr("172.29.0.1"), mac("attacker"), mac("victim"), mac("attacker"))[:2] {
		before := state("victim", "172.29.0.1")
		b.Eventually(a.name+" moves the victim of a bridge", func() bool {
			b.sendRaw("attacker", a.raw)
			return state("victim", "172.29.0.1") != before
		})
	}
}

// TestUnread: a port that floods is not read for a while. What its device drops meanwhile, it counts as the kernel does.
func TestUnread(t *testing.T) {
	b := AloneHost(t)
	b.AddNS("web", "db")
	b.Start()
	b.CLI("port", "add", "web", "--netns", b.NS("web"), "--ip", "172.29.0.2")
	b.CLI("port", "add", "db", "--netns", b.NS("db"), "--ip", "172.29.0.3")
	ping(b, "web", "172.29.0.3")
	unread := func() uint64 {
		var p api.Port
		b.JSON(&p, "port", "show", "web")
		return p.Unread
	}
	dropped := func() uint64 {
		var links []struct {
			Stats64 struct{ TX struct{ Dropped uint64 } }
		}
		if err := json.Unmarshal([]byte(b.Sh("web", "ip -s -j link show eth0")), &links); err != nil || len(links) != 1 {
			t.Fatal(links, err)
		}
		return links[0].Stats64.TX.Dropped
	}
	before := dropped() // before the port was there
	if n := unread(); n != 0 {
		t.Errorf("%d frames were not read before the flood", n)
	}
	refused := frametest.Packet{SrcMAC: 0x020000123456, DstMAC: frame.BroadcastMAC, Src: frametest.Addr("172.29.0.9"), Dst: frametest.Addr("172.29.0.3")}.Raw()
	b.sendRaw("web", slices.Repeat([][]byte{refused}, 50000)...)
	const early = 16 // frames that waited before the port was there: they are read, and were not counted
	b.Eventually("what waits is read", func() bool {
		counted, lost := unread(), dropped()-before
		return counted <= lost && counted+early >= lost
	})
	if dropped() == before {
		t.Error("the device has dropped nothing")
	}
	contains(t, b.CLI("port", "show", "web"), "not read", "they wait in its device, or were dropped there", "it flooded")
	const said = "port web sends faster than the switch reads it: "
	b.Eventually("an event and a problem name the port", func() bool {
		return strings.Contains(b.CLI("events", "--since", "1m", "--no-follow"), said) && strings.Contains(b.CLI("doctor"), said)
	})
	b.Balanced()
}

// TestHaste: beside a flood and programs that compute, the worker waits for a CPU. It gets a higher priority, inside the sandbox, too.
func TestHaste(t *testing.T) {
	if n, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_NICE, 0, 0, 0); err != nil || n != 1 {
		t.Skip("root has no CAP_SYS_NICE here")
	}
	b := AloneHost(t)
	b.AddNS("web")
	b.Start()
	b.CLI("port", "add", "web", "--netns", b.NS("web"), "--ip", "172.29.0.2")
	for range 6 * runtime.NumCPU() {
		b.Background("host", "while :; do :; done")
	}
	refused := frametest.Packet{SrcMAC: 0x020000123456, DstMAC: frame.BroadcastMAC, Src: frametest.Addr("172.29.0.9"), Dst: frametest.Addr("172.29.0.3")}.Raw()
	flood := slices.Repeat([][]byte{refused}, 20000)
	b.Eventually("the worker hurries", func() bool {
		b.sendRaw("web", flood...)
		var s api.Stats
		b.JSON(&s, "stats")
		return slices.ContainsFunc(s.IO, func(w api.WorkerIO) bool { return w.Hurried > 0 })
	})
	b.Balanced()
}

// bridge makes a kernel's bridge with an address, and two stations at it, victim and attacker: theirs are 2 and 3 in a form. reaches is a command by
// which the victim reaches the bridge.
func (b *Bed) bridge(form, address, reaches string) {
	b.t.Helper()
	b.AddNS("bridge", "victim", "attacker")
	b.Sh("bridge", "ip link add br0 address 02:75:ac:1d:00:01 type bridge mcast_snooping 0 && ip link set br0 up && ip addr add "+address+" dev br0"+nodad(address))
	for i, ns := range []string{"victim", "attacker"} {
		b.Sh("bridge", fmt.Sprintf("ip link add p%d type veth peer name eth0 netns %s && ip link set p%d master br0 up", i, b.NS(ns), i))
		own := fmt.Sprintf(form, i+2)
		b.Sh(ns, "ip link set eth0 up && ip addr add "+own+" dev eth0"+nodad(own))
	}
	if gateway, _, _ := strings.Cut(address, "/"); !strings.Contains(address, ":") {
		b.Sh("victim", "ip route add default via "+gateway)
	}
	b.Eventually("the victim knows its router", func() bool {
		_, err := b.TrySh("victim", reaches)
		return err == nil
	})
}

// nodad is the word by which an IPv6 address counts at once.
func nodad(address string) string {
	if strings.Contains(address, ":") {
		return " nodad"
	}
	return ""
}

// sendRaw sends frames with their virtio-net headers from a container. Its device drops frames that are not read in time.
func (b *Bed) sendRaw(ns string, raws ...[]byte) {
	b.t.Helper()
	err := netns.Do(b.path(ns), func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		for _, raw := range raws {
			if err := unix.Sendto(fd, raw, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index}); err != nil && err != unix.ENOBUFS {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}
