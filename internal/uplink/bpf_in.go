package uplink

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// The program "way in" is attached to the host's devices. It redirects to the TAP what may be the switch's. These are packets to an
// address of the host that are one of:
//   - TCP, UDP or SCTP to a published port,
//   - TCP, UDP or SCTP to a port that is in use, if the host has no socket for the packet,
//   - UDP to a port that is in use and for which the host has a socket: the host gets the packet, and the TAP a copy,
//   - an ICMP reply with an identifier in use: the host gets a copy, since its pings have no ports to look for, but not of a fragment, nor of a
//     packet without an Ethernet header,
//   - another protocol, from an address with which a container uses this protocol,
//   - an ICMP error that quotes such a packet.
//
// So are all packets to a prefix of containers that keep their addresses outside (emitRouted6).
//
// Everything else continues to the host. What user space then finds no flow for is given back.
//
//	emitHeader or emitHeader6 ──► emitTransport ──┬─ TCP, UDP, SCTP ──► emitPortLookups ──┬─ in use ──► emitSocketCheck ──┬─ ours ──► emitRedirect
//	     │                         ├─ ICMP answer ─────►                   ├─ published ───────────────────►
//	     │                         ├─ ICMP error ──► emitQuote ──►         └─ the host's ──► pass
//	     │                         └─ others ──► emitPairLookup ──► likewise
//	     └─ later fragment ──► emitLaterFragment: it follows its first fragment
//
// Labels: "ours", "host's" and "both's" note whose a first fragment is; "redirect", "pass" and, for both, "copy" end the program.
type wayIn struct {
	program
	maps  *bpfMaps
	tap   int32 // index of the TAP
	mark  int32
	plain bool // the device's packets have no Ethernet header
	stays bool // the program stays on the device when the switch is killed, as a clsact filter does
}

const regOwn = asm.R9 // index of the host's address

// Stack slots, below the frame pointer.
const (
	inKey     = -4
	inPrefix  = -8  // 8 bytes, the key of local: 32 and, at inKey, the address
	inL4      = -16 // 8 bytes of the transport header
	inIP      = -40 // 20 bytes of the IP header
	inQuote   = -64 // 20 bytes of a quoted IP header
	inPair    = -80 // 12 bytes, the key of pairs (own, remote, protocol) or of frags (source, own, protocol and identification)
	inValue   = -84
	inTuple   = -96  // struct bpf_sock_tuple of IPv4, 12 bytes
	inEther   = -112 // 14 bytes of an Ethernet header
	inFlags   = -116 // a byte: TCP's flags
	inSet     = -120 // which set: a setIndex of index 0
	inError   = -124 // 1: the packet is an ICMP error
	inHow     = -128 // the mark of what is redirected
	inArrival = -132 // key of arrivals
	inSlice   = -136 // number of the present slice: see GuardQueue

	inParams = -192 // struct bpf_fib_lookup, 64 bytes; emitLimit, which uses inArrival and inSlice, comes before
)

// Whose a packet in fragments is: values of frags and frags6.
const (
	hosts = iota
	ours
	boths // the host gets it, and the TAP a copy
)

// Masks of the fragment field in network byte order.
const (
	maskOffset = 0xff1f
	maskMore   = 0x0020
)

func (m *bpfMaps) wayIn(tap int, mark int32, plain, stays bool) (*ebpf.Program, error) {
	p := &wayIn{maps: m, tap: int32(tap), mark: mark, plain: plain, stays: stays}
	p.emitOrigin()
	p.emitHeader()
	p.emitTransport()
	p.emitQuote()
	p.emitPorts()
	p.emitPairLookup()
	p.emitLaterFragment()
	p.emitPortLookups()
	p.emitSocketCheck()
	p.emitRedirect()
	p.emitHeader6()
	p.emitExtensions()
	p.emitTransport6()
	p.emitQuote6()
	p.emitPairLookup6()
	p.emitRouted6()
	p.EmitEnd("pass", next)
	return loadProgram("uvs_in", p.Instructions)
}

// emitOrigin:
//
//	if (skb->mark == MARK)        { skb->mark = 0; skb->tc_index = GIVEN_BACK; goto pass; }
//	if (skb->mark == MARK_OF_ALL) { skb->mark = 0; skb->tc_index = LEFT_ALONE; goto pass; }
//	if (skb->tc_index == LEFT_ALONE) goto pass;
//	how = skb->tc_index == GIVEN_BACK || skb->mark & ~0xff == MARK_BASE ? IN_AGAIN : IN; // by another switch
//	if (skb->pkt_type != HOST) goto pass;
//	if (skb->vlan_present && skb->vlan_tci & 0xfff) goto pass;
//	if (skb->protocol == IPv6) goto six; if (skb->protocol != IPv4) goto pass;
func (p *wayIn) emitOrigin() {
	p.Emit(
		asm.Mov.Reg(regPacket, asm.R1),
		asm.StoreImm(asm.RFP, inHow, frame.WayIn, asm.Word),
		asm.Mov.Imm(asm.R2, givenBack), asm.LoadMem(asm.R1, regPacket, skbMark, asm.Word), asm.JEq.Imm(asm.R1, p.mark, "given back"),
		asm.Mov.Imm(asm.R2, leftAlone), asm.JEq.Imm(asm.R1, markBase|markOfAll, "given back"),
		asm.LoadMem(asm.R3, regPacket, skbTCIndex, asm.Word), asm.JEq.Imm(asm.R3, leftAlone, "pass"), asm.JEq.Imm(asm.R3, givenBack, "again"),
		asm.And.Imm(asm.R1, ^markOfAll), asm.JNE.Imm(asm.R1, markBase, "fresh"),
		asm.StoreImm(asm.RFP, inHow, frame.WayInAgain, asm.Word).WithSymbol("again"), asm.Ja.Label("fresh"),
		asm.StoreMem(regPacket, skbTCIndex, asm.R2, asm.Word).WithSymbol("given back"),
		asm.Mov.Imm(asm.R1, 0), asm.StoreMem(regPacket, skbMark, asm.R1, asm.Word), asm.Ja.Label("pass"),
		asm.LoadMem(asm.R1, regPacket, skbPktType, asm.Word).WithSymbol("fresh"), asm.JNE.Imm(asm.R1, unix.PACKET_HOST, "pass"),
		asm.LoadMem(asm.R1, regPacket, skbVLANPresent, asm.Word), asm.JEq.Imm(asm.R1, 0, "untagged"),
		asm.LoadMem(asm.R1, regPacket, skbVLANTCI, asm.Word), asm.And.Imm(asm.R1, 0xfff), asm.JNE.Imm(asm.R1, 0, "pass"),
	)
}

// emitHeader:
//
//	ip = load(0, 20); l4 = ip.ihl * 4;
//	own = uvs_own[ip.dst] ?: uvs_local[{32, ip.dst}]; if (!own) goto pass;
//	if (ip.fragment & OFFSET) goto later;
//	head = load(l4, 8); // zeros, if the packet is shorter: a protocol without ports may be
func (p *wayIn) emitHeader() {
	p.Emit(
		asm.StoreImm(asm.RFP, inError, 0, asm.Word).WithSymbol("untagged"), asm.StoreImm(asm.RFP, inArrival, int64(otherArrivals), asm.Word), asm.StoreImm(asm.RFP, inSet, -1, asm.Word),
		asm.LoadMem(asm.R1, regPacket, skbProtocol, asm.Word), asm.JEq.Imm(asm.R1, etherIPv6, "six"), asm.JNE.Imm(asm.R1, etherIPv4, "pass"),
		asm.StoreImm(asm.RFP, inSix, 0, asm.Word), asm.StoreImm(asm.RFP, inBase, 0, asm.Word), asm.Mov.Imm(regL4, 0),
	)
	p.emitLoad(0, inIP, 20, "pass")
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, inIP+ipDst, asm.Word), asm.StoreMem(asm.RFP, inKey, asm.R1, asm.Word))
	p.EmitMapLookup(p.maps.own, inKey, "no address")
	p.Emit(asm.Ja.Label("own"), asm.StoreImm(asm.RFP, inPrefix, 32, asm.Word).WithSymbol("no address"))
	p.EmitMapLookup(p.maps.local, inPrefix, "pass")
	p.Emit(
		asm.LoadMem(regOwn, asm.R0, 0, asm.Word).WithSymbol("own"),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipFragment, asm.Half),
		asm.And.Imm(asm.R1, maskOffset),
		asm.JNE.Imm(asm.R1, 0, "later"),
	)
	p.emitHeaderLen(regL4, inIP, "pass")
	p.emitLoad(0, inL4, 8, "")
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
func (p *wayIn) emitTransport() {
	p.Emit(asm.LoadMem(regProto, asm.RFP, inIP+ipProto, asm.Byte))
	p.emitByProto("", inIP+ipSrc)
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, inL4, asm.Byte))
	for _, reply := range []int32{0, 14, 18} {
		p.Emit(asm.JEq.Imm(asm.R1, reply, "id"))
	}
	for _, problem := range []int32{3, 4, 11, 12} {
		p.Emit(asm.JEq.Imm(asm.R1, problem, "error"))
	}
	p.Emit(asm.Ja.Label("pass"))
}

// emitByProto: goto the label of the protocol in regProto, for protocols with ports; for others but ICMP: remote = address; goto pair;
func (p *wayIn) emitByProto(prefix string, address int16) {
	p.Emit(
		asm.JEq.Imm(regProto, unix.IPPROTO_TCP, prefix+"tcp"),
		asm.JEq.Imm(regProto, unix.IPPROTO_UDP, prefix+"udp"),
		asm.JEq.Imm(regProto, unix.IPPROTO_SCTP, prefix+"sctp"),
		asm.LoadMem(asm.R3, asm.RFP, address, asm.Word),
		asm.JNE.Imm(regProto, unix.IPPROTO_ICMP, "pair"),
	)
}

// emitQuote:
//
//	error: is_error = 1;
//	quote = load(l4 + 8, 20);
//	if (quote.src != ip.dst) goto pass;
//	l4 += quote.ihl * 4; head = load(l4 + 8, 8); // zeros, as above
//	switch (quote.proto) {
//	case TCP: goto quoted_tcp; case UDP: goto quoted_udp; case SCTP: goto quoted_sctp; case ICMP: goto id;
//	default: remote = quote.dst; goto pair; }
func (p *wayIn) emitQuote() {
	p.Emit(asm.StoreImm(asm.RFP, inError, 1, asm.Word).WithSymbol("error"))
	p.emitLoad(8, inQuote, 20, "pass")
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inQuote+ipSrc, asm.Word), asm.LoadMem(asm.R2, asm.RFP, inIP+ipDst, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "pass"),
		asm.LoadMem(regProto, asm.RFP, inQuote+ipProto, asm.Byte),
	)
	p.emitHeaderLen(asm.R1, inQuote, "pass")
	p.Emit(asm.Add.Reg(regL4, asm.R1))
	p.emitLoad(8, inL4, 8, "")
	p.emitByProto("quoted ", inQuote+ipDst)
}

// emitPorts chooses the set of ports, and loads the port: the destination port of a received packet, the source port of a quoted one.
//
//	id:         set = ICMP_ID; port = head[4..6]; goto owned;
//	quoted_tcp: set = TCP;     port = head[0..2]; goto owned;
//	tcp:        set = TCP;     port = head[2..4]; goto owned;   and so on
func (p *wayIn) emitPorts() {
	for _, x := range []struct {
		label string
		set   setIndex
		slot  int16
	}{
		{"id", setICMPID, inL4 + 4},
		{"quoted tcp", setTCP, inL4}, {"quoted udp", setUDP, inL4}, {"quoted sctp", setSCTP, inL4},
		{"tcp", setTCP, inL4 + 2}, {"udp", setUDP, inL4 + 2}, {"sctp", setSCTP, inL4 + 2},
	} {
		p.Emit(
			asm.StoreImm(asm.RFP, inSet, int64(x.set), asm.Word).WithSymbol(x.label),
			asm.LoadMem(regProto, asm.RFP, x.slot, asm.Half),
			asm.Ja.Label("owned"),
		)
	}
}

// emitPairLookup:
//
//	pair: if (!pairs[{ip.dst, remote, proto}]) goto host's; else goto ours;
func (p *wayIn) emitPairLookup() {
	p.Emit(
		asm.StoreMem(asm.RFP, inPair+4, asm.R3, asm.Word).WithSymbol("pair"),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipDst, asm.Word), asm.StoreMem(asm.RFP, inPair, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, inPair+8, regProto, asm.Word),
	)
	p.EmitMapLookup(p.maps.pairs, inPair, "host's")
	p.Emit(asm.Ja.Label("ours"))
}

// emitLaterFragment: a later fragment goes where its first one went. One that comes before its first one is both's; the side that does not
// own the packet discards it.
//
//	later: whose = frags[{ip.src, ip.dst, ip.proto, ip.id}];
//	if (!whose) goto copy; follow: if (*whose == HOSTS) goto pass; if (*whose == OURS) goto ours; else goto copy;
//	copy: if (check_limit()) clone(CLONE); goto pass;
func (p *wayIn) emitLaterFragment() {
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol("later"))
	p.emitFragmentKey()
	p.EmitMapLookup(p.maps.frags, inPair, p.copy())
	p.Emit(
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word).WithSymbol("follow"),
		asm.JEq.Imm(asm.R0, hosts, "pass"), asm.JEq.Imm(asm.R0, ours, "ours"), asm.Ja.Label(p.copy()),
	)
	if p.plain {
		return
	}
	p.emitLimit("copy", "unlimited copy", "pass")
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol("unlimited copy"))
	p.emitTAPCheck()
	p.Emit(asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Imm(asm.R2, 6))
	p.Emit(bpf.Slot(asm.R3, inTuple)...)
	p.Emit(asm.Mov.Imm(asm.R4, 6), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "pass"))
	p.emitMark(frame.WayClone)
	p.emitStore(6, inEther+6, 6)
	p.Emit(asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Imm(asm.R2, p.tap), asm.Mov.Imm(asm.R3, 0), asm.FnCloneRedirect.Call())
	p.Emit(asm.Mov.Imm(asm.R1, 0), asm.StoreMem(regPacket, skbQueue, asm.R1, asm.Word)) // BULK is nothing to the host
	p.emitStore(6, inTuple, 6)
	p.Emit(asm.Ja.Label("pass"))
}

// copy is where a packet goes that is both's. On a device without Ethernet headers it is the host's alone: a copy could not be marked.
func (p *wayIn) copy() string {
	if p.plain {
		return "pass"
	}
	return "copy"
}

// emitPortLookups, in the sets of the family, which begin at base:
//
//	owned: port = ntohs(port); arrival = set << 16 | port;
//	if (ports[PUBLISHED + set] has port) goto ours;
//	if (!own) goto host's;
//	if (ports[own * 8 + PUBLISHED + set] has port) goto ours;
//	if (ports[own * 8 + set] has port) goto used; else goto host's;
func (p *wayIn) emitPortLookups() {
	p.Emit(
		asm.HostTo(asm.BE, regProto, asm.Half).WithSymbol("owned"),
		asm.LoadMem(asm.R1, asm.RFP, inSet, asm.Word), asm.LSh.Imm(asm.R1, 16), asm.Add.Reg(asm.R1, regProto), asm.StoreMem(asm.RFP, inArrival, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inSet, asm.Word), asm.Add.Imm(asm.R1, int32(setPublished)),
		asm.LoadMem(asm.R2, asm.RFP, inBase, asm.Word), asm.Add.Reg(asm.R1, asm.R2), asm.StoreMem(asm.RFP, inKey, asm.R1, asm.Word),
	)
	p.emitHasPort("ours")
	p.Emit(
		asm.JEq.Imm(regOwn, 0, "host's"),
		asm.LSh.Imm(regOwn, 3),
		asm.LoadMem(asm.R1, asm.RFP, inKey, asm.Word), asm.Add.Reg(asm.R1, regOwn), asm.StoreMem(asm.RFP, inKey, asm.R1, asm.Word),
	)
	p.emitHasPort("ours")
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inSet, asm.Word), asm.Add.Reg(asm.R1, regOwn),
		asm.LoadMem(asm.R2, asm.RFP, inBase, asm.Word), asm.Add.Reg(asm.R1, asm.R2), asm.StoreMem(asm.RFP, inKey, asm.R1, asm.Word),
	)
	p.emitHasPort("used")
	p.Emit(asm.Ja.Label("host's"))
}

// emitHasPort: if (ports[key][port / 8] >> port % 8 & 1) goto yes;
func (p *wayIn) emitHasPort(yes string) {
	p.EmitMapLookup(p.maps.ports, inKey, "pass")
	p.Emit(
		asm.Mov.Reg(asm.R1, regProto), asm.RSh.Imm(asm.R1, 3), asm.And.Imm(asm.R1, nat.PortSetBytes-1),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.Byte),
		asm.Mov.Reg(asm.R1, regProto), asm.And.Imm(asm.R1, 7),
		asm.RSh.Reg(asm.R2, asm.R1), asm.And.Imm(asm.R2, 1),
		asm.JNE.Imm(asm.R2, 0, yes),
	)
}

// emitSocketCheck: a TCP packet is the host's if the host has a socket for it, a UDP packet both's.
//
//	used: if (is_error) goto ours;
//	tuple = {ip.src, ip.dst, head.src_port, head.dst_port};
//	if (ip.proto == TCP) {
//		socket = skc_lookup_tcp(tuple); if (!socket) goto ours;
//		if (socket->state != LISTEN) goto host's;
//		if (flags & (SYN|ACK) == SYN) goto host's; else goto ours; }
//	if (ip.proto == UDP && sk_lookup_udp(tuple)) { whose = BOTHS; note_fragment(whose); goto copy; }
//	goto ours;
func (p *wayIn) emitSocketCheck() {
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inError, asm.Word).WithSymbol("used"), asm.JNE.Imm(asm.R1, 0, "ours"),
		asm.LoadMem(asm.R1, asm.RFP, inSix, asm.Word), asm.JNE.Imm(asm.R1, 0, "six used"),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipSrc, asm.Word), asm.StoreMem(asm.RFP, inTuple, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipDst, asm.Word), asm.StoreMem(asm.RFP, inTuple+4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inL4, asm.Word), asm.StoreMem(asm.RFP, inTuple+8, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipProto, asm.Byte),
	)
	p.emitSocketOf("", inTuple, tupleLen)
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol("six used"))
	p.emitTuple6()
	p.emitSocketOf("six ", inTuple6, tupleLen6)
	p.Emit(asm.StoreImm(asm.RFP, inValue, boths, asm.Word).WithSymbol("both's"))
	if p.plain { // a copy could not be marked
		p.Emit(asm.Ja.Label("host's"))
		return
	}
	p.emitNoteFragment("copy")
}

// emitSocketOf is the check of a packet whose protocol is in R1, and whose addresses and ports are in a slot.
func (p *wayIn) emitSocketOf(prefix string, tuple, size int32) {
	const listen = 10 // TCP_LISTEN
	p.Emit(asm.JEq.Imm(asm.R1, unix.IPPROTO_UDP, prefix+"udp socket"), asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "ours"))
	p.emitLoad(13, inFlags, 1, "pass")
	p.emitSocket(asm.FnSkcLookupTcp, tuple, size, "ours")
	p.Emit(
		asm.LoadMem(regProto, asm.R0, 72, asm.Word), // state of struct bpf_sock
		asm.Mov.Reg(asm.R1, asm.R0), asm.FnSkRelease.Call(),
		asm.JNE.Imm(regProto, listen, "host's"),
		asm.LoadMem(asm.R1, asm.RFP, inFlags, asm.Byte), asm.And.Imm(asm.R1, 0x12), asm.JEq.Imm(asm.R1, 2, "host's"),
		asm.Ja.Label("ours"), asm.Mov.Imm(asm.R0, 0).WithSymbol(prefix+"udp socket"),
	)
	p.emitSocket(asm.FnSkLookupUdp, tuple, size, "ours")
	p.Emit(asm.Mov.Reg(asm.R1, asm.R0), asm.FnSkRelease.Call(), asm.Ja.Label("both's"))
}

// emitRedirect:
//
//	ours: check_limit(); whose = OURS; note_fragment(whose);
//	if (set == ICMP_ID && !is_error && !fragment) goto unlimited copy; // the host may ping with the same identifier: both get the answer
//	redirect: check_tap();
//	if (skb->vlan_present) vlan_pop(skb);
//	if (plain) { change_head(skb, 14); store(0, {0, how, ifindex, skb->protocol}); } else store(6, {how, ifindex});
//	return redirect(tap);
//	host's: whose = HOSTS; note_fragment(whose); goto pass;
func (p *wayIn) emitRedirect() {
	p.emitLimit("ours", "allowed", "")
	p.Emit(asm.StoreImm(asm.RFP, inValue, ours, asm.Word).WithSymbol("allowed"))
	p.emitNoteFragment("noted")
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inSet, asm.Word).WithSymbol("noted"), asm.JNE.Imm(asm.R1, int32(setICMPID), "redirect"),
		asm.LoadMem(asm.R1, asm.RFP, inError, asm.Word), asm.JNE.Imm(asm.R1, 0, "redirect"),
	)
	if !p.plain {
		p.Emit(
			asm.LoadMem(asm.R1, asm.RFP, inSix, asm.Word), asm.JEq.Imm(asm.R1, 0, "four, whole"),
			asm.LoadMem(asm.R1, asm.RFP, inIsFirst6, asm.Word), asm.JNE.Imm(asm.R1, 0, "redirect"), asm.Ja.Label("unlimited copy"),
			asm.LoadMem(asm.R1, asm.RFP, inIP+ipFragment, asm.Half).WithSymbol("four, whole"), asm.And.Imm(asm.R1, maskMore|maskOffset), asm.JNE.Imm(asm.R1, 0, "redirect"),
			asm.Ja.Label("unlimited copy"),
		)
	}
	p.Emit(asm.Mov.Imm(asm.R0, 0).WithSymbol("redirect"))
	p.emitTAPCheck()
	p.Emit(
		asm.LoadMem(asm.R1, regPacket, skbVLANPresent, asm.Word), asm.JEq.Imm(asm.R1, 0, "mark"),
		asm.Mov.Reg(asm.R1, regPacket), asm.FnSkbVlanPop.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("mark"),
	)
	p.emitMark(-1)
	if p.plain {
		p.Emit(
			asm.StoreImm(asm.RFP, inEther, 0, asm.Word), asm.StoreImm(asm.RFP, inEther+4, 0, asm.Half),
			asm.LoadMem(asm.R1, regPacket, skbProtocol, asm.Word), asm.StoreMem(asm.RFP, inEther+12, asm.R1, asm.Half),
			asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Imm(asm.R2, 14), asm.Mov.Imm(asm.R3, 0), asm.FnSkbChangeHead.Call(),
			asm.JNE.Imm(asm.R0, 0, "pass"),
		)
		p.emitStore(0, inEther, 14)
	} else {
		p.emitStore(6, inEther+6, 6)
	}
	p.Emit(
		asm.Mov.Imm(asm.R1, p.tap), asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.StoreImm(asm.RFP, inValue, hosts, asm.Word).WithSymbol("host's"),
	)
	p.emitNoteFragment("pass")
}

// emitLimit: see GuardQueue.
//
//	slice = ktime_get_ns() >> sliceBits;
//	seen = &uvs_arrivals[arrival]; limit = &uvs_limit[0];
//	if (seen->slice != slice) {
//		seen->slice = slice; seen->packets = 0;
//		if (limit->allows && seen->bulk - slice - 1 < BULK_SLICES) {
//			owner = seen->owner ? seen->owner : arrival;
//			if (!limit->owners || limit->last != owner) { limit->last = owner; atomic(limit->owners += 1); } } }
//	if (++seen->packets > (limit->allows ? MANY_LOSING : MANY)) seen->bulk = slice + BULK_SLICES;
//	if (limit->allows && seen->packets > limit->allows) { atomic(limit->dropped += 1); goto beyond, or return SHOT if it is ""; }
//	if (seen->bulk - slice - 1 < BULK_SLICES) skb->queue_mapping = BULK;
//	goto allowed;
func (p *wayIn) emitLimit(label, allowed, beyond string) {
	const packets, owner, bulk = 4, 8, 12             // of an arrived
	const allows, owners, dropped, last = 0, 4, 8, 16 // of a queueLimit
	ifFew := func(at, to string) {                    // at: if (seen->bulk - slice - 1 >= BULK_SLICES) goto to; a bulk of long ago, or of 0, does not count
		p.Emit(
			asm.LoadMem(asm.R1, regL4, bulk, asm.Word).WithSymbol(at), asm.LoadMem(asm.R2, asm.RFP, inSlice, asm.Word), asm.Sub.Reg32(asm.R1, asm.R2), asm.Sub.Imm32(asm.R1, 1),
			asm.JGE.Imm32(asm.R1, bulkSlices, to),
		)
	}
	p.Emit(asm.FnKtimeGetNs.Call().WithSymbol(label), asm.RSh.Imm(asm.R0, sliceBits), asm.StoreMem(asm.RFP, inSlice, asm.R0, asm.Word))
	p.EmitMapLookup(p.maps.arrivals, inArrival, allowed)
	p.Emit(asm.Mov.Reg(regL4, asm.R0), asm.StoreImm(asm.RFP, inKey, 0, asm.Word))
	p.EmitMapLookup(p.maps.limits, inKey, allowed)
	p.Emit(
		asm.LoadMem(asm.R1, regL4, 0, asm.Word), asm.LoadMem(asm.R2, asm.RFP, inSlice, asm.Word), asm.JEq.Reg(asm.R1, asm.R2, label+" counts"),
		asm.StoreMem(regL4, 0, asm.R2, asm.Word), asm.StoreImm(regL4, packets, 0, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, allows, asm.Word), asm.JEq.Imm(asm.R1, 0, label+" counts"),
	)
	ifFew(label+" new slice", label+" counts")
	p.Emit(
		asm.LoadMem(asm.R1, regL4, owner, asm.Word), asm.JNE.Imm(asm.R1, 0, label+" owner"), asm.LoadMem(asm.R1, asm.RFP, inArrival, asm.Word),
		asm.LoadMem(asm.R2, asm.R0, owners, asm.Word).WithSymbol(label+" owner"), asm.JEq.Imm(asm.R2, 0, label+" other owner"),
		asm.LoadMem(asm.R2, asm.R0, last, asm.Word), asm.JEq.Reg(asm.R2, asm.R1, label+" counts"),
		asm.StoreMem(asm.R0, last, asm.R1, asm.Word).WithSymbol(label+" other owner"),
		asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.Word, owners),
		asm.LoadMem(asm.R3, regL4, packets, asm.Word).WithSymbol(label+" counts"), asm.Add.Imm(asm.R3, 1), asm.StoreMem(regL4, packets, asm.R3, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, allows, asm.Word),
		asm.Mov.Imm(asm.R2, manyPackets), asm.JEq.Imm(asm.R1, 0, label+" many"), asm.Mov.Imm(asm.R2, manyLosing),
		asm.JLE.Reg(asm.R3, asm.R2, label+" limit").WithSymbol(label+" many"),
		asm.LoadMem(asm.R2, asm.RFP, inSlice, asm.Word), asm.Add.Imm(asm.R2, bulkSlices), asm.StoreMem(regL4, bulk, asm.R2, asm.Word),
		asm.JEq.Imm(asm.R1, 0, label+" within").WithSymbol(label+" limit"), asm.JLE.Reg(asm.R3, asm.R1, label+" within"),
		asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, dropped),
	)
	if beyond != "" {
		p.Emit(asm.Ja.Label(beyond))
	} else {
		p.Emit(asm.Mov.Imm(asm.R0, shot), asm.Return())
	}
	ifFew(label+" within", allowed)
	p.Emit(asm.Mov.Imm(asm.R1, bulkMapping), asm.StoreMem(regPacket, skbQueue, asm.R1, asm.Word), asm.Ja.Label(allowed))
}

// emitTAPCheck: a switch that was killed has lost its TAP; its filters give everything to the host. A question without an answer tells
// whether the device is there: the kernel looks for it first, and the TAP does not forward IPv6.
//
//	params = {AF_INET6, tap};
//	if (stays && fib_lookup(skb, &params, 64, 0) == -ENODEV) goto pass;
func (p *wayIn) emitTAPCheck() {
	if !p.stays {
		return
	}
	p.Emit(asm.Mov.Imm(asm.R1, 0))
	for at := int16(0); at < fibParams; at += 8 {
		p.Emit(asm.StoreMem(asm.RFP, inParams+at, asm.R1, asm.DWord))
	}
	p.Emit(
		asm.StoreImm(asm.RFP, inParams+fibFamily, unix.AF_INET6, asm.Byte),
		asm.StoreImm(asm.RFP, inParams+fibIfindex, int64(p.tap), asm.Word),
		asm.Mov.Reg(asm.R1, regPacket),
	)
	p.Emit(bpf.Slot(asm.R2, inParams)...)
	p.Emit(
		asm.Mov.Imm(asm.R3, fibParams), asm.Mov.Imm(asm.R4, 0),
		asm.FnFibLookup.Call(), asm.JEq.Imm(asm.R0, -int32(unix.ENODEV), "pass"),
	)
}

// emitMark: ether.src = {2, mark, htonl(skb->ifindex)}; a mark of -1 stands for how.
func (p *wayIn) emitMark(mark int64) {
	if mark < 0 {
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, inHow, asm.Word), asm.StoreMem(asm.RFP, inEther+7, asm.R1, asm.Byte))
	} else {
		p.Emit(asm.StoreImm(asm.RFP, inEther+7, mark, asm.Byte))
	}
	p.Emit(
		asm.StoreImm(asm.RFP, inEther+6, 2, asm.Byte),
		asm.LoadMem(asm.R1, regPacket, skbIfindex, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, inEther+8, asm.R1, asm.Word),
	)
}

// emitNoteFragment:
//
//	if (is_six) { if (is_first) frags6[key] = whose; goto then; }
//	if (ip.fragment & MORE && !(ip.fragment & OFFSET)) frags[{ip.src, ip.dst, ip.proto, ip.id}] = whose; goto then;
func (p *wayIn) emitNoteFragment(then string) {
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inSix, asm.Word), asm.JEq.Imm(asm.R1, 0, "four, then "+then),
		asm.LoadMem(asm.R1, asm.RFP, inIsFirst6, asm.Word), asm.JEq.Imm(asm.R1, 0, then),
	)
	p.emitNote(p.maps.frags6, inFrag6, then)
	p.Emit(
		asm.Mov.Imm(asm.R0, 0).WithSymbol("four, then "+then),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipFragment, asm.Half), asm.And.Imm(asm.R1, maskMore|maskOffset),
		asm.JNE.Imm(asm.R1, maskMore, then),
	)
	p.emitFragmentKey()
	p.emitNote(p.maps.frags, inPair, then)
}

// emitNote: packets[key] = whose; goto then;
func (p *wayIn) emitNote(packets *ebpf.Map, key int32, then string) {
	p.Emit(asm.LoadMapPtr(asm.R1, packets.FD()))
	p.Emit(bpf.Slot(asm.R2, key)...)
	p.Emit(bpf.Slot(asm.R3, inValue)...)
	p.Emit(asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call(), asm.Ja.Label(then))
}

// emitFragmentKey: pair = {ip.src, ip.dst, ip.proto, ip.id};
func (p *wayIn) emitFragmentKey() {
	p.Emit(
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipSrc, asm.Word), asm.StoreMem(asm.RFP, inPair, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipDst, asm.Word), asm.StoreMem(asm.RFP, inPair+4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipProto, asm.Byte), asm.StoreMem(asm.RFP, inPair+8, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.RFP, inIP+ipID, asm.Half), asm.StoreMem(asm.RFP, inPair+10, asm.R1, asm.Half),
	)
}
