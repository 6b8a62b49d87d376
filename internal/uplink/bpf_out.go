package uplink

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// The program "way out" is attached to the TAP. It asks the host's routing where a packet goes, and sends it there: by that device and
// next hop. Where the answer is anything else, the frame comes back by the same TAP with the answer in its Ethernet header (see
// frame.WayMACs). A frame that is given back goes to the host's stack, as if its device had just received it.
//
//	emitHeader ──┬─ give back ──► emitGiveBack
//	             ▼
//	         emitQuestion ──► emitAnswer ──┬─ no way, too long ──────────────────────────────► emitComeBack
//	                                       ▼                                                     ▲
//	                                   emitCompare ── another source, a socket has the port ──┘
//	                                       ▼
//	                                   emitSend
type wayOut struct {
	program
	maps *bpfMaps
	mark int32
}

// Stack slots, below the frame pointer.
const (
	outParams = -64  // struct bpf_fib_lookup
	outHop    = -88  // struct bpf_redir_neigh, 20 bytes
	outEther  = -104 // 14 bytes
	outIP     = -128 // 20 bytes
	outL4     = -136 // 8 bytes of the transport header
	outTuple  = -152 // struct bpf_sock_tuple of IPv4, 12 bytes
	outKey    = -156
	outLen    = -160 // 2 bytes: the length of a TCP header, and later of the packet
	outIP6    = -200 // 40 bytes of the IPv6 header
	outTuple6 = -240 // struct bpf_sock_tuple of IPv6, 36 bytes
)

// Offsets in struct bpf_fib_lookup, and flags (linux include/uapi/linux/bpf.h).
const (
	fibFamily, fibProto, fibSrcPort, fibDstPort, fibLength, fibIfindex, fibTOS, fibSrc, fibDst = 0, 1, 2, 4, 6, 8, 12, 16, 32

	fibSkipNeigh fibFlags = 1 << 2 // Linux 6.3
	fibGetSource fibFlags = 1 << 4 // Linux 6.7
	fibNoNeigh            = 7      // the result without a neighbor: its ARP is bpf_redirect_neigh's
)

// fibFlags are flags of bpf_fib_lookup. An older kernel knows fewer. One that cannot tell the source address has it from user space: by
// device and next hop, in the map sources.
type fibFlags int32

const regCommand = asm.R9 // the frame's command; from the answer on, its code

func (m *bpfMaps) wayOut(mark int32) (*ebpf.Program, error) {
	p := &wayOut{maps: m, mark: mark}
	p.emitHeader()
	p.emitQuestion()
	p.emitLength()
	p.emitAnswer()
	p.emitKnownSource()
	p.emitCompare()
	p.emitSocketCheck()
	p.emitSend()
	p.emitComeBack()
	p.emitGiveBack()
	p.emitQuestion6()
	p.emitTold6()
	p.emitCompare6()
	p.EmitEnd("drop", shot)
	return loadProgram("uvs_out", p.Instructions)
}

// emitHeader:
//
//	ether = load(0, 14); command = ether.src[1];
//	if (ether.src[0] != 2) goto drop;
//	if (command == BACK || command == BACK_LAST) goto back;
//	if (skb->protocol == IPv6) goto six; if (skb->protocol != IPv4) goto drop;
//	ip = load(14, 20); l4 = ip.ihl * 4; head = load(14 + l4, 8);
func (p *wayOut) emitHeader() {
	p.Emit(asm.Mov.Reg(regPacket, asm.R1), asm.Mov.Imm(asm.R2, 0))
	p.Emit(bpf.Slot(asm.R3, outEther)...)
	p.Emit(
		asm.Mov.Imm(asm.R4, 14), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "drop"),
		asm.LoadMem(asm.R1, asm.RFP, outEther+6, asm.Byte), asm.JNE.Imm(asm.R1, 2, "drop"),
		asm.LoadMem(regCommand, asm.RFP, outEther+7, asm.Byte), asm.JEq.Imm(regCommand, frame.WayBack, "back"),
		asm.JEq.Imm(regCommand, frame.WayBackLast, "back"),
		asm.LoadMem(asm.R1, regPacket, skbProtocol, asm.Word), asm.JEq.Imm(asm.R1, etherIPv6, "six"), asm.JNE.Imm(asm.R1, etherIPv4, "drop"),
		asm.Mov.Imm(regL4, 0),
	)
	p.emitLoad(0, outIP, 20, "drop")
	p.emitHeaderLen(regL4, outIP, "drop")
	p.Emit(asm.StoreImm(asm.RFP, outL4, 0, asm.Word), asm.StoreImm(asm.RFP, outL4+4, 0, asm.Word))
	p.emitLoad(0, outL4, 8, "question") // a later fragment may be shorter
}

// emitQuestion:
//
//	question:
//	params = {AF_INET, ip.proto, ether.dst[2..4], ether.dst[4..6], 0, skb->ifindex, ip.tos, ether.src[2..6] ?: ip.src, ip.dst};
func (p *wayOut) emitQuestion() {
	p.Emit(asm.Mov.Imm(asm.R1, 0).WithSymbol("question"))
	p.emitParams(unix.AF_INET, outIP+ipProto)
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outIP+ipTOS, asm.Byte), asm.StoreMem(asm.RFP, outParams+fibTOS, asm.R1, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, outIP+ipDst, asm.Word), asm.StoreMem(asm.RFP, outParams+fibDst, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, outEther+8, asm.Word), asm.JNE.Imm(asm.R1, 0, "inside"),
		asm.LoadMem(asm.R1, asm.RFP, outIP+ipSrc, asm.Word),
		asm.StoreMem(asm.RFP, outParams+fibSrc, asm.R1, asm.Word).WithSymbol("inside"),
	)
}

// emitParams: params = {family, proto, ether.dst[2..4], ether.dst[4..6], 0, skb->ifindex, 0...}; R1 is 0 before.
func (p *wayOut) emitParams(family int64, proto int16) {
	for at := int16(0); at < fibParams; at += 8 {
		p.Emit(asm.StoreMem(asm.RFP, outParams+at, asm.R1, asm.DWord))
	}
	p.Emit(
		asm.StoreImm(asm.RFP, outParams+fibFamily, family, asm.Byte),
		asm.LoadMem(regProto, asm.RFP, proto, asm.Byte), asm.StoreMem(asm.RFP, outParams+fibProto, regProto, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, outEther+2, asm.Half), asm.StoreMem(asm.RFP, outParams+fibSrcPort, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, outEther+4, asm.Half), asm.StoreMem(asm.RFP, outParams+fibDstPort, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, regPacket, skbIfindex, asm.Word), asm.StoreMem(asm.RFP, outParams+fibIfindex, asm.R1, asm.Word),
	)
}

// emitLength: the length of the packet, or of the longest segment of a super-frame.
//
//	length = ntohs(ip.length);
//	if (skb->gso_size) length = l4 + (ip.proto == TCP ? tcp.doff * 4 : 8) + skb->gso_size;
//	params.length = length;
func (p *wayOut) emitLength() {
	p.Emit(asm.LoadMem(asm.R2, asm.RFP, outIP+ipLength, asm.Half), asm.HostTo(asm.BE, asm.R2, asm.Half))
	p.emitSegment("")
}

// emitSegment is emitLength from its second line on; the length of the packet is in R2.
func (p *wayOut) emitSegment(prefix string) {
	p.Emit(
		asm.LoadMem(asm.R1, regPacket, skbGSOSize, asm.Word), asm.JEq.Imm(asm.R1, 0, prefix+"length"),
		asm.StoreImm(asm.RFP, outLen, 8<<2, asm.Byte),
		asm.JNE.Imm(regProto, unix.IPPROTO_TCP, prefix+"segment"),
	)
	p.emitLoad(12, outLen, 1, "drop")
	p.Emit(
		asm.LoadMem(asm.R2, asm.RFP, outLen, asm.Byte).WithSymbol(prefix+"segment"), asm.RSh.Imm(asm.R2, 2), asm.And.Imm(asm.R2, 0x3c),
		asm.Add.Reg(asm.R2, regL4),
		asm.LoadMem(asm.R1, regPacket, skbGSOSize, asm.Word), asm.Add.Reg(asm.R2, asm.R1),
		asm.StoreMem(asm.RFP, outParams+fibLength, asm.R2, asm.Half).WithSymbol(prefix+"length"),
	)
}

// emitQuestion6 asks about an IPv6 packet.
//
//	six: ip6 = load(0, 40); l4 = 40;
//	params = {AF_INET6, ether.dst[1] ?: ip6.next, ether.dst[2..4], ether.dst[4..6], length, skb->ifindex, ip6.class & ~ecn, ip6.src, ip6.dst};
//	key = ntohl(ether.src[2..6]); if (key) params.src = *inside6[key];
func (p *wayOut) emitQuestion6() {
	p.Emit(asm.Mov.Imm(regL4, 0).WithSymbol("six"))
	p.emitLoad(0, outIP6, 40, "drop")
	p.Emit(asm.Mov.Imm(regL4, 40), asm.Mov.Imm(asm.R1, 0))
	p.emitParams(unix.AF_INET6, outIP6+ip6Next)
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, outIP6, asm.Word), asm.And.Imm(asm.R1, 0xc00f), asm.StoreMem(asm.RFP, outParams+fibTOS, asm.R1, asm.Word)) // bytes in memory's order
	p.emitCopy(outParams+fibSrc, outIP6+ip6Src, 32)
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outEther+1, asm.Byte), asm.JEq.Imm(asm.R1, 0, "six protocol"),
		asm.StoreMem(asm.RFP, outParams+fibProto, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("six protocol"),
	)
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outEther+8, asm.Word), asm.JEq.Imm(asm.R1, 0, "six inside"),
		asm.HostTo(asm.BE, asm.R1, asm.Word), asm.StoreMem(asm.RFP, outKey, asm.R1, asm.Word),
	)
	p.EmitMapLookup(p.maps.inside6, outKey, "drop")
	for at := int16(0); at < 16; at += 8 {
		p.Emit(asm.LoadMem(asm.R1, asm.R0, at, asm.DWord), asm.StoreMem(asm.RFP, outParams+fibSrc+at, asm.R1, asm.DWord))
	}
	p.Emit(asm.Mov.Imm(asm.R1, 0).WithSymbol("six inside"))
	p.Emit(asm.LoadMem(asm.R2, asm.RFP, outIP6+ip6Length, asm.Half), asm.HostTo(asm.BE, asm.R2, asm.Half), asm.Add.Imm(asm.R2, 40))
	p.emitSegment("six ")
}

// emitTold6: see LearnWay. The key of ways6 is the beginning of params.
//
//	by = told[0]; if (!by) goto answer;
//	if (!(by & PROTO)) params.proto = 0; // likewise both ports and the class
//	length = params.length; params.length = 0;
//	way = ways6[params];
//	if (!way) { ether.dst[0] = command; ether.src[1] = UNKNOWN; store(ether); return redirect(skb->ifindex, 0); }
//	if (way->code) { result = way->code; goto came_back; }
//	if (length > way->mtu) { params.length = way->mtu; result = TOO_LONG; goto came_back; }
//	params.ifindex = way->device; params.dst = way->hop; params.src = way->source; params.length = way->mtu;
//	goto found;
func (p *wayOut) emitTold6() {
	const device, mtu, code, hop, source = 0, 4, 8, 16, 32 // in toldWay
	p.Emit(asm.StoreImm(asm.RFP, outKey, 0, asm.Word))
	p.EmitMapLookup(p.maps.told, outKey, "answer")
	p.Emit(asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.JEq.Imm(asm.R1, 0, "answer"))
	for _, part := range []struct {
		by    toldBy
		at    int16
		size  asm.Size
		after string
	}{
		{byProto, fibProto, asm.Byte, "told protocol"}, {bySrcPort, fibSrcPort, asm.Half, "told source port"},
		{byDstPort, fibDstPort, asm.Half, "told destination port"}, {byClass, fibTOS, asm.Word, "told class"},
	} {
		p.Emit(
			asm.JSet.Imm(asm.R1, int32(part.by), part.after), asm.StoreImm(asm.RFP, outParams+part.at, 0, part.size),
			asm.Mov.Imm(asm.R2, 0).WithSymbol(part.after),
		)
	}
	p.Emit(
		asm.LoadMem(asm.R2, asm.RFP, outParams+fibLength, asm.Half), asm.StoreMem(asm.RFP, outLen, asm.R2, asm.Half),
		asm.StoreImm(asm.RFP, outParams+fibLength, 0, asm.Half),
	)
	p.EmitMapLookup(p.maps.ways6, outParams, "unknown way")
	p.Emit(
		asm.LoadMem(asm.R1, asm.R0, code, asm.Word), asm.JEq.Imm(asm.R1, 0, "told"),
		asm.Mov.Reg(regCommand, asm.R1), asm.Ja.Label("came back"),
		asm.LoadMem(asm.R1, asm.R0, mtu, asm.Word).WithSymbol("told"), asm.LoadMem(asm.R2, asm.RFP, outLen, asm.Half),
		asm.StoreMem(asm.RFP, outParams+fibLength, asm.R1, asm.Half), asm.JGE.Reg(asm.R1, asm.R2, "told length"),
		asm.Mov.Imm(regCommand, int32(frame.WayTooLong)), asm.Ja.Label("came back"),
		asm.LoadMem(asm.R1, asm.R0, device, asm.Word).WithSymbol("told length"), asm.StoreMem(asm.RFP, outParams+fibIfindex, asm.R1, asm.Word),
	)
	for at := int16(0); at < 16; at += 8 {
		p.Emit(
			asm.LoadMem(asm.R1, asm.R0, hop+at, asm.DWord), asm.StoreMem(asm.RFP, outParams+fibDst+at, asm.R1, asm.DWord),
			asm.LoadMem(asm.R1, asm.R0, source+at, asm.DWord), asm.StoreMem(asm.RFP, outParams+fibSrc+at, asm.R1, asm.DWord),
		)
	}
	p.Emit(
		asm.Ja.Label("found"),
		asm.StoreMem(asm.RFP, outEther, regCommand, asm.Byte).WithSymbol("unknown way"), asm.StoreImm(asm.RFP, outEther+7, int64(frame.WayUnknown), asm.Byte),
	)
	p.emitStore(0, outEther, 12)
	p.Emit(asm.LoadMem(asm.R1, regPacket, skbIfindex, asm.Word), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return())
}

// emitAnswer:
//
//	result = fib_lookup(skb, &params, 64, SKIP_NEIGH | (command == SEND ? 0 : SRC)); // the flags that the kernel knows
//	if (result == NO_NEIGH) params.length = 0;
//	else if (result) { if (result < 0) result = NOT_FORWARDED; goto came_back; }
//	if (!fence[params.ifindex]) { result = FENCED; goto came_back; }
//	if (command == SEND) goto send;
func (p *wayOut) emitAnswer() {
	p.Emit(asm.Mov.Reg(asm.R1, regPacket).WithSymbol("answer"))
	p.Emit(bpf.Slot(asm.R2, outParams)...)
	p.Emit(
		asm.Mov.Imm(asm.R3, 64), asm.Mov.Imm(asm.R4, int32(p.maps.fib&^fibGetSource)), asm.JEq.Imm(regCommand, frame.WaySend, "ask"),
		asm.Mov.Imm(asm.R4, int32(p.maps.fib)),
		asm.FnFibLookup.Call().WithSymbol("ask"),
		asm.JEq.Imm(asm.R0, 0, "found"), asm.JEq.Imm(asm.R0, fibNoNeigh, "no neighbor"),
		asm.Mov.Reg(regCommand, asm.R0), asm.JSGT.Imm(regCommand, 0, "came back"),
		asm.Mov.Imm(regCommand, int32(frame.WayNoRoute)), asm.Ja.Label("came back"),
		asm.StoreImm(asm.RFP, outParams+fibLength, 0, asm.Half).WithSymbol("no neighbor"), // then there is no MTU, but still the length
		asm.LoadMem(asm.R1, asm.RFP, outParams+fibIfindex, asm.Word).WithSymbol("found"), asm.StoreMem(asm.RFP, outKey, asm.R1, asm.Word),
	)
	if p.maps.fence != nil {
		p.EmitMapLookup(p.maps.fence, outKey, "fenced")
	}
	p.Emit(
		asm.JEq.Imm(regCommand, frame.WaySend, "send"),
		asm.LoadMem(asm.R1, regPacket, skbProtocol, asm.Word), asm.JEq.Imm(asm.R1, etherIPv6, "six answer"),
	)
}

// emitCompare6 compares the source of an IPv6 packet, and asks for the host's sockets.
//
//	six answer:
//	source = sources6[params.ifindex]; if (!source) goto send; params.src = *source; // on a kernel that does not tell the source
//	if (params.src != ip6.src) { result = SOURCE; goto came_back; }
//	if (command == ASK_SOURCE) goto send;
//	head = load(40, 4); tuple = {ip6.dst, ip6.src}; look_for_socket(tuple);
func (p *wayOut) emitCompare6() {
	p.Emit(asm.Mov.Imm(asm.R3, 0).WithSymbol("six answer"))
	if p.maps.sources6 != nil {
		p.EmitMapLookup(p.maps.sources6, outKey, "send") // outKey has the device
		for at := int16(0); at < 16; at += 8 {
			p.Emit(asm.LoadMem(asm.R1, asm.R0, at, asm.DWord), asm.StoreMem(asm.RFP, outParams+fibSrc+at, asm.R1, asm.DWord))
		}
	}
	for at := int16(0); at < 16; at += 8 {
		p.Emit(
			asm.LoadMem(asm.R1, asm.RFP, outParams+fibSrc+at, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, outIP6+ip6Src+at, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "six source"),
		)
	}
	p.Emit(asm.JEq.Imm(regCommand, frame.WayAskSource, "send"))
	p.emitLoad(0, outL4, 4, "send")
	p.emitCopy(outTuple6, outIP6+ip6Dst, 16)
	p.emitCopy(outTuple6+16, outIP6+ip6Src, 16)
	p.emitSocketOf("six ", outTuple6, tupleLen6)
	p.Emit(asm.Mov.Imm(regCommand, int32(frame.WaySource)).WithSymbol("six source"), asm.Ja.Label("came back"))
}

// emitKnownSource, on a kernel that does not tell the source address:
//
//	source = sources[{params.ifindex, params.dst}];
//	params.src = source ? *source : 0; // 0: the packet comes back, and user space finds out
func (p *wayOut) emitKnownSource() {
	if p.maps.sources == nil {
		return
	}
	p.Emit(
		asm.StoreImm(asm.RFP, outParams+fibSrc, 0, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, outParams+fibIfindex, asm.Word), asm.StoreMem(asm.RFP, outTuple, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, outParams+fibDst, asm.Word), asm.StoreMem(asm.RFP, outTuple+4, asm.R1, asm.Word),
	)
	p.EmitMapLookup(p.maps.sources, outTuple, "source")
	p.Emit(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.StoreMem(asm.RFP, outParams+fibSrc, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("source"),
	)
}

// emitCompare notes the answer for user space, and compares the source.
//
//	hint = &ways[hash(ip.dst)];
//	*hint = {0, params.src, params.length, params.ifindex}; hint->dst = ip.dst;
//	if (params.src != ip.src) { result = SOURCE; goto came_back; }
//	if (command == ASK_SOURCE) goto send;
func (p *wayOut) emitCompare() {
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outIP+ipDst, asm.Word),
		asm.LoadImm(asm.R2, hintFactor, asm.DWord), asm.Mul.Reg32(asm.R1, asm.R2), asm.RSh.Imm32(asm.R1, 32-hintBits),
		asm.StoreMem(asm.RFP, outKey, asm.R1, asm.Word),
	)
	p.EmitMapLookup(p.maps.ways, outKey, "drop")
	p.Emit(
		asm.StoreImm(asm.R0, 0, 0, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, outParams+fibSrc, asm.Word), asm.StoreMem(asm.R0, 4, asm.R1, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, outParams+fibLength, asm.Half), asm.StoreMem(asm.R0, 8, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, outParams+fibIfindex, asm.Word), asm.StoreMem(asm.R0, 12, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, outIP+ipDst, asm.Word), asm.StoreMem(asm.R0, 0, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, outIP+ipSrc, asm.Word), asm.JEq.Reg(asm.R1, asm.R2, "same source"),
		asm.Mov.Imm(regCommand, int32(frame.WaySource)), asm.Ja.Label("came back"),
		asm.JEq.Imm(regCommand, frame.WayAskSource, "send").WithSymbol("same source"),
	)
}

// emitSocketCheck:
//
//	tuple = {ip.dst, ip.src}; look_for_socket(tuple);
//	taken: sk_release(socket); result = PORT; goto came_back;
func (p *wayOut) emitSocketCheck() {
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outIP+ipDst, asm.Word), asm.StoreMem(asm.RFP, outTuple, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, outIP+ipSrc, asm.Word), asm.StoreMem(asm.RFP, outTuple+4, asm.R1, asm.Word),
	)
	p.emitSocketOf("", outTuple, tupleLen)
	p.Emit(
		asm.Mov.Reg(asm.R1, asm.R0).WithSymbol("taken"), asm.FnSkRelease.Call(),
		asm.Mov.Imm(regCommand, int32(frame.WayPort)), asm.Ja.Label("came back"),
	)
}

// emitSocketOf looks for the host's socket that would take the answer to a packet. The slot tuple begins with the addresses of the answer, and
// ends with its ports.
//
//	tuple.ports = {head.dst_port, head.src_port};
//	socket = proto == TCP ? skc_lookup_tcp(tuple) : proto == UDP ? sk_lookup_udp(tuple) : 0;
//	if (socket) goto taken; else goto send;
func (p *wayOut) emitSocketOf(prefix string, tuple, size int32) {
	ports := int16(tuple + size - 4)
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outL4+2, asm.Half), asm.StoreMem(asm.RFP, ports, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, outL4, asm.Half), asm.StoreMem(asm.RFP, ports+2, asm.R1, asm.Half),
		asm.JEq.Imm(regProto, unix.IPPROTO_UDP, prefix+"udp"), asm.JNE.Imm(regProto, unix.IPPROTO_TCP, "send"),
	)
	p.emitSocket(asm.FnSkcLookupTcp, tuple, size, "send")
	p.Emit(asm.Ja.Label("taken"), asm.Mov.Imm(asm.R0, 0).WithSymbol(prefix+"udp"))
	p.emitSocket(asm.FnSkLookupUdp, tuple, size, "send")
	p.Emit(asm.Ja.Label("taken"))
}

// emitSend: the next hop may be an IPv6 address (RFC 5549).
//
//	send: hop = {params.family, params.dst};
//	return redirect_neigh(params.ifindex, &hop, 20, 0);
func (p *wayOut) emitSend() {
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, outParams+fibFamily, asm.Byte).WithSymbol("send"), asm.StoreMem(asm.RFP, outHop, asm.R1, asm.Word))
	for at := int16(0); at < 16; at += 4 {
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, outParams+fibDst+at, asm.Word), asm.StoreMem(asm.RFP, outHop+4+at, asm.R1, asm.Word))
	}
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, outParams+fibIfindex, asm.Word))
	p.Emit(bpf.Slot(asm.R2, outHop)...)
	p.Emit(asm.Mov.Imm(asm.R3, 20), asm.Mov.Imm(asm.R4, 0), asm.FnRedirectNeigh.Call(), asm.Return())
}

// emitComeBack:
//
//	fenced: result = FENCED;
//	came_back: ether.dst[4..6] = htons(params.length); ether.src[1] = result; ether.src[2..6] = params.src;
//	store(ether); return redirect(skb->ifindex, 0);
func (p *wayOut) emitComeBack() {
	if p.maps.fence != nil {
		p.Emit(asm.Mov.Imm(regCommand, int32(frame.WayFenced)).WithSymbol("fenced"))
	}
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, outParams+fibLength, asm.Half).WithSymbol("came back"),
		asm.HostTo(asm.BE, asm.R1, asm.Half), asm.StoreMem(asm.RFP, outEther+4, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, outEther+7, regCommand, asm.Byte),
		asm.LoadMem(asm.R1, asm.RFP, outParams+fibSrc, asm.Word), asm.StoreMem(asm.RFP, outEther+8, asm.R1, asm.Word),
	)
	p.emitStore(0, outEther, 12)
	p.Emit(asm.LoadMem(asm.R1, regPacket, skbIfindex, asm.Word), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return())
}

// emitGiveBack:
//
//	back: skb->mark = command == BACK ? MARK : MARK_OF_ALL; change_type(skb, PACKET_HOST);
//	return redirect(ntohl(ether.src[2..6]), INGRESS);
func (p *wayOut) emitGiveBack() {
	p.Emit(
		asm.Mov.Imm(asm.R1, p.mark).WithSymbol("back"), asm.JEq.Imm(regCommand, frame.WayBack, "marked"),
		asm.Mov.Imm(asm.R1, markBase|markOfAll),
		asm.StoreMem(regPacket, skbMark, asm.R1, asm.Word).WithSymbol("marked"),
		asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Imm(asm.R2, unix.PACKET_HOST), asm.FnSkbChangeType.Call(),
		asm.LoadMem(asm.R1, asm.RFP, outEther+8, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R2, 1), // BPF_F_INGRESS
		asm.FnRedirect.Call(), asm.Return(),
	)
}
