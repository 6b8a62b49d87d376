package sockets

import (
	"bytes"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// FuzzWrite: whatever containers send, the engine goes on, it makes frames that are well-formed, and no socket is left when the containers have gone.
func FuzzWrite(f *testing.F) {
	to := frametest.Addr(outside.String())
	for _, p := range []frametest.Packet{
		{Dst: to, SrcPort: 4000, DstPort: 53, Payload: []byte("question")},
		{Dst: to, SrcPort: 4001, DstPort: 9, Payload: make([]byte, 3000), GSO: 1000},
		{Dst: to, Proto: frame.TCP, SrcPort: 4000, DstPort: 80, Flags: frame.FlagSYN, MSS: 1460},
		{Dst: to, Proto: frame.TCP, SrcPort: 4000, DstPort: 80, Flags: frame.FlagSYN | frame.FlagRST},
		{Dst: to, Proto: frame.TCP, SrcPort: 4000, DstPort: 80, Flags: frame.FlagACK, Payload: []byte("data")},
		{Dst: to, Proto: frame.ICMP, Type: frame.ICMPEcho, ID: 7, Payload: make([]byte, 56)},
		{Dst: to, Proto: frame.ICMP, Type: frame.ICMPUnreachable, Payload: make([]byte, 36)},
		{Dst: to, Proto: frame.GRE, Payload: make([]byte, 20)},
		{Dst: frametest.Addr("224.0.0.251"), SrcPort: 5353, DstPort: 5353},
		{Dst: frametest.Addr("127.0.0.1"), SrcPort: 5353, DstPort: 5353},
		{Dst: to, Frag: 0x2000, SrcPort: 1, DstPort: 2, Payload: make([]byte, 16)},
		{Src6: frametest.Addr6("fd00::2"), Dst6: frametest.Addr6("::1"), SrcPort: 4000, DstPort: 53},
		{Src6: frametest.Addr6("fd00::2"), Dst6: frametest.Addr6("2001:db8::1"), Proto: frame.TCP, SrcPort: 4000, DstPort: 80, Flags: frame.FlagSYN},
		{Src6: frametest.Addr6("fd00::2"), Dst6: frametest.Addr6("2001:db8::1"), Proto: frame.ICMPv6, Type: 128, ID: 7},
	} {
		if p.Src == 0 && p.Src6.IsZero() {
			p.Src = frametest.Addr(inside.String())
		}
		f.Add(p.Raw(), frametest.Packet{Src: frametest.Addr(inside.String()), Dst: to, SrcPort: 4000, DstPort: 53}.Raw())
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := newWire(t, Options{Sockets: 64})
		b := make([]byte, frame.VnetLen+frame.MaxFrame)
		for _, raw := range [][]byte{first, second, first} {
			if len(raw) < frame.VnetLen || len(raw) > frame.VnetLen+frame.MaxFrame {
				return
			}
			var p frame.Frame
			p.Reset(bytes.Clone(raw), 1)
			if frame.Parse(&p); p.Verdict == frame.Drop {
				continue
			}
			if why, said := w.e.Refusal(&p), w.e.Write(&p); why != frame.None && said != why {
				t.Fatalf("trace would say %v, and it is %v", why, said)
			}
			for range 20 {
				n, err := w.e.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					break
				}
				var out frame.Frame
				out.Reset(b[:n], uplinkID)
				if frame.Parse(&out); out.Verdict == frame.Drop || out.Malformed != frame.None || out.Flags&(frame.IsIPv4|frame.IsIPv6) == 0 {
					t.Fatalf("a malformed frame: %x", b[:n])
				}
			}
		}
		if w.e.Forget(1); w.e.sockets.Load() != 0 {
			t.Fatalf("%d sockets are left", w.e.sockets.Load())
		}
	})
}

const uplinkID = 9
