package cli

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// A capture file that claims too much is refused before anything is reserved for it.
func TestFrameOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcapng")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := pcapgo.NewNgWriter(f, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range []string{"first frame", "second frame"} {
		if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: len(frame), Length: len(frame)}, []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if b, err := frameOf(path, 2); err != nil || string(b) != "second frame" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := frameOf(path, 3); err == nil || !strings.Contains(err.Error(), "only 2 frames") {
		t.Errorf("frame 3: %v", err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for at := 0; at < len(file); at += int(binary.LittleEndian.Uint32(file[at+4:])) {
		last = at
	}
	for name, at := range map[string]int{"block": last + 4, "frame": last + 20} {
		hostile := append([]byte{}, file...)
		binary.LittleEndian.PutUint32(hostile[at:], 0xfffffff0)
		if err := os.WriteFile(path, hostile, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := frameOf(path, 2); err == nil || !strings.Contains(err.Error(), "claims") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// pcap, whose header claims that frames may be very long.
	old := make([]byte, 24+16)
	binary.LittleEndian.PutUint32(old, 0xa1b2c3d4)
	binary.LittleEndian.PutUint16(old[4:], 2)
	binary.LittleEndian.PutUint16(old[6:], 4)
	binary.LittleEndian.PutUint32(old[16:], 0xffffffff)
	binary.LittleEndian.PutUint32(old[20:], 1)
	binary.LittleEndian.PutUint32(old[24+8:], 0xfffffff0)
	binary.LittleEndian.PutUint32(old[24+12:], 0xfffffff0)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := frameOf(path, 1); err == nil || !strings.Contains(err.Error(), "exceeds snap length") {
		t.Errorf("pcap: %v", err)
	}
}
