// Package bpf assembles BPF programs. They are written in Go, so that a build needs no C compiler, and so that constants and offsets stand
// once. Emitters append instructions to a Program; above each emitter stands in C-like words what it emits.
package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// A Program is what the emitters have appended so far.
type Program struct{ asm.Instructions }

// Emit appends instructions.
func (p *Program) Emit(ins ...asm.Instruction) { p.Instructions = append(p.Instructions, ins...) }

// Slot: dst = &slot; at is the slot's offset from the frame pointer, in bytes.
func Slot(dst asm.Register, at int32) []asm.Instruction {
	return []asm.Instruction{asm.Mov.Reg(dst, asm.RFP), asm.Add.Imm(dst, at)}
}

// EmitMapLookup: R0 = map[key in slot]; if (!R0) goto missing;
func (p *Program) EmitMapLookup(m *ebpf.Map, key int32, missing string) {
	p.Emit(asm.LoadMapPtr(asm.R1, m.FD()))
	p.Emit(Slot(asm.R2, key)...)
	p.Emit(asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, missing))
}

// PrefixKey returns the key of a prefix in a map of prefixes (BPF_MAP_TYPE_LPM_TRIE): how many bits count, in the host's byte order, and the
// address.
func PrefixKey(p netip.Prefix) []byte {
	return append(binary.NativeEndian.AppendUint32(nil, uint32(p.Bits())), p.Addr().AsSlice()...)
}

// SetEntries makes want the entries of a map, and of is, which says what the map has; key is a key as the map has it. SetEntries returns what
// could not be done. The next call tries that again.
func SetEntries[K, V comparable](m *ebpf.Map, is, want map[K]V, key func(K) any) error {
	var errs []error
	did := func(err error) bool {
		errs = append(errs, err)
		return err == nil
	}
	for k := range is {
		if _, ok := want[k]; ok {
			continue
		}
		err := m.Delete(key(k))
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			err = nil
		}
		if did(err) {
			delete(is, k)
		}
	}
	for k, v := range want {
		if was, ok := is[k]; (!ok || was != v) && did(m.Put(key(k), v)) {
			is[k] = v
		}
	}
	return errors.Join(errs...)
}

// EmitEnd: label: return action;
func (p *Program) EmitEnd(label string, action int32) {
	p.Emit(asm.Mov.Imm(asm.R0, action).WithSymbol(label), asm.Return())
}

// Load loads a program. Its licence says GPL, too, since bpf_fib_lookup and the look-ups of sockets are for such programs only.
func Load(name string, typ ebpf.ProgramType, at ebpf.AttachType, ins asm.Instructions) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: typ, AttachType: at, Instructions: ins, License: "Dual MIT/GPL"})
	if err != nil {
		return nil, fmt.Errorf("cannot load the BPF program %s: %w", name, err)
	}
	return p, nil
}
