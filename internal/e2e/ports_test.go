package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestRename gives a port another name while a connection, a client and rules use it.
func TestRename(t *testing.T) {
	Need(t, "socat", "curl")
	b := New(t)
	containers(b)
	b.Web("web")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.CLI("policy", "add", "front", "ingress", "allow", "port:web")
	b.CLI("policy", "attach", "front", "--port", "db")
	b.Serve("web", 9000, "socat", "TCP-LISTEN:9000,fork", "EXEC:cat")
	b.CLI("publish", "add", "9000:9000", "--port", "web")
	out := filepath.Join(b.dir, "echo")
	b.Background("out", "(for i in $(seq 600); do echo line $i; sleep 0.1; done) | socat - TCP:10.1.0.1:9000 > "+out)
	lines := func() int {
		text, _ := os.ReadFile(out) // not there before the shell has begun
		return strings.Count(string(text), "line")
	}
	b.Eventually("the connection works", func() bool { return lines() > 2 })
	before := port(b, "web")

	b.CLI("port", "rename", "web", "www")
	n := lines()
	b.Eventually("the connection goes on", func() bool { return lines() > n+5 })
	if p := port(b, "www"); p.ID != before.ID || p.MAC != before.MAC || p.RxPackets <= before.RxPackets {
		t.Errorf("another port: %+v, was %+v", p, before)
	}
	contains(t, b.CLI("publish", "ls"), "8080", "www")
	contains(t, b.CLI("flow", "ls", "--port", "www"), "9000")
	contains(t, b.Sh("out", "curl -sS -m 5 http://10.1.0.1:8080/"), "you are 10.1.0.2")
	contains(t, b.Sh("host", "curl -sS -m 5 http://127.0.0.1:8080/"), "you are ")
	contains(t, b.Sh("db", "curl -sS -m 5 http://10.1.0.1:8080/"), "you are ")
	contains(t, b.CLI("events", "--no-follow", "--filter", "event=port"), "port www changed: its name was web")
	contains(t, b.CLI("dns", "ls"), "www")
	if out, err := b.TrySh("web", "ping -c 1 -W 1 172.29.0.3"); err == nil { // rules go by names
		t.Errorf("a rule for web lets www in: %s", out)
	}
	for words, want := range map[string]string{
		"web other":  `port "web" does not exist`,
		"www db":     `port "db" exists already`,
		"www host":   "which is a word of the command",
		"www a/b":    `"a/b" is not a valid name`,
		"uplink out": "is the switch's own and keeps its name",
	} {
		if _, err := b.TryCLI(append([]string{"port", "rename"}, strings.Fields(words)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("rename %s: %v", words, err)
		}
	}
	b.CLI("port", "rename", "www", "www")
	b.CLI("port", "rename", "www", "web")
	ping(b, "web", "172.29.0.3")
	b.CLI("port", "del", "web")
	if left := b.CLI("publish", "ls"); strings.Contains(left, "8080") {
		t.Errorf("published ports outlive their port: %s", left)
	}
	b.CLI("port", "add", "web", "--netns", b.NS("web"))
	b.Balanced()
}

// TestUnansweredQuestions: for a peer that is not there, the switch says who asks for it, and what is missing.
func TestUnansweredQuestions(t *testing.T) {
	b := New(t)
	containers(b)
	ping(b, "web", "172.29.0.3")
	unanswered := func() (list []api.Unanswered) {
		b.JSON(&list, "neigh", "unanswered")
		return list
	}
	if list := unanswered(); len(list) > 0 {
		t.Errorf("all are there: %+v", list)
	}
	absent := netip.MustParseAddr(addr6(b, "web")).Prev().Prev().String()
	_, _ = b.TrySh("web", "ping -c 2 -W 1 172.29.0.77")
	_, _ = b.TrySh("db", "ip link set eth0 down")
	_, _ = b.TrySh("web", "ip neigh flush all; ping -c 2 -W 1 172.29.0.3")
	_, _ = b.TrySh("web", "ping -6 -c 2 -W 1 "+absent)
	text := b.CLI("neigh", "unanswered")
	contains(t, text, "172.29.0.77", "no port of network default has this address", "port db has this address, and its device is down", absent)
	found, _ := b.examine()
	contains(t, found["neighbors"], "warn: web asks for 172.29.0.77, and nobody answers")
	b.Sh("db", "ip link set eth0 up")
	ping(b, "web", "172.29.0.3")

	// Connections that nobody answers, although every packet has left.
	b.Sh("db", "nft add table t && nft add chain t in '{ type filter hook input priority 0; }' && nft add rule t in tcp dport 80 drop")
	b.CLI("publish", "add", "8080:80", "--port", "db")
	for range 2 {
		b.Background("web", "echo | socat - TCP:203.0.113.9:443,connect-timeout=20 || true")
	}
	b.Background("out", "echo | socat - TCP:10.1.0.1:8080,connect-timeout=20 || true")
	b.Eventually("they are problems", func() bool {
		found, _ := b.examine()
		return strings.Contains(found["answers"], "warn: web gets no answer from outside (tcp to 203.0.113.9:443, 2 flows)") && strings.Contains(found["answers"], "warn: db does not answer 10.1.0.2, a client of a published port (tcp to 172.29.0.3:80)")
	})
	if text := b.CLI("neigh", "unanswered"); strings.Contains(text, "172.29.0.3 ") {
		t.Errorf("it has answered: %s", text)
	}
}

// TestRemovedAtOnce removes many ports with flows at the same time, while another one comes with the address of one of them.
func TestRemovedAtOnce(t *testing.T) {
	b := AloneHost(t)
	b.Start()
	var names []string
	for i := range 8 {
		name := fmt.Sprintf("c%d", i)
		names = append(names, name)
		b.AddNS(name)
		b.CLI("port", "add", name, "--netns", b.NS(name), "--ip", fmt.Sprintf("172.29.0.%d", 10+i))
	}
	for _, name := range names {
		ping(b, name, "10.1.0.2")
	}
	b.AddNS("new")
	var all sync.WaitGroup
	for _, name := range names[1:] {
		all.Go(func() {
			if _, err := b.TryCLI("port", "del", name); err != nil {
				t.Error(err)
			}
			if _, err := b.TrySh(name, "ip link show eth0"); err == nil {
				t.Errorf("%s was removed, and its device is there", name)
			}
			if flows, err := b.TryCLI("flow", "ls", "--port", name); err == nil {
				t.Errorf("%s was removed: %s", name, flows)
			}
		})
	}
	all.Go(func() {
		for {
			out, err := b.TryCLI("port", "add", "new", "--netns", b.NS("new"), "--ip", "172.29.0.17")
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), "172.29.0.17") { // c7 has it still
				t.Error(out, err)
				return
			}
		}
	})
	all.Wait()
	ping(b, "new", "10.1.0.2")
	ping(b, "c0", "172.29.0.17")
	if flows := b.CLI("flow", "ls"); strings.Contains(flows, "172.29.0.11") || !strings.Contains(flows, "172.29.0.10") {
		t.Errorf("flows:\n%s", flows)
	}
	b.Balanced()
}
