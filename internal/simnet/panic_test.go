package simnet

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/router"
)

const panicBed = `network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
host b 10.0.0.3 port 2
outside o 203.0.113.8
b:1000 > o:80 "before"
`

// A panicking service is a gateway whose service has a fault.
type panicking struct{ refuser }

func (panicking) Datagram(*router.Datagram) []byte { panic("a fault of the service") }

// A frame that makes a step panic ends, and with it those of its batch that have not left. All else goes on: flows too.
func TestPanicEndsNoSwitch(t *testing.T) {
	n, err := Run(panicBed)
	if err != nil {
		t.Fatal(err)
	}
	var told []dataplane.Panic
	n.DP.TellPanics(func(p dataplane.Panic) { told = append(told, p) })
	x := &teasing{t: t, n: n}
	for range 5 {
		n.panics = 1
		x.send("a", frametest.Packet{DstPort: 80})
		n.Settle()
	}
	if got := n.DP.PortStats(1).Drops["internal_error"]; got != 5 {
		t.Errorf("%d frames are dropped, not 5: %v", got, n.DP.Drops())
	}
	n.DP.Router.SetService(panicking{})
	x.send("a", frametest.Packet{Dst: n.host("a").Addr&^0xff | 1, DstPort: 67})
	n.Settle()
	if got := n.DP.PortStats(1).Drops["internal_error"]; got != 6 {
		t.Errorf("the slow path has not ended the frame: %v", n.DP.Drops())
	}
	if len(told) != 1 || told[0].What != "a fault of the test" || len(told[0].Ports) != 1 || told[0].Ports[0] != 1 || !strings.Contains(told[0].Stack, "simnet.(*Net).Inside") {
		t.Errorf("told %d times: %+v", len(told), told)
	}
	x.play("o:80 > 198.51.100.1:20000 \"after\"\nb:1000 < o:80 \"after\"\n") // the flow of before
	n.Advance(frame.Seconds(60))
	if c := n.DP.Conservation(); !c.Balanced {
		t.Errorf("%+v", c)
	}
}

// A panic while a frame is sent: the frames before it stay sent, and the frames after it are dropped.
func TestPanicWhileSending(t *testing.T) {
	n, err := Run(panicBed)
	if err != nil {
		t.Fatal(err)
	}
	n.DP.TellPanics(nil)
	n.Poller.panicAt = 2
	before := len(n.Poller.Out)
	(&teasing{t: t, n: n}).send("b", frametest.Packet{SrcPort: 1000, DstPort: 80}, frametest.Packet{SrcPort: 1000, DstPort: 80, Payload: []byte("longer")}, frametest.Packet{SrcPort: 1001, DstPort: 80}, frametest.Packet{SrcPort: 1002, DstPort: 80})
	n.Settle()
	if got := n.DP.PortStats(2).Drops["internal_error"]; got != 2 {
		t.Errorf("%d of four frames are dropped behind the second; drops %v, %d sent", got, n.DP.Drops(), len(n.Poller.Out)-before)
	}
	n.Advance(frame.Seconds(60))
	if c := n.DP.Conservation(); !c.Balanced {
		t.Errorf("%+v", c)
	}
	if err := n.DP.NAT.Audit(); err != nil {
		t.Error(err)
	}
}

// A worker that no longer ends any batch does not stay: a switch that forwards nothing helps nobody.
func TestPanicsInARow(t *testing.T) {
	n, err := Run(panicBed)
	if err != nil {
		t.Fatal(err)
	}
	x := &teasing{t: t, n: n}
	n.DP.TellPanics(nil)
	n.panics = 2000
	n.lenient = true
	defer func() {
		if what, _ := recover().(string); !strings.Contains(what, "a fault of the test") || !strings.Contains(what, "simnet.(*Net).Inside") {
			t.Errorf("the switch goes on after 1,000 batches, or hides why it ends: %v", what)
		}
	}()
	for range 1000 {
		x.send("a", frametest.Packet{DstPort: 80})
		n.Settle()
	}
	t.Error("not ended")
}
