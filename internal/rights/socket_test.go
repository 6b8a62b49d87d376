package rights

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestSocketModes checks the modes of new sockets, and that the umask is what it was.
func TestSocketModes(t *testing.T) {
	dir := t.TempDir()
	for want, with := range map[os.FileMode]func(func() error) error{0o660: ForGroup, 0o600: ForOwner} {
		path := filepath.Join(dir, want.String())
		var l net.Listener
		if err := with(func() (err error) { l, err = net.Listen("unix", path); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%v, %v; want %v", info.Mode(), err, want)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
