package uplink

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The part of the program "way in" that reads IPv6 packets. What follows is the same as for IPv4: the port, the sets, the sockets.
//
//	emitHeader6 ──► emitExtensions ──► emitTransport6 ──┬─ TCP, UDP, SCTP, echo reply ──► emitPorts
//	                      │                              ├─ ICMPv6 error ──► emitQuote6 ──► likewise
//	                      │                              └─ others ──► emitPairLookup6
//	                      └─ later fragment: it follows its first fragment

// Stack slots, below the frame pointer.
const (
	inIP6      = -232 // 40 bytes of the IPv6 header
	inKey6     = -248 // 16 bytes, an address
	inQuote6   = -288 // 40 bytes of a quoted IPv6 header
	inTuple6   = -328 // struct bpf_sock_tuple of IPv6, 36 bytes; or the key of pairs6 (own, remote, protocol)
	inFrag6    = -368 // 36 bytes, the key of frags6 (source, destination, identification)
	inSix      = -372 // 1: the packet is IPv6
	inBase     = -376 // of the family's sets of ports
	inExt      = -384 // 8 bytes of an extension header
	inIsFirst6 = -388 // 1: the packet is a first fragment
	inProto6   = -392 // the protocol of the transport header
	inPrefix6  = -412 // 20 bytes, the key of routes6 and local6: 128 and an address
)

// Offsets in an IPv6 header.
const (
	ip6Length, ip6Next, ip6Src, ip6Dst = 4, 6, 8, 24
)

// emitHeader6:
//
//	six: ip6 = load(0, 40);
//	if (ip6.src in fe80::/10) goto pass;
//	own = uvs_own6[ip6.dst];
//	if (!own && uvs_routes6[{128, ip6.dst}]) goto routed;
//	own = own ?: uvs_local6[{128, ip6.dst}]; if (!own) goto pass;
//	base = IPv6's sets; l4 = 40; proto = ip6.next;
func (p *wayIn) emitHeader6() {
	p.Emit(
		asm.StoreImm(asm.RFP, inSix, 1, asm.Word).WithSymbol("six"), asm.StoreImm(asm.RFP, inBase, sixBase*setsOfAddr, asm.Word),
		asm.StoreImm(asm.RFP, inIsFirst6, 0, asm.Word), asm.Mov.Imm(regL4, 0),
	)
	p.emitLoad(0, inIP6, 40, "pass")
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inIP6+ip6Src, asm.Half), asm.And.Imm(asm.R1, 0xc0ff), asm.JEq.Imm(asm.R1, 0x80fe, "pass"), // bytes in memory's order
	)
	p.emitCopy(inKey6, inIP6+ip6Dst, 16)
	p.EmitMapLookup(p.maps.own6, inKey6, "six no address")
	p.Emit(asm.Ja.Label("six own"), asm.StoreImm(asm.RFP, inPrefix6, 128, asm.Word).WithSymbol("six no address"))
	p.emitCopy(inPrefix6+4, inIP6+ip6Dst, 16)
	p.EmitMapLookup(p.maps.routes6, inPrefix6, "six not routed")
	p.Emit(asm.Ja.Label("six routed"), asm.Mov.Imm(asm.R0, 0).WithSymbol("six not routed"))
	p.EmitMapLookup(p.maps.local6, inPrefix6, "pass")
	p.Emit(
		asm.LoadMem(regOwn, asm.R0, 0, asm.Word).WithSymbol("six own"),
		asm.Mov.Imm(regL4, 40), asm.LoadMem(regProto, asm.RFP, inIP6+ip6Next, asm.Byte),
	)
}

// emitRouted6: see GuardQueue for arrival. All addresses that no port has are one.
//
//	routed: if (ip6.next == ICMPv6 && load(40).type is neighbor discovery's) goto pass;
//	port = uvs_stations6[ip6.dst]; if (port) arrival += *port;
//	goto ours;
func (p *wayIn) emitRouted6() {
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, inIP6+ip6Next, asm.Byte).WithSymbol("six routed"), asm.JNE.Imm(asm.R1, unix.IPPROTO_ICMPV6, "six station"), asm.Mov.Imm(regL4, 40))
	p.emitLoad(0, inL4, 8, "pass")
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inL4, asm.Byte), asm.JLT.Imm(asm.R1, int32(frame.ICMPv6RouterSolicitation), "six station"), asm.JLE.Imm(asm.R1, int32(frame.ICMPv6Redirect), "pass"),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("six station"),
	)
	p.EmitMapLookup(p.maps.stations6, inKey6, "ours")
	p.Emit(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.LoadMem(asm.R2, asm.RFP, inArrival, asm.Word), asm.Add.Reg(asm.R1, asm.R2),
		asm.StoreMem(asm.RFP, inArrival, asm.R1, asm.Word), asm.Ja.Label("ours"),
	)
}

// emitExtensions: the chain of the packet itself. See emitChain.
//
//	FRAGMENT: key = {ip6.src, ip6.dst, ext.id}; if (ext.offset) goto later; is_first = ext.more;
func (p *wayIn) emitExtensions() {
	p.emitChain("six ", "six transport", func() {
		p.emitCopy(inFrag6, inIP6+ip6Src, 32)
		p.Emit(
			asm.LoadMem(asm.R1, asm.RFP, inExt+4, asm.Word), asm.StoreMem(asm.RFP, inFrag6+32, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.RFP, inExt+2, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.Mov.Reg(asm.R2, asm.R1), asm.And.Imm(asm.R2, 0xfff8), asm.JNE.Imm(asm.R2, 0, "six later"),
			asm.And.Imm(asm.R1, 1), asm.StoreMem(asm.RFP, inIsFirst6, asm.R1, asm.Word),
		)
	})
}

// emitChain walks as many extension headers as frame.Parse does; a longer chain is the kernel's. For each:
//
//	switch (proto) {
//	case HOP_BY_HOP, ROUTING, DEST_OPTIONS, MOBILITY, HIP, SHIM6, AH:
//		ext = load(l4, 2); proto = ext.next; l4 += 8 + ext.len * (proto == AH ? 4 : 8); break;
//	case FRAGMENT: ext = load(l4, 8); fragment(); proto = ext.next; l4 += 8; break;
//	default: goto transport; }
func (p *wayIn) emitChain(name, transport string, fragment func()) {
	label := func(what string, i int) string { return name + what + " " + string(rune('0'+i)) }
	for i := range frame.MaxExtensions {
		p.Emit(asm.JEq.Imm(regProto, frame.ExtFragment, label("fragment", i)).WithSymbol(label("header", i)))
		for _, proto := range []int32{frame.ExtHopByHop, frame.ExtRouting, frame.ExtDestOptions, frame.ExtMobility, frame.ExtHIP, frame.ExtShim} {
			p.Emit(asm.JEq.Imm(regProto, proto, label("options", i)))
		}
		p.Emit(asm.JNE.Imm(regProto, frame.ExtAuth, transport))
		p.emitLoad(0, inExt, 2, "pass")
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, inExt+1, asm.Byte), asm.LSh.Imm(asm.R1, 2), asm.Ja.Label(label("next", i)), asm.Mov.Imm(asm.R0, 0).WithSymbol(label("options", i)))
		p.emitLoad(0, inExt, 2, "pass")
		p.Emit(
			asm.LoadMem(asm.R1, asm.RFP, inExt+1, asm.Byte), asm.LSh.Imm(asm.R1, 3),
			asm.Add.Imm(asm.R1, 8).WithSymbol(label("next", i)), asm.Add.Reg(regL4, asm.R1), asm.LoadMem(regProto, asm.RFP, inExt, asm.Byte),
			asm.Ja.Label(label("header", i+1)), asm.Mov.Imm(asm.R0, 0).WithSymbol(label("fragment", i)),
		)
		p.emitLoad(0, inExt, 8, "pass")
		fragment()
		p.Emit(asm.LoadMem(regProto, asm.RFP, inExt, asm.Byte), asm.Add.Imm(regL4, 8))
	}
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol(label("header", frame.MaxExtensions)))
}

// emitTransport6:
//
//	transport: head = load(l4, 8); // zeros, if the packet is shorter: a protocol without ports may be
//	switch (proto) {
//	case TCP: goto tcp; case UDP: goto udp; case SCTP: goto sctp;
//	case ICMPv6: switch (head.type) { case ECHO_REPLY: goto id; case 1 to 4: goto error; default: goto pass; }
//	default: remote = ip6.src; goto pair; }
func (p *wayIn) emitTransport6() {
	p.Emit(asm.StoreMem(asm.RFP, inProto6, regProto, asm.Word).WithSymbol("six transport"))
	p.emitLoad(0, inL4, 8, "")
	p.emitByProto6("")
	p.Emit(
		asm.JNE.Imm(regProto, unix.IPPROTO_ICMPV6, "six pair"),
		asm.LoadMem(asm.R1, asm.RFP, inL4, asm.Byte), asm.JEq.Imm(asm.R1, 129, "id"), asm.JEq.Imm(asm.R1, 0, "pass"), asm.JLE.Imm(asm.R1, 4, "six error"), asm.Ja.Label("pass"),
	)
}

func (p *wayIn) emitByProto6(prefix string) {
	p.Emit(asm.JEq.Imm(regProto, unix.IPPROTO_TCP, prefix+"tcp"), asm.JEq.Imm(regProto, unix.IPPROTO_UDP, prefix+"udp"), asm.JEq.Imm(regProto, unix.IPPROTO_SCTP, prefix+"sctp"))
}

// emitQuote6:
//
//	error: is_error = 1; quote = load(l4 + 8, 40);
//	if (quote.src != ip6.dst) goto pass;
//	l4 += 48; proto = quote.next; walk the chain: a later fragment has no ports, goto pass;
//	head = load(l4, 8);
//	switch (proto) { case TCP, UDP, SCTP: goto quoted_...; case ICMPv6: goto id; default: remote = quote.dst; goto pair; }
func (p *wayIn) emitQuote6() {
	p.Emit(asm.StoreImm(asm.RFP, inError, 1, asm.Word).WithSymbol("six error"))
	p.emitLoad(8, inQuote6, 40, "pass")
	for at := int16(0); at < 16; at += 8 {
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, inQuote6+ip6Src+at, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, inIP6+ip6Dst+at, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, "pass"))
	}
	p.Emit(asm.LoadMem(regProto, asm.RFP, inQuote6+ip6Next, asm.Byte), asm.Add.Imm(regL4, 48))
	p.emitChain("quoted ", "quoted transport", func() {
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, inExt+2, asm.Half), asm.And.Imm(asm.R1, 0xf8ff), asm.JNE.Imm(asm.R1, 0, "pass")) // bytes in memory's order
	})
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol("quoted transport"))
	p.emitLoad(0, inL4, 8, "")
	p.emitByProto6("quoted ")
	p.Emit(asm.JEq.Imm(regProto, unix.IPPROTO_ICMPV6, "id"))
	p.emitCopy(inTuple6+16, inQuote6+ip6Dst, 16)
	p.Emit(asm.Ja.Label("six remote"))
}

// emitPairLookup6:
//
//	pair: remote = ip6.src;
//	remote: if (!pairs6[{ip6.dst, remote, proto}]) goto host's; else goto ours;
//	later: whose = frags6[key]; if (!whose) goto copy; else goto follow;
func (p *wayIn) emitPairLookup6() {
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol("six pair"))
	p.emitCopy(inTuple6+16, inIP6+ip6Src, 16)
	p.Emit(asm.StoreMem(asm.RFP, inTuple6+32, regProto, asm.Word).WithSymbol("six remote"))
	p.emitCopy(inTuple6, inIP6+ip6Dst, 16)
	p.EmitMapLookup(p.maps.pairs6, inTuple6, "host's")
	p.Emit(asm.Ja.Label("ours"), asm.Mov.Imm(asm.R0, 0).WithSymbol("six later"))
	p.EmitMapLookup(p.maps.frags6, inFrag6, p.copy())
	p.Emit(asm.Ja.Label("follow"))
}

// emitTuple6: tuple = {ip6.src, ip6.dst, head.src_port, head.dst_port}; R1 = proto;
func (p *wayIn) emitTuple6() {
	p.emitCopy(inTuple6, inIP6+ip6Src, 32)
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inL4, asm.Word), asm.StoreMem(asm.RFP, inTuple6+32, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inProto6, asm.Word),
	)
}
