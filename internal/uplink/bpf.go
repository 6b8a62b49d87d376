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
		m.ports, m.portsMem, err = mappedArray("uvs_ports", nat.PortSetBytes, 4)
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

// portSet is the i-th set (TCP, UDP, ICMP identifiers, SCTP) in the shared memory.
func (m *maps) portSet(i int) *nat.PortSet {
	return (*nat.PortSet)(unsafe.Pointer(&m.portsMem[i*nat.PortSetBytes]))
}

// close gives the maps back. Their memory stays mapped until the process ends: the tracker may still write to it.
func (m *maps) close() {
	for _, b := range []*ebpf.Map{m.config, m.ports, m.pairs, m.frags} {
		if b != nil {
			b.Close()
		}
	}
}

// Stack slots of the ingress program, below the frame pointer.
const (
	slotKey   = -4
	slotL4    = -16 // 8 bytes of the transport header
	slotIP    = -40 // 20 bytes of the IP header
	slotQuote = -64 // 20 bytes of a quoted IP header
	slotPair  = -72 // 8 bytes: address, protocol, 0; of a fragment: address, protocol, 0, identification
	slotValue = -76
)

// ingress is attached to the host's device. It redirects to TAP ifindex what is ours: IPv4 to the host's address,
// and TCP, UDP or SCTP to a port of ours, an ICMP answer with an identifier of ours, another protocol from an address
// that we speak it with, or an ICMP error that quotes such a packet. Later fragments follow their first one; one that
// comes before it goes to both, the host and us, and whose it is not forgets it. All else goes on its way.
//
// Registers: R6 the packet, R7 the transport header's offset, R8 the protocol, R9 the host's address.
func (m *maps) ingress(ifindex int) (*ebpf.Program, error) {
	load := func(at int32, dst int32, size int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R7), asm.Add.Imm(asm.R2, at),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, dst),
			asm.Mov.Imm(asm.R4, size), asm.Mov.Imm(asm.R5, netHeader),
			asm.FnSkbLoadBytesRelative.Call(),
			asm.JNE.Imm(asm.R0, 0, "pass"),
		}
	}
	lookup := func(mp *ebpf.Map) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, mp.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slotKey),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
		}
	}
	// headerLen leaves 4*ihl of the IP header in a slot in dst.
	headerLen := func(dst asm.Register, slot int16) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(dst, asm.RFP, slot, asm.Byte), asm.And.Imm(dst, 0xf), asm.LSh.Imm(dst, 2),
			asm.JLT.Imm(dst, 20, "pass"),
		}
	}
	// set names a port set and loads the port from a slot into R8; "owned" looks it up.
	set := func(label string, index int32, slot int16) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, slotKey, int64(index), asm.Word).WithSymbol(label),
			asm.LoadMem(asm.R8, asm.RFP, slot, asm.Half),
			asm.Ja.Label("owned"),
		}
	}
	// pairKey makes the key of pairs from the address in R3 and the protocol in R8; fragKey that of frags.
	pairKey := func(label string) asm.Instructions {
		return asm.Instructions{
			asm.StoreMem(asm.RFP, slotPair, asm.R3, asm.Word).WithSymbol(label),
			asm.StoreMem(asm.RFP, slotPair+4, asm.R8, asm.Half),
		}
	}
	fragKey := func() asm.Instructions {
		return append(pairKey(""), asm.LoadMem(asm.R1, asm.RFP, slotIP+4, asm.Half), asm.StoreMem(asm.RFP, slotPair+6, asm.R1, asm.Half))
	}
	lookupAt := func(mp *ebpf.Map, slot int32, missing string) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, mp.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slot),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, missing),
		}
	}
	// noteFragment notes the value in slotValue for a first fragment, then goes on.
	noteFragment := func(then string) (p asm.Instructions) {
		p = asm.Instructions{
			asm.LoadMem(asm.R1, asm.RFP, slotIP+6, asm.Half), asm.And.Imm(asm.R1, 0x0020), // more fragments
			asm.JEq.Imm(asm.R1, 0, then),
			asm.LoadMem(asm.R8, asm.RFP, slotIP+9, asm.Byte), asm.LoadMem(asm.R3, asm.RFP, slotIP+12, asm.Word),
		}
		return append(append(p, fragKey()...),
			asm.LoadMapPtr(asm.R1, m.frags.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slotPair),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, slotValue),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Ja.Label(then))
	}
	var p asm.Instructions
	add := func(ins ...asm.Instructions) {
		for _, i := range ins {
			p = append(p, i...)
		}
	}
	add(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, off, asm.Word),
		asm.JNE.Imm(asm.R1, 0x0008, "pass"), // IPv4, in network byte order
		asm.Mov.Imm(asm.R7, 0),
	}, load(0, slotIP, 20), asm.Instructions{
		asm.StoreImm(asm.RFP, slotKey, 0, asm.Word),
	}, lookup(m.config), asm.Instructions{
		asm.LoadMem(asm.R9, asm.R0, 0, asm.Word),
		asm.JEq.Imm(asm.R9, 0, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP+16, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R9, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, slotIP+6, asm.Half),
		asm.And.Imm(asm.R1, 0xff1f), // fragment offset, in network byte order
		asm.JNE.Imm(asm.R1, 0, "later"),
	}, headerLen(asm.R7, slotIP), load(0, slotL4, 8), asm.Instructions{
		asm.LoadMem(asm.R8, asm.RFP, slotIP+9, asm.Byte),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_TCP, "tcp"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_UDP, "udp"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_SCTP, "sctp"),
		asm.LoadMem(asm.R3, asm.RFP, slotIP+12, asm.Word),
		asm.JNE.Imm(asm.R8, unix.IPPROTO_ICMP, "pair"),
		asm.LoadMem(asm.R1, asm.RFP, slotL4, asm.Byte),
		asm.JEq.Imm(asm.R1, 0, "id"), // echo reply, timestamp reply, mask reply
		asm.JEq.Imm(asm.R1, 14, "id"),
		asm.JEq.Imm(asm.R1, 18, "id"),
		asm.JEq.Imm(asm.R1, 3, "error"),
		asm.JEq.Imm(asm.R1, 4, "error"),
		asm.JEq.Imm(asm.R1, 11, "error"),
		asm.JNE.Imm(asm.R1, 12, "pass"),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("error"),
	}, load(8, slotQuote, 20), asm.Instructions{
		asm.LoadMem(asm.R1, asm.RFP, slotQuote+12, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R9, "pass"), // not about a packet with the host's address
		asm.LoadMem(asm.R8, asm.RFP, slotQuote+9, asm.Byte),
	}, headerLen(asm.R1, slotQuote), asm.Instructions{
		asm.Add.Reg(asm.R7, asm.R1),
	}, load(8, slotL4, 8), asm.Instructions{
		asm.JEq.Imm(asm.R8, unix.IPPROTO_TCP, "quoted tcp"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_UDP, "quoted udp"),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_SCTP, "quoted sctp"),
		asm.LoadMem(asm.R3, asm.RFP, slotQuote+16, asm.Word),
		asm.JNE.Imm(asm.R8, unix.IPPROTO_ICMP, "pair"),
	},
		set("id", 2, slotL4+4),
		set("quoted tcp", 0, slotL4), set("quoted udp", 1, slotL4),
		set("quoted sctp", 3, slotL4), set("sctp", 3, slotL4+2),
		set("tcp", 0, slotL4+2), set("udp", 1, slotL4+2),
		pairKey("pair"),
		asm.Instructions{asm.StoreImm(asm.RFP, slotPair+6, 0, asm.Half)},
		lookupAt(m.pairs, slotPair, "host's"),
		asm.Instructions{asm.Ja.Label("ours")},
		// A later fragment: whose the first one was, if it has come.
		asm.Instructions{
			asm.LoadMem(asm.R8, asm.RFP, slotIP+9, asm.Byte).WithSymbol("later"),
			asm.LoadMem(asm.R3, asm.RFP, slotIP+12, asm.Word),
		}, fragKey(), lookupAt(m.frags, slotPair, "early"),
		asm.Instructions{
			asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Ja.Label("redirect"),
			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("early"),
			asm.Mov.Imm(asm.R2, int32(ifindex)), asm.Mov.Imm(asm.R3, 0),
			asm.FnCloneRedirect.Call(),
			asm.Ja.Label("pass"),
		},
		asm.Instructions{asm.HostTo(asm.BE, asm.R8, asm.Half).WithSymbol("owned")},
		lookup(m.ports), asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R8), asm.RSh.Imm(asm.R1, 3), asm.And.Imm(asm.R1, nat.PortSetBytes-1),
			asm.Add.Reg(asm.R0, asm.R1),
			asm.LoadMem(asm.R2, asm.R0, 0, asm.Byte),
			asm.And.Imm(asm.R8, 7),
			asm.RSh.Reg(asm.R2, asm.R8), asm.And.Imm(asm.R2, 1),
			asm.JEq.Imm(asm.R2, 0, "host's"),
			asm.StoreImm(asm.RFP, slotValue, 1, asm.Word).WithSymbol("ours"),
		}, noteFragment("redirect"), asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(ifindex)).WithSymbol("redirect"), asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirect.Call(),
			asm.Return(),
			asm.StoreImm(asm.RFP, slotValue, 0, asm.Word).WithSymbol("host's"),
		}, noteFragment("pass"), asm.Instructions{
			asm.Mov.Imm(asm.R0, next).WithSymbol("pass"),
			asm.Return(),
		})
	return loadProgram("uvs_ingress", p)
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

// swallow keeps a frame from the host's stack; packet sockets have had it by then.
func swallow() (*ebpf.Program, error) {
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
