package ndproxy

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A filter lets a packet socket hear neighbor solicitations for some addresses, and nothing else. So solicitations for others, in whatever
// number, keep none of these from being heard.
type filter struct {
	targets *ebpf.Map // address -> 1
	in      map[frame.Addr6]uint32
	program *ebpf.Program
}

// maxTargets is how many addresses a filter has room for. They take memory when they are there.
const maxTargets = 1 << 16

func newFilter() (*filter, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "uvs_proxied", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: maxTargets, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return nil, fmt.Errorf("cannot create the BPF map uvs_proxied: %w", err)
	}
	f := &filter{targets: m, in: map[frame.Addr6]uint32{}}
	if f.program, err = bpf.Load("uvs_proxied", ebpf.SocketFilter, ebpf.AttachNone, f.instructions()); err != nil {
		m.Close()
		return nil, err
	}
	return f, nil
}

// instructions:
//
//	if (skb->pkt_type > PACKET_MULTICAST) return 0; // for another station, or in a VLAN that the host is not in
//	if (ip6->nexthdr != ICMPv6 || icmp->type != NS) return 0; // extension headers: RFC 6980, 5
//	if (!targets[icmp->target]) return 0;
//	return maxLen;
func (f *filter) instructions() asm.Instructions {
	const (
		pktType  = 4 // offset in struct __sk_buff (linux include/uapi/linux/bpf.h)
		next     = frame.EthernetLen + 6
		icmp     = frame.EthernetLen + frame.IPv6Len
		target   = icmp + 8
		slotKey  = -16
		slotByte = -24
		regCtx   = asm.R6
	)
	var p bpf.Program
	load := func(at, slot, n int32) {
		p.Emit(asm.Mov.Reg(asm.R1, regCtx), asm.Mov.Imm(asm.R2, at))
		p.Emit(bpf.Slot(asm.R3, slot)...)
		p.Emit(asm.Mov.Imm(asm.R4, n), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "not heard"))
	}
	is := func(at int32, value uint8) {
		load(at, slotByte, 1)
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, slotByte, asm.Byte), asm.JNE.Imm(asm.R1, int32(value), "not heard"))
	}
	p.Emit(asm.Mov.Reg(regCtx, asm.R1), asm.LoadMem(asm.R1, regCtx, pktType, asm.Word), asm.JGT.Imm(asm.R1, unix.PACKET_MULTICAST, "not heard"))
	is(next, frame.ICMPv6)
	is(icmp, frame.ICMPv6NeighborSolicitation)
	load(target, slotKey, 16)
	p.EmitMapLookup(f.targets, slotKey, "not heard")
	p.Emit(asm.Mov.Imm(asm.R0, maxLen), asm.Return())
	p.EmitEnd("not heard", 0)
	return p.Instructions
}

// set makes addrs the addresses that solicitations are heard for.
func (f *filter) set(addrs Addrs) error {
	want := map[frame.Addr6]uint32{}
	for a := range addrs {
		want[a] = 1
	}
	return bpf.SetEntries(f.targets, f.in, want, func(a frame.Addr6) any { return a.Netip().As16() })
}

// attach makes it the filter of a socket.
func (f *filter) attach(socket int) error {
	return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, f.program.FD())
}

func (f *filter) close() {
	f.program.Close()
	f.targets.Close()
}
