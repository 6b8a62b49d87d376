package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/tap"
)

// A probe is a frame that one station sends. The test compares which other stations receive it.
type probe struct {
	name string
	from string
	eth  []byte // the Ethernet frame, from the destination MAC on
}

func station(n int) frame.MAC { return 0x02000000ee00 | frame.MAC(n) }

func ethernet(dst, src frame.MAC, rest ...byte) []byte {
	b := make([]byte, 12, 80)
	frametest.PutMACs(b, dst, src)
	return append(b, append(rest, make([]byte, 46)...)...)
}

// probes returns a sequence of frames that shows a bridge's behavior. The stations are s1, s2 and s3.
func probes() []probe {
	experimental := []byte{0x88, 0xb5} // IEEE 802 local experimental EtherType
	ip := frametest.Packet{SrcMAC: station(1), DstMAC: station(2), Src: 1<<24 + 1, Dst: 1<<24 + 2, Payload: make([]byte, 30)}
	badIP := ip.Raw()[frame.VnetLen:]
	badIP[frame.EthernetLen+10] ^= 0x55 // a bridge does not check the IP header
	list := []probe{
		{"unknown unicast", "s1", ethernet(station(2), station(1), experimental...)},
		{"answer to a station that was heard", "s2", ethernet(station(1), station(2), experimental...)},
		{"known unicast", "s1", ethernet(station(2), station(1), experimental...)},
		{"broadcast", "s3", ethernet(frame.BroadcastMAC, station(3), experimental...)},
		{"IPv4 multicast", "s1", ethernet(0x01005e0000fb, station(1), experimental...)},
		{"a group source", "s1", ethernet(station(2), 0x01005e000001, experimental...)},
		{"a zero source", "s1", ethernet(station(2), 0, experimental...)},
		{"to a station on its own port", "s1", ethernet(station(1), station(9), experimental...)},
		{"a VLAN tag", "s1", ethernet(station(2), station(1), 0x81, 0, 0, 7, 0x88, 0xb5)},
		{"a VLAN tag, broadcast", "s2", ethernet(frame.BroadcastMAC, station(2), 0x81, 0, 0x20, 9, 0x88, 0xb5)},
		{"two VLAN tags", "s1", ethernet(station(2), station(1), 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 0x88, 0xb5)},
		{"IPv4 with a wrong checksum", "s1", badIP},
		{"IPv4 cut short", "s1", ethernet(station(2), station(1), 8, 0, 0x45, 0, 9, 9)},
		{"IPv6 of the wrong version", "s1", ethernet(station(2), station(1), 0x86, 0xdd, 0x45)},
		{"a station that moves", "s3", ethernet(frame.BroadcastMAC, station(2), experimental...)},
		{"to where it moved", "s1", ethernet(station(2), station(1), experimental...)},
	}
	for i := range 16 {
		list = append(list, probe{fmt.Sprintf("link-local group %d", i), "s1", ethernet(0x0180c2000000+frame.MAC(i), station(1), experimental...)})
	}
	for i := range list { // the last bytes identify the frame
		binary.BigEndian.PutUint32(list[i].eth[len(list[i].eth)-4:], 0xfeed0000|uint32(i))
	}
	return list
}

// intended has the intended differences from the kernel's bridge, by probe, with their reasons.
var intended = map[string]string{
	"link-local group 0": "without STP the kernel forwards BPDUs; 802.1Q, 8.6.3 says no bridge does, and a loop through us must be found by whoever runs STP on our ports",
}

// TestKernelBridgeAgrees compares uvswitch with the kernel's bridge in the same topology.
func TestKernelBridgeAgrees(t *testing.T) {
	b := NewHost(t)
	stations := []string{"s1", "s2", "s3"}
	b.AddNS(stations...)
	for _, s := range stations {
		b.Sh("host", fmt.Sprintf("ip link add h-%s type veth peer name eth0 netns %s && ip link set h-%s up", s, b.NS(s), s))
		b.Sh(s, "ip link set eth0 up addrgenmode none")
	}
	b.Sh("host", "ip link add br0 type bridge stp_state 0 mcast_snooping 0 && ip link set br0 addrgenmode none up")
	// br_netfilter, if loaded, checks IP headers of bridged frames, too. This is not part of the comparison.
	b.Sh("host", "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done")
	for _, s := range stations {
		b.Sh("host", "ip link set h-"+s+" addrgenmode none master br0")
	}
	b.Eventually("the bridge forwards", func() bool { return strings.Count(b.Sh("host", "bridge link"), "state forwarding") == 3 })
	kernel := play(b, stations)
	b.Sh("host", "ip link del br0")

	if len(kernel["broadcast"]) != 2 || len(kernel["known unicast"]) != 1 {
		t.Errorf("the kernel itself: %v", kernel)
	}
	for _, backend := range []string{"io_uring", "read-write"} {
		b.Start("--uplink", "none", "--host", "off", "--io", backend)
		for _, s := range stations {
			b.CLI("port", "add", s, "--device", "h-"+s)
		}
		ours := play(b, stations)
		for _, p := range probes() {
			_, expected := intended[p.name]
			if same := slices.Equal(kernel[p.name], ours[p.name]); same == expected {
				t.Errorf("%s: the kernel's bridge gave it to %v, uvswitch by %s to %v", p.name, kernel[p.name], backend, ours[p.name])
			}
		}
		b.Balanced()
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// play sends the probes one after the other and returns the stations that received each probe.
func play(b *Bed, stations []string) map[string][]string {
	b.t.Helper()
	conns := map[string]*tap.AFPacket{}
	for _, s := range stations {
		c, err := tap.OpenAFPacket(filepath.Join("/run/netns", b.NS(s)), "eth0")
		if err != nil {
			b.t.Fatal(err)
		}
		defer c.Close()
		conns[s] = c
	}
	got := map[string][]string{}
	list := probes()
	buf := make([]byte, frame.VnetLen+frame.MaxFrame)
	drain := func(s string) (last bool) {
		for n, _ := conns[s].Read(buf); n > 0; n, _ = conns[s].Read(buf) {
			eth := buf[frame.VnetLen:n]
			tag := binary.BigEndian.Uint32(eth[len(eth)-4:])
			if tag == 0xfeedffff {
				return true
			}
			for i, p := range list {
				if tag == 0xfeed0000|uint32(i) {
					if !bytes.Equal(eth, p.eth) {
						b.t.Errorf("%s reached %s changed:\n%x\n%x", p.name, s, p.eth, eth)
					}
					got[p.name] = append(got[p.name], s)
				}
			}
		}
		return false
	}
	send := func(s string, eth []byte) {
		var f frame.Frame
		f.Reset(append(make([]byte, frame.VnetLen), eth...), 1)
		if why := conns[s].Write(&f); why != frame.None {
			b.t.Fatalf("sending from %s: %v", s, why)
		}
	}
	for _, p := range list {
		send(p.from, p.eth)
		// A broadcast from the same port follows each probe and arrives after it.
		end := ethernet(frame.BroadcastMAC, station(0x40+int(p.from[1])), 0x88, 0xb5)
		binary.BigEndian.PutUint32(end[len(end)-4:], 0xfeedffff)
		send(p.from, end)
		for _, s := range stations {
			if s != p.from {
				b.Eventually(s+" hears the end of "+p.name, func() bool { return drain(s) })
			}
		}
	}
	for _, who := range got {
		sort.Strings(who)
	}
	return got
}

// TestWorkers checks that, with one to eight workers, all traffic passes, TCP sees no harmful reordering, and the balance of
// frames is even.
func TestWorkers(t *testing.T) {
	t.Parallel()
	for _, n := range []string{"1", "2", "4", "8"} {
		t.Run(n, func(t *testing.T) {
			b := New(t, "--workers", n)
			containers(b)
			b.Iperf("db")
			b.Iperf("out")
			for _, to := range []string{"172.29.0.3", "10.1.0.2"} {
				b.Measure("web", "-t 1 -P 4 -c "+to)
				b.Measure("web", "-t 1 -P 4 -R -c "+to)
			}
			// Meanwhile ports are added and removed.
			b.AddNS("x")
			start := time.Now()
			for i := 0; i < 10 && time.Since(start) < 10*time.Second; i++ {
				b.CLI("port", "add", "x", "--netns", b.NS("x"), "--ip", "172.29.0.4")
				ping(b, "web", "172.29.0.4")
				b.CLI("port", "del", "x")
			}
			b.Balanced()
		})
	}
}
