package router

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An assembly is a packet to the gateway that comes in fragments (RFC 791, 3.2; RFC 1122, 3.3.2).
type assembly struct {
	in      frame.PortID
	expires frame.Tick
	eth     []byte // Ethernet header of the first fragment
	header  []byte // its IP header
	parts   []part // sorted, without overlaps
	total   int    // payload bytes, once the last fragment has come; else 0
}

// part is a range of payload bytes that has come.
type part struct {
	at   int
	data []byte
}

type assemblyKey struct {
	net      frame.NetID
	src, dst frame.Addr
	id       uint16
	proto    uint8
}

// Bounds of reassembly. A packet has 65,535 bytes at most.
const (
	assemblyTime       = 15 * frame.TicksPerSecond // RFC 791, 3.2
	maxAssemblies      = 64
	assembliesOfPort   = 4
	maxPartsOfAssembly = 128
)

// assemble adds a fragment to its packet. It returns the packet with a virtio-net header when that is complete; else why is None when
// the fragment has been kept, or the reason why not.
func (r *Router) assemble(f *frame.Frame, net frame.NetID, now frame.Tick) (whole []byte, why frame.Reason) {
	ip := f.IPv4()
	k := assemblyKey{net, f.Tuple.Src, f.Tuple.Dst, ip.ID(), f.Proto}
	a := r.assemblies[k]
	if a == nil {
		of := 0
		for _, x := range r.assemblies {
			if x.in == f.In {
				of++
			}
		}
		if len(r.assemblies) >= maxAssemblies || of >= assembliesOfPort {
			return nil, frame.FragmentQueueFull
		}
		a = &assembly{in: f.In, expires: now + assemblyTime}
		r.assemblies[k] = a
	}
	if why := a.add(f); why != frame.None {
		delete(r.assemblies, k) // RFC 5722, section 4, by analogy
		return nil, why
	}
	if whole = a.whole(); whole != nil {
		delete(r.assemblies, k)
	}
	return whole, frame.None
}

func (a *assembly) add(f *frame.Frame) frame.Reason {
	ip := f.IPv4()
	at, data := ip.FragOffset(), f.Payload()
	end := at + len(data)
	if len(data) == 0 || ip.MoreFrags() && len(data)%8 != 0 || end > 65535-frame.IPv4Len || a.total != 0 && end > a.total || len(a.parts) >= maxPartsOfAssembly {
		return frame.FragmentInvalid
	}
	if !ip.MoreFrags() {
		a.total = end
	}
	if at == 0 {
		a.eth, a.header = slices.Clone(f.Bytes()[:f.L3]), slices.Clone(ip[:ip.HeaderLen()])
	}
	i, _ := slices.BinarySearchFunc(a.parts, at, func(p part, at int) int { return p.at - at })
	if i < len(a.parts) && a.parts[i].at < end || i > 0 && a.parts[i-1].at+len(a.parts[i-1].data) > at {
		return frame.FragmentInvalid
	}
	a.parts = slices.Insert(a.parts, i, part{at, slices.Clone(data)})
	return frame.None
}

// whole returns the packet if it is complete, with a virtio-net and its Ethernet header; else nil.
func (a *assembly) whole() []byte {
	next := 0
	for _, p := range a.parts {
		if p.at != next {
			return nil
		}
		next += len(p.data)
	}
	if a.total == 0 || next != a.total || a.header == nil {
		return nil
	}
	raw := append(append(make([]byte, frame.VnetLen), a.eth...), a.header...)
	for _, p := range a.parts {
		raw = append(raw, p.data...)
	}
	frame.IPv4(raw[frame.VnetLen+len(a.eth):]).SetWhole(len(a.header) + a.total)
	return raw
}

// ageAssemblies forgets packets whose remaining fragments have not come in time.
func (r *Router) ageAssemblies(now frame.Tick) {
	for k, a := range r.assemblies {
		if int32(now-a.expires) >= 0 {
			delete(r.assemblies, k)
		}
	}
}

// sendCut sends an Ethernet frame of the router into a network, in fragments if it is longer than the network's MTU.
func (r *Router) sendCut(net frame.NetID, eth []byte, out Output) {
	var f frame.Frame
	f.Reset(append(make([]byte, frame.VnetLen, frame.VnetLen+len(eth)), eth...), frame.Gateway)
	frame.Parse(&f)
	mtu := r.snap.Load().ifaces[net].MTU
	if int(f.L3End)-int(f.L3) <= mtu {
		out.Send(net, eth)
		return
	}
	for _, raw := range frame.CutPieces(&f, mtu) {
		out.Send(net, raw[frame.VnetLen:])
	}
}
