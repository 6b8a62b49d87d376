package router

import "github.com/uvswitch/uvswitch/internal/frame"

// Serve answers datagrams to the gateway on the worker, in the place of the question, where the service can do so at once. The others go to the
// slow path, as all packets to the gateway do. Step 11.
func (r *Router) Serve(b *frame.Batch) {
	s := r.snap.Load()
	if s.service == nil {
		return
	}
	for i := range b.Frames[:b.N] {
		if f := &b.Frames[i]; f.Verdict == frame.Punt && f.Reason == frame.GatewayService && f.Proto == frame.UDP {
			s.serve(f)
		}
	}
}

// serve turns a question into its answer, if the service has one. Headers with options, fragments and super-frames are left to the slow path.
func (s *snapshot) serve(f *frame.Frame) {
	const not = frame.Fragment | frame.Injected | frame.HasVLAN | frame.HasPriority
	header := frame.IPv4Len
	if f.Flags&frame.IsIPv6 != 0 {
		header = frame.IPv6Len
	}
	if f.Flags&(not|frame.HasTuple) != frame.HasTuple || f.Malformed != frame.None || f.Dst.IsGroup() || int(f.L4-f.L3) != header ||
		f.Net == frame.NoNet || s.ifaces[f.Net] == nil || f.Vnet().GSOType() != frame.GSONone {
		return
	}
	h := f.UDP()
	n := int(h.Length())
	if n != len(h) || !soundUDP(f, n) {
		return
	}
	question := h[frame.UDPLen : n : n+f.Room()]
	answer := s.service.Quick(f.In, f.Net, f.Tuple.DstPort, question, s.ifaces[f.Net].MTU-header-frame.UDPLen)
	if answer == 0 {
		return
	}
	f.Answer(answer)
	f.Verdict, f.Out, f.Egress = frame.ToPort, f.In, f.Net
}
