package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestMemoryAtRest checks that a switch with few flows, of both families, has less than 20 MiB of memory, without the pages of its program.
func TestMemoryAtRest(t *testing.T) {
	b := newWithIPv6(t)
	outside6(b)
	b.AddNS("web")
	b.Start("--web", "127.0.0.1:0")
	b.Eventually("the switch knows that IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out") })
	b.CLI("port", "add", "web", "--netns", b.NS("web"), "--ip", "172.29.0.2")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.Web("web")
	for _, outside := range []string{"10.1.0.1", "[" + host6 + "]"} {
		contains(t, b.Sh("out", "curl -sS -m 5 http://"+outside+":8080/"), "web")
	}
	ping(b, "web", "10.1.0.2")
	b.Sh("web", "ping -6 -c 1 -W 2 "+out6)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(string(text)) {
		var kind string
		var kb int
		if n, _ := fmt.Sscanf(line, "%s %d", &kind, &kb); n == 2 && (kind == "RssAnon:" || kind == "RssShmem:") {
			total += kb
		}
	}
	if total == 0 || total > 20<<10 {
		t.Errorf("%d kB, want at most 20 MiB\n%s", total, text)
	}
	t.Logf("%.1f MiB", float64(total)/1024)
}
