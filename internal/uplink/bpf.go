package uplink

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/nat"
)

const (
	next = -1 // TCX_NEXT, TC_ACT_UNSPEC: whatever else is attached decides
	shot = 2  // TC_ACT_SHOT
	off  = 16 // of protocol in struct __sk_buff

	netHeader = 1 // BPF_HDR_START_NET
)

// maps are what the ingress program reads: the host's address and the ports that are ours, arrays that this process has
// mapped, so that changing them is a store; remote addresses and protocols without ports that are ours; and what the
// program itself notes, whose packets are coming in fragments.
type maps struct {
	config, ports *ebpf.Map
	pairs, frags  *ebpf.Map
	configMem     []byte
	portsMem      []byte
}

func newMaps() (*maps, error) {
	m := &maps{}
	var err error
	m.config, m.configMem, err = mappedArray("uvs_config", 8, 1)
	if err == nil {
		m.ports, m.portsMem, err = mappedArray("uvs_ports", nat.PortSetBytes, uint32(sets))
	}
	if err == nil {
		m.pairs, err = ebpf.NewMap(&ebpf.MapSpec{Name: "uvs_pairs", Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: maxPairs})
	}
	if err == nil {
		m.frags, err = ebpf.NewMap(&ebpf.MapSpec{Name: "uvs_frags", Type: ebpf.LRUHash, KeySize: 8, ValueSize: 4, MaxEntries: maxFrags})
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("uplink: cannot create the BPF maps: %w%s", err, hint(err))
	}
	return m, nil
}

const (
	maxPairs = 4096
	maxFrags = 8192 // packets in fragments, ours and the host's
)

func mappedArray(name string, valueSize, entries uint32) (*ebpf.Map, []byte, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: valueSize, MaxEntries: entries, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, nil, err
	}
	page := unix.Getpagesize()
	size := (int(valueSize*entries) + page - 1) / page * page
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, nil, err
	}
	return m, mem, nil
}

// setIndex is the index of a port set in the map uvs_ports.
type setIndex int

// The sets: ports of TCP and UDP, ICMP identifiers, ports of SCTP.
const (
	setTCP setIndex = iota
	setUDP
	setICMPID
	setSCTP
	sets
)

// portSet is a set in the shared memory.
func (m *maps) portSet(i setIndex) *nat.PortSet {
	return (*nat.PortSet)(unsafe.Pointer(&m.portsMem[int(i)*nat.PortSetBytes]))
}

// close gives the maps back. Their memory stays mapped until the process ends: the tracker may still write to it.
func (m *maps) close() {
	for _, b := range []*ebpf.Map{m.config, m.ports, m.pairs, m.frags} {
		if b != nil {
			b.Close()
		}
	}
}

// egress is attached to the TAP: what the dataplane writes leaves by device ifindex, the kernel finding the next
// hop and its MAC.
func egress(ifindex int) (*ebpf.Program, error) {
	return loadProgram("uvs_egress", asm.Instructions{
		asm.LoadMem(asm.R1, asm.R1, off, asm.Word),
		asm.JNE.Imm(asm.R1, 0x0008, "pass"),
		asm.Mov.Imm(asm.R1, int32(ifindex)), asm.Mov.Imm(asm.R2, 0), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, shot).WithSymbol("pass"),
		asm.Return(),
	})
}

// dropAll drops every frame. Packet sockets have received the frame before.
func dropAll() (*ebpf.Program, error) {
	return loadProgram("uvs_swallow", asm.Instructions{asm.Mov.Imm(asm.R0, shot), asm.Return()})
}

func loadProgram(name string, ins asm.Instructions) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, Instructions: ins, License: "MIT"})
	if err != nil {
		return nil, fmt.Errorf("uplink: cannot load the BPF program %s: %w%s", name, err, hint(err))
	}
	return p, nil
}

func hint(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (this needs root, or CAP_BPF and CAP_NET_ADMIN; `--uplink none` runs without an uplink)"
	}
	return ""
}
