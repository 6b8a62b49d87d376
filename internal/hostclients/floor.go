package hostclients

import (
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
)

// KeepPorts keeps the ports lo to hi of the host free for NAT: bind(2) of an ordinary user of the host fails there with "address already in use".
// Else a user could bind every port, and containers would have none. Root and the user of this process may bind them.
func (p *Programs) KeepPorts(lo, hi uint16) error {
	for _, at := range []ebpf.AttachType{ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind} {
		prog, err := loadFloor(at, p.cookie, lo, hi, true)
		if err != nil { // before Linux 5.18, bind(2) fails with "operation not permitted"
			prog, err = loadFloor(at, p.cookie, lo, hi, false)
		}
		if err != nil {
			return err
		}
		if err := p.attach(prog, at); err != nil {
			return err
		}
	}
	return nil
}

// loadFloor:
//
//	port = ntohs(ctx->user_port); if (port < lo || port > hi) return 1;
//	if (netns_cookie(ctx) != cookie) return 1;
//	uid = (u32) get_current_uid_gid(); if (uid == 0 || uid == own) return 1;
//	set_retval(-EADDRINUSE); return 0;
func loadFloor(at ebpf.AttachType, cookie uint64, lo, hi uint16, named bool) (*ebpf.Program, error) {
	p := &bpf.Program{}
	p.Emit(
		asm.Mov.Reg(regCtx, asm.R1),
		asm.LoadMem(regPort, regCtx, ctxPort, asm.Word), asm.HostTo(asm.BE, regPort, asm.Half),
		asm.JLT.Imm(regPort, int32(lo), "as it is"), asm.JGT.Imm(regPort, int32(hi), "as it is"),
		asm.Mov.Reg(asm.R1, regCtx), asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(cookie), asm.DWord), asm.JNE.Reg(asm.R0, asm.R1, "as it is"),
		asm.FnGetCurrentUidGid.Call(), asm.Mov.Reg32(asm.R0, asm.R0),
		asm.JEq.Imm(asm.R0, 0, "as it is"), asm.JEq.Imm(asm.R0, int32(os.Geteuid()), "as it is"),
	)
	if named {
		p.Emit(asm.Mov.Imm(asm.R1, -int32(unix.EADDRINUSE)), asm.FnSetRetval.Call())
	}
	p.Emit(asm.Mov.Imm(asm.R0, 0), asm.Return())
	p.EmitEnd("as it is", 1)
	return bpf.Load("uvs_floor", ebpf.CGroupSockAddr, at, p.Instructions)
}
