package link

import "testing"

func TestCheckName(t *testing.T) {
	for _, bad := range []string{"", "a/b", "sixteen-letters-", "a b", "a%d", ".."} {
		if CheckName(bad) == nil {
			t.Errorf("%q is accepted as a device name", bad)
		}
	}
}
