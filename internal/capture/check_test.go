package capture_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A file that claims a longer block or frame than there may be is refused before anything is reserved for it, in both byte orders. Our own files pass.
func TestCheckFile(t *testing.T) {
	var ours bytes.Buffer
	w, err := capture.NewWriter(&ours, "test", func(frame.PortID) (string, string) { return "web", "" })
	if err == nil {
		err = w.Write(capture.Record{Port: 1, In: 1, Length: 60, Data: make([]byte, 60), Vnet: make([]byte, frame.VnetLen)}, 0)
	}
	if err == nil {
		err = capture.CheckFile(bytes.NewReader(ours.Bytes()))
	}
	if err != nil {
		t.Error(err)
	}
	const section, enhanced = 0x0a0d0d0a, 6
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		words := func(list ...uint32) (b []byte) {
			for _, w := range list {
				b = order.AppendUint32(b, w)
			}
			return b
		}
		head := words(section, 28, 0x1a2b3c4d, 0x00010000, 0xffffffff, 0xffffffff, 28)
		for name, b := range map[string][]byte{
			"a block of 17 MiB":   words(enhanced, 17<<20, 0, 0, 0, 60),
			"a block of no bytes": words(enhanced, 0, 0, 0, 0, 60),
			"a frame of 17 MiB":   words(enhanced, 92, 0, 0, 0, 17<<20),
		} {
			f := bytes.NewReader(append(bytes.Clone(head), b...))
			if err := capture.CheckFile(f); err == nil || !strings.Contains(err.Error(), "at byte 28") {
				t.Errorf("%s, %v: %v", name, order, err)
			}
			if at, _ := f.Seek(0, io.SeekCurrent); at != 0 {
				t.Errorf("the file is left at byte %d", at)
			}
		}
	}
}
