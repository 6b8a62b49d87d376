package hostclients

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
)

// maps are what the programs and this process share.
type maps struct {
	rules *ebpf.Map // ruleKey -> ruleValue; address 0 stands for every one of the host
	own   *ebpf.Map // prefixes -> 1: what the host takes for itself
	asked *ebpf.Map // by socket and the container's address and port: what the client asked for
}

const (
	keyBits  = 64 // of a ruleKey
	maxRules = 65536
	maxOwn   = 65536
	maxAsked = 65536
)

func newMaps() (m maps, err error) {
	for _, x := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&m.rules, ebpf.MapSpec{Name: "uvs_published", Type: ebpf.LPMTrie, KeySize: 12, ValueSize: 16, MaxEntries: maxRules, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.own, ebpf.MapSpec{Name: "uvs_host", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: maxOwn, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.asked, ebpf.MapSpec{Name: "uvs_asked", Type: ebpf.LRUHash, KeySize: 16, ValueSize: 8, MaxEntries: maxAsked}},
	} {
		if *x.to, err = ebpf.NewMap(&x.spec); err != nil {
			m.close()
			return maps{}, fmt.Errorf("cannot create the BPF map %s: %w", x.spec.Name, err)
		}
	}
	return m, nil
}

func (m *maps) close() {
	for _, x := range []*ebpf.Map{m.rules, m.own, m.asked} {
		if x != nil {
			x.Close()
		}
	}
}

// hooks are where the programs run. Those of IPv6 sockets see IPv4 destinations as ::ffff:a.b.c.d.
var hooks = []ebpf.AttachType{
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
}

// Offsets in struct bpf_sock_addr and struct bpf_sock (linux include/uapi/linux/bpf.h).
const (
	ctxIP4, ctxIP6, ctxPort, ctxProtocol, ctxSock = 4, 8, 24, 36, 64

	sockDevice, sockSrcIP4 = 0, 24
)

// Offsets in a ruleValue.
const ruleTarget, ruleLo, ruleTargetPort, ruleConnections = 0, 4, 6, 8

// Stack slots, below the frame pointer.
const (
	slotKey   = -16 // a ruleKey, 12 bytes
	slotWho   = -32 // key of asked: cookie of the socket (8), the container's address (4) and port (4)
	slotAsked = -40 // value of asked: address (4), port (4)
	slotIP    = -44
)

const regCtx, regPort, regRule = asm.R6, asm.R7, asm.R8

// A program of one hook. Addresses and ports are in network byte order.
type program struct {
	bpf.Program
	maps *maps
	ip   int16 // offset of the IPv4 address in the context
	six  bool
}

// load assembles and loads the program of a hook.
func (m *maps) load(at ebpf.AttachType, cookie uint64) (*ebpf.Program, error) {
	p := &program{maps: m, ip: ctxIP4}
	answers := false
	switch at {
	case ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP6Sendmsg:
		p.six = true
	case ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCgroupInet4GetPeername:
		answers = true
	case ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet6GetPeername:
		p.six, answers = true, true
	}
	if p.six {
		p.ip = ctxIP6 + 12
	}
	p.emitStart()
	if answers {
		p.emitAnswer()
	} else {
		p.emitQuestion(cookie)
		p.emitLead()
		p.emitDirectly()
	}
	p.EmitEnd("as it is", 1)
	return bpf.Load("uvs_client", ebpf.CGroupSockAddr, at, p.Instructions)
}

// emitStart:
//
//	if (six && ctx->user_ip6[0..3] != ::ffff) return 1;
//	port = ctx->user_port; ip = six ? ctx->user_ip6[3] : ctx->user_ip4;
func (p *program) emitStart() {
	p.Emit(asm.Mov.Reg(regCtx, asm.R1))
	if p.six {
		p.Emit(
			asm.LoadMem(asm.R1, regCtx, ctxIP6, asm.Word), asm.JNE.Imm(asm.R1, 0, "as it is"),
			asm.LoadMem(asm.R1, regCtx, ctxIP6+4, asm.Word), asm.JNE.Imm(asm.R1, 0, "as it is"),
			asm.LoadMem(asm.R1, regCtx, ctxIP6+8, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.JNE.Imm(asm.R1, 0xffff, "as it is"),
		)
	}
	p.Emit(
		asm.LoadMem(regPort, regCtx, ctxPort, asm.Word), asm.And.Imm(regPort, 0xffff),
		asm.LoadMem(asm.R1, regCtx, p.ip, asm.Word), asm.StoreMem(asm.RFP, slotIP, asm.R1, asm.Word),
	)
}

// emitQuestion finds the rule of a destination.
//
//	if (netns_cookie(ctx) != cookie) return 1;
//	if (ctx->protocol != TCP && ctx->protocol != UDP) return 1;
//	if (ctx->sk && (ctx->sk->bound_dev_if || ctx->sk->src_ip4 is 127.x)) return 1; // the relay's
//	if (ip == 0) ip = 127.0.0.1;
//	key = {64, ip, protocol, port};
//	rule = rules[key];
//	if (!rule) {
//		if (ip is not 127.x && !own[{32, ip}]) goto directly;
//		key.ip = 0; rule = rules[key]; if (!rule) goto directly; }
func (p *program) emitQuestion(cookie uint64) {
	const loopback = 127 // the first byte, which is the lowest here
	p.Emit(
		asm.Mov.Reg(asm.R1, regCtx), asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(cookie), asm.DWord), asm.JNE.Reg(asm.R0, asm.R1, "as it is"),
		asm.LoadMem(asm.R1, regCtx, ctxProtocol, asm.Word), asm.JEq.Imm(asm.R1, unix.IPPROTO_TCP, "protocol"),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "as it is"),
		asm.StoreImm(asm.RFP, slotKey, keyBits, asm.Word).WithSymbol("protocol"),
		asm.HostTo(asm.BE, asm.R1, asm.Half), asm.StoreMem(asm.RFP, slotKey+8, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, slotKey+10, regPort, asm.Half),
		asm.LoadMem(asm.R1, regCtx, ctxSock, asm.DWord), asm.JEq.Imm(asm.R1, 0, "unbound"),
		asm.LoadMem(asm.R2, asm.R1, sockDevice, asm.Word), asm.JNE.Imm(asm.R2, 0, "as it is"),
		asm.LoadMem(asm.R1, asm.R1, sockSrcIP4, asm.Word), asm.And.Imm(asm.R1, 0xff), asm.JEq.Imm(asm.R1, loopback, "as it is"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP, asm.Word).WithSymbol("unbound"), asm.JNE.Imm(asm.R1, 0, "known"),
		asm.Mov.Imm(asm.R1, 1<<24|loopback), asm.StoreMem(asm.RFP, slotIP, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, slotKey+4, asm.R1, asm.Word).WithSymbol("known"),
	)
	p.EmitMapLookup(p.maps.rules, slotKey, "every")
	p.Emit(
		asm.Ja.Label("found"),
		asm.LoadMem(asm.R1, asm.RFP, slotKey+4, asm.Word).WithSymbol("every"), asm.And.Imm(asm.R1, 0xff), asm.JEq.Imm(asm.R1, loopback, "own"),
	)
	p.Emit(asm.StoreImm(asm.RFP, slotKey, 32, asm.Word))
	p.EmitMapLookup(p.maps.own, slotKey, "directly")
	p.Emit(asm.StoreImm(asm.RFP, slotKey, keyBits, asm.Word), asm.StoreImm(asm.RFP, slotKey+4, 0, asm.Word).WithSymbol("own"))
	p.EmitMapLookup(p.maps.rules, slotKey, "directly")
}

// emitLead:
//
//	found: who = {socket_cookie(ctx), rule->target, htons(ntohs(port) - rule->lo + rule->target_port)};
//	asked = {ip, port};
//	if (!known[who]) atomic(rule->connections += 1);
//	known[who] = asked;
//	ctx->ip = who.target; ctx->port = who.port;
func (p *program) emitLead() {
	p.Emit(
		asm.Mov.Reg(regRule, asm.R0).WithSymbol("found"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP, asm.Word), asm.StoreMem(asm.RFP, slotAsked, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, slotAsked+4, regPort, asm.Word),
		asm.HostTo(asm.BE, regPort, asm.Half),
		asm.LoadMem(asm.R1, regRule, ruleLo, asm.Half), asm.Sub.Reg(regPort, asm.R1),
		asm.LoadMem(asm.R1, regRule, ruleTargetPort, asm.Half), asm.Add.Reg(regPort, asm.R1),
		asm.HostTo(asm.BE, regPort, asm.Half),
		asm.LoadMem(asm.R1, regRule, ruleTarget, asm.Word),
	)
	p.emitWho()
	p.EmitMapLookup(p.maps.asked, slotWho, "first")
	p.Emit(
		asm.Ja.Label("note"),
		asm.Mov.Imm(asm.R1, 1).WithSymbol("first"), asm.AddAtomic.Mem(regRule, asm.R1, asm.DWord, ruleConnections),
	)
	p.Emit(asm.LoadMapPtr(asm.R1, p.maps.asked.FD()).WithSymbol("note"))
	p.Emit(bpf.Slot(asm.R2, slotWho)...)
	p.Emit(bpf.Slot(asm.R3, slotAsked)...)
	p.Emit(
		asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call(),
		asm.LoadMem(asm.R1, asm.RFP, slotWho+8, asm.Word), asm.StoreMem(regCtx, p.ip, asm.R1, asm.Word),
		asm.StoreMem(regCtx, ctxPort, regPort, asm.Word),
	)
}

// emitWho: who = {socket_cookie(ctx), R1, port};
func (p *program) emitWho() {
	p.Emit(
		asm.StoreMem(asm.RFP, slotWho+8, asm.R1, asm.Word), asm.StoreMem(asm.RFP, slotWho+12, regPort, asm.Word),
		asm.Mov.Reg(asm.R1, regCtx), asm.FnGetSocketCookie.Call(), asm.StoreMem(asm.RFP, slotWho, asm.R0, asm.DWord),
	)
}

// emitDirectly: a UDP socket that is not led is not answered for what it asked before.
//
//	return 1;
//	directly: if (ctx->protocol == UDP) delete(known[{socket_cookie(ctx), ip, port}]);
func (p *program) emitDirectly() {
	p.Emit(
		asm.Mov.Imm(asm.R0, 1), asm.Return(),
		asm.LoadMem(asm.R1, regCtx, ctxProtocol, asm.Word).WithSymbol("directly"), asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "as it is"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP, asm.Word),
	)
	p.emitWho()
	p.Emit(asm.LoadMapPtr(asm.R1, p.maps.asked.FD()))
	p.Emit(bpf.Slot(asm.R2, slotWho)...)
	p.Emit(asm.FnMapDeleteElem.Call())
}

// emitAnswer:
//
//	asked = known[{socket_cookie(ctx), ip, port}]; if (!asked) return 1;
//	ctx->ip = asked->ip; ctx->port = asked->port;
func (p *program) emitAnswer() {
	p.Emit(asm.LoadMem(asm.R1, asm.RFP, slotIP, asm.Word))
	p.emitWho()
	p.EmitMapLookup(p.maps.asked, slotWho, "as it is")
	p.Emit(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.StoreMem(regCtx, p.ip, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, 4, asm.Word), asm.StoreMem(regCtx, ctxPort, asm.R1, asm.Word),
	)
}
