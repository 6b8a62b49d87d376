package frametest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The judge of IPv6 frames accepts what is right, and nothing else.
func TestCheck6(t *testing.T) {
	a, b := Addr6("2001:db8::1"), Addr6("2001:db8::2")
	udp := Packet{Src6: a, Dst6: b, SrcPort: 1, DstPort: 2, Payload: []byte("data")}
	behind := udp
	behind.Next, behind.Ext = 60, []byte{17, 0, 1, 4, 0, 0, 0, 0}
	nd := Packet{Src6: a, Dst6: b, TTL: 255, Proto: frame.ICMPv6, Type: 135, Payload: make([]byte, 16)}
	quoting := Packet{Src6: a, Dst6: b, Proto: frame.ICMPv6, Type: 1, Payload: udp.Raw()[frame.VnetLen+frame.EthernetLen:]}
	long := quoting
	long.Payload = append(bytes.Clone(long.Payload), make([]byte, 1300)...)
	none := quoting
	none.Payload = make([]byte, 48)
	const ip, l4 = frame.VnetLen + frame.EthernetLen, frame.VnetLen + frame.EthernetLen + frame.IPv6Len
	for name, c := range map[string]struct {
		packet Packet
		spoil  func(raw []byte)
		ok     bool
	}{
		"UDP":                       {udp, nil, true},
		"behind a header":           {behind, nil, true},
		"neighbor discovery":        {nd, nil, true},
		"an error":                  {quoting, nil, true},
		"a sum":                     {udp, func(raw []byte) { raw[l4+6]++ }, false},
		"a sum behind a header":     {behind, func(raw []byte) { raw[l4+8+6]++ }, false},
		"no sum of UDP":             {udp, func(raw []byte) { raw[l4+6], raw[l4+7] = 0, 0 }, false},
		"the version":               {udp, func(raw []byte) { raw[ip] = 0x40 }, false},
		"a length beyond the frame": {udp, func(raw []byte) { binary.BigEndian.PutUint16(raw[ip+4:], 500) }, false},
		"a header beyond the end":   {behind, func(raw []byte) { raw[l4+1] = 9 }, false},
		"hop limit 0":               {udp, func(raw []byte) { raw[ip+7] = 0 }, false},
		"ND with hop limit 64":      {nd, func(raw []byte) { raw[ip+7] = 64 }, false},
		"an error that is too long": {long, nil, false},
		"an error that quotes none": {none, nil, false},
	} {
		raw := c.packet.Raw()
		if c.spoil != nil {
			c.spoil(raw)
		}
		if err := Check(raw); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
