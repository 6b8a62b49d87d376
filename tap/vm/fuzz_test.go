package vm

import (
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// FuzzStream: whatever a machine sends, and in whatever pieces, the switch gets the frames that its lengths say, until a length is invalid. Then
// the connection ends.
func FuzzStream(f *testing.F) {
	f.Add(append(streamed([]byte("one")), streamed([]byte("two"))...), uint16(2))
	f.Add([]byte{0, 0, 0, 5, 1, 2}, uint16(1))
	f.Add(append(streamed([]byte("one")), 0, 0, 0, 0), uint16(7))
	f.Add(append(streamed(make([]byte, 3000)), 0, 1, 0, 0xff), uint16(1000))
	path := filepath.Join(f.TempDir(), "s")
	s, err := OpenStream(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	b := make([]byte, frame.VnetLen+frame.MaxFrame)
	f.Fuzz(func(t *testing.T, sent []byte, piece uint16) {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var want, got [][]byte
		valid := true
		for rest := sent; len(rest) >= streamHeader; {
			n := int(binary.BigEndian.Uint32(rest))
			if valid = n > 0 && n <= frame.MaxFrame; !valid || len(rest) < streamHeader+n {
				break
			}
			want, rest = append(want, rest[streamHeader:streamHeader+n]), rest[streamHeader+n:]
		}
		read := func() {
			n, err := s.Read(b)
			for ; n > 0; n, err = s.Read(b) {
				got = append(got, bytes.Clone(b[frame.VnetLen:n]))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		pieces := 1 + len(sent)/64 // no more than so many of them
		for len(sent) > 0 {
			n := min(max(int(piece), pieces), len(sent))
			if _, err := c.Write(sent[:n]); err != nil && valid {
				t.Fatal(err)
			}
			sent = sent[n:]
			read()
		}
		read()
		if s.Connected() != valid {
			t.Errorf("valid: %v, connected: %v", valid, s.Connected())
		}
		c.Close()
		read()
		if s.Connected() {
			t.Error("the machine has gone, and it is connected")
		}
		if len(got) != len(want) {
			t.Fatalf("%d frames, want %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("frame %d: %x, want %x", i, got[i], want[i])
			}
		}
	})
}
