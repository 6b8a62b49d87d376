package e2e

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// follow starts uvswitch with args and waits until it reports on stderr that it listens. out collects its output; stop interrupts
// it.
func (b *Bed) follow(args ...string) (out *syncBuffer, stop func()) {
	b.t.Helper()
	c := b.command(args...)
	said := &syncBuffer{}
	out = &syncBuffer{}
	c.Stdout, c.Stderr = out, said
	if err := c.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.Eventually(strings.Join(args, " ")+" listens", func() bool { return strings.Contains(said.String(), "listening") })
	done := false
	stop = func() {
		if !done {
			done = true
			_ = c.Process.Signal(unix.SIGINT)
			if err := c.Wait(); err != nil {
				b.t.Errorf("%v: %v: %s", args, err, said)
			}
		}
	}
	b.t.Cleanup(stop)
	return out, stop
}

// tshark runs tshark on a capture file, which may still be written, and returns its output.
func tshark(t *testing.T, file string, args ...string) string {
	t.Helper()
	out, err := exec.Command("tshark", append([]string{"-n", "-r", file}, args...)...).Output()
	if err != nil {
		t.Fatalf("tshark %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestDumpForWireshark checks a capture with tshark: interfaces with descriptions, directions, comments with verdict and
// translation, and the same flow number in both copies of a packet.
func TestDumpForWireshark(t *testing.T) {
	Need(t, "tshark")
	b := New(t)
	containers(b)
	file := filepath.Join(b.dir, "all.pcapng")
	_, stop := b.follow("dump", "-w", file, "icmp", "or", "udp", "port", "9")
	ping(b, "web", "10.1.0.2")
	b.Sh("web", "echo x | socat - udp-sendto:9.9.9.9:9; echo x | socat - udp-sendto:172.29.0.1:9")
	var flows []api.Flow
	b.JSON(&flows, "flow", "ls", "-p", "icmp")
	b.Eventually("the packets are written", func() bool { return strings.Count(tshark(t, file, "-Y", "udp.dstport==9"), "\n") >= 3 })
	stop()
	if len(flows) != 1 || flows[0].ID == 0 {
		t.Fatalf("flows: %+v", flows)
	}
	fields := tshark(t, file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "ip.src", "-e", "ip.dst", "-e", "frame.comment", "-e", "frame.interface_description")
	contains(t, fields,
		"web\t0x00000001\t172.29.0.2\t10.1.0.2\tto uplink; flow ", "; becomes icmp 10.1.0.1", "uplink\t0x00000002\t10.1.0.1\t10.1.0.2\tfrom web; flow ",
		"; was icmp 172.29.0.2", "passed to the slow path (gateway_service)", "network default", "tap eth0 in ")
	if bad := tshark(t, file, "-Y", "_ws.malformed || frame.number > 1000"); bad != "" {
		t.Errorf("malformed: %s", bad)
	}
	// Live through a pipe, as Wireshark reads a capture.
	pipe := exec.Command("sh", "-c", uvswitch+" --socket "+b.Socket()+" dump -i web -w - icmp | tshark -n -i - -c 2 -T fields -e ip.dst -e frame.comment")
	live := &syncBuffer{}
	pipe.Stdout = live
	if err := pipe.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- pipe.Wait() }()
	b.Eventually("tshark has read two packets from the pipe", func() bool {
		_, _ = b.TrySh("web", "ping -c 1 -W 1 10.1.0.2")
		select {
		case err := <-ended:
			return err == nil
		default:
			return false
		}
	})
	contains(t, live.String(), "10.1.0.2\tto uplink; flow ")
	if n := strings.Count(tshark(t, file, "-Y", "frame.interface_name == \"db\""), "\n"); n != 0 {
		t.Errorf("%d packets of port db, where nothing went", n)
	}
}

func TestDumpFiles(t *testing.T) {
	Need(t, "tshark", "tcpdump")
	b := New(t)
	containers(b)
	size := filepath.Join(b.dir, "by-size")
	_, stop := b.follow("dump", "-i", "web", "-w", size, "-C", "1", "-W", "3", "icmp")
	old := filepath.Join(b.dir, "old.pcap")
	_, stopOld := b.follow("dump", "-i", "web", "-w", old, "--pcap", "-Q", "in", "icmp")
	text, stopText := b.follow("dump", "-i", "web", "-e", "-x", "-t", "-c", "1", "icmp[icmptype] == icmp-echo")
	b.Sh("web", "ping -q -f -c 1500 -s 1400 172.29.0.3")
	b.Eventually("there are three files", func() bool {
		list, _ := filepath.Glob(size + "*")
		return len(list) == 3
	})
	b.Eventually("the old format has all requests", func() bool { // each has a record header, and an Ethernet frame of 1442 bytes
		info, err := os.Stat(old)
		return err == nil && info.Size() >= 24+1500*(16+1442)
	})
	stop()
	stopOld()
	for _, n := range []string{"0", "1", "2"} {
		if out := tshark(t, size+n, "-c", "5", "-T", "fields", "-e", "frame.interface_name"); out != strings.Repeat("web\n", 5) {
			t.Errorf("file %s: %q", n, out)
		}
	}
	out, err := exec.Command("tcpdump", "-nr", old).CombinedOutput()
	if n := strings.Count(string(out), "echo request"); err != nil || n != 1500 || strings.Contains(string(out), "echo reply") {
		t.Errorf("the old format, what came in: %v, %d requests\n%.300s", err, n, out)
	}
	stopText()
	contains(t, text.String(), "web   In  ", "ethertype IPv4 (0x0800), length 1442: 172.29.0.2 > 172.29.0.3: ICMP echo request", "\t0x0000:  4500 0594")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"dump", "tcp", "prot", "80"}, "is not expected at this place"},
		{[]string{"dump", "-C", "1"}, "add -w FILE"},
		{[]string{"dump", "-Q", "up"}, "must be in, out or both"},
		{[]string{"monitor", "--verdict", "lost"}, "forwarded, flooded, consumed or dropped"},
		{[]string{"monitor", "--reason", "other"}, "`uvswitch reasons` lists them"},
	} {
		if _, err := b.TryCLI(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v; want %q", c.args, err, c.want)
		}
	}
}

// TestDumpSuperFrames captures super-frames whole and split.
func TestDumpSuperFrames(t *testing.T) {
	Need(t, "tshark", "iperf3")
	b := New(t)
	containers(b)
	b.Iperf("db")
	whole, split := filepath.Join(b.dir, "whole"), filepath.Join(b.dir, "split")
	_, stop1 := b.follow("dump", "-i", "web", "-Q", "in", "-w", whole, "tcp", "dst", "port", "5201")
	_, stop2 := b.follow("dump", "-i", "web", "-Q", "in", "--split", "-w", split, "tcp", "dst", "port", "5201")
	b.Measure("web", "-c 172.29.0.3 -n 4M")
	stop1()
	stop2()
	if out := tshark(t, whole, "-Y", "frame.len > 3000"); out == "" {
		t.Error("no super-frame")
	}
	if out := tshark(t, split, "-Y", "frame.len > 1514"); out != "" {
		t.Errorf("not split: %.300s", out)
	}
	if out := tshark(t, split, "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-Y", "tcp.checksum.status == 0 && tcp.len > 0", "-c", "2000"); strings.Count(out, "\n") > 0 {
		t.Errorf("bad checksums after the split: %.300s", out)
	}
}

// TestSuperFrames6 sends super-frames of TCP and UDP over IPv6: they reach the other container as they are.
func TestSuperFrames6(t *testing.T) {
	Need(t, "tshark", "iperf3")
	b := New(t)
	containers(b)
	b.Iperf("db")
	to := addr6(b, "db")
	file := filepath.Join(b.dir, "six")
	_, stop := b.follow("dump", "-i", "db", "-Q", "out", "-w", file, "ip6")
	b.Background("db", "tcpdump -ni eth0 -c 1 'ip6 and greater 3000' > "+b.dir+"/super 2> "+b.dir+"/listens")
	b.Eventually("tcpdump listens", func() bool {
		said, _ := b.TrySh("db", "cat "+b.dir+"/listens") // the file may not be there yet
		return strings.Contains(said, "listening")
	})
	b.Measure("web", "-6 -c "+to+" -n 4M")
	b.Eventually("a super-frame reached db", func() bool { return strings.Contains(b.Sh("db", "cat "+b.dir+"/super"), "IP6") })
	var c net.Conn
	if err := netns.Do(b.path("web"), func() (err error) { c, err = net.Dial("udp6", "["+to+"]:9"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, 12000)); err != nil { // ten datagrams
		t.Fatal(err)
	}
	b.Eventually("the datagrams are in the file", func() bool { return tshark(t, file, "-Y", "udp.dstport == 9") != "" })
	stop()
	for _, proto := range []string{"tcp", "udp.dstport == 9"} {
		if tshark(t, file, "-Y", proto+" && frame.len > 3000") == "" {
			t.Errorf("no super-frame of %s", proto)
		}
	}
}

// TestMonitor checks the verdicts of monitor, live and remembered.
func TestMonitor(t *testing.T) {
	b := New(t)
	containers(b)
	live, stop := b.follow("monitor", "udp", "or", "icmp")
	lines, stopJSON := b.follow("-j", "monitor", "--verdict", "dropped", "--port", "web")
	ping(b, "web", "10.1.0.2")
	b.Sh("web", "echo x | socat - udp-sendto:172.29.0.1:9; echo x | socat - udp-sendto:240.0.0.1:9")
	b.Eventually("the monitor has seen it", func() bool {
		return strings.Count(live.String(), "DROPPED") >= 2 && strings.Count(lines.String(), "\n") >= 2
	})
	stop()
	stopJSON()
	contains(t, live.String(), "forwarded to uplink, translated to icmp 10.1.0.1", "DROPPED gateway_service", "DROPPED martian_destination", "(flow ")
	var v api.Verdict
	if err := json.NewDecoder(strings.NewReader(lines.String())).Decode(&v); err != nil || v.Verdict != "dropped" || v.In != "web" {
		t.Errorf("JSON: %+v, %v", v, err)
	}
	last := b.CLI("monitor", "--last", "5")
	contains(t, last, "web      udp 172.29.0.2:", "> 240.0.0.1:9 DROPPED martian_destination")
	if only := b.CLI("monitor", "--last", "5", "--reason", "gateway_service"); strings.Contains(only, "martian") || !strings.Contains(only, "gateway_service") {
		t.Errorf("--reason: %s", only)
	}
	if none := b.CLI("monitor", "--last", "5", "--port", "db"); strings.Contains(none, "web") {
		t.Errorf("--port db: %s", none)
	}
}

// TestExtcap checks Wireshark's extcap interface: tshark lists our ports and captures from one of them with a filter.
func TestExtcap(t *testing.T) {
	Need(t, "tshark")
	b := New(t)
	containers(b)
	home := t.TempDir()
	env := append(os.Environ(), "HOME="+home)
	install := b.command("extcap", "install")
	install.Env = env
	if out, err := install.CombinedOutput(); err != nil || !strings.Contains(string(out), "uvswitch-NAME") {
		t.Errorf("install: %v: %s", err, out)
	}
	list := exec.Command("tshark", "-D")
	list.Env = env
	out, err := list.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "uvswitch-web (uvswitch port web)") {
		t.Fatalf("tshark -D: %v\n%s", err, out)
	}
	c := exec.Command("tshark", "-n", "-i", "uvswitch-web", "-f", "icmp", "-c", "2", "-T", "fields", "-e", "ip.dst", "-e", "frame.comment")
	c.Env = env
	var got bytes.Buffer
	said := &syncBuffer{}
	c.Stdout, c.Stderr = &got, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	b.Eventually("tshark has its packets", func() bool {
		_, _ = b.TrySh("web", "ping -c 1 -W 1 172.29.0.3")
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("tshark: %v: %s", err, said)
			}
			return true
		default:
			return false
		}
	})
	contains(t, got.String(), "172.29.0.3\tto db", "172.29.0.2\tfrom db")
}

// TestDumpFollows checks that a capture of a port goes on when the port goes and another one of its name comes, and that it shows no other port.
func TestDumpFollows(t *testing.T) {
	b := New(t)
	containers(b)
	out, stop := b.follow("dump", "-n", "-t", "-#", "-q", "-i", "web", "icmp")
	ping(b, "web", "172.29.0.1")
	b.Eventually("the first ping", func() bool { return strings.Contains(out.String(), "echo reply") })
	b.CLI("port", "del", "web")
	ping(b, "db", "172.29.0.1")
	b.CLI("port", "add", "web", "--netns", b.NS("web"), "--ip", "172.29.0.9")
	ping(b, "web", "172.29.0.1")
	b.Eventually("the ping of the port that has come again", func() bool { return strings.Contains(out.String(), "172.29.0.9 > 172.29.0.1: ICMP echo request") })
	stop()
	contains(t, out.String(), "    1  web   In  IP 172.29.0.2 > 172.29.0.1: ICMP echo request")
	if strings.Contains(out.String(), "db ") {
		t.Errorf("the capture of web shows db:\n%s", out)
	}
	for flag, want := range map[string]string{"-r x": "tcpdump -r FILE", "-d": "tcpdump -y EN10MB -d", "-z gzip": "runs no commands", "--print": "--print is for -w"} {
		if _, err := b.TryCLI(append([]string{"dump"}, strings.Fields(flag)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("dump %s: %v", flag, err)
		}
	}
}
