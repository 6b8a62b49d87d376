package tap

import "testing"

func TestNamespacePath(t *testing.T) {
	if p, err := NamespacePath(""); err != nil || p != Own {
		t.Errorf("the empty name: %q %v", p, err)
	}
	if p, err := NamespacePath("pid:self"); err != nil || p != "/proc/self/ns/net" {
		t.Errorf("pid:self: %q %v", p, err)
	}
	for _, bad := range []string{"no-such-namespace", "/dev/null", "pid:0"} {
		if p, err := NamespacePath(bad); err == nil {
			t.Errorf("%q is %q", bad, p)
		}
	}
	for _, bad := range []string{"", "a/b", "sixteen-letters-", "a b", "a%d", ".."} {
		if CheckName(bad) == nil {
			t.Errorf("%q is accepted as a device name", bad)
		}
	}
}
