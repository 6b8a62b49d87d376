package explain

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// Packets in words: what is understood, and what is refused with which words.
func TestParseSpec(t *testing.T) {
	s, err := parseSpec("tcp 10.0.0.2:4000 > 1.1.1.1:443 S. ttl 3 mss 1400 seq 4294967295 ack 7 win 99 len 10 df")
	if err != nil || s.src.Port() != 4000 || s.dst.String() != "1.1.1.1:443" || s.flags != "S." || s.ttl != 3 || s.mss != 1400 || s.seq != 4294967295 || s.ack != 7 || s.win != 99 || s.len != 10 || !s.df {
		t.Errorf("%+v %v", s, err)
	}
	if s, err := parseSpec("icmp > 8.8.8.8 id 9"); err != nil || s.src.IsValid() || s.id != 9 {
		t.Errorf("%+v %v", s, err)
	}
	for text, want := range map[string]string{
		"":                                "incomplete",
		"tcp 1.1.1.1":                     "incomplete",
		"tcq > 1.1.1.1:1":                 "not a protocol",
		"tcp a > 1.1.1.1:1":               "not an IP address",
		"tcp > ::1":                       "needs a port",
		"tcp > 1.1.1.1":                   "needs a port",
		"icmp > 1.1.1.1:1":                "has no ports",
		"udp > 1.1.1.1:1 S":               "is unknown",
		"tcp > 1.1.1.1:1 SYN":             "is unknown",
		"tcp > 1.1.1.1:1 ttl":             "needs a number",
		"tcp > 1.1.1.1:1 ttl 300":         "not a number up to 255",
		"tcp > 1.1.1.1:1 len -1":          "not a number",
		"udp > 1.1.1.1:1 mss 9":           "TCP only",
		"tcp 1.1.1.1 2.2.2.2 > 3.3.3.3:1": "must stand between",
	} {
		if _, err := parseSpec(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// The answer that a trace sends back is sound, and turned round.
func TestReverseFrame(t *testing.T) {
	for _, p := range []frametest.Packet{
		{Src: 1<<24 + 1, Dst: 2<<24 + 2, SrcPort: 7, DstPort: 9, Payload: []byte("odd")},
		{Src: 1<<24 + 1, Dst: 2<<24 + 2, SrcPort: 7, DstPort: 9, Proto: frame.TCP, Flags: frame.FlagSYN, MSS: 1400},
		{Src: 1<<24 + 1, Dst: 2<<24 + 2, Proto: frame.ICMP, Type: frame.ICMPEcho, ID: 5, Payload: []byte("x")},
		{Src: 1<<24 + 1, Dst: 2<<24 + 2, Proto: frame.GRE, Payload: []byte("x")},
	} {
		b := frametest.Batch(1, 1, p.Raw())
		f := &b.Frames[0]
		raw := reverseFrame(f)
		if err := frametest.Check(raw); err != nil {
			t.Errorf("%s: %v", f.Tuple, err)
		}
		g := frametest.Batch(1, 1, raw)
		if back := g.Frames[0].Tuple; back != f.Tuple.Reverse() {
			t.Errorf("%s: the answer is %s", f.Tuple, back)
		}
	}
	for _, p := range []frametest.Packet{{Frag: 9}, {Proto: frame.ICMP, Type: 0}, {Proto: frame.ICMP, Type: 3, Payload: frametest.Quote(frametest.Packet{}.Raw(), 8)}} {
		b := frametest.Batch(1, 1, p.Raw())
		if raw := reverseFrame(&b.Frames[0]); raw != nil {
			t.Errorf("%+v has an answer", p)
		}
	}
}

func FuzzSpec(f *testing.F) {
	f.Add("tcp 10.0.0.2:4000 > 1.1.1.1:443 S ttl 3")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := parseSpec(text); err == nil && !s.dst.IsValid() {
			t.Errorf("%q has no destination", text)
		}
	})
}
