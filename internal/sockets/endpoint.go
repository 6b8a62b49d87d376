package sockets

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Endpoints returns the host's own endpoint of the socket of each flow, as `ss` shows it; an invalid one if there is no such socket. A socket of UDP
// or ICMP has an unspecified address: the kernel chooses one for each datagram. It may be called by any goroutine.
func (e *Engine) Endpoints(flows []frame.Endpoints) []netip.AddrPort {
	own := make([]netip.AddrPort, len(flows))
	for first := 0; first < len(flows); first += mostAsked {
		part, done := flows[first:min(first+mostAsked, len(flows))], make(chan struct{})
		e.Do(func() {
			defer close(done)
			for i := range part {
				own[first+i] = e.endpointOf(&part[i])
			}
		})
		<-done
	}
	return own
}

// mostAsked is how many sockets the worker looks at before it goes on with frames.
const mostAsked = 256

func (e *Engine) endpointOf(f *frame.Endpoints) (own netip.AddrPort) {
	in, fd := addrOf(f.Src), -1
	point := func(kind uint8) {
		if i, ok := e.pointKeys[pointKey{in, f.SrcPort, kind}]; ok {
			fd = int(e.points[i].fd)
		}
	}
	switch f.Proto {
	case frame.TCP:
		if i, ok := e.keys[key{in, addrOf(f.Dst), f.SrcPort, f.DstPort}]; ok {
			fd = int(e.flows[i].fd)
		}
	case frame.UDP:
		point(pointUDP)
	default:
		point(pointPing)
	}
	if fd < 0 {
		return own
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return own
	}
	a, port := endpoint(sa)
	return netip.AddrPortFrom(netipOf(a), port)
}
