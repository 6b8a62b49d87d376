package explain

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// A frame of thousands of tags is not described at length.
func TestManyLayers(t *testing.T) {
	raw := append(make([]byte, 12), bytes.Repeat([]byte{0x81, 0, 0, 0}, 15000)...)
	if got := Layers(raw); len(got) != maxLayers+1 {
		t.Errorf("%d layers are described", len(got))
	}
}

func TestLayers(t *testing.T) {
	raw := frametest.Packet{Src: frametest.Addr("172.29.0.2"), Dst: frametest.Addr("10.1.0.2"), Proto: frame.TCP, SrcPort: 40000, DstPort: 80, Flags: frame.FlagSYN, Payload: []byte("hello")}.Raw()[frame.VnetLen:]
	got := Layers(raw)
	want := map[string][]api.Field{
		"Ethernet": {{Name: "SrcMAC", Value: "02:00:00:00:00:01"}, {Name: "EthernetType", Value: "IPv4"}}, "IPv4": {{Name: "SrcIP", Value: "172.29.0.2"}, {Name: "TTL", Value: "64"}},
		"TCP": {{Name: "DstPort", Value: "80(http)"}, {Name: "SYN", Value: "true"}, {Name: "ACK", Value: "false"}}, "Payload": {{Name: "bytes", Value: "68656c6c6f"}},
	}
	for _, l := range got {
		for _, f := range want[l.Name] {
			found := false
			for _, g := range l.Fields {
				found = found || g == f
			}
			if !found {
				t.Errorf("%s has no %+v: %+v", l.Name, f, l.Fields)
			}
		}
		delete(want, l.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing %v in %+v", want, got)
	}
	for n := range raw { // whatever is cut off, or changed
		Layers(raw[:n])
		bad := append([]byte(nil), raw...)
		bad[n] ^= byte(1 + rand.IntN(255))
		if len(Layers(bad)) == 0 {
			t.Errorf("byte %d changed: no layer", n)
		}
	}
}
