package vswitch_test

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// inVLAN puts a frame into VLAN 7.
func inVLAN(raw []byte) []byte {
	b := tagged(raw, 1)
	b[frame.VnetLen+15] = 7
	return b
}

// Only the owner of an address is asked for its MAC.
func TestAsk(t *testing.T) {
	gateway4, bound, noFlood, far := frametest.Addr("10.0.0.1"), frametest.Addr("10.0.0.3"), frametest.Addr("10.0.0.4"), frametest.Addr("10.0.0.5")
	me, other := frametest.Addr("10.0.0.9"), frametest.Addr("10.0.0.77")
	s := newSwitch(2, 0)
	s.SetNetwork(vswitch.Network{ID: 1, Gateway: gateway, Addr: gateway4, FDB: vswitch.NewFDB(1024, 3)})
	for i, p := range []vswitch.Port{
		{Flags: vswitch.DefaultFlags | vswitch.Guard, Addr: bound},
		{Flags: (vswitch.DefaultFlags | vswitch.Guard) &^ vswitch.FloodBcast, Addr: noFlood},
		{Flags: vswitch.DefaultFlags | vswitch.Guard | vswitch.Isolated, Addr: far},
		{Flags: vswitch.DefaultFlags | vswitch.Isolated},
	} {
		p.ID, p.Net, p.MTU, p.MAC = frame.PortID(3+i), 1, 1500, mac(3+i)
		s.SetPort(p)
	}
	ask := func(sender, target frame.Addr) []byte {
		return frametest.ARP(frame.BroadcastMAC, mac(1), 1, sender, target)
	}
	for name, tt := range map[string]struct {
		in      frame.PortID
		raw     []byte
		verdict frame.Verdict
		out     frame.PortID
		why     frame.Reason
	}{
		"for the gateway":            {1, ask(me, gateway4), frame.Punt, 0, frame.GatewayService},
		"for a guarded port":         {1, ask(me, bound), frame.Flood, 3, frame.None},
		"a probe":                    {1, ask(0, bound), frame.Drop, 0, frame.AddressStolen},
		"a probe for the gateway":    {1, ask(0, gateway4), frame.Punt, 0, frame.GatewayService},
		"for nobody":                 {1, ask(me, other), frame.Flood, 0, frame.None},
		"an announcement":            {1, ask(me, me), frame.Flood, 0, frame.None},
		"the owner asks for itself":  {3, frametest.ARP(frame.BroadcastMAC, mac(3), 1, 0, bound), frame.Flood, 0, frame.None},
		"an answer":                  {1, frametest.ARP(frame.BroadcastMAC, mac(1), 2, me, bound), frame.Flood, 0, frame.None},
		"in a VLAN":                  {1, inVLAN(ask(me, bound)), frame.Flood, 0, frame.None},
		"with a priority":            {1, tagged(ask(me, bound), 1), frame.Flood, 3, frame.None},
		"a port without broadcasts":  {1, ask(me, noFlood), frame.Flood, 0, frame.None},
		"isolated ports":             {6, frametest.ARP(frame.BroadcastMAC, mac(6), 1, me, far), frame.Drop, 0, frame.PortIsolated},
		"another frame to the group": {1, from(mac(1), frame.BroadcastMAC), frame.Flood, 0, frame.None},
	} {
		b := frametest.Batch(tt.in, 1, tt.raw)
		run(s, b)
		if f := &b.Frames[0]; f.Verdict != tt.verdict || f.Reason != tt.why || f.Out != tt.out || tt.out != 0 && f.ToGateway {
			t.Errorf("%s: verdict %d, port %d, %s", name, f.Verdict, f.Out, f.Reason.Info().Name)
		}
		var set [frame.MaxPorts]frame.PortID
		if f := &b.Frames[0]; f.Verdict == frame.Flood {
			if n := s.FloodSet(f, set[:]); tt.out != 0 && (n != 1 || set[0] != tt.out) || tt.out == 0 && n < 2 {
				t.Errorf("%s: flooded to %v", name, set[:n])
			}
		}
	}
}
