package vswitch_test

import (
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/switch"
)

const gateway frame.MAC = 0x0275000000fe

func mac(n int) frame.MAC { return 0x020000000000 | frame.MAC(n) }

// newSwitch returns a switch with one network and the ports 1 to n.
func newSwitch(n int, flags vswitch.PortFlags) *vswitch.Switch {
	s := vswitch.New()
	s.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, FDB: vswitch.NewFDB(1024, 3)})
	for i := 1; i <= n; i++ {
		s.SetPort(vswitch.Port{ID: frame.PortID(i), Net: 1, Flags: vswitch.DefaultFlags | flags, MTU: 1500})
	}
	return s
}

func run(s *vswitch.Switch, b *frame.Batch) {
	s.Guard(b)
	s.Learn(b)
	s.Forward(b)
}

func from(src, dst frame.MAC) []byte {
	return frametest.Packet{SrcMAC: src, DstMAC: dst, Src: frametest.Addr("10.0.0.2"), Dst: frametest.Addr("10.0.0.3"), Payload: make([]byte, 30)}.Raw()
}

func TestForward(t *testing.T) {
	s := newSwitch(4, 0)
	s.SetPort(vswitch.Port{ID: 4, Net: 1, Flags: vswitch.DefaultFlags &^ vswitch.Forwarding, MTU: 1500})
	run(s, frametest.Batch(2, 10, from(mac(2), mac(9)))) // port 2 is known now
	s.FDB(1).Set(mac(4), 4, false)
	long := frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Payload: make([]byte, 1600)}.Raw()
	super := frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Proto: frame.TCP, GSO: 1448, Payload: make([]byte, 9000)}.Raw()
	tests := []struct {
		name    string
		raw     []byte
		in      frame.PortID
		verdict frame.Verdict
		out     frame.PortID
		why     frame.Reason
	}{
		{"known", from(mac(1), mac(2)), 1, frame.ToPort, 2, frame.None},
		{"unknown", from(mac(1), mac(77)), 1, frame.Flood, 0, frame.None},
		{"broadcast", from(mac(1), frame.BroadcastMAC), 1, frame.Flood, 0, frame.None},
		{"multicast", from(mac(1), 0x01005e000001), 1, frame.Flood, 0, frame.None},
		{"stp", from(mac(1), 0x0180c2000000), 1, frame.Drop, 0, frame.LinkLocalGroup},
		{"lldp", from(mac(1), 0x0180c200000e), 1, frame.Drop, 0, frame.LinkLocalGroup},
		{"to the gateway", from(mac(1), gateway), 1, frame.Local, 0, frame.None},
		{"from the gateway", from(gateway, mac(2)), 1, frame.Drop, 0, frame.GatewayMACStolen},
		{"back to its port", from(mac(7), mac(2)), 2, frame.Drop, 0, frame.SamePort},
		{"to a disabled port", from(mac(1), mac(4)), 1, frame.Drop, 0, frame.PortNotForwarding},
		{"from a disabled port", from(mac(4), mac(2)), 4, frame.Drop, 0, frame.PortNotForwarding},
		{"from a port that is gone", from(mac(1), mac(2)), 99, frame.Drop, 0, frame.PortGone},
		{"a group source", from(0x010000000001, mac(2)), 1, frame.Drop, 0, frame.BadSourceMAC},
		{"too long", long, 1, frame.Drop, 0, frame.ExceedsMTU},
		{"a super-frame", super, 1, frame.ToPort, 2, frame.None},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := frametest.Batch(tt.in, 11, tt.raw)
			run(s, b)
			f := &b.Frames[0]
			if f.Verdict != tt.verdict || f.Reason != tt.why || f.Out != tt.out {
				t.Errorf("verdict %d, out %d, reason %v", f.Verdict, f.Out, f.Reason)
			}
			if allocs := testing.AllocsPerRun(20, func() {
				frametest.Fill(b, tt.in, tt.raw)
				run(s, b)
			}); allocs != 0 {
				t.Errorf("%v allocations per frame", allocs)
			}
		})
	}
	if s.FDB(1).Lookup(0x010000000001) != frame.NoPort {
		t.Error("a group source was learned")
	}
}

func TestFloodSet(t *testing.T) {
	s := newSwitch(5, 0)
	set := func(id frame.PortID, f vswitch.PortFlags) {
		s.SetPort(vswitch.Port{ID: id, Net: 1, Flags: f, MTU: 1500})
	}
	set(2, vswitch.DefaultFlags&^vswitch.FloodUcast)
	set(3, vswitch.DefaultFlags&^vswitch.FloodBcast)
	set(4, vswitch.DefaultFlags&^vswitch.FloodMcast)
	set(5, vswitch.DefaultFlags&^vswitch.Forwarding)
	for _, tt := range []struct {
		dst  frame.MAC
		want []frame.PortID
	}{
		{mac(77), []frame.PortID{3, 4}},
		{frame.BroadcastMAC, []frame.PortID{2, 4}},
		{0x01005e000001, []frame.PortID{2, 3}},
	} {
		b := frametest.Batch(1, 1, from(mac(1), tt.dst))
		run(s, b)
		out := make([]frame.PortID, frame.MaxPorts)
		n := s.FloodSet(&b.Frames[0], out)
		if n != len(tt.want) || out[0] != tt.want[0] || out[1] != tt.want[1] {
			t.Errorf("%v: ports %v, want %v", tt.dst, out[:n], tt.want)
		}
	}
}

func TestGuard(t *testing.T) {
	s := newSwitch(2, 0)
	own := frametest.Addr("10.0.0.2")
	s.SetPort(vswitch.Port{ID: 1, Net: 1, Flags: vswitch.DefaultFlags | vswitch.Guard, MTU: 1500, MAC: mac(1), Addr: own})
	ip := func(src string) []byte {
		return frametest.Packet{SrcMAC: mac(1), DstMAC: mac(2), Src: frametest.Addr(src), Dst: 1}.Raw()
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		why  frame.Reason
	}{
		{"own", ip("10.0.0.2"), frame.None},
		{"no address yet", ip("0.0.0.0"), frame.None},
		{"another's address", ip("10.0.0.3"), frame.GuardSourceAddress},
		{"another's MAC", from(mac(2), mac(3)), frame.GuardSourceMAC},
		{"own ARP", frametest.ARP(frame.BroadcastMAC, mac(1), 1, own, 9), frame.None},
		{"ARP probe", frametest.ARP(frame.BroadcastMAC, mac(1), 1, 0, 9), frame.None},
		{"ARP for another", frametest.ARP(frame.BroadcastMAC, mac(1), 2, 9, own), frame.GuardARPSender},
	} {
		b := frametest.Batch(1, 1, tt.raw)
		s.Guard(b)
		if b.Frames[0].Reason != tt.why {
			t.Errorf("%s: %v, want %v", tt.name, b.Frames[0].Reason, tt.why)
		}
	}
	// Another port cannot take over its MAC.
	run(s, frametest.Batch(1, 1, ip("10.0.0.2")))
	run(s, frametest.Batch(2, 1, from(mac(1), mac(3))))
	if p := s.FDB(1).Lookup(mac(1)); p != 1 {
		t.Errorf("a guarded station moved to port %d", p)
	}
}

// The table has the same entries as a map with the same rules, as long as no bucket is full.
func TestFDBAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fdb := vswitch.NewFDB(4096, rapid.Uint64().Draw(t, "seed"))
		type entry struct {
			port  frame.PortID
			heard frame.Tick
		}
		model := map[frame.MAC]entry{}
		now := frame.Tick(1)
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			now += frame.Tick(rapid.IntRange(0, 50).Draw(t, "dt"))
			m := mac(rapid.IntRange(1, 40).Draw(t, "mac"))
			p := frame.PortID(rapid.IntRange(1, 5).Draw(t, "port"))
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			case 0:
				fdb.Age(now, 100)
				for k, e := range model {
					if now-e.heard > 100 {
						delete(model, k)
					}
				}
			case 1:
				_, had := model[m]
				if fdb.Delete(m) != had {
					t.Fatalf("deleting %v: the model says %v", m, had)
				}
				delete(model, m)
			case 2:
				fdb.Flush(p, false)
				for k, e := range model {
					if e.port == p {
						delete(model, k)
					}
				}
			default:
				fdb.Learn(m, p, now, nil)
				model[m] = entry{p, now}
			}
		}
		if fdb.Used() != len(model) || len(fdb.Entries()) != len(model) {
			t.Fatalf("%d used, %d listed, %d in the model", fdb.Used(), len(fdb.Entries()), len(model))
		}
		for m, e := range model {
			if got := fdb.Lookup(m); got != e.port {
				t.Fatalf("%v is behind %d, the model says %d", m, got, e.port)
			}
		}
	})
}

// A port that floods source MACs evicts its own entries: stations of other ports stay, and new ones of theirs are
// added.
func TestFDBFairEviction(t *testing.T) {
	fdb := vswitch.NewFDB(256, 5)
	for i := range 20 {
		fdb.Learn(mac(0x10000+i), 1, 1, nil)
	}
	for i := range 20000 {
		fdb.Learn(mac(0x20000+i), 2, 2, nil)
	}
	for i := range 20 {
		fdb.Learn(mac(0x30000+i), 3, 3, nil)
	}
	for i := range 20 {
		if fdb.Lookup(mac(0x10000+i)) != 1 {
			t.Errorf("station %d of the quiet port was pushed out", i)
		}
		if fdb.Lookup(mac(0x30000+i)) != 3 {
			t.Errorf("station %d of the late port did not get in", i)
		}
	}
	if fdb.Used() > fdb.Limit() {
		t.Errorf("%d of %d", fdb.Used(), fdb.Limit())
	}
}

// Readers, learners and the slow path run at once, for the race detector; no entry may appear twice.
func TestFDBConcurrent(t *testing.T) {
	fdb := vswitch.NewFDB(64, 9)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				fdb.Learn(mac(i%200), frame.PortID(w+1), frame.Tick(i), nil)
				fdb.Lookup(mac(i % 150))
			}
		})
	}
	wg.Go(func() {
		for i := range 200 {
			fdb.Age(frame.Tick(i*25), 10)
		}
	})
	wg.Wait()
	seen := map[frame.MAC]bool{}
	for _, e := range fdb.Entries() {
		if seen[e.MAC] {
			t.Errorf("%v stands twice", e.MAC)
		}
		seen[e.MAC] = true
	}
	if fdb.Used() != len(seen) {
		t.Errorf("used %d, listed %d", fdb.Used(), len(seen))
	}
}

// TestPortsChangeBesideForward checks that a frame to a station whose port is being added or removed is flooded or delivered, and never
// dropped at its sender.
func TestPortsChangeBesideForward(t *testing.T) {
	s := newSwitch(3, 0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			b := frametest.Batch(1, 10, from(mac(1), mac(2)))
			run(s, b)
			if f := &b.Frames[0]; f.Verdict == frame.Drop {
				t.Errorf("dropped: %v", f.Reason)
				return
			}
		}
	})
	for range 2000 {
		s.SetPort(vswitch.Port{ID: 2, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500})
		s.FDB(1).Set(mac(2), 2, false)
		s.DeletePort(2)
	}
	close(stop)
	wg.Wait()
}

// A port that is joining gets no frame yet, but may send.
func TestJoining(t *testing.T) {
	s := vswitch.New()
	s.SetNetwork(vswitch.Network{ID: 1, FDB: vswitch.NewFDB(16, 1)})
	for id := frame.PortID(1); id <= 3; id++ {
		p := vswitch.Port{ID: id, Net: 1, Flags: vswitch.DefaultFlags, MTU: 1500}
		if id == 3 {
			p.Flags |= vswitch.Joining
		}
		s.SetPort(p)
	}
	var f frame.Frame
	f.Reset(frametest.Packet{DstMAC: frame.BroadcastMAC, Src: 1, Dst: 2}.Raw(), 1)
	frame.Parse(&f)
	f.Net, f.Egress, f.Class = 1, 1, frame.Broadcast
	var out [frame.MaxPorts]frame.PortID
	if n := s.FloodSet(&f, out[:]); n != 1 || out[0] != 2 {
		t.Errorf("flooded to %v, want port 2 only", out[:n])
	}
	f.In = 3
	if n := s.FloodSet(&f, out[:]); n != 2 {
		t.Errorf("a frame of the joining port is flooded to %v", out[:n])
	}
}
