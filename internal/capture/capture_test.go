package capture_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"github.com/uvswitch/uvswitch/internal/capture"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/internal/wire"
)

// gopacket reads what was written: interfaces with names, times to the nanosecond, lengths, bytes.
func TestWriterAgainstGopacket(t *testing.T) {
	var out bytes.Buffer
	w, err := capture.NewWriter(&out, "test", func(p frame.PortID) (string, string) {
		return map[frame.PortID]string{1: "web", 2: "uplink"}[p], "a port"
	})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	data := []byte("some bytes, 23 of them")
	for i, p := range []frame.PortID{1, 2, 1} {
		if err := w.Write(capture.Record{Time: at.Add(time.Duration(i)), Port: p, Dir: capture.In, Length: 100, Data: data[:20+i]}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := pcapgo.NewNgReader(&out, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"web", "uplink", "web"} {
		got, info, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		ifc, err := r.Interface(info.InterfaceIndex)
		if err != nil || ifc.Name != name || !info.Timestamp.Equal(at.Add(time.Duration(i))) || info.Length != 100 || !bytes.Equal(got, data[:20+i]) {
			t.Errorf("packet %d: %+v on %+v, %q", i, info, ifc, got)
		}
	}
}

// A capture sees both sides of a forwarded frame while it lasts, and nothing is left in the way afterwards.
func TestCapture(t *testing.T) {
	n, err := wire.Run("network 1 10.0.0.1/24\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\nb > a \"learn\"\na > b \"me\"\n")
	if err != nil {
		t.Fatal(err)
	}
	hub := capture.NewHub(n.DP)
	all, one := hub.Start(capture.Options{}), hub.Start(capture.Options{Ports: []frame.PortID{2}, Snap: 20})
	send := func() {
		p := frametest.Packet{SrcMAC: 0x020000000201, DstMAC: 0x020000000302, Src: frametest.Addr("10.0.0.2"), Dst: frametest.Addr("10.0.0.3"), Payload: []byte("seen")}
		n.Poller.Put(1, p.Raw())
		if err := n.DP.Step(); err != nil {
			t.Fatal(err)
		}
	}
	drain := func(c *capture.Capture) (got []capture.Record) {
		c.Drain(func(r capture.Record) bool {
			r.Data = bytes.Clone(r.Data)
			got = append(got, r)
			return true
		})
		return got
	}
	send()
	got := drain(all)
	if len(got) != 2 || got[0].Port != 1 || got[0].Dir != capture.In || got[1].Port != 2 || got[1].Dir != capture.Out {
		t.Errorf("all ports: %+v", got)
	}
	if got := drain(one); len(got) != 1 || got[0].Port != 2 || len(got[0].Data) != 20 || got[0].Length != 46 {
		t.Errorf("one port, 20 bytes: %+v", got)
	}
	for range 200000 { // a reader that does not read loses records, and holds nobody up
		send()
		n.Poller.Out = nil
		if all.Lost.Load() > 0 {
			break
		}
	}
	if all.Lost.Load() == 0 {
		t.Error("nothing was lost: is the ring bounded?")
	}
	all.Close()
	one.Close()
	n.DP.SwapPollers(func(_ int, base dataplane.Poller) dataplane.Poller {
		if base != dataplane.Poller(n.Poller) {
			t.Error("the worker's own Poller is not what it was")
		}
		return base
	})
	if c := n.DP.Conservation(); !c.Balanced {
		t.Errorf("%+v", c)
	}
}
