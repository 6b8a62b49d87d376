package simnet

import (
	"encoding/binary"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// segment is a UDP-Lite or DCCP packet with a right checksum, which covers all of it.
func segment(proto uint8, src, dst frame.Addr, from, to uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	if proto == frame.DCCP {
		b[4] = 3 // the length of the header, in words
	}
	binary.BigEndian.PutUint16(b[6:], ^frame.Sum(b, frame.PseudoSum(src, dst, proto, len(b))))
	return b
}

// UDP-Lite and DCCP are translated by ports: two containers may use the same port with the same remote end, and errors come back.
func TestOtherProtocolsWithPorts(t *testing.T) {
	for _, proto := range []uint8{frame.UDPLite, frame.DCCP} {
		n, err := Run("network 1 10.0.0.1/24\nuplink 198.51.100.1\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\noutside o 203.0.113.8\n")
		if err != nil {
			t.Fatal(err)
		}
		o, own := n.host("o"), frametest.Addr("198.51.100.1")
		gateway, _ := n.DP.Router.Interface(1)
		var outside [2]uint16
		for i, name := range []string{"a", "b"} {
			h := n.host(name)
			p := frametest.Packet{Proto: proto, SrcMAC: h.MAC, DstMAC: gateway.MAC, Src: h.Addr, Dst: o.Addr, Payload: segment(proto, h.Addr, o.Addr, 5000, 7)}
			n.Inject(h, p.Raw())
			f := n.lastOut(t)
			if f.Tuple.Src != own || f.Tuple.DstPort != 7 || frame.Sum(f.Payload(), frame.PseudoSum(own, o.Addr, proto, 20)) != 0xffff {
				t.Errorf("%s: %v leaves with the sum of %x", frame.ProtoName(proto), f.Tuple, f.Payload())
			}
			outside[i] = f.Tuple.SrcPort
		}
		if outside[0] != 5000 || outside[1] == 5000 || outside[1] < 1024 {
			t.Errorf("%s: outside ports %v", frame.ProtoName(proto), outside)
		}
		for i, name := range []string{"a", "b"} {
			h := n.host(name)
			h.inbox = nil
			n.Inject(o, frametest.Packet{Proto: proto, SrcMAC: o.MAC, DstMAC: uplinkMAC, Src: o.Addr, Dst: own, Payload: segment(proto, o.Addr, own, 7, outside[i])}.Raw())
			var f frame.Frame
			if len(h.inbox) == 1 {
				f.Reset(h.inbox[0], h.Port)
				frame.Parse(&f)
			}
			if len(h.inbox) != 1 || f.Tuple.DstPort != 5000 || frame.Sum(f.Payload(), frame.PseudoSum(o.Addr, h.Addr, proto, 20)) != 0xffff {
				t.Errorf("%s: the answer to %s: %v", frame.ProtoName(proto), name, n.trace)
			}
		}
		if got := n.pairs["203.0.113.8 "+frame.ProtoName(proto)]; got != "on" {
			t.Errorf("%s: the pair is %q", frame.ProtoName(proto), got)
		}
		if err := n.failure; err != nil {
			t.Error(err)
		}
	}
}

// An outside port whose last connection the server may still remember is taken again only by a SYN that the server takes for a newer one
// (RFC 6191).
func TestPortThatRestsAtTheServer(t *testing.T) {
	for syn, want := range map[string]string{"4000": "198.51.100.1:20002", "6000": "198.51.100.1:20000"} {
		if _, err := Run(`nat pool 20000-20003 timers linux
network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
outside o 203.0.113.8
a:20000 > o:80 tcp S seq 1000
o < 198.51.100.1:20000 tcp S
o reply tcp S.
a < o:80 tcp S.
o:80 > 198.51.100.1:20000 tcp F.
a < o:80 tcp F.
a:20000 > o:80 tcp F. seq 5000
o < 198.51.100.1:20000 tcp F.
advance 40s # the flow has ended, the server remembers it
a:20000 > o:80 tcp S seq ` + syn + "\no < " + want + " tcp S"); err != nil {
			t.Errorf("a SYN with sequence number %s: %v", syn, err)
		}
	}
}
