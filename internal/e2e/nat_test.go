package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// startWith starts the switch with the given YAML keys for network default, and adds the containers web and db.
func startWith(b *Bed, network string) {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "uvs.yaml")
	// A pool without the inside ports of the tests: where ports are not kept, the kind of mapping can be seen.
	text := "uplink: {ports: 20000-29999}\nnetworks:\n  - {name: default, subnet: 172.29.0.0/16" + network + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.Start("-c", file)
	containers(b)
}

// stun starts coturn in out with two addresses of each family, which RFC 5780 needs.
func stun(b *Bed) {
	Need(b.t, "turnserver", "turnutils_natdiscovery")
	b.Sh("out", "ip addr add 10.1.0.3/24 dev eth0 && ip addr add 2001:db8:1::3/64 dev eth0 nodad")
	dir := b.t.TempDir()
	empty := filepath.Join(dir, "empty.conf") // the packaged file turns RFC 5780 off
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	for i, at := range [][2]string{{"10.1.0.2", "10.1.0.3"}, {out6, "2001:db8:1::3"}} {
		b.Serve("out", 3479+10*i, "turnserver", "-c", empty, "-L", at[0], "-L", at[1], "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "-S",
			"--listening-port", fmt.Sprint(3478+10*i), "--alt-listening-port", fmt.Sprint(3479+10*i), "--pidfile", filepath.Join(dir, fmt.Sprint("pid", i)), "--log-file", filepath.Join(dir, fmt.Sprint("log", i)))
	}
}

var reflexive = regexp.MustCompile(`UDP reflexive addr: (\S+)`)

// TestNATDiscovery checks with coturn's client that mapping, filtering and hairpinning are as configured, also for two containers
// with the same source port. It does so over IPv4, and over IPv6 with masquerading.
func TestNATDiscovery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ network, mapping, filtering string }{
		{"", "Endpoint Independent Mapping", "Address and Port Dependent Filtering"},
		{", filtering: address-dependent", "Endpoint Independent Mapping", "Address Dependent Filtering"},
		{", filtering: endpoint-independent", "Endpoint Independent Mapping", "Endpoint Independent Filtering"},
		{", mapping: address-and-port-dependent", "Address and Port Dependent Mapping", "Address and Port Dependent Filtering"},
	} {
		t.Run(tt.mapping+", "+tt.filtering, func(t *testing.T) {
			b := newWithIPv6(t)
			stun(b)
			outside6(b)
			startWith(b, tt.network)
			for server, addrs := range map[string]map[string]string{
				"-p 3478 10.1.0.2": {"web": "172.29.0.2", "db": "172.29.0.3"}, "-p 3488 " + out6: {"web": addr6(b, "web"), "db": addr6(b, "db")},
			} {
				discovers(b, server, addrs, tt.mapping, tt.filtering)
			}
			b.Balanced()
		})
	}
}

// discovers checks what coturn's client says in each container.
func discovers(b *Bed, server string, addrs map[string]string, mapping, filtering string) {
	b.t.Helper()
	independent := mapping == "Endpoint Independent Mapping"
	mapped := map[string]string{}
	for name, addr := range addrs {
		out := b.Sh(name, "turnutils_natdiscovery -m -f -L "+addr+" -l 40000 "+server+" 2>&1")
		if !strings.Contains(out, "NAT with "+mapping+"!") || !strings.Contains(out, "NAT with "+filtering+"!") {
			b.t.Errorf("%s: want %s and %s; it said\n%s", name, mapping, filtering, out)
		}
		if m := reflexive.FindStringSubmatch(out); m != nil {
			if !strings.HasPrefix(m[1], "10.1.0.1:") && !strings.HasPrefix(m[1], host6+":") {
				b.t.Errorf("%s is %s outside", name, m[1])
			}
			if other := mapped[m[1]]; other != "" && independent {
				b.t.Errorf("%s and %s both are %s", name, other, m[1])
			}
			mapped[m[1]] = name
		}
	}
	if independent {
		if out := b.Sh("web", "turnutils_natdiscovery -H "+server+" 2>&1"); !strings.Contains(out, "maybe a successful hairpinning") {
			b.t.Errorf("hairpinning: %s", out)
		}
	}
}

// TestRoutedTools checks that the usual diagnostic tools work.
func TestRoutedTools(t *testing.T) {
	Need(t, "traceroute", "tracepath", "ping", "hping3", "curl")
	b := New(t)
	containers(b)
	b.Web("out")
	for _, how := range []string{"-n -q 1 -w 2", "-n -q 1 -w 2 -I", "-n -q 1 -w 2 -T -p 80"} {
		out := b.Sh("web", "traceroute "+how+" 10.1.0.2")
		if !regexp.MustCompile(`(?m)^ *1  172\.29\.0\.1 `).MatchString(out) || !regexp.MustCompile(`(?m)^ *2  10\.1\.0\.2 `).MatchString(out) {
			t.Errorf("traceroute %s:\n%s", how, out)
		}
	}
	if out := b.Sh("web", "tracepath -n 10.1.0.2"); !strings.Contains(out, "172.29.0.1") || !strings.Contains(out, "reached") || !strings.Contains(out, "pmtu 1500") {
		t.Errorf("tracepath:\n%s", out)
	}
	b.Sh("out", "ip link set eth0 mtu 1400")
	b.Sh("host", "ip link set eth0 mtu 1400")
	b.Eventually("the uplink's MTU is known", func() bool {
		var s api.Status
		b.JSON(&s, "status")
		return s.Uplink.MTU == 1400
	})
	if out := b.Sh("web", "tracepath -n 10.1.0.2"); !strings.Contains(out, "pmtu 1400") {
		t.Errorf("tracepath over a smaller MTU:\n%s", out)
	}
	if out := b.Sh("web", "ping -c 1 -M dont -s 3000 10.1.0.2"); !strings.Contains(out, "3008 bytes from 10.1.0.2") {
		t.Errorf("a ping in fragments:\n%s", out)
	}
	b.Sh("out", "ip link set eth0 mtu 1500")
	contains(t, b.CLI("trace", "--in", "web", "icmp > 10.1.0.2 len 1450 df"), "takes packets of 1400 bytes at most", "fragmentation_needed")
	b.Sh("host", "ip link set eth0 mtu 1500")
	b.Eventually("what the smaller MTU has taught is forgotten", func() bool {
		_, err := b.TrySh("web", "ip route flush cache; ping -c 1 -W 1 -M do -s 1450 10.1.0.2")
		return err == nil
	})
	if out := b.Sh("web", "ping -c 1 -R 10.1.0.2"); !strings.Contains(out, "RR:") || !strings.Contains(out, "1 received") {
		t.Errorf("ping -R:\n%s", out)
	}
	if out := b.Sh("web", "hping3 -S -p 80 -c 3 -i u10000 10.1.0.2 2>&1"); strings.Count(out, "flags=SA") != 3 {
		t.Errorf("hping3 -S:\n%s", out)
	}
	if out, _ := b.TrySh("web", "hping3 -A -p 80 -c 1 10.1.0.2 2>&1"); !strings.Contains(out, "flags=R") {
		t.Errorf("an ACK without a connection is answered with RST:\n%s", out)
	}
	b.Balanced()
}

// TestManyAtOnce makes a thousand connections at once, and then a thousand pairs of DNS-like requests.
func TestManyAtOnce(t *testing.T) {
	Need(t, "curl")
	b := New(t)
	containers(b)
	b.Web("out")
	// One curl makes at most 300 connections: run four, each with its own output file.
	line := "for i in 1 2 3 4; do curl -s -Z --parallel-immediate --parallel-max 250 -o /dev/null -w '%{http_code}\\n' 'http://10.1.0.2/[1-250]' > DIR/$i & done; wait; cat DIR/1 DIR/2 DIR/3 DIR/4"
	out := b.Sh("web", strings.ReplaceAll(line, "DIR", t.TempDir()))
	if n := len(regexp.MustCompile(`(?m)^200$`).FindAllString(out, -1)); n != 1000 {
		t.Errorf("%d of 1000 requests were answered", n)
	}
	askPairs(b, 1000)
	b.Balanced()
}

// askPairs sends pairs of requests, each pair from a new socket, as a resolver asks for A and AAAA. Both answers of each pair
// must arrive.
func askPairs(b *Bed, pairs int) {
	b.t.Helper()
	var server *net.UDPConn
	if err := netns.Do(b.path("out"), func() (err error) {
		server, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 53})
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 64)
		for {
			n, from, err := server.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDP(buf[:n], from)
		}
	}()
	lost := 0
	for range pairs {
		var c *net.UDPConn
		if err := netns.Do(b.path("web"), func() (err error) {
			c, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 1, 0, 2), Port: 53})
			return err
		}); err != nil {
			b.t.Fatal(err)
		}
		for _, q := range []string{"A", "AAAA"} {
			if _, err := c.Write([]byte(q)); err != nil {
				b.t.Fatal(err)
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 64)
		for range 2 {
			if _, err := c.Read(buf); err != nil {
				lost++
			}
		}
		c.Close()
	}
	if lost > 0 {
		b.t.Errorf("%d of %d questions found no answer", lost, 2*pairs)
	}
}

// TestGigabyte checks that a gigabyte arrives unchanged.
func TestGigabyte(t *testing.T) {
	Need(t, "socat", "sha256sum")
	b := New(t)
	containers(b)
	const size = 1 << 30
	sent := b.Sh("web", fmt.Sprintf("head -c %d /dev/zero | openssl enc -aes-128-ctr -K 0 -iv 0 2>/dev/null | sha256sum", size))
	b.Serve("out", 7000, "sh", "-c", "socat -u TCP-LISTEN:7000,reuseaddr STDOUT | sha256sum > "+b.dir+"/got")
	b.Sh("web", fmt.Sprintf("head -c %d /dev/zero | openssl enc -aes-128-ctr -K 0 -iv 0 2>/dev/null | socat -u STDIN TCP:10.1.0.2:7000", size))
	b.Eventually("the sum is there", func() bool {
		got, err := os.ReadFile(b.dir + "/got")
		return err == nil && strings.HasSuffix(string(got), "\n")
	})
	if got, _ := os.ReadFile(b.dir + "/got"); string(got) != sent {
		t.Errorf("sent %s, got %s", sent, got)
	}
	b.Balanced()
}

// TestFlowCommands tests the commands for traces, flow events, NAT ports, routes and neighbors.
func TestFlowCommands(t *testing.T) {
	b := New(t)
	containers(b)
	b.Web("out")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.Web("web")

	events := b.command("-j", "flow", "events", "-p", "tcp")
	var said syncBuffer
	events.Stdout = &said
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = events.Process.Kill(); _ = events.Wait() }()
	b.Eventually("events are followed", func() bool {
		b.Sh("web", "curl -s http://10.1.0.2/")
		return strings.Contains(said.String(), `"NEW"`)
	})
	b.Eventually("an UPDATE", func() bool { return strings.Contains(said.String(), `"state":"TIME_WAIT"`) })
	b.CLI("flow", "flush")
	b.Eventually("a DESTROY", func() bool { return strings.Contains(said.String(), `"event":"DESTROY","reason":"flushed"`) })

	b.Sh("web", "curl -s http://10.1.0.2/")
	for _, filter := range []string{"-d 10.1.0.0/24", "-s 172.29.0.2", "--state time_wait -p tcp", "--dport 80 --port web"} {
		contains(t, b.CLI(append([]string{"flow", "ls"}, strings.Fields(filter)...)...), "src=172.29.0.2 dst=10.1.0.2")
	}
	if out := b.CLI("flow", "ls", "-d", "10.2.0.0/16"); out != "" {
		t.Errorf("flows to elsewhere: %s", out)
	}

	before := b.CLI("-j", "stats")
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--in", "uplink", "tcp 10.1.0.2:4000 > 10.1.0.1:8080 S", "--reverse"}, []string{"published: 8080/tcp to web:80", "=> transmitted: to port web", "the answer:", "source 172.29.0.2:80 becomes 10.1.0.1:8080"}},
		{[]string{"--in", "db", "tcp > 10.1.0.1:8080 S"}, []string{"it is hairpinned", "destination 10.1.0.1:8080 becomes 172.29.0.2:80"}},
		{[]string{"--in", "web", "udp > 240.0.0.1:53"}, []string{"=> dropped (martian_destination)", "what to do:"}},
		{[]string{"--in", "web", "icmp > 10.1.0.2 ttl 1"}, []string{"time exceeded (11/0)", "=> dropped (ttl_exceeded)"}},
		{[]string{"--in", "web", "icmp > 172.29.0.1"}, []string{"=> answered: the gateway answers: icmp 172.29.0.1 > 172.29.0.2 echo reply"}},
		{[]string{"--in", "uplink", "tcp 10.1.0.2:4000 > 10.1.0.1:8080 S", "--reverse"}, []string{"the flow goes from SYN_SENT to SYN_RECV"}},
		{[]string{"--in", "web", "--hex", "00"}, []string{"=> dropped (runt)"}},
	} {
		out := b.CLI(append([]string{"trace"}, tt.args...)...)
		contains(t, out, tt.want...)
	}
	if after := b.CLI("-j", "stats"); stable(before) != stable(after) {
		t.Errorf("traces were counted:\n%s\n%s", before, after)
	}

	stop := b.Listen("web", "tcpdump", "-i", "eth0", "-w", b.dir+"/web.pcap", "-U", "udp port 7")
	_, _ = b.TrySh("web", "echo x | socat - UDP:10.1.0.2:7") // nobody answers
	b.Eventually("a captured frame", func() bool { st, err := os.Stat(b.dir + "/web.pcap"); return err == nil && st.Size() > 30 })
	stop()
	contains(t, b.CLI("trace", "--in", "web", "--pcap", b.dir+"/web.pcap", "--frame", "1"), "> 10.1.0.2:7,", "a packet of flow udp 172.29.0.2:")
	if _, err := b.TryCLI("trace", "--in", "web", "--pcap", b.dir+"/web.pcap", "--frame", "99"); err == nil || !strings.Contains(err.Error(), "there is no frame 99") {
		t.Errorf("a frame that is not there: %v", err)
	}

	b.CLI("route", "add", "blackhole", "10.66.0.0/16")
	b.CLI("route", "add", "10.67.0.0/16", "via", "172.29.0.3")
	contains(t, b.CLI("route", "show"), "blackhole 10.66.0.0/16\n", "10.67.0.0/16 via 172.29.0.3 dev default\n")
	contains(t, b.CLI("trace", "--in", "web", "udp > 10.66.0.1:1"), "blackhole_route")
	b.CLI("route", "del", "10.66.0.0/16")
	if _, err := b.TryCLI("route", "add", "blackhole", "10.67.0.0/16"); err == nil || !strings.Contains(err.Error(), "a route to 10.67.0.0/16 exists already") {
		t.Errorf("a route that is there: %v", err)
	}
	b.CLI("route", "replace", "blackhole", "10.67.0.0/16")
	b.CLI("route", "del", "blackhole", "10.67.0.0/16")
	contains(t, b.CLI("nat", "settings"), "windows", "liberal", "timer tcp_established", "7440")
	contains(t, b.CLI("trace", "--in", "uplink", "tcp 10.1.0.2:4000 > 10.1.0.1:22 S"), "=> passed: the packet stays with the host", "it is not published", "what to do: if a container serves it: `uvswitch publish add 22:PORT --port NAME`")
	b.CLI("neigh", "add", "172.29.9.9", "lladdr", "02:00:00:00:99:99")
	contains(t, b.CLI("neigh", "show"), "172.29.9.9 dev default lladdr 02:00:00:00:99:99 PERMANENT")
	b.CLI("neigh", "flush")
	b.CLI("neigh", "del", "172.29.9.9")
	contains(t, b.CLI("nat", "show"), "outside ports", "MASQUERADE", "DNAT")
	contains(t, b.CLI("flow", "stats"), "created", "ended: flushed")
	for _, bad := range [][]string{
		{"trace", "--in", "nosuch", "icmp > 1.1.1.1"}, {"trace", "--in", "web", "nonsense"}, {"trace", "--in", "web", "tcp > 172.29.77.77:80"},
		{"trace", "icmp > 1.1.1.1"}, {"trace", "--in", "web", "--hex", "zz"}, {"route", "add", "172.29.0.0/16", "via", "172.29.0.2"}, {"route", "del", "10.99.0.0/16"},
		{"route", "add", "10.9.0.0/16", "via", "8.8.8.8"}, {"neigh", "del", "172.29.0.2"}, {"neigh", "add", "172.29.0.2", "lladdr", "02:00:00:00:00:09"}, {"neigh", "add", "172.29.0.1", "lladdr", "02:00:00:00:00:09"},
		{"trace", "--in", "web", "tcp > 1.1.1.1"}, {"trace", "--in", "web", "icmp > 1.1.1.1:80"}, {"trace", "--in", "web", "--frame", "2", "icmp > 1.1.1.1"},
		{"flow", "ls", "--dport", "http"}, {"flow", "ls", "--state", "open"}, {"flow", "ls", "--port", "nosuch"}, {"flow", "events", "--port", "nosuch"}, {"route", "add", "10.53.0.1/16", "via", "172.29.0.2"}, {"neigh", "add", "8.8.8.8", "lladdr", "02:00:00:00:00:01"},
	} {
		if _, err := b.TryCLI(bad...); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

// stable returns only the drops of `stats -j`, which do not change by themselves.
func stable(s string) string {
	m := regexp.MustCompile(`(?s)"drops": \{.*?\}`).FindString(s)
	return m
}

// TestIsolatedNetworks checks that isolated networks reach the outside but not each other.
func TestIsolatedNetworks(t *testing.T) {
	b := New(t)
	b.AddNS("a", "c")
	b.CLI("network", "add", "blue", "--subnet", "10.5.0.0/24", "--isolated")
	b.CLI("network", "add", "red", "--subnet", "10.6.0.0/24", "--filtering", "endpoint-independent")
	b.CLI("port", "add", "a", "--netns", b.NS("a"), "--network", "blue", "--ip", "auto")
	b.CLI("port", "add", "c", "--netns", b.NS("c"), "--network", "red", "--ip", "auto")
	ping(b, "a", "10.1.0.2")
	ping(b, "c", "10.1.0.2")
	start := time.Now()
	if out, err := b.TrySh("a", "ping -c 1 -W 1 10.6.0.2"); err == nil {
		t.Errorf("out of an isolated network: %s", out)
	}
	if time.Since(start) > patience {
		t.Error("it took long")
	}
	b.Web("a")
	b.CLI("publish", "add", "8080:80", "--port", "a")
	contains(t, b.Sh("c", "curl -s http://10.1.0.1:8080/"), "a")
	contains(t, b.Sh("host", "curl -s http://127.0.0.1:8080/"), "a") // through the relay
	b.Web("host")
	for _, from := range []string{"a", "c"} { // by the host's address, from networks without a host port
		contains(t, b.Sh(from, "curl -s http://10.1.0.1/"), "host")
	}
	if _, err := b.TryCLI("network", "add", "x", "--subnet", "10.8.0.0/24", "--mapping", "address-and-port-dependent", "--filtering", "endpoint-independent"); err == nil {
		t.Error("a filter that cannot be kept was accepted")
	}
}

// TestPortsExhausted checks what happens when a container has used its share of outside ports: TCP connections to other destinations
// share a port, UDP is refused with an ICMP error, and trace says so with a remedy. A released port can be used again.
func TestPortsExhausted(t *testing.T) {
	b := New(t, "--nat-ports", "20000-20003")
	containers(b)
	b.Web("out")
	b.Serve("out", 7001, "socat", "TCP-LISTEN:7001,fork", "EXEC:sleep 60")
	b.Background("out", "socat UDP4-LISTEN:7002,fork EXEC:cat")
	var hold net.Conn // one connection stays open
	if err := netns.Do(b.path("web"), func() (err error) {
		hold, err = net.DialTimeout("tcp", "10.1.0.2:7001", patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	b.Eventually("the one port of web's share is held", func() bool {
		return strings.Contains(b.CLI("flow", "ls", "--dport", "7001"), "ESTABLISHED")
	})
	contains(t, b.Sh("web", "curl -s -m 5 http://10.1.0.2/"), "out")
	contains(t, b.CLI("nat", "ports"), "web ")

	for _, port := range []string{"40000", "40002"} { // web's share: its floor of one port, and one of the two that are lent
		b.Eventually("UDP has an answer", func() bool {
			return strings.Contains(b.Sh("web", "echo question | socat -t1 - UDP4:10.1.0.2:7002,sourceport="+port), "question")
		})
		b.Eventually("it may not go early", func() bool {
			return strings.Contains(b.Sh("web", "echo more | socat -t1 - UDP4:10.1.0.2:7002,sourceport="+port), "more") && strings.Contains(b.CLI("flow", "ls", "--sport", port), "ASSURED")
		})
	}
	out := b.CLI("trace", "--in", "web", "udp 172.29.0.2:40001 > 10.1.0.2:7002")
	contains(t, out, "nat_ports_exhausted", "the sender receives icmp 172.29.0.1 > 172.29.0.2 unreachable: prohibited (3/13)", "what to do: widen the ports for NAT: `uvswitch nat set ports")
	if out := b.Sh("web", "echo refused | socat -t1 - UDP4:10.1.0.2:7002,sourceport=40001 2>&1 || true"); strings.Contains(out, "refused\nrefused") {
		t.Errorf("a flow without a port: %s", out)
	}
	contains(t, b.Sh("db", "echo other | socat -t1 - UDP4:10.1.0.2:7002,sourceport=40001"), "other") // another container has its own share
	b.CLI("flow", "del", "-p", "udp")
	contains(t, b.Sh("web", "echo again | socat -t1 - UDP4:10.1.0.2:7002,sourceport=40001"), "again") // web may reuse its own port during quarantine
}
