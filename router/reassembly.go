package router

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// An assembly is the beginning of a packet to the gateway that comes in fragments (RFC 791, 3.2; RFC 1122, 3.3.2; RFC 8200, 4.5).
type assembly struct {
	in      frame.PortID
	expires frame.Tick
	first   PuntedFrame // the first fragment, once it has come
	eth     []byte      // its Ethernet header
	header  []byte      // its IP header, without IPv6's Fragment header
	parts   []part      // sorted, without overlaps
	total   int         // bytes of the fragments' data, once the last fragment has come; else 0
	refused bool        // a fragment overlapped another one: all others of the packet are refused, too (RFC 5722, 4; for IPv4 by analogy)
}

// part is a range of bytes that has come.
type part struct {
	at   int
	data []byte
}

type assemblyKey struct {
	net      frame.NetID
	src, dst netip.Addr
	id       uint32
	proto    uint8 // of IPv4
}

func assemblyOf(f *frame.Frame, net frame.NetID) assemblyKey {
	k := assemblyKey{net: net, id: f.FragID()}
	if f.Flags&frame.IsIPv6 != 0 {
		k.src, k.dst = f.IPv6().Src().Netip(), f.IPv6().Dst().Netip()
	} else {
		k.src, k.dst, k.proto = f.Tuple.Src.Netip(), f.Tuple.Dst.Netip(), f.Proto
	}
	return k
}

// Bounds of reassembly. A packet has 65,535 bytes at most.
const (
	assemblyTime       = 15 * frame.TicksPerSecond // RFC 791, 3.2
	assemblyTime6      = 60 * frame.TicksPerSecond // RFC 8200, 4.5
	maxAssemblies      = 256
	assembliesOfPort   = 4
	maxPartsOfAssembly = 128
)

// assemble adds a fragment to its packet. It returns the packet when that is complete; else why is None when the fragment has been kept, or
// the reason why not.
func (r *Router) assemble(p PuntedFrame, now frame.Tick) (whole *frame.Frame, why frame.Reason) {
	k := assemblyOf(p.f, p.Net)
	a := r.assemblies[k]
	if a == nil {
		if !r.shares.assemblies.Take(p.In % frame.MaxPorts) {
			return nil, frame.FragmentQueueFull
		}
		a = &assembly{in: p.In % frame.MaxPorts, expires: now + assemblyTime}
		if k.src.Is6() {
			a.expires = now + assemblyTime6
		}
		r.assemblies[k] = a
	}
	if a.refused {
		return nil, frame.FragmentInvalid
	}
	if why := a.add(p); why != frame.None {
		*a = assembly{in: a.in, expires: a.expires, refused: true}
		return nil, why
	}
	if raw := a.whole(); raw != nil {
		r.forgetAssembly(k, a)
		whole = &frame.Frame{}
		whole.Reset(raw, p.In)
		frame.Parse(whole)
	}
	return whole, frame.None
}

// add adds a fragment. An exact copy of a fragment changes nothing.
func (a *assembly) add(p PuntedFrame) frame.Reason {
	f := p.f
	header, data := f.SplitFragment()
	at, more := f.FragOffset(), f.MoreFrags()
	end := at + len(data)
	if len(data) == 0 || more && len(data)%8 != 0 || end > maxFragmentEnd(f) || a.total != 0 && end > a.total || len(a.parts) >= maxPartsOfAssembly {
		return frame.FragmentInvalid
	}
	i, known := slices.BinarySearchFunc(a.parts, at, func(p part, at int) int { return p.at - at })
	if known && bytes.Equal(a.parts[i].data, data) {
		return frame.None
	}
	if i < len(a.parts) && a.parts[i].at < end || i > 0 && a.parts[i-1].at+len(a.parts[i-1].data) > at {
		return frame.FragmentInvalid
	}
	if !more {
		a.total = end
	}
	if at == 0 {
		a.first, a.eth, a.header = p, slices.Clone(f.Bytes()[:f.L3]), header
	}
	a.parts = slices.Insert(a.parts, i, part{at, slices.Clone(data)})
	return frame.None
}

// maxFragmentEnd is where the data of a fragment may end in its packet, in bytes: the length field of the whole packet has 16 bits.
func maxFragmentEnd(f *frame.Frame) int {
	if f.Flags&frame.IsIPv6 != 0 {
		return 65535 - (int(f.FragAt) - int(f.L3) - frame.IPv6Len)
	}
	return 65535 - frame.IPv4Len
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
	ip := raw[frame.VnetLen+len(a.eth):]
	if ip[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(a.header)+a.total-frame.IPv6Len))
	} else {
		frame.IPv4(ip).SetWhole(len(a.header) + a.total)
	}
	return raw
}

func (r *Router) forgetAssembly(k assemblyKey, a *assembly) {
	delete(r.assemblies, k)
	r.shares.assemblies.Return(a.in)
}

// ageAssemblies forgets packets whose remaining fragments have not come in time, and tells their senders (RFC 1122, 3.3.2; RFC 8200, 4.5).
func (r *Router) ageAssemblies(now frame.Tick, out Output) {
	for k, a := range r.assemblies {
		if int32(now-a.expires) < 0 {
			continue
		}
		r.forgetAssembly(k, a)
		if a.first.f != nil {
			r.sendErrorFor(a.first, frame.ICMPErrorKind{Type: frame.ICMPTimeExceeded, Code: codeReassembly}, 0, now, out)
		}
	}
}

// codeReassembly is the code of "time exceeded" when fragments are missing, in both families (RFC 792; RFC 4443, 3.3).
const codeReassembly = 1

// sendCut sends an Ethernet frame of the router into a network, in fragments if it is longer than the network's MTU.
func (r *Router) sendCut(net frame.NetID, eth []byte, out Output) {
	var f frame.Frame
	f.Reset(append(make([]byte, frame.VnetLen, frame.VnetLen+len(eth)), eth...), frame.Gateway)
	frame.Parse(&f)
	mtu := r.snap.Load().ifaces[net].MTU
	var pieces [][]byte
	switch {
	case int(f.L3End)-int(f.L3) <= mtu:
		out.Send(net, eth)
	case f.Flags&frame.IsIPv6 != 0:
		r.fragmentID++
		pieces = frame.CutPieces6(&f, mtu, r.fragmentID)
	default:
		pieces = frame.CutPieces(&f, mtu)
	}
	for _, raw := range pieces {
		out.Send(net, raw[frame.VnetLen:])
	}
}
