package vswitch_test

import (
	"fmt"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// about is a message of neighbor discovery about a target.
func about(src, dst frame.MAC, from, to frame.Addr6, message uint8, target frame.Addr6) []byte {
	body := make([]byte, 16)
	target.Put(body)
	return frametest.Packet{SrcMAC: src, DstMAC: dst, Src6: from, Dst6: to, TTL: 255, Proto: frame.ICMPv6, Type: message, Payload: body}.Raw()
}

// The switch knows which addresses a station asks for in vain, as long as it asks, and until it gets an answer.
func TestUnanswered(t *testing.T) {
	s := newSwitch(2, 0)
	me, me6 := frametest.Addr("10.0.0.9"), frametest.Addr6("fd00::9")
	play := func(now frame.Tick, in frame.PortID, raw []byte) {
		b := frametest.Batch(in, 1, raw)
		b.Tick = now
		run(s, b)
	}
	check := func(when string, now frame.Tick, want ...string) {
		t.Helper()
		got := []string{}
		for _, q := range s.Unanswered(1, now) {
			got = append(got, fmt.Sprintf("%s %d times since %d", q.Addr, q.Count, q.First))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, not %v", when, got, want)
		}
	}
	ask := func(now frame.Tick, sender, target string) {
		play(now, 1, frametest.ARP(frame.BroadcastMAC, mac(1), 1, frametest.Addr(sender), frametest.Addr(target)))
	}
	ask(100, "10.0.0.9", "10.0.0.7")
	check("at once", 101)
	ask(105, "10.0.0.9", "10.0.0.7")
	ask(106, "10.0.0.9", "10.0.0.9") // an announcement
	ask(107, "0.0.0.0", "10.0.0.8")  // whether somebody has the address
	play(108, 1, inVLAN(frametest.ARP(frame.BroadcastMAC, mac(1), 1, me, frametest.Addr("10.0.0.6"))))
	odd := frametest.ARP(frame.BroadcastMAC, mac(1), 1, me, frametest.Addr("10.0.0.5"))
	odd[frame.VnetLen+frame.EthernetLen+1] = 15 // another hardware type: nobody answers
	play(108, 1, odd)
	near := about(mac(1), 0x3333ff000005, me6, frametest.Addr6("ff02::1:ff00:5"), frame.ICMPv6NeighborSolicitation, frametest.Addr6("fd00::5"))
	near[frame.VnetLen+frame.EthernetLen+7] = 254 // hop limit
	play(108, 1, near)
	check("after a second", 111, "10.0.0.7 2 times since 100")
	if len(s.Unanswered(2, 200)) > 0 {
		t.Error("the other port has asked nothing")
	}

	target := frametest.Addr6("fd00::7")
	play(120, 1, about(mac(1), target.SolicitedNode().GroupMAC(), me6, target.SolicitedNode(), frame.ICMPv6NeighborSolicitation, target))
	play(121, 1, about(mac(1), target.SolicitedNode().GroupMAC(), frame.Addr6{}, target.SolicitedNode(), frame.ICMPv6NeighborSolicitation, frametest.Addr6("fd00::8"))) // duplicate address detection
	check("both families", 140, "fd00::7 1 times since 120", "10.0.0.7 2 times since 100")

	// Answers of others than the one that was asked for change nothing.
	play(141, 2, frametest.ARP(mac(1), mac(2), 2, frametest.Addr("10.0.0.70"), me))
	check("another answer", 141, "fd00::7 1 times since 120", "10.0.0.7 2 times since 100")
	play(141, 2, frametest.ARP(mac(1), mac(2), 2, frametest.Addr("10.0.0.7"), me))
	check("an answer", 141, "fd00::7 1 times since 120")
	play(142, 2, about(mac(2), mac(1), target, me6, frame.ICMPv6NeighborAdvertisement, target))
	check("an advertisement", 142)

	ask(200, "10.0.0.9", "10.0.0.7")
	check("a minute later", 200+60*frame.TicksPerSecond, "10.0.0.7 1 times since 200")
	check("forgotten", 201+60*frame.TicksPerSecond)
	ask(900, "10.0.0.9", "10.0.0.7")
	check("it begins again", 910, "10.0.0.7 1 times since 900")
	for i := range 20 {
		ask(frame.Tick(1000+i), "10.0.0.9", fmt.Sprintf("10.0.0.%d", 100+i))
	}
	if got := s.Unanswered(1, 1100); len(got) != 8 || got[0].Addr.String() != "10.0.0.119" || got[7].Addr.String() != "10.0.0.112" {
		t.Errorf("a scan leaves %v", got)
	}
	s.DeletePort(1)
	check("a port that has gone", 1100)
}
