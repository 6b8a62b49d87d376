package uplink

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// bpfMaps are what the programs and this process share.
type bpfMaps struct {
	own    *ebpf.Map // address of the host -> its index; 0 for an address without sets of its own
	local  *ebpf.Map // prefixes that the host's kernel takes for itself, besides its addresses -> 0
	ports  *ebpf.Map // sets of ports, see setIndex; memory that this process has mapped: changing a set is a store
	pairs  *ebpf.Map // what is ours of the protocols without ports: pairKey -> 1
	own6   *ebpf.Map // likewise of IPv6
	local6 *ebpf.Map
	pairs6 *ebpf.Map
	frags6 *ebpf.Map

	routes6   *ebpf.Map // prefixes that are the switch's outside: see SetRoutes6
	stations6 *ebpf.Map // addresses there that a port has -> the port

	frags *ebpf.Map // packets that come in fragments: fragment key -> whose they are
	ways  *ebpf.Map // what the host's routing has said lately: see wayHint; likewise mapped

	arrivals *ebpf.Map   // what each port has received in a slice of time: key -> arrived
	limits   *ebpf.Map   // limit; likewise mapped
	limit    *queueLimit // see GuardQueue

	fence *ebpf.Map // devices that packets may leave by, by index; nil: all

	told      *ebpf.Map     // one entry: a toldBy; see LearnWay
	ways6     *ebpf.Map     // toldKey -> toldWay
	forgotten atomic.Uint32 // how often the ways have been removed from ways6

	// For a kernel that does not tell the source address; else nil.
	sources  *ebpf.Map // of IPv4, by device and next hop
	sources6 *ebpf.Map // of IPv6, by device
	fib      fibFlags  // that the kernel knows

	inside6 *ebpf.Map // inside addresses of IPv6 packets that leave: see Uplink6.Inside; likewise mapped
	answers answers6

	insideNext [insideGroups * frame.MaxPorts]atomic.Uint32 // by group: the place that a new address takes

	portsMem, waysMem, insideMem []byte
}

const (
	maxOwn   = 65536
	maxOwn6  = 1024
	maxFrags = 8192 // packets in fragments, ours and the host's

	maxSources = 8192 // next hops whose source address is known

	maxToldWays = 16384

	otherArrivals = int(setPublished) << 16 // key of arrivals for what has no port; and with a port of the switch added, for its addresses; else setIndex << 16 | port
)

func newMaps(fenced int, fib fibFlags) (*bpfMaps, error) {
	m := &bpfMaps{fib: fib}
	var err error
	m.ports, m.portsMem, err = mappedArray("uvs_ports", nat.PortSetBytes, 2*sixBase*setsOfAddr)
	if err == nil {
		m.ways, m.waysMem, err = mappedArray("uvs_ways", uint32(unsafe.Sizeof(wayHint{})), wayHints)
	}
	if err == nil {
		m.inside6, m.insideMem, err = mappedArray("uvs_inside6", 16, insideWays*insideGroups*frame.MaxPorts)
	}
	var limit []byte
	if err == nil {
		if m.limits, limit, err = mappedArray("uvs_limit", uint32(unsafe.Sizeof(queueLimit{})), 1); err == nil {
			m.limit = (*queueLimit)(unsafe.Pointer(&limit[0]))
		}
	}
	for _, x := range []struct {
		to   **ebpf.Map
		need bool
		spec ebpf.MapSpec
	}{
		{&m.own, true, ebpf.MapSpec{Name: "uvs_own", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: maxOwn, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.local, true, ebpf.MapSpec{Name: "uvs_local", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: MaxLocal, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.arrivals, true, ebpf.MapSpec{Name: "uvs_arrivals", Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: uint32(otherArrivals + frame.MaxPorts)}},
		{&m.pairs, true, ebpf.MapSpec{Name: "uvs_pairs", Type: ebpf.Hash, KeySize: 12, ValueSize: 4, MaxEntries: nat.MaxPairs}},
		{&m.frags, true, ebpf.MapSpec{Name: "uvs_frags", Type: ebpf.LRUHash, KeySize: 12, ValueSize: 4, MaxEntries: maxFrags}},
		{&m.own6, true, ebpf.MapSpec{Name: "uvs_own6", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: maxOwn6, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.local6, true, ebpf.MapSpec{Name: "uvs_local6", Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 4, MaxEntries: MaxLocal, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.pairs6, true, ebpf.MapSpec{Name: "uvs_pairs6", Type: ebpf.Hash, KeySize: 36, ValueSize: 4, MaxEntries: nat.MaxPairs, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.frags6, true, ebpf.MapSpec{Name: "uvs_frags6", Type: ebpf.LRUHash, KeySize: 36, ValueSize: 4, MaxEntries: maxFrags}},
		{&m.routes6, true, ebpf.MapSpec{Name: "uvs_routes6", Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 4, MaxEntries: frame.MaxNets, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.stations6, true, ebpf.MapSpec{Name: "uvs_stations6", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: 2 * frame.MaxPorts, Flags: unix.BPF_F_NO_PREALLOC}},
		{&m.told, true, ebpf.MapSpec{Name: "uvs_told", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}},
		{&m.ways6, true, ebpf.MapSpec{Name: "uvs_ways6", Type: ebpf.LRUHash, KeySize: uint32(unsafe.Sizeof(toldKey{})), ValueSize: uint32(unsafe.Sizeof(toldWay{})), MaxEntries: maxToldWays}},
		{&m.fence, fenced > 0, ebpf.MapSpec{Name: "uvs_fence", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: uint32(max(fenced, 1))}},
		{&m.sources, fib&fibGetSource == 0, ebpf.MapSpec{Name: "uvs_sources", Type: ebpf.LRUHash, KeySize: 8, ValueSize: 4, MaxEntries: maxSources}},
		{&m.sources6, fib&fibGetSource == 0, ebpf.MapSpec{Name: "uvs_sources6", Type: ebpf.Hash, KeySize: 4, ValueSize: 16, MaxEntries: maxOwn6}},
	} {
		if err == nil && x.need {
			*x.to, err = ebpf.NewMap(&x.spec)
		}
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("uplink: cannot create the BPF maps: %w%s", err, hint(err))
	}
	return m, nil
}

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

// setIndex is the index of a set of ports in the map uvs_ports: setsOfAddr for each address's index, published ones after those in
// use. Those of index 0 hold the ports that are published on every address.
type setIndex int

// The sets of an address: ports of TCP and UDP, ICMP identifiers, ports of SCTP.
const (
	setTCP setIndex = iota
	setUDP
	setICMPID
	setSCTP
	setPublished // + one of the above
	setsOfAddr   = 8

	sixBase = nat.MaxAddrs + 1 // of the indices of IPv6 addresses
)

var setOf = map[uint8]setIndex{frame.TCP: setTCP, frame.UDP: setUDP, frame.ICMP: setICMPID, frame.ICMPv6: setICMPID, frame.SCTP: setSCTP}

// portSet is a set in the shared memory.
func (m *bpfMaps) portSet(addr int, i setIndex) *nat.PortSet {
	return (*nat.PortSet)(unsafe.Pointer(&m.portsMem[(addr*setsOfAddr+int(i))*nat.PortSetBytes]))
}

// close gives the maps back. Their memory stays mapped until the process ends: NAT may still write to it.
func (m *bpfMaps) close() {
	for _, b := range []*ebpf.Map{m.own, m.local, m.arrivals, m.limits, m.ports, m.pairs, m.frags, m.own6, m.local6, m.pairs6, m.frags6, m.routes6, m.stations6, m.ways, m.inside6, m.told, m.ways6, m.fence, m.sources, m.sources6} {
		if b != nil {
			b.Close()
		}
	}
}

const (
	next = -1 // TCX_NEXT, TC_ACT_UNSPEC: whatever else is attached decides
	shot = 2  // TC_ACT_SHOT

	// Offsets in struct __sk_buff.
	skbLen, skbPktType, skbMark, skbQueue, skbProtocol, skbVLANPresent, skbVLANTCI, skbIfindex, skbTCIndex, skbGSOSize = 0, 4, 8, 12, 16, 20, 24, 40, 44, 176

	markBase  = 0x75767300 // of packets on their way back to the host's stack; the low byte tells switches apart
	markOfAll = 0xff       // every switch lets it pass

	// Values of tc_index, by which the programs of several switches on one device see in the same packet what was decided: the mark is
	// cleared for the host's stack.
	givenBack, leftAlone = 0x7576, 0x7577

	etherIPv4, etherIPv6 = 0x0008, 0xdd86 // EtherTypes in network byte order

	tupleLen, tupleLen6 = 12, 36 // of struct bpf_sock_tuple

	// Offsets in an IPv4 header.
	ipTOS, ipLength, ipID, ipFragment, ipProto, ipSrc, ipDst = 1, 2, 4, 6, 9, 12, 16
)

// Registers that calls preserve: the packet, the offset of the transport header, the protocol or the port, and a fourth by program.
const (
	regPacket = asm.R6
	regL4     = asm.R7
	regProto  = asm.R8
)

// A program of the uplink.
type program struct{ bpf.Program }

// emitLoad: slot = size bytes of the packet at offset l4 + at, from the network header on; without them goto otherwise, or, if otherwise
// is "", slot = zeros;
func (p *program) emitLoad(at, to, size int32, otherwise string) {
	const fromNetHeader = 1 // BPF_HDR_START_NET
	p.Emit(asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Reg(asm.R2, regL4), asm.Add.Imm(asm.R2, at))
	p.Emit(bpf.Slot(asm.R3, to)...)
	p.Emit(
		asm.Mov.Imm(asm.R4, size), asm.Mov.Imm(asm.R5, fromNetHeader),
		asm.FnSkbLoadBytesRelative.Call(),
	)
	if otherwise != "" {
		p.Emit(asm.JNE.Imm(asm.R0, 0, otherwise))
	}
}

// emitStore: the size bytes of slot at offset at of the frame, from the destination MAC on, are written;
func (p *program) emitStore(at, from, size int32) {
	p.Emit(asm.Mov.Reg(asm.R1, regPacket), asm.Mov.Imm(asm.R2, at))
	p.Emit(bpf.Slot(asm.R3, from)...)
	p.Emit(asm.Mov.Imm(asm.R4, size), asm.Mov.Imm(asm.R5, 0), asm.FnSkbStoreBytes.Call())
}

// emitCopy: size bytes of slot to = slot from;
func (p *program) emitCopy(to, from, size int16) {
	for at := int16(0); at < size; at += 8 {
		p.Emit(asm.LoadMem(asm.R1, asm.RFP, from+at, asm.DWord), asm.StoreMem(asm.RFP, to+at, asm.R1, asm.DWord))
	}
}

// emitHeaderLen: dst = ihl * 4 of the IP header in slot; if (dst < 20) goto otherwise;
func (p *program) emitHeaderLen(dst asm.Register, ip int16, otherwise string) {
	p.Emit(
		asm.LoadMem(dst, asm.RFP, ip, asm.Byte), asm.And.Imm(dst, 0xf), asm.LSh.Imm(dst, 2),
		asm.JLT.Imm(dst, 20, otherwise),
	)
}

// emitSocket: R0 = the host's socket for the packet whose addresses and ports are in slot tuple; if (!R0) goto none;
func (p *program) emitSocket(lookup asm.BuiltinFunc, tuple, size int32, none string) {
	p.Emit(asm.Mov.Reg(asm.R1, regPacket))
	p.Emit(bpf.Slot(asm.R2, tuple)...)
	p.Emit(
		asm.Mov.Imm(asm.R3, size), asm.LoadImm(asm.R4, -1, asm.DWord), asm.Mov.Imm(asm.R5, 0), // BPF_F_CURRENT_NETNS
		lookup.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	)
}

// dropAll drops every frame. Packet sockets have received the frame before.
func dropAll() (*ebpf.Program, error) {
	return loadProgram("uvs_swallow", asm.Instructions{asm.Mov.Imm(asm.R0, shot), asm.Return()})
}

func loadProgram(name string, ins asm.Instructions) (*ebpf.Program, error) {
	p, err := bpf.Load(name, ebpf.SchedCLS, 0, ins)
	if err != nil {
		return nil, fmt.Errorf("uplink: %w%s", err, hint(err))
	}
	return p, nil
}

// hint tells what to do when the kernel permits no BPF call.
func hint(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (this needs root, or CAP_BPF and CAP_NET_ADMIN; `--uplink none` runs without an uplink)"
	}
	return ""
}
