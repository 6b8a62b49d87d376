package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Way is where the host's routing sends a packet of a container.
type Way struct {
	Code    frame.WayCode // 0: it is sent
	Device  string
	NextHop netip.Addr // equal to the destination if the destination is on the link
	Source  netip.Addr // the host's address that the packet gets
	MTU     int        // in bytes
}

// fibParams is the size of struct bpf_fib_lookup, in bytes.
const fibParams = 64

// newQuestion loads a program that asks the host's routing what the way out asks, and sends nothing: it takes a struct bpf_fib_lookup as
// its packet, and returns it with the answer.
func newQuestion() (*ebpf.Program, error) {
	p := &program{}
	p.emit(asm.Mov.Reg(regPacket, asm.R1), asm.Mov.Imm(asm.R2, 0))
	p.emit(slot(asm.R3, outParams)...)
	p.emit(asm.Mov.Imm(asm.R4, fibParams), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "short"), asm.Mov.Reg(asm.R1, regPacket))
	p.emit(slot(asm.R2, outParams)...)
	p.emit(asm.Mov.Imm(asm.R3, fibParams), asm.Mov.Imm(asm.R4, fibSkipNeigh|fibGetSource), asm.FnFibLookup.Call(), asm.Mov.Reg(regL4, asm.R0))
	p.emitStore(0, outParams, fibParams)
	p.emit(asm.Mov.Reg(asm.R0, regL4), asm.Return())
	p.emitEnd("short", -int32(unix.EINVAL))
	return loadProgram("uvs_ask", p.Instructions)
}

// ask runs the question about a packet t, as the host's routing sees it from device ifindex.
func ask(question *ebpf.Program, ifindex int, t frame.Tuple) (params [fibParams]byte, result int32, err error) {
	params[fibFamily], params[fibProto] = unix.AF_INET, t.Proto
	binary.BigEndian.PutUint16(params[fibSrcPort:], t.SrcPort)
	binary.BigEndian.PutUint16(params[fibDstPort:], t.DstPort)
	binary.NativeEndian.PutUint16(params[fibLength:], frame.IPv4Len) // with a length, the answer has the MTU
	binary.NativeEndian.PutUint32(params[fibIfindex:], uint32(ifindex))
	binary.BigEndian.PutUint32(params[fibSrc:], uint32(t.Src))
	binary.BigEndian.PutUint32(params[fibDst:], uint32(t.Dst))
	code, out, err := question.Test(params[:])
	if err != nil {
		return params, 0, fmt.Errorf("uplink: asking the host's routing: %w", err)
	}
	copy(params[:], out)
	return params, int32(code), nil
}

// openQuestion is newQuestion, and checks that the kernel answers.
func openQuestion() (*ebpf.Program, error) {
	question, err := newQuestion()
	if err != nil {
		return nil, err
	}
	_, result, err := ask(question, 1, frame.Tuple{Dst: 0x7f000001})
	if err == nil && result == -int32(unix.EINVAL) {
		err = errors.New("uplink: the kernel's bpf_fib_lookup does not tell the source address; this needs Linux 6.7 or later (`--uplink-kind tap` works on older kernels)")
	}
	if err != nil {
		question.Close()
		return nil, err
	}
	return question, nil
}

// Ask returns the way of a container's packet outside, as the host's routing chooses it now. It does not wait.
func (u *Uplink) Ask(t frame.Tuple) (Way, error) {
	if u.question == nil {
		return Way{}, errors.New("this uplink does not ask the host's routing")
	}
	params, result, err := ask(u.question, u.tapIdx, t)
	if err != nil {
		return Way{}, err
	}
	if result == fibNoNeigh {
		result = 0
	}
	w := Way{Code: frame.WayCode(result), MTU: int(binary.NativeEndian.Uint16(params[fibLength:]))}
	if result < 0 {
		w.Code = frame.WayNoRoute
	}
	if w.Code != 0 {
		return w, nil
	}
	index := int(binary.NativeEndian.Uint32(params[fibIfindex:]))
	w.Device = fmt.Sprintf("device %d", index)
	for _, d := range u.known.Load().Watched {
		if d.Index == index {
			w.Device = d.Name
		}
	}
	w.Source = netip.AddrFrom4([4]byte(params[fibSrc:]))
	if w.NextHop = netip.AddrFrom4([4]byte(params[fibDst:])); params[fibFamily] == unix.AF_INET6 {
		w.NextHop = netip.AddrFrom16([16]byte(params[fibDst:]))
	}
	return w, nil
}
