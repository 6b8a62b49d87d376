package uplink

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/nat"
)

// The ingress program is attached to the host's device. It redirects to the TAP what belongs to the switch. These are IPv4 packets to
// the host's address that are one of:
//   - TCP, UDP or SCTP to a port of the switch,
//   - an ICMP reply with an identifier of the switch,
//   - another protocol, from an address with which a container uses this protocol,
//   - an ICMP error that quotes such a packet.
//
// Everything else continues to the host.
//
//	emitHeader ──► emitTransport ──┬─ TCP, UDP, SCTP ──────────────► emitPortLookup ──┬─ ours ──► emitRedirect
//	     │                         ├─ ICMP answer ─────────────────►                  │
//	     │                         ├─ ICMP error ──► emitQuote ────►                  └─ the host's ──► pass
//	     │                         └─ others ──────────────────────► emitPairLookup ──► likewise
//	     └─ later fragment ──► emitLaterFragment: it follows its first fragment
//
// Labels: "ours" and "host's" note whose a first fragment is, "redirect" and "pass" end the program.
type ingress struct {
	asm.Instructions
	maps *maps
	tap  int32 // index of the TAP
}

// Registers that calls preserve: the packet, the offset of the transport header, the protocol, the host's address. From emitPorts on,
// regProto holds the port instead of the protocol; emitNoteFragment loads the protocol again.
const (
	regPacket = asm.R6
	regL4     = asm.R7
	regProto  = asm.R8
	regHost   = asm.R9
)

// Stack slots, below the frame pointer.
const (
	slotKey   = -4
	slotL4    = -16 // 8 bytes of the transport header
	slotIP    = -40 // 20 bytes of the IP header
	slotQuote = -64 // 20 bytes of a quoted IP header
	slotPair  = -72 // 8 bytes, the key of pairs (address, protocol, 0) or of frags (address, protocol, identification)
	slotValue = -76
)

// Offsets in an IPv4 header, and the EtherType IPv4 and the masks in network byte order.
const (
	ipID, ipFragment, ipProto, ipSrc, ipDst = 4, 6, 9, 12, 16

	etherIPv4   = 0x0008
	maskOffset  = 0xff1f
	maskMore    = 0x0020
	lastIPError = 12 // ICMP parameter problem
)

func (m *maps) ingress(ifindex int) (*ebpf.Program, error) {
	p := &ingress{maps: m, tap: int32(ifindex)}
	p.emitHeader()
	p.emitTransport()
	p.emitQuote()
	p.emitPorts()
	p.emitPairLookup()
	p.emitLaterFragment()
	p.emitPortLookup()
	p.emitRedirect()
	return loadProgram("uvs_ingress", p.Instructions)
}

func (p *ingress) emit(ins ...asm.Instruction) { p.Instructions = append(p.Instructions, ins...) }

// emitHeader:
//
//	if (skb->protocol != IPv4) goto pass;
//	ip = load(0, 20);
//	host = config[0]; if (!host || ip.dst != host) goto pass;
//	if (ip.fragment & OFFSET) goto later;
//	l4 = ip.ihl * 4; head = load(l4, 8);
func (p *ingress) emitHeader() {
	p.emit(
		asm.Mov.Reg(regPacket, asm.R1),
		asm.LoadMem(asm.R1, regPacket, off, asm.Word),
		asm.JNE.Imm(asm.R1, etherIPv4, "pass"),
		asm.Mov.Imm(regL4, 0),
	)
	p.emitLoad(0, slotIP, 20)
	p.emit(asm.StoreImm(asm.RFP, slotKey, 0, asm.Word))
	p.emitMapLookup(p.maps.config, slotKey, "pass")
	p.emit(
		asm.LoadMem(regHost, asm.R0, 0, asm.Word),
		asm.JEq.Imm(regHost, 0, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP+ipDst, asm.Word),
		asm.JNE.Reg(asm.R1, regHost, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP+ipFragment, asm.Half),
		asm.And.Imm(asm.R1, maskOffset),
		asm.JNE.Imm(asm.R1, 0, "later"),
	)
	p.emitHeaderLen(regL4, slotIP)
	p.emitLoad(0, slotL4, 8)
}

// emitTransport:
//
//	switch (ip.proto) {
//	case TCP: goto tcp; case UDP: goto udp; case SCTP: goto sctp;
//	case ICMP:
//		switch (head.type) {
//		case ECHO_REPLY, TIMESTAMP_REPLY, MASK_REPLY: goto id;
//		case UNREACHABLE, SOURCE_QUENCH, TIME_EXCEEDED, PARAMETER: goto error;
//		default: goto pass; }
//	default: remote = ip.src; goto pair; }
func (p *ingress) emitTransport() {
	p.emit(
		asm.LoadMem(regProto, asm.RFP, slotIP+ipProto, asm.Byte),
		asm.JEq.Imm(regProto, unix.IPPROTO_TCP, "tcp"),
		asm.JEq.Imm(regProto, unix.IPPROTO_UDP, "udp"),
		asm.JEq.Imm(regProto, unix.IPPROTO_SCTP, "sctp"),
		asm.LoadMem(asm.R3, asm.RFP, slotIP+ipSrc, asm.Word),
		asm.JNE.Imm(regProto, unix.IPPROTO_ICMP, "pair"),
		asm.LoadMem(asm.R1, asm.RFP, slotL4, asm.Byte),
		asm.JEq.Imm(asm.R1, 0, "id"),
		asm.JEq.Imm(asm.R1, 14, "id"),
		asm.JEq.Imm(asm.R1, 18, "id"),
		asm.JEq.Imm(asm.R1, 3, "error"),
		asm.JEq.Imm(asm.R1, 4, "error"),
		asm.JEq.Imm(asm.R1, 11, "error"),
		asm.JNE.Imm(asm.R1, lastIPError, "pass"),
	)
}

// emitQuote:
//
//	error:
//	quote = load(l4 + 8, 20);
//	if (quote.src != host) goto pass;
//	l4 += quote.ihl * 4; head = load(l4 + 8, 8);
//	switch (quote.proto) {
//	case TCP: goto quoted_tcp; case UDP: goto quoted_udp; case SCTP: goto quoted_sctp; case ICMP: goto id;
//	default: remote = quote.dst; goto pair; }
func (p *ingress) emitQuote() {
	p.emit(asm.Mov.Imm(asm.R1, 0).WithSymbol("error"))
	p.emitLoad(8, slotQuote, 20)
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, slotQuote+ipSrc, asm.Word),
		asm.JNE.Reg(asm.R1, regHost, "pass"),
		asm.LoadMem(regProto, asm.RFP, slotQuote+ipProto, asm.Byte),
	)
	p.emitHeaderLen(asm.R1, slotQuote)
	p.emit(asm.Add.Reg(regL4, asm.R1))
	p.emitLoad(8, slotL4, 8)
	p.emit(
		asm.JEq.Imm(regProto, unix.IPPROTO_TCP, "quoted tcp"),
		asm.JEq.Imm(regProto, unix.IPPROTO_UDP, "quoted udp"),
		asm.JEq.Imm(regProto, unix.IPPROTO_SCTP, "quoted sctp"),
		asm.LoadMem(asm.R3, asm.RFP, slotQuote+ipDst, asm.Word),
		asm.JNE.Imm(regProto, unix.IPPROTO_ICMP, "pair"),
	)
}

// emitPorts chooses the set of ports, and loads the port: the destination port of a received packet, the source port of a quoted one.
//
//	id:         set = ICMP_ID; port = head[4..6]; goto owned;
//	quoted_tcp: set = TCP;     port = head[0..2]; goto owned;
//	tcp:        set = TCP;     port = head[2..4]; goto owned;   and so on
func (p *ingress) emitPorts() {
	for _, x := range []struct {
		label string
		set   setIndex
		slot  int16
	}{
		{"id", setICMPID, slotL4 + 4},
		{"quoted tcp", setTCP, slotL4}, {"quoted udp", setUDP, slotL4}, {"quoted sctp", setSCTP, slotL4},
		{"tcp", setTCP, slotL4 + 2}, {"udp", setUDP, slotL4 + 2}, {"sctp", setSCTP, slotL4 + 2},
	} {
		p.emit(
			asm.StoreImm(asm.RFP, slotKey, int64(x.set), asm.Word).WithSymbol(x.label),
			asm.LoadMem(regProto, asm.RFP, x.slot, asm.Half),
			asm.Ja.Label("owned"),
		)
	}
}

// emitPairLookup:
//
//	pair: if (!pairs[{remote, proto}]) goto host's; else goto ours;
func (p *ingress) emitPairLookup() {
	p.emitPairKey("pair")
	p.emit(asm.StoreImm(asm.RFP, slotPair+6, 0, asm.Half))
	p.emitMapLookup(p.maps.pairs, slotPair, "host's")
	p.emit(asm.Ja.Label("ours"))
}

// emitLaterFragment: a later fragment goes where its first one went. One that comes before its first one is delivered to both; the side
// that does not own the packet discards it.
//
//	later: whose = frags[{ip.src, ip.proto, ip.id}];
//	if (!whose) { clone_redirect(tap); goto pass; }
//	if (*whose) goto redirect; else goto pass;
func (p *ingress) emitLaterFragment() {
	p.emit(
		asm.LoadMem(regProto, asm.RFP, slotIP+ipProto, asm.Byte).WithSymbol("later"),
		asm.LoadMem(asm.R3, asm.RFP, slotIP+ipSrc, asm.Word),
	)
	p.emitFragmentKey()
	p.emitMapLookup(p.maps.frags, slotPair, "early")
	p.emit(
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Ja.Label("redirect"),
		asm.Mov.Reg(asm.R1, regPacket).WithSymbol("early"),
		asm.Mov.Imm(asm.R2, p.tap), asm.Mov.Imm(asm.R3, 0),
		asm.FnCloneRedirect.Call(),
		asm.Ja.Label("pass"),
	)
}

// emitPortLookup:
//
//	owned: port = ntohs(port);
//	if (!(ports[set][port / 8] >> port % 8 & 1)) goto host's;
//	ours: whose = 1; note_fragment(whose); goto redirect;
func (p *ingress) emitPortLookup() {
	p.emit(asm.HostTo(asm.BE, regProto, asm.Half).WithSymbol("owned"))
	p.emitMapLookup(p.maps.ports, slotKey, "pass")
	p.emit(
		asm.Mov.Reg(asm.R1, regProto), asm.RSh.Imm(asm.R1, 3), asm.And.Imm(asm.R1, nat.PortSetBytes-1),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.Byte),
		asm.And.Imm(regProto, 7),
		asm.RSh.Reg(asm.R2, regProto), asm.And.Imm(asm.R2, 1),
		asm.JEq.Imm(asm.R2, 0, "host's"),
		asm.StoreImm(asm.RFP, slotValue, 1, asm.Word).WithSymbol("ours"),
	)
	p.emitNoteFragment("redirect")
}

// emitRedirect:
//
//	redirect: return redirect(tap);
//	host's: whose = 0; note_fragment(whose);
//	pass: return TCX_NEXT;
func (p *ingress) emitRedirect() {
	p.emit(
		asm.Mov.Imm(asm.R1, p.tap).WithSymbol("redirect"), asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.StoreImm(asm.RFP, slotValue, 0, asm.Word).WithSymbol("host's"),
	)
	p.emitNoteFragment("pass")
	p.emit(
		asm.Mov.Imm(asm.R0, next).WithSymbol("pass"),
		asm.Return(),
	)
}

// emitNoteFragment: if (ip.fragment & MORE) frags[{ip.src, ip.proto, ip.id}] = whose; goto then;
func (p *ingress) emitNoteFragment(then string) {
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, slotIP+ipFragment, asm.Half), asm.And.Imm(asm.R1, maskMore),
		asm.JEq.Imm(asm.R1, 0, then),
		asm.LoadMem(regProto, asm.RFP, slotIP+ipProto, asm.Byte), asm.LoadMem(asm.R3, asm.RFP, slotIP+ipSrc, asm.Word),
	)
	p.emitFragmentKey()
	p.emit(
		asm.LoadMapPtr(asm.R1, p.maps.frags.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slotPair),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, slotValue),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
		asm.Ja.Label(then),
	)
}

// emitLoad: copies size bytes at offset l4 + at of the packet into a slot; without them it passes the packet on.
func (p *ingress) emitLoad(at, slot, size int32) {
	p.emit(
		asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Reg(asm.R2, regL4), asm.Add.Imm(asm.R2, at),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, slot),
		asm.Mov.Imm(asm.R4, size), asm.Mov.Imm(asm.R5, netHeader),
		asm.FnSkbLoadBytesRelative.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
	)
}

// emitMapLookup: R0 = map[key in slot]; if (!R0) goto missing;
func (p *ingress) emitMapLookup(m *ebpf.Map, slot int32, missing string) {
	p.emit(
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slot),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, missing),
	)
}

// emitHeaderLen: dst = ihl * 4 of the IP header in slot; if (dst < 20) goto pass;
func (p *ingress) emitHeaderLen(dst asm.Register, slot int16) {
	p.emit(
		asm.LoadMem(dst, asm.RFP, slot, asm.Byte), asm.And.Imm(dst, 0xf), asm.LSh.Imm(dst, 2),
		asm.JLT.Imm(dst, 20, "pass"),
	)
}

// emitPairKey: the key of pairs, from the address in R3 and the protocol.
func (p *ingress) emitPairKey(label string) {
	p.emit(
		asm.StoreMem(asm.RFP, slotPair, asm.R3, asm.Word).WithSymbol(label),
		asm.StoreMem(asm.RFP, slotPair+4, regProto, asm.Half),
	)
}

// emitFragmentKey: the key of frags, from the address in R3, the protocol and the packet's identification.
func (p *ingress) emitFragmentKey() {
	p.emitPairKey("")
	p.emit(asm.LoadMem(asm.R1, asm.RFP, slotIP+ipID, asm.Half), asm.StoreMem(asm.RFP, slotPair+6, asm.R1, asm.Half))
}
