package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestHostClients checks how the host's own clients reach published ports: by programs at connect(2), and by the relay alone.
func TestHostClients(t *testing.T) {
	Need(t, "curl", "ip", "socat")
	for _, tt := range []struct{ name, cgroup, sees string }{{"programs", "", "172.29.255.254"}, {"relay", "off", "172.29.255.254"}} {
		t.Run(tt.name, func(t *testing.T) {
			b := NewHost(t)
			var args []string
			if tt.cgroup != "" {
				args = []string{"--cgroup", tt.cgroup}
			}
			b.Start(args...)
			containers(b)
			b.Web("web")
			b.Background("web", "socat UDP4-RECVFROM:53,fork SYSTEM:'echo the container at port 53'")
			b.Background("web", "socat UDP4-RECVFROM:50000,fork SYSTEM:'echo the container at port 50000'")
			b.CLI("publish", "add", "8080:80", "--port", "web")
			b.CLI("publish", "add", "127.0.0.1:8081:80", "--port", "web")
			b.CLI("publish", "add", "5300:53/udp", "--port", "web")
			var s api.Status
			if b.JSON(&s, "status"); strings.HasPrefix(s.HostClients, "programs") != (tt.cgroup == "") {
				t.Errorf("status says %q", s.HostClients)
			}
			for _, addr := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "10.1.0.1:8080", "172.29.255.254:8080"} {
				asks(t, b, "host", addr, "this is web; you are "+tt.sees)
			}
			contains(t, b.Sh("host", "curl -s -m 5 http://[::1]:8080/"), "this is web; you are fd") // by IPv6
			udp := func(addr string) string {
				out, _ := b.TrySh("host", "echo question | socat -t 2 -T 2 - UDP4:"+addr)
				return out
			}
			for _, addr := range []string{"127.0.0.1:5300", "10.1.0.1:5300"} {
				b.Eventually("a UDP client of "+addr+" has its answer", func() bool { return strings.Contains(udp(addr), "the container at port 53") })
			}
			// A port that is published at an address which the host does not have yet leads nobody astray.
			b.Web("out")
			b.CLI("publish", "add", "10.1.0.2:80:80", "--port", "web")
			asks(t, b, "host", "10.1.0.2", "this is out")
			b.CLI("publish", "del", "10.1.0.2:80")
			var published []api.Publish
			b.JSON(&published, "publish", "ls")
			for _, p := range published {
				if p.HostClients == 0 {
					t.Errorf("no client of the host was counted: %+v", p)
				}
			}
			if tt.cgroup != "" {
				return
			}
			// A large range: its ports are the switch's, and no client of the host is left out.
			b.CLI("publish", "add", "49152-65535:49152/udp", "--port", "web")
			b.Eventually("a client of the range has its answer", func() bool { return strings.Contains(udp("127.0.0.1:50000"), "the container at port 50000") })
			b.Eventually("a client of ::1 has its answer", func() bool {
				out, _ := b.TrySh("host", "echo question | socat -t 2 -T 2 - UDP6:[::1]:50000")
				return strings.Contains(out, "the container at port 50000")
			})
			if out, err := b.TrySh("host", "socat -u UDP4-RECV:50001 -"); err == nil || !strings.Contains(out, "Address already in use") {
				t.Errorf("a program of the host gets a port of the range: %s (%v)", out, err)
			}
			// Without the switch, the port is the host's.
			b.Stop()
			if got := ask(b, "host", "127.0.0.1:8080"); strings.Contains(got, "this is web") {
				t.Errorf("after its end: %q", got)
			}
		})
	}
}

// TestUserTakesPorts: an ordinary user of the host binds every port that NAT may use, as far as the user can. Containers still begin flows.
func TestUserTakesPorts(t *testing.T) {
	Need(t, "curl", "ip", "perl", "setpriv", "socat")
	for _, host := range []string{"on", "off"} {
		t.Run("host "+host, func(t *testing.T) {
			b := NewHost(t)
			if b.pair.Uplink == "tap" {
				b.pair.Uplink = "tcx"
			}
			b.Start("--nat-ports", "40000-41999", "--host", host)
			containers(b)
			b.Web("out")
			b.Background("out", "socat UDP4-RECVFROM:53,fork EXEC:cat")
			attack := `use Socket; my @all; for my $p (40000..41999) { for my $t (SOCK_DGRAM, SOCK_STREAM) {
				socket(my $s, PF_INET, $t, 0) or die "socket: $!"; bind($s, sockaddr_in($p, INADDR_ANY)) or next; $t == SOCK_STREAM and (listen($s, 1) or next); push @all, $s } }
				$| = 1; print scalar(@all), " sockets\n"; sleep 60`
			b.Background("host", "ulimit -n 5000; exec setpriv --reuid 65534 --regid 65534 --clear-groups perl -e '"+attack+"' >"+b.dir+"/said")
			said := ""
			b.Eventually("the user has bound what can be bound", func() bool {
				text, _ := os.ReadFile(b.dir + "/said")
				said = string(text)
				return strings.Contains(said, "sockets")
			})
			contains(t, said, "2000 sockets")                   // of 4000
			b.CLI("publish", "add", "8080:80", "--port", "web") // with a change, the switch reads the host's sockets
			for range 3 {
				asks(t, b, "web", "10.1.0.2", "this is out; you are 10.1.0.1")
				if got := b.Sh("db", "echo question | socat -t 1 - UDP4:10.1.0.2:53"); strings.TrimSpace(got) != "question" {
					t.Errorf("UDP: %q", got)
				}
			}
			if out, err := b.TrySh("host", "timeout 1 socat -u UDP4-RECV:41999 -; test $? = 124"); err != nil {
				t.Errorf("root cannot bind a port that is kept: %s", out)
			}
		})
	}
}

// TestHostInbound checks --host-inbound: containers begin nothing with the host but what is open, at any of its addresses; the host begins
// what it likes.
func TestHostInbound(t *testing.T) {
	Need(t, "curl", "ip", "ping", "socat")
	b := NewHost(t)
	if b.pair.Uplink == "tap" {
		if err := b.TryStart("--host-inbound", "deny"); err == nil || !strings.Contains(err.Error(), "cannot be kept") {
			t.Errorf("with an uplink of kind tap: %v", err)
		}
		b.pair.Uplink = "tcx"
	}
	b.Start("--host-inbound", "5000/tcp,53/udp")
	containers(b)
	b.Web("host")
	b.Web("web")
	b.Background("host", "socat TCP4-LISTEN:5000,fork,reuseaddr SYSTEM:'echo open'")
	b.Background("host", "socat UDP4-RECVFROM:53,fork SYSTEM:'echo resolver'")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	for _, addr := range []string{"172.29.255.254", "10.1.0.1"} {
		if out := ask(b, "web", addr); strings.Contains(out, "this is host") {
			t.Errorf("a container reaches %s: %s", addr, out)
		}
		told(b, "web", "ping -c 1 -W 2 "+addr, "Packet filtered")
		b.Eventually("the open port of "+addr+" answers", func() bool {
			out, _ := b.TrySh("web", "socat -t 2 -T 2 - TCP4:"+addr+":5000 </dev/null")
			return strings.Contains(out, "open")
		})
	}
	b.Eventually("the resolver answers", func() bool {
		out, _ := b.TrySh("web", "echo question | socat -t 2 -T 2 - UDP4:172.29.255.254:53")
		return strings.Contains(out, "resolver")
	})
	asks(t, b, "host", "172.29.0.2", "this is web; you are 172.29.255.254")
	asks(t, b, "host", "127.0.0.1:8080", "this is web")
	asks(t, b, "db", "10.1.0.1:8080", "this is web")
	asks(t, b, "out", "10.1.0.1:8080", "this is web; you are 10.1.0.2")
	b.Sh("host", "ping -c 1 -W 2 172.29.0.2")
	// What the host's kernel takes for itself is the host, also through a route.
	b.Sh("host", "ip route add local 10.60.0.0/24 dev lo")
	b.Eventually("a local prefix of the host is closed", func() bool { return !strings.Contains(ask(b, "web", "10.60.0.5"), "this is host") })
	var s api.Status
	if b.JSON(&s, "status"); s.Drops["host_inbound"] == 0 {
		t.Errorf("drops: %v", s.Drops)
	}
	if out := b.CLI("trace", "--in", "web", "tcp 172.29.0.2:40000 > 172.29.255.254:22 S"); !strings.Contains(out, "host_inbound") {
		t.Errorf("trace: %s", out)
	}
	b.Balanced()
}
