package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Way is where the host's routing sends a packet of a container.
type Way struct {
	Code    frame.WayCode // 0: it is sent
	Device  string
	index   int        // of the device
	NextHop netip.Addr // equal to the destination if the destination is on the link
	Source  netip.Addr // the host's address that the packet gets
	MTU     int        // in bytes; 0: not known
	Socket  bool       // a socket of this process sends it
}

// fibParams is the size of struct bpf_fib_lookup, in bytes.
const fibParams = 64

// ecn are the bits of a traffic class that rules do not look at (RFC 3168, 5).
const ecn = 3

// newQuestion loads a program that asks the host's routing what the way out asks, and sends nothing: it takes a struct bpf_fib_lookup as
// its packet, and returns it with the answer.
func newQuestion(flags fibFlags) (*ebpf.Program, error) {
	p := &program{}
	p.Emit(asm.Mov.Reg(regPacket, asm.R1), asm.Mov.Imm(asm.R2, 0))
	p.Emit(bpf.Slot(asm.R3, outParams)...)
	p.Emit(asm.Mov.Imm(asm.R4, fibParams), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "short"), asm.Mov.Reg(asm.R1, regPacket))
	p.Emit(bpf.Slot(asm.R2, outParams)...)
	p.Emit(asm.Mov.Imm(asm.R3, fibParams), asm.Mov.Imm(asm.R4, int32(flags)), asm.FnFibLookup.Call(), asm.Mov.Reg(regL4, asm.R0))
	p.emitStore(0, outParams, fibParams)
	p.Emit(asm.Mov.Reg(asm.R0, regL4), asm.Return())
	p.EmitEnd("short", -int32(unix.EINVAL))
	return loadProgram("uvs_ask", p.Instructions)
}

// fibQuestion is the question about a packet t, as the host's routing sees it from device ifindex.
func fibQuestion[A frame.Address](ifindex int, t frame.TupleOf[A], class uint8) (params [fibParams]byte) {
	params[fibProto] = t.Proto
	binary.BigEndian.PutUint16(params[fibSrcPort:], t.SrcPort)
	binary.BigEndian.PutUint16(params[fibDstPort:], t.DstPort)
	binary.NativeEndian.PutUint32(params[fibIfindex:], uint32(ifindex))
	length := frame.IPv4Len // with a length, the answer has the MTU
	switch t := any(t).(type) {
	case frame.Tuple:
		params[fibFamily], params[fibTOS] = unix.AF_INET, class
		binary.BigEndian.PutUint32(params[fibSrc:], uint32(t.Src))
		binary.BigEndian.PutUint32(params[fibDst:], uint32(t.Dst))
	case frame.Tuple6:
		params[fibFamily], length = unix.AF_INET6, frame.IPv6Len
		binary.BigEndian.PutUint32(params[fibTOS:], uint32(class&^ecn)<<20)
		t.Src.Put(params[fibSrc:])
		t.Dst.Put(params[fibDst:])
	}
	binary.NativeEndian.PutUint16(params[fibLength:], uint16(length))
	return params
}

// ask runs the question about a packet t.
func ask[A frame.Address](question *ebpf.Program, ifindex int, t frame.TupleOf[A], class uint8) (params [fibParams]byte, result int32, err error) {
	params = fibQuestion(ifindex, t, class)
	code, out, err := question.Test(params[:])
	if err != nil {
		return params, 0, fmt.Errorf("uplink: asking the host's routing: %w", err)
	}
	copy(params[:], out)
	return params, int32(code), nil
}

// openQuestion returns a question that the kernel answers, and the flags that the kernel knows, of those that allowed has.
func openQuestion(allowed fibFlags) (*ebpf.Program, fibFlags, error) {
	for _, flags := range []fibFlags{fibSkipNeigh | fibGetSource, fibSkipNeigh, 0} {
		if flags&^allowed != 0 {
			continue
		}
		question, err := newQuestion(flags)
		if err != nil {
			return nil, 0, err
		}
		_, result, err := ask(question, 1, frame.Tuple{Dst: 0x7f000001}, 0)
		if err == nil && result != -int32(unix.EINVAL) {
			return question, flags, nil
		}
		question.Close()
		if err != nil {
			return nil, 0, err
		}
	}
	return nil, 0, errors.New("uplink: this kernel does not answer questions about its routing (`--uplink-kind tap` works without)")
}

// allFlags are the flags of bpf_fib_lookup that are used where the kernel knows them. The environment variable UVSWITCH_FIB_FLAGS leaves
// some out: it plays an older kernel.
func allFlags() fibFlags {
	if n, err := strconv.Atoi(os.Getenv("UVSWITCH_FIB_FLAGS")); err == nil {
		return fibFlags(n)
	}
	return fibSkipNeigh | fibGetSource
}

// AskSource implements nat.Outside.
func (u *Uplink) AskSource(t frame.Tuple, class uint8) frame.Addr {
	if w, err := u.Ask(t, class); err == nil && w.Code == 0 {
		return frame.AddrFrom(w.Source)
	}
	return 0
}

// Ask returns the way of a container's packet outside, with a tuple and a class (see frame.Frame.TrafficClass), as the host's routing chooses
// it now. It does not wait, but before Linux 6.7 for netlink, when a next hop is new.
func (u *Uplink) Ask(t frame.Tuple, class uint8) (Way, error) {
	if u.opts.Kind == Sockets {
		return WayOfSocket(t.Dst.Netip())
	}
	w, params, err := wayOf(u, t, class)
	if err != nil || w.Code != 0 {
		return w, err
	}
	if w.Source = netip.AddrFrom4([4]byte(params[fibSrc:])); u.maps.sources != nil {
		w.Source = u.learnSource(w.index, w.NextHop, [4]byte(params[fibDst:]))
	}
	return w, nil
}

// Ask6 is Ask for IPv6. Before Linux 6.7, the source follows from the device alone. With rules that the programs do not see, it may wait for
// netlink.
func (u *Uplink) Ask6(t frame.Tuple6, class uint8) (Way, error) {
	if u.opts.Kind == Sockets {
		return WayOfSocket(t.Dst.Netip())
	}
	if u.question != nil && u.known.Load().Told != 0 {
		return u.wayTold(t, class)
	}
	w, params, err := wayOf(u, t, class)
	if err != nil || w.Code != 0 {
		return w, err
	}
	if w.Source = netip.AddrFrom16([16]byte(params[fibSrc:])); u.maps.sources != nil {
		w.Source = u.known.Load().sourceOf(w.index)
	}
	return w, nil
}

// wayOf asks for the way of a packet, and returns it without its source, and the kernel's answer.
func wayOf[A frame.Address](u *Uplink, t frame.TupleOf[A], class uint8) (w Way, params [fibParams]byte, err error) {
	if u.question == nil {
		return w, params, errors.New("this uplink does not ask the host's routing")
	}
	params, result, err := ask(u.question, u.tapIdx, t, class)
	if err != nil {
		return w, params, err
	}
	w.MTU = int(binary.NativeEndian.Uint16(params[fibLength:]))
	switch {
	case result < 0:
		w.Code = frame.WayNoRoute
	case result == fibNoNeigh: // without SKIP_NEIGH; the kernel has not come to the MTU
		w.MTU = 0
	default:
		w.Code = frame.WayCode(result)
	}
	if w.Code != 0 {
		return w, params, nil
	}
	u.setDevice(&w, params[:])
	if w.NextHop = netip.AddrFrom4([4]byte(params[fibDst:])); params[fibFamily] == unix.AF_INET6 {
		w.NextHop = netip.AddrFrom16([16]byte(params[fibDst:]))
	}
	return w, params, nil
}

// setDevice sets the device of a way from the kernel's answer.
func (u *Uplink) setDevice(w *Way, params []byte) {
	w.index = int(binary.NativeEndian.Uint32(params[fibIfindex:]))
	w.Device = fmt.Sprintf("device %d", w.index)
	for _, d := range u.known.Load().Watched {
		if d.Index == w.index {
			w.Device = d.Name
		}
	}
}

// learnSource returns the source address for packets by a device to a next hop, as the kernel's masquerading chooses it, and tells it to
// the program "way out", on a kernel whose bpf_fib_lookup does not. key is the beginning of the next hop's address.
func (u *Uplink) learnSource(device int, hop netip.Addr, key [4]byte) netip.Addr {
	var place [8]byte
	binary.NativeEndian.PutUint32(place[:], uint32(device))
	copy(place[4:], key[:])
	var known [4]byte
	if u.maps.sources.Lookup(place, &known) == nil {
		return netip.AddrFrom4(known)
	}
	a := sourceTo(device, hop)
	if a.IsValid() {
		_ = u.maps.sources.Put(place, a.As4())
	}
	return a
}
