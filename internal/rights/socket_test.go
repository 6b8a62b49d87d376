package rights

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// The mode of a socket changes, and that of nothing else.
func TestOpenToGroup(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "s"), filepath.Join(dir, "secret")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := OpenToGroup(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, other, filepath.Join(dir, "nothing")} {
		if OpenToGroup(p) == nil {
			t.Errorf("%s is taken for a socket", p)
		}
	}
	if info, err := os.Stat(other); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("another file has changed: %v, %v", info.Mode(), err)
	}
}
