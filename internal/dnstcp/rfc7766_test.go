package dnstcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// dial opens a connection to a server that answers by ask.
func dial(t *testing.T, ask func(Origin, []byte, func([]byte)) ([]byte, bool)) *gonet.TCPConn {
	t.Helper()
	client := stack.New(stack.Options{NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol}, TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol}})
	link := channel.New(256, mtu, "")
	link.LinkEPCapabilities |= stack.CapabilityRXChecksumOffload
	if err := client.CreateNIC(1, link); err != nil {
		t.Fatal(err)
	}
	own, gateway := netip.MustParseAddr("172.29.0.2"), netip.MustParseAddr("172.29.0.1")
	address := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFrom4(own.As4()).WithPrefix()}
	if err := client.AddProtocolAddress(1, address, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	client.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	server := New(Options{Ask: ask, Send: func(_ Origin, packet []byte) {
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		defer p.DecRef()
		link.InjectInbound(ipv4.ProtocolNumber, p)
	}})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			p := link.ReadContext(ctx)
			if p == nil {
				return
			}
			view := p.ToView()
			server.Segment(Origin{Port: 1, Net: 1}, append([]byte(nil), view.AsSlice()...))
			view.Release()
			p.DecRef()
		}
	}()
	t.Cleanup(func() { stop(); <-ended; client.Destroy() })
	c, err := gonet.DialTCP(client, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(gateway.As4()), Port: 53}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func framed(messages ...string) (out []byte) {
	for _, m := range messages {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

func readMessage(t *testing.T, c io.Reader) string {
	t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		t.Fatal(err)
	}
	m := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, m); err != nil {
		t.Fatal(err)
	}
	return string(m)
}

// Several questions may follow one another on a connection without waiting for answers.
func TestRFC7766_6_2_1_1_Pipelining(t *testing.T) {
	c := dial(t, func(_ Origin, m []byte, _ func([]byte)) ([]byte, bool) {
		return append([]byte("answer to "), m...), false
	})
	var questions []string
	for i := range 50 {
		questions = append(questions, fmt.Sprint("question ", i))
	}
	if _, err := c.Write(framed(questions...)); err != nil {
		t.Fatal(err)
	}
	for _, q := range questions {
		if got := readMessage(t, c); got != "answer to "+q {
			t.Fatalf("%q", got)
		}
	}
}

// An answer that takes longer does not hold up the answers to later questions.
func TestRFC7766_7_Reordering(t *testing.T) {
	slow := make(chan func([]byte), 1)
	c := dial(t, func(_ Origin, m []byte, reply func([]byte)) ([]byte, bool) {
		if bytes.Equal(m, []byte("slow")) {
			slow <- reply
			return nil, true
		}
		return m, false
	})
	if _, err := c.Write(framed("slow", "quick")); err != nil {
		t.Fatal(err)
	}
	if got := readMessage(t, c); got != "quick" {
		t.Fatalf("first: %q", got)
	}
	(<-slow)([]byte("slow"))
	if got := readMessage(t, c); got != "slow" {
		t.Fatalf("then: %q", got)
	}
}

// A message may come in any pieces, its length too.
func TestRFC7766_8_LengthAndMessageInPieces(t *testing.T) {
	c := dial(t, func(_ Origin, m []byte, _ func([]byte)) ([]byte, bool) { return m, false })
	for _, b := range framed("in pieces") {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if got := readMessage(t, c); got != "in pieces" {
		t.Errorf("%q", got)
	}
}

// An answer of up to 65,535 bytes is not truncated.
func TestRFC7766_8_LongAnswer(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 65535)
	c := dial(t, func(Origin, []byte, func([]byte)) ([]byte, bool) { return long, false })
	if _, err := c.Write(framed("long")); err != nil {
		t.Fatal(err)
	}
	if got := readMessage(t, c); got != string(long) {
		t.Errorf("%d bytes", len(got))
	}
}

// The station may close the connection when it has asked; what it has asked is answered still.
func TestRFC7766_6_2_4_HalfClosed(t *testing.T) {
	c := dial(t, func(_ Origin, m []byte, _ func([]byte)) ([]byte, bool) { return m, false })
	if _, err := c.Write(framed("last")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := readMessage(t, c); got != "last" {
		t.Errorf("%q", got)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("then: %d bytes, %v", n, err)
	}
}
