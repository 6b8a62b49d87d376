package rights

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestUnit: the systemd unit gives exactly the capabilities that the table says it gives, and the paths that the table says the switch
// writes to.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("../packaging/uvswitch.service")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, c := range Capabilities {
		if c.Unit {
			want = append(want, c.Name)
		} else if c.Need == Required {
			t.Errorf("%s is required, but the unit does not give it", c.Name)
		}
		if (c.Need == Optional) != (c.Without != "") {
			t.Errorf("%s: an optional capability says what does not work without it", c.Name)
		}
	}
	for _, key := range []string{"AmbientCapabilities=", "CapabilityBoundingSet="} {
		i := slices.IndexFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.HasPrefix(l, key) })
		if i < 0 {
			t.Fatalf("the unit has no %s", key)
		}
		if got := strings.Fields(strings.TrimPrefix(strings.Split(string(text), "\n")[i], key)); !slices.Equal(got, want) {
			t.Errorf("%s%v, want %v", key, got, want)
		}
	}
	for path, line := range map[string]string{
		"/dev/net/tun": "DeviceAllow=/dev/net/tun rw", "/run/uvswitch": "RuntimeDirectory=uvswitch", "/var/lib/uvswitch": "StateDirectory=uvswitch",
	} {
		if !slices.ContainsFunc(Paths, func(p Path) bool { return p.Name == path && p.Access != Read }) || !strings.Contains(string(text), line) {
			t.Errorf("%s: the table or the unit (%s) lacks it", path, line)
		}
	}
}

func TestMissing(t *testing.T) {
	var e Effective
	if got := len(e.Missing(Required)) + len(e.Missing(Optional)); got != len(Capabilities) {
		t.Errorf("%d of %d are missing in an empty set", got, len(Capabilities))
	}
	for _, c := range Capabilities {
		e[c.Bit/32] |= 1 << (c.Bit % 32)
		if !e.Has(c.Bit) {
			t.Errorf("%s is not found (bit %d)", c.Name, c.Bit)
		}
	}
	if got := append(e.Missing(Required), e.Missing(Optional)...); got != nil {
		t.Errorf("%v are missing", got)
	}
}
