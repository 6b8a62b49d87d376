package nat_test

import (
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// timeoutAfter sends the packets in steps, pairs of "out" or "in" and TCP flags, and returns the flow's time-out in
// seconds.
func timeoutAfter(t *testing.T, timers nat.Timers, p frametest.Packet, steps ...any) uint32 {
	t.Helper()
	n, _ := newNAT(nat.Options{Timers: timers})
	p.Src, p.Dst, p.SrcPort = inside, remote, 20000
	for i := 0; i < len(steps); i += 2 {
		q := p
		if q.Proto == frame.TCP {
			q.Flags = frame.ParseTCPFlags(steps[i+1].(string))
		}
		from := frame.NetID(1)
		if steps[i] == "in" {
			q.Src, q.Dst, q.SrcPort, q.DstPort, from = remote, external, p.DstPort, 20000, frame.NoNet
			if q.Proto == frame.ICMP {
				q.Type = frame.ICMPEchoReply
			}
		}
		b := frametest.Batch(1, 10, q.Raw())
		if pass(n, b, from); b.Frames[0].Verdict != frame.Routed {
			t.Fatalf("step %d: %v", i/2, b.Frames[0].Reason)
		}
	}
	var out uint32
	n.Flows(10, func(f nat.Flow) bool { out = f.Timeout; return true })
	return out
}

// Every row of the table of time-outs, in both profiles, and one time-out by destination port.
func TestTimers(t *testing.T) {
	tcp, udp := frametest.Packet{Proto: frame.TCP, DstPort: 80}, frametest.Packet{DstPort: 4000}
	established := []any{"out", "S", "in", "S.", "out", "."}
	with := func(more ...any) []any { return append(append([]any{}, established...), more...) }
	for _, tt := range []struct {
		name       string
		p          frametest.Packet
		steps      []any
		rfc, linux uint32
	}{
		{"UDP, one way", udp, []any{"out", ""}, 120, 30},
		{"UDP, stream", udp, []any{"out", "", "in", "", "out", ""}, 300, 120},
		{"UDP, DNS answered", frametest.Packet{DstPort: 53}, []any{"out", "", "in", "", "out", ""}, 30, 30},
		{"SYN_SENT", tcp, []any{"out", "S"}, 240, 120},
		{"SYN_RECV", tcp, []any{"out", "S", "in", "S."}, 240, 60},
		{"ESTABLISHED", tcp, established, 7440, 432000},
		{"FIN_WAIT", tcp, with("out", "F."), 7440, 120},
		{"CLOSE_WAIT", tcp, with("out", "F.", "in", "."), 7440, 60},
		{"LAST_ACK", tcp, with("out", "F.", "in", ".", "in", "F."), 240, 30},
		{"TIME_WAIT", tcp, with("out", "F.", "in", ".", "in", "F.", "out", "."), 240, 120},
		{"CLOSE", tcp, with("in", "R."), 240, 10},
		{"ICMP", frametest.Packet{Proto: frame.ICMP, Type: frame.ICMPEcho, ID: 20000}, []any{"out", ""}, 60, 30},
		{"GRE", frametest.Packet{Proto: frame.GRE, Payload: make([]byte, 8)}, []any{"out", ""}, 600, 600},
	} {
		if got := timeoutAfter(t, nat.RFCTimers(), tt.p, tt.steps...); got != tt.rfc {
			t.Errorf("%s, rfc: %d, want %d", tt.name, got, tt.rfc)
		}
		if got := timeoutAfter(t, nat.LinuxTimers(), tt.p, tt.steps...); got != tt.linux {
			t.Errorf("%s, linux: %d, want %d", tt.name, got, tt.linux)
		}
	}
	own := nat.RFCTimers()
	own.Ports = []nat.PortTimer{{Proto: frame.UDP, Port: 5060, Seconds: 3600}, {Proto: frame.TCP, Port: 22, Seconds: 86400}}
	if got := timeoutAfter(t, own, frametest.Packet{DstPort: 5060}, "out", "", "in", "", "out", ""); got != 3600 {
		t.Errorf("UDP to port 5060: %d", got)
	}
	if got := timeoutAfter(t, own, frametest.Packet{Proto: frame.TCP, DstPort: 22}, established...); got != 86400 {
		t.Errorf("TCP to port 22: %d", got)
	}
	if got := timeoutAfter(t, own, tcp, established...); got != 7440 {
		t.Errorf("TCP to port 80: %d", got)
	}
}
