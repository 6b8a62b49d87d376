package uplink

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/tap"
)

// loadOneQueue loads a program that puts each frame into the only queue of a TAP: return 0. Without one, the kernel hashes each frame, on a
// host where any device uses RPS, to remember on which CPU its flow is (linux drivers/net/tun.c, tun_automq_xmit).
func loadOneQueue() (*ebpf.Program, error) {
	return bpf.Load("uvs_queue", ebpf.SocketFilter, 0, asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})
}

// bulkMapping is what the program "way in" writes into skb->queue_mapping of what is for the uplink's second queue. In other packets, that field has to
// do with the number of a queue of a device, which is far smaller.
const bulkMapping = 0x7557

// loadTwoQueues loads a program that chooses the queue of a frame for the switch: return skb->queue_mapping == BULK ? BULK_QUEUE : 0;
func loadTwoQueues() (*ebpf.Program, error) {
	return bpf.Load("uvs_queues", ebpf.SocketFilter, 0, asm.Instructions{
		asm.LoadMem(asm.R1, asm.R1, skbQueue, asm.Word), asm.Mov.Imm(asm.R0, tap.BulkQueue), asm.JEq.Imm(asm.R1, bulkMapping, "bulk"),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return().WithSymbol("bulk"),
	})
}

// loadCounter loads a program that counts the frames that a TAP's owner sends, before they wait for the switch: offered[id]++; return
// len(frame);
func loadCounter(offered *ebpf.Map, id frame.PortID) (*ebpf.Program, error) {
	return bpf.Load("uvs_offered", ebpf.SocketFilter, 0, asm.Instructions{
		asm.LoadMem(asm.R0, asm.R1, skbLen, asm.Word),
		asm.LoadMapValue(asm.R1, offered.FD(), 8*uint32(id)),
		asm.Mov.Imm(asm.R2, 1), asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Return(),
	})
}

// CountOffered counts what the owner of a port's TAP sends: see frame.Offerer. If that fails, nobody knows what a device drops.
func (u *Uplink) CountOffered(id frame.PortID, d *tap.Device) {
	if u.offered == nil {
		return
	}
	p, err := loadCounter(u.offered, id)
	if err != nil {
		return
	}
	defer p.Close()
	_ = d.Count(p.FD(), &u.counts[id])
}

// OneQueue spares the kernel work for each frame that a TAP gives to the switch. It is no loss if that fails. A TAP with two queues has a program
// of its own.
func (u *Uplink) OneQueue(d *tap.Device) {
	if u.oneQueue != nil && d.Bulk() == nil {
		_ = d.Steer(u.oneQueue.FD())
	}
}
