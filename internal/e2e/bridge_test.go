package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestBridgeTables checks that `bridge show` has the lines of `brctl showstp`, and `bridge ls` those of `brctl show`: with the same words, and with
// the values of a bridge without STP, but for the timers of the kernel's own.
// Where /sys is that of another namespace, brctl prints other times of the bridge.
func TestBridgeTables(t *testing.T) {
	Need(t, "brctl")
	b := New(t)
	containers(b)
	b.Sh("out", "brctl addbr br0 && ip link add v0 type veth peer name p0 && ip link set p0 up && ip link set v0 up && ip link set br0 up && brctl addif br0 v0")
	id, kernels := regexp.MustCompile(`8000\.[0-9a-f]{12}`), regexp.MustCompile(`(gc timer|forward delay timer|forward delay|bridge max age|bridge hello time|hello timer|path cost)\s+[0-9.]+`)
	lines := func(text string) (out []string) {
		text = strings.NewReplacer("br0", "net", "default", "net", "v0", "port", "web", "port").Replace(text)
		text = kernels.ReplaceAllString(id.ReplaceAllString(text, "ID"), "$1")
		for line := range strings.Lines(text) {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
		return out
	}
	kernel, ours := lines(b.Sh("out", "brctl showstp br0")), lines(b.CLI("bridge", "show", "default"))
	start := slices.IndexFunc(ours, func(line string) bool { return strings.HasPrefix(line, "port (") })
	ours = append(ours[:slices.IndexFunc(ours, func(line string) bool { return strings.Contains(line, "(") })], ours[start:]...) // the port that is compared comes first
	for i, line := range kernel {
		own := func(beginning string) bool {
			return strings.HasPrefix(line, beginning) && strings.HasPrefix(ours[i], beginning)
		}
		switch {
		case i >= len(ours):
			t.Fatalf("line %d, %q, is missing in %q", i, line, ours)
		case own("port ("), own("port id"), own("designated port"), own("flags"): // the numbers of ports, and flags that the kernel lacks
		case ours[i] != line:
			t.Errorf("line %d is %q, not %q", i, ours[i], line)
		}
	}
	list, heads := lines(b.CLI("bridge", "ls")), lines(b.Sh("out", "brctl show"))[0]
	if list[0] != heads || !strings.HasPrefix(list[1], "net ID no ") || !slices.Contains(list, "port") {
		t.Errorf("%q, not with heads %q", list, heads)
	}
	if _, err := b.TryCLI("bridge", "show", "nowhere"); err == nil || !strings.Contains(err.Error(), `"nowhere" does not exist`) {
		t.Error(err)
	}
}
