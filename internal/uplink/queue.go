package uplink

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/uvswitch/uvswitch/internal/bpf"
	"github.com/uvswitch/uvswitch/tap"
)

// loadOneQueue loads a program that puts each frame into the only queue of a TAP: return 0. Without one, the kernel hashes each frame, on a
// host where any device uses RPS, to remember on which CPU its flow is (linux drivers/net/tun.c, tun_automq_xmit).
func loadOneQueue() (*ebpf.Program, error) {
	return bpf.Load("uvs_queue", ebpf.SocketFilter, 0, asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})
}

// OneQueue spares the kernel work for each frame that a TAP gives to the switch. It is no loss if that fails.
func (u *Uplink) OneQueue(d *tap.Device) {
	if u.oneQueue != nil {
		_ = d.Steer(u.oneQueue.FD())
	}
}
