package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestEvents: what happens to the switch is told at once to those who listen, and later to those who ask.
func TestEvents(t *testing.T) {
	Need(t, "busybox", "ip")
	b := New(t)
	containers(b)
	b.AddNS("guest")
	heard := b.dir + "/heard"
	b.Background("host", b.exe+" --socket "+b.Socket()+" -j events --filter event=port --filter event=lease >"+heard)
	b.Eventually("the listener has begun", func() bool { // an event that it hears
		b.CLI("port", "set", "web", "hairpin", "on")
		b.CLI("port", "set", "web", "hairpin", "off")
		text, _ := os.ReadFile(heard)
		return strings.Contains(string(text), "hairpin")
	})
	const lie = "ping -c 3 -i 0.2 -W 1 -I 172.29.9.9 172.29.0.1 >/dev/null; true"
	b.Sh("web", "ip addr add 172.29.9.9/32 dev eth0; "+lie)
	b.CLI("port", "add", "guest", "--netns", b.NS("guest"), "--ip", "dhcp")
	b.Sh("guest", "ip link set eth0 up; busybox udhcpc -i eth0 -n -q -f -t 5 -T 1 -s /bin/true")
	b.CLI("policy", "add", "closed", "egress", "allow", "outside", "tcp/443")
	b.CLI("network", "add", "lab", "--subnet", "172.30.0.0/24")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.CLI("network", "del", "lab")
	b.CLI("port", "del", "guest")
	b.Sh("host", "ip addr flush dev eth0; ip addr add 10.1.0.7/24 dev eth0; ip route replace default via 10.1.0.2")
	b.Eventually("the uplink's other address is told", func() bool {
		return strings.Contains(b.CLI("events", "--no-follow", "--filter", "event=uplink"), "address 10.1.0.7")
	})
	refused := func() string {
		return b.CLI("events", "--no-follow", "--filter", "event=refusal", "--filter", "port=web", "--filter", "reason=guard_arp_sender", "--format", "{{.Text}}")
	}
	b.Eventually("a refusal names its port", func() bool { return strings.HasPrefix(refused(), "port web was refused ") })
	b.Sh("web", lie)
	if got := refused(); strings.Count(got, "\n") != 1 { // the next one may come after ten seconds only
		t.Errorf("refusals are told more than once: %s", got)
	}
	all := b.CLI("events", "--since", "1h", "--no-follow")
	for _, want := range []string{"switch started", "port web added", "port guest added", "lease began: 172.29.128.1", "port guest changed: address 172.29.128.1", "policy closed added: 1 rule", "network lab added: 172.30.0.0/24",
		"publish 8080", "network lab removed", "port guest removed", "lease ended: 172.29.128.1"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
	if got := b.CLI("events", "--no-follow", "--filter", "event=port", "--filter", "port=guest", "--format", "{{.Event}} {{.Action}} {{.Port}}"); !strings.HasPrefix(got, "port added guest\nport changed guest\n") || !strings.HasSuffix(got, "port removed guest\n") {
		t.Errorf("with a filter and a form: %q", got)
	}
	if got := b.CLI("events", "--since", "1h", "--until", "59m"); got != "" {
		t.Errorf("events of long ago: %q", got)
	}
	for _, wrong := range [][]string{{"--since", "yesterday"}, {"--filter", "colour=red"}, {"--filter", "event=flood"}} {
		if out, err := b.TryCLI(append([]string{"events", "--no-follow"}, wrong...)...); err == nil {
			t.Errorf("%v: %s", wrong, out)
		}
	}
	b.Eventually("the listener has heard of the end", func() bool {
		text, _ := os.ReadFile(heard)
		return strings.Contains(string(text), `"removed"`)
	})
	text, _ := os.ReadFile(heard)
	for line := range strings.Lines(string(text)) {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event != "port" && e.Event != "lease" || e.Time == "" || e.Text == "" {
			t.Errorf("the line %q: %v", line, err)
		}
	}
}
