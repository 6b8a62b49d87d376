package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestPolicy: a container that may reach one name, and what it tries instead. dnsmasq plays the host's server, and lies.
func TestPolicy(t *testing.T) {
	Need(t, "curl", "dig", "dnsmasq", "ip", "iperf3", "ping", "socat", "tshark")
	b := NewHost(t)
	b.Start()
	b.AddNS("box")
	containers(b)
	b.Sh("out", "ip addr add 10.1.0.9/24 dev eth0")
	for _, port := range []int{80, 443} {
		b.Serve("out", port, uvswitch, "lab", "tool", "httpd", map[int]string{80: "80", 443: "443"}[port], "out")
	}
	zone := filepath.Join(b.dir, "hosts")
	if err := os.WriteFile(zone, []byte("203.0.113.80 elsewhere.example.com\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Background("out", "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --port 5353 --listen-address=10.1.0.2 --bind-interfaces --pid-file= --user=root --addn-hosts="+zone+
		" --address=/target.example.com/198.51.100.7 --cname=alias.example.com,elsewhere.example.com --address=/inside.example.com/172.29.0.2 --address=/private.example.com/10.1.0.9 --address=/host.example.com/10.1.0.1")
	b.CLI("network", "add", "cell", "--subnet", "172.30.0.0/24", "--dns-servers", "10.1.0.2:5353")
	b.CLI("policy", "add", "agent", "egress", "allow", "name:target.example.com", "tcp/443")
	b.CLI("policy", "add", "agent", "egress", "allow", "--peer", "name:alias.example.com", "--proto", "tcp", "--port", "443")
	b.CLI("policy", "add", "agent", "egress", "allow", "name:*.example.com", "tcp/8443")
	b.CLI("port", "add", "box", "--netns", b.NS("box"), "--network", "cell", "--policy", "agent")
	b.Sh("out", "ip addr add 198.51.100.7/32 dev lo; ip addr add 203.0.113.80/32 dev lo")
	dig := func(args string) string {
		t.Helper()
		out, _ := b.TrySh("box", "dig +time=3 +tries=2 "+args)
		return out
	}
	page := func(url string) string {
		out, _ := b.TrySh("box", "curl -sS -m 5 "+url+" 2>&1")
		return out
	}
	b.Eventually("the server outside answers", func() bool {
		return strings.Contains(dig("@172.30.0.1 target.example.com"), "198.51.100.7")
	})

	// The name opens its address, for the port of the rule; an alias opens what it leads to. Other names have no answer, over UDP and TCP.
	contains(t, page("http://198.51.100.7:443/"), "this is out; you are 10.1.0.1")
	contains(t, dig("@172.30.0.1 evil.example"), "NXDOMAIN", "EDE: 18 (Prohibited)")
	contains(t, dig("+tcp @172.30.0.1 evil.example"), "NXDOMAIN", "EDE: 18 (Prohibited)")
	if out := page("http://203.0.113.80:443/"); strings.Contains(out, "this is out") {
		t.Errorf("an address of no name that is allowed: %s", out)
	}
	contains(t, dig("@172.30.0.1 alias.example.com"), "203.0.113.80")
	contains(t, page("http://203.0.113.80:443/"), "this is out")
	for what, url := range map[string]string{"another port": "http://198.51.100.7:80/", "the host": "http://10.1.0.1:443/", "an address outside": "http://10.1.0.2:443/"} {
		if out := page(url); !strings.Contains(out, "curl: (7)") {
			t.Errorf("%s: %s", what, out)
		}
	}
	// What lies about a name opens nothing inside.
	for name, addr := range map[string]string{"inside.example.com": "172.29.0.2", "private.example.com": "10.1.0.9", "host.example.com": "10.1.0.1"} {
		contains(t, dig("@172.30.0.1 "+name), addr)
		if out := page("http://" + addr + ":8443/"); !strings.Contains(out, "curl: (7)") {
			t.Errorf("%s, which is %s: %s", name, addr, out)
		}
	}
	// The server itself is no way out, nor is IPv6, nor a ping.
	if out := dig("+time=1 +tries=1 -p 5353 @10.1.0.2 evil.example"); strings.Contains(out, "status:") {
		t.Errorf("a name server outside answers: %s", out)
	}
	if out, err := b.TrySh("box", "ping -c 1 -W 2 10.1.0.2"); err == nil {
		t.Errorf("a ping passes: %s", out)
	}
	contains(t, b.Sh("box", "ping -c 1 -W 2 172.30.0.1"), "1 received")

	// Each refusal says why, and what would allow it.
	contains(t, b.CLI("monitor", "--last", "50", "--reason", "policy_denied"), "no rule of policy agent, of port box, allows it (egress)", "the port knows 10.1.0.9 as private.example.com")
	var lines []api.Verdict
	for line := range strings.Lines(b.CLI("-j", "monitor", "--last", "50", "--reason", "policy_denied")) {
		var v api.Verdict
		if json.Unmarshal([]byte(line), &v) == nil {
			lines = append(lines, v)
		}
	}
	if n := len(lines); n == 0 || lines[n-1].Why == "" || !strings.Contains(lines[n-1].Remedy, "uvswitch policy add agent egress allow") {
		t.Errorf("monitor -j: %+v", lines)
	}
	contains(t, b.CLI("policy", "refusals"), "evil.example")
	contains(t, b.CLI("policy", "show", "agent"), "(port box: no rule allows it)")
	var policies []api.Policy
	b.JSON(&policies, "policy", "ls")
	if i := slices.IndexFunc(policies, func(p api.Policy) bool { return p.Name == "agent" }); i < 0 || policies[i].Unallowed["box"] == 0 {
		t.Errorf("packets that no rule allows are not counted: %+v", policies)
	}
	contains(t, b.CLI("trace", "--in", "box", "tcp > 198.51.100.7:22"), "policy_denied", "what to do: to allow it: `uvswitch policy add agent egress allow name:target.example.com tcp/22`")
	contains(t, b.CLI("policy", "test", "box -> target.example.com:443"), "allowed: tcp 172.30.0.2:40000 > 198.51.100.7:443")
	if out, err := b.TryCLI("policy", "test", "port box -> api.other.example:443"); err == nil || !strings.Contains(out, "may not ask for the name") {
		t.Errorf("policy test of a name that is not allowed: %s, %v", out, err)
	}
	file := filepath.Join(b.dir, "drops.pcapng")
	stop := b.Listen("host", uvswitch, "--socket", b.Socket(), "dump", "--drops", "-c", "1", "-w", file, "tcp port 23")
	page("http://198.51.100.7:23/")
	b.Eventually("the capture has the refusal", func() bool {
		out, _ := b.TrySh("host", "tshark -n -r "+file+" -T fields -e frame.comment 2>/dev/null")
		return strings.Contains(out, "dropped: policy_denied; no rule of policy agent")
	})
	stop()

	// Rules act on the next packet of a connection that exists, and nothing is lost when they do not concern it.
	b.Background("out", "socat TCP-LISTEN:8443,fork,reuseaddr EXEC:cat")
	contains(t, dig("@172.30.0.1 target.example.com"), "198.51.100.7")
	b.Eventually("the connection answers", func() bool {
		out, _ := b.TrySh("box", "echo hello | timeout 3 socat -t 1 - TCP:198.51.100.7:8443")
		return strings.Contains(out, "hello")
	})
	b.Background("box", "sh -c 'while :; do echo tick; sleep 0.05; done' | socat - TCP:198.51.100.7:8443 > "+filepath.Join(b.dir, "ticks"))
	ticks := func() int {
		text, _ := os.ReadFile(filepath.Join(b.dir, "ticks"))
		return strings.Count(string(text), "tick")
	}
	more := func(what string) {
		t.Helper()
		n := ticks()
		b.Eventually(what, func() bool { return ticks() > n+3 })
	}
	more("the connection works")
	b.CLI("policy", "add", "agent", "egress", "allow", "outside", "udp/123")
	more("another rule does not concern it")
	b.CLI("policy", "add", "agent", "egress", "reject", "198.51.100.0/24", "tcp/8443")
	b.Eventually("the connection ends", func() bool {
		out, _ := b.TrySh("box", "ss -Htn dport = :8443")
		return !strings.Contains(out, "ESTAB")
	})

	// Policies that are used do not go, and the last rule of a direction neither. Errors say what to do.
	for args, want := range map[string]string{
		"policy del agent": "detach it first", "policy attach nobody --port box": "does not exist", "policy attach agent --port nobody": "does not exist", "policy add sandbox egress allow any": "part of the command",
		"policy add agent egress allow 10.0.0.1/8": "did you mean", "policy add agent egress allow tcp/0": "port", "policy attach agent": "say to what", "port set box guard off": "need the guard",
		"policy attach agent --port host": "takes no policy",
	} {
		if out, err := b.TryCLI(strings.Fields(args)...); err == nil || !strings.Contains(out+err.Error(), want) {
			t.Errorf("%s: %s %v, want %q", args, out, err, want)
		}
	}

	// The file has the policies; a reload changes them without touching the port.
	running := filepath.Join(b.dir, "running.yaml")
	shown := b.CLI("config", "show")
	contains(t, shown, "- egress allow name:target.example.com tcp/443", "policies: agent")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(running, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(shown)
	if out := b.CLI("config", "diff", running); strings.Contains(out, "policy") {
		t.Errorf("config diff with what config show shows: %s", out)
	}
	before := b.Sh("box", "cat /sys/class/net/eth0/ifindex")
	write(strings.Replace(shown, "- egress reject 198.51.100.0/24 tcp/8443", "- egress reject 198.51.100.0/24 tcp/443", 1))
	contains(t, b.CLI("reload", running), "set policy agent")
	if after := b.Sh("box", "cat /sys/class/net/eth0/ifindex"); after != before || !strings.Contains(page("http://198.51.100.7:443/"), "curl: (7)") {
		t.Errorf("after a reload: device %s, before %s", after, before)
	}
	// Rules that come and go under a fast connection cost it nothing.
	b.Background("out", "iperf3 -s -1 -p 8445")
	b.CLI("policy", "add", "agent", "egress", "allow", "198.51.100.7", "tcp/8445")
	b.Eventually("the server listens", func() bool {
		return strings.Contains(b.Sh("out", "ss -Hltn sport = :8445"), ":8445")
	})
	result := filepath.Join(b.dir, "iperf3")
	b.Background("box", "iperf3 -c 198.51.100.7 -p 8445 -n 400M -J > "+result)
	changes := 0
	b.Eventually("the transfer has ended", func() bool {
		b.CLI("policy", "add", "agent", "egress", "allow", fmt.Sprintf("203.0.113.%d", changes%250), "tcp/1")
		changes++
		text, _ := os.ReadFile(result)
		return strings.Contains(string(text), "sum_received")
	})
	var sent struct {
		End struct{ Sum_received struct{ Bytes float64 } }
	}
	if text, _ := os.ReadFile(result); json.Unmarshal(text, &sent) != nil || sent.End.Sum_received.Bytes < 400e6 || changes < 2 {
		t.Errorf("after %d changes: %s", changes, text)
	}
	// Without the policy, everything passes at once; with the network's, nothing again.
	b.CLI("policy", "detach", "agent", "--port", "box")
	contains(t, page("http://198.51.100.7:80/"), "this is out")
	b.CLI("policy", "attach", "sandbox", "--network", "cell")
	// Other containers do not reach what the box publishes, by no address of the host. Clients outside do.
	b.CLI("publish", "add", "8088:80", "--port", "box")
	b.Serve("box", 80, uvswitch, "lab", "tool", "httpd", "80", "the box")
	contains(t, b.Sh("out", "curl -sS -m 5 http://10.1.0.1:8088/ 2>&1"), "this is the box")
	contains(t, b.Sh("host", "curl -sS -m 5 http://127.0.0.1:8088/ 2>&1"), "this is the box")
	for _, url := range []string{"http://10.1.0.1:8088/", "http://" + "172.29.255.254" + ":8088/"} {
		if out, _ := b.TrySh("web", "curl -sS -m 3 "+url+" 2>&1"); strings.Contains(out, "this is") {
			t.Errorf("another container reaches the sandbox by %s: %s", url, out)
		}
	}
	b.CLI("publish", "del", "8088")
	if out := page("http://198.51.100.7:80/"); !strings.Contains(out, "curl: (7)") {
		t.Errorf("with the policy of the network: %s", out)
	}
	b.Balanced()
}

// TestPoliciesStay checks that what a policy was attached to by hand has it after the end of the switch, however it ends, and nothing else does.
func TestPoliciesStay(t *testing.T) {
	b := NewHost(t)
	b.AddNS("web", "db")
	file := filepath.Join(b.dir, "uvs.yaml")
	write := func(web string) {
		t.Helper()
		text := fmt.Sprintf("policies:\n  - {name: wide, rules: [egress allow any]}\n  - {name: narrow, rules: [egress allow 192.0.2.1]}\nports: [{name: web, netns: %s%s}]\n", b.NS("web"), web)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	policies := func(port string) (names string) {
		t.Helper()
		var p api.Port
		b.JSON(&p, "port", "show", port)
		slices.Sort(p.Policies)
		return strings.Join(p.Policies, " ")
	}
	expect := func(when, port, want string) {
		t.Helper()
		if got := policies(port); got != want {
			t.Errorf("%s, port %s has %q, not %q", when, port, got, want)
		}
	}
	write(", policies: [narrow]")
	b.Start("-c", file)
	b.CLI("policy", "add", "hand", "egress", "allow", "10.1.0.2", "tcp/80")
	b.CLI("policy", "attach", "hand", "--port", "web")
	b.CLI("policy", "attach", "hand", "--network", "default")
	b.CLI("port", "add", "db", "--netns", b.NS("db"), "--policy", "wide")
	b.Kill()
	b.Start("-c", file)
	expect("after a kill", "web", "hand narrow")
	var networks []api.Network
	b.JSON(&networks, "network", "ls")
	if !slices.Equal(networks[0].Policies, []string{"hand"}) {
		t.Errorf("network default has %v", networks[0].Policies)
	}

	// A port has what its request says, and nothing of a request before.
	b.CLI("port", "add", "db", "--netns", b.NS("db"), "--policy", "narrow")
	expect("added again", "db", "narrow")

	// A port that is not back yet has its policy still, so the policy stays; it can be detached.
	b.CLI("policy", "attach", "hand", "--port", "db")
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	b.Start("-c", file)
	if _, err := b.TryCLI("policy", "del", "hand"); err == nil || !strings.Contains(err.Error(), "attached") {
		t.Errorf("a policy that a port waits for: %v", err)
	}
	b.CLI("policy", "detach", "hand", "--port", "db")
	b.CLI("port", "add", "db", "--netns", b.NS("db"), "--policy", "narrow")
	expect("detached before it came", "db", "narrow")

	// The file's own policies are the file's, also after a reload.
	write(", policies: [wide]")
	b.CLI("reload")
	expect("after a reload", "web", "hand wide")
	write("")
	b.Kill()
	b.Start("-c", file)
	expect("without one in the file", "web", "hand")

	// A file into which an attachment does not fit any more counts more: the switch starts.
	write(", set: {guard: off}")
	b.CLI("policy", "detach", "hand", "--network", "default")
	b.Kill()
	b.Start("-c", file)
	expect("without a guard", "web", "")
	b.CLI("policy", "del", "hand")
}
