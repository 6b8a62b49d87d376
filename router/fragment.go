package router

import "github.com/uvswitch/uvswitch/internal/frame"

// fragment replaces p with fragments that fit mtu bytes (RFC 791, 3.2). It returns false, without an effect, if DF is
// set, or if the packet or mtu does not allow fragments. A super-frame is segmented first.
func (r *Router) fragment(p PuntedFrame, mtu int, out Output) bool {
	f := p.f
	if f.Verdict == frame.Drop || f.Malformed != frame.None || f.Flags&(frame.IsIPv4|frame.HasVLAN) != frame.IsIPv4 || f.IPv4().DontFrag() {
		return false
	}
	if hl := f.IPv4().HeaderLen(); mtu < hl+8 {
		return false
	}
	buf := make([]byte, f.Len())
	for s := frame.NewSegments(f); s.Next(buf); {
		var one frame.Frame
		one.Reset(append(make([]byte, frame.VnetLen, frame.VnetLen+len(s.Bytes())), s.Bytes()...), p.In)
		frame.Parse(&one)
		for _, raw := range frame.CutPieces(&one, mtu) {
			out.Reroute(p, raw)
		}
	}
	return true
}
